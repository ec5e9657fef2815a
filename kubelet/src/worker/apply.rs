//! Carrying out a plan.
//!
//! The order is: stop containers, stop sandboxes, forget dead containers and sandboxes, make the sandbox, start
//! containers. Stopping takes as long as the containers like, so it runs beside the worker; what has to come after it
//! waits for the pass that its end wakes. A failed step is an outcome: the container waits with a reason, and the pass
//! goes on to report it.

use std::sync::Arc;

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use super::{
    Worker,
    plan::{Observed, Plan, SandboxPlan},
    start::Retry,
    stop::{grace_period, probe_grace},
};
use crate::{
    backoff::go_duration,
    events::EventType,
    pod::{self, SandboxObservation},
    sandbox,
    status::Waiting,
};

/// What applying a plan came to.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// The runtime looks different now.
    pub(super) changed: bool,
    /// A step failed that is worth trying again soon.
    pub(super) failed: bool,
    /// When a container that waits may try again.
    pub(super) again_at: Option<Instant>,
}

impl Applied {
    fn retry_at(&mut self, at: Instant) {
        self.again_at = Some(self.again_at.map_or(at, |other| other.min(at)));
    }
}

impl Worker {
    pub(super) async fn apply(&mut self, pod: &Arc<Pod>, plan: &Plan, observed: &Observed) -> Applied {
        let mut applied = Applied::default();
        let starts = |name: &String| plan.start.iter().any(|start| start.name == *name);
        self.waiting
            .retain(|name, _| starts(name) || plan.back_off.iter().any(|wait| wait.name == *name));
        self.start_failures.retain(|name, _| starts(name));
        for kill in &plan.kill {
            self.stop(
                pod,
                kill,
                probe_grace(pod, kill).unwrap_or_else(|| grace_period(pod)),
                observed,
            );
        }
        let pod_ends = !matches!(plan.sandbox, SandboxPlan::Keep(_));
        if pod_ends && !plan.kill.is_empty() {
            return applied;
        }
        for sandbox in &plan.stop_sandboxes {
            applied.changed = true;
            if let Err(error) = self.context.runtime.stop_pod_sandbox(sandbox).await {
                tracing::warn!(%error, sandbox, "stopping a sandbox");
                applied.failed = true;
                return applied;
            }
        }
        for id in &plan.remove {
            applied.changed = true;
            if let Err(error) = self.context.runtime.remove_container(id).await {
                tracing::warn!(%error, container = id, "removing a dead container");
            }
        }
        for id in &plan.remove_sandboxes {
            applied.changed = true;
            if let Err(error) = self.context.runtime.remove_pod_sandbox(id).await {
                tracing::warn!(%error, sandbox = id, "removing a dead sandbox");
            }
        }
        self.announce_back_offs(pod, plan, observed);
        if plan.start.is_empty() && !matches!(plan.sandbox, SandboxPlan::Create { .. }) {
            self.refresh_volumes(pod).await;
            return applied;
        }
        if !self.mount_volumes(pod).await {
            applied.failed = true;
            return applied;
        }
        let (sandbox, config) = match &plan.sandbox {
            SandboxPlan::None => return applied,
            SandboxPlan::Keep(id) => {
                let found = observed
                    .runtime
                    .sandboxes
                    .iter()
                    .find(|sandbox| sandbox.id == *id);
                let Some(found) = found.cloned() else {
                    return applied;
                };
                let config = sandbox::sandbox_config(pod, found.attempt, &self.context.node_for(pod));
                (found, config)
            }
            SandboxPlan::Create { attempt } => {
                if *attempt > 0 {
                    let message = "Pod sandbox changed, it will be killed and re-created.";
                    self.context
                        .recorder
                        .pod(pod, EventType::Normal, "SandboxChanged", message);
                }
                let config = sandbox::sandbox_config(pod, *attempt, &self.context.node_for(pod));
                match self.create_sandbox(pod, config.clone()).await {
                    Ok(sandbox) => {
                        applied.changed = true;
                        (sandbox, config)
                    }
                    Err(retry) => {
                        applied.failed = retry;
                        return applied;
                    }
                }
            }
        };
        for start in &plan.start {
            let Some(spec) = pod::all_containers(pod).find(|container| container.name == start.name) else {
                continue;
            };
            let generation = pod.metadata.generation;
            let failures = self.start_failures.get(&start.name);
            if let Some(at) = failures.and_then(|failures| failures.held_until(generation, Instant::now())) {
                applied.retry_at(at);
                continue;
            }
            match self
                .start(pod, spec, start, &sandbox, &config, &mut applied)
                .await
            {
                Ok(()) => {
                    self.waiting.remove(&start.name);
                    self.start_failures.remove(&start.name);
                }
                Err(error) => {
                    match error.retry {
                        Retry::OnWake => {}
                        Retry::At(at) => applied.retry_at(at),
                        Retry::AfterBackOff => {
                            let failures = self.start_failures.entry(start.name.clone()).or_default();
                            applied.retry_at(failures.failed(generation, Instant::now()));
                        }
                    }
                    match error.waiting {
                        Some(waiting) => drop(self.waiting.insert(start.name.clone(), waiting)),
                        None => drop(self.waiting.remove(&start.name)),
                    }
                }
            }
        }
        applied
    }

