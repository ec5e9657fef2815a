//! Sources of volumes that pods and PersistentVolumes have in common.

use crate::strategy::access::{int, list, map, text};
use crate::validation::text::label_problems;
use crate::validation::{ErrorList, FieldError};
use serde_json::Value;

const HOST_PATH_TYPES: [&str; 8] = [
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];
const REGISTRY: &str = "must be a host:port pair or multiple pairs separated by commas";
/// Upstream's longest tenant of a Quobyte volume.
const MAX_TENANT: usize = 64;

/// Checks a source of a kind that both may have. What is said of a PersistentVolume only is said where `persistent`.
pub(in crate::strategy) fn common(
    kind: &str,
    source: &Value,
    path: &str,
    persistent: bool,
    errors: &mut ErrorList,
) {
    let required: &[&str] = match kind {
        "nfs" => &["server", "path"],
        "glusterfs" => &["endpoints", "path"],
        "iscsi" => &["targetPortal", "iqn"],
        "rbd" => &["image"],
        "azureFile" => &["secretName", "shareName"],
        "azureDisk" => &["diskName", "diskURI"],
        "vsphereVolume" => &["volumePath"],
        "awsElasticBlockStore" | "portworxVolume" | "cinder" => &["volumeID"],
        "gcePersistentDisk" => &["pdName"],
        "photonPersistentDisk" => &["pdID"],
        "flexVolume" => &["driver"],
        "scaleIO" => &["gateway", "system", "volumeName"],
        "storageos" => &["volumeName"],
        _ => &[],
    };
    // Upstream's name of the field is another here.
    let path = &match kind {
        "gcePersistentDisk" => path.replace("gcePersistentDisk", "persistentDisk"),
        _ => path.to_owned(),
    };
    if matches!(kind, "rbd" | "cephfs") && list(source, "/monitors").is_empty() {
        errors.required(format!("{path}.monitors"), "");
    }
    for field in required {
        errors.present(&format!("{path}.{field}"), text(source, &format!("/{field}")));
    }
    let target = text(source, "/path");
    match kind {
        // Of one without a path upstream says no more.
        "hostPath" | "local" if target.is_empty() => errors.required(format!("{path}.path"), ""),
        "hostPath" => {
            no_steps_back(target, path, errors);
            errors.one_of(&format!("{path}.type"), text(source, "/type"), &HOST_PATH_TYPES);
        }
        "local" => no_steps_back(target, path, errors),
        "nfs" if !target.starts_with('/') => {
            errors.invalid(format!("{path}.path"), target, "must be an absolute path");
        }
        "glusterfs" if persistent => {
            let field = format!("{path}.endpointsNamespace");
            match source.get("endpointsNamespace").and_then(Value::as_str) {
                Some("") => {
                    let detail = "if the endpointnamespace is set, it must be a valid namespace name";
                    errors.invalid(field, "", detail);
                }
                Some(namespace) => errors.problems(&field, namespace, label_problems(namespace)),
                None => {}
            }
        }
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            let partition = int(source, "/partition").unwrap_or(0);
            if partition != 0 {
                errors.in_range(&format!("{path}.partition"), partition, 1, 255);
            }
        }
        "cinder" => secret(source, path, persistent, errors),
        "iscsi" => iscsi(source, path, errors),
        "fc" => fibre_channel(source, path, errors),
        "flexVolume" => {
            for option in map(source, "/options")
                .into_iter()
                .flat_map(|options| options.keys())
            {
                let namespace = option.split('/').next().unwrap_or("").to_lowercase();
                let own = |suffix: &str| format!(".{namespace}").ends_with(suffix);
                if own(".kubernetes.io") || own(".k8s.io") {
                    let detail = "kubernetes.io and k8s.io namespaces are reserved";
                    errors.invalid(format!("{path}.options[{option}]"), option.as_str(), detail);
                }
            }
        }
        "azureFile" if persistent && source.get("secretNamespace") == Some(&"".into()) => {
            errors.required(format!("{path}.secretNamespace"), "");
        }
        "azureDisk" => azure_disk(source, path, errors),
        "quobyte" => quobyte(source, path, errors),
        "flocker" => flocker(source, path, errors),
        "storageos" => {
            for field in ["volumeName", "volumeNamespace"] {
                let name = text(source, &format!("/{field}"));
                if !name.is_empty() {
                    errors.problems(&format!("{path}.{field}"), name, label_problems(name));
                }
            }
            secret(source, path, persistent, errors);
        }
        _ => {}
    }
}

fn no_steps_back(target: &str, path: &str, errors: &mut ErrorList) {
    if target.split('/').any(|step| step == "..") {
        errors.invalid(format!("{path}.path"), target, "must not contain '..'");
    }
}

fn secret(source: &Value, path: &str, with_namespace: bool, errors: &mut ErrorList) {
    let Some(reference) = source.get("secretRef") else {
        return;
    };
    errors.present(&format!("{path}.secretRef.name"), text(reference, "/name"));
    if with_namespace {
        errors.present(
            &format!("{path}.secretRef.namespace"),
            text(reference, "/namespace"),
        );
    }
}

