//! A range of pod addresses and the choice of the next free one. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A node's pod CIDR of one address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    network: IpAddr,
    prefix: u8,
}

impl Range {
    /// Whether the range is of IPv6 addresses.
    pub fn is_ipv6(&self) -> bool {
        self.network.is_ipv6()
    }

    /// Whether the address is inside, allocatable or not.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv6() == self.is_ipv6() && self.offset(address) < self.size()
    }

    /// Whether the address may be given to a pod.
    pub fn is_allocatable(&self, address: IpAddr) -> bool {
        self.contains(address)
            && (FIRST_OFFSET..FIRST_OFFSET + self.capacity()).contains(&self.offset(address))
    }

    /// The next free address after `cursor`, wrapping round; `None` when all are used. `used` is sorted.
    ///
    /// Going round robin leaves an address that was just freed alone for as long as possible, so that peers which still
    /// hold connections or neighbour entries to the pod that had it do not reach another pod.
    pub fn next_free(&self, used: &[IpAddr], cursor: Option<IpAddr>) -> Option<IpAddr> {
        let capacity = self.capacity();
        let start = match cursor {
            Some(address) if self.contains(address) => self.offset(address).saturating_sub(FIRST_OFFSET) + 1,
            _ => 0,
        };
        // Among one address more than are used there is a free one: a /64 is never walked.
        let attempts = capacity.min(used.len() as u128 + 1);
        (0..attempts)
            .map(|step| self.at(FIRST_OFFSET + (start + step) % capacity))
            .find(|address| used.binary_search(address).is_err())
    }

    /// How many addresses can be given to pods.
    pub fn capacity(&self) -> u128 {
        // IPv4 has a broadcast address at the end.
        self.size() - FIRST_OFFSET - u128::from(!self.is_ipv6())
    }

    fn size(&self) -> u128 {
        let bits = if self.is_ipv6() { 128 } else { 32 };
        1_u128
            .checked_shl(u32::from(bits - self.prefix))
            .unwrap_or(u128::MAX)
    }

    fn offset(&self, address: IpAddr) -> u128 {
        number(address).wrapping_sub(number(self.network))
    }

    fn at(&self, offset: u128) -> IpAddr {
        match self.network {
            IpAddr::V4(network) => Ipv4Addr::from(u32::from(network) + offset as u32).into(),
            IpAddr::V6(network) => Ipv6Addr::from(u128::from(network) + offset).into(),
        }
    }
}

/// The network address (in IPv6 the subnet-router anycast address) and the first one after it, which other plugins and
/// tunnel devices take for the node itself, are never given to a pod.
const FIRST_OFFSET: u128 = 2;

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(network, prefix)| {
            let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
            Some((
                network.parse::<IpAddr>().ok()?,
                prefix.parse::<u8>().ok().filter(|_| digits)?,
            ))
        });
        let Some((network, prefix)) = parsed else {
            return Err(format!("{text:?} is not a CIDR such as 10.244.0.0/24"));
        };
        let (bits, longest) = if network.is_ipv6() { (128, 126) } else { (32, 30) };
        if prefix > bits {
            return Err(format!("{text:?} has a prefix longer than {bits} bits"));
        }
        if prefix > longest || prefix == 0 {
            return Err(format!(
                "{text:?} has an unusable size: the prefix must be /1 to /{longest}"
            ));
        }
        let range = Range { network, prefix };
        if number(network) & (range.size() - 1) != 0 {
            return Err(format!("{text:?} has bits set beyond its prefix"));
        }
        Ok(range)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn next(range: &str, used: &[&str], cursor: Option<&str>) -> Option<String> {
        let range: Range = range.parse().unwrap();
        let mut used: Vec<_> = used.iter().map(|text| ip(text)).collect();
        used.sort_unstable();
        range
            .next_free(&used, cursor.map(ip))
            .map(|address| address.to_string())
    }

    #[test]
    fn next_free_goes_round() {
        for (range, used, cursor, expect) in [
            ("10.0.0.0/24", &[][..], None, Some("10.0.0.2")),
            ("10.0.0.0/24", &["10.0.0.2"], None, Some("10.0.0.3")),
            // Freed, but the cursor is past it.
            ("10.0.0.0/24", &[], Some("10.0.0.2"), Some("10.0.0.3")),
            ("10.0.0.0/24", &["10.0.0.4"], Some("10.0.0.3"), Some("10.0.0.5")),
            // Neither broadcast nor network address when wrapping.
            ("10.0.0.0/24", &[], Some("10.0.0.254"), Some("10.0.0.2")),
            // A cursor from another range is ignored.
            ("10.0.0.0/24", &[], Some("10.9.0.7"), Some("10.0.0.2")),
            ("10.0.0.0/24", &[], Some("fd00::7"), Some("10.0.0.2")),
            // Used addresses of other ranges and families take no room.
            ("10.0.0.0/30", &["10.9.0.1", "fd00::2"], None, Some("10.0.0.2")),
            ("10.0.0.0/30", &["10.0.0.2"], None, None),
            (
                "10.0.0.0/29",
                &["10.0.0.2", "10.0.0.3", "10.0.0.5", "10.0.0.6"],
                Some("10.0.0.6"),
                Some("10.0.0.4"),
            ),
            ("fd00::/64", &[], None, Some("fd00::2")),
            ("fd00::/64", &["fd00::3"], Some("fd00::2"), Some("fd00::4")),
            (
                "fd00::/64",
                &[],
                Some("fd00::ffff:ffff:ffff:ffff"),
                Some("fd00::2"),
            ),
            ("fd00::/126", &["fd00::2", "fd00::3"], None, None),
        ] {
            assert_eq!(
                next(range, used, cursor).as_deref(),
                expect,
                "{range} {used:?} {cursor:?}"
            );
        }
    }

    #[test]
    fn a_full_range_is_walked_once() {
        let range: Range = "10.1.0.0/24".parse().unwrap();
        let mut used = Vec::new();
        let mut cursor = None;
        while let Some(address) = range.next_free(&used, cursor) {
            let place = used.binary_search(&address).expect_err("it is free");
            assert!(range.contains(address));
            used.insert(place, address);
            cursor = Some(address);
        }
        assert_eq!(used.len() as u128, range.capacity());
        assert!(!used.contains(&ip("10.1.0.255")) && !used.contains(&ip("10.1.0.0")));
    }

    #[test]
    fn malformed_ranges_say_what_is_wrong() {
        for (text, expect) in [
            ("", "is not a CIDR"),
            ("10.0.0.0", "is not a CIDR"),
            ("10.0.0/24", "is not a CIDR"),
            ("10.0.0.0/+8", "is not a CIDR"),
            ("10.0.0.0/33", "longer than 32 bits"),
            ("10.0.0.0/31", "/1 to /30"),
            ("0.0.0.0/0", "/1 to /30"),
            ("fd00::/127", "/1 to /126"),
            ("10.0.0.5/24", "bits set beyond its prefix"),
            ("fd00::1/64", "bits set beyond its prefix"),
        ] {
            let error = text.parse::<Range>().unwrap_err();
            assert!(error.contains(expect), "{text}: {error}");
        }
    }
}
