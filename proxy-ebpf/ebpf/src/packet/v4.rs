//! IPv4 packets.

use aya_ebpf::{
    bindings::{bpf_fib_lookup, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1},
    maps::{HashMap, LpmTrie, LruHashMap},
};
use proxy_ebpf_common::{
    Address4, Affinity, AffinityKey, Conntrack, ConntrackKey, Device, Fragment, FragmentKey, HAIRPIN4,
    LocalPod, Node, NodeKey, Protocol, SourceRangeKey,
};

use super::{
    family::{PacketFamily, Parsed},
    maps::{AFFINITY4, CONNTRACK4, FRAGMENTS4, LOCAL_PODS4, NODES4, OPENING4, SCRATCH4, SOURCE_RANGES4},
    scratch::{Packet, Scratch},
    skb::{ETHERNET, Refused, Skb, checksum, sum},
};
use crate::maps::V4;

const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;
const DONT_FRAGMENT: u16 = 0x4000;
const DEFAULT_TTL: u8 = 64;
const CHECKSUM: u32 = 10;
const TTL: u32 = 8;

/// All integers in network byte order.
#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    version_and_length: u8,
    tos: u8,
    length: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    source: Address4,
    destination: Address4,
}

impl Header {
    const EMPTY: Self = Self {
        version_and_length: 0x45,
        tos: 0,
        length: 0,
        id: 0,
        fragment: DONT_FRAGMENT.to_be(),
        ttl: DEFAULT_TTL,
        protocol: 0,
        checksum: 0,
        source: Address4(0),
        destination: Address4(0),
    };

    /// Length in bytes, if the header is one.
    #[inline(always)]
    fn size(&self) -> Option<u32> {
        let size = u32::from(self.version_and_length & 0xf) * 4;
        (self.version_and_length >> 4 == 4 && size >= V4::HEADER).then_some(size)
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct PseudoHeader {
    source: Address4,
    destination: Address4,
    zero: u8,
    protocol: u8,
    length: u16,
}

impl PacketFamily for V4 {
    const VERSION: u8 = 4;
    const FAMILY: u8 = 2;
    const HEADER: u32 = 20;
    const ADDRESSES: u32 = 12;
    const ICMP: Protocol = Protocol::ICMP;
    const HAIRPIN: Address4 = HAIRPIN4;
    const UNREACHABLE: [u8; 2] = [3, 3];
    const TOO_BIG: [u8; 2] = [3, 4];

    #[inline(always)]
    fn conntrack() -> &'static LruHashMap<ConntrackKey<Address4>, Conntrack<Address4>> {
        &CONNTRACK4
    }

    #[inline(always)]
    fn opening() -> &'static LruHashMap<ConntrackKey<Address4>, u32> {
        &OPENING4
    }

