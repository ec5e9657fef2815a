//! The table of connections: two entries each, one for every direction.

use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_boot_ns};
use proxy_ebpf_common::{
    Address, Conntrack, ConntrackFlags, DropReason, Hook, Port, Protocol, SNAT_PORT_MAX, SNAT_PORT_MIN,
    is_expired, timeouts,
};

use super::{
    family::PacketFamily,
    maps::PRESSURE,
    scratch::{Packet, Scratch},
};

const NS_PER_S: u64 = 1_000_000_000;
const BPF_NOEXIST: u64 = 1;
const EEXIST: i32 = -17;

/// How many ports are tried. With nine tenths of the ports taken, one attempt in thirty fails.
const ATTEMPTS: u32 = 32;
/// So many attempts say that the table needs a clean-up.
const PRESSING: u32 = 8;

/// Seconds since boot.
#[inline(always)]
pub(crate) fn now_s() -> u32 {
    // SAFETY: a helper without arguments.
    (unsafe { bpf_ktime_get_boot_ns() } / NS_PER_S) as u32
}

/// Looks the packet's connection up and notes the packet. Whether there is one; `entry` is what the packet becomes then.
#[inline(never)]
pub(crate) fn track<F: PacketFamily>(scratch: &mut Scratch<F::Address>) -> bool {
    let Some(found) = F::conntrack().get_ptr_mut(&scratch.packet.key) else {
        return false;
    };
    // SAFETY: valid until the program ends. Racing writers write whole integers; whoever loses a race counts one packet less.
    let found = unsafe { &mut *found };
    let now_s = now_s();
    if is_expired(found.expires_s, now_s) {
        return false;
    }
    scratch.entry = *found;
    let flags = found.flags;
    if flags.contains(ConntrackFlags::RESERVED) || is_anothers_direct::<F>(&scratch.packet, flags) {
        return false;
    }
    if flags.disowns(scratch.packet.tcp) && scratch.packet.inner == 0 && scratch.protocol() == Protocol::TCP {
        // The client's connection by the Service must take another port; it asks again.
        remove_partner::<F>(scratch);
        found.flags = flags.union(ConntrackFlags::RESERVED);
        return false;
    }
    if scratch.packet.tcp.opens()
        && !flags.contains(ConntrackFlags::REPLY)
        && begins_anew::<F>(scratch.protocol(), &scratch.entry)
    {
        if flags.contains(ConntrackFlags::DIRECT) {
            // The new one may keep its port: then nothing would tell that the entry is not about it.
            remove_both::<F>(scratch);
        }
        return false;
    }
    if scratch.packet.inner != 0 {
        // An ICMP error is no sign of life.
        return true;
    }
    let after = flags.after(scratch.packet.tcp);
    let timeout_s = after.timeout_s(scratch.protocol());
    let due_s = found.expires_s.wrapping_add(timeouts::TOUCH_S);
    if after != flags || is_expired(due_s, now_s.wrapping_add(timeout_s)) {
        found.flags = after;
        found.expires_s = now_s.wrapping_add(timeout_s);
        scratch.entry.flags = after;
        scratch.entry.expires_s = found.expires_s;
        touch_partner::<F>(scratch);
    }
    true
}

/// Whether the packet is what one to a Service has become, which looks like those of the connection with these flags.
#[inline(always)]
fn is_anothers_direct<F: PacketFamily>(packet: &Packet<F::Address>, flags: ConntrackFlags) -> bool {
    let is_as_sent =
        packet.hook.is_first() || (packet.is_nodes_own && flags.contains(ConntrackFlags::OF_NODE));
    flags.contains(ConntrackFlags::DIRECT) && !flags.contains(ConntrackFlags::REPLY) && !is_as_sent
}

/// Forgets the packet's connection, which is `entry`.
#[inline(always)]
fn remove_both<F: PacketFamily>(scratch: &mut Scratch<F::Address>) {
    // What is not there any more is as good as removed.
    let _ = F::conntrack().remove(&scratch.packet.key);
    remove_partner::<F>(scratch);
}

#[inline(always)]
fn remove_partner<F: PacketFamily>(scratch: &mut Scratch<F::Address>) {
    scratch.partner_key = scratch.entry.partner(scratch.packet.key.protocol);
    let _ = F::conntrack().remove(&scratch.partner_key);
}

/// Whether a SYN of a known connection opens another one: the old one is over, or its backend is gone before it answered. Of
/// SCTP, whose clients use the same port for life, also after it did: whoever begins an association has forgotten the last.
#[inline(always)]
fn begins_anew<F: PacketFamily>(protocol: Protocol, entry: &Conntrack<F::Address>) -> bool {
    let gone = entry.backend.0 != 0
        && (protocol == Protocol::SCTP || !entry.flags.contains(ConntrackFlags::REPLIED))
        && F::backends().get_ptr(entry.backend).is_none();
    entry.flags.is_over() || gone
}

