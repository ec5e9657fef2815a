//! `proxy-ebpf service list`: what the pinned maps hold, for people.

use std::{collections::HashMap, fmt::Write as _, path::Path};

use anyhow::{Context as _, Result};
use proxy_ebpf_common::{FrontendFlags, SlotKey};

use crate::{apply::Maps, pins, plan::Entries};

/// A table of the frontends below `bpf_dir`.
pub fn services(bpf_dir: &Path) -> Result<String> {
    let dir = pins::maps_of(bpf_dir);
    let maps = Maps::open(&dir).with_context(|| {
        format!(
            "no maps below {}: has proxy-ebpf run with this --bpf-dir?",
            bpf_dir.display()
        )
    })?;
    Ok(table(&maps.read()?))
}

fn table(entries: &Entries) -> String {
    let backends: HashMap<_, _> = entries.backends.iter().copied().collect();
    let mut frontends = entries.frontends.clone();
    frontends.sort_unstable_by_key(|&(address, _)| address);
    let mut slots = entries.slots.clone();
    slots.sort_unstable();
    let mut text = format!(
        "{:<8} {:<32} {:<12} BACKENDS\n",
        "SERVICE", "FRONTEND", "AFFINITY"
    );
    for (address, frontend) in frontends {
        let first = slots.partition_point(|(key, _)| {
            *key < SlotKey {
                service: frontend.service,
                slot: 0,
            }
        });
        let slots = slots[first..].iter().take(frontend.slots as usize);
        let slots = slots.take_while(|(key, _)| key.service == frontend.service);
        let names: Vec<_> = slots
            .map(|(_, id)| match backends.get(id) {
                Some(backend) => backend.to_string(),
                None => format!("<missing {}>", id.0),
            })
            .collect();
        let affinity = match frontend.affinity_timeout_s {
            0 => "none".to_owned(),
            seconds => format!("{seconds}s"),
        };
        let backends = match names.as_slice() {
            [] if frontend.flags.contains(FrontendFlags::ELSEWHERE) => "none on this node".to_owned(),
            [] => "none".to_owned(),
            names => names.join(", "),
        };
        let service = frontend.service.0;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{service:<8} {:<32} {affinity:<12} {backends}",
            address.to_string()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use proxy_ebpf_common::{BackendId, Frontend, Protocol, ServiceId};

    use super::*;
    use crate::desired::SocketAddress;

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
        let entries = Entries {
            frontends: vec![
                (address([10, 96, 0, 2], 80).into(), frontend(2, 0, 0)),
                (address([10, 96, 0, 1], 443).into(), frontend(1, 1, 60)),
            ],
            slots: vec![(
                SlotKey {
                    service: ServiceId(1),
                    slot: 0,
                },
                BackendId(7),
            )],
            backends: vec![(BackendId(7), address([172, 31, 0, 1], 6443))],
            ..Entries::default()
        };
        let table = table(&entries);
        let rows: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        let expected = [
            vec!["SERVICE", "FRONTEND", "AFFINITY", "BACKENDS"],
            vec!["1", "10.96.0.1:443/TCP", "60s", "172.31.0.1:6443/TCP"],
            vec!["2", "10.96.0.2:80/TCP", "none", "none"],
        ];
        assert_eq!(rows, expected);
    }
}
