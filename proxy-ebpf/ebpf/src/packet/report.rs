//! What people are told of packets: counts of those that were dropped, and single events if they ask for them.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use proxy_ebpf_common::{BackendId, DropReason, Event, EventKind, Port, ServiceId};

use super::{
    DROP,
    family::PacketFamily,
    maps::{CONFIG, DROPS, EVENTS},
    scratch::Scratch,
    skb::Skb,
};

/// Counts a packet and tells that it was dropped.
#[inline(never)]
pub(crate) fn drop<F: PacketFamily>(skb: Skb, scratch: &Scratch<F::Address>, reason: DropReason) -> i32 {
    count(reason, skb.length().into());
    if is_monitored(EventKind::DROP) {
        write::<F>(skb, scratch, EventKind::DROP, reason as u32);
    }
    DROP
}

/// Counts a socket's call that was refused.
#[inline(always)]
pub(crate) fn refused_call(reason: DropReason) {
    count(reason, 0);
}

/// Tells that a packet was translated.
#[inline(always)]
pub(crate) fn translated<F: PacketFamily>(skb: Skb, scratch: &Scratch<F::Address>, kind: EventKind) {
    if is_monitored(kind) {
        write::<F>(skb, scratch, kind, 0);
    }
}

#[inline(always)]
fn count(reason: DropReason, bytes: u64) {
    if let Some(count) = DROPS.get_ptr_mut(reason as u32) {
        // SAFETY: the CPU's own.
        let count = unsafe { &mut *count };
        count.packets += 1;
        count.bytes += bytes;
    }
}

#[inline(always)]
fn is_monitored(kind: EventKind) -> bool {
    CONFIG
        .get(0)
        .is_some_and(|config| config.monitored & kind.bit() != 0)
}

#[inline(never)]
fn write<F: PacketFamily>(skb: Skb, scratch: &Scratch<F::Address>, kind: EventKind, reason: u32) {
    let Some(mut event) = EVENTS.reserve::<Event>(0) else {
        return;
    };
    let key = &scratch.packet.key;
    let entry = &scratch.entry;
    let is_drop = kind == EventKind::DROP;
    event.write(Event {
        // SAFETY: a helper without arguments.
        time_ns: unsafe { bpf_ktime_get_boot_ns() },
        kind,
        hook: scratch.packet.hook,
        ip_version: F::VERSION,
        protocol: key.protocol,
        reason,
        ifindex: skb.ifindex(),
        length: skb.length(),
        source: F::words(key.source),
        destination: F::words(key.destination),
        translated_source: if is_drop { [0; 4] } else { F::words(entry.source) },
        translated_destination: if is_drop {
            [0; 4]
        } else {
            F::words(entry.destination)
        },
        source_port: key.source_port,
        destination_port: key.destination_port,
        translated_source_port: if is_drop { Port::new(0) } else { entry.source_port },
        translated_destination_port: if is_drop {
            Port::new(0)
        } else {
            entry.destination_port
        },
        service: if is_drop { ServiceId(0) } else { entry.service },
        backend: if is_drop { BackendId(0) } else { entry.backend },
    });
    event.submit(0);
}
