//! Checks of ResourceQuotas and LimitRanges.

use crate::quantity::Quantity;
use crate::strategy::access::{list, map, text};
use crate::strategy::quantities::{
    amount, container_resource_name, is_quota_resource, overcommits, quota_resource_name, resource_amount,
    resource_name,
};
use crate::validation::text::qualified_name_problems;
use crate::validation::{ErrorList, FIELD_IMMUTABLE};
use serde_json::Value;

const POD_SCOPES: [&str; 5] = [
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
];
const POD_RESOURCES: [&str; 7] = [
    "cpu",
    "limits.cpu",
    "limits.memory",
    "memory",
    "pods",
    "requests.cpu",
    "requests.memory",
];
const EXISTENCE_ONLY: &str = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";

pub(super) fn resource_quota(obj: &Value, errors: &mut ErrorList) {
    spec(obj, errors);
    amounts(obj, &["status/hard", "status/used"], errors);
}

fn spec(obj: &Value, errors: &mut ErrorList) {
    amounts(obj, &["spec/hard"], errors);
    let resources: Vec<&str> = map(obj, "/spec/hard")
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str())
        .collect();
    let scopes = list(obj, "/spec/scopes");
    let names: Vec<&str> = scopes.iter().map(|s| s.as_str().unwrap_or("")).collect();
    for scope in &names {
        if !is_scope(scope) {
            errors.invalid("spec.scopes", scopes.to_vec(), "unsupported scope");
        }
        for _ in misfits(scope, &resources) {
            errors.invalid(
                "spec.scopes",
                scopes.to_vec(),
                "unsupported scope applied to resource",
            );
        }
    }
    conflicts(&names, scopes, errors);
    let selected: Vec<&str> = list(obj, "/spec/scopeSelector/matchExpressions")
        .iter()
        .map(|r| text(r, "/scopeName"))
        .collect();
    for requirement in list(obj, "/spec/scopeSelector/matchExpressions") {
        scope_requirement(obj, requirement, &resources, errors);
    }
    conflicts(&selected, scopes, errors);
}

fn is_scope(scope: &str) -> bool {
    POD_SCOPES.contains(&scope) || matches!(scope, "BestEffort" | "VolumeAttributesClass")
}

/// The resources that a scope says nothing about.
fn misfits<'a>(scope: &'a str, resources: &'a [&'a str]) -> impl Iterator<Item = &'a &'a str> {
    resources.iter().filter(move |resource| {
        let fits = match scope {
            "BestEffort" => **resource == "pods",
            "VolumeAttributesClass" => {
                matches!(**resource, "persistentvolumeclaims" | "requests.storage")
            }
            // What is no scope is wrong enough.
            other => !POD_SCOPES.contains(&other) || POD_RESOURCES.contains(*resource),
        };
        is_quota_resource(resource) && !fits
    })
}

fn conflicts(names: &[&str], scopes: &[Value], errors: &mut ErrorList) {
    for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
        if pair.iter().all(|scope| names.contains(scope)) {
            let shown = match scopes.is_empty() {
                true => Value::Null,
                false => scopes.to_vec().into(),
            };
            errors.invalid("spec.scopes", shown, "conflicting scopes");
        }
    }
}

fn scope_requirement(obj: &Value, requirement: &Value, resources: &[&str], errors: &mut ErrorList) {
    let path = "spec.scopeSelector.matchExpressions";
    let (scope, operator) = (text(requirement, "/scopeName"), text(requirement, "/operator"));
    if !is_scope(scope) {
        errors.invalid(format!("{path}.scopeName"), scope, "unsupported scope");
    }
    for _ in misfits(scope, resources) {
        let selector = obj["spec"]["scopeSelector"].clone();
        errors.invalid(path, selector, "unsupported scope applied to resource");
    }
    if is_scope(scope) && !matches!(scope, "PriorityClass" | "VolumeAttributesClass") && operator != "Exists"
    {
        errors.invalid(format!("{path}.operator"), operator, EXISTENCE_ONLY);
    }
    let values = list(requirement, "/values");
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
            errors.required(format!("{path}.values"), detail);
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
            errors.invalid(format!("{path}.values"), values.to_vec(), detail);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => errors.invalid(format!("{path}.operator"), other, "not a valid selector operator"),
    }
}

/// Names and amounts of maps of resources.
fn amounts(obj: &Value, maps: &[&str], errors: &mut ErrorList) {
    for at in maps {
        for (name, value) in map(obj, &format!("/{at}")).into_iter().flatten() {
            let path = format!("{}[{name}]", at.replace('/', "."));
            quota_resource_name(name, &path, errors);
            resource_amount(name, value, &path, errors);
        }
    }
}

/// Scopes stay what they are, whatever their order.
pub(super) fn resource_quota_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    spec(new, errors);
    let sorted = |obj: &Value| {
        let scopes = list(obj, "/spec/scopes");
        let mut scopes: Vec<String> = scopes.iter().map(|s| s.as_str().unwrap_or("").into()).collect();
        scopes.sort();
        scopes.dedup();
        scopes
    };
    if sorted(new) != sorted(old) {
        let scopes = new.pointer("/spec/scopes").cloned().unwrap_or_default();
        errors.invalid("spec.scopes", scopes, FIELD_IMMUTABLE);
    }
}

