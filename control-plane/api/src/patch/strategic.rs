//! Strategic merge patch: a merge patch that merges lists by key where the schema says so.
//!
//! Directives: `$patch: replace|delete|merge` in a map or list element, `$retainKeys` beside fields with that strategy,
//! `$deleteFromPrimitiveList/<field>` and `$setElementOrder/<field>`.

use super::{rejected, shown};
use crate::schema::{Field, FieldType, TypeRef};
use crate::status::{self, Result};
use serde_json::{Map, Value};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// Applies a strategic merge patch to an object of the given schema.
pub fn strategic_merge(object: &Value, patch: &Value, schema: TypeRef) -> Result<Value> {
    let (Value::Object(original), Value::Object(patch)) = (object, patch) else {
        return Err(status::bad_request("invalid JSON document"));
    };
    merge_map(original.clone(), patch.clone(), Some(schema)).map(Value::Object)
}

type Object = Map<String, Value>;

/// How a list or map field is patched.
#[derive(Clone, Copy, Default)]
struct FieldRule {
    /// Schema of the map, or of the list's elements.
    inner: Option<TypeRef>,
    merge: bool,
    replace: bool,
    retain_keys: bool,
    merge_key: Option<&'static str>,
}

impl FieldRule {
    fn of(schema: Option<TypeRef>, name: &str) -> FieldRule {
        let Some(field) = schema.and_then(|s| s.field(name)) else {
            return FieldRule::default();
        };
        let message = |ty: FieldType| {
            if let FieldType::Message(inner) = ty {
                Some(inner)
            } else {
                None
            }
        };
        let inner = match field.ty() {
            FieldType::List(elem) | FieldType::Map(elem) => message(elem.ty()),
            ty => message(ty),
        };
        FieldRule {
            inner,
            merge: Field::patch_merges(field),
            replace: field.patch_replaces(),
            retain_keys: field.patch_retains_keys(),
            merge_key: field.merge_key(),
        }
    }

    /// The schema of a map's values is that of its entries, one level down.
    fn map_schema(self, schema: Option<TypeRef>, name: &str) -> MapSchema {
        match schema.and_then(|s| s.field(name)).map(Field::ty) {
            Some(FieldType::Map(_)) => MapSchema::Values(self.inner),
            _ => MapSchema::Fields(self.inner),
        }
    }
}

/// What is known of a map's entries.
#[derive(Clone, Copy)]
enum MapSchema {
    /// A message: each field has its own type.
    Fields(Option<TypeRef>),
    /// A map: each value has this type.
    Values(Option<TypeRef>),
}

fn merge_map(original: Object, patch: Object, schema: Option<TypeRef>) -> Result<Object> {
    merge_entries(original, patch, MapSchema::Fields(schema), false)
}

fn merge_entries(
    mut original: Object,
    mut patch: Object,
    schema: MapSchema,
    retains_keys: bool,
) -> Result<Object> {
    match patch.remove(PATCH) {
        None => {}
        Some(Value::String(directive)) => match directive.as_str() {
            "replace" => return Ok(without_directives(patch)),
            "delete" => return Ok(Object::new()),
            "merge" => {}
            other => return Err(status::bad_request(format!("Unknown patch type found: {other}"))),
        },
        Some(other) => return Err(status::bad_request(format!("Unknown patch type found: {other}"))),
    }
    if let Some(keys) = patch.remove(RETAIN_KEYS) {
        retain_keys(&mut original, &patch, &keys, retains_keys)?;
    }
    let fields = match schema {
        MapSchema::Fields(fields) => fields,
        MapSchema::Values(_) => None,
    };
    let (directives, plain): (Vec<_>, Vec<_>) = patch.into_iter().partition(|(key, _)| key.starts_with('$'));
    let mut orders = Object::new();
    let mut deletions = Object::new();
    let mut values = Object::new();
    for (key, value) in directives {
        if let Some(field) = key.strip_prefix(SET_ORDER) {
            orders.insert(field.to_string(), value);
        } else if let Some(field) = key.strip_prefix(DELETE_FROM_LIST) {
            deletions.insert(field.to_string(), value);
        } else {
            // `$ref`, `$schema` of a CRD's JSON schema.
            values.insert(key, value);
        }
    }
    values.extend(plain);

    for (key, order) in orders {
        let rule = FieldRule::of(fields, &key);
        let Value::Array(order) = order else {
            return Err(status::bad_request(
                "invalid patch format of setElementOrder list",
            ));
        };
        let given = match values.remove(&key) {
            Some(Value::Array(items)) => Some(items),
            // A null beside an order deletes the list.
            Some(other) => {
                values.insert(key, other);
                continue;
            }
            None => None,
        };
        let current = match original.get(&key) {
            Some(Value::Array(items)) => Some(items.clone()),
            _ => None,
        };
        if given.is_none() && current.is_none() {
            continue;
        }
        let current = current.unwrap_or_default();
        let given = given.unwrap_or_default();
        check_order(&given, &order, rule.merge_key, &key)?;
        let merged = if rule.merge {
            merge_list(current.clone(), given, rule)?
        } else if given.is_empty() {
            current.clone()
        } else {
            given
        };
        original.insert(
            key,
            Value::Array(reorder(merged, &order, &current, rule.merge_key)),
        );
    }

    for (key, deletion) in deletions {
        let Value::Array(gone) = deletion else {
            return Err(status::bad_request("invalid patch format of primitive list"));
        };
        if let Some(Value::Array(items)) = original.get_mut(&key) {
            items.retain(|item| !gone.contains(item));
        }
    }

    for (key, value) in values {
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let rule = match schema {
            MapSchema::Fields(fields) => FieldRule::of(fields, &key),
            MapSchema::Values(inner) => FieldRule {
                inner,
                ..FieldRule::default()
            },
        };
        let merged =
            match (original.remove(&key), value) {
                (Some(Value::Object(old)), Value::Object(new)) if !rule.replace => Value::Object(
                    merge_entries(old, new, rule.map_schema(fields, &key), rule.retain_keys)?,
                ),
                (Some(Value::Array(old)), Value::Array(new)) if rule.merge => {
                    let order = new.clone();
                    let merged = merge_list(old.clone(), new, rule)?;
                    Value::Array(reorder(merged, &order, &old, rule.merge_key))
                }
                (None, Value::Array(new)) if rule.merge => {
                    let order = new.clone();
                    Value::Array(reorder(
                        merge_list(Vec::new(), new, rule)?,
                        &order,
                        &[],
                        rule.merge_key,
                    ))
                }
                (_, new) => drop_directives(new),
            };
        original.insert(key, merged);
    }
    Ok(original)
}

