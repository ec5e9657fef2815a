//! Checks of admission policies and their bindings. Expressions are only checked for being there: nothing compiles CEL yet.

use super::rules::{match_conditions, rule};
use crate::meta;
use crate::strategy::access::{list, text};
use crate::strategy::pod::validate::label_selector;
use crate::validation::text::{
    label_1035_problems, path_segment_problems, qualified_name_problems, subdomain_problems,
};
use crate::validation::{ErrorList, FieldError};
use serde_json::Value;

const MAX_AUDIT_ANNOTATIONS: usize = 20;
/// The longest expression of an audit annotation, in bytes.
const MAX_AUDIT_EXPRESSION: usize = 5 << 10;
const REASONS: [&str; 3] = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
const ACTIONS: [&str; 3] = ["Audit", "Deny", "Warn"];
/// Words that cannot name a variable of CEL.
const RESERVED: [&str; 21] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
];

/// A ValidatingAdmissionPolicy.
pub(super) fn validating(obj: &Value, errors: &mut ErrorList) {
    let spec = &obj["spec"];
    common(spec, errors);
    let (validations, audits) = (list(spec, "/validations"), list(spec, "/auditAnnotations"));
    if validations.is_empty() && audits.is_empty() {
        let detail = "validations or auditAnnotations must contain at least one item";
        errors.required("spec.validations", detail);
        errors.required("spec.auditAnnotations", detail);
        return;
    }
    for (i, validation) in validations.iter().enumerate() {
        self::validation(validation, &format!("spec.validations[{i}]"), errors);
    }
    if audits.len() > MAX_AUDIT_ANNOTATIONS {
        let detail = format!("must not have more than {MAX_AUDIT_ANNOTATIONS} auditAnnotations");
        errors.invalid("spec.auditAnnotations", audits.to_vec(), detail);
    }
    for (i, audit) in audits.iter().enumerate() {
        let path = format!("spec.auditAnnotations[{i}]");
        let key = text(audit, "/key");
        let whole = format!("{}/{key}", meta::name(obj));
        errors.problems(&format!("{path}.key"), &whole, qualified_name_problems(&whole));
        let expression = text(audit, "/valueExpression").trim();
        let at = format!("{path}.valueExpression");
        if expression.is_empty() {
            errors.required(at, "valueExpression is not specified");
        } else if expression.len() > MAX_AUDIT_EXPRESSION {
            let detail = format!("must not exceed {MAX_AUDIT_EXPRESSION} bytes in length");
            errors.required(at, detail);
        }
        if audits[..i].iter().any(|other| text(other, "/key") == key) {
            errors.duplicate(format!("{path}.key"), key);
        }
    }
}

/// A MutatingAdmissionPolicy.
pub(super) fn mutating(obj: &Value, errors: &mut ErrorList) {
    let spec = &obj["spec"];
    common(spec, errors);
    let mutations = list(spec, "/mutations");
    if mutations.is_empty() {
        errors.required("spec.mutations", "mutations must contain at least one item");
    }
    for (i, mutation) in mutations.iter().enumerate() {
        let path = format!("spec.mutations[{i}]");
        let kind = text(mutation, "/patchType");
        let at = format!("{path}.patchType");
        let wanted = match kind {
            "ApplyConfiguration" => "applyConfiguration",
            "JSONPatch" => "jsonPatch",
            "" => {
                errors.required(at, "");
                continue;
            }
            other => {
                errors.one_of(&at, other, &["ApplyConfiguration", "JSONPatch"]);
                continue;
            }
        };
        for field in ["applyConfiguration", "jsonPatch"] {
            let at = format!("{path}.{field}");
            match mutation.get(field) {
                None if field == wanted => {
                    errors.required(at, format!("must be specified when patchType is {kind}"));
                }
                Some(_) if field != wanted => {
                    errors.forbidden(at, format!("must not be specified when patchType is {kind}"));
                }
                Some(patch) if text(patch, "/expression").trim().is_empty() => {
                    errors.required(format!("{at}.expression"), "");
                }
                _ => {}
            }
        }
    }
    let policy = text(spec, "/reinvocationPolicy");
    if policy.is_empty() {
        errors.required("spec.reinvocationPolicy", "");
    } else {
        errors.one_of("spec.reinvocationPolicy", policy, &["IfNeeded", "Never"]);
    }
}

