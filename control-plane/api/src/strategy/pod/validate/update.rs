//! What an update of a pod may change, through the pod itself or its `ephemeralcontainers` and `resize`.

use super::annotations::{MIRROR, fixed_annotations, pod_annotations};
use super::spec;
use crate::meta;
use crate::strategy::access::{int, list, map, text};
use crate::strategy::pod::qos;
use crate::validation::ErrorList;
use serde_json::{Value, json};

const IMMUTABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const REQUIRED_TERMS: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// An updated pod.
pub(crate) fn pod_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    let (now, then) = (meta::annotations(new), meta::annotations(old));
    if now != then {
        let path = "metadata.annotations";
        fixed_annotations(new, old, path, errors);
        pod_annotations(now, then, &new["spec"], path, errors);
    }
    let (new, old) = (&new["spec"], &old["spec"]);
    if new == old {
        return;
    }
    spec(new, "spec", errors);
    for field in ["containers", "initContainers"] {
        if !same_containers(new, old, field, errors) {
            return;
        }
    }
    if !active_deadline(new, old, errors) {
        return;
    }
    tolerations(new, old, errors);
    gates(new, old, errors);
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
    if !list(old, "/schedulingGates").is_empty() {
        narrowed(&mut rest, old, errors);
    }
    for field in ["containers", "initContainers"] {
        for (container, before) in containers_mut(&mut rest, field).zip(list(old, &format!("/{field}"))) {
            put_back(container, before, "image");
        }
    }
    if let Some(changed) = changed_fields(&rest, old) {
        errors.forbidden("spec", format!("{IMMUTABLE}\n{changed}"));
    }
}

/// An update of `ephemeralcontainers`: they may only be added.
pub(crate) fn ephemeral_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    if is_mirror(old) {
        errors.forbidden("", "static pods do not support ephemeral containers");
        return;
    }
    spec(&new["spec"], "spec", errors);
    let path = "spec.ephemeralContainers";
    let now = list(new, "/spec/ephemeralContainers");
    for before in list(old, "/spec/ephemeralContainers") {
        let name = text(before, "/name");
        match now.iter().find(|c| text(c, "/name") == name) {
            None => errors.forbidden(
                path,
                format!("existing ephemeral containers {name:?} may not be removed\n"),
            ),
            Some(after) if after != before => {
                let changed = changed_fields(after, before).unwrap_or_default();
                errors.forbidden(
                    path,
                    format!("existing ephemeral containers {name:?} may not be changed\n{changed}"),
                );
            }
            Some(_) => {}
        }
    }
}

/// An update of `resize`: cpu and memory of containers that run long enough to notice.
pub(crate) fn resize(new: &Value, old: &Value, errors: &mut ErrorList) {
    if is_mirror(old) {
        errors.forbidden("", "static pods cannot be resized");
        return;
    }
    if text(old, "/spec/os/name") == "windows" {
        errors.forbidden("", "windows pods cannot be resized");
        return;
    }
    spec(&new["spec"], "spec", errors);
    let (was, is) = (qos::class(old), qos::class(new));
    if was != is {
        errors.invalid(
            "spec",
            was,
            "Pod QOS Class may not change as a result of resizing",
        );
    }
    if !node_resizes(old) {
        errors.forbidden("spec", "Pod running on node without support for resize");
    }
    let (new, old) = (&new["spec"], &old["spec"]);
    for field in ["containers", "initContainers"] {
        let (now, then) = (list(new, &format!("/{field}")), list(old, &format!("/{field}")));
        if now.len() != then.len() {
            errors.forbidden("spec", "containers may not be added or removed on resize");
            return;
        }
        if now
            .iter()
            .zip(then)
            .any(|(n, o)| text(n, "/name") != text(o, "/name"))
        {
            errors.forbidden("spec", "containers may not be renamed or reordered on resize");
            return;
        }
    }
    let mut rest = new.clone();
    for field in ["containers", "initContainers"] {
        let before = list(old, &format!("/{field}"));
        for (i, (container, before)) in containers_mut(&mut rest, field).zip(before).enumerate() {
            let path = format!("spec.{field}[{i}].resources");
            let runs_once = field == "initContainers" && text(before, "/restartPolicy") != "Always";
            if !runs_once {
                nothing_removed(container, before, &path, errors);
                put_back_cpu_and_memory(container, before);
                put_back(container, before, "resizePolicy");
            } else if container.get("resources") != before.get("resources") {
                errors.forbidden(path, "resources for non-sidecar init containers are immutable");
                put_back(container, before, "resources");
            }
        }
    }
    put_back_cpu_and_memory(&mut rest, old);
    if let Some(changed) = changed_fields(&rest, old) {
        errors.forbidden(
            "spec",
            format!("only cpu and memory resources are mutable\n{changed}"),
        );
    }
}

