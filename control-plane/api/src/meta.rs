//! Object metadata: accessors and rules.

use jiff::Timestamp;
use serde_json::{Map, Value};

/// The longest base of a generated name that leaves room for the suffix.
pub const MAX_GENERATED_NAME_BASE: usize = 58;

/// The letters of generated suffixes.
pub const SUFFIX_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// `base` + `suffix`, the base cut so that the whole is a valid label.
pub fn generate_name(base: &str, suffix: &str) -> String {
    let mut end = base.len().min(MAX_GENERATED_NAME_BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &base[..end])
}

/// RFC 3339 with seconds in UTC, as all object times are.
pub fn format_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// RFC 3339 with microseconds (Lease, Event).
pub fn format_micro_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// The metadata object, if there is one.
pub fn metadata(obj: &Value) -> Option<&Map<String, Value>> {
    obj.get("metadata")?.as_object()
}

/// The metadata object, made if missing. Does nothing useful on a value that is no object (an empty scratch map is made).
pub fn metadata_mut(obj: &mut Value) -> &mut Map<String, Value> {
    if !obj.is_object() {
        *obj = Value::Object(Map::new());
    }
    let slot = &mut obj["metadata"];
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    match slot {
        Value::Object(map) => map,
        _ => unreachable!("the slot was just made an object"),
    }
}

fn text<'a>(obj: &'a Value, field: &str) -> &'a str {
    metadata(obj)
        .and_then(|m| m.get(field))
        .and_then(Value::as_str)
        .unwrap_or("")
}

/// Name, or empty.
pub fn name(obj: &Value) -> &str {
    text(obj, "name")
}

/// Namespace, or empty.
pub fn namespace(obj: &Value) -> &str {
    text(obj, "namespace")
}

/// Uid, or empty.
pub fn uid(obj: &Value) -> &str {
    text(obj, "uid")
}

/// Base of a name to generate, or empty.
pub fn generate_name_base(obj: &Value) -> &str {
    text(obj, "generateName")
}

/// resourceVersion, or empty.
pub fn resource_version(obj: &Value) -> &str {
    text(obj, "resourceVersion")
}

/// deletionTimestamp, or empty.
pub fn deletion_timestamp(obj: &Value) -> &str {
    text(obj, "deletionTimestamp")
}

/// creationTimestamp, or empty.
pub fn creation_timestamp(obj: &Value) -> &str {
    text(obj, "creationTimestamp")
}

/// Generation, or 0.
pub fn generation(obj: &Value) -> i64 {
    metadata(obj)
        .and_then(|m| m.get("generation"))
        .and_then(Value::as_i64)
        .unwrap_or(0)
}

/// Whether an object is new, or asks for something else than before.
pub fn is_next_generation(new: &Value, old: Option<&Value>) -> bool {
    old.is_none_or(|old| generation(old) != generation(new))
}

/// Grace period of a deletion under way.
pub fn deletion_grace_period_seconds(obj: &Value) -> Option<i64> {
    metadata(obj)?.get("deletionGracePeriodSeconds")?.as_i64()
}

/// Labels.
pub fn labels(obj: &Value) -> Option<&Map<String, Value>> {
    metadata(obj)?.get("labels")?.as_object()
}

/// Annotations.
pub fn annotations(obj: &Value) -> Option<&Map<String, Value>> {
    metadata(obj)?.get("annotations")?.as_object()
}

/// Finalizers.
pub fn finalizers(obj: &Value) -> impl Iterator<Item = &str> {
    metadata(obj)
        .and_then(|m| m.get("finalizers"))
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

/// Owner references.
pub fn owner_references(obj: &Value) -> &[Value] {
    metadata(obj)
        .and_then(|m| m.get("ownerReferences"))
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The owner reference marked as controller.
pub fn controller_of(obj: &Value) -> Option<&Value> {
    owner_references(obj).iter().find(|r| r["controller"] == true)
}

mod rules;

pub use rules::{
    NameRule, carry_over, resource_version_required, validate_object_meta, validate_object_meta_update,
};
pub(crate) use rules::{validate_annotations, validate_conditions, validate_labels};

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn generated_names_fit_a_label() {
        assert_eq!(generate_name("web-", "abcde"), "web-abcde");
        assert_eq!(generate_name(&"x".repeat(100), "abcde").len(), 63);
        assert_eq!(
            generate_name(&"é".repeat(40), "abcde"),
            format!("{}abcde", "é".repeat(29))
        );
    }

    #[test]
    fn metadata_is_made_when_missing() {
        for mut obj in [json!(null), json!({}), json!({"metadata": 5})] {
            metadata_mut(&mut obj).insert("name".into(), "a".into());
            assert_eq!(name(&obj), "a");
        }
    }
}
