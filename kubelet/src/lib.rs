//! The node agent: it makes the containers of this node match the pods bound to it.
//!
//! Watches: the pods whose `spec.nodeName` is this node, the Services (for environment variables), the ConfigMaps
//! and Secrets those pods refer to, and containerd's own event stream.
//!
//! Alone writes: this node's Node status and Lease, the status of its pods, and everything below `--root-dir`, the pod
//! log directory and the pod cgroups.
//!
//! Never does: remember. What runs is read from CRI, what is mounted from the pod directory; a restarted kubelet takes
//! the same path as a running one and disturbs no container.

pub mod admission;
pub mod backoff;
pub mod cgroups;
pub mod config;
pub mod container;
pub mod context;
pub mod env;
pub mod error;
pub mod events;
#[doc(hidden)]
pub mod fuzzing;
pub mod images;
pub mod node;
pub mod pod;
pub mod pods;
pub mod probes;
pub mod quantity;
pub mod runtime;
pub mod runtime_events;
pub mod sandbox;
pub mod server;
pub mod status;
pub mod volumes;
pub mod worker;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    sync::Arc,
};

use anyhow::Context as _;
use tokio::sync::{Notify, watch};

use crate::{
    cgroups::Cgroups,
    config::Config,
    context::{Context, Wakes},
    env::ServiceCache,
    events::{EventType, Recorder},
    images::Images,
    node::{Health, Machine, NodeKeeper},
    pods::Pods,
    probes::ProbeManager,
    runtime::Runtime,
    sandbox::ResolvConf,
    server::{Server, ServerConfig},
    volumes::{ObjectCache, VolumeConfig, VolumeManager, Wake},
};

/// The Kubernetes version this kubelet behaves as.
pub const VERSION: &str = "v1.37.0";

/// Wires the parts together and runs them for ever.
pub async fn run(mut config: Config) -> anyhow::Result<()> {
    let kubeconfig = kube::config::Kubeconfig::read_from(&config.kubeconfig)
        .with_context(|| format!("--kubeconfig: reading {}", config.kubeconfig.display()))?;
    let client_config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default())
        .await
        .with_context(|| format!("--kubeconfig: {}", config.kubeconfig.display()))?;
    config
        .complete_node_ips(&client_config.cluster_url)
        .map_err(anyhow::Error::msg)?;
    let client = kube::Client::try_from(client_config).context("setting up the API client")?;
    for field in &config.file.without_effect {
        tracing::info!(field, "this field of the configuration has no effect here");
    }

    let root_dir = config.root_dir.clone();
    let make_root = || -> std::io::Result<()> {
        fs::create_dir_all(root_dir.join("pods"))?;
        fs::set_permissions(&root_dir, fs::Permissions::from_mode(0o750))?;
        fs::create_dir_all(&config.file.pod_logs_dir)
    };
    make_root().with_context(|| format!("--root-dir: preparing {}", root_dir.display()))?;
    let machine = Machine::read(&root_dir).context("reading what the machine has")?;
    let allocatable = machine.allocatable(&config.file);
    let cgroups = Cgroups::new(&config.file.cgroup_root).context("finding the cgroup hierarchies")?;
    cgroups
        .set_up(allocatable.cpu_milli, allocatable.memory, cgroups::SHARES_MIN)
        .context("cgroupRoot: making the cgroups above the pods")?;
    let resolv_conf = config.file.resolv_conf.as_ref().map(fs::read_to_string);
    let resolv_conf = ResolvConf::parse(&resolv_conf.transpose().unwrap_or_default().unwrap_or_default());

    let runtime = Runtime::new(&config.runtime_socket);
    let wakes = Wakes::default();
    let wake: Wake = {
        let wakes = wakes.clone();
        Arc::new(move |uid: &str| wakes.wake(uid))
    };
    let recorder = Recorder::start(client.clone(), &config.node_name);
    let objects = ObjectCache::new(client.clone(), wake.clone());
    let probe_events = {
        let recorder = recorder.clone();
        Arc::new(
            move |pod: &_, container: &str, reason: &'static str, message: String| {
                recorder.container(pod, container, EventType::Warning, reason, message);
            },
        )
    };
    let (health_sender, health) = watch::channel(Health::default());
    let context = Arc::new(Context {
        volumes: VolumeManager::new(
            VolumeConfig {
                root_dir,
                allocatable,
            },
            client.clone(),
            objects.clone(),
            wake.clone(),
        ),
        probes: ProbeManager::new(Arc::new(runtime.clone()), wake.clone(), probe_events),
        images: Images::new(
            runtime.clone(),
            recorder.clone(),
            objects.clone(),
            wake,
            config.file.serialize_image_pulls,
        ),
        services: ServiceCache::start(client.clone()),
        client: client.clone(),
        runtime: runtime.clone(),
        recorder: recorder.clone(),
        objects,
        cgroups,
        machine: machine.clone(),
        allocatable,
        health: health.clone(),
        resolv_conf,
        wakes: wakes.clone(),
        config: config.clone(),
    });
    let pods = Pods::new(context);
    let server = bind_server(&config, pods.clone(), runtime.clone(), client.clone()).await?;

    let slow = config.node_status_update_frequency();
    let look = Arc::new(Notify::new());
    tokio::spawn(node::watch_health(
        runtime.clone(),
        health_sender,
        wakes.clone(),
        look.clone(),
        slow,
    ));
    tokio::spawn(runtime_events::follow(runtime.clone(), wakes, look));
    let server = async {
        match server {
            Some(server) => server.run().await,
            None => std::future::pending().await,
        }
    };
    let keeper = NodeKeeper {
        config,
        client,
        runtime,
        recorder,
        machine,
        health,
    };
    tokio::join!(keeper.run(), pods.follow(), server);
    Ok(())
}

/// Takes the port of the HTTPS API. Without a certificate there is none, and logs and exec do not work.
async fn bind_server(
    config: &Config,
    pods: Arc<Pods>,
    runtime: Runtime,
    client: kube::Client,
) -> anyhow::Result<Option<Server<Pods>>> {
    let file = &config.file;
    let (Some(certificate), Some(key)) = (&file.tls_cert_file, &file.tls_private_key_file) else {
        tracing::warn!("no tlsCertFile and tlsPrivateKeyFile: logs and exec will not work");
        return Ok(None);
    };
    let server_config = ServerConfig {
        address: SocketAddr::new(listen_address(file.address), file.port),
        tls_cert_file: certificate.clone(),
        tls_private_key_file: key.clone(),
        client_ca_file: file.client_ca_file.clone(),
        node_name: config.node_name.clone(),
    };
    let server = Server::bind(&server_config, pods, runtime, client).await;
    Ok(Some(server.context("starting the HTTPS server")?))
}

/// `0.0.0.0` means every address, also those of IPv6, as it does to a program in Go.
fn listen_address(configured: IpAddr) -> IpAddr {
    let has_ipv6 = fs::exists("/proc/net/if_inet6").unwrap_or_default();
    if has_ipv6 && configured == Ipv4Addr::UNSPECIFIED {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        configured
    }
}
