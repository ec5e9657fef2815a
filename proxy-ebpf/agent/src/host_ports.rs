//! Host ports: ports of this node's own addresses that lead to one of its pods. Pure.
//!
//! The kubelet tells the runtime of them and the runtime tells the network plugin; but what opens them is a table of this
//! agent's, and the Pod says the same. So the agent reads Pods, and the plugin leaves host ports to it. Not built: host ports
//! on loopback, for which every pod's own loopback would have to be told from the node's.

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::api::core::v1 as core;
use proxy_ebpf_common::Protocol;

use crate::desired::{FrontendAddress, ServicePort, SocketAddress, protocol};

/// The host ports of a pod.
#[derive(Debug, PartialEq, Eq)]
pub struct HostPorts {
    ports: Vec<HostPort>,
    pod_ips: Vec<IpAddr>,
}

#[derive(Debug, PartialEq, Eq)]
struct HostPort {
    protocol: Protocol,
    /// Where it is opened; an unspecified address stands for all of its family, `None` for all.
    host_ip: Option<IpAddr>,
    host_port: u16,
    container_port: u16,
}

impl HostPorts {
    /// `None`: the pod has none, or none any more.
    pub fn from_api(pod: &core::Pod) -> Option<Self> {
        let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
        // A pod in the node's network listens there itself.
        let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if over || spec.host_network == Some(true) {
            return None;
        }
        // Those of init containers too: the ones that go on running are among them.
        let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
        let ports: Vec<_> = containers
            .flat_map(|container| container.ports.iter().flatten())
            .filter_map(HostPort::from_api)
            .collect();
        let pod_ips = status.pod_ips.iter().flatten();
        let pod_ips: Vec<_> = pod_ips.filter_map(|ip| ip.ip.parse().ok()).collect();
        (!ports.is_empty() && !pod_ips.is_empty()).then_some(Self { ports, pod_ips })
    }

    /// Each as a port of a Service of which the pod is the only backend, on a node with these addresses.
    pub fn service_ports(&self, node_addresses: &BTreeSet<IpAddr>) -> Vec<ServicePort> {
        let pairs = self
            .ports
            .iter()
            .flat_map(|port| self.pod_ips.iter().map(move |ip| (port, *ip)));
        let service_port = |(port, pod_ip): (&HostPort, IpAddr)| {
            let at = |address, number| SocketAddress {
                address,
                port: number,
                protocol: port.protocol,
            };
            let frontends: Vec<FrontendAddress> = port
                .addresses(pod_ip.is_ipv6(), node_addresses)
                .into_iter()
                .map(|address| at(address, port.host_port).into())
                .collect();
            (!frontends.is_empty()).then(|| ServicePort {
                external: frontends.clone(),
                frontends,
                backends: vec![at(pod_ip, port.container_port)],
                ..ServicePort::default()
            })
        };
        pairs.filter_map(service_port).collect()
    }
}

impl HostPort {
    fn from_api(port: &core::ContainerPort) -> Option<Self> {
        let number = |number: i32| u16::try_from(number).ok().filter(|&number| number != 0);
        let host_ip = port.host_ip.as_deref().filter(|ip| !ip.is_empty());
        Some(Self {
            protocol: protocol(port.protocol.as_deref())?,
            // An address that is none is nowhere, rather than everywhere.
            host_ip: host_ip.map(str::parse).transpose().ok()?,
            host_port: number(port.host_port?)?,
            container_port: number(port.container_port)?,
        })
    }

    /// Where it is opened for one family.
    fn addresses(&self, ipv6: bool, node_addresses: &BTreeSet<IpAddr>) -> Vec<IpAddr> {
        let of_family = |ip: &&IpAddr| ip.is_ipv6() == ipv6;
        match self.host_ip {
            Some(ip) if ip.is_ipv6() != ipv6 || ip.is_loopback() => Vec::new(),
            Some(ip) if !ip.is_unspecified() => vec![ip],
            _ => node_addresses.iter().filter(of_family).copied().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value, phase: &str, ips: &[&str]) -> Option<HostPorts> {
        let ips: Vec<_> = ips.iter().map(|ip| json!({ "ip": ip })).collect();
        let pod = json!({"metadata": {"name": "a"}, "spec": spec, "status": {"phase": phase, "podIPs": ips}});
        HostPorts::from_api(&serde_json::from_value(pod).expect("a Pod"))
    }

    fn spec(ports: serde_json::Value) -> serde_json::Value {
        json!({"containers": [{"name": "main", "ports": ports}]})
    }

    /// Every frontend with its backend, on a node with an address of each family.
    fn rows(host_ports: &HostPorts) -> Vec<String> {
        let node = ["172.31.0.11", "fd00:31::11"].map(|ip| ip.parse().expect("an address"));
        let ports = host_ports.service_ports(&BTreeSet::from(node));
        let rows = ports.iter().flat_map(|port| {
            port.frontends
                .iter()
                .map(|frontend| format!("{frontend} -> {}", port.backends[0]))
        });
        rows.collect()
    }

    #[test]
    fn a_host_port_is_open_on_all_addresses_of_the_node() {
        let ports = json!([{"containerPort": 80, "hostPort": 8080}, {"containerPort": 443},
                           {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "0.0.0.0"}]);
        let found = pod(spec(ports), "Running", &["10.244.0.5", "fd00:10:244::5"]).expect("host ports");
        assert_eq!(
            rows(&found),
            [
                "172.31.0.11:8080/TCP -> 10.244.0.5:80/TCP",
                "[fd00:31::11]:8080/TCP -> [fd00:10:244::5]:80/TCP",
                "172.31.0.11:53/UDP -> 10.244.0.5:53/UDP",
            ]
        );
    }

    #[test]
    fn an_address_may_be_chosen() {
        let ports = json!([{"containerPort": 80, "hostPort": 8080, "hostIP": "192.0.2.1"},
                           {"containerPort": 80, "hostPort": 8081, "hostIP": "::"},
                           {"containerPort": 80, "hostPort": 8082, "hostIP": "127.0.0.1"},
                           {"containerPort": 80, "hostPort": 8083, "hostIP": "nowhere"}]);
        let found = pod(spec(ports), "Pending", &["10.244.0.5", "fd00:10:244::5"]).expect("host ports");
        assert_eq!(
            rows(&found),
            [
                "192.0.2.1:8080/TCP -> 10.244.0.5:80/TCP",
                "[fd00:31::11]:8081/TCP -> [fd00:10:244::5]:80/TCP",
            ]
        );
    }

    #[test]
    fn pods_without_host_ports_are_passed_over() {
        let ports = || spec(json!([{"containerPort": 80, "hostPort": 8080}]));
        assert!(pod(ports(), "Running", &["10.244.0.5"]).is_some());
        for (why, spec, phase, ips) in [
            ("it has ended", ports(), "Succeeded", &["10.244.0.5"][..]),
            ("it has failed", ports(), "Failed", &["10.244.0.5"]),
            ("it has no address yet", ports(), "Pending", &[]),
            (
                "it has no ports",
                json!({"containers": []}),
                "Running",
                &["10.244.0.5"],
            ),
            (
                "none is a host port",
                spec(json!([{"containerPort": 80}])),
                "Running",
                &["10.244.0.5"],
            ),
        ] {
            assert_eq!(pod(spec, phase, ips), None, "{why}");
        }
        let mut host = ports();
        host["hostNetwork"] = true.into();
        assert_eq!(
            pod(host, "Running", &["172.31.0.11"]),
            None,
            "it is in the node's network"
        );
    }
}
