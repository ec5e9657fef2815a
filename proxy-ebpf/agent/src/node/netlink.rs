//! The door to the kernel's interfaces, routes and neighbours.
//!
//! What is ours is told by the kernel itself: routes carry a protocol number, everything else hangs on a device of our name.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures::TryStreamExt as _;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
    link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol},
};
use rtnetlink::{LinkUnspec, LinkVxlan, RouteMessageBuilder, packet_core::NetlinkPayload};

use super::{
    DEVICE_PREFIX, NetworkError,
    plan::{Change, Cidr, Device, Mac, OnLink, Route, State, Tunnel},
    sysctl,
};
use crate::netlink::Netlink;

/// Marks routes as ours, so that a restarted agent finds them and no other's. Numbers up to 99 are known routing daemons'.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(114);
/// The tunnel's name.
const TUNNEL: &str = "orlop-vxlan";

/// What is there, and the index of the tunnel.
pub(super) struct Observed {
    pub(super) links: Vec<OnLink>,
    pub(super) state: State,
}

/// The kernel, and what of it is read and changed.
#[derive(Debug)]
pub(super) struct Kernel(Netlink);

impl Kernel {
    /// That of the calling thread's namespace.
    pub(super) fn open() -> Result<Self, NetworkError> {
        Ok(Self(Netlink::open()?))
    }

    /// Waits until something has changed that the plan depends on, or that is ours. False: nothing will be heard any more.
    pub(super) async fn disturbed(&mut self) -> bool {
        while let Some(payload) = self.0.event().await {
            match payload {
                NetlinkPayload::InnerMessage(message) if concerns(&message) => return true,
                // Events were lost.
                NetlinkPayload::Overrun(_) | NetlinkPayload::Error(_) => return true,
                _ => {}
            }
        }
        false
    }

    /// Everything that the plan is compared with.
    pub(super) async fn observe(&self) -> Result<Observed, NetworkError> {
        let links: Vec<LinkMessage> = listed("interfaces", self.0.handle.link().get().execute()).await?;
        let addresses: Vec<AddressMessage> =
            listed("addresses", self.0.handle.address().get().execute()).await?;
        let mut state = State::default();
        let tunnel = links.iter().find(|link| name(link) == TUNNEL);
        let tunnel_index = tunnel.map(|link| link.header.index);
        if let Some(link) = tunnel {
            state.tunnel = Some(parse_tunnel(link).ok_or(NetworkError::NotATunnel { name: TUNNEL })?);
            self.observe_tunnel(link.header.index, &mut state).await?;
        }
        let mut on_links = Vec::new();
        for message in &addresses {
            let Some(address) = local_address(message) else {
                continue;
            };
            if Some(message.header.index) == tunnel_index {
                if !is_link_local(address) {
                    state.addresses.insert(address);
                }
                continue;
            }
            let link = links
                .iter()
                .find(|link| link.header.index == message.header.index);
            if let (Some(link), Some(network)) = (link, Cidr::of(address, message.header.prefix_len)) {
                on_links.push(OnLink {
                    network,
                    address,
                    ifindex: link.header.index,
                    interface: name(link).into(),
                    mtu: mtu(link),
                });
            }
        }
        state.routes = self.routes(tunnel_index).await?;
        Ok(Observed {
            links: on_links,
            state,
        })
    }

    /// The routes that an agent has made.
    async fn routes(&self, tunnel: Option<u32>) -> Result<BTreeSet<Route>, NetworkError> {
        let mut routes = BTreeSet::new();
        let families = [
            RouteMessageBuilder::<Ipv4Addr>::new().build(),
            RouteMessageBuilder::<Ipv6Addr>::new().build(),
        ];
        for family in families {
            let messages: Vec<_> = listed("routes", self.0.handle.route().get(family).execute()).await?;
            let ours = messages
                .iter()
                .filter(|message| message.header.protocol == PROTOCOL);
            routes.extend(ours.filter_map(|message| parse_route(message, tunnel)));
        }
        Ok(routes)
    }

    /// The next hops and forwarding entries on the tunnel.
    async fn observe_tunnel(&self, index: u32, state: &mut State) -> Result<(), NetworkError> {
        for family in [AddressFamily::Inet, AddressFamily::Inet6, AddressFamily::Bridge] {
            let request = self.0.handle.neighbours().get().set_address_family(family);
            let messages: Vec<NeighbourMessage> = listed("neighbours", request.execute()).await?;
            let ours = messages.iter().filter(|message| {
                message.header.ifindex == index && message.header.state == NeighbourState::Permanent
            });
            for message in ours {
                let Some((address, mac)) = parse_neighbour(message) else {
                    continue;
                };
                match family {
                    AddressFamily::Bridge => drop(state.forwarding.insert(mac, address)),
                    _ => drop(state.neighbours.insert(address, mac)),
                }
            }
        }
        Ok(())
    }

