//! Notices Nodes that stopped reporting, and keeps taints in step with their conditions.
//!
//! A kubelet shows that it lives by renewing its Lease. Times of renewal are compared with each other only, and
//! how long ago one was seen is measured here: clocks of nodes may be wrong. Each node has one timer, which is
//! looked at when it is due; a renewal moves it without waking anybody.

mod plan;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::context::{BY_NODE, Context, Next, spawn_workers, wake_on_change};
use crate::event::{EventType, Recorder, Reference};
use crate::objects::{Node, Object, Pod};
use crate::queue::{Key, Queue};
use crate::rest::{Patch, Result};
use plan::Heartbeat;

const NAME: &str = "node-lifecycle-controller";
/// The name that events come from is older than the controller's.
const RECORDER: &str = "node-controller";

/// How long a node may be silent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GracePeriods {
    pub(crate) monitor: Duration,
    /// For a node that never reported at all.
    pub(crate) startup: Duration,
}

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>, grace: GracePeriods) {
    let queue = Arc::new(Queue::new());
    wake_on_change(&context.informers.nodes, &queue);
    // Whether a node may be emptied depends on whether any other one is well.
    context.informers.nodes.subscribe({
        let (queue, context) = (queue.clone(), context.clone());
        move |change| {
            let ready = |node: Option<&Arc<Node>>| node.is_some_and(|node| plan::is_ready(node));
            if ready(change.old) != ready(change.new) {
                for node in context.informers.nodes.all() {
                    queue.add(node.key());
                }
            }
        }
    });
    context.informers.nodes.subscribe({
        let recorder = context.recorder.with_component(RECORDER);
        move |change| {
            let (node, reason, message) = match (change.old, change.new) {
                (None, Some(node)) => (node, "RegisteredNode", "Registered Node"),
                (Some(node), None) => (node, "RemovingNode", "Removing Node"),
                _ => return,
            };
            let name = &node.metadata.name;
            let preposition = if reason == "RegisteredNode" { "in" } else { "from" };
            let message = format!("Node {name} event: {message} {name} {preposition} Controller");
            recorder.publish(Reference::to(&**node), EventType::Normal, reason, message);
        }
    });
    let reconciler = Arc::new(Reconciler {
        context: context.clone(),
        recorder: context.recorder.with_component(RECORDER),
        grace,
        health: Mutex::new(HashMap::new()),
    });
    context.informers.leases.subscribe({
        let reconciler = reconciler.clone();
        move |change| {
            if let Some(lease) = change.new {
                reconciler.observe_lease(
                    &lease.metadata.name,
                    lease.spec.renew_time.as_ref().map(|time| time.0),
                );
            }
        }
    });
    spawn_workers(NAME, context, tasks, 1, queue, move |key| {
        let reconciler = reconciler.clone();
        async move { reconciler.reconcile(&key).await }
    });
}

struct Reconciler {
    context: Context,
    recorder: Recorder,
    grace: GracePeriods,
    health: Mutex<HashMap<Box<str>, Health>>,
}

/// What was seen of a node.
struct Health {
    uid: Box<str>,
    heartbeat: Heartbeat,
    /// When a sign of life came last.
    seen: Instant,
    /// The pods of the node were marked as not ready since it is not.
    pods_marked: bool,
}

impl Reconciler {
    fn observe_lease(&self, name: &str, renewed: Option<Timestamp>) {
        if let Some(health) = self.health.lock().get_mut(name)
            && health.heartbeat.lease != renewed
        {
            health.heartbeat.lease = renewed;
            health.seen = Instant::now();
        }
    }

    /// Updates what is known of the node and returns for how long it has been silent.
    fn observe(&self, node: &Node) -> Duration {
        let now = Instant::now();
        let lease = self
            .context
            .informers
            .leases
            .get(&Key::new("kube-node-lease", &node.metadata.name));
        let heartbeat = Heartbeat {
            lease: lease.and_then(|lease| lease.spec.renew_time.as_ref().map(|time| time.0)),
            status: plan::status_heartbeat(node),
        };
        let mut health = self.health.lock();
        let entry = health
            .entry(node.metadata.name.clone())
            .or_insert_with(|| Health {
                uid: node.metadata.uid.clone(),
                heartbeat,
                seen: now,
                pods_marked: false,
            });
        if entry.uid != node.metadata.uid {
            *entry = Health {
                uid: node.metadata.uid.clone(),
                heartbeat,
                seen: now,
                pods_marked: false,
            };
        } else if entry.heartbeat != heartbeat {
            entry.heartbeat = heartbeat;
            entry.seen = now;
        }
        now.duration_since(entry.seen)
    }

