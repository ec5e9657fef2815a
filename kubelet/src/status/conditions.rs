//! The conditions of a pod. Pure.

use k8s_openapi::{
    api::core::v1::{Container, ContainerStatus, Pod, PodCondition, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{Input, Phase};
use crate::pod;

const READY_TO_START: &str = "PodReadyToStartContainers";
const INITIALIZED: &str = "Initialized";
const READY: &str = "Ready";
const CONTAINERS_READY: &str = "ContainersReady";
const SCHEDULED: &str = "PodScheduled";

/// Whether a condition holds, and if not, why.
struct Verdict {
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    const TRUE: Self = Self {
        status: true,
        reason: None,
        message: None,
    };

    fn not(reason: &'static str, message: String) -> Self {
        Self {
            status: false,
            reason: Some(reason),
            message: (!message.is_empty()).then_some(message),
        }
    }
}

/// The kubelet's conditions; those of others are kept as they are.
pub(super) fn conditions(
    pod: &Pod,
    status: &PodStatus,
    phase: Phase,
    input: &Input<'_>,
    previous: &PodStatus,
) -> Vec<PodCondition> {
    let init = status.init_container_statuses.as_deref().unwrap_or_default();
    let regular = status.container_statuses.as_deref().unwrap_or_default();
    let sandbox = input.observed.runtime.sandboxes.first();
    let ready_to_start = sandbox
        .is_some_and(|sandbox| sandbox.ready && (pod::uses_host_network(pod) || !sandbox.ips.is_empty()));
    let ready_to_start = match ready_to_start {
        true => Verdict::TRUE,
        false => Verdict {
            status: false,
            reason: None,
            message: None,
        },
    };
    let containers_ready = containers_ready(pod, init, regular, phase);
    let ready = ready(pod, &containers_ready, previous);
    let ours = [
        (READY_TO_START, ready_to_start),
        (INITIALIZED, initialized(pod, init, regular, phase)),
        (READY, ready),
        (CONTAINERS_READY, containers_ready),
        (SCHEDULED, Verdict::TRUE),
    ];
    let mut conditions: Vec<PodCondition> = ours
        .into_iter()
        .map(|(type_, verdict)| condition(pod, type_, verdict, input, previous))
        .collect();
    let others = previous.conditions.iter().flatten();
    let ours: Vec<String> = conditions
        .iter()
        .map(|condition| condition.type_.clone())
        .collect();
    conditions.extend(
        others
            .filter(|condition| !ours.contains(&condition.type_))
            .cloned(),
    );
    conditions
}

fn condition(
    pod: &Pod,
    type_: &str,
    verdict: Verdict,
    input: &Input<'_>,
    previous: &PodStatus,
) -> PodCondition {
    let status = if verdict.status { "True" } else { "False" };
    let before = previous
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == type_);
    let unchanged_since = before
        .filter(|before| before.status == status)
        .and_then(|before| before.last_transition_time.clone());
    PodCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: verdict.reason.map(str::to_owned),
        message: verdict.message,
        last_transition_time: Some(unchanged_since.unwrap_or(Time(input.now))),
        last_probe_time: None,
        observed_generation: pod.metadata.generation,
    }
}

fn initialized(pod: &Pod, init: &[ContainerStatus], regular: &[ContainerStatus], phase: Phase) -> Verdict {
    if phase == Phase::Succeeded {
        return Verdict {
            status: true,
            reason: Some("PodCompleted"),
            message: None,
        };
    }
    // A regular container that has been made proves every init container done.
    let has_begun = regular.iter().any(|status| status.container_id.is_some());
    let containers = pod::init_containers(pod);
    let incomplete: Vec<&str> = containers
        .iter()
        .zip(init)
        .filter(|(container, status)| {
            let done = if pod::is_sidecar(container) {
                status.started == Some(true)
            } else {
                status.ready
            };
            !done && (!has_begun || is_failed(status))
        })
        .map(|(container, _)| container.name.as_str())
        .collect();
    match incomplete.is_empty() {
        true => Verdict::TRUE,
        false => Verdict::not(
            "ContainersNotInitialized",
            format!("containers with incomplete status: [{}]", incomplete.join(" ")),
        ),
    }
}

fn is_failed(status: &ContainerStatus) -> bool {
    let terminated = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    terminated.is_some_and(|terminated| terminated.exit_code != 0)
}

fn containers_ready(
    pod: &Pod,
    init: &[ContainerStatus],
    regular: &[ContainerStatus],
    phase: Phase,
) -> Verdict {
    match phase {
        Phase::Succeeded => return Verdict::not("PodCompleted", String::new()),
        Phase::Failed => return Verdict::not("PodFailed", String::new()),
        Phase::Pending | Phase::Running => {}
    }
    let sidecars = pod::init_containers(pod)
        .iter()
        .zip(init)
        .filter(|(container, _)| pod::is_sidecar(container));
    let all: Vec<(&Container, &ContainerStatus)> =
        sidecars.chain(pod::containers(pod).iter().zip(regular)).collect();
    let unready: Vec<&str> = all
        .iter()
        .filter(|(_, status)| !status.ready)
        .map(|(container, _)| container.name.as_str())
        .collect();
    match unready.is_empty() {
        true => Verdict::TRUE,
        false => Verdict::not(
            "ContainersNotReady",
            format!("containers with unready status: [{}]", unready.join(" ")),
        ),
    }
}

fn ready(pod: &Pod, containers_ready: &Verdict, previous: &PodStatus) -> Verdict {
    if !containers_ready.status {
        return Verdict {
            status: false,
            reason: containers_ready.reason,
            message: containers_ready.message.clone(),
        };
    }
    let gates = pod.spec.as_ref().and_then(|spec| spec.readiness_gates.as_ref());
    let messages: Vec<String> = gates
        .into_iter()
        .flatten()
        .filter_map(|gate| {
            let type_ = &gate.condition_type;
            let found = previous
                .conditions
                .iter()
                .flatten()
                .find(|condition| condition.type_ == *type_);
            match found {
                None => Some(format!(
                    "corresponding condition of pod readiness gate \"{type_}\" does not exist."
                )),
                Some(found) if found.status != "True" => Some(format!(
                    "the status of pod readiness gate \"{type_}\" is not \"True\", but {}",
                    found.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    match messages.is_empty() {
        true => Verdict::TRUE,
        false => Verdict::not("ReadinessGatesNotReady", messages.join(", ")),
    }
}
