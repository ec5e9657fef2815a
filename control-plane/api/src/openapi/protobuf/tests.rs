//! The message read back is the JSON it was made from.

use super::*;
use crate::{openapi, registry::Registry, schema::Descriptions};
use serde_json::{Map, json};

/// Wire type 0, 1 or 2, the only ones there are.
enum Wire<'a> {
    Number(usize),
    Double(f64),
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
            1 => {
                let (content, rest) = bytes.split_at(8);
                bytes = rest;
                Wire::Double(f64::from_le_bytes(content.try_into().unwrap()))
            }
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
        _ => panic!("no text"),
    }
}

/// The fields of a message of a known number of fields.
fn exactly<'a, const N: usize>(wire: &Wire<'a>) -> [(u32, Wire<'a>); N] {
    match wire {
        Wire::Bytes(bytes) => fields(bytes).try_into().ok().expect("the number of fields"),
        _ => panic!("no message"),
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
        (Form::Default, Wire::Bytes(bytes)) => match fields(bytes).as_slice() {
            [] => json!({}),
            [(1, Wire::Double(number))] => json!(*number as i64),
            [(2, Wire::Number(number))] => json!(*number == 1),
            [(3, wire)] => json!(text(wire)),
            _ => panic!("no default"),
        },
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

fn check(json: &[u8], message: &'static Message) {
    let decoded = object(&encode(json, message).unwrap(), message);
    let document: Value = serde_json::from_slice(json).unwrap();
    for (name, member) in document.as_object().unwrap() {
        assert!(decoded[name] == *member, "{name}");
    }
    assert!(decoded == document);
}

#[test]
fn nothing_of_a_document_is_lost() {
    let (registry, descriptions) = (Registry::builtin(), Descriptions::inflate());
    check(&openapi::v2(&registry, &descriptions, "v1.37.0"), &v2::DOCUMENT);
    for path in openapi::v3_paths(&registry) {
        let json = openapi::v3(&registry, &descriptions, &path, "v1.37.0").unwrap();
        check(&json, &v3::DOCUMENT);
    }
}

#[test]
fn the_bytes() {
    let check = |document: Value, message: &'static Message, expect: &[u8]| {
        let bytes = encode(document.to_string().as_bytes(), message).unwrap();
        assert_eq!(bytes.as_slice(), expect, "{document}");
    };
    check(json!({"swagger": "2.0"}), &v2::DOCUMENT, b"\x0a\x032.0");
    check(
        json!({"definitions": {"A": {"type": "object", "x-k": ["v"]}}}),
        &v2::DOCUMENT,
        b"\x4a\x23\x0a\x21\x0a\x01A\x12\x1c\xb2\x01\x08\x0a\x06object\xfa\x01\x0e\x0a\x03x-k\x12\x07\x12\x05[\"v\"]",
    );
    let reference = json!({"$ref": "#/p"});
    check(
        json!({"paths": {"/": {"parameters": [reference, {"in": "query", "uniqueItems": true}]}}}),
        &v2::DOCUMENT,
        b"\x42\x22\x12\x20\x0a\x01/\x12\x1b\x4a\x07\x12\x05\x0a\x03#/p\x4a\x10\x0a\x0e\x12\x0c\x1a\x0a\x12\x05query\xa0\x01\x01",
    );
    check(
        json!({"components": {"schemas": {"A": {"default": 1, "items": {"$ref": "r"}}}}}),
        &v3::DOCUMENT,
        b"\x2a\x21\x0a\x1f\x0a\x1d\x0a\x01A\x12\x18\x0a\x16\x8a\x02\x09\x09\0\0\0\0\0\0\xf0?\xf2\x01\x07\x0a\x05\x12\x03\x0a\x01r",
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
        let error = encode(document.to_string().as_bytes(), &v2::DOCUMENT)
            .unwrap_err()
            .to_string();
        assert!(error.contains(message), "{document}: {error}");
    }
    assert!(encode(b"{} {}", &v2::DOCUMENT).is_err());
}
