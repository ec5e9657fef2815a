//! What `proxy-ebpf monitor` shows: single packets, written to the ring buffer `EVENTS` while
//! [`Config::monitored`](crate::Config::monitored) asks for them.

use core::mem::size_of;

use crate::{BackendId, Port, Protocol, ServiceId};

/// What an [`Event`] is about.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventKind(pub u8);

impl EventKind {
    /// A packet was dropped or answered by an error.
    pub const DROP: Self = Self(0);
    /// A connection was opened: the first packet of it was translated.
    pub const NEW: Self = Self(1);
    /// A packet was translated; the first one of a connection too.
    pub const TRANSLATED: Self = Self(2);

    /// The bit of [`Config::monitored`](crate::Config::monitored) that asks for these.
    pub const fn bit(self) -> u32 {
        1 << self.0
    }
}

/// Where a packet was seen.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hook(pub u8);

impl Hook {
    /// A pod has sent it.
    pub const POD_EGRESS: Self = Self(1);
    /// It is about to be given to a pod.
    pub const POD_INGRESS: Self = Self(2);
    /// It has arrived at the node.
    pub const NODE_INGRESS: Self = Self(3);
    /// It is about to leave the node.
    pub const NODE_EGRESS: Self = Self(4);

    /// Whether packets are seen there as they were sent, or came from elsewhere: not routed yet, nor translated.
    #[inline(always)]
    pub const fn is_first(self) -> bool {
        matches!(self, Self::POD_EGRESS | Self::NODE_INGRESS)
    }
}

/// One packet. Addresses of IPv4 are in the first word, the others are zero then.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    /// Nanoseconds since boot.
    pub time_ns: u64,
    /// What it is about.
    pub kind: EventKind,
    /// Where it was seen.
    pub hook: Hook,
    /// 4 or 6.
    pub ip_version: u8,
    /// Protocol of the packet.
    pub protocol: Protocol,
    /// [`DropReason`](crate::DropReason) of a drop, else zero.
    pub reason: u32,
    /// Index of the device.
    pub ifindex: u32,
    /// Bytes, from the Ethernet header on.
    pub length: u32,
    /// The source address it came with.
    pub source: [u32; 4],
    /// The destination address it came with.
    pub destination: [u32; 4],
    /// The source address that was written. Of a drop: zero, as all that follows.
    pub translated_source: [u32; 4],
    /// The destination address that was written.
    pub translated_destination: [u32; 4],
    /// The source port it came with.
    pub source_port: Port,
    /// The destination port it came with.
    pub destination_port: Port,
    /// The source port that was written.
    pub translated_source_port: Port,
    /// The destination port that was written.
    pub translated_destination_port: Port,
    /// The service that was addressed; zero: none.
    pub service: ServiceId,
    /// The backend that was chosen; zero: none.
    pub backend: BackendId,
}

const _: () = assert!(size_of::<Event>() == 104);
