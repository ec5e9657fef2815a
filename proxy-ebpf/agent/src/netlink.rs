//! Netlink: a socket to ask and to change by, and what the kernel reports of its own accord.

use std::{fmt, io};

use futures::{StreamExt as _, channel::mpsc::UnboundedReceiver};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::{
    Handle, MulticastGroup, new_multicast_connection,
    packet_core::{NetlinkMessage, NetlinkPayload},
    sys::SocketAddr,
};
use tokio::task::JoinHandle;

/// A door to the network namespace of whoever has opened it.
pub struct Netlink {
    /// To ask and to change by.
    pub handle: Handle,
    events: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    connection: JoinHandle<()>,
}

impl fmt::Debug for Netlink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Netlink").finish_non_exhaustive()
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Netlink {
    /// Opens the namespace of the calling thread, whose devices, addresses and routes are reported.
    pub fn open() -> io::Result<Self> {
        let (connection, handle, events) = new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ])?;
        Ok(Self {
            handle,
            events,
            connection: tokio::spawn(connection),
        })
    }

    /// The next report. `None`: nothing will be heard any more.
    pub async fn event(&mut self) -> Option<NetlinkPayload<RouteNetlinkMessage>> {
        let (message, _) = self.events.next().await?;
        Some(message.payload)
    }
}
