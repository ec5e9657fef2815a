//! Deletes objects whose owners are gone, and carries out foreground and orphaning deletion.
//!
//! Everything that can be deleted is watched, metadata only, and kept as a [`graph::Graph`] of who owns whom. The
//! graph only says what to look at: before anything is deleted its owners are asked for by the API server, by
//! uid. A mistake here would delete what people still need.
//!
//! [`monitor`] fills the graph, [`graph`] decides what deserves a look, [`plan`] what becomes of it.

mod graph;
mod monitor;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::context::{Context, Next, spawn_workers};
use crate::discovery::Discovered;
use crate::objects::Meta;
use crate::queue::Queue;
use crate::rest::{DeleteOptions, Error, PARTIAL_METADATA, Patch, Resource, Rest, Result};
use graph::{Graph, Identity, Uid, Wake};
use plan::{OwnerState, Verdict};

const NAME: &str = "garbage-collector-controller";
pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";
/// Owners known to be gone are asked for once, not once per dependent. A uid never comes back.
const ABSENT_MAX: usize = 1024;
/// How long decisions wait for a kind whose first list does not come, such as one of a broken aggregated API.
const GATE_MAX: Duration = Duration::from_secs(30);

/// An object as every kind has it.
#[derive(serde::Deserialize)]
pub(super) struct Partial {
    pub(super) metadata: Meta,
}

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let shared = Arc::new(Shared {
        rest: context.rest.clone(),
        graph: Mutex::new(Graph::default()),
        to_delete: Arc::new(Queue::new()),
        to_orphan: Arc::new(Queue::new()),
        kinds: Mutex::new(HashMap::new()),
        absent: Mutex::new(HashSet::new()),
        gate: watch::Sender::new(false),
    });
    tasks.spawn(monitor::run(shared.clone(), context.cancel.clone()));
    let deleter = shared.clone();
    spawn_workers(
        NAME,
        context,
        tasks,
        context.concurrent_syncs * 2,
        shared.to_delete.clone(),
        move |uid| {
            let shared = deleter.clone();
            async move { shared.attempt_to_delete(&uid).await }
        },
    );
    let orphaner = shared.clone();
    spawn_workers(
        NAME,
        context,
        tasks,
        context.concurrent_syncs,
        shared.to_orphan.clone(),
        move |uid| {
            let shared = orphaner.clone();
            async move { shared.attempt_to_orphan(&uid).await }
        },
    );
}

/// What monitors and workers share.
pub(super) struct Shared {
    rest: Rest,
    graph: Mutex<Graph>,
    to_delete: Arc<Queue<Uid>>,
    to_orphan: Arc<Queue<Uid>>,
    /// Every kind of the API server, by apiVersion and kind, as owner references name them.
    kinds: Mutex<HashMap<(String, String), Arc<Resource>>>,
    absent: Mutex<HashSet<(String, Identity)>>,
    /// Open once all monitored kinds are in the graph. Before, an owner may seem to have fewer dependents than it has.
    gate: watch::Sender<bool>,
}

impl Shared {
    /// Queues what a change of the graph makes worth a look.
    fn wake(&self, wakes: Vec<Wake>) {
        for wake in wakes {
            match wake {
                Wake::Delete(uid) => self.to_delete.add(uid),
                Wake::Orphan(uid) => self.to_orphan.add(uid),
            }
        }
    }

    pub(super) fn observe(&self, resource: &Arc<Resource>, meta: &Meta) {
        let wakes = self.graph.lock().observe(resource, meta);
        self.wake(wakes);
    }

    pub(super) fn forget(&self, uid: &str) {
        let wakes = self.graph.lock().remove(uid);
        self.wake(wakes);
    }

    /// Forgets the objects of a kind that a fresh list did not show.
    pub(super) fn forget_all_but(&self, resource: &Resource, present: &HashSet<Uid>) {
        let gone = self.graph.lock().observed_of(resource);
        for uid in gone.iter().filter(|uid| !present.contains(*uid)) {
            self.forget(uid);
        }
    }

