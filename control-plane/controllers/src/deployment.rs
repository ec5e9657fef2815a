//! Deployments: roll ReplicaSets from one pod template to the next.
//!
//! The whole decision of a sync is [`plan::plan`]; this file claims ReplicaSets, carries the plan out and waits
//! until the caches have caught up with it. `kubectl rollout undo` needs nothing of its own here: it puts an
//! old template back, and the ReplicaSet that already has it becomes the new one again.

mod plan;
mod revision;
mod sizes;
mod status;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DeploymentStatus;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::context::{BY_CONTROLLER, Context, Next, orphans, spawn_workers, wake_on_change};
use crate::event::{EventType, Recorder, Reference};
use crate::objects::{Deployment, Object, ReplicaSet};
use crate::owner::{self, Claim};
use crate::patch::field_diff;
use crate::queue::{Key, Queue};
use crate::rest::{DeleteOptions, Error, Patch, Result};
use crate::selector;
use plan::{Input, NewSet, Plan};

const NAME: &str = "deployment-controller";

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let queue = Arc::new(Queue::new());
    wake_on_change(&context.informers.deployments, &queue);
    context.informers.replica_sets.subscribe({
        let (queue, context) = (queue.clone(), context.clone());
        move |change| {
            for set in change.states() {
                wake_owners(&context, &queue, set);
            }
        }
    });
    // Recreate waits for the last old pod to be gone, which no ReplicaSet shows.
    context.informers.pods.subscribe({
        let (queue, context) = (queue.clone(), context.clone());
        move |change| {
            let (Some(pod), None) = (change.old, change.new) else {
                return;
            };
            let Some(owner) = pod
                .metadata
                .controller()
                .filter(|owner| owner.kind == "ReplicaSet")
            else {
                return;
            };
            let key = Key::new(&pod.metadata.namespace, &owner.name);
            if let Some(set) = context.informers.replica_sets.get(&key) {
                wake_owners(&context, &queue, &set);
            }
        }
    });
    let reconciler = Arc::new(Reconciler {
        recorder: context.recorder.with_component(NAME),
        context: context.clone(),
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

fn wake_owners(context: &Context, queue: &Queue<Key>, set: &ReplicaSet) {
    let namespace = &set.metadata.namespace;
    match set.metadata.controller() {
        Some(owner) if owner.kind == "Deployment" => queue.add(Key::new(namespace, &owner.name)),
        Some(_) => {}
        None if set.metadata.labels.is_empty() || set.metadata.is_deleted() => {}
        None => {
            for candidate in context.informers.deployments.in_namespace(namespace) {
                if selects(&candidate, set) {
                    queue.add(candidate.key());
                }
            }
        }
    }
}

fn selects(deployment: &Deployment, set: &ReplicaSet) -> bool {
    !selector::is_empty(&deployment.spec.selector)
        && selector::matches(&deployment.spec.selector, &set.metadata.labels)
}

struct Reconciler {
    context: Context,
    recorder: Recorder,
}

impl Reconciler {
    async fn reconcile(&self, key: &Key) -> Result<Next> {
        let Some(deployment) = self.context.informers.deployments.get(key) else {
            return Ok(Next::Idle);
        };
        if selector::is_empty(&deployment.spec.selector) {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.event(
                &deployment,
                EventType::Warning,
                "SelectingAll",
                message.to_owned(),
            );
            let mut status = deployment.status.clone();
            status.observed_generation = Some(deployment.metadata.generation);
            self.write_status(&deployment, None, &status).await?;
            return Ok(Next::Idle);
        }
        let sets = self.claim(&deployment).await?;
        let pods = &self.context.informers.pods;
        let with_running_pods: HashSet<Box<str>> = sets
            .iter()
            .map(|set| set.metadata.uid.clone())
            .filter(|uid| {
                pods.indexed(BY_CONTROLLER, uid)
                    .iter()
                    .any(|pod| !pod.is_terminal())
            })
            .collect();
        let plan = plan::plan(&Input {
            deployment: &deployment,
            sets: &sets,
            with_running_pods: &with_running_pods,
            now: Timestamp::now(),
        });
        self.apply(&deployment, plan).await
    }

    /// New set first, then scaling, then cleaning up, and the status last: whoever sees the status sees what it
    /// tells about. Stops at the first failure.
    async fn apply(&self, deployment: &Deployment, plan: Plan) -> Result<Next> {
        let sets = &self.context.informers.replica_sets;
        let namespace = &deployment.metadata.namespace;
        if let Some((name, patch)) = &plan.update_new_set {
            let patched: ReplicaSet = self
                .context
                .rest
                .patch(ReplicaSet::resource(), namespace, name, "", Patch::Merge(patch))
                .await?;
            sets.seen(&patched.metadata.resource_version).await;
        }
        if let Some(new) = &plan.create {
            self.create_set(deployment, new, &plan).await?;
        }
        for scale in &plan.scales {
            let patched: ReplicaSet = self
                .context
                .rest
                .patch(
                    ReplicaSet::resource(),
                    namespace,
                    &scale.name,
                    "",
                    Patch::Merge(&scale.patch),
                )
                .await?;
            if scale.from != scale.to {
                let direction = if scale.to > scale.from { "up" } else { "down" };
                let message = format!(
                    "Scaled {direction} replica set {} from {} to {}",
                    scale.name, scale.from, scale.to
                );
                self.event(deployment, EventType::Normal, "ScalingReplicaSet", message);
            }
            sets.seen(&patched.metadata.resource_version).await;
        }
        for (name, uid) in &plan.delete {
            let options = DeleteOptions {
                uid: Some(uid),
                propagation_policy: Some("Background"),
                ..DeleteOptions::default()
            };
            match self
                .context
                .rest
                .delete(ReplicaSet::resource(), namespace, name, &options)
                .await
            {
                Ok(_) => sets.deletion_seen(&Key::new(namespace, name), uid).await,
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        self.write_status(deployment, plan.revision.as_deref(), &plan.status)
            .await?;
        Ok(plan.next.map_or(Next::Idle, Next::After))
    }

    async fn create_set(&self, deployment: &Deployment, new: &NewSet, plan: &Plan) -> Result<()> {
        let meta = &deployment.metadata;
        let resource = ReplicaSet::resource();
        let created: Result<ReplicaSet> = self
            .context
            .rest
            .create(resource, &meta.namespace, &new.body)
            .await;
        let error = match created {
            Ok(set) => {
                self.context
                    .informers
                    .replica_sets
                    .seen(&set.metadata.resource_version)
                    .await;
                if new.replicas > 0 {
                    let message = format!("Scaled up replica set {} from 0 to {}", new.name, new.replicas);
                    self.event(deployment, EventType::Normal, "ScalingReplicaSet", message);
                }
                return Ok(());
            }
            Err(error) => error,
        };
        if error.is_namespace_terminating() {
            return Ok(());
        }
        if error.is_already_exists() {
            let existing: Option<ReplicaSet> = self
                .context
                .rest
                .get(resource, &meta.namespace, &new.name)
                .await?;
            let ours = existing.is_some_and(|set| {
                set.metadata.is_controlled_by(&meta.uid)
                    && revision::templates_equal(&set.spec.template, &deployment.spec.template)
            });
            if !ours {
                // Another template has this name: the count makes the next hash a different one.
                let mut status = deployment.status.clone();
                status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
                self.write_status(deployment, None, &status).await?;
            }
            return Err(error);
        }
        let message = format!(
            "Failed to create new replica set \"{}\": {}",
            new.name,
            error.message()
        );
        let failed = status::with_creation_failure(deployment, &plan.status, &message, Timestamp::now());
        self.event(deployment, EventType::Warning, "ReplicaSetCreateError", message);
        self.write_status(deployment, None, &failed).await?;
        Err(error)
    }

    /// The ReplicaSets of the deployment, after adoption and release.
    async fn claim(&self, deployment: &Deployment) -> Result<Vec<Arc<ReplicaSet>>> {
        let sets = &self.context.informers.replica_sets;
        let meta = &deployment.metadata;
        let resource = ReplicaSet::resource();
        let mut candidates = sets.indexed(BY_CONTROLLER, &meta.uid);
        candidates.retain(|set| set.metadata.namespace == meta.namespace);
        candidates.extend(sets.indexed(BY_CONTROLLER, &orphans(&meta.namespace)));
        let mut claimed = Vec::with_capacity(candidates.len());
        let mut may_adopt = None;
        for set in candidates {
            let claim = owner::claim(meta, &set.metadata, selects(deployment, &set));
            let patch = match claim {
                Claim::Keep => {
                    claimed.push(set);
                    continue;
                }
                Claim::Ignore => continue,
                Claim::Adopt => {
                    if may_adopt.is_none() {
                        let live: Option<Deployment> = self
                            .context
                            .rest
                            .get(Deployment::resource(), &meta.namespace, &meta.name)
                            .await?;
                        may_adopt = Some(live.is_some_and(|live| {
                            live.metadata.uid == meta.uid && !live.metadata.is_deleted()
                        }));
                    }
                    if may_adopt == Some(false) {
                        continue;
                    }
                    owner::adopt_patch(Deployment::resource(), meta, &set.metadata.uid)
                }
                Claim::Release => owner::release_patch(meta, &set.metadata.uid),
            };
            let patch = Patch::StrategicMerge(&patch);
            let patched: Result<ReplicaSet> = self
                .context
                .rest
                .patch(resource, &meta.namespace, &set.metadata.name, "", patch)
                .await;
            match patched {
                Ok(patched) => {
                    sets.seen(&patched.metadata.resource_version).await;
                    if claim == Claim::Adopt {
                        claimed.push(Arc::new(patched));
                    }
                }
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(claimed)
    }

    /// Writes the status, and the revision annotation with it: through the status endpoint it does not count as
    /// a change of what the user asked for.
    async fn write_status(
        &self,
        deployment: &Deployment,
        revision: Option<&str>,
        status: &DeploymentStatus,
    ) -> Result<()> {
        let change = field_diff("status", &deployment.status, status).map_err(|source| Error::Decode {
            operation: "compare status".into(),
            source,
        })?;
        if change.is_none() && revision.is_none() {
            return Ok(());
        }
        let mut patch = change.unwrap_or_else(|| json!({}));
        patch["metadata"] = json!({"uid": deployment.metadata.uid});
        if let Some(revision) = revision {
            patch["metadata"]["annotations"] = json!({revision::REVISION: revision});
        }
        let meta = &deployment.metadata;
        let patched: Result<Value> = self
            .context
            .rest
            .patch(
                Deployment::resource(),
                &meta.namespace,
                &meta.name,
                "status",
                Patch::Merge(&patch),
            )
            .await;
        match patched {
            Ok(object) => {
                let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
                self.context.informers.deployments.seen(version).await;
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn event(&self, deployment: &Deployment, type_: EventType, reason: &'static str, message: String) {
        self.recorder
            .publish(Reference::to(deployment), type_, reason, message);
    }
}
