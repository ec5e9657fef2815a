//! The tables of the service load balancer.
//!
//! ```text
//! FrontendKey -> Frontend { service, slots } -> SlotKey(service, 0..slots) -> BackendId -> Backend
//! ```
//!
//! A backend is shared by every service that selects it and keeps its id for as long as it exists, so that affinity can name
//! it and a change of one endpoint is one backend, one slot and one frontend, whatever the size of the service.

use core::mem::{align_of, size_of};

use crate::{Address, Address4, Address6, Port};

/// IANA's protocol numbers of what is balanced.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol(pub u8);

impl Protocol {
    /// Matches every port of an address; port 0. Marks an address as ours, for packets to ports that are no service.
    pub const ANY: Self = Self(0);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// SCTP.
    pub const SCTP: Self = Self(132);
    /// ICMP, whose echoes are masqueraded.
    pub const ICMP: Self = Self(1);
    /// ICMPv6.
    pub const ICMPV6: Self = Self(58);
}

/// Whose traffic an entry is for, when internalTrafficPolicy and externalTrafficPolicy differ.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope(pub u8);

impl Scope {
    /// Clients inside the cluster, and everybody where both policies agree.
    pub const INTERNAL: Self = Self(0);
    /// Clients outside the cluster, where their policy differs.
    pub const EXTERNAL: Self = Self(1);
}

/// Where a Service is reached. A miss means "not a Service": the traffic is left alone.
///
/// Two keys stand for more than themselves. The unspecified address is every address in `NODE_ADDRESSES`: a node port. Port 0
/// of [`Protocol::ANY`] is every port of the address that has no entry of its own.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrontendKey<A> {
    /// Cluster IP, or any other address of the Service.
    pub address: A,
    /// Port of the Service.
    pub port: Port,
    /// Protocol of the port.
    pub protocol: Protocol,
    /// Whose traffic this entry is for.
    pub scope: Scope,
}

/// Names one port of one Service in one address family.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub u32);

/// Names one backend in one address family. Never zero: zero in a table means "none".
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendId(pub u32);

/// What is known of a frontend.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Frontend {
    /// Key of the slots, reverse NAT and affinity.
    pub service: ServiceId,
    /// Number of slots that are balanced over. Zero: nobody answers, clients are refused.
    pub slots: u32,
    /// How long a client stays with its backend, in seconds. Zero: no session affinity.
    pub affinity_timeout_s: u32,
    /// What else to know.
    pub flags: FrontendFlags,
}

/// Flags of a [`Frontend`].
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct FrontendFlags(pub u32);

impl FrontendFlags {
    /// Only backends of this node may be used and it has none, but others have: clients are told "no route", not "refused".
    pub const ELSEWHERE: Self = Self(1);
    /// Not a cluster IP: an address that may be the node's own, so that what is translated back to it must not come in.
    pub const EXTERNAL: Self = Self(1 << 1);
    /// Only clients in `SOURCE_RANGES` are admitted. Who a client is tells the source address of its packets: the socket path
    /// leaves such an address to the packet path.
    pub const SOURCE_RANGES: Self = Self(1 << 2);
    /// This node is in those ranges: so are its own sockets, by whatever address they will send.
    pub const ADMITS_NODE: Self = Self(1 << 3);
    /// Kept for direct server return: answers would go to the client from the node that has the backend.
    pub const DIRECT_RETURN: Self = Self(1 << 4);
    /// Where the number of the [`Algorithm`] begins; below it there is room for more flags.
    const ALGORITHM_SHIFT: u32 = 24;

    /// How a backend is chosen.
    pub const fn algorithm(self) -> Algorithm {
        Algorithm((self.0 >> Self::ALGORITHM_SHIFT) as u8)
    }

    /// The same flags with another algorithm.
    pub const fn with_algorithm(self, algorithm: Algorithm) -> Self {
        let flags = self.0 & ((1 << Self::ALGORITHM_SHIFT) - 1);
        Self(flags | (algorithm.0 as u32) << Self::ALGORITHM_SHIFT)
    }

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Those of both.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// How a backend is chosen for a new connection. Programs take any backend, whatever the number: it is only a wish, so that an
/// agent may write it before all programs can fulfil it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Algorithm(pub u8);

impl Algorithm {
    /// Each with the same probability.
    pub const RANDOM: Self = Self(0);
    /// Kept for Maglev's consistent hash of addresses and ports, whose table would be a map of its own.
    pub const MAGLEV: Self = Self(1);
}

/// One of the places that a service's backends stand in.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotKey {
    /// The service.
    pub service: ServiceId,
    /// Below [`Frontend::slots`].
    pub slot: u32,
}

