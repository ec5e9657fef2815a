//! Checks of PersistentVolumes and PersistentVolumeClaims.

use super::csi::{driver_name, secret_reference};
use super::source::common;
use crate::meta;
use crate::quantity::Quantity;
use crate::schema::TypeRef;
use crate::strategy::access::{Object, list, map, text};
use crate::strategy::pod::validate::{label_selector, node_selector};
use crate::strategy::pod::warnings::{deprecated_volumes, node_selector_terms};
use crate::validation::text::{label_problems, qualified_name_problems, subdomain_problems};
use crate::validation::{ErrorList, FIELD_IMMUTABLE, FieldError, shown};
use serde_json::Value;

const ACCESS_MODES: [&str; 4] = [
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];
/// What the class of a claim was before it became a field.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const RESIZE_STATES: [&str; 5] = [
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];

fn access_modes(spec: &Value, why: &str, path: &str, errors: &mut ErrorList) {
    let path = format!("{path}.accessModes");
    let modes = list(spec, "/accessModes");
    if modes.is_empty() {
        errors.required(path.clone(), why);
    }
    for mode in modes {
        errors.one_of(&path, mode.as_str().unwrap_or(""), &ACCESS_MODES);
    }
    let other = |mode: &Value| mode != "ReadWriteOncePod" && ACCESS_MODES.iter().any(|known| mode == known);
    if modes.iter().any(other) && modes.iter().any(|m| m == "ReadWriteOncePod") {
        errors.forbidden(path, "may not use ReadWriteOncePod with other access modes");
    }
}

/// A PersistentVolume.
pub(super) fn persistent_volume(obj: &Value, errors: &mut ErrorList) {
    let spec = &obj["spec"];
    access_modes(spec, "", "spec", errors);
    let capacity = map(spec, "/capacity");
    if capacity.is_none_or(Object::is_empty) {
        errors.required("spec.capacity", "");
    }
    if capacity.is_none_or(|capacity| capacity.len() > 1 || !capacity.contains_key("storage")) {
        let value = capacity.map_or(Value::Null, |capacity| Value::Object(capacity.clone()));
        let mut error = FieldError::not_supported("spec.capacity", "", &["storage"]);
        error.bad_value = shown(&value);
        errors.push(error);
    }
    for (name, amount) in capacity.into_iter().flatten() {
        let path = format!("spec.capacity[{name}]");
        positive(amount.as_str().unwrap_or(""), &path, errors);
    }
    let policy = text(spec, "/persistentVolumeReclaimPolicy");
    if !policy.is_empty() {
        let supported = ["Delete", "Recycle", "Retain"];
        errors.one_of("spec.persistentVolumeReclaimPolicy", policy, &supported);
    }
    if let Some(required) = spec.pointer("/nodeAffinity/required") {
        node_selector(required, "spec.nodeAffinity.required", errors);
    } else if spec.get("nodeAffinity").is_some() {
        errors.required(
            "spec.nodeAffinity.required",
            "must specify required node constraints",
        );
    }
    sources(spec, "spec", errors);
    if text(spec, "/hostPath/path").trim_end_matches('/').is_empty()
        && spec.get("hostPath").is_some()
        && policy == "Recycle"
    {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errors.forbidden("spec.persistentVolumeReclaimPolicy", detail);
    }
    class_name(spec, "storageClassName", errors);
    volume_mode(spec, errors);
    if let Some(class) = spec.get("volumeAttributesClassName").and_then(Value::as_str) {
        if class.is_empty() {
            errors.required("spec.volumeAttributesClassName", "an empty string is disallowed");
        }
        class_name(spec, "volumeAttributesClassName", errors);
        if spec.get("csi").is_none() {
            errors.required(
                "spec.csi",
                "has to be specified when using volumeAttributesClassName",
            );
        }
    }
}

/// What users are told about a volume: upstream's `pkg/api/persistentvolume/util.go`.
pub(super) fn warnings(obj: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let annotations = meta::annotations(obj);
    for (key, since, field) in [
        (CLASS_ANNOTATION, "v1.8", "storageClassName"),
        ("volume.beta.kubernetes.io/mount-options", "v1.31", "mountOptions"),
    ] {
        if annotations.is_some_and(|annotations| annotations.contains_key(key)) {
            out.push(format!(
                "metadata.annotations[{key}]: deprecated since {since}; use \"{field}\" attribute instead"
            ));
        }
    }
    if text(obj, "/spec/persistentVolumeReclaimPolicy") == "Recycle" {
        let instead = "Instead, the recommended approach is to use dynamic provisioning.";
        out.push(format!(
            "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. {instead}"
        ));
    }
    out.extend(node_selector_terms(
        list(obj, "/spec/nodeAffinity/required/nodeSelectorTerms"),
        "spec.nodeAffinity.required.nodeSelectorTerms",
    ));
    out.extend(deprecated_volumes(&obj["spec"], "spec"));
    out
}