    async fn reconcile(&self, key: &Key) -> Result<Next> {
        let Some(node) = self.context.informers.nodes.get(key) else {
            self.health.lock().remove(&*key.name);
            return Ok(Next::Idle);
        };
        let silent_for = self.observe(&node);
        let grace = if plan::has_reported(&node) {
            self.grace.monitor
        } else {
            self.grace.startup
        };
        let mut next = Next::Idle;
        if silent_for < grace {
            next = Next::After(grace - silent_for);
        } else if let Some(conditions) = plan::unknown_conditions(&node, Timestamp::now()) {
            tracing::info!(node = %key, ?silent_for, "node stopped reporting");
            let patch = json!({"metadata": {"uid": node.metadata.uid}, "status": {"conditions": conditions}});
            self.patch(key, "status", Patch::StrategicMerge(&patch)).await?;
            self.event(&node, "NodeNotReady");
            // The changed node wakes us again, for its taints and its pods.
            return Ok(Next::Idle);
        }
        let nodes = self.context.informers.nodes.all();
        let all_disrupted = !nodes.iter().any(|node| plan::is_ready(node));
        if let Some(taints) = plan::taints(&node, all_disrupted, Timestamp::now()) {
            let version = &node.metadata.resource_version;
            let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": taints}});
            self.patch(key, "", Patch::Merge(&patch)).await?;
        }
        self.mark_pods(key, &node).await?;
        Ok(next)
    }

    async fn patch(&self, key: &Key, subresource: &str, patch: Patch<'_>) -> Result<()> {
        let patched: Result<Value> = self
            .context
            .rest
            .patch(Node::resource(), "", &key.name, subresource, patch)
            .await;
        match patched {
            Ok(object) => {
                let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
                self.context.informers.nodes.seen(version).await;
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Nobody else takes the pods of a silent node out of their Services. Once per silence: a kubelet that comes
    /// back decides for itself.
    async fn mark_pods(&self, key: &Key, node: &Node) -> Result<()> {
        let ready = plan::is_ready(node);
        {
            let mut health = self.health.lock();
            let Some(health) = health.get_mut(&*key.name) else {
                return Ok(());
            };
            if ready {
                health.pods_marked = false;
            }
            if ready || health.pods_marked || !plan::has_reported(node) {
                return Ok(());
            }
        }
        let pods = self.context.informers.pods.indexed(BY_NODE, &key.name);
        let results = join_all(pods.iter().filter(|pod| pod.is_ready()).map(|pod| async {
            let patch = json!({
                "metadata": {"uid": pod.metadata.uid},
                "status": {"conditions": [{
                    "type": "Ready", "status": "False", "lastTransitionTime": plan::seconds(Timestamp::now()),
                }]},
            });
            let patch = Patch::StrategicMerge(&patch);
            let name = &pod.metadata.name;
            let patched: Result<Value> = self
                .context
                .rest
                .patch(Pod::resource(), &pod.metadata.namespace, name, "status", patch)
                .await;
            match patched {
                Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
                _ => {
                    let message = "Node is not ready".to_owned();
                    self.recorder
                        .publish(Reference::to(&**pod), EventType::Warning, "NodeNotReady", message);
                    Ok(())
                }
            }
        }))
        .await;
        results.into_iter().collect::<Result<()>>()?;
        if let Some(health) = self.health.lock().get_mut(&*key.name) {
            health.pods_marked = true;
        }
        Ok(())
    }

    fn event(&self, node: &Node, status: &'static str) {
        let message = format!("Node {} status is now: {status}", node.metadata.name);
        self.recorder
            .publish(Reference::to(node), EventType::Normal, status, message);
    }
}
