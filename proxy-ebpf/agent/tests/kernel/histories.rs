//! Random histories of Services, slices and the node, on real maps and programs: after each step real sockets are asked who
//! answers, and the [`model`] says who should. An agent that is killed now and then finds what has changed meanwhile.
//!
//! A history follows from its seed. `PROXY_EBPF_SEED` runs that one alone, and for long; one that has found something belongs
//! into [`FOUND`].

mod model;

use std::{
    collections::BTreeSet,
    env,
    io::{self, BufRead as _, ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use kube::runtime::watcher::Event;
use proxy_ebpf::{
    desired::{EndpointSlice, ObjectName, Service},
    objects::Objects,
    plan::Tables,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;

use crate::{
    agent::ip,
    client::{NODE_ADDRESSES, told},
    sandbox::{Client, Sandbox},
};
use model::{Cluster, Endpoint, Expect, NODE, Port, Slice};

/// Seeds that have found something once.
const FOUND: &[u64] = &[];
/// Seeds that are tried each time.
const TRIED: std::ops::Range<u64> = 1..7;
/// Steps of a history, and of one that was asked for.
const STEPS: usize = 30;
const STEPS_OF_ONE: usize = 2000;
/// How many places are asked about after each step, beyond those that the step has changed. In one that was asked for it is all.
const OTHERS: usize = 12;
/// Which of the agents in one that was asked for bring programs along: nine tenths of the time would go to the kernel's
/// verifier, which looks at the same ones each time. The others find those of the agent before them.
const INSTALLS_OF_ONE: usize = 5;
/// Tries to see all of the backends: of four, one is missed by chance in less than one of 10^12 questions.
const TRIES: usize = 100;
/// The same where one backend should answer always.
const TRIES_OF_ONE: usize = 5;

const SERVICES: [&str; 3] = ["a", "b", "c"];
const ZONES: [&str; 2] = ["east", "west"];
const NODES: [&str; 2] = [NODE, "node2"];
/// Ports of Services; those beyond the first two are no Service's.
const PORTS: [u16; 3] = [80, 81, 82];
const PROTOCOLS: [&str; 2] = ["TCP", "UDP"];
/// Where there are servers.
const BACKENDS: [[&str; 4]; 2] = [
    ["10.77.0.1", "10.77.0.2", "10.77.0.3", "10.77.0.4"],
    ["fd00:77::1", "fd00:77::2", "fd00:77::3", "fd00:77::4"],
];
const TARGETS: [u16; 2] = [9001, 9002];
/// No call takes longer unless something is broken.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) fn run() {
    let asked: Option<u64> = env::var("PROXY_EBPF_SEED")
        .ok()
        .map(|seed| seed.parse().expect("PROXY_EBPF_SEED is a number"));
    let seeds = match asked {
        Some(seed) => vec![seed],
        None => FOUND.iter().copied().chain(TRIED).collect(),
    };
    let length = match asked {
        Some(_) => Length {
            steps: STEPS_OF_ONE,
            others: usize::MAX,
            installs: INSTALLS_OF_ONE,
        },
        None => Length {
            steps: STEPS,
            others: OTHERS,
            installs: 1,
        },
    };
    let mut sandbox = Sandbox::new("histories");
    let mut child = sandbox.start("questions");
    assert_eq!(child.line(), "listening");
    for seed in seeds {
        let mut history = History::new(seed, length);
        // What the history before has left is what this one's agent finds.
        history.restart(&mut sandbox);
        for step in 0..length.steps {
            history.step(&mut sandbox, &mut child, step);
        }
    }
    child.finish();
}

/// How much is done in a history, and asked.
#[derive(Clone, Copy)]
struct Length {
    steps: usize,
    /// Places that are asked about after each step, beyond those that it has changed.
    others: usize,
    /// One of so many agents brings programs along, the first among them.
    installs: usize,
}

struct History {
    seed: u64,
    length: Length,
    /// How many agents there were.
    agents: usize,
    random: StdRng,
    cluster: Cluster,
    objects: Objects,
    tables: Tables,
}

impl History {
    fn new(seed: u64, length: Length) -> Self {
        Self {
            seed,
            length,
            agents: 0,
            random: StdRng::seed_from_u64(seed),
            cluster: Cluster::default(),
            objects: Objects::default(),
            tables: Tables::default(),
        }
    }

    /// Changes something, lets the agent see it, and asks.
    fn step(&mut self, sandbox: &mut Sandbox, child: &mut Client, step: usize) {
        let before = self.cluster.clone();
        let dead = self.random.random_ratio(1, 10);
        let mut touched = BTreeSet::new();
        for _ in 0..self.random.random_range(1..4) {
            touched.extend(self.change(!dead));
        }
        if dead {
            self.restart(sandbox);
        } else {
            let changes = self.objects.take_changes(|_| false);
            sandbox.plan(&mut self.tables, changes);
        }
        let mut places = places();
        let mut asked: Vec<_> = places
            .iter()
            .filter(|(_, address)| touched.iter().any(|name| is_of(name, *address)))
            .copied()
            .collect();
        places.retain(|place| !asked.contains(place));
        for _ in 0..self.length.others.min(places.len()) {
            asked.push(places.swap_remove(self.random.random_range(0..places.len())));
        }
        for (protocol, address) in asked {
            let expect = self.cluster.expect(protocol, address);
            let seen = ask(child, protocol, address, &expect);
            assert!(
                expect.is_met_by(&seen),
                "seed {}, step {step}: {protocol} to {address} should see {expect:?} and has seen {seen:?}\nbefore: {before:#?}\n\
                 after: {:#?}",
                self.seed,
                self.cluster
            );
        }
    }

    /// Another agent: it knows the maps and what the API says now.
    fn restart(&mut self, sandbox: &mut Sandbox) {
        if self.agents.is_multiple_of(self.length.installs) {
            sandbox.restart();
        } else {
            sandbox.reopen();
        }
        self.agents += 1;
        self.tables = Tables::new(sandbox.maps().read().expect("read the maps"));
        self.objects = Objects::default();
        self.objects.on_service(Event::Init);
        for (name, service) in &self.cluster.services {
            self.objects
                .on_service(Event::InitApply(service_of(name, service.object(name))));
        }
        self.objects.on_service(Event::InitDone);
        self.objects.on_slice(Event::Init);
        for (name, slice) in &self.cluster.slices {
            self.objects
                .on_slice(Event::InitApply(slice_of(name, slice.object(name))));
        }
        self.objects.on_slice(Event::InitDone);
        self.objects.set_zone(self.cluster.zone);
        let all = self.objects.all();
        sandbox.plan_all(&mut self.tables, all);
    }

    /// Changes one object, and returns the Service that it is about. `seen`: a living agent is told.
    fn change(&mut self, seen: bool) -> Vec<&'static str> {
        match self.random.random_range(0..20) {
            0..6 => {
                let name = self.pick(&SERVICES);
                let service = self.service(name);
                if seen {
                    self.objects
                        .on_service(Event::Apply(service_of(name, service.object(name))));
                }
                self.cluster.services.insert(name, service);
                vec![name]
            }
            6 => {
                let name = self.pick(&SERVICES);
                if let Some(service) = self.cluster.services.remove(name)
                    && seen
                {
                    self.objects
                        .on_service(Event::Delete(service_of(name, service.object(name))));
                }
                vec![name]
            }
            7..17 => {
                let name = format!("slice-{}", self.random.random_range(0..10));
                let slice = self.slice();
                if seen {
                    self.objects
                        .on_slice(Event::Apply(slice_of(&name, slice.object(&name))));
                }
                let service = slice.service;
                let old = self.cluster.slices.insert(name, slice);
                old.map(|old| old.service).into_iter().chain([service]).collect()
            }
            17..19 => {
                let names: Vec<String> = self.cluster.slices.keys().cloned().collect();
                if names.is_empty() {
                    return Vec::new();
                }
                let name = &names[self.random.random_range(0..names.len())];
                let slice = self.cluster.slices.remove(name).expect("it is there");
                if seen {
                    self.objects
                        .on_slice(Event::Delete(slice_of(name, slice.object(name))));
                }
                vec![slice.service]
            }
            _ => {
                let zones = [None, Some(ZONES[0]), Some(ZONES[1])];
                self.cluster.zone = zones[self.random.random_range(0..zones.len())];
                if seen {
                    self.objects.set_zone(self.cluster.zone);
                }
                SERVICES.to_vec()
            }
        }
    }

    fn service(&mut self, name: &str) -> model::Service {
        let index = SERVICES
            .iter()
            .position(|other| *other == name)
            .expect("a Service");
        let (families, externals) = (addresses(index, 0), addresses(index, 1));
        let (cluster_ips, external_ips) = match self.random.random_range(0..4) {
            0 => (families[..1].to_vec(), externals),
            1 => (families[1..].to_vec(), externals),
            _ => (families.to_vec(), externals),
        };
        let external_ips = match self.random.random_ratio(1, 2) {
            true => external_ips.to_vec(),
            false => Vec::new(),
        };
        let mut ports = Vec::new();
        for (number, names) in PORTS.into_iter().zip([["one", "one-udp"], ["two", "two-udp"]]) {
            for (protocol, name) in PROTOCOLS.into_iter().zip(names) {
                if self.random.random_ratio(2, 3) {
                    let node_port = node_port(index, number);
                    ports.push(Port {
                        name,
                        protocol,
                        number,
                        node_port: self.random.random_ratio(1, 2).then_some(node_port),
                    });
                }
            }
        }
        if ports.is_empty() {
            ports.push(Port {
                name: "one",
                protocol: "TCP",
                number: PORTS[0],
                node_port: None,
            });
        }
        model::Service {
            cluster_ips,
            external_ips,
            ports,
            affinity: self.random.random_ratio(1, 5),
            internal_local: self.random.random_ratio(1, 4),
            external_local: self.random.random_ratio(1, 4),
            headless: self.random.random_ratio(1, 12),
            other_proxy: self.random.random_ratio(1, 12),
        }
    }

    fn slice(&mut self) -> Slice {
        let ipv6 = self.random.random_ratio(1, 2);
        let all = [
            ("one", "TCP"),
            ("one-udp", "UDP"),
            ("two", "TCP"),
            ("two-udp", "UDP"),
        ];
        let mut ports = Vec::new();
        for (name, protocol) in all {
            if self.random.random_ratio(4, 5) {
                ports.push(Port {
                    name,
                    protocol,
                    number: self.pick(&TARGETS),
                    node_port: None,
                });
            }
        }
        let hints = self.random.random_range(0..4);
        let mut endpoints = Vec::new();
        for address in BACKENDS[usize::from(ipv6)] {
            if self.random.random_ratio(1, 2) {
                endpoints.push(self.endpoint(address, hints));
            }
        }
        Slice {
            service: self.pick(&SERVICES),
            ipv6,
            ports,
            endpoints,
            other_proxy: self.random.random_ratio(1, 15),
        }
    }

    /// What is said of an address is the same in whichever slice it is, but for its conditions: a pod has one node.
    fn endpoint(&mut self, address: &str, hints: u32) -> Endpoint {
        let address: IpAddr = address.parse().expect("an address");
        let nth = match address {
            IpAddr::V4(ip) => usize::from(ip.octets()[3]),
            IpAddr::V6(ip) => usize::from(ip.octets()[15]),
        };
        let (ready, serving, terminating) = match self.random.random_range(0..6) {
            0 => (Some(false), Some(false), Some(false)),
            1 => (Some(false), Some(true), Some(true)),
            2 => (Some(false), Some(false), Some(true)),
            3 => (None, None, None),
            _ => (Some(true), Some(true), Some(false)),
        };
        let hinted = hints > 1 || (hints == 1 && self.random.random_ratio(3, 4));
        Endpoint {
            address,
            ready,
            serving,
            terminating,
            node: (nth < 4).then_some(NODES[nth % 2]),
            for_zones: if hinted {
                vec![ZONES[nth / 2 % 2]]
            } else {
                Vec::new()
            },
            for_nodes: if hinted && hints == 3 {
                vec![NODES[nth % 2]]
            } else {
                Vec::new()
            },
        }
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.random.random_range(0..from.len())]
    }
}

