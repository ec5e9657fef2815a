//! The documents in protobuf: gnostic's messages, which Go clients ask for.
//!
//! The JSON is the one description; it is read as a stream along tables that say which member is which field. The tables
//! have the members that the JSON writer writes, and any other is an error.

#[cfg(test)]
mod tests;
pub(super) mod v2;
pub(super) mod v3;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Error, Value};
use std::fmt;

/// How a JSON object becomes a message.
pub(super) struct Message {
    name: &'static str,
    /// Member, field number, form.
    members: &'static [(&'static str, u32, Form)],
    /// The repeated field of all other members, as (name, value) pairs.
    others: Option<(u32, Form)>,
    /// The repeated field of members that start with `x-`, as (name, `Any`) pairs.
    extensions: Option<u32>,
}

/// How a JSON value is written.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Bool,
    /// Anything, as YAML in an `Any`. JSON is YAML.
    Any,
    /// A number, a boolean or a string in a message of its own; anything else leaves that message empty.
    Default,
    Message(&'static Message),
    /// An array as a repeated field.
    List(&'static Form),
    /// In a message of its own, as that field.
    In(u32, &'static Form),
    /// In a message of its own, as the field of the first alternative that fits.
    OneOf(&'static [Alternative]),
}

/// One of several messages that an object can be.
struct Alternative {
    /// The member that tells, and its value if that matters; empty if nothing else fits.
    member: &'static str,
    value: Option<&'static str>,
    field: u32,
    form: Form,
}

/// The fields of the pairs that maps become.
const NAME: u32 = 1;
const VALUE: u32 = 2;
/// The field of `Any` for YAML.
const YAML: u32 = 2;

const TEXTS: Form = Form::List(&Form::Text);

impl Message {
    fn member(&self, name: &str) -> Option<Member> {
        let mut members = self.members.iter();
        if let Some((_, field, form)) = members.find(|(known, ..)| *known == name) {
            return Some(Member::Field(*field, *form));
        }
        if let Some(field) = self.extensions.filter(|_| name.starts_with("x-")) {
            return Some(Member::Pair(field, Form::Any));
        }
        self.others.map(|(field, form)| Member::Pair(field, form))
    }
}

/// Where a member goes.
enum Member {
    Field(u32, Form),
    Pair(u32, Form),
}

/// A document in JSON as the message.
pub(super) fn encode(json: &[u8], message: &'static Message) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(json.len());
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    deserializer.deserialize_map(Members {
        out: &mut out,
        message,
    })?;
    deserializer.end()?;
    out.shrink_to_fit();
    Ok(out)
}

/// Writes the next JSON value as a field.
struct Slot<'a> {
    out: &'a mut Vec<u8>,
    field: u32,
    form: Form,
}

impl<'de> DeserializeSeed<'de> for Slot<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<(), D::Error> {
        let Slot { out, field, form } = self;
        match form {
            Form::Text => value.deserialize_str(Scalar { out, field }),
            Form::Bool => value.deserialize_bool(Scalar { out, field }),
            Form::Any => {
                let yaml =
                    DeserializeSeed::deserialize(std::marker::PhantomData::<Value>, value)?.to_string();
                nested(out, field, |out| {
                    bytes(out, YAML, yaml.as_bytes());
                    Ok(())
                })
            }
            Form::Default => {
                let value = DeserializeSeed::deserialize(std::marker::PhantomData::<Value>, value)?;
                nested(out, field, |out| {
                    default(out, &value);
                    Ok(())
                })
            }
            Form::Message(message) => {
                nested(out, field, |out| value.deserialize_map(Members { out, message }))
            }
            Form::List(form) => value.deserialize_seq(Elements {
                out,
                field,
                form: *form,
            }),
            Form::In(inner, form) => nested(out, field, |out| {
                let slot = Slot {
                    out,
                    field: inner,
                    form: *form,
                };
                slot.deserialize(value)
            }),
            Form::OneOf(alternatives) => {
                let value = DeserializeSeed::deserialize(std::marker::PhantomData::<Value>, value)?;
                let alternative = alternatives
                    .iter()
                    .find(|alternative| alternative.fits(&value))
                    .ok_or_else(|| D::Error::custom(format_args!("no alternative fits {value}")))?;
                nested(out, field, |out| {
                    let slot = Slot {
                        out,
                        field: alternative.field,
                        form: alternative.form,
                    };
                    slot.deserialize(value).map_err(D::Error::custom)
                })
            }
        }
    }
}

impl Alternative {
    fn fits(&self, object: &Value) -> bool {
        let member = object.get(self.member);
        self.member.is_empty() || member.is_some_and(|member| self.value.is_none_or(|value| member == value))
    }
}

/// The members of an object, as the fields of the message that is being written.
struct Members<'a> {
    out: &'a mut Vec<u8>,
    message: &'static Message,
}

impl<'de> Visitor<'de> for Members<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object for {}", self.message.name)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Members { out, message } = self;
        while let Some(name) = map.next_key::<String>()? {
            match message.member(&name) {
                Some(Member::Field(field, form)) => map.next_value_seed(Slot { out, field, form })?,
                Some(Member::Pair(field, form)) => nested(out, field, |out| {
                    bytes(out, NAME, name.as_bytes());
                    map.next_value_seed(Slot {
                        out,
                        field: VALUE,
                        form,
                    })
                })?,
                None => {
                    let message = message.name;
                    return Err(A::Error::custom(format_args!("{message} has no member {name:?}")));
                }
            }
        }
        Ok(())
    }
}

/// The elements of an array, as a repeated field.
struct Elements<'a> {
    out: &'a mut Vec<u8>,
    field: u32,
    form: Form,
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let Elements { out, field, form } = self;
        while elements.next_element_seed(Slot { out, field, form })?.is_some() {}
        Ok(())
    }
}

/// A string or a boolean.
struct Scalar<'a> {
    out: &'a mut Vec<u8>,
    field: u32,
}

impl Visitor<'_> for Scalar<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a boolean as the field has it")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        bytes(self.out, self.field, text.as_bytes());
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        tag(self.out, self.field, 0);
        self.out.push(u8::from(value));
        Ok(())
    }
}

/// A field that is a message: its content first, then its length in front.
fn nested<E>(
    out: &mut Vec<u8>,
    field: u32,
    content: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    tag(out, field, 2);
    let start = out.len();
    content(out)?;
    let length = out.len() - start;
    let mut prefix = Vec::with_capacity(4);
    varint(&mut prefix, length);
    out.splice(start..start, prefix);
    Ok(())
}

/// The fields of a `DefaultType`.
fn default(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Number(number) => {
            tag(out, 1, 1);
            out.extend_from_slice(&number.as_f64().unwrap_or_default().to_le_bytes());
        }
        Value::Bool(value) => {
            tag(out, 2, 0);
            out.push(u8::from(*value));
        }
        Value::String(text) => bytes(out, 3, text.as_bytes()),
        _ => (),
    }
}

fn bytes(out: &mut Vec<u8>, field: u32, content: &[u8]) {
    tag(out, field, 2);
    varint(out, content.len());
    out.extend_from_slice(content);
}

fn tag(out: &mut Vec<u8>, field: u32, wire: usize) {
    varint(out, (field as usize) << 3 | wire);
}

fn varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
