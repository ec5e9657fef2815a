//! Fragments: only the first one of a datagram names the ports, so it is remembered for those that follow.

use proxy_ebpf_common::{DropReason, Fragment, FragmentKey, Hook, Port, timeouts};

use super::{
    CONTINUE, balance,
    conntrack::now_s,
    family::{PacketFamily, Parsed},
    report::drop,
    scratch::{Packet, Scratch},
    skb::Skb,
};

/// Notes the ports of a first fragment.
#[inline(always)]
pub(crate) fn remember<F: PacketFamily>(packet: &Packet<F::Address>) {
    let seen = Fragment {
        source_port: packet.key.source_port,
        destination_port: packet.key.destination_port,
        seen_s: now_s(),
    };
    // A table that is full costs this datagram, of which the rest is dropped if it is a Service's.
    let _ = F::fragments().insert(&key::<F>(packet), &seen, 0);
}

/// Gives a later fragment the ports of its first.
#[inline(always)]
pub(crate) fn recall<F: PacketFamily>(packet: &mut Packet<F::Address>) -> Parsed {
    // SAFETY: a reused element can at worst show another datagram's ports, which are read as plain integers.
    let first = unsafe { F::fragments().get(&key::<F>(packet)) };
    let recent = first.filter(|first| now_s().wrapping_sub(first.seen_s) < timeouts::FRAGMENT_S);
    let (source, destination, parsed) = match recent {
        Some(first) => (first.source_port, first.destination_port, Parsed::Packet),
        None => (Port::new(0), Port::new(0), Parsed::UnknownFragment),
    };
    packet.key.source_port = source;
    packet.key.destination_port = destination;
    parsed
}

/// What becomes of a fragment without ports. It may have overtaken its first one: to an address that is only a Service's it
/// is lost; any other may be nobody's business here, as most datagrams are.
#[inline(always)]
pub(crate) fn ports_of_fragment<F: PacketFamily>(skb: Skb, scratch: &mut Scratch<F::Address>) -> i32 {
    if scratch.packet.hook != Hook::POD_INGRESS && balance::is_service_address::<F>(scratch) {
        return drop::<F>(skb, scratch, DropReason::FragmentUnknown);
    }
    CONTINUE
}

#[inline(always)]
fn key<F: PacketFamily>(packet: &Packet<F::Address>) -> FragmentKey<F::Address> {
    FragmentKey {
        source: packet.key.source,
        destination: packet.key.destination,
        id: packet.fragment_id,
        protocol: packet.key.protocol,
        reserved: [0; 3],
    }
}
