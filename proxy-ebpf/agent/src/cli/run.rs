//! The agent: flags and the configuration file, then wiring.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::Args;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use proxy_ebpf::{
    agent::{self, MAP_ENTRIES_MAX, Settings},
    config::ProxyConfiguration,
    healthz::Health,
    http::Listen,
    metrics::Metrics,
    node::{NodeSettings, Routing, plan::PodDevices},
    node_ports::NodePortAddresses,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::{BpfDir, client, init_log};

/// What is logged unless RUST_LOG says otherwise. kube's client logs what it also returns, which the agent logs with its reason.
const LOG: &str = "info,kube_client::client::builder=off,kube_runtime::watcher=off";
/// The same with the agent's decisions.
const VERBOSE_LOG: &str = "info,proxy_ebpf=debug,kube_client::client::builder=off,kube_runtime::watcher=off";
/// From here on kube-proxy's verbosity shows decisions.
const VERBOSE: u32 = 4;

#[derive(Args)]
pub(super) struct Run {
    #[command(flatten)]
    bpf: BpfDir,
    /// KubeProxyConfiguration file. Flags that are given win over what it says.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Kubeconfig of the API server. Without it the service account of the pod is used.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Name of this Node, if it is not the host name.
    #[arg(long)]
    hostname_override: Option<String>,
    /// Folder of the cgroup2 hierarchy whose sockets are translated, if it is not the hierarchy's root; or the folder /sys/fs/cgroup
    /// of a host whose hierarchies of both versions are mounted below it.
    #[arg(long)]
    cgroup_path: Option<PathBuf>,
    /// Addresses at which node ports are reached: networks, `localhost` and `all`, separated by commas, or `primary` for the
    /// first internal address of each family. By default all internal and external addresses of Nodes, and loopback.
    #[arg(long)]
    nodeport_addresses: Option<NodePortAddresses>,
    /// Whether sockets are sent to backends when they connect. With `false` only packets are translated: Services work, but not
    /// node ports on loopback, and every connection is tracked.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    translate_sockets: bool,
    /// How many entries a map may grow to. When that is not enough, the Services that take most of it are left out.
    #[arg(long, default_value_t = MAP_ENTRIES_MAX)]
    map_entries_max: u32,
    /// Folder to write the configuration of orlop-cni to. Without it another network plugin is in charge: no configuration, no
    /// routes and no forwarding are set.
    #[arg(long)]
    cni_conf_dir: Option<PathBuf>,
    /// Folder in which orlop-cni keeps its allocations.
    #[arg(long, default_value = "/var/lib/orlop-cni")]
    cni_data_dir: PathBuf,
    #[command(flatten)]
    routing: Routing,
    /// What joins pods to this node. Used with --cni-conf-dir; pods that run keep what they have, beside others.
    #[arg(long, default_value = "auto")]
    pod_devices: PodDevices,
    /// Address and port of /healthz and /livez, for example 0.0.0.0:10256. Without it, and without --config, nothing listens.
    #[arg(long)]
    healthz_bind_address: Option<SocketAddr>,
    /// Address and port of /metrics, for example 127.0.0.1:10249. Without it, and without --config, nothing listens.
    #[arg(long)]
    metrics_bind_address: Option<SocketAddr>,
}

