//! Checks of HorizontalPodAutoscalers, in the words of version 2.

use crate::quantity::Quantity;
use crate::strategy::access::{int, list, text};
use crate::strategy::quantities::container_resource_name;
use crate::validation::ErrorList;
use crate::validation::text::{label_problems, path_segment_problems};
use serde_json::Value;

/// The longest period of a scaling policy and the longest window to look back over, in seconds.
const MAX_PERIOD_SECONDS: i64 = 1800;
const MAX_WINDOW_SECONDS: i64 = 3600;
/// Sources of metrics: their types and their fields, in the order in which they are looked for.
const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];
const SOURCE_TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];

/// A new autoscaler, with at least so many replicas.
pub(super) fn autoscaler(obj: &Value, least: i64, errors: &mut ErrorList) {
    let spec = &obj["spec"];
    let (min, max) = (int(spec, "/minReplicas"), int(spec, "/maxReplicas").unwrap_or(0));
    if let Some(min) = min.filter(|min| *min < least) {
        let detail = format!("must be greater than or equal to {least}");
        errors.invalid("spec.minReplicas", min, detail);
    }
    if max < 1 {
        errors.invalid("spec.maxReplicas", max, "must be greater than 0");
    }
    if min.is_some_and(|min| max < min) {
        errors.invalid(
            "spec.maxReplicas",
            max,
            "must be greater than or equal to `minReplicas`",
        );
    }
    object_reference(spec.get("scaleTargetRef"), "spec.scaleTargetRef", errors);
    let metrics = list(spec, "/metrics");
    for (i, of) in metrics.iter().enumerate() {
        metric(of, &format!("spec.metrics[{i}]"), errors);
    }
    let wakes = |m: &Value| matches!(text(m, "/type"), "Object" | "External");
    if min == Some(0) && !metrics.iter().any(wakes) {
        let detail =
            "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.forbidden("spec.metrics", detail);
    }
    for direction in ["scaleUp", "scaleDown"] {
        if let Some(rules) = spec.pointer(&format!("/behavior/{direction}")) {
            scaling_rules(rules, &format!("spec.behavior.{direction}"), errors);
        }
    }
}

/// An autoscaler that could scale to zero may go on doing so.
pub(super) fn update(new: &Value, old: &Value, errors: &mut ErrorList) {
    let least = i64::from(int(old, "/spec/minReplicas") != Some(0));
    autoscaler(new, least, errors);
}

/// What the controller reports.
pub(super) fn status(obj: &Value, errors: &mut ErrorList) {
    for field in ["currentReplicas", "desiredReplicas"] {
        let count = int(obj, &format!("/status/{field}")).unwrap_or(0);
        errors.non_negative(&format!("status.{field}"), count);
    }
}

fn object_reference(reference: Option<&Value>, path: &str, errors: &mut ErrorList) {
    let reference = reference.unwrap_or(&Value::Null);
    for field in ["kind", "name"] {
        let (value, at) = (text(reference, &format!("/{field}")), format!("{path}.{field}"));
        if errors.present(&at, value) {
            errors.problems(&at, value, path_segment_problems(value));
        }
    }
}

fn scaling_rules(rules: &Value, path: &str, errors: &mut ErrorList) {
    if let Some(seconds) = int(rules, "/stabilizationWindowSeconds") {
        let at = format!("{path}.stabilizationWindowSeconds");
        if seconds < 0 {
            errors.invalid(at, seconds, "must be greater than or equal to zero");
        } else if seconds > MAX_WINDOW_SECONDS {
            errors.invalid(
                at,
                seconds,
                format!("must be less than or equal to {MAX_WINDOW_SECONDS}"),
            );
        }
    }
    if let Some(policy) = rules.get("selectPolicy").and_then(Value::as_str) {
        errors.one_of(
            &format!("{path}.selectPolicy"),
            policy,
            &["Disabled", "Max", "Min"],
        );
    }
    let tolerance = rules.get("tolerance").and_then(Value::as_str);
    if let Some(tolerance) = tolerance.filter(|t| Quantity::parse(t).is_ok_and(|q| q.signum() < 0)) {
        let detail = "must be greater than or equal to 0";
        errors.invalid(format!("{path}.tolerance"), tolerance, detail);
    }
    let policies = list(rules, "/policies");
    if policies.is_empty() {
        errors.required(format!("{path}.policies"), "must specify at least one Policy");
    }
    for (i, policy) in policies.iter().enumerate() {
        let path = format!("{path}.policies[{i}]");
        errors.one_of(
            &format!("{path}.type"),
            text(policy, "/type"),
            &["Percent", "Pods"],
        );
        for field in ["value", "periodSeconds"] {
            let value = int(policy, &format!("/{field}")).unwrap_or(0);
            let at = format!("{path}.{field}");
            if value <= 0 {
                errors.invalid(at, value, "must be greater than zero");
            } else if field == "periodSeconds" && value > MAX_PERIOD_SECONDS {
                errors.invalid(
                    at,
                    value,
                    format!("must be less than or equal to {MAX_PERIOD_SECONDS}"),
                );
            }
        }
    }
}

