//! The phase of a pod. Pure.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};

use crate::pod::{self, RestartPolicy};

/// `status.phase`. The states of a pod's life in order; the last two are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not every container has been started yet.
    Pending,
    /// At least one runs, starts or starts again.
    Running,
    /// All have ended well and none starts again.
    Succeeded,
    /// All have ended, at least one badly, and none starts again.
    Failed,
}

impl Phase {
    /// As the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    /// Reads the API's spelling.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Running, Self::Succeeded, Self::Failed]
            .into_iter()
            .find(|phase| phase.as_str() == text)
    }

    /// Whether the pod never runs again.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// Decides by the statuses of the containers; `ending` says that none will be started again.
pub(super) fn phase(pod: &Pod, init: &[ContainerStatus], regular: &[ContainerStatus], ending: bool) -> Phase {
    let policy = pod::restart_policy(pod);
    let (pending_init, failed_init) = count_init(pod::init_containers(pod), init);
    if failed_init > 0 && policy == RestartPolicy::Never {
        return Phase::Failed;
    }
    let (mut waiting, mut running, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for status in regular {
        let state = status.state.clone().unwrap_or_default();
        if state.running.is_some() {
            running += 1;
        } else if let Some(terminated) = state.terminated {
            stopped += 1;
            succeeded += usize::from(terminated.exit_code == 0);
        } else if status
            .last_state
            .as_ref()
            .is_some_and(|last| last.terminated.is_some())
        {
            stopped += 1;
        } else {
            waiting += 1;
        }
    }
    if pending_init > 0 || failed_init > 0 || waiting > 0 {
        // A pod that ends without having started everything has failed.
        return if ending && running == 0 && stopped > 0 {
            Phase::Failed
        } else {
            Phase::Pending
        };
    }
    if running > 0 {
        return Phase::Running;
    }
    if stopped == 0 {
        return Phase::Pending;
    }
    match policy {
        _ if ending => {
            if stopped == succeeded {
                Phase::Succeeded
            } else {
                Phase::Failed
            }
        }
        RestartPolicy::Always => Phase::Running,
        _ if stopped == succeeded => Phase::Succeeded,
        RestartPolicy::Never => Phase::Failed,
        RestartPolicy::OnFailure => Phase::Running,
    }
}

/// How many init containers have yet to be done, and how many have failed.
fn count_init(containers: &[Container], statuses: &[ContainerStatus]) -> (usize, usize) {
    let (mut pending, mut failed) = (0, 0);
    for (container, status) in containers.iter().zip(statuses) {
        let state = status.state.clone().unwrap_or_default();
        if pod::is_sidecar(container) {
            // One that ended after it had been up counts as done: it will be back.
            let was_up = status.started == Some(true)
                || state.terminated.is_some()
                || status
                    .last_state
                    .as_ref()
                    .is_some_and(|last| last.terminated.is_some());
            pending += usize::from(!was_up);
            continue;
        }
        let last = status
            .last_state
            .as_ref()
            .and_then(|last| last.terminated.as_ref());
        match (state.terminated, last) {
            (Some(terminated), _) => failed += usize::from(terminated.exit_code != 0),
            (None, Some(last)) if state.running.is_none() && last.exit_code != 0 => failed += 1,
            (None, _) => pending += 1,
        }
    }
    (pending, failed)
}
