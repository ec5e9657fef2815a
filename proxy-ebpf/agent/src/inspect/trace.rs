//! `proxy-ebpf service trace`: what the programs do to a client's connection, told step by step. Pure.
//!
//! It walks the tables in the order in which the programs do (`proxy-ebpf/ebpf/src/service.rs`), so that what it says is what
//! happens.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proxy_ebpf_common::{Frontend, FrontendFlags, Protocol, Scope};
use serde::Serialize;

use super::{
    list,
    services::{Tables, named},
};
use crate::{
    desired::{FrontendAddress, SocketAddress},
    node::plan::Cidr,
    plan::Entries,
};

/// Who wants to reach what.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// Where the client is.
    pub client: Client,
    /// The client's address, if it is known: some Services admit only some.
    pub source: Option<IpAddr>,
    /// What it connects to.
    pub target: SocketAddress,
}

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// A pod of this node, or of another: their socket programs read tables of the same content, except for what is local.
    Pod,
    /// A pod whose sockets are left alone, because its annotation says so.
    OptedOut,
    /// A process in the node's own network namespace.
    Node,
    /// Somebody outside the cluster, whose packets come in by a device of this node.
    Outside,
}

/// What happens, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trace {
    /// In order.
    pub steps: Vec<Step>,
    /// How it ends.
    pub verdict: Verdict,
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What is looked at.
    pub what: &'static str,
    /// What was found.
    pub found: String,
}

/// How it ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "camelCase")]
pub enum Verdict {
    /// The address is no Service's: the programs leave the connection alone.
    NotAService,
    /// One of these is chosen.
    Backends {
        /// Their addresses.
        backends: Vec<String>,
    },
    /// The connection fails.
    Dropped {
        /// The reason that counts and events give it.
        reason: &'static str,
        /// What the client sees.
        client_sees: &'static str,
    },
}

/// Follows a connection through the tables.
pub fn trace(entries: &Entries, query: &Query) -> Trace {
    let mut steps = Steps::default();
    let tables = Tables::of(entries);
    let verdict = steps.follow(&tables, &entries.node_addresses, query);
    Trace {
        steps: steps.0,
        verdict,
    }
}

#[derive(Default)]
struct Steps(Vec<Step>);

impl Steps {
    fn add(&mut self, what: &'static str, found: impl Into<String>) {
        self.0.push(Step {
            what,
            found: found.into(),
        });
    }

    fn follow(&mut self, tables: &Tables, nodes: &[IpAddr], query: &Query) -> Verdict {
        self.add(
            "client",
            match query.client {
                Client::Pod => "a pod: its sockets are translated as they connect",
                Client::OptedOut => "a pod that has opted out: its packets are translated as they leave it",
                Client::Node => "a process of this node: its sockets are translated as they connect",
                Client::Outside => "outside the cluster: its packets are translated as they arrive",
            },
        );
        let Some((address, frontend)) = self.frontend(tables, nodes, query) else {
            return Verdict::NotAService;
        };
        if address.socket.protocol == Protocol::ANY {
            self.add(
                "port",
                "the address is a Service's, and the Service has no such port",
            );
            return refused("unknown_port", query);
        }
        self.add("service", format!("number {}", frontend.service.0));
        if !self.admits(tables, frontend, query) {
            return refused("source_range", query);
        }
        match frontend.affinity_timeout_s {
            0 => self.add("session affinity", "none: every connection chooses anew"),
            seconds => self.add(
                "session affinity",
                format!("ClientIP: the client stays with its backend until it was away for {seconds} s"),
            ),
        }
        let backends: Vec<_> = tables.backends(frontend).collect();
        let elsewhere = frontend.flags.contains(FrontendFlags::ELSEWHERE);
        self.add(
            "traffic policy",
            match (backends.is_empty(), elsewhere) {
                (true, true) => {
                    "Local: only endpoints of this node may be used, and all that are ready are elsewhere"
                }
                (true, false) => "no endpoint is ready, neither here nor elsewhere",
                (false, _) => "met by the backends below, which are all that this client may be sent to",
            },
        );
        if backends.is_empty() {
            let reason = if elsewhere {
                "no_local_endpoints"
            } else {
                "no_endpoints"
            };
            return refused(reason, query);
        }
        let backends: Vec<_> = backends
            .into_iter()
            .map(|(id, backend)| named(id, backend))
            .collect();
        self.add("backends", list(&backends, "none"));
        Verdict::Backends { backends }
    }

