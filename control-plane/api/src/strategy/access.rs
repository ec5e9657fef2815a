//! Small helpers to read and default parts of JSON objects.

use serde_json::{Map, Value};

pub(crate) type Object = Map<String, Value>;

/// The text at a JSON pointer, or empty.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// The integer at a JSON pointer.
pub(crate) fn int(value: &Value, pointer: &str) -> Option<i64> {
    value.pointer(pointer).and_then(Value::as_i64)
}

/// Whether the value at a JSON pointer is true.
pub(crate) fn is_true(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).and_then(Value::as_bool).unwrap_or(false)
}

/// The list at a JSON pointer, or an empty one.
pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The map at a JSON pointer.
pub(crate) fn map<'a>(value: &'a Value, pointer: &str) -> Option<&'a Object> {
    value.pointer(pointer).and_then(Value::as_object)
}

/// Sets a field that is absent, null or an empty string.
pub(crate) fn set(map: &mut Object, field: &str, value: impl Into<Value>) {
    let unset = match map.get(field) {
        None | Some(Value::Null) => true,
        Some(Value::String(s)) => s.is_empty(),
        Some(_) => false,
    };
    if unset {
        map.insert(field.to_string(), value.into());
    }
}

/// Sets a number that is absent or zero.
pub(crate) fn set_nonzero(map: &mut Object, field: &str, value: i64) {
    if map.get(field).and_then(Value::as_i64).unwrap_or(0) == 0 {
        map.insert(field.to_string(), value.into());
    }
}

/// A field as a map, made if absent; a scratch one replaces what is no map (decoding leaves none).
pub(crate) fn ensure<'a>(map: &'a mut Object, field: &str) -> &'a mut Object {
    let slot = map
        .entry(field.to_string())
        .or_insert_with(|| Value::Object(Object::new()));
    if !slot.is_object() {
        *slot = Value::Object(Object::new());
    }
    match slot {
        Value::Object(inner) => inner,
        _ => unreachable!("the slot was just made an object"),
    }
}

/// A field as a map, if it is one.
pub(crate) fn child<'a>(map: &'a mut Object, field: &str) -> Option<&'a mut Object> {
    map.get_mut(field)?.as_object_mut()
}

/// The maps in a list field.
pub(crate) fn each<'a>(map: &'a mut Object, field: &str) -> impl Iterator<Item = &'a mut Object> {
    map.get_mut(field)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}
