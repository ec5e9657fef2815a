//! Sockets, TLS and HTTP: from an accepted connection to requests in the pipeline.

use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use futures::FutureExt;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rand::RngExt;
use rustls::ServerConfig;
use tokio::{net::TcpListener, net::TcpStream, task::JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::{
    authn::x509,
    body::request_body,
    context::Api,
    pipeline,
    server::{Error, read_certificates, read_key, required},
};

/// A handshake that takes longer is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A client's informers share one connection: each watch is a stream of it.
const STREAMS_MAX: u32 = 1000;
/// Receive windows: they cost memory only while a client sends faster than it is read.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// How much of a response may wait for a slow connection.
const SEND_BUFFER_BYTES: usize = 128 * 1024;
/// An idle connection is probed this often, and closed when it stays silent.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// All headers of a request together; upstream's limit too. More is answered with 431.
const HEADER_BYTES_MAX: u32 = 1024 * 1024;
/// How long requests that are being answered may take to end when the server stops.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Sockets that are bound, with TLS ready.
pub struct Listening {
    api: Arc<Api>,
    tls: Tls,
    listeners: Vec<TcpListener>,
}

/// What a connection is accepted with.
#[derive(Clone)]
struct Tls {
    acceptor: TlsAcceptor,
    /// Who signs client certificates; without it none is asked for.
    authority: Option<Arc<x509::Authority>>,
}

/// Binds the configured address, takes over the inherited sockets, reads the certificates.
pub(crate) async fn listen(api: Arc<Api>) -> Result<Listening, Error> {
    let tls = tls(&api)?;
    let address = SocketAddr::new(api.config.bind_address, api.config.secure_port);
    let bound = TcpListener::bind(address)
        .await
        .map_err(|source| Error::Bind { address, source })?;
    let mut listeners = vec![bound];
    listeners.extend(inherited()?);
    Ok(Listening { api, tls, listeners })
}

impl Listening {
    /// The addresses that are listened on.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect()
    }

    /// Serves until [`shut_down`](crate::Server::shut_down), or until dropped. Then nobody is let in any more; watches
    /// end, and whoever is being answered gets the rest of the answer.
    pub async fn run(self) {
        let connections = TaskTracker::new();
        let mut accepting = JoinSet::new();
        for listener in self.listeners {
            accepting.spawn(accept(
                self.api.clone(),
                self.tls.clone(),
                listener,
                connections.clone(),
            ));
        }
        while accepting.join_next().await.is_some() {}
        connections.close();
        if tokio::time::timeout(DRAIN_MAX, connections.wait()).await.is_err() {
            tracing::warn!(left = connections.len(), "connections are cut off");
        }
    }
}

async fn accept(api: Arc<Api>, tls: Tls, listener: TcpListener, connections: TaskTracker) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = api.draining.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (api, tls) = (api.clone(), tls.clone());
                connections.spawn(async move {
                    if let Err(error) = connection(api, tls, stream).await {
                        tracing::debug!(%peer, error, "connection ended");
                    }
                });
            }
            Err(error) => {
                // Usually too many open files: the listener itself is fine.
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(api: Arc<Api>, tls: Tls, stream: TcpStream) -> Result<(), String> {
    let _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.acceptor.accept(stream));
    let stream = handshake
        .await
        .map_err(|_| "TLS handshake timed out".to_owned())?
        .map_err(|error| error.to_string())?;
    let (_, session) = stream.get_ref();
    let certificate = tls.authority.zip(session.peer_certificates());
    let certificate = certificate.map(|(authority, chain)| Arc::new(authority.examine(chain)));
    if let Some(x509::Presented::Refused(why)) = certificate.as_deref() {
        tracing::debug!(why, "client certificate refused");
    }
    let http2 = session.alpn_protocol() == Some(b"h2");
    // What ends this connection: that of all of them, or a request that draws its end.
    let draining = api.draining.child_token();
    let goaway = (http2 && api.config.goaway_chance > 0.0).then(|| draining.clone());
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        let api = api.clone();
        if let Some(certificate) = &certificate {
            request
                .extensions_mut()
                .insert(ClientCertificate(certificate.clone()));
        }
        if let Some(goaway) = &goaway
            && rand::rng().random_bool(api.config.goaway_chance)
        {
            goaway.cancel();
        }
        // Boxed, so that it is gone once the answer is given: a watch would keep the room of it as long as it runs.
        let answer = Box::pin(pipeline::handle(api, request.map(request_body), None));
        answer.map(Ok::<_, Infallible>)
    });
    let io = TokioIo::new(stream);
    let served = if http2 {
        let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .max_header_list_size(HEADER_BYTES_MAX)
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .serve_connection(io, service);
        let mut served = pin!(served);
        tokio::select! {
            ended = served.as_mut() => ended,
            () = draining.cancelled() => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        }
    } else {
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(io, service)
            .with_upgrades();
        let mut served = pin!(served);
        tokio::select! {
            ended = served.as_mut() => ended,
            () = draining.cancelled() => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        }
    };
    served.map_err(|error| error.to_string())
}

/// What the client certificate of a request's connection says.
#[derive(Clone)]
pub(crate) struct ClientCertificate(pub(crate) Arc<x509::Presented>);

fn tls(api: &Api) -> Result<Tls, Error> {
    let config = &api.config;
    let bad = |error: rustls::Error| Error::Tls(error.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = read_certificates("tls-cert-file", required("tls-cert-file", &config.tls_cert_file)?)?;
    let key = read_key(
        "tls-private-key-file",
        required("tls-private-key-file", &config.tls_private_key_file)?,
    )?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(bad)?;
    let authority = match &config.client_ca_file {
        Some(path) => {
            let roots = x509::roots(read_certificates("client-ca-file", path)?).map_err(bad)?;
            let authority =
                x509::Authority::new(roots, provider).map_err(|error| Error::Tls(error.to_string()))?;
            Some(Arc::new(authority))
        }
        None => None,
    };
    let builder = match &authority {
        Some(authority) => {
            builder.with_client_cert_verifier(Arc::new(x509::AnyCertificate(authority.clone())))
        }
        None => builder.with_no_client_auth(),
    };
    let mut tls = builder.with_single_cert(chain, key).map_err(bad)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Tls {
        acceptor: TlsAcceptor::from(Arc::new(tls)),
        authority,
    })
}

/// The sockets that the service manager opened for us: `LISTEN_FDS` of them, from file descriptor 3 on.
fn inherited() -> Result<Vec<TcpListener>, Error> {
    let mut sockets = listenfd::ListenFd::from_env();
    let mut listeners = Vec::new();
    for at in 0..sockets.len() {
        let bad = |source| Error::Inherited {
            fd: 3 + i32::try_from(at).unwrap_or_default(),
            source,
        };
        if let Some(listener) = sockets.take_tcp_listener(at).map_err(bad)? {
            listener.set_nonblocking(true).map_err(bad)?;
            listeners.push(TcpListener::from_std(listener).map_err(bad)?);
        }
    }
    Ok(listeners)
}
