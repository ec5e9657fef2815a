//! Checks of ResourceSlices.

use super::capacity::policy;
use super::name::{binding, device as device_name, driver, key_path, keys, pool, qualified, taint, unique};
use crate::strategy::access::{int, is_true, list, map, text};
use crate::strategy::pod::validate::node_selector;
use crate::validation::text::{label_problems, subdomain_problems};
use crate::validation::{ErrorList, FieldError};
use serde_json::Value;

/// Devices in a slice, and in one whose devices are tainted or share counters.
const MAX_DEVICES: usize = 128;
const MAX_INVOLVED_DEVICES: usize = 64;
/// Attributes and capacities of a device together, and values of all its attributes.
const MAX_ATTRIBUTES: usize = 32;
const MAX_ATTRIBUTE_VALUES: usize = 48;
const MAX_TAINTS: usize = 16;
const MAX_COUNTER_SETS: usize = 8;
const MAX_COUNTERS: usize = 32;
/// Counter sets that a device takes from.
const MAX_CONSUMED_SETS: usize = 2;
/// Longest text of an attribute, in bytes.
const MAX_VALUE: usize = 64;

/// A new ResourceSlice.
pub(super) fn slice(obj: &Value, errors: &mut ErrorList) {
    slice_update(obj, &Value::Null, errors);
}

