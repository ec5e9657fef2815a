//! Checks of ResourceClaims, their templates and DeviceClasses. Expressions are only measured: nothing compiles CEL yet.

use super::slice::{device_name, driver, pool_name, qualified_name};
use crate::strategy::access::{int, list, text};
use crate::strategy::pod::validate::node_selector;
use crate::validation::text::{
    label_problems, label_value_problems, qualified_name_problems, subdomain_problems,
};
use crate::validation::{ErrorList, FieldError};
use serde_json::Value;

/// Limits of a claim.
const MAX_ITEMS: usize = 32;
const MAX_ALTERNATIVES: usize = 8;
const MAX_CONSUMERS: usize = 256;
/// Longest expression and largest opaque parameters, in bytes.
const MAX_EXPRESSION: usize = 10 << 10;
const MAX_PARAMETERS: usize = 10 << 10;
const NO_SUCH_REQUEST: &str =
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

/// The spec of a claim.
pub(super) fn spec(spec: &Value, path: &str, errors: &mut ErrorList) {
    let requests = list(spec, "/devices/requests");
    let path = format!("{path}.devices");
    let at = format!("{path}.requests");
    errors.too_many(&at, requests.len(), MAX_ITEMS);
    for (i, of) in requests.iter().enumerate() {
        request(of, &format!("{at}[{i}]"), errors);
    }
    unique_names(requests, &at, errors);
    let at = format!("{path}.constraints");
    let constraints = list(spec, "/devices/constraints");
    errors.too_many(&at, constraints.len(), MAX_ITEMS);
    for (i, constraint) in constraints.iter().enumerate() {
        let path = format!("{at}[{i}]");
        request_references(constraint, requests, &path, errors);
        let attribute = ["matchAttribute", "distinctAttribute"]
            .into_iter()
            .find_map(|field| Some((field, constraint.get(field)?.as_str()?)));
        match attribute {
            Some((field, name)) => {
                let at = format!("{path}.{field}");
                if name.contains('/') {
                    qualified_name(name, &at, errors);
                } else {
                    errors.invalid(at, name, "must include a domain");
                }
            }
            None => errors.required(
                path,
                "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
            ),
        }
    }
    let at = format!("{path}.config");
    let configs = list(spec, "/devices/config");
    errors.too_many(&at, configs.len(), MAX_ITEMS);
    for (i, of) in configs.iter().enumerate() {
        let path = format!("{at}[{i}]");
        request_references(of, requests, &path, errors);
        config(of, &path, errors);
    }
}

/// Names occur once.
fn unique_names(items: &[Value], path: &str, errors: &mut ErrorList) {
    for (i, item) in items.iter().enumerate() {
        let name = text(item, "/name");
        if items[..i].iter().any(|other| text(other, "/name") == name) {
            errors.duplicate(format!("{path}[{i}]"), name);
        }
    }
}

fn request(request: &Value, path: &str, errors: &mut ErrorList) {
    let name = text(request, "/name");
    errors.problems(&format!("{path}.name"), name, label_problems(name));
    let alternatives = list(request, "/firstAvailable");
    match (request.get("exactly"), alternatives.is_empty()) {
        (None, true) => {
            errors.required(path, "exactly one of `exactly` or `firstAvailable` is required");
        }
        (Some(_), false) => {
            let detail =
                "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.invalid(path, Value::Null, detail);
        }
        (Some(exactly), true) => devices(exactly, &format!("{path}.exactly"), errors),
        (None, false) => {
            let at = format!("{path}.firstAvailable");
            errors.too_many(&at, alternatives.len(), MAX_ALTERNATIVES);
            for (i, alternative) in alternatives.iter().enumerate() {
                let name = text(alternative, "/name");
                errors.problems(&format!("{at}[{i}].name"), name, label_problems(name));
                devices(alternative, &format!("{at}[{i}]"), errors);
            }
            unique_names(alternatives, &at, errors);
        }
    }
}