/// What both have.
fn common(spec: &Value, errors: &mut ErrorList) {
    let policy = text(spec, "/failurePolicy");
    if errors.present("spec.failurePolicy", policy) {
        errors.one_of("spec.failurePolicy", policy, &["Fail", "Ignore"]);
    }
    if let Some(kind) = spec.get("paramKind") {
        param_kind(kind, errors);
    }
    match spec.get("matchConstraints") {
        None => errors.required("spec.matchConstraints", ""),
        Some(constraints) => {
            match_resources(constraints, "spec.matchConstraints", errors);
            if list(constraints, "/resourceRules").is_empty() {
                errors.required("spec.matchConstraints.resourceRules", "");
            }
        }
    }
    match_conditions(list(spec, "/matchConditions"), "spec.matchConditions", errors);
    for (i, variable) in list(spec, "/variables").iter().enumerate() {
        let path = format!("spec.variables[{i}]");
        let name = text(variable, "/name");
        if name.trim().is_empty() {
            errors.required(format!("{path}.name"), "name is not specified");
        } else if !is_identifier(name) {
            errors.invalid(format!("{path}.name"), name, "name is not a valid CEL identifier");
        }
        if text(variable, "/expression").trim().is_empty() {
            errors.required(format!("{path}.expression"), "expression is not specified");
        }
    }
}

fn is_identifier(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b == b'_' || b.is_ascii_alphabetic())
        && bytes.all(|b| b == b'_' || b.is_ascii_alphanumeric())
        && !RESERVED.contains(&name)
}

fn param_kind(kind: &Value, errors: &mut ErrorList) {
    let version = text(kind, "/apiVersion");
    let at = "spec.paramKind.apiVersion";
    if errors.present(at, version) {
        let mut parts = version.split('/');
        match (parts.next(), parts.next(), parts.next()) {
            (_, _, Some(_)) => {
                errors.invalid(at, version, format!("unexpected GroupVersion string: {version}"));
            }
            (group, named, None) => {
                let (group, named) = match named {
                    Some(named) => (group.unwrap_or(""), named),
                    None => ("", group.unwrap_or("")),
                };
                let problems = subdomain_problems(group);
                if !group.is_empty() && !problems.is_empty() {
                    errors.invalid(at, group, problems.join(","));
                }
                let problems = label_1035_problems(named);
                if named.is_empty() {
                    errors.invalid(at, version, "version must be specified");
                } else if !problems.is_empty() {
                    errors.invalid(at, named, problems.join(","));
                }
            }
        }
    }
    let name = text(kind, "/kind");
    if errors.present("spec.paramKind.kind", name) {
        let problems = label_1035_problems(&name.to_lowercase());
        if !problems.is_empty() {
            let detail = format!(
                "may have mixed case, but should otherwise match: {}",
                problems.join(",")
            );
            errors.invalid("spec.paramKind.kind", name, detail);
        }
    }
}

fn match_resources(resources: &Value, path: &str, errors: &mut ErrorList) {
    let policy = text(resources, "/matchPolicy");
    if errors.present(&format!("{path}.matchPolicy"), policy) {
        errors.one_of(&format!("{path}.matchPolicy"), policy, &["Equivalent", "Exact"]);
    }
    for field in ["namespaceSelector", "objectSelector"] {
        match resources.get(field) {
            None => errors.required(format!("{path}.{field}"), ""),
            Some(selector) => label_selector(selector, &format!("{path}.{field}"), errors),
        }
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        for (i, of) in list(resources, &format!("/{field}")).iter().enumerate() {
            let path = format!("{path}.{field}[{i}]");
            let names = list(of, "/resourceNames");
            for (j, name) in names.iter().enumerate() {
                let (at, text) = (format!("{path}.resourceNames[{j}]"), name.as_str().unwrap_or(""));
                errors.problems(&at, text, path_segment_problems(text));
                if names[..j].contains(name) {
                    errors.duplicate(at, text);
                }
            }
            rule(of, &path, errors);
        }
    }
}

