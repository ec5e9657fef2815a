//! The ports of a Service on a node, with the endpoints that its clients are sent to.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use proxy_ebpf_common::{Protocol, Scope};

use super::{
    EndpointSlice, EndpointState, FrontendAddress, HealthCheck, Port, PortOfService, Service, ServicePort,
    SocketAddress, ThisNode,
};
use crate::node::plan::Cidr;

/// The ports of a Service with their usable backends, on a node.
pub fn service_ports<'a>(
    service: &Service,
    slices: impl IntoIterator<Item = &'a EndpointSlice> + Clone,
    node: ThisNode<'_>,
) -> Vec<ServicePort> {
    let mut ports = Vec::new();
    let families = [false, true].map(|ipv6| (ipv6, service.of_family(ipv6)));
    for port in &service.ports[..] {
        for (ipv6, (cluster_ips, external_ips)) in &families {
            if !cluster_ips.is_empty() {
                let endpoints = endpoints(&port.port, *ipv6, slices.clone());
                service_port(
                    service,
                    port,
                    cluster_ips,
                    external_ips,
                    &endpoints,
                    node,
                    &mut ports,
                );
            }
        }
    }
    // Whoever asks for a port that a cluster IP has not must not be sent looking for it on the network.
    for (_, (cluster_ips, _)) in families {
        if !cluster_ips.is_empty() {
            ports.push(ServicePort {
                frontends: frontends(&cluster_ips, 0, Protocol::ANY, Scope::INTERNAL).collect(),
                ..ServicePort::default()
            });
        }
    }
    ports
}

/// The health check that a Service asks for.
pub fn health_check<'a>(
    service: &Service,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
) -> Option<HealthCheck> {
    let port = service.health_check_node_port?;
    let endpoints = slices.into_iter().flat_map(|slice| &slice.endpoints[..]);
    let local: BTreeSet<_> = endpoints
        .filter(|endpoint| endpoint.state.local && endpoint.state.ready)
        .map(|endpoint| endpoint.address)
        .collect();
    // A pod of both families has an address of each.
    let ipv6 = local.iter().filter(|address| address.is_ipv6()).count();
    Some(HealthCheck {
        port,
        local_endpoints: ipv6.max(local.len() - ipv6),
    })
}

impl Service {
    /// The cluster IPs and the other addresses of a family.
    fn of_family(&self, ipv6: bool) -> (Vec<IpAddr>, Vec<IpAddr>) {
        let pick = |ips: &[IpAddr]| ips.iter().copied().filter(|ip| ip.is_ipv6() == ipv6).collect();
        let external = self.external.as_ref().map_or(&[][..], |external| &external.ips);
        (pick(&self.cluster_ips), pick(external))
    }

    /// Whether what it looks like depends on the addresses of the node.
    pub fn has_source_ranges(&self) -> bool {
        let external = self.external.as_ref();
        external.is_some_and(|external| external.source_ranges.iter().any(Option::is_some))
    }

    /// Whether its load balancer gave it this address.
    fn is_load_balancer(&self, ip: &IpAddr) -> bool {
        let external = self.external.as_ref();
        external.is_some_and(|external| external.load_balancer_ips.contains(ip))
    }

    /// The networks of a family that may reach the load balancer's addresses, and whether a node is among them; `None`:
    /// everybody may.
    ///
    /// A node that is admitted by one of its addresses is so by all of them, and by the load balancer's, which some nodes have
    /// on a device of their own (kube-proxy: `allowFromNode`).
    fn admitted(&self, ipv6: bool, node: ThisNode<'_>) -> Option<(BTreeSet<Cidr>, bool)> {
        let external = self.external.as_ref()?;
        let mut ranges = external.source_ranges[usize::from(ipv6)].clone()?;
        let own = || node.addresses.iter().filter(|ip| ip.is_ipv6() == ipv6);
        let admits_node = own().any(|ip| ranges.iter().any(|range| range.contains(*ip)));
        if admits_node {
            let load_balancer = external
                .load_balancer_ips
                .iter()
                .filter(|ip| ip.is_ipv6() == ipv6);
            let whole = if ipv6 { 128 } else { 32 };
            ranges.extend(own().chain(load_balancer).filter_map(|&ip| Cidr::of(ip, whole)));
        }
        Some((ranges, admits_node))
    }
}

