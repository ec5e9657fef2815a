//! JSON patch (RFC 6902), as the library that upstream uses reads it: indexes may count from a list's end (`-1`), `test`
//! of what is absent holds for null, and an operation without a value has a null.

use serde_json::{Map, Value};

use super::{nesting, rejected};
use crate::decode::duplicate_fields;
use crate::status::{self, Result, quote};

/// The most operations of a patch.
pub(super) const MAX_OPERATIONS: usize = 10_000;
/// How much `copy` operations may add to the document, in bytes of JSON.
pub(super) const MAX_COPIED: usize = 3 << 20;
/// No patch may nest values deeper: whoever walks the document later does so by recursion.
const MAX_DEPTH: usize = 1000;

/// Why an operation does not apply, in the words of upstream's library.
type Applied<T = ()> = std::result::Result<T, String>;

/// Applies a patch. `patch` is the request body.
///
/// # Errors
///
/// 400 for what is no patch, 413 for too many operations, 422 for an operation that does not apply.
pub fn json_patch(object: &Value, patch: &[u8]) -> Result<Value> {
    let operations: Vec<Map<String, Value>> = serde_json::from_slice(patch)
        .map_err(|error| status::bad_request(format!("error decoding patch: {error}")))?;
    if operations.len() > MAX_OPERATIONS {
        return Err(status::request_entity_too_large(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut patcher = Patcher {
        document: object.clone(),
        copied: 0,
    };
    for operation in operations {
        patcher.apply(operation).map_err(rejected)?;
    }
    Ok(patcher.document)
}

/// What field validation says of the patch itself: members that operations do not have, and such as are given twice.
///
/// # Errors
///
/// 400 for what is no JSON.
pub fn json_patch_complaints(patch: &[u8]) -> Result<Vec<String>> {
    let malformed = |error: serde_json::Error| status::bad_request(format!("error decoding patch: {error}"));
    let mut complaints = duplicate_fields(patch).map_err(malformed)?;
    let operations: Vec<Map<String, Value>> = serde_json::from_slice(patch).map_err(malformed)?;
    for (i, operation) in operations.iter().enumerate() {
        let unknown = operation
            .keys()
            .filter(|key| !matches!(key.as_str(), "op" | "path" | "from" | "value"));
        complaints.extend(unknown.map(|key| format!("unknown field {}", quote(&format!("[{i}].{key}")))));
    }
    for complaint in &mut complaints {
        complaint.insert_str(0, "json patch ");
    }
    Ok(complaints)
}

struct Patcher {
    document: Value,
    /// What copies added so far, in bytes.
    copied: usize,
}

impl Patcher {
    fn apply(&mut self, operation: Map<String, Value>) -> Applied {
        match operation.get("op").and_then(Value::as_str).unwrap_or("unknown") {
            "add" => self.add(operation),
            "remove" => {
                let path = pointer(&operation, "path")
                    .ok_or("remove operation failed to decode path: missing value")?;
                let missing = || {
                    format!(
                        "remove operation does not apply: doc is missing path: {}: missing value",
                        quote(path)
                    )
                };
                let (container, key) = self.find(path).ok_or_else(missing)?;
                container
                    .remove(&key)
                    .map(drop)
                    .map_err(|why| format!("error in remove for path: '{path}': {why}"))
            }
            "replace" => self.replace(operation),
            "test" => self.test(&operation),
            "move" => self.relocate(&operation),
            "copy" => self.copy(&operation),
            other => Err(format!("Unexpected kind: {other}")),
        }
    }

    /// The container of what a path names, and the key in it.
    fn find(&mut self, path: &str) -> Option<(Container<'_>, String)> {
        let mut segments: Vec<&str> = path.split('/').collect();
        let key = (segments.len() > 1).then(|| segments.pop())??;
        let mut container = Container::of(&mut self.document)?;
        for segment in &segments[1..] {
            container = Container::of(container.into_value(&unescaped(segment))?)?;
        }
        Some((container, unescaped(key)))
    }

    fn add(&mut self, mut operation: Map<String, Value>) -> Applied {
        let value = operation.remove("value").unwrap_or_default();
        let path = pointer(&operation, "path").ok_or("add operation failed to decode path: missing value")?;
        check_depth(path, &Value::Null)?;
        let missing = || {
            format!(
                "add operation does not apply: doc is missing path: {}: missing value",
                quote(path)
            )
        };
        let (mut container, key) = self.find(path).ok_or_else(missing)?;
        container
            .add(&key, value)
            .map_err(|why| format!("error in add for path: '{path}': {why}"))
    }

    fn replace(&mut self, mut operation: Map<String, Value>) -> Applied {
        let value = operation.remove("value").unwrap_or_default();
        let path = pointer(&operation, "path")
            .ok_or("replace operation failed to decode path: operation missing path field: missing value")?;
        if path.is_empty() {
            if !value.is_object() && !value.is_array() {
                return Err("replace operation value must be object or array".to_owned());
            }
            self.document = value;
            return Ok(());
        }
        check_depth(path, &value)?;
        let missing =
            |what| format!("replace operation does not apply: doc is missing {what}: {path}: missing value");
        let (mut container, key) = self.find(path).ok_or_else(|| missing("path"))?;
        *container.get(&key).map_err(|_| missing("key"))? = value;
        Ok(())
    }

    fn test(&mut self, operation: &Map<String, Value>) -> Applied {
        let path = pointer(operation, "path")
            .ok_or("test operation failed to decode path: operation missing path field: missing value")?;
        let wanted = operation.get("value").unwrap_or(&Value::Null);
        let holds = if path.is_empty() {
            self.document == *wanted
        } else {
            let missing = || format!("test operation does not apply: is missing path: {path}: missing value");
            let (mut container, key) = self.find(path).ok_or_else(missing)?;
            match container.get(&key) {
                Ok(value) => value == wanted,
                Err(Missing::Key(_)) => wanted.is_null(),
                Err(why) => return Err(format!("error in test for path: '{path}': {why}")),
            }
        };
        match holds {
            true => Ok(()),
            false => Err(format!("testing value {path} failed: test failed")),
        }
    }

    fn relocate(&mut self, operation: &Map<String, Value>) -> Applied {
        let from = pointer(operation, "from")
            .ok_or("move operation failed to decode from: operation, missing from field: missing value")?;
        let missing = |what, path: &str| {
            format!("move operation does not apply: doc is missing {what} path: {path}: missing value")
        };
        let (mut container, key) = self.find(from).ok_or_else(|| missing("from", from))?;
        container
            .get(&key)
            .map_err(|why| format!("error in move for path: '{key}': {why}"))?;
        let value = container
            .remove(&key)
            .map_err(|why| format!("error in move for path: '{key}': {why}"))?;
        let path = pointer(operation, "path")
            .ok_or("move operation failed to decode path: operation missing path field: missing value")?;
        if segments(path) > segments(from) {
            check_depth(path, &value)?;
        }
        let (mut container, key) = self.find(path).ok_or_else(|| missing("destination", path))?;
        container
            .add(&key, value)
            .map_err(|why| format!("error in move for path: '{path}': {why}"))
    }

    fn copy(&mut self, operation: &Map<String, Value>) -> Applied {
        let from = pointer(operation, "from")
            .ok_or("copy operation failed to decode from: operation, missing from field: missing value")?;
        let missing = |what, path: &str| {
            format!("copy operation does not apply: doc is missing {what} path: {path}: missing value")
        };
        let (mut container, key) = self.find(from).ok_or_else(|| missing("from", from))?;
        let value = container
            .get(&key)
            .map_err(|why| format!("error in copy for from: '{from}': {why}"))?;
        let size = serde_json::to_vec(value).map_or(0, |bytes| bytes.len());
        let value = value.clone();
        let path = pointer(operation, "path").ok_or("copy operation failed to decode path: missing value")?;
        check_depth(path, &value)?;
        self.copied += size;
        let copied = self.copied;
        let (mut container, key) = self.find(path).ok_or_else(|| missing("destination", path))?;
        if copied > MAX_COPIED {
            return Err(format!(
                "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPIED}"
            ));
        }
        container
            .add(&key, value)
            .map_err(|why| format!("error while adding value during copy: {why}"))
    }
}

/// What has members.
enum Container<'a> {
    Object(&'a mut Map<String, Value>),
    List(&'a mut Vec<Value>),
}

/// Why there is nothing under a key.
#[derive(Debug, thiserror::Error)]
enum Missing {
    #[error("unable to get nonexistent key: {0}: missing value")]
    Key(String),
    #[error("Unable to access invalid index: {0}: invalid index referenced")]
    Index(i64),
    #[error("strconv.Atoi: parsing {}: invalid syntax", quote(.0))]
    NoIndex(String),
}

impl<'a> Container<'a> {
    fn of(value: &'a mut Value) -> Option<Self> {
        match value {
            Value::Object(map) => Some(Container::Object(map)),
            Value::Array(list) => Some(Container::List(list)),
            _ => None,
        }
    }

    fn into_value(self, key: &str) -> Option<&'a mut Value> {
        match self {
            Container::Object(map) => map.get_mut(key),
            Container::List(list) => {
                let at = position(key, list.len()).ok()?;
                list.get_mut(at)
            }
        }
    }

    fn get(&mut self, key: &str) -> std::result::Result<&mut Value, Missing> {
        match self {
            Container::Object(map) => map.get_mut(key).ok_or_else(|| Missing::Key(key.to_owned())),
            Container::List(list) => {
                let at = position(key, list.len())?;
                list.get_mut(at).ok_or(Missing::Index(at as i64))
            }
        }
    }

    fn add(&mut self, key: &str, value: Value) -> Applied {
        match self {
            Container::Object(map) => {
                map.insert(key.to_owned(), value);
            }
            Container::List(list) if key == "-" => list.push(value),
            Container::List(list) => {
                // There is one place more than there are items.
                let at = position(key, list.len() + 1).map_err(|why| match why {
                    Missing::NoIndex(_) => format!("value was not a proper array index: '{key}': {why}"),
                    why => why.to_string(),
                })?;
                list.insert(at, value);
            }
        }
        Ok(())
    }

    fn remove(self, key: &str) -> Applied<Value> {
        match self {
            Container::Object(map) => map
                .remove(key)
                .ok_or_else(|| format!("Unable to remove nonexistent key: {key}: missing value")),
            Container::List(list) => {
                let at = position(key, list.len()).map_err(|why| why.to_string())?;
                Ok(list.remove(at))
            }
        }
    }
}

/// The place that an index names among so many; negative ones count from the end.
fn position(key: &str, length: usize) -> std::result::Result<usize, Missing> {
    let index: i64 = key.parse().map_err(|_| Missing::NoIndex(key.to_owned()))?;
    let at = if index < 0 { index + length as i64 } else { index };
    match usize::try_from(at) {
        Ok(at) if at < length => Ok(at),
        _ => Err(Missing::Index(index)),
    }
}

fn pointer<'a>(operation: &'a Map<String, Value>, field: &str) -> Option<&'a str> {
    operation.get(field).and_then(Value::as_str)
}

fn unescaped(segment: &str) -> String {
    segment.replace("~1", "/").replace("~0", "~")
}

fn segments(path: &str) -> usize {
    path.bytes().filter(|byte| *byte == b'/').count()
}

/// Whether a value may be put where a path leads.
fn check_depth(path: &str, value: &Value) -> Applied {
    match segments(path) + nesting(value, MAX_DEPTH) > MAX_DEPTH {
        true => Err("exceeded max depth".to_owned()),
        false => Ok(()),
    }
}
