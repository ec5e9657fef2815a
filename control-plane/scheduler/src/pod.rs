//! What the scheduler keeps of a Pod: the few fields that decide about its place.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::{Container, NodeAffinity, Pod, PodSpec, Toleration};

use crate::resources::{Resources, pod_requests};

/// The API server's name for a pod that ended.
const ENDED_PHASES: [&str; 2] = ["Succeeded", "Failed"];

/// Which pod: the names to address it by and the identity that survives a new pod of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodReference {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: Arc<str>,
    pub(crate) resource_version: String,
}

/// A pod as a watch event shows it, as far as it concerns the scheduler.
#[derive(Debug, PartialEq)]
pub(crate) enum ObservedPod {
    /// It takes room on a node.
    Assigned { node: Arc<str>, demand: Arc<Demand> },
    /// It waits for this scheduler.
    Pending(Arc<PodInfo>),
    /// It needs nothing: it ended, is about to go without ever having had a node, or waits for another scheduler.
    Irrelevant,
}

impl ObservedPod {
    pub(crate) fn of(pod: &Pod, scheduler_name: &str) -> ObservedPod {
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref())
            .unwrap_or_default();
        let Some(spec) = pod.spec.as_ref().filter(|_| !ENDED_PHASES.contains(&phase)) else {
            return ObservedPod::Irrelevant;
        };
        match spec.node_name.as_deref() {
            Some(node) if !node.is_empty() => ObservedPod::Assigned {
                node: node.into(),
                demand: Arc::new(Demand::of(spec)),
            },
            _ if pod.metadata.deletion_timestamp.is_some() => ObservedPod::Irrelevant,
            // The API server fills in the default name.
            _ if spec.scheduler_name.as_deref() != Some(scheduler_name) => ObservedPod::Irrelevant,
            _ => ObservedPod::Pending(Arc::new(PodInfo::of(pod, spec))),
        }
    }
}

/// What a pod takes from its node.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Demand {
    pub(crate) requests: Resources,
    /// `requests` with defaults for containers that request nothing: only to compare nodes.
    pub(crate) non_zero_requests: Resources,
    pub(crate) host_ports: Vec<HostPort>,
}

impl Demand {
    fn of(spec: &PodSpec) -> Demand {
        let (requests, non_zero_requests) = pod_requests(spec);
        Demand {
            requests,
            non_zero_requests,
            host_ports: host_ports(spec),
        }
    }
}

/// A port of the node's own addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPort {
    /// `0.0.0.0` for all addresses.
    pub(crate) ip: String,
    pub(crate) protocol: String,
    pub(crate) port: i32,
}

/// Sidecars hold their ports as long as the containers do; ordinary init containers are gone by then.
fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let is_sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(is_sidecar);
    let ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten());
    let or = |text: &Option<String>, default: &str| match text.as_deref() {
        None | Some("") => default.to_owned(),
        Some(text) => text.to_owned(),
    };
    let host_port = |port: &k8s_openapi::api::core::v1::ContainerPort| {
        Some(HostPort {
            ip: or(&port.host_ip, "0.0.0.0"),
            protocol: or(&port.protocol, "TCP"),
            port: port.host_port.filter(|port| *port > 0)?,
        })
    };
    ports.filter_map(host_port).collect()
}

/// A pod that waits for a node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PodInfo {
    pub(crate) reference: PodReference,
    pub(crate) demand: Arc<Demand>,
    pub(crate) constraints: Constraints,
    /// Its `PodScheduled` condition as the API server has it.
    pub(crate) condition: Option<ScheduledCondition>,
}

/// What a pod says about where, when and how urgently it wants to run.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Constraints {
    pub(crate) priority: i32,
    /// `preemptionPolicy: Never`.
    pub(crate) never_preempts: bool,
    pub(crate) scheduling_gates: Vec<String>,
    pub(crate) node_selector: BTreeMap<String, String>,
    pub(crate) node_affinity: Option<Box<NodeAffinity>>,
    pub(crate) tolerations: Vec<Toleration>,
}

