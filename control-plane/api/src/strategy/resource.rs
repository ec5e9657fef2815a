//! Dynamic resource allocation: claims, their templates, device classes, slices of devices, taint rules.

use super::access::{Object, child, each, ensure, list, set, set_nonzero, text};
use super::kind::Kind;
use super::{prepare_for_status_update_alone, reset_metadata_too};
use crate::meta::validate_conditions;
use crate::validation::ErrorList;
use serde_json::Value;

mod capacity;
mod claim;
mod name;
mod slice;
mod status;

const SPEC: &[&str] = &["spec"];
const MAX_RULE_CONDITIONS: usize = 8;

/// ResourceClaims.
pub(super) static RESOURCE_CLAIM: Kind = Kind::namespaced("io.k8s.api.resource.v1.ResourceClaim")
    .status()
    .defaults(|obj| claim_defaults(ensure(obj, "spec")))
    .prepares_status(|new, old| {
        prepare_for_status_update_alone(new, old);
        status::forget_deallocated(new, old);
    })
    .resets(reset_metadata_too)
    .validates(|obj, errors| claim::spec(&obj["spec"], "spec", errors))
    .validates_update(|new, old, errors| errors.immutable("spec", new.get("spec"), old.get("spec")))
    .validates_status(status::status);

/// ResourceClaimTemplates.
pub(super) static RESOURCE_CLAIM_TEMPLATE: Kind =
    Kind::namespaced("io.k8s.api.resource.v1.ResourceClaimTemplate")
        .defaults(|obj| claim_defaults(ensure(ensure(obj, "spec"), "spec")))
        .validates(claim::template)
        .validates_update(|new, old, errors| errors.immutable("spec", new.get("spec"), old.get("spec")));

/// DeviceClasses.
pub(super) static DEVICE_CLASS: Kind = Kind::cluster("io.k8s.api.resource.v1.DeviceClass")
    .generation(SPEC)
    .validates(claim::class)
    .validates_update(claim::class_update);

/// DeviceTaintRules.
pub(super) static DEVICE_TAINT_RULE: Kind = Kind::cluster("io.k8s.api.resource.v1.DeviceTaintRule")
    .status()
    .generation(SPEC)
    .conditional_update()
    .stamps(stamp_rule)
    .prepares_status(prepare_for_status_update_alone)
    .resets(reset_metadata_too)
    .validates(|obj, errors| rule(obj, None, errors))
    .validates_update(|new, old, errors| rule(new, Some(old), errors))
    .validates_status(|new, _, errors| {
        let (conditions, path) = (list(new, "/status/conditions"), "status.conditions");
        validate_conditions(conditions, path, errors);
        errors.too_many(path, conditions.len(), MAX_RULE_CONDITIONS);
    });

/// ResourceSlices.
pub(super) static RESOURCE_SLICE: Kind = Kind::cluster("io.k8s.api.resource.v1.ResourceSlice")
    .generation(SPEC)
    .stamps(stamp_taints)
    .validates(slice::slice)
    .validates_update(slice::slice_update)
    .warns(|obj, _| {
        let driver = text(obj, "/spec/driver");
        let shouts = driver != driver.to_lowercase();
        let warning = || {
            let driver = crate::status::quote(driver);
            format!("spec.driver: driver names should be lowercase; {driver} contains uppercase characters")
        };
        shouts.then(warning).into_iter().collect()
    })
    .selectable(|obj| {
        vec![
            ("spec.nodeName", text(obj, "/spec/nodeName").into()),
            ("spec.driver", text(obj, "/spec/driver").into()),
        ]
    });

/// A DeviceTaintRule, new or changed.
fn rule(new: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let path = "spec.deviceSelector";
    let selector = &new["spec"]["deviceSelector"];
    let mut check = |field: &str, check: fn(&str, &str, &mut ErrorList)| {
        if let Some(value) = selector.get(field).and_then(Value::as_str) {
            check(value, &format!("{path}.{field}"), errors);
        }
    };
    check("driver", name::driver);
    check("pool", name::pool);
    check("device", name::device);
    let old = old.and_then(|old| old.pointer("/spec/taint"));
    name::taint(&new["spec"]["taint"], old, "spec.taint", errors);
}

/// Says since when a rule's taint has had its effect, where the client does not.
fn stamp_rule(subresource: &str, new: &mut Value, old: Option<&Value>, now: &str) {
    if !subresource.is_empty() {
        return;
    }
    let taint = |obj: &Value, field: &str| obj.pointer("/spec/taint").and_then(|t| t.get(field)).cloned();
    let changed = old.is_some_and(|old| {
        taint(old, "effect") != taint(new, "effect") && taint(old, "timeAdded") == taint(new, "timeAdded")
    });
    let Some(taint) = new.pointer_mut("/spec/taint").and_then(Value::as_object_mut) else {
        return;
    };
    if changed {
        taint.insert("timeAdded".into(), now.into());
    }
    set(taint, "timeAdded", now);
}

/// Says since when devices have been tainted, where the driver does not.
fn stamp_taints(_: &str, new: &mut Value, _: Option<&Value>, now: &str) {
    let spec = new.as_object_mut().and_then(|obj| child(obj, "spec"));
    for device in spec.into_iter().flat_map(|spec| each(spec, "devices")) {
        for taint in each(device, "taints") {
            set(taint, "timeAdded", now);
        }
    }
}

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
