//! ICMP errors about translated packets.

use super::{
    CONTINUE, conntrack::track, family::PacketFamily, forward::translated, scratch::Scratch, skb::Skb,
};

/// Translates an ICMP error as the answer to the packet inside it would be. One about anything else is left alone.
#[inline(always)]
pub(crate) fn translate_error<F: PacketFamily>(skb: Skb, scratch: &mut Scratch<F::Address>) -> i32 {
    if track::<F>(scratch) {
        translated::<F>(skb, scratch)
    } else {
        CONTINUE
    }
}
