//! The keys that certificates are asked for, and the proof that who asks holds the private half: the request's signature.

use p521::ecdsa::signature::Verifier as _;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_PKCS1_RSAENCRYPTION,
    OID_SIG_ECDSA_WITH_SHA512, OID_SIG_ED25519,
};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Whether the request is signed with the key that it is for.
pub(super) fn is_signed(request: &X509CertificationRequest<'_>) -> bool {
    let info = &request.certification_request_info;
    // The one curve that the library behind `verify_signature` does not know.
    if curve(&info.subject_pki).is_some_and(|curve| curve == OID_NIST_EC_P521) {
        let signed = || {
            if request.signature_algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA512 {
                return None;
            }
            let point = &info.subject_pki.subject_public_key.data;
            let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(point).ok()?;
            let signature = p521::ecdsa::DerSignature::try_from(&*request.signature_value.data).ok()?;
            key.verify(info.raw, &signature).ok()
        };
        return signed().is_some();
    }
    request.verify_signature().is_ok()
}

/// Whether pods may have certificates for such a key; says what is wrong with it otherwise.
pub(super) fn check_kind(key: &SubjectPublicKeyInfo<'_>) -> Result<(), &'static str> {
    let algorithm = &key.algorithm.algorithm;
    if *algorithm == OID_SIG_ED25519 {
        return Ok(());
    }
    if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let known = [OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521];
        return match curve(key) {
            Some(curve) if known.contains(&curve) => Ok(()),
            _ => Err("elliptic public keys must use curve P256, P384, or P521"),
        };
    }
    if *algorithm == OID_PKCS1_RSAENCRYPTION {
        return match key.parsed() {
            Ok(PublicKey::RSA(key)) if matches!(bits(key.modulus), 3072 | 4096) => Ok(()),
            _ => Err("RSA keys must have modulus size 3072 or 4096"),
        };
    }
    Err("unknown public key type; supported types are Ed25519, ECDSA, and RSA")
}

/// The curve that the parameters of an elliptic key name.
fn curve<'a>(key: &'a SubjectPublicKeyInfo<'_>) -> Option<x509_parser::der_parser::Oid<'a>> {
    if key.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY {
        return None;
    }
    key.algorithm.parameters.as_ref()?.as_oid().ok()
}

/// How many bits a number has that is written big end first.
fn bits(number: &[u8]) -> usize {
    let first = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    match number[first..].split_first() {
        Some((top, rest)) => 8 * rest.len() + 8 - top.leading_zeros() as usize,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_of_numbers() {
        for (number, expect) in [
            (&[][..], 0),
            (&[0, 0], 0),
            (&[1], 1),
            (&[0, 0x80, 0], 16),
            (&[0x7f, 0xff], 15),
        ] {
            assert_eq!(bits(number), expect, "{number:?}");
        }
    }
}
