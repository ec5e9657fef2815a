//! What the network of a node should look like, and how to get there from what the kernel has. Pure.
//!
//! Pods of another node are reached in one of two ways, per address family:
//!
//! ```text
//!   direct   10.244.1.0/24 via 172.31.0.12 dev eth0                         the nodes are on one network
//!   tunnel   10.244.2.0/24 via 10.244.2.0 dev orlop-vxlan onlink src 10.244.0.1
//!            10.244.2.0 lladdr <MAC of node3> dev orlop-vxlan               a permanent neighbour
//!            <MAC of node3> dst 172.32.0.13 dev orlop-vxlan                 a forwarding entry
//! ```
//!
//! The MAC address of a node's tunnel follows from the node's name, and the next hop from its pod CIDR: every node knows them
//! of every other without anything being published, and nothing is ever resolved or learnt on the tunnel.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv6Addr},
    path::Path,
};

use hashbrown::HashMap;
use serde_json::json;
use sha2::{Digest as _, Sha256};

pub use super::cidr::{Cidr, InvalidCidr};
use super::{Node, Routing, RoutingMode};

/// What Ethernet carries; used when the node's own address is on no interface.
const DEFAULT_MTU: u32 = 1500;
/// The least that a link must carry for IPv6 (RFC 8200).
const IPV6_MTU_MIN: u32 = 1280;
/// The inner Ethernet header, VXLAN, UDP, and the outer IP header of each family.
const VXLAN_OVERHEAD: [u32; 2] = [14 + 8 + 8 + 20, 14 + 8 + 8 + 40];

/// A network that an interface of this node is directly on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnLink {
    /// The network.
    pub network: Cidr,
    /// This node's address in it.
    pub address: IpAddr,
    /// The interface.
    pub ifindex: u32,
    /// The interface's name.
    pub interface: Box<str>,
    /// Largest packet that the interface sends, in bytes.
    pub mtu: u32,
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

/// The VXLAN device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// This node's address, from which its packets are sent.
    pub local: IpAddr,
    /// Its own address inside the tunnel.
    pub mac: Mac,
    /// Largest packet that it takes, in bytes.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
}

/// By which interface a route leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Device {
    /// One that this node had before.
    Link(u32),
    /// The tunnel.
    Tunnel,
}

/// A route to the pods of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The pods.
    pub destination: Cidr,
    /// The node, or its end of the tunnel.
    pub gateway: IpAddr,
    /// The interface.
    pub device: Device,
    /// The address that this node's own packets carry, where it matters.
    pub source: Option<IpAddr>,
}

/// All that is kept in the kernel for other nodes: what should be there, or what of ours is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The tunnel, if any.
    pub tunnel: Option<Tunnel>,
    /// Addresses on the tunnel.
    pub addresses: BTreeSet<IpAddr>,
    /// To which node a frame for this address is sent.
    pub forwarding: BTreeMap<Mac, IpAddr>,
    /// Next hops on the tunnel.
    pub neighbours: BTreeMap<IpAddr, Mac>,
    /// Routes.
    pub routes: BTreeSet<Route>,
}

/// One change to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each says what it does by its name")]
pub enum Change {
    RemoveTunnel,
    CreateTunnel(Tunnel),
    /// MAC address, MTU and state.
    SetTunnel(Tunnel),
    AddAddress(IpAddr),
    RemoveAddress(IpAddr),
    SetForwarding(Mac, IpAddr),
    RemoveForwarding(Mac, IpAddr),
    SetNeighbour(IpAddr, Mac),
    RemoveNeighbour(IpAddr, Mac),
    /// Fails if there is a route to the destination already: it is somebody else's.
    AddRoute(Route),
    /// In place of one of ours to the same destination.
    ReplaceRoute(Route),
    RemoveRoute(Route),
}

