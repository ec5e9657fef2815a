//! Annotations that mean something to pods, from before there were fields for it.

use super::container::relative_path;
use crate::meta;
use crate::strategy::access::{Object, list, map, text};
use crate::strategy::pod::all_containers;
use crate::strategy::pod::warnings::{APP_ARMOR_CONTAINER, SECCOMP_CONTAINER, SECCOMP_POD};
use crate::validation::ErrorList;
use crate::validation::text::subdomain_problems;
use serde_json::Value;

/// Says that a pod stands for one that a kubelet got from elsewhere.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";
/// How much it costs to delete the pod, next to others of its ReplicaSet.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Checks the annotations of a pod or template. A cost that was no number before may stay so.
pub(super) fn pod_annotations(
    annotations: Option<&Object>,
    old: Option<&Object>,
    spec: &Value,
    path: &str,
    errors: &mut ErrorList,
) {
    let value = |key: &str| annotations.and_then(|a| a.get(key)).and_then(Value::as_str);
    if let Some(mirror) = value(MIRROR)
        && text(spec, "/nodeName").is_empty()
    {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        errors.invalid(format!("{path}[{MIRROR}]"), mirror, detail);
    }
    let cost = |annotations: Option<&Object>| {
        let cost = annotations.and_then(|a| a.get(DELETION_COST));
        cost.and_then(Value::as_str).is_none_or(is_cost)
    };
    if !cost(annotations) && cost(old) {
        let shown = value(DELETION_COST).unwrap_or("");
        errors.invalid(
            format!("{path}[{DELETION_COST}]"),
            shown,
            "must be a 32bit integer",
        );
    }
    if let Some(profile) = value(SECCOMP_POD) {
        seccomp(profile, &format!("{path}.{SECCOMP_POD}"), errors);
    }
    for (key, value) in annotations.into_iter().flatten() {
        let value = value.as_str().unwrap_or("");
        if key.starts_with(SECCOMP_CONTAINER) {
            seccomp(value, &format!("{path}.{key}"), errors);
        }
    }
    for (key, value) in annotations.into_iter().flatten() {
        let Some(container) = key.strip_prefix(APP_ARMOR_CONTAINER) else {
            continue;
        };
        let (path, value) = (format!("{path}[{key}]"), value.as_str().unwrap_or(""));
        if !all_containers(spec).any(|(_, c)| c.get("name").and_then(Value::as_str) == Some(container)) {
            errors.invalid(path.as_str(), container, "container not found");
        }
        if !matches!(value, "" | "runtime/default" | "unconfined") && !value.starts_with("localhost/") {
            let detail = format!("invalid AppArmor profile name: {value:?}");
            errors.invalid(path, value, detail);
        }
    }
}

/// No plus sign, no leading zeros.
fn is_cost(text: &str) -> bool {
    let plain = text == "0" || text.starts_with(|first: char| first == '-' || matches!(first, '1'..='9'));
    plain && text.parse::<i32>().is_ok()
}

fn seccomp(profile: &str, path: &str, errors: &mut ErrorList) {
    if let Some(file) = profile.strip_prefix("localhost/") {
        relative_path(file, path, errors);
    } else if !matches!(profile, "runtime/default" | "docker/default" | "unconfined") {
        errors.invalid(path, profile, "must be a valid seccomp profile");
    }
}

