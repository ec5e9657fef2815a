//! Container probes: one worker per (pod, container, kind) that asks the container and counts the answers.
//!
//! Owns the probe results by container id. The pod worker hands over what runs ([`ProbeManager::sync`]) and reads the
//! results back in the same pass; a result that changes wakes it. Workers act on nothing themselves: restarting a
//! container or taking a pod out of a Service is the pod worker's decision.
//!
//! After a restart of the kubelet a container that was ready stays ready until a probe says otherwise, so that a
//! restart takes no pod out of its Services.

mod check;
mod grpc;
mod http_get;
mod state;
mod worker;

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Pod, Probe};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::{pod, runtime::ExecSync, volumes::Wake};

/// Called with the pod, the container's name, the event's reason and its message. All are warnings.
pub type ProbeEvents = Arc<dyn Fn(&Pod, &str, &'static str, String) + Send + Sync>;

/// The three kinds of probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProbeKind {
    /// Holds the other two back until it succeeds once; its failure restarts the container.
    Startup,
    /// Its result is the container's readiness.
    Readiness,
    /// Its failure restarts the container.
    Liveness,
}

impl ProbeKind {
    const ALL: [ProbeKind; 3] = [ProbeKind::Startup, ProbeKind::Readiness, ProbeKind::Liveness];

    fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            ProbeKind::Startup => container.startup_probe.as_ref(),
            ProbeKind::Readiness => container.readiness_probe.as_ref(),
            ProbeKind::Liveness => container.liveness_probe.as_ref(),
        }
    }
}

impl fmt::Display for ProbeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Readiness => "Readiness",
            ProbeKind::Liveness => "Liveness",
        })
    }
}

/// A running container, as the pod worker sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeTarget {
    /// The container's name in the pod.
    pub name: String,
    /// The runtime's id of the running instance.
    pub container_id: String,
    /// When the instance started.
    pub started_at: Timestamp,
    /// Whether the pod's last known status says that this very instance is ready.
    pub was_ready: bool,
    /// Whether the pod's last known status says that this very instance passed its startup probe.
    pub was_started: bool,
}

/// Sends the request of a lifecycle hook, within `timeout`. Any HTTP answer is a success; the error is for the user.
pub async fn http_get_once(
    action: &HTTPGetAction,
    container: &Container,
    pod_ip: IpAddr,
    timeout: Duration,
) -> Result<(), String> {
    let port = check::resolve_port(&action.port, container)?;
    http_get::send(action, pod_ip, port, timeout).await
}

/// Runs the probes of this node's pods.
pub struct ProbeManager {
    shared: Arc<Shared>,
    pods: Mutex<HashMap<String, HashMap<String, ContainerProbes>>>,
}

/// What every worker uses.
struct Shared {
    exec: Arc<dyn ExecSync>,
    wake: Wake,
    events: ProbeEvents,
    results: Mutex<HashMap<String, Results>>,
    /// Counts startup probes that succeeded: what the other two kinds of the same container wait for.
    startups: watch::Sender<u64>,
    started: Instant,
    started_at: Timestamp,
}

/// Results of one container instance; `None` where it has no such probe.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Results {
    startup: Option<bool>,
    readiness: Option<bool>,
    liveness: Option<bool>,
    /// The startup probe will not succeed any more, unlike one that is merely not there yet.
    startup_failed: bool,
}

impl Results {
    fn of(&mut self, kind: ProbeKind) -> &mut Option<bool> {
        match kind {
            ProbeKind::Startup => &mut self.startup,
            ProbeKind::Readiness => &mut self.readiness,
            ProbeKind::Liveness => &mut self.liveness,
        }
    }
}

/// The workers of one container. Dropping it ends them.
struct ContainerProbes {
    instance: watch::Sender<Option<Instance>>,
    _workers: Vec<AbortOnDropHandle<()>>,
}

/// What a worker needs to know of the running instance.
#[derive(Clone)]
struct Instance {
    pod: Arc<Pod>,
    pod_ip: Option<IpAddr>,
    container_id: String,
    started_at: Timestamp,
    /// The pod is being deleted: it no longer matters whether its containers live.
    stopping: bool,
}

impl Instance {
    /// Whether a worker must start over. Other changes to the pod do not touch a probe.
    fn differs_from(&self, other: &Self) -> bool {
        self.container_id != other.container_id
            || self.pod_ip != other.pod_ip
            || self.stopping != other.stopping
    }
}

impl Shared {
    fn results(&self) -> MutexGuard<'_, HashMap<String, Results>> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a result; true when it is a change. A forgotten container stays forgotten.
    fn record(&self, container_id: &str, kind: ProbeKind, success: bool) -> bool {
        let mut results = self.results();
        let Some(results) = results.get_mut(container_id) else {
            return false;
        };
        results.of(kind).replace(success) != Some(success)
    }

    fn is_started(&self, container_id: &str) -> bool {
        self.results()
            .get(container_id)
            .is_none_or(|results| results.startup.unwrap_or(true))
    }

    fn give_up_startup(&self, container_id: &str) {
        if let Some(results) = self.results().get_mut(container_id) {
            results.startup_failed = true;
        }
    }
}

