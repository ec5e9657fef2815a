//! The node half of the network plugin: the plugin's configuration, forwarding, and routes to the pods of other nodes.
//!
//! All of it follows from Nodes. The configuration file appears once this Node has its pod CIDRs, which is what containerd,
//! and through it the kubelet's Ready condition, waits for.

pub mod plan;

mod cidr;
mod netlink;
mod removal;
mod sysctl;
#[cfg(test)]
mod tests;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use hashbrown::HashMap;
use k8s_openapi::api::core::v1 as core;
use thiserror::Error;
use tokio::time::Instant;
use tracing::{info, warn};

pub(crate) use self::sysctl::{loosen_reverse_paths, reserve_snat_ports};
use self::{
    netlink::{ChangeError, Kernel},
    plan::Cidr,
};
pub use self::{
    removal::{Removed, remove},
    sysctl::{DROP_IN, DROP_IN_NAME},
};
use crate::agent::chain;

/// How the names begin of all devices that the plugin and this agent make: pods' and the tunnel.
pub(crate) const DEVICE_PREFIX: &str = "orl";
/// The name sorts before what other plugins install, since containerd takes the first file.
const CONFLIST: &str = "10-orlop.conflist";
/// Says which part of the cluster fails together, and within which traffic is cheap.
const ZONE: &str = "topology.kubernetes.io/zone";
/// The taint that the cluster autoscaler gives to a node before it deletes it: load balancers should stop using it.
const LEAVING: &str = "ToBeDeletedByClusterAutoscaler";
/// Writing into /proc or a full disk does not mend itself quickly.
const RETRY: Duration = Duration::from_secs(10);
/// Everything is compared again after this time, should the kernel have failed to say that something changed.
pub(crate) const RESYNC: Duration = Duration::from_secs(300);
/// Changes to interfaces come in flocks.
const SETTLE: Duration = Duration::from_millis(50);

/// Where the node half leaves its traces. Without `cni_conf_dir` somebody else's plugin is in charge and nothing is done.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Folder of CNI configurations.
    pub cni_conf_dir: Option<PathBuf>,
    /// Folder in which `orlop-cni` keeps its allocations.
    pub cni_data_dir: PathBuf,
    /// How other nodes' pods are reached.
    pub routing: Routing,
    /// What joins this node's pods to it.
    pub pod_devices: plan::PodDevices,
}

/// How the pods of other nodes are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum RoutingMode {
    /// By routes where the nodes are on one network, by VXLAN otherwise.
    #[default]
    Auto,
    /// By routes; whoever is beyond a router is left to that router.
    Direct,
    /// By VXLAN, always: for networks that pass on only what has a node's address.
    Vxlan,
}

/// How packets travel between nodes. All nodes of a cluster must be told the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args)]
pub struct Routing {
    /// How the pods of other nodes are reached. Used with --cni-conf-dir.
    #[arg(long = "routing-mode", default_value = "auto")]
    pub mode: RoutingMode,
    /// Network identifier of the VXLAN tunnel between nodes.
    #[arg(long = "vxlan-vni", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..1 << 24))]
    pub vni: u32,
    /// UDP port at which nodes receive the packets of the tunnel.
    #[arg(long = "vxlan-port", default_value_t = 4789, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
}

/// A Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Networks of its pods, at most one of each family.
    pub pod_cidrs: Vec<Cidr>,
    /// Its addresses of type InternalIP.
    pub internal_ips: Vec<std::net::IpAddr>,
    /// Its addresses of type ExternalIP.
    pub external_ips: Vec<std::net::IpAddr>,
    /// Its label `topology.kubernetes.io/zone`.
    pub zone: Option<Box<str>>,
    /// It is being deleted, or the cluster autoscaler is about to.
    pub leaving: bool,
}

impl Node {
    /// What is needed of a Node. Addresses that cannot be parsed are left out: nothing can be sent to them.
    pub fn from_api(node: &core::Node) -> Self {
        let spec = node.spec.as_ref();
        let pod_cidrs = spec
            .and_then(|spec| spec.pod_cidrs.as_ref())
            .into_iter()
            .flatten();
        let addresses = node
            .status
            .as_ref()
            .and_then(|status| status.addresses.as_ref())
            .into_iter()
            .flatten();
        let of_type = |type_| {
            addresses
                .clone()
                .filter(move |address| address.type_ == type_)
                .filter_map(|address| address.address.parse().ok())
                .collect()
        };
        let labels = node.metadata.labels.as_ref();
        let taints = || spec.and_then(|spec| spec.taints.as_ref()).into_iter().flatten();
        Self {
            pod_cidrs: pod_cidrs.filter_map(|cidr| cidr.parse().ok()).collect(),
            internal_ips: of_type("InternalIP"),
            external_ips: of_type("ExternalIP"),
            zone: labels
                .and_then(|labels| labels.get(ZONE))
                .map(|zone| zone.as_str().into()),
            leaving: node.metadata.deletion_timestamp.is_some() || taints().any(|taint| taint.key == LEAVING),
        }
    }
}

