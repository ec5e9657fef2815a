//! The keys and values of every BPF map of the data plane, shared by the programs in the kernel and the agent.
//!
//! This is the only interface between the two: a pinned map outlives both the agent and the programs that were loaded with
//! it, so a layout is changed by adding a new version folder of pins, never in place. Every type is `repr(C)`, has no
//! implicit padding and no alignment above four bytes (so that nothing is padded differently for one address family), and
//! its size is asserted below.
//!
//! Addresses and ports are in network byte order, exactly as the kernel hands them to the programs: a lookup converts
//! nothing.
//!
//! **Two families, two sets of maps.** A table that holds addresses is written once, generic over the address, and exists
//! as a map for IPv4 and a map for IPv6. One map with v4-mapped keys would be simpler to fill, but hashing and comparing
//! the 20-byte key of IPv6 instead of the 8-byte key of IPv4 is paid by every `connect` of every pod, including those that
//! never talk to a Service. Tables without addresses (slots, affinity by socket) exist once for both families; a service id
//! belongs to one family.

#![no_std]

#[cfg(test)]
extern crate std;

mod address;
mod drops;
mod event;
mod packet;
mod sctp;
mod service;
#[cfg(feature = "user")]
mod user;

pub use address::{Address, Address4, Address6, Port};
pub use drops::{DropCount, DropReason};
pub use event::{Event, EventKind, Hook};
pub use packet::{
    Config, Conntrack, ConntrackFlags, ConntrackKey, Device, DeviceFlags, Direction, Fragment, FragmentKey,
    HAIRPIN4, HAIRPIN6, LocalPod, Node, NodeKey, Policy, PolicyKey, SNAT_PORT_MAX, SNAT_PORT_MIN,
    SourceRangeKey, TcpFlags, Verdict, is_expired, timeouts,
};
pub use sctp::{checksum_change as sctp_checksum_change, short_checksum as sctp_short_checksum};
pub use service::{
    Affinity, AffinityKey, AffinityMatchKey, Algorithm, Backend, BackendId, Frontend, FrontendFlags,
    FrontendKey, NetnsCookie, Protocol, ReverseNat, ReverseSk, ReverseSkKey, Scope, ServiceId, SlotKey,
};

/// Version of everything in this crate, and the name of the folder that holds the pins. Counts up when the layout of a map
/// changes. A new map, or a meaning for a bit that was zero so far, is no change: programs of either kind do with the same
/// tables what they know of.
pub const LAYOUT_VERSION: u32 = 1;