fn service_of(name: &str, object: Value) -> (ObjectName, Option<Service>) {
    let service = serde_json::from_value(object).expect("a Service");
    (ObjectName::new("default", name), Service::from_api(&service))
}

fn slice_of(name: &str, object: Value) -> (ObjectName, Option<EndpointSlice>) {
    let slice = serde_json::from_value(object).expect("an EndpointSlice");
    (
        ObjectName::new("default", name),
        EndpointSlice::from_api(&slice, NODE),
    )
}

/// Addresses of a Service, one of each family: cluster IPs are of kind 0, external ones of kind 1.
fn addresses(service: usize, kind: usize) -> [IpAddr; 2] {
    let (ipv4, ipv6) = (["10.96.0", "198.51.100"][kind], ["fd00:96", "fd00:51"][kind]);
    let number = service + 1;
    [
        format!("{ipv4}.{number}").parse().expect("an address"),
        format!("{ipv6}::{number}").parse().expect("an address"),
    ]
}

fn node_port(service: usize, port: u16) -> u16 {
    30_000 + 100 * (service as u16 + 1) + port
}

/// All that can be asked about.
fn places() -> Vec<(&'static str, SocketAddr)> {
    let mut places = Vec::new();
    for service in 0..SERVICES.len() {
        for port in PORTS {
            let own = addresses(service, 0).into_iter().chain(addresses(service, 1));
            let own = own.map(|ip| SocketAddr::new(ip, port));
            let nodes = NODE_ADDRESSES[..2]
                .iter()
                .map(|ip| SocketAddr::new(ip.parse().expect("an address"), node_port(service, port)));
            for address in own.chain(nodes) {
                places.extend(PROTOCOLS.map(|protocol| (protocol, address)));
            }
        }
    }
    places
}

