//! From JSON to the wire form, along the same field tables.
//!
//! The bytes are those that upstream's generated code writes: fields in the order of their numbers, every field that is
//! no pointer in Go even when it is zero, map entries in the order of their keys. Messages are written from their end to
//! their start, so that a length is known when it is written and nothing is copied.
//!
//! A field whose number is not known (a few that v1.37 added) cannot be written: it is left out, here and nowhere else.

use std::{collections::HashMap, sync::LazyLock};

use api::schema::{Elem, Field, FieldType, TypeRef};
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{MAGIC, SCHEMA_PROPS};

/// An object in its envelope.
pub(crate) fn object(api_version: &str, kind: &str, schema: TypeRef, object: &Map<String, Value>) -> Vec<u8> {
    let mut out = Reversed::default();
    out.delimited(4, |_| {});
    out.delimited(3, |_| {});
    out.delimited(2, |out| out.message(schema, object));
    out.envelope_head(api_version, kind);
    out.finish()
}

/// A message, made by [`message`], in its envelope.
pub(crate) fn enveloped(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut out = Reversed::default();
    out.delimited(4, |_| {});
    out.delimited(3, |_| {});
    out.delimited(2, |out| out.bytes(message));
    out.envelope_head(api_version, kind);
    out.finish()
}

/// An object without an envelope, as items of lists are written.
pub(crate) fn message(schema: TypeRef, object: &Map<String, Value>) -> Vec<u8> {
    let mut out = Reversed::default();
    out.message(schema, object);
    out.finish()
}

/// The field numbers of a list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ListFields {
    metadata: u16,
    items: u16,
}

impl ListFields {
    /// Of every list but one.
    pub(crate) const USUAL: ListFields = ListFields {
        metadata: 1,
        items: 2,
    };
    /// Of `meta.k8s.io/v1beta1`'s PartialObjectMetadataList, which began without metadata.
    pub(crate) const META_V1_BETA_1: ListFields = ListFields {
        metadata: 2,
        items: 1,
    };

    /// What comes before and after the items of a list in an envelope; the items' lengths are those of their messages.
    pub(crate) fn frame(
        self,
        api_version: &str,
        list_kind: &str,
        metadata: &Map<String, Value>,
        item_lengths: impl Iterator<Item = usize>,
    ) -> (Vec<u8>, Vec<u8>) {
        let mut list_metadata = Reversed::default();
        if let Some(schema) = TypeRef::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta") {
            list_metadata.delimited(self.metadata, |out| out.message(schema, metadata));
        }
        let items: usize = item_lengths
            .map(|length| self.item_head(length).len() + length)
            .sum();
        let mut head = Reversed::default();
        let raw = list_metadata.0.len() + items;
        head.0.append(&mut list_metadata.0);
        head.varint(raw as u64);
        head.key(2, WIRE_BYTES);
        head.envelope_head(api_version, list_kind);
        let mut tail = Reversed::default();
        tail.delimited(4, |_| {});
        tail.delimited(3, |_| {});
        (head.finish(), tail.finish())
    }

    /// What comes before an item of a list.
    pub(crate) fn item_head(self, length: usize) -> Vec<u8> {
        let mut out = Reversed::default();
        out.varint(length as u64);
        out.key(self.items, WIRE_BYTES);
        out.finish()
    }
}

/// A watch event: the length in four bytes, then the event, which holds the object in its envelope.
pub(crate) fn watch_frame(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Reversed::default();
    out.delimited(2, |out| out.delimited(1, |out| out.bytes(object)));
    out.text(1, kind);
    let length = u32::try_from(out.0.len()).unwrap_or(u32::MAX);
    out.bytes(&length.to_be_bytes());
    out.finish()
}

/// The fields of each type that have a number, the largest number first. Sorting them for each message would cost more than
/// writing it.
static DESCENDING: LazyLock<HashMap<TypeRef, Box<[Field]>>> = LazyLock::new(|| {
    let sorted = |schema: TypeRef| {
        let mut fields: Vec<Field> = schema.declared_fields().filter(|field| field.tag() > 0).collect();
        fields.sort_unstable_by_key(|field| std::cmp::Reverse(field.tag()));
        fields.into_boxed_slice()
    };
    TypeRef::all().map(|schema| (schema, sorted(schema))).collect()
});

