//! The door to rtnetlink: changes go out in one batch, answers come back in one go.
//!
//! Synchronous on purpose: a plugin process lives for a few milliseconds and does one thing after the other, so an event
//! loop would only add start-up time. The kernel works through all messages of one datagram in order and acknowledges
//! each; a whole attachment costs three round trips.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoNetkit, InfoVeth,
    LinkAttribute, LinkFlags, LinkInfo, LinkMessage, NetkitMode,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::tc::TcMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::bucket;
use crate::netns::Netns;
use crate::wiring::{Change, Mac, Observed, Pair};

/// A failed exchange with the kernel.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct Error {
    operation: String,
    #[source]
    source: io::Error,
}

impl Error {
    /// Whether the kernel said that the thing is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(
            self.source.raw_os_error(),
            Some(libc::ENODEV | libc::ENOENT | libc::ESRCH)
        )
    }

    /// Whether the kernel does not know the kind of device (`EOPNOTSUPP`), or not all that is asked of it (`EINVAL`). Netkit
    /// before Linux 6.10 is of the former too: it lets nobody choose Ethernet addresses.
    pub fn is_unsupported(&self) -> bool {
        matches!(self.source.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL))
    }

    /// Whether the kernel was short of something that it may have again in a moment.
    pub fn is_temporary(&self) -> bool {
        matches!(
            self.source.raw_os_error(),
            Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::ENOMEM | libc::EINTR)
        )
    }
}

/// One message with the name under which its failure is reported.
struct Operation {
    name: String,
    flags: u16,
    message: RouteNetlinkMessage,
}

/// The flags of a request that makes something new.
const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// The kernel fills at most 32 KiB of a reader's buffer with a listing, and no single answer to us is as large as that.
const DATAGRAM_BYTES_MAX: usize = 32 * 1024;

/// What a pod's pair of devices is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairKind {
    /// What every kernel has.
    Veth,
    /// Devices that run programs where the pod sends, before its packets have a queue to wait in: since Linux 6.7, with
    /// Ethernet addresses of our choice since 6.10.
    Netkit,
}

/// An interface as the kernel tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    attributes: Vec<LinkAttribute>,
}

impl Link {
    /// Whether a switch of this interface, by its path below `/proc/sys/net`, has the value, or another one that means the
    /// same: who forwards takes no router's advice unless asked to twice. `false` also when the kernel has not said.
    ///
    /// What is known from here needs no file opened, which for a new interface means that the kernel has to make the file
    /// and the folder above it up first.
    pub fn has_switch(&self, path: &str, value: &str) -> bool {
        let (Some((family, _)), Some((_, key))) = (path.split_once('/'), path.rsplit_once('/')) else {
            return false;
        };
        let specifications = self.attributes.iter().filter_map(|attribute| match attribute {
            LinkAttribute::AfSpecUnspec(specifications) => Some(specifications),
            _ => None,
        });
        let current = specifications
            .flatten()
            .find_map(|specification| match (specification, family) {
                (AfSpecUnspec::Inet(parts), "ipv4") => parts.iter().find_map(|part| match (part, key) {
                    (AfSpecInet::DevConf(conf), "rp_filter") => Some(conf.rp_filter),
                    _ => None,
                }),
                (AfSpecUnspec::Inet6(parts), "ipv6") => parts.iter().find_map(|part| match (part, key) {
                    (AfSpecInet6::DevConf(conf), "disable_ipv6") => Some(conf.disable_ipv6),
                    (AfSpecInet6::DevConf(conf), "accept_ra") => {
                        Some(if conf.forwarding == 1 && conf.accept_ra == 1 {
                            0
                        } else {
                            conf.accept_ra
                        })
                    }
                    (AfSpecInet6::DevConf(conf), "accept_dad") => Some(conf.accept_dad),
                    _ => None,
                }),
                _ => None,
            });
        current.is_some_and(|current| value.parse() == Ok(current))
    }
}

/// A socket into the namespace in which it was opened.
pub struct Socket {
    socket: netlink_sys::Socket,
    sequence: u32,
    /// What the kernel answers lands here, exchange after exchange.
    received: Vec<u8>,
}

impl Socket {
    /// Opens a socket into the calling thread's namespace.
    ///
    /// # Errors
    /// The kernel refuses the socket.
    pub fn open() -> Result<Self, Error> {
        let open = || {
            let mut socket = netlink_sys::Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
            // Acknowledgements need not repeat the request. Older kernels do not know the option.
            let _ = socket.set_cap_ack(true);
            Ok(socket)
        };
        let socket = open().map_err(|source| Error {
            operation: "cannot open a netlink socket".to_owned(),
            source,
        })?;
        Ok(Socket {
            socket,
            sequence: 0,
            received: Vec::with_capacity(DATAGRAM_BYTES_MAX),
        })
    }

