//! Pods and nodes for tables, from as little JSON as the row is about.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    node::{NodeInfo, NodeProperties, Usage},
    pod::{ObservedPod, PodInfo},
};

/// A pending pod with this spec.
pub(crate) fn pod(mut spec: Value) -> PodInfo {
    spec["schedulerName"] = json!("default-scheduler");
    if spec.get("containers").is_none() {
        spec["containers"] = json!([]);
    }
    let pod = json!({"metadata": {"namespace": "default", "name": "pod", "uid": "uid"}, "spec": spec});
    match ObservedPod::of(&serde_json::from_value(pod).unwrap(), "default-scheduler") {
        ObservedPod::Pending(pod) => Arc::unwrap_or_clone(pod),
        other => panic!("not pending: {other:?}"),
    }
}

/// A node without pods.
pub(crate) fn node(node: Value) -> NodeInfo {
    let node: k8s_openapi::api::core::v1::Node = serde_json::from_value(node).unwrap();
    let name = node.metadata.name.as_deref().unwrap_or("node").into();
    NodeInfo {
        name,
        properties: NodeProperties::of(&node),
        usage: Usage::default(),
    }
}
