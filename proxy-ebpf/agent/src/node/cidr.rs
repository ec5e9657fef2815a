//! Networks, as Nodes and flags name them. Pure.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// A network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    /// Its first address.
    pub address: IpAddr,
    /// Length of its prefix in bits.
    pub prefix: u8,
}

/// The text of a string that is no network.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidCidr;

impl Cidr {
    /// The network of `prefix` bits that `address` is in; `None` if an address has fewer bits.
    pub fn of(address: IpAddr, prefix: u8) -> Option<Self> {
        let network = match address {
            IpAddr::V4(address) => {
                let host_bits = 32_u8.checked_sub(prefix)?;
                let mask = u32::MAX.checked_shl(u32::from(host_bits)).unwrap_or(0);
                Ipv4Addr::from_bits(address.to_bits() & mask).into()
            }
            IpAddr::V6(address) => {
                let host_bits = 128_u8.checked_sub(prefix)?;
                let mask = u128::MAX.checked_shl(u32::from(host_bits)).unwrap_or(0);
                Ipv6Addr::from_bits(address.to_bits() & mask).into()
            }
        };
        Some(Self {
            address: network,
            prefix,
        })
    }

    /// Whether `address` is in the network.
    pub fn contains(self, address: IpAddr) -> bool {
        self.address.is_ipv6() == address.is_ipv6() && Self::of(address, self.prefix) == Some(self)
    }

    /// Whether the networks have an address in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// The first address after the network's own; `None` if it has no other.
    pub fn first_host(self) -> Option<IpAddr> {
        let next = match self.address {
            IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits().checked_add(1)?).into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits().checked_add(1)?).into(),
        };
        self.contains(next).then_some(next)
    }
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let (address, prefix) = text.split_once('/').ok_or(InvalidCidr)?;
        let address = address.parse().map_err(|_| InvalidCidr)?;
        Self::of(address, prefix.parse().map_err(|_| InvalidCidr)?).ok_or(InvalidCidr)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("a network")
    }

    #[test]
    fn networks_are_parsed_and_contain_their_addresses() {
        assert_eq!(cidr("10.244.1.7/24").to_string(), "10.244.1.0/24");
        assert_eq!(cidr("fd00:10:244::9/64").to_string(), "fd00:10:244::/64");
        assert!(cidr("0.0.0.0/0").contains(IpAddr::from([203, 0, 113, 9])));
        assert!(!cidr("0.0.0.0/0").contains(IpAddr::from([0_u16; 8])));
        assert!(cidr("172.31.0.0/24").contains(IpAddr::from([172, 31, 0, 255])));
        assert!(!cidr("172.31.0.0/24").contains(IpAddr::from([172, 31, 1, 0])));
        for text in ["10.0.0.0", "10.0.0.0/33", "::/129", "10.0.0/8", "/8", ""] {
            assert_eq!(text.parse::<Cidr>(), Err(InvalidCidr), "{text}");
        }
    }

    #[test]
    fn networks_overlap_when_one_is_in_the_other() {
        for (a, b, expected) in [
            ("10.244.0.0/16", "10.244.3.0/24", true),
            ("10.244.3.0/24", "10.244.3.0/24", true),
            ("10.244.3.0/24", "10.244.4.0/24", false),
            ("0.0.0.0/0", "fd00::/8", false),
            ("fd00::/8", "fd00:10::/64", true),
        ] {
            assert_eq!(cidr(a).overlaps(cidr(b)), expected, "{a} {b}");
            assert_eq!(cidr(b).overlaps(cidr(a)), expected, "{b} {a}");
        }
    }

    #[test]
    fn the_address_after_a_network() {
        for (network, expected) in [
            ("10.244.1.0/24", Some("10.244.1.1")),
            ("fd00::/64", Some("fd00::1")),
            ("10.0.0.9/32", None),
        ] {
            let expected = expected.map(|text| text.parse().expect("an address"));
            assert_eq!(cidr(network).first_host(), expected, "{network}");
        }
    }
}
