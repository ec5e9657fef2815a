//! Where a pod may run: selectors, affinity, tolerations, spread.

use crate::meta::validate_labels;
use crate::strategy::access::{int, list, map, text};
use crate::validation::text::{
    label_problems, label_value_problems, qualified_name_problems, subdomain_problems,
};
use crate::validation::{ErrorList, FieldError};
use serde_json::Value;

/// All that steers scheduling.
pub(super) fn scheduling(spec: &Value, path: &str, errors: &mut ErrorList) {
    validate_labels(
        map(spec, "/nodeSelector"),
        &format!("{path}.nodeSelector"),
        errors,
    );
    if let Some(affinity) = spec.get("affinity") {
        node_affinity(affinity, &format!("{path}.affinity.nodeAffinity"), errors);
        for kind in ["podAffinity", "podAntiAffinity"] {
            pod_affinity(affinity, kind, &format!("{path}.affinity.{kind}"), errors);
        }
    }
    tolerations(list(spec, "/tolerations"), &format!("{path}.tolerations"), errors);
    for (i, c) in list(spec, "/topologySpreadConstraints").iter().enumerate() {
        let path = format!("{path}.topologySpreadConstraints[{i}]");
        let skew = int(c, "/maxSkew").unwrap_or(0);
        if skew <= 0 {
            errors.push(FieldError::invalid(
                format!("{path}.maxSkew"),
                &skew.into(),
                "must be greater than zero",
            ));
        }
        let key = text(c, "/topologyKey");
        if key.is_empty() {
            errors.push(FieldError::required(
                format!("{path}.topologyKey"),
                "can not be empty",
            ));
        } else {
            errors.problems(&format!("{path}.topologyKey"), key, qualified_name_problems(key));
        }
        let action = text(c, "/whenUnsatisfiable");
        errors.one_of(
            &format!("{path}.whenUnsatisfiable"),
            action,
            &["DoNotSchedule", "ScheduleAnyway"],
        );
        let later = &list(spec, "/topologySpreadConstraints")[i + 1..];
        let same =
            |other: &Value| text(other, "/topologyKey") == key && text(other, "/whenUnsatisfiable") == action;
        if later.iter().any(same) {
            let at = format!("{path}.{{topologyKey, whenUnsatisfiable}}");
            errors.duplicate(at, format!("{{{key}, {action}}}"));
        }
        if let Some(domains) = int(c, "/minDomains") {
            let at = format!("{path}.minDomains");
            if domains <= 0 {
                errors.invalid(at.clone(), domains, "must be greater than zero");
            }
            if action != "DoNotSchedule" {
                let detail =
                    format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.invalid(at, domains, detail);
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if let Some(policy) = c.get(field).and_then(Value::as_str) {
                errors.one_of(&format!("{path}.{field}"), policy, &["Honor", "Ignore"]);
            }
        }
        label_keys(c, &["matchLabelKeys"], &path, errors);
        if let Some(selector) = c.get("labelSelector") {
            label_selector(selector, &format!("{path}.labelSelector"), errors);
        }
    }
    let gates = list(spec, "/schedulingGates");
    let mut seen: Vec<&str> = Vec::new();
    for (i, gate) in gates.iter().enumerate() {
        let (name, path) = (text(gate, "/name"), format!("{path}.schedulingGates[{i}]"));
        errors.problems(&path, name, qualified_name_problems(name));
        if seen.contains(&name) {
            errors.push(FieldError::duplicate(path, &name.into()));
        }
        seen.push(name);
    }
}

fn node_affinity(affinity: &Value, path: &str, errors: &mut ErrorList) {
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    if let Some(selector) = affinity.pointer(&format!("/nodeAffinity/{required}")) {
        node_selector(selector, &format!("{path}.{required}"), errors);
    }
    for (i, term) in list(affinity, &format!("/nodeAffinity/{preferred}"))
        .iter()
        .enumerate()
    {
        let path = format!("{path}.{preferred}[{i}]");
        weight(term, &path, errors);
        node_selector_term(
            term.get("preference").unwrap_or(&Value::Null),
            &format!("{path}.preference"),
            errors,
        );
    }
}

/// A node selector, of a pod or a persistent volume.
pub(crate) fn node_selector(selector: &Value, path: &str, errors: &mut ErrorList) {
    let terms = list(selector, "/nodeSelectorTerms");
    if terms.is_empty() {
        let detail = "must have at least one node selector term";
        errors.push(FieldError::required(format!("{path}.nodeSelectorTerms"), detail));
    }
    for (i, term) in terms.iter().enumerate() {
        node_selector_term(term, &format!("{path}.nodeSelectorTerms[{i}]"), errors);
    }
}

fn node_selector_term(term: &Value, path: &str, errors: &mut ErrorList) {
    for field in ["matchExpressions", "matchFields"] {
        for (i, requirement) in list(term, &format!("/{field}")).iter().enumerate() {
            let path = format!("{path}.{field}[{i}]");
            let values = list(requirement, "/values");
            if field == "matchFields" {
                node_field(requirement, &path, errors);
                continue;
            }
            match text(requirement, "/operator") {
                "In" | "NotIn" if values.is_empty() => {
                    let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                    errors.push(FieldError::required(format!("{path}.values"), detail));
                }
                "Exists" | "DoesNotExist" if !values.is_empty() => {
                    let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                    errors.push(FieldError::forbidden(format!("{path}.values"), detail));
                }
                "Gt" | "Lt" if values.len() != 1 => {
                    let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                    errors.push(FieldError::required(format!("{path}.values"), detail));
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
                other => errors.push(FieldError::invalid(
                    format!("{path}.operator"),
                    &other.into(),
                    "not a valid selector operator",
                )),
            }
            let key = text(requirement, "/key");
            errors.problems(&format!("{path}.key"), key, qualified_name_problems(key));
        }
    }
}

/// What a node selector may ask of a node's fields: that its name is, or is not, a certain one.
fn node_field(requirement: &Value, path: &str, errors: &mut ErrorList) {
    let values = list(requirement, "/values");
    let at = format!("{path}.values");
    match text(requirement, "/operator") {
        "In" | "NotIn" if values.len() != 1 => {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.required(at.clone(), detail);
        }
        "In" | "NotIn" => {}
        other => errors.invalid(format!("{path}.operator"), other, "not a valid selector operator"),
    }
    let key = text(requirement, "/key");
    if key != "metadata.name" {
        errors.invalid(format!("{path}.key"), key, "not a valid field selector key");
        return;
    }
    for (i, name) in values.iter().enumerate() {
        let name = name.as_str().unwrap_or_default();
        errors.problems(&format!("{at}[{i}]"), name, subdomain_problems(name));
    }
}

fn weight(term: &Value, path: &str, errors: &mut ErrorList) {
    let weight = int(term, "/weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.push(FieldError::invalid(
            format!("{path}.weight"),
            &weight.into(),
            "must be in the range 1-100",
        ));
    }
}

