//! A pod carries the labels that say where its node is, so that it can be told by the downward API.

use api::{meta, status::Status};
use serde_json::{Map, Value, json};

use super::Attributes;
use crate::context::Api;

/// The labels of a node that its pods carry too.
const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// Labels a pod that is created on a node.
pub(super) async fn admit(api: &Api, attributes: &Attributes, pod: &mut Value) -> Result<(), Status> {
    let Some(node) = pod["spec"]["nodeName"].as_str() else {
        return Ok(());
    };
    if node.is_empty() || !attributes.creates_pod() {
        return Ok(());
    }
    let place = of_node(api, node).await?;
    merge(pod, &place);
    Ok(())
}

/// The labels that a node's pods get; none when there is no such node.
pub(crate) async fn of_node(api: &Api, node: &str) -> Result<Map<String, Value>, Status> {
    let Some(node) = api.find("", "v1", "nodes", None, node).await? else {
        return Ok(Map::new());
    };
    let node = node.value();
    let labels = meta::labels(&node).into_iter().flatten();
    Ok(labels
        .filter(|(key, _)| LABELS.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect())
}

/// Puts labels on an object, in the place of those of the same names.
pub(crate) fn merge(object: &mut Value, labels: &Map<String, Value>) {
    if labels.is_empty() {
        return;
    }
    let own = meta::metadata_mut(object)
        .entry("labels")
        .or_insert_with(|| json!({}));
    if let Some(own) = own.as_object_mut() {
        own.extend(labels.clone());
    }
}
