//! A Deployment's status: counts and conditions, in upstream's words.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::sizes;
use crate::objects::{Deployment, ReplicaSet};

pub(super) const AVAILABLE: &str = "Available";
pub(super) const PROGRESSING: &str = "Progressing";
pub(super) const REPLICA_FAILURE: &str = "ReplicaFailure";

const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

pub(super) fn condition(
    type_: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> DeploymentCondition {
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    DeploymentCondition {
        type_: Some(type_.to_owned()),
        status: Some(status.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(now.clone()),
        last_transition_time: Some(now),
    }
}

pub(super) fn find<'a>(status: &'a DeploymentStatus, type_: &str) -> Option<&'a DeploymentCondition> {
    status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_.as_deref() == Some(type_))
}

pub(super) fn remove(status: &mut DeploymentStatus, type_: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_.as_deref() != Some(type_));
        if conditions.is_empty() {
            status.conditions = None;
        }
    }
}

/// Sets a condition unless one with the same status and reason is there; the transition time moves only with
/// the status.
pub(super) fn set(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    let type_ = condition.type_.clone().unwrap_or_default();
    if let Some(current) = find(status, &type_) {
        if current.status == condition.status && current.reason == condition.reason {
            return;
        }
        if current.status == condition.status {
            condition.last_transition_time = current.last_transition_time.clone();
        }
    }
    remove(status, &type_);
    status.conditions.get_or_insert_default().push(condition);
}

/// Whether a rollout can run out of time at all.
pub(super) fn has_deadline(deployment: &Deployment) -> bool {
    deployment
        .spec
        .progress_deadline_seconds
        .is_some_and(|seconds| seconds != i32::MAX)
}

/// A paused Deployment makes no progress on purpose: its clock stops, and starts again when it is resumed.
pub(super) fn note_pause(deployment: &Deployment, status: &mut DeploymentStatus, now: Timestamp) {
    if !has_deadline(deployment) {
        return;
    }
    let reason = find(status, PROGRESSING).and_then(|condition| condition.reason.as_deref());
    if reason == Some(TIMED_OUT) {
        return;
    }
    let noted = reason == Some(PAUSED);
    if deployment.spec.paused && !noted {
        set(
            status,
            condition(PROGRESSING, "Unknown", PAUSED, "Deployment is paused".into(), now),
        );
    } else if !deployment.spec.paused && noted {
        let message = "Deployment is resumed".into();
        set(
            status,
            condition(PROGRESSING, "Unknown", "DeploymentResumed", message, now),
        );
    }
}

/// One ReplicaSet as the status sees it: its size after this sync, its counts before.
pub(super) struct SetView<'a> {
    pub(super) set: &'a ReplicaSet,
    pub(super) replicas: i32,
    pub(super) is_new: bool,
}

