//! The loop: watches in, decisions through the queue, writes out.

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    sync::Arc,
    time::Instant,
};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client,
    runtime::watcher::{self, Event},
};
use rand::{SeedableRng, rngs::SmallRng};
use tokio::task::JoinSet;

use crate::{
    Config,
    cache::Cache,
    node::NodeProperties,
    plugins,
    pod::{ObservedPod, PodInfo, ScheduledCondition, uid},
    queue::Queue,
    report::{self, Reason, Told},
    schedule::schedule,
    watch::watch,
};

/// Bindings that may be on their way at once; more would only wait in the API server.
const BINDINGS_MAX: usize = 256;
/// Conditions and Events that may be on their way at once; what exceeds that is not told.
const REPORTS_MAX: usize = 1024;

/// Schedules until the process ends.
///
/// # Errors
/// Only when a watch ends for good, which is not meant to happen: failures of the API server are waited out.
pub async fn run(client: Client, config: Config) -> anyhow::Result<()> {
    // An ended pod takes no room; the server leaves it out, and says "deleted" when one ends.
    let running = watcher::Config::default().fields("status.phase!=Succeeded,status.phase!=Failed");
    let mut pods = pin!(watch(Api::<Pod>::all(client.clone()), running));
    let mut nodes = pin!(watch(
        Api::<Node>::all(client.clone()),
        watcher::Config::default()
    ));
    let mut scheduler = Scheduler::new(client, config);
    loop {
        let flush = scheduler.queue.next_flush();
        tokio::select! {
            event = pods.next() => match event {
                Some(Ok(event)) => scheduler.on_pod(event),
                Some(Err(error)) => log_watch_error("pods", &error),
                None => anyhow::bail!("the watch of pods ended"),
            },
            event = nodes.next() => match event {
                Some(Ok(event)) => scheduler.on_node(event),
                Some(Err(error)) => log_watch_error("nodes", &error),
                None => anyhow::bail!("the watch of nodes ended"),
            },
            Some(bound) = scheduler.bindings.join_next() => scheduler.on_bound(bound?),
            Some(reported) = scheduler.reports.join_next() => reported?,
            () = sleep_until(flush) => scheduler.queue.flush(Instant::now()),
        }
        scheduler.schedule_all();
    }
}

struct Scheduler {
    client: Client,
    config: Config,
    cache: Cache,
    queue: Queue,
    /// Where the search for a node begins next.
    start: usize,
    random: SmallRng,
    pods: Listing,
    nodes: Listing,
    bindings: JoinSet<Bound>,
    reports: JoinSet<()>,
    /// What was last told about each waiting pod, by uid.
    told: HashMap<Arc<str>, Told>,
}

/// How far a list has come, from which everything that is not in it is forgotten.
#[derive(Debug, Default)]
struct Listing {
    /// Uids of pods, names of nodes: those seen since the list began.
    seen: HashSet<Arc<str>>,
    /// A list was complete once. Before that, nothing can be decided.
    synced: bool,
}

/// The outcome of a binding.
struct Bound {
    pod: Arc<PodInfo>,
    node: Arc<str>,
    result: kube::Result<()>,
}

impl Scheduler {
    fn new(client: Client, config: Config) -> Scheduler {
        Scheduler {
            client,
            cache: Cache::default(),
            queue: Queue::new(config.pod_initial_backoff, config.pod_max_backoff),
            config,
            start: 0,
            random: SmallRng::from_rng(&mut rand::rng()),
            pods: Listing::default(),
            nodes: Listing::default(),
            bindings: JoinSet::new(),
            reports: JoinSet::new(),
            told: HashMap::new(),
        }
    }

