//! RuntimeClass: it must exist, and what it costs is written into the pod.

use api::status::Status;
use serde_json::Value;

use super::Attributes;
use crate::context::Api;

pub(super) fn admit(api: &Api, attributes: &Attributes, pod: &mut Value) -> Result<(), Status> {
    let spec = &mut pod["spec"];
    let Some(name) = spec["runtimeClassName"]
        .as_str()
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
    else {
        return Ok(());
    };
    let classes = api.builtin("node.k8s.io", "v1", "runtimeclasses")?;
    let class = api
        .cached(&classes)?
        .get(&classes.key(None, &name)?)
        .ok_or_else(|| attributes.forbidden(&format!("pod rejected: RuntimeClass \"{name}\" not found")))?;
    let class = class.value();
    let overhead = &class["overhead"]["podFixed"];
    if !overhead.is_null() {
        if spec["overhead"].is_object() && spec["overhead"] != *overhead {
            return Err(attributes
                .forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"));
        }
        spec["overhead"] = overhead.clone();
    }
    Ok(())
}
