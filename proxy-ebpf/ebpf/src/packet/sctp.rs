//! SCTP's ports, which its checksum covers; the addresses it does not. And what its chunks mean for a connection.

use proxy_ebpf_common::{TcpFlags, sctp_checksum_change, sctp_short_checksum};

use super::{
    parse::Ports,
    skb::{ETHERNET, Refused, Skb},
};

const CHECKSUM: u32 = 8;
/// Offset of the first chunk.
const CHUNK: u32 = 12;

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const ERROR: u8 = 9;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;
/// Of an abort: its verification tag is that of the packet that it answers.
const REFLECTED: u8 = 1;

/// Length of a packet with one chunk that has no content.
pub(crate) const SHORT: u16 = 16;

/// A header and the beginning of the first chunk.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Short {
    ports: Ports,
    tag: u32,
    checksum: u32,
    kind: u8,
    flags: u8,
    /// In network byte order.
    length: u16,
}

/// What the first chunk is in terms of TCP: the association's first packet, the answer to that, or its last one.
#[inline(always)]
pub(crate) fn flags(skb: Skb, offset: u32) -> TcpFlags {
    let mut kind = 0_u8;
    if skb.load(offset + CHUNK, &mut kind).is_err() {
        return TcpFlags::default();
    }
    match kind {
        INIT => TcpFlags::SYN,
        INIT_ACK => TcpFlags(TcpFlags::SYN.0 | TcpFlags::ACK.0),
        ABORT | SHUTDOWN_COMPLETE => TcpFlags::RST,
        _ => TcpFlags::default(),
    }
}

/// The abort that tells the sender of a packet that there is no association (RFC 9260, 8.4). None: such a packet is not
/// answered.
#[inline(always)]
pub(crate) fn abort(skb: Skb, offset: u32) -> Result<Option<Short>, Refused> {
    let mut received = Short {
        ports: Ports {
            source: 0,
            destination: 0,
        },
        tag: 0,
        checksum: 0,
        kind: 0,
        flags: 0,
        length: 0,
    };
    skb.load(offset, &mut received)?;
    if matches!(received.kind, ABORT | ERROR | COOKIE_ACK | SHUTDOWN_COMPLETE) {
        return Ok(None);
    }
    let mut reply = Short {
        ports: Ports {
            source: received.ports.destination,
            destination: received.ports.source,
        },
        tag: received.tag,
        checksum: 0,
        kind: ABORT,
        flags: REFLECTED,
        length: 4_u16.to_be(),
    };
    if received.kind == INIT {
        // The sender's own tag is the first that the chunk says.
        skb.load(offset + u32::from(SHORT), &mut reply.tag)?;
        reply.flags = 0;
    }
    // Zero: whoever was to compute that of the packet computes this one.
    if received.checksum != 0 {
        let ports = u32::from(reply.ports.source) | u32::from(reply.ports.destination) << 16;
        let chunk = u32::from(reply.kind) | u32::from(reply.flags) << 8 | u32::from(reply.length) << 16;
        reply.checksum = sctp_short_checksum([ports, reply.tag, chunk]);
    }
    Ok(Some(reply))
}

/// Writes ports and corrects the checksum. `length` is that of the packet from its transport header on.
#[inline(never)]
pub(crate) fn ports(skb: Skb, offset: u32, length: u16, from: u32, to: u32) -> Result<(), Refused> {
    if from == to {
        return Ok(());
    }
    let mut checksum = 0_u32;
    skb.load(offset + CHECKSUM, &mut checksum)?;
    // Zero: the device is to compute it. Of those that are computed one in four billion is zero and gets lost.
    if checksum != 0 {
        checksum ^= sctp_checksum_change(from ^ to, length);
        skb.store(offset + CHECKSUM, &checksum)?;
    }
    let ports = Ports {
        source: to as u16,
        destination: (to >> 16) as u16,
    };
    skb.store(offset, &ports)
}

/// Length of the packet from its transport header on.
#[inline(always)]
pub(crate) fn length(offset: u32, length: u16) -> u16 {
    length.wrapping_sub(offset.wrapping_sub(ETHERNET) as u16)
}
