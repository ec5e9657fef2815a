//! One sync of a Deployment as a value.
//!
//! The order of decisions is upstream's: a paused Deployment and one that was just resized only scale what is
//! there; otherwise the strategy takes its next step. A rolling step either grows the new set or shrinks the
//! old ones, never both, so that each step starts from counts that the ReplicaSets have confirmed.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DeploymentStatus;
use serde_json::{Value, json};

use super::revision::{self, DESIRED_REPLICAS, HASH_LABEL, MAX_REPLICAS, REVISION};
use super::sizes;
use super::status::{self, PROGRESSING, SetView};
use crate::objects::{Deployment, Labels, Meta, Object, PodTemplate, ReplicaSet};
use crate::owner::controller_reference;

/// What a sync looks at.
pub(super) struct Input<'a> {
    pub(super) deployment: &'a Deployment,
    /// The sets that belong to the deployment.
    pub(super) sets: &'a [Arc<ReplicaSet>],
    /// Uids of the sets that have pods which have not finished.
    pub(super) with_running_pods: &'a HashSet<Box<str>>,
    pub(super) now: Timestamp,
}

/// What a sync does, in this order.
#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    /// Name of the new set and the merge patch for its annotations and minReadySeconds.
    pub(super) update_new_set: Option<(String, Value)>,
    pub(super) create: Option<NewSet>,
    pub(super) scales: Vec<Scale>,
    /// Names and uids of old sets beyond the history limit.
    pub(super) delete: Vec<(String, String)>,
    /// The revision to be noted at the deployment, if it is not yet.
    pub(super) revision: Option<String>,
    pub(super) status: DeploymentStatus,
    /// When to look again even if nothing happens.
    pub(super) next: Option<Duration>,
}

#[derive(Debug, PartialEq)]
pub(super) struct NewSet {
    pub(super) name: String,
    pub(super) replicas: i32,
    pub(super) body: Value,
}

#[derive(Debug, PartialEq)]
pub(super) struct Scale {
    pub(super) name: String,
    pub(super) from: i32,
    pub(super) to: i32,
    pub(super) patch: Value,
}

/// A set with the size that this sync gives it.
#[derive(Clone)]
struct Working {
    set: Arc<ReplicaSet>,
    replicas: i32,
}

impl Working {
    fn new(set: &Arc<ReplicaSet>) -> Self {
        Self {
            set: set.clone(),
            replicas: set.spec.replicas,
        }
    }

    fn available(&self) -> i32 {
        self.set.status.available_replicas.unwrap_or(0)
    }
}

pub(super) fn plan(input: &Input<'_>) -> Plan {
    let mut sync = Sync::new(input);
    let deployment = input.deployment;
    if deployment.metadata.is_deleted() {
        return sync.finish(false);
    }
    status::note_pause(deployment, &mut sync.noted, input.now);
    sync.keep_new_set_current();
    if deployment.spec.paused {
        sync.scale();
        sync.clean_up();
        return sync.finish(false);
    }
    if sync.was_resized() {
        sync.scale();
        return sync.finish(false);
    }
    if sizes::is_rolling(deployment) {
        sync.roll();
    } else {
        sync.recreate();
    }
    sync.finish(true)
}

struct Sync<'a> {
    input: &'a Input<'a>,
    new: Option<Working>,
    /// Oldest first.
    old: Vec<Working>,
    /// The status as read, with the conditions noted in this sync.
    noted: DeploymentStatus,
    update_new_set: Option<(String, Value)>,
    create: Option<NewSet>,
    delete: Vec<(String, String)>,
    revision: Option<String>,
    /// Also write sizes of sets whose annotations are out of date.
    refresh_annotations: bool,
}

impl<'a> Sync<'a> {
    fn new(input: &'a Input<'a>) -> Self {
        let mut sets: Vec<_> = input.sets.iter().map(Working::new).collect();
        sets.sort_by(|a, b| by_age(&a.set.metadata, &b.set.metadata));
        // The oldest of equals, so that every sync picks the same one.
        let template = &input.deployment.spec.template;
        let new = sets
            .iter()
            .position(|one| revision::templates_equal(&one.set.spec.template, template));
        let new = new.map(|index| sets.remove(index));
        Self {
            input,
            new,
            old: sets,
            noted: input.deployment.status.clone(),
            update_new_set: None,
            create: None,
            delete: Vec::new(),
            revision: None,
            refresh_annotations: false,
        }
    }

