use super::plan::{Plan, Topology, plan};
use crate::objects::{EndpointSlice, Pod, Service};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
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
        "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.10", "ipFamilies": ["IPv4"], "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]},
    });
    merge(&mut object, changes);
    serde_json::from_value(object).unwrap()
}

fn pod(index: usize, changes: Value) -> Arc<Pod> {
    let mut object = json!({
        "metadata": {"name": format!("p{index}"), "namespace": "ns", "uid": format!("u{index:04}")},
        "spec": {"nodeName": "n"},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
            "podIPs": [{"ip": format!("10.0.{}.{}", index / 250, index % 250 + 1)}, {"ip": format!("fd00::{:x}", index + 1)}]},
    });
    merge(&mut object, changes);
    Arc::new(serde_json::from_value(object).unwrap())
}

fn pods(count: usize) -> Vec<Arc<Pod>> {
    (0..count).map(|index| pod(index, json!({}))).collect()
}

fn run(service: &Service, pods: &[Arc<Pod>], existing: &[Arc<EndpointSlice>]) -> Plan {
    let topology = Topology {
        zones: HashMap::from([("n".into(), Some("z".to_owned()))]),
        shares: None,
    };
    run_in(&topology, service, pods, existing)
}

fn run_in(
    topology: &Topology,
    service: &Service,
    pods: &[Arc<Pod>],
    existing: &[Arc<EndpointSlice>],
) -> Plan {
    let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
    plan(service, pods, existing, topology, &BTreeSet::new(), now)
}

/// What the API server holds after a plan was applied to `existing`.
fn apply(plan: &Plan, existing: &[Arc<EndpointSlice>]) -> Vec<Arc<EndpointSlice>> {
    let mut after: Vec<Arc<EndpointSlice>> = existing
        .iter()
        .filter(|slice| !plan.delete.contains(slice))
        .cloned()
        .collect();
    for (name, patch) in &plan.update {
        let index = after
            .iter()
            .position(|slice| *slice.metadata.name == **name)
            .unwrap();
        let mut slice = (*after[index]).clone();
        slice.endpoints = serde_json::from_value(patch["endpoints"].clone()).unwrap();
        if let Some(ports) = patch.get("ports") {
            slice.ports = serde_json::from_value(ports.clone()).unwrap();
        }
        let mut labels = json!(slice.metadata.labels);
        for (key, value) in patch["metadata"]["labels"].as_object().unwrap() {
            match value {
                Value::Null => drop(labels.as_object_mut().unwrap().remove(key)),
                value => labels[key] = value.clone(),
            }
        }
        slice.metadata.labels = serde_json::from_value(labels).unwrap();
        after[index] = Arc::new(slice);
    }
    for (index, body) in plan.create.iter().enumerate() {
        let mut body = body.clone();
        body["metadata"]["name"] = format!("web-{}", after.len() + index).into();
        after.push(Arc::new(serde_json::from_value(body).unwrap()));
    }
    after
}

fn sizes(slices: &[Arc<EndpointSlice>]) -> Vec<usize> {
    let mut sizes: Vec<_> = slices.iter().map(|slice| slice.endpoints.len()).collect();
    sizes.sort_unstable();
    sizes
}

fn counts(plan: &Plan) -> (usize, usize, usize) {
    (plan.create.len(), plan.update.len(), plan.delete.len())
}

#[test]
fn a_slice_in_full() {
    let plan = run(&service(json!({})), &pods(1), &[]);
    assert_eq!(
        plan.create,
        [json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "generateName": "web-", "namespace": "ns",
                "labels": {"team": "x", "kubernetes.io/service-name": "web",
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
                "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T12:00:00Z"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "web", "uid": "s",
                    "controller": true, "blockOwnerDeletion": true}],
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": "n", "zone": "z",
                "targetRef": {"kind": "Pod", "namespace": "ns", "name": "p0", "uid": "u0000"}}],
            "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        })]
    );
}

/// Rows follow upstream's `TestReconcileEmpty`, `TestReconcile1EndpointSlice` and `TestReconcile1Pod`.
#[test]
fn without_pods_there_is_one_placeholder() {
    let service = service(json!({}));
    let plan = run(&service, &[], &[]);
    assert_eq!(counts(&plan), (1, 0, 0));
    assert_eq!(
        (&plan.create[0]["endpoints"], &plan.create[0]["ports"]),
        (&json!([]), &json!([]))
    );
    let placeholder = apply(&plan, &[]);
    assert_eq!(run(&service, &[], &placeholder), Plan::default(), "it stays");
    let first = run(&service, &pods(1), &placeholder);
    assert_eq!(counts(&first), (0, 1, 0), "the first endpoint goes into it");
    let filled = apply(&first, &placeholder);
    let emptied = run(&service, &[], &filled);
    assert_eq!(counts(&emptied), (0, 1, 0), "the last one leaves it in place");
    assert_eq!(run(&service, &[], &apply(&emptied, &filled)), Plan::default());
}

