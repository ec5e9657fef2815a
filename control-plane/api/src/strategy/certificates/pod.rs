//! Checks of PodCertificateRequests: who the pod is, that its key is its own, and that what was issued is for that key.

use super::key;
use super::pem::{Block, blocks};
use super::signer::signer_name;
use crate::strategy::access::{int, list, map, text};
use crate::validation::text::{qualified_name_problems, subdomain_problems};
use crate::validation::{ErrorList, FieldError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Lives that may be asked for, in seconds: at least, at most, at most of the cluster's own signers.
const MIN_EXPIRATION: i64 = 3600;
const MAX_EXPIRATION: i64 = 91 * 86_400;
const MAX_KUBERNETES_EXPIRATION: i64 = 86_400;
/// Longest uid, request, and chain, in bytes; most bytes of annotations.
const MAX_UID: usize = 128;
const MAX_REQUEST: usize = 10 << 10;
const MAX_CHAIN: usize = 100 << 10;
const MAX_ANNOTATIONS: usize = 256 << 10;
/// A certificate is not renewed sooner after its beginning, or later before its end.
const REFRESH_MARGIN: SignedDuration = SignedDuration::from_mins(10);
pub(super) const TERMINAL: [&str; 3] = ["Issued", "Denied", "Failed"];

const REQUEST: &str = "spec.stubPKCS10Request";
const CHAIN: &str = "status.certificateChain";

/// A new request.
pub(super) fn create(obj: &Value, errors: &mut ErrorList) {
    let spec = &obj["spec"];
    let signer = text(spec, "/signerName");
    signer_name(signer, "spec.signerName", errors);
    for (name, uid) in [
        ("podName", "podUID"),
        ("serviceAccountName", "serviceAccountUID"),
        ("nodeName", "nodeUID"),
    ] {
        let value = text(spec, &format!("/{name}"));
        errors.problems(&format!("spec.{name}"), value, subdomain_problems(value));
        let (value, path) = (text(spec, &format!("/{uid}")), format!("spec.{uid}"));
        if value.is_empty() {
            errors.invalid(path, value, "must not be empty");
        } else if value.len() > MAX_UID {
            errors.push(FieldError::too_long(path, MAX_UID));
        }
    }
    let field = "unverifiedUserAnnotations";
    user_annotations(spec, field, &format!("spec.{field}"), errors);
    let Some(seconds) = int(spec, "/maxExpirationSeconds") else {
        errors.required("spec.maxExpirationSeconds", "must be set");
        return;
    };
    let domain = signer.split('/').next().unwrap_or("");
    let own = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
    let most = if own {
        MAX_KUBERNETES_EXPIRATION
    } else {
        MAX_EXPIRATION
    };
    if !(MIN_EXPIRATION..=most).contains(&seconds) {
        let detail = format!("must be in the range [{MIN_EXPIRATION}, {most}]");
        errors.invalid("spec.maxExpirationSeconds", seconds, detail);
    }
    possession(text(spec, "/stubPKCS10Request"), errors);
}

/// What the pod's author has to tell the signer.
pub(in crate::strategy) fn user_annotations(owner: &Value, field: &str, path: &str, errors: &mut ErrorList) {
    let mut bytes = 0;
    for (name, value) in map(owner, &format!("/{field}")).into_iter().flatten() {
        bytes += name.len() + value.as_str().map_or(0, str::len);
        errors.problems(path, name, qualified_name_problems(&name.to_lowercase()));
        if !name.contains('/') {
            let detail = "must be a domain-prefixed key (such as \"acme.io/foo\")";
            errors.invalid(path, name.as_str(), detail);
        }
    }
    if bytes > MAX_ANNOTATIONS {
        errors.push(FieldError::too_long(path, MAX_ANNOTATIONS));
    }
}

/// The key is of a kind that pods may have, and who asks has signed with it.
fn possession(encoded: &str, errors: &mut ErrorList) {
    // Whatever is no base64 was refused when the object was read.
    let der = STANDARD.decode(encoded).unwrap_or_default();
    if der.is_empty() {
        errors.required(REQUEST, "");
        return;
    }
    if der.len() > MAX_REQUEST {
        errors.push(FieldError::too_long(REQUEST, MAX_REQUEST));
        return;
    }
    let request = match X509CertificationRequest::from_der(&der) {
        Ok(([], request)) => request,
        _ => {
            errors.invalid(REQUEST, encoded, "must be a DER-serialized PKCS#10 request");
            return;
        }
    };
    if let Err(detail) = key::check_kind(&request.certification_request_info.subject_pki) {
        errors.push(FieldError::omitted(REQUEST, detail));
    } else if !key::is_signed(&request) {
        let detail = "could not verify proof-of-possession signature";
        errors.push(FieldError::omitted(REQUEST, detail));
    }
}

/// Fills in the times of conditions that have none: a condition that stood before keeps the time of its beginning.
pub(super) fn date_conditions(new: &mut Value, old: &Value, now: &str) {
    let conditions = new
        .pointer_mut("/status/conditions")
        .and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        if !text(condition, "/lastTransitionTime").is_empty() {
            continue;
        }
        let mut before = list(old, "/status/conditions").iter();
        let same = before.find(|before| {
            let agrees = |field: &str| before.get(field) == condition.get(field);
            agrees("type") && agrees("status") && !text(before, "/lastTransitionTime").is_empty()
        });
        let time = same.map_or(now, |before| text(before, "/lastTransitionTime"));
        if let Some(condition) = condition.as_object_mut() {
            condition.insert("lastTransitionTime".into(), time.into());
        }
    }
}

