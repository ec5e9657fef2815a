//! What makers of TLS Secrets are told. The certificates in `data/pairs` were made by OpenSSL 3 for keys that everybody can guess: the
//! scalar one, the seed of zeros, and an RSA key of which only the modulus is left, that of the certificate.

use api::registry::Registry;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

const P256: &str = include_str!("data/pairs/p256.pem");
const P384: &str = include_str!("data/pairs/p384.pem");
const P521: &str = include_str!("data/pairs/p521.pem");
const P224: &str = include_str!("data/pairs/p224.pem");
const ED25519: &str = include_str!("data/pairs/ed25519.pem");
const RSA: &str = include_str!("data/pairs/rsa2048.pem");

const OTHER_TYPE: &str = "tls: private key type does not match public key type";
const OTHER_KEY: &str = "tls: private key does not match public key";
const NO_KEY: &str = "tls: failed to parse private key";

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match length {
        0..0x80 => out.push(length as u8),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend(content);
    out
}

fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    element(0x30, &parts.concat())
}

fn pem(label: &str, der: &[u8]) -> String {
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        STANDARD.encode(der)
    )
}

/// SEC 1: a small scalar of so many bytes.
fn elliptic(bytes: usize, scalar: u8) -> Vec<u8> {
    let mut number = vec![0; bytes];
    number[bytes - 1] = scalar;
    sequence(&[element(2, &[1]), element(4, &number)])
}

/// PKCS#8 around a key.
fn wrapped(oid: &[u8], key: &[u8]) -> Vec<u8> {
    sequence(&[element(2, &[0]), sequence(&[element(6, oid)]), element(4, key)])
}

const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const RSA_OID: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const ED25519_OID: &[u8] = &[0x2b, 0x65, 0x70];

fn ed25519(byte: u8) -> String {
    let key = wrapped(ED25519_OID, &element(4, &[byte; 32]));
    pem("PRIVATE KEY", &key)
}

/// PKCS#1 with the certificate's modulus, or another one, and nothing else that is worth anything.
fn rsa(other: bool) -> Vec<u8> {
    let body: String = RSA.lines().filter(|line| !line.starts_with('-')).collect();
    let der = STANDARD.decode(body).unwrap();
    // An integer of 257 bytes: the modulus behind a zero.
    let at = der
        .windows(5)
        .position(|w| w == [0x02, 0x82, 0x01, 0x01, 0x00])
        .unwrap();
    let mut modulus = der[at + 4..at + 4 + 257].to_vec();
    modulus[256] ^= u8::from(other);
    let rest = (0..7).map(|_| element(2, &[1]));
    let parts: Vec<_> = [element(2, &[0]), element(2, &modulus)]
        .into_iter()
        .chain(rest)
        .collect();
    sequence(&parts)
}

fn warnings(kind: &str, certificate: &str, key: &str) -> Vec<String> {
    let registry = Registry::builtin();
    let secrets = registry.find("", "v1", "secrets").unwrap();
    let data = json!({"tls.crt": STANDARD.encode(certificate), "tls.key": STANDARD.encode(key)});
    let secret = json!({"metadata": {"name": "a", "namespace": "ns"}, "type": kind, "data": data});
    secrets.strategy.warnings(&secret, None)
}

