//! Checks of what the scheduler, drivers and kubelets write into a claim's status.

use super::claim::{MAX_ITEMS, config, object, request_reference, request_references};
use super::name::{binding, device, driver, keys, pool, toleration, uid, unique};
use crate::meta::validate_conditions;
use crate::strategy::access::{list, text};
use crate::strategy::pod::validate::node_selector;
use crate::validation::net::interface_address;
use crate::validation::{ErrorList, FieldError};
use serde_json::Value;

const MAX_CONSUMERS: usize = 256;
const MAX_CONDITIONS: usize = 8;
const MAX_ADDRESSES: usize = 16;
/// Longest names of an interface and of its hardware address, in bytes.
const MAX_INTERFACE: usize = 256;
const MAX_HARDWARE: usize = 128;

/// A device, or a share of one: driver, pool, device, share.
type Id<'a> = [&'a str; 4];

fn id(of: &Value) -> Id<'_> {
    ["/driver", "/pool", "/device", "/shareID"].map(|field| text(of, field))
}

fn allocated(claim: &Value) -> impl Iterator<Item = Id<'_>> {
    list(claim, "/status/allocation/devices/results").iter().map(id)
}

/// Forgets what was said of devices that are no longer the claim's.
pub(super) fn forget_deallocated(new: &mut Value, old: &Value) {
    let gone: Vec<Id<'_>> = {
        let kept: Vec<Id<'_>> = allocated(new).collect();
        allocated(old).filter(|id| !kept.contains(id)).collect()
    };
    let Some(status) = new.get_mut("status").and_then(Value::as_object_mut) else {
        return;
    };
    let Some(devices) = status.get_mut("devices").and_then(Value::as_array_mut) else {
        return;
    };
    devices.retain(|device| !gone.contains(&id(device)));
    if devices.is_empty() {
        status.remove("devices");
    }
}

/// The new status of a claim.
pub(super) fn status(new: &Value, old: &Value, errors: &mut ErrorList) {
    let path = "status.reservedFor";
    let (now, then) = (list(new, "/status/reservedFor"), list(old, "/status/reservedFor"));
    if !errors.too_many(path, now.len(), MAX_CONSUMERS) {
        for (i, consumer) in now.iter().enumerate() {
            for field in ["resource", "name", "uid"] {
                let value = text(consumer, &format!("/{field}"));
                errors.present(&format!("{path}[{i}].{field}"), value);
            }
        }
        unique(&keys(now, "/uid"), path, errors);
    }
    devices(new, errors);
    let allocation = |obj: &Value| obj.pointer("/status/allocation").cloned();
    let deleted = !crate::meta::deletion_timestamp(new).is_empty();
    if !now.is_empty() && allocation(new).is_none() {
        errors.forbidden(path, "may not be specified when `allocated` is not set");
    } else if deleted && now.iter().any(|consumer| !then.contains(consumer)) {
        let detail =
            "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
        errors.forbidden(path, detail);
    }
    match (allocation(new), allocation(old)) {
        (Some(now), Some(then)) => errors.immutable("status.allocation", Some(&now), Some(&then)),
        (Some(now), None) => result(&now, list(new, "/spec/devices/requests"), errors),
        _ => {}
    }
}

/// What drivers say of the devices.
fn devices(claim: &Value, errors: &mut ErrorList) {
    let path = "status.devices";
    let devices = list(claim, "/status/devices");
    let known: Vec<Id<'_>> = allocated(claim).collect();
    for (i, of) in devices.iter().enumerate() {
        device_status(of, known.contains(&id(of)), &format!("{path}[{i}]"), errors);
    }
    for (i, of) in devices.iter().enumerate() {
        if devices[..i].iter().any(|other| id(other) == id(of)) {
            errors.duplicate(format!("{path}[{i}]"), shown(of));
        }
    }
}

/// `driver/pool/device`, with the share behind it.
fn shown(of: &Value) -> String {
    let [driver, pool, device, share] = id(of);
    match share {
        "" => format!("{driver}/{pool}/{device}"),
        share => format!("{driver}/{pool}/{device}/{share}"),
    }
}

fn device_status(of: &Value, known: bool, path: &str, errors: &mut ErrorList) {
    device_id(of, path, errors);
    if let Some(share) = of.get("shareID").and_then(Value::as_str) {
        uid(share, &format!("{path}.shareID"), errors);
    }
    if !known {
        errors.invalid(path, shown(of), "must be an allocated device in the claim");
    }
    let (conditions, at) = (list(of, "/conditions"), format!("{path}.conditions"));
    errors.too_many(&at, conditions.len(), MAX_CONDITIONS);
    validate_conditions(conditions, &at, errors);
    if let Some(data) = of.get("data") {
        let at = format!("{path}.data");
        match data {
            Value::Null => errors.required(at, ""),
            data => object(data, false, &at, errors),
        }
    }
    let network = &of["networkData"];
    for (field, max) in [
        ("interfaceName", MAX_INTERFACE),
        ("hardwareAddress", MAX_HARDWARE),
    ] {
        if text(network, &format!("/{field}")).len() > max {
            errors.push(FieldError::too_long(format!("{path}.networkData.{field}"), max));
        }
    }
    let addresses: Vec<&str> = list(network, "/ips").iter().filter_map(Value::as_str).collect();
    let at = format!("{path}.networkData.ips");
    if !errors.too_many(&at, addresses.len(), MAX_ADDRESSES) {
        for (i, address) in addresses.iter().enumerate() {
            interface_address(address, &format!("{at}[{i}]"), errors);
        }
        unique(&addresses, &at, errors);
    }
}

fn device_id(of: &Value, path: &str, errors: &mut ErrorList) {
    driver(text(of, "/driver"), &format!("{path}.driver"), errors);
    pool(text(of, "/pool"), &format!("{path}.pool"), errors);
    device(text(of, "/device"), &format!("{path}.device"), errors);
}

/// What was allocated. Only checked when it is new: the rules were laxer once.
fn result(allocation: &Value, requests: &[Value], errors: &mut ErrorList) {
    let path = "status.allocation.devices";
    let (results, at) = (list(allocation, "/devices/results"), format!("{path}.results"));
    if !errors.too_many(&at, results.len(), MAX_ITEMS) {
        for (i, of) in results.iter().enumerate() {
            let path = format!("{at}[{i}]");
            let request = text(of, "/request");
            request_reference(request, requests, &format!("{path}.request"), errors);
            device_id(of, &path, errors);
            binding(of, &path, errors);
            for (i, of) in list(of, "/tolerations").iter().enumerate() {
                toleration(of, &format!("{path}.tolerations[{i}]"), errors);
            }
            if let Some(share) = of.get("shareID").and_then(Value::as_str) {
                uid(share, &format!("{path}.shareID"), errors);
            }
        }
    }
    let (configs, at) = (list(allocation, "/devices/config"), format!("{path}.config"));
    if !errors.too_many(&at, configs.len(), 2 * MAX_ITEMS) {
        for (i, of) in configs.iter().enumerate() {
            let path = format!("{at}[{i}]");
            let source = text(of, "/source");
            if errors.present(&format!("{path}.source"), source) {
                let known = ["FromClaim", "FromClass"];
                errors.one_of(&format!("{path}.source"), source, &known);
            }
            request_references(of, requests, &path, errors);
            config(of, false, &path, errors);
        }
    }
    if let Some(selector) = allocation.get("nodeSelector") {
        node_selector(selector, "status.allocation.nodeSelector", errors);
    }
}
