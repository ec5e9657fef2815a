//! Deletes pods from nodes with a NoExecute taint that they do not tolerate, or not for longer.

mod plan;

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::context::{BY_NODE, Context, Next, spawn_workers, wake_on_change};
use crate::event::{EventType, Recorder, Reference};
use crate::objects::{Object, Pod};
use crate::queue::{Key, Queue};
use crate::rest::{DeleteOptions, Patch, Result};
use plan::Verdict;

const NAME: &str = "taint-eviction-controller";

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let queue = Arc::new(Queue::new());
    wake_on_change(&context.informers.pods, &queue);
    context.informers.nodes.subscribe({
        let (queue, context) = (queue.clone(), context.clone());
        move |change| {
            if change.old.map(|node| &node.spec.taints) == change.new.map(|node| &node.spec.taints) {
                return;
            }
            let Some(node) = change.latest() else { return };
            for pod in context.informers.pods.indexed(BY_NODE, &node.metadata.name) {
                queue.add(pod.key());
            }
        }
    });
    let reconciler = Arc::new(Reconciler {
        context: context.clone(),
        recorder: context.recorder.with_component(NAME),
        waiting: Mutex::new(HashMap::new()),
    });
    spawn_workers(
        NAME,
        context,
        tasks,
        context.concurrent_syncs,
        queue,
        move |key| {
            let reconciler = reconciler.clone();
            async move { reconciler.reconcile(&key).await }
        },
    );
}

struct Reconciler {
    context: Context,
    recorder: Recorder,
    /// Pods that tolerate a taint for a while: their uid, and since when.
    waiting: Mutex<HashMap<Key, (Box<str>, Instant)>>,
}

impl Reconciler {
    async fn reconcile(&self, key: &Key) -> Result<Next> {
        let pod = self
            .context
            .informers
            .pods
            .get(key)
            .filter(|pod| !pod.metadata.is_deleted());
        let Some(pod) = pod else {
            self.waiting.lock().remove(key);
            return Ok(Next::Idle);
        };
        let node = self
            .context
            .informers
            .nodes
            .get(&Key::new("", &pod.spec.node_name));
        let taints = node.as_ref().map_or(&[][..], |node| &node.spec.taints);
        match plan::verdict(taints, &pod.spec.tolerations) {
            Verdict::Stay => {
                if self.waiting.lock().remove(key).is_some() {
                    self.event(&pod, format!("Cancelling deletion of Pod {key}"));
                }
                Ok(Next::Idle)
            }
            Verdict::Leave => self.evict(key, &pod).await,
            Verdict::LeaveAfter(limit) => {
                let since = {
                    let mut waiting = self.waiting.lock();
                    let entry = waiting
                        .entry(key.clone())
                        .or_insert_with(|| (pod.metadata.uid.clone(), Instant::now()));
                    if entry.0 != pod.metadata.uid {
                        *entry = (pod.metadata.uid.clone(), Instant::now());
                    }
                    entry.1
                };
                match limit.checked_sub(since.elapsed()) {
                    Some(left) if !left.is_zero() => Ok(Next::After(left)),
                    _ => self.evict(key, &pod).await,
                }
            }
        }
    }

    async fn evict(&self, key: &Key, pod: &Pod) -> Result<Next> {
        self.event(pod, format!("Marking for deletion Pod {key}"));
        let uid = &pod.metadata.uid;
        let now = Timestamp::from_second(Timestamp::now().as_second())
            .unwrap_or_default()
            .to_string();
        let patch = json!({"metadata": {"uid": uid}, "status": {"conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint", "lastTransitionTime": now,
        }]}});
        let patch = Patch::StrategicMerge(&patch);
        let marked: Result<Value> = self
            .context
            .rest
            .patch(Pod::resource(), &key.namespace, &key.name, "status", patch)
            .await;
        let gone = |error: &crate::rest::Error| error.is_not_found() || error.is_conflict();
        match marked {
            Err(error) if !gone(&error) => return Err(error),
            _ => {}
        }
        let options = DeleteOptions {
            uid: Some(uid),
            ..DeleteOptions::default()
        };
        match self
            .context
            .rest
            .delete(Pod::resource(), &key.namespace, &key.name, &options)
            .await
        {
            Err(error) if !gone(&error) => Err(error),
            _ => {
                self.waiting.lock().remove(key);
                self.context.informers.pods.deletion_seen(key, uid).await;
                Ok(Next::Idle)
            }
        }
    }

    fn event(&self, pod: &Pod, message: String) {
        self.recorder.publish(
            Reference::to(pod),
            EventType::Normal,
            "TaintManagerEviction",
            message,
        );
    }
}
