//! The tables of the packet path: devices, connection tracking, fragments, source ranges, local pods, nodes and policy.

use core::mem::size_of;

use crate::{Address, Address4, Address6, BackendId, Port, Protocol, ServiceId};

/// The addresses, ports and protocol of a packet as it is at some hook: what names one direction of a connection.
///
/// An ICMP echo counts as a packet from the port of its identifier (a request) or to it (a reply); the other port is zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConntrackKey<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Source port.
    pub source_port: Port,
    /// Destination port.
    pub destination_port: Port,
    /// Protocol.
    pub protocol: Protocol,
    /// Always zero.
    pub reserved: [u8; 3],
}

/// State bits of a [`Conntrack`] entry.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct ConntrackFlags(pub u32);

impl ConntrackFlags {
    /// This entry is about the packets of whoever answers.
    pub const REPLY: Self = Self(1);
    /// Somebody has answered.
    pub const REPLIED: Self = Self(1 << 1);
    /// Both sides have acknowledged each other: the long timeout applies.
    pub const ESTABLISHED: Self = Self(1 << 2);
    /// The one who opened the connection has closed its half.
    pub const CLOSED_BY_CLIENT: Self = Self(1 << 3);
    /// The one who answers has closed its half.
    pub const CLOSED_BY_SERVER: Self = Self(1 << 4);
    /// One of them has reset the connection.
    pub const RESET: Self = Self(1 << 5);
    /// The translated source of what the client sends is an address of this node: such a packet must not be given to the
    /// node's own routing as one that came in, which would take it for a forgery.
    pub const REQUESTS_FROM_NODE: Self = Self(1 << 6);
    /// The client's address was replaced too.
    pub const SNAT: Self = Self(1 << 7);
    /// A pod that reached itself through a Service.
    pub const HAIRPIN: Self = Self(1 << 8);
    /// Not about a Service: a pod that talks to somebody outside the cluster.
    pub const MASQUERADE: Self = Self(1 << 9);
    /// Translated on its way out, after the node has chosen a device: the backend may be at another one.
    pub const REROUTE: Self = Self(1 << 10);
    /// Like [`Self::REQUESTS_FROM_NODE`], of what the backend sends: its translated source is, or may be, this node's.
    pub const REPLIES_FROM_NODE: Self = Self(1 << 11);
    /// The packet that opened the connection was its first: a SYN.
    pub const SEEN_OPENING: Self = Self(1 << 12);
    /// Not about a Service: a pod that talks to a backend directly, whose port had to change because a connection of its own
    /// to the same backend, by a Service, has it. The requests of that one look like this one's once they are translated, so
    /// this one's are told by where they are seen first.
    pub const DIRECT: Self = Self(1 << 13);
    /// Of a [`Self::REPLY`] entry: nothing is translated. What comes is of a connection that was there before, past the
    /// Services; the entry keeps its ports from others.
    pub const RESERVED: Self = Self(1 << 14);
    /// Of a [`Self::DIRECT`] connection: a process of the node has opened it. No program sees its packets before the node's
    /// routing, so they are told from others by having neither arrived anywhere nor been translated.
    pub const OF_NODE: Self = Self(1 << 15);
    /// Nothing is translated: somebody outside the cluster talks to a pod past the Services. What the pod answers must not be
    /// masqueraded.
    pub const AS_IT_IS: Self = Self(1 << 16);

    /// Whether any bit of `other` is set.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Those of both.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The same for the connection's other direction. All bits but one are about the connection.
    pub const fn partner(self) -> Self {
        Self(self.0 ^ Self::REPLY.0)
    }

    /// Whether packets of this entry's direction have a translated source that may be this node's.
    pub const fn from_node(self) -> bool {
        let direction = if self.contains(Self::REPLY) {
            Self::REPLIES_FROM_NODE
        } else {
            Self::REQUESTS_FROM_NODE
        };
        self.contains(direction)
    }

