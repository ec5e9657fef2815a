//! Checks of webhook configurations. What an old object got away with, an update may keep.

use super::rules::{match_conditions, rule};
use crate::strategy::access::{int, list, text};
use crate::strategy::pod::validate::label_selector;
use crate::validation::text::{label_1035_problems, qualified_domain_problem};
use crate::validation::{ErrorList, text::between};
use serde_json::Value;

/// Versions of AdmissionReview that are spoken.
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const NO_SIDE_EFFECTS: [&str; 2] = ["None", "NoneOnDryRun"];
const SIDE_EFFECTS: [&str; 4] = ["None", "NoneOnDryRun", "Some", "Unknown"];

/// Either configuration.
pub(super) fn configuration(obj: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let before = old.map_or(&[][..], |old| list(old, "/webhooks"));
    let strict_effects = before
        .iter()
        .all(|hook| NO_SIDE_EFFECTS.contains(&text(hook, "/sideEffects")));
    let known_versions = before.iter().all(|hook| {
        let versions = list(hook, "/admissionReviewVersions");
        versions.is_empty() || versions.iter().any(is_spoken)
    });
    let mut before_names: Vec<&str> = before.iter().map(|hook| text(hook, "/name")).collect();
    before_names.sort_unstable();
    let unique_names = before_names.windows(2).all(|pair| pair[0] != pair[1]);

    let mut names: Vec<&str> = Vec::new();
    for (i, hook) in list(obj, "/webhooks").iter().enumerate() {
        let path = format!("webhooks[{i}]");
        webhook(hook, strict_effects, &path, errors);
        review_versions(hook, known_versions, &path, errors);
        let name = text(hook, "/name");
        if unique_names && !name.is_empty() && names.contains(&name) {
            errors.duplicate(format!("{path}.name"), name);
        }
        names.push(name);
    }
}

fn webhook(hook: &Value, strict_effects: bool, path: &str, errors: &mut ErrorList) {
    let (name, at) = (text(hook, "/name"), format!("{path}.name"));
    if errors.present(&at, name)
        && let Some(problem) = qualified_domain_problem(name, 3, "three")
    {
        errors.invalid(at, name, problem);
    }
    for (i, of) in list(hook, "/rules").iter().enumerate() {
        rule(of, &format!("{path}.rules[{i}]"), errors);
    }
    for (field, supported) in [
        ("failurePolicy", ["Fail", "Ignore"]),
        ("matchPolicy", ["Equivalent", "Exact"]),
    ] {
        if let Some(policy) = hook.get(field).and_then(Value::as_str) {
            errors.one_of(&format!("{path}.{field}"), policy, &supported);
        }
    }
    let supported: &[&str] = if strict_effects {
        &NO_SIDE_EFFECTS
    } else {
        &SIDE_EFFECTS
    };
    match hook.get("sideEffects").and_then(Value::as_str) {
        None => {
            let detail = format!("must specify one of {}", supported.join(", "));
            errors.required(format!("{path}.sideEffects"), detail);
        }
        Some(effects) => errors.one_of(&format!("{path}.sideEffects"), effects, supported),
    }
    if let Some(seconds) = int(hook, "/timeoutSeconds").filter(|s| !(1..=30).contains(s)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.invalid(format!("{path}.timeoutSeconds"), seconds, detail);
    }
    for field in ["namespaceSelector", "objectSelector"] {
        if let Some(selector) = hook.get(field) {
            label_selector(selector, &format!("{path}.{field}"), errors);
        }
    }
    if let Some(policy) = hook.get("reinvocationPolicy").and_then(Value::as_str) {
        let at = format!("{path}.reinvocationPolicy");
        errors.one_of(&at, policy, &["IfNeeded", "Never"]);
    }
    client_config(
        hook.get("clientConfig").unwrap_or(&Value::Null),
        &format!("{path}.clientConfig"),
        errors,
    );
    match_conditions(
        list(hook, "/matchConditions"),
        &format!("{path}.matchConditions"),
        errors,
    );
}

