//! Where packets go: into a pod of this node, out of an uplink, or the way that the node's own routing finds.

use aya_ebpf::bindings::bpf_fib_lookup;
use proxy_ebpf_common::{Address, ConntrackFlags, DeviceFlags, DropReason, EventKind, Hook, LocalPod};

use super::{
    CONTINUE,
    family::PacketFamily,
    maps::DEVICES,
    reject,
    report::{self, drop},
    rewrite::{rewrite, rewrite_error},
    scratch::{Scratch, WayKind},
    skb::{Refused, Skb, to_device, to_neighbour, to_peer},
};
use crate::maps::node_by_packets;

const FIB_SUCCESS: i32 = 0;
const FIB_NOT_FORWARDED: i32 = 4;
const FIB_NO_NEIGHBOUR: i32 = 7;
const FIB_TOO_BIG: i32 = 8;

/// What a router of last resort is told where the kernel does not say: the least that IPv6 allows.
const MTU_MIN: u32 = 1280;

/// Source and destination of an Ethernet header, in the order of the wire.
#[repr(C)]
#[derive(Clone, Copy)]
struct Macs {
    destination: [u8; 6],
    source: [u8; 6],
}

/// Where a translated packet goes.
enum Exit {
    /// Nowhere yet: it is translated by a later hook.
    Later,
    /// On its way, as if nothing had happened.
    Stack,
    /// To a pod of this node. By reference: a copy is moved about in words, and kernels before 6.3 refuse to read those that
    /// the other variants have not written.
    Pod(&'static LocalPod),
    /// The way that [`find_way`] has found.
    Way,
}

/// Translates the packet as `entry` says and sends it on.
#[inline(never)]
pub(crate) fn translated<F: PacketFamily>(skb: Skb, scratch: &mut Scratch<F::Address>) -> i32 {
    let exit = match exit::<F>(skb, scratch) {
        Ok(Exit::Later) => return CONTINUE,
        Ok(exit) => exit,
        Err(DropReason::TooBig) => return reject::too_big::<F>(skb, scratch),
        Err(reason) => return drop::<F>(skb, scratch, reason),
    };
    if is_final(&exit, scratch.packet.hook, scratch.entry.flags) {
        skb.mark_translated();
    }
    if apply::<F>(skb, scratch).is_err() {
        return drop::<F>(skb, scratch, DropReason::Rewrite);
    }
    if !matches!(exit, Exit::Stack) && F::decrement_ttl(skb, &scratch.packet).is_err() {
        return drop::<F>(skb, scratch, DropReason::Rewrite);
    }
    match exit {
        Exit::Pod(pod) => {
            // Of a Service outside the cluster the pod's own device still has to make the Service of its backend.
            let is_masqueraded = ConntrackFlags::MASQUERADE.union(ConntrackFlags::REPLY);
            let past_veth = scratch.packet.hook.is_first() && !scratch.entry.flags.contains(is_masqueraded);
            to_pod::<F>(skb, scratch, pod, past_veth)
        }
        Exit::Way => to_neighbour(scratch.way.ifindex, &mut scratch.way.next_hop),
        _ => CONTINUE,
    }
}

/// Whether the packet has to take another way than the node's routing has found for the Service's address.
#[inline(always)]
fn reroutes(hook: Hook, flags: ConntrackFlags) -> bool {
    hook == Hook::NODE_EGRESS
        && flags.contains(ConntrackFlags::REROUTE)
        && !flags.contains(ConntrackFlags::REPLY)
}

/// Whether the next device's program might take the packet, once it is translated, for another one: what a process of the
/// node has sent for one that nobody has seen yet, and an answer of a direct connection for one of the Service's.
#[inline(always)]
fn is_final(exit: &Exit, hook: Hook, flags: ConntrackFlags) -> bool {
    let is_direct_answer = flags.contains(ConntrackFlags::DIRECT.union(ConntrackFlags::REPLY));
    (node_by_packets() && reroutes(hook, flags))
        || (is_direct_answer && hook.is_first() && matches!(exit, Exit::Stack))
}

#[inline(always)]
fn exit<F: PacketFamily>(skb: Skb, scratch: &mut Scratch<F::Address>) -> Result<Exit, DropReason> {
    let flags = scratch.entry.flags;
    let hook = scratch.packet.hook;
    let reroutes = reroutes(hook, flags);
    // What comes from the world for a pod goes by the node's own routing, whose rules may not let it pass.
    let from_world = hook == Hook::NODE_INGRESS
        && flags.contains(ConntrackFlags::DIRECT)
        && !flags.contains(ConntrackFlags::REPLY);
    if (!hook.is_first() && !reroutes) || from_world {
        return Ok(Exit::Stack);
    }
    let is_last_hop = scratch.packet.ttl <= 1;
    // SAFETY: no preallocation, so elements are freed only after this program has run.
    if let Some(pod) = unsafe { F::local_pods().get(&scratch.entry.destination) } {
        return if is_last_hop {
            Err(DropReason::TtlExceeded)
        } else {
            Ok(Exit::Pod(pod))
        };
    }
    let from_node = flags.from_node() && (scratch.packet.inner == 0 || replaces_outer_source::<F>(scratch));
    if !from_node && !reroutes {
        return Ok(Exit::Stack);
    }
    find_way::<F>(skb, scratch, scratch.entry.source);
    // What a pod sends can still be translated once the node's own routing has found it a way out.
    let later = hook == Hook::POD_EGRESS;
    match scratch.way.kind {
        // Whoever has opened it on this node gets the answer from the node's own routing.
        WayKind::Stack if flags.contains(ConntrackFlags::REROUTE) => Ok(Exit::Stack),
        WayKind::Uplink | WayKind::Other if !is_last_hop => Ok(Exit::Way),
        _ if later => Ok(Exit::Later),
        WayKind::Uplink | WayKind::Other => Err(DropReason::TtlExceeded),
        WayKind::TooBig => Err(DropReason::TooBig),
        WayKind::Stack | WayKind::None => Err(DropReason::NoRoute),
    }
}

/// Sends a packet of a pod that is not translated straight to another pod of this node.
#[inline(always)]
pub(crate) fn to_local_pod<F: PacketFamily>(skb: Skb, scratch: &mut Scratch<F::Address>) -> i32 {
    // SAFETY: no preallocation, so elements are freed only after this program has run.
    let Some(pod) = (unsafe { F::local_pods().get(&scratch.packet.key.destination) }) else {
        return CONTINUE;
    };
    // A packet at the end of its life is the node's own routing's, which says so.
    if scratch.packet.ttl <= 1 || F::decrement_ttl(skb, &scratch.packet).is_err() {
        return CONTINUE;
    }
    to_pod::<F>(skb, scratch, pod, true)
}

/// Gives the packet to a pod of this node: past the veth where the hook can and the pod lets it, else by it.
#[inline(always)]
pub(crate) fn to_pod<F: PacketFamily>(
    skb: Skb,
    scratch: &Scratch<F::Address>,
    pod: &LocalPod,
    past_veth: bool,
) -> i32 {
    let macs = Macs {
        destination: pod.pod_mac,
        source: pod.host_mac,
    };
    if skb.store(0, &macs).is_err() {
        return drop::<F>(skb, scratch, DropReason::Rewrite);
    }
    if past_veth && scratch.packet.reaches_peers && pod.identity & LocalPod::BY_DEVICE == 0 {
        to_peer(pod.ifindex)
    } else {
        to_device(pod.ifindex)
    }
}

#[inline(always)]
fn apply<F: PacketFamily>(skb: Skb, scratch: &mut Scratch<F::Address>) -> Result<(), Refused> {
    report::translated::<F>(skb, scratch, EventKind::TRANSLATED);
    if scratch.packet.inner == 0 {
        rewrite::<F>(skb, scratch)
    } else {
        rewrite_error::<F>(skb, scratch)
    }
}

/// Whether an ICMP error comes from the very host that its packet was meant for, rather than from a router on the way.
#[inline(always)]
pub(crate) fn replaces_outer_source<F: PacketFamily>(scratch: &Scratch<F::Address>) -> bool {
    scratch.packet.outer_source.is(scratch.packet.key.source)
}

/// Asks the routing table for the way to the packet's new destination.
#[inline(never)]
pub(crate) fn find_way<F: PacketFamily>(skb: Skb, scratch: &mut Scratch<F::Address>, source: F::Address) {
    // SAFETY: plain integers.
    let mut query: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    F::question(&mut query, source, scratch.entry.destination);
    query.l4_protocol = scratch.packet.key.protocol.0;
    query.sport = scratch.entry.source_port.to_network();
    query.dport = scratch.entry.destination_port.to_network();
    query.ifindex = skb.ifindex();
    // Several packets in one are taken apart before they leave; each of them fits.
    query.__bindgen_anon_1.tot_len = if skb.is_gso() { 0 } else { scratch.packet.length };
    let result = skb.route(&mut query);
    scratch.way.ifindex = query.ifindex;
    scratch.way.kind = match result {
        FIB_SUCCESS | FIB_NO_NEIGHBOUR => {
            // SAFETY: no preallocation, so elements are freed only after this program has run.
            let device = unsafe { DEVICES.get(&query.ifindex) };
            if device.is_some_and(|device| device.flags.contains(DeviceFlags::UPLINK)) {
                WayKind::Uplink
            } else {
                WayKind::Other
            }
        }
        FIB_NOT_FORWARDED => WayKind::Stack,
        FIB_TOO_BIG => WayKind::TooBig,
        _ => WayKind::None,
    };
    // SAFETY: both members are integers. Kernels before 5.13 leave the packet's length there.
    let mtu = u32::from(unsafe { query.__bindgen_anon_1.mtu_result });
    scratch.way.mtu = if mtu < u32::from(scratch.packet.length) {
        mtu
    } else {
        MTU_MIN
    };
    scratch.way.next_hop = F::next_hop(&query);
}
