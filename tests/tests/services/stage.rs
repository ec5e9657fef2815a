//! What every scenario plays on: a backend on each of two nodes, clients of every kind, and what they are expected to see.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use tests::{
    Place,
    suite::{IMAGE, World, expect_contains, test_program},
};

use crate::plain;

/// The backend of each node.
pub(crate) const BACKENDS: [&str; 2] = ["web-1", "web-2"];
/// Exchanges of an expectation: with two backends, the chance that a working proxy never draws one of them is 2^-23.
const EXCHANGES: &str = "24";
/// After so long, in milliseconds, a packet without an answer counts as dropped.
const DROPPED_AFTER: &str = "1500";

/// Who connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    /// A pod of the node, whose sockets are translated.
    Pod(usize),
    /// In the network namespace of a pod of node 1 but outside of its cgroup: no socket is translated, packets are.
    Packets,
    /// A backend itself.
    Backend(usize),
    /// The same by packets.
    BackendPackets(usize),
    /// A process of the node.
    Node(usize),
    /// A machine that is no node.
    Outside,
}

/// Everybody in the cluster.
pub(crate) const INSIDE: [Client; 4] = [Client::Pod(1), Client::Pod(2), Client::Packets, Client::Node(1)];
/// Everybody.
pub(crate) const EVERYBODY: [Client; 5] = [
    Client::Pod(1),
    Client::Pod(2),
    Client::Packets,
    Client::Node(1),
    Client::Outside,
];

/// What a client should see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect<'a> {
    /// Each of these backends answers, and no other.
    Answers(&'a [&'a str]),
    /// One of these backends answers every time.
    OneOf(&'a [&'a str]),
    /// The connection is refused, at once.
    Refused,
    /// Nothing comes back.
    Dropped,
    /// Nobody answers, in whatever way.
    Nobody,
}

/// What the test program's `connect` prints.
#[derive(Debug, Deserialize)]
struct Report {
    backends: BTreeMap<String, u64>,
    failures: u64,
    errors: Vec<String>,
}

pub(crate) struct Stage<'a> {
    pub(crate) world: &'a World<'a>,
}

/// A Service as the API holds it.
pub(crate) struct Service {
    object: Value,
}

impl Service {
    /// Its ClusterIPs.
    pub(crate) fn cluster_ips(&self) -> Vec<IpAddr> {
        let ips = self.object["spec"]["clusterIPs"].as_array();
        ips.into_iter()
            .flatten()
            .filter_map(|ip| ip.as_str()?.parse().ok())
            .collect()
    }

    /// The node port of its first port.
    pub(crate) fn node_port(&self) -> Result<u16> {
        let port = self.object["spec"]["ports"][0]["nodePort"].as_u64();
        port.and_then(|port| u16::try_from(port).ok())
            .context("the Service has no node port")
    }

