//! Address ranges.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address range such as `10.244.0.0/16` or `fd00:10:244::/56`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    base: IpAddr,
    prefix: u8,
}

/// Why a text is no address range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// There is no `/`, or what is around it is no address and no number.
    #[error("{0:?} is not an address range such as 10.244.0.0/16")]
    Malformed(String),
    /// The prefix is longer than an address of the family.
    #[error("{0:?}: the prefix is longer than the address")]
    PrefixTooLong(String),
}

impl Cidr {
    /// Whether this is a range of IPv6 addresses.
    #[must_use]
    pub fn is_ipv6(&self) -> bool {
        self.base.is_ipv6()
    }

    /// Length of the prefix in bits.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    fn width(&self) -> u8 {
        if self.is_ipv6() { 128 } else { 32 }
    }

    /// The first address as a number.
    fn first(&self) -> u128 {
        match self.base {
            IpAddr::V4(ip) => u128::from(u32::from(ip)),
            IpAddr::V6(ip) => u128::from(ip),
        }
    }

    /// The last address as a number.
    fn last(&self) -> u128 {
        self.first() | low_bits(self.width() - self.prefix)
    }

    /// Whether an address is in the range.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let value = match address {
            IpAddr::V4(ip) => u128::from(u32::from(ip)),
            IpAddr::V6(ip) => u128::from(ip),
        };
        self.is_ipv6() == address.is_ipv6() && (self.first()..=self.last()).contains(&value)
    }

    /// Whether the two ranges share an address.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.is_ipv6() == other.is_ipv6() && self.first() <= other.last() && other.first() <= self.last()
    }

    /// The first part of this range with a prefix of `prefix` bits that overlaps none of `used`.
    ///
    /// `None` if all parts are used, or if `prefix` makes no part of this range.
    #[must_use]
    pub fn first_free(&self, prefix: u8, used: &[Self]) -> Option<Self> {
        if prefix < self.prefix || prefix > self.width() {
            return None;
        }
        let step = low_bits(self.width() - prefix).checked_add(1)?;
        let mut used: Vec<_> = used.iter().filter(|used| used.overlaps(self)).collect();
        used.sort_by_key(|used| used.first());
        let mut candidate = self.first();
        for used in used {
            if used.last() < candidate {
                continue;
            }
            if used.first() > candidate + (step - 1) {
                break;
            }
            // The first boundary behind the used range.
            let behind = used.last().checked_sub(self.first())? / step + 1;
            candidate = self.first().checked_add(behind.checked_mul(step)?)?;
        }
        (candidate <= self.last()).then(|| Self::from_number(candidate, self.is_ipv6(), prefix))
    }

    fn from_number(number: u128, ipv6: bool, prefix: u8) -> Self {
        let base = if ipv6 {
            IpAddr::V6(Ipv6Addr::from(number))
        } else {
            #[expect(clippy::cast_possible_truncation, reason = "IPv4 numbers have 32 bits")]
            IpAddr::V4(Ipv4Addr::from(number as u32))
        };
        Self { base, prefix }
    }
}

fn low_bits(count: u8) -> u128 {
    if count >= 128 { u128::MAX } else { (1 << count) - 1 }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || CidrError::Malformed(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(malformed)?;
        let base: IpAddr = address.parse().map_err(|_| malformed())?;
        let prefix: u8 = prefix.parse().map_err(|_| malformed())?;
        let cidr = Self { base, prefix };
        if prefix > cidr.width() {
            return Err(CidrError::PrefixTooLong(text.to_owned()));
        }
        let network = cidr.first() & !low_bits(cidr.width() - prefix);
        Ok(Self::from_number(network, cidr.is_ipv6(), prefix))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn parsing() {
        assert_eq!(cidr("10.244.3.7/16").to_string(), "10.244.0.0/16");
        assert_eq!(cidr("fd00:10:244::/56").to_string(), "fd00:10:244::/56");
        assert_eq!(cidr("0.0.0.0/0").to_string(), "0.0.0.0/0");
        for bad in ["10.244.0.0", "10.244.0.0/x", "x/16", "/16", ""] {
            assert!(
                matches!(bad.parse::<Cidr>(), Err(CidrError::Malformed(_))),
                "{bad}"
            );
        }
        assert!(matches!(
            "10.0.0.0/33".parse::<Cidr>(),
            Err(CidrError::PrefixTooLong(_))
        ));
    }

    /// Rows follow upstream's `TestCIDRSetFullyAllocated` and `TestOccupy`.
    #[test]
    fn the_lowest_free_part() {
        for (range, prefix, used, expect) in [
            ("10.244.0.0/16", 24, vec![], Some("10.244.0.0/24")),
            ("10.244.0.0/16", 24, vec!["10.244.0.0/24"], Some("10.244.1.0/24")),
            (
                "10.244.0.0/16",
                24,
                vec!["10.244.2.0/24", "10.244.0.0/24"],
                Some("10.244.1.0/24"),
            ),
            ("10.244.0.0/16", 24, vec!["10.244.0.0/23"], Some("10.244.2.0/24")),
            (
                "10.244.0.0/16",
                24,
                vec!["10.244.0.128/28"],
                Some("10.244.1.0/24"),
            ),
            (
                "10.244.0.0/16",
                24,
                vec!["192.168.0.0/16", "fd00::/8"],
                Some("10.244.0.0/24"),
            ),
            ("10.244.0.0/30", 31, vec!["10.244.0.0/31", "10.244.0.2/31"], None),
            ("10.244.0.0/30", 30, vec!["10.0.0.0/8"], None),
            ("10.244.0.0/24", 16, vec![], None),
            (
                "fd00:10:244::/56",
                64,
                vec!["fd00:10:244::/64"],
                Some("fd00:10:244:1::/64"),
            ),
            ("::/0", 1, vec!["::/1"], Some("8000::/1")),
            ("::/0", 1, vec!["::/1", "8000::/1"], None),
        ] {
            let used: Vec<_> = used.into_iter().map(cidr).collect();
            let free = cidr(range).first_free(prefix, &used).map(|free| free.to_string());
            assert_eq!(free.as_deref(), expect, "{range} /{prefix} beside {used:?}");
        }
    }
}
