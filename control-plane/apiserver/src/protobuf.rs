//! Bodies in `application/vnd.kubernetes.protobuf`: what typed Go clients send and ask for.
//!
//! The wire form is read along the same field tables as JSON, into the JSON that the client would have sent otherwise, and
//! goes through the same checks; [`encode`] goes the other way.

pub(crate) mod encode;
#[cfg(test)]
mod tests;

use api::{
    meta,
    schema::{Elem, Field, FieldType, TypeRef},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// The content type.
pub(crate) const CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// What every body starts with.
const MAGIC: &[u8] = b"k8s\0";

/// The OpenAPI name of a CRD's JSON schema.
const SCHEMA_PROPS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

/// `time.Time{}` of Go.
const GO_ZERO_TIME_SECONDS: i64 = -62_135_596_800;

/// How deep messages may nest; schemas of CRDs recurse.
const DEPTH_MAX: usize = 64;

/// Why a body cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Error {
    /// The magic bytes are missing.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    /// A length or a number runs over the end.
    #[error("unexpected EOF")]
    Eof,
    /// A field has a wire type that does not fit it.
    #[error("proto: wrong wireType = {wire} for field {field}")]
    WireType { field: String, wire: u8 },
    /// Text is not UTF-8.
    #[error("proto: field {0} contains invalid UTF-8")]
    Utf8(String),
    /// Embedded JSON is no JSON.
    #[error("field {0} does not hold JSON")]
    EmbeddedJson(String),
    /// A deeper message than any real object has.
    #[error("message nests too deeply")]
    Depth,
}

/// The envelope of a body.
pub(crate) struct Envelope<'a> {
    pub(crate) api_version: &'a str,
    pub(crate) kind: &'a str,
    raw: &'a [u8],
}

