//! NodeRestriction: what a node may write about itself and its pods, beyond what authorization can see.

use api::status::Status;
use serde_json::Value;

use super::{Attributes, Operation};
use crate::{authz::node_name, context::Api};

const MIRROR: &str = "kubernetes.io/config.mirror";
/// Labels with this prefix are the administrator's alone.
const RESTRICTED_LABELS: &str = "node-restriction.kubernetes.io/";

pub(super) fn admit(
    api: &Api,
    attributes: &Attributes,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    let Some(node) = node_name(&attributes.user) else {
        return Ok(());
    };
    let forbid = |why: String| Err(attributes.forbidden(&why));
    match (attributes.resource.plural.as_ref(), attributes.operation) {
        ("nodes", Operation::Create | Operation::Update) => {
            if attributes.name != node {
                return forbid(format!(
                    "node {node:?} is not allowed to modify node {:?}",
                    attributes.name
                ));
            }
            if object["metadata"]["ownerReferences"]
                .as_array()
                .is_some_and(|owners| !owners.is_empty())
            {
                return forbid(format!(
                    "node {node:?} is not allowed to set owner references of a node"
                ));
            }
            let changed = |label: &String| {
                let before = old.map(|old| &old["metadata"]["labels"][label.as_str()]);
                before.is_none_or(|before| *before != object["metadata"]["labels"][label.as_str()])
            };
            let labels = object["metadata"]["labels"].as_object();
            let restricted = labels
                .into_iter()
                .flat_map(|labels| labels.keys())
                .find(|label| label.contains(RESTRICTED_LABELS) && changed(label));
            if let Some(label) = restricted {
                return forbid(format!("is not allowed to modify labels: {label}"));
            }
            if let Some(old) = old
                && object["spec"]["taints"] != old["spec"]["taints"]
            {
                return forbid(format!("node {node:?} is not allowed to modify taints"));
            }
            Ok(())
        }
        ("pods", Operation::Create) if attributes.subresource.is_empty() => {
            if object["metadata"]["annotations"].get(MIRROR).is_none() {
                return forbid(format!(
                    "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
                ));
            }
            if object["spec"]["nodeName"] != node {
                return forbid(format!(
                    "node {node:?} can only create pods with spec.nodeName set to itself"
                ));
            }
            let owners = object["metadata"]["ownerReferences"]
                .as_array()
                .map_or(&[][..], Vec::as_slice);
            let itself = |owner: &Value| {
                let own = api.cache.resource("/registry/minions/").and_then(|nodes| {
                    nodes
                        .get(&format!("/registry/minions/{node}"))
                        .map(|node| node.value())
                });
                owner["kind"] == "Node"
                    && owner["name"] == node
                    && own.is_some_and(|own| own["metadata"]["uid"] == owner["uid"])
            };
            if owners.len() != 1 || !itself(&owners[0]) {
                return forbid("pod must have a single owner reference, to its node".to_owned());
            }
            Ok(())
        }
        ("pods", Operation::Update) if attributes.subresource == "status" => {
            let labels = |pod: &Value| pod["metadata"]["labels"].clone();
            if old.is_some_and(|old| labels(old) != labels(object)) {
                return forbid(format!("node {node:?} cannot update labels through pod status"));
            }
            Ok(())
        }
        ("leases", Operation::Create) if attributes.name != node => forbid(format!(
            "can only access node lease with the same name as the requesting node, {node}"
        )),
        _ => Ok(()),
    }
}