    pub(super) fn set_kinds(&self, kinds: &[Discovered]) {
        let by_kind = kinds.iter().map(|kind| {
            let resource = &kind.resource;
            (
                (resource.api_version(), resource.kind.to_string()),
                Arc::new(resource.clone()),
            )
        });
        // Versions that are no longer preferred stay known: owner references may name them for years.
        self.kinds.lock().extend(by_kind);
    }

    async fn pass_gate(&self) {
        let mut gate = self.gate.subscribe();
        let opened = gate.wait_for(|open| *open);
        if tokio::time::timeout(GATE_MAX, opened).await.is_err() {
            tracing::warn!("not every kind could be listed; collecting garbage of the others");
            self.gate.send_replace(true);
        }
    }

    /// The resource that an identity names; `None` while discovery does not know it.
    fn resource(&self, identity: &Identity) -> Option<Arc<Resource>> {
        if let Some(resource) = &identity.resource {
            return Some(resource.clone());
        }
        let key = (identity.api_version.to_string(), identity.kind.to_string());
        self.kinds.lock().get(&key).cloned()
    }

    async fn live(&self, identity: &Identity, resource: &Resource) -> Result<Option<Partial>> {
        let namespace = if resource.namespaced {
            &*identity.namespace
        } else {
            ""
        };
        if resource.namespaced && namespace.is_empty() {
            // A cluster-scoped object cannot be owned by a namespaced one.
            return Ok(None);
        }
        let live: Option<Partial> = self
            .rest
            .get_metadata(resource, namespace, &identity.name)
            .await?;
        Ok(live)
    }