/// Why the network could not be set up.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum NetworkError {
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("remove {path}")]
    Remove { path: PathBuf, source: io::Error },
    #[error("set {path} to {value}")]
    Sysctl {
        path: PathBuf,
        value: String,
        source: io::Error,
    },
    #[error("list the kernel's {what}")]
    List {
        what: &'static str,
        source: rtnetlink::Error,
    },
    #[error("there is an interface called {name} that is no VXLAN tunnel: rename or remove it")]
    NotATunnel { name: &'static str },
    #[error("{what}")]
    Change { what: String, source: ChangeError },
    #[error("open a netlink socket")]
    Socket(#[from] io::Error),
}

/// Keeps the network of this node in step with the Nodes.
#[derive(Debug)]
pub struct Network {
    node_name: String,
    settings: NodeSettings,
    kernel: Option<Kernel>,
    retry: Option<Instant>,
    announced: bool,
}

impl Network {
    /// Nothing is done before [`Self::reconcile`].
    pub fn new(node_name: String, settings: NodeSettings) -> Self {
        Self {
            node_name,
            settings,
            kernel: None,
            retry: None,
            announced: false,
        }
    }

    /// Whether this agent is the network plugin's other half.
    pub fn is_ours(&self) -> bool {
        self.settings.cni_conf_dir.is_some()
    }

    /// When to reconcile again although no Node changed.
    pub fn retry(&self) -> Option<Instant> {
        self.retry
    }

    /// Waits until the kernel says that something has changed which [`Self::reconcile`] should look at, and sets
    /// [`Self::retry`] accordingly. May be dropped at any time.
    pub async fn disturbed(&mut self) {
        let Some(kernel) = &mut self.kernel else {
            return std::future::pending().await;
        };
        if !kernel.disturbed().await {
            self.kernel = None;
        }
        let settled = Instant::now() + SETTLE;
        self.retry = Some(self.retry.map_or(settled, |retry| retry.min(settled)));
    }

    /// Brings configuration, forwarding and routes in step. What failed is logged and tried again later.
    pub async fn reconcile(&mut self, nodes: &HashMap<String, Node>) {
        let Some(dir) = self.settings.cni_conf_dir.clone() else {
            self.retry = None;
            return;
        };
        let outcome = self.try_reconcile(&dir, nodes).await;
        let next = if outcome.is_ok() { RESYNC } else { RETRY };
        self.retry = Some(Instant::now() + next);
        if let Err(error) = outcome {
            warn!(error = %chain(&error), "the pod network is not set up, will retry");
        }
    }

    async fn try_reconcile(&mut self, dir: &Path, nodes: &HashMap<String, Node>) -> Result<(), NetworkError> {
        let Some(node) = nodes
            .get(&self.node_name)
            .filter(|node| !node.pod_cidrs.is_empty())
        else {
            if !self.announced {
                info!(
                    node = self.node_name,
                    "waiting for the Node to be given its pod CIDRs"
                );
                self.announced = true;
            }
            return Ok(());
        };
        // Opened before anything is looked at: what changes afterwards is reported.
        let kernel = match &self.kernel {
            Some(kernel) => kernel,
            None => self.kernel.insert(Kernel::open()?),
        };
        let observed = kernel.observe().await?;
        sysctl::enable_forwarding(node, &observed.links)?;
        let wanted = plan::wanted(&self.node_name, nodes, &observed.links, self.settings.routing);
        let applied = kernel.apply(&plan::changes(&wanted, &observed.state)).await;
        // Last: once this file is there, pods are started. If the way to some node is missing, which is tried again, pods
        // are still better off than not being started at all.
        let conflist = plan::conflist(
            node,
            &observed.links,
            wanted.tunnel,
            &self.settings.cni_data_dir,
            self.settings.pod_devices,
        );
        write_if_changed(dir.join(CONFLIST), conflist.as_bytes())?;
        applied
    }
}

/// Writes beside the file and renames: containerd reads the folder whenever it changes, and must see all of it or nothing.
fn write_if_changed(path: PathBuf, content: &[u8]) -> Result<(), NetworkError> {
    if fs::read(&path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    let write = || {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let temporary = path.with_extension("conflist.tmp");
        fs::write(&temporary, content)?;
        fs::rename(&temporary, &path)
    };
    write().map_err(|source| NetworkError::Write {
        path: path.clone(),
        source,
    })?;
    info!(path = %path.display(), "wrote the CNI configuration");
    Ok(())
}