/// Brings the other direction's entry in step, and back if it was evicted.
#[inline(always)]
fn touch_partner<F: PacketFamily>(scratch: &mut Scratch<F::Address>) {
    complete_partner::<F>(scratch);
    if let Some(partner) = F::conntrack().get_ptr_mut(&scratch.partner_key) {
        // SAFETY: as above.
        let partner = unsafe { &mut *partner };
        // Where it was missing, an answer may have been taken for the first packet of another connection.
        if partner.flags.contains(ConntrackFlags::REPLY)
            == scratch.partner.flags.contains(ConntrackFlags::REPLY)
        {
            // Datagrams of the client may go to another backend already, while an answer of the last was on its way.
            if partner.backend == scratch.partner.backend {
                partner.flags = scratch.partner.flags;
                partner.expires_s = scratch.partner.expires_s;
            }
            return;
        }
    }
    // When this fails the next packet tries again.
    let _ = F::conntrack().insert(&scratch.partner_key, &scratch.partner, 0);
}

/// Derives the other direction's entry from this one's.
#[inline(always)]
fn complete_partner<F: PacketFamily>(scratch: &mut Scratch<F::Address>) {
    let key = &scratch.packet.key;
    let entry = &scratch.entry;
    scratch.partner_key = entry.partner(key.protocol);
    scratch.partner = Conntrack {
        source: key.destination,
        destination: key.source,
        source_port: key.destination_port,
        destination_port: key.source_port,
        expires_s: entry.expires_s,
        created_s: entry.created_s,
        flags: entry.flags.partner(),
        service: entry.service,
        backend: entry.backend,
    };
}

/// Notes the connection that the packet opens, whose translation is `entry`, and chooses its source port: two connections
/// must not have answers that look the same.
#[inline(never)]
pub(crate) fn open<F: PacketFamily>(scratch: &mut Scratch<F::Address>) -> Result<(), DropReason> {
    let now_s = now_s();
    let protocol = scratch.protocol();
    if protocol == Protocol::TCP && scratch.packet.tcp.opens() {
        scratch.entry.flags = scratch.entry.flags.union(ConntrackFlags::SEEN_OPENING);
    }
    let timeout_s = scratch.entry.flags.timeout_s(protocol);
    scratch.entry.created_s = now_s;
    scratch.entry.expires_s = now_s.wrapping_add(timeout_s);
    reserve::<F>(scratch, now_s)?;
    let key = &scratch.packet.key;
    if F::conntrack().insert(key, &scratch.entry, 0).is_err() {
        let _ = F::conntrack().remove(&scratch.partner_key);
        return Err(DropReason::ConntrackFull);
    }
    Ok(())
}

/// What a connection that is not translated finds in its way.
pub(crate) enum Beside {
    /// Nothing, or something that is over and gone now.
    Nothing,
    /// Another connection of the same client to the same backend by the same port, but by a Service: answers to the one
    /// would be taken for answers to the other.
    Connection,
}

/// Makes room for a connection that the packet opens and that is not translated. A living one is only told where packets are
/// as they were sent: else the packet may be what one by a Service has become.
#[inline(never)]
pub(crate) fn beside<F: PacketFamily>(scratch: &mut Scratch<F::Address>) -> Beside {
    let protocol = scratch.protocol();
    let is_inside = scratch.packet.hook == Hook::POD_EGRESS || scratch.packet.is_nodes_own;
    let opens = match protocol {
        Protocol::TCP | Protocol::SCTP => scratch.packet.tcp.opens(),
        // Any datagram may be the first. Those that other nodes' pods send are worth no look at each of them; of the world's,
        // only the first is not noted yet.
        Protocol::UDP => is_inside,
        _ => false,
    };
    if !opens {
        return Beside::Nothing;
    }
    scratch.partner_key = scratch.packet.key.reversed();
    let answers = whose_answers::<F>(scratch);
    if matches!(answers, Answers::Another) {
        return Beside::Connection;
    }
    if is_inside && protocol != Protocol::UDP && matches!(answers, Answers::Nobody) {
        // When this fails, who asks for the same port by a Service meanwhile may break both connections.
        let _ = F::opening().insert(&scratch.partner_key, now_s(), 0);
    }
    Beside::Nothing
}

/// Whether answers to the packet would be taken for those of another connection.
#[inline(always)]
pub(crate) fn is_answered_for_another<F: PacketFamily>(scratch: &mut Scratch<F::Address>) -> bool {
    scratch.partner_key = scratch.packet.key.reversed();
    matches!(whose_answers::<F>(scratch), Answers::Another)
}

/// Whose connection answers of `partner_key` are.
enum Answers {
    /// Nobody's.
    Nobody,
    /// Perhaps that of the packet itself, which is translated.
    Own,
    /// Another one's.
    Another,
}

