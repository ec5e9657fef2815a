//! Node ports: a plain set of those that are taken, so that memory follows the number of Services.

use std::{collections::HashSet, ops::RangeInclusive};

use rand::RngExt;

/// Node ports are taken from here; upstream's default range.
pub(super) const NODE_PORTS: RangeInclusive<u16> = 30000..=32767;

/// How often a random pick is tried before the ports are searched from the first.
const RANDOM_ATTEMPTS: usize = 16;

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
    #[error("the provided network does not match the current range")]
    AddressOutside,
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

/// Every port that is taken.
#[derive(Default)]
pub(super) struct Pool {
    ports: HashSet<PortUse>,
}

impl Pool {
    pub(super) fn adopt(&mut self, ports: &[PortUse]) {
        self.ports.extend(ports);
    }

    pub(super) fn release(&mut self, ports: &[PortUse]) {
        for port in ports {
            self.ports.remove(port);
        }
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