/// What a signer answers: once, and with one of three outcomes.
pub(super) fn status(new: &Value, old: &Value, errors: &mut ErrorList) {
    let before = errors.len();
    let conditions = list(new, "/status/conditions");
    let mut known = 0;
    for (i, condition) in conditions.iter().enumerate() {
        let path = format!("status.conditions[{i}]");
        let kind = text(condition, "/type");
        if !TERMINAL.contains(&kind) {
            errors.one_of(&format!("{path}.type"), kind, &TERMINAL);
            continue;
        }
        known += 1;
        if known > 1 {
            let detail = "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"";
            errors.invalid(format!("{path}.type"), kind, detail);
        }
        errors.one_of(&format!("{path}.status"), text(condition, "/status"), &["True"]);
        if text(condition, "/lastTransitionTime").is_empty() {
            errors.required(format!("{path}.lastTransitionTime"), "must be set");
        }
        errors.present(&format!("{path}.reason"), text(condition, "/reason"));
    }
    if errors.len() > before {
        return;
    }
    let has = |obj: &Value, kinds: &[&str]| {
        let mut conditions = list(obj, "/status/conditions").iter();
        conditions.any(|c| kinds.contains(&text(c, "/type")))
    };
    let change = |detail: &str| FieldError::omitted("status", detail);
    if has(old, &TERMINAL) {
        if !same_status(new, old) {
            errors.push(change(
                "immutable after PodCertificateRequest is issued, denied, or failed",
            ));
        }
    } else if has(new, &["Denied", "Failed"]) {
        let others = new["status"]
            .as_object()
            .is_some_and(|s| s.keys().any(|k| k != "conditions"));
        if others {
            let detail =
                "non-condition status fields must be empty when denying or failing the PodCertificateRequest";
            errors.push(change(detail));
        }
    } else if has(new, &["Issued"]) {
        if let Err(error) = issued(new) {
            errors.push(error);
        }
    } else if !same_status(new, old) {
        let detail = "status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"";
        errors.push(change(detail));
    }
}

/// Whether two objects have the same status; no conditions and an empty list of them are the same.
fn same_status(one: &Value, other: &Value) -> bool {
    let fields = |obj: &Value| {
        let mut fields = obj["status"].as_object().cloned().unwrap_or_default();
        fields.retain(|_, value| !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty()));
        fields
    };
    fields(one) == fields(other)
}