    /// Whether the client is in the ranges that the frontend admits, if it has any. One whose address is not known may be.
    fn admits(&mut self, tables: &Tables, frontend: &Frontend, query: &Query) -> bool {
        let Some(ranges) = tables.source_ranges(frontend) else {
            return true;
        };
        let ranges: Vec<_> = ranges.iter().map(Cidr::to_string).collect();
        let ranges = list(&ranges, "nobody");
        let admits_node = frontend.flags.contains(FrontendFlags::ADMITS_NODE);
        let (admitted, who) = match (query.client, query.source) {
            (Client::Node, _) => (admits_node, "this node".to_owned()),
            (_, Some(source)) => (tables.admit(frontend, source), source.to_string()),
            (_, None) => (true, "the client, whose address is not known,".to_owned()),
        };
        let verb = match (query.source, query.client, admitted) {
            (None, Client::Pod | Client::OptedOut | Client::Outside, _) => "may be",
            (_, _, true) => "is",
            (_, _, false) => "is not",
        };
        self.add(
            "source ranges",
            format!("{ranges}: {who} {verb} admitted; its packets decide, not its socket"),
        );
        admitted
    }

    /// The entry that the programs find, with the key that led to it.
    fn frontend<'a>(
        &mut self,
        tables: &'a Tables,
        nodes: &[IpAddr],
        query: &Query,
    ) -> Option<(FrontendAddress, &'a Frontend)> {
        let target = query.target;
        // Only clients outside have entries of their own, and only where their policy differs.
        let scopes: &[Scope] = match query.client {
            Client::Outside => &[Scope::EXTERNAL, Scope::INTERNAL],
            Client::Pod | Client::OptedOut | Client::Node => &[Scope::INTERNAL],
        };
        let find = |socket: SocketAddress| {
            scopes.iter().find_map(|&scope| {
                let address = FrontendAddress { socket, scope };
                Some((address, tables.frontend(address)?))
            })
        };
        if !target.address.is_unspecified()
            && let Some(found) = find(target)
        {
            self.add("frontend", format!("{} is a Service's address and port", found.0));
            return Some(found);
        }
        let unspecified = match target.address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let node_port = find(SocketAddress {
            address: unspecified,
            ..target
        });
        if let Some(found) = node_port {
            let port = target.port;
            if has_node_ports(target.address, nodes, query.client) {
                self.add(
                    "frontend",
                    format!(
                        "{port} is a node port, and {} an address that has them",
                        target.address
                    ),
                );
                return Some(found);
            }
            self.add(
                "frontend",
                format!(
                    "{port} is a node port, but {} no address that has them",
                    target.address
                ),
            );
        }
        let other_ports = find(SocketAddress {
            address: target.address,
            port: 0,
            protocol: Protocol::ANY,
        });
        match other_ports {
            Some(_) => self.add("frontend", format!("none for {target}")),
            None => {
                self.add(
                    "frontend",
                    format!("none for {target}: it is left to the routing table"),
                );
                return None;
            }
        }
        other_ports
    }
}

/// As the programs see it: a node's loopback is its own, a pod's is not.
fn has_node_ports(address: IpAddr, nodes: &[IpAddr], client: Client) -> bool {
    if !address.is_loopback() && !address.is_unspecified() {
        return nodes.contains(&address);
    }
    let unspecified = match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    client == Client::Node && nodes.contains(&unspecified)
}