/// Drops the original's keys that `$retainKeys` does not name.
fn retain_keys(original: &mut Object, patch: &Object, keys: &Value, allowed: bool) -> Result<()> {
    let bad = || status::bad_request("invalid patch format of retainKeys");
    if !allowed {
        return Err(bad());
    }
    let keys = keys.as_array().ok_or_else(bad)?;
    let named = |key: &str| keys.iter().any(|k| k.as_str() == Some(key));
    if patch
        .iter()
        .any(|(key, value)| !key.starts_with('$') && !value.is_null() && !named(key))
    {
        return Err(bad());
    }
    original.retain(|key, _| named(key));
    Ok(())
}

/// Merges lists; the order is put right by [`reorder`].
fn merge_list(original: Vec<Value>, patch: Vec<Value>, rule: FieldRule) -> Result<Vec<Value>> {
    let maps = original.iter().chain(&patch).filter(|v| v.is_object()).count();
    if maps == 0 {
        if original.iter().chain(&patch).any(Value::is_array) {
            return Err(rejected("lists of lists are not supported"));
        }
        let mut out: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
        for item in original.into_iter().chain(patch) {
            if !out.contains(&item) {
                out.push(item);
            }
        }
        return Ok(out);
    }
    if maps < original.len() + patch.len() {
        return Err(rejected("list element types are not identical"));
    }
    let Some(key) = rule.merge_key else {
        return Err(rejected(
            "cannot merge lists without merge key for the element type",
        ));
    };
    let replaces = patch.iter().any(|item| item[PATCH] == "replace");
    let mut out = if replaces { Vec::new() } else { original };
    for item in patch {
        let Value::Object(item) = item else { continue };
        match item.get(PATCH).map(|d| d.as_str().unwrap_or("")) {
            Some("replace") if item.len() == 1 => continue,
            Some("delete") => {
                let value = item
                    .get(key)
                    .ok_or_else(|| rejected("delete patch type with no merge key defined"))?;
                out.retain(|old| old.get(key) != Some(value));
                continue;
            }
            None | Some("replace" | "merge") => {}
            Some(other) => return Err(status::bad_request(format!("Unknown patch type found: {other}"))),
        }
        let value = item.get(key).ok_or_else(|| {
            let item = shown(&Value::Object(item.clone()));
            // Upstream takes it for a fault of its own.
            status::unknown_error(format!("map: {item} does not contain declared merge key: {key}"))
        })?;
        // A list that replaces is taken as it is: a node's addresses of both families share their merge key.
        match out
            .iter_mut()
            .find(|old| !replaces && old.get(key) == Some(value))
        {
            Some(old) => {
                let current = match old.take() {
                    Value::Object(map) => map,
                    _ => Object::new(),
                };
                // Elements of a list with the retainKeys strategy may carry the directive.
                *old = Value::Object(merge_entries(
                    current,
                    item,
                    MapSchema::Fields(rule.inner),
                    rule.retain_keys,
                )?);
            }
            None => out.push(drop_directives(Value::Object(item))),
        }
    }
    Ok(out)
}

