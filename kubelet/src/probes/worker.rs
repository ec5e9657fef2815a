//! One probe of one container: waits, asks, counts, reports.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::sync::watch;

use super::{
    Instance, ProbeKind, Shared,
    check::{self, Answer},
    state::{ProbeState, Step},
};
use crate::pod;

/// An answer that is no answer, such as a port that does not exist, is asked for this often before it counts as one.
const ATTEMPTS_MAX: u32 = 3;

/// The task behind one probe.
pub(super) struct Worker {
    shared: Arc<Shared>,
    container: Container,
    kind: ProbeKind,
    probe: Probe,
    instances: watch::Receiver<Option<Instance>>,
}

impl Worker {
    /// A worker that follows `instances`. Of the container only what probes refer to is kept.
    pub(super) fn new(
        shared: Arc<Shared>,
        container: &Container,
        kind: ProbeKind,
        probe: Probe,
        instances: watch::Receiver<Option<Instance>>,
    ) -> Self {
        let container = Container {
            name: container.name.clone(),
            ports: container.ports.clone(),
            ..Default::default()
        };
        Self {
            shared,
            container,
            kind,
            probe,
            instances,
        }
    }

    /// Runs until the container's probes are dropped.
    pub(super) async fn run(mut self) {
        loop {
            let instance = self.instances.borrow_and_update().clone();
            let changed = match instance {
                None => self.instances.changed().await,
                Some(instance) => {
                    let mut instances = self.instances.clone();
                    tokio::select! {
                        changed = instances.changed() => changed,
                        () = self.follow(&instance) => self.instances.changed().await,
                    }
                }
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Probes one instance until there is nothing more to learn about it.
    async fn follow(&self, instance: &Instance) {
        if instance.stopping && self.kind != ProbeKind::Readiness {
            // A pod that is shut down on purpose is not restarted for looking dead.
            self.report(instance, true);
            return;
        }
        if self.kind == ProbeKind::Startup && self.shared.is_started(&instance.container_id) {
            return;
        }
        self.spread_after_restart(instance).await;
        self.wait_for_initial_delay(instance).await;
        if self.kind != ProbeKind::Startup {
            self.wait_for_startup(instance).await;
        }
        let period = seconds(self.probe.period_seconds, 10);
        let mut state = ProbeState::new(self.kind, &self.probe);
        loop {
            let begun = tokio::time::Instant::now();
            if let Some(success) = self.ask(instance).await {
                match state.observe(success) {
                    Step::Undecided => {}
                    Step::Decided(result) => self.report(instance, result),
                    Step::Final(result) => {
                        self.finish(instance, result);
                        return;
                    }
                }
            }
            tokio::time::sleep_until(begun + period).await;
        }
    }

    /// A restarted kubelet would otherwise run every probe of the node in the same moment.
    async fn spread_after_restart(&self, instance: &Instance) {
        let period = seconds(self.probe.period_seconds, 10);
        if instance.started_at < self.shared.started_at && self.shared.started.elapsed() < period {
            tokio::time::sleep(period.mul_f64(rand::random::<f64>())).await;
        }
    }

    async fn wait_for_initial_delay(&self, instance: &Instance) {
        let delay = seconds(self.probe.initial_delay_seconds, 0);
        let age = Timestamp::now().duration_since(instance.started_at);
        let age = Duration::try_from(age).unwrap_or_default();
        tokio::time::sleep(delay.saturating_sub(age)).await;
    }

    async fn wait_for_startup(&self, instance: &Instance) {
        let mut news = self.shared.startups.subscribe();
        while !self.shared.is_started(&instance.container_id) {
            if news.changed().await.is_err() {
                return;
            }
        }
    }

    /// One question with its event; `None` when there was no answer to count.
    async fn ask(&self, instance: &Instance) -> Option<bool> {
        let timeout = seconds(self.probe.timeout_seconds, 1);
        let begun = Instant::now();
        let mut answer = Answer::Errored(String::new());
        for _ in 0..ATTEMPTS_MAX {
            answer = check::check(
                &*self.shared.exec,
                &self.probe,
                &self.container,
                instance,
                timeout,
            )
            .await;
            if !matches!(answer, Answer::Errored(_)) {
                break;
            }
        }
        let kind = self.kind;
        tracing::debug!(pod = %pod::format(&instance.pod), container = self.container.name, %kind, ?answer,
            elapsed_ms = begun.elapsed().as_millis(), "probed");
        match answer {
            Answer::Success => Some(true),
            Answer::Warning(output) => {
                self.event(
                    instance,
                    "ProbeWarning",
                    format!("{kind} probe warning: {output}"),
                );
                Some(true)
            }
            Answer::Failure(output) => {
                self.event(instance, "Unhealthy", format!("{kind} probe failed: {output}"));
                Some(false)
            }
            Answer::Errored(reason) => {
                let message = format!("{kind} probe errored and resulted in unknown state: {reason}");
                self.event(instance, "Unhealthy", message);
                None
            }
        }
    }

    fn finish(&self, instance: &Instance, success: bool) {
        if self.kind == ProbeKind::Startup && !success {
            self.shared.give_up_startup(&instance.container_id);
            (self.shared.wake)(pod::uid(&instance.pod));
            return;
        }
        self.report(instance, success);
    }

    fn report(&self, instance: &Instance, success: bool) {
        if self.shared.record(&instance.container_id, self.kind, success) {
            tracing::info!(pod = %pod::format(&instance.pod), container = self.container.name, kind = %self.kind,
                success, "probe result changed");
            if self.kind == ProbeKind::Startup {
                self.shared
                    .startups
                    .send_modify(|count| *count = count.wrapping_add(1));
            }
            (self.shared.wake)(pod::uid(&instance.pod));
        }
    }

    fn event(&self, instance: &Instance, reason: &'static str, message: String) {
        (self.shared.events)(&instance.pod, &self.container.name, reason, message);
    }
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    let value = value
        .and_then(|value| u64::try_from(value).ok())
        .filter(|value| *value > 0);
    Duration::from_secs(value.unwrap_or(default))
}