/// Fields may not contradict the annotations from before there were fields.
pub(super) fn profiles_match(annotations: Option<&Object>, spec: &Value, path: &str, errors: &mut ErrorList) {
    let annotation = |key: &str| annotations.and_then(|a| a.get(key)).and_then(Value::as_str);
    let of_pod = |field: &str| spec.pointer(&format!("/securityContext/{field}"));
    let containers = || {
        all_containers(spec).map(|(at, container)| {
            let name = container.get("name").and_then(Value::as_str).unwrap_or("");
            let context = container.get("securityContext").unwrap_or(&Value::Null);
            (name, context, format!("{path}.{at}.securityContext"))
        })
    };
    if let Some(annotation) = annotation(SECCOMP_POD) {
        let at = format!("{path}.securityContext.seccompProfile");
        profile_matches(annotation, of_pod("seccompProfile"), "seccomp", &at, errors);
    }
    for (name, context, at) in containers() {
        if let Some(annotation) = annotation(&format!("{SECCOMP_CONTAINER}{name}")) {
            let at = format!("{at}.seccompProfile");
            profile_matches(annotation, context.get("seccompProfile"), "seccomp", &at, errors);
        }
    }
    if text(spec, "/os/name") == "windows" {
        return;
    }
    for (name, context, at) in containers() {
        if let Some(annotation) = annotation(&format!("{APP_ARMOR_CONTAINER}{name}")) {
            let profile = context.get("appArmorProfile").or(of_pod("appArmorProfile"));
            let at = format!("{at}.appArmorProfile");
            profile_matches(annotation, profile, "apparmor", &at, errors);
        }
    }
}

fn profile_matches(
    annotation: &str,
    profile: Option<&Value>,
    what: &str,
    path: &str,
    errors: &mut ErrorList,
) {
    let Some(profile) = profile else { return };
    let local = annotation.strip_prefix("localhost/");
    let same_type = match text(profile, "/type") {
        "Unconfined" => annotation == "unconfined",
        "RuntimeDefault" => {
            annotation == "runtime/default" || what == "seccomp" && annotation == "docker/default"
        }
        "Localhost" => local.is_some(),
        _ => return,
    };
    if !same_type {
        let detail = format!("{what} type in annotation and field must match");
        errors.forbidden(format!("{path}.type"), detail);
    } else if local.is_some() && local != profile.get("localhostProfile").and_then(Value::as_str) {
        let detail = format!("{what} profile in annotation and field must match");
        errors.forbidden(format!("{path}.localhostProfile"), detail);
    }
}

/// Annotations that stay as they are once there is the pod.
pub(super) fn fixed_annotations(new: &Value, old: &Value, path: &str, errors: &mut ErrorList) {
    let (now, then) = (meta::annotations(new), meta::annotations(old));
    let kinds = |key: &str| {
        [
            (key.starts_with(APP_ARMOR_CONTAINER), "AppArmor annotations"),
            (key == MIRROR, "mirror pod annotation"),
        ]
    };
    let mut refuse = |key: &str, what: &str| {
        for (_, kind) in kinds(key).iter().filter(|(is, _)| *is) {
            errors.forbidden(format!("{path}[{key}]"), format!("may not {what} {kind}"));
        }
    };
    for (key, value) in then.into_iter().flatten() {
        if now.and_then(|now| now.get(key)) != Some(value) {
            refuse(key, "remove or update");
        }
    }
    for key in now.into_iter().flat_map(Object::keys) {
        if then.is_none_or(|then| !then.contains_key(key)) {
            refuse(key, "add");
        }
    }
}

/// Claims that are made for a pod have the names of it and of the volume; no volume may mean them by name.
pub(super) fn made_claims(obj: &Value, errors: &mut ErrorList) {
    let pod = meta::name(obj);
    if pod.is_empty() {
        return;
    }
    let volumes = list(obj, "/spec/volumes");
    let made: Vec<(usize, &str, String)> = volumes
        .iter()
        .enumerate()
        .filter(|(_, volume)| map(volume, "/ephemeral").is_some() && !text(volume, "/name").is_empty())
        .map(|(i, volume)| {
            (
                i,
                text(volume, "/name"),
                format!("{pod}-{}", text(volume, "/name")),
            )
        })
        .collect();
    for (i, volume, claim) in &made {
        for problem in subdomain_problems(claim) {
            let detail = format!("PVC name {claim:?}: {problem}");
            errors.invalid(format!("spec.volumes[{i}].name"), *volume, detail);
        }
    }
    for (i, volume) in volumes.iter().enumerate() {
        let claim = text(volume, "/persistentVolumeClaim/claimName");
        if made.iter().any(|(_, _, made)| made == claim) {
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            errors.invalid(
                format!("spec.volumes[{i}].persistentVolumeClaim.claimName"),
                claim,
                detail,
            );
        }
    }
}
