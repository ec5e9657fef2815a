//! The tables of the packet path: connection tracking, SNAT, source ranges, local pods, nodes and policy.
//!
//! No map is made of these yet; they are laid out with the service tables so that both paths agree on ids and families.

use core::mem::size_of;

use crate::{Address4, Address6, BackendId, Port, Protocol, ServiceId};

/// Which way a packet of a connection goes.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Direction(pub u8);

impl Direction {
    /// Into the pod or node.
    pub const INGRESS: Self = Self(0);
    /// Out of the pod or node.
    pub const EGRESS: Self = Self(1);
    /// From a client to a Service, before a backend was chosen.
    pub const SERVICE: Self = Self(2);
}

/// One direction of a connection. SNAT is keyed by it too.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConntrackKey<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Source port, or the identifier of an ICMP echo.
    pub source_port: Port,
    /// Destination port.
    pub destination_port: Port,
    /// Protocol.
    pub protocol: Protocol,
    /// Which way.
    pub direction: Direction,
    /// Always zero.
    pub reserved: u16,
}

/// State bits of a [`Conntrack`] entry.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct ConntrackFlags(pub u32);

impl ConntrackFlags {
    /// A segment other than the first SYN was seen: the long timeout applies.
    pub const ESTABLISHED: Self = Self(1);
    /// The sender has closed its half.
    pub const CLOSING_FORWARD: Self = Self(1 << 1);
    /// The receiver has closed its half.
    pub const CLOSING_REVERSE: Self = Self(1 << 2);
    /// Came in by a node port; the reply is translated on its way out.
    pub const NODE_PORT: Self = Self(1 << 3);
    /// A pod that reached itself through a Service.
    pub const HAIRPIN: Self = Self(1 << 4);
}

/// What is known of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conntrack {
    /// Seconds since boot after which the entry is dead.
    pub expires_s: u32,
    /// State bits.
    pub flags: ConntrackFlags,
    /// Service whose reverse NAT applies to replies; zero: none.
    pub service: ServiceId,
    /// The backend that was chosen; zero: none.
    pub backend: BackendId,
}

/// What a connection's source, or, for a reply, destination is translated to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Snat<A> {
    /// The translated address.
    pub address: A,
    /// The translated port.
    pub port: Port,
    /// Always zero.
    pub reserved: u16,
    /// Seconds since boot at which the port was taken.
    pub created_s: u32,
}

/// loadBalancerSourceRanges of a service: the data of a longest-prefix-match key whose prefix always covers `service`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceRangeKey<A> {
    /// The service.
    pub service: ServiceId,
    /// Network of clients that may use it.
    pub network: A,
}

/// A pod of this node, keyed by its address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LocalPod {
    /// Interface index of the host's end of its veth.
    pub ifindex: u32,
    /// Number that policy knows the pod by.
    pub identity: u32,
    /// Hardware address of the pod's end.
    pub pod_mac: [u8; 6],
    /// Hardware address of the host's end.
    pub host_mac: [u8; 6],
}

/// The pod network of a node: the data of a longest-prefix-match key.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeKey<A> {
    /// A pod CIDR of the node.
    pub network: A,
}

/// How a node is reached.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node<A> {
    /// The node's address.
    pub address: A,
    /// Tunnel interface to reach it by; zero: it is a neighbour, packets are routed to it.
    pub tunnel_ifindex: u32,
}

/// A rule of a pod's compiled NetworkPolicies.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PolicyKey {
    /// [`LocalPod::identity`] of the pod that the rule protects.
    pub pod: u32,
    /// Number of the set of peers; zero: everybody.
    pub peers: u32,
    /// Port; zero: every port.
    pub port: Port,
    /// Protocol; [`Protocol::ANY`]: every protocol.
    pub protocol: Protocol,
    /// [`Direction::INGRESS`] or [`Direction::EGRESS`].
    pub direction: Direction,
}

/// What happens to a packet that a rule matches.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Verdict(pub u32);

impl Verdict {
    /// The packet goes on.
    pub const ALLOW: Self = Self(0);
    /// The packet is dropped.
    pub const DENY: Self = Self(1);
}

/// The effect of a [`PolicyKey`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    /// What happens.
    pub verdict: Verdict,
    /// Number of the rule, for the flow log.
    pub rule: u32,
}

const _: () = {
    assert!(size_of::<ConntrackKey<Address4>>() == 16);
    assert!(size_of::<ConntrackKey<Address6>>() == 40);
    assert!(size_of::<Conntrack>() == 16);
    assert!(size_of::<Snat<Address4>>() == 12);
    assert!(size_of::<Snat<Address6>>() == 24);
    assert!(size_of::<SourceRangeKey<Address4>>() == 8);
    assert!(size_of::<SourceRangeKey<Address6>>() == 20);
    assert!(size_of::<LocalPod>() == 20);
    assert!(size_of::<NodeKey<Address4>>() == 4);
    assert!(size_of::<NodeKey<Address6>>() == 16);
    assert!(size_of::<Node<Address4>>() == 8);
    assert!(size_of::<Node<Address6>>() == 20);
    assert!(size_of::<PolicyKey>() == 12);
    assert!(size_of::<Policy>() == 8);
};
