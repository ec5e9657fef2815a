//! What a kubelet may make of a pod's status.

use crate::strategy::access::{int, list, text};
use crate::validation::ErrorList;
use crate::validation::net::ip;
use crate::validation::text::{qualified_name_problems, subdomain_problems};
use serde_json::Value;
use std::net::IpAddr;

const SYSTEM_CONDITIONS: [&str; 3] = ["Initialized", "PodScheduled", "Ready"];

/// The largest id of a user or group.
const MAX_ID: i64 = i32::MAX as i64;

/// An updated status.
pub(crate) fn pod_status(new: &Value, old: &Value, errors: &mut ErrorList) {
    for (i, condition) in list(new, "/status/conditions").iter().enumerate() {
        let kind = text(condition, "/type");
        if !SYSTEM_CONDITIONS.contains(&kind) {
            // Upstream looks for it there.
            let path = format!("metadata.conditions[{i}].Type");
            errors.problems(&path, kind, qualified_name_problems(kind));
        }
    }
    let node = text(new, "/status/nominatedNodeName");
    if !node.is_empty() && node != text(old, "/status/nominatedNodeName") {
        errors.problems("status.nominatedNodeName", node, subdomain_problems(node));
    }
    let class = |obj: &Value| obj.pointer("/status/qosClass").cloned();
    errors.immutable("status.qosClass", class(new).as_ref(), class(old).as_ref());
    for (statuses, containers) in [
        ("containerStatuses", "containers"),
        ("initContainerStatuses", "initContainers"),
        ("ephemeralContainerStatuses", "ephemeralContainers"),
    ] {
        still_terminated(new, old, statuses, containers, errors);
    }
    claims(new, errors);
    addresses(new, "podIPs", errors);
    addresses(new, "hostIPs", errors);
    for statuses in [
        "containerStatuses",
        "initContainerStatuses",
        "ephemeralContainerStatuses",
    ] {
        users(new, statuses, errors);
    }
}

/// Claims that were made for the pod.
fn claims(pod: &Value, errors: &mut ErrorList) {
    let claims = list(pod, "/spec/resourceClaims");
    let statuses = list(pod, "/status/resourceClaimStatuses");
    for (i, status) in statuses.iter().enumerate() {
        let (name, path) = (
            text(status, "/name"),
            format!("status.resourceClaimStatuses[{i}].name"),
        );
        if !claims.iter().any(|claim| text(claim, "/name") == name) {
            let detail = "must match the name of an entry in `spec.resourceClaims`";
            errors.invalid(path.clone(), name, detail);
        }
        if statuses[..i].iter().any(|other| text(other, "/name") == name) {
            errors.duplicate(path.clone(), name);
        }
        if let Some(claim) = status.get("resourceClaimName").and_then(Value::as_str) {
            // Upstream looks for it there.
            errors.problems(&path, claim, subdomain_problems(claim));
        }
    }
}

/// Who containers run as, on the system of the pod.
fn users(pod: &Value, statuses: &str, errors: &mut ErrorList) {
    let windows = text(pod, "/spec/os/name") == "windows";
    for (i, status) in list(pod, &format!("/status/{statuses}")).iter().enumerate() {
        let (Some(user), path) = (
            status.pointer("/user/linux"),
            format!("status.{statuses}[{i}].linux"),
        ) else {
            continue;
        };
        if windows {
            errors.forbidden(path, "cannot be set for a windows pod");
            continue;
        }
        for field in ["uid", "gid"] {
            let id = int(user, &format!("/{field}")).unwrap_or(0);
            errors.in_range(&format!("{path}.{field}"), id, 0, MAX_ID);
        }
        for (j, group) in list(user, "/supplementalGroups").iter().enumerate() {
            let at = format!("{path}.supplementalGroups[{j}]");
            errors.in_range(&at, group.as_i64().unwrap_or(0), 0, MAX_ID);
        }
    }
}

/// A container that is over and is not to be restarted stays over.
fn still_terminated(new: &Value, old: &Value, statuses: &str, containers: &str, errors: &mut ErrorList) {
    let pointer = format!("/status/{statuses}");
    for (i, before) in list(old, &pointer).iter().enumerate() {
        let Some(exit) = int(before, "/state/terminated/exitCode") else {
            continue;
        };
        let name = text(before, "/name");
        let container = list(old, &format!("/spec/{containers}"))
            .iter()
            .find(|container| text(container, "/name") == name)
            .unwrap_or(&Value::Null);
        let own = text(container, "/restartPolicy");
        let policy = match (containers, own) {
            // Nothing ever restarts these, whatever the pod says.
            ("ephemeralContainers", _) => "Never",
            (_, "") => text(old, "/spec/restartPolicy"),
            (_, own) => own,
        };
        let restarts = policy == "Always"
            || policy == "OnFailure" && exit != 0
            || !list(container, "/restartPolicyRules").is_empty();
        let now = list(new, &pointer).iter().find(|s| text(s, "/name") == name);
        if !restarts && now.is_some_and(|now| now.pointer("/state/terminated").is_none()) {
            let detail = "may not be transitioned to non-terminated state";
            errors.forbidden(format!("status.{statuses}[{i}].state"), detail);
        }
    }
}

/// One address of each family.
fn addresses(pod: &Value, field: &str, errors: &mut ErrorList) {
    let path = format!("status.{field}");
    let given = list(pod, &format!("/status/{field}"));
    let mut parsed: Vec<IpAddr> = Vec::new();
    for (i, address) in given.iter().enumerate() {
        let address = text(address, "/ip");
        ip(address, &format!("{path}[{i}]"), errors);
        if let Ok(address) = address.parse() {
            if parsed.contains(&address) {
                errors.duplicate(format!("{path}[{i}]"), address.to_string());
            }
            parsed.push(address);
        }
    }
    let families = parsed.iter().filter(|a| a.is_ipv4()).count();
    if given.len() > 2 || given.len() == 2 && parsed.len() == 2 && families != 1 {
        let detail = "may specify no more than one IP for each IP family";
        errors.invalid(path, given.to_vec(), detail);
    }
}