    /// Makes the changes in order. One that the kernel refuses keeps none of the others from being made: a node that cannot
    /// be reached is no reason to lose the rest.
    ///
    /// # Errors
    /// The first refusal.
    pub(super) async fn apply(&self, changes: &[Change]) -> Result<(), NetworkError> {
        let mut tunnel = self.tunnel_index().await?;
        let mut outcome = Ok(());
        for &change in changes {
            let made = self.make(change, &mut tunnel).await;
            match &made {
                Ok(()) => tracing::info!("pod network: {change}"),
                Err(error) => tracing::debug!("pod network: {change}: {error}"),
            }
            outcome = outcome.and(made.map_err(|source| NetworkError::Change {
                what: change.to_string(),
                source,
            }));
        }
        outcome
    }

    async fn make(&self, change: Change, tunnel: &mut Option<u32>) -> Result<(), ChangeError> {
        let on_tunnel = tunnel.ok_or(ChangeError::NoTunnel);
        match change {
            Change::RemoveTunnel => {
                self.0.handle.link().del(on_tunnel?).execute().await?;
                *tunnel = None;
            }
            Change::CreateTunnel(wanted) => {
                self.0.handle.link().add(new_tunnel(&wanted)).execute().await?;
                *tunnel = self.tunnel_index().await?;
                sysctl::set_up_tunnel(TUNNEL)?;
                self.set_tunnel(tunnel.ok_or(ChangeError::NoTunnel)?, &wanted)
                    .await?;
            }
            Change::SetTunnel(wanted) => self.set_tunnel(on_tunnel?, &wanted).await?,
            Change::AddAddress(address) => {
                let mut request = self
                    .0
                    .handle
                    .address()
                    .add(on_tunnel?, address, host_prefix(address));
                request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
                request.execute().await?;
            }
            Change::RemoveAddress(address) => {
                let mut message = AddressMessage::default();
                message.header.family = family(address);
                message.header.prefix_len = host_prefix(address);
                message.header.index = on_tunnel?;
                message.attributes = vec![
                    AddressAttribute::Local(address),
                    AddressAttribute::Address(address),
                ];
                self.0.handle.address().del(message).execute().await?;
            }
            Change::SetForwarding(mac, remote) => {
                let request = self.0.handle.neighbours().add_bridge(on_tunnel?, &mac.0);
                let request = request.flags(NeighbourFlags::Own).destination(remote).replace();
                request.execute().await?;
            }
            Change::RemoveForwarding(mac, remote) => {
                let mut request = self.0.handle.neighbours().add_bridge(on_tunnel?, &mac.0);
                request.message_mut().header.flags = NeighbourFlags::Own;
                let message = request.destination(remote).message_mut().clone();
                self.0.handle.neighbours().del(message).execute().await?;
            }
            Change::SetNeighbour(address, mac) => {
                let request = self.0.handle.neighbours().add(on_tunnel?, address);
                request.link_layer_address(&mac.0).replace().execute().await?;
            }
            Change::RemoveNeighbour(address, _) => {
                let message = self
                    .0
                    .handle
                    .neighbours()
                    .add(on_tunnel?, address)
                    .message_mut()
                    .clone();
                self.0.handle.neighbours().del(message).execute().await?;
            }
            Change::AddRoute(route) => {
                let message = route_message(&route, *tunnel)?;
                self.0.handle.route().add(message).execute().await?;
            }
            Change::ReplaceRoute(route) => {
                let message = route_message(&route, *tunnel)?;
                self.0.handle.route().add(message).replace().execute().await?;
            }
            Change::RemoveRoute(route) => {
                let message = route_message(&route, *tunnel)?;
                self.0.handle.route().del(message).execute().await?;
            }
        }
        Ok(())
    }

    async fn set_tunnel(&self, index: u32, tunnel: &Tunnel) -> Result<(), rtnetlink::Error> {
        let message = LinkUnspec::new_with_index(index)
            .address(tunnel.mac.0.to_vec())
            .mtu(tunnel.mtu)
            .up();
        self.0.handle.link().set(message.build()).execute().await
    }

    async fn tunnel_index(&self) -> Result<Option<u32>, NetworkError> {
        let links: Vec<LinkMessage> = listed("interfaces", self.0.handle.link().get().execute()).await?;
        let tunnel = links.iter().find(|link| name(link) == TUNNEL);
        Ok(tunnel.map(|link| link.header.index))
    }
}

