//! What a value is, as far as merging is concerned.

use crate::schema::{Elem, Field, FieldType, ListType, TypeRef};
use serde_json::Value;
use std::fmt::Write;

/// How a value merges.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    /// As a whole: a scalar, or an atomic list or map.
    Leaf,
    /// By its declared fields.
    Struct(TypeRef),
    /// By its keys.
    Map(Elem),
    /// Scalars, each on its own.
    Set,
    /// Structs, told apart by some of their fields.
    Keyed(Field, Elem),
}

impl Shape {
    pub(super) fn of_type(ty: TypeRef) -> Shape {
        match ty.is_atomic() {
            true => Shape::Leaf,
            false => Shape::Struct(ty),
        }
    }

    fn of_elem(elem: Elem) -> Shape {
        match elem.ty() {
            FieldType::Message(ty) => Shape::of_type(ty),
            FieldType::Map(elem) => Shape::Map(elem),
            _ => Shape::Leaf,
        }
    }

    fn of_field(field: Field) -> Shape {
        if field.is_atomic() {
            return Shape::Leaf;
        }
        match (field.ty(), field.list_type()) {
            (FieldType::List(_), ListType::Set) => Shape::Set,
            (FieldType::List(elem), ListType::Map) => Shape::Keyed(field, elem),
            _ => Shape::of_elem(field.elem()),
        }
    }

    /// What is under a key, and whether the key is a declared field; `None` when there can be no such key.
    pub(super) fn child(self, key: &str) -> Option<Child> {
        match self {
            Shape::Struct(ty) => ty.field(key).map(|field| Child {
                shape: Shape::of_field(field),
                named: true,
                written_when_null: !field.omitempty(),
            }),
            Shape::Map(elem) => Some(Child {
                shape: Shape::of_elem(elem),
                named: false,
                written_when_null: false,
            }),
            _ => None,
        }
    }

    /// What the items of a list are.
    pub(super) fn item(self) -> Shape {
        match self {
            Shape::Keyed(_, elem) => Shape::of_elem(elem),
            _ => Shape::Leaf,
        }
    }

    /// What tells an item of a list from the others.
    pub(super) fn element(self, item: &Value) -> Result<String, String> {
        match self {
            Shape::Keyed(field, elem) => keyed_element(field, elem, item),
            _ => match item {
                Value::Object(_) => {
                    Err("associative list without keys has an element that's a map type".into())
                }
                Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
                Value::Null => {
                    Err("associative list without keys has an element that's an explicit null".into())
                }
                scalar => Ok(format!("v:{scalar}")),
            },
        }
    }
}

/// A key's value in a struct or map.
pub(super) struct Child {
    pub(super) shape: Shape,
    /// Declared, rather than any key of a map.
    pub(super) named: bool,
    /// Go writes `null` where it is not set: it is then there, though nothing is in it.
    pub(super) written_when_null: bool,
}

fn keyed_element(field: Field, elem: Elem, item: &Value) -> Result<String, String> {
    let map = match item {
        Value::Object(map) => map,
        Value::Null => return Err("associative list with keys may not have a null element".into()),
        _ => return Err("associative list with keys may not have non-map elements".into()),
    };
    let mut keys: Vec<&str> = field.list_map_keys().collect();
    keys.sort_unstable();
    let mut out = String::from("k:{");
    for key in &keys {
        let default = || match elem.ty() {
            FieldType::Message(ty) => ty.field(key)?.default(),
            _ => None,
        };
        let comma = if out.len() > 3 { "," } else { "" };
        // Writing to a string cannot fail.
        let _ = match map.get(*key).filter(|value| !value.is_null()) {
            Some(value) => write!(out, "{comma}\"{key}\":{value}"),
            None => match default() {
                Some(value) => write!(out, "{comma}\"{key}\":{value}"),
                None => Ok(()),
            },
        };
    }
    if out.len() == 3 {
        let keys: Vec<String> = keys.iter().map(|key| crate::status::quote(key)).collect();
        return Err(format!(
            "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
            keys.join(" ")
        ));
    }
    out.push('}');
    Ok(out)
}
