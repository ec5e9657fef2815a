//! The identity in a client certificate: common name is the user, organizations are the groups.
//!
//! The handshake only makes sure that the client holds the key. Who signed the certificate is looked at afterwards, so
//! that a stranger's certificate is answered with a 401 that its owner can read, and not with a broken connection.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::CryptoProvider,
    server::{
        VerifierBuilderError, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{ALL_AUTHENTICATED, UserInfo};

/// What the client certificate of a connection says.
#[derive(Debug)]
pub(crate) enum Presented {
    /// It was signed by the authority, and names a user for as long as it is valid.
    User {
        user: UserInfo,
        /// The last moment of the chain's validity, in seconds since 1970.
        not_after: i64,
    },
    /// It proves nothing; the text says why.
    Refused(String),
}

impl Presented {
    /// The user, unless the certificate proves nothing or has expired since the handshake.
    pub(crate) fn user(&self, now: Timestamp) -> Option<&UserInfo> {
        match self {
            Presented::User { user, not_after } if now.as_second() <= *not_after => Some(user),
            _ => None,
        }
    }
}

/// Who signs client certificates.
#[derive(Debug)]
pub(crate) struct Authority(Arc<dyn ClientCertVerifier>);

impl Authority {
    pub(crate) fn new(
        roots: Arc<RootCertStore>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, VerifierBuilderError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
            .allow_unauthenticated()
            .build()?;
        Ok(Authority(verifier))
    }

    /// Reads the chain that a client presented, its own certificate first.
    pub(crate) fn examine(&self, chain: &[CertificateDer<'_>]) -> Presented {
        let Some((own, intermediates)) = chain.split_first() else {
            return Presented::Refused("the chain is empty".to_owned());
        };
        if let Err(error) = self.0.verify_client_cert(own, intermediates, UnixTime::now()) {
            return Presented::Refused(error.to_string());
        }
        let not_after = chain.iter().filter_map(not_after).min();
        match (user(own), not_after) {
            (Some(user), Some(not_after)) => Presented::User { user, not_after },
            _ => Presented::Refused("it has no common name".to_owned()),
        }
    }
}

/// Asks every client for a certificate, and takes any whose key the client holds.
#[derive(Debug)]
pub(crate) struct AnyCertificate(pub(crate) Arc<Authority>);

impl AnyCertificate {
    fn checks(&self) -> &dyn ClientCertVerifier {
        &*self.0.0
    }
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    // Clients with several certificates choose by it.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.checks().root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _own: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.checks().verify_tls12_signature(message, own, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.checks().verify_tls13_signature(message, own, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.checks().supported_verify_schemes()
    }
}

/// Reads the user out of a certificate that has been verified.
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

/// The last moment of a certificate's validity, in seconds since 1970.
pub(crate) fn not_after(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// The certificates of a PEM file as trust anchors.
pub(crate) fn roots(certificates: Vec<CertificateDer<'static>>) -> Result<Arc<RootCertStore>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate)?;
    }
    Ok(Arc::new(roots))
}