/// Whether the pod's node can resize it: one that can says what its running containers have got. Before anything runs there
/// is no telling, and nothing yet to resize.
fn node_resizes(pod: &Value) -> bool {
    let mut running = list(pod, "/status/containerStatuses")
        .iter()
        .filter(|status| status.pointer("/state/running").is_some());
    running
        .next()
        .is_none_or(|status| status.get("resources").is_some())
}

fn is_mirror(pod: &Value) -> bool {
    meta::annotations(pod).is_some_and(|a| a.contains_key(MIRROR))
}

/// Whether the containers are the same, as far as their number goes.
fn same_containers(new: &Value, old: &Value, field: &str, errors: &mut ErrorList) -> bool {
    let now = list(new, &format!("/{field}"));
    if now.len() != list(old, &format!("/{field}")).len() {
        errors.forbidden(
            format!("spec.{field}"),
            "pod updates may not add or remove containers",
        );
        return false;
    }
    true
}

fn containers_mut<'a>(spec: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    spec.get_mut(field)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

/// Requests and limits may become smaller, but there they stay.
fn nothing_removed(new: &Value, old: &Value, path: &str, errors: &mut ErrorList) {
    for kind in ["requests", "limits"] {
        let pointer = format!("/resources/{kind}");
        let now = map(new, &pointer);
        let removed = map(old, &pointer)
            .into_iter()
            .flatten()
            .any(|(name, _)| !now.is_some_and(|now| now.contains_key(name)));
        if removed {
            errors.forbidden(
                format!("{path}.{kind}"),
                format!("resource {kind} cannot be removed"),
            );
        }
    }
}

fn put_back_cpu_and_memory(rest: &mut Value, old: &Value) {
    for kind in ["requests", "limits"] {
        let Some(now) = rest
            .pointer_mut(&format!("/resources/{kind}"))
            .and_then(Value::as_object_mut)
        else {
            continue;
        };
        for name in ["cpu", "memory"] {
            match old.pointer(&format!("/resources/{kind}/{name}")) {
                Some(value) => now.insert(name.into(), value.clone()),
                None => now.remove(name),
            };
        }
    }
    for pointer in ["/resources/requests", "/resources/limits", "/resources"] {
        let emptied = rest.pointer(pointer) == Some(&json!({})) && old.pointer(pointer).is_none();
        if let (true, Some((parent, field))) = (emptied, pointer.rsplit_once('/'))
            && let Some(parent) = rest.pointer_mut(parent).and_then(Value::as_object_mut)
        {
            parent.remove(field);
        }
    }
}

/// The names of the fields that differ, for the reader.
fn changed_fields(new: &Value, old: &Value) -> Option<String> {
    let fields = [new, old].into_iter().filter_map(Value::as_object);
    let mut changed: Vec<&String> = fields
        .flat_map(|m| m.keys())
        .filter(|field| new.get(field) != old.get(field))
        .collect();
    changed.sort();
    changed.dedup();
    let named: Vec<String> = changed.into_iter().map(|f| format!("spec.{f}")).collect();
    (!named.is_empty()).then(|| format!("changed: {}", named.join(", ")))
}

