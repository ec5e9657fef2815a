//! The definitions: what a document's paths refer to, and all that those refer to.

use super::Dialect;
use super::json::Json;
use crate::registry::{GroupVersionKind, Name, Registry};
use crate::schema::{Descriptions, Field, FieldType, ListType, TypeRef};
use std::collections::BTreeSet;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
/// What PATCH takes.
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
/// What DELETE takes.
pub(super) const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
/// What DELETE answers.
pub(super) const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
/// What a group-version answers.
pub(super) const API_RESOURCE_LIST: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList";
/// What `/api` answers.
pub(super) const API_VERSIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.APIVersions";
/// What `/apis` answers.
pub(super) const API_GROUP_LIST: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.APIGroupList";
/// What a group answers.
pub(super) const API_GROUP: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.APIGroup";
/// What a watch streams.
pub(super) const WATCH_EVENT: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent";

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";
const DURATION: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Duration";
const FIELDS_V1: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1";
const RAW_EXTENSION: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";
const JSON: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON";
const SCHEMA_OR_ARRAY: &str =
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray";
const SCHEMA_OR_BOOL: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool";
const SCHEMA_OR_STRINGS: &str =
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray";

/// The definitions of a document: collects the names that paths mention, then writes them and what they reach.
pub(super) struct Definitions<'a> {
    /// The document's format.
    pub(super) dialect: Dialect,
    descriptions: &'a Descriptions,
    wanted: BTreeSet<&'static str>,
    /// OpenAPI package, group, version.
    packages: Vec<(&'static str, Name, Name)>,
}

impl<'a> Definitions<'a> {
    /// None wanted yet.
    pub(super) fn new(registry: &Registry, descriptions: &'a Descriptions, dialect: Dialect) -> Self {
        let mut packages: Vec<(&'static str, Name, Name)> = Vec::new();
        for resource in registry.resources() {
            let package = package(resource.schema.name());
            if !packages.iter().any(|(known, ..)| *known == package) {
                packages.push((package, resource.group.clone(), resource.version.clone()));
            }
        }
        Definitions {
            dialect,
            descriptions,
            wanted: BTreeSet::new(),
            packages,
        }
    }

    /// The name of a kind's definition, if the kind has fields that we know.
    pub(super) fn of_kind(&self, kind: &GroupVersionKind) -> Option<&'static str> {
        let mut packages = self.packages.iter();
        let (package, ..) =
            packages.find(|(_, group, version)| *group == kind.group && *version == kind.version)?;
        TypeRef::by_name(&format!("{package}.{}", kind.kind)).map(TypeRef::name)
    }

    /// `{"$ref": …}`; the document will have the definition.
    pub(super) fn reference(&mut self, json: &mut Json, name: &'static str) {
        self.wanted.insert(name);
        json.object(|json| json.key("$ref").joined(self.dialect.definitions(), name));
    }

    /// Also that definition, though nothing refers to it.
    pub(super) fn want(&mut self, name: &'static str) {
        self.wanted.insert(name);
    }

    /// All wanted definitions and what they refer to, by name.
    pub(super) fn write(&mut self, json: &mut Json) {
        let mut pending: Vec<&'static str> = self.wanted.iter().copied().collect();
        while let Some(ty) = pending.pop().map(TypeRef::by_name) {
            for name in ty
                .into_iter()
                .flat_map(TypeRef::fields)
                .filter_map(|f| leaf(f.ty()))
            {
                if self.wanted.insert(name) {
                    pending.push(name);
                }
            }
        }
        for name in &self.wanted {
            json.key(name).object(|json| match TypeRef::by_name(name) {
                Some(ty) => self.object(json, ty),
                None => scalar(json, self.dialect, name),
            });
        }
    }

