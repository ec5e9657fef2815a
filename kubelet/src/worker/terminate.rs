//! Ending a pod: containers, sidecars, sandboxes, volumes, cgroup, the API object, and what the runtime remembers.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, Preconditions},
};
use tokio::time::Instant;

use super::{
    LOOK_AGAIN, Next, Worker,
    plan::{Observed, Termination, plan_termination},
    retry,
    stop::{GRACE_MIN, grace_period},
};
use crate::pod;

impl Worker {
    /// One step towards the end of a pod. `in_api` says whether the API still holds it.
    pub(super) async fn terminate(&mut self, pod: &Arc<Pod>, in_api: bool) -> Next {
        let since = *self.terminating_since.get_or_insert_with(Instant::now);
        let mut observed = match self.look(pod).await {
            Ok(observed) => observed,
            Err(error) => return retry("looking at the pod", &error),
        };
        self.waiting.clear();
        let mut left = plan_termination(pod, &observed.runtime);
        if let Termination::TearDown(sandboxes) = &left {
            for sandbox in sandboxes {
                if let Err(error) = self.context.runtime.stop_pod_sandbox(sandbox).await {
                    return retry("stopping the sandbox", &error);
                }
            }
            observed = match self.look(pod).await {
                Ok(observed) => observed,
                Err(error) => return retry("looking at the pod", &error),
            };
            left = plan_termination(pod, &observed.runtime);
        }
        if in_api && let Err(error) = self.report(pod, &observed, None, true).await {
            return retry("writing the status", &error);
        }
        match left {
            Termination::Stop(kills) => {
                // Sidecars share the grace period with those that went before them.
                let total = grace_period(pod).max(Duration::from_secs(1));
                let grace = total.saturating_sub(since.elapsed()).max(GRACE_MIN.min(total));
                for kill in &kills {
                    self.stop(pod, kill, grace, &observed);
                }
                let at = Instant::now() + LOOK_AGAIN;
                Next::At(self.exit_lag().map_or(at, |lag| at.min(lag)))
            }
            Termination::TearDown(_) => Next::Retry,
            Termination::Done => self.clean_up(pod, in_api, &observed).await,
        }
    }

    /// Nothing runs any more. What other pods may wait for goes first: volumes, cgroup, the API object.
    async fn clean_up(&mut self, pod: &Arc<Pod>, in_api: bool, observed: &Observed) -> Next {
        let context = self.context.clone();
        context.probes.remove(&self.uid);
        context.images.remove(&self.uid);
        if let Err(error) = context.volumes.unmount_all(&self.uid).await {
            return retry("removing the volumes", &error);
        }
        if let Err(error) = context.cgroups.remove_pod(&self.uid) {
            return retry("removing the cgroup", &error);
        }
        if in_api && let Err(error) = delete_object(&context.client, pod).await {
            return retry("deleting the pod object", &error);
        }
        for sandbox in &observed.runtime.sandboxes {
            for container in observed
                .runtime
                .containers
                .iter()
                .filter(|seen| seen.sandbox_id == sandbox.id)
            {
                if let Err(error) = context.runtime.remove_container(&container.id).await {
                    return retry("removing a dead container", &error);
                }
            }
            if let Err(error) = context.runtime.remove_pod_sandbox(&sandbox.id).await {
                return retry("removing the sandbox", &error);
            }
        }
        if !pod::name(pod).is_empty() {
            let logs = pod::log_directory(&context.config.file.pod_logs_dir, pod);
            if let Err(error) = std::fs::remove_dir_all(&logs)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(%error, path = %logs.display(), "removing the logs");
            }
        }
        tracing::info!("gone");
        Next::Finished
    }
}

/// The kubelet alone takes a bound pod out of the API, when nothing of it runs.
async fn delete_object(client: &kube::Client, pod: &Pod) -> kube::Result<()> {
    let api: Api<Pod> = Api::namespaced(client.clone(), pod::namespace(pod));
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid: pod.metadata.uid.clone(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match api.delete(pod::name(pod), &params).await {
        Ok(_) => Ok(()),
        // Gone, or another pod of that name by now.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(error),
    }
}
