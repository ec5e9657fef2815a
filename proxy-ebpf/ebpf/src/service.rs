//! From a Service's address to a backend's, and back.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use proxy_ebpf_common::{
    Address, Affinity, AffinityKey, AffinityMatchKey, Backend, BackendId, DropReason, Frontend,
    FrontendFlags, FrontendKey, Port, Protocol, ReverseSk, ReverseSkKey, ServiceId, SlotKey,
};

use crate::{
    Call,
    context::{SockAddr, words},
    maps::{AFFINITY_MATCH, AFFINITY_SK, Family, SLOTS, host_netns},
    packet::refused_call,
};

const ENOMEM: i32 = 12;
const ECONNREFUSED: i32 = 111;
const EHOSTUNREACH: i32 = 113;
const NS_PER_S: u64 = 1_000_000_000;

pub(crate) enum Resolution<A> {
    NotAService,
    Backend(Backend<A>),
    /// A Service without a usable backend, and what the caller is told.
    Refused(i32),
}

/// Chooses a backend of the Service at `key` and remembers the way back for [`restore`].
#[inline(always)]
pub(crate) fn resolve<F: Family>(
    socket: SockAddr,
    key: &FrontendKey<F::Address>,
    call: Call,
) -> Resolution<F::Address> {
    // The agent removes a slot after lowering the count, and a backend after its slots; whoever read the count before that
    // finds nothing, once, and reads the new count at the second attempt.
    match attempt::<F>(socket, key, call) {
        Some(resolution) => resolution,
        None => attempt::<F>(socket, key, call).unwrap_or(Resolution::Refused(ECONNREFUSED)),
    }
}

/// The Service behind a `backend_address` (and the call's port) that this socket was sent to.
#[inline(always)]
pub(crate) fn restore<F: Family>(
    socket: SockAddr,
    backend_address: F::Address,
) -> Option<&'static ReverseSk<F::Address>> {
    let key = ReverseSkKey {
        cookie: words(socket.cookie()),
        address: backend_address,
        port: socket.port(),
        reserved: 0,
    };
    // SAFETY: a reused LRU element can at worst show another Service's address; the program reads it as plain integers.
    unsafe { F::reverse_sk().get(&key) }
}

/// `None`: the tables changed between two lookups.
#[inline(always)]
fn attempt<F: Family>(
    socket: SockAddr,
    key: &FrontendKey<F::Address>,
    call: Call,
) -> Option<Resolution<F::Address>> {
    let Some(frontend) = frontend::<F>(socket, key, call) else {
        return Some(Resolution::NotAService);
    };
    // Whether a client is among those admitted is known once it has a source address.
    if frontend.flags.contains(FrontendFlags::SOURCE_RANGES) {
        return Some(Resolution::NotAService);
    }
    if frontend.slots == 0 {
        let elsewhere = frontend.flags.contains(FrontendFlags::ELSEWHERE);
        return Some(Resolution::Refused(if elsewhere {
            EHOSTUNREACH
        } else {
            ECONNREFUSED
        }));
    }
    let cookie = socket.cookie();
    let id = if frontend.affinity_timeout_s == 0 {
        balance(frontend, cookie, call)?
    } else {
        stay(socket, frontend, cookie, call)?
    };
    // SAFETY: as above.
    let backend = *unsafe { F::backends().get(id) }?;
    if remember::<F>(cookie, &backend, key, frontend.service).is_err() {
        refused_call(DropReason::ReverseSocketFull);
        return Some(Resolution::Refused(ENOMEM));
    }
    Some(Resolution::Backend(backend))
}

