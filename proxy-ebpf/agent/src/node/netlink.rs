//! Interfaces and routes of the kernel, by netlink.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures::TryStreamExt as _;
use netlink_packet_route::{
    address::AddressAttribute,
    link::LinkAttribute,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol},
};
use rtnetlink::RouteMessageBuilder;
use tokio::task::JoinHandle;

use super::{
    NetworkError,
    plan::{Cidr, OnLink, Route, RouteChanges},
};

/// Marks routes as ours, so that a restarted agent finds them and no other's. Numbers up to 99 are known routing daemons'.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(114);

/// A netlink socket.
pub(super) struct Routes {
    handle: rtnetlink::Handle,
    connection: JoinHandle<()>,
}

impl Routes {
    pub(super) fn open() -> Result<Self, NetworkError> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self {
            handle,
            connection: tokio::spawn(connection),
        })
    }

    /// Every address of this node with the network that it is on.
    pub(super) async fn links(&self) -> Result<Vec<OnLink>, NetworkError> {
        let failed = |source| NetworkError::Netlink {
            what: "interfaces".to_owned(),
            source,
        };
        let mut mtus = HashMap::new();
        let links: Vec<_> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(failed)?;
        for link in links {
            let mtu = link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Mtu(mtu) => Some(*mtu),
                _ => None,
            });
            mtus.insert(link.header.index, mtu.unwrap_or_default());
        }
        let addresses: Vec<_> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(failed)?;
        let on_link = addresses.iter().filter_map(|message| {
            // On a point-to-point link the attribute `Address` is the peer's; `Local` is ours wherever there is one.
            let find = |local: bool| {
                message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Local(address) if local => Some(*address),
                    AddressAttribute::Address(address) if !local => Some(*address),
                    _ => None,
                })
            };
            let address = find(true).or_else(|| find(false))?;
            let network = Cidr::of(address, message.header.prefix_len)?;
            let mtu = mtus.get(&message.header.index).copied()?;
            Some(OnLink {
                network,
                address,
                ifindex: message.header.index,
                mtu,
            })
        });
        Ok(on_link.collect())
    }

    /// The routes that an agent has made.
    pub(super) async fn ours(&self) -> Result<BTreeSet<Route>, NetworkError> {
        let mut routes = BTreeSet::new();
        let families = [
            RouteMessageBuilder::<Ipv4Addr>::new().build(),
            RouteMessageBuilder::<Ipv6Addr>::new().build(),
        ];
        for family in families {
            let listed: Vec<_> = self
                .handle
                .route()
                .get(family)
                .execute()
                .try_collect()
                .await
                .map_err(|source| NetworkError::Netlink {
                    what: "routes".to_owned(),
                    source,
                })?;
            routes.extend(
                listed
                    .iter()
                    .filter(|message| message.header.protocol == PROTOCOL)
                    .filter_map(parse),
            );
        }
        Ok(routes)
    }

    pub(super) async fn apply(&self, changes: &RouteChanges) -> Result<(), NetworkError> {
        for route in &changes.add {
            let Some(message) = message(route) else { continue };
            let added = self.handle.route().add(message).replace().execute().await;
            added.map_err(|source| failed("the route to", route, source))?;
            tracing::info!(destination = %route.destination, gateway = %route.gateway, "route to another node's pods");
        }
        for route in &changes.remove {
            let Some(message) = message(route) else { continue };
            let removed = self.handle.route().del(message).execute().await;
            removed.map_err(|source| failed("removing the route to", route, source))?;
            tracing::info!(destination = %route.destination, gateway = %route.gateway, "removed the route of a node");
        }
        Ok(())
    }
}

impl Drop for Routes {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn failed(what: &str, route: &Route, source: rtnetlink::Error) -> NetworkError {
    NetworkError::Netlink {
        what: format!("{what} {} via {}", route.destination, route.gateway),
        source,
    }
}

/// `None`: gateway and destination are of different families, which [`super::plan::routes`] never makes.
fn message(route: &Route) -> Option<RouteMessage> {
    let builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(route.destination.address, route.destination.prefix)
        .ok()?
        .gateway(route.gateway)
        .ok()?;
    Some(builder.output_interface(route.ifindex).protocol(PROTOCOL).build())
}

fn parse(message: &RouteMessage) -> Option<Route> {
    let (mut destination, mut gateway, mut ifindex) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                destination = Cidr::of(ip(address)?, message.header.destination_prefix_length)
            }
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            _ => {}
        }
    }
    Some(Route {
        destination: destination?,
        gateway: gateway?,
        ifindex: ifindex?,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}
