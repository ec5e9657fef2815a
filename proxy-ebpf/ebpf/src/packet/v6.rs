//! IPv6 packets.

use aya_ebpf::{
    bindings::{bpf_fib_lookup, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1},
    maps::{HashMap, LpmTrie, LruHashMap},
};
use proxy_ebpf_common::{
    Address6, Affinity, AffinityKey, Conntrack, ConntrackKey, Device, Fragment, FragmentKey, HAIRPIN6,
    LocalPod, Node, NodeKey, Protocol, SourceRangeKey,
};

use super::{
    family::{PacketFamily, Parsed},
    maps::{AFFINITY6, CONNTRACK6, FRAGMENTS6, LOCAL_PODS6, NODES6, OPENING6, SCRATCH6, SOURCE_RANGES6},
    scratch::{Packet, Scratch},
    skb::{ETHERNET, Refused, Skb, sum},
};
use crate::maps::V6;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const DEFAULT_HOP_LIMIT: u8 = 64;
const HOP_LIMIT: u32 = 7;
/// A host may send more extension headers than these; nobody does.
const EXTENSIONS_MAX: u32 = 4;

/// All integers in network byte order.
#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    version: u8,
    class: u8,
    flow: u16,
    length: u16,
    next: u8,
    hop_limit: u8,
    source: Address6,
    destination: Address6,
}

impl Header {
    const EMPTY: Self = Self {
        version: 0x60,
        class: 0,
        flow: 0,
        length: 0,
        next: 0,
        hop_limit: DEFAULT_HOP_LIMIT,
        source: Address6([0; 4]),
        destination: Address6([0; 4]),
    };
}

/// An extension header as far as it is of interest.
#[repr(C)]
#[derive(Clone, Copy)]
struct Extension {
    next: u8,
    /// In units of eight bytes after the first eight; of an authentication header in units of four, minus two.
    length: u8,
    /// Of a fragment: the offset in the upper 13 bits, and whether more follow in the lowest.
    fragment: u16,
    /// Of a fragment.
    id: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct PseudoHeader {
    source: Address6,
    destination: Address6,
    length: u32,
    zero: [u8; 3],
    next: u8,
}

/// Follows the extension headers to the transport header. `None`: there are too many, or the packet ends before.
#[inline(always)]
fn transport(skb: Skb, mut next: u8, mut offset: u32, packet: &mut Packet<Address6>) -> Option<(u8, u32)> {
    for _ in 0..EXTENSIONS_MAX {
        let (HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION) = next else {
            return Some((next, offset));
        };
        let mut extension = Extension {
            next: 0,
            length: 0,
            fragment: 0,
            id: 0,
        };
        skb.load(offset, &mut extension).ok()?;
        offset += match next {
            FRAGMENT => {
                packet.fragment_id = extension.id;
                let fragment = u16::from_be(extension.fragment);
                packet.is_first_fragment = fragment & !0b110 == 1;
                if fragment & !0b111 != 0 {
                    return Some((extension.next, 0));
                }
                8
            }
            AUTHENTICATION => (u32::from(extension.length) + 2) * 4,
            _ => (u32::from(extension.length) + 1) * 8,
        };
        next = extension.next;
    }
    None
}

impl PacketFamily for V6 {
    const VERSION: u8 = 6;
    const FAMILY: u8 = 10;
    const HEADER: u32 = 40;
    const ADDRESSES: u32 = 8;
    const ICMP: Protocol = Protocol::ICMPV6;
    const HAIRPIN: Address6 = HAIRPIN6;
    const UNREACHABLE: [u8; 2] = [1, 4];
    const TOO_BIG: [u8; 2] = [2, 0];

    #[inline(always)]
    fn conntrack() -> &'static LruHashMap<ConntrackKey<Address6>, Conntrack<Address6>> {
        &CONNTRACK6
    }

