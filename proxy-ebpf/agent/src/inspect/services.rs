//! `proxy-ebpf service list`: every frontend with its backends.

use std::{collections::HashMap, net::IpAddr};

use proxy_ebpf_common::{BackendId, Frontend, FrontendFlags, Scope, ServiceId, SlotKey};
use serde::Serialize;

use super::{columns, list};
use crate::{
    desired::{FrontendAddress, SocketAddress},
    node::plan::Cidr,
    plan::Entries,
};

/// A frontend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    /// Number of the service port in one family.
    pub service: u32,
    /// Where it is reached: address, port and protocol.
    pub frontend: String,
    /// Whether only clients outside the cluster are meant, whose policy differs.
    pub from_outside: bool,
    /// For how long a client stays with its backend, in seconds; zero: it does not.
    pub affinity_timeout_s: u32,
    /// Its backends; one that the tables do not have, which lasts for the moment of a change only, is `<missing ID>`.
    pub backends: Vec<String>,
    /// There are none because only those of this node may be used.
    pub only_elsewhere: bool,
    /// Networks of the clients that are admitted; none at all: nobody is. `None`: everybody is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_ranges: Option<Vec<String>>,
}

/// Every frontend, by address.
pub fn services(entries: &Entries) -> Vec<Listed> {
    let tables = Tables::of(entries);
    let mut frontends = entries.frontends.clone();
    frontends.sort_unstable_by_key(|&(address, _)| address);
    let listed = frontends.iter().map(|(address, frontend)| Listed {
        service: frontend.service.0,
        frontend: address.socket.to_string(),
        from_outside: address.scope == Scope::EXTERNAL,
        affinity_timeout_s: frontend.affinity_timeout_s,
        backends: tables
            .backends(frontend)
            .map(|(id, backend)| named(id, backend))
            .collect(),
        only_elsewhere: frontend.slots == 0 && frontend.flags.contains(FrontendFlags::ELSEWHERE),
        source_ranges: tables
            .source_ranges(frontend)
            .map(|ranges| ranges.iter().map(Cidr::to_string).collect()),
    });
    listed.collect()
}

/// For people.
pub fn table(services: &[Listed]) -> String {
    let rows: Vec<_> = services
        .iter()
        .map(|service| {
            let affinity = match service.affinity_timeout_s {
                0 => "none".to_owned(),
                seconds => format!("{seconds}s"),
            };
            let outside = if service.from_outside { " from outside" } else { "" };
            let none = if service.only_elsewhere {
                "none on this node"
            } else {
                "none"
            };
            let clients = match &service.source_ranges {
                None => "all".to_owned(),
                Some(ranges) => list(ranges, "none"),
            };
            [
                service.service.to_string(),
                format!("{}{outside}", service.frontend),
                affinity,
                clients,
                list(&service.backends, none),
            ]
        })
        .collect();
    columns(["SERVICE", "FRONTEND", "AFFINITY", "CLIENTS", "BACKENDS"], &rows)
}

pub(super) fn named(id: BackendId, backend: Option<SocketAddress>) -> String {
    backend.map_or_else(|| format!("<missing {}>", id.0), |backend| backend.to_string())
}

/// Entries, for lookups.
pub(super) struct Tables {
    frontends: HashMap<FrontendAddress, Frontend>,
    slots: HashMap<SlotKey, BackendId>,
    backends: HashMap<BackendId, SocketAddress>,
    ranges: HashMap<ServiceId, Vec<Cidr>>,
}

impl Tables {
    pub(super) fn of(entries: &Entries) -> Self {
        let mut ranges = HashMap::<_, Vec<_>>::new();
        for &(service, range) in &entries.ranges {
            ranges.entry(service).or_default().push(range);
        }
        ranges.values_mut().for_each(|ranges| ranges.sort_unstable());
        Self {
            ranges,
            frontends: entries.frontends.iter().copied().collect(),
            slots: entries.slots.iter().copied().collect(),
            backends: entries.backends.iter().copied().collect(),
        }
    }

    pub(super) fn frontend(&self, address: FrontendAddress) -> Option<&Frontend> {
        self.frontends.get(&address)
    }

    /// The networks of clients that a frontend admits; `None`: it admits everybody.
    pub(super) fn source_ranges(&self, frontend: &Frontend) -> Option<&[Cidr]> {
        let is_restricted = frontend.flags.contains(FrontendFlags::SOURCE_RANGES);
        is_restricted.then(|| self.ranges.get(&frontend.service).map_or(&[][..], Vec::as_slice))
    }

    /// Whether a frontend with source ranges admits a client.
    pub(super) fn admit(&self, frontend: &Frontend, source: IpAddr) -> bool {
        let ranges = self.source_ranges(frontend);
        ranges.is_none_or(|ranges| ranges.iter().any(|range| range.contains(source)))
    }

    /// The backends of a frontend, in the order of their slots.
    pub(super) fn backends(
        &self,
        frontend: &Frontend,
    ) -> impl Iterator<Item = (BackendId, Option<SocketAddress>)> {
        let service = frontend.service;
        // While the agent writes, a slot may be missing.
        let ids = (0..frontend.slots).filter_map(move |slot| self.slots.get(&SlotKey { service, slot }));
        ids.map(|id| (*id, self.backends.get(id).copied()))
    }
}

#[cfg(test)]
mod tests {
    use proxy_ebpf_common::Protocol;

    use super::*;

    #[test]
    fn a_row_per_frontend() {
        let address = |address: [u8; 4], port| SocketAddress {
            address: address.into(),
            port,
            protocol: Protocol::TCP,
        };
        let frontend = |service, slots, affinity_timeout_s| Frontend {
            service: ServiceId(service),
            slots,
            affinity_timeout_s,
            flags: FrontendFlags::default(),
        };
        let restricted = |service| Frontend {
            flags: FrontendFlags::EXTERNAL.union(FrontendFlags::SOURCE_RANGES),
            ..frontend(service, 0, 0)
        };
        let range = |text: &str| text.parse().expect("a network");
        let slot = |service, slot| SlotKey {
            service: ServiceId(service),
            slot,
        };
        let entries = Entries {
            frontends: vec![
                (address([10, 96, 0, 2], 80).into(), frontend(2, 0, 0)),
                (address([10, 96, 0, 1], 443).into(), frontend(1, 2, 60)),
                (address([203, 0, 113, 1], 80).into(), restricted(3)),
                (address([203, 0, 113, 2], 80).into(), restricted(4)),
            ],
            ranges: vec![
                (ServiceId(3), range("192.0.2.0/24")),
                (ServiceId(3), range("10.0.0.0/8")),
            ],
            slots: vec![(slot(1, 0), BackendId(7)), (slot(1, 1), BackendId(8))],
            backends: vec![(BackendId(7), address([172, 31, 0, 1], 6443))],
            ..Entries::default()
        };
        let expected = [
            "SERVICE  FRONTEND            AFFINITY  CLIENTS                   BACKENDS",
            "1        10.96.0.1:443/TCP   60s       all                       172.31.0.1:6443/TCP, <missing 8>",
            "2        10.96.0.2:80/TCP    none      all                       none",
            "3        203.0.113.1:80/TCP  none      10.0.0.0/8, 192.0.2.0/24  none",
            "4        203.0.113.2:80/TCP  none      none                      none",
        ];
        let table = table(&services(&entries));
        assert_eq!(table.lines().collect::<Vec<_>>(), expected);
    }
}