    fn announce_back_offs(&mut self, pod: &Pod, plan: &Plan, observed: &Observed) {
        for wait in &plan.back_off {
            let message = format!(
                "back-off {} restarting failed container={} pod={}",
                go_duration(wait.delay),
                wait.name,
                pod::format(pod)
            );
            self.waiting.insert(
                wait.name.clone(),
                Waiting {
                    reason: "CrashLoopBackOff".into(),
                    message,
                },
            );
            let dead = observed
                .runtime
                .container(&wait.name)
                .map(|container| container.id.clone());
            if self.announced_waits.insert(dead.unwrap_or_default()) {
                let message = format!(
                    "Back-off restarting failed container {} in pod {}",
                    wait.name,
                    pod::format(pod)
                );
                self.context
                    .recorder
                    .container(pod, &wait.name, EventType::Warning, "BackOff", message);
            }
        }
        if self.announced_waits.len() > 100 {
            self.announced_waits.clear();
        }
    }

    /// Running containers see new content of ConfigMaps and the like; a failure leaves the old.
    async fn refresh_volumes(&mut self, pod: &Pod) {
        if self.volumes.is_some()
            || pod::all_containers(pod).any(|container| container.volume_mounts.is_some())
        {
            self.mount_volumes(pod).await;
        }
    }

    async fn mount_volumes(&mut self, pod: &Pod) -> bool {
        match self.context.volumes.mount(pod).await {
            Ok(volumes) => {
                self.volumes = Some(volumes);
                true
            }
            Err(error) => {
                self.context
                    .recorder
                    .pod(pod, EventType::Warning, "FailedMount", error.to_string());
                tracing::warn!(%error, "mounting volumes");
                false
            }
        }
    }

    /// Makes the pod's cgroup, log directory and sandbox; on failure, whether to try again soon.
    async fn create_sandbox(
        &mut self,
        pod: &Pod,
        config: cri::PodSandboxConfig,
    ) -> Result<SandboxObservation, bool> {
        let warn = |reason: &str, message: String| {
            tracing::warn!(reason, message, "making the sandbox");
            self.context
                .recorder
                .pod(pod, EventType::Warning, reason, message);
        };
        let network = self.context.health.borrow().network_error();
        if let (Some(error), false) = (network, pod::uses_host_network(pod)) {
            // The change of the node's health wakes every worker.
            warn("NetworkNotReady", format!("network is not ready: {error}"));
            return Err(false);
        }
        let file = &self.context.config.file;
        if let Err(error) = self
            .context
            .cgroups
            .create_pod(pod, file.pod_pids_limit, file.cpu_cfs_quota)
        {
            let source = std::error::Error::source(&error)
                .map(ToString::to_string)
                .unwrap_or_default();
            let message = format!("unable to ensure pod container exists: {error}: {source}");
            warn("FailedCreatePodContainer", message);
            return Err(true);
        }
        if let Err(error) = std::fs::create_dir_all(&config.log_directory) {
            warn(
                "FailedCreatePodSandBox",
                format!("create pod log directory {}: {error}", config.log_directory),
            );
            return Err(true);
        }
        let handler = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.runtime_class_name.as_deref())
            .unwrap_or_default();
        let id = match self.context.runtime.run_pod_sandbox(config, handler).await {
            Ok(id) => id,
            Err(error) => {
                warn(
                    "FailedCreatePodSandBox",
                    format!("Failed to create pod sandbox: {error}"),
                );
                return Err(true);
            }
        };
        let observed = self.observe().await.ok();
        let made = observed.and_then(|seen| seen.sandboxes.into_iter().find(|sandbox| sandbox.id == id));
        made.ok_or(true)
    }
}
