//! Checks of the schemas of custom resources: that they are structural, so that defaulting, pruning and merging can be
//! done by them, and that their extensions make sense. Rules in CEL are only checked for being there: nothing compiles CEL yet.

use crate::strategy::access::{is_true, list, map, text};
use crate::validation::ErrorList;
use serde_json::{Value, json};

/// How deep a schema may nest; JSON that is decoded nests hardly deeper.
const MAX_DEPTH: usize = 100;
const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const REASONS: [&str; 4] = [
    "FieldValueDuplicate",
    "FieldValueForbidden",
    "FieldValueInvalid",
    "FieldValueRequired",
];
/// Fields of a schema that cannot be supported.
const UNSUPPORTED: [&str; 6] = [
    "id",
    "additionalItems",
    "patternProperties",
    "definitions",
    "dependencies",
    "$ref",
];
/// What the root may have beside its status, which is validated on its own.
const AT_ROOT: [&str; 21] = [
    "description",
    "type",
    "format",
    "title",
    "maximum",
    "exclusiveMaximum",
    "minimum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "pattern",
    "maxItems",
    "minItems",
    "uniqueItems",
    "multipleOf",
    "required",
    "items",
    "properties",
    "externalDocs",
    "example",
    "x-kubernetes-preserve-unknown-fields",
];
/// What is said under a logical junction is about values: it may not say what a value is.
const NOT_NESTED: [(&str, &str); 12] = [
    ("type", "must be empty to be structural"),
    ("additionalProperties", "must be undefined to be structural"),
    ("default", "must be undefined to be structural"),
    ("title", "must be empty to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    ("externalDocs", "must be undefined to be structural"),
    (
        "x-kubernetes-preserve-unknown-fields",
        "must be false to be structural",
    ),
    ("x-kubernetes-embedded-resource", "must be false to be structural"),
    ("x-kubernetes-int-or-string", "must be false to be structural"),
    ("x-kubernetes-list-type", "must be undefined to be structural"),
    ("x-kubernetes-map-type", "must be undefined to be structural"),
];

/// Where a schema is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Field,
    Item,
}

/// The schema of a version. With a status subresource the root is held to what survives taking the status out.
pub(super) fn root(schema: &Value, has_status: bool, path: &str, errors: &mut ErrorList) {
    if has_status {
        let odd = schema
            .as_object()
            .into_iter()
            .flat_map(|m| m.keys())
            .any(|field| !AT_ROOT.contains(&field.as_str()) && field != "x-kubernetes-validations");
        if text(schema, "/type") != "object" && !text(schema, "/type").is_empty() {
            let detail = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
            errors.invalid(format!("{path}.type"), schema["type"].clone(), detail);
        } else if odd {
            let detail = format!(
                "only [{} XValidations] fields are allowed at the root of the schema if the status subresource is enabled",
                AT_ROOT.map(go_name).join(" ")
            );
            errors.invalid(path, schema.clone(), detail);
        }
    }
    if is_true(schema, "/nullable") {
        errors.forbidden(format!("{path}.nullable"), "nullable cannot be true at the root");
    }
    let mut found = ErrorList::new();
    structural(schema, Level::Root, path, 0, &mut found);
    let mut sorted: Vec<_> = found.into_iter().collect();
    sorted.sort_by_key(crate::validation::FieldError::message);
    for error in sorted {
        errors.push(error);
    }
    let place = Place {
        is_root: true,
        inside_meta: false,
        no_default: None,
    };
    extensions(schema, &place, path, 0, errors);
}

/// What holds for a schema because of those that it is in.
#[derive(Clone)]
struct Place {
    is_root: bool,
    /// It is of a field that every object has.
    inside_meta: bool,
    /// Why it may not have a default.
    no_default: Option<String>,
}

impl Place {
    fn below(&self) -> Place {
        Place {
            is_root: false,
            ..self.clone()
        }
    }

    fn property(&self, schema: &Value, key: &str) -> Place {
        let mut below = self.below();
        let whole = self.is_root || is_true(schema, "/x-kubernetes-embedded-resource");
        if whole && matches!(key, "metadata" | "kind" | "apiVersion") {
            below.inside_meta = true;
            if self.is_root {
                below.no_default = Some(format!("in top-level {key}"));
            }
        }
        below
    }

