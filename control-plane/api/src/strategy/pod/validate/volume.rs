//! Volumes of a pod spec.

use super::container::{field_ref, relative_path, resource_ref};
use crate::strategy::access::{int, list, text};
use crate::validation::text::label_problems;
use crate::validation::{ErrorList, FieldError};
use serde_json::Value;

/// Fields of the pod that files may show.
const FILE_FIELDS: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
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
/// The shortest life of a bound token.
const MIN_TOKEN_SECONDS: i64 = 600;

/// Checks all volumes.
pub(super) fn volumes(volumes: &[Value], path: &str, errors: &mut ErrorList) {
    let mut names: Vec<&str> = Vec::new();
    for (i, volume) in volumes.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let name = text(volume, "/name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else {
            errors.problems(&format!("{path}.name"), name, label_problems(name));
        }
        if names.contains(&name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), &name.into()));
        }
        names.push(name);
        sources(volume, &path, errors);
    }
}

fn sources(volume: &Value, path: &str, errors: &mut ErrorList) {
    let schema = crate::schema::TypeRef::by_name("io.k8s.api.core.v1.VolumeSource");
    let mut given = 0;
    // Upstream looks at emptyDir first; it matters for which of two is too many.
    let rest = schema
        .into_iter()
        .flat_map(|s| s.fields())
        .map(|f| f.name())
        .filter(|f| *f != "emptyDir");
    for field in std::iter::once("emptyDir").chain(rest) {
        let Some(source) = volume.get(field) else { continue };
        given += 1;
        let path = format!("{path}.{field}");
        if given > 1 {
            errors.push(FieldError::forbidden(
                path,
                "may not specify more than 1 volume type",
            ));
        } else {
            source_fields(field, source, &path, errors);
        }
    }
    if given == 0 {
        errors.push(FieldError::required(path, "must specify a volume type"));
    }
}

fn source_fields(kind: &str, source: &Value, path: &str, errors: &mut ErrorList) {
    let required: &[&str] = match kind {
        "hostPath" => &["path"],
        "secret" => &["secretName"],
        "configMap" => &["name"],
        "persistentVolumeClaim" => &["claimName"],
        "nfs" => &["server", "path"],
        "csi" | "flexVolume" => &["driver"],
        "gitRepo" => &["repository"],
        "glusterfs" => &["endpoints", "path"],
        "iscsi" => &["targetPortal", "iqn"],
        "rbd" => &["image"],
        "azureFile" => &["secretName", "shareName"],
        "azureDisk" => &["diskName", "diskURI"],
        "vsphereVolume" => &["volumePath"],
        "awsElasticBlockStore" | "portworxVolume" => &["volumeID"],
        "gcePersistentDisk" => &["pdName"],
        _ => &[],
    };
    for field in required {
        if text(source, &format!("/{field}")).is_empty() {
            errors.push(FieldError::required(format!("{path}.{field}"), ""));
        }
    }
    match kind {
        "hostPath" => {
            let target = text(source, "/path");
            if target.split('/').any(|part| part == "..") {
                errors.push(FieldError::invalid(
                    format!("{path}.path"),
                    &target.into(),
                    "must not contain '..'",
                ));
            }
            errors.one_of(&format!("{path}.type"), text(source, "/type"), &HOST_PATH_TYPES);
        }
        "secret" | "configMap" => {
            mode(source, "defaultMode", path, errors);
            keys_to_paths(source, path, errors);
        }
        "downwardAPI" => {
            mode(source, "defaultMode", path, errors);
            downward(source, path, errors);
        }
        "projected" => {
            mode(source, "defaultMode", path, errors);
            projected(source, path, errors);
        }
        "csi" => {
            let secret = source.get("nodePublishSecretRef");
            if secret.is_some_and(|secret| text(secret, "/name").is_empty()) {
                errors.required(format!("{path}.nodePublishSecretRef.name"), "");
            }
        }
        "rbd" | "cephfs" if list(source, "/monitors").is_empty() => {
            errors.required(format!("{path}.monitors"), "");
        }
        "ephemeral" if source.get("volumeClaimTemplate").is_none() => {
            errors.required(format!("{path}.volumeClaimTemplate"), "");
        }
        "emptyDir" => {
            let limit = source.get("sizeLimit").and_then(Value::as_str);
            if limit.is_some_and(|l| l.starts_with('-')) {
                let detail = "SizeLimit field must be a valid resource quantity";
                errors.push(FieldError::forbidden(format!("{path}.sizeLimit"), detail));
            }
        }
        _ => {}
    }
}

