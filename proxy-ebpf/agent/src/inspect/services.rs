//! `proxy-ebpf service list`: every frontend with its backends.

use std::collections::HashMap;

use proxy_ebpf_common::{BackendId, Frontend, FrontendFlags, Scope, SlotKey};
use serde::Serialize;

use super::{columns, list};
use crate::{
    desired::{FrontendAddress, SocketAddress},
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
            [
                service.service.to_string(),
                format!("{}{outside}", service.frontend),
                affinity,
                list(&service.backends, none),
            ]
        })
        .collect();
    columns(["SERVICE", "FRONTEND", "AFFINITY", "BACKENDS"], &rows)
}

pub(super) fn named(id: BackendId, backend: Option<SocketAddress>) -> String {
    backend.map_or_else(|| format!("<missing {}>", id.0), |backend| backend.to_string())
}

/// Entries, for lookups.
pub(super) struct Tables {
    frontends: HashMap<FrontendAddress, Frontend>,
    slots: HashMap<SlotKey, BackendId>,
    backends: HashMap<BackendId, SocketAddress>,
}

impl Tables {
    pub(super) fn of(entries: &Entries) -> Self {
        Self {
            frontends: entries.frontends.iter().copied().collect(),
            slots: entries.slots.iter().copied().collect(),
            backends: entries.backends.iter().copied().collect(),
        }
    }

    pub(super) fn frontend(&self, address: FrontendAddress) -> Option<&Frontend> {
        self.frontends.get(&address)
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
    use proxy_ebpf_common::{Protocol, ServiceId};

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
        let slot = |service, slot| SlotKey {
            service: ServiceId(service),
            slot,
        };
        let entries = Entries {
            frontends: vec![
                (address([10, 96, 0, 2], 80).into(), frontend(2, 0, 0)),
                (address([10, 96, 0, 1], 443).into(), frontend(1, 2, 60)),
            ],
            slots: vec![(slot(1, 0), BackendId(7)), (slot(1, 1), BackendId(8))],
            backends: vec![(BackendId(7), address([172, 31, 0, 1], 6443))],
            ..Entries::default()
        };
        let expected = [
            "SERVICE  FRONTEND           AFFINITY  BACKENDS",
            "1        10.96.0.1:443/TCP  60s       172.31.0.1:6443/TCP, <missing 8>",
            "2        10.96.0.2:80/TCP   none      none",
        ];
        let table = table(&services(&entries));
        assert_eq!(table.lines().collect::<Vec<_>>(), expected);
    }
}