fn volume_mode(spec: &Value, errors: &mut ErrorList) {
    if let Some(mode) = spec.get("volumeMode").and_then(Value::as_str) {
        errors.one_of("spec.volumeMode", mode, &["Block", "Filesystem"]);
    }
}

fn class_name(spec: &Value, field: &str, errors: &mut ErrorList) {
    let class = text(spec, &format!("/{field}"));
    if !class.is_empty() {
        errors.problems(&format!("spec.{field}"), class, subdomain_problems(class));
    }
}

/// A volume within a VolumeAttachment: what a PersistentVolume may say of being claimed makes no sense there.
pub(super) fn inline_volume(spec: &Value, path: &str, errors: &mut ErrorList) {
    let foreign = |field: &str, errors: &mut ErrorList| {
        if spec.get(field).is_some_and(|v| v != "") {
            let detail = "may not be specified in the context of inline volumes";
            errors.forbidden(format!("{path}.{field}"), detail);
        }
    };
    foreign("claimRef", errors);
    foreign("capacity", errors);
    if spec.get("csi").is_none() {
        let detail = "has to be specified in the context of inline volumes";
        errors.required(format!("{path}.csi"), detail);
    }
    access_modes(spec, "", path, errors);
    let policy = text(spec, "/persistentVolumeReclaimPolicy");
    if !policy.is_empty() && policy != "Retain" {
        let detail = "may only be Retain in the context of inline volumes";
        errors.forbidden(format!("{path}.persistentVolumeReclaimPolicy"), detail);
    }
    foreign("nodeAffinity", errors);
    sources(spec, path, errors);
    foreign("storageClassName", errors);
    let mode = text(spec, "/volumeMode");
    if !mode.is_empty() && mode != "Filesystem" {
        let detail = "may not specify volumeMode other than Filesystem in the context of inline volumes";
        errors.forbidden(format!("{path}.volumeMode"), detail);
    }
}

/// The kinds of sources in the order in which upstream looks at them: the later of two is the one too many.
const SOURCES: [&str; 22] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

/// Exactly one source, with what it cannot do without.
fn sources(spec: &Value, path: &str, errors: &mut ErrorList) {
    let mut given = 0;
    for name in SOURCES {
        let Some(value) = spec.get(name) else { continue };
        given += 1;
        // Upstream's slips: one name differs from the field's, and one kind may always be there.
        if given > 1 && name != "flexVolume" {
            let name = if name == "cephfs" { "cephFS" } else { name };
            errors.forbidden(
                format!("{path}.{name}"),
                "may not specify more than 1 volume type",
            );
            continue;
        }
        let at = format!("{path}.{name}");
        match name {
            "csi" => csi(value, &at, errors),
            _ => common(name, value, &at, true, errors),
        }
        if name == "local" && spec.get("nodeAffinity").is_none() {
            let detail = "Local volume requires node affinity";
            errors.required(format!("{path}.nodeAffinity"), detail);
        }
    }
    if given == 0 {
        errors.required(path, "must specify a volume type");
    }
}

fn csi(source: &Value, path: &str, errors: &mut ErrorList) {
    driver_name(text(source, "/driver"), &format!("{path}.driver"), errors);
    errors.present(&format!("{path}.volumeHandle"), text(source, "/volumeHandle"));
    for field in [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
    ] {
        if let Some(reference) = source.get(field) {
            secret_reference(reference, &format!("{path}.{field}"), errors);
        }
    }
}

/// A volume stays what it is.
pub(super) fn persistent_volume_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    persistent_volume(new, errors);
    let (new, old) = (&new["spec"], &old["spec"]);
    let mut now = new.clone();
    if old.pointer("/csi/controllerExpandSecretRef").is_none()
        && let Some(csi) = now.get_mut("csi").and_then(Value::as_object_mut)
    {
        csi.remove("controllerExpandSecretRef");
    }
    let schema = TypeRef::by_name("io.k8s.api.core.v1.PersistentVolumeSource");
    let changed = schema
        .into_iter()
        .flat_map(TypeRef::fields)
        .any(|field| now.get(field.name()) != old.get(field.name()));
    if changed {
        let detail = "spec.persistentvolumesource is immutable after creation\n";
        errors.forbidden("spec.persistentvolumesource", detail);
    }
    errors.immutable("volumeMode", new.get("volumeMode"), old.get("volumeMode"));
    if let Some(before) = old.get("nodeAffinity") {
        let now = new.get("nodeAffinity");
        if !now.is_some_and(|now| same_affinity(now, before)) {
            let detail = format!("{FIELD_IMMUTABLE}, except for updating from beta label to GA");
            errors.invalid("nodeAffinity", now.cloned().unwrap_or_default(), detail);
        }
    }
    let class = "volumeAttributesClassName";
    if old.get(class).is_some() && new.get(class).is_none() {
        let detail = "update from non-nil value to nil is forbidden";
        errors.forbidden(format!("spec.{class}"), detail);
    }
}

