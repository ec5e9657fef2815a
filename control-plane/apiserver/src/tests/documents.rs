//! The OpenAPI documents: encodings, and what clients may keep.

use http::header;
use serde_json::Value;

use super::{
    Fixture,
    wire::{Answer, Call},
};

const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const PROTOBUF_V3: &str = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf";

async fn get(fixture: &Fixture, path: &str, headers: &[(header::HeaderName, &str)]) -> Answer {
    let mut call = Call::new("GET", path);
    call.headers.extend_from_slice(headers);
    fixture.send(call).await
}

#[tokio::test]
async fn addresses_in_the_index_are_good_for_ever() {
    let fixture = Fixture::new().await;
    let index = get(&fixture, "/openapi/v3", &[]).await;
    let index: Value = serde_json::from_slice(&index.body).unwrap();
    let paths = index["paths"].as_object().unwrap();
    assert!(paths.contains_key("apis/apps/v1"));
    for path in ["api/v1", "apis", "apis/apps", "apis/apps/v1"] {
        let url = paths[path]["serverRelativeURL"].as_str().unwrap();
        let answer = get(&fixture, url, &[]).await;
        assert_eq!(answer.code, 200, "{url}");
        assert_eq!(answer.header(header::CACHE_CONTROL), "public, immutable");
        assert!(answer.header(header::EXPIRES).ends_with(" GMT"));
        let etag = answer.header(header::ETAG);
        assert!(url.ends_with(&format!("?hash={}", etag.trim_matches('"'))));

        let again = get(&fixture, url, &[(header::IF_NONE_MATCH, etag)]).await;
        assert_eq!((again.code, again.body.len()), (304, 0));
        assert_eq!(again.header(header::ETAG), etag);

        let old = get(&fixture, &format!("/openapi/v3/{path}?hash=0123"), &[]).await;
        assert_eq!((old.code, old.header(header::LOCATION)), (301, url));
        let plain = get(&fixture, &format!("/openapi/v3/{path}"), &[]).await;
        assert_eq!(plain.code, 200);
        assert_eq!(plain.header(header::CACHE_CONTROL), "no-cache, private");
    }
    let url = paths["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    for accept in [PROTOBUF_V3, &PROTOBUF_V3.replace("v3.v1", "v3@v1")] {
        let answer = get(&fixture, url, &[(header::ACCEPT, accept)]).await;
        assert_eq!(
            (answer.code, answer.header(header::CONTENT_TYPE)),
            (200, PROTOBUF_V3)
        );
        assert!(answer.body.starts_with(b"\x0a\x053.0.0"));
        // One hash for all encodings: a client that knows the JSON knows that nothing changed.
        assert!(url.ends_with(answer.header(header::ETAG).trim_matches('"')));
        assert_eq!(answer.header(header::VARY), "Accept");
    }
    let html = get(&fixture, url, &[(header::ACCEPT, "text/html")]).await;
    assert_eq!(html.code, 406);
    let missing = get(&fixture, "/openapi/v3/apis/nope?hash=0123", &[]).await;
    assert_eq!(missing.code, 404);
}

#[tokio::test]
async fn the_v2_document_goes_out_as_asked() {
    let fixture = Fixture::new().await;
    let both = format!("{PROTOBUF}, application/json");
    for (accept, expect) in [
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        (PROTOBUF, PROTOBUF),
        (&PROTOBUF.replace("v2.v1", "v2@v1"), PROTOBUF),
        (&both, PROTOBUF),
    ] {
        let answer = get(&fixture, "/openapi/v2", &[(header::ACCEPT, accept)]).await;
        assert_eq!(
            (answer.code, answer.header(header::CONTENT_TYPE)),
            (200, expect),
            "{accept}"
        );
        let start: &[u8] = match expect {
            PROTOBUF => b"\x0a\x032.0",
            _ => b"{\"swagger\":\"2.0\"",
        };
        assert!(answer.body.starts_with(start), "{accept}");
        let etag = answer.header(header::ETAG);
        let known = [(header::ACCEPT, accept), (header::IF_NONE_MATCH, etag)];
        assert_eq!(get(&fixture, "/openapi/v2", &known).await.code, 304, "{accept}");
    }
    let text = get(&fixture, "/openapi/v2", &[(header::ACCEPT, "text/html")]).await;
    assert_eq!(text.code, 406);
}

