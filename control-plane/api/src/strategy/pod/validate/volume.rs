//! Volumes of a pod spec.

use super::container::{field_ref, relative_path, resource_ref};
use super::label_selector;
use crate::meta::{validate_annotations, validate_labels};
use crate::strategy::access::{int, list, map, text};
use crate::strategy::certificates::{signer_name, user_annotations};
use crate::strategy::storage::{claim_spec, common_source, driver_name};
use crate::validation::text::{label_problems, subdomain_problems};
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
/// Keys that a kubelet can make.
const KEY_TYPES: [&str; 6] = [
    "RSA3072",
    "RSA4096",
    "ECDSAP256",
    "ECDSAP384",
    "ECDSAP521",
    "ED25519",
];
/// Where a key and its certificate can be put.
const CREDENTIAL_FILES: [&str; 3] = ["credentialBundlePath", "keyPath", "certificateChainPath"];
/// How long a pod's certificate may be asked for.
const MIN_CERTIFICATE_SECONDS: i64 = 60 * 60;
const MAX_CERTIFICATE_SECONDS: i64 = 91 * 24 * 60 * 60;
/// The shortest life of a bound token.
const MIN_TOKEN_SECONDS: i64 = 600;
const MAX_TOKEN_SECONDS: i64 = 1 << 32;

/// Checks all volumes.
pub(super) fn volumes(volumes: &[Value], path: &str, errors: &mut ErrorList) {
    let mut names: Vec<&str> = Vec::new();
    for (i, volume) in volumes.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let before = errors.len();
        sources(volume, &path, errors);
        let name = text(volume, "/name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else {
            errors.problems(&format!("{path}.name"), name, label_problems(name));
        }
        if names.contains(&name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), &name.into()));
        }
        // Upstream forgets those that something is wrong with.
        if errors.len() == before {
            names.push(name);
        }
    }
}

/// Volumes of a pod name their image; those of a template may leave that to somebody else.
pub(super) fn images(volumes: &[Value], path: &str, errors: &mut ErrorList) {
    for (i, volume) in volumes.iter().enumerate() {
        if let Some(image) = volume.get("image") {
            errors.present(&format!("{path}[{i}].image.reference"), text(image, "/reference"));
        }
    }
}

/// The kinds of sources in the order in which upstream looks at them: the later of two is the one too many.
const SOURCES: [&str; 30] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

fn sources(volume: &Value, path: &str, errors: &mut ErrorList) {
    let mut given = 0;
    for field in SOURCES {
        let Some(source) = volume.get(field) else { continue };
        given += 1;
        let path = format!("{path}.{field}");
        if given > 1 {
            // Upstream's slip: the name differs from the field's.
            errors.forbidden(
                path.replace(".cephfs", ".cephFS"),
                "may not specify more than 1 volume type",
            );
        } else {
            source_fields(field, source, &path, errors);
        }
    }
    if given == 0 {
        errors.push(FieldError::required(path, "must specify a volume type"));
    }
}

fn source_fields(kind: &str, source: &Value, path: &str, errors: &mut ErrorList) {
    let required = match kind {
        "secret" => "secretName",
        "configMap" => "name",
        "persistentVolumeClaim" => "claimName",
        "gitRepo" => "repository",
        _ => "",
    };
    if !required.is_empty() {
        errors.present(
            &format!("{path}.{required}"),
            text(source, &format!("/{required}")),
        );
    }
    match kind {
        "secret" | "configMap" => {
            mode(source, "defaultMode", path, errors);
            keys_to_paths(source, path, errors);
        }
        "gitRepo" => {
            let directory = text(source, "/directory");
            relative_path(directory, &format!("{path}.directory"), errors);
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
            driver_name(text(source, "/driver"), &format!("{path}.driver"), errors);
            if let Some(secret) = source.get("nodePublishSecretRef") {
                let name = text(secret, "/name");
                if errors.present(&format!("{path}.nodePublishSecretRef.name"), name) {
                    errors.problems(&format!("{path}.name"), name, subdomain_problems(name));
                }
            }
        }
        "ephemeral" => {
            let path = format!("{path}.volumeClaimTemplate");
            match source.get("volumeClaimTemplate") {
                None => errors.required(path, ""),
                Some(template) => claim_template(template, &path, errors),
            }
        }
        "emptyDir" => {
            let limit = source.get("sizeLimit").and_then(Value::as_str);
            if limit.is_some_and(|l| l.starts_with('-')) {
                let detail = "SizeLimit field must be a valid resource quantity";
                errors.push(FieldError::forbidden(format!("{path}.sizeLimit"), detail));
            }
        }
        "image" => {
            let policy = text(source, "/pullPolicy");
            let at = format!("{path}.pullPolicy");
            if errors.present(&at, policy) {
                errors.one_of(&at, policy, &["Always", "IfNotPresent", "Never"]);
            }
        }
        _ => common_source(kind, source, path, false, errors),
    }
}