fn pod_affinity(affinity: &Value, kind: &str, path: &str, errors: &mut ErrorList) {
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    for (i, term) in list(affinity, &format!("/{kind}/{required}")).iter().enumerate() {
        pod_affinity_term(term, &format!("{path}.{required}[{i}]"), errors);
    }
    for (i, term) in list(affinity, &format!("/{kind}/{preferred}")).iter().enumerate() {
        let path = format!("{path}.{preferred}[{i}]");
        weight(term, &path, errors);
        let inner = term.get("podAffinityTerm").unwrap_or(&Value::Null);
        pod_affinity_term(inner, &format!("{path}.podAffinityTerm"), errors);
    }
}

fn pod_affinity_term(term: &Value, path: &str, errors: &mut ErrorList) {
    if let Some(selector) = term.get("labelSelector") {
        label_selector(selector, &format!("{path}.labelSelector"), errors);
    }
    if let Some(selector) = term.get("namespaceSelector") {
        label_selector(selector, &format!("{path}.namespaceSelector"), errors);
    }
    for name in list(term, "/namespaces") {
        let name = name.as_str().unwrap_or_default();
        errors.problems(&format!("{path}.namespace"), name, label_problems(name));
    }
    label_keys(term, &["matchLabelKeys", "mismatchLabelKeys"], path, errors);
    let key = text(term, "/topologyKey");
    if key.is_empty() {
        errors.push(FieldError::required(
            format!("{path}.topologyKey"),
            "can not be empty",
        ));
    } else {
        errors.problems(&format!("{path}.topologyKey"), key, qualified_name_problems(key));
    }
}

