//! Where the programs keep what they know of the packet at hand: the stack of 512 bytes holds a few keys of IPv6 at most.

use proxy_ebpf_common::{
    Address, BackendId, Conntrack, ConntrackFlags, ConntrackKey, Frontend, FrontendFlags, Hook, Port,
    Protocol, ServiceId, TcpFlags,
};

use aya_ebpf::bindings::bpf_redir_neigh;

/// One per CPU: a program is not interrupted by another of its kind.
#[repr(C)]
pub(crate) struct Scratch<A> {
    pub(crate) packet: Packet<A>,
    /// What the packet becomes.
    pub(crate) entry: Conntrack<A>,
    /// The entry of the other direction, and its key.
    pub(crate) partner: Conntrack<A>,
    pub(crate) partner_key: ConntrackKey<A>,
    pub(crate) frontend: Frontend,
    /// `frontend` is what a Service's address has for ports that no Service has.
    pub(crate) is_other_port: u32,
    pub(crate) way: Way,
    pub(crate) reply: [u8; REPLY],
}

/// Room for what follows the longest header that the programs write: an ICMPv6 error.
pub(crate) const REPLY: usize = 56;

/// A packet as it came.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Packet<A> {
    pub(crate) key: ConntrackKey<A>,
    /// Offset of the transport header; zero: there is none in this packet, a later fragment.
    pub(crate) transport: u32,
    /// Offset of the packet inside an ICMP error that this is; zero: it is none. `key` is that of an answer to the packet
    /// inside then.
    pub(crate) inner: u32,
    /// Offset of the inner packet's transport header.
    pub(crate) inner_transport: u32,
    /// The identification of the fragment's datagram.
    pub(crate) fragment_id: u32,
    /// Source and destination of the ICMP error itself.
    pub(crate) outer_source: A,
    pub(crate) outer_destination: A,
    /// Length of the packet without the Ethernet header, as it says itself.
    pub(crate) length: u16,
    pub(crate) ttl: u8,
    pub(crate) tcp: TcpFlags,
    pub(crate) hook: Hook,
    /// The first fragment of several.
    pub(crate) is_first_fragment: bool,
    /// The protocol that the packet's own header names: of an ICMP error not the one in `key`.
    pub(crate) outer_protocol: Protocol,
    /// Whether this hook can give packets to the other end of a pod's pair.
    pub(crate) reaches_peers: bool,
    /// A process of the node has sent the packet, no program has translated it, and such processes may reach Services by
    /// packets.
    pub(crate) is_nodes_own: bool,
}

/// How a packet goes on.
#[repr(C)]
pub(crate) struct Way {
    pub(crate) kind: WayKind,
    pub(crate) ifindex: u32,
    /// Largest packet that fits; of a packet that is too big.
    pub(crate) mtu: u32,
    pub(crate) next_hop: bpf_redir_neigh,
}

#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum WayKind {
    /// To the node itself or to something that it must find by itself.
    Stack = 0,
    /// Out of an uplink.
    Uplink = 1,
    /// Nowhere.
    None = 2,
    /// The packet is larger than the way is wide.
    TooBig = 3,
    /// To a device that is no uplink: a pod whose address is not in the tables.
    Other = 4,
}

impl<A: Address> Scratch<A> {
    /// Makes `entry` the translation of a new connection of the packet's key.
    #[inline(always)]
    pub(crate) fn begin(&mut self, destination: A, port: Port, service: ServiceId, backend: BackendId) {
        let key = &self.packet.key;
        self.entry = Conntrack {
            source: key.source,
            destination,
            source_port: key.source_port,
            destination_port: port,
            expires_s: 0,
            created_s: 0,
            flags: ConntrackFlags::default(),
            service,
            backend,
        };
    }

    #[inline(always)]
    pub(crate) fn protocol(&self) -> Protocol {
        self.packet.key.protocol
    }

    #[inline(always)]
    pub(crate) fn frontend_has(&self, flags: FrontendFlags) -> bool {
        self.frontend.flags.contains(flags)
    }
}