impl Mac {
    /// The address of a node's end of the tunnel: unicast, locally administered, the same wherever it is asked for.
    pub fn of_node(name: &str) -> Self {
        let digest = Sha256::new()
            .chain_update("orlop-vxlan/")
            .chain_update(name)
            .finalize();
        Self([
            (digest[0] & 0xfc) | 0x02,
            digest[1],
            digest[2],
            digest[3],
            digest[4],
            digest[5],
        ])
    }

    /// The IPv6 link-local address that belongs to it (RFC 4291, appendix A).
    fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0.map(u16::from);
        Ipv6Addr::new(
            0xfe80,
            0,
            0,
            0,
            (a ^ 0x02) << 8 | b,
            c << 8 | 0xff,
            0xfe00 | d,
            e << 8 | f,
        )
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} via {}", self.destination, self.gateway)?;
        match self.device {
            Device::Link(_) => Ok(()),
            Device::Tunnel => f.write_str(" by VXLAN"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemoveTunnel => f.write_str("remove the tunnel"),
            Self::CreateTunnel(tunnel) => write!(f, "make a tunnel from {}", tunnel.local),
            Self::SetTunnel(_) => f.write_str("set up the tunnel"),
            Self::AddAddress(address) => write!(f, "add address {address} to the tunnel"),
            Self::RemoveAddress(address) => write!(f, "remove address {address} from the tunnel"),
            Self::SetForwarding(mac, remote) => write!(f, "send frames for {mac} to {remote}"),
            Self::RemoveForwarding(mac, remote) => write!(f, "no longer send frames for {mac} to {remote}"),
            Self::SetNeighbour(address, mac) => write!(f, "neighbour {address} is at {mac}"),
            Self::RemoveNeighbour(address, _) => write!(f, "remove neighbour {address}"),
            Self::AddRoute(route) => write!(f, "add route to {route}"),
            Self::ReplaceRoute(route) => write!(f, "change route to {route}"),
            Self::RemoveRoute(route) => write!(f, "remove route to {route}"),
        }
    }
}

/// The interfaces that have an address of the Node: what other nodes reach it by.
pub fn uplinks<'a>(node: &Node, links: &'a [OnLink]) -> Vec<&'a OnLink> {
    let own = |link: &&OnLink| node.internal_ips.contains(&link.address);
    links.iter().filter(own).collect()
}

/// What should be in the kernel of the node called `own_name`.
pub fn wanted(own_name: &str, nodes: &HashMap<String, Node>, links: &[OnLink], routing: Routing) -> State {
    let Some(own) = nodes.get(own_name) else {
        return State::default();
    };
    let underlay = own.internal_ips.iter().copied();
    // Both families can carry the tunnel; all nodes have to choose the same one.
    let local = underlay.clone().find(IpAddr::is_ipv4).or(underlay.clone().next());
    let mut state = State::default();
    // In the order of names, so that of two Nodes that claim the same pods all others believe the same one.
    let others: BTreeMap<_, _> = nodes.iter().filter(|(name, _)| *name != own_name).collect();
    let mut taken: Vec<Cidr> = own.pod_cidrs.clone();
    for (name, node) in others {
        for &destination in &node.pod_cidrs {
            if taken.iter().any(|other| other.overlaps(destination)) {
                continue;
            }
            let route = match routing.mode {
                RoutingMode::Vxlan => None,
                _ => direct(node, destination, links),
            };
            let tunnelled = || match (routing.mode, local) {
                (RoutingMode::Direct, _) | (_, None) => None,
                (_, Some(local)) => {
                    let remote = *node
                        .internal_ips
                        .iter()
                        .find(|ip| ip.is_ipv6() == local.is_ipv6())?;
                    Some(state.tunnel_to(own, name, destination, remote))
                }
            };
            if let Some(route) = route.or_else(tunnelled) {
                taken.push(destination);
                state.routes.insert(route);
            }
        }
    }
    if !state.forwarding.is_empty()
        && let Some(local) = local
    {
        state.tunnel = Some(Tunnel {
            vni: routing.vni,
            port: routing.port,
            local,
            mac: Mac::of_node(own_name),
            mtu: tunnel_mtu(own, links, local),
            up: true,
        });
        // What the node itself sends to pods carries an address that they answer through the tunnel: the node's other
        // addresses they would answer past it, with a pod's address as the source, which a router may not let through.
        state.addresses = own
            .pod_cidrs
            .iter()
            .filter_map(|cidr| cidr.first_host())
            .collect();
    }
    state
}

