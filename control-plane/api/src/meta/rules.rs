//! What metadata must look like and what of it an update may change.

use super::{
    annotations, finalizers, generate_name_base, labels, metadata, metadata_mut, name, namespace,
    owner_references,
};
use crate::status::quote;
use crate::validation::net::canonical_ip_problem;
use crate::validation::text::{
    condition_reason_problem, label_1035_problems, label_problems, label_value_problems,
    path_segment_problems, qualified_name_problems, subdomain_problems,
};
use crate::validation::{ErrorList, FieldError};
use serde_json::{Map, Value};

/// Keys and values of all annotations together.
const MAX_ANNOTATIONS: usize = 256 << 10;
/// Finalizers that need no domain.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// What names a kind allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain.
    Subdomain,
    /// RFC 1123 label.
    Label,
    /// RFC 1035 label (services).
    Label1035,
    /// Any path segment: what the rules of every other name are stricter than.
    PathSegment,
    /// An address in canonical form (IPAddress); names are not generated.
    Ip,
}

impl NameRule {
    /// What is wrong with a name; a prefix may end in a dash.
    fn problems(self, text: &str, prefix: bool) -> Vec<String> {
        let whole: String;
        let text = if prefix && text.ends_with('-') && text.len() > 1 {
            whole = format!("{}a", &text[..text.len() - 1]);
            &whole
        } else {
            text
        };
        match self {
            NameRule::Subdomain => subdomain_problems(text),
            NameRule::Label => label_problems(text),
            NameRule::Label1035 => label_1035_problems(text),
            NameRule::PathSegment => path_segment_problems(text),
            NameRule::Ip => canonical_ip_problem(text).into_iter().collect(),
        }
    }
}

/// Checks the metadata of a new object whose name has been generated already, if it asked for that.
pub fn validate_object_meta(obj: &Value, namespaced: bool, rule: NameRule) -> ErrorList {
    let mut errors = ErrorList::new();
    let base = generate_name_base(obj);
    if !base.is_empty() {
        errors.problems("metadata.generateName", base, rule.problems(base, true));
    }
    let name = name(obj);
    if name.is_empty() {
        errors.push(FieldError::required(
            "metadata.name",
            "name or generateName is required",
        ));
    } else {
        errors.problems("metadata.name", name, rule.problems(name, false));
    }
    let namespace = namespace(obj);
    match (namespaced, namespace.is_empty()) {
        (true, true) => errors.push(FieldError::required("metadata.namespace", "")),
        (true, false) => errors.problems("metadata.namespace", namespace, label_problems(namespace)),
        (false, false) => errors.push(FieldError::forbidden(
            "metadata.namespace",
            "not allowed on this type",
        )),
        (false, true) => {}
    }
    errors.non_negative("metadata.generation", super::generation(obj));
    common(obj, &mut errors);
    errors
}

/// Checks the metadata of an update, after [`carry_over`].
pub fn validate_object_meta_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    if !super::deletion_timestamp(old).is_empty() {
        let extra: Vec<String> = finalizers(new)
            .filter(|f| !finalizers(old).any(|o| o == *f))
            .map(quote)
            .collect();
        if !extra.is_empty() {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                extra.join(", ")
            );
            errors.push(FieldError::forbidden("metadata.finalizers", detail));
        }
    }
    let (generation, before) = (super::generation(new), super::generation(old));
    if generation < before {
        errors.push(FieldError::invalid(
            "metadata.generation",
            &generation.into(),
            "must not be decremented",
        ));
    }
    let fields = [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ];
    for field in fields {
        let get = |obj| metadata(obj).and_then(|m| m.get(field));
        errors.immutable(&format!("metadata.{field}"), get(new), get(old));
    }
    common(new, &mut errors);
    errors
}

/// The error of an update without resourceVersion, for kinds that do not allow it.
pub fn resource_version_required() -> FieldError {
    FieldError::new(
        crate::validation::ErrorKind::Invalid,
        "metadata.resourceVersion",
        "0x0",
        "must be specified for an update",
    )
}

/// Fills in what clients may leave out of an update and takes back what they may not set.
pub fn carry_over(new: &mut Value, old: &Value) {
    let empty = Map::new();
    let old = metadata(old).unwrap_or(&empty);
    let new = metadata_mut(new);
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        let missing = new.get(field).and_then(Value::as_str).is_none_or(str::is_empty);
        if let (true, Some(value)) = (missing, old.get(field)) {
            new.insert(field.into(), value.clone());
        }
    }
    // What is being deleted stays so; that a client may not set these, or another grace, is for validation to say.
    if let Some(value) = old.get("deletionTimestamp") {
        new.insert("deletionTimestamp".into(), value.clone());
    }
    let grace = "deletionGracePeriodSeconds";
    if let (Some(value), None | Some(Value::Null)) = (old.get(grace), new.get(grace)) {
        new.insert(grace.into(), value.clone());
    }
    for field in ["generation", "selfLink"] {
        // A client may repeat what it read; it may not add or change it.
        match old.get(field) {
            Some(value) => new.insert(field.into(), value.clone()),
            None => new.remove(field),
        };
    }
}

