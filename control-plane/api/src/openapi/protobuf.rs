//! The v2 document in protobuf: message `openapi.v2.Document` of gnostic, which Go clients ask for.
//!
//! The JSON is the one description; it is read as a stream along tables that say which member is which field. The tables
//! have the members that the JSON writer writes, and any other is an error.

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Error, Value};
use std::fmt;

/// How a JSON object becomes a message.
struct Message {
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
    /// The member that tells, and its value if that matters.
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
static A_SCHEMA: Form = Form::Message(&SCHEMA);

static DOCUMENT: Message = Message {
    name: "Document",
    members: &[
        ("swagger", 1, Form::Text),
        ("info", 2, Form::Message(&INFO)),
        ("paths", 8, Form::Message(&PATHS)),
        ("definitions", 9, Form::Message(&SCHEMAS)),
        ("parameters", 10, Form::Message(&PARAMETERS)),
        ("security", 12, Form::List(&Form::Message(&SECURITY_REQUIREMENT))),
        ("securityDefinitions", 13, Form::Message(&SECURITY_DEFINITIONS)),
    ],
    others: None,
    extensions: Some(16),
};

static INFO: Message = Message {
    name: "Info",
    members: &[("title", 1, Form::Text), ("version", 2, Form::Text)],
    others: None,
    extensions: Some(7),
};

static PATHS: Message = Message {
    name: "Paths",
    members: &[],
    others: Some((2, Form::Message(&PATH_ITEM))),
    extensions: Some(1),
};

static PATH_ITEM: Message = Message {
    name: "PathItem",
    members: &[
        ("get", 2, Form::Message(&OPERATION)),
        ("put", 3, Form::Message(&OPERATION)),
        ("post", 4, Form::Message(&OPERATION)),
        ("delete", 5, Form::Message(&OPERATION)),
        ("options", 6, Form::Message(&OPERATION)),
        ("head", 7, Form::Message(&OPERATION)),
        ("patch", 8, Form::Message(&OPERATION)),
        ("parameters", 9, Form::List(&PARAMETERS_ITEM)),
    ],
    others: None,
    extensions: Some(10),
};

static OPERATION: Message = Message {
    name: "Operation",
    members: &[
        ("tags", 1, TEXTS),
        ("description", 3, Form::Text),
        ("operationId", 5, Form::Text),
        ("produces", 6, TEXTS),
        ("consumes", 7, TEXTS),
        ("parameters", 8, Form::List(&PARAMETERS_ITEM)),
        ("responses", 9, Form::Message(&RESPONSES)),
    ],
    others: None,
    extensions: Some(13),
};

/// A parameter, or a reference to one of the document's parameters.
static PARAMETERS_ITEM: Form = Form::OneOf(&[
    Alternative {
        member: "$ref",
        value: None,
        field: 2,
        form: Form::Message(&JSON_REFERENCE),
    },
    Alternative {
        member: "in",
        value: None,
        field: 1,
        form: PARAMETER,
    },
]);

const PARAMETER: Form = Form::OneOf(&[
    Alternative {
        member: "in",
        value: Some("body"),
        field: 1,
        form: Form::Message(&BODY_PARAMETER),
    },
    Alternative {
        member: "in",
        value: Some("query"),
        field: 2,
        form: Form::In(3, &Form::Message(&QUERY_PARAMETER)),
    },
    Alternative {
        member: "in",
        value: Some("path"),
        field: 2,
        form: Form::In(4, &Form::Message(&PATH_PARAMETER)),
    },
]);

static PARAMETERS: Message = Message {
    name: "ParameterDefinitions",
    members: &[],
    others: Some((1, PARAMETER)),
    extensions: None,
};

static JSON_REFERENCE: Message = Message {
    name: "JsonReference",
    members: &[("$ref", 1, Form::Text)],
    others: None,
    extensions: None,
};

static BODY_PARAMETER: Message = Message {
    name: "BodyParameter",
    members: &[
        ("name", 2, Form::Text),
        ("in", 3, Form::Text),
        ("required", 4, Form::Bool),
        ("schema", 5, Form::Message(&SCHEMA)),
    ],
    others: None,
    extensions: Some(6),
};

static QUERY_PARAMETER: Message = Message {
    name: "QueryParameterSubSchema",
    members: &[
        ("in", 2, Form::Text),
        ("name", 4, Form::Text),
        ("type", 6, Form::Text),
        ("uniqueItems", 20, Form::Bool),
    ],
    others: None,
    extensions: Some(23),
};

static PATH_PARAMETER: Message = Message {
    name: "PathParameterSubSchema",
    members: &[
        ("required", 1, Form::Bool),
        ("in", 2, Form::Text),
        ("name", 4, Form::Text),
        ("type", 5, Form::Text),
        ("uniqueItems", 19, Form::Bool),
    ],
    others: None,
    extensions: Some(22),
};

static RESPONSES: Message = Message {
    name: "Responses",
    members: &[],
    others: Some((1, Form::In(1, &Form::Message(&RESPONSE)))),
    extensions: Some(2),
};

static RESPONSE: Message = Message {
    name: "Response",
    members: &[
        ("description", 1, Form::Text),
        ("schema", 2, Form::In(1, &A_SCHEMA)),
    ],
    others: None,
    extensions: Some(5),
};

/// `Definitions` and `Properties`, which are alike.
static SCHEMAS: Message = Message {
    name: "Definitions",
    members: &[],
    others: Some((1, Form::Message(&SCHEMA))),
    extensions: None,
};

static SCHEMA: Message = Message {
    name: "Schema",
    members: &[
        ("$ref", 1, Form::Text),
        ("format", 2, Form::Text),
        ("required", 19, TEXTS),
        ("additionalProperties", 21, Form::In(1, &A_SCHEMA)),
        ("type", 22, Form::In(1, &Form::Text)),
        ("items", 23, Form::In(1, &A_SCHEMA)),
        ("properties", 25, Form::Message(&SCHEMAS)),
    ],
    others: None,
    extensions: Some(31),
};

static SECURITY_DEFINITIONS: Message = Message {
    name: "SecurityDefinitions",
    members: &[],
    others: Some((
        1,
        Form::OneOf(&[Alternative {
            member: "type",
            value: Some("apiKey"),
            field: 2,
            form: Form::Message(&API_KEY),
        }]),
    )),
    extensions: None,
};

static API_KEY: Message = Message {
    name: "ApiKeySecurity",
    members: &[
        ("type", 1, Form::Text),
        ("name", 2, Form::Text),
        ("in", 3, Form::Text),
        ("description", 4, Form::Text),
    ],
    others: None,
    extensions: Some(5),
};

static SECURITY_REQUIREMENT: Message = Message {
    name: "SecurityRequirement",
    members: &[],
    others: Some((1, Form::In(1, &TEXTS))),
    extensions: None,
};

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

/// A v2 document in JSON as the message.
pub(super) fn encode(json: &[u8]) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(json.len());
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    deserializer.deserialize_map(Members {
        out: &mut out,
        message: &DOCUMENT,
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
        member.is_some_and(|member| self.value.is_none_or(|value| member == value))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{openapi, registry::Registry};
    use serde_json::{Map, json};

    /// Wire type 0 or 2, the only ones there are.
    enum Wire<'a> {
        Number(usize),
        Bytes(&'a [u8]),
    }

    fn number(bytes: &mut &[u8]) -> usize {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (byte, rest) = bytes.split_first().expect("a varint ends");
            *bytes = rest;
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        value
    }

    fn fields(mut bytes: &[u8]) -> Vec<(u32, Wire<'_>)> {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = number(&mut bytes);
            let value = match key & 7 {
                0 => Wire::Number(number(&mut bytes)),
                2 => {
                    let length = number(&mut bytes);
                    let (content, rest) = bytes.split_at(length);
                    bytes = rest;
                    Wire::Bytes(content)
                }
                wire => panic!("wire type {wire}"),
            };
            fields.push(((key >> 3) as u32, value));
        }
        fields
    }

    fn text(wire: &Wire<'_>) -> String {
        match wire {
            Wire::Bytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            Wire::Number(_) => panic!("no text"),
        }
    }

    /// The fields of a message of a known number of fields.
    fn exactly<'a, const N: usize>(wire: &Wire<'a>) -> [(u32, Wire<'a>); N] {
        match wire {
            Wire::Bytes(bytes) => fields(bytes).try_into().ok().expect("the number of fields"),
            Wire::Number(_) => panic!("no message"),
        }
    }

    /// The JSON that a field was.
    fn value(wire: &Wire<'_>, form: Form) -> Value {
        match (form, wire) {
            (Form::Text, _) => json!(text(wire)),
            (Form::Bool, Wire::Number(number)) => json!(*number == 1),
            (Form::Any, _) => {
                let [(YAML, yaml)] = exactly(wire) else {
                    panic!("not YAML")
                };
                serde_json::from_str(&text(&yaml)).unwrap()
            }
            (Form::Message(message), Wire::Bytes(bytes)) => object(bytes, message),
            (Form::In(inner, Form::List(form)), Wire::Bytes(bytes)) => {
                let fields = fields(bytes).into_iter();
                fields
                    .map(|(field, wire)| {
                        assert_eq!(field, inner);
                        value(&wire, **form)
                    })
                    .collect()
            }
            (Form::In(inner, form), _) => {
                let [(field, wire)] = exactly(wire);
                assert_eq!(field, inner);
                value(&wire, *form)
            }
            (Form::OneOf(alternatives), _) => {
                let [(field, inner)] = exactly(wire);
                let values: Vec<Value> = alternatives
                    .iter()
                    .filter(|alternative| alternative.field == field)
                    .filter_map(|alternative| match (alternative.form, &inner) {
                        // Query and path parameters are told apart one level further in.
                        (Form::In(number, form), _) => {
                            let [(field, wire)] = exactly(&inner);
                            (field == number).then(|| value(&wire, *form))
                        }
                        (form, _) => Some(value(&inner, form)),
                    })
                    .collect();
                assert_eq!(values.len(), 1, "one alternative has field {field}");
                values.into_iter().next().unwrap()
            }
            _ => panic!("a wire type that does not fit"),
        }
    }

    fn object(bytes: &[u8], message: &Message) -> Value {
        let mut object = Map::new();
        for (number, wire) in fields(bytes) {
            let mut members = message.members.iter();
            if let Some((name, _, form)) = members.find(|(_, field, _)| *field == number) {
                if let Form::List(form) = form {
                    let list = object.entry(*name).or_insert_with(|| json!([]));
                    list.as_array_mut().unwrap().push(value(&wire, **form));
                } else {
                    let old = object.insert((*name).to_owned(), value(&wire, *form));
                    assert_eq!(old, None, "{}.{name} is given twice", message.name);
                }
                continue;
            }
            let form = match message.others {
                Some((field, form)) if field == number => form,
                _ if message.extensions == Some(number) => Form::Any,
                _ => panic!("{} has no field {number}", message.name),
            };
            let [(NAME, name), (VALUE, wire)] = exactly(&wire) else {
                panic!("not a pair")
            };
            object.insert(text(&name), value(&wire, form));
        }
        Value::Object(object)
    }

    #[test]
    fn nothing_of_the_document_is_lost() {
        let json = openapi::v2(&Registry::builtin(), "v1.37.0");
        let decoded = object(&encode(&json).unwrap(), &DOCUMENT);
        let document: Value = serde_json::from_slice(&json).unwrap();
        for (name, member) in document.as_object().unwrap() {
            assert!(decoded[name] == *member, "{name}");
        }
        assert!(decoded == document);
    }

    #[test]
    fn the_bytes() {
        let check = |document: Value, expect: &[u8]| {
            let bytes = encode(document.to_string().as_bytes()).unwrap();
            assert_eq!(bytes.as_slice(), expect, "{document}");
        };
        check(json!({"swagger": "2.0"}), b"\x0a\x032.0");
        check(
            json!({"definitions": {"A": {"type": "object", "x-k": ["v"]}}}),
            b"\x4a\x23\x0a\x21\x0a\x01A\x12\x1c\xb2\x01\x08\x0a\x06object\xfa\x01\x0e\x0a\x03x-k\x12\x07\x12\x05[\"v\"]",
        );
        let reference = json!({"$ref": "#/p"});
        check(
            json!({"paths": {"/": {"parameters": [reference, {"in": "query", "uniqueItems": true}]}}}),
            b"\x42\x22\x12\x20\x0a\x01/\x12\x1b\x4a\x07\x12\x05\x0a\x03#/p\x4a\x10\x0a\x0e\x12\x0c\x1a\x0a\x12\x05query\xa0\x01\x01",
        );
    }

    #[test]
    fn what_the_tables_do_not_have_is_an_error() {
        for (document, message) in [
            (json!({"host": "h"}), "Document has no member \"host\""),
            (json!({"swagger": 2}), "invalid type: integer `2`"),
            (
                json!({"parameters": {"p": {"in": "header"}}}),
                "no alternative fits {\"in\":\"header\"}",
            ),
            (json!([]), "an object for Document"),
        ] {
            let error = encode(document.to_string().as_bytes()).unwrap_err().to_string();
            assert!(error.contains(message), "{document}: {error}");
        }
        assert!(encode(b"{} {}").is_err());
    }
}