impl State {
    /// Enters a node that is reached by the tunnel, and returns the route.
    fn tunnel_to(&mut self, own: &Node, name: &str, destination: Cidr, remote: IpAddr) -> Route {
        let mac = Mac::of_node(name);
        // A link-local next hop is accepted for IPv6 whatever other routes say.
        let gateway = match destination.address {
            IpAddr::V4(_) => destination.address,
            IpAddr::V6(_) => mac.link_local().into(),
        };
        self.forwarding.insert(mac, remote);
        self.neighbours.insert(gateway, mac);
        let same_family = |cidr: &&Cidr| cidr.address.is_ipv6() == destination.address.is_ipv6();
        Route {
            destination,
            gateway,
            device: Device::Tunnel,
            source: own
                .pod_cidrs
                .iter()
                .find(same_family)
                .and_then(|cidr| cidr.first_host()),
        }
    }
}

/// The route to pods of a node that is on a network with this one.
fn direct(node: &Node, destination: Cidr, links: &[OnLink]) -> Option<Route> {
    let of_family = |ip: &&IpAddr| ip.is_ipv6() == destination.address.is_ipv6();
    node.internal_ips.iter().filter(of_family).find_map(|&gateway| {
        let on_link = links.iter().filter(|link| link.network.contains(gateway));
        // As the kernel would choose. An address that is this node's own leads nowhere.
        let link = on_link.max_by_key(|link| link.network.prefix)?;
        (link.address != gateway).then_some(Route {
            destination,
            gateway,
            device: Device::Link(link.ifindex),
            source: None,
        })
    })
}

/// The order in which changes are made: the tunnel before what is on it, the way to a next hop before the routes by it, and
/// removal the other way round. What replaces something comes before what is removed, so that no packet is without a route.
pub fn changes(wanted: &State, observed: &State) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut observed = observed.clone();
    match (wanted.tunnel, observed.tunnel) {
        (Some(tunnel), None) => changes.push(Change::CreateTunnel(tunnel)),
        (Some(new), Some(old)) if (new.vni, new.port, new.local) != (old.vni, old.port, old.local) => {
            // These cannot be changed, and everything on the device goes with it.
            changes.extend([Change::RemoveTunnel, Change::CreateTunnel(new)]);
            observed.routes.retain(|route| route.device != Device::Tunnel);
            observed = State {
                routes: observed.routes,
                ..State::default()
            };
        }
        (Some(new), Some(old)) if new != old => changes.push(Change::SetTunnel(new)),
        _ => {}
    }
    let new_addresses = wanted.addresses.difference(&observed.addresses);
    changes.extend(new_addresses.map(|&address| Change::AddAddress(address)));
    let new = |(mac, remote): &(&Mac, &IpAddr)| observed.forwarding.get(mac) != Some(*remote);
    let forwarding = wanted.forwarding.iter().filter(new);
    changes.extend(forwarding.map(|(&mac, &remote)| Change::SetForwarding(mac, remote)));
    let new = |(address, mac): &(&IpAddr, &Mac)| observed.neighbours.get(address) != Some(*mac);
    let neighbours = wanted.neighbours.iter().filter(new);
    changes.extend(neighbours.map(|(&address, &mac)| Change::SetNeighbour(address, mac)));

    let leads_to = |routes: &BTreeSet<Route>, destination| {
        let mut routes = routes.iter();
        routes.any(|route| route.destination == destination)
    };
    for &route in wanted.routes.difference(&observed.routes) {
        changes.push(match leads_to(&observed.routes, route.destination) {
            true => Change::ReplaceRoute(route),
            false => Change::AddRoute(route),
        });
    }
    for &route in observed.routes.difference(&wanted.routes) {
        if !leads_to(&wanted.routes, route.destination) {
            changes.push(Change::RemoveRoute(route));
        }
    }
    if wanted.tunnel.is_none() {
        if observed.tunnel.is_some() {
            changes.push(Change::RemoveTunnel);
        }
        return changes;
    }
    for (&address, &mac) in &observed.neighbours {
        if !wanted.neighbours.contains_key(&address) {
            changes.push(Change::RemoveNeighbour(address, mac));
        }
    }
    for (&mac, &remote) in &observed.forwarding {
        if !wanted.forwarding.contains_key(&mac) {
            changes.push(Change::RemoveForwarding(mac, remote));
        }
    }
    let old_addresses = observed.addresses.difference(&wanted.addresses);
    changes.extend(old_addresses.map(|&address| Change::RemoveAddress(address)));
    changes
}

