//! The objects of the API, as far as they are kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use proxy_ebpf_common::Protocol;

use super::{Endpoint, EndpointSlice, EndpointState, External, ObjectName, Port, PortOfService, Service};
use crate::node::plan::Cidr;

/// Somebody else's proxy handles objects with this label, whatever its value.
const SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Slices of headless Services carry this label.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// The Service that a slice belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Upstream's default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const DEFAULT_AFFINITY_TIMEOUT_S: u32 = 10_800;

impl Service {
    /// `None`: not for this proxy, or without an address that could be translated.
    pub fn from_api(service: &core::Service) -> Option<Self> {
        if has_label(&service.metadata.labels, SERVICE_PROXY_NAME)
            || has_label(&service.metadata.labels, HEADLESS)
        {
            return None;
        }
        let spec = service.spec.as_ref()?;
        if spec.type_.as_deref() == Some("ExternalName") {
            return None;
        }
        // "None" and "" are no addresses: a headless Service, and one that has not been given its address yet.
        let cluster_ips: Box<[IpAddr]> = spec
            .cluster_ips
            .iter()
            .flatten()
            .filter_map(|ip| ip.parse().ok())
            .collect();
        let ports = spec.ports.iter().flatten();
        let ports: Box<[_]> = ports.filter_map(PortOfService::from_api).collect();
        if cluster_ips.is_empty() || ports.is_empty() {
            return None;
        }
        let affinity_timeout_s = match spec.session_affinity.as_deref() {
            Some("ClientIP") => spec
                .session_affinity_config
                .as_ref()
                .and_then(|config| config.client_ip.as_ref()?.timeout_seconds)
                .and_then(|seconds| u32::try_from(seconds).ok())
                .unwrap_or(DEFAULT_AFFINITY_TIMEOUT_S),
            _ => 0,
        };
        let mut load_balancer_ips = usable_ips(load_balancer_ips(service));
        load_balancer_ips.retain(|ip| !cluster_ips.contains(ip));
        let mut external_ips = usable_ips(spec.external_ips.iter().flatten());
        external_ips.retain(|ip| !cluster_ips.contains(ip));
        external_ips.extend(&load_balancer_ips);
        let ranges = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
        let external = External {
            ips: external_ips.into_iter().collect(),
            load_balancer_ips,
            source_ranges: [false, true].map(|ipv6| source_ranges(ranges, ipv6)),
        };
        Some(Self {
            cluster_ips,
            ports,
            external: (external != External::default()).then(|| Box::new(external)),
            affinity_timeout_s,
            internal_traffic_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            external_traffic_local: spec.external_traffic_policy.as_deref() == Some("Local"),
            health_check_node_port: spec
                .health_check_node_port
                .and_then(|port| u16::try_from(port).ok())
                .filter(|&port| port != 0),
        })
    }
}

impl EndpointSlice {
    /// `None`: not for this proxy, of no Service, or without addresses.
    pub fn from_api(slice: &discovery::EndpointSlice, node_name: &str) -> Option<Self> {
        let metadata = &slice.metadata;
        if has_label(&metadata.labels, SERVICE_PROXY_NAME) || has_label(&metadata.labels, HEADLESS) {
            return None;
        }
        if !matches!(slice.address_type.as_str(), "IPv4" | "IPv6") {
            return None;
        }
        let name = metadata.labels.as_ref()?.get(SERVICE_NAME)?;
        let service = ObjectName::new(metadata.namespace.as_deref()?, name);
        let ports = slice.ports.iter().flatten().filter_map(Port::of_slice).collect();
        let endpoints: Box<[_]> = slice
            .endpoints
            .iter()
            .flatten()
            .filter_map(|endpoint| Endpoint::from_api(endpoint, node_name))
            .collect();
        let ignored = slice.endpoints.iter().flatten().count() - endpoints.len();
        Some(Self {
            service,
            ports,
            ignored: u32::try_from(ignored).unwrap_or(u32::MAX),
            endpoints,
        })
    }

    /// Number of endpoints that no traffic may be sent to, whatever the slice says.
    pub fn ignored(&self) -> usize {
        self.ignored as usize
    }

    /// The Service that the slice belongs to.
    pub fn service(&self) -> &ObjectName {
        &self.service
    }

    /// Lets go of its own copy of the Service's name for an equal one that others hold too.
    pub fn share_name(&mut self, known: &ObjectName) {
        if self.service == *known {
            self.service = known.clone();
        }
    }
}

