//! ReplicaSets, and ReplicationControllers by the same code: keep the wanted number of pods.
//!
//! A sync claims pods (adopts matching orphans, releases what no longer matches), creates or deletes the
//! difference, and writes the status if it changed. It ends only when the pod informer has caught up with what
//! it did, so that the next sync never counts pods from a stale cache.

mod plan;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSetStatus;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::context::{BY_CONTROLLER, Context, Next, orphans, spawn_workers, wake_on_change};
use crate::event::{EventType, Recorder, Reference};
use crate::informer::Informer;
use crate::objects::{Labels, Object, Pod, PodTemplate, ReplicaSet, ReplicationController};
use crate::owner::{self, Claim};
use crate::patch::field_diff;
use crate::queue::{Key, Queue};
use crate::rest::{DeleteOptions, Error, Patch, Result};
use crate::selector;
use plan::{Failure, Scale};

/// Most pods created or deleted in one sync, so that one large set does not starve the others.
const BURST_MAX: usize = 500;

/// A kind that asks for a number of equal pods.
pub(crate) trait Replicated: Object {
    const CONTROLLER: &'static str;
    fn informer(context: &Context) -> &Informer<Self>;
    fn replicas(&self) -> i32;
    fn min_ready_seconds(&self) -> i32;
    fn selects(&self, labels: &Labels) -> bool;
    fn template(&self) -> &PodTemplate;
    fn status(&self) -> &ReplicaSetStatus;
    /// Counts terminating pods in its status.
    const COUNTS_TERMINATING: bool;
}

impl Replicated for ReplicaSet {
    const CONTROLLER: &'static str = "replicaset-controller";
    const COUNTS_TERMINATING: bool = true;

    fn informer(context: &Context) -> &Informer<Self> {
        &context.informers.replica_sets
    }

    fn replicas(&self) -> i32 {
        self.spec.replicas
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.min_ready_seconds
    }

    fn selects(&self, labels: &Labels) -> bool {
        !selector::is_empty(&self.spec.selector) && selector::matches(&self.spec.selector, labels)
    }

    fn template(&self) -> &PodTemplate {
        &self.spec.template
    }

    fn status(&self) -> &ReplicaSetStatus {
        &self.status
    }
}

impl Replicated for ReplicationController {
    const CONTROLLER: &'static str = "replication-controller";
    const COUNTS_TERMINATING: bool = false;

    fn informer(context: &Context) -> &Informer<Self> {
        &context.informers.replication_controllers
    }

    fn replicas(&self) -> i32 {
        self.spec.replicas
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.min_ready_seconds
    }

    fn selects(&self, labels: &Labels) -> bool {
        !self.spec.selector.is_empty() && selector::matches_map(&self.spec.selector, labels)
    }

    fn template(&self) -> &PodTemplate {
        &self.spec.template
    }

    fn status(&self) -> &ReplicaSetStatus {
        &self.status
    }
}

pub(crate) fn spawn<T: Replicated>(context: &Context, tasks: &mut JoinSet<()>) {
    let queue = Arc::new(Queue::new());
    wake_on_change(T::informer(context), &queue);
    context.informers.pods.subscribe({
        let (queue, context) = (queue.clone(), context.clone());
        move |change| {
            for pod in change.states() {
                wake_owners::<T>(&context, &queue, pod);
            }
        }
    });
    let reconciler = Arc::new(Reconciler {
        recorder: context.recorder.with_component(T::CONTROLLER),
        context: context.clone(),
    });
    spawn_workers(
        T::CONTROLLER,
        context,
        tasks,
        context.concurrent_syncs,
        queue,
        move |key| {
            let reconciler = reconciler.clone();
            async move { reconciler.reconcile::<T>(&key).await }
        },
    );
}

fn wake_owners<T: Replicated>(context: &Context, queue: &Queue<Key>, pod: &Pod) {
    match pod.metadata.controller() {
        Some(owner) if *owner.kind == *T::resource().kind => {
            queue.add(Key::new(&pod.metadata.namespace, &owner.name));
        }
        Some(_) => {}
        None if pod.metadata.labels.is_empty() || pod.metadata.is_deleted() => {}
        None => {
            for candidate in T::informer(context).in_namespace(&pod.metadata.namespace) {
                if candidate.selects(&pod.metadata.labels) {
                    queue.add(candidate.key());
                }
            }
        }
    }
}