/// The claim that a pod brings with it: its metadata may have labels and annotations, nothing else.
fn claim_template(template: &Value, path: &str, errors: &mut ErrorList) {
    let metadata = &template["metadata"];
    validate_annotations(
        map(metadata, "/annotations"),
        &format!("{path}.metadata.annotations"),
        errors,
    );
    validate_labels(
        map(metadata, "/labels"),
        &format!("{path}.metadata.labels"),
        errors,
    );
    for (field, value) in metadata.as_object().into_iter().flatten() {
        let empty = value.is_null() || value == "" || value == 0;
        if !empty && !matches!(field.as_str(), "annotations" | "labels") {
            let field = if field == "uid" { "uID" } else { field };
            errors.forbidden(format!("{path}.metadata.{field}"), "cannot be set");
        }
    }
    let mut inner = ErrorList::new();
    claim_spec(&template["spec"], &mut inner);
    errors.under(path, inner);
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
    if target.starts_with("..") && !target.starts_with("../") {
        errors.push(FieldError::invalid(
            path,
            &target.into(),
            "must not start with '..'",
        ));
    }
}

/// Upstream does not say which of the items is meant.
fn downward(source: &Value, path: &str, errors: &mut ErrorList) {
    for item in list(source, "/items") {
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
                path,
                &"resource".into(),
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            )),
            (None, None) => {
                errors.push(FieldError::required(
                    path,
                    "one of fieldRef and resourceFieldRef is required",
                ));
            }
        }
        mode(item, "mode", path, errors);
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
                    let field = format!("{path}.expirationSeconds");
                    if seconds < MIN_TOKEN_SECONDS {
                        let detail = "may not specify a duration less than 10 minutes";
                        errors.invalid(field, seconds, detail);
                    } else if seconds > MAX_TOKEN_SECONDS {
                        let detail = "may not specify a duration larger than 2^32 seconds";
                        errors.invalid(field, seconds, detail);
                    }
                    // Upstream's path is that of the volume, and the file may be there twice.
                    file_path(text(inner, "/path"), &format!("{owner}.path"), errors);
                }
                "podCertificate" => {
                    pod_certificate(inner, &path, errors);
                    for field in CREDENTIAL_FILES {
                        let file = text(inner, &format!("/{field}"));
                        once(&mut files, file, owner, file, errors);
                    }
                }
                "clusterTrustBundle" => {
                    trust_bundle(inner, &format!("{path}PEM"), errors);
                    let file = text(inner, "/path");
                    once(&mut files, file, owner, file, errors);
                }
                _ => {}
            }
        }
        if given > 1 {
            errors.forbidden(path, "may not specify more than 1 volume type");
        }
    }
}

/// A key that the kubelet makes, with the certificate that a signer gives for it.
fn pod_certificate(source: &Value, path: &str, errors: &mut ErrorList) {
    let signer = text(source, "/signerName");
    signer_name(signer, &format!("{path}.signerName"), errors);
    errors.one_of(&format!("{path}.keyType"), text(source, "/keyType"), &KEY_TYPES);
    if let Some(seconds) = int(source, "/maxExpirationSeconds") {
        let at = format!("{path}.maxExpirationSeconds");
        errors.in_range(&at, seconds, MIN_CERTIFICATE_SECONDS, MAX_CERTIFICATE_SECONDS);
    }
    let mut files = 0;
    for field in CREDENTIAL_FILES {
        let file = text(source, &format!("/{field}"));
        if !file.is_empty() {
            files += 1;
            file_path(file, &format!("{path}.{field}"), errors);
        }
    }
    if files == 0 {
        let detail = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        errors.required(path, detail);
    }
    user_annotations(
        source,
        "userAnnotations",
        &format!("{path}.userAnnotations"),
        errors,
    );
}

/// Trust anchors by the name of their bundle, or by that of a signer and labels.
fn trust_bundle(source: &Value, path: &str, errors: &mut ErrorList) {
    let given = |field: &str| source.get(field).and_then(Value::as_str);
    match (given("name"), given("signerName")) {
        (Some(_), Some(_)) => {
            let detail = "only one of name and signerName may be used";
            errors.invalid(path, source.clone(), detail);
        }
        (Some(name), None) => {
            let field = format!("{path}.name");
            if name.is_empty() {
                errors.required(field.as_str(), "must be a valid object name");
            }
            for problem in subdomain_problems(name.rsplit(':').next().unwrap_or("")) {
                let detail = format!("not a valid clustertrustbundlename: {problem}");
                errors.invalid(field.as_str(), name, detail);
            }
            if let Some(selector) = source.get("labelSelector") {
                let detail = "labelSelector must be unset if name is specified";
                errors.invalid(format!("{path}.labelSelector"), selector.clone(), detail);
            }
        }
        (None, Some(signer)) => {
            let field = format!("{path}.signerName");
            if signer.is_empty() {
                errors.required(field.as_str(), "must be a valid signer name");
            }
            signer_name(signer, &field, errors);
            if let Some(selector) = source.get("labelSelector") {
                label_selector(selector, &format!("{path}.labelSelector"), errors);
            }
        }
        (None, None) => errors.required(path, "either name or signerName must be specified"),
    }
    file_path(text(source, "/path"), &format!("{path}.path"), errors);
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