fn mode(owner: &Value, field: &str, path: &str, errors: &mut ErrorList) {
    if let Some(mode) = int(owner, &format!("/{field}"))
        && !(0..=0o777).contains(&mode)
    {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(FieldError::invalid(
            format!("{path}.{field}"),
            &mode.into(),
            detail,
        ));
    }
}

fn keys_to_paths(source: &Value, path: &str, errors: &mut ErrorList) {
    for (i, item) in list(source, "/items").iter().enumerate() {
        let path = format!("{path}.items[{i}]");
        if text(item, "/key").is_empty() {
            errors.push(FieldError::required(format!("{path}.key"), ""));
        }
        file_path(text(item, "/path"), &format!("{path}.path"), errors);
        mode(item, "mode", &path, errors);
    }
}

fn file_path(target: &str, path: &str, errors: &mut ErrorList) {
    if target.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    relative_path(target, path, errors);
    if target.starts_with("..") && !target.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(
            path,
            &target.into(),
            "must not start with '..'",
        ));
    }
}

fn downward(source: &Value, path: &str, errors: &mut ErrorList) {
    for (i, item) in list(source, "/items").iter().enumerate() {
        let path = format!("{path}.items[{i}]");
        file_path(text(item, "/path"), &format!("{path}.path"), errors);
        match (item.get("fieldRef"), item.get("resourceFieldRef")) {
            (Some(field), None) => field_ref(field, &format!("{path}.fieldRef"), &FILE_FIELDS, errors),
            (None, Some(resource)) => {
                let path = format!("{path}.resourceFieldRef");
                if text(resource, "/containerName").is_empty() {
                    errors.push(FieldError::required(format!("{path}.containerName"), ""));
                }
                resource_ref(resource, &path, errors);
            }
            (Some(_), Some(_)) => errors.push(FieldError::invalid(
                path.clone(),
                &"resource".into(),
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            )),
            (None, None) => {
                errors.push(FieldError::required(
                    path.clone(),
                    "one of fieldRef and resourceFieldRef is required",
                ));
            }
        }
        mode(item, "mode", &path, errors);
    }
}

fn projected(source: &Value, path: &str, errors: &mut ErrorList) {
    let owner = path;
    let mut files: Vec<&str> = Vec::new();
    for (i, source) in list(source, "/sources").iter().enumerate() {
        let path = format!("{path}.sources[{i}]");
        let mut given = 0;
        for kind in [
            "secret",
            "configMap",
            "downwardAPI",
            "serviceAccountToken",
            "clusterTrustBundle",
            "podCertificate",
        ] {
            let Some(inner) = source.get(kind) else { continue };
            given += 1;
            let path = format!("{path}.{kind}");
            if given > 1 {
                errors.push(FieldError::forbidden(
                    path,
                    "may not specify more than 1 volume type per source",
                ));
                continue;
            }
            match kind {
                "secret" | "configMap" => {
                    if text(inner, "/name").is_empty() {
                        errors.push(FieldError::required(format!("{path}.name"), ""));
                    }
                    keys_to_paths(inner, &path, errors);
                    for item in list(inner, "/items") {
                        once(
                            &mut files,
                            text(item, "/path"),
                            owner,
                            text(inner, "/name"),
                            errors,
                        );
                    }
                }
                "downwardAPI" => {
                    downward(inner, &path, errors);
                    for item in list(inner, "/items") {
                        let file = text(item, "/path");
                        once(&mut files, file, owner, file, errors);
                    }
                }
                "serviceAccountToken" => {
                    let seconds = int(inner, "/expirationSeconds").unwrap_or(MIN_TOKEN_SECONDS);
                    if seconds < MIN_TOKEN_SECONDS {
                        let detail = "may not specify a duration less than 10 minutes";
                        errors.push(FieldError::invalid(
                            format!("{path}.expirationSeconds"),
                            &seconds.into(),
                            detail,
                        ));
                    }
                    let file = text(inner, "/path");
                    file_path(file, &format!("{path}.path"), errors);
                    once(&mut files, file, owner, file, errors);
                }
                _ => {}
            }
        }
    }
}

/// Two sources may not make the same file. `blamed` is what is shown of the later one.
fn once<'a>(files: &mut Vec<&'a str>, file: &'a str, path: &str, blamed: &str, errors: &mut ErrorList) {
    if file.is_empty() {
        return;
    }
    if files.contains(&file) {
        errors.invalid(path, blamed, "conflicting duplicate paths");
    }
    files.push(file);
}
