//! The decisions of the replica set controller.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::objects::{Meta, Pod};
use crate::owner::controller_reference;
use crate::rest::Resource;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const REPLICA_FAILURE: &str = "ReplicaFailure";

/// What to do about the number of pods.
#[derive(Debug, PartialEq)]
pub(crate) enum Scale {
    Keep,
    Create(usize),
    Delete(Vec<Arc<Pod>>),
}

/// Why the number of pods could not be reached.
#[derive(Debug, PartialEq)]
pub(crate) struct Failure {
    /// `FailedCreate` or `FailedDelete`.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// Compares the active pods with the number wanted. `related_by_node` ranks pods that share their node with
/// others of the same controller. At most `burst` pods are touched.
pub(crate) fn scale(
    replicas: i32,
    active: &[Arc<Pod>],
    related_by_node: &HashMap<Box<str>, usize>,
    burst: usize,
    now: Timestamp,
) -> Scale {
    let wanted = usize::try_from(replicas).unwrap_or(0);
    match active.len().cmp(&wanted) {
        Ordering::Equal => Scale::Keep,
        Ordering::Less => Scale::Create((wanted - active.len()).min(burst)),
        Ordering::Greater => {
            let excess = (active.len() - wanted).min(burst);
            let mut ranked: Vec<_> = active.to_vec();
            if excess < ranked.len() {
                let rank = |pod: &Pod| related_by_node.get(&pod.spec.node_name).copied().unwrap_or(0);
                ranked.sort_by(|a, b| deletion_order(a, b, rank(a), rank(b), now));
                ranked.truncate(excess);
            }
            Scale::Delete(ranked)
        }
    }
}

/// Pods that are missed least come first.
fn deletion_order(a: &Pod, b: &Pod, rank_a: usize, rank_b: usize, now: Timestamp) -> Ordering {
    let assigned = |pod: &Pod| !pod.spec.node_name.is_empty();
    let phase = |pod: &Pod| match &*pod.status.phase {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase(a).cmp(&phase(b)))
        .then_with(|| a.is_ready().cmp(&b.is_ready()))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        // More neighbours of the same kind on the node: delete there, so that the rest stays spread.
        .then_with(|| rank_b.cmp(&rank_a))
        .then_with(|| match (a.ready_since(), b.ready_since()) {
            (Some(a_since), Some(b_since)) if a_since != b_since => {
                younger_first(a, b, a_since, b_since, now)
            }
            _ => Ordering::Equal,
        })
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| {
            let (a_created, b_created) = (a.metadata.created(), b.metadata.created());
            if a_created == b_created {
                a.metadata.uid.cmp(&b.metadata.uid)
            } else {
                younger_first(a, b, a_created, b_created, now)
            }
        })
}

/// Compares ages by their logarithm: pods of similar age are picked by uid, which spreads the choice.
fn younger_first(a: &Pod, b: &Pod, a_time: Timestamp, b_time: Timestamp, now: Timestamp) -> Ordering {
    let magnitude = |time: Timestamp| {
        let nanos = now.duration_since(time).as_nanos();
        u128::try_from(nanos).ok().and_then(u128::checked_ilog2)
    };
    magnitude(a_time)
        .cmp(&magnitude(b_time))
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

fn deletion_cost(pod: &Pod) -> i32 {
    pod.metadata
        .annotations
        .get(DELETION_COST)
        .and_then(|cost| cost.parse().ok())
        .unwrap_or(0)
}

fn restarts(pod: &Pod) -> i32 {
    pod.status
        .container_statuses
        .iter()
        .map(|status| status.restart_count)
        .max()
        .unwrap_or(0)
}

/// The pod to create: the template, owned by the set. The API server completes the name.
pub(crate) fn pod(resource: &Resource, owner: &Meta, template: &Value) -> Value {
    let from_template = &template["metadata"];
    let mut metadata = json!({
        "generateName": format!("{}-", owner.name),
        "namespace": owner.namespace,
        "ownerReferences": [controller_reference(resource, owner)],
    });
    for field in ["labels", "annotations", "finalizers"] {
        if !from_template[field].is_null() {
            metadata[field] = from_template[field].clone();
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}

/// What the status is computed from.
pub(crate) struct Observed<'a> {
    pub(crate) generation: i64,
    pub(crate) min_ready_seconds: i32,
    pub(crate) template: &'a Value,
    pub(crate) active: &'a [Arc<Pod>],
    /// `None` for kinds that do not count them.
    pub(crate) terminating: Option<usize>,
    pub(crate) failure: Option<&'a Failure>,
    pub(crate) now: Timestamp,
}

/// The status after a sync; `old` keeps what it may.
pub(crate) fn status(observed: &Observed<'_>, old: &ReplicaSetStatus) -> ReplicaSetStatus {
    let template_labels = observed.template["metadata"]["labels"].as_object();
    let fully_labeled = |pod: &Pod| {
        let mut labels = template_labels.into_iter().flatten();
        labels.all(|(key, value)| pod.metadata.labels.get(key) == value.as_str())
    };
    let count = |predicate: &dyn Fn(&Pod) -> bool| {
        let count = observed.active.iter().filter(|pod| predicate(pod)).count();
        i32::try_from(count).unwrap_or(i32::MAX)
    };
    // The API leaves out counts of zero.
    let optional = |count: i32| (count != 0).then_some(count);
    ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: optional(count(&fully_labeled)),
        ready_replicas: optional(count(&Pod::is_ready)),
        available_replicas: optional(count(&|pod| {
            pod.is_available(observed.min_ready_seconds, observed.now)
        })),
        terminating_replicas: observed
            .terminating
            .map(|count| i32::try_from(count).unwrap_or(i32::MAX)),
        observed_generation: Some(observed.generation),
        conditions: conditions(observed, old),
    }
}

fn conditions(observed: &Observed<'_>, old: &ReplicaSetStatus) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let present = conditions
        .iter()
        .any(|condition| condition.type_.as_deref() == Some(REPLICA_FAILURE));
    match observed.failure {
        None => conditions.retain(|condition| condition.type_.as_deref() != Some(REPLICA_FAILURE)),
        // The first failure stays: its time tells since when.
        Some(_) if present => {}
        Some(failure) => conditions.push(ReplicaSetCondition {
            type_: Some(REPLICA_FAILURE.into()),
            status: Some("True".into()),
            reason: Some(failure.reason.into()),
            message: Some(failure.message.clone()),
            last_transition_time: Some(Time(whole_seconds(observed.now))),
        }),
    }
    (!conditions.is_empty()).then_some(conditions)
}

/// `metav1.Time` has whole seconds; a finer one would look changed when it is read back.
pub(crate) fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// When the next ready pod becomes available, if one will.
pub(crate) fn next_availability(
    active: &[Arc<Pod>],
    min_ready_seconds: i32,
    now: Timestamp,
) -> Option<Duration> {
    if min_ready_seconds <= 0 {
        return None;
    }
    let wait = jiff::SignedDuration::from_secs(i64::from(min_ready_seconds));
    let left = |pod: &Arc<Pod>| {
        let elapsed = now.duration_since(pod.ready_since()?);
        (elapsed < wait).then(|| (wait - elapsed).unsigned_abs())
    };
    active.iter().filter_map(left).min()
}