fn common(obj: &Value, errors: &mut ErrorList) {
    validate_labels(labels(obj), "metadata.labels", errors);
    validate_annotations(annotations(obj), "metadata.annotations", errors);
    validate_owner_references(owner_references(obj), errors);
    validate_finalizers(obj, errors);
}

/// Checks label keys and values.
pub(crate) fn validate_labels(labels: Option<&Map<String, Value>>, path: &str, errors: &mut ErrorList) {
    for (key, value) in labels.into_iter().flatten() {
        errors.problems(path, key, qualified_name_problems(key));
        let value = value.as_str().unwrap_or("");
        errors.problems(path, value, label_value_problems(value));
    }
}

/// Checks conditions of the kind that all APIs share (`metav1.Condition`).
pub(crate) fn validate_conditions(conditions: &[Value], path: &str, errors: &mut ErrorList) {
    const MAX_REASON: usize = 1 << 10;
    const MAX_MESSAGE: usize = 32 << 10;
    for (i, condition) in conditions.iter().enumerate() {
        let text = |field: &str| condition.get(field).and_then(Value::as_str).unwrap_or("");
        let at = |field: &str| format!("{path}[{i}].{field}");
        let kind = text("type");
        if conditions[..i]
            .iter()
            .any(|other| other["type"] == condition["type"])
        {
            errors.duplicate(at("type"), kind);
        }
        errors.problems(&at("type"), kind, qualified_name_problems(kind));
        errors.one_of(&at("status"), text("status"), &["False", "True", "Unknown"]);
        let generation = condition.get("observedGeneration").and_then(Value::as_i64);
        if let Some(generation) = generation.filter(|generation| *generation < 0) {
            let detail = "must be greater than or equal to zero";
            errors.invalid(at("observedGeneration"), generation, detail);
        }
        if text("lastTransitionTime").is_empty() {
            errors.required(at("lastTransitionTime"), "must be set");
        }
        let reason = text("reason");
        if reason.is_empty() {
            errors.required(at("reason"), "must be set");
        } else {
            errors.problems(
                &at("reason"),
                reason,
                condition_reason_problem(reason).into_iter().collect(),
            );
            if reason.len() > MAX_REASON {
                errors.push(FieldError::too_long(at("reason"), MAX_REASON));
            }
        }
        if text("message").len() > MAX_MESSAGE {
            errors.push(FieldError::too_long(at("message"), MAX_MESSAGE));
        }
    }
}

pub(crate) fn validate_annotations(
    annotations: Option<&Map<String, Value>>,
    path: &str,
    errors: &mut ErrorList,
) {
    let mut size = 0;
    for (key, value) in annotations.into_iter().flatten() {
        errors.problems(path, key, qualified_name_problems(&key.to_lowercase()));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_ANNOTATIONS {
        errors.push(FieldError::too_long(path, MAX_ANNOTATIONS));
    }
}

fn validate_owner_references(owners: &[Value], errors: &mut ErrorList) {
    let path = "metadata.ownerReferences";
    let mut controller = None;
    for owner in owners {
        let text = |field: &str| owner.get(field).and_then(Value::as_str).unwrap_or("");
        if text("apiVersion").rsplit('/').next().unwrap_or("").is_empty() {
            let value = Value::from(text("apiVersion"));
            errors.push(FieldError::invalid(
                format!("{path}.apiVersion"),
                &value,
                "version must not be empty",
            ));
        }
        for field in ["kind", "name", "uid"] {
            if text(field).is_empty() {
                errors.push(FieldError::invalid(
                    format!("{path}.{field}"),
                    &"".into(),
                    "must not be empty",
                ));
            }
        }
        if text("apiVersion") == "v1" && text("kind") == "Event" {
            errors.push(FieldError::invalid(
                path,
                owner,
                "/v1, Kind=Event is disallowed from being an owner",
            ));
        }
        if owner["controller"] == true {
            let this = format!("{}/{}", text("kind"), text("name"));
            match &controller {
                None => controller = Some(this),
                Some(first) => {
                    let detail = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                    );
                    errors.push(FieldError::invalid(path, &Value::from(owners.to_vec()), detail));
                }
            }
        }
    }
}

