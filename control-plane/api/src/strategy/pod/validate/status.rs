//! What a kubelet may make of a pod's status.

use crate::strategy::access::{int, list, text};
use crate::validation::ErrorList;
use crate::validation::net::ip;
use crate::validation::text::{qualified_name_problems, subdomain_problems};
use serde_json::Value;
use std::net::IpAddr;

const SYSTEM_CONDITIONS: [&str; 3] = ["Initialized", "PodScheduled", "Ready"];

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
    for (statuses, containers) in [
        ("containerStatuses", "containers"),
        ("initContainerStatuses", "initContainers"),
        ("ephemeralContainerStatuses", "ephemeralContainers"),
    ] {
        still_terminated(new, old, statuses, containers, errors);
    }
    let claims = list(new, "/spec/resourceClaims");
    for (i, status) in list(new, "/status/resourceClaimStatuses").iter().enumerate() {
        let name = text(status, "/name");
        if !claims.iter().any(|claim| text(claim, "/name") == name) {
            let detail = "must match the name of an entry in `spec.resourceClaims`";
            errors.invalid(format!("status.resourceClaimStatuses[{i}].name"), name, detail);
        }
    }
    addresses(new, "podIPs", errors);
    addresses(new, "hostIPs", errors);
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