    /// The node port of each protocol.
    pub(crate) fn node_ports(&self) -> Result<[(&'static str, u16); 2]> {
        let port = |name: &str| {
            let mut ports = self.object["spec"]["ports"].as_array().into_iter().flatten();
            let port = ports.find(|port| port["name"] == name)?;
            u16::try_from(port["nodePort"].as_u64()?).ok()
        };
        let port = |name| anyhow::Ok((name, port(name).with_context(|| format!("no node port {name}"))?));
        Ok([port("tcp")?, port("udp")?])
    }

    /// A field.
    pub(crate) fn get(&self, pointer: &str) -> Option<&Value> {
        self.object.pointer(pointer)
    }
}

/// `address:port`, with brackets where IPv6 needs them.
pub(crate) fn at(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

impl<'a> Stage<'a> {
    /// Starts the backends and the clients.
    pub(crate) fn set(world: &'a World<'a>) -> Result<Self> {
        let stage = Self { world };
        let mut items: Vec<Value> = (1..=2).map(|node| stage.backend(node, json!({}))).collect();
        items.extend((1..=2).map(|node| stage.sleeper(&format!("client-{node}"), node)));
        stage.apply(&items)?;
        stage.ready(&["web-1", "web-2", "client-1", "client-2"])?;
        Ok(stage)
    }

    /// A pod of the node that serves, called `web-N`. `spec` is merged into its container.
    pub(crate) fn backend(&self, node: usize, container: Value) -> Value {
        let mut pod = self.pod(&format!("web-{node}"), node, json!({"app": "web"}));
        merge(&mut pod["spec"]["containers"][0], container);
        pod
    }

    /// A pod of the node that does nothing.
    fn sleeper(&self, name: &str, node: usize) -> Value {
        let mut pod = self.pod(name, node, json!({}));
        pod["spec"]["containers"][0]["command"] =
            json!(["sh", "-c", "trap 'exit 0' TERM; sleep 3600 & wait"]);
        pod
    }

    /// A pod of the node that serves HTTP and datagrams.
    pub(crate) fn pod(&self, name: &str, node: usize, labels: Value) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "nodeName": self.world.cluster.layout().node_name(node),
                "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "main", "image": IMAGE}],
            },
        })
    }

    pub(crate) fn apply(&self, items: &[Value]) -> Result<()> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        self.world.apply(&list.to_string()).map(drop)
    }

    pub(crate) fn ready(&self, pods: &[&str]) -> Result<()> {
        let names: Vec<String> = pods.iter().map(|name| format!("pod/{name}")).collect();
        let mut command = vec!["wait", "--for=condition=Ready", "--timeout=90s"];
        command.extend(names.iter().map(String::as_str));
        self.world.run(&command).map(drop)
    }

    /// Creates, or changes, the Service `web` over the backends, of both families and both protocols on port 80. `spec` is
    /// merged into its own.
    pub(crate) fn service(&self, spec: Value) -> Result<Service> {
        let mut service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {
                "selector": {"app": "web"},
                "ipFamilyPolicy": "RequireDualStack",
                "ports": [
                    {"name": "tcp", "port": 80, "protocol": "TCP"},
                    {"name": "udp", "port": 80, "protocol": "UDP"},
                ],
            },
        });
        merge(&mut service["spec"], spec);
        self.apply(&[service])?;
        Ok(Service {
            object: self.world.get(&["service", "web"])?,
        })
    }

    /// Waits until the Service has as many ready endpoints of each family.
    pub(crate) fn endpoints(&self, count: usize) -> Result<()> {
        self.world.until(&format!("{count} ready endpoints"), || {
            match self.world.ready_endpoints("web")?.len() {
                found if found == 2 * count => Ok(()),
                found => bail!("there are {found} addresses of two families"),
            }
        })
    }

    /// Checks, until it holds, what each of the clients sees at an address by TCP and by UDP: in many exchanges of the test
    /// program, and in one of a stock client.
    pub(crate) fn expect(&self, clients: &[Client], target: &str, expected: Expect<'_>) -> Result<()> {
        for protocol in ["tcp", "udp"] {
            self.expect_by(protocol, clients, target, expected)?;
        }
        Ok(())
    }

    /// The same by one protocol.
    pub(crate) fn expect_by(
        &self,
        protocol: &str,
        clients: &[Client],
        target: &str,
        expected: Expect<'_>,
    ) -> Result<()> {
        for client in clients {
            let what = format!("{client:?} to {target} by {protocol} to see {expected:?}");
            self.world.until(&what, || {
                let report = self.connect(*client, target, protocol, expected, "/hostname")?;
                if !report.shows(expected) {
                    bail!("{report:?}")
                }
                plain::confirm(self, *client, target, protocol, expected)
            })?;
        }
        Ok(())
    }

    /// The one answer that a client gets for a path.
    pub(crate) fn ask(&self, client: Client, target: &str, path: &str) -> Result<String> {
        let report = self.connect(client, target, "tcp", Expect::Refused, path)?;
        match report.backends.into_keys().next() {
            Some(answer) if report.failures == 0 => Ok(answer),
            _ => bail!("{target}{path}: {:?}", report.errors),
        }
    }

    fn connect(
        &self,
        client: Client,
        target: &str,
        protocol: &str,
        expected: Expect<'_>,
        path: &str,
    ) -> Result<Report> {
        let answers = matches!(expected, Expect::Answers(_) | Expect::OneOf(_));
        let arguments = [
            "connect",
            target,
            "--proto",
            protocol,
            "--path",
            path,
            "--count",
            if answers { EXCHANGES } else { "1" },
            "--timeout-ms",
            if answers { "5000" } else { DROPPED_AFTER },
        ];
        let output = self
            .command(client)?
            .args(arguments)
            .output()
            .with_context(|| format!("start {client:?}"))?;
        // Failed exchanges make a failed command, whose report counts all the same.
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(text.trim())
            .with_context(|| format!("parse {text:?}; {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Runs the test program as the client.
    pub(crate) fn command(&self, client: Client) -> Result<Command> {
        self.program(client, "/test", &test_program())
    }

    /// Runs a program as the client: one of the client's own pod, or of this machine.
    pub(crate) fn program(&self, client: Client, in_pod: &str, elsewhere: &Path) -> Result<Command> {
        let exec = |name: &str| {
            let words = ["exec", name, "--", in_pod];
            self.world.kubectl.command(self.world.scoped(&words))
        };
        let place = match client {
            Client::Pod(node) => return Ok(exec(&format!("client-{node}"))),
            Client::Backend(node) => return Ok(exec(&format!("web-{node}"))),
            Client::Packets => self.namespace_of("client-1")?,
            Client::BackendPackets(node) => self.namespace_of(&format!("web-{node}"))?,
            Client::Node(index) => Place::Node(index),
            Client::Outside => Place::Outside,
        };
        place.command(self.world.cluster, elsewhere)
    }

    /// The test program in a pod's network namespace but outside of its cgroup: its packets are translated.
    pub(crate) fn packets(&self, pod: &str) -> Result<Command> {
        self.namespace_of(pod)?
            .command(self.world.cluster, &test_program())
    }

    /// A pod's network namespace.
    pub(crate) fn namespace_of(&self, pod: &str) -> Result<Place> {
        let pod = self.world.get(&["pod", pod])?;
        let uid = pod["metadata"]["uid"].as_str().context("a pod without uid")?;
        Place::namespace_of_pod(uid)
    }

    /// The backends' addresses, those of each in the order of the Service's families.
    pub(crate) fn pod_ips(&self) -> Result<Vec<Vec<IpAddr>>> {
        let of_pod = |name: &&str| -> Result<Vec<IpAddr>> {
            let pod = self.world.get(&["pod", name])?;
            let ips = pod["status"]["podIPs"].as_array();
            let ips = ips.into_iter().flatten();
            Ok(ips.filter_map(|ip| ip["ip"].as_str()?.parse().ok()).collect())
        };
        BACKENDS.iter().map(of_pod).collect()
    }

    /// What the service proxy of a node prints.
    pub(crate) fn proxy(&self, node: usize, args: &[&str]) -> Result<String> {
        let cluster = self.world.cluster;
        let program = cluster.config().binaries.directory.join("proxy-ebpf");
        let output = Command::new(program)
            .args(args)
            .arg("--bpf-dir")
            .arg(cluster.layout().bpf_dir(node))
            .output()
            .context("start proxy-ebpf")?;
        if !output.status.success() {
            bail!("proxy-ebpf {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Waits until the proxies of these nodes know a Service by its cluster IP; then they know what was done before, too.
    pub(crate) fn known(&self, name: &str, nodes: &[usize]) -> Result<()> {
        let service = Service {
            object: self.world.get(&["service", name])?,
        };
        let ip = *service.cluster_ips().first().context("no cluster IP")?;
        for node in nodes {
            self.world.until(&format!("node{node} to know {name}"), || {
                let services = self.proxy(*node, &["service", "list"])?;
                expect_contains("service list", &services, &format!("{}/", at(ip, 80)))
            })?;
        }
        Ok(())
    }

    /// Sends an address the way of a node, as a load balancer or a router would.
    pub(crate) fn route_from_outside(&self, address: IpAddr, node: usize) -> Result<()> {
        let layout = self.world.cluster.layout();
        let via: IpAddr = match address {
            IpAddr::V4(_) => layout.node_ip(node).into(),
            IpAddr::V6(_) => layout.node_ip6(node).into(),
        };
        let output = Place::Outside
            .command(self.world.cluster, "ip".as_ref())?
            .args(["route", "replace", &address.to_string(), "via", &via.to_string()])
            .output()
            .context("start ip")?;
        if !output.status.success() {
            bail!("ip route: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// The node's addresses of both families.
    pub(crate) fn node_addresses(&self, node: usize) -> [IpAddr; 2] {
        let layout = self.world.cluster.layout();
        [layout.node_ip(node).into(), layout.node_ip6(node).into()]
    }
}

impl Report {
    fn shows(&self, expected: Expect<'_>) -> bool {
        let answered: BTreeSet<&str> = self.backends.keys().map(String::as_str).collect();
        let error = |words: &[&str]| {
            self.failures > 0
                && answered.is_empty()
                && self
                    .errors
                    .iter()
                    .all(|error| words.iter().any(|word| error.contains(word)))
        };
        match expected {
            Expect::Answers(backends) => self.failures == 0 && answered.iter().eq(backends),
            Expect::OneOf(backends) => {
                self.failures == 0
                    && answered.len() == 1
                    && answered.iter().all(|name| backends.contains(name))
            }
            Expect::Refused => error(&["refused"]),
            Expect::Dropped => error(&["timed out", "temporarily unavailable"]),
            Expect::Nobody => self.failures > 0 && answered.is_empty(),
        }
    }
}

/// Puts the fields of `changes` into `object`, inner objects field by field. `null` takes a field away.
fn merge(object: &mut Value, changes: Value) {
    match (object, changes) {
        (Value::Object(object), Value::Object(changes)) => {
            for (name, change) in changes {
                if change.is_null() {
                    object.remove(&name);
                } else {
                    merge(object.entry(name).or_insert(Value::Null), change);
                }
            }
        }
        (object, change) => *object = change,
    }
}
