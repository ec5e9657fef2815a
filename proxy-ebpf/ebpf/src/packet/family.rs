//! What differs between IPv4 and IPv6 packets.

use aya_ebpf::{
    bindings::{bpf_fib_lookup, bpf_redir_neigh},
    maps::{HashMap, LpmTrie, LruHashMap},
};
use proxy_ebpf_common::{
    Affinity, AffinityKey, Conntrack, ConntrackKey, Device, Fragment, FragmentKey, LocalPod, Node, NodeKey,
    Protocol, SourceRangeKey,
};

use super::{
    scratch::{Packet, Scratch},
    skb::{Refused, Skb},
};
use crate::maps::Family;

/// What a packet turned out to be.
pub(crate) enum Parsed {
    /// One with ports, or a later fragment whose first one has told them.
    Packet,
    /// An ICMP error, with the packet that it is about.
    Error,
    /// Nothing that is ever translated.
    Other,
    /// A later fragment of something unknown.
    UnknownFragment,
    Malformed,
}

impl From<Refused> for Parsed {
    fn from(_: Refused) -> Self {
        Self::Malformed
    }
}

/// A family with the tables of the packet path.
pub(crate) trait PacketFamily: Family {
    /// 4 or 6.
    const VERSION: u8;
    /// Linux's number of the family.
    const FAMILY: u8;
    /// Length of a header without options.
    const HEADER: u32;
    /// Where in a header the source address is, which the destination follows.
    const ADDRESSES: u32;
    /// The family's ICMP.
    const ICMP: Protocol;
    /// See `common`.
    const HAIRPIN: Self::Address;
    /// Type and code of the error that says that nobody listens.
    const UNREACHABLE: [u8; 2];
    /// Type and code of the error that says that a packet is too big.
    const TOO_BIG: [u8; 2];

    fn conntrack() -> &'static LruHashMap<ConntrackKey<Self::Address>, Conntrack<Self::Address>>;
    /// By the keys of their answers, when pods have opened connections that are not translated; in seconds since boot.
    fn opening() -> &'static LruHashMap<ConntrackKey<Self::Address>, u32>;
    fn fragments() -> &'static LruHashMap<FragmentKey<Self::Address>, Fragment>;
    fn affinity() -> &'static LruHashMap<AffinityKey<Self::Address>, Affinity>;
    fn source_ranges() -> &'static LpmTrie<SourceRangeKey<Self::Address>, u32>;
    fn local_pods() -> &'static HashMap<Self::Address, LocalPod>;
    fn nodes() -> &'static LpmTrie<NodeKey<Self::Address>, Node>;
    fn scratch() -> Option<&'static mut Scratch<Self::Address>>;

    /// The node's address at a device.
    fn address_of(device: &Device) -> Self::Address;

    /// An address in words, as events have it.
    fn words(address: Self::Address) -> [u32; 4];

    /// Reads the header at the packet's start into `packet`: all but the ports.
    fn parse(skb: Skb, packet: &mut Packet<Self::Address>) -> Parsed;

    /// Reads the header of the packet inside an ICMP error: addresses, protocol and where its ports are.
    fn parse_inner(skb: Skb, packet: &mut Packet<Self::Address>) -> Parsed;

    /// Corrects what in a header at `offset` depends on its addresses.
    fn fix_header(skb: Skb, offset: u32, difference: u64) -> Result<(), Refused>;

    /// Takes one from the number of times that the packet may still be forwarded.
    fn decrement_ttl(skb: Skb, packet: &Packet<Self::Address>) -> Result<(), Refused>;

    /// Fills in the question for the routing table.
    fn question(query: &mut bpf_fib_lookup, source: Self::Address, destination: Self::Address);

    /// The neighbour that the routing table has named.
    fn next_hop(answer: &bpf_fib_lookup) -> bpf_redir_neigh;

    /// Writes a header of a packet that answers this one, of `length` bytes after the header.
    fn write_reply_header(
        skb: Skb,
        packet: &Packet<Self::Address>,
        protocol: Protocol,
        length: u16,
    ) -> Result<(), Refused>;

    /// The sum over the pseudo header of such an answer; nothing for ICMP of IPv4.
    fn reply_pseudo_header(packet: &Packet<Self::Address>, protocol: Protocol, length: u16) -> u32;
}
