//! The patch engines: JSON patch, JSON merge patch, strategic merge patch.
//!
//! They work on JSON values and leave checking of the outcome to [`crate::decode::decode_value`].

mod strategic;

use crate::status::{self, Result, Status};
use json_patch::{Patch, PatchOperation};
use serde_json::Value;

pub use strategic::strategic_merge;

/// The most operations of a JSON patch.
const MAX_OPERATIONS: usize = 10_000;
/// How much `copy` operations may add to the document, in bytes of JSON.
const MAX_COPIED: usize = 3 << 20;

/// RFC 6902. `patch` is the request body.
pub fn json_patch(object: &Value, patch: &[u8]) -> Result<Value> {
    let Patch(operations) = serde_json::from_slice(patch)
        .map_err(|e| status::bad_request(format!("error decoding patch: {e}")))?;
    if operations.len() > MAX_OPERATIONS {
        return Err(status::request_entity_too_large(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut out = object.clone();
    let mut copied = 0;
    for operation in &operations {
        if let PatchOperation::Copy(copy) = operation {
            copied += copy.from.resolve(&out).map_or(0, |v| json_size(v, MAX_COPIED));
            if copied > MAX_COPIED {
                return Err(rejected(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPIED}"
                )));
            }
        }
        json_patch::patch(&mut out, std::slice::from_ref(operation)).map_err(|e| rejected(e.to_string()))?;
    }
    Ok(out)
}

/// RFC 7396.
pub fn merge_patch(object: &Value, patch: &Value) -> Value {
    let mut out = object.clone();
    json_patch::merge(&mut out, patch);
    out
}

/// A value as Go prints it with `%v`, which is how upstream's messages show patches: `map[a:1 b:[x y]]`.
pub fn shown(value: &Value) -> String {
    let joined = |parts: Vec<String>| parts.join(" ");
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", joined(items.iter().map(shown).collect())),
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(key, _)| *key);
            let members = members
                .into_iter()
                .map(|(key, value)| format!("{key}:{}", shown(value)));
            format!("map[{}]", joined(members.collect()))
        }
        other => other.to_string(),
    }
}

/// 422: the patch is well-formed but does not fit the object.
fn rejected(why: impl Into<String>) -> Status {
    status::unprocessable(why)
}

/// About the length of the JSON text; stops counting beyond `limit`.
fn json_size(value: &Value, limit: usize) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 5,
        Value::Number(_) => 12,
        Value::String(s) => s.len() + 2,
        Value::Array(items) => {
            let mut size = 2;
            for item in items {
                size += json_size(item, limit) + 1;
                if size > limit {
                    break;
                }
            }
            size
        }
        Value::Object(map) => {
            let mut size = 2;
            for (key, item) in map {
                size += key.len() + json_size(item, limit) + 4;
                if size > limit {
                    break;
                }
            }
            size
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patched(object: Value, patch: Value) -> Result<Value> {
        json_patch(&object, patch.to_string().as_bytes())
    }

    #[test]
    fn json_patches() {
        let object = json!({"a": [1, 2], "b": {"c": "d"}});
        let patch = json!([
            {"op": "test", "path": "/b/c", "value": "d"},
            {"op": "add", "path": "/a/-", "value": 3},
            {"op": "remove", "path": "/a/0"},
            {"op": "replace", "path": "/b/c", "value": "e"},
            {"op": "copy", "from": "/b", "path": "/f"},
            {"op": "move", "from": "/b/c", "path": "/g"},
        ]);
        assert_eq!(
            patched(object, patch).unwrap(),
            json!({"a": [2, 3], "b": {}, "f": {"c": "e"}, "g": "e"})
        );
    }

    #[test]
    fn json_patch_failures() {
        let code = |patch: Value| patched(json!({"a": 1}), patch).unwrap_err().code;
        assert_eq!(code(json!([{"op": "test", "path": "/a", "value": 2}])), 422);
        assert_eq!(code(json!([{"op": "remove", "path": "/x"}])), 422);
        assert_eq!(code(json!({"op": "remove"})), 400);
        assert_eq!(code(json!([{"op": "jump", "path": "/a"}])), 400);
        let many: Vec<_> = (0..=MAX_OPERATIONS)
            .map(|_| json!({"op": "remove", "path": "/x"}))
            .collect();
        assert_eq!(code(Value::from(many)), 413);
        assert_eq!(json_patch(&json!({}), b"\xff").unwrap_err().code, 400);
    }

    #[test]
    fn copies_cannot_blow_up_the_document() {
        let double =
            json!([{"op": "copy", "from": "/a", "path": "/b"}, {"op": "copy", "from": "", "path": "/a"}]);
        let operations: Vec<_> = (0..40).flat_map(|_| double.as_array().unwrap().clone()).collect();
        let error = patched(json!({"a": "x".repeat(1000)}), Value::from(operations)).unwrap_err();
        assert_eq!(error.code, 422);
    }

    #[test]
    fn merge_patches() {
        let object = json!({"a": {"b": 1, "c": [1]}, "d": 1});
        let patch = json!({"a": {"b": null, "c": [2], "e": {"f": null, "g": 1}}, "d": {"x": 1}});
        assert_eq!(
            merge_patch(&object, &patch),
            json!({"a": {"c": [2], "e": {"g": 1}}, "d": {"x": 1}})
        );
    }
}
