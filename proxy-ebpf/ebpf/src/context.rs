//! The kernel's `bpf_sock_addr`: one socket call and the address that it is about.
//!
//! The verifier allows only certain widths and offsets on this structure, so every access is volatile: the compiler must not
//! merge, split or narrow it.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie},
    programs::{SockAddrContext, SockContext},
};
use proxy_ebpf_common::{Address4, Address6, NetnsCookie, Port, Protocol};

/// A call of a socket. Its address is in the field of IPv4 or in that of IPv6, by the hook that was called.
#[derive(Clone, Copy)]
pub(crate) struct SockAddr(*mut bpf_sock_addr);

/// Which tables the address of an IPv6 socket belongs to.
pub(crate) enum Destination {
    V4Mapped(Address4),
    V6(Address6),
}

// SAFETY of every block below: the kernel hands the hook a valid context, which lives as long as the program runs.
impl SockAddr {
    #[inline(always)]
    pub(crate) fn new(ctx: &SockAddrContext) -> Self {
        Self(ctx.sock_addr)
    }

    /// The address, on a hook of IPv4.
    #[inline(always)]
    pub(crate) fn address4(self) -> Address4 {
        Address4(unsafe { read_volatile(&raw const (*self.0).user_ip4) })
    }

    /// The address, on a hook of IPv6.
    #[inline(always)]
    pub(crate) fn address6(self) -> Destination {
        let word = |index: usize| unsafe { read_volatile(&raw const (*self.0).user_ip6[index]) };
        let address = Address6([word(0), word(1), word(2), word(3)]);
        match address.to_v4_mapped() {
            Some(address) => Destination::V4Mapped(address),
            None => Destination::V6(address),
        }
    }

    /// Sets the address, on a hook of IPv4.
    #[inline(always)]
    pub(crate) fn set_address4(self, address: Address4) {
        unsafe { write_volatile(&raw mut (*self.0).user_ip4, address.0) }
    }

    /// Sets the IPv4 address inside a v4-mapped one, on a hook of IPv6.
    #[inline(always)]
    pub(crate) fn set_v4_mapped(self, address: Address4) {
        unsafe { write_volatile(&raw mut (*self.0).user_ip6[3], address.0) }
    }

    /// Sets the address, on a hook of IPv6.
    #[inline(always)]
    pub(crate) fn set_address6(self, address: Address6) {
        let Address6([first, second, third, fourth]) = address;
        unsafe {
            write_volatile(&raw mut (*self.0).user_ip6[0], first);
            write_volatile(&raw mut (*self.0).user_ip6[1], second);
            write_volatile(&raw mut (*self.0).user_ip6[2], third);
            write_volatile(&raw mut (*self.0).user_ip6[3], fourth);
        }
    }

    #[inline(always)]
    pub(crate) fn port(self) -> Port {
        Port::from_network(unsafe { read_volatile(&raw const (*self.0).user_port) } as u16)
    }

    #[inline(always)]
    pub(crate) fn set_port(self, port: Port) {
        unsafe { write_volatile(&raw mut (*self.0).user_port, u32::from(port.to_network())) }
    }

    #[inline(always)]
    pub(crate) fn protocol(self) -> Protocol {
        Protocol(unsafe { read_volatile(&raw const (*self.0).protocol) } as u8)
    }

    /// A number that no other socket of this boot has or will have.
    #[inline(always)]
    pub(crate) fn cookie(self) -> u64 {
        unsafe { bpf_get_socket_cookie(self.0.cast()) }
    }

    /// The network namespace of the socket: the pod.
    #[inline(always)]
    pub(crate) fn netns(self) -> NetnsCookie {
        NetnsCookie(words(unsafe { bpf_get_netns_cookie(self.0.cast()) }))
    }
}

/// A socket that has got a local address: the kernel's `bpf_sock`.
#[derive(Clone, Copy)]
pub(crate) struct Bound(*mut bpf_sock);

// SAFETY of every block below: as above.
impl Bound {
    #[inline(always)]
    pub(crate) fn new(ctx: &SockContext) -> Self {
        Self(ctx.sock)
    }

    /// The address, on a hook of IPv4.
    #[inline(always)]
    pub(crate) fn address4(self) -> Address4 {
        Address4(unsafe { read_volatile(&raw const (*self.0).src_ip4) })
    }

    /// The address, on a hook of IPv6.
    #[inline(always)]
    pub(crate) fn address6(self) -> Destination {
        let word = |index: usize| unsafe { read_volatile(&raw const (*self.0).src_ip6[index]) };
        let address = Address6([word(0), word(1), word(2), word(3)]);
        match address.to_v4_mapped() {
            Some(address) => Destination::V4Mapped(address),
            None => Destination::V6(address),
        }
    }

    /// The port, which this structure alone has in the byte order of the host.
    #[inline(always)]
    pub(crate) fn port(self) -> Port {
        Port::new(unsafe { read_volatile(&raw const (*self.0).src_port) } as u16)
    }

    #[inline(always)]
    pub(crate) fn protocol(self) -> Protocol {
        Protocol(unsafe { read_volatile(&raw const (*self.0).protocol) } as u8)
    }

    /// The network namespace of the socket.
    #[inline(always)]
    pub(crate) fn netns(self) -> NetnsCookie {
        NetnsCookie(words(unsafe { bpf_get_netns_cookie(self.0.cast()) }))
    }
}

/// The network namespace that the kernel began with.
#[inline(always)]
pub(crate) fn first_netns() -> NetnsCookie {
    // SAFETY: the helper takes no context for that namespace.
    NetnsCookie(words(unsafe { bpf_get_netns_cookie(core::ptr::null_mut()) }))
}

/// A cookie as the tables hold it.
#[inline(always)]
pub(crate) fn words(cookie: u64) -> [u32; 2] {
    [cookie as u32, (cookie >> 32) as u32]
}
