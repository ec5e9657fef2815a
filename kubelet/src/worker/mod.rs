//! One worker per pod: it looks, plans, applies, reports, and sleeps until something wakes it.
//!
//! What wakes it (the API's watch, containerd's events, probes, volumes, timers) carries no content that is acted on:
//! every wake looks at everything again. A worker therefore needs nothing from its predecessor in a former kubelet.

mod apply;
mod hooks;
mod observe;
pub mod plan;
mod start;
mod status_writer;
mod stop;
mod terminate;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tracing::Instrument;

use crate::{
    backoff::StartFailures,
    context::{Context, Signal},
    error,
    pod::{self, ContainerState, PodObservation},
    probes::{ProbeKind, ProbeTarget},
    runtime::RuntimeError,
    status::{self, Waiting},
    volumes::PodVolumes,
};
use observe::Observer;
use plan::{Failure, Observed, ProbeResults, SandboxPlan};
use status_writer::StatusWriter;

/// Even when nothing wakes a worker, it looks after its pod this often, to heal what was missed.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// The first delay after a failure of the runtime, a volume or the API; it doubles up to the last.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_LAST: Duration = Duration::from_secs(8);
/// How soon to look again for an announced end that CRI does not report yet, doubling …
const EXIT_LAG: Duration = Duration::from_millis(10);
/// … for this long.
const EXIT_LAG_MAX: Duration = Duration::from_secs(5);

/// What is wanted of a pod.
#[derive(Debug, Clone)]
pub enum Desired {
    /// The API holds it.
    Present(Arc<Pod>),
    /// The API holds it no more, or never did: whatever runs of it has to end. The last known object, or what the
    /// runtime's labels tell of it.
    Gone(Arc<Pod>),
}

impl Desired {
    /// The newest known object.
    pub fn pod(&self) -> &Arc<Pod> {
        match self {
            Self::Present(pod) | Self::Gone(pod) => pod,
        }
    }
}

/// Runs a pod until nothing of it is left.
pub async fn run(context: Arc<Context>, desired: watch::Receiver<Desired>, rejected: Option<Failure>) {
    let pod = desired.borrow().pod().clone();
    let span = tracing::info_span!("pod", namespace = pod::namespace(&pod), name = pod::name(&pod));
    let uid = pod::uid(&pod).to_owned();
    let worker = Worker {
        signal: context.wakes.register(&uid),
        observer: Observer::new(context.runtime.clone()),
        writer: StatusWriter::default(),
        start_time: None,
        waiting: HashMap::new(),
        start_failures: HashMap::new(),
        announced_waits: HashSet::new(),
        stopping: HashMap::new(),
        announced_exits: HashMap::new(),
        volumes: None,
        failures: 0,
        terminating_since: None,
        rejected,
        uid,
        context,
        desired,
    };
    worker.run().instrument(span).await;
}

struct Worker {
    context: Arc<Context>,
    uid: String,
    desired: watch::Receiver<Desired>,
    signal: Arc<Signal>,
    observer: Observer,
    writer: StatusWriter,
    /// When this node accepted the pod.
    start_time: Option<Timestamp>,
    /// Why containers that should start have not.
    waiting: HashMap<String, Waiting>,
    /// Containers whose last start failed.
    start_failures: HashMap<String, StartFailures>,
    /// Dead containers whose back-off has been told in an event.
    announced_waits: HashSet<String>,
    /// Containers being stopped.
    stopping: HashMap<String, Stopping>,
    /// Ends the runtime has announced and CRI does not report yet, with the time of the announcement.
    announced_exits: HashMap<String, Instant>,
    volumes: Option<PodVolumes>,
    /// Failures in a row.
    failures: u32,
    terminating_since: Option<Instant>,
    rejected: Option<Failure>,
}

/// A stop in progress.
struct Stopping {
    /// When the container is killed.
    deadline: Instant,
    /// Ends with the container, or with a failure to be tried again.
    task: JoinHandle<()>,
}

/// What a pass over the pod came to.
enum Next {
    /// Look again then at the latest.
    At(Instant),
    /// Something failed: look again after a while.
    Retry,
    /// Nothing is left of the pod.
    Finished,
}