/// A ResourceSlice that was `old`: it stays its driver's, its pool's and its node's, and what was accepted of a device stays so.
pub(super) fn slice_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    let spec = &new["spec"];
    driver(text(spec, "/driver"), "spec.driver", errors);
    pool(text(spec, "/pool/name"), "spec.pool.name", errors);
    let slices = int(spec, "/pool/resourceSliceCount").unwrap_or(0);
    if slices <= 0 {
        errors.invalid(
            "spec.pool.resourceSliceCount",
            slices,
            "must be greater than zero",
        );
    }
    if let Some(generation) = int(spec, "/pool/generation").filter(|g| *g < 0) {
        let detail = "must be greater than or equal to zero";
        errors.invalid("spec.pool.generation", generation, detail);
    }
    if !old.is_null() {
        for (pointer, path) in [
            ("/spec/pool/name", "spec.pool.name"),
            ("/spec/driver", "spec.driver"),
            ("/spec/nodeName", "spec.nodeName"),
        ] {
            errors.immutable(path, new.pointer(pointer), old.pointer(pointer));
        }
    }
    place_of_slice(spec, errors);
    if spec.get("devices").is_some() && spec.get("sharedCounters").is_some() {
        errors.invalid("spec", "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let (devices, before) = (list(spec, "/devices"), list(old, "/spec/devices"));
    let involved = |d: &Value| !list(d, "/taints").is_empty() || !list(d, "/consumesCounters").is_empty();
    let most = match devices.iter().any(involved) {
        true => MAX_INVOLVED_DEVICES,
        false => MAX_DEVICES,
    };
    if !errors.too_many("spec.devices", devices.len(), most) {
        let per_device = is_true(spec, "/perDeviceNodeSelection");
        for (i, of) in devices.iter().enumerate() {
            let before = before.iter().find(|other| other["name"] == of["name"]);
            device(of, before, per_device, &format!("spec.devices[{i}]"), errors);
        }
        unique(&keys(devices, "/name"), "spec.devices", errors);
    }
    let counters = list(spec, "/sharedCounters");
    if !errors.too_many("spec.sharedCounters", counters.len(), MAX_COUNTER_SETS) {
        for (i, set) in counters.iter().enumerate() {
            counter_set(set, "name", &format!("spec.sharedCounters[{i}]"), errors);
        }
        unique(&keys(counters, "/name"), "spec.sharedCounters", errors);
    }
}

fn place_of_slice(spec: &Value, errors: &mut ErrorList) {
    let ways = ["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"];
    let empty = "must be either unset or set to a non-empty string";
    let given = places(spec, "spec", &ways, empty, errors);
    let terms = list(spec, "/nodeSelector/nodeSelectorTerms");
    if spec.get("nodeSelector").is_some() && terms.len() != 1 {
        let detail = "must have exactly one node selector term";
        errors.invalid("spec.nodeSelector.nodeSelectorTerms", terms.to_vec(), detail);
    }
    let detail =
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match given.len() {
        0 => errors.required("spec", detail),
        1 => {}
        _ => {
            let detail = format!("{detail}, but multiple fields are set");
            errors.invalid("spec", format!("{{{}}}", given.join(", ")), detail);
        }
    }
}

/// The ways in which it is said where devices can be used.
fn places(owner: &Value, path: &str, ways: &[&str], empty: &str, errors: &mut ErrorList) -> Vec<String> {
    let mut given: Vec<String> = Vec::new();
    for way in ways {
        let Some(value) = owner.get(way) else { continue };
        let at = format!("{path}.{way}");
        match value {
            Value::String(node) if node.is_empty() => {
                errors.invalid(at, "", empty);
                continue;
            }
            Value::Bool(false) => {
                errors.invalid(at, false, "must be either unset or set to true");
                continue;
            }
            Value::String(node) => errors.problems(&at, node, subdomain_problems(node)),
            Value::Object(_) => node_selector(value, &at, errors),
            _ => {}
        }
        given.push(format!("`{way}`"));
    }
    given
}

fn device(device: &Value, old: Option<&Value>, per_device: bool, path: &str, errors: &mut ErrorList) {
    device_name(text(device, "/name"), &format!("{path}.name"), errors);
    let (attributes, capacity) = (map(device, "/attributes"), map(device, "/capacity"));
    let count = attributes.map_or(0, |a| a.len()) + capacity.map_or(0, |c| c.len());
    if count > MAX_ATTRIBUTES {
        let detail =
            format!("the total number of attributes and capacities must not exceed {MAX_ATTRIBUTES}");
        errors.invalid(path, count, detail);
    }
    let values: usize = attributes.into_iter().flatten().map(|(_, a)| values(a)).sum();
    if values > MAX_ATTRIBUTE_VALUES {
        let detail = format!("the total number of attribute values must not exceed {MAX_ATTRIBUTE_VALUES}");
        errors.invalid(path, values, detail);
    }
    let at = format!("{path}.attributes");
    for (name, value) in attributes.into_iter().flatten() {
        qualified(name, &at, errors);
        attribute(value, &key_path(&at, name), errors);
    }
    let changed = |field: &str| old.is_none_or(|old| old.get(field) != device.get(field));
    if changed("capacity") {
        let shared = is_true(device, "/allowMultipleAllocations");
        let at = format!("{path}.capacity");
        for (name, value) in capacity.into_iter().flatten() {
            qualified(name, &at, errors);
            let at = format!("{}.requestPolicy", key_path(&at, name));
            match value.get("requestPolicy") {
                Some(of) if shared => policy(&value["value"], of, &at, errors),
                Some(_) => errors.forbidden(at, "allowMultipleAllocations must be true"),
                None => {}
            }
        }
    }
    let (taints, at) = (list(device, "/taints"), format!("{path}.taints"));
    if changed("taints") && !errors.too_many(&at, taints.len(), MAX_TAINTS) {
        for (i, of) in taints.iter().enumerate() {
            taint(of, None, &format!("{at}[{i}]"), errors);
        }
    }
    let (consumed, at) = (
        list(device, "/consumesCounters"),
        format!("{path}.consumesCounters"),
    );
    if !errors.too_many(&at, consumed.len(), MAX_CONSUMED_SETS) {
        for (i, set) in consumed.iter().enumerate() {
            counter_set(set, "counterSet", &format!("{at}[{i}]"), errors);
        }
        unique(&keys(consumed, "/counterSet"), &at, errors);
    }
    place_of_device(device, per_device, path, errors);
    binding(device, path, errors);
}

fn place_of_device(device: &Value, per_device: bool, path: &str, errors: &mut ErrorList) {
    let ways = ["nodeName", "nodeSelector", "allNodes"];
    if !per_device {
        if ways.iter().any(|way| device.get(way).is_some()) {
            let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            errors.invalid(path, Value::Null, detail);
        }
        return;
    }
    let given = places(device, path, &ways, "must not be empty", errors);
    let detail = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    match given.len() {
        0 => errors.required(path, detail),
        1 => {}
        _ => errors.invalid(path, format!("{{{}}}", given.join(", ")), detail),
    }
}

fn counter_set(set: &Value, name_field: &str, path: &str, errors: &mut ErrorList) {
    let (name, at) = (
        text(set, &format!("/{name_field}")),
        format!("{path}.{name_field}"),
    );
    if errors.present(&at, name) {
        errors.problems(&at, name, label_problems(name));
    }
    let at = format!("{path}.counters");
    match map(set, "/counters").filter(|c| !c.is_empty()) {
        None => errors.required(at, ""),
        Some(counters) if errors.too_many(&at, counters.len(), MAX_COUNTERS) => {}
        Some(counters) => {
            for name in counters.keys() {
                errors.problems(&at, name, label_problems(name));
            }
        }
    }
}

/// How many values an attribute has.
fn values(attribute: &Value) -> usize {
    let lists = attribute.as_object().into_iter().flatten();
    let listed: usize = lists.filter_map(|(_, value)| Some(value.as_array()?.len())).sum();
    listed.max(1)
}

fn attribute(attribute: &Value, path: &str, errors: &mut ErrorList) {
    for field in ["string", "version"] {
        if let Some(value) = attribute.get(field).and_then(Value::as_str) {
            attribute_text(value, field == "version", &format!("{path}.{field}"), errors);
        }
    }
    for field in ["bools", "ints", "strings", "versions"] {
        let Some(values) = attribute.get(field).and_then(Value::as_array) else {
            continue;
        };
        let at = format!("{path}.{field}");
        if values.is_empty() {
            errors.invalid(at.clone(), values.clone(), "must not be empty if specified");
        }
        for (i, value) in values.iter().enumerate() {
            if let Some(value) = value.as_str() {
                attribute_text(value, field == "versions", &format!("{at}[{i}]"), errors);
            }
        }
    }
    match attribute.as_object().map_or(0, |a| a.len()) {
        0 => errors.invalid(path, "", "exactly one value must be specified"),
        1 => {}
        _ => errors.invalid(path, attribute.clone(), "exactly one value must be specified"),
    }
}

fn attribute_text(value: &str, version: bool, path: &str, errors: &mut ErrorList) {
    if version && !is_semantic_version(value) {
        let detail = "must be a string compatible with semver.org spec 2.0.0";
        errors.invalid(path, value, detail);
    }
    if value.len() > MAX_VALUE {
        errors.push(FieldError::too_long(path, MAX_VALUE));
    }
}

/// `1.2.3-rc.1+build`.
fn is_semantic_version(text: &str) -> bool {
    let number =
        |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit()) && (t == "0" || !t.starts_with('0'));
    let word = |t: &str| !t.is_empty() && t.bytes().all(|b| b == b'-' || b.is_ascii_alphanumeric());
    let (rest, build) = match text.split_once('+') {
        Some((rest, build)) => (rest, Some(build)),
        None => (text, None),
    };
    let (core, pre) = match rest.split_once('-') {
        Some((core, pre)) => (core, Some(pre)),
        None => (rest, None),
    };
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    core.split('.').count() == 3
        && core.split('.').all(number)
        && pre.is_none_or(|pre| pre.split('.').all(|t| word(t) && (!digits(t) || number(t))))
        && build.is_none_or(|build| build.split('.').all(word))
}

#[cfg(test)]
mod tests {
    use super::is_semantic_version;

    #[test]
    fn semantic_versions() {
        for good in ["1.2.3", "0.0.0", "1.0.0-rc.1", "1.0.0-0a+b.01", "1.0.0+20240101"] {
            assert!(is_semantic_version(good), "{good}");
        }
        for bad in [
            "", "1.2", "01.2.3", "1.2.3-", "1.2.3-01", "v1.2.3", "1.2.3+", "1.2.3.4",
        ] {
            assert!(!is_semantic_version(bad), "{bad}");
        }
    }
}
