//! Volumes and what provides them.

use serde_json::Value;

use super::{AGE, NAME, NONE, Printer, age, boolean, integer, joined, list, name, string, text, wide};
use crate::table::Column;

pub(super) const PERSISTENT_VOLUME: Printer = Printer {
    columns: &[
        NAME,
        string("Capacity").of("core.v1.PersistentVolumeSpec", "capacity"),
        string("Access Modes").of("core.v1.PersistentVolumeSpec", "accessModes"),
        string("Reclaim Policy").of("core.v1.PersistentVolumeSpec", "persistentVolumeReclaimPolicy"),
        string("Status").of("core.v1.PersistentVolumeStatus", "phase"),
        string("Claim").of("core.v1.PersistentVolumeSpec", "claimRef"),
        string("StorageClass"),
        string("VolumeAttributesClass"),
        string("Reason").of("core.v1.PersistentVolumeStatus", "reason"),
        AGE,
        wide("VolumeMode").of("core.v1.PersistentVolumeSpec", "volumeMode"),
    ],
    row: |object, now| {
        let (spec, status) = (&object["spec"], &object["status"]);
        let claim = match &spec["claimRef"] {
            Value::Null => String::new(),
            reference => format!("{}/{}", text(&reference["namespace"]), text(&reference["name"])),
        };
        vec![
            name(object),
            storage(&spec["capacity"]).into(),
            access_modes(list(&spec["accessModes"])).into(),
            text(&spec["persistentVolumeReclaimPolicy"]).into(),
            phase(object).into(),
            claim.into(),
            class(object).into(),
            unset(&spec["volumeAttributesClassName"]).into(),
            text(&status["reason"]).into(),
            age(object, now),
            unset(&spec["volumeMode"]).into(),
        ]
    },
};

pub(super) const PERSISTENT_VOLUME_CLAIM: Printer = Printer {
    columns: &[
        NAME,
        string("Status").of("core.v1.PersistentVolumeClaimStatus", "phase"),
        string("Volume").of("core.v1.PersistentVolumeClaimSpec", "volumeName"),
        string("Capacity").of("core.v1.PersistentVolumeClaimStatus", "capacity"),
        string("Access Modes").of("core.v1.PersistentVolumeClaimStatus", "accessModes"),
        string("StorageClass"),
        string("VolumeAttributesClass"),
        AGE,
        wide("VolumeMode").of("core.v1.PersistentVolumeClaimSpec", "volumeMode"),
    ],
    row: |object, now| {
        let (spec, status) = (&object["spec"], &object["status"]);
        let bound = !text(&spec["volumeName"]).is_empty();
        let capacity = if bound { storage(&status["capacity"]) } else { "" };
        let modes = if bound {
            access_modes(list(&status["accessModes"]))
        } else {
            String::new()
        };
        vec![
            name(object),
            phase(object).into(),
            text(&spec["volumeName"]).into(),
            capacity.into(),
            modes.into(),
            class(object).into(),
            unset(&spec["volumeAttributesClassName"]).into(),
            age(object, now),
            unset(&spec["volumeMode"]).into(),
        ]
    },
};

pub(super) const STORAGE_CLASS: Printer = Printer {
    columns: &[
        NAME,
        string("Provisioner").of("storage.v1.StorageClass", "provisioner"),
        string("ReclaimPolicy").of("storage.v1.StorageClass", "reclaimPolicy"),
        string("VolumeBindingMode").of("storage.v1.StorageClass", "volumeBindingMode"),
        string("AllowVolumeExpansion").of("storage.v1.StorageClass", "allowVolumeExpansion"),
        AGE,
    ],
    row: |object, now| {
        let default = [
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        ];
        vec![
            class_name(object, &default),
            text(&object["provisioner"]).into(),
            object["reclaimPolicy"].as_str().unwrap_or("Delete").into(),
            object["volumeBindingMode"].as_str().unwrap_or("Immediate").into(),
            (object["allowVolumeExpansion"] == true).into(),
            age(object, now),
        ]
    },
};

pub(super) const VOLUME_ATTRIBUTES_CLASS: Printer = Printer {
    columns: &[
        NAME,
        string("DriverName").of("storage.v1.VolumeAttributesClass", "driverName"),
        AGE,
    ],
    row: |object, now| {
        let default = ["volumeattributesclass.alpha.kubernetes.io/is-default-class"];
        vec![
            class_name(object, &default),
            text(&object["driverName"]).into(),
            age(object, now),
        ]
    },
};

