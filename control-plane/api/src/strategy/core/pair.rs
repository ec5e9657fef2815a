//! Whether the key of a TLS Secret is that of its certificate, with the words of Go's `tls.X509KeyPair`.

use crate::strategy::certificates::blocks;
use p521::elliptic_curve::sec1::ToSec1Point as _;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
};
use x509_parser::asn1_rs::{Any, FromDer as _, Oid, Tag};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_PKCS1_RSAENCRYPTION,
    OID_SIG_ED25519,
};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

const OTHER_TYPE: &str = "tls: private key type does not match public key type";
const OTHER_KEY: &str = "tls: private key does not match public key";

/// A private key, as far as it says which public key is its own.
enum Private<'a> {
    /// By its modulus.
    Rsa(&'a [u8]),
    /// By its scalar.
    Elliptic(&'a [u8]),
    /// By its seed.
    Ed25519(&'a [u8]),
}

/// What is wrong with a certificate and its key, both in PEM form.
pub(super) fn problem(certificate: &[u8], key: &[u8]) -> Option<String> {
    check(certificate, key).err()
}

fn check(certificate: &[u8], key: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(certificate);
    let found = blocks(&text);
    let labels: Vec<&str> = found.iter().map(|block| block.label).collect();
    let Some(leaf) = found.iter().find(|block| block.label == "CERTIFICATE") else {
        return Err(match labels[..] {
            [] => "tls: failed to find any PEM data in certificate input".into(),
            [label] if label.ends_with("PRIVATE KEY") => {
                "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched"
                    .into()
            }
            _ => format!(
                "tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the following types: [{}]",
                labels.join(" ")
            ),
        });
    };
    let text = String::from_utf8_lossy(key);
    let found = blocks(&text);
    let labels: Vec<&str> = found.iter().map(|block| block.label).collect();
    let is_key = |label: &str| label == "PRIVATE KEY" || label.ends_with(" PRIVATE KEY");
    let Some(key) = found.iter().find(|block| is_key(block.label)) else {
        return Err(match labels[..] {
            [] => "tls: failed to find any PEM data in key input".into(),
            ["CERTIFICATE"] => {
                "tls: found a certificate rather than a key in the PEM for the private key".into()
            }
            _ => format!(
                "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after skipping PEM blocks of the following types: [{}]",
                labels.join(" ")
            ),
        });
    };
    let (_, leaf) = x509_parser::parse_x509_certificate(&leaf.contents)
        .map_err(|_| "x509: malformed certificate".to_owned())?;
    let private = Private::read(&key.contents)?;
    belongs(leaf.public_key(), &private).map_err(str::to_owned)
}

impl<'a> Private<'a> {
    /// Reads a key of PKCS#1, PKCS#8 or SEC 1.
    fn read(der: &'a [u8]) -> Result<Self, String> {
        let found = sequence(der).and_then(|parts| match parts.as_slice() {
            [version, algorithm, rest @ ..]
                if version.tag() == Tag::Integer && algorithm.tag() == Tag::Sequence =>
            {
                Self::wrapped(algorithm.data, rest.first()?.data)
            }
            parts => Self::plain(parts),
        });
        found.ok_or_else(|| "tls: failed to parse private key".to_owned())
    }

    /// The key that the elements of PKCS#1 or SEC 1 are.
    fn plain(parts: &[Any<'a>]) -> Option<Self> {
        match parts {
            [version, second, ..] if version.tag() == Tag::Integer => match second.tag() {
                Tag::Integer => Some(Private::Rsa(magnitude(second.data))),
                Tag::OctetString => Some(Private::Elliptic(second.data)),
                _ => None,
            },
            _ => None,
        }
    }

    /// The key within PKCS#8, which is never wrapped again.
    fn wrapped(algorithm: &'a [u8], key: &'a [u8]) -> Option<Self> {
        let (_, oid) = Oid::from_der(algorithm).ok()?;
        if oid == OID_PKCS1_RSAENCRYPTION || oid == OID_KEY_TYPE_EC_PUBLIC_KEY {
            return Self::plain(&sequence(key)?);
        }
        if oid == OID_SIG_ED25519 {
            let (_, seed) = Any::from_der(key).ok()?;
            return Some(Private::Ed25519(seed.data));
        }
        None
    }
}

/// Whether the public key is the private one's. A curve that is not known here is taken as it is.
fn belongs(public: &SubjectPublicKeyInfo<'_>, private: &Private<'_>) -> Result<(), &'static str> {
    let same = |same: bool| if same { Ok(()) } else { Err(OTHER_KEY) };
    let point = &*public.subject_public_key.data;
    let algorithm = &public.algorithm.algorithm;
    if *algorithm == OID_PKCS1_RSAENCRYPTION {
        let Private::Rsa(modulus) = private else {
            return Err(OTHER_TYPE);
        };
        return match public.parsed() {
            Ok(PublicKey::RSA(key)) => same(magnitude(key.modulus) == *modulus),
            _ => Err(OTHER_KEY),
        };
    }
    if *algorithm == OID_SIG_ED25519 {
        let Private::Ed25519(seed) = private else {
            return Err(OTHER_TYPE);
        };
        return same(Ed25519KeyPair::from_seed_and_public_key(seed, point).is_ok());
    }
    if *algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY {
        return Err("tls: unknown public key algorithm");
    }
    let Private::Elliptic(scalar) = private else {
        return Err(OTHER_TYPE);
    };
    let curve = public
        .algorithm
        .parameters
        .as_ref()
        .and_then(|any| any.as_oid().ok());
    match curve {
        Some(curve) if curve == OID_NIST_EC_P521 => {
            let own = p521::SecretKey::from_slice(scalar)
                .map(|key| key.public_key().to_sec1_point(false).as_bytes() == point);
            same(own.unwrap_or(false))
        }
        Some(curve) if curve == OID_EC_P256 || curve == OID_NIST_EC_P384 => {
            let algorithm = match curve == OID_EC_P256 {
                true => &ECDSA_P256_SHA256_FIXED_SIGNING,
                false => &ECDSA_P384_SHA384_FIXED_SIGNING,
            };
            // The dice are for signatures, which nobody makes here.
            let dice = SystemRandom::new();
            same(EcdsaKeyPair::from_private_key_and_public_key(algorithm, scalar, point, &dice).is_ok())
        }
        _ => Ok(()),
    }
}

/// The elements of a sequence.
fn sequence(der: &[u8]) -> Option<Vec<Any<'_>>> {
    let (_, outer) = Any::from_der(der).ok()?;
    if outer.tag() != Tag::Sequence {
        return None;
    }
    let mut rest = outer.data;
    let mut elements = Vec::new();
    while !rest.is_empty() {
        let (after, element) = Any::from_der(rest).ok()?;
        elements.push(element);
        rest = after;
    }
    Some(elements)
}

/// A number without zeros in front.
fn magnitude(number: &[u8]) -> &[u8] {
    let first = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    &number[first..]
}
