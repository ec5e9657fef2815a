//! Checks of ResourceSlices and of the names in them.

use crate::strategy::access::{int, is_true, list, map, text};
use crate::strategy::pod::validate::node_selector;
use crate::validation::text::{
    label_problems, label_value_problems, qualified_name_problems, subdomain_problems,
};
use crate::validation::{ErrorList, FieldError};
use serde_json::Value;

/// Devices in a slice, and in one whose devices are tainted or share counters.
const MAX_DEVICES: usize = 128;
const MAX_INVOLVED_DEVICES: usize = 64;
const MAX_ATTRIBUTES: usize = 32;
const MAX_TAINTS: usize = 16;
const MAX_COUNTER_SETS: usize = 8;
/// Longest names and values, in bytes.
const MAX_POOL: usize = 253;
const MAX_DRIVER: usize = 63;
const MAX_VALUE: usize = 64;
const MAX_DOMAIN: usize = 63;
const MAX_IDENTIFIER: usize = 32;

/// A driver's name.
pub(super) fn driver(name: &str, path: &str, errors: &mut ErrorList) {
    if errors.present(path, name) {
        if name.len() > MAX_DRIVER {
            errors.push(FieldError::too_long(path, MAX_DRIVER));
        }
        errors.problems(path, name, subdomain_problems(name));
    }
}

/// A pool's name: subdomains between slashes.
pub(super) fn pool_name(name: &str, path: &str, errors: &mut ErrorList) {
    if errors.present(path, name) {
        if name.len() > MAX_POOL {
            errors.push(FieldError::too_long(path, MAX_POOL));
        }
        for step in name.split('/') {
            errors.problems(path, step, subdomain_problems(step));
        }
    }
}

/// A device's name.
pub(super) fn device_name(name: &str, path: &str, errors: &mut ErrorList) {
    errors.problems(path, name, label_problems(name));
}

/// An attribute's or capacity's name: an identifier of C, behind a domain or not.
pub(super) fn qualified_name(name: &str, path: &str, errors: &mut ErrorList) {
    let (domain, identifier) = match name.split_once('/') {
        Some((domain, identifier)) => (Some(domain), identifier),
        None => (None, name),
    };
    if let Some(domain) = domain {
        if domain.is_empty() {
            errors.required(path, "the domain must not be empty");
        } else {
            if domain.len() > MAX_DOMAIN {
                errors.push(FieldError::too_long(path, MAX_DOMAIN));
            }
            errors.problems(path, domain, subdomain_problems(domain));
        }
    }
    let mut bytes = identifier.bytes();
    let fits = bytes.next().is_some_and(|b| b == b'_' || b.is_ascii_alphabetic())
        && bytes.all(|b| b == b'_' || b.is_ascii_alphanumeric());
    if identifier.is_empty() {
        errors.required(path, "the name must not be empty");
    } else if identifier.len() > MAX_IDENTIFIER {
        errors.push(FieldError::too_long(path, MAX_IDENTIFIER));
    } else if !fits {
        let detail = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";
        errors.invalid(path, identifier, detail);
    }
}

/// A taint of a device.
pub(super) fn taint(taint: &Value, path: &str, errors: &mut ErrorList) {
    let (key, value) = (text(taint, "/key"), text(taint, "/value"));
    errors.problems(&format!("{path}.key"), key, qualified_name_problems(key));
    if !value.is_empty() {
        errors.problems(&format!("{path}.value"), value, label_value_problems(value));
    }
    let (effect, at) = (text(taint, "/effect"), format!("{path}.effect"));
    if errors.present(&at, effect) {
        errors.one_of(&at, effect, &["NoExecute", "NoSchedule", "None"]);
    }
}

/// A slice stays its driver's, its pool's and its node's.
pub(super) fn slice_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    slice(new, errors);
    for (pointer, path) in [
        ("/spec/pool/name", "spec.pool.name"),
        ("/spec/driver", "spec.driver"),
        ("/spec/nodeName", "spec.nodeName"),
    ] {
        errors.immutable(path, new.pointer(pointer), old.pointer(pointer));
    }
}

