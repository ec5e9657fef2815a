//! The kernel's `__sk_buff`: one packet, with what may be done to it.
//!
//! Everything goes through the kernel's helpers rather than through direct access: packets may be in pieces, and what a
//! helper does to checksums depends on who is to compute them.

use core::{
    mem::size_of,
    ptr::{read_volatile, write_volatile},
};

use aya_ebpf::{
    bindings::{__sk_buff, bpf_fib_lookup, bpf_redir_neigh},
    helpers::generated::{
        bpf_csum_diff, bpf_fib_lookup as fib_lookup, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_redirect,
        bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
};

/// Length of an Ethernet header. Devices without one are not attached to.
pub(crate) const ETHERNET: u32 = 14;

/// The changed words are part of the pseudo header, which a checksum covers even if it is yet to be computed.
pub(crate) const PSEUDO_HEADER: u64 = 1 << 4;
/// A checksum of zero means that there is none, and stays so.
pub(crate) const MAY_BE_ABSENT: u64 = 1 << 5;
/// The packet is of IPv6, whose header has no checksum that would balance the changed addresses. Since Linux 6.16.
pub(crate) const IPV6: u64 = 1 << 7;

const BPF_F_INGRESS: u64 = 1;

/// What [`Skb::mark_translated`] writes where queueing disciplines may keep a number: it stays with the packet from one device
/// to the next, and neither routing nor netfilter looks at it, as they do at its mark.
const TRANSLATED: u32 = 0x4f52;

/// The kernel refused, because the packet is too short or memory is.
pub(crate) struct Refused;

/// A packet.
#[derive(Clone, Copy)]
pub(crate) struct Skb(*mut __sk_buff);

// SAFETY of every block below: the kernel hands the hook a valid context, which lives as long as the program runs, and
// checks every offset against the packet; memory is borrowed for the call and as long as it is said to be.
impl Skb {
    #[inline(always)]
    pub(crate) fn new(skb: *mut __sk_buff) -> Self {
        Self(skb)
    }

    /// The packet's kind of network layer, in network byte order.
    #[inline(always)]
    pub(crate) fn ether_type(self) -> u16 {
        unsafe { read_volatile(&raw const (*self.0).protocol) as u16 }
    }

    #[inline(always)]
    pub(crate) fn ifindex(self) -> u32 {
        unsafe { read_volatile(&raw const (*self.0).ifindex) }
    }

    /// The device that the packet came in by; zero: it is of this network namespace, or a program has sent it on before it
    /// arrived anywhere.
    #[inline(always)]
    pub(crate) fn ingress_ifindex(self) -> u32 {
        unsafe { read_volatile(&raw const (*self.0).ingress_ifindex) }
    }

    /// Says to the next device's program that this packet is what it shall be, whatever it looks like.
    #[inline(always)]
    pub(crate) fn mark_translated(self) {
        unsafe { write_volatile(&raw mut (*self.0).tc_index, TRANSLATED) };
    }

    /// Whether another device's program has said so, which nobody else is told.
    #[inline(always)]
    pub(crate) fn take_mark(self) -> bool {
        let index = unsafe { &raw mut (*self.0).tc_index };
        let is_marked = unsafe { read_volatile(index) } == TRANSLATED;
        if is_marked {
            unsafe { write_volatile(index, 0) };
        }
        is_marked
    }

    #[inline(always)]
    pub(crate) fn length(self) -> u32 {
        unsafe { read_volatile(&raw const (*self.0).len) }
    }

    /// Whether this is several packets in one, which the device, or the kernel for it, takes apart.
    #[inline(always)]
    pub(crate) fn is_gso(self) -> bool {
        unsafe { read_volatile(&raw const (*self.0).gso_size) != 0 }
    }

    /// Reads a `T`, which must be valid for every bit pattern.
    #[inline(always)]
    pub(crate) fn load<T: Copy>(self, offset: u32, to: &mut T) -> Result<(), Refused> {
        let to = &raw mut *to;
        check(unsafe { bpf_skb_load_bytes(self.0.cast(), offset, to.cast(), size_of::<T>() as u32) })
    }

    /// Writes a `T`, which must not have padding.
    #[inline(always)]
    pub(crate) fn store<T: Copy>(self, offset: u32, from: &T) -> Result<(), Refused> {
        let from = &raw const *from;
        check(unsafe { bpf_skb_store_bytes(self.0, offset, from.cast(), size_of::<T>() as u32, 0) })
    }

    /// Reads the first `length` bytes of `to`, a constant that is not above its length.
    #[inline(always)]
    pub(crate) fn load_bytes<const N: usize>(
        self,
        offset: u32,
        to: &mut [u8; N],
        length: u32,
    ) -> Result<(), Refused> {
        check(unsafe { bpf_skb_load_bytes(self.0.cast(), offset, to.as_mut_ptr().cast(), length) })
    }

    /// Writes the first `length` bytes of `from`, a constant that is not above its length.
    #[inline(always)]
    pub(crate) fn store_bytes<const N: usize>(
        self,
        offset: u32,
        from: &[u8; N],
        length: u32,
    ) -> Result<(), Refused> {
        check(unsafe { bpf_skb_store_bytes(self.0, offset, from.as_ptr().cast(), length, 0) })
    }

    /// Corrects the checksum of an IPv4 header at `offset` by a [`difference`].
    #[inline(always)]
    pub(crate) fn fix_header(self, offset: u32, difference: u64) -> Result<(), Refused> {
        check(unsafe { bpf_l3_csum_replace(self.0, offset, 0, difference, 0) })
    }

    /// Corrects the checksum of an IPv4 header at `offset` for two bytes that changed.
    #[inline(always)]
    pub(crate) fn fix_header_for(self, offset: u32, from: u16, to: u16) -> Result<(), Refused> {
        check(unsafe { bpf_l3_csum_replace(self.0, offset, from.into(), to.into(), 2) })
    }

    /// Corrects a checksum at `offset` by a [`difference`].
    #[inline(always)]
    pub(crate) fn fix(self, offset: u32, difference: u64, flags: u64) -> Result<(), Refused> {
        check(unsafe { bpf_l4_csum_replace(self.0, offset, 0, difference, flags) })
    }

    /// Corrects a checksum at `offset` for four bytes that changed.
    #[inline(always)]
    pub(crate) fn fix_for(self, offset: u32, from: u32, to: u32, flags: u64) -> Result<(), Refused> {
        check(unsafe { bpf_l4_csum_replace(self.0, offset, from.into(), to.into(), flags | 4) })
    }

    /// Cuts off or adds what makes the packet this long. Pieces are joined and several packets in one become one.
    #[inline(always)]
    pub(crate) fn set_length(self, length: u32) -> Result<(), Refused> {
        check(unsafe { bpf_skb_change_tail(self.0, length, 0) })
    }

    /// Asks the routing table; the answer is one of `BPF_FIB_LKUP_RET_*`.
    #[inline(always)]
    pub(crate) fn route(self, query: &mut bpf_fib_lookup) -> i32 {
        let length = size_of::<bpf_fib_lookup>() as i32;
        unsafe { fib_lookup(self.0.cast(), query, length, 0) as i32 }
    }
}

#[inline(always)]
fn check(result: i64) -> Result<(), Refused> {
    if result < 0 { Err(Refused) } else { Ok(()) }
}

/// What changes in a checksum when `from` is replaced by `to`. The sizes are multiples of four.
#[inline(always)]
pub(crate) fn difference<T: Copy>(from: &T, to: &T) -> u64 {
    let size = size_of::<T>() as u32;
    unsafe {
        bpf_csum_diff(
            (&raw const *from).cast_mut().cast(),
            size,
            (&raw const *to).cast_mut().cast(),
            size,
            0,
        ) as u64
    }
}

/// The sum of `data`, whose size is a multiple of four, added to `seed`.
#[inline(always)]
pub(crate) fn sum<T: Copy>(data: &T, seed: u32) -> u32 {
    let size = size_of::<T>() as u32;
    unsafe {
        bpf_csum_diff(
            core::ptr::null_mut(),
            0,
            (&raw const *data).cast_mut().cast(),
            size,
            seed,
        ) as u32
    }
}

/// The sum of the first `length` bytes, a multiple of four that is not above the length of `data`, added to `seed`.
#[inline(always)]
pub(crate) fn sum_bytes<const N: usize>(data: &[u8; N], length: u32, seed: u32) -> u32 {
    unsafe {
        bpf_csum_diff(
            core::ptr::null_mut(),
            0,
            data.as_ptr().cast_mut().cast(),
            length,
            seed,
        ) as u32
    }
}

/// The checksum of a sum, in the byte order of the wire.
#[inline(always)]
pub(crate) fn checksum(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    !((once & 0xffff) + (once >> 16)) as u16
}

/// Sends the packet out of a device, whose neighbour `next_hop` is.
#[inline(always)]
pub(crate) fn to_neighbour(ifindex: u32, next_hop: &mut bpf_redir_neigh) -> i32 {
    unsafe { bpf_redirect_neigh(ifindex, next_hop, size_of::<bpf_redir_neigh>() as i32, 0) as i32 }
}

/// Gives the packet to the other end of a veth, inside its network namespace. From ingress hooks only.
#[inline(always)]
pub(crate) fn to_peer(ifindex: u32) -> i32 {
    unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
}

/// Sends the packet out of a device as it is.
#[inline(always)]
pub(crate) fn to_device(ifindex: u32) -> i32 {
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}

/// Lets the packet arrive at a device.
#[inline(always)]
pub(crate) fn from_device(ifindex: u32) -> i32 {
    unsafe { bpf_redirect(ifindex, BPF_F_INGRESS) as i32 }
}
