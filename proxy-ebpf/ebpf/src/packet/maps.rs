//! The maps of the packet path.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
};
use proxy_ebpf_common::{
    Address4, Address6, Affinity, AffinityKey, Config, Conntrack, ConntrackKey, Device, DropCount,
    DropReason, Fragment, FragmentKey, LocalPod, Node, NodeKey, SourceRangeKey,
};

use super::scratch::Scratch;

// Connections are what the agent gives room for, by the memory of the machine. When that is used up the kernel evicts
// whichever connection has been idle for long.
#[map]
pub(crate) static CONNTRACK4: LruHashMap<ConntrackKey<Address4>, Conntrack<Address4>> =
    LruHashMap::pinned(CONNECTIONS, 0);
#[map]
pub(crate) static CONNTRACK6: LruHashMap<ConntrackKey<Address6>, Conntrack<Address6>> =
    LruHashMap::pinned(CONNECTIONS, 0);
#[map]
pub(crate) static FRAGMENTS4: LruHashMap<FragmentKey<Address4>, Fragment> = LruHashMap::pinned(DATAGRAMS, 0);
#[map]
pub(crate) static FRAGMENTS6: LruHashMap<FragmentKey<Address6>, Fragment> = LruHashMap::pinned(DATAGRAMS, 0);
// The socket path knows a client by its network namespace, which no packet tells; a client of both paths, which uses
// sockets that have no hooks, is two clients.
#[map]
pub(crate) static AFFINITY4: LruHashMap<AffinityKey<Address4>, Affinity> = LruHashMap::pinned(CLIENTS, 0);
#[map]
pub(crate) static AFFINITY6: LruHashMap<AffinityKey<Address6>, Affinity> = LruHashMap::pinned(CLIENTS, 0);
#[map]
pub(crate) static SOURCE_RANGES4: LpmTrie<SourceRangeKey<Address4>, u32> =
    LpmTrie::pinned(RANGES, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static SOURCE_RANGES6: LpmTrie<SourceRangeKey<Address6>, u32> =
    LpmTrie::pinned(RANGES, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static LOCAL_PODS4: HashMap<Address4, LocalPod> = HashMap::pinned(PODS, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static LOCAL_PODS6: HashMap<Address6, LocalPod> = HashMap::pinned(PODS, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static NODES4: LpmTrie<NodeKey<Address4>, Node> = LpmTrie::pinned(NODES, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static NODES6: LpmTrie<NodeKey<Address6>, Node> = LpmTrie::pinned(NODES, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static DEVICES: HashMap<u32, Device> = HashMap::pinned(UPLINKS, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static CONFIG: Array<Config> = Array::pinned(1, 0);
#[map]
pub(crate) static DROPS: PerCpuArray<DropCount> = PerCpuArray::pinned(DropReason::LIMIT, 0);
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::pinned(EVENT_BYTES, 0);
#[map]
pub(crate) static PRESSURE: RingBuf = RingBuf::pinned(PAGE, 0);

// Not pinned: what is in these is of no use a moment later.
#[map]
pub(crate) static OPENING4: LruHashMap<ConntrackKey<Address4>, u32> =
    LruHashMap::with_max_entries(OPENING, 0);
#[map]
pub(crate) static OPENING6: LruHashMap<ConntrackKey<Address6>, u32> =
    LruHashMap::with_max_entries(OPENING, 0);
#[map]
pub(crate) static SCRATCH4: PerCpuArray<Scratch<Address4>> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub(crate) static SCRATCH6: PerCpuArray<Scratch<Address6>> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub(crate) static ERRORS: PerCpuArray<ErrorBudget> = PerCpuArray::with_max_entries(1, 0);

/// How many ICMP errors a CPU has sent in a second.
#[repr(C)]
pub(crate) struct ErrorBudget {
    pub(crate) second: u32,
    pub(crate) sent: u32,
}

/// Two entries for a connection. The agent asks for more.
const CONNECTIONS: u32 = 1 << 14;
/// Connections of pods past the Services that have just been opened.
const OPENING: u32 = 1 << 12;
/// Datagrams in fragments that are under way.
const DATAGRAMS: u32 = 1 << 12;
/// Pairs of an address and a service with session affinity.
const CLIENTS: u32 = 1 << 14;
/// Networks of clients that are admitted to a service.
const RANGES: u32 = 1 << 14;
/// Addresses of one node's pods.
const PODS: u32 = 1 << 12;
/// Pod networks of a cluster.
const NODES: u32 = 1 << 14;
/// Devices by which a node is reached.
const UPLINKS: u32 = 256;
const EVENT_BYTES: u32 = 1 << 18;
const PAGE: u32 = 1 << 12;