/// The elements named by the patch in the patch's order, the others in the original's, interleaved as the original had them.
fn reorder(merged: Vec<Value>, order: &[Value], original: &[Value], key: Option<&str>) -> Vec<Value> {
    let at = |list: &[Value], item: &Value| list.iter().position(|other| same(other, item, key));
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| at(order, item).is_some());
    named.sort_by_key(|item| at(order, item));
    others.sort_by_key(|item| at(original, item).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let other_first = match (others.peek(), named.peek()) {
            (Some(other), Some(name)) => {
                matches!((at(original, other), at(original, name)), (Some(o), Some(n)) if o < n)
            }
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => return out,
        };
        out.extend(if other_first { others.next() } else { named.next() });
    }
}

/// The patch's elements must come in the order that `$setElementOrder` declares.
fn check_order(given: &[Value], order: &[Value], key: Option<&str>, field: &str) -> Result<()> {
    let mut from = 0;
    for item in given.iter().filter(|item| item.get(PATCH).is_none()) {
        match order[from..].iter().position(|o| same(o, item, key)) {
            Some(at) => from += at + 1,
            None => {
                return Err(rejected(format!(
                    "The order in patch list doesn't match {SET_ORDER}{field} list"
                )));
            }
        }
    }
    Ok(())
}

fn same(a: &Value, b: &Value, key: Option<&str>) -> bool {
    match (key, a, b) {
        (Some(key), Value::Object(a), Value::Object(b)) => a.get(key).is_some() && a.get(key) == b.get(key),
        _ => a == b,
    }
}

/// A value new to the original: nulls and directives mean nothing there.
fn drop_directives(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(without_directives(map)),
        Value::Array(items) => {
            let kept = items.into_iter().filter(|item| item[PATCH] != "delete");
            Value::Array(
                kept.filter(|item| !is_bare_directive(item))
                    .map(drop_directives)
                    .collect(),
            )
        }
        other => other,
    }
}

fn is_bare_directive(item: &Value) -> bool {
    item.as_object()
        .is_some_and(|map| map.len() == 1 && map.contains_key(PATCH))
}

