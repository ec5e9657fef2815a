//! `meta.k8s.io/v1` Tables: what `kubectl get` prints.

use crate::{
    printers::{printer, row_conditions},
    registry::Resource,
    schema::{Descriptions, TypeRef},
};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// A table column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// OpenAPI type: string, integer, …
    pub ty: &'static str,
    /// OpenAPI format: `name` marks the object's name.
    pub format: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
    /// The type and the field whose description is the column's: `("core.v1.PodStatus", "podIP")`.
    pub describes: Option<(&'static str, &'static str)>,
}

impl Column {
    /// The column shows what that field of that type is.
    pub const fn of(self, ty: &'static str, field: &'static str) -> Column {
        Column {
            describes: Some((ty, field)),
            ..self
        }
    }

    /// The description of the column's field, in upstream's words. What upstream says of columns that are no one field's is
    /// nowhere but in its sources; ours is shorter.
    fn description(&self, resource: &Resource) -> Value {
        let described = self.describes.and_then(description);
        described.map_or_else(
            || format!("{} of the {}", self.name, resource.kind).into(),
            |text| (*text).into(),
        )
    }
}

/// The description of a field. All are inflated once for each new field; a hundred are kept if every kind is printed.
fn description((ty, field): (&'static str, &'static str)) -> Option<Arc<str>> {
    static KEPT: Mutex<BTreeMap<(&str, &str), Arc<str>>> = Mutex::new(BTreeMap::new());
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = kept.get(&(ty, field)) {
        return Some(known.clone());
    }
    let text: Arc<str> = Descriptions::inflate()
        .of_field(described(ty)?.field(field)?)
        .into();
    kept.insert((ty, field), text.clone());
    Some(text)
}

/// The type that a column names without the prefix that all have.
fn described(ty: &str) -> Option<TypeRef> {
    ["io.k8s.api.", "io.k8s.apimachinery.pkg.apis."]
        .iter()
        .find_map(|prefix| TypeRef::by_name(&format!("{prefix}{ty}")))
}

/// What a row carries besides its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// A PartialObjectMetadata.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

impl IncludeObject {
    /// From the `includeObject` parameter; empty means the default.
    pub fn parse(text: &str) -> Option<IncludeObject> {
        match text {
            "" | "Metadata" => Some(IncludeObject::Metadata),
            "None" => Some(IncludeObject::None),
            "Object" => Some(IncludeObject::Object),
            _ => None,
        }
    }
}

/// A Table of objects. `metadata` is the list's (resourceVersion, continue, …). Column definitions can be left out of
/// all watch events after the first.
pub fn table<'a>(
    resource: &Resource,
    objects: impl Iterator<Item = &'a Value>,
    metadata: Value,
    include_object: IncludeObject,
    with_columns: bool,
    now: Timestamp,
) -> Value {
    let printer = printer(&resource.group, &resource.kind);
    let rows: Vec<Value> = objects
        .map(|object| {
            let mut row = json!({"cells": (printer.row)(object, now)});
            if let Some(conditions) = row_conditions(&resource.group, &resource.kind, object) {
                row["conditions"] = conditions;
            }
            match include_object {
                IncludeObject::None => (),
                IncludeObject::Metadata => row["object"] = partial_object_metadata(object),
                IncludeObject::Object => row["object"] = object.clone(),
            }
            row
        })
        .collect();
    let columns = if with_columns {
        columns(resource, printer.columns)
    } else {
        Value::Null
    };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": columns, "rows": rows})
}

fn columns(resource: &Resource, columns: &[Column]) -> Value {
    let described = columns.iter().map(|column| {
        let description = column.description(resource);
        json!({"name": column.name, "type": column.ty, "format": column.format, "description": description, "priority": column.priority})
    });
    described.collect()
}

/// A PartialObjectMetadata of an object.
pub fn partial_object_metadata(object: &Value) -> Value {
    let metadata = object.get("metadata").cloned().unwrap_or_else(|| json!({}));
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_that_names_a_field_has_its_description() {
        let (all, mut bytes) = (Descriptions::inflate(), 0);
        for resource in crate::registry::Registry::builtin().resources() {
            for column in printer(&resource.group, &resource.kind).columns {
                let Some((ty, field)) = column.describes else {
                    continue;
                };
                let found = described(ty).and_then(|ty| ty.field(field));
                let text = all.of_field(found.unwrap_or_else(|| panic!("{ty}.{field}")));
                assert!(!text.is_empty(), "{ty}.{field}");
                bytes += text.len();
            }
        }
        assert!(bytes > 10_000);
        let table = |with_columns| {
            let registry = crate::registry::Registry::builtin();
            let pods = registry.find("", "v1", "pods").unwrap();
            let now = Timestamp::UNIX_EPOCH;
            table(
                pods,
                std::iter::empty(),
                json!({}),
                IncludeObject::None,
                with_columns,
                now,
            )
        };
        let columns = &table(true)["columnDefinitions"];
        let name = columns[0]["description"].as_str().unwrap();
        assert!(name.starts_with("Name must be unique within a namespace."));
        assert_eq!(columns[1]["description"], "Ready of the Pod");
        assert_eq!(table(false)["columnDefinitions"], Value::Null);
    }
}