#[tokio::test]
async fn discovery_goes_out_as_asked() {
    let fixture = Fixture::new().await;
    let aggregated = |version: &str| {
        format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList")
    };
    let (v2, v2beta1) = (aggregated("v2"), aggregated("v2beta1"));
    // What kubectl 1.30 and newer, and kubectl 1.27, send.
    let new = format!("{v2},{v2beta1},application/json");
    let old = format!("{v2beta1},application/json");
    for (accept, kind, content_type) in [
        ("*/*", "APIGroupList", "application/json"),
        ("application/json", "APIGroupList", "application/json"),
        (&aggregated("v3"), "APIGroupList", "application/json"),
        (&new, "APIGroupDiscoveryList", &v2),
        (&old, "APIGroupDiscoveryList", &v2beta1),
    ] {
        let answer = get(&fixture, "/apis", &[(header::ACCEPT, accept)]).await;
        let document: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(
            (document["kind"].as_str(), answer.header(header::CONTENT_TYPE)),
            (Some(kind), content_type),
            "{accept}"
        );
        assert_eq!(answer.header(header::VARY), "Accept");
        if kind == "APIGroupDiscoveryList" {
            let version = document["apiVersion"].as_str().unwrap();
            assert!(content_type.contains(&version.replace('/', ";v=")), "{version}");
            let known = [
                (header::ACCEPT, accept),
                (header::IF_NONE_MATCH, answer.header(header::ETAG)),
            ];
            assert_eq!(get(&fixture, "/apis", &known).await.code, 304);
        }
    }
}

/// What `kubectl explain --recursive` walks: from a kind over all its fields, each reference followed once on a way down.
fn explained<'a>(schemas: &'a Value, schema: &'a Value, way: &mut Vec<&'a str>, count: &mut usize) {
    let name = |schema: &'a Value| {
        schema["$ref"]
            .as_str()
            .and_then(|name| name.strip_prefix("#/components/schemas/"))
    };
    // A reference with a description beside it is wrapped in a list of one.
    let reference = name(schema).or_else(|| name(&schema["allOf"][0]));
    if let Some(name) = reference {
        let referred = &schemas[name];
        assert!(referred.is_object(), "{name} of {way:?} is nowhere");
        if way.contains(&name) {
            return;
        }
        way.push(name);
        explained(schemas, referred, way, count);
        way.pop();
        return;
    }
    for (field, property) in schema["properties"].as_object().into_iter().flatten() {
        *count += 1;
        let known = ["type", "$ref", "allOf", "x-kubernetes-int-or-string", "oneOf"];
        let typed = known.iter().any(|key| property.get(*key).is_some());
        assert!(
            typed || property["description"].is_string(),
            "{field} of {way:?} says nothing"
        );
        explained(schemas, property, way, count);
    }
    for below in ["items", "additionalProperties"] {
        if schema[below].is_object() {
            explained(schemas, &schema[below], way, count);
        }
    }
}

#[tokio::test]
async fn every_kind_can_be_explained_to_its_last_field() {
    let fixture = Fixture::new().await;
    let registry = api::registry::Registry::builtin();
    let mut documents = std::collections::BTreeMap::new();
    for resource in registry.resources() {
        let version = resource.api_version();
        let root = if resource.group.is_empty() { "api" } else { "apis" };
        if !documents.contains_key(&version) {
            let answer = get(&fixture, &format!("/openapi/v3/{root}/{version}"), &[]).await;
            assert_eq!(answer.code, 200, "{version}");
            documents.insert(
                version.clone(),
                serde_json::from_slice::<Value>(&answer.body).unwrap(),
            );
        }
        let schemas = &documents[&version]["components"]["schemas"];
        let is_kind = |schema: &Value| {
            let kinds = schema["x-kubernetes-group-version-kind"]
                .as_array()
                .into_iter()
                .flatten();
            kinds.into_iter().any(|kind| {
                kind["group"] == *resource.group
                    && kind["version"] == *resource.version
                    && kind["kind"] == *resource.kind
            })
        };
        let mut found = schemas
            .as_object()
            .unwrap()
            .iter()
            .filter(|(_, schema)| is_kind(schema));
        let (name, schema) = found
            .next()
            .unwrap_or_else(|| panic!("{version} {} is not explained", resource.kind));
        assert!(
            schema["description"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{name}"
        );
        let mut count = 0;
        explained(schemas, schema, &mut vec![name], &mut count);
        assert!(count >= 3, "{name}: {count} fields");
    }
    assert!(documents.len() >= 20);
}