/// One port in one family. Its clients fall in three groups, two of which usually share the backends.
fn service_port(
    service: &Service,
    PortOfService { port, node_port }: &PortOfService,
    cluster_ips: &[IpAddr],
    external_ips: &[IpAddr],
    endpoints: &Endpoints<'_>,
    node: ThisNode<'_>,
    ports: &mut Vec<ServicePort>,
) {
    let ipv6 = cluster_ips.first().is_some_and(IpAddr::is_ipv6);
    let admitted = service.admitted(ipv6, node);
    let nodes = match cluster_ips.first() {
        Some(IpAddr::V6(_)) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let nodes = [nodes];
    let external = |scope| {
        let node_port = node_port.map(|number| frontends(&nodes, number, port.protocol, scope));
        frontends(external_ips, port.port, port.protocol, scope)
            .chain(node_port.into_iter().flatten())
            .collect::<Vec<_>>()
    };
    let mut push = |mut frontends: Vec<FrontendAddress>,
                    external: Vec<FrontendAddress>,
                    backends: Vec<SocketAddress>,
                    local: bool| {
        frontends.extend(&external);
        if !frontends.is_empty() {
            let is_restricted =
                |frontend: &&FrontendAddress| service.is_load_balancer(&frontend.socket.address);
            let restricted = external
                .iter()
                .filter(|_| admitted.is_some())
                .filter(is_restricted);
            let restricted: Vec<_> = restricted.copied().collect();
            let (source_ranges, admits_node) = match &admitted {
                Some(admitted) if !restricted.is_empty() => admitted.clone(),
                _ => Default::default(),
            };
            ports.push(ServicePort {
                frontends,
                external,
                elsewhere: local && backends.is_empty() && endpoints.any_usable(),
                backends,
                affinity_timeout_s: service.affinity_timeout_s,
                restricted,
                source_ranges,
                admits_node,
            });
        }
    };
    let mut internal: Vec<_> = frontends(cluster_ips, port.port, port.protocol, Scope::INTERNAL).collect();
    if service.internal_traffic_local {
        push(internal, Vec::new(), endpoints.local(), true);
        internal = Vec::new();
    }
    // Inside the cluster the external addresses are a short cut past the load balancer: the external policy is about
    // keeping the client's address and sparing a hop, neither of which is lost here.
    push(
        internal,
        external(Scope::INTERNAL),
        endpoints.cluster(node.zone),
        false,
    );
    if service.external_traffic_local {
        push(Vec::new(), external(Scope::EXTERNAL), endpoints.local(), true);
    }
}

fn frontends(
    ips: &[IpAddr],
    port: u16,
    protocol: Protocol,
    scope: Scope,
) -> impl Iterator<Item = FrontendAddress> {
    ips.iter().map(move |&address| FrontendAddress {
        socket: SocketAddress {
            address,
            port,
            protocol,
        },
        scope,
    })
}

/// The endpoints of one port in one family, each once.
struct Endpoints<'a>(BTreeMap<SocketAddress, (EndpointState, &'a [Box<str>])>);

fn endpoints<'a>(
    port: &Port,
    ipv6: bool,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
) -> Endpoints<'a> {
    let mut endpoints = BTreeMap::<SocketAddress, (EndpointState, &[Box<str>])>::new();
    for slice in slices {
        let same = slice
            .ports
            .iter()
            .filter(|other| other.name == port.name && other.protocol == port.protocol);
        for target in same {
            let of_family = slice
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.address.is_ipv6() == ipv6);
            for endpoint in of_family {
                let address = SocketAddress {
                    address: endpoint.address,
                    port: target.port,
                    protocol: target.protocol,
                };
                let zones = endpoint.zones.as_ref().map_or(&[][..], |zones| zones);
                let new = (endpoint.state, zones);
                // An endpoint that moves from one slice to another is in both for a moment: it is ready if either says
                // so, and that slice's hints are the newer ones.
                let known = endpoints.entry(address).or_insert(new);
                if endpoint.state.ready && !known.0.ready {
                    *known = new;
                }
                known.0.draining |= endpoint.state.draining;
            }
        }
    }
    Endpoints(endpoints)
}

/// Which endpoints a node should keep to.
enum Topology<'a> {
    Any,
    SameNode,
    SameZone(&'a str),
}

impl Endpoints<'_> {
    /// Those for clients that may be sent to every node.
    fn cluster(&self, zone: Option<&str>) -> Vec<SocketAddress> {
        let topology = self.topology(zone);
        let preferred = self.addresses(|state, zones| {
            state.ready
                && match topology {
                    Topology::Any => true,
                    Topology::SameNode => state.for_this_node == Some(true),
                    Topology::SameZone(zone) => zones.iter().any(|other| **other == *zone),
                }
        });
        if preferred.is_empty() {
            self.addresses(|state, _| state.draining)
        } else {
            preferred
        }
    }

    /// Those for clients that must stay on this node.
    fn local(&self) -> Vec<SocketAddress> {
        let ready = self.addresses(|state, _| state.local && state.ready);
        if ready.is_empty() {
            self.addresses(|state, _| state.local && state.draining)
        } else {
            ready
        }
    }

    /// Whether anybody in the cluster could answer.
    fn any_usable(&self) -> bool {
        self.0.values().any(|(state, _)| state.ready || state.draining)
    }

    fn addresses(&self, usable: impl Fn(&EndpointState, &[Box<str>]) -> bool) -> Vec<SocketAddress> {
        let usable = self.0.iter().filter(|(_, (state, zones))| usable(state, zones));
        usable.map(|(&address, _)| address).collect()
    }

    /// Hints count only if every ready endpoint has some and one of them is for this node: otherwise its clients would
    /// all be sent to few endpoints, or to none.
    fn topology<'a>(&self, zone: Option<&'a str>) -> Topology<'a> {
        let ready = || self.0.values().filter(|(state, _)| state.ready);
        let for_this_node = |(state, _): &(EndpointState, _)| state.for_this_node;
        if ready().all(|endpoint| for_this_node(endpoint).is_some())
            && ready().any(|endpoint| for_this_node(endpoint) == Some(true))
        {
            return Topology::SameNode;
        }
        match zone {
            Some(zone)
                if ready().all(|(_, zones)| !zones.is_empty())
                    && ready().any(|(_, zones)| zones.iter().any(|other| **other == *zone)) =>
            {
                Topology::SameZone(zone)
            }
            _ => Topology::Any,
        }
    }
}