/// Looks up who gets answers of `partner_key`. A connection that is over is removed where that is all that can be said.
#[inline(always)]
fn whose_answers<F: PacketFamily>(scratch: &mut Scratch<F::Address>) -> Answers {
    // SAFETY: a reused element can at worst show another connection's entry, for which this one would get another port.
    let Some(existing) = (unsafe { F::conntrack().get(&scratch.partner_key) }) else {
        return Answers::Nobody;
    };
    let flags = existing.flags;
    if !flags.contains(ConntrackFlags::REPLY)
        || flags.contains(ConntrackFlags::RESERVED)
        || is_expired(existing.expires_s, now_s())
    {
        return Answers::Nobody;
    }
    // Of what the node's own processes send, only a connection of theirs is told: others have ports that they do not get.
    if scratch.packet.hook.is_first()
        || (scratch.packet.is_nodes_own && flags.contains(ConntrackFlags::REROUTE))
    {
        // Also where it is over: its backend may still wait for what is on its way.
        return Answers::Another;
    }
    if flags.is_over() {
        scratch.entry = *existing;
        let _ = F::conntrack().remove(&scratch.partner_key);
        remove_partner::<F>(scratch);
    }
    Answers::Own
}

/// Inserts the reply's entry under a key that no other connection has: its destination port is what was chosen.
#[inline(always)]
fn reserve<F: PacketFamily>(scratch: &mut Scratch<F::Address>, now_s: u32) -> Result<(), DropReason> {
    let own = scratch.packet.key.source_port;
    // An address that is only the client's has all ports; those of the node are shared with the node.
    let shared = scratch
        .entry
        .flags
        .contains(ConntrackFlags::SNAT.union(ConntrackFlags::REQUESTS_FROM_NODE));
    let keeps = if shared {
        own.get() >= SNAT_PORT_MIN
    } else {
        !is_opening::<F>(scratch, own, now_s)
    };
    for attempt in 0..ATTEMPTS {
        scratch.entry.source_port = if attempt == 0 && keeps { own } else { random_port() };
        complete_partner::<F>(scratch);
        let inserted = F::conntrack().insert(&scratch.partner_key, &scratch.partner, BPF_NOEXIST);
        match inserted {
            Ok(()) => return Ok(()),
            Err(EEXIST) => {}
            Err(_) => return Err(DropReason::ConntrackFull),
        }
        if is_free::<F>(scratch, now_s) {
            let replaced = F::conntrack().insert(&scratch.partner_key, &scratch.partner, 0);
            return replaced.map_err(|_| DropReason::ConntrackFull);
        }
        if attempt == PRESSING {
            // Whether the buffer has room or holds this wish already is the same.
            let _ = PRESSURE.output::<u32>(&now_s, 0);
        }
    }
    Err(DropReason::SnatPorts)
}

/// Whether the client has just opened a connection to the same backend that is not translated, by this port.
#[inline(always)]
fn is_opening<F: PacketFamily>(scratch: &mut Scratch<F::Address>, own: Port, now_s: u32) -> bool {
    scratch.entry.source_port = own;
    scratch.partner_key = scratch.entry.partner(scratch.packet.key.protocol);
    // SAFETY: a reused element can at worst show when another connection was opened: this one would get another port.
    let opened_s = unsafe { F::opening().get(&scratch.partner_key) };
    opened_s.is_some_and(|opened_s| !is_expired(opened_s.wrapping_add(timeouts::DIRECT_OPENING_S), now_s))
}

/// Whether an existing reply's entry is dead, or is of the connection that is being opened.
#[inline(always)]
fn is_free<F: PacketFamily>(scratch: &Scratch<F::Address>, now_s: u32) -> bool {
    // SAFETY: a reused element can at worst show another connection's entry, whose key is compared.
    let Some(existing) = (unsafe { F::conntrack().get(&scratch.partner_key) }) else {
        return true;
    };
    let key = &scratch.packet.key;
    is_expired(existing.expires_s, now_s)
        || (!existing.flags.contains(ConntrackFlags::RESERVED)
            && existing.destination.is(key.source)
            && existing.destination_port == key.source_port
            && existing.source.is(key.destination)
            && existing.source_port == key.destination_port)
}

#[inline(always)]
fn random_port() -> Port {
    const COUNT: u32 = (SNAT_PORT_MAX - SNAT_PORT_MIN) as u32 + 1;
    // SAFETY: a helper without arguments.
    let random = unsafe { bpf_get_prandom_u32() };
    let offset = (u64::from(random) * u64::from(COUNT)) >> 32;
    Port::new(SNAT_PORT_MIN + offset as u16)
}

/// Whether a protocol's connections can be told apart by ports.
#[inline(always)]
pub(crate) fn has_ports(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::TCP | Protocol::UDP | Protocol::SCTP)
}