/// Counts and the Available condition. `base` carries the conditions noted so far.
pub(super) fn counts(
    deployment: &Deployment,
    base: &DeploymentStatus,
    sets: &[SetView<'_>],
    now: Timestamp,
) -> DeploymentStatus {
    let optional = |count: i32| (count != 0).then_some(count);
    let sum = |field: &dyn Fn(&SetView<'_>) -> i32| sets.iter().map(field).sum::<i32>();
    let available = sum(&|view| view.set.status.available_replicas.unwrap_or(0));
    let mut status = DeploymentStatus {
        observed_generation: Some(deployment.metadata.generation),
        replicas: optional(sum(&|view| view.set.status.replicas)),
        updated_replicas: optional(sum(&|view| {
            if view.is_new { view.set.status.replicas } else { 0 }
        })),
        ready_replicas: optional(sum(&|view| view.set.status.ready_replicas.unwrap_or(0))),
        available_replicas: optional(available),
        // A set may have more available pods than it wants while it scales down.
        unavailable_replicas: optional((sum(&|view| view.replicas) - available).max(0)),
        terminating_replicas: sets.iter().map(|view| view.set.status.terminating_replicas).sum(),
        collision_count: base.collision_count,
        conditions: base.conditions.clone(),
    };
    let needed = deployment.spec.replicas - sizes::max_unavailable(deployment);
    let condition = if available >= needed {
        let message = "Deployment has minimum availability.".into();
        condition(AVAILABLE, "True", "MinimumReplicasAvailable", message, now)
    } else {
        let message = "Deployment does not have minimum availability.".into();
        condition(AVAILABLE, "False", "MinimumReplicasUnavailable", message, now)
    };
    set(&mut status, condition);
    status
}

/// Whether the rollout is over: all pods are new and available.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = deployment.spec.replicas;
    status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && status.observed_generation.unwrap_or(0) >= deployment.metadata.generation
}

fn is_progressing(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let updated = |status: &DeploymentStatus| status.updated_replicas.unwrap_or(0);
    let outdated = |status: &DeploymentStatus| status.replicas.unwrap_or(0) - updated(status);
    updated(new) > updated(old)
        || outdated(new) < outdated(old)
        || new.ready_replicas.unwrap_or(0) > old.ready_replicas.unwrap_or(0)
        || new.available_replicas.unwrap_or(0) > old.available_replicas.unwrap_or(0)
}

/// When the rollout runs out of time, if it can. `Err` if it has already.
fn deadline(
    deployment: &Deployment,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<Result<Duration, ()>> {
    let condition = find(status, PROGRESSING)?;
    let seconds = deployment
        .spec
        .progress_deadline_seconds
        .filter(|_| has_deadline(deployment))?;
    match condition.reason.as_deref() {
        Some(NEW_SET_AVAILABLE) => return None,
        Some(TIMED_OUT) => return Some(Err(())),
        _ => {}
    }
    let since = condition.last_update_time.as_ref()?.0;
    let left = SignedDuration::from_secs(i64::from(seconds)) - now.duration_since(since);
    Some(if left.is_negative() {
        Err(())
    } else {
        Ok(left.unsigned_abs())
    })
}

/// Adds the conditions of a rollout to `status`. Returns when to look again, if time alone can change them.
/// `before` is the status as it was read, with the conditions noted in this sync.
pub(super) fn note_progress(
    deployment: &Deployment,
    before: &DeploymentStatus,
    status: &mut DeploymentStatus,
    sets: &[SetView<'_>],
    now: Timestamp,
) -> Option<Duration> {
    let new_set = sets.iter().find(|view| view.is_new);
    let subject = match new_set {
        Some(view) => format!("ReplicaSet \"{}\"", view.set.metadata.name),
        None => format!("Deployment \"{}\"", deployment.metadata.name),
    };
    let current = find(before, PROGRESSING).cloned();
    if !has_deadline(deployment) {
        remove(status, PROGRESSING);
    }
    let was_complete = status.replicas == status.updated_replicas
        && current
            .as_ref()
            .is_some_and(|condition| condition.reason.as_deref() == Some(NEW_SET_AVAILABLE));
    if has_deadline(deployment) && !was_complete {
        if is_complete(deployment, status) {
            let message = format!("{subject} has successfully progressed.");
            set(
                status,
                condition(PROGRESSING, "True", NEW_SET_AVAILABLE, message, now),
            );
        } else if is_progressing(before, status) {
            let message = format!("{subject} is progressing.");
            let mut progressing = condition(PROGRESSING, "True", "ReplicaSetUpdated", message, now);
            if let Some(current) = current.filter(|current| current.status.as_deref() == Some("True")) {
                progressing.last_transition_time = current.last_transition_time;
            }
            // Each step forward starts the clock anew.
            remove(status, PROGRESSING);
            set(status, progressing);
        } else if matches!(deadline(deployment, before, now), Some(Err(()))) {
            let message = format!("{subject} has timed out progressing.");
            set(status, condition(PROGRESSING, "False", TIMED_OUT, message, now));
        }
    }
    match replica_failure(sets, now) {
        Some(failure) => set(status, failure),
        None => remove(status, REPLICA_FAILURE),
    }
    if is_complete(deployment, status) || deployment.spec.paused {
        return None;
    }
    match deadline(deployment, status, now) {
        // The clock of the condition has whole seconds: look a second later than it says.
        Some(Ok(left)) => Some(left + Duration::from_secs(1)),
        _ => None,
    }
}

/// The first failure of a ReplicaSet to make its pods, the new one's before all others.
fn replica_failure(sets: &[SetView<'_>], now: Timestamp) -> Option<DeploymentCondition> {
    let new_first = sets
        .iter()
        .filter(|view| view.is_new)
        .chain(sets.iter().filter(|view| !view.is_new));
    let failure = new_first
        .flat_map(|view| view.set.status.conditions.iter().flatten())
        .find(|condition| condition.type_.as_deref() == Some(REPLICA_FAILURE))?;
    let mut failed = condition(
        REPLICA_FAILURE,
        failure.status.as_deref().unwrap_or("True"),
        failure.reason.as_deref().unwrap_or_default(),
        failure.message.clone().unwrap_or_default(),
        now,
    );
    failed.last_transition_time = failure.last_transition_time.clone();
    failed.last_update_time = failure.last_transition_time.clone();
    Some(failed)
}

/// The status that tells why the new ReplicaSet could not be created.
pub(super) fn with_creation_failure(
    deployment: &Deployment,
    status: &DeploymentStatus,
    message: &str,
    now: Timestamp,
) -> DeploymentStatus {
    let mut failed = deployment.status.clone();
    failed.observed_generation = status.observed_generation;
    if has_deadline(deployment) {
        set(
            &mut failed,
            condition(
                PROGRESSING,
                "False",
                "ReplicaSetCreateError",
                message.to_owned(),
                now,
            ),
        );
    }
    failed
}
