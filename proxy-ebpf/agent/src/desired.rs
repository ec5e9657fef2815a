//! What the API asks for: Services and EndpointSlices, reduced to what the data plane needs, and the service ports that
//! follow from them. Pure.
//!
//! Behaviour follows kube-proxy: `pkg/proxy/{serviceport,endpoint,endpointslicecache,topology}.go`.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use proxy_ebpf_common::{Protocol, Scope};

use crate::node::plan::Cidr;

/// Somebody else's proxy handles objects with this label, whatever its value.
const SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Slices of headless Services carry this label.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// The Service that a slice belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Upstream's default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const DEFAULT_AFFINITY_TIMEOUT_S: u32 = 10_800;

/// The label selector of objects that concern this proxy; what it leaves out never reaches the node.
pub const LABEL_SELECTOR: &str = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";

/// Namespace and name of an object.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName(Arc<str>);

/// A Service. There are many of them, and few have more than cluster IPs and ports.
#[derive(Debug, PartialEq, Eq)]
pub struct Service {
    cluster_ips: Box<[IpAddr]>,
    ports: Box<[PortOfService]>,
    external: Option<Box<External>>,
    affinity_timeout_s: u32,
    internal_traffic_local: bool,
    external_traffic_local: bool,
    health_check_node_port: Option<u16>,
}

/// What a Service has for clients outside the cluster, beside node ports.
#[derive(Debug, Default, PartialEq, Eq)]
struct External {
    /// Other addresses at which the Service's own ports are reached: externalIPs, and those that its load balancer gave it.
    ips: Vec<IpAddr>,
    /// Those of them that the load balancer gave it: only these have source ranges.
    load_balancer_ips: BTreeSet<IpAddr>,
    /// The networks of clients that those admit; `None`: they admit everybody.
    source_ranges: [Option<BTreeSet<Cidr>>; 2],
}

#[derive(Debug, PartialEq, Eq)]
struct PortOfService {
    port: Port,
    node_port: Option<u16>,
}

/// A named port of a Service or a slice.
#[derive(Debug, PartialEq, Eq)]
struct Port {
    name: Box<str>,
    protocol: Protocol,
    port: u16,
}

/// An EndpointSlice.
#[derive(Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    service: ObjectName,
    ports: Box<[Port]>,
    endpoints: Box<[Endpoint]>,
    /// Number of endpoints that no traffic may be sent to.
    ignored: u32,
}

#[derive(Debug, PartialEq, Eq)]
struct Endpoint {
    address: IpAddr,
    state: EndpointState,
    /// Zones whose nodes should prefer it. In a box of its own: endpoints are most of what is kept, and few have any.
    #[expect(
        clippy::box_collection,
        reason = "one word where there is none, instead of three"
    )]
    zones: Option<Box<Vec<Box<str>>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct EndpointState {
    ready: bool,
    /// Serving although terminating: used when nothing is ready.
    draining: bool,
    /// On this node.
    local: bool,
    /// Whether this node should prefer it; `None`: it is not said which nodes should.
    for_this_node: Option<bool>,
}

/// Where a Service is reached, or a backend is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketAddress {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// Where some clients reach a Service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrontendAddress {
    /// The address. The unspecified one stands for the addresses of nodes, port 0 of [`Protocol::ANY`] for all other ports.
    pub socket: SocketAddress,
    /// Whose traffic it is for.
    pub scope: Scope,
}

/// One port of a Service in one address family, and for one kind of clients where their policies differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePort {
    /// Where it is reached.
    pub frontends: Vec<FrontendAddress>,
    /// Those of them that are no cluster IPs, and so may be addresses of this node.
    pub external: Vec<FrontendAddress>,
    /// Who answers; sorted, each once.
    pub backends: Vec<SocketAddress>,
    /// How long a client stays with its backend. Zero: no affinity.
    pub affinity_timeout_s: u32,
    /// Only backends of this node may be used and it has none, but other nodes have.
    pub elsewhere: bool,
    /// Those of the frontends that admit only clients of `source_ranges`.
    pub restricted: Vec<FrontendAddress>,
    /// Networks of clients.
    pub source_ranges: BTreeSet<Cidr>,
    /// Whether this node is among those clients.
    pub admits_node: bool,
}

/// What a node is to the Services that it proxies for.
#[derive(Clone, Copy, Debug)]
pub struct ThisNode<'a> {
    /// Its zone.
    pub zone: Option<&'a str>,
    /// Its addresses.
    pub addresses: &'a BTreeSet<IpAddr>,
}

/// Where a load balancer asks whether this node has endpoints of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The port.
    pub port: u16,
    /// Number of ready endpoints on this node. Terminating ones do not count: they should get no new clients.
    pub local_endpoints: usize,
}

impl ServicePort {
    /// The frontends that are cluster IPs.
    pub fn cluster_ips(&self) -> impl Iterator<Item = &FrontendAddress> {
        self.frontends
            .iter()
            .filter(|address| !self.external.contains(address))
    }
}

impl ObjectName {
    /// The namespace.
    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The name in the namespace.
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or(&*self.0, |(_, name)| name)
    }

    /// The name of an object in a namespace.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self(format!("{namespace}/{name}").into())
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            address,
            port,
            protocol,
        } = self;
        match address {
            IpAddr::V4(address) => write!(f, "{address}:{port}")?,
            IpAddr::V6(address) => write!(f, "[{address}]:{port}")?,
        }
        match *protocol {
            Protocol::ANY => f.write_str("/*"),
            Protocol::TCP => f.write_str("/TCP"),
            Protocol::UDP => f.write_str("/UDP"),
            Protocol::SCTP => f.write_str("/SCTP"),
            Protocol(number) => write!(f, "/{number}"),
        }
    }
}

impl fmt::Debug for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<SocketAddress> for FrontendAddress {
    /// Where everybody reaches it.
    fn from(socket: SocketAddress) -> Self {
        let scope = Scope::INTERNAL;
        Self { socket, scope }
    }
}

impl fmt::Display for FrontendAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.socket, f)?;
        match self.scope {
            Scope::EXTERNAL => f.write_str(" from outside"),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for FrontendAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

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
