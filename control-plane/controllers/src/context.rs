//! What all controllers share: requests, informers, events, and the loop around a reconciler.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::event::Recorder;
use crate::informer::Informer;
use crate::objects::{
    ConfigMap, Deployment, EndpointSlice, Endpoints, IpAddress, Lease, Namespace, Node, Object, Pod,
    ReplicaSet, ReplicationController, Service, ServiceAccount, ServiceCidr,
};
use crate::queue::{Key, Queue};
use crate::rest::{Error, Rest, Result, chain};

/// Handed to every controller; cheap to clone.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) rest: Rest,
    pub(crate) informers: Arc<Informers>,
    pub(crate) recorder: Recorder,
    pub(crate) concurrent_syncs: usize,
    pub(crate) cancel: CancellationToken,
}

/// One informer per kind.
pub(crate) struct Informers {
    pub(crate) pods: Informer<Pod>,
    pub(crate) nodes: Informer<Node>,
    pub(crate) leases: Informer<Lease>,
    pub(crate) namespaces: Informer<Namespace>,
    pub(crate) services: Informer<Service>,
    pub(crate) endpoints: Informer<Endpoints>,
    pub(crate) endpoint_slices: Informer<EndpointSlice>,
    pub(crate) deployments: Informer<Deployment>,
    pub(crate) replica_sets: Informer<ReplicaSet>,
    pub(crate) replication_controllers: Informer<ReplicationController>,
    pub(crate) service_accounts: Informer<ServiceAccount>,
    pub(crate) root_ca_config_maps: Informer<ConfigMap>,
    pub(crate) service_cidrs: Informer<ServiceCidr>,
    pub(crate) ip_addresses: Informer<IpAddress>,
}

/// Index of the informers with dependents: by the uid of the controller, or by [`orphans`] of the namespace.
pub(crate) const BY_CONTROLLER: usize = 0;
/// Index of the pod informer: by node name, empty for pods that are not scheduled.
pub(crate) const BY_NODE: usize = 1;

/// The value of [`BY_CONTROLLER`] for objects of `namespace` that nobody controls.
pub(crate) fn orphans(namespace: &str) -> String {
    format!("/{namespace}")
}

fn by_controller<T: Object>(object: &T) -> Option<String> {
    let meta = object.meta();
    Some(
        meta.controller()
            .map_or_else(|| orphans(&meta.namespace), |owner| owner.uid.clone()),
    )
}

fn by_node(pod: &Pod) -> Option<String> {
    Some(pod.spec.node_name.to_string())
}

impl Informers {
    pub(crate) fn new() -> Self {
        Self {
            pods: Informer::new(&[by_controller, by_node]),
            nodes: Informer::new(&[]),
            leases: Informer::restricted("kube-node-lease", "", &[]),
            namespaces: Informer::new(&[]),
            services: Informer::new(&[]),
            endpoints: Informer::new(&[]),
            endpoint_slices: Informer::new(&[]),
            deployments: Informer::new(&[]),
            replica_sets: Informer::new(&[by_controller]),
            replication_controllers: Informer::new(&[]),
            service_accounts: Informer::restricted("", "fieldSelector=metadata.name%3Ddefault", &[]),
            root_ca_config_maps: Informer::restricted(
                "",
                "fieldSelector=metadata.name%3Dkube-root-ca.crt",
                &[],
            ),
            service_cidrs: Informer::new(&[]),
            ip_addresses: Informer::new(&[]),
        }
    }

    /// Starts every list and watch. Controllers must have subscribed before.
    pub(crate) fn spawn(self: &Arc<Self>, rest: &Rest, cancel: &CancellationToken, tasks: &mut JoinSet<()>) {
        macro_rules! spawn {
            ($($informer:ident),*) => {$({
                let (informers, rest, cancel) = (self.clone(), rest.clone(), cancel.clone());
                tasks.spawn(async move { informers.$informer.run(rest, cancel).await });
            })*};
        }
        spawn!(
            pods,
            nodes,
            leases,
            namespaces,
            services,
            endpoints,
            endpoint_slices,
            deployments,
            replica_sets,
            replication_controllers,
            service_accounts,
            root_ca_config_maps,
            service_cidrs,
            ip_addresses
        );
    }

