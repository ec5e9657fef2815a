//! Connections that a packet opens: to a backend of a Service, or to the world by this node's address.

use aya_ebpf::maps::lpm_trie::Key;
use proxy_ebpf_common::{
    Address, BackendId, ConntrackFlags, DeviceFlags, DropReason, EventKind, FrontendFlags, Hook, Node,
    NodeKey, Protocol, ServiceId,
};

use super::{
    CONTINUE, TRANSLATE, balance,
    conntrack::{Beside, beside, has_ports, is_answered_for_another, open},
    family::PacketFamily,
    forward,
    maps::DEVICES,
    reject,
    report::{drop, translated},
    scratch::{Scratch, WayKind},
    skb::Skb,
};

/// Opens a connection to a backend of `frontend`. The result is [`TRANSLATE`], or what becomes of the packet instead.
#[inline(never)]
pub(crate) fn to_service<F: PacketFamily>(skb: Skb, scratch: &mut Scratch<F::Address>) -> i32 {
    let protocol = scratch.protocol();
    if !has_ports(protocol) {
        let is_icmp = protocol == F::ICMP;
        let reason = if is_icmp {
            DropReason::ServiceEcho
        } else {
            DropReason::UnknownProtocol
        };
        return drop::<F>(skb, scratch, reason);
    }
    if scratch.frontend_has(FrontendFlags::SOURCE_RANGES) && !balance::admits::<F>(scratch) {
        return drop::<F>(skb, scratch, DropReason::SourceRange);
    }
    if scratch.frontend.slots == 0 {
        return nobody::<F>(skb, scratch);
    }
    // The agent removes a slot after lowering the count, and a backend after its slots; whoever read the count before that
    // finds nothing, once, and reads the new count at the second attempt.
    let chosen = balance::choose::<F>(scratch)
        || (balance::find::<F>(scratch) && scratch.frontend.slots > 0 && balance::choose::<F>(scratch));
    if !chosen {
        return drop::<F>(skb, scratch, DropReason::NoBackend);
    }
    if let Err(reason) = plan::<F>(skb, scratch) {
        if reason == DropReason::TooBig {
            return reject::too_big::<F>(skb, scratch);
        }
        return drop::<F>(skb, scratch, reason);
    }
    if let Err(reason) = open::<F>(scratch) {
        return drop::<F>(skb, scratch, reason);
    }
    translated::<F>(skb, scratch, EventKind::NEW);
    TRANSLATE
}

/// Answers for a Service without backends.
#[inline(always)]
fn nobody<F: PacketFamily>(skb: Skb, scratch: &mut Scratch<F::Address>) -> i32 {
    if scratch.frontend_has(FrontendFlags::ELSEWHERE) {
        // Whoever balances over the nodes has not noticed yet; the client should try again, not give up.
        return drop::<F>(skb, scratch, DropReason::NoLocalEndpoints);
    }
    if scratch.is_other_port != 0 {
        // The world gets no answer that would tell which addresses exist.
        if scratch.packet.hook == Hook::NODE_INGRESS {
            return drop::<F>(skb, scratch, DropReason::UnknownPort);
        }
        return reject::refuse::<F>(skb, scratch, DropReason::UnknownPort);
    }
    reject::refuse::<F>(skb, scratch, DropReason::NoEndpoints)
}

/// Decides whose address the backend sees, so that its answers come back by this node.
#[inline(always)]
fn plan<F: PacketFamily>(skb: Skb, scratch: &mut Scratch<F::Address>) -> Result<(), DropReason> {
    let mut flags = ConntrackFlags::default();
    if scratch.frontend_has(FrontendFlags::EXTERNAL) {
        flags = flags.union(ConntrackFlags::REPLIES_FROM_NODE);
    }
    match scratch.packet.hook {
        Hook::POD_EGRESS if scratch.entry.destination.is(scratch.packet.key.source) => {
            // A pod that gets a packet from itself would answer it within.
            scratch.entry.source = F::HAIRPIN;
            flags = flags.union(ConntrackFlags::SNAT).union(ConntrackFlags::HAIRPIN);
        }
        Hook::NODE_INGRESS => {
            let backend = scratch.entry.destination;
            if F::local_pods().get_ptr(&backend).is_none() {
                forward::find_way::<F>(skb, scratch, F::Address::UNSPECIFIED);
                match scratch.way.kind {
                    WayKind::Uplink => {
                        scratch.entry.source = address_at::<F>(scratch.way.ifindex)?;
                        flags = flags
                            .union(ConntrackFlags::SNAT)
                            .union(ConntrackFlags::REQUESTS_FROM_NODE)
                            .union(ConntrackFlags::REPLIES_FROM_NODE);
                    }
                    WayKind::None => return Err(DropReason::NoRoute),
                    WayKind::TooBig => return Err(DropReason::TooBig),
                    // Local: the answer comes from this node, if not from a pod.
                    WayKind::Stack | WayKind::Other => {}
                }
            }
        }
        Hook::NODE_EGRESS => flags = flags.union(ConntrackFlags::REROUTE),
        _ => {}
    }
    scratch.entry.flags = flags;
    Ok(())
}

