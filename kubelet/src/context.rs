//! What every part of the kubelet works with.

use std::{
    collections::HashMap,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{Notify, watch};

use crate::{
    cgroups::Cgroups,
    config::Config,
    env::ServiceCache,
    events::Recorder,
    images::Images,
    node::{Health, Machine},
    pod,
    probes::ProbeManager,
    runtime::Runtime,
    sandbox::{Dns, Node, ResolvConf},
    volumes::{Allocatable, ObjectCache, VolumeManager},
};

/// The shared parts of one kubelet.
pub struct Context {
    /// Flags and configuration file.
    pub config: Config,
    /// The API server.
    pub client: kube::Client,
    /// containerd.
    pub runtime: Runtime,
    /// Events.
    pub recorder: Recorder,
    /// ConfigMaps and Secrets.
    pub objects: Arc<ObjectCache>,
    /// Volumes.
    pub volumes: VolumeManager,
    /// Probes.
    pub probes: ProbeManager,
    /// Image pulls.
    pub images: Arc<Images>,
    /// Service variables.
    pub services: ServiceCache,
    /// Pod cgroups.
    pub cgroups: Cgroups,
    /// What the node has.
    pub machine: Machine,
    /// What of it pods may use.
    pub allocatable: Allocatable,
    /// Whether runtime and network are ready.
    pub health: watch::Receiver<Health>,
    /// The node's resolver configuration.
    pub resolv_conf: ResolvConf,
    /// How workers are woken.
    pub wakes: Wakes,
}

impl Context {
    /// Directory of everything kept of a pod.
    pub fn pod_dir(&self, pod_uid: &str) -> PathBuf {
        self.config.root_dir.join("pods").join(pod_uid)
    }

    /// What a sandbox's configuration needs of the node.
    pub fn node_for(&self, pod: &Pod) -> Node<'_> {
        Node {
            pod_logs_dir: &self.config.file.pod_logs_dir,
            cgroup_parent: self.cgroups.pod_path(pod),
            node_name: &self.config.node_name,
            cluster_domain: &self.config.file.cluster_domain,
            dns: Dns::for_pod(
                pod,
                &self.config.file.cluster_dns,
                &self.config.file.cluster_domain,
                &self.resolv_conf,
            ),
        }
    }

    /// The node's addresses.
    pub fn host_ips(&self) -> &[IpAddr] {
        &self.config.node_ips
    }
}

/// Wakes pod workers by the pod's uid or by the id of a container or sandbox. Waking what is unknown does nothing.
#[derive(Clone, Default)]
pub struct Wakes {
    inner: Arc<Mutex<Registered>>,
}

#[derive(Default)]
struct Registered {
    pods: HashMap<String, Arc<Signal>>,
    /// Containers and sandboxes, by the pod they belong to.
    owners: HashMap<String, String>,
}

/// What reaches a sleeping worker.
#[derive(Default)]
pub struct Signal {
    notify: Notify,
    /// Containers whose end the runtime has announced and CRI may not report yet.
    exited: Mutex<Vec<String>>,
}

impl Signal {
    /// Resolves at the next wake, or at once when there was one since the last.
    pub async fn woken(&self) {
        self.notify.notified().await;
    }

    /// The announced ends since the last call.
    pub fn take_exited(&self) -> Vec<String> {
        std::mem::take(&mut self.exited.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Wakes {
    fn inner(&self) -> MutexGuard<'_, Registered> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a pod known.
    pub fn register(&self, pod_uid: &str) -> Arc<Signal> {
        self.inner().pods.entry(pod_uid.to_owned()).or_default().clone()
    }

    /// Forgets a pod and what belongs to it.
    pub fn unregister(&self, pod_uid: &str) {
        let mut inner = self.inner();
        inner.pods.remove(pod_uid);
        inner.owners.retain(|_, owner| owner != pod_uid);
    }

    /// Says which containers and sandboxes belong to a pod now.
    pub fn set_owned(&self, pod_uid: &str, observed: &pod::PodObservation) {
        let ids = observed
            .containers
            .iter()
            .filter(|container| container.state != pod::ContainerState::Exited)
            .map(|container| &container.id)
            .chain(
                observed
                    .sandboxes
                    .iter()
                    .filter(|sandbox| sandbox.ready)
                    .map(|sandbox| &sandbox.id),
            );
        let mut inner = self.inner();
        inner.owners.retain(|_, owner| owner != pod_uid);
        for id in ids {
            inner.owners.insert(id.clone(), pod_uid.to_owned());
        }
    }

    /// Adds a container or sandbox just made, whose end may be announced before anybody looks.
    pub fn add_owned(&self, pod_uid: &str, id: &str) {
        self.inner().owners.insert(id.to_owned(), pod_uid.to_owned());
    }

    /// Wakes a pod's worker.
    pub fn wake(&self, pod_uid: &str) {
        if let Some(signal) = self.inner().pods.get(pod_uid) {
            signal.notify.notify_one();
        }
    }

    /// Wakes every worker.
    pub fn wake_all(&self) {
        for signal in self.inner().pods.values() {
            signal.notify.notify_one();
        }
    }

    /// Tells the owner of a container or sandbox that it has ended.
    pub fn container_exited(&self, id: &str) {
        let inner = self.inner();
        let signal = inner.owners.get(id).and_then(|owner| inner.pods.get(owner));
        if let Some(signal) = signal {
            signal
                .exited
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(id.to_owned());
            signal.notify.notify_one();
        }
    }
}
