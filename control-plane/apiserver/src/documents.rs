//! Discovery, OpenAPI, version and health: the paths that are about the server itself.

use std::{cell::LazyCell, collections::BTreeMap, time::Duration};

use api::{
    discovery::{self, Aggregated},
    openapi,
    schema::Descriptions,
};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use jiff::{SignedDuration, Timestamp, fmt::rfc2822::DateTimePrinter};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    authn::service_account::Tokens,
    body::Body,
    context::Api,
    health, metrics,
    negotiation::{self, Output},
    request_info::query,
    respond::{HttpResponse, response, text, value_response},
};

/// The Kubernetes version whose API this is.
pub const KUBERNETES_VERSION: &str = "v1.37.0+orlop";

/// How long `/metrics` waits for the store to tell its size, as upstream.
const STORE_SIZE_TIMEOUT: Duration = Duration::from_secs(1);

const JSON: &str = "application/json";

/// The v2 document as gnostic's message; the second name is an old one of the same.
const OPENAPI_V2_PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
];

/// A v3 document as gnostic's message; the second name is an old one of the same.
const OPENAPI_V3_PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v3.v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v3@v1.0+protobuf",
];

/// The hashes of the documents, which clients cache by.
///
/// Documents are written anew for whoever asks: that takes milliseconds, most clients ask with a hash and need none, and
/// some megabytes of text would otherwise stay in memory for good. The registry does not change, so hashes stay true.
/// All encodings of a document share the hash of its JSON, as they do upstream; `Vary` keeps caches from mixing them.
#[derive(Default)]
pub(crate) struct Documents {
    /// By path as in the v3 index; other documents have a space in their name, which no path has.
    hashes: Mutex<BTreeMap<String, String>>,
}

/// A document, or only its hash if the text was not needed to tell.
struct Hashed {
    hash: String,
    text: Option<Vec<u8>>,
}

impl Documents {
    /// The hash of a document, which is written if its hash is not known yet; `None` when there is no such document.
    fn hashed(&self, name: &str, write: impl FnOnce() -> Option<Vec<u8>>) -> Option<Hashed> {
        if let Some(hash) = self.hashes.lock().get(name) {
            return Some(Hashed {
                hash: hash.clone(),
                text: None,
            });
        }
        let text = write()?;
        let hash = hex::encode_upper(Sha256::digest(&text));
        self.hashes.lock().insert(name.to_owned(), hash.clone());
        Some(Hashed {
            hash,
            text: Some(text),
        })
    }
}

/// How large the store is, in bytes; `None` when it does not say so in time.
async fn store_bytes(api: &Api) -> Option<u64> {
    match tokio::time::timeout(STORE_SIZE_TIMEOUT, api.cache.store.size_bytes()).await {
        Ok(Ok(bytes)) => Some(bytes),
        Ok(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            tracing::info!(error, "the store does not tell its size");
            None
        }
        Err(_) => {
            tracing::info!("the store does not tell its size in time");
            None
        }
    }
}

/// Serves a path that is about no resource; `None` when there is no such path.
pub(crate) async fn serve(api: &Api, uri: &Uri, headers: &HeaderMap) -> Option<HttpResponse> {
    let path = uri.path();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match parts.as_slice() {
        [""] => Some(value(uri, headers, &root(api))),
        ["version"] => Some(value(uri, headers, &version())),
        ["healthz" | "livez" | "readyz", rest @ ..] => health::serve(api, uri, parts[0], rest).await,
        ["metrics"] => {
            let uses = api.tokens.as_ref().map(Tokens::uses);
            let body = metrics::render(&api.metrics, &api.cache, uses, store_bytes(api).await);
            Some(response(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                body,
            ))
        }
        ["api"] => Some(discovery_document(api, uri, headers, true)),
        ["apis"] => Some(discovery_document(api, uri, headers, false)),
        ["apis", group] => {
            discovery::api_group(&api.registry, group).map(|document| value(uri, headers, &document))
        }
        ["api", version] => discovery::api_resource_list(&api.registry, "", version)
            .map(|document| value(uri, headers, &document)),
        ["apis", group, version] => discovery::api_resource_list(&api.registry, group, version)
            .map(|document| value(uri, headers, &document)),
        ["openapi", "v2"] => openapi_v2(api, headers),
        ["openapi", "v3"] => conditional(api, headers, "v3 index", JSON, || Some(openapi_index(api)), Some),
        ["openapi", "v3", rest @ ..] => openapi_v3(api, uri, headers, &rest.join("/")),
        [".well-known", "openid-configuration"] => {
            let issuer = &api.config.service_account_issuer;
            Some(value(
                uri,
                headers,
                &json!({
                    "issuer": issuer,
                    "jwks_uri": format!("{issuer}/openid/v1/jwks"),
                    "response_types_supported": ["id_token"],
                    "subject_types_supported": ["public"],
                    "id_token_signing_alg_values_supported": ["ES256"],
                }),
            ))
        }
        ["openid", "v1", "jwks"] => {
            let keys = api.tokens.as_ref().map(|tokens| tokens.jwks())?;
            Some(response(
                StatusCode::OK,
                "application/jwk-set+json",
                keys.to_string(),
            ))
        }
        _ => None,
    }
}