fn put_back(rest: &mut Value, old: &Value, field: &str) {
    let Some(map) = rest.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => map.insert(field.into(), value.clone()),
        None => map.remove(field),
    };
}

/// A pod held by gates may be narrowed: node selector entries and node affinity added. Both are then put back.
fn narrowed(rest: &mut Value, old: &Value, errors: &mut ErrorList) {
    let kept = map(old, "/nodeSelector")
        .into_iter()
        .flatten()
        .all(|(key, value)| rest["nodeSelector"].get(key) == Some(value));
    if !kept {
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.invalid("spec.nodeSelector", rest["nodeSelector"].clone(), detail);
    }
    put_back(rest, old, "nodeSelector");
    let node = |spec: &Value| spec.pointer("/affinity/nodeAffinity").cloned();
    let (now, then) = (node(rest), node(old));
    if now == then {
        return;
    }
    if let Some(then) = &then {
        narrowed_affinity(now.as_ref().unwrap_or(&Value::Null), then, errors);
    }
    match (rest.get_mut("affinity").and_then(Value::as_object_mut), then) {
        (Some(affinity), Some(then)) => drop(affinity.insert("nodeAffinity".into(), then)),
        (Some(affinity), None) => drop(affinity.remove("nodeAffinity")),
        (None, Some(then)) => rest["affinity"] = json!({"nodeAffinity": then}),
        (None, None) => {}
    }
    if old.get("affinity").is_none() && rest.get("affinity") == Some(&json!({})) {
        put_back(rest, old, "affinity");
    }
}

fn narrowed_affinity(new: &Value, old: &Value, errors: &mut ErrorList) {
    let path = format!("spec.affinity.nodeAffinity.{REQUIRED_TERMS}.nodeSelectorTerms");
    let pointer = format!("/{REQUIRED_TERMS}/nodeSelectorTerms");
    let (now, then) = (list(new, &pointer), list(old, &pointer));
    if !then.is_empty() && now.len() != then.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.invalid(path, now.to_vec(), detail);
        return;
    }
    for (i, (now, then)) in now.iter().zip(then).enumerate() {
        let fields = ["/matchExpressions", "/matchFields"];
        // A term without requirements matches nothing; adding some would widen it.
        let matched_nothing = fields.iter().all(|f| list(then, f).is_empty());
        let grew = fields.iter().any(|f| !list(now, f).is_empty());
        let kept = fields.iter().all(|f| list(now, f).starts_with(list(then, f)));
        if matched_nothing && grew || !kept {
            let detail = "only additions are allowed (no mutations or deletions)";
            errors.invalid(format!("{path}[{i}]"), now.clone(), detail);
        }
    }
}

/// Gates may only be removed.
fn gates(new: &Value, old: &Value, errors: &mut ErrorList) {
    let before = list(old, "/schedulingGates");
    for (i, gate) in list(new, "/schedulingGates").iter().enumerate() {
        let name = text(gate, "/name");
        if !before.iter().any(|b| text(b, "/name") == name) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.forbidden(format!("spec.schedulingGates[{i}].name"), detail);
        }
    }
}

/// A deadline may be set and shortened; tells whether to go on.
fn active_deadline(new: &Value, old: &Value, errors: &mut ErrorList) -> bool {
    let path = "spec.activeDeadlineSeconds";
    let deadline = |s: &Value| int(s, "/activeDeadlineSeconds");
    match (deadline(new), deadline(old)) {
        (Some(now), then) => {
            if !(0..=i64::from(i32::MAX)).contains(&now) {
                errors.in_range(path, now, 0, i64::from(i32::MAX));
                return false;
            }
            if then.is_some_and(|then| now > then) {
                errors.invalid(path, now, "must be less than or equal to previous value");
                return false;
            }
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.invalid(path, Value::Null, detail);
        }
        (None, None) => {}
    }
    true
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
        errors.forbidden("spec.tolerations", detail);
    }
}