impl Worker {
    async fn run(mut self) {
        loop {
            for id in self.signal.take_exited() {
                self.announced_exits.entry(id).or_insert_with(Instant::now);
            }
            // Boxed, so that a sleeping worker is small.
            let at = match Box::pin(self.pass()).await {
                Next::Finished => break,
                Next::At(at) => {
                    self.failures = 0;
                    at
                }
                Next::Retry => {
                    let delay = RETRY_FIRST
                        .saturating_mul(1 << self.failures.min(7))
                        .min(RETRY_LAST);
                    self.failures += 1;
                    Instant::now() + delay
                }
            };
            tokio::select! {
                changed = self.desired.changed() => if changed.is_err() { return },
                () = self.signal.woken() => {}
                () = tokio::time::sleep_until(at) => {}
            }
        }
        self.context.wakes.unregister(&self.uid);
    }

    async fn pass(&mut self) -> Next {
        let desired = self.desired.borrow_and_update().clone();
        match &desired {
            Desired::Gone(pod) => self.terminate(pod, false).await,
            Desired::Present(pod) if pod.metadata.deletion_timestamp.is_some() => {
                let pod = Arc::new(self.writer.latest(pod));
                self.terminate(&pod, true).await
            }
            Desired::Present(pod) => {
                let pod = Arc::new(self.writer.latest(pod));
                self.sync(&pod).await
            }
        }
    }

    /// One pass over a pod that is to run.
    async fn sync(&mut self, pod: &Arc<Pod>) -> Next {
        if let Some(failure) = &self.rejected {
            let wanted = status::rejected(pod, failure, Timestamp::now());
            return match self.writer.write(&self.context.client, pod, &wanted).await {
                Ok(_) => Next::At(Instant::now() + LOOK_AGAIN),
                Err(error) => retry("writing the status", &error),
            };
        }
        let observed = match self.look(pod).await {
            Ok(observed) => observed,
            Err(error) => return retry("looking at the pod", &error),
        };
        let plan = plan::plan(pod, &observed, Timestamp::now());
        let applied = match plan.sandbox {
            // Making a sandbox can take its time; meanwhile the API shows that it is being made.
            SandboxPlan::Create { .. } => {
                let wanted = self.status(pod, &observed, None, false);
                let mut writer = std::mem::take(&mut self.writer);
                let context = self.context.clone();
                let early = writer.write(&context.client, pod, &wanted);
                let (applied, early) = tokio::join!(self.apply(pod, &plan, &observed), early);
                self.writer = writer;
                if let Err(error) = early {
                    tracing::debug!(%error, "writing the status early");
                }
                applied
            }
            _ => self.apply(pod, &plan, &observed).await,
        };
        let observed = match applied.changed {
            false => observed,
            true => match self.look(pod).await {
                Ok(observed) => observed,
                Err(error) => return retry("looking at the pod", &error),
            },
        };
        if let Err(error) = self.report(pod, &observed, plan.failed.as_ref(), false).await {
            return retry("writing the status", &error);
        }
        if applied.failed {
            return Next::Retry;
        }
        let mut at = Instant::now() + LOOK_AGAIN;
        if let Some(again_at) = plan.again_at {
            let wait = Duration::try_from(again_at.duration_since(Timestamp::now())).unwrap_or_default();
            at = at.min(Instant::now() + wait);
        }
        at = applied.again_at.map_or(at, |again| at.min(again));
        Next::At(self.exit_lag().map_or(at, |lag| at.min(lag)))
    }

    /// Everything a plan needs to know; tells the probes and the event router what runs.
    async fn look(&mut self, pod: &Arc<Pod>) -> Result<Observed, RuntimeError> {
        let runtime = self.observe().await?;
        let start_time = pod
            .status
            .as_ref()
            .and_then(|status| status.start_time.as_ref())
            .map(|time| time.0);
        let start_time = start_time.or(self.start_time).unwrap_or_else(Timestamp::now);
        self.start_time = Some(start_time);
        let targets = probe_targets(pod, &runtime);
        let pod_ip = match pod::uses_host_network(pod) {
            true => self.context.host_ips().first().copied(),
            false => runtime.ips().first().and_then(|ip| ip.parse().ok()),
        };
        self.context.probes.sync(pod, pod_ip, &targets);
        let probes = self.probe_results(&runtime);
        Ok(Observed {
            runtime,
            probes,
            start_time: Some(start_time),
        })
    }

