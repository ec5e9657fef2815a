//! The identity in a client certificate: common name is the user, organizations are the groups.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{ALL_AUTHENTICATED, UserInfo};

/// Reads the user out of a certificate that the TLS handshake has verified.
pub(crate) fn user(certificate: &CertificateDer<'_>) -> Option<UserInfo> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    if name.is_empty() {
        return None;
    }
    let mut groups: Vec<String> = subject
        .iter_organization()
        .filter_map(|group| group.as_str().ok())
        .map(str::to_owned)
        .collect();
    groups.push(ALL_AUTHENTICATED.to_owned());
    Some(UserInfo {
        name,
        groups,
        ..UserInfo::default()
    })
}

/// The certificates of a PEM file as trust anchors.
pub(crate) fn roots(certificates: Vec<CertificateDer<'static>>) -> Result<Arc<RootCertStore>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate)?;
    }
    Ok(Arc::new(roots))
}
