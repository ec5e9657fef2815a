//! What the kernel says of its devices, by netlink.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::{FutureExt as _, TryStreamExt as _};
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressMessage},
    link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage},
};
use rtnetlink::RouteMessageBuilder;

use super::{
    DevicesError,
    plan::{Link, LinkKind, Observed, Route},
};
use crate::{netlink::Netlink, node::plan::Cidr};

/// The kernel, and what of it is read.
#[derive(Debug)]
pub(super) struct Kernel(Netlink);

impl Kernel {
    /// That of the calling thread's namespace.
    pub(super) fn open() -> Result<Self, DevicesError> {
        Netlink::open().map(Self).map_err(DevicesError::Open)
    }

    /// Waits until something has changed, and takes in what else has by then.
    pub(super) async fn disturbed(&mut self) {
        if self.0.event().await.is_none() {
            // The connection never ends while this lives; if it did, there would be nothing to wait for.
            return std::future::pending().await;
        }
        while self.0.event().now_or_never().flatten().is_some() {}
    }

    /// Everything that the plan depends on.
    pub(super) async fn observe(&self) -> Result<Observed, DevicesError> {
        let links = list("devices", self.0.handle.link().get().execute()).await?;
        let addresses = list("addresses", self.0.handle.address().get().execute()).await?;
        let mut routes = Vec::new();
        let mut neighbours = Vec::new();
        let families = [
            (
                AddressFamily::Inet,
                RouteMessageBuilder::<Ipv4Addr>::new().build(),
            ),
            (
                AddressFamily::Inet6,
                RouteMessageBuilder::<Ipv6Addr>::new().build(),
            ),
        ];
        for (family, request) in families {
            let listed = list("routes", self.0.handle.route().get(request).execute()).await?;
            routes.extend(listed.iter().filter_map(route));
            let request = self.0.handle.neighbours().get().set_address_family(family);
            let listed = list("neighbours", request.execute()).await?;
            neighbours.extend(listed.iter().filter_map(neighbour));
        }
        Ok(Observed {
            links: links.iter().map(link).collect(),
            addresses: addresses.iter().filter_map(address).collect(),
            routes,
            neighbours,
        })
    }
}

async fn list<T>(
    what: &'static str,
    stream: impl futures::Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, DevicesError> {
    let failed = |source| DevicesError::List { what, source };
    stream.try_collect().await.map_err(failed)
}

fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        ifindex: message.header.index,
        name: Box::default(),
        kind: LinkKind::Other,
        mac: None,
        has_master: false,
        is_limited: false,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name.as_str().into(),
            LinkAttribute::Address(bytes) if message.header.link_layer_type == LinkLayerType::Ether => {
                link.mac = bytes.as_slice().try_into().ok();
            }
            // A pair of devices has no queue of its own.
            LinkAttribute::Qdisc(name) => link.is_limited = !matches!(name.as_str(), "noqueue" | "noop"),
            LinkAttribute::Controller(index) => link.has_master = *index != 0,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(InfoKind::Veth) => link.kind = LinkKind::Veth,
                        LinkInfo::Kind(InfoKind::Netkit) => link.kind = LinkKind::Netkit,
                        LinkInfo::Kind(InfoKind::Vxlan | InfoKind::GreTap) => link.kind = LinkKind::Tunnel,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    link
}

/// Addresses that others may send to.
fn address(message: &AddressMessage) -> Option<(u32, IpAddr)> {
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            // Of a point-to-point device the other attribute is the peer's.
            AddressAttribute::Local(address) => found = Some(*address),
            AddressAttribute::Address(address) => found = found.or(Some(*address)),
            _ => {}
        }
    }
    let address = found.filter(|address| match address {
        IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
    })?;
    Some((message.header.index, address))
}

fn route(message: &RouteMessage) -> Option<Route> {
    let mut table = u32::from(message.header.table);
    let mut ifindex = None;
    let mut destination = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let mut has_gateway = false;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = (*address).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => destination = (*address).into(),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => has_gateway = true,
            // Several ways: each of them leads by somebody else.
            RouteAttribute::MultiPath(hops) => {
                ifindex = hops.first().map(|hop| hop.interface_index);
                has_gateway = true;
            }
            _ => {}
        }
    }
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) {
        return None;
    }
    Some(Route {
        network: Cidr::of(destination, message.header.destination_prefix_length)?,
        ifindex: ifindex?,
        has_gateway,
    })
}

fn neighbour(message: &NeighbourMessage) -> Option<(u32, IpAddr, [u8; 6])> {
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(IpAddr::V4(*ip)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => address = Some(IpAddr::V6(*ip)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    Some((message.header.ifindex, address?, mac?))
}
