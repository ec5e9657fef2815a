//! The controllers: ordinary clients of the Kubernetes API that bring the cluster to what its objects ask for.
//!
//! Each controller is a file (or a folder with its `plan`) around one `reconcile(key)`: read the shared caches,
//! compute a plan by a pure function, apply it. Events only wake reconcilers; nothing acts on their content, so
//! a restart and a missed event take the same path.
//!
//! What the crate watches is listed in [`context::Informers`]: one list and watch per kind, of reduced objects
//! ([`objects`]). The garbage collector additionally watches the metadata of everything that can be deleted.
//! Controllers never write back what they read: they create, patch the fields they own, and delete.

mod cidr;
mod context;
mod deployment;
mod discovery;
mod endpoint;
mod endpoint_slice;
mod endpoints;
mod event;
mod garbage_collector;
mod informer;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod objects;
mod owner;
mod patch;
mod pod_gc;
mod queue;
mod replica_set;
mod rest;
mod root_ca;
mod selector;
mod service_account;
mod service_cidr;
mod taint_eviction;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use context::{Context, Informers};
use node_ipam::Pool;
use node_lifecycle::GracePeriods;

pub use cidr::{Cidr, CidrError};

/// How the controllers are to run. Field names follow kube-controller-manager's flags.
#[derive(Debug, Clone)]
pub struct Config {
    /// PEM of the CA published in every namespace as `kube-root-ca.crt`; none is published if empty.
    pub root_ca: String,
    /// Ranges that pods get their addresses from; nodes are given no ranges if there are none.
    pub cluster_cidrs: Vec<Cidr>,
    /// Ranges of services: never given to nodes.
    pub service_cluster_ip_ranges: Vec<Cidr>,
    /// Prefix of a node's part of an IPv4 cluster range.
    pub node_cidr_mask_size_ipv4: u8,
    /// Prefix of a node's part of an IPv6 cluster range.
    pub node_cidr_mask_size_ipv6: u8,
    /// How long a node may be silent before it counts as unreachable.
    pub node_monitor_grace_period: Duration,
    /// How long a node that never reported may be silent.
    pub node_startup_grace_period: Duration,
    /// Finished pods that may stay; 0 for all of them.
    pub terminated_pod_gc_threshold: usize,
    /// Syncs that each of the larger controllers may run at the same time (upstream's default is 5).
    pub concurrent_syncs: usize,
    /// Ends [`run`].
    pub shutdown: CancellationToken,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root_ca: String::new(),
            cluster_cidrs: Vec::new(),
            service_cluster_ip_ranges: Vec::new(),
            node_cidr_mask_size_ipv4: 24,
            node_cidr_mask_size_ipv6: 64,
            node_monitor_grace_period: Duration::from_secs(40),
            node_startup_grace_period: Duration::from_secs(60),
            terminated_pod_gc_threshold: 12500,
            concurrent_syncs: 5,
            shutdown: CancellationToken::new(),
        }
    }
}

/// Runs all controllers until `config.shutdown` is cancelled.
///
/// A server that is away is waited for; the controllers go on when it is back.
///
/// # Errors
///
/// Fails if the ranges for nodes make no sense, or if a task of the controllers ended by a bug rather than by the shutdown.
pub async fn run(client: kube::Client, config: Config) -> anyhow::Result<()> {
    let rest = rest::Rest::new(client);
    let (recorder, event_writer) = event::Recorder::new();
    let cancel = config.shutdown.clone();
    let context = Context {
        rest: rest.clone(),
        informers: Arc::new(Informers::new()),
        recorder,
        concurrent_syncs: config.concurrent_syncs,
        cancel: cancel.clone(),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(event_writer.run(rest.clone(), cancel.clone()));
    service_account::spawn(&context, &mut tasks);
    service_cidr::spawn(&context, &mut tasks);
    deployment::spawn(&context, &mut tasks);
    endpoint_slice::spawn(&context, &mut tasks);
    endpoints::spawn(&context, &mut tasks);
    namespace::spawn(&context, &mut tasks);
    replica_set::spawn::<objects::ReplicaSet>(&context, &mut tasks);
    replica_set::spawn::<objects::ReplicationController>(&context, &mut tasks);
    taint_eviction::spawn(&context, &mut tasks);
    garbage_collector::spawn(&context, &mut tasks);
    pod_gc::spawn(&context, &mut tasks, config.terminated_pod_gc_threshold);
    let grace = GracePeriods {
        monitor: config.node_monitor_grace_period,
        startup: config.node_startup_grace_period,
    };
    node_lifecycle::spawn(&context, &mut tasks, grace);
    if !config.cluster_cidrs.is_empty() {
        node_ipam::spawn(&context, &mut tasks, pool(&config)?);
    }
    if !config.root_ca.is_empty() {
        root_ca::spawn(&context, &mut tasks, config.root_ca);
    }
    context.informers.spawn(&rest, &cancel, &mut tasks);
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    Ok(())
}

/// The node ranges that the configuration asks for.
fn pool(config: &Config) -> anyhow::Result<Pool> {
    let mut clusters = Vec::new();
    for cluster in &config.cluster_cidrs {
        let (flag, prefix) = if cluster.is_ipv6() {
            ("--node-cidr-mask-size-ipv6", config.node_cidr_mask_size_ipv6)
        } else {
            ("--node-cidr-mask-size-ipv4", config.node_cidr_mask_size_ipv4)
        };
        if cluster.first_free(prefix, &[]).is_none() {
            anyhow::bail!("{flag} {prefix} does not fit into --cluster-cidr {cluster}");
        }
        clusters.push((*cluster, prefix));
    }
    Ok(Pool {
        clusters,
        reserved: config.service_cluster_ip_ranges.clone(),
    })
}
