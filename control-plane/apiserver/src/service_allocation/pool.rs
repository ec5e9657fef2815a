//! What is free and what is taken: plain sets, so that memory follows the number of Services and not the size of ranges.

use std::{
    collections::HashSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    str::FromStr,
};

use rand::RngExt;

/// Node ports are taken from here; upstream's default range.
pub(super) const NODE_PORTS: RangeInclusive<u16> = 30000..=32767;

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

    fn contains(&self, address: IpAddr) -> bool {
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

/// A node port of a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PortUse {
    pub(super) number: u16,
    protocol: u8,
}

impl PortUse {
    /// A number beyond the port range stays outside every valid range.
    pub(super) fn new(number: u64, protocol: &str) -> Self {
        let protocol = match protocol {
            "UDP" => 17,
            "SCTP" => 132,
            _ => 6,
        };
        PortUse {
            number: u16::try_from(number).unwrap_or(0),
            protocol,
        }
    }
}

/// Why something cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("provided IP is already allocated")]
    AddressTaken,
    #[error("the provided IP ({0}) is not in the valid range. The range of valid IPs is {1}")]
    AddressOutside(IpAddr, String),
    #[error("provided port is already allocated")]
    PortTaken,
    #[error("provided port is not in the valid range. The range of valid ports is {}-{}", NODE_PORTS.start(), NODE_PORTS.end())]
    PortOutside,
    #[error("range is full")]
    Full,
}

impl Refusal {
    pub(super) fn is_full(&self) -> bool {
        *self == Refusal::Full
    }
}

/// Everything that is taken.
#[derive(Default)]
pub(super) struct Pool {
    addresses: HashSet<IpAddr>,
    ports: HashSet<PortUse>,
}

impl Pool {
    pub(super) fn adopt(&mut self, addresses: &[IpAddr], ports: &[PortUse]) {
        self.addresses.extend(addresses);
        self.ports.extend(ports);
    }

    pub(super) fn release(&mut self, addresses: &[IpAddr], ports: &[PortUse]) {
        for address in addresses {
            self.addresses.remove(address);
        }
        for port in ports {
            self.ports.remove(port);
        }
    }

    pub(super) fn take_address(&mut self, range: &IpRange, address: IpAddr) -> Result<(), Refusal> {
        if !range.contains(address) {
            return Err(Refusal::AddressOutside(address, range.to_string()));
        }
        if self.addresses.insert(address) {
            Ok(())
        } else {
            Err(Refusal::AddressTaken)
        }
    }

    /// Any free address; the lower part of the range is left to those who ask for an address by itself, as upstream.
    pub(super) fn any_address(&mut self, range: &IpRange) -> Result<IpAddr, Refusal> {
        let usable = range.usable();
        let band = (range.size() / 16).clamp(16, 256);
        let dynamic = if band < *usable.end() {
            band + 1
        } else {
            *usable.start()
        };
        let span = usable.end() - dynamic + 1;
        let mut random = rand::rng();
        let picks = (0..RANDOM_ATTEMPTS).map(|_| dynamic + u128::from(random.random::<u64>()) % span);
        let searched = (dynamic..=*usable.end()).chain(*usable.start()..dynamic);
        for offset in picks.chain(searched) {
            if let Some(address) = range.at(offset)
                && self.addresses.insert(address)
            {
                return Ok(address);
            }
        }
        Err(Refusal::Full)
    }

    pub(super) fn take_port(&mut self, port: PortUse) -> Result<(), Refusal> {
        if !NODE_PORTS.contains(&port.number) {
            return Err(Refusal::PortOutside);
        }
        if self.ports.insert(port) {
            Ok(())
        } else {
            Err(Refusal::PortTaken)
        }
    }

    pub(super) fn any_port(&mut self, protocol: &str) -> Result<PortUse, Refusal> {
        let mut random = rand::rng();
        let picks = (0..RANDOM_ATTEMPTS).map(|_| random.random_range(NODE_PORTS));
        for number in picks.chain(NODE_PORTS) {
            // Free for every protocol: a number that is shared by accident surprises people.
            let taken = ["TCP", "UDP", "SCTP"]
                .iter()
                .any(|protocol| self.ports.contains(&PortUse::new(u64::from(number), protocol)));
            if !taken {
                let port = PortUse::new(u64::from(number), protocol);
                self.ports.insert(port);
                return Ok(port);
            }
        }
        Err(Refusal::Full)
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
    fn a_full_range_says_so() {
        let range: IpRange = "10.0.0.0/29".parse().unwrap();
        let mut pool = Pool::default();
        let mut taken: Vec<IpAddr> = (0..6).map(|_| pool.any_address(&range).unwrap()).collect();
        taken.sort();
        taken.dedup();
        assert_eq!(taken.len(), 6);
        assert_eq!(pool.any_address(&range), Err(Refusal::Full));
        pool.release(&taken[..1], &[]);
        assert_eq!(pool.any_address(&range), Ok(taken[0]));
    }
}
