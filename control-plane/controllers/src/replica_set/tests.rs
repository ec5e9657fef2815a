use super::plan::{Failure, Observed, Scale, next_availability, pod, scale, status};
use crate::objects::{Meta, Object, Pod, ReplicaSet};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSetStatus;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

/// A running, ready pod of a node, an hour old; `changes` is merged over it.
fn make(name: &str, changes: Value) -> Arc<Pod> {
    let mut object = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name, "creationTimestamp": "2026-01-01T11:00:00Z",
            "labels": {"app": "web"}},
        "spec": {"nodeName": "n"},
        "status": {"phase": "Running", "conditions":
            [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T11:00:10Z"}]},
    });
    merge(&mut object, changes);
    Arc::new(serde_json::from_value(object).unwrap())
}

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

fn names(scale: Scale) -> Vec<String> {
    match scale {
        Scale::Delete(pods) => pods.iter().map(|pod| pod.metadata.name.to_string()).collect(),
        other => panic!("expected deletions, not {other:?}"),
    }
}

#[test]
fn scale_by_count() {
    let pods: Vec<_> = ["a", "b", "c"].iter().map(|name| make(name, json!({}))).collect();
    for (replicas, active, expect) in [
        (3, &pods[..], Scale::Keep),
        (5, &pods[..], Scale::Create(2)),
        (4, &pods[..0], Scale::Create(4)),
        (700, &pods[..0], Scale::Create(500)),
        (0, &pods[..0], Scale::Keep),
        (-1, &pods[..0], Scale::Keep),
    ] {
        assert_eq!(
            scale(replicas, active, &HashMap::new(), 500, now()),
            expect,
            "{replicas} of {}",
            active.len()
        );
    }
    assert_eq!(names(scale(0, &pods, &HashMap::new(), 500, now())).len(), 3);
}

/// Rows follow upstream's `TestSortingActivePodsWithRanks`: the first pod of each row goes first.
#[test]
fn deletion_order() {
    let not_ready = json!({"status": {"conditions": []}});
    let cost = |cost: &str| json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": cost}}});
    let ready_at = |time: &str| json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": time}]}});
    let restarts = |count: i32| json!({"status": {"containerStatuses": [{"restartCount": count}]}});
    for (name, first, second) in [
        ("unassigned", json!({"spec": {"nodeName": ""}}), json!({})),
        (
            "pending before running",
            json!({"status": {"phase": "Pending"}}),
            json!({}),
        ),
        (
            "pending before unknown",
            json!({"status": {"phase": "Pending"}}),
            json!({"status": {"phase": "Unknown"}}),
        ),
        (
            "unknown before running",
            json!({"status": {"phase": "Unknown"}}),
            json!({}),
        ),
        ("not ready", not_ready.clone(), json!({})),
        ("cheaper", cost("-5"), cost("5")),
        ("no cost is zero", json!({}), cost("5")),
        ("a malformed cost is zero", cost("x"), cost("5")),
        (
            "not ready, though dearer",
            {
                let mut value = cost("100");
                merge(&mut value, not_ready);
                value
            },
            json!({}),
        ),
        (
            "ready for a shorter time",
            ready_at("2026-01-01T11:59:50Z"),
            ready_at("2026-01-01T11:00:00Z"),
        ),
        ("more restarts", restarts(3), restarts(1)),
        (
            "younger",
            json!({"metadata": {"creationTimestamp": "2026-01-01T11:59:59Z"}}),
            json!({}),
        ),
    ] {
        // The uids say the opposite, so that only the rule under test can decide.
        let pods = [make("z-first", first), make("a-second", second)];
        assert_eq!(
            names(scale(1, &pods, &HashMap::new(), 500, now())),
            ["z-first"],
            "{name}"
        );
    }
}