/// The chain begins with a certificate for the key that was asked for, and the status repeats what it says.
fn issued(obj: &Value) -> Result<(), FieldError> {
    let chain = text(obj, "/status/certificateChain");
    let invalid =
        |path: &str, value: &str, detail: String| Err(FieldError::invalid(path, &value.into(), detail));
    if chain.len() > MAX_CHAIN {
        return Err(FieldError::too_long(CHAIN, MAX_CHAIN));
    }
    let blocks = blocks(chain);
    let Some((leaf, rest)) = blocks.split_first() else {
        let detail = "issued certificate chain must contain at least one certificate";
        return invalid(CHAIN, chain, detail.into());
    };
    if blocks.iter().any(|block| block.label != "CERTIFICATE") {
        let detail = "issued certificate chain must consist entirely of CERTIFICATE PEM blocks";
        return invalid(CHAIN, chain, detail.into());
    }
    let Some(leaf) = certificate(leaf) else {
        return invalid(
            CHAIN,
            chain,
            "leaf certificate does not parse as valid X.509".into(),
        );
    };
    for name in dns_names(&leaf) {
        let detail = match name {
            "" => "leaf certificate should not contain empty DNSName",
            name if name.contains("..") => "leaf certificate's DNSName should not contain '..'",
            name if name.starts_with('.') || name.ends_with('.') => {
                "leaf certificate's DNSName should not start or end with '.'"
            }
            _ => continue,
        };
        return invalid(CHAIN, name, detail.into());
    }
    let asked = STANDARD
        .decode(text(obj, "/spec/stubPKCS10Request"))
        .unwrap_or_default();
    let asked = X509CertificationRequest::from_der(&asked).ok();
    let asked = asked.map(|(_, request)| request.certification_request_info.subject_pki);
    if asked.is_none_or(|asked| asked.raw != leaf.public_key().raw) {
        let detail = "leaf certificate was not issued to the requested public key";
        return invalid(CHAIN, chain, detail.into());
    }

    let time = |field: &str, detail: &str| {
        let path = format!("status.{field}");
        let value = text(obj, &format!("/status/{field}"));
        match value.parse::<Timestamp>() {
            Ok(time) => Ok((path, value, time)),
            Err(_) => Err(FieldError::required(path, detail)),
        }
    };
    let consistent = "must be present and consistent with the issued certificate";
    let before = time("notBefore", consistent)?;
    let after = time("notAfter", consistent)?;
    let in_range = "must be present and in the range [notbefore+10min, notafter-10min]";
    let refresh = time("beginRefreshAt", in_range)?;
    for (name, (path, value, time), own) in [
        ("NotBefore", &before, leaf.validity().not_before),
        ("NotAfter", &after, leaf.validity().not_after),
    ] {
        if time.as_second() != own.timestamp() {
            let detail = format!("must be set to the {name} time encoded in the leaf certificate");
            return invalid(path, value, detail);
        }
    }
    let lifetime = after.2.duration_since(before.2);
    let shown = lifetime.to_string();
    if lifetime < SignedDuration::from_secs(MIN_EXPIRATION) {
        return invalid(
            CHAIN,
            &shown,
            "leaf certificate lifetime must be >= 1 hour".into(),
        );
    }
    let most = int(obj, "/spec/maxExpirationSeconds").unwrap_or(0);
    if lifetime > SignedDuration::from_secs(most) {
        let detail = format!("leaf certificate lifetime must be <= spec.maxExpirationSeconds ({most})");
        return invalid(CHAIN, &shown, detail);
    }
    if refresh.2.duration_since(before.2) < REFRESH_MARGIN {
        let detail = "must be at least 10 minutes after status.notBefore";
        return invalid(&refresh.0, refresh.1, detail.into());
    }
    if after.2.duration_since(refresh.2) < REFRESH_MARGIN {
        let detail = "must be at least 10 minutes before status.notAfter";
        return invalid(&refresh.0, refresh.1, detail.into());
    }
    if rest.iter().any(|block| certificate(block).is_none()) {
        let detail = "intermediate certificate does not parse as valid X.509";
        return invalid(CHAIN, chain, detail.into());
    }
    Ok(())
}

fn certificate<'a>(block: &'a Block<'_>) -> Option<X509Certificate<'a>> {
    match X509Certificate::from_der(&block.contents) {
        Ok(([], certificate)) => Some(certificate),
        _ => None,
    }
}

fn dns_names<'a>(certificate: &'a X509Certificate<'_>) -> impl Iterator<Item = &'a str> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names
        .into_iter()
        .flat_map(|extension| &extension.value.general_names);
    names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(*name),
        _ => None,
    })
}