fn iscsi(source: &Value, path: &str, errors: &mut ErrorList) {
    let detail = "must be valid format";
    let name = text(source, "/iqn");
    if !name.is_empty() && !is_iscsi_name(name) {
        errors.invalid(format!("{path}.iqn"), name, detail);
    }
    errors.in_range(&format!("{path}.lun"), int(source, "/lun").unwrap_or(0), 0, 255);
    let asked = |field: &str| source.get(field) == Some(&Value::Bool(true));
    match source.get("secretRef") {
        None if asked("chapAuthDiscovery") || asked("chapAuthSession") => {
            errors.required(format!("{path}.secretRef"), "");
        }
        _ => secret(source, path, false, errors),
    }
    if let Some(initiator) = source.get("initiatorName").and_then(Value::as_str)
        && !is_iscsi_name(initiator)
    {
        errors.invalid(format!("{path}.initiatorname"), initiator, detail);
    }
}

/// `iqn.2001-04.com.example:disk`, `eui.` and 16 letters or digits, or `naa.` and 32.
fn is_iscsi_name(name: &str) -> bool {
    let shaped = |rest: &str, length: usize| {
        let mut rest = rest.chars();
        rest.next().is_some()
            && rest.clone().count() == length
            && rest.all(|letter| letter.is_ascii_alphanumeric())
    };
    if let Some(rest) = name.strip_prefix("eui") {
        return shaped(rest, 16);
    }
    if let Some(rest) = name.strip_prefix("naa") {
        return shaped(rest, 32);
    }
    let parts = name.strip_prefix("iqn.").and_then(|rest| rest.split_once('.'));
    let Some((date, (authority, unique))) =
        parts.and_then(|(date, rest)| Some((date, rest.split_once(':')?)))
    else {
        return false;
    };
    let digits = |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_digit());
    date.split_once('-')
        .is_some_and(|(year, month)| digits(year, 4) && digits(month, 2))
        && !authority.is_empty()
        && authority
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
        && !unique.is_empty()
        && !unique.bytes().any(|b| b",;*&$|\t\n\x0c\r ".contains(&b))
}

fn fibre_channel(source: &Value, path: &str, errors: &mut ErrorList) {
    let field = format!("{path}.targetWWNs");
    let targets = list(source, "/targetWWNs");
    match (targets.is_empty(), list(source, "/wwids").is_empty()) {
        (true, true) => errors.required(field, "must specify either targetWWNs or wwids, but not both"),
        (false, false) => {
            let detail = "targetWWNs and wwids can not be specified simultaneously";
            errors.invalid(field, targets.to_vec(), detail);
        }
        _ => {}
    }
    if !targets.is_empty() {
        let field = format!("{path}.lun");
        match int(source, "/lun") {
            None => errors.required(field, "lun is required if targetWWNs is specified"),
            Some(lun) => errors.in_range(&field, lun, 0, 255),
        }
    }
}

fn azure_disk(source: &Value, path: &str, errors: &mut ErrorList) {
    if let Some(mode) = source.get("cachingMode").and_then(Value::as_str) {
        let supported = ["None", "ReadOnly", "ReadWrite"];
        errors.one_of(&format!("{path}.cachingMode"), mode, &supported);
    }
    let Some(kind) = source.get("kind").and_then(Value::as_str) else {
        return;
    };
    errors.one_of(&format!("{path}.kind"), kind, &["Dedicated", "Managed", "Shared"]);
    let (start, form) = match kind {
        "Managed" => (
            "/subscriptions/",
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
        ),
        _ => (
            "https://",
            "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd",
        ),
    };
    let uri = text(source, "/diskURI");
    if !uri.starts_with(start) {
        errors.push(FieldError::not_supported(format!("{path}.diskURI"), uri, &[form]));
    }
}

fn quobyte(source: &Value, path: &str, errors: &mut ErrorList) {
    let registry = text(source, "/registry");
    if registry.is_empty() {
        errors.required(format!("{path}.registry"), REGISTRY);
    } else if text(source, "/tenant").len() > MAX_TENANT {
        let detail = "must be a UUID and may not exceed a length of 64 characters";
        errors.required(format!("{path}.tenant"), detail);
    } else {
        for pair in registry.split(',') {
            let whole = match pair.strip_prefix('[') {
                Some(rest) => rest
                    .split_once("]:")
                    .is_some_and(|(_, port)| !port.contains([':', '[', ']'])),
                None => pair
                    .split_once(':')
                    .is_some_and(|(host, port)| !port.contains(':') && !host.contains(['[', ']'])),
            };
            if !whole {
                errors.invalid(format!("{path}.registry"), registry, REGISTRY);
            }
        }
    }
    errors.present(&format!("{path}.volume"), text(source, "/volume"));
}

fn flocker(source: &Value, path: &str, errors: &mut ErrorList) {
    let name = text(source, "/datasetName");
    match (name.is_empty(), text(source, "/datasetUUID").is_empty()) {
        (true, true) => errors.required(path, "one of datasetName and datasetUUID is required"),
        (false, false) => {
            let detail = "datasetName and datasetUUID can not be specified simultaneously";
            errors.invalid(path, "resource", detail);
        }
        _ => {}
    }
    if name.contains('/') {
        errors.invalid(format!("{path}.datasetName"), name, "must not contain '/'");
    }
}
