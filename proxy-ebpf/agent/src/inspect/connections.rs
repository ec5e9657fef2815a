//! `proxy-ebpf ct list`: the connections that the packet path has translated.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use anyhow::Result;
use aya::Pod;
use proxy_ebpf_common::{Address4, Address6, Conntrack, ConntrackFlags, ConntrackKey, Port, Protocol, maps};
use serde::Serialize;

use super::columns;
use crate::apply::{Map, MapsError};

/// One direction of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// TCP, UDP, SCTP, ICMP or a number.
    pub protocol: String,
    /// Where its packets come from, before they are translated.
    pub source: String,
    /// Where they go.
    pub destination: String,
    /// What the source becomes.
    pub translated_source: String,
    /// What the destination becomes.
    pub translated_destination: String,
    /// Its state.
    pub flags: Vec<&'static str>,
    /// Number of the service; zero: none.
    pub service: u32,
    /// Number of the backend; zero: none.
    pub backend: u32,
    /// Seconds since it was opened.
    pub age_s: u32,
    /// Seconds until it is forgotten unless something comes; zero: it is dead and not collected yet.
    pub expires_in_s: u32,
}

/// An address of either family.
pub(super) trait Ip: Copy {
    fn ip(self) -> IpAddr;
}

impl Ip for Address4 {
    fn ip(self) -> IpAddr {
        self.octets().into()
    }
}

impl Ip for Address6 {
    fn ip(self) -> IpAddr {
        self.octets().into()
    }
}

/// Every entry of both families. `now_s`: seconds since boot.
pub fn read(maps_dir: &Path, now_s: u32) -> Result<Vec<Connection>, MapsError> {
    let mut connections = of_family::<Address4>(maps_dir, maps::CONNTRACK4, now_s)?;
    connections.extend(of_family::<Address6>(maps_dir, maps::CONNTRACK6, now_s)?);
    connections.sort_by(|a, b| (&a.source, &a.destination).cmp(&(&b.source, &b.destination)));
    Ok(connections)
}

fn of_family<A>(maps_dir: &Path, name: &'static str, now_s: u32) -> Result<Vec<Connection>, MapsError>
where
    A: Ip,
    ConntrackKey<A>: Pod,
    Conntrack<A>: Pod,
{
    let map = Map::open::<ConntrackKey<A>, Conntrack<A>>(maps_dir, name)?;
    let entries = map.read::<ConntrackKey<A>, Conntrack<A>>()?;
    Ok(entries
        .iter()
        .map(|(key, entry)| connection(key, entry, now_s))
        .collect())
}

fn connection<A: Ip>(key: &ConntrackKey<A>, entry: &Conntrack<A>, now_s: u32) -> Connection {
    let socket = |address: A, port: Port| SocketAddr::new(address.ip(), port.get()).to_string();
    Connection {
        protocol: protocol(key.protocol),
        source: socket(key.source, key.source_port),
        destination: socket(key.destination, key.destination_port),
        translated_source: socket(entry.source, entry.source_port),
        translated_destination: socket(entry.destination, entry.destination_port),
        flags: flags(entry.flags),
        service: entry.service.0,
        backend: entry.backend.0,
        age_s: now_s.saturating_sub(entry.created_s),
        expires_in_s: entry.expires_s.saturating_sub(now_s),
    }
}

pub(super) fn protocol(protocol: Protocol) -> String {
    match protocol.0 {
        1 => "ICMP".to_owned(),
        58 => "ICMPv6".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        132 => "SCTP".to_owned(),
        number => number.to_string(),
    }
}

fn flags(flags: ConntrackFlags) -> Vec<&'static str> {
    let names = [
        (ConntrackFlags::REPLY, "reply"),
        (ConntrackFlags::REPLIED, "replied"),
        (ConntrackFlags::ESTABLISHED, "established"),
        (ConntrackFlags::CLOSED_BY_CLIENT, "closed-by-client"),
        (ConntrackFlags::CLOSED_BY_SERVER, "closed-by-server"),
        (ConntrackFlags::RESET, "reset"),
        (ConntrackFlags::SNAT, "snat"),
        (ConntrackFlags::HAIRPIN, "hairpin"),
        (ConntrackFlags::MASQUERADE, "masquerade"),
        (ConntrackFlags::DIRECT, "direct"),
        (ConntrackFlags::OF_NODE, "of-node"),
        (ConntrackFlags::AS_IT_IS, "as-it-is"),
        (ConntrackFlags::RESERVED, "reserved"),
    ];
    let set = names.into_iter().filter(|(flag, _)| flags.contains(*flag));
    set.map(|(_, name)| name).collect()
}

/// For people.
pub fn table(connections: &[Connection]) -> String {
    let rows: Vec<_> = connections
        .iter()
        .map(|connection| {
            [
                connection.protocol.clone(),
                format!("{} -> {}", connection.source, connection.destination),
                format!(
                    "{} -> {}",
                    connection.translated_source, connection.translated_destination
                ),
                connection.service.to_string(),
                format!("{}s", connection.age_s),
                format!("{}s", connection.expires_in_s),
                connection.flags.join(","),
            ]
        })
        .collect();
    columns(
        [
            "PROTOCOL", "PACKETS", "BECOME", "SERVICE", "AGE", "EXPIRES", "STATE",
        ],
        &rows,
    )
}

#[cfg(test)]
mod tests {
    use proxy_ebpf_common::{BackendId, ServiceId};

    use super::*;

    #[test]
    fn a_row_says_what_is_translated_to_what() {
        let at = Address4::from_octets;
        let key = ConntrackKey::new(
            at([192, 0, 2, 1]),
            Port::new(40_000),
            at([172, 31, 0, 11]),
            Port::new(30_080),
            Protocol::TCP,
        );
        let entry = Conntrack {
            source: at([172, 31, 0, 11]),
            destination: at([10, 244, 1, 5]),
            source_port: Port::new(61_000),
            destination_port: Port::new(8080),
            expires_s: 190,
            created_s: 90,
            flags: ConntrackFlags::REPLIED.union(ConntrackFlags::SNAT),
            service: ServiceId(3),
            backend: BackendId(7),
        };
        let connections = [connection(&key, &entry, 100)];
        let expected = [
            "PROTOCOL  PACKETS                                BECOME                                SERVICE  AGE  EXPIRES  STATE",
            "TCP       192.0.2.1:40000 -> 172.31.0.11:30080  172.31.0.11:61000 -> 10.244.1.5:8080  3        10s  90s      replied,snat",
        ];
        let expected = expected.map(|line| line.split_whitespace().collect::<Vec<_>>());
        let table = table(&connections);
        let lines: Vec<Vec<_>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines, expected);
        let json = serde_json::to_value(&connections[0]).expect("JSON");
        assert_eq!(json["translatedDestination"], "10.244.1.5:8080");
        assert_eq!(json["flags"], serde_json::json!(["replied", "snat"]));
    }
}
