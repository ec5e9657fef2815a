//! What conditions and taints a Node should have.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::objects::Node;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that keep pods away while they are True.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
/// What only the kubelet can know: unknown once it is silent.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// The signs of life of a node; a change of either is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heartbeat {
    pub(super) lease: Option<Timestamp>,
    pub(super) status: Option<Timestamp>,
}

fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    node.status
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_)
}

fn status<'a>(node: &'a Node, type_: &str) -> Option<&'a str> {
    condition(node, type_).map(|condition| &*condition.status)
}

pub(super) fn is_ready(node: &Node) -> bool {
    status(node, "Ready") == Some("True")
}

/// Whether the kubelet ever told how the node is.
pub(super) fn has_reported(node: &Node) -> bool {
    condition(node, "Ready").is_some()
}

pub(super) fn status_heartbeat(node: &Node) -> Option<Timestamp> {
    condition(node, "Ready")?
        .last_heartbeat_time
        .as_ref()
        .map(|time| time.0)
}

/// `metav1.Time` has whole seconds.
pub(super) fn seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

/// The conditions to write for a node that fell silent; `None` if they say so already.
pub(super) fn unknown_conditions(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let changes: Vec<_> = REPORTED
        .iter()
        .filter_map(|type_| {
            let (reason, message, heartbeat) = match condition(node, type_) {
                Some(current) if current.status == "Unknown" => return None,
                Some(current) => (
                    "NodeStatusUnknown",
                    "Kubelet stopped posting node status.",
                    current.last_heartbeat_time.clone(),
                ),
                None => (
                    "NodeStatusNeverUpdated",
                    "Kubelet never posted node status.",
                    node.metadata.creation_timestamp.clone(),
                ),
            };
            Some(NodeCondition {
                type_: (*type_).to_owned(),
                status: "Unknown".to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message.to_owned()),
                last_heartbeat_time: heartbeat,
                last_transition_time: Some(seconds(now)),
            })
        })
        .collect();
    (!changes.is_empty()).then_some(changes)
}

/// All taints that the node should have, or `None` if it has them. Taints of others are kept.
///
/// If no node at all is well the fault is more likely in the network or here: then no pod is driven away.
pub(super) fn taints(node: &Node, all_disrupted: bool, now: Timestamp) -> Option<Vec<Taint>> {
    let mut wanted = Vec::new();
    let health = match status(node, "Ready") {
        Some("True") | None => None,
        Some("False") => Some(NOT_READY),
        Some(_) => Some(UNREACHABLE),
    };
    wanted.extend(health.map(|key| (key, "NoSchedule")));
    for (type_, key) in PRESSURES {
        if status(node, type_) == Some("True") {
            wanted.push((key, "NoSchedule"));
        }
    }
    if node.spec.unschedulable {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    if !all_disrupted {
        wanted.extend(health.map(|key| (key, "NoExecute")));
    }
    let is_wanted = |taint: &Taint| wanted.contains(&(&*taint.key, &*taint.effect));
    let is_present = |key: &str, effect: &str| {
        node.spec
            .taints
            .iter()
            .any(|taint| taint.key == key && taint.effect == effect)
    };
    // Before the first report a node keeps the taint that it registered with.
    let never_reported = status(node, "Ready").is_none();
    let mut taints: Vec<_> = node
        .spec
        .taints
        .iter()
        .filter(|taint| !is_ours(taint) || is_wanted(taint) || (never_reported && taint.key == NOT_READY))
        .cloned()
        .collect();
    let kept = taints.len();
    for (key, effect) in wanted.iter().filter(|(key, effect)| !is_present(key, effect)) {
        taints.push(Taint {
            key: (*key).to_owned(),
            effect: (*effect).to_owned(),
            value: None,
            time_added: Some(seconds(now)),
        });
    }
    (taints.len() != kept || kept != node.spec.taints.len()).then_some(taints)
}

/// Whether this controller puts such taints on nodes, and hence takes them off.
fn is_ours(taint: &Taint) -> bool {
    let health = [NOT_READY, UNREACHABLE].contains(&&*taint.key);
    match &*taint.effect {
        "NoExecute" => health,
        "NoSchedule" => {
            health || taint.key == UNSCHEDULABLE || PRESSURES.iter().any(|(_, key)| *key == taint.key)
        }
        _ => false,
    }
}
