//! Which Endpoints a Service should have.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset};
use serde_json::{Value, json};

use crate::endpoint::{
    HEADLESS_LABEL, TRIGGER_TIME, belongs, find_port, has_hostname, is_headless, target_ref,
};
use crate::objects::{Endpoints, Labels, Pod, Service};

const MANAGED_BY_LABEL: &str = "endpoints.kubernetes.io/managed-by";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// More addresses than this are cut off: every change is sent whole to every watcher.
const ADDRESSES_MAX: usize = 1000;

#[derive(Debug, PartialEq)]
pub(super) enum Plan {
    Keep,
    Create(Value),
    /// A merge patch.
    Update(Value),
}

pub(super) fn is_managed(endpoints: &Endpoints) -> bool {
    endpoints.metadata.labels.get(MANAGED_BY_LABEL) == Some(super::NAME)
}

pub(super) fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    current: Option<&Endpoints>,
    triggered: Timestamp,
) -> Plan {
    let (subsets, truncated) = truncate(subsets(service, pods));
    let labels = labels(service);
    let capacity = if truncated {
        json!("truncated")
    } else {
        Value::Null
    };
    let Some(current) = current else {
        let mut annotations = json!({TRIGGER_TIME: triggered.to_string()});
        if truncated {
            annotations[OVER_CAPACITY] = capacity;
        }
        return Plan::Create(json!({
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {
                "name": service.metadata.name,
                "namespace": service.metadata.namespace,
                "labels": labels,
                "annotations": annotations,
            },
            "subsets": subsets,
        }));
    };
    let capacity_noted = current.metadata.annotations.get(OVER_CAPACITY).is_some();
    if current.subsets == subsets && current.metadata.labels == labels && capacity_noted == truncated {
        return Plan::Keep;
    }
    let mut patched_labels = json!(labels);
    for (key, _) in current
        .metadata
        .labels
        .iter()
        .filter(|(key, _)| labels.get(key).is_none())
    {
        patched_labels[key] = Value::Null;
    }
    Plan::Update(json!({
        "metadata": {
            "resourceVersion": current.metadata.resource_version,
            "labels": patched_labels,
            "annotations": {TRIGGER_TIME: triggered.to_string(), OVER_CAPACITY: capacity},
        },
        "subsets": subsets,
    }))
}

fn labels(service: &Service) -> Labels {
    let reserved = [HEADLESS_LABEL, MANAGED_BY_LABEL];
    let headless = is_headless(service).then_some((HEADLESS_LABEL, ""));
    let own = [(MANAGED_BY_LABEL, super::NAME)];
    service
        .metadata
        .labels
        .iter()
        .filter(|(key, _)| !reserved.contains(key))
        .chain(own)
        .chain(headless)
        .collect()
}

/// An address in the order that subsets are written in.
type Addresses = BTreeMap<(String, String), EndpointAddress>;

/// Ports by what tells them apart.
type Ports = BTreeMap<String, EndpointPort>;

/// Addresses that have all their ports in common share a subset.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    // By the address with its readiness: the ports it serves.
    let mut ports_of: BTreeMap<(String, String, bool), (EndpointAddress, Ports)> = BTreeMap::new();
    let include_terminating = service.spec.publish_not_ready_addresses;
    for pod in pods.iter().filter(|pod| belongs(pod, include_terminating)) {
        let Some(address) = address(service, pod) else {
            continue;
        };
        let ready = include_terminating || pod.is_ready();
        let mut ports = Ports::new();
        for port in &service.spec.ports {
            let Some(number) = find_port(pod, port) else {
                continue;
            };
            let port = EndpointPort {
                name: port.name.clone().filter(|name| !name.is_empty()),
                port: number,
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            };
            ports.insert(port_key(&port), port);
        }
        if ports.is_empty() && !(service.spec.ports.is_empty() && is_headless(service)) {
            continue;
        }
        ports_of.insert(
            (address.ip.clone(), pod.metadata.uid.to_string(), ready),
            (address, ports),
        );
    }
    let mut by_ports: BTreeMap<Vec<String>, (Vec<EndpointPort>, Addresses, Addresses)> = BTreeMap::new();
    for ((ip, uid, ready), (address, ports)) in ports_of {
        let key = ports.keys().cloned().collect();
        let (_, ready_addresses, not_ready_addresses) = by_ports
            .entry(key)
            .or_insert_with(|| (ports.into_values().collect(), Addresses::new(), Addresses::new()));
        let addresses = if ready {
            ready_addresses
        } else {
            not_ready_addresses
        };
        addresses.insert((ip, uid), address);
    }
    by_ports
        .into_values()
        .map(|(ports, ready, not_ready)| subset(ports, ready, not_ready))
        .collect()
}

fn subset(ports: Vec<EndpointPort>, ready: Addresses, not_ready: Addresses) -> EndpointSubset {
    let list = |addresses: Addresses| {
        let addresses: Vec<_> = addresses.into_values().collect();
        (!addresses.is_empty()).then_some(addresses)
    };
    EndpointSubset {
        addresses: list(ready),
        not_ready_addresses: list(not_ready),
        ports: (!ports.is_empty()).then_some(ports),
    }
}

fn port_key(port: &EndpointPort) -> String {
    let name = port.name.as_deref().unwrap_or_default();
    let protocol = port.protocol.as_deref().unwrap_or_default();
    format!(
        "{name}/{protocol}/{}/{}",
        port.port,
        port.app_protocol.as_deref().unwrap_or_default()
    )
}

/// Endpoints have one address family: the service's first.
fn address(service: &Service, pod: &Pod) -> Option<EndpointAddress> {
    let wants_ipv6 = match service.spec.ip_families.first() {
        Some(family) => &**family == "IPv6",
        None if is_headless(service) => pod.status.pod_ips.first()?.ip.contains(':'),
        None => service.spec.cluster_ip.contains(':'),
    };
    let ip = pod
        .status
        .pod_ips
        .iter()
        .find(|ip| ip.ip.contains(':') == wants_ipv6)?;
    Some(EndpointAddress {
        ip: ip.ip.to_string(),
        hostname: has_hostname(pod, service).then(|| pod.spec.hostname.to_string()),
        node_name: (!pod.spec.node_name.is_empty()).then(|| pod.spec.node_name.to_string()),
        target_ref: Some(target_ref(&pod.metadata)),
    })
}

/// Cuts off what is too much: addresses that are not ready first, and of the rest an even share per subset.
fn truncate(mut subsets: Vec<EndpointSubset>) -> (Vec<EndpointSubset>, bool) {
    let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
    let ready: usize = subsets.iter().map(|subset| count(&subset.addresses)).sum();
    let not_ready: usize = subsets
        .iter()
        .map(|subset| count(&subset.not_ready_addresses))
        .sum();
    if ready + not_ready <= ADDRESSES_MAX {
        return (subsets, false);
    }
    let cut_ready = ready > ADDRESSES_MAX;
    let (room, total) = if cut_ready {
        (ADDRESSES_MAX, ready)
    } else {
        (ADDRESSES_MAX - ready, not_ready)
    };
    let mut left = room;
    for subset in &mut subsets {
        if cut_ready {
            subset.not_ready_addresses = None;
        }
        let list = if cut_ready {
            &mut subset.addresses
        } else {
            &mut subset.not_ready_addresses
        };
        let share = (count(list) * room).div_ceil(total.max(1)).min(left);
        if let Some(addresses) = list {
            addresses.truncate(share);
            left -= addresses.len();
            if addresses.is_empty() {
                *list = None;
            }
        }
    }
    (subsets, true)
}
