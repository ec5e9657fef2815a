//! Answers of the node itself: a reset, an abort or an ICMP error in place of the Service. The packet at hand becomes its own answer.
//!
//! Checksums of answers are written in full. If that of the packet was yet to be computed by a device, so is, for the kernel,
//! that of the answer; whoever takes it from there without a wire between does not look at it.

use proxy_ebpf_common::{Address, DropReason, Hook, Protocol, TcpFlags};

use super::{
    DROP,
    conntrack::now_s,
    family::PacketFamily,
    maps::ERRORS,
    report::drop,
    scratch::{REPLY, Scratch},
    sctp,
    skb::{ETHERNET, Refused, Skb, checksum, from_device, sum, sum_bytes, to_device},
};

/// ICMP errors that one CPU sends in a second at most: enough to tell clients, too few to be of use to an attacker.
const ERRORS_PER_S: u32 = 1000;
/// Of the packet inside an error, that many bytes follow its header: the ports.
const QUOTED: u32 = 8;
const ICMP_HEADER: u32 = 8;
const TCP_HEADER: u32 = 20;

#[repr(C)]
#[derive(Clone, Copy)]
struct Tcp {
    source: u16,
    destination: u16,
    sequence: u32,
    acknowledged: u32,
    /// Length of the header in units of four bytes, in the upper half.
    length: u8,
    flags: TcpFlags,
    window: u16,
    checksum: u16,
    urgent: u16,
}

impl Tcp {
    const EMPTY: Self = Self {
        source: 0,
        destination: 0,
        sequence: 0,
        acknowledged: 0,
        length: 5 << 4,
        flags: TcpFlags(0),
        window: 0,
        checksum: 0,
        urgent: 0,
    };
}