/// Labels of nodes that were renamed when they became stable.
const STABLE_LABELS: [(&str, &str); 5] = [
    (
        "failure-domain.beta.kubernetes.io/zone",
        "topology.kubernetes.io/zone",
    ),
    (
        "failure-domain.beta.kubernetes.io/region",
        "topology.kubernetes.io/region",
    ),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    (
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
    ),
];

/// Whether two affinities differ in nothing but the stable names of labels.
fn same_affinity(now: &Value, then: &Value) -> bool {
    match (now, then) {
        (Value::Object(a), Value::Object(b)) => {
            let renamed = |field: &str, now: &Value, then: &Value| {
                let pair = (then.as_str().unwrap_or(""), now.as_str().unwrap_or(""));
                field == "key" && STABLE_LABELS.contains(&pair)
            };
            a.len() == b.len()
                && a.iter().all(|(field, now)| {
                    b.get(field)
                        .is_some_and(|then| renamed(field, now, then) || same_affinity(now, then))
                })
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(now, then)| same_affinity(now, then))
        }
        _ => now == then,
    }
}

/// A PersistentVolumeClaim.
pub(super) fn claim(obj: &Value, errors: &mut ErrorList) {
    claim_spec(&obj["spec"], errors);
}

/// The spec of a claim, in a claim or a template of one; paths begin with `spec`.
pub(in crate::strategy) fn claim_spec(spec: &Value, errors: &mut ErrorList) {
    access_modes(spec, "at least 1 access mode is required", "spec", errors);
    if let Some(selector) = spec.get("selector") {
        label_selector(selector, "spec.selector", errors);
    }
    let path = "spec.resources[storage]";
    match spec
        .pointer("/resources/requests/storage")
        .and_then(Value::as_str)
    {
        None => errors.required(path, ""),
        Some(size) => positive(size, path, errors),
    }
    class_name(spec, "storageClassName", errors);
    volume_mode(spec, errors);
    for field in ["dataSource", "dataSourceRef"] {
        if let Some(source) = spec.get(field) {
            data_source(source, &format!("spec.{field}"), errors);
        }
    }
    let (source, reference) = (spec.get("dataSource"), spec.get("dataSourceRef"));
    if let (Some(source), Some(reference)) = (source, reference) {
        let differs = ["apiGroup", "kind", "name"]
            .iter()
            .any(|field| source.get(field) != reference.get(field));
        if !text(reference, "/namespace").is_empty() {
            let detail = "may not be specified when dataSourceRef.namespace is specified";
            errors.invalid("spec", "spec.dataSource", detail);
        } else if differs {
            errors.invalid("spec", "spec.dataSource", "must match dataSourceRef");
        }
    }
    class_name(spec, "volumeAttributesClassName", errors);
}

fn positive(amount: &str, path: &str, errors: &mut ErrorList) {
    if !Quantity::parse(amount).is_ok_and(|q| q.signum() > 0) {
        errors.invalid(path, amount, "must be greater than zero");
    }
}

fn data_source(source: &Value, path: &str, errors: &mut ErrorList) {
    for field in ["name", "kind"] {
        errors.present(&format!("{path}.{field}"), text(source, &format!("/{field}")));
    }
    let (group, kind) = (text(source, "/apiGroup"), text(source, "/kind"));
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errors.invalid(path, kind, detail);
    }
    if !group.is_empty() {
        errors.problems(&format!("{path}.apiGroup"), group, subdomain_problems(group));
    }
    let namespace = text(source, "/namespace");
    if !namespace.is_empty() {
        errors.problems(&format!("{path}.namespace"), namespace, label_problems(namespace));
    }
}

/// What users are told of a claim to a part of a byte.
pub(in crate::strategy) fn claim_warning(spec: &Value, path: &str) -> Option<String> {
    let size = spec.pointer("/resources/requests/storage")?;
    let amount = Quantity::parse(size.as_str()?).ok()?;
    (amount.milli_value() % 1000 != 0).then(|| {
        let amount = crate::status::quote(&amount.canonical());
        format!("{path}.resources.requests[storage]: fractional byte value {amount} is invalid, must be an integer")
    })
}

