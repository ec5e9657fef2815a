//! The programs, one for each place where packets are seen.

use aya_ebpf::{bindings::__sk_buff, macros::classifier, programs::TcContext};
use proxy_ebpf_common::{ConntrackFlags, DropReason, Hook};

use super::{
    CONTINUE, TRANSLATE, balance, connect,
    conntrack::track,
    family::{PacketFamily, Parsed},
    forward,
    fragments::ports_of_fragment,
    parse::parse,
    report::drop,
    scratch::Scratch,
    skb::Skb,
};
use crate::maps::{V4, V6, node_by_packets};

const IPV4: u16 = 0x0800_u16.to_be();
const IPV6: u16 = 0x86dd_u16.to_be();

#[classifier]
pub fn pod_egress(ctx: TcContext) -> i32 {
    see(ctx.skb.skb, Hook::POD_EGRESS, true)
}

#[classifier]
pub fn pod_ingress(ctx: TcContext) -> i32 {
    see(ctx.skb.skb, Hook::POD_INGRESS, true)
}

#[classifier]
pub fn node_ingress(ctx: TcContext) -> i32 {
    see(ctx.skb.skb, Hook::NODE_INGRESS, true)
}

#[classifier]
pub fn node_egress(ctx: TcContext) -> i32 {
    see(ctx.skb.skb, Hook::NODE_EGRESS, true)
}

/// What `pod_egress` does, where a netkit device runs it: as the pod sends. The kernel drops without a word what is given to
/// another pod's end from there (`bpf_redirect_peer` is for ingress hooks), so packets go by the other pod's device, whose
/// program sees them too. The device that such a program is told of is the node's, as in `pod_egress`.
#[classifier]
pub fn netkit_egress(ctx: TcContext) -> i32 {
    see(ctx.skb.skb, Hook::POD_EGRESS, false)
}

#[inline(always)]
fn see(skb: *mut __sk_buff, hook: Hook, reaches_peers: bool) -> i32 {
    let skb = Skb::new(skb);
    match skb.ether_type() {
        IPV4 => V4::scratch().map_or(CONTINUE, |scratch| {
            scratch.packet.reaches_peers = reaches_peers;
            packet::<V4>(skb, scratch, hook)
        }),
        IPV6 => V6::scratch().map_or(CONTINUE, |scratch| {
            scratch.packet.reaches_peers = reaches_peers;
            packet::<V6>(skb, scratch, hook)
        }),
        _ => CONTINUE,
    }
}

#[inline(always)]
fn packet<F: PacketFamily>(skb: Skb, scratch: &mut Scratch<F::Address>, hook: Hook) -> i32 {
    // One that is there before a program of this node has seen the packet is another node's, or a pod's forgery.
    if skb.take_mark() && !hook.is_first() {
        return CONTINUE;
    }
    scratch.packet.hook = hook;
    scratch.packet.is_nodes_own = node_by_packets() && !hook.is_first() && skb.ingress_ifindex() == 0;
    let is_error = match parse::<F>(skb, &mut scratch.packet) {
        Parsed::Packet => false,
        Parsed::Error => true,
        Parsed::Other => return CONTINUE,
        Parsed::UnknownFragment => return ports_of_fragment::<F>(skb, scratch),
        Parsed::Malformed => return drop::<F>(skb, scratch, DropReason::Malformed),
    };
    // The translation is at one place in each program: the verifier looks at it anew for every way that leads there.
    if !track::<F>(scratch) {
        if is_error {
            return CONTINUE;
        }
        let opened = if hook != Hook::POD_INGRESS && balance::find::<F>(scratch) {
            connect::to_service::<F>(skb, scratch)
        } else {
            match (connect::directly::<F>(skb, scratch), hook) {
                (CONTINUE, Hook::POD_EGRESS) => return forward::to_local_pod::<F>(skb, scratch),
                (CONTINUE, Hook::NODE_INGRESS) => connect::from_world::<F>(skb, scratch),
                (CONTINUE, Hook::NODE_EGRESS) => connect::masquerade::<F>(skb, scratch),
                (opened, _) => opened,
            }
        };
        if opened != TRANSLATE {
            return opened;
        }
    } else if scratch.entry.flags.contains(ConntrackFlags::AS_IT_IS) {
        return CONTINUE;
    }
    forward::translated::<F>(skb, scratch)
}
