//! Checks of CSIDrivers, CSINodes, CSIStorageCapacities and VolumeAttachments.

use crate::quantity::Quantity;
use crate::strategy::access::{int, list, map, text};
use crate::strategy::pod::validate::label_selector;
use crate::strategy::pod::warnings::deprecated_label;
use crate::validation::text::{between, label_problems, qualified_name_problems, subdomain_problems};
use crate::validation::{ErrorList, FieldError, NOT_NEGATIVE};
use serde_json::Value;

/// Longest name of a driver, in bytes.
const MAX_DRIVER: usize = 63;
/// Longest name that a driver gives a node.
const MAX_NODE_ID: usize = 256;
/// How a driver may limit the lives of tokens, in seconds.
const TOKEN_SECONDS: (i64, i64) = (600, 1 << 32);
/// Longest message of a failure, in bytes, and the limit that upstream names instead.
const MAX_MESSAGE: usize = 1024;
const MAX_METADATA: usize = 256 << 10;

/// A driver's name, wherever it is given.
pub(in crate::strategy) fn driver_name(name: &str, path: &str, errors: &mut ErrorList) {
    errors.present(path, name);
    if name.len() > MAX_DRIVER {
        errors.push(FieldError::too_long(path, MAX_DRIVER));
    }
    errors.problems(path, name, subdomain_problems(&name.to_lowercase()));
}

/// A CSIDriver.
pub(super) fn driver(obj: &Value, errors: &mut ErrorList) {
    let spec = &obj["spec"];
    if let Some(policy) = spec.get("fsGroupPolicy").and_then(Value::as_str) {
        let supported = ["File", "None", "ReadWriteOnceWithFSType"];
        errors.one_of("spec.fsGroupPolicy", policy, &supported);
    }
    let requests = list(spec, "/tokenRequests");
    for (i, request) in requests.iter().enumerate() {
        let path = format!("spec.tokenRequests[{i}]");
        let audience = text(request, "/audience");
        if requests[..i]
            .iter()
            .any(|other| text(other, "/audience") == audience)
        {
            errors.duplicate(format!("{path}.audience"), audience);
            continue;
        }
        let Some(seconds) = int(request, "/expirationSeconds") else {
            continue;
        };
        let at = format!("{path}.expirationSeconds");
        if seconds < TOKEN_SECONDS.0 {
            errors.invalid(at, seconds, "may not specify a duration less than 10 minutes");
        } else if seconds > TOKEN_SECONDS.1 {
            errors.invalid(at, seconds, "may not specify a duration larger than 2^32 seconds");
        }
    }
    for mode in list(spec, "/volumeLifecycleModes") {
        let mode = mode.as_str().unwrap_or("");
        errors.one_of("spec.volumeLifecycleModes", mode, &["Persistent", "Ephemeral"]);
    }
    if let Some(secret) = spec
        .get("serviceAccountTokenInSecrets")
        .filter(|_| requests.is_empty())
    {
        let detail = "must not be specified when `tokenRequests` is empty";
        errors.invalid("spec.serviceAccountTokenInSecrets", secret.clone(), detail);
    }
    if let Some(seconds) = int(spec, "/nodeAllocatableUpdatePeriodSeconds").filter(|s| *s < 10) {
        let detail = "must be greater than or equal to 10 seconds";
        errors.invalid("spec.nodeAllocatableUpdatePeriodSeconds", seconds, detail);
    }
}

/// What a driver can do is fixed.
pub(super) fn driver_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    driver(new, errors);
    for (field, path) in [
        ("attachRequired", "spec.attachedRequired"),
        ("volumeLifecycleModes", "spec.volumeLifecycleModes"),
    ] {
        errors.immutable(path, new["spec"].get(field), old["spec"].get(field));
    }
}

/// A CSINode.
pub(super) fn node(obj: &Value, errors: &mut ErrorList) {
    let drivers = list(obj, "/spec/drivers");
    for (i, driver) in drivers.iter().enumerate() {
        let path = format!("spec.drivers[{i}]");
        let name = text(driver, "/name");
        driver_name(name, &format!("{path}.name"), errors);
        let (id, at) = (text(driver, "/nodeID"), format!("{path}.nodeID"));
        if errors.present(&at, id) && id.len() > MAX_NODE_ID {
            let detail = format!("must be {MAX_NODE_ID} characters or less");
            errors.invalid(at, id, detail);
        }
        if let Some(count) = int(driver, "/allocatable/count") {
            errors.non_negative(&format!("{path}.allocatable.count"), count);
        }
        if drivers[..i].iter().any(|other| text(other, "/name") == name) {
            errors.duplicate(format!("{path}.name"), name);
        }
        let keys = list(driver, "/topologyKeys");
        for (j, key) in keys.iter().enumerate() {
            let text = key.as_str().unwrap_or("");
            errors.present(&path, text);
            if keys[..j].contains(key) {
                errors.duplicate(path.clone(), text);
            }
            errors.problems(&path, text, qualified_name_problems(text));
        }
    }
}

