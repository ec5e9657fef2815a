//! What an update of a pod may change.

use super::spec;
use crate::strategy::access::{int, list, text};
use crate::validation::{ErrorList, FieldError};
use serde_json::{Value, json};

const IMMUTABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// An updated pod.
pub(crate) fn pod_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    let (new, old) = (&new["spec"], &old["spec"]);
    if new == old {
        return;
    }
    let before = errors.len();
    for field in ["containers", "initContainers"] {
        let (now, then) = (list(new, &format!("/{field}")), list(old, &format!("/{field}")));
        if now.len() != then.len() {
            let detail = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(format!("spec.{field}"), detail));
            return;
        }
        for (i, container) in now.iter().enumerate() {
            if text(container, "/image").is_empty() {
                errors.push(FieldError::required(format!("spec.{field}[{i}].image"), ""));
            }
        }
    }
    active_deadline(new, old, errors);
    tolerations(new, old, errors);
    if errors.len() > before {
        return;
    }
    let gates = |s: &Value| list(s, "/schedulingGates").to_vec();
    if gates(new).iter().any(|gate| !gates(old).contains(gate)) {
        errors.push(FieldError::forbidden(
            "spec.schedulingGates",
            "only deletion is allowed, but found new scheduling gate",
        ));
        return;
    }
    // Whatever may change is put back; the rest must be the same.
    let mut rest = new.clone();
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        put_back(&mut rest, old, field);
    }
    if int(old, "/terminationGracePeriodSeconds").unwrap_or(0) < 0
        && rest["terminationGracePeriodSeconds"] == 1
    {
        put_back(&mut rest, old, "terminationGracePeriodSeconds");
    }
    if !gates(old).is_empty() {
        narrow_scheduling(&mut rest, old);
    }
    for field in ["containers", "initContainers"] {
        let images: Vec<Value> = list(old, &format!("/{field}"))
            .iter()
            .map(|c| c["image"].clone())
            .collect();
        let containers = rest
            .get_mut(field)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten();
        for (container, image) in containers.zip(images) {
            container["image"] = image;
        }
    }
    let same = |field: &String| rest.get(field) == old.get(field);
    let fields = rest
        .as_object()
        .into_iter()
        .chain(old.as_object())
        .flat_map(|m| m.keys());
    let mut changed: Vec<&String> = fields.filter(|f| !same(f)).collect();
    changed.sort();
    changed.dedup();
    if !changed.is_empty() {
        let changed = changed
            .into_iter()
            .map(|f| format!("spec.{f}"))
            .collect::<Vec<_>>()
            .join(", ");
        errors.push(FieldError::forbidden(
            "spec",
            format!("{IMMUTABLE}\nchanged: {changed}"),
        ));
        return;
    }
    spec(new, "spec", errors);
}

fn put_back(rest: &mut Value, old: &Value, field: &str) {
    let Some(map) = rest.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => map.insert(field.into(), value.clone()),
        None => map.remove(field),
    };
}

/// A pod held by gates may be narrowed: node selector entries and affinity added.
fn narrow_scheduling(rest: &mut Value, old: &Value) {
    let kept = old["nodeSelector"].as_object().is_none_or(|selector| {
        selector
            .iter()
            .all(|(key, value)| rest["nodeSelector"].get(key) == Some(value))
    });
    if kept {
        put_back(rest, old, "nodeSelector");
    }
    if old.pointer("/affinity/nodeAffinity").is_none() {
        if let Some(affinity) = rest.get_mut("affinity").and_then(Value::as_object_mut) {
            affinity.remove("nodeAffinity");
        }
        if old.get("affinity").is_none() && rest.get("affinity") == Some(&json!({})) {
            put_back(rest, old, "affinity");
        }
    }
}

fn active_deadline(new: &Value, old: &Value, errors: &mut ErrorList) {
    let path = "spec.activeDeadlineSeconds";
    let deadline = |s: &Value| int(s, "/activeDeadlineSeconds");
    match (deadline(new), deadline(old)) {
        (Some(now), then) => {
            errors.in_range(path, now, 0, i64::from(i32::MAX));
            if then.is_some_and(|then| now > then) {
                errors.push(FieldError::invalid(
                    path,
                    &now.into(),
                    "must be less than or equal to previous value",
                ));
            }
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(path, &Value::Null, detail));
        }
        (None, None) => {}
    }
}

/// Tolerations may be added; of an old one only the seconds may change.
fn tolerations(new: &Value, old: &Value, errors: &mut ErrorList) {
    let bare = |t: &Value| {
        let mut t = t.clone();
        if let Some(map) = t.as_object_mut() {
            map.remove("tolerationSeconds");
        }
        t
    };
    let now: Vec<Value> = list(new, "/tolerations").iter().map(bare).collect();
    if list(old, "/tolerations").iter().any(|t| !now.contains(&bare(t))) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden("spec.tolerations", detail));
    }
}
