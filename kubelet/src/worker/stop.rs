//! Stopping one container: its last hook, the stop signal, and SIGKILL when the grace period is over.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use super::{
    Stopping, Worker, hooks,
    plan::{Kill, KillReason, Observed},
};
use crate::{
    events::EventType,
    pod::{self, ContainerState},
};

/// The grace period when a pod does not say.
const GRACE_DEFAULT: Duration = Duration::from_secs(30);
/// What is left for the stop signal at least, after a hook has used up the grace period.
pub(super) const GRACE_MIN: Duration = Duration::from_secs(2);

impl Worker {
    /// Begins to stop a container, unless that has begun already with no more time than `grace`.
    pub(super) fn stop(&mut self, pod: &Arc<Pod>, kill: &Kill, grace: Duration, observed: &Observed) {
        let deadline = Instant::now() + grace;
        let begun = self.stopping.get(&kill.id).map(|stopping| stopping.deadline);
        // Grace periods are whole seconds; less is the time between two passes.
        if begun.is_some_and(|begun| begun < deadline + Duration::from_secs(1)) {
            return;
        }
        let spec = pod::all_containers(pod)
            .find(|container| container.name == kill.name)
            .cloned();
        if begun.is_none() {
            let recorder = &self.context.recorder;
            recorder.container(
                pod,
                &kill.name,
                EventType::Normal,
                "Killing",
                kill.message.clone(),
            );
        }
        let started = observed
            .runtime
            .containers
            .iter()
            .any(|container| container.id == kill.id && container.state == ContainerState::Running);
        let ip = observed.runtime.ips().first().and_then(|ip| ip.parse().ok());
        let (context, pod, id) = (self.context.clone(), pod.clone(), kill.id.clone());
        let with_hook = begun.is_none() && started;
        let task = tokio::spawn(async move {
            let mut grace = grace;
            let hook = spec
                .as_ref()
                .and_then(|spec| spec.lifecycle.as_ref()?.pre_stop.as_ref());
            if let (Some(spec), Some(handler), true) = (&spec, hook, with_hook && grace > Duration::ZERO) {
                let ip = ip.or(context.host_ips().first().copied());
                let run = hooks::run(&context.runtime, spec, &id, handler, ip, grace);
                let begun = Instant::now();
                match tokio::time::timeout(grace, run).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        let message = format!("PreStopHook failed: {error}");
                        let recorder = &context.recorder;
                        recorder.container(
                            &pod,
                            &spec.name,
                            EventType::Warning,
                            "FailedPreStopHook",
                            message,
                        );
                    }
                    Err(_) => tracing::warn!(container = spec.name, "preStop hook outlived the grace period"),
                }
                grace = grace.saturating_sub(begun.elapsed()).max(GRACE_MIN);
            }
            if let Err(error) = context.runtime.stop_container(&id, grace).await {
                tracing::warn!(%error, container = id, "stopping a container");
                // Tried again by the pass this leads to.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            context.wakes.container_exited(&id);
            context.wakes.wake(pod::uid(&pod));
        });
        self.stopping.insert(kill.id.clone(), Stopping { deadline, task });
    }
}

/// The pod's grace period.
pub(super) fn grace_period(pod: &Pod) -> Duration {
    let seconds = pod.metadata.deletion_grace_period_seconds.or(pod
        .spec
        .as_ref()
        .and_then(|spec| spec.termination_grace_period_seconds));
    seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map_or(GRACE_DEFAULT, Duration::from_secs)
}

/// A probe may set a grace period of its own.
pub(super) fn probe_grace(pod: &Pod, kill: &Kill) -> Option<Duration> {
    let container = pod::all_containers(pod).find(|container| container.name == kill.name)?;
    let probe = match kill.reason {
        KillReason::Liveness => container.liveness_probe.as_ref(),
        KillReason::Startup => container.startup_probe.as_ref(),
        _ => None,
    };
    let seconds = probe?.termination_grace_period_seconds?;
    u64::try_from(seconds).ok().map(Duration::from_secs)
}