fn is_of(name: &str, address: SocketAddr) -> bool {
    let service = SERVICES
        .iter()
        .position(|other| *other == name)
        .expect("a Service");
    addresses(service, 0).contains(&address.ip())
        || addresses(service, 1).contains(&address.ip())
        || PORTS
            .iter()
            .any(|port| node_port(service, *port) == address.port())
}

/// What a client has seen.
#[derive(Debug, PartialEq)]
enum Seen {
    Answers(BTreeSet<SocketAddr>),
    Error(String),
}

impl Expect {
    fn is_met_by(&self, seen: &Seen) -> bool {
        let error = |kind: ErrorKind| matches!(seen, Seen::Error(text) if *text == format!("{kind:?}"));
        match (self, seen) {
            (Self::All(backends), Seen::Answers(seen)) => backends == seen,
            (Self::One(backends), Seen::Answers(seen)) => seen.len() == 1 && seen.is_subset(backends),
            (Self::Refused, _) => error(told(ErrorKind::ConnectionRefused)),
            (Self::Elsewhere, _) => error(told(ErrorKind::HostUnreachable)),
            (Self::Unknown, _) => error(ErrorKind::NetworkUnreachable),
            _ => false,
        }
    }
}

/// Has the child ask until it has seen all that it should, or something else.
fn ask(child: &mut Client, protocol: &str, address: SocketAddr, expect: &Expect) -> Seen {
    let (tries, wanted) = match expect {
        Expect::All(backends) => (TRIES, backends.clone()),
        Expect::One(_) => (TRIES_OF_ONE, BTreeSet::new()),
        _ => (1, BTreeSet::new()),
    };
    let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
    child.tell(&format!("{protocol} {address} {tries} {}", wanted.join(",")));
    let line = child.line();
    match line.split_once(' ') {
        Some(("answers", seen)) => Seen::Answers(
            seen.split(',')
                .map(|one| one.parse().expect("an address"))
                .collect(),
        ),
        _ => Seen::Error(line),
    }
}