/// Largest packet that fits through the node's own interfaces, in bytes.
fn uplink_mtu(own: &Node, links: &[OnLink]) -> u32 {
    let mtus = uplinks(own, links).into_iter().map(|link| link.mtu);
    mtus.min().unwrap_or(DEFAULT_MTU)
}

/// Largest packet that fits into the tunnel.
fn tunnel_mtu(own: &Node, links: &[OnLink], local: IpAddr) -> u32 {
    let overhead = VXLAN_OVERHEAD[usize::from(local.is_ipv6())];
    let mtu = uplink_mtu(own, links).saturating_sub(overhead);
    // Below this IPv6 does not work at all; then rather let the outer packets be fragmented.
    match own.pod_cidrs.iter().any(|cidr| cidr.address.is_ipv6()) {
        true => mtu.max(IPV6_MTU_MIN),
        false => mtu,
    }
}

/// What the pairs of devices are that join pods to this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum PodDevices {
    /// Those that every kernel has.
    Veth,
    /// Those that run programs as the pod sends: Linux 6.10 or newer with CONFIG_NETKIT.
    Netkit,
    /// Netkit where the kernel has it, else veth.
    #[default]
    Auto,
}

impl PodDevices {
    /// What the plugin is asked for. Whether it can make netkit devices it finds out itself; this agent has to have programs for
    /// them too (`runs_on_netkit`), or pods would have no Services by packets.
    pub fn for_agent(self, runs_on_netkit: bool) -> Self {
        match self {
            Self::Auto if !runs_on_netkit => Self::Veth,
            chosen => chosen,
        }
    }

    /// As the plugin's field `device` has it.
    fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Netkit => "netkit",
            Self::Auto => "auto",
        }
    }
}

/// The configuration of `orlop-cni` on this node. Pods get an MTU with which their packets reach every node unchanged.
pub fn conflist(
    node: &Node,
    links: &[OnLink],
    tunnel: Option<Tunnel>,
    data_dir: &Path,
    devices: PodDevices,
) -> String {
    let ranges: Vec<_> = node.pod_cidrs.iter().map(Cidr::to_string).collect();
    let mtu = tunnel.map_or_else(|| uplink_mtu(node, links), |tunnel| tunnel.mtu);
    let conflist = json!({
        "cniVersion": "1.0.0",
        "name": "orlop",
        "plugins": [{
            "type": "orlop-cni",
            "dataDir": data_dir,
            "mtu": mtu,
            "ranges": ranges,
            "device": devices.name(),
            // This agent opens the host ports of the node's pods itself.
            "hostPorts": "proxy-ebpf",
            "capabilities": { "portMappings": true, "bandwidth": true, "ips": true, "mac": true },
        }],
    });
    format!("{conflist:#}\n")
}