fn output(uri: &Uri, headers: &HeaderMap) -> Output {
    negotiation::output(headers, uri, false)
        .map(|output| Output {
            form: Default::default(),
            ..output
        })
        .unwrap_or_default()
}

fn value(uri: &Uri, headers: &HeaderMap, document: &Value) -> HttpResponse {
    value_response(StatusCode::OK, output(uri, headers), document)
}

/// A document with an ETag, or 304 when the client has it already; `None` when there is no such document. `encode` turns
/// its JSON into what is sent.
fn conditional(
    api: &Api,
    headers: &HeaderMap,
    name: &str,
    content_type: &'static str,
    write: impl Fn() -> Option<Vec<u8>>,
    encode: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>,
) -> Option<HttpResponse> {
    let Hashed { hash, text } = api.documents.hashed(name, &write)?;
    let mut answer = if is_known(headers, &hash) {
        not_modified()
    } else {
        response(StatusCode::OK, content_type, encode(text.or_else(write)?)?)
    };
    tag(&mut answer, &hash);
    Some(answer)
}

/// Whether the client has the document of this hash.
fn is_known(headers: &HeaderMap, hash: &str) -> bool {
    let known = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok());
    known.is_some_and(|known| known.contains(hash))
}

fn not_modified() -> HttpResponse {
    let mut response = HttpResponse::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response
}

/// Names what the answer is, for the client to ask with the next time.
fn tag(answer: &mut HttpResponse, hash: &str) {
    if let Ok(etag) = format!("\"{hash}\"").parse() {
        answer.headers_mut().insert(header::ETAG, etag);
    }
    answer
        .headers_mut()
        .insert(header::VARY, HeaderValue::from_static("Accept"));
}