    fn on_pod(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.pods.seen.clear(),
            Event::InitApply(pod) => {
                self.pods.seen.insert(uid(&pod));
                self.observe_pod(&pod);
            }
            Event::InitDone => {
                let seen = std::mem::take(&mut self.pods.seen);
                self.queue.retain(&seen);
                self.told.retain(|uid, _| seen.contains(uid));
                let freed: HashSet<_> = self.cache.retain_pods(&seen).into_iter().collect();
                freed.iter().for_each(|node| self.wake(node));
                self.pods.synced = true;
            }
            Event::Apply(pod) => self.observe_pod(&pod),
            Event::Delete(pod) => self.remove_pod(&uid(&pod)),
        }
    }

    fn observe_pod(&mut self, pod: &Pod) {
        let uid = uid(pod);
        match ObservedPod::of(pod, &self.config.scheduler_name) {
            ObservedPod::Assigned { node, demand } => {
                self.queue.remove(&uid);
                self.told.remove(&uid);
                if let Some(freed) = self.cache.set_pod(&uid, node, demand) {
                    self.wake(&freed);
                }
            }
            // One whose binding is written stays in flight in the queue, so that older news of it changes nothing.
            ObservedPod::Pending(pod) => {
                if self.queue.set(pod.clone(), Instant::now()) {
                    self.report_gates(&pod);
                }
            }
            ObservedPod::Irrelevant => self.remove_pod(&uid),
        }
    }

    fn remove_pod(&mut self, uid: &str) {
        self.queue.remove(uid);
        self.told.remove(uid);
        if let Some(freed) = self.cache.remove_pod(uid) {
            self.wake(&freed);
        }
    }

    fn on_node(&mut self, event: Event<Node>) {
        match event {
            Event::Init => self.nodes.seen.clear(),
            Event::InitApply(node) => {
                self.nodes.seen.insert(name(&node).into());
                self.observe_node(&node);
            }
            Event::InitDone => {
                self.cache.retain_nodes(&std::mem::take(&mut self.nodes.seen));
                self.nodes.synced = true;
            }
            Event::Apply(node) => self.observe_node(&node),
            Event::Delete(node) => self.cache.remove_node(name(&node)),
        }
    }

    fn observe_node(&mut self, node: &Node) {
        if self.cache.set_node(name(node), NodeProperties::of(node)) {
            self.wake(name(node));
        }
    }

    /// A node changed or has more room: tries the pods that fit there now. All filters judge a node by itself, so no
    /// other pod's chances have changed.
    fn wake(&mut self, node: &str) {
        if let Some(node) = self.cache.node(node) {
            self.queue
                .wake(Instant::now(), |pod| plugins::filter(pod, node).is_ok());
        }
    }

    fn schedule_all(&mut self) {
        if !self.pods.synced || !self.nodes.synced {
            return;
        }
        while self.bindings.len() < BINDINGS_MAX
            && let Some(pod) = self.queue.pop()
        {
            match schedule(&pod, &self.cache, &mut self.start, &mut self.random) {
                Ok(node) => self.bind(pod, node),
                Err(diagnosis) => {
                    self.queue.unschedulable(&pod.reference.uid, Instant::now());
                    self.report_failure(&pod, "Unschedulable", diagnosis.to_string());
                }
            }
        }
    }

    fn bind(&mut self, pod: Arc<PodInfo>, node: Arc<str>) {
        self.cache
            .assume(&pod.reference.uid, node.clone(), pod.demand.clone());
        let client = self.client.clone();
        self.bindings.spawn(async move {
            let result = report::bind(client, &pod.reference, &node).await;
            Bound { pod, node, result }
        });
    }

    fn on_bound(&mut self, Bound { pod, node, result }: Bound) {
        let reference = &pod.reference;
        let Err(error) = result else {
            let message = format!(
                "Successfully assigned {}/{} to {node}",
                reference.namespace, reference.name
            );
            tracing::info!(namespace = reference.namespace, name = reference.name, %node, "pod assigned");
            self.tell(&pod, Reason::Scheduled, &message);
            return;
        };
        tracing::warn!(
            namespace = reference.namespace,
            name = reference.name,
            %node,
            error = &error as &dyn std::error::Error,
            "cannot bind the pod"
        );
        self.queue.failed(&reference.uid, Instant::now());
        if let Some(freed) = self.cache.forget(&reference.uid) {
            self.wake(&freed);
        }
        // The watch is about to tell that it is gone; there is nothing left to tell anything about.
        if !matches!(&error, kube::Error::Api(status) if status.code == 404) {
            let message = format!("binding rejected: running Bind plugin \"DefaultBinder\": {error}");
            self.report_failure(&pod, "SchedulerError", message);
        }
    }

    fn report_failure(&mut self, pod: &Arc<PodInfo>, reason: &str, message: String) {
        self.tell(pod, Reason::FailedScheduling, &message);
        self.set_condition(pod, reason, message);
    }

    fn report_gates(&mut self, pod: &Arc<PodInfo>) {
        let message = "Scheduling is blocked due to non-empty scheduling gates";
        self.set_condition(pod, "SchedulingGated", message.to_owned());
    }

    fn tell(&mut self, pod: &Arc<PodInfo>, reason: Reason, message: &str) {
        let reference = &pod.reference;
        let reporter = &self.config.scheduler_name;
        let before = self.told.get(&reference.uid);
        let (write, told) = report::tell(reference, reason, message, before, reporter, Timestamp::now());
        if reason == Reason::FailedScheduling {
            self.told.insert(reference.uid.clone(), told);
        }
        let (client, namespace) = (self.client.clone(), reference.namespace.clone());
        self.report(async move { write.send(client, &namespace).await });
    }

    fn set_condition(&mut self, pod: &Arc<PodInfo>, reason: &str, message: String) {
        let condition = ScheduledCondition {
            status: "False".to_owned(),
            reason: reason.to_owned(),
            message,
        };
        let before = pod.condition.as_ref();
        if before == Some(&condition) {
            return;
        }
        let transition = before.is_none_or(|before| before.status != condition.status);
        let (client, pod) = (self.client.clone(), pod.clone());
        self.report(
            async move { report::set_condition(client, &pod.reference, &condition, transition).await },
        );
    }

    /// Writes beside the loop. Nothing waits for it and nothing depends on it.
    fn report(&mut self, write: impl Future<Output = kube::Result<()>> + Send + 'static) {
        if self.reports.len() >= REPORTS_MAX {
            tracing::warn!("too many conditions and Events wait to be written, leaving one out");
            return;
        }
        self.reports.spawn(async move {
            if let Err(error) = write.await {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "a condition or Event was not written"
                );
            }
        });
    }
}

fn name(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

fn log_watch_error(kind: &str, error: &watcher::Error) {
    tracing::warn!(
        kind,
        error = error as &dyn std::error::Error,
        "watch broken, starting it again"
    );
}
