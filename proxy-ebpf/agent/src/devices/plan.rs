//! What each device of the node is to the packet path, and what the tables should say. Pure.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use hashbrown::HashMap;
use proxy_ebpf_common::{Address4, Address6, Device, DeviceFlags, LocalPod, Node as NodeKind};

use super::DeviceSettings;
use crate::{
    node::{DEVICE_PREFIX, Node, plan::Cidr},
    packets::Role,
};

/// A device as the kernel tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: Box<str>,
    /// What made it.
    pub kind: LinkKind,
    /// Its Ethernet address; `None`: it has none, and packets on it have no Ethernet header.
    pub mac: Option<[u8; 6]>,
    /// It is a port of another device.
    pub has_master: bool,
    /// What is sent by it waits in a queueing discipline that somebody has put there, which may limit it.
    pub is_limited: bool,
}

/// What made a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// A pair, of which the other end may be in a pod.
    Veth,
    /// A pair that runs programs by itself, of which the other end may be in a pod.
    Netkit,
    /// A tunnel with Ethernet headers.
    Tunnel,
    /// Anything else.
    Other,
}

/// A route as far as it says something of its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads to.
    pub network: Cidr,
    /// By which device.
    pub ifindex: u32,
    /// By somebody else.
    pub has_gateway: bool,
}

/// What the kernel says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// All devices.
    pub links: Vec<Link>,
    /// The node's addresses with the indices of their devices.
    pub addresses: Vec<(u32, IpAddr)>,
    /// Routes of the main table.
    pub routes: Vec<Route>,
    /// Permanent neighbours: device, address, Ethernet address.
    pub neighbours: Vec<(u32, IpAddr, [u8; 6])>,
}

/// What the tables hold and which devices have programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Devices with programs.
    pub roles: BTreeMap<u32, Role>,
    /// `DEVICES`.
    pub devices: BTreeMap<u32, Device>,
    /// `LOCAL_PODS`, both families.
    pub pods: BTreeMap<IpAddr, LocalPod>,
    /// `NODES`, both families.
    pub networks: BTreeMap<Cidr, NodeKind>,
}

/// What there should be.
pub fn state(settings: &DeviceSettings, nodes: &HashMap<String, Node>, observed: &Observed) -> State {
    let mut state = State::default();
    let node = nodes.get(&settings.node_name);
    for link in observed
        .links
        .iter()
        .filter(|link| link.mac.is_some() && !link.has_master)
    {
        if let Some(role) = pod_role(link, observed) {
            state.roles.insert(link.ifindex, role);
        } else if is_uplink(link, node, observed) {
            state.roles.insert(link.ifindex, Role::Uplink);
            let device = device(link, node, observed, settings.masquerade);
            state.devices.insert(link.ifindex, device);
        }
    }
    let pods = observed
        .neighbours
        .iter()
        .filter_map(|&(ifindex, address, pod_mac)| {
            let link = observed.links.iter().find(|link| link.ifindex == ifindex)?;
            let is_routed = host_routes(ifindex, observed).any(|route| route.network.address == address);
            let is_pod = matches!(state.roles.get(&ifindex), Some(Role::Pod | Role::Netkit));
            if !is_pod || !is_routed {
                return None;
            }
            let pod = LocalPod {
                ifindex,
                identity: if link.is_limited { LocalPod::BY_DEVICE } else { 0 },
                pod_mac,
                host_mac: link.mac?,
            };
            Some((address, pod))
        });
    state.pods = pods.collect();
    // Without them nothing is masqueraded.
    if settings.masquerade {
        for (name, node) in nodes {
            let kind = if *name == settings.node_name {
                NodeKind::LOCAL
            } else {
                NodeKind::REMOTE
            };
            state
                .networks
                .extend(node.pod_cidrs.iter().map(|&network| (network, kind)));
        }
    }
    state
}

/// That of the node's end of a pod's pair: the pod is reached by a route of its own.
fn pod_role(link: &Link, observed: &Observed) -> Option<Role> {
    let role = match link.kind {
        LinkKind::Veth => Role::Pod,
        // In mode L3 it has the Ethernet address of nobody, and carries no Ethernet headers that programs could go by.
        LinkKind::Netkit if link.mac != Some([0; 6]) => Role::Netkit,
        _ => return None,
    };
    let is_pod = link.name.starts_with(DEVICE_PREFIX) || host_routes(link.ifindex, observed).next().is_some();
    is_pod.then_some(role)
}

/// A device by which this node is known, or by which it reaches what it is not on itself.
fn is_uplink(link: &Link, node: Option<&Node>, observed: &Observed) -> bool {
    let is_the_nodes = |address: &IpAddr| {
        node.is_some_and(|node| node.internal_ips.contains(address) || node.external_ips.contains(address))
    };
    link.kind == LinkKind::Tunnel
        || addresses(link.ifindex, observed).any(|address| is_the_nodes(&address))
        || observed
            .routes
            .iter()
            .any(|route| route.ifindex == link.ifindex && (route.has_gateway || route.network.prefix == 0))
}

/// The addresses that the node sends with by a device: one that the Node names, else any of the device's, else the Node's
/// first.
fn device(link: &Link, node: Option<&Node>, observed: &Observed, masquerade: bool) -> Device {
    let internal = || {
        node.into_iter()
            .flat_map(|node| node.internal_ips.iter().copied())
    };
    let pick = |ipv6: bool| {
        let on_device = || addresses(link.ifindex, observed).filter(move |address| address.is_ipv6() == ipv6);
        let named = on_device().find(|address| internal().any(|other| other == *address));
        named
            .or_else(|| on_device().next())
            .or_else(|| internal().find(|address| address.is_ipv6() == ipv6))
    };
    let mut flags = DeviceFlags::UPLINK;
    if masquerade && link.kind != LinkKind::Tunnel {
        flags = DeviceFlags(flags.0 | DeviceFlags::MASQUERADE.0);
    }
    Device {
        flags,
        address4: match pick(false) {
            Some(IpAddr::V4(address)) => Address4::from_octets(address.octets()),
            _ => Address4::from_octets(Ipv4Addr::UNSPECIFIED.octets()),
        },
        address6: match pick(true) {
            Some(IpAddr::V6(address)) => Address6::from_octets(address.octets()),
            _ => Address6::from_octets(Ipv6Addr::UNSPECIFIED.octets()),
        },
    }
}

fn addresses(ifindex: u32, observed: &Observed) -> impl Iterator<Item = IpAddr> {
    let addresses = observed
        .addresses
        .iter()
        .filter(move |(index, _)| *index == ifindex);
    addresses.map(|(_, address)| *address)
}

/// Routes to single addresses that are straight behind a device.
fn host_routes(ifindex: u32, observed: &Observed) -> impl Iterator<Item = &Route> {
    observed.routes.iter().filter(move |route| {
        let whole = if route.network.address.is_ipv6() { 128 } else { 32 };
        route.ifindex == ifindex && !route.has_gateway && route.network.prefix == whole
    })
}