/// The `PodScheduled` condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScheduledCondition {
    pub(crate) status: String,
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl PodInfo {
    fn of(pod: &Pod, spec: &PodSpec) -> PodInfo {
        let metadata = &pod.metadata;
        PodInfo {
            reference: PodReference {
                namespace: metadata.namespace.clone().unwrap_or_default(),
                name: metadata.name.clone().unwrap_or_default(),
                uid: uid(pod),
                resource_version: metadata.resource_version.clone().unwrap_or_default(),
            },
            demand: Arc::new(Demand::of(spec)),
            constraints: Constraints {
                priority: spec.priority.unwrap_or_default(),
                never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
                scheduling_gates: spec
                    .scheduling_gates
                    .iter()
                    .flatten()
                    .map(|gate| gate.name.clone())
                    .collect(),
                node_selector: spec.node_selector.clone().unwrap_or_default(),
                node_affinity: spec
                    .affinity
                    .as_ref()
                    .and_then(|it| it.node_affinity.clone())
                    .map(Box::new),
                tolerations: spec.tolerations.clone().unwrap_or_default(),
            },
            condition: ScheduledCondition::of(pod),
        }
    }

    /// Nothing that decides about its place differs.
    pub(crate) fn is_placed_like(&self, other: &PodInfo) -> bool {
        self.demand == other.demand && self.constraints == other.constraints
    }
}

impl ScheduledCondition {
    fn of(pod: &Pod) -> Option<ScheduledCondition> {
        let conditions = pod.status.as_ref()?.conditions.as_ref()?;
        let condition = conditions
            .iter()
            .find(|condition| condition.type_ == "PodScheduled")?;
        Some(ScheduledCondition {
            status: condition.status.clone(),
            reason: condition.reason.clone().unwrap_or_default(),
            message: condition.message.clone().unwrap_or_default(),
        })
    }
}

pub(crate) fn uid(pod: &Pod) -> Arc<str> {
    pod.metadata.uid.as_deref().unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn observe(pod: serde_json::Value) -> ObservedPod {
        ObservedPod::of(&serde_json::from_value(pod).unwrap(), "default-scheduler")
    }

    #[test]
    fn which_pods_matter() {
        let pod = |spec: serde_json::Value, phase: &str| {
            let mut spec = spec;
            spec["containers"] = json!([]);
            json!({"metadata": {"name": "p"}, "spec": spec, "status": {"phase": phase}})
        };
        let ours = json!({"schedulerName": "default-scheduler"});
        assert!(matches!(
            observe(pod(ours.clone(), "Pending")),
            ObservedPod::Pending(_)
        ));
        assert_eq!(
            observe(pod(json!({"schedulerName": "other"}), "Pending")),
            ObservedPod::Irrelevant
        );
        assert_eq!(observe(pod(ours.clone(), "Failed")), ObservedPod::Irrelevant);
        let assigned = json!({"schedulerName": "other", "nodeName": "n"});
        assert!(matches!(
            observe(pod(assigned.clone(), "Running")),
            ObservedPod::Assigned { .. }
        ));
        assert_eq!(observe(pod(assigned, "Succeeded")), ObservedPod::Irrelevant);
        let mut deleting = pod(ours, "Pending");
        deleting["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(observe(deleting.clone()), ObservedPod::Irrelevant);
        deleting["spec"]["nodeName"] = json!("n");
        assert!(
            matches!(observe(deleting), ObservedPod::Assigned { .. }),
            "it takes room until it is gone"
        );
    }

    #[test]
    fn host_ports_with_defaults() {
        let spec = json!({
            "containers": [{"name": "a", "ports": [{"containerPort": 80}, {"containerPort": 80, "hostPort": 8080}]}],
            "initContainers": [
                {"name": "b", "ports": [{"containerPort": 1, "hostPort": 1}]},
                {"name": "c", "restartPolicy": "Always",
                 "ports": [{"containerPort": 2, "hostPort": 2, "hostIP": "10.0.0.1", "protocol": "UDP"}]},
            ],
        });
        let port = |ip: &str, protocol: &str, port| HostPort {
            ip: ip.into(),
            protocol: protocol.into(),
            port,
        };
        assert_eq!(
            host_ports(&serde_json::from_value(spec).unwrap()),
            [port("0.0.0.0", "TCP", 8080), port("10.0.0.1", "UDP", 2)]
        );
    }
}