    /// Makes the pair, the pod end inside `netns`, both ends down. Returns the node's end.
    ///
    /// Of netkit this is mode L2: the programs of the data plane, as all else on the node, find pods by Ethernet addresses, and
    /// L3 would save nothing, since neighbours are permanent.
    ///
    /// # Errors
    /// A name is taken, or the kernel has no such devices. Nothing is left behind.
    pub fn create_pair(&mut self, pair: &Pair, kind: PairKind, netns: &Netns) -> Result<Link, Error> {
        let end = |name: &str, mac: Mac| {
            let mut link = LinkMessage::default();
            link.attributes = vec![
                LinkAttribute::IfName(name.to_owned()),
                LinkAttribute::Address(mac.0.to_vec()),
                LinkAttribute::Mtu(pair.mtu),
                // A pair carries packets on the CPU that sends them, whatever the queue. By default there are as many
                // queues as CPUs, each with an entry in sysfs that is made under the kernel's global network lock.
                LinkAttribute::NumTxQueues(1),
                LinkAttribute::NumRxQueues(1),
            ];
            link
        };
        let mut pod = end(&pair.pod_name, pair.pod_mac);
        pod.attributes.push(LinkAttribute::NetNsFd(netns.raw_fd()));
        let mut host = end(&pair.host_name, pair.host_mac);
        let (name, info) = match kind {
            PairKind::Veth => ("veth", InfoData::Veth(InfoVeth::Peer(pod))),
            PairKind::Netkit => {
                let data = vec![InfoNetkit::Mode(NetkitMode::L2), InfoNetkit::Peer(pod)];
                ("netkit", InfoData::Netkit(data))
            }
        };
        let kind = match kind {
            PairKind::Veth => InfoKind::Veth,
            PairKind::Netkit => InfoKind::Netkit,
        };
        host.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(kind),
            LinkInfo::Data(info),
        ]));
        let create = Operation {
            name: format!(
                "cannot create the {name} pair {} - {}",
                pair.host_name, pair.pod_name
            ),
            flags: CREATE,
            message: RouteNetlinkMessage::NewLink(host),
        };
        let answers = self.exchange(vec![create, get_link(&pair.host_name)])?;
        told_link(answers, &pair.host_name)
    }

    /// The interface of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn link(&mut self, name: &str) -> Result<Link, Error> {
        let answers = self.exchange(vec![get_link(name)])?;
        told_link(answers, name)
    }

    /// Removes an interface, and with it its peer, addresses, neighbours and routes. Returns whether there was one.
    ///
    /// # Errors
    /// The interface exists and cannot be removed.
    pub fn delete_link(&mut self, name: &str) -> Result<bool, Error> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let delete = Operation {
            name: format!("cannot delete interface {name}"),
            flags: 0,
            message: RouteNetlinkMessage::DelLink(link),
        };
        match self.exchange(vec![delete]) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes the changes to the interface, in order; switches are not netlink's and are passed over.
    ///
    /// # Errors
    /// The first change that the kernel refused. Later ones may have been made.
    pub fn apply(&mut self, interface: &str, index: u32, changes: &[Change]) -> Result<(), Error> {
        let operations = changes
            .iter()
            .filter_map(|change| {
                let (flags, message) = message(index, change)?;
                Some(Operation {
                    name: format!("{interface}: cannot set {change}"),
                    flags,
                    message,
                })
            })
            .collect();
        self.exchange(operations).map(drop)
    }

    /// What the kernel has on the interface.
    ///
    /// # Errors
    /// The kernel refuses a listing.
    pub fn observe(&mut self, index: u32) -> Result<Observed, Error> {
        let dump = |name: &str, message| Operation {
            name: format!("cannot list {name}"),
            flags: NLM_F_DUMP,
            message,
        };
        let mut link = LinkMessage::default();
        link.header.index = index;
        let mut in_effect = Vec::new();
        let up = Operation {
            name: "cannot read the interface".to_owned(),
            flags: 0,
            message: RouteNetlinkMessage::GetLink(link),
        };
        for operation in [
            up,
            dump(
                "addresses",
                RouteNetlinkMessage::GetAddress(AddressMessage::default()),
            ),
            dump(
                "neighbours",
                RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
            ),
            dump("routes", RouteNetlinkMessage::GetRoute(RouteMessage::default())),
            dump(
                "queueing disciplines",
                RouteNetlinkMessage::GetQueueDiscipline(TcMessage::with_index(index as i32)),
            ),
        ] {
            let answers = self.exchange(vec![operation])?;
            in_effect.extend(answers.iter().filter_map(|answer| change(index, answer)));
        }
        Ok(Observed { in_effect })
    }

    /// The names of all interfaces in the namespace.
    ///
    /// # Errors
    /// The kernel refuses the listing.
    pub fn link_names(&mut self) -> Result<Vec<String>, Error> {
        let list = Operation {
            name: "cannot list interfaces".to_owned(),
            flags: NLM_F_DUMP,
            message: RouteNetlinkMessage::GetLink(LinkMessage::default()),
        };
        let answers = self.exchange(vec![list])?;
        Ok(answers
            .iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(link) => {
                    link.attributes.iter().find_map(|attribute| match attribute {
                        LinkAttribute::IfName(name) => Some(name.clone()),
                        _ => None,
                    })
                }
                _ => None,
            })
            .collect())
    }

    /// Sends all operations in one datagram and collects what the kernel answers.
    ///
    /// # Errors
    /// The first operation that failed, after all of them were answered.
    fn exchange(&mut self, operations: Vec<Operation>) -> Result<Vec<RouteNetlinkMessage>, Error> {
        let mut datagram = Vec::new();
        let mut pending = VecDeque::new();
        for operation in operations {
            self.sequence += 1;
            let mut message = NetlinkMessage::from(operation.message);
            // A dump ends with a message of its own, everything else with an acknowledgement.
            let ack = if operation.flags & NLM_F_DUMP == NLM_F_DUMP {
                0
            } else {
                NLM_F_ACK
            };
            message.header.flags = NLM_F_REQUEST | ack | operation.flags;
            message.header.sequence_number = self.sequence;
            message.finalize();
            let start = datagram.len();
            datagram.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut datagram[start..]);
            pending.push_back((self.sequence, operation.name));
        }
        let Some((_, first)) = pending.front() else {
            return Ok(Vec::new());
        };
        let failed = |name: &str, source| Error {
            operation: name.to_owned(),
            source,
        };
        self.socket
            .send(&datagram, 0)
            .map_err(|source| failed(first, source))?;

        let mut answers = Vec::new();
        let mut failure = None;
        while let Some((_, waiting_for)) = pending.front() {
            self.received.clear();
            self.socket
                .recv(&mut self.received, 0)
                .map_err(|source| failed(waiting_for, source))?;
            let mut rest = &self.received[..];
            while !rest.is_empty() {
                let invalid = |reason: String| {
                    failed(&pending[0].1, io::Error::new(io::ErrorKind::InvalidData, reason))
                };
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| invalid(error.to_string()))?;
                let length = (message.header.length as usize)
                    .next_multiple_of(4)
                    .min(rest.len());
                rest = &rest[length..];
                let done = match message.payload {
                    NetlinkPayload::InnerMessage(answer) => {
                        answers.push(answer);
                        false
                    }
                    NetlinkPayload::Error(error) => {
                        if error.code.is_some() && failure.is_none() {
                            let name = pending.iter().find(|(n, _)| *n == message.header.sequence_number);
                            failure = name.map(|(_, name)| failed(name, error.to_io()));
                        }
                        true
                    }
                    NetlinkPayload::Done(_) => true,
                    NetlinkPayload::Noop => false,
                    other => return Err(invalid(format!("unexpected answer {other:?}"))),
                };
                if done {
                    pending.retain(|(sequence, _)| *sequence != message.header.sequence_number);
                    if pending.is_empty() {
                        break;
                    }
                }
            }
        }
        failure.map_or(Ok(answers), Err)
    }
}