fn without_directives(map: Object) -> Object {
    let directive = |key: &str| {
        key == PATCH || key == RETAIN_KEYS || key.starts_with(DELETE_FROM_LIST) || key.starts_with(SET_ORDER)
    };
    map.into_iter()
        .filter(|(key, value)| !directive(key) && !value.is_null())
        .map(|(key, value)| (key, drop_directives(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(kind: &str, object: Value, patch: Value, want: Value) {
        let schema = TypeRef::by_name(kind).expect(kind);
        let got = strategic_merge(&object, &patch, schema).unwrap_or_else(|e| panic!("{patch}: {e}"));
        assert_eq!(got, want, "{patch}");
    }

    fn pod(object: Value, patch: Value, want: Value) {
        check(
            "io.k8s.api.core.v1.Pod",
            json!({"spec": object}),
            json!({"spec": patch}),
            json!({"spec": want}),
        );
    }

    #[test]
    fn maps_merge_and_nulls_delete() {
        check(
            "io.k8s.api.core.v1.Pod",
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
            json!({"metadata": {"labels": {"a": null, "c": "3", "x": null}, "annotations": {"n": null, "m": "1"}}}),
            json!({"metadata": {"labels": {"b": "2", "c": "3"}, "annotations": {"m": "1"}}}),
        );
        check(
            "io.k8s.api.core.v1.Secret",
            json!({"data": {"a": "x"}}),
            json!({"data": {"$patch": "replace", "b": "y"}}),
            json!({"data": {"b": "y"}}),
        );
        check(
            "io.k8s.api.core.v1.Secret",
            json!({"data": {"a": "x"}}),
            json!({"data": {"$patch": "delete"}}),
            json!({"data": {}}),
        );
    }

    #[test]
    fn lists_with_a_key_merge_by_it() {
        pod(
            json!({"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "1"}]}),
            json!({"containers": [{"name": "b", "image": "2"}, {"name": "a", "env": [{"name": "Y", "value": "2"}]}]}),
            json!({"containers": [{"name": "b", "image": "2"}, {"name": "a", "image": "1", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}]}]}),
        );
        pod(
            json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}),
            json!({"containers": [{"name": "b", "$patch": "delete"}, {"name": "d"}]}),
            json!({"containers": [{"name": "d"}, {"name": "a"}, {"name": "c"}]}),
        );
        pod(
            json!({"containers": [{"name": "a", "image": "1"}]}),
            json!({"containers": [{"name": "z"}, {"$patch": "replace"}]}),
            json!({"containers": [{"name": "z"}]}),
        );
        // The merge key of a node's addresses is their type, which both families share.
        let addresses = json!([{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "InternalIP", "address": "fd00::1"}]);
        check(
            "io.k8s.api.core.v1.Node",
            json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.9"}]}}),
            json!({"status": {"addresses": [{"$patch": "replace"}, addresses[0], addresses[1]]}}),
            json!({"status": {"addresses": addresses}}),
        );
    }

    #[test]
    fn lists_without_a_key_are_replaced() {
        pod(
            json!({"tolerations": [{"key": "a"}]}),
            json!({"tolerations": [{"key": "b"}]}),
            json!({"tolerations": [{"key": "b"}]}),
        );
        pod(
            json!({"containers": [{"name": "a", "command": ["x", "y"]}]}),
            json!({"containers": [{"name": "a", "command": ["z"]}]}),
            json!({"containers": [{"name": "a", "command": ["z"]}]}),
        );
    }

    #[test]
    fn primitive_lists() {
        let kind = "io.k8s.api.core.v1.Pod";
        let with = |list: Value| json!({"metadata": {"finalizers": list}});
        check(
            kind,
            with(json!(["a", "b"])),
            with(json!(["c", "a"])),
            with(json!(["c", "a", "b"])),
        );
        check(
            kind,
            with(json!(["a", "b", "c"])),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"]}}),
            with(json!(["a", "c"])),
        );
        check(
            kind,
            with(json!(["a", "b", "c"])),
            json!({"metadata": {"$setElementOrder/finalizers": ["c", "d", "a"], "finalizers": ["d"], "$deleteFromPrimitiveList/finalizers": ["b"]}}),
            with(json!(["c", "d", "a"])),
        );
    }

    #[test]
    fn set_element_order() {
        pod(
            json!({"containers": [{"name": "a"}, {"name": "server"}, {"name": "b"}]}),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "new"}, {"name": "a"}], "containers": [{"name": "new", "image": "i"}]}),
            json!({"containers": [{"name": "server"}, {"name": "b"}, {"name": "new", "image": "i"}, {"name": "a"}]}),
        );
        pod(
            json!({"containers": [{"name": "a", "env": [{"name": "X"}, {"name": "Y"}]}]}),
            json!({"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "a", "$setElementOrder/env": [{"name": "Y"}, {"name": "X"}]}]}),
            json!({"containers": [{"name": "a", "env": [{"name": "Y"}, {"name": "X"}]}]}),
        );
        pod(
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a", "$patch": "delete"}]}),
            json!({"containers": [{"name": "b"}]}),
        );
    }

    #[test]
    fn retain_keys_clears_the_other_members_of_a_union() {
        check(
            "io.k8s.api.apps.v1.Deployment",
            json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
            json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
            json!({"spec": {"strategy": {"type": "Recreate"}}}),
        );
        pod(
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}),
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
        );
    }

    #[test]
    fn directives_in_what_is_new_are_dropped() {
        pod(
            json!({}),
            json!({"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "a", "$setElementOrder/env": [{"name": "X"}], "env": [{"name": "X"}], "stdin": null}]}),
            json!({"containers": [{"name": "a", "env": [{"name": "X"}]}]}),
        );
        pod(
            json!({}),
            json!({"containers": [{"name": "a", "$patch": "delete"}, {"name": "b"}], "securityContext": {"$patch": "merge", "runAsUser": 1}}),
            json!({"containers": [{"name": "b"}], "securityContext": {"runAsUser": 1}}),
        );
    }

    #[test]
    fn bad_patches() {
        let schema = TypeRef::by_name("io.k8s.api.core.v1.Pod").unwrap();
        let object = json!({"spec": {"containers": [{"name": "a"}], "volumes": [{"name": "v"}]}, "metadata": {"finalizers": ["a"]}});
        for (patch, code) in [
            (json!([]), 400),
            (json!({"$patch": "jump"}), 400),
            (json!({"spec": {"containers": [{"image": "x"}]}}), 500),
            (json!({"spec": {"containers": [{"$patch": "delete"}]}}), 422),
            (json!({"spec": {"containers": ["x"]}}), 422),
            (json!({"spec": {"$setElementOrder/containers": "x"}}), 400),
            (json!({"spec": {"$retainKeys": ["x"]}}), 400),
            (
                json!({"metadata": {"$deleteFromPrimitiveList/finalizers": 1}}),
                400,
            ),
            (
                json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "b"}]}}),
                422,
            ),
        ] {
            assert_eq!(
                strategic_merge(&object, &patch, schema).unwrap_err().code,
                code,
                "{patch}"
            );
        }
    }
}