/// A ResourceSlice.
pub(super) fn slice(obj: &Value, errors: &mut ErrorList) {
    let spec = &obj["spec"];
    driver(text(spec, "/driver"), "spec.driver", errors);
    pool_name(text(spec, "/pool/name"), "spec.pool.name", errors);
    let (slices, generation) = (
        int(spec, "/pool/resourceSliceCount"),
        int(spec, "/pool/generation"),
    );
    if slices.unwrap_or(0) <= 0 {
        let count = slices.unwrap_or(0);
        errors.invalid("spec.pool.resourceSliceCount", count, "must be greater than zero");
    }
    if let Some(generation) = generation.filter(|g| *g < 0) {
        let detail = "must be greater than or equal to zero";
        errors.invalid("spec.pool.generation", generation, detail);
    }
    let places = ["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"];
    place(spec, "spec", &places, errors);
    let terms = list(spec, "/nodeSelector/nodeSelectorTerms");
    if spec.get("nodeSelector").is_some() && terms.len() != 1 {
        let detail = "must have exactly one node selector term";
        errors.invalid("spec.nodeSelector.nodeSelectorTerms", terms.to_vec(), detail);
    }
    let (devices, counters) = (list(spec, "/devices"), list(spec, "/sharedCounters"));
    if !devices.is_empty() && !counters.is_empty() {
        errors.invalid("spec", "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let involved = |d: &Value| !list(d, "/taints").is_empty() || !list(d, "/consumesCounters").is_empty();
    let most = if devices.iter().any(involved) {
        MAX_INVOLVED_DEVICES
    } else {
        MAX_DEVICES
    };
    errors.too_many("spec.devices", devices.len(), most);
    let per_device = is_true(spec, "/perDeviceNodeSelection");
    for (i, of) in devices.iter().enumerate() {
        let path = format!("spec.devices[{i}]");
        device(of, per_device, &path, errors);
        if devices[..i].iter().any(|other| other["name"] == of["name"]) {
            errors.duplicate(path, text(of, "/name"));
        }
    }
    errors.too_many("spec.sharedCounters", counters.len(), MAX_COUNTER_SETS);
    for (i, set) in counters.iter().enumerate() {
        let path = format!("spec.sharedCounters[{i}]");
        counter_set(set, "name", &path, errors);
        if counters[..i].iter().any(|other| other["name"] == set["name"]) {
            errors.duplicate(path, text(set, "/name"));
        }
    }
}

/// Where devices can be used: exactly one of the ways to say it.
fn place(owner: &Value, path: &str, ways: &[&str], errors: &mut ErrorList) {
    let mut given: Vec<String> = Vec::new();
    for way in ways {
        let Some(value) = owner.get(way) else { continue };
        let at = format!("{path}.{way}");
        match value {
            Value::String(node) if node.is_empty() => {
                errors.invalid(at, "", "must be either unset or set to a non-empty string");
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
    let all: Vec<String> = ways.iter().map(|way| format!("`{way}`")).collect();
    match given.len() {
        0 => errors.required(path, format!("exactly one of {} is required", all.join(", "))),
        1 => {}
        _ => {
            let detail = format!(
                "exactly one of {} is required, but multiple fields are set",
                all.join(", ")
            );
            errors.invalid(path, format!("{{{}}}", given.join(", ")), detail);
        }
    }
}

fn device(device: &Value, per_device: bool, path: &str, errors: &mut ErrorList) {
    device_name(text(device, "/name"), &format!("{path}.name"), errors);
    let (attributes, capacity) = (map(device, "/attributes"), map(device, "/capacity"));
    let count = attributes.map_or(0, |a| a.len()) + capacity.map_or(0, |c| c.len());
    if count > MAX_ATTRIBUTES {
        let detail =
            format!("the total number of attributes and capacities must not exceed {MAX_ATTRIBUTES}");
        errors.invalid(path, count, detail);
    }
    for (name, value) in attributes.into_iter().flatten() {
        let at = format!("{path}.attributes[{name}]");
        qualified_name(name, &at, errors);
        attribute(value, &at, errors);
    }
    for (name, value) in capacity.into_iter().flatten() {
        let at = format!("{path}.capacity[{name}]");
        qualified_name(name, &at, errors);
        if value.get("requestPolicy").is_some() && !is_true(device, "/allowMultipleAllocations") {
            let detail = "allowMultipleAllocations must be true";
            errors.forbidden(format!("{at}.requestPolicy"), detail);
        }
    }
    let taints = list(device, "/taints");
    errors.too_many(&format!("{path}.taints"), taints.len(), MAX_TAINTS);
    for (i, of) in taints.iter().enumerate() {
        taint(of, &format!("{path}.taints[{i}]"), errors);
    }
    for (i, set) in list(device, "/consumesCounters").iter().enumerate() {
        counter_set(
            set,
            "counterSet",
            &format!("{path}.consumesCounters[{i}]"),
            errors,
        );
    }
    let ways = ["nodeName", "nodeSelector", "allNodes"];
    if per_device {
        place(device, path, &ways, errors);
    } else if ways.iter().any(|way| device.get(way).is_some()) {
        let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
        errors.invalid(path, Value::Null, detail);
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
        Some(counters) => {
            for name in counters.keys() {
                errors.problems(&format!("{at}[{name}]"), name, label_problems(name));
            }
        }
    }
}

fn attribute(attribute: &Value, path: &str, errors: &mut ErrorList) {
    for field in ["string", "version"] {
        let Some(value) = attribute.get(field).and_then(Value::as_str) else {
            continue;
        };
        let at = format!("{path}.{field}");
        if field == "version" && !is_semantic_version(value) {
            let detail = "must be a string compatible with semver.org spec 2.0.0";
            errors.invalid(at.clone(), value, detail);
        }
        if value.len() > MAX_VALUE {
            errors.push(FieldError::too_long(at, MAX_VALUE));
        }
    }
    match attribute.as_object().map_or(0, |a| a.len()) {
        0 => errors.invalid(path, "", "exactly one value must be specified"),
        1 => {}
        _ => errors.invalid(path, attribute.clone(), "exactly one value must be specified"),
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