    fn deployment(&self) -> &'a Deployment {
        self.input.deployment
    }

    fn next_revision(&self) -> i64 {
        self.old
            .iter()
            .map(|one| revision::of(&one.set))
            .max()
            .unwrap_or(0)
            + 1
    }

    fn max_replicas(&self) -> i32 {
        self.deployment().spec.replicas + sizes::max_surge(self.deployment())
    }

    fn total(&self) -> i32 {
        self.new.iter().chain(&self.old).map(|one| one.replicas).sum()
    }

    /// Brings annotations of an existing new set up to date and notes its revision at the deployment.
    fn keep_new_set_current(&mut self) {
        let Some(new) = &self.new else { return };
        let deployment = self.deployment();
        let annotations = revision::new_set_annotations(
            deployment,
            Some(&new.set),
            self.next_revision(),
            self.max_replicas(),
        );
        let mut patch = json!({});
        if !annotations.is_empty() {
            patch["metadata"] = json!({"annotations": annotations});
        }
        if new.set.spec.min_ready_seconds != deployment.spec.min_ready_seconds {
            patch["spec"] = json!({"minReadySeconds": deployment.spec.min_ready_seconds});
        }
        if patch != json!({}) {
            self.update_new_set = Some((new.set.metadata.name.to_string(), patch));
        }
        let revision = annotations.get(REVISION).map(String::as_str).or(new
            .set
            .metadata
            .annotations
            .get(REVISION));
        self.note_revision(revision.map(str::to_owned));
        if status::has_deadline(deployment) && status::find(&self.noted, PROGRESSING).is_none() {
            let Some(new) = &self.new else { return };
            let message = format!("Found new replica set \"{}\"", new.set.metadata.name);
            let found = status::condition(PROGRESSING, "True", "FoundNewReplicaSet", message, self.input.now);
            status::set(&mut self.noted, found);
        }
    }

    fn note_revision(&mut self, revision: Option<String>) {
        if revision.as_deref() != self.deployment().metadata.annotations.get(REVISION) {
            self.revision = revision;
        }
    }

    /// Plans the new set if there is none yet.
    fn ensure_new_set(&mut self) {
        if self.new.is_some() {
            return;
        }
        let deployment = self.deployment();
        let hash = revision::template_hash(&deployment.spec.template.to_value(), self.noted.collision_count);
        let replicas = sizes::new_set_replicas(deployment, self.total(), 0);
        let revision = self.next_revision();
        let annotations = revision::new_set_annotations(deployment, None, revision, self.max_replicas());
        let name = format!("{}-{hash}", deployment.metadata.name);
        let body = new_set_body(deployment, &name, &hash, replicas, &annotations);
        let mut set = ReplicaSet {
            metadata: Meta {
                name: name.as_str().into(),
                ..Meta::default()
            },
            ..ReplicaSet::default()
        };
        set.metadata.annotations = annotations.into_iter().collect::<Labels>();
        set.spec.replicas = replicas;
        set.spec.template = PodTemplate::from(&body["spec"]["template"]);
        set.status.terminating_replicas = Some(0);
        self.new = Some(Working::new(&Arc::new(set)));
        self.note_revision(Some(revision.to_string()));
        if status::has_deadline(deployment) {
            let message = format!("Created new replica set \"{name}\"");
            let created = status::condition(
                PROGRESSING,
                "True",
                "NewReplicaSetCreated",
                message,
                self.input.now,
            );
            status::set(&mut self.noted, created);
        }
        self.create = Some(NewSet { name, replicas, body });
    }

    /// Whether the wanted number changed since the sets were sized last.
    fn was_resized(&self) -> bool {
        self.new
            .iter()
            .chain(&self.old)
            .filter(|one| one.replicas > 0)
            .any(|one| {
                revision::number(&one.set.metadata, DESIRED_REPLICAS)
                    .is_some_and(|desired| desired != i64::from(self.deployment().spec.replicas))
            })
    }

    /// Resizes without rolling: one set takes all of the change, several share it in proportion.
    fn scale(&mut self) {
        let deployment = self.deployment();
        let wanted = deployment.spec.replicas;
        if let Some(only) = self.active_or_latest() {
            only_resize(only, wanted);
            return;
        }
        if self.new_set_is_saturated() {
            self.old.iter_mut().for_each(|one| one.replicas = 0);
            return;
        }
        if !sizes::is_rolling(deployment) {
            return;
        }
        self.refresh_annotations = true;
        let allowed = if wanted > 0 {
            wanted + sizes::max_surge(deployment)
        } else {
            0
        };
        let to_add = allowed - self.total();
        let mut active: Vec<&mut Working> = self
            .old
            .iter_mut()
            .chain(&mut self.new)
            .filter(|one| one.replicas > 0)
            .collect();
        // The largest sets first; of equals the newer ones grow and the older ones shrink.
        active.sort_by(|a, b| {
            let age = by_age(&a.set.metadata, &b.set.metadata);
            b.replicas
                .cmp(&a.replicas)
                .then(if to_add > 0 { age.reverse() } else { age })
        });
        let mut added = 0;
        for one in &mut active {
            let share = sizes::proportion(&one.set, one.replicas, deployment, to_add, added);
            one.replicas += share;
            added += share;
        }
        // What rounding left over goes to the largest.
        if let Some(largest) = active.first_mut() {
            largest.replicas = (largest.replicas + to_add - added).max(0);
        }
    }

    /// The set to resize if at most one has pods.
    fn active_or_latest(&mut self) -> Option<&mut Working> {
        let active = self
            .new
            .iter()
            .chain(&self.old)
            .filter(|one| one.replicas > 0)
            .count();
        match active {
            0 if self.new.is_some() => self.new.as_mut(),
            0 => self.old.last_mut(),
            1 => self
                .new
                .iter_mut()
                .chain(&mut self.old)
                .find(|one| one.replicas > 0),
            _ => None,
        }
    }

    fn new_set_is_saturated(&self) -> bool {
        let wanted = self.deployment().spec.replicas;
        self.new.as_ref().is_some_and(|new| {
            let desired = revision::number(&new.set.metadata, DESIRED_REPLICAS);
            new.replicas == wanted && desired == Some(i64::from(wanted)) && new.available() == wanted
        })
    }

    fn roll(&mut self) {
        self.ensure_new_set();
        if self.create.is_some() || self.resize_new_set() {
            return;
        }
        if !self.shrink_old_sets() && status::is_complete(self.deployment(), &self.deployment().status) {
            self.clean_up();
        }
    }

    /// Returns whether the new set changed.
    fn resize_new_set(&mut self) -> bool {
        let deployment = self.deployment();
        let total = self.total();
        let Some(new) = &mut self.new else { return false };
        let wanted = deployment.spec.replicas;
        let target = if new.replicas > wanted {
            wanted
        } else {
            sizes::new_set_replicas(deployment, total, new.replicas)
        };
        only_resize(new, target)
    }

    /// Takes pods from the old sets: first the ones that are of no use, then as many as availability allows.
    fn shrink_old_sets(&mut self) -> bool {
        let deployment = self.deployment();
        if self.old.iter().all(|one| one.replicas == 0) {
            return false;
        }
        let least = deployment.spec.replicas - sizes::max_unavailable(deployment);
        let new_unavailable = self.new.as_ref().map_or(0, |new| new.replicas - new.available());
        let removable = self.total() - least - new_unavailable;
        if removable <= 0 {
            return false;
        }
        let mut removed = 0;
        for one in &mut self.old {
            let unhealthy = one.replicas - one.available();
            let step = unhealthy.min(removable - removed).max(0);
            one.replicas -= step;
            removed += step;
        }
        let available: i32 = self.new.iter().chain(&self.old).map(Working::available).sum();
        let mut spare = (available - least).max(0);
        for one in &mut self.old {
            let step = one.replicas.min(spare);
            one.replicas -= step;
            spare -= step;
            removed += step;
        }
        removed > 0
    }

    /// All old pods go before the first new one comes.
    fn recreate(&mut self) {
        let mut shrunk = false;
        for one in &mut self.old {
            shrunk |= only_resize(one, 0);
        }
        if shrunk || self.old_pods_running() {
            return;
        }
        self.ensure_new_set();
        let wanted = self.deployment().spec.replicas;
        let grown = self.create.is_some() || self.new.as_mut().is_some_and(|new| only_resize(new, wanted));
        if !grown && status::is_complete(self.deployment(), &self.deployment().status) {
            self.clean_up();
        }
    }

    fn old_pods_running(&self) -> bool {
        self.old.iter().any(|one| {
            one.set.status.replicas > 0 || self.input.with_running_pods.contains(&one.set.metadata.uid)
        })
    }

    /// Deletes the oldest revisions beyond the history limit.
    fn clean_up(&mut self) {
        let Some(limit) = self.deployment().spec.revision_history_limit else {
            return;
        };
        let mut candidates: Vec<_> = self
            .old
            .iter()
            .filter(|one| !one.set.metadata.is_deleted())
            .collect();
        candidates.sort_by_key(|one| revision::of(&one.set));
        let excess = candidates
            .len()
            .saturating_sub(usize::try_from(limit).unwrap_or(0));
        for one in candidates.into_iter().take(excess) {
            let set = &one.set;
            let idle = one.replicas == 0
                && set.spec.replicas == 0
                && set.status.replicas == 0
                && set.metadata.generation <= set.status.observed_generation.unwrap_or(0);
            if idle {
                self.delete
                    .push((set.metadata.name.to_string(), set.metadata.uid.to_string()));
            }
        }
    }

    fn finish(self, rollout: bool) -> Plan {
        let now = self.input.now;
        let deployment = self.deployment();
        let new = self.new.iter().map(|one| (one, true));
        let views: Vec<_> = new
            .chain(self.old.iter().map(|one| (one, false)))
            .map(|(one, is_new)| SetView {
                set: &one.set,
                replicas: one.replicas,
                is_new,
            })
            .collect();
        let mut status = status::counts(deployment, &self.noted, &views, now);
        let next = if rollout {
            status::note_progress(deployment, &self.noted, &mut status, &views, now)
        } else {
            None
        };
        let created = self.create.is_some();
        let existing = self.new.iter().filter(|_| !created).chain(&self.old);
        let scales = existing.filter_map(|one| self.scale_step(one)).collect();
        Plan {
            scales,
            update_new_set: self.update_new_set,
            create: self.create,
            delete: self.delete,
            revision: self.revision,
            status,
            next,
        }
    }

    /// The write that a set needs for its size and the annotations that go with it.
    fn scale_step(&self, one: &Working) -> Option<Scale> {
        let meta = &one.set.metadata;
        let from = one.set.spec.replicas;
        let annotations = BTreeMap::from([
            (DESIRED_REPLICAS, self.deployment().spec.replicas.to_string()),
            (MAX_REPLICAS, self.max_replicas().to_string()),
        ]);
        let outdated = self.refresh_annotations
            && one.replicas > 0
            && annotations
                .iter()
                .any(|(key, value)| meta.annotations.get(key) != Some(value));
        if one.replicas == from && !outdated {
            return None;
        }
        let patch = json!({
            "metadata": {"uid": meta.uid, "annotations": annotations},
            "spec": {"replicas": one.replicas},
        });
        Some(Scale {
            name: meta.name.to_string(),
            from,
            to: one.replicas,
            patch,
        })
    }
}

fn only_resize(one: &mut Working, replicas: i32) -> bool {
    let changed = one.replicas != replicas;
    one.replicas = replicas;
    changed
}

fn by_age(a: &Meta, b: &Meta) -> std::cmp::Ordering {
    a.created().cmp(&b.created()).then_with(|| a.name.cmp(&b.name))
}

/// The ReplicaSet for the deployment's template: everything carries the hash, so that its pods are told apart.
fn new_set_body(
    deployment: &Deployment,
    name: &str,
    hash: &str,
    replicas: i32,
    annotations: &BTreeMap<String, String>,
) -> Value {
    let mut template = deployment.spec.template.to_value();
    template["metadata"]["labels"][HASH_LABEL] = hash.into();
    let mut selector = json!(deployment.spec.selector);
    selector["matchLabels"][HASH_LABEL] = hash.into();
    json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": name,
            "namespace": deployment.metadata.namespace,
            "labels": template["metadata"]["labels"],
            "annotations": annotations,
            "ownerReferences": [controller_reference(Deployment::resource(), &deployment.metadata)],
        },
        "spec": {
            "replicas": replicas,
            "minReadySeconds": deployment.spec.min_ready_seconds,
            "selector": selector,
            "template": template,
        },
    })
}
