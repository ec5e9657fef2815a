//! The status of a pod, built from what was observed of it. Pure; who writes it is the pod's worker.

mod conditions;
mod containers;
mod phase;

#[cfg(test)]
mod tests;

use std::{collections::HashMap, net::IpAddr};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerState, HostIP, Pod, PodIP, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

pub use phase::Phase;

use crate::{
    pod::{self, QosClass},
    worker::plan::{Failure, Observed},
};

/// Why a container waits: reason and message of its waiting state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// `ErrImagePull`, `CrashLoopBackOff`, …
    pub reason: String,
    /// For people; may be empty.
    pub message: String,
}

/// What a status is built from besides the pod.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    /// What CRI and the probes report.
    pub observed: &'a Observed,
    /// Containers that were to start and could not, by name.
    pub waiting: &'a HashMap<String, Waiting>,
    /// The pod's containers will not be started (again): it is being deleted, or has failed as a whole.
    pub ending: bool,
    /// Why it has failed as a whole.
    pub failed: Option<&'a Failure>,
    /// The node's addresses, the primary one first.
    pub host_ips: &'a [IpAddr],
    /// The time of transitions.
    pub now: Timestamp,
}

/// Builds the status. What others write (conditions of other owners, nomination) is kept from the pod.
pub fn build(pod: &Pod, input: &Input<'_>) -> PodStatus {
    let previous = pod.status.clone().unwrap_or_default();
    let init_container_statuses = containers::statuses(pod, input, true);
    let container_statuses = containers::statuses(pod, input, false);
    let mut phase = phase::phase(pod, &init_container_statuses, &container_statuses, input.ending);
    let (mut reason, mut message) = (None, None);
    if let Some(failed) = input.failed {
        phase = Phase::Failed;
        reason = Some(failed.reason.to_owned());
        message = Some(failed.message.clone());
    }
    // Nothing leaves a final phase.
    if let Some(last) = previous
        .phase
        .as_deref()
        .and_then(Phase::parse)
        .filter(|phase| phase.is_final())
    {
        phase = last;
        reason.clone_from(&previous.reason);
        message.clone_from(&previous.message);
    }
    let ips = pod_ips(pod, input, &previous);
    let mut status = PodStatus {
        phase: Some(phase.as_str().to_owned()),
        reason,
        message,
        start_time: previous
            .start_time
            .clone()
            .or(input.observed.start_time.map(Time)),
        observed_generation: pod.metadata.generation,
        qos_class: previous
            .qos_class
            .clone()
            .or_else(|| Some(QosClass::of(pod).as_str().to_owned())),
        host_ip: input.host_ips.first().map(IpAddr::to_string),
        host_ips: (!input.host_ips.is_empty()).then(|| {
            input
                .host_ips
                .iter()
                .map(|ip| HostIP { ip: ip.to_string() })
                .collect()
        }),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect()),
        init_container_statuses: (!init_container_statuses.is_empty()).then_some(init_container_statuses),
        container_statuses: (!container_statuses.is_empty()).then_some(container_statuses),
        ..previous.clone()
    };
    status.conditions = Some(conditions::conditions(pod, &status, phase, input, &previous));
    status
}

/// The status of a pod this node does not take: it fails without having run.
pub fn rejected(pod: &Pod, failure: &Failure, now: Timestamp) -> PodStatus {
    let previous = pod.status.clone().unwrap_or_default();
    PodStatus {
        phase: Some("Failed".into()),
        reason: Some(failure.reason.to_owned()),
        message: Some(format!("Pod was rejected: {}", failure.message)),
        start_time: previous.start_time.clone().or(Some(Time(now))),
        observed_generation: pod.metadata.generation,
        ..previous
    }
}

/// The addresses of the sandbox; the node's with its network; the last known ones once the sandbox is gone.
fn pod_ips(pod: &Pod, input: &Input<'_>, previous: &PodStatus) -> Vec<String> {
    let observed = input.observed.runtime.ips();
    if !observed.is_empty() {
        return observed.to_vec();
    }
    if pod::uses_host_network(pod) && !input.observed.runtime.sandboxes.is_empty() {
        return input.host_ips.iter().map(IpAddr::to_string).collect();
    }
    // A pod that has ended keeps the address it had.
    if input.ending
        || input
            .observed
            .runtime
            .sandboxes
            .iter()
            .all(|sandbox| !sandbox.ready)
    {
        return previous
            .pod_ips
            .iter()
            .flatten()
            .map(|ip| ip.ip.clone())
            .collect();
    }
    Vec::new()
}

/// Whether two statuses say the same, apart from what cannot be compared.
pub fn is_same(left: &PodStatus, right: &PodStatus) -> bool {
    normalized(left) == normalized(right)
}

/// The API drops fractions of seconds and empty lists.
fn normalized(status: &PodStatus) -> PodStatus {
    let mut status = status.clone();
    let whole = |time: &mut Option<Time>| {
        if let Some(Time(time)) = time {
            *time = Timestamp::from_second(time.as_second()).unwrap_or(*time);
        }
    };
    whole(&mut status.start_time);
    for condition in status.conditions.iter_mut().flatten() {
        condition.last_probe_time = None;
        whole(&mut condition.last_transition_time);
    }
    if let Some(conditions) = &mut status.conditions {
        conditions.sort_by(|left, right| left.type_.cmp(&right.type_));
    }
    let statuses = status
        .init_container_statuses
        .iter_mut()
        .chain(&mut status.container_statuses)
        .flatten();
    for container in statuses {
        for state in [&mut container.state, &mut container.last_state] {
            if *state == Some(ContainerState::default()) {
                *state = None;
            }
            if let Some(running) = state.as_mut().and_then(|state| state.running.as_mut()) {
                whole(&mut running.started_at);
            }
            if let Some(terminated) = state.as_mut().and_then(|state| state.terminated.as_mut()) {
                whole(&mut terminated.started_at);
                whole(&mut terminated.finished_at);
            }
        }
    }
    status
}