fn metric(metric: &Value, path: &str, errors: &mut ErrorList) {
    let kind = text(metric, "/type");
    let at = format!("{path}.type");
    if kind.is_empty() {
        errors.required(at.clone(), "must specify a metric source type");
    }
    errors.one_of(&at, kind, &SOURCE_TYPES);
    let given: Vec<&str> = SOURCES
        .iter()
        .map(|(_, field)| *field)
        .filter(|field| metric.get(field).is_some())
        .collect();
    if let Some(first) = given.first() {
        source(first, &metric[*first], &format!("{path}.{first}"), errors);
    }
    let expected = SOURCES
        .iter()
        .find(|(name, _)| *name == kind)
        .map(|(_, field)| *field);
    if let Some(expected) = expected.filter(|field| !given.contains(field)) {
        let detail = "must populate information for the given metric source";
        errors.required(format!("{path}.{expected}"), detail);
    }
    if given.len() != 1 {
        for other in given.iter().filter(|field| Some(**field) != expected) {
            let detail = "must populate the given metric source only";
            errors.forbidden(format!("{path}.{other}"), detail);
        }
    }
}

fn source(kind: &str, source: &Value, path: &str, errors: &mut ErrorList) {
    if kind == "object" {
        object_reference(
            source.get("describedObject"),
            &format!("{path}.describedObject"),
            errors,
        );
    }
    match kind {
        "object" | "external" | "pods" => {
            let (name, at) = (text(source, "/metric/name"), format!("{path}.metric.name"));
            if name.is_empty() {
                errors.required(at, "must specify a metric name");
            } else {
                errors.problems(&at, name, path_segment_problems(name));
            }
        }
        _ if text(source, "/name").is_empty() => {
            errors.required(format!("{path}.name"), "must specify a resource name");
        }
        "containerResource" => {
            container_resource_name(text(source, "/name"), &format!("{path}.name"), errors);
        }
        _ => {}
    }
    if kind == "containerResource" {
        let (name, at) = (text(source, "/container"), format!("{path}.container"));
        if name.is_empty() {
            errors.required(at, "must specify a container");
        } else {
            errors.problems(&at, name, label_problems(name));
        }
    }
    target(
        source.get("target").unwrap_or(&Value::Null),
        &format!("{path}.target"),
        errors,
    );
    let has = |field: &str| source.pointer(&format!("/target/{field}")).is_some();
    let average = format!("{path}.target.averageValue");
    match kind {
        "pods" if !has("averageValue") => {
            errors.required(average, "must specify a positive target averageValue");
        }
        "object" if !has("value") && !has("averageValue") => {
            errors.required(average, "must set either a target value or averageValue");
        }
        "external" if !has("value") && !has("averageValue") => {
            errors.required(
                average,
                "must set either a target value for metric or a per-pod target",
            );
        }
        "external" if has("value") && has("averageValue") => {
            let detail = "may not set both a target value for metric and a per-pod target";
            errors.forbidden(format!("{path}.target.value"), detail);
        }
        "resource" | "containerResource" if has("averageUtilization") && has("averageValue") => {
            errors.forbidden(
                average,
                "may not set both a target raw value and a target utilization",
            );
        }
        "resource" | "containerResource" if !has("averageUtilization") && !has("averageValue") => {
            let detail = "must set either a target raw value or a target utilization";
            errors.required(format!("{path}.target.averageUtilization"), detail);
        }
        _ => {}
    }
}

fn target(target: &Value, path: &str, errors: &mut ErrorList) {
    let kind = text(target, "/type");
    let at = format!("{path}.type");
    if kind.is_empty() {
        errors.required(at.clone(), "must specify a metric target type");
    }
    if !["Utilization", "Value", "AverageValue"].contains(&kind) {
        errors.invalid(at, kind, "must be either Utilization, Value, or AverageValue");
    }
    for field in ["value", "averageValue"] {
        let amount = target.get(field).and_then(Value::as_str);
        if let Some(amount) = amount.filter(|a| !Quantity::parse(a).is_ok_and(|q| q.signum() > 0)) {
            errors.invalid(format!("{path}.{field}"), amount, "must be positive");
        }
    }
    if let Some(percent) = int(target, "/averageUtilization").filter(|p| *p < 1) {
        errors.invalid(
            format!("{path}.averageUtilization"),
            percent,
            "must be greater than 0",
        );
    }
}
