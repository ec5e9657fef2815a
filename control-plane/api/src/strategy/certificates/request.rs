//! Checks of CertificateSigningRequests.

use super::key;
use super::pem::blocks;
use super::signer::signer_name;
use crate::strategy::access::{int, list, text};
use crate::validation::ErrorList;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

/// The shortest life that may be asked for, in seconds.
const MIN_EXPIRATION: i64 = 600;
/// Conditions that are decisions: they are true or absent, and stay.
const DECISIONS: [&str; 3] = ["Approved", "Denied", "Failed"];
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// The endpoint that an update comes through: what it may change.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Metadata only.
    Spec,
    /// The certificate, and conditions that are no decisions.
    Status,
    /// Conditions.
    Approval,
}

/// A new request.
pub(super) fn create(obj: &Value, errors: &mut ErrorList) {
    request(obj, &Value::Null, errors);
}

fn request(obj: &Value, old: &Value, errors: &mut ErrorList) {
    let spec = &obj["spec"];
    if let Err(problem) = parse(text(spec, "/request")) {
        errors.invalid("spec.request", spec["request"].clone(), problem);
    }
    let usages = list(spec, "/usages");
    if usages.is_empty() {
        errors.required("spec.usages", "");
    }
    for (i, usage) in usages.iter().enumerate() {
        let (path, text) = (format!("spec.usages[{i}]"), usage.as_str().unwrap_or(""));
        errors.one_of(&path, text, &USAGES);
        if usages[..i].contains(usage) {
            errors.duplicate(path, text);
        }
    }
    let signer = text(spec, "/signerName");
    if signer == "kubernetes.io/legacy-unknown" {
        let detail = "the legacy signerName is not allowed via this API version";
        errors.invalid("spec.signerName", signer, detail);
    } else {
        signer_name(signer, "spec.signerName", errors);
    }
    if let Some(seconds) = int(spec, "/expirationSeconds").filter(|s| *s < MIN_EXPIRATION) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.invalid("spec.expirationSeconds", seconds, detail);
    }
    conditions(obj, errors);
    let certificate = text(obj, "/status/certificate");
    if certificate != text(old, "/status/certificate")
        && let Err(problem) = parse_certificates(certificate)
    {
        errors.invalid("status.certificate", "<certificate data>", problem);
    }
}

/// The organizations in the subject of an encoded signing request: the groups that its certificate would have. None of one that
/// cannot be read, which validation refuses.
pub fn organizations(encoded: &str) -> Vec<String> {
    let Ok(der) = contents(encoded) else {
        return Vec::new();
    };
    let Ok((_, request)) = X509CertificationRequest::from_der(&der) else {
        return Vec::new();
    };
    let organizations = request.certification_request_info.subject.iter_organization();
    organizations
        .filter_map(|group| group.as_str().ok())
        .map(str::to_owned)
        .collect()
}

/// What is in the PEM block of an encoded request.
fn contents(encoded: &str) -> Result<Vec<u8>, String> {
    let pem = STANDARD.decode(encoded).unwrap_or_default();
    let pem = String::from_utf8_lossy(&pem);
    let first = blocks(&pem).into_iter().next();
    let block = first.filter(|block| block.label == "CERTIFICATE REQUEST");
    let block = block.ok_or("PEM block type must be CERTIFICATE REQUEST")?;
    Ok(block.contents)
}

/// Parses a request and checks that who asks has the key.
fn parse(encoded: &str) -> Result<(), String> {
    let der = contents(encoded)?;
    let (_, request) = X509CertificationRequest::from_der(&der).map_err(|e| format!("asn1: {e}"))?;
    match key::is_signed(&request) {
        true => Ok(()),
        false => Err("x509: signature verification failed".to_string()),
    }
}

fn parse_certificates(encoded: &str) -> Result<(), String> {
    if encoded.is_empty() {
        return Ok(());
    }
    let pem = STANDARD.decode(encoded).unwrap_or_default();
    let pem = String::from_utf8_lossy(&pem);
    let blocks = blocks(&pem);
    if blocks.is_empty() {
        return Err("must contain at least one CERTIFICATE PEM block".into());
    }
    for block in &blocks {
        if block.label != "CERTIFICATE" {
            return Err(format!(
                "only CERTIFICATE PEM blocks are allowed, found {:?}",
                block.label
            ));
        }
        if block.has_headers {
            return Err("no PEM block headers are permitted".into());
        }
        x509_parser::parse_x509_certificate(&block.contents).map_err(|e| format!("x509: {e}"))?;
    }
    Ok(())
}

fn conditions(obj: &Value, errors: &mut ErrorList) {
    let path = "status.conditions";
    let conditions = list(obj, "/status/conditions");
    for (i, condition) in conditions.iter().enumerate() {
        let (kind, status) = (text(condition, "/type"), text(condition, "/status"));
        errors.present(&format!("{path}[{i}].type"), kind);
        let allowed: &[&str] = if DECISIONS.contains(&kind) {
            &["True"]
        } else {
            &["False", "True", "Unknown"]
        };
        let at = format!("{path}[{i}].status");
        if errors.present(&at, status) {
            errors.one_of(&at, status, allowed);
        }
        let earlier = |other: &str| conditions[..i].iter().any(|c| text(c, "/type") == other);
        let opposite = match kind {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if !opposite.is_empty() && earlier(opposite) {
            let detail = "Approved and Denied conditions are mutually exclusive";
            errors.invalid(format!("{path}[{i}].type"), kind, detail);
        }
        if earlier(kind) {
            errors.duplicate(format!("{path}[{i}].type"), kind);
        }
    }
}

fn of_type<'a>(obj: &'a Value, kind: &str) -> Vec<&'a Value> {
    let conditions = list(obj, "/status/conditions").iter();
    conditions.filter(|c| text(c, "/type") == kind).collect()
}

/// A status update leaves decisions as they are. Where there are more or fewer of them than before, that is for validation
/// to refuse.
pub(super) fn keep_conditions(new: &mut Value, old: &Value, kinds: &[&str]) {
    for kind in kinds {
        let before: Vec<Value> = of_type(old, kind).into_iter().cloned().collect();
        if of_type(new, kind).len() != before.len() {
            continue;
        }
        let conditions = new
            .pointer_mut("/status/conditions")
            .and_then(Value::as_array_mut);
        let same_kind = conditions
            .into_iter()
            .flatten()
            .filter(|condition| text(condition, "/type") == *kind);
        for (condition, before) in same_kind.zip(before) {
            *condition = before;
        }
    }
}

/// An updated request.
pub(super) fn update(new: &Value, old: &Value, change: Change, errors: &mut ErrorList) {
    request(new, old, errors);
    for kind in DECISIONS {
        let (now, then) = (of_type(new, kind), of_type(old, kind));
        if now.len() < then.len() {
            let detail = format!("updates may not remove a condition of type {kind:?}");
            errors.forbidden("status.conditions", detail);
        } else if change != Change::Approval && kind != "Failed" && now != then {
            let verb = if now.len() > then.len() { "add" } else { "modify" };
            let detail = format!("updates may not {verb} a condition of type {kind:?}");
            errors.forbidden("status.conditions", detail);
        }
    }
    let certificate = |obj: &Value| text(obj, "/status/certificate").to_string();
    if certificate(new) != certificate(old) {
        let path = "status.certificate";
        if change != Change::Status {
            errors.forbidden(path, "updates may not set certificate content");
        } else if !certificate(old).is_empty() {
            errors.forbidden(path, "updates may not modify existing certificate content");
        }
    }
}