    /// The state after another packet of this entry's direction. Sequence numbers and windows do not matter: whoever sees
    /// only one direction, or packets out of order, must not declare a connection dead.
    pub const fn after(self, tcp: TcpFlags) -> Self {
        let reply = self.contains(Self::REPLY);
        let mut after = self;
        if reply {
            after = after.union(Self::REPLIED);
        } else if self.contains(Self::REPLIED) && !tcp.contains(TcpFlags::SYN) {
            after = after.union(Self::ESTABLISHED);
        }
        if tcp.contains(TcpFlags::FIN) {
            after = after.union(if reply {
                Self::CLOSED_BY_SERVER
            } else {
                Self::CLOSED_BY_CLIENT
            });
        }
        if tcp.contains(TcpFlags::RST) {
            after = after.union(Self::RESET);
        }
        after
    }

    /// Whether a packet of this entry's direction cannot be of the entry's connection: a backend's first answer to a SYN is
    /// a SYN or a reset. Then the client has another connection to that backend, by the same port but not by the Service.
    pub const fn disowns(self, tcp: TcpFlags) -> bool {
        let awaits = Self::REPLY.union(Self::SEEN_OPENING);
        self.contains(awaits)
            && !self.intersects(Self::REPLIED.union(Self::AS_IT_IS))
            && tcp.contains(TcpFlags::ACK)
            && !tcp.contains(TcpFlags::SYN)
            && !tcp.contains(TcpFlags::RST)
    }

    /// Whether the connection is over, so that a client that opens one with the same ports means a new one.
    pub const fn is_over(self) -> bool {
        self.intersects(
            Self::CLOSED_BY_CLIENT
                .union(Self::CLOSED_BY_SERVER)
                .union(Self::RESET),
        )
    }

    /// For how long after the last packet the entry is kept, in seconds.
    pub const fn timeout_s(self, protocol: Protocol) -> u32 {
        match protocol {
            Protocol::TCP => {
                let both = Self::CLOSED_BY_CLIENT.union(Self::CLOSED_BY_SERVER);
                if self.contains(Self::RESET) || self.contains(both) {
                    timeouts::TCP_CLOSED_S
                } else if self.intersects(both) {
                    timeouts::TCP_HALF_CLOSED_S
                } else if self.contains(Self::ESTABLISHED) {
                    timeouts::TCP_ESTABLISHED_S
                } else {
                    timeouts::TCP_OPENING_S
                }
            }
            Protocol::SCTP => timeouts::SCTP_S,
            Protocol::UDP if self.contains(Self::REPLIED) => timeouts::DATAGRAM_STREAM_S,
            Protocol::UDP => timeouts::DATAGRAM_S,
            _ => timeouts::ICMP_S,
        }
    }
}

/// The flags of a TCP segment, as in its header. Other protocols have none.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// The sender has nothing more to say.
    pub const FIN: Self = Self(1);
    /// The sender opens the connection.
    pub const SYN: Self = Self(1 << 1);
    /// There is no connection.
    pub const RST: Self = Self(1 << 2);
    /// The sender has received something.
    pub const ACK: Self = Self(1 << 4);

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether this is a connection's first segment.
    pub const fn opens(self) -> bool {
        self.contains(Self::SYN) && !self.contains(Self::ACK)
    }

    /// Whether this is an answer to such a segment: the other side agrees, or there is nobody.
    pub const fn answers(self) -> bool {
        self.contains(Self::SYN.union(Self::ACK)) || self.contains(Self::RST)
    }

    const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Whether an entry that expires at `expires_s` is dead at `now_s`; both count seconds since boot.
#[inline(always)]
pub const fn is_expired(expires_s: u32, now_s: u32) -> bool {
    expires_s.wrapping_sub(now_s).cast_signed() <= 0
}

/// What a packet of a [`ConntrackKey`] becomes, and what is known of its connection.
///
/// A connection has two entries, one for each direction, and each leads to the other: [`Conntrack::partner`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conntrack<A> {
    /// The source address to write.
    pub source: A,
    /// The destination address to write.
    pub destination: A,
    /// The source port to write.
    pub source_port: Port,
    /// The destination port to write.
    pub destination_port: Port,
    /// Seconds since boot after which the entry is dead.
    pub expires_s: u32,
    /// Seconds since boot at which the connection was opened.
    pub created_s: u32,
    /// State bits.
    pub flags: ConntrackFlags,
    /// The service that was addressed; zero: none, the connection is only masqueraded.
    pub service: ServiceId,
    /// The backend that was chosen; zero: none.
    pub backend: BackendId,
}