#[repr(C)]
#[derive(Clone, Copy)]
struct IcmpError {
    kind: u8,
    code: u8,
    checksum: u16,
    /// The largest packet that fits, in network byte order. IPv4 uses the second half of it.
    mtu: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Macs {
    first: [u8; 6],
    second: [u8; 6],
}

/// Tells the sender that nobody is there.
#[inline(never)]
pub(crate) fn refuse<F: PacketFamily>(
    skb: Skb,
    scratch: &mut Scratch<F::Address>,
    reason: DropReason,
) -> i32 {
    let dropped = drop::<F>(skb, scratch, reason);
    let has_header = scratch.packet.transport != 0;
    let answered = match scratch.packet.key.protocol {
        Protocol::TCP if has_header && !scratch.packet.tcp.contains(TcpFlags::RST) => {
            reset::<F>(skb, scratch)
        }
        // An error would be no more than a hint: clients go on for minutes.
        Protocol::SCTP if has_header => abort::<F>(skb, scratch),
        Protocol::TCP | Protocol::SCTP => return dropped,
        _ => error::<F>(skb, scratch, F::UNREACHABLE, 0),
    };
    match answered {
        Ok(true) => send_back(skb, scratch.packet.hook),
        _ => dropped,
    }
}

/// Tells the sender how large its packets may be.
#[inline(never)]
pub(crate) fn too_big<F: PacketFamily>(skb: Skb, scratch: &mut Scratch<F::Address>) -> i32 {
    let dropped = drop::<F>(skb, scratch, DropReason::TooBig);
    let mtu = scratch.way.mtu;
    match error::<F>(skb, scratch, F::TOO_BIG, mtu) {
        Ok(true) => send_back(skb, scratch.packet.hook),
        _ => dropped,
    }
}

#[inline(always)]
fn send_back(skb: Skb, hook: Hook) -> i32 {
    match hook {
        Hook::NODE_EGRESS => from_device(skb.ifindex()),
        Hook::POD_EGRESS | Hook::NODE_INGRESS => to_device(skb.ifindex()),
        _ => DROP,
    }
}

/// Makes the packet a TCP reset that its sender accepts.
#[inline(always)]
fn reset<F: PacketFamily>(skb: Skb, scratch: &Scratch<F::Address>) -> Result<bool, Refused> {
    let packet = &scratch.packet;
    let mut received = Tcp::EMPTY;
    skb.load(packet.transport, &mut received)?;
    let mut reply = Tcp {
        source: received.destination,
        destination: received.source,
        flags: TcpFlags::RST,
        ..Tcp::EMPTY
    };
    if received.flags.contains(TcpFlags::ACK) {
        reply.sequence = received.acknowledged;
    } else {
        let headers = packet.transport - ETHERNET + u32::from(received.length >> 4) * 4;
        let data = u32::from(packet.length).wrapping_sub(headers);
        let numbers = data
            + u32::from(received.flags.contains(TcpFlags::SYN))
            + u32::from(received.flags.contains(TcpFlags::FIN));
        reply.acknowledged = u32::from_be(received.sequence).wrapping_add(numbers).to_be();
        reply.flags = TcpFlags(TcpFlags::RST.0 | TcpFlags::ACK.0);
    }
    let length = TCP_HEADER as u16;
    let pseudo_header = F::reply_pseudo_header(packet, Protocol::TCP, length);
    reply.checksum = checksum(sum(&reply, pseudo_header));
    turn_around::<F>(skb, scratch, Protocol::TCP, length)?;
    skb.store(ETHERNET + F::HEADER, &reply)?;
    Ok(true)
}

/// Makes the packet SCTP's abort, unless it is one that is not answered.
#[inline(never)]
fn abort<F: PacketFamily>(skb: Skb, scratch: &Scratch<F::Address>) -> Result<bool, Refused> {
    let Some(reply) = sctp::abort(skb, scratch.packet.transport)? else {
        return Ok(false);
    };
    turn_around::<F>(skb, scratch, Protocol::SCTP, sctp::SHORT)?;
    skb.store(ETHERNET + F::HEADER, &reply)?;
    Ok(true)
}

/// Makes the packet an ICMP error about itself. False: there have been enough of those.
#[inline(always)]
fn error<F: PacketFamily>(
    skb: Skb,
    scratch: &mut Scratch<F::Address>,
    [kind, code]: [u8; 2],
    mtu: u32,
) -> Result<bool, Refused> {
    // Nobody answers to nobody, nor to an error.
    if scratch.packet.inner != 0
        || scratch.packet.transport == 0
        || scratch.packet.key.source.is_unspecified()
        || !may_send()
    {
        return Ok(false);
    }
    let mut header = IcmpError {
        kind,
        code,
        checksum: 0,
        mtu: mtu.to_be(),
    };
    let quoted = F::HEADER + QUOTED;
    let length = ICMP_HEADER + quoted;
    let reply = &mut scratch.reply;
    const { assert!(8 + 40 + 8 <= REPLY) };
    skb.load_bytes(ETHERNET, reply, quoted)?;
    let seed = F::reply_pseudo_header(&scratch.packet, F::ICMP, length as u16);
    let seed = sum(&header, seed);
    header.checksum = checksum(sum_bytes(&scratch.reply, quoted, seed));
    turn_around::<F>(skb, scratch, F::ICMP, length as u16)?;
    skb.store(ETHERNET + F::HEADER, &header)?;
    skb.store_bytes(ETHERNET + F::HEADER + ICMP_HEADER, &scratch.reply, quoted)?;
    Ok(true)
}

/// Makes the packet one from its destination to its source, with `length` bytes after the header.
#[inline(always)]
fn turn_around<F: PacketFamily>(
    skb: Skb,
    scratch: &Scratch<F::Address>,
    protocol: Protocol,
    length: u16,
) -> Result<(), Refused> {
    skb.set_length(ETHERNET + F::HEADER + u32::from(length))?;
    let mut macs = Macs {
        first: [0; 6],
        second: [0; 6],
    };
    skb.load(0, &mut macs)?;
    let macs = Macs {
        first: macs.second,
        second: macs.first,
    };
    skb.store(0, &macs)?;
    F::write_reply_header(skb, &scratch.packet, protocol, length)
}

#[inline(always)]
fn may_send() -> bool {
    let Some(budget) = ERRORS.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: the CPU's own.
    let budget = unsafe { &mut *budget };
    let second = now_s();
    if budget.second != second {
        budget.second = second;
        budget.sent = 0;
    }
    budget.sent += 1;
    budget.sent <= ERRORS_PER_S
}
