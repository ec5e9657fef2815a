//! What a webhook or policy is asked about: operations, groups, versions, resources.

use crate::strategy::access::{list, text};
use crate::validation::ErrorList;
use crate::validation::text::qualified_name_problems;
use serde_json::Value;

const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: [&str; 3] = ["*", "Cluster", "Namespaced"];
/// The most conditions of a webhook or policy.
const MAX_CONDITIONS: usize = 64;

/// Operations on resources.
pub(super) fn rule(rule: &Value, path: &str, errors: &mut ErrorList) {
    let operations = list(rule, "/operations");
    let at = format!("{path}.operations");
    if operations.is_empty() {
        errors.required(at.clone(), "");
    }
    alone(operations, &at, "other operations", errors);
    for (i, operation) in operations.iter().enumerate() {
        errors.one_of(
            &format!("{at}[{i}]"),
            operation.as_str().unwrap_or(""),
            &OPERATIONS,
        );
    }
    let groups = list(rule, "/apiGroups");
    let at = format!("{path}.apiGroups");
    if groups.is_empty() {
        errors.required(at.clone(), "");
    }
    alone(groups, &at, "other API groups", errors);
    let versions = list(rule, "/apiVersions");
    let at = format!("{path}.apiVersions");
    if versions.is_empty() {
        errors.required(at.clone(), "");
    }
    alone(versions, &at, "other API versions", errors);
    for (i, version) in versions.iter().enumerate() {
        errors.present(&format!("{at}[{i}]"), version.as_str().unwrap_or(""));
    }
    resources(list(rule, "/resources"), &format!("{path}.resources"), errors);
    if let Some(scope) = rule.get("scope").and_then(Value::as_str) {
        errors.one_of(&format!("{path}.scope"), scope, &SCOPES);
    }
}

/// `*` says all there is to say.
fn alone(values: &[Value], path: &str, others: &str, errors: &mut ErrorList) {
    if values.len() > 1 && values.iter().any(|v| v == "*") {
        let detail = format!("if '*' is present, must not specify {others}");
        errors.invalid(path, values.to_vec(), detail);
    }
}

/// `pods`, `pods/log`, `pods/*`, `*/scale`, `*`, `*/*`; what one says another must not say again.
fn resources(resources: &[Value], path: &str, errors: &mut ErrorList) {
    if resources.is_empty() {
        errors.required(path, "");
    }
    let (mut all_of, mut all_named): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    for (i, resource) in resources.iter().enumerate() {
        let at = format!("{path}[{i}]");
        let text = resource.as_str().unwrap_or("");
        if !errors.present(&at, text) {
            continue;
        }
        let Some((resource, subresource)) = text.split_once('/') else {
            continue;
        };
        if all_of.contains(&resource) {
            let detail = format!("if '{resource}/*' is present, must not specify {text}");
            errors.invalid(at.clone(), text, detail);
        }
        if all_named.contains(&subresource) {
            let detail = format!("if '*/{subresource}' is present, must not specify {text}");
            errors.invalid(at, text, detail);
        }
        if subresource == "*" {
            all_of.push(resource);
        }
        if resource == "*" {
            all_named.push(subresource);
        }
    }
    let has = |text: &str| resources.iter().any(|r| r == text);
    if resources.len() > 1 && has("*/*") {
        let detail = "if '*/*' is present, must not specify other resources";
        errors.invalid(path, resources.to_vec(), detail);
    }
    // Upstream looks at the last of those without a subresource.
    let mut whole = resources.iter().filter_map(Value::as_str);
    let last = whole.rfind(|r| !r.is_empty() && !r.contains('/'));
    if has("*") && last.is_some_and(|last| last != "*") {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.invalid(path, resources.to_vec(), detail);
    }
}

/// CEL conditions, as far as they can be judged without compiling them.
pub(super) fn match_conditions(conditions: &[Value], path: &str, errors: &mut ErrorList) {
    errors.too_many(path, conditions.len(), MAX_CONDITIONS);
    let mut names: Vec<&str> = Vec::new();
    for (i, condition) in conditions.iter().enumerate() {
        errors.present(
            &format!("{path}[{i}].expression"),
            text(condition, "/expression").trim(),
        );
        let (name, at) = (text(condition, "/name"), format!("{path}[{i}].name"));
        if errors.present(&at, name) {
            errors.problems(&at, name, qualified_name_problems(name));
            if names.contains(&name) {
                errors.duplicate(at, name);
            }
            names.push(name);
        }
    }
}