    /// Waits until every first list is complete. Nothing may be decided before: an empty cache looks like an
    /// empty cluster.
    pub(crate) async fn synced(&self) {
        self.pods.synced().await;
        self.nodes.synced().await;
        self.leases.synced().await;
        self.namespaces.synced().await;
        self.services.synced().await;
        self.endpoints.synced().await;
        self.endpoint_slices.synced().await;
        self.deployments.synced().await;
        self.replica_sets.synced().await;
        self.replication_controllers.synced().await;
        self.service_accounts.synced().await;
        self.root_ca_config_maps.synced().await;
        self.service_cidrs.synced().await;
        self.ip_addresses.synced().await;
    }
}

/// What a reconciler wants after a run without failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Wait for an event.
    Idle,
    /// Run again after this time, or on an event before.
    After(Duration),
}

/// Runs `reconcile` for the keys of `queue` on `workers` tasks until cancelled.
pub(crate) fn spawn_workers<K, F, Fut>(
    name: &'static str,
    context: &Context,
    tasks: &mut JoinSet<()>,
    workers: usize,
    queue: Arc<Queue<K>>,
    reconcile: F,
) where
    K: Clone + Eq + std::hash::Hash + std::fmt::Display + Send + Sync + 'static,
    F: Fn(K) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<Next>> + Send,
{
    for _ in 0..workers.max(1) {
        let (context, queue, reconcile) = (context.clone(), queue.clone(), reconcile.clone());
        tasks.spawn(async move {
            let work = async {
                context.informers.synced().await;
                loop {
                    let key = queue.next().await;
                    process(name, &queue, key, &reconcile).await;
                }
            };
            tokio::select! {
                () = context.cancel.cancelled() => {}
                () = work => {}
            }
        });
    }
}

async fn process<K, F, Fut>(name: &'static str, queue: &Queue<K>, key: K, reconcile: &F)
where
    K: Clone + Eq + std::hash::Hash + std::fmt::Display,
    F: Fn(K) -> Fut,
    Fut: Future<Output = Result<Next>>,
{
    let span = tracing::info_span!("reconcile", controller = name, %key);
    // A panic is a bug in one reconciler; the other controllers in this process must survive it.
    let outcome = AssertUnwindSafe(async { reconcile(key.clone()).await })
        .catch_unwind()
        .instrument(span.clone())
        .await;
    match outcome {
        Ok(Ok(next)) => {
            queue.forget(&key);
            if let Next::After(delay) = next {
                queue.add_after(key.clone(), delay);
            }
        }
        Ok(Err(failure)) => {
            let delay = queue.add_rate_limited(key.clone());
            let error = chain(&failure);
            let _entered = span.enter();
            // The first retries are usual business, such as conflicts; so is what only takes its time.
            if delay < Duration::from_millis(100) || matches!(failure, Error::Unfinished(_)) {
                tracing::debug!(error, ?delay, "will retry");
            } else {
                tracing::warn!(error, ?delay, "will retry");
            }
        }
        Err(_) => {
            let delay = queue.add_rate_limited(key.clone());
            let _entered = span.enter();
            tracing::error!(?delay, "reconciler panicked, will retry");
        }
    }
    queue.done(&key);
}

/// Wakes the reconciler of `queue` for every object of `informer` that changes.
pub(crate) fn wake_on_change<T: Object>(informer: &Informer<T>, queue: &Arc<Queue<Key>>) {
    let queue = queue.clone();
    informer.subscribe(move |change| {
        if let Some(object) = change.latest() {
            queue.add(object.key());
        }
    });
}