impl<A: Address> ConntrackKey<A> {
    /// The key of these parts.
    #[inline(always)]
    pub const fn new(
        source: A,
        source_port: Port,
        destination: A,
        destination_port: Port,
        protocol: Protocol,
    ) -> Self {
        Self {
            source,
            destination,
            source_port,
            destination_port,
            protocol,
            reserved: [0; 3],
        }
    }

    /// The key of a packet that answers one of this key.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self::new(
            self.destination,
            self.destination_port,
            self.source,
            self.source_port,
            self.protocol,
        )
    }
}

impl<A: Address> Conntrack<A> {
    /// The key of the connection's other direction: that of an answer to the translated packet.
    #[inline(always)]
    pub const fn partner(&self, protocol: Protocol) -> ConntrackKey<A> {
        ConntrackKey::new(
            self.destination,
            self.destination_port,
            self.source,
            self.source_port,
            protocol,
        )
    }
}

/// Where the SNAT's ports lie: above Linux's ephemeral ports (32768 to 60999) and the NodePorts (30000 to 32767), so that
/// neither the node's own connections nor its listeners share any with it.
pub const SNAT_PORT_MIN: u16 = 61_000;
/// The last of the SNAT's ports.
pub const SNAT_PORT_MAX: u16 = 65_535;

/// The source of a pod's packets that come back to it by way of a Service. Never on a wire.
pub const HAIRPIN4: Address4 = Address4::from_octets([169, 254, 1, 1]);
/// The same for IPv6: of the prefix that routers discard (RFC 6666).
pub const HAIRPIN6: Address6 = Address6([0x0100_0000_u32.to_be(), 0, 0, 1_u32.to_be()]);

/// For how long an entry is kept after a packet of its connection, in seconds.
pub mod timeouts {
    /// TCP, after both sides have acknowledged each other. That of kube-proxy's `--conntrack-tcp-timeout-established`.
    pub const TCP_ESTABLISHED_S: u32 = 24 * 3600;
    /// TCP, before that. Linux repeats a SYN for 63 s at most.
    pub const TCP_OPENING_S: u32 = 75;
    /// TCP of a pod that is not translated, from its first packet on: by then it has been answered, or asks again.
    pub const DIRECT_OPENING_S: u32 = 5;
    /// TCP, after one side has closed; the other may have something to say for long. That of kube-proxy's
    /// `--conntrack-tcp-timeout-close-wait`.
    pub const TCP_HALF_CLOSED_S: u32 = 3600;
    /// TCP, after both sides have closed or one has reset: for what is still on its way.
    pub const TCP_CLOSED_S: u32 = 10;
    /// A datagram that nobody has answered.
    pub const DATAGRAM_S: u32 = 30;
    /// Datagrams that go both ways. Linux's own.
    pub const DATAGRAM_STREAM_S: u32 = 120;
    /// SCTP, whose own heartbeat is every 30 s.
    pub const SCTP_S: u32 = 210;
    /// An ICMP echo.
    pub const ICMP_S: u32 = 30;
    /// The parts of a datagram: Linux itself gives up on them after 30 s.
    pub const FRAGMENT_S: u32 = 30;
    /// Entries are touched at most this often: sooner means more writes to memory that CPUs share, later means that they
    /// expire earlier than promised.
    pub const TOUCH_S: u32 = 2;
}

/// A datagram that was sent in fragments, of which only the first names the ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// The datagram's identification, in network byte order; that of IPv4 has 16 bits.
    pub id: u32,
    /// Protocol.
    pub protocol: Protocol,
    /// Always zero.
    pub reserved: [u8; 3],
}

/// What the first fragment has said.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fragment {
    /// Source port.
    pub source_port: Port,
    /// Destination port.
    pub destination_port: Port,
    /// Seconds since boot at which it was seen: identifications are used again.
    pub seen_s: u32,
}

