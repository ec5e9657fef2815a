//! Requests for certificates with keys of every kind: who asks must hold the key. The requests in `data/certificates` were made by
//! OpenSSL 3; their private keys are gone. PSS is with a salt as long as the digest, the only form that X.509 libraries take.

use api::registry::Registry;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

macro_rules! requests {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("data/certificates/", $name, ".pem")))),*]
    };
}

const REQUESTS: [(&str, &str); 10] = requests![
    "ed25519",
    "p256",
    "p384",
    "p521",
    "rsa3072",
    "rsa3072-pss",
    "rsa4096",
    "rsa2048",
    "p224",
    "k256",
];

fn der(pem: &str) -> Vec<u8> {
    let lines: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    STANDARD.decode(lines).unwrap()
}

fn pem(der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
}

/// What the server says of a new object.
fn errors(plural: &str, spec: Value) -> Vec<String> {
    let registry = Registry::builtin();
    let resource = registry.find("certificates.k8s.io", "v1", plural).unwrap();
    let mut object = json!({"metadata": {"name": "a", "uid": "u"}, "spec": spec});
    if resource.namespaced {
        object["metadata"]["namespace"] = "default".into();
    }
    resource.strategy.default(&mut object);
    resource.strategy.prepare_for_create(&mut object);
    let errors = resource.strategy.validate(&object);
    errors.iter().map(api::validation::FieldError::message).collect()
}

fn of_a_pod(request: &[u8]) -> Vec<String> {
    let spec = json!({
        "signerName": "example.com/signer",
        "podName": "p", "podUID": "1",
        "serviceAccountName": "s", "serviceAccountUID": "2",
        "nodeName": "n", "nodeUID": "3",
        "stubPKCS10Request": STANDARD.encode(request),
    });
    errors("podcertificaterequests", spec)
}

fn of_anybody(request: &[u8]) -> Vec<String> {
    let spec = json!({
        "signerName": "example.com/signer", "usages": ["client auth"], "request": STANDARD.encode(pem(request)),
    });
    errors("certificatesigningrequests", spec)
}

#[test]
fn keys_that_pods_may_have() {
    let path = "spec.stubPKCS10Request: Invalid value: ";
    for (name, text) in REQUESTS {
        let expect = match name {
            "rsa2048" => vec![format!("{path}RSA keys must have modulus size 3072 or 4096")],
            "p224" | "k256" => {
                vec![format!(
                    "{path}elliptic public keys must use curve P256, P384, or P521"
                )]
            }
            _ => Vec::new(),
        };
        assert_eq!(of_a_pod(&der(text)), expect, "{name}");
    }
    assert_eq!(of_a_pod(b""), ["spec.stubPKCS10Request: Required value"]);
    let cut = &der(REQUESTS[0].1)[..40];
    for bad in [&b"x"[..], cut, &[der(REQUESTS[0].1), vec![0]].concat()] {
        let got = of_a_pod(bad);
        assert!(
            got.len() == 1 && got[0].ends_with("must be a DER-serialized PKCS#10 request"),
            "{got:?}"
        );
    }
    let long = of_a_pod(&vec![0; (10 << 10) + 1]);
    assert!(
        long.len() == 1 && long[0].starts_with("spec.stubPKCS10Request: Too long"),
        "{long:?}"
    );
}

/// Every bit of what is signed counts, and so does the signature.
#[test]
fn a_request_that_was_changed_proves_nothing() {
    for (name, text) in &REQUESTS[..7] {
        let good = der(text);
        assert_eq!(of_anybody(&good), [""; 0], "{name}");
        let subject = good
            .windows(2)
            .position(|two| two == b"\x0c\x07" || two == b"\x0c\x04" || two == b"\x0c\x03");
        let subject = subject.unwrap_or_else(|| panic!("{name} has a name")) + 2;
        for at in [subject, good.len() - 1, good.len() - 20] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(
                of_a_pod(&bad),
                ["spec.stubPKCS10Request: Invalid value: could not verify proof-of-possession signature"],
                "{name} at {at}"
            );
            let got = of_anybody(&bad);
            assert!(
                got.len() == 1 && got[0].ends_with("x509: signature verification failed"),
                "{name} at {at}: {got:?}"
            );
        }
    }
}

/// The signature of one key under the request of another.
#[test]
fn a_foreign_signature_proves_nothing() {
    let [one, other] = ["p256", "p384"].map(|name| {
        let (_, text) = REQUESTS.iter().find(|(own, _)| *own == name).unwrap();
        der(text)
    });
    assert_eq!((of_a_pod(&one).len(), of_a_pod(&other).len()), (0, 0));
    for (_, text) in REQUESTS {
        let mut mixed = der(text);
        let tail = mixed.len() - 40;
        mixed[tail..].copy_from_slice(&one[one.len() - 40..]);
        if mixed != one {
            assert_eq!(of_a_pod(&mixed).len(), 1);
        }
    }
}

#[test]
fn what_authors_tell_signers() {
    let spec = |annotations: Value| {
        json!({
            "signerName": "kubernetes.io/own", "podName": "p", "podUID": "1", "serviceAccountName": "s",
            "serviceAccountUID": "2", "nodeName": "n", "nodeUID": "3",
            "stubPKCS10Request": STANDARD.encode(der(REQUESTS[1].1)), "unverifiedUserAnnotations": annotations,
        })
    };
    let plural = "podcertificaterequests";
    assert_eq!(
        errors(plural, spec(json!({"example.com/a": "anything at all"}))),
        [""; 0]
    );
    assert_eq!(
        errors(plural, spec(json!({"plain": ""}))),
        [
            "spec.unverifiedUserAnnotations: Invalid value: \"plain\": must be a domain-prefixed key (such as \"acme.io/foo\")"
        ]
    );
    assert_eq!(
        errors(plural, spec(json!({"example.com/a": "x".repeat(256 << 10)}))).len(),
        1
    );
}
