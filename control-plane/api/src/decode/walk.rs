//! The schema-guided walk: a serde seed per type expression.
//!
//! Only syntax errors end the walk. Wrong types and unknown or duplicate fields are noted in the [`Context`], each
//! path being put together while the walk returns, so that a clean object pays nothing for them.

use super::scalar;
use crate::schema::{Elem, Field, FieldType, TypeRef};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// Complaints beyond this many are not collected.
const MAX_COMPLAINTS: usize = 100;
/// Deepest nesting of schema types.
const MAX_DEPTH: usize = 100;

/// What the walk found besides the value.
#[derive(Default)]
pub(super) struct Context {
    /// Unknown and duplicate fields, in order.
    complaints: Vec<Complaint>,
    /// The first wrong type or malformed scalar.
    error: Option<Mistake>,
    /// `metadata.managedFields` is a list with nothing in it.
    pub(super) forgets_managers: bool,
    depth: usize,
}

struct Complaint {
    duplicate: bool,
    path: String,
}

enum Mistake {
    /// `json: cannot unmarshal …`.
    Type {
        value: String,
        go: String,
        owner: Option<&'static str>,
        path: String,
    },
    /// A malformed scalar, in the words of its own parser.
    Scalar(String),
}

impl Context {
    /// The first error in Go's words.
    pub(super) fn error(&self) -> Option<String> {
        Some(match self.error.as_ref()? {
            Mistake::Scalar(text) => text.clone(),
            Mistake::Type {
                value,
                go,
                owner: Some(owner),
                path,
            } => {
                format!("json: cannot unmarshal {value} into Go struct field {owner}.{path} of type {go}")
            }
            Mistake::Type {
                value,
                go,
                owner: None,
                ..
            } => {
                format!("json: cannot unmarshal {value} into Go value of type {go}")
            }
        })
    }

    /// `unknown field "spec.foo"`, `duplicate field "spec.bar"`.
    pub(super) fn complaints(&self) -> Vec<String> {
        let text = |c: &Complaint| {
            let what = if c.duplicate { "duplicate" } else { "unknown" };
            format!("{what} field {}", crate::status::quote(&c.path))
        };
        self.complaints.iter().map(text).collect()
    }

    fn complain(&mut self, duplicate: bool, name: &str) {
        if self.complaints.len() < MAX_COMPLAINTS {
            self.complaints.push(Complaint {
                duplicate,
                path: name.to_string(),
            });
        }
    }

    fn mistake(&mut self, mistake: Mistake) {
        self.error.get_or_insert(mistake);
    }

    fn wrong_type(&mut self, value: impl Into<String>, go: impl Into<String>) {
        let (value, go) = (value.into(), go.into());
        self.mistake(Mistake::Type {
            value,
            go,
            owner: None,
            path: String::new(),
        });
    }

    /// Where the context stands before a child is walked.
    fn mark(&self) -> (usize, bool) {
        (self.complaints.len(), self.error.is_some())
    }

    /// Puts a path segment before everything noted since the mark.
    fn prefix(&mut self, mark: (usize, bool), segment: &str, owner: Option<&'static str>) {
        for complaint in &mut self.complaints[mark.0..] {
            complaint.path = join(segment, &complaint.path);
        }
        if let (false, Some(own), Some(Mistake::Type { owner, path, .. })) = (mark.1, owner, &mut self.error)
        {
            owner.get_or_insert(own);
            *path = if path.is_empty() {
                segment.to_string()
            } else {
                format!("{segment}.{path}")
            };
        }
    }
}

fn join(segment: &str, rest: &str) -> String {
    match rest.as_bytes().first() {
        None => segment.to_string(),
        Some(b'[') => format!("{segment}{rest}"),
        Some(_) => format!("{segment}.{rest}"),
    }
}

/// A seed that reads one value of a type; `None` for null.
pub(super) struct Walk<'a> {
    context: &'a mut Context,
    ty: FieldType,
    /// The Go spelling of the type.
    go: &'static str,
}