#[test]
fn both_families_have_their_own_slices() {
    let service = service(json!({"spec": {"ipFamilies": ["IPv4", "IPv6"]}}));
    let plan = run(&service, &pods(1), &[]);
    let addresses: Vec<_> = plan
        .create
        .iter()
        .map(|slice| (&slice["addressType"], &slice["endpoints"][0]["addresses"][0]))
        .collect();
    assert_eq!(
        addresses,
        [
            (&json!("IPv4"), &json!("10.0.0.1")),
            (&json!("IPv6"), &json!("fd00::1"))
        ]
    );
    let single = self::service(json!({}));
    let both = apply(&plan, &[]);
    assert_eq!(
        counts(&run(&single, &pods(1), &both)),
        (0, 0, 1),
        "a family that is dropped takes its slice along"
    );
}

/// Rows follow upstream's `TestPodToEndpoint`.
#[test]
fn conditions() {
    let not_ready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let dying = json!({"metadata": {"deletionTimestamp": "2026-01-01T12:00:00Z"}});
    let mut dying_not_ready = dying.clone();
    merge(&mut dying_not_ready, not_ready.clone());
    for (name, publish, changes, expect) in [
        ("ready", false, json!({}), (true, true, false)),
        ("not ready", false, not_ready.clone(), (false, false, false)),
        ("not ready, published", true, not_ready, (true, false, false)),
        ("terminating", false, dying.clone(), (false, true, true)),
        ("terminating, published", true, dying, (true, true, true)),
        (
            "terminating and not ready",
            false,
            dying_not_ready,
            (false, false, true),
        ),
    ] {
        let service = service(json!({"spec": {"publishNotReadyAddresses": publish}}));
        let plan = run(&service, &[pod(0, changes)], &[]);
        let conditions = &plan.create[0]["endpoints"][0]["conditions"];
        let (ready, serving, terminating) = expect;
        assert_eq!(
            *conditions,
            json!({"ready": ready, "serving": serving, "terminating": terminating}),
            "{name}"
        );
    }
}

#[test]
fn pods_that_do_not_count() {
    let service = service(json!({}));
    for (name, changes) in [
        ("finished", json!({"status": {"phase": "Succeeded"}})),
        ("without address", json!({"status": {"podIPs": []}})),
        (
            "without address of the family",
            json!({"status": {"podIPs": [{"ip": "fd00::1"}]}}),
        ),
        ("of a node that is gone", json!({"spec": {"nodeName": "gone"}})),
    ] {
        let plan = run(&service, &[pod(0, changes)], &[]);
        assert_eq!(plan.create[0]["endpoints"], json!([]), "{name}");
    }
}

#[test]
fn an_unchanged_world_changes_nothing() {
    let service = service(json!({}));
    let pods = pods(250);
    let slices = apply(&run(&service, &pods, &[]), &[]);
    assert_eq!(sizes(&slices), [50, 100, 100]);
    assert_eq!(run(&service, &pods, &slices), Plan::default());
}

/// Rows follow upstream's `TestReconcileEndpointSlicesUpdatePacking` and `TestReconcileEndpointSlicesSomePreexisting`.
#[test]
fn few_slices_are_touched() {
    let service = service(json!({}));
    let slices = apply(&run(&service, &pods(150), &[]), &[]);
    assert_eq!(sizes(&slices), [50, 100]);
    let one_more = run(&service, &pods(151), &slices);
    assert_eq!(
        counts(&one_more),
        (0, 1, 0),
        "one more endpoint goes into the slice with room"
    );
    assert_eq!(sizes(&apply(&one_more, &slices)), [51, 100]);
    let many_more = run(&service, &pods(260), &slices);
    assert_eq!(
        counts(&many_more),
        (2, 0, 0),
        "more than fits goes into new slices, existing ones stay untouched"
    );
    let one_less = run(&service, &pods(150)[1..], &slices);
    assert_eq!(counts(&one_less), (0, 1, 0));
    let replaced: Vec<_> = pods(151).into_iter().skip(1).collect();
    assert_eq!(
        counts(&run(&service, &replaced, &slices)),
        (0, 1, 0),
        "the new endpoint goes where one left"
    );
}

