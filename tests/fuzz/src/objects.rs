//! Objects and what changes them: decoding, defaulting and validation, the patch formats, and server-side apply.

use api::{
    apply::{self, FieldSet, ServedVersions, Write},
    decode::{FieldValidation, Media, decode, decode_value},
    patch,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::documents::{Input, REGISTRY};

/// A body in JSON.
pub(crate) fn json(data: &[u8]) {
    body(data, Media::Json);
}

/// A body in YAML.
pub(crate) fn yaml(data: &[u8]) {
    let _value = api::decode::yaml_to_value(data);
    body(data, Media::Yaml);
}

/// What is taken is defaulted and validated, and is then taken again as it is.
fn body(data: &[u8], media: Media) {
    let Some(input) = Input::new(data) else { return };
    let text = &data[2..];
    let modes = [
        FieldValidation::Ignore,
        FieldValidation::Warn,
        FieldValidation::Strict,
    ];
    let mode = modes[usize::from(input.flags) % modes.len()];
    let Ok(decoded) = decode(text, media, input.resource.expected(), mode) else {
        return;
    };
    accepted(&input, decoded.value);
}

/// What happens to an object that was decoded.
fn accepted(input: &Input<'_>, mut object: Value) {
    let strategy = input.resource.strategy;
    strategy.default(&mut object);
    let once = object.clone();
    strategy.default(&mut object);
    assert_eq!(object, once, "defaulting twice differs from once");
    strategy.prepare_for_create(&mut object);
    let _problems = strategy.validate(&object).len();
    let again = decode_value(object, input.resource.expected(), FieldValidation::Strict);
    assert!(again.is_ok(), "{:?}", again.err());
}

/// A patched object goes through decoding like one that was sent.
fn patched(input: &Input<'_>, object: Value) {
    let decoded = decode_value(object, input.resource.expected(), FieldValidation::Ignore);
    if let Ok(decoded) = decoded {
        accepted(input, decoded.value);
    }
}

/// An object and a JSON patch.
pub(crate) fn json_patch(data: &[u8]) {
    let Some(input) = Input::new(data) else { return };
    if let Some(object) = input.json(0)
        && let Ok(object) = patch::json_patch(&object, input.bytes(1))
    {
        patched(&input, object);
    }
}

/// An object and a merge patch, which changes nothing the second time.
pub(crate) fn merge_patch(data: &[u8]) {
    let Some(input) = Input::new(data) else { return };
    if let (Some(object), Some(patch)) = (input.json(0), input.json(1)) {
        let object = patch::merge_patch(&object, &patch);
        assert_eq!(patch::merge_patch(&object, &patch), object);
        patched(&input, object);
    }
}

/// An object and a strategic merge patch.
pub(crate) fn strategic_merge(data: &[u8]) {
    let Some(input) = Input::new(data) else { return };
    if let (Some(object), Some(patch)) = (input.json(0), input.json(1))
        && let Ok(object) = patch::strategic_merge(&object, &patch, input.resource.schema)
    {
        patched(&input, object);
    }
}

/// The DER of a key beside certificates of each kind, and of a certificate: the makers of TLS Secrets are told what is wrong.
pub(crate) fn tls_pair(data: &[u8]) {
    const CERTIFICATES: [&str; 3] = [
        include_str!("../../../control-plane/api/tests/data/pairs/p256.pem"),
        include_str!("../../../control-plane/api/tests/data/pairs/ed25519.pem"),
        include_str!("../../../control-plane/api/tests/data/pairs/rsa2048.pem"),
    ];
    let resource = REGISTRY.find("", "v1", "secrets");
    let resource = resource.expect("the kind is built in");
    let text = STANDARD.encode(data);
    let pem = |label: &str| format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n");
    let (key, own) = (pem("PRIVATE KEY"), pem("CERTIFICATE"));
    for certificate in CERTIFICATES.into_iter().chain([&*own]) {
        let secret = json!({
            "metadata": {"name": "a", "namespace": "b"},
            "type": "kubernetes.io/tls",
            "data": {"tls.crt": STANDARD.encode(certificate), "tls.key": STANDARD.encode(&key)},
        });
        assert!(resource.strategy.warnings(&secret, None).len() <= 1);
    }
}

/// The DER of a certificate signing request, as the API takes it.
pub(crate) fn certificate_request(data: &[u8]) {
    let resource = REGISTRY.find("certificates.k8s.io", "v1", "certificatesigningrequests");
    let resource = resource.expect("the kind is built in");
    let text = STANDARD.encode(data);
    let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n");
    for request in [pem.as_bytes(), data] {
        let mut object = json!({
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": {"name": "a"},
            "spec": {"request": STANDARD.encode(request), "signerName": "a.b/c", "usages": ["client auth"]},
            "status": {"certificate": STANDARD.encode(request)},
        });
        resource.strategy.default(&mut object);
        let _problems = resource.strategy.validate(&object).len();
    }
}

/// `fieldsV1` of an entry of `managedFields`: what can be read is written so that it is read the same.
pub(crate) fn managed_fields(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(data) else {
        return;
    };
    if let Some(fields) = FieldSet::from_fields_v1(&value) {
        let written = fields.to_fields_v1();
        assert_eq!(
            FieldSet::from_fields_v1(&written).as_ref(),
            Some(&fields),
            "{value}"
        );
        let _paths = fields.paths();
    }
}

/// Whether an item of a list has a value in `settled` that it had not before: it may be a part of the item's key.
fn fills_items(given: &Value, settled: &Value) -> bool {
    match (given, settled) {
        (Value::Array(given), Value::Array(settled)) => {
            let pairs = || given.iter().zip(settled);
            pairs().any(|(given, settled)| fills(given, settled) || fills_items(given, settled))
        }
        (Value::Object(given), Value::Object(settled)) => given.iter().any(|(key, given)| {
            settled
                .get(key)
                .is_some_and(|settled| fills_items(given, settled))
        }),
        _ => false,
    }
}

fn fills(given: &Value, settled: &Value) -> bool {
    let (Value::Object(given), Value::Object(settled)) = (given, settled) else {
        return false;
    };
    let is_one = |value: &Value| value.is_string() || value.is_number() || value.is_boolean();
    settled
        .iter()
        .any(|(key, value)| is_one(value) && !given.contains_key(key))
}

/// A live object, its `managedFields` and a configuration, which is applied twice: the second time changes nothing. Not so where
/// an item leaves out a part of its key that has no default: what is stored has that part, and so is another item. Validation
/// refuses it where upstream and we have such keys (a container's port without a number).
pub(crate) fn apply(data: &[u8]) {
    let Some(input) = Input::new(data) else { return };
    let expected = input.resource.expected();
    let settle = |object: Value| Ok(decode_value(object, expected, FieldValidation::Ignore)?.value);
    let live = input.json(0).and_then(|object| settle(object).ok());
    let Ok(config) = api::decode::yaml_to_value(input.bytes(2)) else {
        return;
    };
    let versions = ServedVersions::new(&REGISTRY, input.resource);
    let api_version = input.resource.api_version();
    let subresource = input.flags & 2 != 0;
    let write = Write {
        manager: if input.flags & 4 != 0 { "kubectl" } else { "fuzz" },
        api_version: &api_version,
        subresource: if subresource { "status" } else { "" },
        reset: if subresource { &["spec"] } else { &["status"] },
        now: "2026-01-01T00:00:00Z",
        schema: input.resource.schema,
        versions: &versions,
    };
    let managed = input.json(1);
    if let Some(live) = &live {
        let _tracked = apply::track(&write, Some((live, managed.as_ref())), &config, managed.as_ref());
    }
    let before = live.as_ref().map(|live| (live, managed.as_ref()));
    let Ok(applied) = apply::apply(&write, before, &config, input.flags & 1 != 0, settle) else {
        return;
    };
    let Ok(object) = settle(applied.object) else {
        return;
    };
    let before = Some((&object, applied.managed_fields.as_ref()));
    let again = match apply::apply(&write, before, &config, false, settle) {
        Ok(again) => again,
        Err(error) => panic!("applied again: {error}"),
    };
    if !settle(config.clone()).is_ok_and(|settled| fills_items(&config, &settled)) {
        assert_eq!(settle(again.object).ok().as_ref(), Some(&object), "applied again");
    }
    patched(&input, object);
}
