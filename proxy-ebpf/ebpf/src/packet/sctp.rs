//! SCTP's ports, which its checksum covers; the addresses it does not.

use proxy_ebpf_common::sctp_checksum_change;

use super::{
    parse::Ports,
    skb::{ETHERNET, Refused, Skb},
};

const CHECKSUM: u32 = 8;

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
