//! Checks of what a pod claims, runs on, waits for and looks names up with.

use crate::strategy::access::{list, map, text};
use crate::strategy::quantities;
use crate::validation::ErrorList;
use crate::validation::text::{label_problems, qualified_name_problems, subdomain_problems};
use serde_json::{Value, json};

const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_BYTES: usize = 2048;

/// The claims of a pod; their names are what containers refer to.
pub(super) fn claims<'a>(spec: &'a Value, path: &str, errors: &mut ErrorList) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for (i, claim) in list(spec, "/resourceClaims").iter().enumerate() {
        let path = format!("{path}.resourceClaims[{i}]");
        let name = text(claim, "/name");
        if errors.present(&format!("{path}.name"), name) {
            if names.contains(&name) {
                errors.duplicate(format!("{path}.name"), name);
            } else {
                errors.problems(&format!("{path}.name"), name, label_problems(name));
                names.push(name);
            }
        }
        let of = |field: &str| claim.get(field).and_then(Value::as_str);
        let sources = ["resourceClaimName", "resourceClaimTemplateName"];
        let given: Vec<_> = sources.into_iter().filter_map(|f| Some((f, of(f)?))).collect();
        match given.len() {
            0 => {
                let detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                errors.invalid(path.clone(), claim.clone(), detail);
            }
            1 => {}
            _ => {
                let detail =
                    "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                errors.invalid(path.clone(), claim.clone(), detail);
            }
        }
        for (field, name) in given {
            errors.problems(&format!("{path}.{field}"), name, subdomain_problems(name));
        }
    }
    names
}

/// Resources of all containers together: only those a node divides among them.
pub(super) fn of_pod(spec: &Value, path: &str, errors: &mut ErrorList) {
    if let Some(resources) = spec.get("resources") {
        let path = format!("{path}.resources");
        quantities::requirements(resources, &path, errors);
        if !list(resources, "/claims").is_empty() {
            errors.forbidden(
                format!("{path}.claims"),
                "claims cannot be set for Resources at pod-level",
            );
        }
        for kind in ["limits", "requests"] {
            for name in map(resources, &format!("/{kind}"))
                .into_iter()
                .flatten()
                .map(|(name, _)| name)
            {
                if !matches!(name.as_str(), "cpu" | "memory") && !name.starts_with("hugepages-") {
                    let supported = ["cpu", "hugepages-", "memory"];
                    errors.one_of(&format!("{path}.{kind}[{name}]"), name, &supported);
                }
            }
        }
    }
    if let Some(overhead) = map(spec, "/overhead") {
        quantities::requirements(&json!({"limits": overhead}), &format!("{path}.overhead"), errors);
    }
}

/// The conditions that make a pod ready, whom it may displace.
pub(super) fn others(spec: &Value, path: &str, errors: &mut ErrorList) {
    for (i, gate) in list(spec, "/readinessGates").iter().enumerate() {
        let kind = text(gate, "/conditionType");
        let at = format!("{path}.readinessGates[{i}].conditionType");
        errors.problems(&at, kind, qualified_name_problems(kind));
    }
    if let Some(policy) = spec.get("preemptionPolicy").and_then(Value::as_str) {
        let at = format!("{path}.preemptionPolicy");
        if errors.present(&at, policy) {
            errors.one_of(&at, policy, &["Never", "PreemptLowerPriority"]);
        }
    }
}

/// Search domains and options of the resolver.
pub(super) fn resolver(spec: &Value, path: &str, errors: &mut ErrorList) {
    let searches = list(spec, "/dnsConfig/searches");
    let at = format!("{path}.dnsConfig.searches");
    if searches.len() > MAX_SEARCHES {
        let detail = format!("must not have more than {MAX_SEARCHES} search paths");
        errors.invalid(at.clone(), searches.to_vec(), detail);
    }
    let texts: Vec<&str> = searches.iter().map(|s| s.as_str().unwrap_or("")).collect();
    if texts.join(" ").len() > MAX_SEARCH_BYTES {
        let detail = format!(
            "must not have more than {MAX_SEARCH_BYTES} characters (including spaces) in the search list"
        );
        errors.invalid(at.clone(), searches.to_vec(), detail);
    }
    for (i, search) in texts.into_iter().enumerate().filter(|(_, search)| *search != ".") {
        let trimmed = search.strip_suffix('.').unwrap_or(search);
        // Names of services and protocols begin with an underscore.
        let plain: Vec<String> = trimmed
            .split('.')
            .map(|label| label.replacen('_', "a", 1))
            .collect();
        errors.problems(
            &format!("{at}[{i}]"),
            trimmed,
            subdomain_problems(&plain.join(".").replace('_', "-")),
        );
    }
    for (i, option) in list(spec, "/dnsConfig/options").iter().enumerate() {
        if text(option, "/name").is_empty() {
            errors.required(format!("{path}.dnsConfig.options[{i}]"), "must not be empty");
        }
    }
}
