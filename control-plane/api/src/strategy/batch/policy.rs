//! Checks of what makes a Job fail or succeed before its time.

use super::status::index_count;
use crate::strategy::access::{int, list, text};
use crate::validation::text::qualified_name_problems;
use crate::validation::{ErrorList, FieldError};
use serde_json::Value;

const MAX_RULES: usize = 20;
const MAX_PATTERNS: usize = 20;
const MAX_EXIT_CODES: usize = 255;
/// Longest list of indexes, in bytes.
const MAX_INDEXES: usize = 64 << 10;
const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
const STATUSES: [&str; 3] = ["False", "True", "Unknown"];

fn valid_values(values: &[&str]) -> String {
    let quoted: Vec<String> = values.iter().map(|v| format!("{v:?}")).collect();
    format!("valid values: [{}]", quoted.join(" "))
}

/// `podFailurePolicy` of a Job's spec.
pub(super) fn failure_policy(spec: &Value, errors: &mut ErrorList) {
    let Some(policy) = spec.get("podFailurePolicy") else {
        return;
    };
    let path = "spec.podFailurePolicy.rules";
    let rules = list(policy, "/rules");
    errors.too_many(path, rules.len(), MAX_RULES);
    for (i, rule) in rules.iter().enumerate() {
        failure_rule(rule, spec, &format!("{path}[{i}]"), errors);
    }
}

fn failure_rule(rule: &Value, spec: &Value, path: &str, errors: &mut ErrorList) {
    let at = format!("{path}.action");
    match text(rule, "/action") {
        "" => errors.required(at, valid_values(&ACTIONS)),
        "FailIndex" if spec.get("backoffLimitPerIndex").is_none() => {
            errors.invalid(at, "FailIndex", "requires the backoffLimitPerIndex to be set");
        }
        action => errors.one_of(&at, action, &ACTIONS),
    }
    let (codes, conditions) = (rule.get("onExitCodes"), list(rule, "/onPodConditions"));
    if let Some(codes) = codes {
        exit_codes(codes, spec, &format!("{path}.onExitCodes"), errors);
    }
    let at = format!("{path}.onPodConditions");
    errors.too_many(&at, conditions.len(), MAX_PATTERNS);
    for (i, pattern) in conditions.iter().enumerate() {
        let kind = text(pattern, "/type");
        errors.problems(&format!("{at}[{i}].type"), kind, qualified_name_problems(kind));
        let (status, at) = (text(pattern, "/status"), format!("{at}[{i}].status"));
        if status.is_empty() {
            errors.required(at, valid_values(&STATUSES));
        } else {
            errors.one_of(&at, status, &STATUSES);
        }
    }
    let detail = match (codes.is_some(), conditions.is_empty()) {
        (true, false) => "specifying both OnExitCodes and OnPodConditions is not supported",
        (false, true) => "specifying one of OnExitCodes and OnPodConditions is required",
        _ => return,
    };
    errors.push(FieldError::omitted(path, detail));
}

fn exit_codes(codes: &Value, spec: &Value, path: &str, errors: &mut ErrorList) {
    let (operator, at) = (text(codes, "/operator"), format!("{path}.operator"));
    if operator.is_empty() {
        errors.required(at, valid_values(&["In", "NotIn"]));
    } else {
        errors.one_of(&at, operator, &["In", "NotIn"]);
    }
    if let Some(name) = codes.get("containerName").and_then(Value::as_str) {
        let known = ["containers", "initContainers"].iter().any(|field| {
            let mut of = list(spec, &format!("/template/spec/{field}")).iter();
            of.any(|container| text(container, "/name") == name)
        });
        if !known {
            let detail = "must be one of the container or initContainer names in the pod template";
            errors.invalid(format!("{path}.containerName"), name, detail);
        }
    }
    let (values, at) = (list(codes, "/values"), format!("{path}.values"));
    if values.is_empty() {
        let shown = codes.get("values").cloned().unwrap_or_default();
        errors.invalid(at.clone(), shown, "at least one value is required");
    }
    errors.too_many(&at, values.len(), MAX_EXIT_CODES);
    for (i, value) in values.iter().enumerate() {
        let at = format!("{at}[{i}]");
        if operator == "In" && value == 0 {
            errors.invalid(at.clone(), 0, "must not be 0 for the In operator");
        }
        if values[..i].contains(value) {
            errors.duplicate(at, value.clone());
        }
    }
    if values.windows(2).any(|pair| pair[0].as_i64() > pair[1].as_i64()) {
        errors.invalid(at, values.to_vec(), "must be ordered");
    }
}

/// `successPolicy` of a Job's spec.
pub(super) fn success_policy(spec: &Value, errors: &mut ErrorList) {
    let Some(policy) = spec.get("successPolicy") else {
        return;
    };
    if text(spec, "/completionMode") != "Indexed" {
        let detail = "requires indexed completion mode";
        errors.invalid("spec.successPolicy", policy.clone(), detail);
        return;
    }
    let path = "spec.successPolicy.rules";
    let rules = list(policy, "/rules");
    if rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        errors.required(path, detail);
    }
    errors.too_many(path, rules.len(), MAX_RULES);
    let completions = int(spec, "/completions").unwrap_or(0);
    for (i, rule) in rules.iter().enumerate() {
        success_rule(rule, completions, &format!("{path}[{i}]"), errors);
    }
}

fn success_rule(rule: &Value, completions: i64, path: &str, errors: &mut ErrorList) {
    let indexes = rule.get("succeededIndexes").and_then(Value::as_str);
    let count = int(rule, "/succeededCount");
    if indexes.is_none() && count.is_none() {
        let detail = "at least one of succeededCount or succeededIndexes must be specified";
        errors.required(path, detail);
    }
    let mut total = 0;
    if let Some(indexes) = indexes {
        let at = format!("{path}.succeededIndexes");
        if indexes.len() > MAX_INDEXES {
            errors.push(FieldError::too_long(at.clone(), MAX_INDEXES));
        }
        match index_count(indexes, completions) {
            Ok(count) => total = count,
            Err(problem) => {
                errors.invalid(at, indexes, format!("error parsing succeededIndexes: {problem}"));
            }
        }
    }
    let Some(count) = count else { return };
    let at = format!("{path}.succeededCount");
    errors.non_negative(&at, count);
    if count > completions {
        let detail =
            format!("must be less than or equal to {completions} (the number of specified completions)");
        errors.invalid(at.clone(), count, detail);
    }
    if indexes.is_some() && count > total {
        let detail = format!(
            "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
        );
        errors.invalid(at, count, detail);
    }
}