fn refused(reason: &'static str, query: &Query) -> Verdict {
    let is_tcp = query.target.protocol == Protocol::TCP;
    let client_sees = match (query.client, reason) {
        (_, "source_range")
        | (Client::Outside, "unknown_port")
        | (Client::OptedOut, "no_local_endpoints") => "nothing: its packets are dropped",
        (Client::Outside, "no_local_endpoints") => {
            "nothing: the packet is dropped, so that it tries another node"
        }
        (Client::Outside | Client::OptedOut, _) if is_tcp => "a reset: connection refused",
        (Client::Outside | Client::OptedOut, _) => "an ICMP error: port unreachable",
        (_, "no_local_endpoints") => "no route to host (EHOSTUNREACH; EPERM before Linux 5.18)",
        _ => "connection refused (ECONNREFUSED; EPERM before Linux 5.18)",
    };
    Verdict::Dropped { reason, client_sees }
}

impl Trace {
    /// For people.
    pub fn table(&self) -> String {
        let width = self
            .steps
            .iter()
            .map(|step| step.what.len())
            .max()
            .unwrap_or_default();
        let mut lines: Vec<_> = self
            .steps
            .iter()
            .map(|step| format!("{:<width$}  {}", step.what, step.found))
            .collect();
        lines.push(match &self.verdict {
            Verdict::NotAService => "=> not a Service: nothing is translated".to_owned(),
            Verdict::Backends { backends } if backends.len() == 1 => format!("=> sent to {}", backends[0]),
            Verdict::Backends { backends } => format!("=> sent to one of {} backends", backends.len()),
            Verdict::Dropped { reason, client_sees } => {
                format!("=> refused ({reason}); the client sees: {client_sees}")
            }
        });
        lines.join("\n") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use proxy_ebpf_common::{BackendId, ServiceId, SlotKey};

    use super::*;

    fn socket(text: &str) -> SocketAddress {
        let address: std::net::SocketAddr = text.parse().expect("an address");
        SocketAddress {
            address: address.ip(),
            port: address.port(),
            protocol: Protocol::TCP,
        }
    }

    fn entries() -> Entries {
        let frontend = |service, slots, flags| Frontend {
            service: ServiceId(service),
            slots,
            affinity_timeout_s: 0,
            flags,
        };
        let plain = FrontendFlags::default();
        let outside = |text| FrontendAddress {
            socket: socket(text),
            scope: Scope::EXTERNAL,
        };
        let other_ports = SocketAddress {
            port: 0,
            protocol: Protocol::ANY,
            ..socket("10.96.0.1:1")
        };
        let slot = |service, id| {
            let key = SlotKey {
                service: ServiceId(service),
                slot: 0,
            };
            (key, BackendId(id))
        };
        Entries {
            frontends: vec![
                (socket("10.96.0.1:80").into(), frontend(1, 1, plain)),
                (other_ports.into(), frontend(9, 0, plain)),
                (socket("0.0.0.0:30080").into(), frontend(1, 1, plain)),
                (outside("0.0.0.0:30080"), frontend(2, 0, FrontendFlags::ELSEWHERE)),
                (socket("10.96.0.2:80").into(), frontend(3, 0, plain)),
                (
                    socket("10.96.0.3:80").into(),
                    frontend(4, 0, FrontendFlags::ELSEWHERE),
                ),
                (
                    socket("203.0.113.1:80").into(),
                    frontend(1, 1, FrontendFlags::SOURCE_RANGES),
                ),
                (
                    socket("203.0.113.2:80").into(),
                    frontend(
                        1,
                        1,
                        FrontendFlags::SOURCE_RANGES.union(FrontendFlags::ADMITS_NODE),
                    ),
                ),
            ],
            ranges: vec![(ServiceId(1), "192.0.2.0/24".parse().expect("a network"))],
            slots: vec![slot(1, 7)],
            backends: vec![(BackendId(7), socket("10.244.0.5:8080"))],
            node_addresses: ["172.31.0.11", "0.0.0.0"]
                .map(|ip| ip.parse().expect("an address"))
                .into(),
            ..Entries::default()
        }
    }

    #[test]
    fn every_way_ends_as_the_programs_end_it() {
        let backend = || Verdict::Backends {
            backends: vec!["10.244.0.5:8080/TCP".to_owned()],
        };
        let dropped = |expected: &'static str, verdict: Verdict| {
            assert!(
                matches!(verdict, Verdict::Dropped { reason, .. } if reason == expected),
                "{expected}: {verdict:?}"
            );
        };
        let verdict = |client, target| {
            let target = socket(target);
            let source = None;
            trace(
                &entries(),
                &Query {
                    client,
                    source,
                    target,
                },
            )
            .verdict
        };
        for (client, target) in [
            (Client::Pod, "10.96.0.1:80"),
            (Client::Outside, "10.96.0.1:80"),
            (Client::Pod, "172.31.0.11:30080"),
            (Client::Node, "127.0.0.1:30080"),
        ] {
            assert_eq!(verdict(client, target), backend(), "{client:?} {target}");
        }
        for (client, target) in [
            (Client::Pod, "127.0.0.1:30080"),
            (Client::Pod, "172.31.0.99:30080"),
            (Client::Node, "192.0.2.1:80"),
        ] {
            assert_eq!(
                verdict(client, target),
                Verdict::NotAService,
                "{client:?} {target}"
            );
        }
        dropped("unknown_port", verdict(Client::Pod, "10.96.0.1:81"));
        dropped("no_endpoints", verdict(Client::Pod, "10.96.0.2:80"));
        // The world is not told which addresses exist.
        for (client, target, expected) in [
            (Client::Pod, "10.96.0.1:81", "connection refused"),
            (Client::OptedOut, "10.96.0.1:81", "a reset"),
            (Client::Outside, "10.96.0.1:81", "nothing"),
            (Client::OptedOut, "10.96.0.3:80", "nothing"),
        ] {
            let Verdict::Dropped { client_sees, .. } = verdict(client, target) else {
                panic!("{client:?} reaches {target}");
            };
            assert!(
                client_sees.starts_with(expected),
                "{client:?} to {target}: {client_sees}"
            );
        }
        dropped("no_local_endpoints", verdict(Client::Pod, "10.96.0.3:80"));
        dropped(
            "no_local_endpoints",
            verdict(Client::Outside, "172.31.0.11:30080"),
        );
    }