/// Where a webhook is: a service or a URL. Conversion webhooks are found the same way.
pub(in crate::strategy) fn client_config(config: &Value, path: &str, errors: &mut ErrorList) {
    match (config.get("url").and_then(Value::as_str), config.get("service")) {
        (Some(url), None) => self::url(url, &format!("{path}.url"), errors),
        (None, Some(service)) => self::service(service, &format!("{path}.service"), errors),
        _ => errors.required(path, "exactly one of url or service is required"),
    }
}

fn url(url: &str, path: &str, errors: &mut ErrorList) {
    const FORM: &str = "; desired format: https://host[/path]";
    let Some((scheme, rest)) = url.split_once("://") else {
        errors.invalid(
            path,
            url.split(':').next().unwrap_or(""),
            format!("'https' is the only allowed URL scheme{FORM}"),
        );
        return;
    };
    if scheme != "https" {
        errors.invalid(
            path,
            scheme,
            format!("'https' is the only allowed URL scheme{FORM}"),
        );
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = rest.split('/').next().unwrap_or("");
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if host.is_empty() {
        errors.invalid(path, host, format!("host must be specified{FORM}"));
    }
    if !user.is_empty() {
        errors.invalid(path, user, "user information is not permitted in the URL");
    }
    if !fragment.is_empty() {
        errors.invalid(path, fragment, "fragments are not permitted in the URL");
    }
    if !query.is_empty() {
        errors.invalid(path, query, "query parameters are not permitted in the URL");
    }
}

fn service(service: &Value, path: &str, errors: &mut ErrorList) {
    for (field, what) in [("name", "name"), ("namespace", "namespace")] {
        if text(service, &format!("/{field}")).is_empty() {
            errors.required(format!("{path}.{field}"), format!("service {what} is required"));
        }
    }
    if let Some(port) = int(service, "/port").filter(|p| !(1..=65_535).contains(p)) {
        let detail = format!("port is not valid: {}", between(1, 65_535));
        errors.invalid(format!("{path}.port"), port, detail);
    }
    let Some(url_path) = service.get("path").and_then(Value::as_str) else {
        return;
    };
    let at = format!("{path}.path");
    if !url_path.starts_with('/') {
        errors.invalid(at, url_path, "must start with a '/'");
        return;
    }
    let steps: Vec<&str> = url_path[1..].split('/').collect();
    for (i, step) in steps.iter().enumerate() {
        if step.is_empty() {
            if i + 1 < steps.len() {
                errors.invalid(at.clone(), url_path, format!("segment[{i}] may not be empty"));
            }
        } else {
            for problem in crate::validation::text::subdomain_problems(step) {
                errors.invalid(at.clone(), url_path, format!("segment[{i}]: {problem}"));
            }
        }
    }
}

fn is_spoken(version: &Value) -> bool {
    version.as_str().is_some_and(|v| REVIEW_VERSIONS.contains(&v))
}

fn review_versions(hook: &Value, must_be_known: bool, path: &str, errors: &mut ErrorList) {
    let path = format!("{path}.admissionReviewVersions");
    let versions = list(hook, "/admissionReviewVersions");
    let spoken = REVIEW_VERSIONS.join(", ");
    if versions.is_empty() {
        errors.required(path, format!("must specify one of {spoken}"));
        return;
    }
    for (i, version) in versions.iter().enumerate() {
        let (at, text) = (format!("{path}[{i}]"), version.as_str().unwrap_or(""));
        if versions[..i].contains(version) {
            errors.invalid(at, text, "duplicate version");
        } else {
            errors.problems(&at, text, label_1035_problems(text));
        }
    }
    if must_be_known && !versions.iter().any(is_spoken) {
        let detail = format!("must include at least one of {spoken}");
        errors.invalid(path, versions.to_vec(), detail);
    }
}
