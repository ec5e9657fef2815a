//! How many entries there are, would be, or could be.

use std::net::IpAddr;

use hashbrown::HashSet;

use super::Change;

/// Numbers of entries; of IPv4 and IPv6 where there is a map for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Frontends.
    pub frontends: [usize; 2],
    /// Slots.
    pub slots: usize,
    /// Backends.
    pub backends: [usize; 2],
    /// Pairs that affinity may keep to.
    pub matches: usize,
    /// Networks of clients, once for every service that admits them.
    pub ranges: [usize; 2],
    /// Addresses that have node ports.
    pub node_addresses: [usize; 2],
}

impl Sizes {
    /// The entries of a Service that shares none with others, so at most those that it adds.
    pub fn of(change: &Change) -> Self {
        let mut sizes = Self::default();
        let (mut frontends, mut backends) = (HashSet::new(), HashSet::new());
        for port in &change.ports {
            frontends.extend(port.frontends.iter().copied());
            backends.extend(port.backends.iter().copied());
            sizes.slots += port.backends.len();
            if port.affinity_timeout_s > 0 {
                sizes.matches += port.backends.len();
            }
            for range in &port.source_ranges {
                sizes.ranges[Self::family(range.address)] += 1;
            }
        }
        for frontend in frontends {
            sizes.frontends[Self::family(frontend.socket.address)] += 1;
        }
        for backend in backends {
            sizes.backends[Self::family(backend.address)] += 1;
        }
        sizes
    }

    /// Number of entries of all maps together.
    pub fn total(&self) -> usize {
        let pairs = [self.frontends, self.backends, self.ranges, self.node_addresses];
        self.slots + self.matches + pairs.as_flattened().iter().sum::<usize>()
    }

    /// What remains when `other` is taken away; `None`: it is more.
    pub fn without(self, other: Self) -> Option<Self> {
        let pair = |[a, b]: [usize; 2], [c, d]: [usize; 2]| Some([a.checked_sub(c)?, b.checked_sub(d)?]);
        Some(Self {
            frontends: pair(self.frontends, other.frontends)?,
            slots: self.slots.checked_sub(other.slots)?,
            backends: pair(self.backends, other.backends)?,
            matches: self.matches.checked_sub(other.matches)?,
            ranges: pair(self.ranges, other.ranges)?,
            node_addresses: pair(self.node_addresses, other.node_addresses)?,
        })
    }

    /// The index of an address's family.
    pub(super) fn family(address: IpAddr) -> usize {
        usize::from(address.is_ipv6())
    }
}
