//! Access to devices that others use is for claims in namespaces that an administrator marked.

use api::{
    status::Status,
    validation::{ErrorKind, ErrorList, FieldError},
};
use serde_json::Value;

use super::{Attributes, Operation};
use crate::context::Api;

const LABEL: &str = "resource.kubernetes.io/admin-access";

/// What of a ResourceClaim or its template a namespace without the mark may not have (`pkg/registry/resource/utils.go`).
pub(crate) async fn problems(
    api: &Api,
    attributes: &Attributes,
    object: &Value,
    old: Option<&Value>,
) -> Result<ErrorList, Status> {
    let mut errors = ErrorList::new();
    let Some(path) = wanted(attributes, object, old) else {
        return Ok(errors);
    };
    let namespaces = api.builtin("", "v1", "namespaces")?;
    match api.current(&namespaces, None, &attributes.namespace).await {
        Ok(namespace) => {
            if namespace.label(LABEL) != Some("true") {
                let why = format!(
                    "admin access to devices requires the `{LABEL}: true` label on the containing namespace"
                );
                errors.push(FieldError::forbidden(path, why));
            }
        }
        Err(status) => {
            let why = format!(
                "could not retrieve namespace to verify admin access: {}",
                status.message
            );
            errors.push(FieldError::new(ErrorKind::Internal, path, "", why));
        }
    }
    Ok(errors)
}

/// The field that asks for it, if one newly does.
fn wanted(attributes: &Attributes, object: &Value, old: Option<&Value>) -> Option<String> {
    let created = attributes.operation == Operation::Create;
    let (pointer, path) = match (&*attributes.resource.plural, attributes.subresource.as_str()) {
        _ if attributes.resource.group != "resource.k8s.io" => return None,
        ("resourceclaims", "") if created => ("/spec/devices/requests", "spec.devices.requests"),
        ("resourceclaimtemplates", "") if created => ("/spec/spec/devices/requests", "spec.devices.requests"),
        ("resourceclaims", "status") => (
            "/status/allocation/devices/results",
            "status.allocation.devices.results",
        ),
        _ => return None,
    };
    let asks = |item: &Value| {
        let item = item.get("exactly").unwrap_or(item);
        item.get("adminAccess").and_then(Value::as_bool) == Some(true)
    };
    let first = |object: &Value| object.pointer(pointer)?.as_array()?.iter().position(asks);
    if old.and_then(first).is_some() {
        return None;
    }
    first(object).map(|i| format!("{path}[{i}].adminAccess"))
}
