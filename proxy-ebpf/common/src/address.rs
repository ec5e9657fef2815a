//! Addresses and ports, in network byte order.

/// An address family's address as a table holds it.
pub trait Address: Copy + Eq {
    /// All zeros. As a destination Linux takes it for loopback; in a table it stands for all addresses of nodes.
    const UNSPECIFIED: Self;
    // Word by word below: comparing arrays as a whole gives the compiler for BPF 128-bit integers, at which it fails.

    /// Whether this is [`Self::UNSPECIFIED`].
    fn is_unspecified(self) -> bool;

    /// Whether both are the same.
    fn is(self, other: Self) -> bool;

    /// Whether packets to this address stay inside the network namespace, as those to the unspecified one do.
    fn is_loopback(self) -> bool;
}

/// An IPv4 address. The integer's bytes in memory are the address's bytes on the wire.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address4(pub u32);

/// An IPv6 address. The words' bytes in memory are the address's bytes on the wire.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address6(pub [u32; 4]);

impl Address for Address4 {
    const UNSPECIFIED: Self = Self(0);

    #[inline(always)]
    fn is_unspecified(self) -> bool {
        self.0 == 0
    }

    #[inline(always)]
    fn is(self, other: Self) -> bool {
        self.0 == other.0
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self.0 & Self::from_octets([0xff, 0, 0, 0]).0 == Self::from_octets([127, 0, 0, 0]).0
    }
}

impl Address for Address6 {
    const UNSPECIFIED: Self = Self([0; 4]);

    #[inline(always)]
    fn is_unspecified(self) -> bool {
        let [first, second, third, fourth] = self.0;
        first == 0 && second == 0 && third == 0 && fourth == 0
    }

    #[inline(always)]
    fn is(self, other: Self) -> bool {
        let [first, second, third, fourth] = self.0;
        let [other_first, other_second, other_third, other_fourth] = other.0;
        first == other_first && second == other_second && third == other_third && fourth == other_fourth
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        let [first, second, third, fourth] = self.0;
        first == 0 && second == 0 && third == 0 && fourth == 1_u32.to_be()
    }
}

impl Address4 {
    /// The address of these four bytes.
    pub const fn from_octets(octets: [u8; 4]) -> Self {
        Self(u32::from_ne_bytes(octets))
    }

    /// The address's four bytes.
    pub const fn octets(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }
}

impl Address6 {
    /// The third word of every v4-mapped address `::ffff:a.b.c.d`.
    const V4_MAPPED_WORD: u32 = 0x0000_ffff_u32.to_be();

    /// The address of these sixteen bytes.
    pub fn from_octets(octets: [u8; 16]) -> Self {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(octets.chunks_exact(4)) {
            *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        Self(words)
    }

    /// The address's sixteen bytes.
    pub fn octets(self) -> [u8; 16] {
        let mut octets = [0; 16];
        for (bytes, word) in octets.chunks_exact_mut(4).zip(self.0) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        octets
    }

    /// The IPv4 address inside `::ffff:a.b.c.d`, which is how a dual-stack socket names an IPv4 peer.
    #[inline(always)]
    pub const fn to_v4_mapped(self) -> Option<Address4> {
        let [first, second, third, fourth] = self.0;
        if first == 0 && second == 0 && third == Self::V4_MAPPED_WORD {
            Some(Address4(fourth))
        } else {
            None
        }
    }
}

/// A port. The integer's bytes in memory are the port's bytes on the wire.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port(u16);

impl Port {
    /// The port of a number as people write it.
    pub const fn new(number: u16) -> Self {
        Self(number.to_be())
    }

    /// The port of an integer that is in network byte order already, as in `bpf_sock_addr.user_port`.
    pub const fn from_network(port: u16) -> Self {
        Self(port)
    }

    /// The number as people write it.
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }

    /// The integer in network byte order.
    pub const fn to_network(self) -> u16 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_in_memory_are_bytes_on_the_wire() {
        assert_eq!(Address4::from_octets([10, 96, 0, 1]).octets(), [10, 96, 0, 1]);
        let octets = [0xfd, 0, 0, 0x10, 0, 0x96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(Address6::from_octets(octets).octets(), octets);
        assert_eq!(Port::new(80).to_network().to_ne_bytes(), [0, 80]);
        assert_eq!(Port::from_network(Port::new(8080).to_network()).get(), 8080);
    }

    #[test]
    fn loopback_is_a_network_in_one_family_and_an_address_in_the_other() {
        for (octets, expected) in [
            ([127, 0, 0, 1], true),
            ([127, 9, 9, 9], true),
            ([126, 0, 0, 127], false),
            ([0; 4], false),
        ] {
            assert_eq!(
                Address4::from_octets(octets).is_loopback(),
                expected,
                "{octets:?}"
            );
        }
        let one = Address6::from_octets([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert!(one.is_loopback());
        assert!(!Address6::UNSPECIFIED.is_loopback());
    }

    #[test]
    fn only_the_mapped_prefix_is_v4_mapped() {
        let mapped = |octets| Address6::from_octets(octets).to_v4_mapped();
        assert_eq!(
            mapped([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 96, 0, 1]),
            Some(Address4::from_octets([10, 96, 0, 1]))
        );
        // The deprecated v4-compatible form, and NAT64's prefix, are IPv6 addresses like any other.
        assert_eq!(mapped([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 96, 0, 1]), None);
        assert_eq!(
            mapped([0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 96, 0, 1]),
            None
        );
    }
}