impl Endpoint {
    fn from_api(endpoint: &discovery::Endpoint, node_name: &str) -> Option<Self> {
        // All addresses of an endpoint are the same pod; consumers take the first.
        let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
        // The API refuses these. Whoever gets them past it must not reach what listens on a node's or a pod's loopback by a
        // Service, or what only neighbours may (CVE-2021-25737).
        if is_special(address) {
            return None;
        }
        let conditions = endpoint.conditions.as_ref();
        // What is not said counts as good.
        let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
        let serving = conditions
            .and_then(|conditions| conditions.serving)
            .unwrap_or(true);
        let terminating = conditions
            .and_then(|conditions| conditions.terminating)
            .unwrap_or(false);
        let hints = endpoint.hints.as_ref();
        let zones = hints
            .and_then(|hints| hints.for_zones.as_ref())
            .into_iter()
            .flatten();
        let nodes = hints
            .and_then(|hints| hints.for_nodes.as_ref())
            .filter(|nodes| !nodes.is_empty());
        let state = EndpointState {
            ready,
            draining: serving && terminating,
            local: endpoint.node_name.as_deref() == Some(node_name),
            for_this_node: nodes.map(|nodes| nodes.iter().any(|node| node.name == node_name)),
        };
        let zones: Vec<Box<str>> = zones.map(|zone| zone.name.as_str().into()).collect();
        Some(Self {
            address,
            state,
            zones: (!zones.is_empty()).then(|| Box::new(zones)),
        })
    }
}

impl PortOfService {
    fn from_api(port: &core::ServicePort) -> Option<Self> {
        let name = port.name.as_deref().unwrap_or_default().into();
        let node_port = port.node_port.and_then(|port| u16::try_from(port).ok());
        Some(Self {
            port: Port {
                name,
                protocol: protocol(port.protocol.as_deref())?,
                port: u16::try_from(port.port).ok()?,
            },
            node_port: node_port.filter(|&port| port != 0),
        })
    }
}

impl Port {
    /// A slice's port may have no number, which stands for all ports: nothing that a Service could be mapped to.
    fn of_slice(port: &discovery::EndpointPort) -> Option<Self> {
        let name = port.name.as_deref().unwrap_or_default().into();
        Some(Self {
            name,
            protocol: protocol(port.protocol.as_deref())?,
            port: u16::try_from(port.port?).ok()?,
        })
    }
}

/// The addresses of the load balancer that packets arrive with: a load balancer that is a proxy wants to see the traffic
/// itself.
fn load_balancer_ips(service: &core::Service) -> impl Iterator<Item = &String> {
    let status = service.status.as_ref();
    let ingress = status
        .and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref())
        .into_iter()
        .flatten();
    ingress
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| ingress.ip.as_ref())
}

/// Those that may be taken over by a Service.
fn usable_ips<'a>(ips: impl IntoIterator<Item = &'a String>) -> BTreeSet<IpAddr> {
    ips.into_iter()
        .filter_map(|ip| ip.parse().ok())
        .filter(|ip| !is_special(*ip))
        .collect()
}

/// The networks of a family among `loadBalancerSourceRanges`; `None`: everybody is admitted.
///
/// As kube-proxy: spaces around a range are ignored (the API allows them), a range of all addresses is none, and ranges of
/// the other family say nothing about this one. Other than there, a range that cannot be read admits nobody instead of
/// everybody. The annotation `service.beta.kubernetes.io/load-balancer-source-ranges` is for cloud providers; kube-proxy does
/// not read it either.
fn source_ranges(ranges: &[String], ipv6: bool) -> Option<BTreeSet<Cidr>> {
    let written = ranges.iter().map(|range| range.trim());
    let parsed = written.filter(|range| !range.is_empty()).map(str::parse::<Cidr>);
    let mut networks = BTreeSet::new();
    let mut unreadable = false;
    for range in parsed {
        match range {
            Ok(range) if range.address.is_ipv6() == ipv6 => {
                networks.insert(range);
            }
            Ok(_) => {}
            Err(_) => unreadable = true,
        }
    }
    let everybody = networks.iter().any(|network| network.prefix == 0);
    ((!networks.is_empty() || unreadable) && !everybody).then_some(networks)
}

/// Whether an address means something else on every node, or to everybody on a link.
fn is_special(ip: IpAddr) -> bool {
    // An IPv4 address in IPv6's clothes is that address to a socket.
    let ip = ip.to_canonical();
    ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_link_local(ip)
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn has_label(labels: &Option<BTreeMap<String, String>>, label: &str) -> bool {
    labels.as_ref().is_some_and(|labels| labels.contains_key(label))
}

/// The protocols that a Service may have. SCTP is the packet path's: its sockets have no hooks.
pub(crate) fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name {
        None | Some("TCP") => Some(Protocol::TCP),
        Some("UDP") => Some(Protocol::UDP),
        Some("SCTP") => Some(Protocol::SCTP),
        Some(_) => None,
    }
}
