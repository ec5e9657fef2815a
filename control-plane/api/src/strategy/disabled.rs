//! Fields of features that are off: they are dropped from what is written, unless the object had them before.

use crate::schema::{Field, FieldType, TypeRef};
use serde_json::{Map, Value};

/// Drops them. A field that the old object has somewhere may stay everywhere, as upstream's `dropDisabledFields` have it.
pub(super) fn drop_unused(schema: &str, new: &mut Value, old: Option<&Value>) {
    let Some(ty) = TypeRef::by_name(schema) else {
        return;
    };
    let mut given = Vec::new();
    visit(ty, new, &mut |_, field| note(&mut given, field));
    if given.is_empty() {
        return;
    }
    if let Some(old) = old {
        let mut used = Vec::new();
        // Visitors may change what they visit; this one does not.
        visit(ty, &mut old.clone(), &mut |_, field| note(&mut used, field));
        given.retain(|field| !used.contains(field));
    }
    visit(ty, new, &mut |map, field| {
        if given.contains(&field) {
            map.remove(field.name());
        }
    });
}

fn note(fields: &mut Vec<Field>, field: Field) {
    if !fields.contains(&field) {
        fields.push(field);
    }
}

/// Shows every field that is off, with the object it is in.
fn visit(ty: TypeRef, value: &mut Value, see: &mut dyn FnMut(&mut Map<String, Value>, Field)) {
    let Some(map) = value.as_object_mut() else { return };
    for field in ty.fields() {
        if !field.is_off() && !field.leads_to_off() {
            continue;
        }
        let Some(inner) = map.get_mut(field.name()) else {
            continue;
        };
        if field.is_off() {
            see(map, field);
        } else {
            descend(field.ty(), inner, see);
        }
    }
}

fn descend(ty: FieldType, value: &mut Value, see: &mut dyn FnMut(&mut Map<String, Value>, Field)) {
    match (ty, value) {
        (FieldType::Message(ty), value) => visit(ty, value, see),
        (FieldType::List(elem), Value::Array(items)) => {
            items.iter_mut().for_each(|item| descend(elem.ty(), item, see));
        }
        (FieldType::Map(elem), Value::Object(map)) => {
            map.values_mut().for_each(|value| descend(elem.ty(), value, see));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const POD: &str = "io.k8s.api.core.v1.Pod";

    fn dropped(spec: Value, old: Option<Value>) -> Value {
        let mut pod = json!({"spec": spec});
        drop_unused(POD, &mut pod, old.map(|spec| json!({"spec": spec})).as_ref());
        pod["spec"].take()
    }

    #[test]
    fn what_nobody_had_is_dropped() {
        let spec = json!({
            "schedulingGroup": {"podGroupName": "g"},
            "volumes": [{"name": "s", "secret": {"secretName": "s", "defaultUser": 1, "items": [{"key": "k", "path": "p", "user": 2}]}}],
            "containers": [{"name": "c", "volumeMounts": [{"name": "s", "mountPath": "/s", "bindMountOptions": ["noexec"]}]}],
        });
        let without = json!({
            "volumes": [{"name": "s", "secret": {"secretName": "s", "items": [{"key": "k", "path": "p"}]}}],
            "containers": [{"name": "c", "volumeMounts": [{"name": "s", "mountPath": "/s"}]}],
        });
        assert_eq!(dropped(spec.clone(), None), without);
        assert_eq!(dropped(spec.clone(), Some(json!({}))), without);
        assert_eq!(dropped(spec.clone(), Some(spec.clone())), spec);
        assert_eq!(dropped(without.clone(), Some(spec)), without);
    }

    #[test]
    fn one_use_is_enough() {
        let item = |user: u64| json!({"key": "k", "path": "p", "user": user});
        let volume =
            |items: Value| json!({"volumes": [{"name": "c", "configMap": {"name": "c", "items": items}}]});
        let old = volume(json!([item(1)]));
        let new = volume(json!([{"key": "k", "path": "p"}, item(2)]));
        assert_eq!(dropped(new.clone(), Some(old)), new);
    }

    #[test]
    fn odd_shapes_are_left_alone() {
        for odd in [
            json!([]),
            json!({"volumes": {}}),
            json!({"volumes": [1, null, {"secret": []}]}),
        ] {
            assert_eq!(dropped(odd.clone(), None), odd);
        }
    }
}