#[test]
fn a_crowded_node_loses_a_pod_first() {
    let pods = [
        make("a", json!({"spec": {"nodeName": "calm"}})),
        make("b", json!({"spec": {"nodeName": "crowded"}})),
    ];
    let related = HashMap::from([("calm".into(), 1), ("crowded".into(), 3)]);
    assert_eq!(names(scale(1, &pods, &related, 500, now())), ["b"]);
}

#[test]
fn ages_of_one_magnitude_count_as_equal() {
    let pods = [
        make(
            "a",
            json!({"metadata": {"creationTimestamp": "2026-01-01T11:00:01Z"}}),
        ),
        make(
            "b",
            json!({"metadata": {"creationTimestamp": "2026-01-01T11:00:02Z"}}),
        ),
    ];
    assert_eq!(names(scale(1, &pods, &HashMap::new(), 500, now())), ["a"]);
}

#[test]
fn a_pod_is_its_template_and_its_owner() {
    let owner: Meta =
        serde_json::from_value(json!({"name": "web-1", "namespace": "ns", "uid": "u"})).unwrap();
    let template =
        json!({"metadata": {"labels": {"a": "b"}, "creationTimestamp": null}, "spec": {"containers": []}});
    assert_eq!(
        pod(ReplicaSet::resource(), &owner, &template),
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"generateName": "web-1-", "namespace": "ns", "labels": {"a": "b"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "u",
                    "controller": true, "blockOwnerDeletion": true}]},
            "spec": {"containers": []},
        })
    );
}

fn observed<'a>(template: &'a Value, active: &'a [Arc<Pod>], failure: Option<&'a Failure>) -> Observed<'a> {
    Observed {
        generation: 7,
        min_ready_seconds: 60,
        template,
        active,
        terminating: Some(1),
        failure,
        now: now(),
    }
}

/// Rows follow upstream's `TestCalculateStatus`.
#[test]
fn status_counts() {
    let template = json!({"metadata": {"labels": {"app": "web", "tier": "front"}}});
    let pods = [
        make("labelled", json!({"metadata": {"labels": {"tier": "front"}}})),
        make("plain", json!({})),
        make(
            "young",
            json!({"status": {"conditions":
            [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T11:59:30Z"}]}}),
        ),
        make("not-ready", json!({"status": {"conditions": []}})),
    ];
    let result = status(&observed(&template, &pods, None), &ReplicaSetStatus::default());
    assert_eq!(
        serde_json::to_value(&result).unwrap(),
        json!({"replicas": 4, "fullyLabeledReplicas": 1, "readyReplicas": 3, "availableReplicas": 2,
            "terminatingReplicas": 1, "observedGeneration": 7})
    );
    assert_eq!(next_availability(&pods, 60, now()), Some(Duration::from_secs(30)));
    assert_eq!(next_availability(&pods, 0, now()), None);
    let again = status(&observed(&template, &pods, None), &result);
    assert_eq!(again, result, "an unchanged world gives an unchanged status");
}

/// Rows follow upstream's `TestCalculateStatusConditions`.
#[test]
fn a_failure_is_a_condition_until_it_is_over() {
    let template = json!({});
    let failure = Failure {
        reason: "FailedCreate",
        message: "quota".into(),
    };
    let failed = status(
        &observed(&template, &[], Some(&failure)),
        &ReplicaSetStatus::default(),
    );
    let conditions = failed.conditions.clone().unwrap();
    assert_eq!(conditions.len(), 1);
    assert_eq!(
        (conditions[0].type_.as_deref(), conditions[0].status.as_deref()),
        (Some("ReplicaFailure"), Some("True"))
    );
    assert_eq!(conditions[0].reason.as_deref(), Some("FailedCreate"));
    let later = Failure {
        reason: "FailedCreate",
        message: "another".into(),
    };
    assert_eq!(
        status(&observed(&template, &[], Some(&later)), &failed),
        failed,
        "the first failure stays"
    );
    assert_eq!(status(&observed(&template, &[], None), &failed).conditions, None);
}