impl ProbeManager {
    /// A manager without pods. `wake` is called with a pod's uid when one of its results changed.
    pub fn new(exec: Arc<dyn ExecSync>, wake: Wake, events: ProbeEvents) -> Self {
        let shared = Shared {
            exec,
            wake,
            events,
            results: Mutex::default(),
            startups: watch::Sender::new(0),
            started: Instant::now(),
            started_at: Timestamp::now(),
        };
        Self {
            shared: Arc::new(shared),
            pods: Mutex::default(),
        }
    }

    /// Tells which containers of the pod run now. Starts the workers of new ones, points workers at restarted ones and
    /// lets those of containers that do not run wait. Results of the running instances exist when this returns.
    pub fn sync(&self, pod: &Arc<Pod>, pod_ip: Option<IpAddr>, running: &[ProbeTarget]) {
        let mut pods = self.pods();
        let probes = pods.entry(pod::uid(pod).to_owned()).or_default();
        for container in pod::all_containers(pod) {
            let kinds: Vec<ProbeKind> = ProbeKind::ALL
                .into_iter()
                .filter(|kind| kind.of(container).is_some())
                .collect();
            if kinds.is_empty() {
                continue;
            }
            let target = running.iter().find(|target| target.name == container.name);
            if target.is_none() && !probes.contains_key(&container.name) {
                continue;
            }
            if let Some(target) = target {
                self.prepare_results(target, &kinds);
            }
            let workers = probes
                .entry(container.name.clone())
                .or_insert_with(|| self.start_workers(container, &kinds));
            self.point_at(
                workers,
                target.map(|target| Instance {
                    pod: pod.clone(),
                    pod_ip,
                    container_id: target.container_id.clone(),
                    started_at: target.started_at,
                    stopping: pod.metadata.deletion_timestamp.is_some(),
                }),
            );
        }
    }

    /// Ends the pod's workers and forgets its results.
    pub fn remove(&self, pod_uid: &str) {
        let Some(containers) = self.pods().remove(pod_uid) else {
            return;
        };
        let mut results = self.shared.results();
        for probes in containers.values() {
            if let Some(instance) = &*probes.instance.borrow() {
                results.remove(&instance.container_id);
            }
        }
    }

    /// Ends what belongs to pods not `known` any more.
    pub fn retain(&self, known: &HashSet<String>) {
        let gone: Vec<String> = self
            .pods()
            .keys()
            .filter(|uid| !known.contains(*uid))
            .cloned()
            .collect();
        for uid in gone {
            self.remove(&uid);
        }
    }

    /// The readiness probe's result; `None` when the instance has no such probe or does not run.
    pub fn ready(&self, container_id: &str) -> Option<bool> {
        self.result(container_id)?.readiness
    }

    /// Whether the startup probe has succeeded; `None` when the instance has no such probe or does not run.
    pub fn started(&self, container_id: &str) -> Option<bool> {
        self.result(container_id)?.startup
    }

    /// The liveness probe's result, `Some(false)` once it has failed for good; `None` without such a probe.
    pub fn alive(&self, container_id: &str) -> Option<bool> {
        self.result(container_id)?.liveness
    }

    /// The startup or the liveness probe has failed for good: the instance is to be killed. Which of the two it was.
    pub fn failed(&self, container_id: &str) -> Option<ProbeKind> {
        let results = self.result(container_id)?;
        if results.startup_failed {
            Some(ProbeKind::Startup)
        } else {
            (results.liveness == Some(false)).then_some(ProbeKind::Liveness)
        }
    }

    fn result(&self, container_id: &str) -> Option<Results> {
        self.shared.results().get(container_id).copied()
    }

    fn prepare_results(&self, target: &ProbeTarget, kinds: &[ProbeKind]) {
        let mut results = self.shared.results();
        results.entry(target.container_id.clone()).or_insert_with(|| {
            let mut initial = Results::default();
            for kind in kinds {
                *initial.of(*kind) = Some(match kind {
                    ProbeKind::Startup => target.was_started,
                    ProbeKind::Readiness => target.was_ready,
                    ProbeKind::Liveness => true,
                });
            }
            initial
        });
    }

    fn start_workers(&self, container: &Container, kinds: &[ProbeKind]) -> ContainerProbes {
        let (instance, _) = watch::channel(None);
        let workers = kinds
            .iter()
            .filter_map(|kind| {
                let probe = kind.of(container)?.clone();
                let worker =
                    worker::Worker::new(self.shared.clone(), container, *kind, probe, instance.subscribe());
                Some(AbortOnDropHandle::new(tokio::spawn(worker.run())))
            })
            .collect();
        ContainerProbes {
            instance,
            _workers: workers,
        }
    }

    fn point_at(&self, probes: &ContainerProbes, new: Option<Instance>) {
        let mut forgotten = None;
        probes.instance.send_if_modified(|current| {
            let restart = match (&*current, &new) {
                (Some(old), Some(new)) => old.differs_from(new),
                (None, None) => false,
                _ => true,
            };
            let new_id = new.as_ref().map(|instance| instance.container_id.as_str());
            forgotten = current
                .as_ref()
                .map(|instance| instance.container_id.clone())
                .filter(|old_id| new_id != Some(old_id.as_str()));
            *current = new;
            restart
        });
        if let Some(container_id) = forgotten {
            self.shared.results().remove(&container_id);
        }
    }

    fn pods(&self) -> MutexGuard<'_, HashMap<String, HashMap<String, ContainerProbes>>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