    #[inline(always)]
    fn fragments() -> &'static LruHashMap<FragmentKey<Address4>, Fragment> {
        &FRAGMENTS4
    }

    #[inline(always)]
    fn affinity() -> &'static LruHashMap<AffinityKey<Address4>, Affinity> {
        &AFFINITY4
    }

    #[inline(always)]
    fn source_ranges() -> &'static LpmTrie<SourceRangeKey<Address4>, u32> {
        &SOURCE_RANGES4
    }

    #[inline(always)]
    fn local_pods() -> &'static HashMap<Address4, LocalPod> {
        &LOCAL_PODS4
    }

    #[inline(always)]
    fn nodes() -> &'static LpmTrie<NodeKey<Address4>, Node> {
        &NODES4
    }

    #[inline(always)]
    fn scratch() -> Option<&'static mut Scratch<Address4>> {
        // SAFETY: the CPU's own, used by one program at a time.
        SCRATCH4.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
    }

    #[inline(always)]
    fn address_of(device: &Device) -> Address4 {
        device.address4
    }

    #[inline(always)]
    fn words(address: Address4) -> [u32; 4] {
        [address.0, 0, 0, 0]
    }

    #[inline(always)]
    fn parse(skb: Skb, packet: &mut Packet<Address4>) -> Parsed {
        let mut header = Header::EMPTY;
        if skb.load(ETHERNET, &mut header).is_err() {
            return Parsed::Malformed;
        }
        let Some(size) = header.size() else {
            return Parsed::Malformed;
        };
        packet.key.source = header.source;
        packet.key.destination = header.destination;
        packet.outer_protocol = Protocol(header.protocol);
        packet.length = u16::from_be(header.length);
        packet.ttl = header.ttl;
        packet.fragment_id = header.id.into();
        let fragment = u16::from_be(header.fragment);
        packet.is_first_fragment = fragment & (MORE_FRAGMENTS | FRAGMENT_OFFSET) == MORE_FRAGMENTS;
        packet.transport = if fragment & FRAGMENT_OFFSET == 0 {
            ETHERNET + size
        } else {
            0
        };
        Parsed::Packet
    }

    #[inline(always)]
    fn parse_inner(skb: Skb, packet: &mut Packet<Address4>) -> Parsed {
        let mut header = Header::EMPTY;
        if skb.load(packet.inner, &mut header).is_err() {
            return Parsed::Malformed;
        }
        let Some(size) = header.size() else {
            return Parsed::Malformed;
        };
        if u16::from_be(header.fragment) & FRAGMENT_OFFSET != 0 {
            return Parsed::Other;
        }
        packet.key.source = header.source;
        packet.key.destination = header.destination;
        packet.key.protocol = Protocol(header.protocol);
        packet.inner_transport = packet.inner + size;
        Parsed::Error
    }

    #[inline(always)]
    fn fix_header(skb: Skb, offset: u32, difference: u64) -> Result<(), Refused> {
        skb.fix_header(offset + CHECKSUM, difference)
    }

    #[inline(always)]
    fn decrement_ttl(skb: Skb, packet: &Packet<Address4>) -> Result<(), Refused> {
        let word = |ttl| u16::from_ne_bytes([ttl, packet.outer_protocol.0]);
        let ttl = packet.ttl - 1;
        skb.fix_header_for(ETHERNET + CHECKSUM, word(packet.ttl), word(ttl))?;
        skb.store(ETHERNET + TTL, &ttl)
    }

    #[inline(always)]
    fn question(query: &mut bpf_fib_lookup, source: Address4, destination: Address4) {
        query.family = Self::FAMILY;
        query.__bindgen_anon_3.ipv4_src = source.0;
        query.__bindgen_anon_4.ipv4_dst = destination.0;
    }

    #[inline(always)]
    fn next_hop(answer: &bpf_fib_lookup) -> bpf_redir_neigh {
        // SAFETY: every bit pattern is an address. A gateway may be of the other family, of which the first word is a part.
        let nh = unsafe { answer.__bindgen_anon_4.ipv6_dst };
        bpf_redir_neigh {
            nh_family: answer.family.into(),
            __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: nh },
        }
    }

    #[inline(always)]
    fn write_reply_header(
        skb: Skb,
        packet: &Packet<Address4>,
        protocol: Protocol,
        length: u16,
    ) -> Result<(), Refused> {
        let mut header = Header {
            length: (length + Self::HEADER as u16).to_be(),
            protocol: protocol.0,
            source: packet.key.destination,
            destination: packet.key.source,
            ..Header::EMPTY
        };
        header.checksum = checksum(sum(&header, 0));
        skb.store(ETHERNET, &header)
    }

    #[inline(always)]
    fn reply_pseudo_header(packet: &Packet<Address4>, protocol: Protocol, length: u16) -> u32 {
        if protocol == Protocol::ICMP {
            return 0;
        }
        let header = PseudoHeader {
            source: packet.key.destination,
            destination: packet.key.source,
            zero: 0,
            protocol: protocol.0,
            length: length.to_be(),
        };
        sum(&header, 0)
    }
}
