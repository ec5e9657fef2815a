//! Whether this node takes a pod that was bound to it. Pure.
//!
//! The scheduler has looked already; this catches two schedulers at once, and pods bound by hand.

use std::{collections::HashSet, sync::Arc};

use k8s_openapi::api::core::v1::Pod;

use crate::{
    cgroups::{cpu_request, memory_request, pod_total},
    pod,
    volumes::Allocatable,
    worker::plan::{Failure, has_ended},
};

/// Whether a kubelet of this node has taken the pod before: it set the start time.
pub fn is_admitted(pod: &Pod) -> bool {
    pod.status
        .as_ref()
        .is_some_and(|status| status.start_time.is_some())
}

/// Why the pod cannot run beside `others`, if so.
pub fn check(pod: &Pod, others: &[Arc<Pod>], allocatable: &Allocatable, pods_max: u32) -> Option<Failure> {
    if is_admitted(pod) || has_ended(pod) || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let active: Vec<&Arc<Pod>> = others.iter().filter(|other| !has_ended(other)).collect();
    let count = i64::try_from(active.len()).unwrap_or(i64::MAX);
    let used = |amount: fn(&k8s_openapi::api::core::v1::Container) -> i64| {
        active.iter().map(|other| pod_total(other, amount)).sum::<i64>()
    };
    let rows = [
        (
            "OutOfcpu",
            "cpu",
            pod_total(pod, cpu_request),
            used(cpu_request),
            allocatable.cpu_milli,
        ),
        (
            "OutOfmemory",
            "memory",
            pod_total(pod, memory_request),
            used(memory_request),
            allocatable.memory,
        ),
        ("OutOfpods", "pods", 1, count, i64::from(pods_max)),
    ];
    for (reason, resource, requested, used, capacity) in rows {
        if requested > 0 && used + requested > capacity {
            return Some(Failure {
                reason,
                message: format!(
                    "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
                ),
            });
        }
    }
    let taken: HashSet<(String, i32, String)> = active.iter().flat_map(|other| host_ports(other)).collect();
    host_ports(pod)
        .iter()
        .any(|port| taken.contains(port))
        .then(|| Failure {
            reason: "NodePorts",
            message: "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
                .into(),
        })
}

/// Protocol, port and address of the pod's host ports.
fn host_ports(pod: &Pod) -> Vec<(String, i32, String)> {
    pod::containers(pod)
        .iter()
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
            Some((protocol, number, port.host_ip.clone().unwrap_or_default()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::core::v1::{Container, ContainerPort, PodSpec, ResourceRequirements},
        apimachinery::pkg::api::resource::Quantity,
    };

    use super::*;

    fn pod(cpu: &str, host_port: i32) -> Pod {
        let requests = [("cpu".to_owned(), Quantity(cpu.into()))].into();
        let container = Container {
            resources: Some(ResourceRequirements {
                requests: Some(requests),
                ..Default::default()
            }),
            ports: Some(vec![ContainerPort {
                host_port: Some(host_port),
                ..Default::default()
            }]),
            ..Default::default()
        };
        Pod {
            spec: Some(PodSpec {
                containers: vec![container],
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn what_does_not_fit_is_rejected() {
        let allocatable = Allocatable {
            cpu_milli: 1000,
            memory: 1 << 30,
            ephemeral_storage: 0,
        };
        let others = [Arc::new(pod("600m", 8080))];
        let reason =
            |pod: &Pod, pods_max| check(pod, &others, &allocatable, pods_max).map(|failure| failure.reason);
        assert_eq!(reason(&pod("400m", 0), 10), None);
        assert_eq!(reason(&pod("500m", 0), 10), Some("OutOfcpu"));
        assert_eq!(reason(&pod("0", 0), 1), Some("OutOfpods"));
        assert_eq!(reason(&pod("0", 8080), 10), Some("NodePorts"));
        let mut running = pod("500m", 8080);
        running.status = Some(k8s_openapi::api::core::v1::PodStatus {
            start_time: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                jiff::Timestamp::UNIX_EPOCH,
            )),
            ..Default::default()
        });
        assert_eq!(reason(&running, 10), None, "a pod taken before stays");
    }
}
