//! The maps of the socket path. All are pinned by name, so that agent and programs can be replaced under them.
//!
//! The sizes are those of a first start; an existing pin keeps its own, which the agent checks.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{HashMap, LruHashMap},
};
use proxy_ebpf_common::{
    Address, Address4, Address6, Affinity, AffinityKey, AffinityMatchKey, Backend, BackendId, Frontend,
    FrontendKey, NetnsCookie, ReverseSk, ReverseSkKey, SlotKey,
};

use crate::context::words;

// Without preallocation an entry is replaced, never changed in place: a program reads the old value or the new one, whole.
// It also makes an empty table cost its buckets only.

#[map]
static FRONTENDS4: HashMap<FrontendKey<Address4>, Frontend> = HashMap::pinned(FRONTENDS, BPF_F_NO_PREALLOC);
#[map]
static FRONTENDS6: HashMap<FrontendKey<Address6>, Frontend> = HashMap::pinned(FRONTENDS, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static SLOTS: HashMap<SlotKey, BackendId> = HashMap::pinned(4 * FRONTENDS, BPF_F_NO_PREALLOC);
#[map]
static BACKENDS4: HashMap<BackendId, Backend<Address4>> = HashMap::pinned(4 * FRONTENDS, BPF_F_NO_PREALLOC);
#[map]
static BACKENDS6: HashMap<BackendId, Backend<Address6>> = HashMap::pinned(4 * FRONTENDS, BPF_F_NO_PREALLOC);
#[map]
static NODE_ADDRESSES4: HashMap<Address4, u32> = HashMap::pinned(NODES, BPF_F_NO_PREALLOC);
#[map]
static NODE_ADDRESSES6: HashMap<Address6, u32> = HashMap::pinned(NODES, BPF_F_NO_PREALLOC);
#[map]
static REVERSE_SK4: LruHashMap<ReverseSkKey<Address4>, ReverseSk<Address4>> = LruHashMap::pinned(SOCKETS, 0);
#[map]
static REVERSE_SK6: LruHashMap<ReverseSkKey<Address6>, ReverseSk<Address6>> = LruHashMap::pinned(SOCKETS, 0);
#[map]
pub(crate) static AFFINITY_SK: LruHashMap<AffinityKey<NetnsCookie>, Affinity> =
    LruHashMap::pinned(CLIENTS, 0);
#[map]
pub(crate) static OPTED_OUT: HashMap<NetnsCookie, u32> = HashMap::pinned(PODS, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static AFFINITY_MATCH: HashMap<AffinityMatchKey, u32> =
    HashMap::pinned(FRONTENDS, BPF_F_NO_PREALLOC);

/// Service ports of one family.
const FRONTENDS: u32 = 1 << 16;
/// Addresses of nodes of one family.
const NODES: u32 = 1 << 14;
/// Sockets that remember which Service they addressed.
const SOCKETS: u32 = 1 << 16;
/// Pairs of a pod and a service with session affinity.
const CLIENTS: u32 = 1 << 14;

/// Pods of one node that have opted out.
const PODS: u32 = 1 << 12;

/// Whether sockets are sent to backends at all. Set by the agent before loading. Those that were are still shown the Service.
#[unsafe(no_mangle)]
static SOCKET_PATH: u32 = 1;

#[inline(always)]
pub(crate) fn socket_path() -> bool {
    // SAFETY: reads a static. Volatile, because its value is not that of this source.
    unsafe { core::ptr::read_volatile(&raw const SOCKET_PATH) != 0 }
}

/// Whether the kernel hands its own users of sockets (NFS, SMB, Ceph) the address that a program has written instead of the
/// one that they connect to, so that they would go back to a backend that is long gone. Set by the agent before loading.
#[unsafe(no_mangle)]
static KERNEL_CONNECT_OVERWRITES: u32 = 0;

#[inline(always)]
pub(crate) fn kernel_connect_overwrites() -> bool {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const KERNEL_CONNECT_OVERWRITES) != 0 }
}

/// Whether there may be processes of the node that reach Services by packets. Set by the agent before loading.
#[unsafe(no_mangle)]
static NODE_BY_PACKETS: u32 = 1;

#[inline(always)]
pub(crate) fn node_by_packets() -> bool {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const NODE_BY_PACKETS) != 0 }
}

/// Whether the kernel has `bpf_set_retval`. Set by the agent before loading; the verifier then removes the other branch, so
/// that an older kernel never sees the helper.
#[unsafe(no_mangle)]
static HAS_SET_RETVAL: u32 = 1;

#[inline(always)]
pub(crate) fn has_set_retval() -> bool {
    // SAFETY: reads a static. Volatile, because its value is not that of this source.
    unsafe { core::ptr::read_volatile(&raw const HAS_SET_RETVAL) != 0 }
}

/// Whether the kernel takes the flag that a checksum belongs to IPv6 (since 6.16). Set by the agent before loading.
#[unsafe(no_mangle)]
static HAS_IPV6_CHECKSUM_FLAG: u32 = 0;

#[inline(always)]
pub(crate) fn has_ipv6_checksum_flag() -> bool {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const HAS_IPV6_CHECKSUM_FLAG) != 0 }
}

/// The node's own network namespace, the only one whose loopback has node ports. Set by the agent before loading; zero where
/// the kernel does not tell (before Linux 5.14), and no namespace's.
#[unsafe(no_mangle)]
static HOST_NETNS: u64 = 0;

#[inline(always)]
pub(crate) fn host_netns() -> NetnsCookie {
    // SAFETY: as above.
    NetnsCookie(words(unsafe { core::ptr::read_volatile(&raw const HOST_NETNS) }))
}

/// The tables of an address family.
pub(crate) trait Family {
    type Address: Address + 'static;

    fn frontends() -> &'static HashMap<FrontendKey<Self::Address>, Frontend>;
    fn backends() -> &'static HashMap<BackendId, Backend<Self::Address>>;
    fn node_addresses() -> &'static HashMap<Self::Address, u32>;
    fn reverse_sk() -> &'static LruHashMap<ReverseSkKey<Self::Address>, ReverseSk<Self::Address>>;
}

pub(crate) enum V4 {}
pub(crate) enum V6 {}

impl Family for V4 {
    type Address = Address4;

    #[inline(always)]
    fn frontends() -> &'static HashMap<FrontendKey<Address4>, Frontend> {
        &FRONTENDS4
    }

    #[inline(always)]
    fn backends() -> &'static HashMap<BackendId, Backend<Address4>> {
        &BACKENDS4
    }

    #[inline(always)]
    fn node_addresses() -> &'static HashMap<Address4, u32> {
        &NODE_ADDRESSES4
    }

    #[inline(always)]
    fn reverse_sk() -> &'static LruHashMap<ReverseSkKey<Address4>, ReverseSk<Address4>> {
        &REVERSE_SK4
    }
}

impl Family for V6 {
    type Address = Address6;

    #[inline(always)]
    fn frontends() -> &'static HashMap<FrontendKey<Address6>, Frontend> {
        &FRONTENDS6
    }

    #[inline(always)]
    fn backends() -> &'static HashMap<BackendId, Backend<Address6>> {
        &BACKENDS6
    }

    #[inline(always)]
    fn node_addresses() -> &'static HashMap<Address6, u32> {
        &NODE_ADDRESSES6
    }

    #[inline(always)]
    fn reverse_sk() -> &'static LruHashMap<ReverseSkKey<Address6>, ReverseSk<Address6>> {
        &REVERSE_SK6
    }
}