impl<'a> Walk<'a> {
    /// The seed of a whole object.
    pub(super) fn root(context: &'a mut Context, ty: TypeRef) -> Walk<'a> {
        Walk {
            context,
            ty: FieldType::Message(ty),
            go: ty.short_name(),
        }
    }

    fn of(context: &'a mut Context, elem: Elem) -> Walk<'a> {
        Walk {
            context,
            ty: elem.ty(),
            go: elem.go_name(),
        }
    }

    fn wrong<T>(self, value: impl Into<String>) -> Option<T> {
        self.context.wrong_type(value, self.go);
        None
    }

    fn check<T: Into<Value>>(self, parsed: Result<T, String>) -> Option<Value> {
        match parsed {
            Ok(value) => Some(value.into()),
            Err(text) => {
                self.context.mistake(Mistake::Scalar(text));
                None
            }
        }
    }

    fn integer(self, value: i128) -> Option<Value> {
        let range = match self.ty {
            FieldType::Int32 | FieldType::IntOrString => i128::from(i32::MIN)..=i128::from(i32::MAX),
            FieldType::Int64 => i128::from(i64::MIN)..=i128::from(i64::MAX),
            FieldType::Double => return Number::from_f64(value as f64).map(scalar::double),
            FieldType::Quantity => return self.check(scalar::quantity(&value.to_string())),
            FieldType::Json | FieldType::RawExtension | FieldType::FieldsV1 => {
                return i64::try_from(value)
                    .map(Value::from)
                    .ok()
                    .or_else(|| u64::try_from(value).ok().map(Value::from));
            }
            FieldType::Time | FieldType::MicroTime | FieldType::Duration => {
                self.context.wrong_type("number", "string");
                return None;
            }
            _ => return self.wrong("number"),
        };
        if range.contains(&value) {
            Some(Value::from(value as i64))
        } else if self.ty == FieldType::IntOrString {
            self.context.wrong_type(format!("number {value}"), "int32");
            None
        } else {
            self.wrong(format!("number {value}"))
        }
    }

    fn text(self, text: &str) -> Option<Value> {
        match self.ty {
            FieldType::String
            | FieldType::IntOrString
            | FieldType::Json
            | FieldType::RawExtension
            | FieldType::FieldsV1 => Some(Value::from(text)),
            FieldType::Bytes => self.check(scalar::bytes(text)),
            FieldType::Quantity => self.check(scalar::quantity(text)),
            FieldType::Time => self.check(scalar::time(text)),
            FieldType::MicroTime => self.check(scalar::micro_time(text)),
            FieldType::Duration => self.check(scalar::duration(text)),
            _ => self.wrong("string"),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Value>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Option<Value>, E> {
        Ok(None)
    }

    fn visit_none<E>(self) -> Result<Option<Value>, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Value>, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Option<Value>, E> {
        Ok(match self.ty {
            FieldType::Bool
            | FieldType::SchemaOrBool
            | FieldType::Json
            | FieldType::RawExtension
            | FieldType::FieldsV1 => Some(Value::Bool(value)),
            FieldType::Quantity => self.check(scalar::quantity(if value { "true" } else { "false" })),
            FieldType::IntOrString => {
                self.context.wrong_type("bool", "int32");
                None
            }
            FieldType::Time | FieldType::MicroTime | FieldType::Duration => {
                self.context.wrong_type("bool", "string");
                None
            }
            _ => self.wrong("bool"),
        })
    }

    fn visit_i64<E>(self, value: i64) -> Result<Option<Value>, E> {
        Ok(self.integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Option<Value>, E> {
        Ok(self.integer(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Option<Value>, E> {
        Ok(match self.ty {
            FieldType::Double | FieldType::Json | FieldType::RawExtension | FieldType::FieldsV1 => {
                Number::from_f64(value).map(scalar::double)
            }
            FieldType::Quantity => self.check(scalar::quantity(&value.to_string())),
            FieldType::Int32 | FieldType::Int64 => self.wrong(format!("number {value}")),
            _ => self.integer(value as i128),
        })
    }

    fn visit_str<E>(self, value: &str) -> Result<Option<Value>, E> {
        Ok(self.text(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Option<Value>, E> {
        Ok(match self.ty {
            FieldType::String | FieldType::IntOrString | FieldType::Json => Some(Value::String(value)),
            _ => self.text(&value),
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Option<Value>, A::Error> {
        let elem = match self.ty {
            FieldType::List(elem) => elem,
            FieldType::Json | FieldType::RawExtension | FieldType::FieldsV1 => return raw_seq(seq).map(Some),
            FieldType::SchemaOrArray | FieldType::SchemaOrStrings => return self.schema_list(seq).map(Some),
            FieldType::Time | FieldType::MicroTime | FieldType::Duration => {
                self.context.wrong_type("array", "string");
                return drain_seq(seq);
            }
            _ => {
                self.wrong::<()>("array");
                return drain_seq(seq);
            }
        };
        self.context.descend().map_err(A::Error::custom)?;
        let mut out = Vec::new();
        loop {
            let mark = self.context.mark();
            let Some(item) = seq.next_element_seed(Walk::of(self.context, elem))? else {
                break;
            };
            if self.context.mark() != mark {
                self.context.prefix(mark, &format!("[{}]", out.len()), None);
            }
            out.push(item.unwrap_or_else(|| zero(elem.ty()).unwrap_or(Value::Null)));
        }
        self.context.depth -= 1;
        Ok(Some(Value::Array(out)))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Option<Value>, A::Error> {
        match self.ty {
            FieldType::Message(ty) => self.message(ty, map).map(Some),
            FieldType::Map(elem) => self.string_map(elem, map).map(Some),
            FieldType::Json | FieldType::RawExtension | FieldType::FieldsV1 => raw_map(map).map(Some),
            FieldType::SchemaOrArray | FieldType::SchemaOrBool | FieldType::SchemaOrStrings => {
                match json_schema() {
                    Some(ty) => self.message(ty, map).map(Some),
                    None => raw_map(map).map(Some),
                }
            }
            FieldType::Quantity => {
                self.check(scalar::quantity("{"));
                drain_map(map)
            }
            FieldType::IntOrString => {
                self.context.wrong_type("object", "int32");
                drain_map(map)
            }
            FieldType::Time | FieldType::MicroTime | FieldType::Duration => {
                self.context.wrong_type("object", "string");
                drain_map(map)
            }
            _ => {
                self.wrong::<()>("object");
                drain_map(map)
            }
        }
    }
}

impl Walk<'_> {
    fn message<'de, A: MapAccess<'de>>(self, ty: TypeRef, mut map: A) -> Result<Value, A::Error> {
        let context = self.context;
        context.descend().map_err(A::Error::custom)?;
        let mut out = Map::new();
        let mut seen: Vec<Field> = Vec::new();
        while let Some(key) = map.next_key_seed(Key(ty))? {
            let field = match key {
                Named::Known(field) => field,
                Named::Unknown(name) => {
                    context.complain(false, &name);
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if seen.contains(&field) {
                context.complain(true, field.name());
            }
            seen.push(field);
            let mark = context.mark();
            let value = map.next_value_seed(Walk::of(context, field.elem()))?;
            if context.mark() != mark {
                context.prefix(mark, field.name(), Some(ty.short_name()));
            }
            match value {
                Some(value) => out.insert(field.name().to_string(), value),
                None => out.remove(field.name()),
            };
        }
        context.depth -= 1;
        if context.depth == 1 && seen.iter().any(|field| field.name() == "managedFields") {
            context.forgets_managers |= out
                .get("managedFields")
                .and_then(Value::as_array)
                .is_some_and(Vec::is_empty);
        }
        normalise(ty, &mut out);
        Ok(Value::Object(out))
    }

    fn string_map<'de, A: MapAccess<'de>>(self, elem: Elem, mut map: A) -> Result<Value, A::Error> {
        let context = self.context;
        context.descend().map_err(A::Error::custom)?;
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if out.contains_key(&key) {
                context.complain(true, &key);
            }
            let mark = context.mark();
            let value = map.next_value_seed(Walk::of(context, elem))?;
            if context.mark() != mark {
                context.prefix(mark, &key, None);
            }
            out.insert(key, value.or_else(|| zero(elem.ty())).unwrap_or(Value::Null));
        }
        context.depth -= 1;
        Ok(Value::Object(out))
    }

    /// The list form of a JSON schema union.
    fn schema_list<'de, A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let context = self.context;
        context.descend().map_err(A::Error::custom)?;
        let ty = match (self.ty, json_schema()) {
            (FieldType::SchemaOrArray, Some(schema)) => FieldType::Message(schema),
            _ => FieldType::String,
        };
        let mut out = Vec::new();
        while let Some(item) = seq.next_element_seed(Walk {
            context,
            ty,
            go: self.go,
        })? {
            out.push(item.or_else(|| zero(ty)).unwrap_or(Value::Null));
        }
        context.depth -= 1;
        Ok(Value::Array(out))
    }
}

impl Context {
    fn descend(&mut self) -> Result<(), &'static str> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            Err("exceeded max depth")
        } else {
            Ok(())
        }
    }
}

fn json_schema() -> Option<TypeRef> {
    TypeRef::by_name("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps")
}

/// Reads a key without allocating for the known ones.
struct Key(TypeRef);

enum Named {
    Known(Field),
    Unknown(String),
}

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Named;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Named, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key {
    type Value = Named;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }
    fn visit_str<E>(self, name: &str) -> Result<Named, E> {
        Ok(self
            .0
            .field(name)
            .map_or_else(|| Named::Unknown(name.to_string()), Named::Known))
    }
}

fn raw_seq<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<Value, A::Error> {
    let mut out = Vec::new();
    while let Some(item) = seq.next_element::<Value>()? {
        out.push(item);
    }
    Ok(Value::Array(out))
}

fn raw_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<Value, A::Error> {
    let mut out = Map::new();
    while let Some((key, value)) = map.next_entry::<String, Value>()? {
        out.insert(key, value);
    }
    Ok(Value::Object(out))
}

fn drain_seq<'de, A: SeqAccess<'de>, T>(mut seq: A) -> Result<Option<T>, A::Error> {
    while seq.next_element::<IgnoredAny>()?.is_some() {}
    Ok(None)
}

fn drain_map<'de, A: MapAccess<'de>, T>(mut map: A) -> Result<Option<T>, A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(None)
}

/// Removes what Go leaves out when zero and adds what it always writes.
fn normalise(ty: TypeRef, out: &mut Map<String, Value>) {
    for field in ty.declared_fields() {
        let inner = field.ty();
        if field.is_inline() {
            if let FieldType::Message(inner) = inner {
                normalise(inner, out);
            }
            continue;
        }
        if field.is_pointer() {
            continue;
        }
        match out.get(field.name()) {
            Some(value) if field.omitempty() && is_zero(inner, value) => {
                out.remove(field.name());
            }
            Some(_) => {}
            None => {
                // Go's omitempty never leaves out a struct.
                let is_struct = matches!(
                    inner,
                    FieldType::Message(_) | FieldType::Quantity | FieldType::IntOrString
                );
                if let (true, Some(zero)) = (is_struct || !field.omitempty(), zero(inner)) {
                    out.insert(field.name().to_string(), zero);
                }
            }
        }
    }
}

/// An empty message as Go writes it.
pub(crate) fn zero_message(ty: TypeRef) -> Value {
    let mut out = Map::new();
    normalise(ty, &mut out);
    Value::Object(out)
}

/// The zero value as Go writes it; `None` where Go writes null, which is never kept.
fn zero(ty: FieldType) -> Option<Value> {
    Some(match ty {
        FieldType::String => Value::from(""),
        FieldType::Int32 | FieldType::Int64 | FieldType::IntOrString | FieldType::Double => Value::from(0),
        FieldType::Bool => Value::from(false),
        FieldType::Quantity => Value::from("0"),
        FieldType::Duration => Value::from("0s"),
        FieldType::Message(ty) => zero_message(ty),
        _ => return None,
    })
}

fn is_zero(ty: FieldType, value: &Value) -> bool {
    match ty {
        FieldType::String | FieldType::Bytes => value.as_str() == Some(""),
        FieldType::Int32 | FieldType::Int64 | FieldType::Double => value.as_f64() == Some(0.0),
        FieldType::Bool => value.as_bool() == Some(false),
        FieldType::List(_) => value.as_array().is_some_and(Vec::is_empty),
        FieldType::Map(_) => value.as_object().is_some_and(Map::is_empty),
        _ => false,
    }
}
