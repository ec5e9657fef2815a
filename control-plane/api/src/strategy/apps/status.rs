//! Checks of what controllers report about workloads.

use crate::meta::validate_conditions;
use crate::strategy::access::{int, list};
use crate::validation::ErrorList;
use serde_json::Value;

const OF_REPLICAS: &str = "cannot be greater than status.replicas";

fn counts(obj: &Value, fields: &[&str], errors: &mut ErrorList) {
    for field in fields {
        let count = int(obj, &format!("/status/{field}")).unwrap_or(0);
        errors.non_negative(&format!("status.{field}"), count);
    }
}

/// Each of the fields counts some of what another counts.
fn parts(obj: &Value, fields: &[&str], whole: &str, detail: &str, errors: &mut ErrorList) {
    let of = |field: &str| int(obj, &format!("/status/{field}")).unwrap_or(0);
    for field in fields.iter().filter(|field| of(field) > of(whole)) {
        errors.invalid(format!("status.{field}"), of(field), detail);
    }
}

/// The count of name collisions is part of the names of what comes next: it never goes back.
fn collisions(new: &Value, old: &Value, errors: &mut ErrorList) {
    let of = |obj: &Value| int(obj, "/status/collisionCount");
    let (now, then) = (of(new), of(old));
    if then.is_some_and(|then| now.is_none_or(|now| now < then)) {
        let detail = "cannot be decremented";
        errors.invalid("status.collisionCount", now.unwrap_or(0), detail);
    }
}

pub(super) fn deployment(obj: &Value, old: &Value, errors: &mut ErrorList) {
    let fields = [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "collisionCount",
    ];
    counts(obj, &fields, errors);
    parts(obj, &fields[2..5], "replicas", OF_REPLICAS, errors);
    let detail = "cannot be greater than readyReplicas";
    parts(obj, &["availableReplicas"], "readyReplicas", detail, errors);
    collisions(obj, old, errors);
}

/// ReplicaSets and ReplicationControllers.
pub(super) fn replica_set(obj: &Value, errors: &mut ErrorList) {
    let fields = [
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "observedGeneration",
    ];
    counts(obj, &fields, errors);
    parts(obj, &fields[1..4], "replicas", OF_REPLICAS, errors);
    let detail = "cannot be greater than readyReplicas";
    parts(obj, &["availableReplicas"], "readyReplicas", detail, errors);
}

pub(super) fn daemon_set(obj: &Value, old: &Value, errors: &mut ErrorList) {
    let fields = [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ];
    counts(obj, &fields, errors);
    collisions(obj, old, errors);
}

pub(super) fn stateful_set(obj: &Value, old: &Value, errors: &mut ErrorList) {
    let fields = [
        "replicas",
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
        "observedGeneration",
        "collisionCount",
    ];
    counts(obj, &fields, errors);
    parts(obj, &fields[1..5], "replicas", OF_REPLICAS, errors);
    let detail = "cannot be greater than status.readyReplicas";
    parts(obj, &["availableReplicas"], "readyReplicas", detail, errors);
    collisions(obj, old, errors);
}

pub(super) fn disruption_budget(obj: &Value, errors: &mut ErrorList) {
    validate_conditions(list(obj, "/status/conditions"), "status.conditions", errors);
    let fields = [
        "disruptionsAllowed",
        "currentHealthy",
        "desiredHealthy",
        "expectedPods",
    ];
    counts(obj, &fields, errors);
}

/// A new revision is numbered and holds an object.
pub(super) fn revision(obj: &Value, errors: &mut ErrorList) {
    match obj.get("data") {
        None | Some(Value::Null) => errors.required("data", "data is mandatory"),
        Some(Value::Object(_)) => {}
        Some(_) => errors.required("data", "data must be a valid JSON object"),
    }
    revision_number(obj, errors);
}

/// What an updated revision holds is what it held; older servers took anything.
pub(super) fn revision_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    revision_number(new, errors);
    errors.immutable("data", new.get("data"), old.get("data"));
}

fn revision_number(obj: &Value, errors: &mut ErrorList) {
    errors.non_negative("revision", int(obj, "/revision").unwrap_or(0));
}
