//! Volumes, claims, storage classes and what CSI drivers say of themselves.

use super::access::{Object, ensure, set, text};
use super::kind::Kind;
use super::pod::default::volume_source;
use super::{
    generic_prepare_for_create, generic_prepare_for_update, prepare_for_status_update_alone,
    reset_metadata_too,
};
use serde_json::{Value, json};

mod class;
mod csi;
mod source;
mod volume;

pub(super) use csi::driver_name;
pub(super) use source::common as common_source;
pub(super) use volume::{claim_spec, claim_warning};

const SPEC: &[&str] = &["spec"];

/// PersistentVolumes.
pub(super) static PERSISTENT_VOLUME: Kind = Kind::cluster("io.k8s.api.core.v1.PersistentVolume")
    .status()
    .defaults(|obj| {
        let spec = ensure(obj, "spec");
        set(spec, "persistentVolumeReclaimPolicy", "Retain");
        set(spec, "volumeMode", "Filesystem");
        volume_source(spec);
        set(ensure(obj, "status"), "phase", "Pending");
    })
    .stamps(stamp_phase)
    .prepares_create(|traits, obj| {
        generic_prepare_for_create(traits, obj);
        obj["status"] = json!({"phase": "Pending"});
    })
    .warns(|obj, _| volume::warnings(obj))
    .validates(volume::persistent_volume)
    .validates_update(volume::persistent_volume_update);

/// Says since when a volume has been in its phase: a new one since now, another one since whoever changes the phase says or else now.
fn stamp_phase(subresource: &str, new: &mut Value, old: Option<&Value>, now: &str) {
    const TIME: &str = "lastPhaseTransitionTime";
    let time = |obj: &Value| {
        obj.pointer("/status")
            .and_then(|status| status.get(TIME))
            .cloned()
    };
    let stamped = match old {
        None => time(new).unwrap_or_else(|| now.into()),
        Some(_) if subresource != "status" => return,
        Some(old) => match (
            text(old, "/status/phase") == text(new, "/status/phase"),
            time(new),
        ) {
            (true, None) => match time(old) {
                Some(time) => time,
                None => return,
            },
            (true, Some(_)) => return,
            (false, given) if given.is_none() || given == time(old) => now.into(),
            (false, _) => return,
        },
    };
    if let Some(status) = new.get_mut("status").and_then(Value::as_object_mut) {
        status.insert(TIME.into(), stamped);
    }
}

/// PersistentVolumeClaims.
pub(super) static PERSISTENT_VOLUME_CLAIM: Kind =
    Kind::namespaced("io.k8s.api.core.v1.PersistentVolumeClaim")
        .status()
        .defaults(|obj| {
            set(ensure(obj, "spec"), "volumeMode", "Filesystem");
            set(ensure(obj, "status"), "phase", "Pending");
        })
        .prepares_create(|traits, obj| {
            generic_prepare_for_create(traits, obj);
            obj["status"] = json!({"phase": "Pending"});
            data_sources(obj, None);
        })
        .prepares_update(|traits, new, old| {
            generic_prepare_for_update(traits, new, old);
            data_sources(new, Some(old));
        })
        .warns(|obj, _| claim_warning(&obj["spec"], "spec").into_iter().collect())
        .validates(volume::claim)
        .validates_update(volume::claim_update)
        .validates_status(volume::claim_status);

/// `dataSource` and `dataSourceRef` say the same unless the latter names another namespace. Only the latter can name what is
/// neither a claim nor a snapshot: `dataSource` has always been dropped then, unless the claim had one before.
fn data_sources(obj: &mut Value, old: Option<&Value>) {
    const SNAPSHOT: (&str, &str) = ("snapshot.storage.k8s.io", "VolumeSnapshot");
    let had = ["dataSource", "dataSourceRef"]
        .iter()
        .any(|field| old.is_some_and(|old| old["spec"].get(field).is_some()));
    let Some(spec) = obj.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    // Sources in other namespaces are an alpha feature.
    let referred = old.is_some_and(|old| old["spec"].get("dataSourceRef").is_some());
    let foreign = spec
        .get("dataSourceRef")
        .is_some_and(|source| !text(source, "/namespace").is_empty());
    if foreign && !referred {
        spec.remove("dataSourceRef");
    }
    if let (false, Some(source)) = (had, spec.get("dataSource")) {
        let of = (text(source, "/apiGroup"), text(source, "/kind"));
        if of != ("", "PersistentVolumeClaim") && of != SNAPSHOT {
            spec.remove("dataSource");
        }
    }
    mirror_data_source(spec);
}

