//! From bytes to the key of a connection.

use proxy_ebpf_common::{ConntrackKey, Port, Protocol, TcpFlags};

use super::{
    family::{PacketFamily, Parsed},
    fragments,
    scratch::Packet,
    sctp,
    skb::{Refused, Skb},
};
use crate::maps::V4;

/// The beginning of a transport header; what of it is there depends on the protocol.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) source: u16,
    pub(crate) destination: u16,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Icmp {
    kind: u8,
    code: u8,
    checksum: u16,
    id: u16,
    sequence: u16,
}

/// Offset of the flags in a TCP header.
const TCP_FLAGS: u32 = 13;
/// Length of an ICMP header, which the packet that an error is about follows.
const ICMP_HEADER: u32 = 8;

enum IcmpKind {
    Request,
    Reply,
    Error,
    Other,
}

/// Reads a packet. Its key is complete if it is [`Parsed::Packet`] or [`Parsed::Error`].
#[inline(never)]
pub(crate) fn parse<F: PacketFamily>(skb: Skb, packet: &mut Packet<F::Address>) -> Parsed {
    packet.inner = 0;
    packet.tcp = TcpFlags::default();
    match F::parse(skb, packet) {
        Parsed::Packet => {}
        other => return other,
    }
    packet.key.protocol = packet.outer_protocol;
    packet.key.reserved = [0; 3];
    if packet.transport == 0 {
        return fragments::recall::<F>(packet);
    }
    let parsed = match packet.key.protocol {
        protocol if protocol == F::ICMP => match icmp::<F>(skb, packet) {
            Ok(parsed) => parsed,
            Err(Refused) => Parsed::Malformed,
        },
        Protocol::TCP | Protocol::UDP | Protocol::SCTP => {
            match ports::<F>(skb, packet.transport, &mut packet.key) {
                Ok(()) => Parsed::Packet,
                Err(Refused) => Parsed::Malformed,
            }
        }
        _ => {
            packet.key.source_port = Port::new(0);
            packet.key.destination_port = Port::new(0);
            Parsed::Packet
        }
    };
    if let Parsed::Packet = parsed {
        match packet.key.protocol {
            Protocol::TCP if skb.load(packet.transport + TCP_FLAGS, &mut packet.tcp).is_err() => {
                return Parsed::Malformed;
            }
            Protocol::SCTP => packet.tcp = sctp::flags(skb, packet.transport),
            _ => {}
        }
    }
    if packet.is_first_fragment && matches!(parsed, Parsed::Packet) {
        fragments::remember::<F>(packet);
    }
    parsed
}

#[inline(always)]
fn ports<F: PacketFamily>(skb: Skb, offset: u32, key: &mut ConntrackKey<F::Address>) -> Result<(), Refused> {
    let mut ports = Ports {
        source: 0,
        destination: 0,
    };
    skb.load(offset, &mut ports)?;
    key.source_port = Port::from_network(ports.source);
    key.destination_port = Port::from_network(ports.destination);
    Ok(())
}

#[inline(always)]
fn icmp<F: PacketFamily>(skb: Skb, packet: &mut Packet<F::Address>) -> Result<Parsed, Refused> {
    match echo::<F>(skb, packet.transport, &mut packet.key)? {
        IcmpKind::Request | IcmpKind::Reply => Ok(Parsed::Packet),
        IcmpKind::Other => Ok(Parsed::Other),
        IcmpKind::Error => {
            packet.outer_source = packet.key.source;
            packet.outer_destination = packet.key.destination;
            packet.inner = packet.transport + ICMP_HEADER;
            inner::<F>(skb, packet)
        }
    }
}

/// Reads an ICMP header; the identifier of an echo becomes a port.
#[inline(always)]
fn echo<F: PacketFamily>(
    skb: Skb,
    offset: u32,
    key: &mut ConntrackKey<F::Address>,
) -> Result<IcmpKind, Refused> {
    let mut header = Icmp {
        kind: 0,
        code: 0,
        checksum: 0,
        id: 0,
        sequence: 0,
    };
    skb.load(offset, &mut header)?;
    let kind = if F::VERSION == V4::VERSION {
        match header.kind {
            8 => IcmpKind::Request,
            0 => IcmpKind::Reply,
            3 | 11 | 12 => IcmpKind::Error,
            _ => IcmpKind::Other,
        }
    } else {
        match header.kind {
            128 => IcmpKind::Request,
            129 => IcmpKind::Reply,
            1..=4 => IcmpKind::Error,
            _ => IcmpKind::Other,
        }
    };
    let id = Port::from_network(header.id);
    let none = Port::new(0);
    (key.source_port, key.destination_port) = match kind {
        IcmpKind::Request => (id, none),
        _ => (none, id),
    };
    Ok(kind)
}

/// Reads the packet that an error is about. The key becomes that of its answers, which is what the error is one of.
#[inline(always)]
fn inner<F: PacketFamily>(skb: Skb, packet: &mut Packet<F::Address>) -> Result<Parsed, Refused> {
    match F::parse_inner(skb, packet) {
        Parsed::Error => {}
        other => return Ok(other),
    }
    let offset = packet.inner_transport;
    match packet.key.protocol {
        Protocol::TCP | Protocol::UDP | Protocol::SCTP => ports::<F>(skb, offset, &mut packet.key)?,
        protocol if protocol == F::ICMP => {
            if let IcmpKind::Error | IcmpKind::Other = echo::<F>(skb, offset, &mut packet.key)? {
                return Ok(Parsed::Other);
            }
        }
        _ => return Ok(Parsed::Other),
    }
    packet.key = packet.key.reversed();
    Ok(Parsed::Error)
}
