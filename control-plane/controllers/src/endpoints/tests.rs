use super::plan::{Plan, plan};
use crate::objects::{Endpoints, Pod, Service};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn service(changes: Value) -> Service {
    let mut object = json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "s", "labels": {"team": "x"}},
        "spec": {"clusterIP": "10.96.0.10", "ipFamilies": ["IPv4"], "selector": {"app": "web"},
            "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}]},
    });
    merge(&mut object, changes);
    serde_json::from_value(object).unwrap()
}

fn pod(index: usize, ready: bool, changes: Value) -> Arc<Pod> {
    let mut object = json!({
        "metadata": {"name": format!("p{index}"), "namespace": "ns", "uid": format!("u{index}")},
        "spec": {"nodeName": "n"},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
            "podIPs": [{"ip": format!("10.0.{}.{}", index / 250, index % 250)}, {"ip": format!("fd00::{index:x}")}]},
    });
    merge(&mut object, changes);
    Arc::new(serde_json::from_value(object).unwrap())
}

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn created(service: &Service, pods: &[Arc<Pod>]) -> Value {
    match plan(service, pods, None, now()) {
        Plan::Create(body) => body,
        other => panic!("expected a creation, not {other:?}"),
    }
}

#[test]
fn ready_and_not_ready_addresses_share_a_subset() {
    let body = created(
        &service(json!({})),
        &[pod(1, true, json!({})), pod(2, false, json!({}))],
    );
    let target = |name: &str, uid: &str| json!({"kind": "Pod", "namespace": "ns", "name": name, "uid": uid});
    assert_eq!(
        body,
        json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": "web", "namespace": "ns",
                "labels": {"team": "x", "endpoints.kubernetes.io/managed-by": "endpoint-controller"},
                "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T12:00:00Z"}},
            "subsets": [{
                "addresses": [{"ip": "10.0.0.1", "nodeName": "n", "targetRef": target("p1", "u1")}],
                "notReadyAddresses": [{"ip": "10.0.0.2", "nodeName": "n", "targetRef": target("p2", "u2")}],
                "ports": [{"port": 8080, "protocol": "TCP"}],
            }],
        })
    );
}

/// Rows follow upstream's `TestSyncEndpoints…`.
#[test]
fn which_addresses() {
    let dying = json!({"metadata": {"deletionTimestamp": "2026-01-01T12:00:00Z"}});
    for (name, changes, pod, expect) in [
        (
            "none without pods that count",
            json!({}),
            pod(1, true, dying.clone()),
            json!([]),
        ),
        (
            "the first family",
            json!({"spec": {"ipFamilies": ["IPv6", "IPv4"]}}),
            pod(1, true, json!({})),
            json!(["fd00::1"]),
        ),
        (
            "not ready ones if published",
            json!({"spec": {"publishNotReadyAddresses": true}}),
            pod(1, false, dying),
            json!(["10.0.0.1"]),
        ),
        (
            "headless without ports",
            json!({"spec": {"clusterIP": "None", "ports": []}}),
            pod(1, true, json!({})),
            json!(["10.0.0.1"]),
        ),
        (
            "none if the named port is missing",
            json!({"spec": {"ports": [{"port": 80, "targetPort": "x"}]}}),
            pod(1, true, json!({})),
            json!([]),
        ),
    ] {
        let body = created(&service(changes), &[pod]);
        let addresses: Vec<_> = body["subsets"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|subset| subset["addresses"].as_array().unwrap())
            .map(|address| address["ip"].clone())
            .collect();
        assert_eq!(json!(addresses), expect, "{name}");
    }
}

#[test]
fn different_ports_are_different_subsets() {
    let service = service(json!({"spec": {"ports": [{"port": 80, "targetPort": "web", "protocol": "TCP"}]}}));
    let named =
        |port: i32| json!({"spec": {"containers": [{"ports": [{"name": "web", "containerPort": port}]}]}});
    let body = created(
        &service,
        &[
            pod(1, true, named(80)),
            pod(2, true, named(81)),
            pod(3, true, named(80)),
        ],
    );
    let sizes: Vec<_> = body["subsets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|subset| subset["addresses"].as_array().unwrap().len())
        .collect();
    assert_eq!(sizes, [2, 1]);
}

#[test]
fn an_unchanged_world_changes_nothing_and_a_changed_one_is_patched() {
    let pods = [pod(1, true, json!({})), pod(2, false, json!({}))];
    let mut body = created(&service(json!({})), &pods);
    body["metadata"]["resourceVersion"] = "5".into();
    let current: Endpoints = serde_json::from_value(body).unwrap();
    assert_eq!(
        plan(&service(json!({})), &pods, Some(&current), now()),
        Plan::Keep
    );
    let relabelled = service(json!({"metadata": {"labels": {"tier": "y"}}}));
    let Plan::Update(patch) = plan(&relabelled, &pods[..1], Some(&current), now()) else {
        panic!("must update")
    };
    assert_eq!(patch["metadata"]["resourceVersion"], "5");
    assert_eq!(patch["metadata"]["labels"]["tier"], "y");
    assert_eq!(patch["subsets"][0].get("notReadyAddresses"), None);
}

/// Rows follow upstream's `TestTruncateEndpoints`.
#[test]
fn too_many_addresses_are_cut_off_those_not_ready_first() {
    let pods: Vec<_> = (0..1200)
        .map(|index| pod(index, index < 900, json!({})))
        .collect();
    let body = created(&service(json!({})), &pods);
    assert_eq!(
        body["metadata"]["annotations"]["endpoints.kubernetes.io/over-capacity"],
        "truncated"
    );
    assert_eq!(body["subsets"][0]["addresses"].as_array().unwrap().len(), 900);
    assert_eq!(
        body["subsets"][0]["notReadyAddresses"].as_array().unwrap().len(),
        100
    );
    let ready: Vec<_> = (0..1200)
        .map(|index| pod(index, index < 1100, json!({})))
        .collect();
    let body = created(&service(json!({})), &ready);
    assert_eq!(body["subsets"][0]["addresses"].as_array().unwrap().len(), 1000);
    assert_eq!(body["subsets"][0].get("notReadyAddresses"), None);
}
