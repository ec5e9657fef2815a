//! TaintNodesByCondition: a new node takes no pods until the node controller has seen it ready.

use serde_json::{Value, json};

use super::{Attributes, Operation};

const KEY: &str = "node.kubernetes.io/not-ready";

pub(super) fn admit(attributes: &Attributes, node: &mut Value) {
    if attributes.operation != Operation::Create || !attributes.is("", "nodes") {
        return;
    }
    let mut taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let present = taints
        .iter()
        .any(|taint| taint["key"] == KEY && taint["effect"] == "NoSchedule");
    if !present {
        taints.push(json!({"key": KEY, "effect": "NoSchedule"}));
        node["spec"]["taints"] = taints.into();
    }
}
