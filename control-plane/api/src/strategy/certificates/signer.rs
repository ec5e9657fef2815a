//! Names of signers: `example.com/signer-name`.

use crate::validation::text::{DNS_LABEL_MAX, DNS_SUBDOMAIN_MAX, label_problems, subdomain_problems};
use crate::validation::{ErrorList, FieldError};

const FORM: &str = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
/// Both parts must fit into names of objects.
const MAX_SIGNER: usize = DNS_SUBDOMAIN_MAX + 1 + DNS_SUBDOMAIN_MAX + 1 + DNS_LABEL_MAX;

/// Checks a signer's name.
pub(in crate::strategy) fn signer_name(name: &str, path: &str, errors: &mut ErrorList) {
    if !errors.present(path, name) {
        return;
    }
    let (domain, signer) = match name.split_once('/') {
        Some((domain, signer)) if !signer.contains('/') => (domain, signer),
        _ => {
            errors.invalid(path, name, FORM);
            return;
        }
    };
    if domain.len() > DNS_SUBDOMAIN_MAX {
        errors.push(FieldError::too_long(path, DNS_SUBDOMAIN_MAX));
    }
    for label in domain.split('.') {
        for problem in label_problems(label) {
            errors.invalid(path, domain, format!("validating label {label:?}: {problem}"));
        }
    }
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.invalid(path, domain, detail);
    }
    for label in signer.split('.') {
        for problem in subdomain_problems(label) {
            errors.invalid(path, signer, format!("validating label {label:?}: {problem}"));
        }
    }
    if name.len() > MAX_SIGNER {
        errors.push(FieldError::too_long(path, MAX_SIGNER));
    }
}