    fn additional(&self) -> Place {
        let mut below = self.below();
        if self.inside_meta {
            below.no_default = Some("inside additionalProperties applying to object metadata".into());
        }
        below
    }
}

/// The name that a field has in upstream's source.
fn go_name(field: &str) -> String {
    let words = field.replace("x-kubernetes-", "x-");
    let words = words.split('-').map(|word| {
        let mut chars = word.chars();
        let first = chars.next().map(|c| c.to_ascii_uppercase());
        first.into_iter().chain(chars).collect::<String>()
    });
    words.collect()
}

/// `key` below `properties`.
fn property(path: &str, key: &str) -> String {
    format!("{path}.properties[{key}]")
}

fn structural(schema: &Value, level: Level, path: &str, depth: usize, errors: &mut ErrorList) {
    if depth > MAX_DEPTH {
        errors.forbidden(path, "nested too deeply");
        return;
    }
    let kind = text(schema, "/type");
    match schema.get("items") {
        None if kind == "array" => errors.required(format!("{path}.items"), "must be specified"),
        Some(items @ Value::Object(_)) => {
            structural(items, Level::Item, &format!("{path}.items"), depth + 1, errors);
        }
        _ => {}
    }
    for (key, value) in map(schema, "/properties").into_iter().flatten() {
        structural(value, Level::Field, &property(path, key), depth + 1, errors);
    }
    if let Some(additional) = schema.get("additionalProperties") {
        let at = format!("{path}.additionalProperties");
        if level == Level::Root {
            errors.forbidden(at.clone(), "must not be used at the root");
        }
        if additional.is_object() {
            structural(additional, Level::Field, &at, depth + 1, errors);
        }
    }
    let flag = |name: &str| schema.get(name) == Some(&Value::Bool(true));
    let (embedded, preserve) = (
        flag("x-kubernetes-embedded-resource"),
        flag("x-kubernetes-preserve-unknown-fields"),
    );
    let int_or_string = flag("x-kubernetes-int-or-string");
    for name in [
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-embedded-resource",
    ] {
        if int_or_string && flag(name) {
            let detail = "must be false if x-kubernetes-int-or-string is true";
            errors.invalid(format!("{path}.{name}"), true, detail);
        }
    }
    junctions(schema, path, depth, errors);

    let at = format!("{path}.type");
    if embedded && kind != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        match kind {
            "" => errors.required(at, detail),
            other => errors.invalid(at, other, detail),
        }
    } else if kind.is_empty() && !int_or_string && !preserve {
        let detail = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.required(at, detail);
    } else if level == Level::Root && !kind.is_empty() && kind != "object" {
        errors.invalid(at, kind, "must be object at the root");
    }
    if embedded && schema.get("additionalProperties").is_some() {
        let detail = "must not be used if x-kubernetes-embedded-resource is set";
        errors.forbidden(format!("{path}.additionalProperties"), detail);
    }
    if embedded || level == Level::Root {
        resource_fields(schema, level, path, errors);
    }
    if embedded && !preserve && map(schema, "/properties").is_none_or(|p| p.is_empty()) {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.required(format!("{path}.properties"), detail);
    }
}

/// `kind`, `apiVersion` and `metadata` of a whole object are what they always are.
fn resource_fields(schema: &Value, level: Level, path: &str, errors: &mut ErrorList) {
    for field in ["kind", "apiVersion"] {
        if let Some(of) = schema.pointer(&format!("/properties/{field}"))
            && text(of, "/type") != "string"
        {
            let at = format!("{}.type", property(path, field));
            errors.invalid(at, text(of, "/type"), "must be string");
        }
    }
    let Some(metadata) = schema.pointer("/properties/metadata") else {
        return;
    };
    let at = property(path, "metadata");
    if text(metadata, "/type") != "object" {
        errors.invalid(format!("{at}.type"), text(metadata, "/type"), "must be object");
    }
    let known = |field: &String| matches!(field.as_str(), "name" | "generateName");
    let properties_known = map(metadata, "/properties").is_none_or(|p| p.keys().all(known));
    let fields_known = metadata
        .as_object()
        .into_iter()
        .flat_map(|m| m.keys())
        .all(|field| matches!(field.as_str(), "type" | "properties" | "default"));
    if level == Level::Root && !(properties_known && fields_known) {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.forbidden(at, detail);
    }
}