    #[inline(always)]
    fn opening() -> &'static LruHashMap<ConntrackKey<Address6>, u32> {
        &OPENING6
    }

    #[inline(always)]
    fn fragments() -> &'static LruHashMap<FragmentKey<Address6>, Fragment> {
        &FRAGMENTS6
    }

    #[inline(always)]
    fn affinity() -> &'static LruHashMap<AffinityKey<Address6>, Affinity> {
        &AFFINITY6
    }

    #[inline(always)]
    fn source_ranges() -> &'static LpmTrie<SourceRangeKey<Address6>, u32> {
        &SOURCE_RANGES6
    }

    #[inline(always)]
    fn local_pods() -> &'static HashMap<Address6, LocalPod> {
        &LOCAL_PODS6
    }

    #[inline(always)]
    fn nodes() -> &'static LpmTrie<NodeKey<Address6>, Node> {
        &NODES6
    }

    #[inline(always)]
    fn scratch() -> Option<&'static mut Scratch<Address6>> {
        // SAFETY: the CPU's own, used by one program at a time.
        SCRATCH6.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
    }

    #[inline(always)]
    fn address_of(device: &Device) -> Address6 {
        device.address6
    }

    #[inline(always)]
    fn words(address: Address6) -> [u32; 4] {
        address.0
    }

    #[inline(always)]
    fn parse(skb: Skb, packet: &mut Packet<Address6>) -> Parsed {
        let mut header = Header::EMPTY;
        if skb.load(ETHERNET, &mut header).is_err() || header.version >> 4 != 6 {
            return Parsed::Malformed;
        }
        packet.key.source = header.source;
        packet.key.destination = header.destination;
        packet.length = u16::from_be(header.length).saturating_add(Self::HEADER as u16);
        packet.ttl = header.hop_limit;
        packet.is_first_fragment = false;
        let Some((protocol, transport)) = transport(skb, header.next, ETHERNET + Self::HEADER, packet) else {
            return Parsed::Other;
        };
        packet.outer_protocol = Protocol(protocol);
        packet.transport = transport;
        Parsed::Packet
    }

    #[inline(always)]
    fn parse_inner(skb: Skb, packet: &mut Packet<Address6>) -> Parsed {
        let mut header = Header::EMPTY;
        if skb.load(packet.inner, &mut header).is_err() {
            return Parsed::Malformed;
        }
        let Some((protocol, transport)) = transport(skb, header.next, packet.inner + Self::HEADER, packet)
        else {
            return Parsed::Other;
        };
        if transport == 0 {
            return Parsed::Other;
        }
        packet.key.source = header.source;
        packet.key.destination = header.destination;
        packet.key.protocol = Protocol(protocol);
        packet.inner_transport = transport;
        Parsed::Error
    }

    #[inline(always)]
    fn fix_header(_: Skb, _: u32, _: u64) -> Result<(), Refused> {
        Ok(())
    }

    #[inline(always)]
    fn decrement_ttl(skb: Skb, packet: &Packet<Address6>) -> Result<(), Refused> {
        skb.store(ETHERNET + HOP_LIMIT, &(packet.ttl - 1))
    }

    #[inline(always)]
    fn question(query: &mut bpf_fib_lookup, source: Address6, destination: Address6) {
        query.family = Self::FAMILY;
        query.__bindgen_anon_3.ipv6_src = source.0;
        query.__bindgen_anon_4.ipv6_dst = destination.0;
    }

    #[inline(always)]
    fn next_hop(answer: &bpf_fib_lookup) -> bpf_redir_neigh {
        // SAFETY: every bit pattern is an address.
        let nh = unsafe { answer.__bindgen_anon_4.ipv6_dst };
        bpf_redir_neigh {
            nh_family: Self::FAMILY.into(),
            __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: nh },
        }
    }

    #[inline(always)]
    fn write_reply_header(
        skb: Skb,
        packet: &Packet<Address6>,
        protocol: Protocol,
        length: u16,
    ) -> Result<(), Refused> {
        let header = Header {
            length: length.to_be(),
            next: protocol.0,
            source: packet.key.destination,
            destination: packet.key.source,
            ..Header::EMPTY
        };
        skb.store(ETHERNET, &header)
    }

    #[inline(always)]
    fn reply_pseudo_header(packet: &Packet<Address6>, protocol: Protocol, length: u16) -> u32 {
        let header = PseudoHeader {
            source: packet.key.destination,
            destination: packet.key.source,
            length: u32::from(length).to_be(),
            zero: [0; 3],
            next: protocol.0,
        };
        sum(&header, 0)
    }
}
