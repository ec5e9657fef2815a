//! Answers in protobuf and compressed, as client-go asks for them.

use std::io::Read;

use api::{registry::Registry, schema::TypeRef};
use serde_json::{Value, json};

use super::{Fixture, config_map};
use crate::protobuf;

const PATH: &str = "/api/v1/namespaces/kube-public/configmaps";
const PROTOBUF_FIRST: &str = "application/vnd.kubernetes.protobuf, application/json";

fn schema(kind: &str) -> TypeRef {
    let resources = Registry::builtin();
    let found = resources.resources().find(|resource| resource.kind == kind);
    found.unwrap().schema
}

fn decode(bytes: &[u8], schema: TypeRef) -> Value {
    protobuf::open(bytes).unwrap().object(schema).unwrap()
}

#[tokio::test]
async fn an_object_is_written_read_and_deleted_in_protobuf() {
    let fixture = Fixture::new().await;
    let sent = config_map("a", "1");
    let sent = protobuf::encode::object("v1", "ConfigMap", schema("ConfigMap"), sent.as_object().unwrap());
    let headers = [
        ("accept", PROTOBUF_FIRST),
        ("content-type", "application/vnd.kubernetes.protobuf"),
    ];
    let (code, answered, body) = fixture.ask("POST", PATH, &headers, sent).await;
    assert_eq!(code, 201);
    assert_eq!(answered["content-type"], "application/vnd.kubernetes.protobuf");
    let created = decode(&body, schema("ConfigMap"));
    assert_eq!(created["data"], json!({"key": "1"}));

    let path = format!("{PATH}/a");
    let (_, _, body) = fixture.ask("GET", &path, &headers[..1], Vec::new()).await;
    assert_eq!(
        decode(&body, schema("ConfigMap")),
        fixture.ok("GET", &path, None).await
    );
    let (code, _, body) = fixture.ask("DELETE", &path, &headers[..1], Vec::new()).await;
    assert_eq!(code, 200);
    assert_eq!(
        decode(&body, crate::respond::meta_type("Status").unwrap())["status"],
        "Success"
    );
    let (code, answered, body) = fixture.ask("GET", &path, &headers[..1], Vec::new()).await;
    assert_eq!(code, 404);
    assert_eq!(answered["content-type"], "application/vnd.kubernetes.protobuf");
    let status = decode(&body, crate::respond::meta_type("Status").unwrap());
    assert_eq!(
        (&status["kind"], &status["reason"]),
        (&json!("Status"), &json!("NotFound"))
    );
}

/// The fields of a message that hold bytes, by their numbers.
fn fields(mut message: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let varint = |bytes: &mut &[u8]| {
        let (mut value, mut shift) = (0_u64, 0);
        loop {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    };
    let mut found = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message);
        let length = varint(&mut message);
        if key & 7 == 2 {
            let (bytes, rest) = message.split_at(length as usize);
            found.push((key >> 3, bytes.to_vec()));
            message = rest;
        }
    }
    found
}

fn field(message: &[u8], tag: u64) -> Vec<u8> {
    fields(message)
        .into_iter()
        .find(|(found, _)| *found == tag)
        .unwrap()
        .1
}

#[tokio::test]
async fn lists_in_protobuf() {
    let fixture = Fixture::new().await;
    for name in ["a", "b", "c"] {
        fixture
            .ok("POST", PATH, config_map(name, &"x".repeat(20_000)))
            .await;
    }
    let metadata = crate::respond::meta_type("PartialObjectMetadata").unwrap();
    for (accept, item, in_metadata, in_items) in [
        (PROTOBUF_FIRST, schema("ConfigMap"), 1, 2),
        (
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
            metadata,
            1,
            2,
        ),
        // The one list of all that has its fields the other way round.
        (
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1beta1",
            metadata,
            2,
            1,
        ),
    ] {
        // The second time the lengths are known already.
        for _ in 0..2 {
            let path = format!("{PATH}?limit=2");
            let (code, headers, body) = fixture.ask("GET", &path, &[("accept", accept)], Vec::new()).await;
            assert_eq!(code, 200);
            assert_eq!(headers["content-type"], "application/vnd.kubernetes.protobuf");
            let raw = field(body.strip_prefix(b"k8s\0").unwrap(), 2);
            let parts = fields(&raw);
            assert_eq!(
                parts.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(),
                [in_metadata, in_items, in_items]
            );
            let wrapped = protobuf::encode::object("v1", "X", item, &Default::default());
            assert!(wrapped.starts_with(b"k8s\0"));
            let names: Vec<String> = parts[1..]
                .iter()
                .map(|(_, item)| String::from_utf8(field(&field(item, 1), 1)).unwrap())
                .collect();
            assert_eq!(names, ["a", "b"]);
            let list = fixture.ok("GET", &path, None).await;
            let version = String::from_utf8(field(&parts[0].1, 2)).unwrap();
            assert_eq!(list["metadata"]["resourceVersion"], version);
        }
    }
}

