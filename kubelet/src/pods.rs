//! The pods of this node: the watch that tells of them, and the workers that run them.
//!
//! Pods come from the API alone. What runs here without being there (deleted while no kubelet ran) gets a worker too,
//! made up from the runtime's labels, which ends it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::TryStreamExt;
use k8s_openapi::{
    api::core::v1::{Pod, PodSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api,
    runtime::{WatchStreamExt, watcher},
};
use tokio::sync::watch;

use crate::{
    admission,
    backoff::WatchBackoff,
    cgroups::{cpu_request, pod_total},
    context::Context,
    error,
    events::EventType,
    pod::{self, QosClass},
    runtime::{Runtime, RuntimeError},
    server::Host,
    worker::{self, Desired, plan},
};

/// How often the runtime is searched for what nobody looks after.
const SEARCH_ORPHANS: Duration = Duration::from_secs(60);
/// How often a container's end is looked for on behalf of somebody following its log.
const EXIT_POLL: Duration = Duration::from_millis(500);

/// The workers of this node, by pod uid.
pub struct Pods {
    context: Arc<Context>,
    workers: Mutex<HashMap<String, watch::Sender<Desired>>>,
}

impl Pods {
    /// No pods yet.
    pub fn new(context: Arc<Context>) -> Arc<Self> {
        Arc::new(Self {
            context,
            workers: Mutex::default(),
        })
    }

    fn workers(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<Desired>>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the API for ever.
    pub async fn follow(self: Arc<Self>) {
        let node_name = &self.context.config.node_name;
        let api: Api<Pod> = Api::all(self.context.client.clone());
        let config = watcher::Config::default().fields(&format!("spec.nodeName={node_name}"));
        let events = watcher(api, config)
            .backoff(WatchBackoff::default())
            .modify(|pod| pod.metadata.managed_fields = None);
        let mut events = std::pin::pin!(events);
        let mut listed: Vec<Pod> = Vec::new();
        let mut searching = false;
        let mut broken = false;
        loop {
            let event = match events.try_next().await {
                Ok(Some(event)) => event,
                Ok(None) => return,
                Err(error) => {
                    if !std::mem::replace(&mut broken, true) {
                        tracing::warn!(error = error::chain(&error), "watching pods, will retry");
                    }
                    continue;
                }
            };
            if !matches!(event, watcher::Event::Init) && std::mem::replace(&mut broken, false) {
                tracing::info!("watching pods again");
            }
            match event {
                watcher::Event::Init => listed.clear(),
                watcher::Event::InitApply(pod) => listed.push(pod),
                watcher::Event::InitDone => {
                    self.replace(std::mem::take(&mut listed));
                    // Only now is it known what does not belong here.
                    if !searching {
                        searching = true;
                        tokio::spawn(self.clone().search_orphans());
                    }
                }
                watcher::Event::Apply(pod) => self.update(pod),
                watcher::Event::Delete(pod) => self.remove(pod),
            }
        }
    }

    /// A complete list: what is not on it is gone.
    fn replace(self: &Arc<Self>, mut listed: Vec<Pod>) {
        let known: HashSet<String> = listed.iter().map(|pod| pod::uid(pod).to_owned()).collect();
        let gone: Vec<Arc<Pod>> = self
            .workers()
            .iter()
            .filter(|(uid, _)| !known.contains(*uid))
            .map(|(_, desired)| desired.borrow().pod().clone())
            .collect();
        for pod in gone {
            self.remove(Pod::clone(&pod));
        }
        // The oldest first: whoever was there first keeps its place.
        listed.sort_by_key(|pod| {
            let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (!admission::is_admitted(pod), created)
        });
        for pod in listed {
            self.update(pod);
        }
    }

    fn update(self: &Arc<Self>, pod: Pod) {
        let uid = pod::uid(&pod).to_owned();
        let pod = Arc::new(pod);
        let mut workers = self.workers();
        if let Some(desired) = workers.get(&uid) {
            desired.send_if_modified(|desired| {
                let news = desired.pod().metadata.resource_version != pod.metadata.resource_version;
                if news {
                    *desired = Desired::Present(pod);
                }
                news
            });
            return;
        }
        let others: Vec<Arc<Pod>> = workers
            .values()
            .map(|desired| desired.borrow().pod().clone())
            .collect();
        let rejected = admission::check(
            &pod,
            &others,
            &self.context.allocatable,
            self.context.config.file.max_pods,
        );
        if let Some(failure) = &rejected {
            let message = failure.message.clone();
            self.context
                .recorder
                .pod(&pod, EventType::Warning, failure.reason, message);
        }
        let (desired, receiver) = watch::channel(Desired::Present(pod));
        workers.insert(uid.clone(), desired);
        drop(workers);
        self.share_cpu();
        self.start(uid, receiver, rejected);
    }

    fn start(
        self: &Arc<Self>,
        uid: String,
        desired: watch::Receiver<Desired>,
        rejected: Option<plan::Failure>,
    ) {
        let pods = self.clone();
        tokio::spawn(async move {
            worker::run(pods.context.clone(), desired, rejected).await;
            pods.workers().remove(&uid);
            pods.share_cpu();
        });
    }

    fn remove(&self, pod: Pod) {
        if let Some(desired) = self.workers().get(pod::uid(&pod)) {
            desired.send_replace(Desired::Gone(Arc::new(pod)));
        }
    }

    /// Burstable pods together weigh what they request together.
    fn share_cpu(&self) {
        let requested: i64 = self
            .workers()
            .values()
            .map(|desired| desired.borrow().pod().clone())
            .filter(|pod| !plan::has_ended(pod) && QosClass::of(pod) == QosClass::Burstable)
            .map(|pod| pod_total(&pod, cpu_request))
            .sum();
        if let Err(error) = self.context.cgroups.set_burstable_shares(requested) {
            tracing::warn!(%error, "setting the CPU weight of burstable pods");
        }
    }

    /// Ends what runs, or is left on disk, and belongs to no pod of this node.
    async fn search_orphans(self: Arc<Self>) {
        loop {
            match orphans(&self.context.runtime).await {
                Ok(found) => {
                    for pod in found {
                        self.end_orphan(pod);
                    }
                }
                Err(error) => tracing::debug!(%error, "searching for orphans"),
            }
            let known: HashSet<String> = self.workers().keys().cloned().collect();
            let on_disk = self.context.volumes.orphans(&known);
            let in_cgroups = self.context.cgroups.pods();
            for uid in on_disk
                .into_iter()
                .chain(in_cgroups.into_iter().filter(|uid| !known.contains(uid)))
            {
                let metadata = ObjectMeta {
                    uid: Some(uid),
                    ..Default::default()
                };
                self.end_orphan(Pod {
                    metadata,
                    ..Default::default()
                });
            }
            tokio::time::sleep(SEARCH_ORPHANS).await;
        }
    }

    fn end_orphan(self: &Arc<Self>, pod: Pod) {
        let uid = pod::uid(&pod).to_owned();
        let mut workers = self.workers();
        if workers.contains_key(&uid) {
            return;
        }
        tracing::info!(
            uid,
            name = pod::name(&pod),
            "ending a pod that the API does not know"
        );
        let (desired, receiver) = watch::channel(Desired::Gone(Arc::new(pod)));
        workers.insert(uid.clone(), desired);
        drop(workers);
        self.start(uid, receiver, None);
    }
}

/// A pod for every uid that the runtime knows, with what its labels tell.
async fn orphans(runtime: &Runtime) -> Result<Vec<Pod>, RuntimeError> {
    let (sandboxes, containers) =
        tokio::try_join!(runtime.list_pod_sandboxes(None), runtime.list_containers(None))?;
    let mut pods: HashMap<String, Pod> = HashMap::new();
    let labels = sandboxes
        .into_iter()
        .map(|sandbox| (sandbox.labels, HashMap::new()));
    let labels = labels.chain(
        containers
            .into_iter()
            .map(|container| (container.labels, container.annotations)),
    );
    for (labels, annotations) in labels {
        let Some(uid) = labels.get(pod::POD_UID_LABEL).filter(|uid| !uid.is_empty()) else {
            continue;
        };
        let pod = pods.entry(uid.clone()).or_insert_with(|| Pod {
            metadata: ObjectMeta {
                uid: Some(uid.clone()),
                name: labels.get(pod::POD_NAME_LABEL).cloned(),
                namespace: labels.get(pod::POD_NAMESPACE_LABEL).cloned(),
                ..Default::default()
            },
            spec: Some(PodSpec::default()),
            ..Default::default()
        });
        let grace = annotations
            .get(pod::POD_GRACE_PERIOD_ANNOTATION)
            .and_then(|grace| grace.parse().ok());
        if let (Some(grace), Some(spec)) = (grace, &mut pod.spec) {
            spec.termination_grace_period_seconds = Some(grace);
        }
    }
    Ok(pods.into_values().collect())
}

impl Host for Pods {
    fn pods(&self) -> Vec<Arc<Pod>> {
        let workers = self.workers();
        let present = workers.values().filter_map(|desired| match &*desired.borrow() {
            Desired::Present(pod) => Some(pod.clone()),
            Desired::Gone(_) => None,
        });
        present.collect()
    }

    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let mut named: Vec<Arc<Pod>> = Host::pods(self)
            .into_iter()
            .filter(|pod| pod::namespace(pod) == namespace && pod::name(pod) == name)
            .collect();
        // A predecessor of the same name may still be ending.
        named.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
        named.pop()
    }

    fn container_exit(&self, container_id: &str) -> futures::future::BoxFuture<'static, ()> {
        let (runtime, id) = (self.context.runtime.clone(), container_id.to_owned());
        Box::pin(async move {
            loop {
                match runtime.container_status(&id).await {
                    Ok(status)
                        if status.state == i32::from(k8s_cri::v1::ContainerState::ContainerRunning) => {}
                    Err(error) if error.is_unreachable() => {}
                    _ => return,
                }
                tokio::time::sleep(EXIT_POLL).await;
            }
        })
    }
}