#[test]
fn endpoints_with_different_ports_are_in_different_slices() {
    let service = service(
        json!({"spec": {"ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}]}}),
    );
    let named =
        |port: i32| json!({"spec": {"containers": [{"ports": [{"name": "web", "containerPort": port}]}]}});
    let pods = [pod(0, named(80)), pod(1, named(81)), pod(2, named(80))];
    let slices = apply(&run(&service, &pods, &[]), &[]);
    assert_eq!(sizes(&slices), [1, 2]);
    assert_eq!(run(&service, &pods, &slices), Plan::default());
}

#[test]
fn changed_labels_of_the_service_reach_its_slices() {
    let slices = apply(&run(&service(json!({})), &pods(1), &[]), &[]);
    let relabelled = service(json!({"metadata": {"labels": {"team": "y"}}}));
    let plan = run(&relabelled, &pods(1), &slices);
    assert_eq!(counts(&plan), (0, 1, 0));
    let after = apply(&plan, &slices);
    assert_eq!(after[0].metadata.labels.get("team"), Some("y"));
    assert_eq!(run(&relabelled, &pods(1), &after), Plan::default());
}

#[test]
fn headless_services_say_so_and_know_hostnames() {
    let service = service(json!({"spec": {"clusterIP": "None", "ports": []}}));
    let named = pod(0, json!({"spec": {"hostname": "db-0", "subdomain": "web"}}));
    let plan = run(&service, &[named], &[]);
    assert_eq!(
        plan.create[0]["metadata"]["labels"]["service.kubernetes.io/headless"],
        ""
    );
    assert_eq!(plan.create[0]["endpoints"][0]["hostname"], "db-0");
    assert_eq!(plan.create[0]["ports"], json!([]));
}

#[test]
fn slices_of_an_earlier_service_of_that_name_go() {
    let service = service(json!({}));
    let old = self::service(json!({"metadata": {"uid": "earlier"}}));
    let slices = apply(&run(&old, &pods(1), &[]), &[]);
    let plan = run(&service, &pods(1), &slices);
    assert_eq!(counts(&plan), (1, 0, 1));
}

fn hints(slices: &[Arc<EndpointSlice>]) -> Vec<Value> {
    slices
        .iter()
        .flat_map(|slice| &slice.endpoints)
        .map(|endpoint| json!(endpoint.hints))
        .collect()
}

#[test]
fn hints_follow_the_traffic_distribution() {
    let service = |distribution: &str| service(json!({"spec": {"trafficDistribution": distribution}}));
    let (zone, node) = (json!([{"name": "z"}]), json!([{"name": "n"}]));
    let mut slices = apply(&run(&service(""), &pods(1), &[]), &[]);
    for (distribution, expect) in [
        ("PreferSameNode", json!({"forZones": zone, "forNodes": node})),
        ("PreferSameZone", json!({"forZones": zone})),
        ("", Value::Null),
    ] {
        let plan = run(&service(distribution), &pods(1), &slices);
        assert_eq!(counts(&plan), (0, 1, 0), "{distribution}");
        slices = apply(&plan, &slices);
        assert_eq!(hints(&slices), [expect], "{distribution}");
        assert_eq!(
            counts(&run(&service(distribution), &pods(1), &slices)),
            (0, 0, 0),
            "{distribution} settles"
        );
    }
    // An endpoint that is not ready, and one that is.
    let pods = [
        pod(
            0,
            json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}),
        ),
        pod(1, json!({})),
    ];
    let service = service("PreferClose");
    let slices = apply(&run(&service, &pods, &slices), &slices);
    assert_eq!(hints(&slices), [Value::Null, json!({"forZones": zone})]);
    assert_eq!(counts(&run(&service, &pods, &slices)), (0, 0, 0));
}

#[test]
fn hints_by_cpu_leave_slices_alone_that_are_good_enough() {
    let topology = Topology {
        zones: HashMap::from([
            ("n".into(), Some("a".to_owned())),
            ("m".into(), Some("b".to_owned())),
        ]),
        shares: Some(BTreeMap::from([("a".to_owned(), 0.5), ("b".to_owned(), 0.5)])),
    };
    let service =
        service(json!({"metadata": {"annotations": {"service.kubernetes.io/topology-mode": "Auto"}}}));
    let count = |slices: &[Arc<EndpointSlice>], zone: &str| {
        hints(slices)
            .iter()
            .filter(|hints| hints["forZones"][0]["name"] == zone)
            .count()
    };
    // All pods are in one zone, and half of them serve the other one.
    let all = pods(130);
    let plan = run_in(&topology, &service, &all, &[]);
    assert_eq!(plan.notices.len(), 1);
    assert_eq!(plan.hinted, BTreeSet::from(["IPv4"]));
    let slices = apply(&plan, &[]);
    assert_eq!((count(&slices, "a"), count(&slices, "b")), (65, 65));
    assert_eq!(counts(&run_in(&topology, &service, &all, &slices)), (0, 0, 0));
    // One more is no reason to write both slices.
    let more = pods(131);
    let plan = run_in(&topology, &service, &more, &slices);
    assert_eq!(counts(&plan), (0, 1, 0));
    let slices = apply(&plan, &slices);
    let served = (count(&slices, "a"), count(&slices, "b"));
    assert!(served == (65, 66) || served == (66, 65), "{served:?}");
    // Without what to weigh by, there are none.
    let unknown = Topology {
        shares: None,
        ..topology
    };
    let plan = run_in(&unknown, &service, &more, &slices);
    assert_eq!((counts(&plan), plan.hinted.len()), ((0, 2, 0), 0));
    assert_eq!(hints(&apply(&plan, &slices)), vec![Value::Null; 131]);
}