    /// Looks whether the object still has an owner, and deletes it if not.
    async fn attempt_to_delete(&self, uid: &Uid) -> Result<Next> {
        self.pass_gate().await;
        let Some(node) = self.graph.lock().snapshot(uid) else {
            return Ok(Next::Idle);
        };
        if node.being_deleted && !node.deleting_dependents {
            return Ok(Next::Idle);
        }
        let Some(resource) = self.resource(&node.identity) else {
            // An owner of a kind that nobody serves cannot be judged: its dependents stay.
            return Err(Error::Unfinished(format!("unknown kind {}", node.identity)));
        };
        let live = self.live(&node.identity, &resource).await?;
        let Some(latest) = live.filter(|live| *live.metadata.uid == **uid) else {
            let wakes = self.graph.lock().not_found(&node.identity, uid);
            self.wake(wakes);
            return Ok(Next::Idle);
        };
        if node.is_virtual {
            // It exists; the watch will bring it. Nothing is known yet that could be decided.
            return Ok(Next::Idle);
        }
        if node.deleting_dependents {
            return self
                .delete_dependents_first(uid, &resource, &latest.metadata)
                .await;
        }
        let owners = self.owner_states(&node.identity, &latest.metadata).await?;
        let verdict = plan::verdict(
            &latest.metadata,
            &owners,
            node.dependents.len(),
            node.has_dependent_deleting_dependents,
        );
        match verdict {
            Verdict::Keep => {}
            Verdict::DropOwners(owner_references) => {
                self.patch_metadata(
                    &resource,
                    &latest.metadata,
                    json!({"ownerReferences": owner_references}),
                )
                .await?;
            }
            Verdict::Delete { policy, unblock } => {
                let mut version = Some(latest.metadata.resource_version.clone());
                if let Some(owner_references) = unblock {
                    let change = json!({"ownerReferences": owner_references});
                    self.patch_metadata(&resource, &latest.metadata, change).await?;
                    version = None;
                }
                tracing::debug!(object = %node.identity, policy, "deleting garbage");
                let options = DeleteOptions {
                    uid: Some(uid),
                    // Somebody may give it an owner right now.
                    resource_version: version.as_deref(),
                    propagation_policy: Some(policy),
                    ..DeleteOptions::default()
                };
                let namespace = &latest.metadata.namespace;
                match self
                    .rest
                    .delete(&resource, namespace, &latest.metadata.name, &options)
                    .await
                {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(Next::Idle)
    }

    /// An owner in foreground deletion goes when no dependent that blocks it is left.
    async fn delete_dependents_first(&self, uid: &Uid, resource: &Resource, latest: &Meta) -> Result<Next> {
        let blocking = self.graph.lock().blocking_dependents(uid);
        if blocking.is_empty() {
            self.remove_finalizer(resource, latest, FOREGROUND).await?;
        }
        for (dependent, deleting_dependents) in blocking {
            if !deleting_dependents {
                self.to_delete.add(dependent);
            }
        }
        Ok(Next::Idle)
    }

    /// Asks the API server for every owner that `item` names.
    async fn owner_states(&self, item: &Identity, latest: &Meta) -> Result<Vec<OwnerState>> {
        let mut states = Vec::with_capacity(latest.owner_references.len());
        for owner in &latest.owner_references {
            let identity = Identity::of_owner(owner, &item.namespace);
            let cache_key = (owner.uid.clone(), identity.clone());
            if self.absent.lock().contains(&cache_key) {
                states.push(OwnerState::Absent);
                continue;
            }
            let Some(resource) = self.resource(&identity) else {
                return Err(Error::Unfinished(format!("unknown kind of owner {identity}")));
            };
            let live = self.live(&identity, &resource).await?;
            let state = match live.filter(|live| *live.metadata.uid == *owner.uid) {
                None => {
                    let mut absent = self.absent.lock();
                    if absent.len() >= ABSENT_MAX {
                        absent.clear();
                    }
                    absent.insert(cache_key);
                    OwnerState::Absent
                }
                Some(live) if plan::waits_for_dependents(&live.metadata) => OwnerState::WaitsForDependents,
                Some(_) => OwnerState::Present,
            };
            states.push(state);
        }
        Ok(states)
    }

    /// Cuts the dependents of an object loose, then lets it go.
    async fn attempt_to_orphan(&self, uid: &Uid) -> Result<Next> {
        self.pass_gate().await;
        let Some(node) = self.graph.lock().snapshot(uid) else {
            return Ok(Next::Idle);
        };
        let Some(resource) = self.resource(&node.identity) else {
            return Err(Error::Unfinished(format!("unknown kind {}", node.identity)));
        };
        for dependent in &node.dependents {
            let Some(identity) = self.graph.lock().identity(dependent) else {
                continue;
            };
            let Some(kind) = self.resource(&identity) else {
                continue;
            };
            let Some(live) = self.live(&identity, &kind).await? else {
                continue;
            };
            let references = &live.metadata.owner_references;
            if *live.metadata.uid != **dependent || !references.iter().any(|owner| *owner.uid == **uid) {
                continue;
            }
            let kept: Vec<_> = references.iter().filter(|owner| *owner.uid != **uid).collect();
            self.patch_metadata(&kind, &live.metadata, json!({"ownerReferences": kept}))
                .await?;
        }
        let live = self.live(&node.identity, &resource).await?;
        if let Some(live) = live.filter(|live| *live.metadata.uid == **uid) {
            self.remove_finalizer(&resource, &live.metadata, ORPHAN).await?;
        }
        Ok(Next::Idle)
    }

    async fn remove_finalizer(&self, resource: &Resource, latest: &Meta, finalizer: &str) -> Result<()> {
        let kept: Vec<_> = latest.finalizers.iter().filter(|one| *one != finalizer).collect();
        if kept.len() == latest.finalizers.len() {
            return Ok(());
        }
        self.patch_metadata(resource, latest, json!({"finalizers": kept}))
            .await
    }

    /// Patches lists of the metadata as a whole, hence only at the version that they were read from: a merge
    /// patch is the one that every kind understands, custom ones included.
    async fn patch_metadata(&self, resource: &Resource, latest: &Meta, mut change: Value) -> Result<()> {
        change["resourceVersion"] = (*latest.resource_version).into();
        change["uid"] = (*latest.uid).into();
        let patch = json!({"metadata": change});
        let patched: Result<Partial> = self
            .rest
            .patch(
                resource,
                &latest.namespace,
                &latest.name,
                "",
                Patch::Merge(&patch),
            )
            .await;
        match patched {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

/// The Accept header for single objects of the watch.
const ACCEPT_WATCH: &str = PARTIAL_METADATA;
