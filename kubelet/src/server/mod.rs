//! The kubelet's HTTPS API, as upstream has it: `/pods`, `/containerLogs`, `/exec`, `/attach`, `/portForward`, `/run`.
//!
//! Nobody gets in without a client certificate signed by the configured CA, and then only with the API server's word
//! (SubjectAccessReview) that they may. Nothing is served from state of its own: pods come from the [`Host`], logs from
//! the files that containerd writes, and streams are relayed, byte for byte, to containerd's streaming server.

mod authorizer;
pub(crate) mod fuzzing;
mod handler;
pub(crate) mod logs;
mod query;
mod relay;
mod route;
mod tls;

#[cfg(test)]
mod tests;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::api::core::v1::Pod;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::runtime::Runtime;
use authorizer::Authorizer;

/// A peer that does not finish its handshake or its request head by then is cut off.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// After a failed accept (usually: no file descriptors left) the next one waits this long.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What the server asks of the rest of the kubelet.
pub trait Host: Send + Sync + 'static {
    /// The pods on this node, each with its latest status.
    fn pods(&self) -> Vec<Arc<Pod>>;

    /// One pod with its latest status.
    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>>;

    /// Resolves once CRI says that the container does not run (at once when that is so already). CRI says so after the
    /// last line of its log is written, so a follower that reads to the end then has everything.
    fn container_exit(&self, container_id: &str) -> BoxFuture<'static, ()>;
}

/// Where to listen and whom to trust.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// `address` and `port` of the KubeletConfiguration.
    pub address: SocketAddr,
    /// `tlsCertFile`: the chain presented to clients, PEM.
    pub tls_cert_file: PathBuf,
    /// `tlsPrivateKeyFile`, PEM.
    pub tls_private_key_file: PathBuf,
    /// `authentication.x509.clientCAFile`; without it no request is let in.
    pub client_ca_file: Option<PathBuf>,
    /// The name of this node: what callers need to be allowed to touch.
    pub node_name: String,
}

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The port is taken, or the address is not this node's.
    #[error("listening on {address}")]
    Listen {
        /// `address:port` of the configuration.
        address: SocketAddr,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// A certificate or key file is unusable.
    #[error("{field}: {}: {reason}", path.display())]
    File {
        /// The configuration field.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate and key do not belong together, or the like.
    #[error("setting up TLS")]
    Tls(#[from] rustls::Error),
}

/// A bound server that has not begun to answer.
pub struct Server<H> {
    listener: TcpListener,
    tls: TlsAcceptor,
    service: Arc<Service<H>>,
}

/// What every request is answered with.
struct Service<H> {
    host: Arc<H>,
    runtime: Runtime,
    authorizer: Authorizer,
}

impl<H: Host> Server<H> {
    /// Reads the certificates and takes the port.
    pub async fn bind(
        config: &ServerConfig,
        host: Arc<H>,
        runtime: Runtime,
        client: kube::Client,
    ) -> Result<Self, ServerError> {
        let tls = TlsAcceptor::from(Arc::new(tls::config(config)?));
        let listener = TcpListener::bind(config.address)
            .await
            .map_err(|source| ServerError::Listen {
                address: config.address,
                source,
            })?;
        let service = Service {
            host,
            runtime,
            authorizer: Authorizer::new(client, config.node_name.clone()),
        };
        Ok(Self {
            listener,
            tls,
            service: Arc::new(service),
        })
    }

    /// The address taken, for a configured port of 0.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until dropped. Streams in progress go on in tasks of their own.
    pub async fn run(self) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let (tls, service) = (self.tls.clone(), self.service.clone());
                    tokio::spawn(async move {
                        if let Err(error) = serve(stream, tls, service).await {
                            tracing::debug!(%peer, error = %error, "connection ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed, will retry");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }
}

async fn serve<H: Host>(
    stream: TcpStream,
    tls: TlsAcceptor,
    service: Arc<Service<H>>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    // Keystrokes of an interactive exec must not wait for more of them.
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HEAD_TIMEOUT, tls.accept(stream)).await??;
    let caller = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(tls::caller)
        .map(Arc::new);
    let answer = service_fn(move |request| {
        let (service, caller) = (service.clone(), caller.clone());
        async move {
            Ok::<_, std::convert::Infallible>(handler::answer(&service, caller.as_deref(), request).await)
        }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        // A client that has sent all it has to say still wants its answer.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), answer)
        .with_upgrades()
        .await?;
    Ok(())
}