    #[test]
    fn source_ranges_admit_by_address() {
        let admitted = |client, source: Option<&str>, target| {
            let source = source.map(|ip| ip.parse().expect("an address"));
            let target = socket(target);
            match trace(
                &entries(),
                &Query {
                    client,
                    source,
                    target,
                },
            )
            .verdict
            {
                Verdict::Backends { .. } => true,
                Verdict::Dropped {
                    reason: "source_range",
                    ..
                } => false,
                verdict => panic!("{verdict:?}"),
            }
        };
        let (first, second) = ("203.0.113.1:80", "203.0.113.2:80");
        assert!(admitted(Client::Outside, Some("192.0.2.9"), first));
        assert!(!admitted(Client::Outside, Some("192.0.3.9"), first));
        assert!(!admitted(Client::Pod, Some("10.244.0.9"), second));
        // Nobody knows.
        assert!(admitted(Client::Pod, None, first));
        assert!(!admitted(Client::Node, None, first));
        assert!(admitted(Client::Node, None, second));
    }

    #[test]
    fn the_steps_can_be_read() {
        let target = socket("10.96.0.1:80");
        let table = trace(
            &entries(),
            &Query {
                client: Client::Pod,
                source: None,
                target,
            },
        )
        .table();
        let expected = [
            "client            a pod: its sockets are translated as they connect",
            "frontend          10.96.0.1:80/TCP is a Service's address and port",
            "service           number 1",
            "session affinity  none: every connection chooses anew",
            "traffic policy    met by the backends below, which are all that this client may be sent to",
            "backends          10.244.0.5:8080/TCP",
            "=> sent to 10.244.0.5:8080/TCP",
        ];
        assert_eq!(table.lines().collect::<Vec<_>>(), expected);
    }
}
