//! The entrances of the fuzz targets to decoders that are this crate's own. Each takes any bytes and panics where a decoder
//! breaks a promise; nothing else calls them.

use std::{io::Cursor, sync::LazyLock};

use api::registry::Registry;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::BufMut;
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use store::KeyValue;
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};

use crate::{
    authn::{
        jwt::{self, SigningKey, VerifyingKey},
        x509,
    },
    handlers, negotiation, protobuf,
    request_info::{RequestInfo, query_pairs},
    respond::protobuf_object,
    streaming::{self, Streams},
    watch_cache::{Change, Event, Object},
};

static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::builtin);

/// A public key; nobody has the private one.
const PUBLIC_KEY: &[u8] = b"-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEx1LQ71vZIUij72AR94ROckrn5dWL
+O4DA6FLP8YpqpRDc7v94pw+hYOJsAf+OCAZVGf7ubxpv54UBk4WQcU5dA==
-----END PUBLIC KEY-----
";

/// `METHOD URI`, as the first line of a request has it.
pub fn request_line(data: &[u8]) {
    let Some((method, uri)) = str::from_utf8(data).ok().and_then(|text| text.split_once(' ')) else {
        return;
    };
    let (Ok(method), Ok(uri)) = (method.parse::<Method>(), uri.parse::<Uri>()) else {
        return;
    };
    let info = RequestInfo::new(&method, &uri);
    assert!(info.is_resource || info.resource.is_empty() || matches!(info.verb.as_str(), "watch" | "proxy"));
    assert_eq!(info.path, uri.path());
    let _pairs = query_pairs(&uri).count();
}

/// Header values on lines: Accept, Content-Type, Accept-Encoding; then the query.
pub fn negotiation(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut headers = HeaderMap::new();
    for name in [header::ACCEPT, header::CONTENT_TYPE, header::ACCEPT_ENCODING] {
        if let Some(value) = lines.next().and_then(|line| HeaderValue::from_bytes(line).ok()) {
            headers.insert(name, value);
        }
    }
    let query = lines
        .next()
        .and_then(|line| str::from_utf8(line).ok())
        .unwrap_or_default();
    let uri = format!("/api/v1/pods?{query}").parse::<Uri>().unwrap_or_default();
    for is_watch in [false, true] {
        let _refused = negotiation::output(&headers, &uri, is_watch);
    }
    let _ranges = negotiation::accepted(&headers);
    let _gzip = negotiation::accepts_gzip(&headers);
    let _media = negotiation::media(&headers);
}

/// A kind's number in the registry, and a body in the wire form of Kubernetes. What can be read is written and read again.
pub fn protobuf(data: &[u8]) {
    let Some(([high, low], body)) = data.split_first_chunk::<2>() else {
        return;
    };
    let number = usize::from(u16::from_be_bytes([*high, *low]));
    let kinds = REGISTRY.resources().count();
    let Some(resource) = REGISTRY.resources().nth(number % kinds) else {
        return;
    };
    let Ok(envelope) = protobuf::open(body) else {
        return;
    };
    let Ok(object) = envelope.object(resource.schema) else {
        return;
    };
    let _decoded = api::decode::decode_value(object.clone(), resource.expected(), Default::default());
    let Some(map) = object.as_object() else { return };
    let (api_version, kind) = (envelope.api_version, envelope.kind);
    let bytes = protobuf::encode::object(api_version, kind, resource.schema, map);
    let again = protobuf::open(&bytes).and_then(|envelope| envelope.object(resource.schema));
    let again = again.and_then(|object| {
        let written = protobuf::encode::object(
            api_version,
            kind,
            resource.schema,
            object.as_object().unwrap_or(map),
        );
        Ok((protobuf::open(&written)?.object(resource.schema)?, object))
    });
    // The first writing may lose what JSON says in two ways; the second has nothing left to lose.
    let (twice, once) = again.expect("what the server wrote it can read");
    assert_eq!(twice, once);
}

/// The text of a continue token; one that is taken never leads out of its resource.
pub fn continue_token(data: &[u8]) {
    const PREFIX: &str = "/registry/pods/";
    let texts = [
        String::from_utf8_lossy(data).into_owned(),
        URL_SAFE_NO_PAD.encode(data),
    ];
    for text in texts {
        if let Ok((revision, key)) = handlers::decode_token(&text, PREFIX) {
            assert!(
                revision != 0 && key.starts_with(PREFIX) && !key.contains("/../"),
                "{key:?}"
            );
        }
    }
}

/// The size of the pieces that arrive, and what arrives from a SPDY peer: the frames are the same whatever the pieces.
pub fn spdy(data: &[u8]) {
    let Some((size, bytes)) = data.split_first() else {
        return;
    };
    let whole = frames(bytes, bytes.len().max(1));
    assert_eq!(whole, frames(bytes, usize::from(*size).max(1)));
}

