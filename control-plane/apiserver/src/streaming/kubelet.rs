//! Connections to kubelets: where a node listens, TLS that is verified, one HTTP/1.1 connection for each stream.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use api::status::{self, Status};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{
    authn::x509,
    body::RequestBody,
    context::Api,
    server::{Config, Error, read_certificates, read_key, required},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_PORT: u16 = 10250;

/// Connects to kubelets with the API server's own certificate.
pub(crate) struct KubeletClient {
    connector: TlsConnector,
}

/// Where a node's kubelet listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeAddress {
    pub(super) node: String,
    pub(super) address: SocketAddr,
}

impl KubeletClient {
    /// A client, when the flags name a certificate for it.
    pub(crate) fn from_config(config: &Config) -> Result<Option<Self>, Error> {
        let Some(certificate) = &config.kubelet_client_certificate else {
            return Ok(None);
        };
        let chain = read_certificates("kubelet-client-certificate", certificate)?;
        let key = required("kubelet-client-key", &config.kubelet_client_key)?;
        let key = read_key("kubelet-client-key", key)?;
        let bad = |error: rustls::Error| Error::Tls(error.to_string());
        // Without an authority nothing is trusted: a kubelet that is not verified is not spoken to.
        let roots = match &config.kubelet_certificate_authority {
            Some(path) => {
                x509::roots(read_certificates("kubelet-certificate-authority", path)?).map_err(bad)?
            }
            None => Arc::new(RootCertStore::empty()),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(bad)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(bad)?;
        Ok(Some(KubeletClient {
            connector: TlsConnector::from(Arc::new(tls)),
        }))
    }

    /// Sends a request to a node's kubelet; an upgrade is left to the caller.
    pub(super) async fn send(
        &self,
        node: &NodeAddress,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Status> {
        let failed = |why: String| {
            status::internal_error(format!(
                "dialing the kubelet of node {} at {}: {why}",
                node.node, node.address
            ))
        };
        let connected = async {
            let stream = TcpStream::connect(node.address)
                .await
                .map_err(|error| error.to_string())?;
            let _ = stream.set_nodelay(true);
            let name = ServerName::IpAddress(node.address.ip().into());
            self.connector
                .connect(name, stream)
                .await
                .map_err(|error| error.to_string())
        };
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connected)
            .await
            .map_err(|_| failed("timed out".to_owned()))?
            .map_err(failed)?;
        exchange(stream, request).await.map_err(failed)
    }
}

/// Sends one request over a fresh connection.
pub(super) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<RequestBody>,
) -> Result<Response<Incoming>, String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to a backend ended");
        }
    });
    sender
        .send_request(request)
        .await
        .map_err(|error| error.to_string())
}

/// Where the kubelet of a node listens, as its Node says.
pub(super) fn locate(api: &Api, node: &str) -> Result<NodeAddress, Status> {
    let nodes = api.builtin("", "v1", "nodes")?;
    let object = api
        .cached(&nodes)?
        .get(&nodes.key(None, node)?)
        .ok_or_else(|| nodes.not_found(node))?;
    let address = kubelet_address(&object.value()).ok_or_else(|| {
        status::internal_error(format!("no preferred addresses found; node {node} reports none"))
    })?;
    if !may_dial(address.ip()) {
        let why = format!(
            "node {node} reports the address {}, which is not dialed",
            address.ip()
        );
        return Err(status::bad_request(why));
    }
    Ok(NodeAddress {
        node: node.to_owned(),
        address,
    })
}

fn kubelet_address(node: &Value) -> Option<SocketAddr> {
    let addresses = node["status"]["addresses"].as_array()?;
    let of = |kind: &str| {
        addresses
            .iter()
            .filter(|address| address["type"] == kind)
            .find_map(|address| address["address"].as_str()?.parse::<IpAddr>().ok())
    };
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    let port = port
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port > 0)
        .unwrap_or(DEFAULT_PORT);
    Some(SocketAddr::new(
        of("InternalIP").or_else(|| of("ExternalIP"))?,
        port,
    ))
}

/// Addresses that lead back to this machine or nowhere are never dialed on somebody's say-so.
pub(super) fn may_dial(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.to_ipv4_mapped().is_some(),
    };
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || link_local)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_internal_address_and_the_reported_port() {
        let node = json!({"status": {
            "addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "172.31.0.11"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10251}},
        }});
        assert_eq!(kubelet_address(&node), Some("172.31.0.11:10251".parse().unwrap()));
        assert_eq!(kubelet_address(&json!({"status": {}})), None);
    }

    #[test]
    fn nobody_talks_us_into_dialing_ourselves() {
        for address in [
            "127.0.0.1",
            "::1",
            "169.254.169.254",
            "0.0.0.0",
            "fe80::1",
            "224.0.0.1",
            "::ffff:127.0.0.1",
        ] {
            assert!(!may_dial(address.parse().unwrap()), "{address}");
        }
        assert!(may_dial("172.31.0.11".parse().unwrap()) && may_dial("fd00:31::11".parse().unwrap()));
    }
}