fn get_link(name: &str) -> Operation {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    Operation {
        name: format!("there is no interface {name}"),
        flags: 0,
        message: RouteNetlinkMessage::GetLink(link),
    }
}

fn told_link(answers: Vec<RouteNetlinkMessage>, name: &str) -> Result<Link, Error> {
    answers
        .into_iter()
        .find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(Link {
                index: link.header.index,
                attributes: link.attributes,
            }),
            _ => None,
        })
        .ok_or_else(|| Error {
            operation: format!("there is no interface {name}"),
            source: io::Error::from_raw_os_error(libc::ENODEV),
        })
}

/// The request that makes a change; `None` for a switch.
fn message(index: u32, change: &Change) -> Option<(u16, RouteNetlinkMessage)> {
    Some(match *change {
        Change::Sysctl { .. } => return None,
        Change::LoopbackUp => {
            let mut link = LinkMessage::default();
            link.attributes.push(LinkAttribute::IfName("lo".to_owned()));
            (0, up(link))
        }
        Change::Up => {
            let mut link = LinkMessage::default();
            link.header.index = index;
            (0, up(link))
        }
        Change::NoLinkLocal => {
            let mut link = LinkMessage::default();
            link.header.index = index;
            link.attributes
                .push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![
                    AfSpecInet6::AddrGenMode(In6AddrGenMode::None),
                ])]));
            (0, RouteNetlinkMessage::SetLink(link))
        }
        Change::Address(address, prefix) => {
            let mut message = AddressMessage::default();
            message.header.family = family(address);
            message.header.prefix_len = prefix;
            message.header.index = index;
            message.header.scope = if is_link_local(address) {
                AddressScope::Link
            } else {
                AddressScope::Universe
            };
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes = vec![
                AddressAttribute::Address(address),
                AddressAttribute::Local(address),
            ];
            (CREATE, RouteNetlinkMessage::NewAddress(message))
        }
        Change::Neighbour(address, mac) => {
            let mut message = NeighbourMessage::default();
            message.header.family = family(address);
            message.header.ifindex = index;
            message.header.state = NeighbourState::Permanent;
            message.attributes = vec![
                NeighbourAttribute::Destination(match address {
                    IpAddr::V4(address) => NeighbourAddress::Inet(address),
                    IpAddr::V6(address) => NeighbourAddress::Inet6(address),
                }),
                NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
            ];
            // The kernel may have learnt the neighbour in the moment since the interface came up.
            (
                NLM_F_CREATE | NLM_F_REPLACE,
                RouteNetlinkMessage::NewNeighbour(message),
            )
        }
        Change::HostRoute(address) => {
            let mut message = route(address, index);
            message.header.destination_prefix_length = if address.is_ipv6() { 128 } else { 32 };
            message.header.scope = if address.is_ipv6() {
                RouteScope::Universe
            } else {
                RouteScope::Link
            };
            message
                .attributes
                .push(RouteAttribute::Destination(address.into()));
            // Exclusive: a route to the address that is there already means that somebody else has it.
            (CREATE, RouteNetlinkMessage::NewRoute(message))
        }
        Change::DefaultRoute(gateway) => {
            let mut message = route(gateway, index);
            message.header.flags = RouteFlags::Onlink;
            message.attributes.push(RouteAttribute::Gateway(gateway.into()));
            (CREATE, RouteNetlinkMessage::NewRoute(message))
        }
        Change::Shape(shape) => (
            NLM_F_CREATE | NLM_F_REPLACE,
            RouteNetlinkMessage::NewQueueDiscipline(bucket::message(index, shape)),
        ),
    })
}

