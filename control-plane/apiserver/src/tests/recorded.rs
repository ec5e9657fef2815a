//! The 195 answers of a real API server (v1.20.2), all through the whole server and in their order: a minimal object of each kind is
//! created, each is read as a table, then scales and discovery, then what must be refused.
//!
//! What was answered must be answered; more may be. `recorded/differences.txt` lists where v1.37 answers otherwise, or
//! where we do, each with its reason; a line there that no answer needs is an error too.

use http::header;
use serde_json::{Value, json};

use super::Fixture;
use super::wire::Call;

macro_rules! data {
    ($name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../api/tests/data/", $name))
    };
}

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// A request, what came back, and what it is called in the list of differences.
struct Entry {
    name: String,
    path: String,
    accept: String,
    /// None for GET.
    body: Option<Vec<u8>>,
    code: u16,
    answer: Value,
}

/// An answer that may differ: in entries whose name has this text, at this place (`*` is any one step), for a reason.
struct Difference {
    entry: &'static str,
    place: &'static str,
    is_used: bool,
}

fn differences() -> Vec<Difference> {
    let lines = include_str!("recorded/differences.txt").lines();
    let rows = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    rows.map(|line| {
        let parts: Vec<&str> = line.split(" | ").collect();
        let [entry, place, reason] = parts[..] else {
            panic!("not three parts: {line}")
        };
        assert!(!reason.is_empty(), "{line}");
        Difference {
            entry,
            place,
            is_used: false,
        }
    })
    .collect()
}

impl Difference {
    fn covers(&self, entry: &str, place: &str) -> bool {
        let steps = |path: &'static str| path.split('/');
        let mut pattern = steps(self.place);
        let mut actual = place.split('/');
        let is_place = loop {
            match (pattern.next(), actual.next()) {
                (None, _) => break true,
                (Some(want), Some(step)) if want == "*" || want == step => (),
                _ => break false,
            }
        };
        is_place && entry.contains(self.entry)
    }
}

fn pairs(text: &str) -> Vec<(Value, Value)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let values: Vec<Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    values
        .chunks(2)
        .map(|pair| (pair[0].clone(), pair[1].clone()))
        .collect()
}

/// A body in JSON, or a text that is sent as it is.
fn bytes(body: &Value) -> Vec<u8> {
    match body {
        Value::String(text) => text.clone().into_bytes(),
        body => body.to_string().into_bytes(),
    }
}

fn entries() -> Vec<Entry> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut entries = Vec::new();
    for (request, answer) in pairs(data!("creations.jsonl")) {
        entries.push(Entry {
            name: format!("create {}", text(&request["path"])),
            path: text(&request["path"]),
            accept: String::new(),
            body: Some(bytes(&request["body"])),
            code: 201,
            answer,
        });
    }
    for (request, table) in pairs(data!("tables.jsonl")) {
        let columns: Vec<Value> = table["columns"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| json!({"name": c[0], "type": c[1], "format": c[2], "priority": c[3]}))
            .collect();
        let cells = table["cells"].as_array().unwrap().iter();
        let cells: serde_json::Map<String, Value> = columns
            .iter()
            .map(|c| text(&c["name"]))
            .zip(cells.cloned())
            .collect();
        let path = format!(
            "{}/{}",
            text(&request["path"]),
            text(&request["object"]["metadata"]["name"])
        );
        entries.push(Entry {
            name: format!("table {path}"),
            path,
            accept: TABLE.to_owned(),
            body: None,
            code: 200,
            answer: json!({"columns": columns, "cells": cells}),
        });
    }
    for (request, answer) in pairs(include_str!("recorded/documents.jsonl")) {
        entries.push(Entry {
            name: format!("read {}", text(&request["path"])),
            path: text(&request["path"]),
            accept: text(&request["accept"]),
            body: request.get("body").map(bytes),
            code: answer["status"].as_u64().unwrap() as u16,
            answer: answer["body"].clone(),
        });
    }
    for (request, answer) in pairs(data!("errors.jsonl")) {
        entries.push(Entry {
            name: format!("refuse {}", text(&answer["message"])),
            path: text(&request["path"]),
            accept: String::new(),
            body: Some(bytes(&request["body"])),
            code: answer["code"].as_u64().unwrap_or(201) as u16,
            answer: if answer["code"].as_u64() == Some(201) {
                json!({})
            } else {
                answer
            },
        });
    }
    entries
}