/// Why one change could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("there is no tunnel")]
    NoTunnel,
    #[error("its addresses are of different families")]
    Families,
    #[error(transparent)]
    Network(#[from] Box<NetworkError>),
    #[error(transparent)]
    Netlink(#[from] rtnetlink::Error),
}

impl From<NetworkError> for ChangeError {
    fn from(error: NetworkError) -> Self {
        Self::Network(Box::new(error))
    }
}

/// Whether the plan could turn out differently after this.
fn concerns(message: &RouteNetlinkMessage) -> bool {
    match message {
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
            let name = name(link);
            // Those of pods come and go all day and change nothing here.
            name == TUNNEL || !name.starts_with(DEVICE_PREFIX)
        }
        RouteNetlinkMessage::NewAddress(message) | RouteNetlinkMessage::DelAddress(message) => {
            local_address(message).is_some_and(|address| !is_link_local(address))
        }
        RouteNetlinkMessage::DelRoute(route) => route.header.protocol == PROTOCOL,
        _ => false,
    }
}

async fn listed<T>(
    what: &'static str,
    stream: impl futures::Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, NetworkError> {
    let failed = |source| NetworkError::List { what, source };
    stream.try_collect().await.map_err(failed)
}

fn name(link: &LinkMessage) -> &str {
    let mut attributes = link.attributes.iter();
    let name = attributes.find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    });
    name.unwrap_or_default()
}

fn mtu(link: &LinkMessage) -> u32 {
    let mut attributes = link.attributes.iter();
    let mtu = attributes.find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    mtu.unwrap_or_default()
}

/// On a point-to-point link the attribute `Address` is the peer's; `Local` is ours wherever there is one.
fn local_address(message: &AddressMessage) -> Option<IpAddr> {
    let find = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) if local => Some(*address),
            AddressAttribute::Address(address) if !local => Some(*address),
            _ => None,
        })
    };
    find(true).or_else(|| find(false))
}

fn new_tunnel(tunnel: &Tunnel) -> LinkMessage {
    let builder = LinkVxlan::new(TUNNEL, tunnel.vni)
        .port(tunnel.port)
        .learning(false)
        .address(tunnel.mac.0.to_vec())
        .mtu(tunnel.mtu);
    let builder = match tunnel.local {
        IpAddr::V4(local) => builder.local(local),
        IpAddr::V6(local) => builder.local6(local),
    };
    builder.build()
}

/// `None`: an interface of another kind.
fn parse_tunnel(link: &LinkMessage) -> Option<Tunnel> {
    let (mut mac, mut infos) = (None, None);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(address) => mac = address.as_slice().try_into().ok().map(Mac),
            LinkAttribute::LinkInfo(info) if info.contains(&LinkInfo::Kind(InfoKind::Vxlan)) => {
                infos = info.iter().find_map(|info| match info {
                    LinkInfo::Data(InfoData::Vxlan(infos)) => Some(infos),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let (mut vni, mut port, mut local) = (0, 0, IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    for info in infos? {
        match info {
            InfoVxlan::Id(id) => vni = *id,
            InfoVxlan::Port(number) => port = *number,
            InfoVxlan::Local(address) => local = (*address).into(),
            InfoVxlan::Local6(address) => local = (*address).into(),
            _ => {}
        }
    }
    Some(Tunnel {
        vni,
        port,
        local,
        mac: mac?,
        mtu: mtu(link),
        up: link.header.flags.contains(LinkFlags::Up),
    })
}

fn route_message(route: &Route, tunnel: Option<u32>) -> Result<RouteMessage, ChangeError> {
    let index = match route.device {
        Device::Link(index) => index,
        Device::Tunnel => tunnel.ok_or(ChangeError::NoTunnel)?,
    };
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(route.destination.address, route.destination.prefix)
        .and_then(|builder| builder.gateway(route.gateway))
        .map_err(|_| ChangeError::Families)?
        .output_interface(index)
        .protocol(PROTOCOL);
    if let Some(source) = route.source {
        builder = builder.pref_source(source).map_err(|_| ChangeError::Families)?;
    }
    if route.device == Device::Tunnel {
        builder = builder.onlink();
    }
    Ok(builder.build())
}

fn parse_route(message: &RouteMessage, tunnel: Option<u32>) -> Option<Route> {
    let (mut destination, mut gateway, mut device, mut source) = (None, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                destination = Cidr::of(ip(address)?, message.header.destination_prefix_length)
            }
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Oif(index) if Some(*index) == tunnel => device = Some(Device::Tunnel),
            RouteAttribute::Oif(index) => device = Some(Device::Link(*index)),
            _ => {}
        }
    }
    Some(Route {
        destination: destination?,
        gateway: gateway?,
        device: device?,
        source,
    })
}

fn parse_neighbour(message: &NeighbourMessage) -> Option<(IpAddr, Mac)> {
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(IpAddr::from(*ip)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => address = Some(IpAddr::from(*ip)),
            // An entry of the family `bridge` has an address of a family that the parser cannot know.
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => address = ip_of(bytes),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok().map(Mac),
            _ => {}
        }
    }
    Some((address?, mac?))
}

fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn host_prefix(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
