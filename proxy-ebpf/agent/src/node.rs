//! The node half of the network plugin: the plugin's configuration, forwarding, and routes to the pods of other nodes.
//!
//! All of it follows from Nodes. The configuration file appears once this Node has its pod CIDRs, which is what containerd,
//! and through it the kubelet's Ready condition, waits for.

pub mod plan;

mod netlink;

use std::{collections::HashMap, fs, io, path::PathBuf, time::Duration};

use k8s_openapi::api::core::v1 as core;
use thiserror::Error;
use tokio::time::Instant;
use tracing::{info, warn};

use self::plan::Cidr;
use crate::agent::chain;

/// The name sorts before what other plugins install, since containerd takes the first file.
const CONFLIST: &str = "10-orlop.conflist";
/// Says which part of the cluster fails together, and within which traffic is cheap.
const ZONE: &str = "topology.kubernetes.io/zone";
/// The taint that the cluster autoscaler gives to a node before it deletes it: load balancers should stop using it.
const LEAVING: &str = "ToBeDeletedByClusterAutoscaler";
/// Writing into /proc or a full disk does not mend itself quickly.
const RETRY: Duration = Duration::from_secs(10);

/// Where the node half leaves its traces. Without `cni_conf_dir` somebody else's plugin is in charge and nothing is done.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Folder of CNI configurations.
    pub cni_conf_dir: Option<PathBuf>,
    /// Folder in which `orlop-cni` keeps its allocations.
    pub cni_data_dir: PathBuf,
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
    #[error("write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("set {path} to 1: without forwarding no packet reaches a pod from outside this node")]
    Sysctl { path: &'static str, source: io::Error },
    #[error("talk to the kernel about {what}")]
    Netlink { what: String, source: rtnetlink::Error },
    #[error("open a netlink socket")]
    Socket(#[from] io::Error),
}

/// Keeps the network of this node in step with the Nodes.
#[derive(Debug)]
pub struct Network {
    node_name: String,
    settings: NodeSettings,
    retry: Option<Instant>,
    announced: bool,
}

impl Network {
    /// Nothing is done before [`Self::reconcile`].
    pub fn new(node_name: String, settings: NodeSettings) -> Self {
        Self {
            node_name,
            settings,
            retry: None,
            announced: false,
        }
    }

    /// When to reconcile again although no Node changed.
    pub fn retry(&self) -> Option<Instant> {
        self.retry
    }

    /// Brings configuration, forwarding and routes in step. What failed is logged and tried again later.
    pub async fn reconcile(&mut self, nodes: &HashMap<String, Node>) {
        self.retry = None;
        let Some(dir) = self.settings.cni_conf_dir.clone() else {
            return;
        };
        if let Err(error) = self.try_reconcile(&dir, nodes).await {
            warn!(error = %chain(&error), "the pod network is not set up, will retry");
            self.retry = Some(Instant::now() + RETRY);
        }
    }

    async fn try_reconcile(
        &mut self,
        dir: &std::path::Path,
        nodes: &HashMap<String, Node>,
    ) -> Result<(), NetworkError> {
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
        enable_forwarding(node)?;
        let kernel = netlink::Routes::open()?;
        let links = kernel.links().await?;
        let routes = plan::routes(&self.node_name, nodes, &links);
        let changes = plan::changes(&routes, &kernel.ours().await?);
        kernel.apply(&changes).await?;
        // Last: once this file is there, pods are started.
        let conflist = plan::conflist(node, &links, &self.settings.cni_data_dir);
        write_if_changed(dir.join(CONFLIST), conflist.as_bytes())
    }
}

fn enable_forwarding(node: &Node) -> Result<(), NetworkError> {
    for (path, ipv6) in [
        ("/proc/sys/net/ipv4/ip_forward", false),
        ("/proc/sys/net/ipv6/conf/all/forwarding", true),
    ] {
        if !node.pod_cidrs.iter().any(|cidr| cidr.address.is_ipv6() == ipv6) {
            continue;
        }
        let failed = |source| NetworkError::Sysctl { path, source };
        // Writing would need more rights than reading, and resets other settings of IPv6.
        if fs::read_to_string(path).map_err(failed)?.trim() != "1" {
            fs::write(path, "1").map_err(failed)?;
        }
    }
    Ok(())
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
