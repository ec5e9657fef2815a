//! JSON Web Tokens signed with ES256, as far as service accounts need them.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
    },
};
use rustls_pki_types::pem::{PemObject, SectionKind};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Why a key file or a token is no good.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The file holds no key of a kind that is known here.
    #[error("no EC P-256 key in PEM form (PRIVATE KEY, EC PRIVATE KEY or PUBLIC KEY) found")]
    NoKey,
    /// The key is damaged or on another curve.
    #[error("the key is not a usable EC P-256 key")]
    BadKey,
    /// Signing failed.
    #[error("signing failed")]
    Sign,
    /// The token is not three base64url parts of JSON with an ES256 header.
    #[error("token is malformed")]
    Malformed,
    /// No known key made this signature.
    #[error("invalid signature")]
    Signature,
}

/// The private key that signs tokens.
pub(crate) struct SigningKey {
    pair: EcdsaKeyPair,
    header: String,
    random: SystemRandom,
}

/// A public key that verifies tokens.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct VerifyingKey {
    point: Vec<u8>,
    id: String,
}

impl SigningKey {
    /// Reads the first private key of a PEM file.
    pub(crate) fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
            let (kind, der) = section.map_err(|_| Error::NoKey)?;
            if matches!(kind, SectionKind::PrivateKey | SectionKind::EcPrivateKey) {
                return Self::from_der(kind, &der);
            }
        }
        Err(Error::NoKey)
    }

    /// Reads a section with a private key.
    fn from_der(kind: SectionKind, der: &[u8]) -> Result<Self, Error> {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair = if kind == SectionKind::EcPrivateKey {
            let (private, public) = sec1(der).ok_or(Error::BadKey)?;
            EcdsaKeyPair::from_private_key_and_public_key(algorithm, private, public, &random)
        } else {
            EcdsaKeyPair::from_pkcs8(algorithm, der, &random)
        };
        let pair = pair.map_err(|_| Error::BadKey)?;
        let id = key_id(pair.public_key().as_ref());
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"ES256","kid":"{id}"}}"#));
        Ok(SigningKey { pair, header, random })
    }

    /// The key that verifies what this one signs.
    pub(crate) fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey::of(self.pair.public_key().as_ref())
    }

    /// A compact token with these claims.
    pub(crate) fn sign(&self, claims: &Value) -> Result<String, Error> {
        let signed = format!("{}.{}", self.header, URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self
            .pair
            .sign(&self.random, signed.as_bytes())
            .map_err(|_| Error::Sign)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

impl VerifyingKey {
    fn of(point: &[u8]) -> Self {
        VerifyingKey {
            point: point.to_vec(),
            id: key_id(point),
        }
    }

    /// The key at a point that was read: the mark of an uncompressed one and two coordinates.
    fn new(point: &[u8]) -> Result<Self, Error> {
        if point.len() != POINT_BYTES || point[0] != 4 {
            return Err(Error::BadKey);
        }
        Ok(Self::of(point))
    }

    /// Reads every key of a PEM file, public or private.
    pub(crate) fn all_from_pem(pem: &[u8]) -> Result<Vec<Self>, Error> {
        let mut keys = Vec::new();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
            let (kind, der) = section.map_err(|_| Error::NoKey)?;
            match kind {
                SectionKind::PublicKey => {
                    let point = der.strip_prefix(SPKI_P256).ok_or(Error::BadKey)?;
                    keys.push(Self::new(point)?);
                }
                SectionKind::EcPrivateKey => keys.push(Self::new(sec1(&der).ok_or(Error::BadKey)?.1)?),
                SectionKind::PrivateKey => keys.push(SigningKey::from_der(kind, &der)?.verifying_key()),
                _ => {}
            }
        }
        if keys.is_empty() {
            Err(Error::NoKey)
        } else {
            Ok(keys)
        }
    }

    /// The key as a JSON Web Key, for `/openid/v1/jwks`.
    pub(crate) fn jwk(&self) -> Value {
        let (x, y) = self.point[1..].split_at(32);
        serde_json::json!({
            "use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        })
    }
}

/// The claims of a token that one of the keys signed.
pub(crate) fn verify(token: &str, keys: &[VerifyingKey]) -> Result<Value, Error> {
    let (signed, signature) = token.rsplit_once('.').ok_or(Error::Malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(Error::Malformed)?;
    let header = decode_json(header)?;
    // Only the algorithm of our own keys: what the token's author claims is never what decides.
    if header["alg"] != "ES256" {
        return Err(Error::Malformed);
    }
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Error::Malformed)?;
    let key_id = header["kid"].as_str();
    let verified = keys
        .iter()
        .filter(|key| key_id.is_none_or(|id| id == key.id))
        .map(|key| UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &key.point))
        .any(|key| key.verify(signed.as_bytes(), &signature).is_ok());
    if !verified {
        return Err(Error::Signature);
    }
    decode_json(payload)
}

/// The claims of a token, unverified: only to find out whether it is for us at all.
pub(crate) fn peek(token: &str) -> Option<Value> {
    decode_json(token.split('.').nth(1)?).ok()
}

fn decode_json(part: &str) -> Result<Value, Error> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Error::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| Error::Malformed)
}

