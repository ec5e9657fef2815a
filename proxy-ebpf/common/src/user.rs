//! Leave for aya to copy the types of live maps to and from the kernel as plain bytes.

#![expect(
    unsafe_code,
    reason = "Pod is a promise about layout, kept by the size assertions beside each type"
)]

use aya::Pod;

use crate::{
    Address4, Address6, Affinity, AffinityKey, AffinityMatchKey, Backend, BackendId, Config, Conntrack,
    ConntrackKey, Device, DropCount, Event, Fragment, FragmentKey, Frontend, FrontendKey, LocalPod,
    NetnsCookie, Node, NodeKey, ReverseSk, ReverseSkKey, SlotKey, SourceRangeKey,
};

macro_rules! plain {
    ($($type:ty),* $(,)?) => {
        $(
            // SAFETY: repr(C) or transparent over integers, without padding (its size is asserted to be the sum of its
            // fields) and valid for every bit pattern.
            unsafe impl Pod for $type {}
        )*
    };
}

plain!(
    Address4,
    Address6,
    FrontendKey<Address4>,
    FrontendKey<Address6>,
    Frontend,
    SlotKey,
    BackendId,
    Backend<Address4>,
    Backend<Address6>,
    ReverseSkKey<Address4>,
    ReverseSkKey<Address6>,
    ReverseSk<Address4>,
    ReverseSk<Address6>,
    AffinityKey<NetnsCookie>,
    Affinity,
    AffinityMatchKey,
    AffinityKey<Address4>,
    AffinityKey<Address6>,
    NetnsCookie,
    ConntrackKey<Address4>,
    ConntrackKey<Address6>,
    Conntrack<Address4>,
    Conntrack<Address6>,
    FragmentKey<Address4>,
    FragmentKey<Address6>,
    Fragment,
    SourceRangeKey<Address4>,
    SourceRangeKey<Address6>,
    LocalPod,
    NodeKey<Address4>,
    NodeKey<Address6>,
    Node,
    Device,
    Config,
    DropCount,
    Event,
);