/// Which devices, and how many.
fn devices(request: &Value, path: &str, errors: &mut ErrorList) {
    let (class, at) = (
        text(request, "/deviceClassName"),
        format!("{path}.deviceClassName"),
    );
    if errors.present(&at, class) {
        errors.problems(&at, class, subdomain_problems(class));
    }
    selectors(list(request, "/selectors"), &format!("{path}.selectors"), errors);
    let count = int(request, "/count").unwrap_or(0);
    match text(request, "/allocationMode") {
        mode @ "All" if count != 0 => {
            let detail = format!("must not be specified when allocationMode is '{mode}'");
            errors.invalid(format!("{path}.count"), count, detail);
        }
        "All" => {}
        "ExactCount" if count <= 0 => {
            errors.invalid(format!("{path}.count"), count, "must be greater than zero");
        }
        "ExactCount" => {}
        other => errors.one_of(&format!("{path}.allocationMode"), other, &["All", "ExactCount"]),
    }
    for (i, of) in list(request, "/tolerations").iter().enumerate() {
        toleration(of, &format!("{path}.tolerations[{i}]"), errors);
    }
}

fn selectors(selectors: &[Value], path: &str, errors: &mut ErrorList) {
    errors.too_many(path, selectors.len(), MAX_ITEMS);
    for (i, selector) in selectors.iter().enumerate() {
        let path = format!("{path}[{i}].cel");
        match selector.get("cel") {
            None => errors.required(path, ""),
            Some(cel) if text(cel, "/expression").len() > MAX_EXPRESSION => {
                errors.push(FieldError::too_long(format!("{path}.expression"), MAX_EXPRESSION));
            }
            Some(_) => {}
        }
    }
}

fn toleration(toleration: &Value, path: &str, errors: &mut ErrorList) {
    let (key, value) = (text(toleration, "/key"), text(toleration, "/value"));
    if !key.is_empty() {
        errors.problems(&format!("{path}.key"), key, qualified_name_problems(key));
    }
    let at = format!("{path}.value");
    match text(toleration, "/operator") {
        "Exists" if !value.is_empty() => {
            errors.invalid(at, value, "must be empty for operator `Exists`");
        }
        "Exists" => {}
        "Equal" => errors.problems(&at, value, label_value_problems(value)),
        "" => errors.required(format!("{path}.operator"), ""),
        other => errors.one_of(&format!("{path}.operator"), other, &["Equal", "Exists"]),
    }
    let effect = text(toleration, "/effect");
    if !effect.is_empty() {
        errors.one_of(
            &format!("{path}.effect"),
            effect,
            &["NoExecute", "NoSchedule", "None"],
        );
    }
}

/// `requests`: names of requests, or of one of a request's alternatives.
fn request_references(owner: &Value, requests: &[Value], path: &str, errors: &mut ErrorList) {
    let path = format!("{path}.requests");
    let names = list(owner, "/requests");
    errors.too_many(&path, names.len(), MAX_ITEMS);
    for (i, name) in names.iter().enumerate() {
        let (at, text) = (format!("{path}[{i}]"), name.as_str().unwrap_or(""));
        request_reference(text, requests, &at, errors);
        if names[..i].contains(name) {
            errors.duplicate(at, text);
        }
    }
}

fn request_reference(name: &str, requests: &[Value], path: &str, errors: &mut ErrorList) {
    let mut steps = name.split('/');
    let (request, alternative) = (steps.next().unwrap_or(""), steps.next());
    if steps.next().is_some() {
        errors.invalid(path, name, NO_SUCH_REQUEST);
        return;
    }
    for step in [Some(request), alternative].into_iter().flatten() {
        errors.problems(path, step, label_problems(step));
    }
    let known = requests.iter().any(|of| {
        let named = |alternative: &str| {
            let mut alternatives = list(of, "/firstAvailable").iter();
            alternatives.any(|sub| text(sub, "/name") == alternative)
        };
        text(of, "/name") == request && alternative.is_none_or(named)
    });
    if !known {
        errors.invalid(path, name, NO_SUCH_REQUEST);
    }
}

