//! What a kubelet may make of a pod's status.

use crate::strategy::access::{int, list, map, text};
use crate::validation::ErrorList;
use crate::validation::net::ip;
use crate::validation::text::{label_problems, qualified_name_problems, subdomain_problems};
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
    extended_claim(new, errors);
    addresses(new, "podIPs", errors);
    if let Some(first) = new.pointer("/status/hostIPs/0/ip").and_then(Value::as_str)
        && first != text(new, "/status/hostIP")
    {
        errors.invalid("status.hostIPs[0].ip", first, "must be equal to `hostIP`");
    }
    addresses(new, "hostIPs", errors);
    for statuses in [
        "containerStatuses",
        "initContainerStatuses",
        "ephemeralContainerStatuses",
    ] {
        users(new, statuses, errors);
    }
    for (statuses, containers) in [
        ("containerStatuses", "containers"),
        ("initContainerStatuses", "initContainers"),
    ] {
        healths(new, statuses, containers, errors);
    }
    let ephemeral = list(new, "/status/ephemeralContainerStatuses");
    for (i, status) in ephemeral.iter().enumerate() {
        if !list(status, "/allocatedResourcesStatus").is_empty() {
            let path = format!("status.ephemeralContainerStatuses[{i}].allocatedResourcesStatus");
            errors.forbidden(path, "must not be specified in container status");
        }
    }
}

/// The container of a name among those of a field of the spec.
fn container<'a>(pod: &'a Value, containers: &str, name: &str) -> Option<&'a Value> {
    let mut of = list(pod, &format!("/spec/{containers}")).iter();
    of.find(|container| text(container, "/name") == name)
}

/// The health of what containers were given: of what they asked for, each thing once.
fn healths(pod: &Value, statuses: &str, containers: &str, errors: &mut ErrorList) {
    for (i, status) in list(pod, &format!("/status/{statuses}")).iter().enumerate() {
        let container = container(pod, containers, text(status, "/name"));
        let given = list(status, "/allocatedResourcesStatus");
        for (j, resource) in given.iter().enumerate() {
            let path = format!("status.{statuses}[{i}].allocatedResourcesStatus[{j}]");
            let name = text(resource, "/name");
            if let Some(detail) = container.and_then(|container| not_asked_for(container, name)) {
                errors.invalid(format!("{path}.name"), name, detail);
            }
            let things = list(resource, "/resources");
            for (k, thing) in things.iter().enumerate() {
                let path = format!("{path}.resources[{k}]");
                let health = text(thing, "/health");
                errors.one_of(
                    &format!("{path}.health"),
                    health,
                    &["Healthy", "Unhealthy", "Unknown"],
                );
                let id = text(thing, "/resourceID");
                if things[..k].iter().any(|other| text(other, "/resourceID") == id) {
                    errors.duplicate(format!("{path}.resourceID"), id);
                }
            }
        }
    }
}

/// Why a container cannot have been given a resource or, with a prefix, a claim.
fn not_asked_for(container: &Value, name: &str) -> Option<&'static str> {
    if !name.starts_with("claim:") {
        let asked = map(container, "/resources/requests").is_some_and(|asked| asked.contains_key(name));
        return (!asked).then_some("must match one of the container's resource requests");
    }
    let asked = list(container, "/resources/claims").iter().any(|claim| {
        let (claim, request) = (text(claim, "/name"), text(claim, "/request"));
        match request {
            "" => name == format!("claim:{claim}"),
            request => name == format!("claim:{claim}/{request}"),
        }
    });
    (!asked).then_some(
        "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty",
    )
}

/// The claim that was made for what containers ask for by the names of extended resources.
fn extended_claim(pod: &Value, errors: &mut ErrorList) {
    let Some(status) = pod.pointer("/status/extendedResourceClaimStatus") else {
        return;
    };
    let path = "status.extendedResourceClaimStatus";
    let mappings = list(status, "/requestMappings");
    if mappings.is_empty() {
        let detail = "at least one request mapping is required";
        errors.required(format!("{path}.requestMappings"), detail);
    }
    let fields = ["containerName", "resourceName", "requestName"];
    let key = |mapping: &'_ Value| fields.map(|field| text(mapping, &format!("/{field}")).to_string());
    for (i, mapping) in mappings.iter().enumerate() {
        let at = format!("{path}.requestMappings[{i}]");
        let [name, resource, request] = key(mapping);
        let of = ["containers", "initContainers"];
        match of.iter().find_map(|containers| container(pod, containers, &name)) {
            None => {
                let detail =
                    "must match the name of an entry in spec.initContainers.name or spec.containers.name";
                errors.invalid(format!("{at}.containerName"), name, detail);
            }
            Some(container) => {
                let asked = map(container, "/resources/requests").is_some_and(|r| r.contains_key(&resource));
                if !asked {
                    let detail = "must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests";
                    errors.invalid(format!("{at}.resourceName"), resource, detail);
                }
            }
        }
        // Upstream looks for it there.
        errors.problems(&format!("{path}.requestName"), &request, label_problems(&request));
        if mappings[..i].iter().any(|other| key(other) == key(mapping)) {
            for (field, value) in fields.into_iter().zip(key(mapping)) {
                errors.duplicate(format!("{at}.{field}"), value);
            }
        }
    }
    let (claim, at) = (
        text(status, "/resourceClaimName"),
        format!("{path}.resourceClaimName"),
    );
    if errors.present(&at, claim) {
        errors.problems(&at, claim, subdomain_problems(claim));
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
        let mut rules = list(container, "/restartPolicyRules").iter();
        let rule = rules.find(|rule| matches_exit(rule, exit));
        let restarts = rule.is_some_and(|rule| text(rule, "/action") == "Restart")
            || policy == "Always"
            || policy == "OnFailure" && exit != 0;
        let now = list(new, &pointer).iter().find(|s| text(s, "/name") == name);
        if !restarts && now.is_some_and(|now| now.pointer("/state/terminated").is_none()) {
            let detail = "may not be transitioned to non-terminated state";
            errors.forbidden(format!("status.{statuses}[{i}].state"), detail);
        }
    }
}

/// Whether a rule of a container is about the code that it exited with.
fn matches_exit(rule: &Value, exit: i64) -> bool {
    let among = list(rule, "/exitCodes/values").iter().any(|code| *code == exit);
    match text(rule, "/exitCodes/operator") {
        "In" => among,
        "NotIn" => !among,
        _ => false,
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
