//! kubeconfig files: the administrator's and the components'.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};

use crate::pki::{Pki, write_private};

/// Writes a kubeconfig that speaks to `server` with the certificate `identity`, all data embedded.
pub(crate) fn write(path: &Path, pki: &Pki, cluster: &str, server: &str, identity: &str) -> Result<()> {
    let encoded = |path: &Path| -> Result<String> {
        Ok(STANDARD.encode(fs::read(path).with_context(|| format!("read {}", path.display()))?))
    };
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: {cluster}\n\
         clusters:\n- name: {cluster}\n  cluster:\n    server: {server}\n    certificate-authority-data: {authority}\n\
         contexts:\n- name: {cluster}\n  context:\n    cluster: {cluster}\n    user: {identity}\n\
         users:\n- name: {identity}\n  user:\n    client-certificate-data: {certificate}\n    client-key-data: {key}\n",
        authority = encoded(&pki.certificate("ca"))?,
        certificate = encoded(&pki.certificate(identity))?,
        key = encoded(&pki.private_key(identity))?,
    );
    if fs::read_to_string(path).is_ok_and(|current| current == text) {
        return Ok(());
    }
    write_private(path, &text)
}