const WIRE_VARINT: u64 = 0;
const WIRE_FIXED64: u64 = 1;
const WIRE_BYTES: u64 = 2;

/// Bytes in the making, the last one first.
#[derive(Default)]
struct Reversed(Vec<u8>);

impl Reversed {
    fn finish(mut self) -> Vec<u8> {
        self.0.reverse();
        self.0
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend(bytes.iter().rev());
    }

    fn varint(&mut self, mut value: u64) {
        let (mut bytes, mut length) = ([0; 10], 0);
        while value >= 0x80 {
            bytes[length] = value as u8 | 0x80;
            value >>= 7;
            length += 1;
        }
        bytes[length] = value as u8;
        self.bytes(&bytes[..=length]);
    }

    fn key(&mut self, tag: u16, wire: u64) {
        self.varint(u64::from(tag) << 3 | wire);
    }

    fn delimited(&mut self, tag: u16, content: impl FnOnce(&mut Self)) {
        let end = self.0.len();
        content(self);
        self.varint((self.0.len() - end) as u64);
        self.key(tag, WIRE_BYTES);
    }

    fn text(&mut self, tag: u16, text: &str) {
        self.delimited(tag, |out| out.bytes(text.as_bytes()));
    }

    fn number(&mut self, tag: u16, number: i64) {
        // Negative numbers of either width are written as 64 bits.
        self.varint(number as u64);
        self.key(tag, WIRE_VARINT);
    }

    fn envelope_head(&mut self, api_version: &str, kind: &str) {
        self.delimited(1, |out| {
            out.text(2, kind);
            out.text(1, api_version);
        });
        self.bytes(MAGIC);
    }

    fn message(&mut self, schema: TypeRef, object: &Map<String, Value>) {
        for field in DESCENDING.get(&schema).into_iter().flatten() {
            self.field(*field, object);
        }
    }

    fn field(&mut self, field: Field, object: &Map<String, Value>) {
        let tag = field.tag();
        if let (true, FieldType::Message(inner)) = (field.is_inline(), field.ty()) {
            let given = || inner.fields().any(|field| object.contains_key(field.name()));
            if !field.is_pointer() || given() {
                self.delimited(tag, |out| out.message(inner, object));
            }
            return;
        }
        let value = object.get(field.name()).filter(|value| !value.is_null());
        match (field.ty(), value) {
            (FieldType::List(elem), Some(Value::Array(items))) => {
                for item in items.iter().rev() {
                    self.element(tag, elem, item);
                }
            }
            (FieldType::Map(elem), Some(Value::Object(entries))) => {
                let mut entries: Vec<_> = entries.iter().collect();
                entries.sort_unstable_by_key(|(key, _)| std::cmp::Reverse(*key));
                for (key, value) in entries {
                    self.delimited(tag, |out| {
                        out.element(2, elem, value);
                        out.text(1, key);
                    });
                }
            }
            // Without a value these three are nil in Go, whether they are pointers or not.
            (FieldType::List(_) | FieldType::Map(_), _) | (FieldType::Bytes, None) => {}
            (_, None) if field.is_pointer() => {}
            (_, value) => self.element(tag, field.elem(), value.unwrap_or(&Value::Null)),
        }
    }

