//! Nodes.

use jiff::Timestamp;
use serde_json::Value;

use super::{AGE, NAME, NONE, Printer, UNKNOWN, age, list, name, string, text, wide};

pub(super) const NODE: Printer = Printer {
    columns: &[
        NAME,
        string("Status"),
        string("Roles"),
        AGE,
        string("Version").of("core.v1.NodeSystemInfo", "kubeletVersion"),
        wide("Internal-IP").of("core.v1.NodeStatus", "addresses"),
        wide("External-IP").of("core.v1.NodeStatus", "addresses"),
        wide("OS-Image").of("core.v1.NodeSystemInfo", "osImage"),
        wide("Kernel-Version").of("core.v1.NodeSystemInfo", "kernelVersion"),
        wide("Container-Runtime").of("core.v1.NodeSystemInfo", "containerRuntimeVersion"),
    ],
    row,
};

fn row(node: &Value, now: Timestamp) -> Vec<Value> {
    let info = &node["status"]["nodeInfo"];
    let known = |field: &str| match text(&info[field]) {
        "" => UNKNOWN.into(),
        present => Value::from(present),
    };
    vec![
        name(node),
        status(node).into(),
        roles(node).into(),
        age(node, now),
        text(&info["kubeletVersion"]).into(),
        address(node, "InternalIP").into(),
        address(node, "ExternalIP").into(),
        known("osImage"),
        known("kernelVersion"),
        known("containerRuntimeVersion"),
    ]
}

fn status(node: &Value) -> String {
    let ready = list(&node["status"]["conditions"])
        .iter()
        .find(|condition| condition["type"] == "Ready");
    let mut parts = vec![match ready {
        Some(condition) if condition["status"] == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }];
    if node["spec"]["unschedulable"] == true {
        parts.push("SchedulingDisabled");
    }
    parts.join(",")
}

/// Roles are labels: `node-role.kubernetes.io/<role>`, or the older `kubernetes.io/role=<role>`.
fn roles(node: &Value) -> String {
    let mut roles: Vec<&str> = Vec::new();
    for (key, value) in node["metadata"]["labels"].as_object().into_iter().flatten() {
        match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => roles.push(role),
            None if key == "kubernetes.io/role" && !text(value).is_empty() => roles.push(text(value)),
            _ => {}
        }
    }
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() {
        NONE.to_owned()
    } else {
        roles.join(",")
    }
}

fn address<'a>(node: &'a Value, kind: &str) -> &'a str {
    let found = list(&node["status"]["addresses"])
        .iter()
        .find(|address| address["type"] == kind);
    found.map_or(NONE, |address| text(&address["address"]))
}
