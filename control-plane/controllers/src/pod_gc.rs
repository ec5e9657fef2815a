//! Removes pods that nobody else will: finished ones beyond a number, pods of nodes that are gone, and pods
//! that were deleted before they were scheduled.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::context::{BY_NODE, Context, Next, spawn_workers};
use crate::objects::{Meta, Node, Object, Pod};
use crate::queue::{Key, Queue};
use crate::rest::{DeleteOptions, Patch, Result};

const NAME: &str = "pod-garbage-collector-controller";
/// A node may be missed by accident, such as a Node object made anew: its pods wait for this long.
const QUARANTINE: Duration = Duration::from_secs(40);
/// Finished pods are counted at most this often.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);

/// What to look at.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Task {
    /// The number of finished pods.
    Finished,
    /// The pods of a node that is missing.
    MissingNode(Arc<str>),
    /// A pod that is deleted and has no kubelet to end it.
    Unscheduled(Key),
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished pods"),
            Self::MissingNode(node) => write!(f, "node {node}"),
            Self::Unscheduled(pod) => write!(f, "pod {pod}"),
        }
    }
}

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>, threshold: usize) {
    let queue = Arc::new(Queue::new());
    context.informers.pods.subscribe({
        let (queue, context) = (queue.clone(), context.clone());
        move |change| {
            let Some(pod) = change.new else { return };
            if is_unscheduled_leftover(pod) {
                queue.add(Task::Unscheduled(pod.key()));
            }
            let was_finished = change.old.is_some_and(|old| old.is_terminal());
            if threshold > 0 && pod.is_terminal() && !was_finished {
                queue.add_after(Task::Finished, COUNT_INTERVAL);
            }
            let moved = change
                .old
                .is_none_or(|old| old.spec.node_name != pod.spec.node_name);
            let node = &pod.spec.node_name;
            if moved && !node.is_empty() && context.informers.nodes.get(&Key::new("", node)).is_none() {
                queue.add_after(Task::MissingNode((**node).into()), QUARANTINE);
            }
        }
    });
    context.informers.nodes.subscribe({
        let queue = queue.clone();
        move |change| {
            if let (Some(node), None) = (change.old, change.new) {
                queue.add_after(Task::MissingNode((*node.metadata.name).into()), QUARANTINE);
            }
        }
    });
    let reconciler = context.clone();
    spawn_workers(NAME, context, tasks, 1, queue, move |task| {
        let context = reconciler.clone();
        async move { reconcile(&context, &task, threshold).await }
    });
}

fn is_unscheduled_leftover(pod: &Pod) -> bool {
    pod.metadata.is_deleted() && pod.spec.node_name.is_empty()
}

/// The finished pods to remove so that at most `threshold` stay: the oldest.
fn excess_finished(pods: &[Arc<Pod>], threshold: usize) -> Vec<Arc<Pod>> {
    let mut finished: Vec<_> = pods
        .iter()
        .filter(|pod| pod.is_terminal() && !pod.metadata.is_deleted())
        .cloned()
        .collect();
    let excess = finished.len().saturating_sub(threshold);
    finished.sort_by(|a, b| {
        let age = |meta: &Meta| (meta.created(), meta.name.clone());
        age(&a.metadata).cmp(&age(&b.metadata))
    });
    finished.truncate(excess);
    finished
}

async fn reconcile(context: &Context, task: &Task, threshold: usize) -> Result<Next> {
    let pods = &context.informers.pods;
    let (doomed, reason) = match task {
        Task::Finished => (excess_finished(&pods.all(), threshold), None),
        Task::Unscheduled(key) => {
            let pod = pods.get(key).filter(|pod| is_unscheduled_leftover(pod));
            (pod.into_iter().collect(), None)
        }
        Task::MissingNode(name) => {
            // Removing pods of a node that lives would run them twice: ask, do not guess from a cache.
            let live: Option<Value> = context.rest.get(Node::resource(), "", name).await?;
            if live.is_some() {
                return Ok(Next::Idle);
            }
            (pods.indexed(BY_NODE, name), Some("PodGC: node no longer exists"))
        }
    };
    let removals = join_all(doomed.iter().map(|pod| remove(context, pod, reason))).await;
    removals.into_iter().collect::<Result<()>>()?;
    Ok(Next::Idle)
}

/// Marks the pod as failed if it has not ended, and deletes it at once: no kubelet will confirm its end.
async fn remove(context: &Context, pod: &Pod, reason: Option<&str>) -> Result<()> {
    let meta = &pod.metadata;
    tracing::info!(pod = %pod.key(), reason, "removing pod");
    if !pod.is_terminal() {
        let mut status = json!({"phase": "Failed"});
        if let Some(reason) = reason {
            let now = Timestamp::from_second(Timestamp::now().as_second())
                .unwrap_or_default()
                .to_string();
            status["conditions"] = json!([{
                "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC", "message": reason,
                "lastTransitionTime": now,
            }]);
        }
        let patch = json!({"metadata": {"uid": meta.uid}, "status": status});
        let patch = Patch::StrategicMerge(&patch);
        let patched: Result<Value> = context
            .rest
            .patch(Pod::resource(), &meta.namespace, &meta.name, "status", patch)
            .await;
        match patched {
            Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error),
            _ => {}
        }
    }
    let options = DeleteOptions {
        uid: Some(&meta.uid),
        grace_period_seconds: Some(0),
        ..DeleteOptions::default()
    };
    match context
        .rest
        .delete(Pod::resource(), &meta.namespace, &meta.name, &options)
        .await
    {
        Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, phase: &str, minute: u32, changes: Value) -> Arc<Pod> {
        let mut metadata =
            json!({"name": name, "creationTimestamp": format!("2026-01-01T00:{minute:02}:00Z")});
        if let Value::Object(changes) = changes {
            metadata.as_object_mut().unwrap().extend(changes);
        }
        Arc::new(serde_json::from_value(json!({"metadata": metadata, "status": {"phase": phase}})).unwrap())
    }

    /// Rows follow upstream's `TestGCTerminated`.
    #[test]
    fn the_oldest_finished_pods_go() {
        let dying = json!({"deletionTimestamp": "2026-01-01T01:00:00Z"});
        let pods = [
            pod("new", "Failed", 5, json!({})),
            pod("old", "Succeeded", 1, json!({})),
            pod("running", "Running", 0, json!({})),
            pod("older", "Failed", 0, json!({})),
            pod("dying", "Failed", 0, dying),
        ];
        for (threshold, expect) in [
            (3, vec![]),
            (2, vec!["older"]),
            (1, vec!["older", "old"]),
            (0, vec!["older", "old", "new"]),
        ] {
            let names: Vec<_> = excess_finished(&pods, threshold)
                .iter()
                .map(|pod| pod.metadata.name.to_string())
                .collect();
            assert_eq!(names, expect, "threshold {threshold}");
        }
    }

    #[test]
    fn only_deleted_pods_without_a_node_are_leftovers() {
        let dying = || json!({"deletionTimestamp": "2026-01-01T01:00:00Z"});
        assert!(is_unscheduled_leftover(&pod("a", "Pending", 0, dying())));
        assert!(!is_unscheduled_leftover(&pod("a", "Pending", 0, json!({}))));
        let mut scheduled = (*pod("a", "Running", 0, dying())).clone();
        scheduled.spec.node_name = "n".into();
        assert!(!is_unscheduled_leftover(&scheduled));
    }
}
