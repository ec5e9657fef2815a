//! `meta.k8s.io/v1` Tables: what `kubectl get` prints.

use crate::{printers::printer, registry::Resource};
use jiff::Timestamp;
use serde_json::{Value, json};

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
            let cells = (printer.row)(object, now);
            match include_object {
                IncludeObject::None => json!({"cells": cells}),
                IncludeObject::Metadata => json!({"cells": cells, "object": partial_object_metadata(object)}),
                IncludeObject::Object => json!({"cells": cells, "object": object}),
            }
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
        // kubectl shows no description; clients that do get the one thing that is true of every column.
        let description = format!("{} of the {}", column.name, resource.kind);
        json!({"name": column.name, "type": column.ty, "format": column.format, "description": description, "priority": column.priority})
    });
    described.collect()
}

/// A PartialObjectMetadata of an object.
pub fn partial_object_metadata(object: &Value) -> Value {
    let metadata = object.get("metadata").cloned().unwrap_or_else(|| json!({}));
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
}
