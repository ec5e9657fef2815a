use super::plan::{taints, unknown_conditions};
use crate::objects::Node;
use jiff::Timestamp;
use serde_json::{Value, json};

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn node(conditions: &[(&str, &str)], spec: Value) -> Node {
    let conditions: Vec<_> = conditions
        .iter()
        .map(|(type_, status)| json!({"type": type_, "status": status, "lastHeartbeatTime": "2026-01-01T11:00:00Z"}))
        .collect();
    let metadata = json!({"name": "n", "uid": "u", "creationTimestamp": "2026-01-01T10:00:00Z"});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": {"conditions": conditions}}))
        .unwrap()
}

fn tainted(taints: &[(&str, &str)]) -> Value {
    let taints: Vec<_> = taints
        .iter()
        .map(|(key, effect)| json!({"key": key, "effect": effect}))
        .collect();
    json!({"taints": taints})
}

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Rows follow upstream's `TestSwapUnreachableNotReadyTaints` and `TestTaintsNodeByCondition`.
#[test]
fn taints_follow_conditions() {
    let (no_schedule, no_execute) = ("NoSchedule", "NoExecute");
    for (name, node, all_disrupted, expect) in [
        (
            "a ready node has none",
            node(&[("Ready", "True")], json!({})),
            false,
            None,
        ),
        (
            "not ready",
            node(&[("Ready", "False")], json!({})),
            false,
            Some(vec![(NOT_READY, no_schedule), (NOT_READY, no_execute)]),
        ),
        (
            "unreachable",
            node(&[("Ready", "Unknown")], json!({})),
            false,
            Some(vec![(UNREACHABLE, no_schedule), (UNREACHABLE, no_execute)]),
        ),
        (
            "if all are gone no pod is driven away",
            node(&[("Ready", "Unknown")], json!({})),
            true,
            Some(vec![(UNREACHABLE, no_schedule)]),
        ),
        (
            "one replaces the other",
            node(
                &[("Ready", "Unknown")],
                tainted(&[(NOT_READY, no_schedule), (NOT_READY, no_execute)]),
            ),
            false,
            Some(vec![(UNREACHABLE, no_schedule), (UNREACHABLE, no_execute)]),
        ),
        (
            "nothing to do",
            node(
                &[("Ready", "False")],
                tainted(&[(NOT_READY, no_schedule), (NOT_READY, no_execute)]),
            ),
            false,
            None,
        ),
        (
            "gone when ready again",
            node(
                &[("Ready", "True")],
                tainted(&[
                    ("mine", no_execute),
                    (NOT_READY, no_schedule),
                    (NOT_READY, no_execute),
                ]),
            ),
            false,
            Some(vec![("mine", no_execute)]),
        ),
        (
            "a new node keeps what it registered with",
            node(&[], tainted(&[(NOT_READY, no_schedule)])),
            false,
            None,
        ),
        (
            "cordoned",
            node(&[("Ready", "True")], json!({"unschedulable": true})),
            false,
            Some(vec![(UNSCHEDULABLE, no_schedule)]),
        ),
        (
            "uncordoned",
            node(&[("Ready", "True")], tainted(&[(UNSCHEDULABLE, no_schedule)])),
            false,
            Some(vec![]),
        ),
        (
            "pressure",
            node(
                &[
                    ("Ready", "True"),
                    ("MemoryPressure", "True"),
                    ("DiskPressure", "False"),
                ],
                json!({}),
            ),
            false,
            Some(vec![("node.kubernetes.io/memory-pressure", no_schedule)]),
        ),
        (
            "another effect of a key of ours is not ours",
            node(&[("Ready", "True")], tainted(&[(UNSCHEDULABLE, no_execute)])),
            false,
            None,
        ),
    ] {
        let result = taints(&node, all_disrupted, now());
        let result = result.as_ref().map(|taints| {
            taints
                .iter()
                .map(|taint| (&*taint.key, &*taint.effect))
                .collect::<Vec<_>>()
        });
        assert_eq!(result, expect, "{name}");
    }
}

/// Rows follow upstream's `TestMonitorNodeHealthUpdateStatus`.
#[test]
fn a_silent_node_is_unknown() {
    let reporting = node(
        &[
            ("Ready", "True"),
            ("DiskPressure", "False"),
            ("NetworkUnavailable", "False"),
        ],
        json!({}),
    );
    let changes = unknown_conditions(&reporting, now()).unwrap();
    let summary: Vec<_> = changes
        .iter()
        .map(|change| (&*change.type_, &*change.status, change.reason.as_deref().unwrap()))
        .collect();
    assert_eq!(
        summary,
        [
            ("Ready", "Unknown", "NodeStatusUnknown"),
            ("MemoryPressure", "Unknown", "NodeStatusNeverUpdated"),
            ("DiskPressure", "Unknown", "NodeStatusUnknown"),
            ("PIDPressure", "Unknown", "NodeStatusNeverUpdated"),
        ]
    );
    assert_eq!(
        changes[0].message.as_deref(),
        Some("Kubelet stopped posting node status.")
    );
    assert_eq!(
        changes[0].last_heartbeat_time.as_ref().unwrap().0.to_string(),
        "2026-01-01T11:00:00Z"
    );
    assert_eq!(
        changes[1].last_heartbeat_time.as_ref().unwrap().0.to_string(),
        "2026-01-01T10:00:00Z"
    );
    let known = node(
        &[
            ("Ready", "Unknown"),
            ("MemoryPressure", "Unknown"),
            ("DiskPressure", "Unknown"),
            ("PIDPressure", "Unknown"),
        ],
        json!({}),
    );
    assert_eq!(unknown_conditions(&known, now()), None);
}