/// An endpoint of some Service.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend<A> {
    /// Address of the pod.
    pub address: A,
    /// Target port.
    pub port: Port,
    /// Protocol of the port.
    pub protocol: Protocol,
    /// Always zero.
    pub reserved: u8,
}

/// Where replies of a service seem to come from: the way back of the packet path.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReverseNat<A> {
    /// The Service's address.
    pub address: A,
    /// The Service's port.
    pub port: Port,
    /// Always zero.
    pub reserved: u16,
}

/// A socket and the backend it was sent to: the way back of the socket path.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReverseSkKey<A> {
    /// The socket's cookie, low word first. Two words, so that the key of IPv6 needs no padding.
    pub cookie: [u32; 2],
    /// The backend's address.
    pub address: A,
    /// The backend's port.
    pub port: Port,
    /// Always zero.
    pub reserved: u16,
}

/// What the application behind a [`ReverseSkKey`] thinks it talks to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReverseSk<A> {
    /// The Service's address.
    pub address: A,
    /// The Service's port.
    pub port: Port,
    /// Always zero.
    pub reserved: u16,
    /// The service that was chosen from.
    pub service: ServiceId,
}

/// A network namespace, which to the socket path is the client: all sockets of a pod share it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetnsCookie(pub [u32; 2]);

/// A client of a service with session affinity. `C` is [`NetnsCookie`] on the socket path and an address on the packet path.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AffinityKey<C> {
    /// The service.
    pub service: ServiceId,
    /// The client.
    pub client: C,
}

/// The backend that a client stays with.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Affinity {
    /// The backend. Valid only while `AFFINITY_MATCH` has it for the service.
    pub backend: BackendId,
    /// Seconds since boot at which the client was last seen.
    pub last_used_s: u32,
}

/// Says that a service with affinity still balances over a backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AffinityMatchKey {
    /// The service.
    pub service: ServiceId,
    /// The backend.
    pub backend: BackendId,
}

const _: () = {
    assert!(size_of::<FrontendKey<Address4>>() == 8);
    assert!(size_of::<FrontendKey<Address6>>() == 20);
    assert!(size_of::<Frontend>() == 16);
    assert!(size_of::<SlotKey>() == 8);
    assert!(size_of::<BackendId>() == 4);
    assert!(size_of::<Backend<Address4>>() == 8);
    assert!(size_of::<Backend<Address6>>() == 20);
    assert!(size_of::<ReverseNat<Address4>>() == 8);
    assert!(size_of::<ReverseNat<Address6>>() == 20);
    assert!(size_of::<ReverseSkKey<Address4>>() == 16);
    assert!(size_of::<ReverseSkKey<Address6>>() == 28);
    assert!(size_of::<ReverseSk<Address4>>() == 12);
    assert!(size_of::<ReverseSk<Address6>>() == 24);
    assert!(size_of::<AffinityKey<NetnsCookie>>() == 12);
    assert!(size_of::<AffinityKey<Address4>>() == 8);
    assert!(size_of::<AffinityKey<Address6>>() == 20);
    assert!(size_of::<Affinity>() == 8);
    assert!(size_of::<AffinityMatchKey>() == 8);
    assert!(align_of::<ReverseSkKey<Address6>>() == 4);
};

impl<A: Address> Backend<A> {
    /// The backend of these parts.
    pub const fn new(address: A, port: Port, protocol: Protocol) -> Self {
        Self {
            address,
            port,
            protocol,
            reserved: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_algorithm_is_beside_the_flags() {
        let flags = FrontendFlags::EXTERNAL.union(FrontendFlags::DIRECT_RETURN);
        assert_eq!(flags.algorithm(), Algorithm::RANDOM);
        let hashed = flags.with_algorithm(Algorithm::MAGLEV);
        assert_eq!(hashed.algorithm(), Algorithm::MAGLEV);
        assert!(hashed.contains(flags) && !hashed.contains(FrontendFlags::SOURCE_RANGES));
        assert_eq!(hashed.with_algorithm(Algorithm::RANDOM), flags);
        assert_eq!(
            flags.with_algorithm(Algorithm(u8::MAX)).algorithm(),
            Algorithm(u8::MAX)
        );
    }
}