/// A device of this node, keyed by its interface index, that packets of Services leave or enter by.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Device {
    /// What it is.
    pub flags: DeviceFlags,
    /// The source of what this node sends there on behalf of others; unspecified: the family is not in use.
    pub address4: Address4,
    /// The same for IPv6.
    pub address6: Address6,
}

/// What a [`Device`] is.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct DeviceFlags(pub u32);

impl DeviceFlags {
    /// Other nodes and the world are behind it.
    pub const UPLINK: Self = Self(1);
    /// What pods send to the world gets this node's address.
    pub const MASQUERADE: Self = Self(1 << 1);
    /// Kept for WireGuard: what is sent there is encrypted, and has no Ethernet header.
    pub const ENCRYPTS: Self = Self(1 << 2);

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Entry 0 of `CONFIG`: what can be changed while the programs run.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Config {
    /// Bit *n* is set: events of [`EventKind`](crate::EventKind) *n* are written to `EVENTS`.
    pub monitored: u32,
    /// Always zero.
    pub reserved: u32,
}

/// loadBalancerSourceRanges of a service: the data of a longest-prefix-match key whose prefix always covers `service`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
    /// Number that policy knows the pod by, and [`Self::BY_DEVICE`].
    pub identity: u32,
    /// Hardware address of the pod's end.
    pub pod_mac: [u8; 6],
    /// Hardware address of the host's end.
    pub host_mac: [u8; 6],
}

impl LocalPod {
    /// Bit of the identity: packets go by the host's end of the pod's device, where something limits them, never past it.
    pub const BY_DEVICE: u32 = 1 << 31;
}

/// The pod network of a node: the data of a longest-prefix-match key.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeKey<A> {
    /// A pod CIDR of the node.
    pub network: A,
}

/// Whose pods a [`NodeKey`] holds.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node(pub u32);

impl Node {
    /// Another node's.
    pub const REMOTE: Self = Self(0);
    /// This node's.
    pub const LOCAL: Self = Self(1);
    /// Kept for WireGuard: another node's, and packets to it are encrypted.
    pub const ENCRYPTED: Self = Self(1 << 1);
}

/// Which way a policy looks at a pod.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Direction(pub u8);

impl Direction {
    /// Into the pod.
    pub const INGRESS: Self = Self(0);
    /// Out of the pod.
    pub const EGRESS: Self = Self(1);
}