struct Reconciler {
    context: Context,
    recorder: Recorder,
}

impl Reconciler {
    async fn reconcile<T: Replicated>(&self, key: &Key) -> Result<Next> {
        let Some(set) = T::informer(&self.context).get(key) else {
            return Ok(Next::Idle);
        };
        let claimed = self.claim(&*set).await?;
        let (active, inactive): (Vec<_>, Vec<_>) = claimed.into_iter().partition(|pod| pod.is_active());
        let terminating = inactive.iter().filter(|pod| !pod.is_terminal()).count();
        let failure = if set.meta().is_deleted() {
            None
        } else {
            let related = self.related_pods_by_node(&*set);
            let scale = plan::scale(set.replicas(), &active, &related, BURST_MAX, Timestamp::now());
            self.apply_scale(&*set, scale).await
        };
        let status = plan::status(
            &plan::Observed {
                generation: set.meta().generation,
                min_ready_seconds: set.min_ready_seconds(),
                template: &set.template().to_value(),
                active: &active,
                terminating: T::COUNTS_TERMINATING.then_some(terminating),
                failure: failure.as_ref(),
                now: Timestamp::now(),
            },
            set.status(),
        );
        self.write_status(&*set, &status).await?;
        if let Some(Failure { message, .. }) = failure {
            return Err(Error::Unfinished(message));
        }
        let wait = plan::next_availability(&active, set.min_ready_seconds(), Timestamp::now());
        Ok(wait.map_or(Next::Idle, Next::After))
    }