/// `allOf`, `anyOf`, `oneOf` and `not` say something of values only.
fn junctions(schema: &Value, path: &str, depth: usize, errors: &mut ErrorList) {
    let either = json!([{"type": "integer"}, {"type": "string"}]);
    let is_either = |value: Option<&Value>| value == Some(&either);
    for junction in ["anyOf", "allOf", "oneOf"] {
        if junction == "anyOf" && is_either(schema.get("anyOf")) {
            continue;
        }
        for (i, of) in list(schema, &format!("/{junction}")).iter().enumerate() {
            let only_either = junction == "allOf" && i == 0 && is_either(of.get("anyOf"));
            nested(
                of,
                only_either,
                &format!("{path}.{junction}[{i}]"),
                depth + 1,
                errors,
            );
        }
    }
    if let Some(of) = schema.get("not") {
        nested(of, false, &format!("{path}.not"), depth + 1, errors);
    }
}

fn nested(schema: &Value, skip_any_of: bool, path: &str, depth: usize, errors: &mut ErrorList) {
    if depth > MAX_DEPTH {
        errors.forbidden(path, "nested too deeply");
        return;
    }
    if skip_any_of {
        let mut rest = schema.clone();
        if let Some(rest) = rest.as_object_mut() {
            rest.remove("anyOf");
        }
        junctions(&rest, path, depth, errors);
    } else {
        junctions(schema, path, depth, errors);
    }
    if let Some(items @ Value::Object(_)) = schema.get("items") {
        nested(items, false, &format!("{path}.items"), depth + 1, errors);
    }
    for (key, value) in map(schema, "/properties").into_iter().flatten() {
        nested(value, false, &property(path, key), depth + 1, errors);
    }
    for (field, detail) in NOT_NESTED {
        let said = schema
            .get(field)
            .is_some_and(|v| *v != json!(false) && *v != json!(""));
        if said {
            errors.forbidden(format!("{path}.{field}"), detail);
        }
    }
    for field in ["x-kubernetes-list-map-keys", "x-kubernetes-validations"] {
        if !list(schema, &format!("/{field}")).is_empty() {
            errors.forbidden(format!("{path}.{field}"), "must be empty to be structural");
        }
    }
    if schema.pointer("/properties/metadata").is_some() {
        let detail = "must not be specified in a nested context";
        errors.forbidden(property(path, "metadata"), detail);
    }
}

/// What every schema in the tree keeps to, and what the extensions of lists and maps ask for.
fn extensions(schema: &Value, place: &Place, path: &str, depth: usize, errors: &mut ErrorList) {
    if depth > MAX_DEPTH {
        return;
    }
    let kind = text(schema, "/type");
    if !kind.is_empty() {
        errors.one_of(&format!("{path}.type"), kind, &TYPES);
    }
    let has_default = schema.get("default").is_some_and(|default| !default.is_null());
    if let (true, Some(why)) = (has_default, &place.no_default) {
        errors.forbidden(format!("{path}.default"), format!("must not be set {why}"));
    }
    for field in UNSUPPORTED {
        if schema.get(field).is_some_and(|v| *v != json!("")) {
            errors.forbidden(format!("{path}.{field}"), format!("{field} is not supported"));
        }
    }
    if kind == "null" {
        let detail = "type cannot be set to null, use nullable as an alternative";
        errors.forbidden(format!("{path}.type"), detail);
    }
    if schema.get("items").is_some_and(Value::is_array) {
        let detail = "items must be a schema object and not an array";
        errors.forbidden(format!("{path}.items"), detail);
    }
    if place.inside_meta && is_true(schema, "/x-kubernetes-embedded-resource") {
        let at = format!("{path}.x-kubernetes-embedded-resource");
        errors.forbidden(at, "must not be used inside of resource meta");
    }
    if is_true(schema, "/uniqueItems") {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.forbidden(format!("{path}.uniqueItems"), detail);
    }
    let has_properties = map(schema, "/properties").is_some_and(|p| !p.is_empty());
    let additional = schema.get("additionalProperties");
    if has_properties && additional.is_some_and(|a| *a != Value::Bool(true)) {
        let detail = "additionalProperties and properties are mutual exclusive";
        errors.forbidden(format!("{path}.additionalProperties"), detail);
    }
    if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        let at = format!("{path}.x-kubernetes-preserve-unknown-fields");
        errors.invalid(at, false, "must be true or undefined");
    }
    map_type(schema, path, errors);
    list_type(schema, path, errors);
    rules(schema, path, errors);
    let mut below: Vec<(String, &Value, Place)> = Vec::new();
    if let Some(items @ Value::Object(_)) = schema.get("items") {
        below.push((format!("{path}.items"), items, place.below()));
    }
    if let Some(additional @ Value::Object(_)) = additional {
        let path = format!("{path}.additionalProperties");
        below.push((path, additional, place.additional()));
    }
    for (key, value) in map(schema, "/properties").into_iter().flatten() {
        below.push((property(path, key), value, place.property(schema, key)));
    }
    for junction in ["allOf", "oneOf", "anyOf"] {
        let of = list(schema, &format!("/{junction}")).iter().enumerate();
        below.extend(of.map(|(i, of)| (format!("{path}.{junction}[{i}]"), of, place.below())));
    }
    if let Some(not) = schema.get("not") {
        below.push((format!("{path}.not"), not, place.below()));
    }
    for (path, schema, place) in below {
        extensions(schema, &place, &path, depth + 1, errors);
    }
}