/// Lets a connection pass that is for no Service, by another port where its own is taken by one that is. The result is that
/// of [`to_service`]; [`CONTINUE`]: it passes as it is.
#[inline(always)]
pub(crate) fn directly<F: PacketFamily>(skb: Skb, scratch: &mut Scratch<F::Address>) -> i32 {
    match beside::<F>(scratch) {
        Beside::Nothing => CONTINUE,
        Beside::Connection => by_another_port::<F>(skb, scratch),
    }
}

/// Opens a connection that is for no Service and gets another port. The result is that of [`to_service`].
#[inline(never)]
fn by_another_port<F: PacketFamily>(skb: Skb, scratch: &mut Scratch<F::Address>) -> i32 {
    let (destination, port) = (
        scratch.packet.key.destination,
        scratch.packet.key.destination_port,
    );
    scratch.begin(destination, port, ServiceId(0), BackendId(0));
    scratch.entry.flags = if scratch.packet.hook.is_first() {
        ConntrackFlags::DIRECT
    } else {
        ConntrackFlags::DIRECT.union(ConntrackFlags::OF_NODE)
    };
    if let Err(reason) = open::<F>(scratch) {
        return drop::<F>(skb, scratch, reason);
    }
    translated::<F>(skb, scratch, EventKind::NEW);
    TRANSLATE
}

/// The node's address at a device.
#[inline(always)]
fn address_at<F: PacketFamily>(ifindex: u32) -> Result<F::Address, DropReason> {
    // SAFETY: no preallocation, so elements are freed only after this program has run.
    let device = unsafe { DEVICES.get(&ifindex) }.ok_or(DropReason::NoNodeAddress)?;
    let address = F::address_of(device);
    if address.is_unspecified() {
        return Err(DropReason::NoNodeAddress);
    }
    Ok(address)
}

/// Notes a connection that somebody in the world opens to a pod, past the Services: its answers must not be masqueraded. The
/// result is that of [`directly`].
#[inline(never)]
pub(crate) fn from_world<F: PacketFamily>(skb: Skb, scratch: &mut Scratch<F::Address>) -> i32 {
    let (source, destination) = (scratch.packet.key.source, scratch.packet.key.destination);
    let protocol = scratch.protocol();
    if !has_ports(protocol) || !is_masqueraded::<F>(skb.ifindex(), destination, source) {
        return CONTINUE;
    }
    // Of the other protocols only what opens a connection is a new one; the rest is another's, or of one already forgotten.
    if protocol == Protocol::UDP && is_answered_for_another::<F>(scratch) {
        return by_another_port::<F>(skb, scratch);
    }
    let port = scratch.packet.key.destination_port;
    scratch.begin(destination, port, ServiceId(0), BackendId(0));
    scratch.entry.flags = ConntrackFlags::AS_IT_IS;
    // When this fails the next packet tries again.
    let _ = open::<F>(scratch);
    CONTINUE
}

/// Whether what a pod sends to somebody leaves a device with the node's address.
#[inline(always)]
fn is_masqueraded<F: PacketFamily>(ifindex: u32, pod: F::Address, other: F::Address) -> bool {
    // SAFETY: no preallocation, so elements are freed only after this program has run.
    let device = unsafe { DEVICES.get(&ifindex) };
    device.is_some_and(|device| device.flags.contains(DeviceFlags::MASQUERADE))
        && network_of::<F>(pod) == Some(Node::LOCAL)
        && network_of::<F>(other).is_none()
        && F::node_addresses().get_ptr(&other).is_none()
}

/// Opens a connection from the node's address for what a pod sends to the world. The result is that of [`to_service`].
#[inline(never)]
pub(crate) fn masquerade<F: PacketFamily>(skb: Skb, scratch: &mut Scratch<F::Address>) -> i32 {
    let (source, destination) = (scratch.packet.key.source, scratch.packet.key.destination);
    if !is_masqueraded::<F>(skb.ifindex(), source, destination) {
        return CONTINUE;
    }
    let protocol = scratch.protocol();
    // Answers open nothing. Whose they are is forgotten; with another source they would be nobody's.
    if protocol == Protocol::TCP && scratch.packet.tcp.answers() {
        return CONTINUE;
    }
    // An echo's reply answers a request that came in without being translated, so it may leave like that.
    let is_request = protocol == F::ICMP && scratch.packet.key.destination_port.get() == 0;
    if !has_ports(protocol) && !is_request {
        return CONTINUE;
    }
    let port = scratch.packet.key.destination_port;
    scratch.begin(destination, port, ServiceId(0), BackendId(0));
    let opened = address_at::<F>(skb.ifindex()).and_then(|address| {
        scratch.entry.source = address;
        scratch.entry.flags = ConntrackFlags::MASQUERADE
            .union(ConntrackFlags::SNAT)
            .union(ConntrackFlags::REQUESTS_FROM_NODE);
        open::<F>(scratch)
    });
    if let Err(reason) = opened {
        return drop::<F>(skb, scratch, reason);
    }
    translated::<F>(skb, scratch, EventKind::NEW);
    TRANSLATE
}

#[inline(always)]
fn network_of<F: PacketFamily>(address: F::Address) -> Option<Node> {
    let bits = 8 * size_of::<F::Address>() as u32;
    F::nodes()
        .get(Key::new(bits, NodeKey { network: address }))
        .copied()
}
