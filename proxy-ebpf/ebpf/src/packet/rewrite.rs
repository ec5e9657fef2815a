//! Writes new addresses and ports into a packet, and into the packet inside an ICMP error.
//!
//! Checksums are corrected by what changed, never computed anew: a packet that arrived damaged leaves damaged, and one whose
//! checksum the device is to fill in needs only its pseudo header corrected, which the kernel's helpers know how to do.

use proxy_ebpf_common::{Address, Protocol};

use super::{
    family::PacketFamily,
    forward::replaces_outer_source,
    parse::Ports,
    scratch::Scratch,
    sctp,
    skb::{ETHERNET, IPV6, MAY_BE_ABSENT, PSEUDO_HEADER, Refused, Skb, difference},
};
use crate::maps::{V6, has_ipv6_checksum_flag};

/// Source and destination, as they are in a header.
#[repr(C)]
#[derive(Clone, Copy)]
struct Addresses<A> {
    source: A,
    destination: A,
}

/// Offset of the identifier in an ICMP echo.
const ECHO_ID: u32 = 4;
/// Offset of the checksum in an ICMP header.
const ICMP_CHECKSUM: u32 = 2;

/// Translates a packet as `entry` says.
#[inline(never)]
pub(crate) fn rewrite<F: PacketFamily>(skb: Skb, scratch: &mut Scratch<F::Address>) -> Result<(), Refused> {
    let key = &scratch.packet.key;
    let entry = &scratch.entry;
    let old = Addresses {
        source: key.source,
        destination: key.destination,
    };
    let new = Addresses {
        source: entry.source,
        destination: entry.destination,
    };
    let changed = difference(&old, &new);
    let offset = scratch.packet.transport;
    if offset != 0 {
        let from = Ports {
            source: key.source_port.to_network(),
            destination: key.destination_port.to_network(),
        };
        let to = Ports {
            source: entry.source_port.to_network(),
            destination: entry.destination_port.to_network(),
        };
        match key.protocol {
            Protocol::TCP => transport::<F>(skb, offset, offset + 16, changed, &from, &to, 0)?,
            Protocol::UDP => transport::<F>(skb, offset, offset + 6, changed, &from, &to, MAY_BE_ABSENT)?,
            Protocol::SCTP => {
                let length = sctp::length(offset, scratch.packet.length);
                sctp::ports(skb, offset, length, word(&from), word(&to))?;
            }
            protocol if protocol == F::ICMP => echo::<F>(skb, offset, changed, &from, &to)?,
            _ => {}
        }
    }
    addresses::<F>(skb, &new, changed)
}

/// Translates an ICMP error and the packet inside it. The key is that of an answer to the inner packet, so that what the
/// entry makes an answer's source is what the inner packet must have been sent to, and the other way round.
///
/// A checksum of the inner transport header stays as it is: of most such packets it is cut off, no receiver checks it.
#[inline(never)]
pub(crate) fn rewrite_error<F: PacketFamily>(
    skb: Skb,
    scratch: &mut Scratch<F::Address>,
) -> Result<(), Refused> {
    let packet = &scratch.packet;
    let (key, entry) = (&packet.key, &scratch.entry);
    let old = Addresses {
        source: key.destination,
        destination: key.source,
    };
    let new = Addresses {
        source: entry.destination,
        destination: entry.source,
    };
    let changed = difference(&old, &new);
    let checksum = packet.transport + ICMP_CHECKSUM;
    // With the header's own checksum corrected, what changes in a header of IPv4 adds up to nothing.
    F::fix_header(skb, packet.inner, changed)?;
    if F::VERSION == V6::VERSION {
        skb.fix(checksum, changed, 0)?;
    }
    skb.store(packet.inner + F::ADDRESSES, &new)?;
    inner_ports::<F>(skb, scratch, checksum)?;

    let outer_old = Addresses {
        source: packet.outer_source,
        destination: packet.outer_destination,
    };
    let outer_new = Addresses {
        source: if replaces_outer_source::<F>(scratch) {
            entry.source
        } else {
            packet.outer_source
        },
        destination: if packet.outer_destination.is(key.destination) {
            entry.destination
        } else {
            packet.outer_destination
        },
    };
    let changed = difference(&outer_old, &outer_new);
    if F::VERSION == V6::VERSION {
        skb.fix(checksum, changed, PSEUDO_HEADER | ipv6_flag::<F>())?;
    }
    addresses::<F>(skb, &outer_new, changed)
}

#[inline(always)]
fn inner_ports<F: PacketFamily>(
    skb: Skb,
    scratch: &Scratch<F::Address>,
    checksum: u32,
) -> Result<(), Refused> {
    let (key, entry) = (&scratch.packet.key, &scratch.entry);
    let offset = scratch.packet.inner_transport;
    if key.protocol == F::ICMP {
        let (from, to) = (
            key.source_port.to_network() | key.destination_port.to_network(),
            entry.source_port.to_network() | entry.destination_port.to_network(),
        );
        skb.fix_for(checksum, from.into(), to.into(), 0)?;
        return skb.store(offset + ECHO_ID, &to);
    }
    let from = Ports {
        source: key.destination_port.to_network(),
        destination: key.source_port.to_network(),
    };
    let to = Ports {
        source: entry.destination_port.to_network(),
        destination: entry.source_port.to_network(),
    };
    skb.fix_for(checksum, word(&from), word(&to), 0)?;
    skb.store(offset, &to)
}

/// The ports and the checksum of a transport header.
#[inline(always)]
fn transport<F: PacketFamily>(
    skb: Skb,
    offset: u32,
    checksum: u32,
    changed: u64,
    from: &Ports,
    to: &Ports,
    flags: u64,
) -> Result<(), Refused> {
    skb.fix(checksum, changed, flags | PSEUDO_HEADER | ipv6_flag::<F>())?;
    if word(from) == word(to) {
        return Ok(());
    }
    skb.fix_for(checksum, word(from), word(to), flags)?;
    skb.store(offset, to)
}

/// The identifier and the checksum of an echo, which covers the addresses in IPv6 only. One of the ports is zero.
#[inline(always)]
fn echo<F: PacketFamily>(
    skb: Skb,
    offset: u32,
    changed: u64,
    from: &Ports,
    to: &Ports,
) -> Result<(), Refused> {
    let checksum = offset + ICMP_CHECKSUM;
    if F::VERSION == V6::VERSION {
        skb.fix(checksum, changed, PSEUDO_HEADER | ipv6_flag::<F>())?;
    }
    let (from, to) = (from.source | from.destination, to.source | to.destination);
    skb.fix_for(checksum, from.into(), to.into(), 0)?;
    skb.store(offset + ECHO_ID, &to)
}

/// The addresses of the packet's own header.
#[inline(always)]
fn addresses<F: PacketFamily>(skb: Skb, new: &Addresses<F::Address>, changed: u64) -> Result<(), Refused> {
    F::fix_header(skb, ETHERNET, changed)?;
    skb.store(ETHERNET + F::ADDRESSES, new)
}

#[inline(always)]
fn word(ports: &Ports) -> u32 {
    u32::from(ports.source) | u32::from(ports.destination) << 16
}

/// For packets whose whole sum the device has computed: in IPv6 the changed addresses and the changed checksum balance.
#[inline(always)]
fn ipv6_flag<F: PacketFamily>() -> u64 {
    if F::VERSION == V6::VERSION && has_ipv6_checksum_flag() {
        IPV6
    } else {
        0
    }
}
