//! Putting the server together, and the two ways in: sockets with TLS, and a client in the same process.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use api::registry::Registry;
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject},
};
use store::Store;
use tokio_util::sync::CancellationToken;

use crate::{
    authn::{UserInfo, jwt, service_account::Tokens},
    bootstrap,
    context::{Api, Background},
    documents::Documents,
    limits::Limits,
    metrics::Metrics,
    pipeline, serve,
    service_allocation::{IpRange, ServiceAllocator, repair},
    storage::{Measured, Storage},
    streaming::KubeletClient,
    watch_cache::WatchCache,
};

/// How the server is set up; the fields are named after the flags.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub bind_address: IpAddr,
    /// On which port; 0 lets the system choose.
    pub secure_port: u16,
    /// Under which address pods and nodes reach this server.
    pub advertise_address: Option<IpAddr>,
    /// Who signs client certificates.
    pub client_ca_file: Option<PathBuf>,
    /// This server's certificate.
    pub tls_cert_file: Option<PathBuf>,
    /// The certificate's key.
    pub tls_private_key_file: Option<PathBuf>,
    /// The `iss` of service-account tokens.
    pub service_account_issuer: String,
    /// The key that signs service-account tokens.
    pub service_account_signing_key_file: Option<PathBuf>,
    /// Further keys that verify service-account tokens.
    pub service_account_key_file: Vec<PathBuf>,
    /// Whether a pod's token for this server, asked for with the life that kubelets ask for by default, is good for a year: programs that
    /// read their token only once go on working, and are counted when they use it after its time.
    pub service_account_extend_token_expiration: bool,
    /// From where ClusterIPs are taken, one range for each family; the first is the default family.
    pub service_cluster_ip_range: Vec<String>,
    /// The certificate this server shows to kubelets.
    pub kubelet_client_certificate: Option<PathBuf>,
    /// That certificate's key.
    pub kubelet_client_key: Option<PathBuf>,
    /// Who signs the kubelets' serving certificates.
    pub kubelet_certificate_authority: Option<PathBuf>,
    /// How many requests that change nothing are answered at the same time; 0 for no limit. Others wait.
    pub max_requests_inflight: usize,
    /// How many requests that change something are answered at the same time; 0 for no limit. Others wait.
    pub max_mutating_requests_inflight: usize,
    /// A request that is no stream is answered within this time; one that changes something in 34 seconds at most.
    pub request_timeout: Duration,
    /// How likely an HTTP/2 request has its connection told to make room for a new one (GOAWAY), so that clients spread
    /// over several servers; from 0 to 0.02.
    pub goaway_chance: f64,
    /// How long requests are still served after [`Server::shut_down`], while `/readyz` says no already: balancers are
    /// to notice before anybody is turned away.
    pub shutdown_delay_duration: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            bind_address: IpAddr::from([0, 0, 0, 0]),
            secure_port: 6443,
            advertise_address: None,
            client_ca_file: None,
            tls_cert_file: None,
            tls_private_key_file: None,
            service_account_issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            service_account_signing_key_file: None,
            service_account_key_file: Vec::new(),
            service_account_extend_token_expiration: true,
            service_cluster_ip_range: vec!["10.96.0.0/16".to_owned()],
            kubelet_client_certificate: None,
            kubelet_client_key: None,
            kubelet_certificate_authority: None,
            max_requests_inflight: 400,
            max_mutating_requests_inflight: 200,
            request_timeout: Duration::from_secs(60),
            goaway_chance: 0.0,
            shutdown_delay_duration: Duration::ZERO,
        }
    }
}

impl Config {
    /// The address that clients elsewhere shall use.
    pub(crate) fn public_address(&self) -> IpAddr {
        self.advertise_address.unwrap_or(self.bind_address)
    }

    /// `host:port` for discovery.
    pub(crate) fn server_address(&self) -> String {
        SocketAddr::new(self.public_address(), self.secure_port).to_string()
    }
}

/// Upstream's limit: more often is no spreading of load but a load of its own.
const GOAWAY_CHANCE_MAX: f64 = 0.02;

/// Why the server cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that a flag names is no good.
    #[error("--{flag} {}: {why}", path.display())]
    File {
        /// The flag.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A flag is missing or its value is no good.
    #[error("--{flag}: {why}")]
    Flag {
        /// The flag.
        flag: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The port is taken, or the address is not this machine's.
    #[error("cannot listen on {address} (--bind-address, --secure-port)")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A socket inherited by LISTEN_FDS is no good.
    #[error("inherited socket {fd} (LISTEN_FDS) cannot be used")]
    Inherited {
        /// The file descriptor.
        fd: i32,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The certificates do not fit together.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] store::Error),
    /// The objects that every cluster has could not be made.
    #[error("cannot create {what}: {why}")]
    Bootstrap {
        /// Which object.
        what: String,
        /// Why not.
        why: String,
    },
}

/// An API server over a store.
#[derive(Clone)]
pub struct Server {
    api: Arc<Api>,
}