    fn object(&self, json: &mut Json, ty: TypeRef) {
        describe(json, self.descriptions.of_type(ty));
        json.key("type").string("object");
        let mut fields = ty.fields().peekable();
        if fields.peek().is_some() {
            json.key("properties").object(|json| {
                for field in fields {
                    json.key(field.name()).object(|json| {
                        property(json, self.dialect, self.descriptions.of_field(field), field)
                    });
                }
            });
        }
        let mut required = ty.fields().filter(|field| field.is_required()).peekable();
        if required.peek().is_some() {
            json.key("required").array(|json| {
                for field in required {
                    json.string(field.name());
                }
            });
        }
        if ty.is_atomic() {
            json.key("x-kubernetes-map-type").string("atomic");
        }
        self.kinds(json, ty);
    }

    /// The kinds a type is: none for parts of objects, several for what all groups share.
    fn kinds(&self, json: &mut Json, ty: TypeRef) {
        let name = ty.name();
        let shared = name == DELETE_OPTIONS || name == WATCH_EVENT;
        let is_kind = ty.declared_fields().any(|f| {
            f.is_inline() && matches!(f.ty(), FieldType::Message(t) if t.short_name() == "TypeMeta")
        });
        if !is_kind && !shared {
            return;
        }
        let package = package(name);
        let of = |known: &str| {
            if package == META {
                known == CORE
            } else {
                known == package
            }
        };
        json.key("x-kubernetes-group-version-kind").array(|json| {
            for (known, group, version) in &self.packages {
                if shared || of(known) {
                    json.object(|json| kind_members(json, group, version, ty.short_name()));
                }
            }
        });
    }
}

const CORE: &str = "io.k8s.api.core.v1";

/// `group`, `version` and `kind` of `x-kubernetes-group-version-kind`.
pub(super) fn kind_members(json: &mut Json, group: &str, version: &str, kind: &str) {
    json.key("group").string(group);
    json.key("version").string(version);
    json.key("kind").string(kind);
}

fn package(name: &'static str) -> &'static str {
    name.rsplit_once('.').map_or(name, |(package, _)| package)
}

/// The definition a type expression refers to, through lists and maps.
fn leaf(ty: FieldType) -> Option<&'static str> {
    match ty {
        FieldType::List(elem) | FieldType::Map(elem) => leaf(elem.ty()),
        _ => definition(ty),
    }
}

/// The definition a type is; `None` for scalars, lists and maps, which are written in place.
fn definition(ty: FieldType) -> Option<&'static str> {
    Some(match ty {
        FieldType::Message(ty) => ty.name(),
        FieldType::Quantity => QUANTITY,
        FieldType::IntOrString => INT_OR_STRING,
        FieldType::Time => TIME,
        FieldType::MicroTime => MICRO_TIME,
        FieldType::Duration => DURATION,
        FieldType::RawExtension => RAW_EXTENSION,
        FieldType::FieldsV1 => FIELDS_V1,
        FieldType::Json => JSON,
        FieldType::SchemaOrArray => SCHEMA_OR_ARRAY,
        FieldType::SchemaOrBool => SCHEMA_OR_BOOL,
        FieldType::SchemaOrStrings => SCHEMA_OR_STRINGS,
        _ => return None,
    })
}

/// A definition with a JSON form of its own instead of fields.
fn scalar(json: &mut Json, dialect: Dialect, name: &str) {
    let one_of = |json: &mut Json, types: [&str; 2]| {
        json.key("oneOf").array(|json| {
            for ty in types {
                json.object(|json| json.key("type").string(ty));
            }
        });
    };
    match (name, dialect) {
        (TIME | MICRO_TIME, _) => {
            json.key("type").string("string");
            json.key("format").string("date-time");
        }
        (INT_OR_STRING, Dialect::V3) => {
            json.key("format").string("int-or-string");
            one_of(json, ["integer", "string"]);
        }
        (INT_OR_STRING, Dialect::V2) => {
            json.key("type").string("string");
            json.key("format").string("int-or-string");
        }
        (QUANTITY, Dialect::V3) => one_of(json, ["string", "number"]),
        (QUANTITY | DURATION, _) => json.key("type").string("string"),
        (RAW_EXTENSION | FIELDS_V1 | PATCH, _) => json.key("type").string("object"),
        // Anything goes.
        _ => (),
    }
}