pub(super) const CSI_DRIVER: Printer = Printer {
    columns: &[
        NAME,
        boolean("AttachRequired").of("storage.v1.CSIDriverSpec", "attachRequired"),
        boolean("PodInfoOnMount").of("storage.v1.CSIDriverSpec", "podInfoOnMount"),
        boolean("StorageCapacity").of("storage.v1.CSIDriverSpec", "storageCapacity"),
        string("TokenRequests").of("storage.v1.CSIDriverSpec", "tokenRequests"),
        boolean("RequiresRepublish").of("storage.v1.CSIDriverSpec", "requiresRepublish"),
        string("Modes").of("storage.v1.CSIDriverSpec", "volumeLifecycleModes"),
        AGE,
    ],
    row: |object, now| {
        let spec = &object["spec"];
        vec![
            name(object),
            (spec["attachRequired"] != false).into(),
            (spec["podInfoOnMount"] == true).into(),
            (spec["storageCapacity"] == true).into(),
            match &spec["tokenRequests"] {
                Value::Null => "<unset>".into(),
                requests => joined(list(requests), |request| text(&request["audience"])).into(),
            },
            (spec["requiresRepublish"] == true).into(),
            none_when_empty(joined(list(&spec["volumeLifecycleModes"]), text)).into(),
            age(object, now),
        ]
    },
};

pub(super) const CSI_NODE: Printer = Printer {
    columns: &[NAME, integer("Drivers"), AGE],
    row: |object, now| {
        vec![
            name(object),
            list(&object["spec"]["drivers"]).len().into(),
            age(object, now),
        ]
    },
};

pub(super) const CSI_STORAGE_CAPACITY: Printer = Printer {
    columns: &[
        NAME,
        string("StorageClassName").of("storage.v1.CSIStorageCapacity", "storageClassName"),
        string("Capacity").of("storage.v1.CSIStorageCapacity", "capacity"),
    ],
    row: |object, _| {
        let capacity = unset(&object["capacity"]);
        vec![
            name(object),
            text(&object["storageClassName"]).into(),
            capacity.into(),
        ]
    },
};

pub(super) const VOLUME_ATTACHMENT: Printer = Printer {
    columns: &[
        NAME,
        Column {
            name: "Attacher",
            ty: "string",
            format: "name",
            priority: 0,
            describes: Some(("storage.v1.VolumeAttachmentSpec", "attacher")),
        },
        string("PV").of("storage.v1.VolumeAttachmentSource", "persistentVolumeName"),
        string("Node").of("storage.v1.VolumeAttachmentSpec", "nodeName"),
        boolean("Attached").of("storage.v1.VolumeAttachmentStatus", "attached"),
        AGE,
    ],
    row: |object, now| {
        let spec = &object["spec"];
        vec![
            name(object),
            text(&spec["attacher"]).into(),
            text(&spec["source"]["persistentVolumeName"]).into(),
            text(&spec["nodeName"]).into(),
            (object["status"]["attached"] == true).into(),
            age(object, now),
        ]
    },
};

fn phase(object: &Value) -> &str {
    if object["metadata"]["deletionTimestamp"].is_null() {
        text(&object["status"]["phase"])
    } else {
        "Terminating"
    }
}

fn unset(value: &Value) -> &str {
    value.as_str().unwrap_or("<unset>")
}

fn none_when_empty(text: String) -> String {
    if text.is_empty() { NONE.to_owned() } else { text }
}

/// A quantity of storage; one that is not there counts as none.
fn storage(amounts: &Value) -> &str {
    amounts["storage"].as_str().unwrap_or("0")
}

/// The class of a volume or claim: the annotation that was there first, or the field.
fn class(object: &Value) -> &str {
    object["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"]
        .as_str()
        .unwrap_or_else(|| text(&object["spec"]["storageClassName"]))
}

/// The name of a class, marked if one of the annotations makes it the default.
fn class_name(object: &Value, annotations: &[&str]) -> Value {
    let is_default = |annotation: &&str| object["metadata"]["annotations"][*annotation] == "true";
    if annotations.iter().any(is_default) {
        format!("{} (default)", text(&object["metadata"]["name"])).into()
    } else {
        name(object)
    }
}

/// `RWO,ROX,RWX,RWOP`, in this order whatever the object's.
fn access_modes(modes: &[Value]) -> String {
    const SHORT: [(&str, &str); 4] = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    SHORT
        .iter()
        .filter(|(mode, _)| modes.iter().any(|m| m == mode))
        .map(|(_, short)| *short)
        .collect::<Vec<_>>()
        .join(",")
}
