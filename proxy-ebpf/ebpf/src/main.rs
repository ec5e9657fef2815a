//! The eBPF programs of the data plane, loaded once per node by `proxy-ebpf/agent`.
//!
//! The socket path: programs on a cgroup's `connect`, `sendmsg`, `recvmsg` and `getpeername` replace a Service's address by
//! a backend's when the socket is used, so that no packet to a Service ever exists. What they read is in `proxy-ebpf-common`.
//! Those on `post_bind` keep processes of the node from listening where packets go to a Service.
//!
//! Every hook handles IPv4, IPv6 and, on the hooks of IPv6, v4-mapped addresses, which are looked up in the tables of IPv4.
//! Whatever is not a Service is left as it is, at the price of one hash lookup.

#![no_std]
#![no_main]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key passed by value is a second copy on a stack of 512 bytes"
)]

mod context;
mod maps;
mod packet;
mod service;

use aya_ebpf::{
    helpers::generated::{bpf_get_prandom_u32, bpf_set_retval},
    macros::{cgroup_sock, cgroup_sock_addr},
    programs::{SockAddrContext, SockContext},
};
use proxy_ebpf_common::{DropReason, FrontendKey, Scope};

use crate::{
    context::{Bound, Destination, SockAddr},
    maps::{Family, V4, V6, has_set_retval, host_netns, socket_path},
    packet::refused_call,
    service::{Resolution, is_taken, resolve, restore},
};

/// What the kernel does with the call. `recvmsg` and `getpeername` may only proceed; the verifier checks that.
const PROCEED: i32 = 1;
const REFUSE: i32 = 0;
const EADDRINUSE: i32 = 98;

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    to_backend4(&ctx, Call::Connect)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    to_backend6(&ctx, Call::Connect)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    to_backend4(&ctx, Call::Send)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    to_backend6(&ctx, Call::Send)
}

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    to_service4(&ctx)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    to_service6(&ctx)
}

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    to_service4(&ctx)
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    to_service6(&ctx)
}

#[cgroup_sock(post_bind4)]
pub fn post_bind4(ctx: SockContext) -> i32 {
    let socket = Bound::new(&ctx);
    bound::<V4>(socket, socket.address4())
}

#[cgroup_sock(post_bind6)]
pub fn post_bind6(ctx: SockContext) -> i32 {
    let socket = Bound::new(&ctx);
    match socket.address6() {
        Destination::V4Mapped(address) => bound::<V4>(socket, address),
        Destination::V6(address) => bound::<V6>(socket, address),
    }
}

/// Keeps a process of the node from listening where a Service is reached: it would not hear of anything. A pod may listen
/// wherever it likes.
#[inline(always)]
fn bound<F: Family>(socket: Bound, address: F::Address) -> i32 {
    if socket.netns() != host_netns() || !is_taken::<F>(address, socket.port(), socket.protocol()) {
        return PROCEED;
    }
    refused_call(DropReason::PortTaken);
    refuse(EADDRINUSE)
}

/// Fails the call with an error.
#[inline(always)]
fn refuse(errno: i32) -> i32 {
    if has_set_retval() {
        // SAFETY: a helper without pointers. Without it (before Linux 5.18) the caller sees EPERM.
        unsafe { bpf_set_retval(-errno) };
    }
    REFUSE
}

/// What the application does with the address.
#[derive(Clone, Copy)]
pub(crate) enum Call {
    /// A connection is opened, or a datagram socket is told its only peer.
    Connect,
    /// One datagram is sent.
    Send,
}

impl Call {
    /// How a backend is chosen: a number, spread evenly over `u32`, for a socket's cookie.
    #[inline(always)]
    pub(crate) fn spread(self, cookie: u64) -> u32 {
        match self {
            // Connections are independent of each other: any backend will do.
            // SAFETY: a helper without arguments.
            Self::Connect => unsafe { bpf_get_prandom_u32() },
            // A socket that names its peer with every datagram stays with one backend: the datagrams are usually one
            // conversation. Cookies count up from one; Fibonacci hashing spreads consecutive numbers evenly.
            Self::Send => (cookie.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32,
        }
    }
}

#[inline(always)]
fn to_backend4(ctx: &SockAddrContext, call: Call) -> i32 {
    let socket = SockAddr::new(ctx);
    to_backend::<V4>(socket, socket.address4(), call, SockAddr::set_address4)
}

#[inline(always)]
fn to_backend6(ctx: &SockAddrContext, call: Call) -> i32 {
    let socket = SockAddr::new(ctx);
    match socket.address6() {
        Destination::V4Mapped(address) => to_backend::<V4>(socket, address, call, SockAddr::set_v4_mapped),
        Destination::V6(address) => to_backend::<V6>(socket, address, call, SockAddr::set_address6),
    }
}

/// Sends the socket to a backend when `address` and the port are a Service.
#[inline(always)]
fn to_backend<F: Family>(
    socket: SockAddr,
    address: F::Address,
    call: Call,
    set: fn(SockAddr, F::Address),
) -> i32 {
    if !socket_path() {
        return PROCEED;
    }
    let key = FrontendKey {
        address,
        port: socket.port(),
        protocol: socket.protocol(),
        scope: Scope::INTERNAL,
    };
    match resolve::<F>(socket, &key, call) {
        Resolution::NotAService => PROCEED,
        Resolution::Backend(backend) => {
            set(socket, backend.address);
            socket.set_port(backend.port);
            PROCEED
        }
        Resolution::Refused(errno) => refuse(errno),
    }
}

#[inline(always)]
fn to_service4(ctx: &SockAddrContext) -> i32 {
    let socket = SockAddr::new(ctx);
    to_service::<V4>(socket, socket.address4(), SockAddr::set_address4)
}

#[inline(always)]
fn to_service6(ctx: &SockAddrContext) -> i32 {
    let socket = SockAddr::new(ctx);
    match socket.address6() {
        Destination::V4Mapped(address) => to_service::<V4>(socket, address, SockAddr::set_v4_mapped),
        Destination::V6(address) => to_service::<V6>(socket, address, SockAddr::set_address6),
    }
}

/// Shows the application the Service that it addressed instead of the backend that answers.
#[inline(always)]
fn to_service<F: Family>(socket: SockAddr, address: F::Address, set: fn(SockAddr, F::Address)) -> i32 {
    if let Some(service) = restore::<F>(socket, address) {
        set(socket, service.address);
        socket.set_port(service.port);
    }
    PROCEED
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // The verifier refuses loops without end: a panic that survives optimisation is found when the program is loaded.
    loop {}
}

/// Helpers such as the socket cookie are given to GPL-compatible programs only; Apache-2.0 code may say so by dual licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
