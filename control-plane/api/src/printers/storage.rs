//! Volumes and what provides them.

use serde_json::Value;

use super::{AGE, NAME, Printer, age, boolean, integer, joined, list, name, string, text, wide};
use crate::table::Column;

pub(super) const PERSISTENT_VOLUME: Printer = Printer {
    columns: &[
        NAME,
        string("Capacity"),
        string("Access Modes"),
        string("Reclaim Policy"),
        string("Status"),
        string("Claim"),
        string("StorageClass"),
        string("VolumeAttributesClass"),
        string("Reason"),
        AGE,
        wide("VolumeMode"),
    ],
    row: |object, now| {
        let (spec, status) = (&object["spec"], &object["status"]);
        let claim = match &spec["claimRef"] {
            Value::Null => String::new(),
            reference => format!("{}/{}", text(&reference["namespace"]), text(&reference["name"])),
        };
        vec![
            name(object),
            text(&spec["capacity"]["storage"]).into(),
            access_modes(list(&spec["accessModes"])).into(),
            text(&spec["persistentVolumeReclaimPolicy"]).into(),
            phase(object).into(),
            claim.into(),
            text(&spec["storageClassName"]).into(),
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
        string("Status"),
        string("Volume"),
        string("Capacity"),
        string("Access Modes"),
        string("StorageClass"),
        string("VolumeAttributesClass"),
        AGE,
        wide("VolumeMode"),
    ],
    row: |object, now| {
        let (spec, status) = (&object["spec"], &object["status"]);
        let bound = !text(&spec["volumeName"]).is_empty();
        let capacity = if bound {
            text(&status["capacity"]["storage"])
        } else {
            ""
        };
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
            text(&spec["storageClassName"]).into(),
            unset(&spec["volumeAttributesClassName"]).into(),
            age(object, now),
            unset(&spec["volumeMode"]).into(),
        ]
    },
};

pub(super) const STORAGE_CLASS: Printer = Printer {
    columns: &[
        NAME,
        string("Provisioner"),
        string("ReclaimPolicy"),
        string("VolumeBindingMode"),
        string("AllowVolumeExpansion"),
        AGE,
    ],
    row: |object, now| {
        let is_default = [
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        ]
        .iter()
        .any(|annotation| object["metadata"]["annotations"][*annotation] == "true");
        let shown = if is_default {
            format!("{} (default)", text(&object["metadata"]["name"])).into()
        } else {
            name(object)
        };
        vec![
            shown,
            text(&object["provisioner"]).into(),
            object["reclaimPolicy"].as_str().unwrap_or("Delete").into(),
            object["volumeBindingMode"].as_str().unwrap_or("Immediate").into(),
            (object["allowVolumeExpansion"] == true).into(),
            age(object, now),
        ]
    },
};

pub(super) const CSI_DRIVER: Printer = Printer {
    columns: &[
        NAME,
        boolean("AttachRequired"),
        boolean("PodInfoOnMount"),
        boolean("StorageCapacity"),
        string("TokenRequests"),
        boolean("RequiresRepublish"),
        string("Modes"),
        AGE,
    ],
    row: |object, now| {
        let spec = &object["spec"];
        vec![
            name(object),
            (spec["attachRequired"] != false).into(),
            (spec["podInfoOnMount"] == true).into(),
            (spec["storageCapacity"] == true).into(),
            unset_when_empty(joined(list(&spec["tokenRequests"]), |request| {
                text(&request["audience"])
            }))
            .into(),
            (spec["requiresRepublish"] == true).into(),
            unset_when_empty(joined(list(&spec["volumeLifecycleModes"]), text)).into(),
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
    columns: &[NAME, string("StorageClassName"), string("Capacity")],
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
        },
        string("PV"),
        string("Node"),
        boolean("Attached"),
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

fn unset_when_empty(text: String) -> String {
    if text.is_empty() {
        "<unset>".to_owned()
    } else {
        text
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