/// A rule of a pod's compiled NetworkPolicies. No map is made of these yet.
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
    assert!(size_of::<Conntrack<Address4>>() == 32);
    assert!(size_of::<Conntrack<Address6>>() == 56);
    assert!(size_of::<FragmentKey<Address4>>() == 16);
    assert!(size_of::<FragmentKey<Address6>>() == 40);
    assert!(size_of::<Fragment>() == 8);
    assert!(size_of::<Device>() == 24);
    assert!(size_of::<Config>() == 8);
    assert!(size_of::<SourceRangeKey<Address4>>() == 8);
    assert!(size_of::<SourceRangeKey<Address6>>() == 20);
    assert!(size_of::<LocalPod>() == 20);
    assert!(size_of::<NodeKey<Address4>>() == 4);
    assert!(size_of::<NodeKey<Address6>>() == 16);
    assert!(size_of::<Node>() == 4);
    assert!(size_of::<PolicyKey>() == 12);
    assert!(size_of::<Policy>() == 8);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_lives_as_long_as_its_state_says() {
        use TcpFlags as T;
        let syn_ack = T(T::SYN.0 | T::ACK.0);
        let fin_ack = T(T::FIN.0 | T::ACK.0);
        let rst_ack = T(T::RST.0 | T::ACK.0);
        // Who sends which segment, and how long the entries live after it.
        let rows: [&[(bool, TcpFlags, u32)]; 4] = [
            &[
                (false, T::SYN, timeouts::TCP_OPENING_S),
                (true, syn_ack, timeouts::TCP_OPENING_S),
                (false, T::SYN, timeouts::TCP_OPENING_S),
                (false, T::ACK, timeouts::TCP_ESTABLISHED_S),
                (false, fin_ack, timeouts::TCP_HALF_CLOSED_S),
                (true, T::ACK, timeouts::TCP_HALF_CLOSED_S),
                (true, fin_ack, timeouts::TCP_CLOSED_S),
                (false, T::ACK, timeouts::TCP_CLOSED_S),
            ],
            // A flood of SYNs that nobody answers must not stay for a day, whatever follows them.
            &[
                (false, T::SYN, timeouts::TCP_OPENING_S),
                (false, T::ACK, timeouts::TCP_OPENING_S),
            ],
            &[
                (false, T::SYN, timeouts::TCP_OPENING_S),
                (true, rst_ack, timeouts::TCP_CLOSED_S),
            ],
            // Only one direction passes here.
            &[
                (true, syn_ack, timeouts::TCP_OPENING_S),
                (true, T::ACK, timeouts::TCP_OPENING_S),
                (true, fin_ack, timeouts::TCP_HALF_CLOSED_S),
            ],
        ];
        for segments in rows {
            let mut flags = ConntrackFlags::SNAT;
            for &(reply, segment, expected) in segments {
                let side = if reply { flags.partner() } else { flags };
                let after = side.after(segment);
                assert_eq!(
                    after.timeout_s(Protocol::TCP),
                    expected,
                    "{segment:?} of {segments:?}"
                );
                flags = if reply { after.partner() } else { after };
                assert!(!flags.contains(ConntrackFlags::REPLY) && flags.contains(ConntrackFlags::SNAT));
            }
        }
        let none = TcpFlags::default();
        let asked = ConntrackFlags::default().after(none);
        assert_eq!(asked.timeout_s(Protocol::UDP), timeouts::DATAGRAM_S);
        let answered = asked.partner().after(none);
        assert_eq!(answered.timeout_s(Protocol::UDP), timeouts::DATAGRAM_STREAM_S);
    }

    #[test]
    fn only_a_syn_or_a_reset_is_the_first_answer_to_a_syn() {
        use TcpFlags as T;
        let opened = ConntrackFlags::SEEN_OPENING.partner();
        for (flags, tcp, expected) in [
            (opened, T::ACK, true),
            (opened, T(T::ACK.0 | T::FIN.0), true),
            (opened, T(T::SYN.0 | T::ACK.0), false),
            (opened, T(T::RST.0 | T::ACK.0), false),
            (opened, T::RST, false),
            // What a client sends, who has acknowledged what another node's program saw.
            (opened.partner(), T::ACK, false),
            (opened.union(ConntrackFlags::REPLIED), T::ACK, false),
            // Found in the middle, after the tables were lost: anything may come.
            (ConntrackFlags::REPLY, T::ACK, false),
        ] {
            assert_eq!(flags.disowns(tcp), expected, "{tcp:?} of {flags:?}");
        }
    }

    #[test]
    fn time_may_wrap() {
        for (expires, now, expected) in [
            (10, 9, false),
            (10, 10, true),
            (10, 11, true),
            (3, u32::MAX, false),
        ] {
            assert_eq!(is_expired(expires, now), expected, "{expires} at {now}");
        }
    }

    #[test]
    fn each_entry_of_a_connection_leads_to_the_other() {
        let address = |last| Address4::from_octets([10, 0, 0, last]);
        let [client, service, node, backend] = [1, 2, 3, 4].map(address);
        let (from, to) = (Port::new(40_000), Port::new(80));
        let (snat, target) = (Port::new(SNAT_PORT_MIN), Port::new(8080));
        let forward_key = ConntrackKey::new(client, from, service, to, Protocol::TCP);
        let entry = |source, source_port, destination, destination_port| Conntrack {
            source,
            destination,
            source_port,
            destination_port,
            expires_s: 0,
            created_s: 0,
            flags: ConntrackFlags::default(),
            service: ServiceId(1),
            backend: BackendId(1),
        };
        let forward = entry(node, snat, backend, target);
        let reverse = entry(service, to, client, from);
        let reverse_key = forward.partner(Protocol::TCP);
        assert_eq!(
            reverse_key,
            ConntrackKey::new(backend, target, node, snat, Protocol::TCP)
        );
        assert_eq!(reverse.partner(Protocol::TCP), forward_key);
        assert_eq!(forward_key.reversed().reversed(), forward_key);
    }
}