/// How an OpenAPI document goes out: the first of what the client accepts that there is.
fn openapi_type(headers: &HeaderMap, protobuf: [&'static str; 2]) -> Option<&'static str> {
    if !headers.contains_key(header::ACCEPT) {
        return Some(JSON);
    }
    let ranges = negotiation::accepted(headers);
    ranges.iter().find_map(|range| match range.media_type {
        JSON | "application/*" | "*/*" => Some(JSON),
        media_type => protobuf.contains(&media_type).then_some(protobuf[0]),
    })
}

/// The JSON of a document as what was negotiated.
fn openapi_encoded(
    json: Vec<u8>,
    content_type: &str,
    protobuf: impl FnOnce(&[u8]) -> Result<Vec<u8>, serde_json::Error>,
) -> Option<Vec<u8>> {
    if content_type == JSON {
        return Some(json);
    }
    protobuf(&json)
        .inspect_err(|error| tracing::error!(%error, "cannot write an OpenAPI document as protobuf"))
        .ok()
}

fn openapi_v2(api: &Api, headers: &HeaderMap) -> Option<HttpResponse> {
    let Some(content_type) = openapi_type(headers, OPENAPI_V2_PROTOBUF) else {
        return Some(text(StatusCode::NOT_ACCEPTABLE, Body::empty()));
    };
    let write = || {
        Some(openapi::v2(
            &api.registry,
            &Descriptions::inflate(),
            KUBERNETES_VERSION,
        ))
    };
    conditional(api, headers, "v2 document", content_type, write, |json| {
        openapi_encoded(json, content_type, openapi::v2_protobuf)
    })
}

/// The document of a group-version. The index gives its address with its hash, which makes the answer good for ever; an
/// address with an old hash leads to the present one.
fn openapi_v3(api: &Api, uri: &Uri, headers: &HeaderMap, path: &str) -> Option<HttpResponse> {
    let Some(content_type) = openapi_type(headers, OPENAPI_V3_PROTOBUF) else {
        return Some(text(StatusCode::NOT_ACCEPTABLE, Body::empty()));
    };
    let write = || openapi::v3(&api.registry, &Descriptions::inflate(), path, KUBERNETES_VERSION);
    let mut answer = conditional(api, headers, path, content_type, write, |json| {
        openapi_encoded(json, content_type, openapi::v3_protobuf)
    })?;
    let asked = query(uri, "hash").filter(|hash| !hash.is_empty());
    let Some(asked) = asked else {
        return Some(answer);
    };
    let hash = api.documents.hashed(path, write)?.hash;
    if asked != hash {
        let mut moved = HttpResponse::new(Body::empty());
        *moved.status_mut() = StatusCode::MOVED_PERMANENTLY;
        let location = openapi_v3_url(path, &hash).parse().ok()?;
        moved.headers_mut().insert(header::LOCATION, location);
        return Some(moved);
    }
    let forever = HeaderValue::from_static("public, immutable");
    answer.headers_mut().insert(header::CACHE_CONTROL, forever);
    if let Some(expires) = in_a_year() {
        answer.headers_mut().insert(header::EXPIRES, expires);
    }
    Some(answer)
}

fn openapi_v3_url(path: &str, hash: &str) -> String {
    format!("/openapi/v3/{path}?hash={hash}")
}

/// The date that `Expires` has at most.
fn in_a_year() -> Option<HeaderValue> {
    let date = Timestamp::now() + SignedDuration::from_hours(365 * 24);
    let text = DateTimePrinter::new().timestamp_to_rfc9110_string(&date).ok()?;
    text.parse().ok()
}

/// `/api` or `/apis`, in the aggregated form for the clients that prefer it.
fn discovery_document(api: &Api, uri: &Uri, headers: &HeaderMap, core: bool) -> HttpResponse {
    let preferred = negotiation::accepted(headers).into_iter().find_map(|range| {
        if !matches!(range.media_type, JSON | "application/*" | "*/*") {
            return None;
        }
        match (range.parameter("as"), range.parameter("g"), range.parameter("v")) {
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => Some(Some(Aggregated::V2)),
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") => Some(Some(Aggregated::V2Beta1)),
            ("", _, _) => Some(None),
            _ => None,
        }
    });
    if let Some(Some(version)) = preferred {
        let name = format!("discovery {core} {version:?}");
        let write = || {
            let list = discovery::api_group_discovery_list(&api.registry, core, version);
            Some(list.to_string().into_bytes())
        };
        if let Some(answer) = conditional(api, headers, &name, version.content_type(), write, Some) {
            return answer;
        }
    }
    let document = if core {
        discovery::api_versions(&api.registry, &api.config.server_address())
    } else {
        discovery::api_group_list(&api.registry)
    };
    let mut answer = value(uri, headers, &document);
    answer
        .headers_mut()
        .insert(header::VARY, HeaderValue::from_static("Accept"));
    answer
}

/// The index names each document with its hash, so that clients fetch only what changed.
fn openapi_index(api: &Api) -> Vec<u8> {
    let mut paths = serde_json::Map::new();
    let descriptions = LazyCell::new(Descriptions::inflate);
    for path in openapi::v3_paths(&api.registry) {
        let write = || openapi::v3(&api.registry, &descriptions, &path, KUBERNETES_VERSION);
        if let Some(Hashed { hash, .. }) = api.documents.hashed(&path, write) {
            let url = openapi_v3_url(&path, &hash);
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths}).to_string().into_bytes()
}

fn version() -> Value {
    let major_minor: Vec<&str> = KUBERNETES_VERSION.trim_start_matches('v').split('.').collect();
    json!({
        "major": major_minor.first().copied().unwrap_or_default(),
        "minor": major_minor.get(1).copied().unwrap_or_default(),
        "gitVersion": KUBERNETES_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }),
    })
}

fn root(api: &Api) -> Value {
    let mut paths = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned()];
    for (group, versions) in api.registry.groups() {
        if group.is_empty() {
            continue;
        }
        paths.push(format!("/apis/{group}"));
        paths.extend(versions.iter().map(|version| format!("/apis/{group}/{version}")));
    }
    for path in [
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ] {
        paths.push(path.to_owned());
    }
    json!({"paths": paths})
}