/// Keys of labels whose values join a selector: in a pod they have joined it already, so one that the selector has twice was in
/// it before.
fn label_keys(term: &Value, fields: &[&str], path: &str, errors: &mut ErrorList) {
    let selector = term.get("labelSelector");
    for field in fields {
        let (keys, at) = (list(term, &format!("/{field}")), format!("{path}.{field}"));
        if keys.is_empty() {
            continue;
        }
        if selector.is_none() {
            errors.forbidden(at, "must not be specified when labelSelector is not set");
            continue;
        }
        for (i, key) in keys.iter().enumerate() {
            let key = key.as_str().unwrap_or_default();
            errors.problems(&format!("{at}[{i}]"), key, qualified_name_problems(key));
        }
    }
    let matched = list(term, "/matchLabelKeys");
    if let Some(selector) = selector {
        let mut seen: Vec<&str> = map(selector, "/matchLabels")
            .into_iter()
            .flatten()
            .map(|(key, _)| key.as_str())
            .collect();
        for requirement in list(selector, "/matchExpressions") {
            let key = text(requirement, "/key");
            if let Some(i) = matched
                .iter()
                .rposition(|k| k == key)
                .filter(|_| seen.contains(&key))
            {
                let detail = "exists in both matchLabelKeys and labelSelector";
                errors.invalid(format!("{path}[{i}]"), key, detail);
            }
            seen.push(key);
        }
    }
    let mismatched = list(term, "/mismatchLabelKeys");
    for (i, key) in matched
        .iter()
        .enumerate()
        .filter(|(_, key)| mismatched.contains(key))
    {
        let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
        errors.invalid(format!("{path}.matchLabelKeys[{i}]"), key.clone(), detail);
    }
}

/// A `metav1.LabelSelector`.
pub(crate) fn label_selector(selector: &Value, path: &str, errors: &mut ErrorList) {
    validate_labels(
        map(selector, "/matchLabels"),
        &format!("{path}.matchLabels"),
        errors,
    );
    for (i, requirement) in list(selector, "/matchExpressions").iter().enumerate() {
        let path = format!("{path}.matchExpressions[{i}]");
        let values = list(requirement, "/values");
        if !requirement_values(requirement, &path, errors) {
            let operator = text(requirement, "/operator");
            let at = format!("{path}.operator");
            errors.invalid(at, operator, "not a valid selector operator");
        }
        let key = text(requirement, "/key");
        errors.problems(&format!("{path}.key"), key, qualified_name_problems(key));
        for (j, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or("");
            errors.problems(&format!("{path}.values[{j}]"), value, label_value_problems(value));
        }
    }
}

/// Checks that a requirement of a selector has the values that its operator asks for; tells whether the operator is known.
pub(crate) fn requirement_values(requirement: &Value, path: &str, errors: &mut ErrorList) -> bool {
    let none = list(requirement, "/values").is_empty();
    match text(requirement, "/operator") {
        "In" | "NotIn" if none => {
            let detail = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.required(format!("{path}.values"), detail);
        }
        "Exists" | "DoesNotExist" if !none => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.forbidden(format!("{path}.values"), detail);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        _ => return false,
    }
    true
}

/// Tolerations, of a pod or a runtime class.
pub(crate) fn tolerations(tolerations: &[Value], path: &str, errors: &mut ErrorList) {
    for (i, t) in tolerations.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let (key, operator) = (text(t, "/key"), text(t, "/operator"));
        if !key.is_empty() {
            errors.problems(&format!("{path}.key"), key, qualified_name_problems(key));
        }
        if key.is_empty() && operator != "Exists" {
            let detail =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(
                format!("{path}.operator"),
                &operator.into(),
                detail,
            ));
        }
        if t.get("tolerationSeconds").is_some() && text(t, "/effect") != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(
                format!("{path}.effect"),
                &text(t, "/effect").into(),
                detail,
            ));
        }
        match operator {
            "Exists" if !text(t, "/value").is_empty() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(format!("{path}.operator"), t, detail));
            }
            "Exists" => {}
            "" | "Equal" => {
                let value = text(t, "/value");
                let problems = label_value_problems(value);
                if !problems.is_empty() {
                    // Upstream blames the operator.
                    errors.invalid(format!("{path}.operator"), value, problems.join(";"));
                }
            }
            other => errors.one_of(&format!("{path}.operator"), other, &["Equal", "Exists"]),
        }
        let effect = text(t, "/effect");
        if !effect.is_empty() {
            errors.one_of(
                &format!("{path}.effect"),
                effect,
                &["NoSchedule", "PreferNoSchedule", "NoExecute"],
            );
        }
    }
}