    /// One value; what is not there or does not fit its type is written as the zero value.
    fn element(&mut self, tag: u16, elem: Elem, value: &Value) {
        match elem.ty() {
            FieldType::String => self.text(tag, value.as_str().unwrap_or_default()),
            FieldType::Int32 => self.number(tag, i64::from(integer(value) as i32)),
            FieldType::Int64 => self.number(tag, integer(value)),
            FieldType::Bool => self.number(tag, i64::from(value.as_bool().unwrap_or_default())),
            FieldType::Double => {
                self.bytes(&value.as_f64().unwrap_or_default().to_bits().to_le_bytes());
                self.key(tag, WIRE_FIXED64);
            }
            FieldType::Bytes => {
                if let Some(text) = value.as_str() {
                    let bytes = STANDARD.decode(text).unwrap_or_default();
                    self.delimited(tag, |out| out.bytes(&bytes));
                }
            }
            FieldType::Message(schema) => {
                let nothing = Map::new();
                let object = value.as_object().unwrap_or(&nothing);
                self.delimited(tag, |out| out.message(schema, object));
            }
            // A named list type (`ExtraValue`) is a message with its items in field 1.
            FieldType::List(inner) => self.delimited(tag, |out| {
                for item in value.as_array().into_iter().flatten().rev() {
                    out.element(1, inner, item);
                }
            }),
            // Nothing of the API nests maps directly.
            FieldType::Map(_) => {}
            FieldType::Quantity => self.delimited(tag, |out| match value {
                Value::String(text) => out.text(1, text),
                Value::Number(number) => out.text(1, &number.to_string()),
                _ => out.text(1, "0"),
            }),
            FieldType::IntOrString => self.delimited(tag, |out| {
                let text = value.as_str();
                out.text(3, text.unwrap_or_default());
                out.number(2, i64::from(integer(value) as i32));
                out.number(1, i64::from(text.is_some()));
            }),
            FieldType::Time => self.time(tag, value, |_| 0),
            FieldType::MicroTime => self.time(tag, value, |time| time.subsec_nanosecond() / 1000 * 1000),
            FieldType::Duration => {
                let nanoseconds = value.as_str().and_then(parse_go_duration).unwrap_or_default();
                self.delimited(tag, |out| out.number(1, nanoseconds));
            }
            FieldType::RawExtension | FieldType::FieldsV1 | FieldType::Json => self.delimited(tag, |out| {
                if !value.is_null() {
                    out.text(1, &value.to_string());
                }
            }),
            FieldType::SchemaOrArray => self.schema_or(tag, value),
            FieldType::SchemaOrStrings => self.schema_or(tag, value),
            FieldType::SchemaOrBool => self.delimited(tag, |out| {
                out.schema(2, value);
                out.number(1, i64::from(value.as_bool().unwrap_or(value.is_object())));
            }),
        }
    }

    /// The time 0 of Go, like no time, is an empty message.
    fn time(&mut self, tag: u16, value: &Value, nanoseconds: impl Fn(Timestamp) -> i32) {
        let time = value.as_str().and_then(|text| text.parse::<Timestamp>().ok());
        self.delimited(tag, |out| {
            if let Some(time) = time.filter(|time| time.as_second() != super::GO_ZERO_TIME_SECONDS) {
                out.number(2, i64::from(nanoseconds(time)));
                out.number(1, time.as_second());
            }
        });
    }

    /// A JSON schema in field 1, or a list of schemas or strings in field 2.
    fn schema_or(&mut self, tag: u16, value: &Value) {
        self.delimited(tag, |out| {
            for item in value.as_array().into_iter().flatten().rev() {
                match item {
                    Value::String(text) => out.text(2, text),
                    schema => out.schema(2, schema),
                }
            }
            out.schema(1, value);
        });
    }

    fn schema(&mut self, tag: u16, value: &Value) {
        if let (Some(schema), Some(object)) = (TypeRef::by_name(SCHEMA_PROPS), value.as_object()) {
            self.delimited(tag, |out| out.message(schema, object));
        }
    }
}

fn integer(value: &Value) -> i64 {
    value
        .as_i64()
        .or_else(|| value.as_f64().map(|number| number as i64))
        .unwrap_or_default()
}

/// Nanoseconds of a duration in Go's notation: `1h0m0s`, `1.5s`, `300ms`.
fn parse_go_duration(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total: i64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let unit: i64 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return None;
        }
        let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let mut nanoseconds = whole.checked_mul(unit)?;
        let mut place = unit;
        for digit in fraction.bytes() {
            place /= 10;
            nanoseconds += i64::from(digit - b'0') * place;
        }
        total = total.checked_add(nanoseconds)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(sign * total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_go() {
        for (text, expect) in [
            ("0s", Some(0)),
            ("0", Some(0)),
            ("1ns", Some(1)),
            ("1.5µs", Some(1_500)),
            ("300ms", Some(300_000_000)),
            ("1h0m0s", Some(3_600_000_000_000)),
            ("1m1.5s", Some(61_500_000_000)),
            ("-5s", Some(-5_000_000_000)),
            ("", None),
            ("5", None),
            ("s", None),
            ("1.2.3s", None),
            ("9999999999h", None),
        ] {
            assert_eq!(parse_go_duration(text), expect, "{text}");
        }
    }
}
