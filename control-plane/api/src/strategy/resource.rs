//! Dynamic resource allocation: claims, their templates, device classes, slices of devices, taint rules.

use super::access::{Object, child, each, ensure, set, set_nonzero, text};
use super::kind::Kind;
use super::{prepare_for_status_update_alone, reset_metadata_too};
use serde_json::Value;

mod claim;
mod slice;

const SPEC: &[&str] = &["spec"];

/// ResourceClaims.
pub(super) static RESOURCE_CLAIM: Kind = Kind::namespaced("io.k8s.api.resource.v1.ResourceClaim")
    .status()
    .defaults(|obj| claim_defaults(ensure(obj, "spec")))
    .prepares_status(prepare_for_status_update_alone)
    .resets(reset_metadata_too)
    .validates(|obj, errors| claim::spec(&obj["spec"], "spec", errors))
    .validates_update(|new, old, errors| errors.immutable("spec", new.get("spec"), old.get("spec")))
    .validates_status(claim::status);

/// ResourceClaimTemplates.
pub(super) static RESOURCE_CLAIM_TEMPLATE: Kind =
    Kind::namespaced("io.k8s.api.resource.v1.ResourceClaimTemplate")
        .defaults(|obj| claim_defaults(ensure(ensure(obj, "spec"), "spec")))
        .validates(|obj, errors| claim::spec(&obj["spec"]["spec"], "spec.spec", errors))
        .validates_update(|new, old, errors| errors.immutable("spec", new.get("spec"), old.get("spec")));

/// DeviceClasses.
pub(super) static DEVICE_CLASS: Kind = Kind::cluster("io.k8s.api.resource.v1.DeviceClass")
    .generation(SPEC)
    .validates(claim::class);

/// DeviceTaintRules.
pub(super) static DEVICE_TAINT_RULE: Kind = Kind::cluster("io.k8s.api.resource.v1.DeviceTaintRule")
    .status()
    .generation(SPEC)
    .prepares_status(prepare_for_status_update_alone)
    .resets(reset_metadata_too)
    .validates(|obj, errors| {
        let taint = obj.pointer("/spec/taint").unwrap_or(&Value::Null);
        slice::taint(taint, "spec.taint", errors);
    });

/// ResourceSlices.
pub(super) static RESOURCE_SLICE: Kind = Kind::cluster("io.k8s.api.resource.v1.ResourceSlice")
    .generation(SPEC)
    .validates(slice::slice)
    .validates_update(slice::slice_update)
    .selectable(|obj| {
        vec![
            ("spec.nodeName", text(obj, "/spec/nodeName").into()),
            ("spec.driver", text(obj, "/spec/driver").into()),
        ]
    });

fn claim_defaults(spec: &mut Object) {
    let Some(devices) = child(spec, "devices") else {
        return;
    };
    for request in each(devices, "requests") {
        if let Some(exactly) = child(request, "exactly") {
            request_defaults(exactly);
        }
        for sub in each(request, "firstAvailable") {
            request_defaults(sub);
        }
    }
}

fn request_defaults(request: &mut Object) {
    set(request, "allocationMode", "ExactCount");
    if request["allocationMode"] == "ExactCount" {
        set_nonzero(request, "count", 1);
    }
    for toleration in each(request, "tolerations") {
        set(toleration, "operator", "Equal");
    }
}
