//! Ranges of addresses.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    str::FromStr,
};

/// How often a random pick is tried before the range is searched from its start.
const RANDOM_ATTEMPTS: usize = 16;

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IpRange {
    base: u128,
    bits: u8,
    ipv4: bool,
}

impl IpRange {
    pub(crate) fn is_ipv4(&self) -> bool {
        self.ipv4
    }

    /// The address so many after the range's first; `None` outside.
    pub(crate) fn at(&self, offset: u128) -> Option<IpAddr> {
        (offset < self.size()).then(|| {
            let value = self.base + offset;
            if self.ipv4 {
                IpAddr::V4(Ipv4Addr::from(value as u32))
            } else {
                IpAddr::V6(Ipv6Addr::from(value))
            }
        })
    }

    fn width(&self) -> u8 {
        if self.ipv4 { 32 } else { 128 }
    }

    /// Addresses to try for one that nobody asked for, without end in sight: some at random, then all in order. The lower
    /// part of the range is left to those who ask for an address by itself, as upstream.
    pub(super) fn candidates(&self) -> impl Iterator<Item = IpAddr> + Send + use<> {
        let range = *self;
        let usable = range.usable();
        let band = (range.size() / 16).clamp(16, 256);
        let dynamic = if band < *usable.end() {
            band + 1
        } else {
            *usable.start()
        };
        let span = usable.end() - dynamic + 1;
        let picks = (0..RANDOM_ATTEMPTS).map(move |_| dynamic + u128::from(rand::random::<u64>()) % span);
        let searched = (dynamic..=*usable.end()).chain(*usable.start()..dynamic);
        picks.chain(searched).filter_map(move |offset| range.at(offset))
    }

    fn size(&self) -> u128 {
        1_u128
            .checked_shl(u32::from(self.width() - self.bits))
            .unwrap_or(u128::MAX)
    }

    /// The offsets that may be handed out: neither the network's own address nor IPv4's broadcast address.
    fn usable(&self) -> RangeInclusive<u128> {
        1..=if self.ipv4 {
            self.size().saturating_sub(2)
        } else {
            self.size() - 1
        }
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let value = match address {
            IpAddr::V4(address) if self.ipv4 => u128::from(u32::from(address)),
            IpAddr::V6(address) if !self.ipv4 => u128::from(address),
            _ => return false,
        };
        value
            .checked_sub(self.base)
            .is_some_and(|offset| self.usable().contains(&offset))
    }
}

impl fmt::Display for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at(0) {
            Some(first) => write!(f, "{first}/{}", self.bits),
            None => Ok(()),
        }
    }
}

impl FromStr for IpRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not an address range such as 10.96.0.0/16");
        let (address, bits) = text.trim().split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let bits: u8 = bits.parse().map_err(|_| bad())?;
        let (value, width, ipv4) = match address {
            IpAddr::V4(address) => (u128::from(u32::from(address)), 32, true),
            IpAddr::V6(address) => (u128::from(address), 128, false),
        };
        if bits > width {
            return Err(bad());
        }
        // Upstream's limits: at least a few addresses, at most what fits its bitmaps.
        if width - bits < 3 {
            return Err(format!("{text:?} is too small, at least 8 addresses are needed"));
        }
        let host = 1_u128
            .checked_shl(u32::from(width - bits))
            .map_or(u128::MAX, |size| size - 1);
        Ok(IpRange {
            base: value & !host,
            bits,
            ipv4,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let range: IpRange = "10.96.0.0/16".parse().unwrap();
        assert_eq!(range.at(1).unwrap().to_string(), "10.96.0.1");
        assert_eq!(range.to_string(), "10.96.0.0/16");
        assert!(range.contains("10.96.255.254".parse().unwrap()));
        assert!(!range.contains("10.96.255.255".parse().unwrap()));
        assert!(!range.contains("10.97.0.1".parse().unwrap()));
        let range: IpRange = "fd00:10:96::/112".parse().unwrap();
        assert_eq!(range.at(1).unwrap().to_string(), "fd00:10:96::1");
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/31"] {
            assert!(bad.parse::<IpRange>().is_err(), "{bad}");
        }
    }

    #[test]
    fn every_address_is_tried() {
        let range: IpRange = "10.0.0.0/29".parse().unwrap();
        let mut tried: Vec<IpAddr> = range.candidates().collect();
        tried.sort();
        tried.dedup();
        let all: Vec<IpAddr> = (1..=6).filter_map(|offset| range.at(offset)).collect();
        assert_eq!(tried, all);
        let range: IpRange = "10.0.0.0/16".parse().unwrap();
        let static_band: IpAddr = "10.0.1.0".parse().unwrap();
        assert!(range.candidates().take(16).all(|address| address > static_band));
    }
}