fn mirror_data_source(spec: &mut Object) {
    match (
        spec.get("dataSource").cloned(),
        spec.get("dataSourceRef").cloned(),
    ) {
        (Some(source), None) => {
            spec.insert("dataSourceRef".into(), source);
        }
        (None, Some(reference)) if text(&reference, "/namespace").is_empty() => {
            let mut source = reference;
            if let Some(source) = source.as_object_mut() {
                source.remove("namespace");
            }
            spec.insert("dataSource".into(), source);
        }
        _ => {}
    }
}

/// StorageClasses.
pub(super) static STORAGE_CLASS: Kind = Kind::cluster("io.k8s.api.storage.v1.StorageClass")
    .defaults(|obj| {
        set(obj, "reclaimPolicy", "Delete");
        set(obj, "volumeBindingMode", "Immediate");
    })
    .warns(|obj, _| class::warnings(obj))
    .validates(class::storage_class)
    .validates_update(class::storage_class_update);

/// VolumeAttributesClasses.
pub(super) static VOLUME_ATTRIBUTES_CLASS: Kind =
    Kind::cluster("io.k8s.api.storage.v1.VolumeAttributesClass")
        .validates(class::volume_attributes_class)
        .validates_update(|new, old, errors| {
            class::unchanged(new, old, &["driverName", "parameters"], errors);
            class::volume_attributes_class(new, errors);
        });

/// CSIDrivers.
pub(super) static CSI_DRIVER: Kind = Kind::cluster("io.k8s.api.storage.v1.CSIDriver")
    .conditional_update()
    .generation(SPEC)
    .prepares_create(|traits, obj| {
        generic_prepare_for_create(traits, obj);
        // Only changes count.
        crate::meta::metadata_mut(obj).remove("generation");
    })
    .defaults(|obj| {
        let spec = ensure(obj, "spec");
        set(spec, "attachRequired", true);
        set(spec, "podInfoOnMount", false);
        set(spec, "storageCapacity", false);
        set(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        set(spec, "requiresRepublish", false);
        set(spec, "seLinuxMount", false);
        set(spec, "preventPodSchedulingIfMissing", false);
        let modes = spec.get("volumeLifecycleModes").and_then(Value::as_array);
        if modes.is_none_or(Vec::is_empty) {
            spec.insert("volumeLifecycleModes".into(), json!(["Persistent"]));
        }
    })
    .validates(csi::driver)
    .validates_update(csi::driver_update);

/// CSINodes.
pub(super) static CSI_NODE: Kind = Kind::cluster("io.k8s.api.storage.v1.CSINode")
    .conditional_update()
    .validates(csi::node)
    .validates_update(csi::node_update);

/// CSIStorageCapacities.
pub(super) static CSI_STORAGE_CAPACITY: Kind = Kind::namespaced("io.k8s.api.storage.v1.CSIStorageCapacity")
    .conditional_update()
    .warns(|obj, _| csi::capacity_warnings(obj))
    .validates(csi::capacity)
    .validates_update(|new, old, errors| {
        csi::changed_capacity(new, old, errors);
        for field in ["nodeTopology", "storageClassName"] {
            errors.immutable(field, new.get(field), old.get(field));
        }
    });

/// VolumeAttachments.
pub(super) static VOLUME_ATTACHMENT: Kind = Kind::cluster("io.k8s.api.storage.v1.VolumeAttachment")
    .conditional_update()
    .status()
    .prepares_status(prepare_for_status_update_alone)
    .resets(reset_metadata_too)
    .validates(csi::attachment)
    .validates_update(|new, old, errors| {
        csi::attachment_spec(new, errors);
        errors.immutable("spec", new.get("spec"), old.get("spec"));
    })
    .validates_status(|new, _, errors| csi::attachment_status(new, errors));