impl Run {
    pub(super) fn run(mut self) -> Result<()> {
        let file = self.config.as_deref().map(read_config).transpose()?;
        let verbose = file.as_ref().is_some_and(|file| file.verbosity >= VERBOSE);
        init_log(if verbose { VERBOSE_LOG } else { LOG });
        // A flag is somebody's explicit wish; the file's addresses are often defaults.
        let hard_fail = file.as_ref().is_none_or(|file| file.bind_address_hard_fail);
        if let Some(file) = file {
            self.complete(file);
        }
        let listen = |flag, address| Listen {
            address,
            flag,
            hard_fail,
        };
        let healthz = listen("--healthz-bind-address", self.healthz_bind_address);
        let scrapes = listen("--metrics-bind-address", self.metrics_bind_address);
        let settings = Settings {
            node_name: self.hostname_override.map_or_else(host_name, Ok)?,
            cgroup_path: self
                .cgroup_path
                .map_or_else(cgroup2_root, |path| Ok(cgroup2_below(path)))?,
            bpf_dir: self.bpf.bpf_dir,
            node_port_addresses: self.nodeport_addresses.unwrap_or_default(),
            translate_sockets: self.translate_sockets,
            map_entries_max: self.map_entries_max,
            node: NodeSettings {
                cni_conf_dir: self.cni_conf_dir,
                cni_data_dir: self.cni_data_dir,
                routing: self.routing,
                pod_devices: self.pod_devices,
            },
        };
        // One thread: the agent is idle unless something changes, and a change is microseconds of work.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the runtime")?;
        runtime.block_on(async {
            let client = client(self.kubeconfig.as_deref()).await?;
            let metrics = Metrics::default();
            let health = Health::default();
            let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
            let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
            tokio::select! {
                result = agent::run(client, settings, health.clone(), metrics.clone()) => result,
                result = health.serve(healthz, metrics.clone()) => result,
                result = metrics.serve(scrapes) => result,
                _ = terminate.recv() => Ok(()),
                _ = interrupt.recv() => Ok(()),
            }
        })?;
        info!("stopped; maps and programs stay where they are");
        Ok(())
    }

    /// Takes from the file what no flag says.
    fn complete(&mut self, file: ProxyConfiguration) {
        for warning in &file.warnings {
            warn!("--config: {warning}");
        }
        if let Some(score) = file.oom_score_adj
            && let Err(error) = fs::write("/proc/self/oom_score_adj", score.to_string())
        {
            warn!(%error, score, "--config: oomScoreAdj could not be set");
        }
        if self.kubeconfig.is_none() {
            self.kubeconfig = file.kubeconfig;
        }
        if self.hostname_override.is_none() {
            self.hostname_override = file.hostname_override;
        }
        self.nodeport_addresses.get_or_insert(file.node_port_addresses);
        self.healthz_bind_address = self.healthz_bind_address.or(file.healthz_bind_address);
        self.metrics_bind_address = self.metrics_bind_address.or(file.metrics_bind_address);
    }
}

fn read_config(path: &Path) -> Result<ProxyConfiguration> {
    let text = fs::read_to_string(path).with_context(|| format!("read --config {}", path.display()))?;
    ProxyConfiguration::parse(&text).with_context(|| format!("--config {}", path.display()))
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
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    // The fields before the lone dash vary in number; the fifth is the mount point, the type follows the dash.
    let mut mounts = mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        after
            .starts_with("cgroup2 ")
            .then(|| before.split(' ').nth(4).map(PathBuf::from))?
    });
    mounts.next().context("no cgroup2 hierarchy is mounted: mount one (mount -t cgroup2 none /sys/fs/cgroup/unified) or give --cgroup-path")
}

/// The folder itself, unless it holds the hierarchies of cgroup v1 with the one of cgroup2 among them, where systemd puts it.
fn cgroup2_below(path: PathBuf) -> PathBuf {
    let unified = path.join("unified");
    let is_cgroup2 =
        |path: &Path| statfs(path).is_ok_and(|stat| stat.filesystem_type() == CGROUP2_SUPER_MAGIC);
    if !is_cgroup2(&path) && is_cgroup2(&unified) {
        unified
    } else {
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_of_a_host_with_both_versions_is_found() {
        let root = cgroup2_root().expect("a cgroup2 hierarchy is mounted");
        assert_eq!(cgroup2_below(root.clone()), root);
        if let Some(parent) = root.parent().filter(|_| root.ends_with("unified")) {
            assert_eq!(cgroup2_below(parent.to_owned()), root);
        }
        // What is neither is left to whoever uses it, whose error says so.
        assert_eq!(cgroup2_below("/proc".into()), Path::new("/proc"));
    }
}