fn validate_finalizers(obj: &Value, errors: &mut ErrorList) {
    let path = "metadata.finalizers";
    for finalizer in finalizers(obj) {
        errors.problems(path, finalizer, qualified_name_problems(finalizer));
        if !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(path, &finalizer.into(), detail));
        }
    }
    if finalizers(obj).any(|f| f == "orphan") && finalizers(obj).any(|f| f == "foregroundDeletion") {
        let all: Vec<&str> = finalizers(obj).collect();
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(path, &Value::from(all), detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn messages(obj: Value) -> Vec<String> {
        validate_object_meta(&obj, true, NameRule::Subdomain)
            .iter()
            .map(FieldError::message)
            .collect()
    }

    fn with(field: &str, value: Value) -> Value {
        json!({"metadata": {"name": "a", "namespace": "n", field: value}})
    }

    #[test]
    fn new_objects() {
        let good = [
            with("labels", json!({"a": "", "example.com/b": "c"})),
            with("annotations", json!({"Example.com/B": "any thing"})),
            with("finalizers", json!(["example.com/f", "orphan"])),
            json!({"metadata": {"name": "a-x", "generateName": "a-", "namespace": "n"}}),
        ];
        for obj in good {
            assert_eq!(messages(obj.clone()), Vec::<String>::new(), "{obj}");
        }
        let bad = [
            (
                json!({"metadata": {"namespace": "n"}}),
                "metadata.name: Required value: name or generateName is required",
            ),
            (
                json!({"metadata": {"name": "a"}}),
                "metadata.namespace: Required value",
            ),
            (
                with("finalizers", json!(["x"])),
                "metadata.finalizers: Invalid value: \"x\": name is neither a standard finalizer name nor is it fully qualified",
            ),
            (
                with(
                    "ownerReferences",
                    json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": ""}]),
                ),
                "metadata.ownerReferences.uid: Invalid value: \"\": must not be empty",
            ),
            (
                with("generation", json!(-1)),
                "metadata.generation: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                with("annotations", json!({"a": "x".repeat(MAX_ANNOTATIONS)})),
                "metadata.annotations: Too long: may not be more than 262144 bytes",
            ),
        ];
        for (obj, want) in bad {
            assert_eq!(messages(obj), [want]);
        }
        let two = json!([{"apiVersion": "v1", "kind": "A", "name": "a", "uid": "1", "controller": true}, {"apiVersion": "v1", "kind": "B", "name": "b", "uid": "2", "controller": true}]);
        assert!(
            messages(with("ownerReferences", two))[0]
                .ends_with("Found \"true\" in references for A/a and B/b")
        );
        let cluster = validate_object_meta(&with("labels", json!({})), false, NameRule::Subdomain);
        assert_eq!(
            cluster.message(),
            "metadata.namespace: Forbidden: not allowed on this type"
        );
    }

    #[test]
    fn updates() {
        let old = json!({"metadata": {"name": "a", "namespace": "n", "uid": "u", "creationTimestamp": "t", "generation": 3, "deletionTimestamp": "d", "finalizers": ["a/b"]}});
        let mut new = json!({"metadata": {"name": "a", "generation": 9, "finalizers": []}});
        carry_over(&mut new, &old);
        assert!(validate_object_meta_update(&new, &old).is_empty());
        assert_eq!(new["metadata"]["generation"], 3);
        assert_eq!(new["metadata"]["deletionTimestamp"], "d");
        let mut new = json!({"metadata": {"name": "b", "uid": "v", "finalizers": ["a/b", "c/d"]}});
        carry_over(&mut new, &old);
        assert_eq!(
            validate_object_meta_update(&new, &old).message(),
            "[metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"c/d\"}, metadata.name: Invalid value: \"b\": field is immutable, metadata.uid: Invalid value: \"v\": field is immutable]"
        );
    }

    // Rows of TestValidateObjectMetaUpdatePreventsDeletionFieldMutation.
    #[test]
    fn deletion_fields_are_not_the_clients() {
        let object = |time: Option<&str>, grace: Option<i64>| {
            let mut object = json!({"metadata": {"name": "a", "resourceVersion": "1"}});
            if let Some(time) = time {
                object["metadata"]["deletionTimestamp"] = time.into();
            }
            if let Some(grace) = grace {
                object["metadata"]["deletionGracePeriodSeconds"] = grace.into();
            }
            object
        };
        let (one, two) = (Some("2026-01-01T00:00:00Z"), Some("2026-01-02T00:00:00Z"));
        for (old, new, expect, field) in [
            (object(None, None), object(None, None), object(None, None), None),
            (
                object(one, Some(1)),
                object(one, Some(1)),
                object(one, Some(1)),
                None,
            ),
            (
                object(None, None),
                object(one, None),
                object(one, None),
                Some("metadata.deletionTimestamp"),
            ),
            (object(one, None), object(None, None), object(one, None), None),
            (object(one, None), object(two, None), object(one, None), None),
            (
                object(None, None),
                object(None, Some(1)),
                object(None, Some(1)),
                Some("metadata.deletionGracePeriodSeconds"),
            ),
            (
                object(None, Some(1)),
                object(None, None),
                object(None, Some(1)),
                None,
            ),
            (
                object(None, Some(1)),
                object(None, Some(2)),
                object(None, Some(2)),
                Some("metadata.deletionGracePeriodSeconds"),
            ),
        ] {
            let mut carried = new.clone();
            carry_over(&mut carried, &old);
            assert_eq!(carried, expect, "{old} {new}");
            let errors = validate_object_meta_update(&carried, &old);
            let fields: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
            assert_eq!(fields, field.into_iter().collect::<Vec<_>>(), "{old} {new}");
        }
    }
}
