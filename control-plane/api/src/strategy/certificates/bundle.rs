//! Checks of ClusterTrustBundles.

use super::pem::blocks;
use super::signer::signer_name;
use crate::meta;
use crate::strategy::access::text;
use crate::validation::text::subdomain_problems;
use crate::validation::{ErrorList, FieldError};
use serde_json::Value;

/// The largest bundle, in bytes.
const MAX_BUNDLE: usize = 1 << 20;

/// A bundle; the certificates of an old one are not looked at again.
pub(super) fn bundle(obj: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let (name, signer) = (meta::name(obj), text(obj, "/spec/signerName"));
    let prefix = match signer {
        "" => String::new(),
        signer => format!("{}:", signer.replace('/', ":")),
    };
    match name.strip_prefix(&prefix) {
        Some(rest) if prefix.is_empty() && rest.contains(':') => {
            let detail = "ClusterTrustBundle without signer name must not have \":\" in its name";
            errors.invalid("metadata.name", name, detail);
        }
        Some(rest) => errors.problems("metadata.name", name, subdomain_problems(rest)),
        None => {
            let detail =
                format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}");
            errors.invalid("metadata.name", name, detail);
        }
    }
    if !signer.is_empty() {
        signer_name(signer, "spec.signerName", errors);
    }
    let anchors = text(obj, "/spec/trustBundle");
    if old.is_none_or(|old| text(old, "/spec/trustBundle") != anchors) {
        trust_anchors(anchors, errors);
    }
}

fn trust_anchors(pem: &str, errors: &mut ErrorList) {
    let path = "spec.trustBundle";
    if pem.len() > MAX_BUNDLE {
        errors.push(FieldError::too_long(path, MAX_BUNDLE));
        return;
    }
    let before = errors.len();
    let mut invalid = |detail: String| errors.invalid(path, "<value omitted>", detail);
    let blocks = blocks(pem);
    for (i, block) in blocks.iter().enumerate() {
        if block.label != "CERTIFICATE" {
            invalid(format!("entry {i} has bad block type: {}", block.label));
        } else if block.has_headers {
            invalid(format!("entry {i} has PEM block headers"));
        } else {
            match x509_parser::parse_x509_certificate(&block.contents) {
                Err(_) => invalid(format!("entry {i} does not parse as X.509")),
                Ok((_, certificate)) if !certificate.is_ca() => {
                    invalid(format!("entry {i} does not have the CA bit set"));
                }
                Ok(_) => {}
            }
        }
    }
    if errors.len() > before {
        return;
    }
    let mut invalid = |detail: String| errors.invalid(path, "<value omitted>", detail);
    if blocks.is_empty() {
        invalid("at least one trust anchor must be provided".into());
    }
    for (i, block) in blocks.iter().enumerate() {
        let same = |other: &usize| blocks[*other].contents == block.contents;
        let indices: Vec<String> = (0..blocks.len()).filter(same).map(|i| i.to_string()).collect();
        if indices.len() > 1 && indices[0] == i.to_string() {
            invalid(format!(
                "duplicate trust anchor (indices [{}])",
                indices.join(" ")
            ));
        }
    }
}