fn describe(json: &mut Json, description: &str) {
    if !description.is_empty() {
        json.key("description").string(description);
    }
}

fn property(json: &mut Json, dialect: Dialect, description: &str, field: Field) {
    describe(json, description);
    let strategy = match (field.patch_merges(), field.patch_retains_keys()) {
        (true, true) => Some("merge,retainKeys"),
        (true, false) => Some("merge"),
        (false, true) => Some("retainKeys"),
        (false, false) => field.patch_replaces().then_some("replace"),
    };
    let list_type = match field.list_type() {
        ListType::Unset => None,
        ListType::Atomic => Some("atomic"),
        ListType::Set => Some("set"),
        ListType::Map => Some("map"),
    };
    let has_siblings = strategy.is_some() || field.is_atomic() || !description.is_empty();
    value(json, dialect, field.ty(), default(field), has_siblings);
    if field.list_map_keys().next().is_some() {
        json.key("x-kubernetes-list-map-keys").array(|json| {
            for key in field.list_map_keys() {
                json.string(key);
            }
        });
    }
    let extensions = [
        ("x-kubernetes-list-type", list_type),
        ("x-kubernetes-map-type", field.is_atomic().then_some("atomic")),
        ("x-kubernetes-patch-merge-key", field.merge_key()),
        ("x-kubernetes-patch-strategy", strategy),
    ];
    for (key, text) in extensions {
        if let Some(text) = text {
            json.key(key).string(text);
        }
    }
}

/// The members of a value's schema. v3 wraps a reference that does not stand alone, because it ignores siblings.
fn value(json: &mut Json, dialect: Dialect, ty: FieldType, default: Option<&str>, has_siblings: bool) {
    let default = default.filter(|_| dialect == Dialect::V3);
    if let Some(name) = definition(ty) {
        if dialect == Dialect::V3 && (has_siblings || default.is_some()) {
            json.key("allOf").array(|json| {
                json.object(|json| json.key("$ref").joined(dialect.definitions(), name));
            });
        } else {
            json.key("$ref").joined(dialect.definitions(), name);
        }
    } else {
        let (json_type, format) = match ty {
            FieldType::Int32 => ("integer", Some("int32")),
            FieldType::Int64 => ("integer", Some("int64")),
            FieldType::Bool => ("boolean", None),
            FieldType::Double => ("number", Some("double")),
            FieldType::Bytes => ("string", Some("byte")),
            FieldType::List(_) => ("array", None),
            FieldType::Map(_) => ("object", None),
            _ => ("string", None),
        };
        json.key("type").string(json_type);
        if let Some(format) = format {
            json.key("format").string(format);
        }
        let elem = match ty {
            FieldType::List(elem) => Some(("items", elem)),
            FieldType::Map(elem) => Some(("additionalProperties", elem)),
            _ => None,
        };
        if let Some((key, elem)) = elem {
            json.key(key)
                .object(|json| value(json, dialect, elem.ty(), zero(elem.ty()), false));
        }
    }
    if let Some(default) = default {
        json.key("default").raw(default);
    }
}

/// A field's declared default; else its zero value if JSON always has the field, or if it is a struct.
fn default(field: Field) -> Option<&'static str> {
    field.default().or_else(|| match field.ty() {
        _ if field.is_pointer() => None,
        ty @ FieldType::Message(_) => zero(ty),
        _ if field.omitempty() => None,
        ty => zero(ty),
    })
}

fn zero(ty: FieldType) -> Option<&'static str> {
    match ty {
        FieldType::Message(_) => Some("{}"),
        FieldType::String => Some("\"\""),
        FieldType::Int32 | FieldType::Int64 | FieldType::Double => Some("0"),
        FieldType::Bool => Some("false"),
        _ => None,
    }
}
