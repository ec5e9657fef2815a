//! Checks of ResourceClaims, their templates and DeviceClasses. Expressions are only measured: nothing compiles CEL yet.

use super::name::{driver, fully_qualified, keys, toleration, unique};
use crate::meta::{validate_annotations, validate_labels};
use crate::strategy::access::{int, list, map, text};
use crate::strategy::quantities::is_extended;
use crate::validation::text::{label_problems, subdomain_problems};
use crate::validation::{ErrorList, FieldError};
use serde_json::Value;

/// Limits of a claim.
pub(super) const MAX_ITEMS: usize = 32;
const MAX_ALTERNATIVES: usize = 8;
/// Longest expression and largest opaque parameters, in bytes.
const MAX_EXPRESSION: usize = 10 << 10;
pub(super) const MAX_PARAMETERS: usize = 10 << 10;
const NO_SUCH_REQUEST: &str =
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

/// A template of claims.
pub(super) fn template(obj: &Value, errors: &mut ErrorList) {
    let labels = map(obj, "/spec/metadata/labels");
    validate_labels(labels, "spec.metadata.labels", errors);
    let annotations = map(obj, "/spec/metadata/annotations");
    validate_annotations(annotations, "spec.metadata.annotations", errors);
    spec(&obj["spec"]["spec"], "spec.spec", errors);
}

/// The spec of a claim.
pub(super) fn spec(spec: &Value, path: &str, errors: &mut ErrorList) {
    let requests = list(spec, "/devices/requests");
    let path = format!("{path}.devices");
    let at = format!("{path}.requests");
    if !errors.too_many(&at, requests.len(), MAX_ITEMS) {
        for (i, of) in requests.iter().enumerate() {
            request(of, &format!("{at}[{i}]"), errors);
        }
        unique(&keys(requests, "/name"), &at, errors);
    }
    let at = format!("{path}.constraints");
    let constraints = list(spec, "/devices/constraints");
    if !errors.too_many(&at, constraints.len(), MAX_ITEMS) {
        for (i, of) in constraints.iter().enumerate() {
            constraint(of, requests, &format!("{at}[{i}]"), errors);
        }
    }
    let at = format!("{path}.config");
    let configs = list(spec, "/devices/config");
    if !errors.too_many(&at, configs.len(), MAX_ITEMS) {
        for (i, of) in configs.iter().enumerate() {
            let path = format!("{at}[{i}]");
            request_references(of, requests, &path, errors);
            config(of, false, &path, errors);
        }
    }
}

/// What devices of several requests have in common, or do not.
fn constraint(constraint: &Value, requests: &[Value], path: &str, errors: &mut ErrorList) {
    request_references(constraint, requests, path, errors);
    let attribute = ["matchAttribute", "distinctAttribute"]
        .into_iter()
        .find_map(|field| Some((field, constraint.get(field)?.as_str()?)));
    match attribute {
        Some((field, name)) => fully_qualified(name, &format!("{path}.{field}"), errors),
        None => errors.required(
            path,
            "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
        ),
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
            if errors.too_many(&at, alternatives.len(), MAX_ALTERNATIVES) {
                return;
            }
            for (i, alternative) in alternatives.iter().enumerate() {
                let name = text(alternative, "/name");
                errors.problems(&format!("{at}[{i}].name"), name, label_problems(name));
                devices(alternative, &format!("{at}[{i}]"), errors);
            }
            unique(&keys(alternatives, "/name"), &at, errors);
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
    selectors(
        list(request, "/selectors"),
        false,
        &format!("{path}.selectors"),
        errors,
    );
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

/// Expressions; those that are stored already may be longer than new ones.
fn selectors(selectors: &[Value], stored: bool, path: &str, errors: &mut ErrorList) {
    if errors.too_many(path, selectors.len(), MAX_ITEMS) {
        return;
    }
    for (i, selector) in selectors.iter().enumerate() {
        let path = format!("{path}[{i}].cel");
        match selector.get("cel") {
            None => errors.required(path, ""),
            Some(cel) if !stored && text(cel, "/expression").len() > MAX_EXPRESSION => {
                errors.push(FieldError::too_long(format!("{path}.expression"), MAX_EXPRESSION));
            }
            Some(_) => {}
        }
    }
}

/// `requests`: names of requests, or of one of a request's alternatives.
pub(super) fn request_references(owner: &Value, requests: &[Value], path: &str, errors: &mut ErrorList) {
    let path = format!("{path}.requests");
    let names: Vec<&str> = list(owner, "/requests")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    if errors.too_many(&path, names.len(), MAX_ITEMS) {
        return;
    }
    for (i, name) in names.iter().enumerate() {
        request_reference(name, requests, &format!("{path}[{i}]"), errors);
    }
    unique(&names, &path, errors);
}

pub(super) fn request_reference(name: &str, requests: &[Value], path: &str, errors: &mut ErrorList) {
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

/// Parameters for a driver; those that are stored already may be larger than new ones.
pub(super) fn config(config: &Value, stored: bool, path: &str, errors: &mut ErrorList) {
    let path = format!("{path}.opaque");
    let Some(opaque) = config.get("opaque") else {
        return errors.required(path, "");
    };
    driver(text(opaque, "/driver"), &format!("{path}.driver"), errors);
    let at = format!("{path}.parameters");
    match opaque
        .get("parameters")
        .filter(|parameters| !parameters.is_null())
    {
        None => errors.required(at, ""),
        Some(parameters) => object(parameters, stored, &at, errors),
    }
}

/// A small object of whatever form.
pub(super) fn object(value: &Value, stored: bool, path: &str, errors: &mut ErrorList) {
    if !stored && value.to_string().len() > MAX_PARAMETERS {
        errors.push(FieldError::too_long(path, MAX_PARAMETERS));
    } else if !value.is_object() {
        errors.invalid(path, "<value omitted>", "must be a valid JSON object");
    }
}

/// A DeviceClass.
pub(super) fn class(obj: &Value, errors: &mut ErrorList) {
    class_update(obj, &Value::Null, errors);
}

/// A DeviceClass of which parts are stored already.
pub(super) fn class_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    let kept = |pointer: &str| {
        let (new, old) = (list(new, pointer), list(old, pointer));
        (new, !new.is_empty() && new == old)
    };
    let (of, stored) = kept("/spec/selectors");
    selectors(of, stored, "spec.selectors", errors);
    let (configs, stored) = kept("/spec/config");
    if !errors.too_many("spec.config", configs.len(), MAX_ITEMS) {
        for (i, of) in configs.iter().enumerate() {
            config(of, stored, &format!("spec.config[{i}]"), errors);
        }
    }
    let extended = new.pointer("/spec/extendedResourceName").and_then(Value::as_str);
    if let Some(name) = extended.filter(|name| !is_extended(name)) {
        let detail = "must be a valid extended resource name";
        errors.invalid("spec.extendedResourceName", name, detail);
    }
}