/// A driver may come, go and count anew, but not become another one.
pub(super) fn node_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    node(new, errors);
    let bare = |driver: &Value| {
        let mut driver = driver.clone();
        if let Some(driver) = driver.as_object_mut() {
            driver.remove("allocatable");
        }
        driver
    };
    for before in list(old, "/spec/drivers") {
        for now in list(new, "/spec/drivers") {
            if before["name"] == now["name"] {
                errors.immutable("spec.drivers", Some(&bare(now)), Some(&bare(before)));
            }
        }
    }
}

/// A CSIStorageCapacity.
pub(super) fn capacity(obj: &Value, errors: &mut ErrorList) {
    if let Some(topology) = obj.get("nodeTopology") {
        label_selector(topology, "nodeTopology", errors);
    }
    let class = text(obj, "/storageClassName");
    errors.problems("storageClassName", class, subdomain_problems(class));
    let amount = obj.get("capacity").and_then(Value::as_str);
    if let Some(amount) = amount.filter(|a| Quantity::parse(a).is_ok_and(|q| q.signum() < 0)) {
        errors.invalid("capacity", amount, NOT_NEGATIVE);
    }
}

/// The same of one that was `old`: values of its topology that were accepted stay so.
pub(super) fn changed_capacity(new: &Value, old: &Value, errors: &mut ErrorList) {
    let is_value = |error: &FieldError| {
        let path = &error.path;
        path.starts_with("nodeTopology.matchExpressions") && path.contains(".values[")
    };
    let check = |obj: &Value| {
        let mut errors = ErrorList::new();
        capacity(obj, &mut errors);
        errors
    };
    let lax = check(old).iter().any(is_value);
    for error in check(new).into_iter().filter(|error| !(lax && is_value(error))) {
        errors.push(error);
    }
}

/// What users are told of a CSIStorageCapacity.
pub(super) fn capacity_warnings(obj: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let path = "nodeTopology.matchExpressions";
    for (i, expression) in list(obj, "/nodeTopology/matchExpressions").iter().enumerate() {
        let key = text(expression, "/key");
        if let Some(why) = deprecated_label(key) {
            out.push(format!("{path}[{i}].key: {key} is {why}"));
        }
    }
    let labels = map(obj, "/nodeTopology/matchLabels").into_iter().flatten();
    for (label, _) in labels {
        if let Some(why) = deprecated_label(label) {
            out.push(format!("nodeTopology.matchLabels.{label}: {why}"));
        }
    }
    out
}

/// A new VolumeAttachment.
pub(super) fn attachment(obj: &Value, errors: &mut ErrorList) {
    attachment_spec(obj, errors);
    let attacher = text(obj, "/spec/attacher");
    driver_name(attacher, "spec.attacher", errors);
    let volume = text(obj, "/spec/source/persistentVolumeName");
    if !volume.is_empty() {
        let path = "spec.source.persistentVolumeName";
        errors.problems(path, volume, subdomain_problems(volume));
    }
}

/// What every VolumeAttachment keeps to.
pub(super) fn attachment_spec(obj: &Value, errors: &mut ErrorList) {
    errors.present("spec.attacher", text(obj, "/spec/attacher"));
    let exactly = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    let source = |field: &str| obj.pointer(&format!("/spec/source/{field}"));
    match (source("inlineVolumeSpec"), source("persistentVolumeName")) {
        (None, None) => errors.required("spec.source", exactly),
        (Some(_), Some(_)) => errors.forbidden("spec.source", exactly),
        (None, Some(name)) if name == "" => {
            let detail = "must specify non empty persistentVolumeName";
            errors.required("spec.source.persistentVolumeName", detail);
        }
        (None, Some(_)) => {}
        (Some(spec), None) => {
            super::volume::inline_volume(spec, "spec.source.inlineVolumeSpec", errors);
        }
    }
    let node = text(obj, "/spec/nodeName");
    errors.problems("spec.nodeName", node, subdomain_problems(node));
    attachment_status(obj, errors);
}

/// What an attacher reports.
pub(super) fn attachment_status(obj: &Value, errors: &mut ErrorList) {
    let size: usize = map(obj, "/status/attachmentMetadata")
        .into_iter()
        .flatten()
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum();
    if size > MAX_METADATA {
        errors.push(FieldError::too_long("status.attachmentMetadata", MAX_METADATA));
    }
    for field in ["attachError", "detachError"] {
        let Some(error) = obj.pointer(&format!("/status/{field}")) else {
            continue;
        };
        if text(error, "/message").len() > MAX_MESSAGE {
            // The limit that is named is not the one that is kept.
            let path = format!("status.{field}.message");
            errors.push(FieldError::too_long(path, MAX_METADATA));
        }
        if let Some(code) = int(error, "/errorCode").filter(|code| *code < 0) {
            let detail = between(0, i64::from(i32::MAX));
            errors.invalid(format!("status.{field}.errorCode"), code, detail);
        }
    }
}

/// A reference to a secret in a namespace.
pub(super) fn secret_reference(reference: &Value, path: &str, errors: &mut ErrorList) {
    for (field, problems) in [
        ("name", subdomain_problems as fn(&str) -> Vec<String>),
        ("namespace", label_problems),
    ] {
        let (path, name) = (format!("{path}.{field}"), text(reference, &format!("/{field}")));
        if errors.present(&path, name) {
            errors.problems(&path, name, problems(name));
        }
    }
}