/// An uncompressed point of P-256: its mark, x and y.
const POINT_BYTES: usize = 65;

/// Everything of a P-256 SubjectPublicKeyInfo that stands before its uncompressed point.
const SPKI_P256: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Upstream's key id: the hash of the public key's DER form.
fn key_id(point: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(
        Sha256::new()
            .chain_update(SPKI_P256)
            .chain_update(point)
            .finalize(),
    )
}

/// The private scalar and the public point of a SEC1 `ECPrivateKey`.
fn sec1(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (tag, mut body, _) = element(der)?;
    if tag != 0x30 {
        return None;
    }
    let (mut private, mut public) = (None, None);
    while !body.is_empty() {
        let (tag, content, rest) = element(body)?;
        match tag {
            0x04 => private = Some(content),
            0xa1 => public = element(content).and_then(|(_, bits, _)| bits.get(1..)),
            _ => {}
        }
        body = rest;
    }
    Some((private?, public?))
}

/// One DER element: its tag, its content, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let count = usize::from(first & 0x7f);
        if count > 2 {
            return None;
        }
        let (bytes, rest) = rest.split_at_checked(count)?;
        (
            bytes
                .iter()
                .fold(0, |length, byte| length << 8 | usize::from(*byte)),
            rest,
        )
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEC1: &str = "-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIMSpG3Z8kwHwzyZ6cH+cS5VRmh2UPLH4Y0U6JkrEa5o5oAoGCCqGSM49
AwEHoUQDQgAEAAAA
-----END EC PRIVATE KEY-----
";

    fn key() -> SigningKey {
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        let body = base64::engine::general_purpose::STANDARD.encode(document.as_ref());
        SigningKey::from_pem(
            format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n").as_bytes(),
        )
        .unwrap()
    }

    fn section(label: &str, der: &[u8]) -> String {
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
    }

    /// A point that was cut short was taken, and publishing it panicked.
    #[test]
    fn a_public_key_is_a_whole_point() {
        let point = key().verifying_key().point;
        for cut in [0, 1, 33, 64] {
            let der = [SPKI_P256, &point[..cut]].concat();
            let read = VerifyingKey::all_from_pem(section("PUBLIC KEY", &der).as_bytes());
            assert!(matches!(read, Err(Error::BadKey)), "{cut} bytes");
        }
    }

    #[test]
    fn every_private_key_of_a_file_is_read() {
        let file: String = (0..2)
            .map(|_| {
                let random = SystemRandom::new();
                let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
                section("PRIVATE KEY", key.as_ref())
            })
            .collect();
        let keys = VerifyingKey::all_from_pem(file.as_bytes()).unwrap();
        assert!(keys.len() == 2 && keys[0].id != keys[1].id);
    }

    #[test]
    fn a_token_verifies_with_its_own_key_only() {
        let (ours, other) = (key(), key());
        let token = ours.sign(&serde_json::json!({"sub": "a"})).unwrap();
        assert_eq!(verify(&token, &[ours.verifying_key()]).unwrap()["sub"], "a");
        assert!(matches!(
            verify(&token, &[other.verifying_key()]),
            Err(Error::Signature)
        ));
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let forged = format!("{}.{signature}", signed.replacen('.', ".eyJ", 1));
        assert!(matches!(
            verify(&forged, &[ours.verifying_key()]),
            Err(Error::Signature)
        ));
    }

    #[test]
    fn the_header_does_not_choose_the_algorithm() {
        let none = format!(
            "{}.{}.",
            URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#),
            URL_SAFE_NO_PAD.encode("{}")
        );
        assert!(matches!(
            verify(&none, &[key().verifying_key()]),
            Err(Error::Malformed)
        ));
        for bad in ["", "a", "a.b", "a.b.c", "...."] {
            assert!(verify(bad, &[]).is_err());
        }
    }

    #[test]
    fn a_cut_key_is_refused() {
        assert!(SigningKey::from_pem(SEC1.as_bytes()).is_err());
        assert!(matches!(SigningKey::from_pem(b""), Err(Error::NoKey)));
    }
}
