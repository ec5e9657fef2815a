//! The statuses of a pod's containers. Pure.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::Input;
use crate::pod::{self, ContainerObservation, ContainerState as Observed, RestartPolicy};

/// The scheme of container ids in the API.
const ID_SCHEME: &str = "containerd://";

/// One status per container of the spec, in the spec's order.
pub(super) fn statuses(pod: &Pod, input: &Input<'_>, init: bool) -> Vec<ContainerStatus> {
    let containers = if init {
        pod::init_containers(pod)
    } else {
        pod::containers(pod)
    };
    let previous = pod.status.as_ref().and_then(|status| match init {
        true => status.init_container_statuses.as_ref(),
        false => status.container_statuses.as_ref(),
    });
    containers
        .iter()
        .map(|container| {
            let before = previous
                .into_iter()
                .flatten()
                .find(|status| status.name == container.name);
            status(pod, container, input, init, before)
        })
        .collect()
}

fn status(
    pod: &Pod,
    container: &Container,
    input: &Input<'_>,
    init: bool,
    before: Option<&ContainerStatus>,
) -> ContainerStatus {
    let runtime = &input.observed.runtime;
    let Some(seen) = runtime.container(&container.name) else {
        return unseen(pod, container, input, init, before);
    };
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: seen.image.clone(),
        image_id: seen.image_ref.clone(),
        container_id: Some(format!("{ID_SCHEME}{}", seen.id)),
        restart_count: seen.restart_count,
        last_state: runtime.previous(&container.name).map(|previous| ContainerState {
            terminated: Some(terminated(previous)),
            ..Default::default()
        }),
        resources: container.resources.clone(),
        ..Default::default()
    };
    if let (None, Some(last)) = (
        &status.last_state,
        before.and_then(|before| before.last_state.clone()),
    ) && last != ContainerState::default()
        && before.is_some_and(|before| before.restart_count == seen.restart_count)
    {
        // Its dead container was cleaned away; what the API holds is all that is known of it.
        status.last_state = Some(last);
    }
    let waiting = input.waiting.get(&container.name);
    status.state = Some(match seen.state {
        Observed::Running => ContainerState {
            running: Some(ContainerStateRunning {
                started_at: seen.started_at.map(Time),
            }),
            ..Default::default()
        },
        Observed::Exited => match waiting {
            // It is to run again and waits: its end becomes the last state.
            Some(waiting) => {
                status.last_state = Some(ContainerState {
                    terminated: Some(terminated(seen)),
                    ..Default::default()
                });
                waiting_state(&waiting.reason, &waiting.message)
            }
            None => ContainerState {
                terminated: Some(terminated(seen)),
                ..Default::default()
            },
        },
        Observed::Created | Observed::Unknown => match waiting {
            Some(waiting) => waiting_state(&waiting.reason, &waiting.message),
            None => default_waiting(pod, init),
        },
    });
    let probes = &input.observed.probes;
    let running = seen.state == Observed::Running;
    let started = running && (container.startup_probe.is_none() || probes.started.contains(&seen.id));
    let long_running = !init || pod::is_sidecar(container);
    status.started = Some(started && long_running);
    status.ready = match (init, long_running) {
        // An init container is ready when it is done.
        (true, false) => seen.state == Observed::Exited && seen.exit_code == 0,
        _ => started && (container.readiness_probe.is_none() || probes.ready.contains(&seen.id)),
    };
    status
}

/// A container of which the runtime knows nothing: not made yet, or cleaned away.
fn unseen(
    pod: &Pod,
    container: &Container,
    input: &Input<'_>,
    init: bool,
    before: Option<&ContainerStatus>,
) -> ContainerStatus {
    let blank = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        started: Some(false),
        state: Some(match input.waiting.get(&container.name) {
            Some(waiting) => waiting_state(&waiting.reason, &waiting.message),
            None => default_waiting(pod, init),
        }),
        resources: None,
        ..Default::default()
    };
    let Some(before) = before else { return blank };
    let state = before.state.clone().unwrap_or_default();
    if let Some(ended) = &state.terminated {
        // An init container that was done, or one that will not run again, keeps its end.
        let again = match pod::restart_policy(pod) {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => ended.exit_code != 0,
            RestartPolicy::Never => false,
        };
        if init || !again || input.ending {
            return before.clone();
        }
        return ContainerStatus {
            last_state: Some(state),
            restart_count: before.restart_count,
            ..blank
        };
    }
    if state.running.is_some() {
        let gone = ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".into()),
            message: Some("The container could not be located when the pod was terminated".into()),
            container_id: before.container_id.clone(),
            ..Default::default()
        };
        if input.ending || pod::restart_policy(pod) == RestartPolicy::Never {
            return ContainerStatus {
                state: Some(ContainerState {
                    terminated: Some(gone),
                    ..Default::default()
                }),
                ready: false,
                started: Some(false),
                ..before.clone()
            };
        }
        let gone = ContainerStateTerminated {
            message: Some("The container could not be located when the pod was deleted.  The container used to be Running".into()),
            ..gone
        };
        return ContainerStatus {
            last_state: Some(ContainerState {
                terminated: Some(gone),
                ..Default::default()
            }),
            restart_count: before.restart_count + 1,
            ..blank
        };
    }
    ContainerStatus {
        last_state: before
            .last_state
            .clone()
            .filter(|last| *last != ContainerState::default()),
        restart_count: before.restart_count,
        ..blank
    }
}

fn waiting_state(reason: &str, message: &str) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message: (!message.is_empty()).then(|| message.to_owned()),
        }),
        ..Default::default()
    }
}

fn default_waiting(pod: &Pod, init: bool) -> ContainerState {
    let behind_init = init || !pod::init_containers(pod).is_empty();
    waiting_state(
        if behind_init {
            "PodInitializing"
        } else {
            "ContainerCreating"
        },
        "",
    )
}

fn terminated(seen: &ContainerObservation) -> ContainerStateTerminated {
    ContainerStateTerminated {
        exit_code: seen.exit_code,
        reason: (!seen.reason.is_empty()).then(|| seen.reason.clone()),
        message: (!seen.message.is_empty()).then(|| seen.message.clone()),
        // As upstream shows a container that never started.
        started_at: Some(Time(seen.started_at.unwrap_or(Timestamp::UNIX_EPOCH))),
        finished_at: seen.finished_at.map(Time),
        container_id: Some(format!("{ID_SCHEME}{}", seen.id)),
        signal: None,
    }
}