fn validation(validation: &Value, path: &str, errors: &mut ErrorList) {
    if text(validation, "/expression").trim().is_empty() {
        errors.required(format!("{path}.expression"), "expression is not specified");
    }
    let blank = |field: &str| {
        let given = text(validation, &format!("/{field}"));
        !given.is_empty() && given.trim().is_empty()
    };
    if blank("messageExpression") {
        let value = text(validation, "/messageExpression");
        let at = format!("{path}.messageExpression");
        errors.invalid(at, value, "must be non-empty if specified");
    }
    let message = text(validation, "/message");
    let at = format!("{path}.message");
    if blank("message") {
        errors.invalid(at, message, "message must be non-empty if specified");
    } else if message.trim().contains(['\n', '\r']) {
        errors.invalid(at, message, "message must not contain line breaks");
    }
    if let Some(reason) = validation.get("reason").and_then(Value::as_str) {
        errors.one_of(&format!("{path}.reason"), reason, &REASONS);
    }
}

/// A ValidatingAdmissionPolicyBinding.
pub(super) fn validating_binding(obj: &Value, errors: &mut ErrorList) {
    mutating_binding(obj, errors);
    let path = "spec.validationActions";
    let actions = list(obj, "/spec/validationActions");
    for (i, action) in actions.iter().enumerate() {
        let text = action.as_str().unwrap_or("");
        errors.one_of(&format!("{path}[{i}]"), text, &ACTIONS);
        if actions[..i].contains(action) {
            errors.duplicate(format!("{path}[{i}]"), text);
        }
    }
    let has = |text: &str| actions.iter().any(|a| a == text);
    if has("Deny") && has("Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.invalid(path, actions.to_vec(), detail);
    }
    if actions.is_empty() {
        errors.required(path, "at least one validation action is required");
    }
}

/// A MutatingAdmissionPolicyBinding.
pub(super) fn mutating_binding(obj: &Value, errors: &mut ErrorList) {
    let name = text(obj, "/spec/policyName");
    if errors.present("spec.policyName", name) {
        errors.problems("spec.policyName", name, subdomain_problems(name));
    }
    if let Some(reference) = obj.pointer("/spec/paramRef") {
        param_ref(reference, "spec.paramRef", errors);
    }
    if let Some(resources) = obj.pointer("/spec/matchResources") {
        match_resources(resources, "spec.matchResources", errors);
    }
}

fn param_ref(reference: &Value, path: &str, errors: &mut ErrorList) {
    const EXCLUSIVE: &str = "name and selector are mutually exclusive";
    let (name, selector) = (text(reference, "/name"), reference.get("selector"));
    if !name.is_empty() {
        let at = format!("{path}.name");
        errors.problems(&at, name, path_segment_problems(name));
        if selector.is_some() {
            errors.forbidden(at, EXCLUSIVE);
        }
    }
    match selector {
        Some(selector) => {
            let at = format!("{path}.selector");
            label_selector(selector, &at, errors);
            if !name.is_empty() {
                errors.forbidden(at, EXCLUSIVE);
            }
        }
        None if name.is_empty() => {
            errors.required(path, "one of name or selector must be specified");
        }
        None => {}
    }
    let action = text(reference, "/parameterNotFoundAction");
    let at = format!("{path}.parameterNotFoundAction");
    if errors.present(&at, action) && !["Deny", "Allow"].contains(&action) {
        errors.push(FieldError::not_supported(at, action, &["Deny", "Allow"]));
    }
}
