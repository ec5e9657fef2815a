//! The patch engines: JSON patch, JSON merge patch, strategic merge patch.
//!
//! They work on JSON values and leave checking of the outcome to [`crate::decode::decode_value`].

mod json;
mod strategic;

use crate::status::{self, Status};
use serde_json::Value;

pub use json::{json_patch, json_patch_complaints};
pub use strategic::strategic_merge;

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

/// How deep a value is nested; stops looking beyond `limit`. Walks without recursion.
fn nesting(value: &Value, limit: usize) -> usize {
    let mut deepest = 0;
    let mut left = vec![(value, 0)];
    while let Some((value, depth)) = left.pop() {
        deepest = deepest.max(depth);
        if depth > limit {
            break;
        }
        match value {
            Value::Array(items) => left.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(map) => left.extend(map.values().map(|item| (item, depth + 1))),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Result;
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

    /// The code of a refusal, and its cause in the words of upstream's library.
    fn refused(patch: Value) -> (i32, String) {
        let status = patched(json!({"a": 1, "l": ["x", "y"], "n": null, "o": {}}), patch).unwrap_err();
        let details = status.details.as_ref();
        let cause = details.and_then(|details| details.causes.first());
        (
            i32::from(status.code),
            cause.map(|cause| cause.message.clone()).unwrap_or_default(),
        )
    }

    #[test]
    fn json_patch_failures() {
        for (patch, code, why) in [
            (
                json!([{"op": "test", "path": "/a", "value": 2}]),
                422,
                "testing value /a failed: test failed",
            ),
            (
                json!([{"op": "test", "path": "/x", "value": 2}]),
                422,
                "testing value /x failed: test failed",
            ),
            (
                json!([{"op": "test", "path": "/x/y", "value": 2}]),
                422,
                "test operation does not apply: is missing path: /x/y: missing value",
            ),
            (
                json!([{"op": "test", "path": "/l/7", "value": 2}]),
                422,
                "error in test for path: '/l/7': Unable to access invalid index: 7: invalid index referenced",
            ),
            (
                json!([{"op": "remove", "path": "/x"}]),
                422,
                "error in remove for path: '/x': Unable to remove nonexistent key: x: missing value",
            ),
            (
                json!([{"op": "remove", "path": "/n/x"}]),
                422,
                "remove operation does not apply: doc is missing path: \"/n/x\": missing value",
            ),
            (
                json!([{"op": "remove", "path": "/l/2"}]),
                422,
                "error in remove for path: '/l/2': Unable to access invalid index: 2: invalid index referenced",
            ),
            (
                json!([{"op": "replace", "path": "/x", "value": 1}]),
                422,
                "replace operation does not apply: doc is missing key: /x: missing value",
            ),
            (
                json!([{"op": "replace", "path": "", "value": 1}]),
                422,
                "replace operation value must be object or array",
            ),
            (
                json!([{"op": "add", "path": "/x/y", "value": 1}]),
                422,
                "add operation does not apply: doc is missing path: \"/x/y\": missing value",
            ),
            (
                json!([{"op": "add", "path": "/l/z", "value": 1}]),
                422,
                "error in add for path: '/l/z': value was not a proper array index: 'z': strconv.Atoi: parsing \"z\": invalid syntax",
            ),
            (
                json!([{"op": "add", "path": "/l/4", "value": 1}]),
                422,
                "error in add for path: '/l/4': Unable to access invalid index: 4: invalid index referenced",
            ),
            (
                json!([{"op": "add", "value": 1}]),
                422,
                "add operation failed to decode path: missing value",
            ),
            (
                json!([{"op": "move", "from": "/x", "path": "/y"}]),
                422,
                "error in move for path: 'x': unable to get nonexistent key: x: missing value",
            ),
            (
                json!([{"op": "copy", "from": "/x/y", "path": "/y"}]),
                422,
                "copy operation does not apply: doc is missing from path: /x/y: missing value",
            ),
            (
                json!([{"op": "jump", "path": "/a"}]),
                422,
                "Unexpected kind: jump",
            ),
            (json!([{"path": "/a"}]), 422, "Unexpected kind: unknown"),
            (json!({"op": "remove"}), 400, ""),
            (json!(["remove"]), 400, ""),
        ] {
            assert_eq!(refused(patch.clone()), (code, why.to_owned()), "{patch}");
        }
        let many: Vec<_> = (0..=json::MAX_OPERATIONS)
            .map(|_| json!({"op": "remove", "path": "/x"}))
            .collect();
        assert_eq!(refused(Value::from(many)).0, 413);
        assert_eq!(json_patch(&json!({}), b"\xff").unwrap_err().code, 400);
    }

    #[test]
    fn json_patches_read_as_upstream_reads_them() {
        let object = json!({"l": [1, 2, 3]});
        for (patch, expect) in [
            (json!([{"op": "remove", "path": "/l/-1"}]), json!({"l": [1, 2]})),
            (
                json!([{"op": "add", "path": "/l/-1", "value": 4}]),
                json!({"l": [1, 2, 3, 4]}),
            ),
            (
                json!([{"op": "replace", "path": "/l/-2", "value": 9}]),
                json!({"l": [1, 9, 3]}),
            ),
            (
                json!([{"op": "test", "path": "/x", "value": null}, {"op": "add", "path": "/x"}]),
                json!({"l": [1, 2, 3], "x": null}),
            ),
            (
                json!([{"op": "test", "path": "", "value": {"l": [1, 2, 3]}}, {"op": "replace", "path": "", "value": {"m": 1}}]),
                json!({"m": 1}),
            ),
            (
                json!([{"op": "add", "path": "/a~1b~0c", "value": 1}, {"op": "remove", "path": "/l"}]),
                json!({"a/b~c": 1}),
            ),
        ] {
            assert_eq!(patched(object.clone(), patch.clone()).unwrap(), expect, "{patch}");
        }
        let patch = br#"[{"op":"add","path":"/a","value":{"b":1,"b":2},"x":1,"op":"add"}]"#;
        assert_eq!(
            json_patch_complaints(patch).unwrap(),
            [
                "json patch duplicate field \"[0].value.b\"",
                "json patch duplicate field \"[0].op\"",
                "json patch unknown field \"[0].x\"",
            ]
        );
    }

    #[test]
    fn copies_cannot_blow_up_the_document() {
        let operations: Vec<_> = (0..100)
            .map(|_| json!({"op": "copy", "from": "/a", "path": "/a/b"}))
            .collect();
        let object = json!({"a": {"c": "x".repeat(1000)}});
        let error = patched(object, Value::from(operations)).unwrap_err();
        let cause = &error.details.as_ref().unwrap().causes[0].message;
        assert!(cause.starts_with("Unable to complete the copy"), "{cause}");
        // Nor nest it so deeply that nobody can walk it.
        let operations: Vec<_> = (0..1100)
            .map(|_| json!({"op": "copy", "from": "/a", "path": "/a/b"}))
            .collect();
        let error = patched(json!({"a": {}}), Value::from(operations)).unwrap_err();
        assert_eq!(
            error.details.as_ref().unwrap().causes[0].message,
            "exceeded max depth"
        );
        // Each of these puts a nest into the innermost place of the one before.
        let nest = (0..100).fold(json!({}), |inner, _| json!({"b": inner}));
        let operations: Vec<_> = (0..200)
            .map(|i| json!({"op": "replace", "path": format!("/b{}", "/b".repeat(100 * i)), "value": nest}))
            .collect();
        let error = patched(json!({"b": {}}), Value::from(operations)).unwrap_err();
        assert_eq!(
            error.details.as_ref().unwrap().causes[0].message,
            "exceeded max depth"
        );
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