fn frames(bytes: &[u8], piece: usize) -> (Vec<streaming::Frame>, bool) {
    let mut decoder = streaming::Decoder::default();
    let mut frames = Vec::new();
    for piece in bytes.chunks(piece) {
        decoder.buffer().put_slice(piece);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, false),
            }
        }
    }
    (frames, true)
}

/// Which streams were asked for, how many bytes the client sends, these bytes (WebSocket frames), then the kubelet's (SPDY).
pub fn websocket(data: &[u8]) {
    let Some(([flags, high, low], bytes)) = data.split_first_chunk::<3>() else {
        return;
    };
    let streams = Streams {
        stdin: flags & 1 != 0,
        stdout: flags & 2 != 0,
        stderr: flags & 4 != 0,
        tty: flags & 8 != 0,
    };
    let length = usize::from(u16::from_be_bytes([*high, *low])).min(bytes.len());
    let (client, kubelet) = bytes.split_at(length);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime of one thread");
    runtime.block_on(async {
        let client = tokio::io::join(Cursor::new(client.to_vec()), tokio::io::sink());
        let client = WebSocketStream::from_raw_socket(client, Role::Server, None).await;
        let kubelet = tokio::io::join(Cursor::new(kubelet.to_vec()), tokio::io::sink());
        let _ended = streaming::translate(client, kubelet, streams).await;
    });
}

/// A bearer token as it comes, and one that is made of the bytes, cut at zeros.
pub fn bearer_token(data: &[u8]) {
    let keys = VerifyingKey::all_from_pem(PUBLIC_KEY).expect("the key above");
    let parts: Vec<String> = data
        .splitn(3, |byte| *byte == 0)
        .map(|part| URL_SAFE_NO_PAD.encode(part))
        .collect();
    for token in [String::from_utf8_lossy(data).into_owned(), parts.join(".")] {
        let _claims = jwt::peek(&token);
        assert!(
            jwt::verify(&token, &keys).is_err(),
            "a signature nobody made: {token}"
        );
    }
}

/// A file with keys for service account tokens: as it comes, and the bytes as the content of each kind of section.
pub fn token_keys(data: &[u8]) {
    let section = |label: &str| {
        let text = base64::engine::general_purpose::STANDARD.encode(data);
        format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n").into_bytes()
    };
    let files = [
        data.to_vec(),
        section("PUBLIC KEY"),
        section("EC PRIVATE KEY"),
        section("PRIVATE KEY"),
    ];
    for file in files {
        let _key = SigningKey::from_pem(&file);
        for key in VerifyingKey::all_from_pem(&file).into_iter().flatten() {
            let _published = key.jwk();
        }
    }
}

/// A certificate, as if it had been checked.
pub fn client_certificate(data: &[u8]) {
    if let Some(user) = x509::user(&data.into()) {
        assert!(!user.name.is_empty());
    }
    let _end = x509::not_after(&data.into());
}

/// A byte that chooses the content type, and the body of a deletion.
pub fn delete_options(data: &[u8]) {
    let Some((media, body)) = data.split_first() else {
        return;
    };
    let types = ["application/json", "application/yaml", protobuf::CONTENT_TYPE];
    let _options = handlers::delete_options(types[usize::from(*media) % types.len()], body);
}

/// A kind's number in the registry, and an object in JSON: what the cache makes of it, and how a watch tells it.
pub fn watch_frames(data: &[u8]) {
    const KEY: &str = "/registry/kind/namespace/name";
    let Some(([high, low], body)) = data.split_first_chunk::<2>() else {
        return;
    };
    let number = usize::from(u16::from_be_bytes([*high, *low]));
    let kinds = REGISTRY.resources().count();
    let Some(resource) = REGISTRY.resources().nth(number % kinds) else {
        return;
    };
    let item = |revision| KeyValue {
        key: KEY.into(),
        value: body.to_vec().into(),
        create_revision: 1,
        mod_revision: revision,
    };
    let [Some(current), Some(previous)] =
        [2, 1].map(|revision| Object::from_store(resource, "/registry/kind/", &item(revision)))
    else {
        return;
    };
    assert_eq!((current.namespace(), current.name()), ("namespace", "name"));
    let event = Event::new(2, Some(current.into()), Some(previous.into()));
    for change in [Change::Added, Change::Modified, Change::Deleted] {
        let object: serde_json::Value =
            serde_json::from_slice(&event.body(change)).expect("the cache holds JSON");
        let line = event.frame(change, negotiation::Encoding::Json, resource);
        let (end, line) = line.split_last().expect("a frame");
        assert!(*end == b'\n' && !line.contains(&b'\n'));
        let told: serde_json::Value = serde_json::from_slice(line).expect("a frame in JSON");
        assert_eq!((&told["object"], &told["type"]), (&object, &change.name().into()));
        let frame = event.frame(change, negotiation::Encoding::Protobuf, resource);
        let (length, event) = frame.split_first_chunk::<4>().expect("a frame in protobuf");
        assert_eq!(u32::from_be_bytes(*length) as usize, event.len());
        assert!(event.ends_with(&protobuf_object(resource.schema, &object)));
    }
}
