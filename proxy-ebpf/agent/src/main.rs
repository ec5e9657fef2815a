//! `proxy-ebpf`: flags, then wiring.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use proxy_ebpf::{
    agent::{self, Settings, Synced},
    healthz, list,
    metrics::Metrics,
    node::NodeSettings,
    node_ports::NodePortAddresses,
    pins,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

/// Service load balancing and pod networking in eBPF, in place of kube-proxy.
#[derive(Parser)]
#[command(name = "proxy-ebpf", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Subcommand)]
enum Command {
    /// Removes all pinned maps and links: Services are no longer translated on this node.
    Cleanup(BpfDir),
    /// Shows what the maps hold.
    #[command(subcommand)]
    Service(ServiceCommand),
}

#[derive(Subcommand)]
enum ServiceCommand {
    /// Lists every frontend with its backends.
    List(BpfDir),
}

#[derive(Args)]
struct BpfDir {
    /// Folder on a BPF file system that holds the pinned maps and links.
    #[arg(long, default_value = "/sys/fs/bpf/orlop")]
    bpf_dir: PathBuf,
}

#[derive(Args)]
struct Run {
    #[command(flatten)]
    bpf: BpfDir,
    /// Kubeconfig of the API server. Without it the service account of the pod is used.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Name of this Node, if it is not the host name.
    #[arg(long)]
    hostname_override: Option<String>,
    /// Folder of the cgroup2 hierarchy whose sockets are translated, if it is not the hierarchy's root.
    #[arg(long)]
    cgroup_path: Option<PathBuf>,
    /// Addresses at which node ports are reached: networks, separated by commas, or `primary` for the first internal address of
    /// each family. By default all internal and external addresses of Nodes, and loopback.
    #[arg(long, default_value = "")]
    nodeport_addresses: NodePortAddresses,
    /// Folder to write the configuration of orlop-cni to. Without it another network plugin is in charge: no configuration, no
    /// routes and no forwarding are set.
    #[arg(long)]
    cni_conf_dir: Option<PathBuf>,
    /// Folder in which orlop-cni keeps its allocations.
    #[arg(long, default_value = "/var/lib/orlop-cni")]
    cni_data_dir: PathBuf,
    /// Address and port of /healthz and /livez, for example 0.0.0.0:10256. Without it nothing listens.
    #[arg(long)]
    healthz_bind_address: Option<SocketAddr>,
    /// Address and port of /metrics, for example 127.0.0.1:10249. Without it nothing listens.
    #[arg(long)]
    metrics_bind_address: Option<SocketAddr>,
}

/// What is logged unless RUST_LOG says otherwise. kube's client logs what it also returns, which the agent logs with its reason.
const LOG: &str = "info,kube_client::client::builder=off";

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let result = match cli.command {
        None => run(cli.run),
        Some(Command::Cleanup(BpfDir { bpf_dir })) => cleanup(&bpf_dir),
        Some(Command::Service(ServiceCommand::List(BpfDir { bpf_dir }))) => {
            list::services(&bpf_dir).map(|table| print!("{table}"))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{}", agent::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(flags: Run) -> Result<()> {
    let settings = Settings {
        node_name: flags.hostname_override.map_or_else(host_name, Ok)?,
        cgroup_path: flags.cgroup_path.map_or_else(cgroup2_root, Ok)?,
        bpf_dir: flags.bpf.bpf_dir,
        node_port_addresses: flags.nodeport_addresses,
        node: NodeSettings {
            cni_conf_dir: flags.cni_conf_dir,
            cni_data_dir: flags.cni_data_dir,
        },
    };
    // One thread: the agent is idle unless something changes, and a change is microseconds of work.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let client = client(flags.kubeconfig.as_deref()).await?;
        let synced = Synced::default();
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let health = {
            let synced = synced.clone();
            async move {
                match flags.healthz_bind_address {
                    Some(address) => healthz::serve(address, synced).await,
                    None => std::future::pending().await,
                }
            }
        };
        let metrics = Metrics::default();
        let scrapes = {
            let metrics = metrics.clone();
            async move {
                match flags.metrics_bind_address {
                    Some(address) => metrics.serve(address).await,
                    None => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            result = agent::run(client, settings, synced, metrics) => result,
            result = health => result,
            result = scrapes => result,
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        }
    })?;
    info!("stopped; maps and programs stay where they are");
    Ok(())
}

async fn client(kubeconfig: Option<&Path>) -> Result<Client> {
    let config = match kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path)
                .with_context(|| format!("read --kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("use --kubeconfig {}", path.display()))?
        }
        None => Config::incluster()
            .context("no --kubeconfig is given, and this is not a pod with a service account")?,
    };
    Client::try_from(config).context("set up the connection to the API server")
}

fn cleanup(bpf_dir: &Path) -> Result<()> {
    let removed = pins::remove(bpf_dir)?;
    info!(bpf_dir = %bpf_dir.display(), removed, "removed the pinned maps and links");
    Ok(())
}

/// Upstream's default name of a Node: the host name in lower case.
fn host_name() -> Result<String> {
    let name = nix::unistd::gethostname().context("read the host name")?;
    let name = name
        .into_string()
        .ok()
        .context("the host name is not UTF-8: give --hostname-override")?;
    Ok(name.trim().to_lowercase())
}

/// The mount point of the cgroup2 hierarchy, wherever the distribution has put it.
fn cgroup2_root() -> Result<PathBuf> {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    // The fields before the lone dash vary in number; the fifth is the mount point, the type follows the dash.
    let mut mounts = mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        after
            .starts_with("cgroup2 ")
            .then(|| before.split(' ').nth(4).map(PathBuf::from))?
    });
    mounts.next().context("no cgroup2 hierarchy is mounted: mount one (mount -t cgroup2 none /sys/fs/cgroup/unified) or give --cgroup-path")
}
