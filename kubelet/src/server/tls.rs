//! TLS with client certificates.

use std::{path::Path, sync::Arc};

use rustls::{RootCertStore, ServerConfig as TlsConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{ServerConfig, ServerError, authorizer::Caller};

/// TLS as the configuration asks for it. A client may come without a certificate, and is then told so by a 401 rather
/// than by a failed handshake; one with a certificate that is not the CA's gets no connection.
pub(super) fn config(config: &ServerConfig) -> Result<TlsConfig, ServerError> {
    let chain = certificates("tlsCertFile", &config.tls_cert_file)?;
    let key = PrivateKeyDer::from_pem_file(&config.tls_private_key_file)
        .map_err(|error| unusable("tlsPrivateKeyFile", &config.tls_private_key_file, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = TlsConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = match &config.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let field = "authentication.x509.clientCAFile";
            let mut roots = RootCertStore::empty();
            for certificate in certificates(field, path)? {
                roots
                    .add(certificate)
                    .map_err(|error| unusable(field, path, &error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|error| unusable(field, path, &error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut tls = builder.with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}

/// Who the verified certificate names: the common name is the user, organizations are groups.
pub(super) fn caller(chain: &[CertificateDer<'_>]) -> Option<Caller> {
    let (_, certificate) = X509Certificate::from_der(chain.first()?).ok()?;
    let subject = certificate.subject();
    let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    if user.is_empty() {
        return None;
    }
    let groups = subject
        .iter_organization()
        .filter_map(|group| group.as_str().ok())
        .map(str::to_owned)
        .collect();
    Some(Caller { user, groups })
}

fn certificates(field: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, ServerError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .map_err(|error| unusable(field, path, &error))?;
    if certificates.is_empty() {
        return Err(ServerError::File {
            field,
            path: path.to_owned(),
            reason: "holds no certificate".into(),
        });
    }
    Ok(certificates)
}

fn unusable(field: &'static str, path: &Path, error: &dyn std::fmt::Display) -> ServerError {
    ServerError::File {
        field,
        path: path.to_owned(),
        reason: error.to_string(),
    }
}