/// A bound claim may ask for more, and for other attributes; the binder names the volume once.
pub(super) fn claim_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    claim(new, errors);
    let annotated = |obj: &Value| {
        let class = meta::annotations(obj).and_then(|a| a.get(CLASS_ANNOTATION));
        class.and_then(Value::as_str).unwrap_or("").to_string()
    };
    let class = |obj: &Value| obj.pointer("/spec/storageClassName").cloned();
    let (mut now, mut then) = (new["spec"].clone(), old["spec"].clone());
    let (annotation, before) = (annotated(new), annotated(old));
    // The class may be filled in once, from the annotation or by the controller that knows the default.
    let may_class =
        class(old).is_none() && class(new).is_some_and(|class| before.is_empty() || class == before.as_str());
    if annotation != before && !(may_class && annotation.is_empty()) {
        let path = format!("metadata.annotations[{CLASS_ANNOTATION}]");
        errors.invalid(path, annotation, FIELD_IMMUTABLE);
    }
    let bound = text(new, "/status/phase") == "Bound";
    let mut ignored = Vec::new();
    if bound {
        ignored.push("volumeAttributesClassName");
    }
    if text(&then, "/volumeName").is_empty() {
        ignored.push("volumeName");
    }
    if may_class {
        ignored.push("storageClassName");
    }
    for spec in [&mut now, &mut then] {
        let Some(spec) = spec.as_object_mut() else {
            continue;
        };
        for field in &ignored {
            spec.remove(*field);
        }
    }
    if bound {
        for spec in [&mut now, &mut then] {
            if let Some(requests) = spec
                .pointer_mut("/resources/requests")
                .and_then(Value::as_object_mut)
            {
                requests.remove("storage");
            }
        }
    }
    if now != then {
        let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n";
        errors.forbidden("spec", detail);
    }
    let size = |obj: &Value, pointer: &str| Quantity::parse(text(obj, pointer)).ok();
    let requested = "/spec/resources/requests/storage";
    if let (Some(now), Some(then)) = (size(new, requested), size(old, requested))
        && now < then
    {
        // A failed expansion may be taken back, but not below what there is.
        let have = size(old, "/status/capacity/storage");
        if have.is_none_or(|have| now <= have) && (have.is_some() || now.signum() <= 0) {
            let detail = "field can not be less than status.capacity";
            errors.forbidden("spec.resources.requests.storage", detail);
        }
    }
    let mode = |obj: &Value| obj.pointer("/spec/volumeMode").cloned();
    errors.immutable("volumeMode", mode(new).as_ref(), mode(old).as_ref());
    let path = "spec.volumeAttributesClassName";
    let attributes = |obj: &Value| {
        let class = obj.pointer("/spec/volumeAttributesClassName");
        class.and_then(Value::as_str).map(str::to_string)
    };
    if attributes(old).is_some() {
        match attributes(new).as_deref() {
            None if old.pointer("/status/currentVolumeAttributesClassName").is_some() => {
                let detail =
                    "update to nil is forbidden when status.currentVolumeAttributesClassName is not nil";
                errors.forbidden(path, detail);
            }
            None => {}
            Some("") => {
                errors.forbidden(path, "update from non-nil value to an empty string is forbidden");
            }
            Some(_) => {}
        }
    }
}

/// What binders and resizers report.
pub(super) fn claim_status(new: &Value, _: &Value, errors: &mut ErrorList) {
    for (name, amount) in map(new, "/status/capacity").into_iter().flatten() {
        basic_amount(amount, &format!("status.capacity[{name}]"), errors);
    }
    let states = map(new, "/status/allocatedResourceStatuses");
    for (name, state) in states.into_iter().flatten() {
        let path = "status.allocatedResourceStatus";
        claimed_resource(name, path, errors);
        if !RESIZE_STATES.contains(&state.as_str().unwrap_or("")) {
            errors.one_of(path, name, &RESIZE_STATES);
        }
    }
    for (name, amount) in map(new, "/status/allocatedResources").into_iter().flatten() {
        let path = "status.allocatedResources";
        if claimed_resource(name, path, errors) {
            basic_amount(amount, &format!("{path}[{name}]"), errors);
        }
    }
}

/// Of the resources that Kubernetes knows a claim has storage alone; tells whether the name is one for claims.
fn claimed_resource(name: &str, path: &str, errors: &mut ErrorList) -> bool {
    let before = errors.len();
    errors.problems(path, name, qualified_name_problems(name));
    if errors.len() == before && (!name.contains('/') || name.contains("kubernetes.io/")) {
        errors.one_of(path, name, &["storage"]);
    }
    errors.len() == before
}

fn basic_amount(amount: &Value, path: &str, errors: &mut ErrorList) {
    let amount = amount.as_str().and_then(|amount| Quantity::parse(amount).ok());
    if let Some(amount) = amount.filter(|amount| amount.value() < 0) {
        errors.invalid(path, amount.value(), "must be a valid resource quantity");
    }
}
