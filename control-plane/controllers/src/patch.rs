//! Merge patches that carry exactly what changed.
//!
//! "No status write when nothing changed" is one rule for all controllers: compute the wanted value, take the
//! difference to what was read, and write only if there is one.

use serde::Serialize;
use serde_json::{Map, Value};

/// The JSON merge patch (RFC 7386) that turns `old` into `new`; `None` if they are equal.
pub(crate) fn merge_diff(old: &Value, new: &Value) -> Option<Value> {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let mut patch = Map::new();
            for key in old.keys().filter(|key| !new.contains_key(*key)) {
                patch.insert(key.clone(), Value::Null);
            }
            for (key, value) in new {
                match old.get(key) {
                    None => {
                        patch.insert(key.clone(), value.clone());
                    }
                    Some(before) => {
                        if let Some(change) = merge_diff(before, value) {
                            patch.insert(key.clone(), change);
                        }
                    }
                }
            }
            (!patch.is_empty()).then_some(Value::Object(patch))
        }
        _ => (old != new).then(|| new.clone()),
    }
}

/// The merge patch for `field` of an object (usually `status`), or `None` if it stays as it is.
pub(crate) fn field_diff<T: Serialize>(
    field: &str,
    old: &T,
    new: &T,
) -> Result<Option<Value>, serde_json::Error> {
    let change = merge_diff(&serde_json::to_value(old)?, &serde_json::to_value(new)?);
    Ok(change.map(|change| Value::Object(Map::from_iter([(field.to_owned(), change)]))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn diff() {
        for (old, new, expect) in [
            (json!({"a": 1}), json!({"a": 1}), None),
            (json!({"a": 1}), json!({"a": 2}), Some(json!({"a": 2}))),
            (json!({"a": 1, "b": 1}), json!({"a": 1}), Some(json!({"b": null}))),
            (
                json!({"a": {"b": 1, "c": 1}}),
                json!({"a": {"b": 1, "c": 2}}),
                Some(json!({"a": {"c": 2}})),
            ),
            (json!({"a": [1, 2]}), json!({"a": [1]}), Some(json!({"a": [1]}))),
            (json!({}), json!({"a": {"b": 1}}), Some(json!({"a": {"b": 1}}))),
        ] {
            assert_eq!(merge_diff(&old, &new), expect, "{old} -> {new}");
        }
    }
}