fn up(mut link: LinkMessage) -> RouteNetlinkMessage {
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(link)
}

fn route(address: IpAddr, index: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(address);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Oif(index));
    message
}

/// The change that an entry of a listing shows to be in effect on the interface, if it is one that we make.
fn change(index: u32, answer: &RouteNetlinkMessage) -> Option<Change> {
    match answer {
        RouteNetlinkMessage::NewLink(link) => {
            (link.header.index == index && link.header.flags.contains(LinkFlags::Up)).then_some(Change::Up)
        }
        RouteNetlinkMessage::NewAddress(message) if message.header.index == index => {
            let address = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            })?;
            Some(Change::Address(address, message.header.prefix_len))
        }
        RouteNetlinkMessage::NewNeighbour(message)
            if message.header.ifindex == index && message.header.state == NeighbourState::Permanent =>
        {
            let address = message.attributes.iter().find_map(|attribute| match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                    Some(IpAddr::from(*address))
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
                    Some(IpAddr::from(*address))
                }
                _ => None,
            })?;
            let mac = message.attributes.iter().find_map(|attribute| match attribute {
                NeighbourAttribute::LinkLayerAddress(bytes) => Some(Mac(bytes.as_slice().try_into().ok()?)),
                _ => None,
            })?;
            Some(Change::Neighbour(address, mac))
        }
        RouteNetlinkMessage::NewQueueDiscipline(message) => bucket::parse(index, message).map(Change::Shape),
        RouteNetlinkMessage::NewRoute(message) => {
            if !message.attributes.contains(&RouteAttribute::Oif(index)) {
                return None;
            }
            let mut destination = None;
            let mut gateway = None;
            for attribute in &message.attributes {
                match attribute {
                    RouteAttribute::Destination(address) => destination = ip(address),
                    RouteAttribute::Gateway(address) => gateway = ip(address),
                    _ => {}
                }
            }
            match (destination, gateway, message.header.destination_prefix_length) {
                (
                    None | Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED) | IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
                    Some(gateway),
                    0,
                ) => Some(Change::DefaultRoute(gateway)),
                (Some(address @ IpAddr::V4(_)), None, 32) | (Some(address @ IpAddr::V6(_)), None, 128) => {
                    Some(Change::HostRoute(address))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv6() {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