/// Says that a schema must be of a type, if it is not.
fn must_be(schema: &Value, kind: &str, of: &str, path: &str, errors: &mut ErrorList) {
    let detail = format!("must be {kind} if {of} is specified");
    match text(schema, "/type") {
        "" => errors.required(format!("{path}.type"), detail),
        other if other != kind => errors.invalid(format!("{path}.type"), other, detail),
        _ => {}
    }
}

fn map_type(schema: &Value, path: &str, errors: &mut ErrorList) {
    const FIELD: &str = "x-kubernetes-map-type";
    let Some(map_type) = schema.get(FIELD).and_then(Value::as_str) else {
        return;
    };
    must_be(schema, "object", FIELD, path, errors);
    errors.one_of(&format!("{path}.{FIELD}"), map_type, &["atomic", "granular"]);
}

const LIST_TYPE: &str = "x-kubernetes-list-type";
const MAP_KEYS: &str = "x-kubernetes-list-map-keys";

fn list_type(schema: &Value, path: &str, errors: &mut ErrorList) {
    let list_type = schema.get(LIST_TYPE).and_then(Value::as_str);
    let keys = list(schema, &format!("/{MAP_KEYS}"));
    let at = format!("{path}.{LIST_TYPE}");
    if let Some(list_type) = list_type {
        must_be(schema, "array", LIST_TYPE, path, errors);
        if let ("array", "set", Some(items)) = (text(schema, "/type"), list_type, schema.get("items")) {
            atomic_items(items, path, errors);
        }
        errors.one_of(&at, list_type, &["atomic", "set", "map"]);
    }
    if !keys.is_empty() && list_type != Some("map") {
        let detail = format!("must be map if {MAP_KEYS} is non-empty");
        match list_type {
            None => errors.required(at, detail),
            Some(other) => errors.invalid(at, other, detail),
        }
    }
    if list_type == Some("map") {
        map_keys(schema, keys, path, errors);
    }
    if let (Some(list_type @ ("set" | "map")), Some(items @ Value::Object(_))) =
        (list_type, schema.get("items"))
    {
        present_items(items, list_type, keys, path, errors);
    }
}

/// The items of sets are compared as wholes.
fn atomic_items(items: &Value, path: &str, errors: &mut ErrorList) {
    let (field, atomic) = match text(items, "/type") {
        "array" => (LIST_TYPE, items.get(LIST_TYPE).is_none_or(|t| t == "atomic")),
        "object" => {
            let field = "x-kubernetes-map-type";
            (field, items.get(field).is_some_and(|t| t == "atomic"))
        }
        _ => return,
    };
    if !atomic {
        // Upstream shows the list type of either.
        let shown = items.get(LIST_TYPE).cloned().unwrap_or_default();
        let detail = format!("must be atomic as item of a list with {LIST_TYPE}=set");
        errors.invalid(format!("{path}.items.{field}"), shown, detail);
    }
}

