//! Checks of PodCertificateRequests. That the key is the pod's own is for the signer to see: the proof of possession is
//! not verified here yet.

use super::signer::signer_name;
use crate::strategy::access::{int, list, text};
use crate::validation::text::subdomain_problems;
use crate::validation::{ErrorList, FieldError};
use serde_json::Value;

/// Lives that may be asked for, in seconds: at least, at most, at most of the cluster's own signers.
const MIN_EXPIRATION: i64 = 3600;
const MAX_EXPIRATION: i64 = 91 * 86_400;
const MAX_KUBERNETES_EXPIRATION: i64 = 86_400;
/// Longest uid, key and proof, in bytes.
const MAX_UID: usize = 128;
const MAX_KEY: usize = 10 << 10;
const TERMINAL: [&str; 3] = ["Issued", "Denied", "Failed"];

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
    for field in ["pkixPublicKey", "proofOfPossession"] {
        if text(spec, &format!("/{field}")).len() / 4 * 3 > MAX_KEY {
            errors.push(FieldError::too_long(format!("spec.{field}"), MAX_KEY));
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
    }
    if errors.len() > before {
        return;
    }
    let has = |obj: &Value, kinds: &[&str]| {
        let mut conditions = list(obj, "/status/conditions").iter();
        conditions.any(|c| kinds.contains(&text(c, "/type")))
    };
    if has(old, &TERMINAL) {
        if new.get("status") != old.get("status") {
            let detail = "immutable after PodCertificateRequest is issued, denied, or failed";
            errors.invalid("status", new["status"].clone(), detail);
        }
    } else if has(new, &["Denied", "Failed"]) {
        let others = new["status"]
            .as_object()
            .is_some_and(|s| s.keys().any(|k| k != "conditions"));
        if others {
            let detail =
                "non-condition status fields must be empty when denying or failing the PodCertificateRequest";
            errors.invalid("status", new["status"].clone(), detail);
        }
    } else if has(new, &["Issued"]) && text(new, "/status/certificateChain").is_empty() {
        let detail = "issued certificate chain must contain at least one certificate";
        errors.invalid("status.certificateChain", "", detail);
    }
}