/// A table by the names of its columns, as the recorded ones are.
fn by_column(mut table: Value) -> Value {
    let columns = table["columnDefinitions"].take();
    let cells = table["rows"][0]["cells"].as_array().cloned().unwrap_or_default();
    let names = columns.as_array().into_iter().flatten();
    let names = names.map(|c| c["name"].as_str().unwrap_or_default().to_owned());
    let cells: serde_json::Map<String, Value> = names.zip(cells).collect();
    json!({"columns": columns, "cells": cells})
}

/// Addresses, ages, times, node ports and made-up suffixes are another on each server.
fn is_same_text(want: &str, got: &str) -> bool {
    let is_address = |text: &str| text.parse::<std::net::IpAddr>().is_ok();
    let is_age = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_digit())
            && text.chars().all(|c| c.is_ascii_digit() || "smhdy".contains(c))
    };
    let is_time = |text: &str| text.parse::<jiff::Timestamp>().is_ok();
    let without_node_port = |text: &str| match text.split_once(':') {
        Some((port, rest)) => format!("{port}/{}", rest.split('/').next_back().unwrap_or_default()),
        None => text.to_owned(),
    };
    want == got
        || is_address(want) && is_address(got)
        || is_age(want) && is_age(got)
        || is_time(want) && is_time(got)
        || want.contains(":3") && without_node_port(want) == without_node_port(got)
}

/// Every place where something that was answered is not.
fn compare(want: &Value, got: &Value, place: &str, found: &mut Vec<(String, String)>) {
    match (want, got) {
        (Value::Object(want), Value::Object(got)) => {
            for (key, want) in want {
                let none = Value::Null;
                compare(
                    want,
                    got.get(key).unwrap_or(&none),
                    &format!("{place}/{key}"),
                    found,
                );
            }
        }
        (Value::Array(want), Value::Array(got)) if want.iter().any(|item| item["name"].is_string()) => {
            for want in want {
                let name = &want["name"];
                let same = got.iter().find(|got| got["name"] == *name);
                let place = format!("{place}/{}", name.as_str().unwrap_or_default().replace('/', ":"));
                compare(want, same.unwrap_or(&Value::Null), &place, found);
            }
        }
        (Value::Array(want), Value::Array(got)) if want.len() == got.len() => {
            for (index, (want, got)) in want.iter().zip(got).enumerate() {
                compare(want, got, &format!("{place}/{index}"), found);
            }
        }
        (Value::String(want), Value::String(got)) if is_same_text(want, got) => (),
        _ if want == got => (),
        _ => found.push((place.to_owned(), format!("{got} instead of {want}"))),
    }
}

#[tokio::test]
async fn answers_are_those_of_a_real_server() {
    let fixture = Fixture::new().await;
    fixture
        .ok("POST", "/api/v1/namespaces", json!({"metadata": {"name": "rec"}}))
        .await;
    // A controller's work.
    let accounts = "/api/v1/namespaces/rec/serviceaccounts";
    fixture
        .ok("POST", accounts, json!({"metadata": {"name": "default"}}))
        .await;
    let (entries, mut differences) = (entries(), differences());
    assert_eq!(entries.len(), 195);
    let (mut failures, mut equal) = (Vec::new(), 0);
    for entry in entries {
        let method = if entry.body.is_some() { "POST" } else { "GET" };
        let mut call = Call::new(method, &entry.path).header(header::ACCEPT, &entry.accept);
        if let Some(body) = &entry.body {
            call = call.header(header::CONTENT_TYPE, "application/json");
            call.body.clone_from(body);
        }
        let answer = fixture.send(call).await;
        let mut got = answer.value();
        if entry.name.starts_with("table") {
            got = by_column(got);
        }
        let mut found = Vec::new();
        if answer.code != entry.code {
            found.push(("status".to_owned(), format!("{} {}", answer.code, got["message"])));
        }
        compare(&entry.answer, &got, "", &mut found);
        equal += usize::from(found.is_empty());
        for (place, text) in found {
            let mut listed = differences.iter_mut();
            match listed.find(|difference| difference.covers(&entry.name, &place)) {
                Some(difference) => difference.is_used = true,
                None => failures.push(format!("{} | {place} | {text}", entry.name)),
            }
        }
    }
    let unused = differences.iter().filter(|difference| !difference.is_used);
    failures.extend(unused.map(|d| format!("no longer true: {} | {}", d.entry, d.place)));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(equal > 95, "only {equal} of 195 are equal without exception");
}