/// The names of the maps, which are also the names of their pins.
pub mod maps {
    /// [`FrontendKey`](crate::FrontendKey) to [`Frontend`](crate::Frontend), IPv4.
    pub const FRONTENDS4: &str = "FRONTENDS4";
    /// [`FrontendKey`](crate::FrontendKey) to [`Frontend`](crate::Frontend), IPv6.
    pub const FRONTENDS6: &str = "FRONTENDS6";
    /// [`SlotKey`](crate::SlotKey) to [`BackendId`](crate::BackendId).
    pub const SLOTS: &str = "SLOTS";
    /// [`BackendId`](crate::BackendId) to [`Backend`](crate::Backend), IPv4.
    pub const BACKENDS4: &str = "BACKENDS4";
    /// [`BackendId`](crate::BackendId) to [`Backend`](crate::Backend), IPv6.
    pub const BACKENDS6: &str = "BACKENDS6";
    /// The set of IPv4 addresses at which node ports are reached; the value means nothing. The unspecified address stands for
    /// loopback on the node itself.
    pub const NODE_ADDRESSES4: &str = "NODE_ADDRESSES4";
    /// The set of IPv6 addresses at which node ports are reached; the value means nothing.
    pub const NODE_ADDRESSES6: &str = "NODE_ADDRESSES6";
    /// [`ReverseSkKey`](crate::ReverseSkKey) to [`ReverseSk`](crate::ReverseSk), IPv4, least recently used.
    pub const REVERSE_SK4: &str = "REVERSE_SK4";
    /// [`ReverseSkKey`](crate::ReverseSkKey) to [`ReverseSk`](crate::ReverseSk), IPv6, least recently used.
    pub const REVERSE_SK6: &str = "REVERSE_SK6";
    /// The set of [`NetnsCookie`](crate::NetnsCookie)s of pods that have opted out of the socket path; the value means nothing.
    pub const OPTED_OUT: &str = "OPTED_OUT";
    /// [`AffinityKey`](crate::AffinityKey) of a [`NetnsCookie`](crate::NetnsCookie) to [`Affinity`](crate::Affinity),
    /// least recently used.
    pub const AFFINITY_SK: &str = "AFFINITY_SK";
    /// The set of [`AffinityMatchKey`](crate::AffinityMatchKey)s; the value means nothing.
    pub const AFFINITY_MATCH: &str = "AFFINITY_MATCH";
    /// [`AffinityKey`](crate::AffinityKey) of an address to [`Affinity`](crate::Affinity), IPv4, least recently used.
    pub const AFFINITY4: &str = "AFFINITY4";
    /// [`AffinityKey`](crate::AffinityKey) of an address to [`Affinity`](crate::Affinity), IPv6, least recently used.
    pub const AFFINITY6: &str = "AFFINITY6";
    /// [`ConntrackKey`](crate::ConntrackKey) to [`Conntrack`](crate::Conntrack), IPv4, least recently used.
    pub const CONNTRACK4: &str = "CONNTRACK4";
    /// [`ConntrackKey`](crate::ConntrackKey) to [`Conntrack`](crate::Conntrack), IPv6, least recently used.
    pub const CONNTRACK6: &str = "CONNTRACK6";
    /// [`FragmentKey`](crate::FragmentKey) to [`Fragment`](crate::Fragment), IPv4, least recently used.
    pub const FRAGMENTS4: &str = "FRAGMENTS4";
    /// [`FragmentKey`](crate::FragmentKey) to [`Fragment`](crate::Fragment), IPv6, least recently used.
    pub const FRAGMENTS6: &str = "FRAGMENTS6";
    /// Longest prefix of a [`SourceRangeKey`](crate::SourceRangeKey), IPv4; the value means nothing.
    pub const SOURCE_RANGES4: &str = "SOURCE_RANGES4";
    /// Longest prefix of a [`SourceRangeKey`](crate::SourceRangeKey), IPv6; the value means nothing.
    pub const SOURCE_RANGES6: &str = "SOURCE_RANGES6";
    /// Address to [`LocalPod`](crate::LocalPod), IPv4.
    pub const LOCAL_PODS4: &str = "LOCAL_PODS4";
    /// Address to [`LocalPod`](crate::LocalPod), IPv6.
    pub const LOCAL_PODS6: &str = "LOCAL_PODS6";
    /// Longest prefix of a [`NodeKey`](crate::NodeKey) to [`Node`](crate::Node), IPv4.
    pub const NODES4: &str = "NODES4";
    /// Longest prefix of a [`NodeKey`](crate::NodeKey) to [`Node`](crate::Node), IPv6.
    pub const NODES6: &str = "NODES6";
    /// Interface index to [`Device`](crate::Device).
    pub const DEVICES: &str = "DEVICES";
    /// One [`Config`](crate::Config).
    pub const CONFIG: &str = "CONFIG";
    /// [`DropReason`](crate::DropReason) to [`DropCount`](crate::DropCount), per CPU.
    pub const DROPS: &str = "DROPS";
    /// Ring buffer of [`Event`](crate::Event)s.
    pub const EVENTS: &str = "EVENTS";
    /// Ring buffer by which programs ask the agent to collect dead entries of `CONNTRACK` now; the content means nothing.
    pub const PRESSURE: &str = "PRESSURE";
}