/// Clients from before `meta.k8s.io/v1`.
#[tokio::test]
async fn a_watch_in_a_version_of_old() {
    let fixture = Fixture::new().await;
    fixture.ok("POST", PATH, config_map("a", "1")).await;
    let path = format!("{PATH}?watch=1&timeoutSeconds=3&allowWatchBookmarks=true");
    for form in ["Table", "PartialObjectMetadata"] {
        let accept = format!("application/json;as={form};g=meta.k8s.io;v=v1beta1");
        let (code, _, body) = fixture
            .ask("GET", &path, &[("accept", &accept)], Vec::new())
            .await;
        assert_eq!(code, 200);
        let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let events: Vec<Value> = lines.map(|line| serde_json::from_slice(line).unwrap()).collect();
        let kinds: Vec<_> = events
            .iter()
            .map(|event| event["type"].as_str().unwrap())
            .collect();
        assert_eq!(kinds, ["ADDED", "BOOKMARK"]);
        for event in &events {
            let object = &event["object"];
            assert_eq!(
                (object["kind"].as_str(), object["apiVersion"].as_str()),
                (Some(form), Some("meta.k8s.io/v1beta1"))
            );
        }
        if form == "Table" {
            assert_eq!(
                events[0]["object"]["rows"][0]["object"]["apiVersion"],
                "meta.k8s.io/v1beta1"
            );
        }
    }
}

#[tokio::test]
async fn a_watch_in_protobuf() {
    let fixture = Fixture::new().await;
    fixture.ok("POST", PATH, config_map("a", "1")).await;
    let path = format!("{PATH}?watch=1&timeoutSeconds=3&allowWatchBookmarks=true");
    let headers = [(
        "accept",
        "application/vnd.kubernetes.protobuf;stream=watch,application/json",
    )];
    let (code, answered, body) = fixture.ask("GET", &path, &headers, Vec::new()).await;
    assert_eq!(code, 200);
    assert_eq!(
        answered["content-type"],
        "application/vnd.kubernetes.protobuf;stream=watch"
    );
    let (mut rest, mut seen) = (&body[..], Vec::new());
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let (event, tail) = tail.split_at(u32::from_be_bytes(*length) as usize);
        let object = field(&field(event, 2), 1);
        let object = decode(&object, schema("ConfigMap"));
        assert_eq!(object["kind"], "ConfigMap");
        seen.push((
            String::from_utf8(field(event, 1)).unwrap(),
            object["data"]["key"].clone(),
        ));
        rest = tail;
    }
    assert_eq!(
        seen,
        [
            ("ADDED".to_owned(), json!("1")),
            ("BOOKMARK".to_owned(), Value::Null)
        ]
    );
}

#[tokio::test]
async fn large_answers_are_compressed_for_those_who_read_it() {
    let fixture = Fixture::new().await;
    for at in 0..10 {
        fixture
            .ok("POST", PATH, config_map(&format!("c{at}"), &"x".repeat(20_000)))
            .await;
    }
    for accept in [
        "application/json",
        "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
        "application/vnd.kubernetes.protobuf",
        "application/yaml",
    ] {
        let plain = fixture.ask("GET", PATH, &[("accept", accept)], Vec::new()).await;
        assert!(!plain.1.contains_key("content-encoding"));
        let headers = [("accept", accept), ("accept-encoding", "deflate, gzip;q=1.0")];
        let (_, answered, body) = fixture.ask("GET", PATH, &headers, Vec::new()).await;
        let large = plain.2.len() > 128 * 1024;
        assert_eq!(large, !accept.contains("Partial"), "{accept}");
        assert_eq!(answered.contains_key("content-encoding"), large, "{accept}");
        let mut unpacked = Vec::new();
        match large {
            true => drop(
                flate2::read::GzDecoder::new(&body[..])
                    .read_to_end(&mut unpacked)
                    .unwrap(),
            ),
            false => unpacked.extend_from_slice(&body),
        }
        assert_eq!(unpacked, plain.2);
    }
    let headers = [("accept-encoding", "gzip")];
    let path = format!("{PATH}?watch=1&timeoutSeconds=1");
    let (_, answered, body) = fixture.ask("GET", &path, &headers, Vec::new()).await;
    assert!(!answered.contains_key("content-encoding") && body.len() > 128 * 1024);
}

#[tokio::test]
async fn tables_and_metadata_are_written_item_by_item() {
    let fixture = Fixture::new().await;
    for name in ["a", "b"] {
        fixture.ok("POST", PATH, config_map(name, "1")).await;
    }
    for (form, items) in [("Table", "rows"), ("PartialObjectMetadataList", "items")] {
        let accept = format!("application/json;as={form};g=meta.k8s.io;v=v1");
        let (_, _, body) = fixture.ask("GET", PATH, &[("accept", &accept)], Vec::new()).await;
        let list: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(list["kind"], form);
        let (_, _, body) = fixture
            .ask(
                "GET",
                &format!("{PATH}?pretty=1"),
                &[("accept", &accept)],
                Vec::new(),
            )
            .await;
        let whole: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(list[items].as_array().unwrap().len(), 2);
        assert_eq!(list, whole);
    }
}