#[test]
fn a_key_is_its_certificates() {
    let ec = |bytes, scalar| pem("EC PRIVATE KEY", &elliptic(bytes, scalar));
    let rows = [
        (P256, ec(32, 1), None),
        (P256, ec(32, 2), Some(OTHER_KEY)),
        (P256, ec(48, 1), Some(OTHER_KEY)),
        (P256, pem("PRIVATE KEY", &wrapped(EC, &elliptic(32, 1))), None),
        (P384, ec(48, 1), None),
        (P384, ec(48, 2), Some(OTHER_KEY)),
        (P521, ec(66, 1), None),
        (P521, ec(66, 2), Some(OTHER_KEY)),
        (ED25519, ed25519(0), None),
        (ED25519, ed25519(1), Some(OTHER_KEY)),
        (ED25519, ec(32, 1), Some(OTHER_TYPE)),
        (P256, ed25519(0), Some(OTHER_TYPE)),
        (RSA, pem("RSA PRIVATE KEY", &rsa(false)), None),
        (RSA, pem("RSA PRIVATE KEY", &rsa(true)), Some(OTHER_KEY)),
        (RSA, pem("PRIVATE KEY", &wrapped(RSA_OID, &rsa(false))), None),
        (RSA, ec(32, 1), Some(OTHER_TYPE)),
        (P256, pem("RSA PRIVATE KEY", &rsa(false)), Some(OTHER_TYPE)),
        // A curve that only Go knows.
        (P224, ec(28, 1), None),
        (P256, pem("PRIVATE KEY", b"x"), Some(NO_KEY)),
        (P256, pem("PRIVATE KEY", &wrapped(&[0x2a], &[])), Some(NO_KEY)),
        (
            P256,
            pem(
                "PRIVATE KEY",
                &wrapped(EC, &wrapped(ED25519_OID, &element(4, &[0; 32]))),
            ),
            Some(NO_KEY),
        ),
        (
            &pem("CERTIFICATE", b"x"),
            ec(32, 1),
            Some("x509: malformed certificate"),
        ),
        // The first certificate is the key's, whatever stands around it.
        (
            &format!("{}{P256}{P384}", pem("OTHER", b"x")),
            format!("{}{}", pem("EC PARAMETERS", b"x"), ec(32, 1)),
            None,
        ),
    ];
    for (i, (certificate, key, expect)) in rows.iter().enumerate() {
        let expect: Vec<String> = expect.iter().map(|text| (*text).to_owned()).collect();
        assert_eq!(warnings("kubernetes.io/tls", certificate, key), expect, "row {i}");
    }
    assert!(warnings("Opaque", "", "").is_empty());
}

#[test]
fn there_must_be_a_certificate_and_a_key() {
    let key = pem("EC PRIVATE KEY", &elliptic(32, 1));
    let other = pem("OTHER", b"x");
    let rows = [
        ("", "", "tls: failed to find any PEM data in certificate input"),
        (
            &key,
            P256,
            "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched",
        ),
        (
            &format!("{other}{key}"),
            P256,
            "tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the following types: [OTHER EC PRIVATE KEY]",
        ),
        (P256, "", "tls: failed to find any PEM data in key input"),
        (
            P256,
            P256,
            "tls: found a certificate rather than a key in the PEM for the private key",
        ),
        (
            P256,
            &other,
            "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after skipping PEM blocks of the following types: [OTHER]",
        ),
    ];
    for (certificate, key, expect) in rows {
        assert_eq!(warnings("kubernetes.io/tls", certificate, key), [expect]);
    }
}

/// A wrapping within a wrapping and so on, as deep as a Secret is large, is no key, and takes no stack either.
#[test]
fn keys_are_wrapped_once() {
    let long = |tag: u8, length: usize| {
        let [.., a, b, c] = length.to_be_bytes();
        vec![tag, 0x83, a, b, c]
    };
    let algorithm = [element(2, &[0]), sequence(&[element(6, EC)])].concat();
    let key = elliptic(32, 1);
    let (mut length, mut heads) = (key.len(), Vec::new());
    while length < 700_000 {
        let inner = [algorithm.clone(), long(4, length)].concat();
        let head = [long(0x30, inner.len() + length), inner].concat();
        length += head.len();
        heads.push(head);
    }
    heads.reverse();
    let nested = pem("PRIVATE KEY", &[heads.concat(), key].concat());
    assert_eq!(warnings("kubernetes.io/tls", P256, &nested).len(), 1);
    let twice = wrapped(EC, &wrapped(EC, &elliptic(32, 1)));
    assert!(warnings("kubernetes.io/tls", P256, &pem("PRIVATE KEY", &twice))[0].ends_with(NO_KEY));
}
