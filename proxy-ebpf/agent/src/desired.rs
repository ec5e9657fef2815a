//! What the API asks for: Services and EndpointSlices, reduced to what the data plane needs, and the service ports that
//! follow from them. Pure.
//!
//! Behaviour follows kube-proxy: `pkg/proxy/{serviceport,endpoint,endpointslicecache,topology}.go`.

mod api;
mod ports;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fmt, net::IpAddr, sync::Arc};

use proxy_ebpf_common::{Protocol, Scope};

pub(crate) use self::api::protocol;
pub use self::ports::{health_check, service_ports};
use crate::node::plan::Cidr;

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