    /// The pods that belong to `set`, after adoption and release.
    async fn claim<T: Replicated>(&self, set: &T) -> Result<Vec<Arc<Pod>>> {
        let pods = &self.context.informers.pods;
        let meta = set.meta();
        let mut candidates = pods.indexed(BY_CONTROLLER, &meta.uid);
        candidates.retain(|pod| pod.metadata.namespace == meta.namespace);
        candidates.extend(pods.indexed(BY_CONTROLLER, &orphans(&meta.namespace)));
        let mut claimed = Vec::with_capacity(candidates.len());
        let mut may_adopt = None;
        for pod in candidates {
            let claim = owner::claim(meta, &pod.metadata, set.selects(&pod.metadata.labels));
            let patch = match claim {
                Claim::Keep => {
                    claimed.push(pod);
                    continue;
                }
                Claim::Ignore => continue,
                // A finished pod is of no use to anybody new.
                Claim::Adopt if pod.is_terminal() => continue,
                Claim::Adopt => {
                    if may_adopt.is_none() {
                        may_adopt = Some(self.still_exists(set).await?);
                    }
                    if may_adopt == Some(false) {
                        continue;
                    }
                    owner::adopt_patch(T::resource(), meta, &pod.metadata.uid)
                }
                Claim::Release => owner::release_patch(meta, &pod.metadata.uid),
            };
            let patch = Patch::StrategicMerge(&patch);
            let name = &pod.metadata.name;
            let patched: Result<Pod> = self
                .context
                .rest
                .patch(Pod::resource(), &meta.namespace, name, "", patch)
                .await;
            match patched {
                Ok(patched) => {
                    pods.seen(&patched.metadata.resource_version).await;
                    if claim == Claim::Adopt {
                        claimed.push(Arc::new(patched));
                    }
                }
                // The pod is gone, or another pod has its name now.
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(claimed)
    }

    /// Asks the API server rather than the cache: adopting on behalf of a deleted owner would orphan pods for good.
    async fn still_exists<T: Replicated>(&self, set: &T) -> Result<bool> {
        let meta = set.meta();
        let live: Option<T> = self
            .context
            .rest
            .get(T::resource(), &meta.namespace, &meta.name)
            .await?;
        Ok(live.is_some_and(|live| live.meta().uid == meta.uid && !live.meta().is_deleted()))
    }

    /// How many active pods of the same controller (all sets of one Deployment) each node has.
    fn related_pods_by_node<T: Replicated>(&self, set: &T) -> HashMap<Box<str>, usize> {
        let pods = &self.context.informers.pods;
        let owners: Vec<Box<str>> = match set.meta().controller() {
            None => vec![set.meta().uid.clone()],
            Some(controller) => self
                .context
                .informers
                .replica_sets
                .indexed(BY_CONTROLLER, &controller.uid)
                .iter()
                .map(|set| set.metadata.uid.clone())
                .collect(),
        };
        let mut counts = HashMap::new();
        for owner in owners {
            for pod in pods
                .indexed(BY_CONTROLLER, &owner)
                .iter()
                .filter(|pod| pod.is_active())
            {
                *counts.entry(pod.spec.node_name.clone()).or_insert(0) += 1;
            }
        }
        counts
    }

    async fn apply_scale<T: Replicated>(&self, set: &T, scale: Scale) -> Option<Failure> {
        match scale {
            Scale::Keep => None,
            Scale::Create(count) => self.create_pods(set, count).await.err().map(|error| Failure {
                reason: "FailedCreate",
                message: error.message(),
            }),
            Scale::Delete(pods) => self.delete_pods(set, pods).await.err().map(|error| Failure {
                reason: "FailedDelete",
                message: error.message(),
            }),
        }
    }

    /// Creates pods in batches that double: if the API server refuses one (quota, admission), it refuses all,
    /// and this way it is asked only once.
    async fn create_pods<T: Replicated>(&self, set: &T, count: usize) -> Result<()> {
        let meta = set.meta();
        let body = plan::pod(T::resource(), meta, &set.template().to_value());
        let mut newest = String::new();
        let mut outcome = Ok(());
        let (mut left, mut batch) = (count, 1);
        while left > 0 && outcome.is_ok() {
            let size = batch.min(left);
            let results = join_all((0..size).map(|_| async {
                self.context
                    .rest
                    .create::<Pod>(Pod::resource(), &meta.namespace, &body)
                    .await
            }))
            .await;
            for result in results {
                match result {
                    Ok(pod) => {
                        newest = newer(newest, &pod.metadata.resource_version);
                        let message = format!("Created pod: {}", pod.metadata.name);
                        self.event(set, EventType::Normal, "SuccessfulCreate", message);
                    }
                    // Nothing more can be created here, and everything will be deleted: this is no failure.
                    Err(error) if error.is_namespace_terminating() => left = size,
                    Err(error) => {
                        let message = format!("Error creating: {}", error.message());
                        self.event(set, EventType::Warning, "FailedCreate", message);
                        outcome = Err(error);
                    }
                }
            }
            left -= size;
            batch *= 2;
        }
        self.context.informers.pods.seen(&newest).await;
        outcome
    }

    async fn delete_pods<T: Replicated>(&self, set: &T, pods: Vec<Arc<Pod>>) -> Result<()> {
        let results = join_all(pods.iter().map(|pod| async {
            let options = DeleteOptions {
                uid: Some(&pod.metadata.uid),
                ..DeleteOptions::default()
            };
            let name = &pod.metadata.name;
            let deleted = self
                .context
                .rest
                .delete(Pod::resource(), &pod.metadata.namespace, name, &options)
                .await;
            match deleted {
                Ok(_) => {
                    self.event(
                        set,
                        EventType::Normal,
                        "SuccessfulDelete",
                        format!("Deleted pod: {name}"),
                    );
                }
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                Err(error) => {
                    let message = format!("Error deleting: {}", error.message());
                    self.event(set, EventType::Warning, "FailedDelete", message);
                    return Err(error);
                }
            }
            self.context
                .informers
                .pods
                .deletion_seen(&pod.key(), &pod.metadata.uid)
                .await;
            Ok(())
        }))
        .await;
        results.into_iter().collect()
    }

    async fn write_status<T: Replicated>(&self, set: &T, status: &ReplicaSetStatus) -> Result<()> {
        let change = field_diff("status", set.status(), status).map_err(|source| Error::Decode {
            operation: "compare status".into(),
            source,
        })?;
        let Some(change) = change else { return Ok(()) };
        let meta = set.meta();
        let patched: Result<Value> = self
            .context
            .rest
            .patch(
                T::resource(),
                &meta.namespace,
                &meta.name,
                "status",
                Patch::Merge(&change),
            )
            .await;
        match patched {
            Ok(object) => {
                let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
                T::informer(&self.context).seen(version).await;
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn event<T: Replicated>(&self, set: &T, type_: EventType, reason: &'static str, message: String) {
        self.recorder.publish(Reference::to(set), type_, reason, message);
    }
}

/// The newer of two resource versions.
fn newer(a: String, b: &str) -> String {
    if b.parse::<u64>().ok() > a.parse::<u64>().ok() {
        b.to_owned()
    } else {
        a
    }
}