pub(super) fn resource_quota_status(new: &Value, _: &Value, errors: &mut ErrorList) {
    amounts(new, &["status/hard", "status/used"], errors);
}

pub(super) fn limit_range(obj: &Value, errors: &mut ErrorList) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, item) in list(obj, "/spec/limits").iter().enumerate() {
        let path = format!("spec.limits[{i}]");
        let kind = text(item, "/type");
        let problems = qualified_name_problems(kind);
        let known = kind.contains('/') || matches!(kind, "Container" | "PersistentVolumeClaim" | "Pod");
        if problems.is_empty() && !known {
            let detail = "must be a standard limit type or fully qualified";
            errors.invalid(format!("{path}.type"), kind, detail);
        }
        errors.problems(&format!("{path}.type"), kind, problems);
        if seen.contains(&kind) {
            errors.duplicate(format!("{path}.type"), kind);
        }
        seen.push(kind);
        limits(item, kind, &path, errors);
    }
}

fn limits(item: &Value, kind: &str, path: &str, errors: &mut ErrorList) {
    let mut names: Vec<&str> = Vec::new();
    for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        let Some(values) = map(item, &format!("/{field}")) else {
            continue;
        };
        let path = format!("{path}.{field}");
        if kind == "Pod" && field.starts_with("default") {
            if !values.is_empty() {
                errors.forbidden(path, "may not be specified when `type` is 'Pod'");
            }
            continue;
        }
        for name in values.keys() {
            let check = match kind {
                "Pod" | "Container" => container_resource_name,
                _ => resource_name,
            };
            check(name, &format!("{path}[{name}]"), errors);
            names.push(name);
        }
    }
    if kind == "PersistentVolumeClaim"
        && ["/min/storage", "/max/storage"]
            .iter()
            .all(|at| item.pointer(at).is_none())
    {
        let detail = "either minimum or maximum storage value is required, but neither was provided";
        errors.required(format!("{path}.limits"), detail);
    }
    names.sort_unstable();
    names.dedup();
    for name in names {
        ordered(item, kind, name, path, errors);
    }
}

/// The minimum, the defaults and the maximum of a resource are in that order.
fn ordered(item: &Value, kind: &str, name: &str, path: &str, errors: &mut ErrorList) {
    let of = |field: &str| {
        let value = item.get(field)?.get(name)?;
        let absent = kind == "Pod" && field.starts_with("default");
        Some((value, amount(value)?)).filter(|_| !absent)
    };
    let (min, max, limit, request) = (of("min"), of("max"), of("default"), of("defaultRequest"));
    let (minimum, maximum) = (("min value", &min), ("max value", &max));
    // The lower, the higher, the field to blame, and whether its value is the higher one.
    let pairs = [
        (minimum, maximum, "min", false),
        (
            minimum,
            ("default request value", &request),
            "defaultRequest",
            true,
        ),
        (
            ("default request value", &request),
            maximum,
            "defaultRequest",
            false,
        ),
        (
            ("default request value", &request),
            ("default limit value", &limit),
            "defaultRequest",
            false,
        ),
        (minimum, ("default value", &limit), "default", false),
        (("default value", &limit), maximum, "default", true),
    ];
    for ((low_name, low), (high_name, high), field, blame_high) in pairs {
        let (Some((low_value, low)), Some((high_value, high))) = (low, high) else {
            continue;
        };
        if low > high {
            let shown = if blame_high { *high_value } else { *low_value };
            let (low, high) = (low.canonical(), high.canonical());
            let detail = format!("{low_name} {low} is greater than {high_name} {high}");
            errors.invalid(format!("{path}.{field}[{name}]"), shown.clone(), detail);
        }
    }
    if let Some((value, ratio)) = of("maxLimitRequestRatio") {
        let at = format!("{path}.maxLimitRequestRatio[{name}]");
        let text = ratio.canonical();
        if ratio.milli_value() < 1000 {
            errors.invalid(at.clone(), value.clone(), format!("ratio {text} is less than 1"));
        }
        if let (Some((_, min)), Some((_, max))) = (&min, &max) {
            let highest = quotient(max, min);
            if quotient(&ratio, &Quantity::from_milli(1000)) > highest {
                let detail = format!("ratio {text} is greater than max/min = {highest:.6}");
                errors.invalid(at, value.clone(), detail);
            }
        }
    }
    if let (false, Some((_, limit)), Some((value, request))) = (overcommits(name), &limit, &request)
        && limit != request
    {
        let (limit, request) = (limit.canonical(), request.canonical());
        let detail = format!("default value {limit} must equal to defaultRequest value {request} in {name}");
        errors.invalid(format!("{path}.defaultRequest[{name}]"), (*value).clone(), detail);
    }
}

/// Of two amounts, exact to a thousandth unless they are too large for that.
#[expect(clippy::cast_precision_loss, reason = "upstream computes with the same loss")]
fn quotient(a: &Quantity, b: &Quantity) -> f64 {
    const MAX_MILLI: i64 = i64::MAX / 1000;
    match a.value() < MAX_MILLI && b.value() < MAX_MILLI {
        true => a.milli_value() as f64 / b.milli_value() as f64,
        false => a.value() as f64 / b.value() as f64,
    }
}
