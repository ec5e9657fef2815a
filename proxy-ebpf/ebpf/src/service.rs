//! From a Service's address to a backend's, and back.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use proxy_ebpf_common::{
    Address, Affinity, AffinityKey, AffinityMatchKey, Backend, BackendId, DropReason, Frontend,
    FrontendFlags, FrontendKey, NetnsCookie, Port, Protocol, ReverseSk, ReverseSkKey, Scope, ServiceId,
    SlotKey,
};

use crate::{
    Call,
    context::{SockAddr, first_netns, words},
    maps::{AFFINITY_MATCH, AFFINITY_SK, Family, OPTED_OUT, SLOTS, host_netns, kernel_connect_overwrites},
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
    if is_left_to_packets(socket, key.address) {
        return Some(Resolution::NotAService);
    }
    // Whether a client is among those admitted is known once it has a source address; of the node it is known before.
    if frontend.flags.contains(FrontendFlags::SOURCE_RANGES)
        && !(frontend.flags.contains(FrontendFlags::ADMITS_NODE) && socket.netns() == host_netns())
    {
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

/// Whether the packet path translates what this socket sends: its pod has opted out, or it may be the kernel's own on a
/// kernel that forgets which Service it has connected to. Loopback has no packets that a program sees; no file system is
/// mounted from there.
#[inline(always)]
fn is_left_to_packets<A: Address>(socket: SockAddr, address: A) -> bool {
    let netns = socket.netns();
    OPTED_OUT.get_ptr(&netns).is_some()
        || (kernel_connect_overwrites()
            && is_nodes(netns)
            && !address.is_loopback()
            && !address.is_unspecified())
}

/// Whether a network namespace is the node's; where the kernel does not tell which one that is, the first one is.
#[inline(always)]
fn is_nodes(netns: NetnsCookie) -> bool {
    let host = host_netns();
    netns == host || host == NetnsCookie([0; 2]) && netns == first_netns()
}

/// Whether the node's own processes must not listen at an address: it is a node port, or one of a Service's other external
/// addresses.
#[inline(always)]
pub(crate) fn is_taken<F: Family>(address: F::Address, port: Port, protocol: Protocol) -> bool {
    let is_external = |address| {
        let key = FrontendKey {
            address,
            port,
            protocol,
            scope: Scope::INTERNAL,
        };
        // SAFETY: as above.
        unsafe { F::frontends().get(&key) }
            .is_some_and(|frontend| frontend.flags.contains(FrontendFlags::EXTERNAL))
    };
    if is_external(address) {
        return true;
    }
    let any = F::Address::UNSPECIFIED;
    let has_node_ports = if address.is_loopback() {
        F::node_addresses().get_ptr(&any).is_some()
    } else {
        F::node_addresses().get_ptr(&address).is_some()
    };
    has_node_ports && is_external(any)
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
