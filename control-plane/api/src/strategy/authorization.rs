//! Reviews: answered, never stored.

use super::access::{list, text};
use super::kind::Kind;
use super::pod::validate::requirement_values;
use crate::validation::ErrorList;
use crate::validation::text::{label_value_problems, qualified_name_problems};
use serde_json::Value;

/// Reviews at cluster scope that ask for nothing that could be wrong.
pub(super) static CLUSTER_REVIEW: Kind = review(Kind::cluster(
    "io.k8s.api.authorization.v1.SelfSubjectRulesReview",
));

/// Reviews of what somebody may do.
pub(super) static SUBJECT_REVIEW: Kind =
    review(Kind::cluster("io.k8s.api.authorization.v1.SubjectAccessReview")).validates(|obj, errors| {
        attributes(obj, true, errors);
        no_metadata(obj, &[], errors);
    });

/// Reviews of what who asks may do.
pub(super) static SELF_REVIEW: Kind = review(Kind::cluster(
    "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
))
.validates(|obj, errors| {
    attributes(obj, false, errors);
    no_metadata(obj, &[], errors);
});

/// Reviews of what somebody may do in a namespace.
pub(super) static LOCAL_REVIEW: Kind = review(Kind::namespaced(
    "io.k8s.api.authorization.v1.LocalSubjectAccessReview",
))
.validates(|obj, errors| {
    attributes(obj, true, errors);
    no_metadata(obj, &["namespace"], errors);
    let asked = text(obj, "/spec/resourceAttributes/namespace");
    if obj.pointer("/spec/resourceAttributes").is_some() && asked != crate::meta::namespace(obj) {
        let path = "spec.resourceAttributes.namespace";
        errors.invalid(path, asked, "must match metadata.namespace");
    }
    if let Some(other) = obj.pointer("/spec/nonResourceAttributes") {
        let path = "spec.nonResourceAttributes";
        errors.invalid(path, other.clone(), "disallowed on this kind of request");
    }
});

const fn review(kind: Kind) -> Kind {
    kind.prepares_create(|_, _| ())
}

/// What is asked about: a resource or a path, and of somebody.
fn attributes(obj: &Value, of_somebody: bool, errors: &mut ErrorList) {
    let (resource, other) = (
        obj.pointer("/spec/resourceAttributes"),
        obj.pointer("/spec/nonResourceAttributes"),
    );
    match (resource, other) {
        (Some(_), Some(other)) => {
            let detail = "cannot be specified in combination with resourceAttributes";
            errors.invalid("spec.nonResourceAttributes", other.clone(), detail);
        }
        (None, None) => {
            let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.invalid("spec.resourceAttributes", Value::Null, detail);
        }
        _ => {}
    }
    if of_somebody && text(obj, "/spec/user").is_empty() && list(obj, "/spec/groups").is_empty() {
        let detail = "at least one of user or group must be specified";
        errors.invalid("spec.user", "", detail);
    }
    for field in ["fieldSelector", "labelSelector"] {
        if let Some(selector) = resource.and_then(|resource| resource.get(field)) {
            let path = format!("spec.resourceAttributes.{field}");
            self::selector(selector, field == "labelSelector", &path, errors);
        }
    }
}

/// What the objects that are asked about are like, as text or as requirements. Operators that newer clients know are none of the
/// server's business.
fn selector(selector: &Value, of_labels: bool, path: &str, errors: &mut ErrorList) {
    let (raw, requirements) = (text(selector, "/rawSelector"), list(selector, "/requirements"));
    if !raw.is_empty() && !requirements.is_empty() {
        let detail = "may not specified at the same time as requirements";
        errors.invalid(format!("{path}.rawSelector"), raw, detail);
    }
    if raw.is_empty() && requirements.is_empty() {
        let detail = format!("when {path} is specified, requirements or rawSelector is required");
        errors.required(format!("{path}.requirements"), detail);
    }
    for (i, requirement) in requirements.iter().enumerate() {
        let path = format!("{path}.requirements[{i}]");
        let (key, at) = (text(requirement, "/key"), format!("{path}.key"));
        if !of_labels && key.is_empty() {
            errors.required(at.clone(), "must be specified");
        }
        requirement_values(requirement, &path, errors);
        if !of_labels {
            continue;
        }
        errors.problems(&at, key, qualified_name_problems(key));
        for (j, value) in list(requirement, "/values").iter().enumerate() {
            let value = value.as_str().unwrap_or("");
            errors.problems(&format!("{path}.values[{j}]"), value, label_value_problems(value));
        }
    }
}

/// Reviews are about nothing that has a name.
fn no_metadata(obj: &Value, allowed: &[&str], errors: &mut ErrorList) {
    let given = obj.get("metadata").and_then(Value::as_object);
    let odd = given.is_some_and(|given| {
        let mut fields = given.iter().filter(|(_, value)| !value.is_null() && *value != "");
        fields.any(|(field, _)| field != "managedFields" && !allowed.contains(&field.as_str()))
    });
    if odd {
        let detail = match allowed {
            [] => "must be empty",
            _ => "must be empty except for namespace",
        };
        errors.invalid("metadata", obj["metadata"].clone(), detail);
    }
}
