//! Checks of StorageClasses and VolumeAttributesClasses.

use crate::strategy::access::{list, map, text};
use crate::strategy::pod::warnings::deprecated_label;
use crate::validation::text::qualified_name_problems;
use crate::validation::{ErrorList, FieldError};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The most parameters, and their size with their names in bytes.
const MAX_PARAMETERS: usize = 512;
const MAX_PARAMETERS_SIZE: usize = 256 << 10;

/// A StorageClass.
pub(super) fn storage_class(obj: &Value, errors: &mut ErrorList) {
    provisioner(obj, "provisioner", errors);
    parameters(obj, errors);
    errors.one_of(
        "reclaimPolicy",
        text(obj, "/reclaimPolicy"),
        &["Delete", "Retain"],
    );
    let mode = text(obj, "/volumeBindingMode");
    errors.one_of("volumeBindingMode", mode, &["Immediate", "WaitForFirstConsumer"]);
    allowed_topologies(list(obj, "/allowedTopologies"), errors);
}

/// What users are told of a StorageClass.
pub(super) fn warnings(obj: &Value) -> Vec<String> {
    let mut out = Vec::new();
    for (i, term) in list(obj, "/allowedTopologies").iter().enumerate() {
        for (j, expression) in list(term, "/matchLabelExpressions").iter().enumerate() {
            if let Some(why) = deprecated_label(text(expression, "/key")) {
                out.push(format!(
                    "allowedTopologies[{i}].matchLabelExpressions[{j}].key: {why}"
                ));
            }
        }
    }
    out
}

/// What a StorageClass does must not change under the claims that name it.
pub(super) fn storage_class_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    storage_class(new, errors);
    unchanged(new, old, &["parameters", "provisioner", "reclaimPolicy"], errors);
    let field = "volumeBindingMode";
    errors.immutable(field, new.get(field), old.get(field));
}

/// Fields whose updates are forbidden.
pub(super) fn unchanged(new: &Value, old: &Value, fields: &[&str], errors: &mut ErrorList) {
    for field in fields.iter().filter(|field| new.get(field) != old.get(field)) {
        errors.forbidden(*field, format!("updates to {field} are forbidden."));
    }
}

/// A VolumeAttributesClass.
pub(super) fn volume_attributes_class(obj: &Value, errors: &mut ErrorList) {
    provisioner(obj, "driverName", errors);
    parameters(obj, errors);
    if map(obj, "/parameters").is_none_or(|p| p.is_empty()) {
        errors.required("parameters", "must contain at least one key/value pair");
    }
}

fn provisioner(obj: &Value, field: &str, errors: &mut ErrorList) {
    let name = text(obj, &format!("/{field}")).to_lowercase();
    if errors.present(field, &name) {
        errors.problems(field, &name, qualified_name_problems(&name));
    }
}

fn parameters(obj: &Value, errors: &mut ErrorList) {
    let Some(parameters) = map(obj, "/parameters") else {
        return;
    };
    if parameters.len() > MAX_PARAMETERS {
        errors.push(FieldError::too_long("parameters", MAX_PARAMETERS));
        return;
    }
    if parameters.contains_key("") {
        errors.invalid("parameters", "", "field can not be empty.");
    }
    let size: usize = parameters
        .iter()
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum();
    if size > MAX_PARAMETERS_SIZE {
        errors.push(FieldError::too_long("parameters", MAX_PARAMETERS_SIZE));
    }
}

fn allowed_topologies(terms: &[Value], errors: &mut ErrorList) {
    for (i, term) in terms.iter().enumerate() {
        let path = format!("allowedTopologies[{i}].matchLabelExpressions");
        let expressions = list(term, "/matchLabelExpressions");
        for (j, expression) in expressions.iter().enumerate() {
            let path = format!("{path}[{j}]");
            let (key, values) = (text(expression, "/key"), list(expression, "/values"));
            if values.is_empty() {
                errors.required(format!("{path}.values"), "");
            }
            for (k, value) in values.iter().enumerate() {
                if values[..k].contains(value) {
                    errors.duplicate(format!("{path}.values[{k}]"), value.clone());
                }
            }
            errors.problems(&format!("{path}.key"), key, qualified_name_problems(key));
            if expressions[..j].iter().any(|other| text(other, "/key") == key) {
                errors.duplicate(format!("{path}.key"), key);
            }
        }
        // Upstream compares with as many empty terms as there are terms, too.
        let meant = topology(term);
        let empty = if meant.is_empty() { terms.len() } else { 0 };
        let same = terms[..i].iter().filter(|other| topology(other) == meant).count();
        for _ in 0..empty + same {
            errors.duplicate(path.clone(), "");
        }
    }
}

/// The values that a term allows by their keys.
fn topology(term: &Value) -> BTreeMap<&str, BTreeSet<&str>> {
    let expressions = list(term, "/matchLabelExpressions").iter();
    expressions
        .map(|expression| {
            let values = list(expression, "/values").iter().filter_map(Value::as_str);
            (text(expression, "/key"), values.collect())
        })
        .collect()
}