/// The entry for an address and port: their own, that of the node port, or that of all other ports of the address.
#[inline(always)]
fn frontend<F: Family>(
    socket: SockAddr,
    key: &FrontendKey<F::Address>,
    call: Call,
) -> Option<&'static Frontend> {
    let node_port = FrontendKey {
        address: F::Address::UNSPECIFIED,
        port: key.port,
        protocol: key.protocol,
        scope: key.scope,
    };
    // SAFETY of both blocks: no preallocation, so elements are freed only after this program has run.
    if !key.address.is_unspecified()
        && let Some(frontend) = unsafe { F::frontends().get(key) }
    {
        return Some(frontend);
    }
    if let Some(frontend) = unsafe { F::frontends().get(&node_port) }
        && has_node_ports::<F>(socket, key.address)
    {
        return Some(frontend);
    }
    // A datagram socket is often connected only to learn which source address the kernel would take.
    if matches!(call, Call::Connect) && key.protocol == Protocol::UDP {
        return None;
    }
    let other_ports = FrontendKey {
        address: key.address,
        port: Port::new(0),
        protocol: Protocol::ANY,
        scope: key.scope,
    };
    // SAFETY: as above.
    unsafe { F::frontends().get(&other_ports) }
}

/// Whether an address is a node's. Loopback is so on the node itself; a pod's is its own affair.
#[inline(always)]
fn has_node_ports<F: Family>(socket: SockAddr, address: F::Address) -> bool {
    if !address.is_loopback() && !address.is_unspecified() {
        return F::node_addresses().get_ptr(&address).is_some();
    }
    socket.netns() == host_netns() && F::node_addresses().get_ptr(&F::Address::UNSPECIFIED).is_some()
}

/// Any backend of the service, each as likely as the next.
#[inline(always)]
fn balance(frontend: &Frontend, cookie: u64, call: Call) -> Option<BackendId> {
    let slot = ((u64::from(call.spread(cookie)) * u64::from(frontend.slots)) >> 32) as u32;
    // SAFETY: no preallocation, so elements are freed only after this program has run.
    unsafe {
        SLOTS.get(SlotKey {
            service: frontend.service,
            slot,
        })
    }
    .copied()
}

/// The backend that this client used last, while that is recent and the backend is still one of the service's.
#[inline(always)]
fn stay(socket: SockAddr, frontend: &Frontend, cookie: u64, call: Call) -> Option<BackendId> {
    // SAFETY: a helper without arguments.
    let now_s = (unsafe { bpf_ktime_get_boot_ns() } / NS_PER_S) as u32;
    let key = AffinityKey {
        service: frontend.service,
        client: socket.netns(),
    };
    if let Some(affinity) = AFFINITY_SK.get_ptr_mut(&key) {
        // SAFETY: the pointer is valid until the program ends; racing writers write whole integers.
        let Affinity { backend, last_used_s } = unsafe { *affinity };
        if now_s.wrapping_sub(last_used_s) < frontend.affinity_timeout_s
            && AFFINITY_MATCH
                .get_ptr(AffinityMatchKey {
                    service: frontend.service,
                    backend,
                })
                .is_some()
        {
            // SAFETY: as above.
            unsafe { (*affinity).last_used_s = now_s };
            return Some(backend);
        }
    }
    let backend = balance(frontend, cookie, call)?;
    // A full table costs this client its affinity, not its connection.
    let _ = AFFINITY_SK.insert(
        &key,
        Affinity {
            backend,
            last_used_s: now_s,
        },
        0,
    );
    Some(backend)
}

/// Notes which Service this socket addressed. Most datagrams repeat the last one, and a lookup is cheaper than an insertion.
#[inline(always)]
fn remember<F: Family>(
    cookie: u64,
    backend: &Backend<F::Address>,
    key: &FrontendKey<F::Address>,
    service: ServiceId,
) -> Result<(), i32> {
    let reverse_key = ReverseSkKey {
        cookie: words(cookie),
        address: backend.address,
        port: backend.port,
        reserved: 0,
    };
    let reverse = ReverseSk {
        address: key.address,
        port: key.port,
        reserved: 0,
        service,
    };
    // SAFETY: as in `restore`.
    if unsafe { F::reverse_sk().get(&reverse_key) } == Some(&reverse) {
        return Ok(());
    }
    // The kernel evicts the oldest when the table is full. Without an entry the application would be shown answers of
    // somebody whom it has not asked, which it drops: better that it hears of it and tries again.
    F::reverse_sk().insert(&reverse_key, &reverse, 0)
}