/// Opens the envelope: which type the body says it is, and its bytes.
pub(crate) fn open(body: &[u8]) -> Result<Envelope<'_>, Error> {
    let mut envelope = Envelope {
        api_version: "",
        kind: "",
        raw: &[],
    };
    let mut reader = Reader(body.strip_prefix(MAGIC).ok_or(Error::NoMagic)?);
    while let Some((tag, wire)) = reader.field()? {
        match (tag, wire) {
            (1, Wire::Bytes(type_meta)) => {
                let mut reader = Reader(type_meta);
                while let Some((tag, wire)) = reader.field()? {
                    match (tag, wire) {
                        (1, Wire::Bytes(text)) => envelope.api_version = utf8("apiVersion", text)?,
                        (2, Wire::Bytes(text)) => envelope.kind = utf8("kind", text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(raw)) => envelope.raw = raw,
            _ => {}
        }
    }
    Ok(envelope)
}

impl Envelope<'_> {
    /// The object as JSON.
    pub(crate) fn object(&self, schema: TypeRef) -> Result<Value, Error> {
        let mut object = message(schema, self.raw, 0)?;
        for (field, text) in [("apiVersion", self.api_version), ("kind", self.kind)] {
            if !text.is_empty() {
                object.insert(field.to_owned(), text.into());
            }
        }
        Ok(Value::Object(object))
    }
}

fn message(schema: TypeRef, bytes: &[u8], depth: usize) -> Result<Map<String, Value>, Error> {
    let mut object = Map::new();
    message_into(&mut object, schema, bytes, depth)?;
    Ok(object)
}

fn message_into(
    object: &mut Map<String, Value>,
    schema: TypeRef,
    bytes: &[u8],
    depth: usize,
) -> Result<(), Error> {
    if depth > DEPTH_MAX {
        return Err(Error::Depth);
    }
    let mut reader = Reader(bytes);
    while let Some((tag, wire)) = reader.field()? {
        let Some(field) = schema
            .declared_fields()
            .find(|field| u64::from(field.tag()) == tag)
        else {
            continue;
        };
        match (field.is_inline(), field.ty(), wire) {
            (true, FieldType::Message(inner), Wire::Bytes(bytes)) => {
                message_into(object, inner, bytes, depth + 1)?;
            }
            (_, ty, wire) => set(object, field, ty, wire, depth)?,
        }
    }
    Ok(())
}

fn set(
    object: &mut Map<String, Value>,
    field: Field,
    ty: FieldType,
    wire: Wire<'_>,
    depth: usize,
) -> Result<(), Error> {
    let name = field.name();
    match ty {
        FieldType::List(elem) => {
            let slot = object.entry(name).or_insert_with(|| json!([]));
            if let Value::Array(list) = slot {
                push(list, name, elem, wire, depth)?;
            }
        }
        FieldType::Map(elem) => {
            let Wire::Bytes(entry) = wire else {
                return Err(wrong(name, wire));
            };
            let (mut key, mut item) = (String::new(), zero(elem));
            let mut reader = Reader(entry);
            while let Some((tag, wire)) = reader.field()? {
                match (tag, wire) {
                    (1, Wire::Bytes(text)) => key = utf8(name, text)?.to_owned(),
                    (2, wire) => item = element(name, elem, wire, depth)?,
                    _ => {}
                }
            }
            let slot = object.entry(name).or_insert_with(|| json!({}));
            if let Value::Object(map) = slot {
                map.insert(key, item);
            }
        }
        _ => {
            let value = element(name, field.elem(), wire, depth)?;
            // Go writes zero values of everything that is no pointer; in JSON they are left out.
            let left_out = !field.is_pointer() && field.omitempty() && is_zero(&value);
            if !left_out && !value.is_null() {
                object.insert(name.to_owned(), value);
            }
        }
    }
    Ok(())
}

fn push(list: &mut Vec<Value>, name: &str, elem: Elem, wire: Wire<'_>, depth: usize) -> Result<(), Error> {
    let packed = matches!(elem.ty(), FieldType::Int32 | FieldType::Int64 | FieldType::Bool);
    match wire {
        Wire::Bytes(bytes) if packed => {
            let mut reader = Reader(bytes);
            while !reader.0.is_empty() {
                let number = Wire::Varint(reader.varint()?);
                list.push(element(name, elem, number, depth)?);
            }
        }
        wire => list.push(element(name, elem, wire, depth)?),
    }
    Ok(())
}

fn element(name: &str, elem: Elem, wire: Wire<'_>, depth: usize) -> Result<Value, Error> {
    Ok(match (elem.ty(), wire) {
        (FieldType::String, Wire::Bytes(text)) => utf8(name, text)?.into(),
        (FieldType::Int32, Wire::Varint(number)) => (number as i32).into(),
        (FieldType::Int64, Wire::Varint(number)) => (number as i64).into(),
        (FieldType::Bool, Wire::Varint(number)) => (number != 0).into(),
        (FieldType::Double, Wire::Fixed64(bits)) => f64::from_bits(bits).into(),
        (FieldType::Bytes, Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        (FieldType::Message(schema), Wire::Bytes(bytes)) => Value::Object(message(schema, bytes, depth + 1)?),
        // A named list type (`ExtraValue`) is a message with its items in field 1.
        (FieldType::List(inner), Wire::Bytes(bytes)) => {
            let mut items = Vec::new();
            let mut reader = Reader(bytes);
            while let Some((tag, wire)) = reader.field()? {
                if tag == 1 {
                    push(&mut items, name, inner, wire, depth + 1)?;
                }
            }
            items.into()
        }
        (FieldType::Quantity, Wire::Bytes(bytes)) => match first(bytes)? {
            Some(Wire::Bytes(text)) => utf8(name, text)?.into(),
            _ => "0".into(),
        },
        (FieldType::IntOrString, Wire::Bytes(bytes)) => int_or_string(name, bytes)?,
        (FieldType::Time, Wire::Bytes(bytes)) => {
            timestamp(bytes)?.map_or(Value::Null, |time| meta::format_time(time).into())
        }
        (FieldType::MicroTime, Wire::Bytes(bytes)) => {
            timestamp(bytes)?.map_or(Value::Null, |time| meta::format_micro_time(time).into())
        }
        (FieldType::Duration, Wire::Bytes(bytes)) => match first(bytes)? {
            Some(Wire::Varint(nanoseconds)) => go_duration(nanoseconds as i64).into(),
            _ => "0s".into(),
        },
        (FieldType::RawExtension | FieldType::FieldsV1 | FieldType::Json, Wire::Bytes(bytes)) => {
            match first(bytes)? {
                Some(Wire::Bytes(raw)) if !raw.is_empty() => embedded(name, raw)?,
                _ => Value::Null,
            }
        }
        (
            ty @ (FieldType::SchemaOrArray | FieldType::SchemaOrBool | FieldType::SchemaOrStrings),
            Wire::Bytes(bytes),
        ) => schema_or(name, ty, bytes, depth + 1)?,
        (_, wire) => return Err(wrong(name, wire)),
    })
}

/// A JSON schema, or what may stand in its place.
fn schema_or(name: &str, ty: FieldType, bytes: &[u8], depth: usize) -> Result<Value, Error> {
    let parse = |bytes: &[u8]| match TypeRef::by_name(SCHEMA_PROPS) {
        Some(schema) => message(schema, bytes, depth).map(Value::Object),
        None => Ok(Value::Null),
    };
    let (mut single, mut many, mut allows) = (None, Vec::new(), false);
    let mut reader = Reader(bytes);
    while let Some((tag, wire)) = reader.field()? {
        match (ty, tag, wire) {
            (FieldType::SchemaOrBool, 1, Wire::Varint(flag)) => allows = flag != 0,
            (FieldType::SchemaOrBool, 2, Wire::Bytes(bytes)) | (_, 1, Wire::Bytes(bytes)) => {
                single = Some(parse(bytes)?);
            }
            (FieldType::SchemaOrArray, 2, Wire::Bytes(bytes)) => many.push(parse(bytes)?),
            (FieldType::SchemaOrStrings, 2, Wire::Bytes(text)) => many.push(utf8(name, text)?.into()),
            _ => {}
        }
    }
    Ok(match (single, ty) {
        (Some(schema), _) => schema,
        (None, FieldType::SchemaOrBool) => allows.into(),
        (None, _) => many.into(),
    })
}

fn int_or_string(name: &str, bytes: &[u8]) -> Result<Value, Error> {
    let (mut is_string, mut number, mut text) = (false, 0, "");
    let mut reader = Reader(bytes);
    while let Some((tag, wire)) = reader.field()? {
        match (tag, wire) {
            (1, Wire::Varint(kind)) => is_string = kind == 1,
            (2, Wire::Varint(value)) => number = value as i32,
            (3, Wire::Bytes(value)) => text = utf8(name, value)?,
            _ => {}
        }
    }
    Ok(if is_string { text.into() } else { number.into() })
}

/// Seconds and nanoseconds; the zero time of Go is no time.
fn timestamp(bytes: &[u8]) -> Result<Option<Timestamp>, Error> {
    let (mut seconds, mut nanos) = (None, 0);
    let mut reader = Reader(bytes);
    while let Some((tag, wire)) = reader.field()? {
        match (tag, wire) {
            (1, Wire::Varint(value)) => seconds = Some(value as i64),
            (2, Wire::Varint(value)) => nanos = value as i32,
            _ => {}
        }
    }
    let seconds = seconds.filter(|seconds| *seconds != GO_ZERO_TIME_SECONDS);
    Ok(seconds.and_then(|seconds| Timestamp::new(seconds, nanos).ok()))
}

/// Go's notation of a duration: `1h0m0s`, `1.5s`, `300ms`.
fn go_duration(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let total = nanoseconds.unsigned_abs();
    if total == 0 {
        return "0s".to_owned();
    }
    let trimmed = |value: u64, digits: usize| {
        let unit = 10_u64.pow(digits as u32);
        let fraction = format!("{:0digits$}", value % unit);
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() { "" } else { "." };
        format!("{}{point}{fraction}", value / unit)
    };
    if total < 1_000 {
        return format!("{sign}{total}ns");
    }
    if total < 1_000_000 {
        return format!("{sign}{}µs", trimmed(total, 3));
    }
    if total < 1_000_000_000 {
        return format!("{sign}{}ms", trimmed(total, 6));
    }
    let (hours, rest) = (total / 3_600_000_000_000, total % 3_600_000_000_000);
    let (minutes, seconds) = (rest / 60_000_000_000, rest % 60_000_000_000);
    let seconds = trimmed(seconds, 9);
    match (hours, minutes) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
        (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}

fn embedded(name: &str, raw: &[u8]) -> Result<Value, Error> {
    if let Ok(envelope) = open(raw) {
        return Err(Error::EmbeddedJson(format!("{name} ({})", envelope.kind)));
    }
    serde_json::from_slice(raw).map_err(|_| Error::EmbeddedJson(name.to_owned()))
}

fn zero(elem: Elem) -> Value {
    match elem.ty() {
        FieldType::Message(_) | FieldType::Map(_) => json!({}),
        FieldType::List(_) => json!([]),
        FieldType::Int32 | FieldType::Int64 | FieldType::IntOrString => 0.into(),
        FieldType::Bool => false.into(),
        _ => "".into(),
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(_) | Value::Object(_) => false,
    }
}

fn utf8<'a>(name: &str, bytes: &'a [u8]) -> Result<&'a str, Error> {
    std::str::from_utf8(bytes).map_err(|_| Error::Utf8(name.to_owned()))
}

fn wrong(name: &str, wire: Wire<'_>) -> Error {
    let wire = match wire {
        Wire::Varint(_) => 0,
        Wire::Fixed64(_) => 1,
        Wire::Bytes(_) => 2,
        Wire::Fixed32 => 5,
    };
    Error::WireType {
        field: name.to_owned(),
        wire,
    }
}

/// A field's value as it is on the wire.
#[derive(Debug, Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

/// The value of field 1 of a message that has nothing else.
fn first(bytes: &[u8]) -> Result<Option<Wire<'_>>, Error> {
    let mut reader = Reader(bytes);
    while let Some((tag, wire)) = reader.field()? {
        if tag == 1 {
            return Ok(Some(wire));
        }
    }
    Ok(None)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn field(&mut self) -> Result<Option<(u64, Wire<'a>)>, Error> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Error::Eof)?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                // No field of the API has this type; unknown fields are passed over.
                self.take(4)?;
                Wire::Fixed32
            }
            wire => {
                return Err(Error::WireType {
                    field: (key >> 3).to_string(),
                    wire: wire as u8,
                });
            }
        };
        Ok(Some((key >> 3, wire)))
    }

    fn varint(&mut self) -> Result<u64, Error> {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Error::Eof)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Error::Eof)?;
        self.0 = rest;
        Ok(*bytes)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Error::Eof)?;
        self.0 = rest;
        Ok(bytes)
    }
}