/// The keys of a list's items are scalars of theirs.
fn map_keys(schema: &Value, keys: &[Value], path: &str, errors: &mut ErrorList) {
    let at = format!("{path}.{MAP_KEYS}");
    if keys.is_empty() {
        let detail = format!("must not be empty if {LIST_TYPE} is map");
        errors.required(at.clone(), detail);
    }
    let Some(items) = schema.get("items") else {
        let detail = format!("must have a schema if {LIST_TYPE} is map");
        return errors.required(format!("{path}.items"), detail);
    };
    if items.is_array() {
        let detail = format!("must only have a single schema if {LIST_TYPE} is map");
        return errors.invalid(format!("{path}.items"), items.clone(), detail);
    }
    let kind = text(items, "/type");
    if kind != "object" {
        let detail = format!("must be object if parent array's {LIST_TYPE} is map");
        return errors.invalid(format!("{path}.items.type"), kind, detail);
    }
    for (i, key) in keys.iter().enumerate() {
        let name = key.as_str().unwrap_or("");
        match items.get("properties").and_then(|p| p.get(name)) {
            None => {
                let detail = "entries must all be names of item properties";
                errors.invalid(at.clone(), keys.to_vec(), detail);
            }
            Some(of) if matches!(text(of, "/type"), "array" | "object") => {
                let detail = format!("must be a scalar type if parent array's {LIST_TYPE} is map");
                let at = format!("{}.type", property(&format!("{path}.items"), name));
                errors.invalid(at, kind, detail);
            }
            Some(_) => {}
        }
        if keys[..i].contains(key) {
            errors.invalid(at.clone(), keys.to_vec(), "must not contain duplicate entries");
        }
    }
}

/// Items that are told apart are there, and so are their keys.
fn present_items(items: &Value, list_type: &str, keys: &[Value], path: &str, errors: &mut ErrorList) {
    if is_true(items, "/nullable") {
        let detail = format!("cannot be nullable when {LIST_TYPE} is {list_type}");
        errors.forbidden(format!("{path}.items.nullable"), detail);
    }
    for key in keys.iter().filter(|_| list_type == "map") {
        let name = key.as_str().unwrap_or("");
        let Some(of) = items.get("properties").and_then(|p| p.get(name)) else {
            continue;
        };
        let at = property(&format!("{path}.items"), name);
        if of.get("default").is_none() && !list(items, "/required").contains(key) {
            let detail = format!(
                "this property is in {MAP_KEYS}, so it must have a default or be a required property"
            );
            errors.required(format!("{at}.default"), detail);
        }
        if is_true(of, "/nullable") {
            let detail = format!("this property is in {MAP_KEYS}, so it cannot be nullable");
            errors.forbidden(format!("{at}.nullable"), detail);
        }
    }
}

fn rules(schema: &Value, path: &str, errors: &mut ErrorList) {
    let line_break = |text: &str| text.contains(['\n', '\r']);
    for (i, rule) in list(schema, "/x-kubernetes-validations").iter().enumerate() {
        let path = format!("{path}.x-kubernetes-validations[{i}]");
        let (of, message) = (text(rule, "/rule").trim(), text(rule, "/message"));
        let at = format!("{path}.message");
        if of.is_empty() {
            errors.required(format!("{path}.rule"), "rule is not specified");
        } else if !message.is_empty() && message.trim().is_empty() {
            errors.invalid(at, message, "message must be non-empty if specified");
        } else if line_break(message.trim()) {
            errors.invalid(at, message, "message must not contain line breaks");
        } else if line_break(of) && message.trim().is_empty() {
            errors.required(at, "message must be specified if rule contains line breaks");
        }
        let expression = text(rule, "/messageExpression");
        if !expression.is_empty() && expression.trim().is_empty() {
            let detail = "messageExpression must be non-empty if specified";
            errors.required(format!("{path}.messageExpression"), detail);
        }
        if let Some(reason) = rule.get("reason").and_then(Value::as_str) {
            errors.one_of(&format!("{path}.reason"), reason, &REASONS);
        }
        let field = text(rule, "/fieldPath");
        if !field.is_empty() && field.trim().is_empty() {
            let detail = "fieldPath must be non-empty if specified";
            errors.invalid(format!("{path}.fieldPath"), field, detail);
        }
        if line_break(field) {
            errors.invalid(
                format!("{path}.fieldPath"),
                field,
                "fieldPath must not contain line breaks",
            );
        }
    }
}