impl Server {
    /// Reads the files the configuration names, fills the cache from the store, and makes the objects every cluster has.
    ///
    /// # Errors
    /// Names the flag or the file that is at fault.
    pub async fn new<S: Store>(config: Config, store: Arc<S>) -> Result<Self, Error> {
        let registry = Registry::builtin();
        let metrics = Arc::new(Metrics::default());
        let store: Storage = Arc::new(Measured::new(store, metrics.clone()));
        let cache = Arc::new(WatchCache::new(store, &registry));
        let ranges: Vec<IpRange> = config
            .service_cluster_ip_range
            .iter()
            .map(|range| range.parse())
            .collect::<Result<_, String>>()
            .map_err(|why| Error::Flag {
                flag: "service-cluster-ip-range",
                why,
            })?;
        let services = ServiceAllocator::new(ranges).map_err(|why| Error::Flag {
            flag: "service-cluster-ip-range",
            why,
        })?;
        if !(0.0..=GOAWAY_CHANCE_MAX).contains(&config.goaway_chance) {
            return Err(Error::Flag {
                flag: "goaway-chance",
                why: format!("can not be less than 0 or greater than {GOAWAY_CHANCE_MAX}"),
            });
        }
        let api = Arc::new(Api {
            tokens: tokens(&config)?,
            services,
            kubelet: KubeletClient::from_config(&config)?,
            registry,
            cache: cache.clone(),
            documents: Documents::default(),
            limits: Limits::new(
                config.max_requests_inflight,
                config.max_mutating_requests_inflight,
            ),
            stopping: CancellationToken::new(),
            draining: CancellationToken::new(),
            metrics,
            _background: Background(tokio::spawn(cache.clone().run()).abort_handle()),
            config,
        });
        cache.fresh().await.map_err(|error| Error::Bootstrap {
            what: "the watch cache".to_owned(),
            why: error.to_string(),
        })?;
        api.services.adopt(&cache);
        bootstrap::run(&api).await?;
        // It ends with the watches that it follows, and those end with the server.
        tokio::spawn(repair::run(Arc::downgrade(&api), Arc::downgrade(&cache)));
        Ok(Server { api })
    }

    /// Listens on the configured address and on the sockets that were inherited, and serves until
    /// [`shut_down`](Self::shut_down), or until the task is dropped.
    ///
    /// # Errors
    /// When an address cannot be bound or TLS cannot be set up.
    pub async fn serve(&self) -> Result<(), Error> {
        self.listen().await?.run().await;
        Ok(())
    }

    /// The first half of [`serve`](Self::serve): once it returns, connections are accepted into the backlog.
    ///
    /// # Errors
    /// When an address cannot be bound or TLS cannot be set up.
    pub async fn listen(&self) -> Result<serve::Listening, Error> {
        serve::listen(self.api.clone()).await
    }

    /// Tells `/readyz` to say no; after [`Config::shutdown_delay_duration`] ends every watch and has
    /// [`Listening::run`](serve::Listening::run) return once the last answers are given.
    pub fn shut_down(&self) {
        self.api.stopping.cancel();
        let delay = self.api.config.shutdown_delay_duration;
        if delay.is_zero() {
            return self.api.drain();
        }
        let api = self.api.clone();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            api.drain();
        });
    }

    /// A client that goes straight into the request pipeline: no socket, no TLS, the same authorization.
    pub fn client(&self, user: UserInfo) -> kube::Client {
        let api = self.api.clone();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let (api, user) = (api.clone(), user.clone());
            async move {
                let request = request.map(crate::body::request_body);
                Ok::<_, std::convert::Infallible>(pipeline::handle(api, request, Some(user)).await)
            }
        });
        kube::Client::new(service, "default")
    }
}

fn tokens(config: &Config) -> Result<Option<Tokens>, Error> {
    let bad = |flag, path: &Path, error: jwt::Error| Error::File {
        flag,
        path: path.to_owned(),
        why: error.to_string(),
    };
    let signing = match &config.service_account_signing_key_file {
        Some(path) => {
            let flag = "service-account-signing-key-file";
            let key =
                jwt::SigningKey::from_pem(&read(flag, path)?).map_err(|error| bad(flag, path, error))?;
            Some(key)
        }
        None => None,
    };
    let mut keys = Vec::new();
    for path in &config.service_account_key_file {
        let flag = "service-account-key-file";
        let pem = read(flag, path)?;
        keys.extend(jwt::VerifyingKey::all_from_pem(&pem).map_err(|error| bad(flag, path, error))?);
    }
    if signing.is_none() && keys.is_empty() {
        return Ok(None);
    }
    Ok(Some(Tokens::new(
        signing,
        keys,
        config.service_account_issuer.clone(),
    )))
}

pub(crate) fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|error| Error::File {
        flag,
        path: path.to_owned(),
        why: error.to_string(),
    })
}

/// All certificates of the file that a flag names.
pub(crate) fn read_certificates(
    flag: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, Error> {
    let pem = read(flag, path)?;
    let bad = |why: String| Error::File {
        flag,
        path: path.to_owned(),
        why,
    };
    let certificates: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|error| bad(error.to_string()))?;
    if certificates.is_empty() {
        return Err(bad("no certificate in PEM form found".to_owned()));
    }
    Ok(certificates)
}

/// The private key of the file that a flag names.
pub(crate) fn read_key(flag: &'static str, path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let pem = read(flag, path)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| Error::File {
        flag,
        path: path.to_owned(),
        why: error.to_string(),
    })
}

/// The file of a flag that must be given.
pub(crate) fn required<'a>(flag: &'static str, path: &'a Option<PathBuf>) -> Result<&'a Path, Error> {
    path.as_deref().ok_or(Error::Flag {
        flag,
        why: "must be given".to_owned(),
    })
}