/// The child: servers at all backends, and a client that does as it is told.
pub(crate) fn questions() {
    for address in BACKENDS.as_flattened() {
        // Without a look for duplicates, during which nobody could listen there.
        let rest = if address.contains(':') {
            "/128 dev lo nodad"
        } else {
            "/32 dev lo"
        };
        ip(&format!("address add {address}{rest}"));
    }
    for address in BACKENDS.as_flattened() {
        for port in TARGETS {
            serve(SocketAddr::new(address.parse().expect("an address"), port));
        }
    }
    println!("> listening");
    for line in io::stdin().lock().lines() {
        let line = line.expect("hear from the parent");
        let words: Vec<&str> = line.split(' ').collect();
        let [protocol, address, tries, wanted] = words[..] else {
            panic!("{line:?} is no question");
        };
        let address = address.parse().expect("an address");
        let wanted: BTreeSet<&str> = wanted.split(',').filter(|one| !one.is_empty()).collect();
        let mut seen = BTreeSet::new();
        let mut failed = None;
        for _ in 0..tries.parse::<usize>().expect("a number") {
            let answer = match protocol {
                "TCP" => connect(address),
                _ => send(address),
            };
            match answer {
                Ok(answer) => seen.insert(answer),
                Err(error) => {
                    failed = Some(error.kind());
                    break;
                }
            };
            if !wanted.is_empty() && seen.iter().map(String::as_str).eq(wanted.iter().copied()) {
                break;
            }
        }
        match failed {
            // One answer and one failure are neither.
            Some(kind) if seen.is_empty() => println!("> {kind:?}"),
            Some(kind) => println!("> {kind:?} after {seen:?}"),
            None => println!("> answers {}", seen.into_iter().collect::<Vec<_>>().join(",")),
        }
    }
}

/// Servers that answer with where they are.
fn serve(address: SocketAddr) {
    let listener = TcpListener::bind(address).expect("listen");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(address.to_string().as_bytes()));
        }
    });
    let socket = UdpSocket::bind(address).expect("bind");
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, client)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(address.to_string().as_bytes(), client);
        }
    });
}

fn connect(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn send(address: SocketAddr) -> io::Result<String> {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.send_to(b"?", address)?;
    let mut answer = [0; 64];
    let (length, source) = socket.recv_from(&mut answer)?;
    assert_eq!(
        source, address,
        "the answer must seem to come from what was asked"
    );
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}
