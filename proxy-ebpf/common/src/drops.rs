//! Why packets are dropped, and how many were.

use core::mem::size_of;

/// Why a packet was dropped, or a socket's call refused. The number is the index in `DROPS`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DropReason {
    /// The packet is too short for what it says it is.
    Malformed = 1,
    /// The Service has no endpoints: answered by a reset or an ICMP error.
    NoEndpoints = 2,
    /// Only endpoints of this node may be used, and there is none: dropped, so that the client tries another node.
    NoLocalEndpoints = 3,
    /// The address is a Service's, the port is not.
    UnknownPort = 4,
    /// The client is in none of the Service's loadBalancerSourceRanges.
    SourceRange = 5,
    /// The tables named a backend that does not exist, twice in a row.
    NoBackend = 6,
    /// All ports that were tried for the SNAT are taken.
    SnatPorts = 7,
    /// No address to masquerade with: the device has none of this family.
    NoNodeAddress = 8,
    /// The connection could not be noted: the table is full and nothing in it could be evicted.
    ConntrackFull = 9,
    /// There is no route to the backend or back to the client.
    NoRoute = 10,
    /// The packet has been forwarded too often.
    TtlExceeded = 11,
    /// Too big for the way to the backend: answered by an ICMP error that names the size.
    TooBig = 12,
    /// A later fragment of a datagram to a Service whose first fragment has not been seen.
    FragmentUnknown = 13,
    /// The kernel refused to rewrite the packet.
    Rewrite = 14,
    /// An ICMP echo to the address of a Service.
    ServiceEcho = 15,
    /// A socket's call was refused because the way back could not be noted.
    ReverseSocketFull = 16,
    /// A protocol that cannot be translated to the address of a Service.
    UnknownProtocol = 17,
    /// A process of the node wanted to listen where a Service is reached: the call was refused.
    PortTaken = 18,
}

impl DropReason {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Malformed,
        Self::NoEndpoints,
        Self::NoLocalEndpoints,
        Self::UnknownPort,
        Self::SourceRange,
        Self::NoBackend,
        Self::SnatPorts,
        Self::NoNodeAddress,
        Self::ConntrackFull,
        Self::NoRoute,
        Self::TtlExceeded,
        Self::TooBig,
        Self::FragmentUnknown,
        Self::Rewrite,
        Self::ServiceEcho,
        Self::ReverseSocketFull,
        Self::UnknownProtocol,
        Self::PortTaken,
    ];
    /// Number of entries of `DROPS`: one more than the highest reason, with room for more.
    pub const LIMIT: u32 = 32;

    /// The reason with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u32 == number)
    }

    /// What metrics and `monitor` call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NoEndpoints => "no_endpoints",
            Self::NoLocalEndpoints => "no_local_endpoints",
            Self::UnknownPort => "unknown_port",
            Self::SourceRange => "source_range",
            Self::NoBackend => "no_backend",
            Self::SnatPorts => "snat_ports",
            Self::NoNodeAddress => "no_node_address",
            Self::ConntrackFull => "conntrack_full",
            Self::NoRoute => "no_route",
            Self::TtlExceeded => "ttl_exceeded",
            Self::TooBig => "too_big",
            Self::FragmentUnknown => "fragment_unknown",
            Self::Rewrite => "rewrite",
            Self::ServiceEcho => "service_echo",
            Self::ReverseSocketFull => "reverse_socket_full",
            Self::UnknownProtocol => "unknown_protocol",
            Self::PortTaken => "port_taken",
        }
    }
}

/// How much was dropped for one reason, on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct DropCount {
    /// Packets; where a socket's call was refused, calls.
    pub packets: u64,
    /// Bytes, from the Ethernet header on.
    pub bytes: u64,
}

const _: () = assert!(size_of::<DropCount>() == 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_fit_the_map() {
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert!((reason as u32) < DropReason::LIMIT, "{reason:?}");
            assert_eq!(DropReason::from_number(reason as u32), Some(reason));
            for other in &DropReason::ALL[..index] {
                assert_ne!(reason.name(), other.name());
            }
        }
        assert_eq!(DropReason::from_number(0), None);
    }
}