/// Parameters for a driver.
fn config(config: &Value, path: &str, errors: &mut ErrorList) {
    let path = format!("{path}.opaque");
    let Some(opaque) = config.get("opaque") else {
        errors.required(path, "");
        return;
    };
    driver(text(opaque, "/driver"), &format!("{path}.driver"), errors);
    let at = format!("{path}.parameters");
    match opaque.get("parameters") {
        None | Some(Value::Null) => errors.required(at, ""),
        Some(parameters) if parameters.to_string().len() > MAX_PARAMETERS => {
            errors.push(FieldError::too_long(at, MAX_PARAMETERS));
        }
        Some(parameters) if !parameters.is_object() => {
            errors.invalid(at, "<value omitted>", "must be a valid JSON object");
        }
        Some(_) => {}
    }
}

/// A DeviceClass.
pub(super) fn class(obj: &Value, errors: &mut ErrorList) {
    selectors(list(obj, "/spec/selectors"), "spec.selectors", errors);
    let configs = list(obj, "/spec/config");
    errors.too_many("spec.config", configs.len(), MAX_ITEMS);
    for (i, of) in configs.iter().enumerate() {
        config(of, &format!("spec.config[{i}]"), errors);
    }
    let extended = obj.pointer("/spec/extendedResourceName").and_then(Value::as_str);
    if let Some(name) = extended.filter(|name| !is_extended_resource(name)) {
        let detail = "must be a valid extended resource name";
        errors.invalid("spec.extendedResourceName", name, detail);
    }
}

fn is_extended_resource(name: &str) -> bool {
    let domain = name.split_once('/').map_or("", |(domain, _)| domain);
    let native = domain.is_empty() || domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
    !native
        && !name.starts_with("requests.")
        && qualified_name_problems(&format!("requests.{name}")).is_empty()
}

/// What the scheduler, drivers and kubelets write.
pub(super) fn status(new: &Value, old: &Value, errors: &mut ErrorList) {
    let path = "status.reservedFor";
    let (now, then) = (list(new, "/status/reservedFor"), list(old, "/status/reservedFor"));
    errors.too_many(path, now.len(), MAX_CONSUMERS);
    for (i, consumer) in now.iter().enumerate() {
        for field in ["resource", "name", "uid"] {
            let value = text(consumer, &format!("/{field}"));
            errors.present(&format!("{path}[{i}].{field}"), value);
        }
        let uid = text(consumer, "/uid");
        if now[..i].iter().any(|other| text(other, "/uid") == uid) {
            errors.duplicate(format!("{path}[{i}]"), uid);
        }
    }
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
        (Some(now), None) => allocated(&now, list(new, "/spec/devices/requests"), errors),
        _ => {}
    }
}

fn allocated(allocation: &Value, requests: &[Value], errors: &mut ErrorList) {
    let path = "status.allocation.devices";
    let results = list(allocation, "/devices/results");
    errors.too_many(&format!("{path}.results"), results.len(), MAX_ITEMS);
    for (i, result) in results.iter().enumerate() {
        let path = format!("{path}.results[{i}]");
        request_reference(
            text(result, "/request"),
            requests,
            &format!("{path}.request"),
            errors,
        );
        driver(text(result, "/driver"), &format!("{path}.driver"), errors);
        pool_name(text(result, "/pool"), &format!("{path}.pool"), errors);
        device_name(text(result, "/device"), &format!("{path}.device"), errors);
    }
    let configs = list(allocation, "/devices/config");
    errors.too_many(&format!("{path}.config"), configs.len(), 2 * MAX_ITEMS);
    for (i, of) in configs.iter().enumerate() {
        let path = format!("{path}.config[{i}]");
        let source = text(of, "/source");
        if errors.present(&format!("{path}.source"), source) {
            errors.one_of(&format!("{path}.source"), source, &["FromClaim", "FromClass"]);
        }
        request_references(of, requests, &path, errors);
        config(of, &path, errors);
    }
    if let Some(selector) = allocation.get("nodeSelector") {
        node_selector(selector, "status.allocation.nodeSelector", errors);
    }
}