    async fn observe(&mut self) -> Result<PodObservation, RuntimeError> {
        let observed = self.observer.observe(&self.uid).await?;
        self.context.wakes.set_owned(&self.uid, &observed);
        let runs = |id: &str| {
            let container = observed
                .containers
                .iter()
                .any(|container| container.id == id && container.state == ContainerState::Running);
            container
                || observed
                    .sandboxes
                    .iter()
                    .any(|sandbox| sandbox.id == id && sandbox.ready)
        };
        self.announced_exits
            .retain(|id, at| runs(id) && at.elapsed() < EXIT_LAG_MAX);
        self.stopping
            .retain(|id, stop| runs(id) && !stop.task.is_finished());
        Ok(observed)
    }

    /// containerd announces an end a little before CRI reports it.
    fn exit_lag(&self) -> Option<Instant> {
        let latest = self.announced_exits.values().max()?;
        // The wait is as long as the one so far: 10, 20, 40 ms …
        Some(Instant::now() + latest.elapsed().max(EXIT_LAG))
    }

    fn probe_results(&self, runtime: &PodObservation) -> ProbeResults {
        let probes = &self.context.probes;
        let mut results = ProbeResults::default();
        let running = runtime
            .containers
            .iter()
            .filter(|container| container.state == ContainerState::Running);
        for id in running.map(|container| &container.id) {
            match probes.failed(id) {
                Some(ProbeKind::Startup) => drop(results.startup_failed.insert(id.clone())),
                Some(_) => drop(results.liveness_failed.insert(id.clone())),
                None => {}
            }
            if probes.started(id) == Some(true) {
                results.started.insert(id.clone());
            }
            if probes.ready(id) == Some(true) {
                results.ready.insert(id.clone());
            }
        }
        results
    }

    /// Writes the status if it says something new.
    async fn report(
        &mut self,
        pod: &Pod,
        observed: &Observed,
        failed: Option<&Failure>,
        ending: bool,
    ) -> kube::Result<()> {
        let pod = self.writer.latest(pod);
        let wanted = self.status(&pod, observed, failed, ending);
        self.writer
            .write(&self.context.client, &pod, &wanted)
            .await
            .map(drop)
    }

    fn status(&self, pod: &Pod, observed: &Observed, failed: Option<&Failure>, ending: bool) -> PodStatus {
        status::build(
            pod,
            &status::Input {
                observed,
                waiting: &self.waiting,
                ending,
                failed,
                host_ips: self.context.host_ips(),
                now: Timestamp::now(),
            },
        )
    }
}

fn retry(what: &str, error: &(dyn std::error::Error + 'static)) -> Next {
    tracing::warn!(error = error::chain(error), "{what} failed, will retry");
    Next::Retry
}

/// The running containers, with what the API last said of them: a restarted kubelet does not take readiness away.
fn probe_targets(pod: &Pod, runtime: &PodObservation) -> Vec<ProbeTarget> {
    let statuses = pod.status.as_ref().map(|status| {
        let init = status.init_container_statuses.iter().flatten();
        init.chain(status.container_statuses.iter().flatten())
            .collect::<Vec<_>>()
    });
    let statuses = statuses.unwrap_or_default();
    runtime
        .containers
        .iter()
        .filter(|container| container.state == ContainerState::Running)
        .map(|container| {
            let last = statuses.iter().find(|status| {
                let id = status.container_id.as_deref().and_then(|id| id.split_once("://"));
                id.is_some_and(|(_, id)| id == container.id)
            });
            ProbeTarget {
                name: container.name.clone(),
                container_id: container.id.clone(),
                started_at: container.started_at.unwrap_or_else(Timestamp::now),
                was_ready: last.is_some_and(|status| status.ready),
                was_started: last.is_some_and(|status| status.started == Some(true)),
            }
        })
        .collect()
}
