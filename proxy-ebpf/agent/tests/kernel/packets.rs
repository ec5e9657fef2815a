//! The programs of the packet path, run on single packets: what comes out is compared with a model.

use std::{
    net::IpAddr,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::maps::{HashMap, LpmTrie, Map, MapData, PerCpuArray, lpm_trie::Key};
use proxy_ebpf::{
    apply::Maps,
    desired::{ServicePort, SocketAddress},
    packets::PacketPrograms,
    pins::Pins,
    plan::Tables,
    programs::{self, Features},
    sys,
};
use proxy_ebpf_common::{
    Address4, Address6, Device, DeviceFlags, DropCount, DropReason, LocalPod, Node, NodeKey, Protocol,
    SNAT_PORT_MIN, maps,
};

use crate::{
    agent::ip,
    change,
    model::{ACK, Body, FIN, Packet, RST, SYN, checksum},
    sandbox::{BPF_DIR, CGROUP},
};

const CONTINUE: i32 = -1;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;

/// What differs between the families: the same story is told in both.
struct Net {
    client: &'static str,
    node: &'static str,
    cluster_ip: &'static str,
    external_ip: &'static str,
    local_pod: &'static str,
    other_pod: &'static str,
    remote_pod: &'static str,
    hairpin: &'static str,
    world: &'static str,
}

const NETS: [Net; 2] = [
    Net {
        client: "192.0.2.99",
        node: "192.0.2.11",
        cluster_ip: "10.96.0.10",
        external_ip: "198.51.100.7",
        local_pod: "10.244.0.5",
        other_pod: "10.244.0.6",
        remote_pod: "10.244.1.5",
        hairpin: "169.254.1.1",
        world: "203.0.113.80",
    },
    Net {
        client: "[2001:db8::99]",
        node: "[2001:db8::11]",
        cluster_ip: "[fd00:10:96::10]",
        external_ip: "[2001:db8:1::7]",
        local_pod: "[fd00:10:244::5]",
        other_pod: "[fd00:10:244::6]",
        remote_pod: "[fd00:10:244:1::5]",
        hairpin: "[100::1]",
        world: "[2001:db8:80::80]",
    },
];

const PROTOCOLS: [Protocol; 3] = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];
const NODE_PORT: u16 = 30080;

/// The programs, in this process's network namespace with the devices of a node.
struct Bench {
    programs: PacketPrograms,
    tables: Tables,
    maps: Maps,
    dir: PathBuf,
    uplink: u32,
    pod: u32,
    _pins: Pins,
}

impl Bench {
    fn new() -> Self {
        for command in [
            "link add up0 type veth peer name up1",
            "link add pod0 type veth peer name pod1",
            "link set up0 up",
            "link set up1 up",
            "link set pod0 up",
            "link set pod1 up",
            "address add 192.0.2.11/24 dev up0",
            "address add 2001:db8::11/64 dev up0 nodad",
            "route add default via 192.0.2.1",
            "-6 route add default via 2001:db8::1",
            "route add 10.244.1.0/24 via 192.0.2.12",
            "-6 route add fd00:10:244:1::/64 via 2001:db8::12",
            "route add 10.244.0.5/32 dev pod0",
            "-6 route add fd00:10:244::5/128 dev pod0",
        ] {
            ip(command);
        }
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(Path::new("/proc/sys/net").join(setting), "1").expect("enable forwarding");
        }
        let environment = |name| PathBuf::from(std::env::var_os(name).expect("the parent says where"));
        let pins = Pins::open(&environment(BPF_DIR)).expect("open the pins");
        let features = Features {
            conntrack_entries: 1 << 14,
            ..Features::detect().expect("ask the kernel")
        };
        let programs =
            programs::install(&pins, &environment(CGROUP), features).expect("install the programs");
        let mut bench = Self {
            maps: Maps::open(&pins.maps()).expect("open the maps"),
            dir: pins.maps(),
            programs,
            tables: Tables::default(),
            uplink: index("up0"),
            pod: index("pod0"),
            _pins: pins,
        };
        bench.describe_node();
        bench
    }

    fn describe_node(&mut self) {
        let device = Device {
            flags: DeviceFlags(DeviceFlags::UPLINK.0 | DeviceFlags::MASQUERADE.0),
            address4: address4(NETS[0].node),
            address6: address6(NETS[1].node),
        };
        self.insert(maps::DEVICES, self.uplink, device);
        let pod = LocalPod {
            ifindex: self.pod,
            identity: 0,
            pod_mac: [2, 0, 0, 0, 0, 5],
            host_mac: [2, 0, 0, 0, 0, 1],
        };
        self.insert(maps::LOCAL_PODS4, address4(NETS[0].local_pod), pod);
        self.insert(maps::LOCAL_PODS6, address6(NETS[1].local_pod), pod);
        for (network, node) in [("10.244.0.0", Node::LOCAL), ("10.244.1.0", Node::REMOTE)] {
            let key = NodeKey {
                network: address4(network),
            };
            self.insert_prefix(maps::NODES4, 24, key, node);
        }
        for (network, node) in [
            ("[fd00:10:244::]", Node::LOCAL),
            ("[fd00:10:244:1::]", Node::REMOTE),
        ] {
            let key = NodeKey {
                network: address6(network),
            };
            self.insert_prefix(maps::NODES6, 64, key, node);
        }
    }

    fn open(&self, name: &str) -> MapData {
        MapData::from_pin(self.dir.join(name)).expect("open a map")
    }

    fn insert<K: aya::Pod, V: aya::Pod>(&self, name: &str, key: K, value: V) {
        let mut map = HashMap::try_from(Map::HashMap(self.open(name))).expect("a hash map");
        map.insert(key, value, 0).expect("write a map");
    }

    fn insert_prefix<K: aya::Pod, V: aya::Pod>(&self, name: &str, bits: u32, key: K, value: V) {
        let mut map = LpmTrie::try_from(Map::LpmTrie(self.open(name))).expect("a trie");
        map.insert(&Key::new(bits, key), value, 0).expect("write a map");
    }

    /// How many packets were dropped for a reason.
    fn drops(&self, reason: DropReason) -> u64 {
        let map =
            PerCpuArray::<_, DropCount>::try_from(Map::PerCpuArray(self.open(maps::DROPS))).expect("counts");
        let counts = map.get(&(reason as u32), 0).expect("read a map");
        counts.iter().map(|count| count.packets).sum()
    }

    /// One port of a Service of the two families.
    fn serve(&mut self, ports: Vec<ServicePort>) {
        let mut plan = self.tables.plan(vec![change("web", ports)]);
        let nodes = NETS.map(|net| ip_address(net.node));
        self.tables.plan_node_addresses(nodes.into(), &mut plan);
        self.maps.apply(&plan).expect("write the maps");
    }

    #[track_caller]
    fn run_bytes(&self, program: &'static str, frame: &[u8]) -> (i32, Vec<u8>) {
        let ifindex = if program.starts_with("node") {
            self.uplink
        } else {
            self.pod
        };
        let program = self.programs.program(program).expect("it is loaded");
        let run = sys::test_run(program.as_fd(), frame, ifindex, 1).expect("run a program");
        (run.result, run.packet)
    }

    /// Runs a program on a packet.
    #[track_caller]
    fn run(&self, program: &'static str, packet: &Packet) -> (i32, Packet) {
        let (result, frame) = self.run_bytes(program, &packet.bytes());
        (result, Packet::read(&frame))
    }

    /// Expects a packet to be translated.
    #[track_caller]
    fn expect(&self, program: &'static str, packet: &Packet, result: i32, expected: &Packet) {
        assert_eq!(
            self.run(program, packet),
            (result, expected.clone()),
            "{program} of {packet:?}"
        );
    }

    /// Expects a packet to be left as it is.
    #[track_caller]
    fn expect_untouched(&self, program: &'static str, packet: &Packet) {
        self.expect(program, packet, CONTINUE, packet);
    }

    #[track_caller]
    fn expect_drop(&self, program: &'static str, packet: &Packet, reason: DropReason) {
        let before = self.drops(reason);
        assert_eq!(self.run(program, packet).0, SHOT, "{program} of {packet:?}");
        assert_eq!(self.drops(reason), before + 1, "{reason:?} for {packet:?}");
    }
}

fn index(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).expect("the device exists")
}

fn ip_address(text: &str) -> IpAddr {
    text.trim_matches(['[', ']']).parse().expect("an address")
}

fn address4(text: &str) -> Address4 {
    match ip_address(text) {
        IpAddr::V4(ip) => Address4::from_octets(ip.octets()),
        IpAddr::V6(ip) => panic!("{ip}"),
    }
}

fn address6(text: &str) -> Address6 {
    match ip_address(text) {
        IpAddr::V4(ip) => panic!("{ip}"),
        IpAddr::V6(ip) => Address6::from_octets(ip.octets()),
    }
}

fn at(ip: &str, port: u16) -> String {
    format!("{ip}:{port}")
}

/// A packet that opens a connection.
fn first(protocol: Protocol, source: &str, destination: &str) -> Packet {
    match protocol {
        Protocol::TCP => Packet::tcp(source, destination, SYN),
        Protocol::UDP => Packet::udp(source, destination),
        _ => Packet::new(source, destination, Body::Sctp { data: vec![1; 32] }),
    }
}

/// A packet that answers one.
fn answer(protocol: Protocol, source: &str, destination: &str) -> Packet {
    match protocol {
        Protocol::TCP => Packet::tcp(source, destination, SYN | ACK),
        _ => first(protocol, source, destination),
    }
}

/// A Service at its cluster IP and, at an external one and node ports, for the world.
fn service(net: &Net, protocol: Protocol, backends: &[&str]) -> Vec<ServicePort> {
    let socket = |ip: &str, port| SocketAddress {
        address: ip_address(ip),
        port,
        protocol,
    };
    let unspecified = if ip_address(net.node).is_ipv4() {
        "0.0.0.0"
    } else {
        "::"
    };
    let backends: Vec<_> = backends.iter().map(|ip| socket(ip, 8080)).collect();
    let mut external = crate::port(
        &[socket(net.external_ip, 80), socket(unspecified, NODE_PORT)],
        &backends,
    );
    external.external = external.frontends.clone();
    let other_ports = SocketAddress {
        protocol: Protocol::ANY,
        ..socket(net.cluster_ip, 0)
    };
    vec![
        crate::port(&[socket(net.cluster_ip, 80)], &backends),
        external,
        crate::port(&[other_ports], &[]),
    ]
}

/// Runs everything: loading the programs takes longer than running them.
pub(crate) fn run() {
    let mut bench = Bench::new();
    for net in &NETS {
        for protocol in PROTOCOLS {
            from_outside_to_a_local_pod(&mut bench, net, protocol);
            from_outside_to_another_node(&mut bench, net, protocol);
            from_a_pod(&mut bench, net, protocol);
            to_the_world(&bench, net, protocol);
            nobody_is_there(&mut bench, net, protocol);
        }
        errors(&mut bench, net);
        echoes(&mut bench, net);
        fragments(&mut bench, net);
        a_connection_ends(&mut bench, net);
        the_client_stays(&mut bench, net);
        odd_packets(&mut bench, net);
    }
}

fn from_outside_to_a_local_pod(bench: &mut Bench, net: &Net, protocol: Protocol) {
    bench.serve(service(net, protocol, &[net.local_pod]));
    let pod = at(net.local_pod, 8080);
    let services = [
        at(net.external_ip, 80),
        at(net.node, NODE_PORT),
        at(net.cluster_ip, 80),
    ];
    for (index, service) in services.iter().enumerate() {
        let client = at(net.client, 40_001 + index as u16);
        let request = first(protocol, &client, service);
        // Straight into the pod, with the client's own address.
        bench.expect(
            "node_ingress",
            &request,
            REDIRECT,
            &request.translated(&client, &pod, 1),
        );
        let reply = answer(protocol, &pod, &client);
        let translated = reply.translated(service, &client, 0);
        // Without a look at the node's own routing where the Service's address may be the node's.
        if index < 2 {
            bench.expect(
                "pod_egress",
                &reply,
                REDIRECT,
                &reply.translated(service, &client, 1),
            );
        } else {
            bench.expect("pod_egress", &reply, CONTINUE, &translated);
        }
        // The same for a device whose pod hook does not see it.
        bench.expect("node_egress", &reply, CONTINUE, &translated);
        // Once it is translated, it is nobody's business any more.
        bench.expect_untouched("node_egress", &translated);
    }
    // The same client by the same port at another address: the pod must be able to tell its connections apart.
    let client = at(net.client, 40_001);
    let request = first(protocol, &client, &services[1]);
    let (result, seen_by_pod) = bench.run("node_ingress", &request);
    assert_eq!(
        (result, seen_by_pod.destination.to_string()),
        (REDIRECT, pod.clone())
    );
    assert_eq!(seen_by_pod.source.ip(), ip_address(net.client));
    assert!(seen_by_pod.source.port() >= SNAT_PORT_MIN, "{seen_by_pod:?}");
    let reply = answer(protocol, &pod, &seen_by_pod.source.to_string());
    bench.expect(
        "node_egress",
        &reply,
        CONTINUE,
        &reply.translated(&services[1], &client, 0),
    );
    // A port of the cluster IP that the Service has not; the world hears nothing.
    let unknown = first(protocol, &client, &at(net.cluster_ip, 81));
    bench.expect_drop("node_ingress", &unknown, DropReason::UnknownPort);
    // The node's own ports are its own.
    bench.expect_untouched("node_ingress", &first(protocol, &client, &at(net.node, 22)));
}

fn from_outside_to_another_node(bench: &mut Bench, net: &Net, protocol: Protocol) {
    bench.serve(service(net, protocol, &[net.remote_pod]));
    let client = at(net.client, 41_001);
    let backend = at(net.remote_pod, 8080);
    for service in [at(net.external_ip, 80), at(net.node, NODE_PORT)] {
        let request = first(protocol, &client, &service);
        let (result, forwarded) = bench.run("node_ingress", &request);
        assert_eq!(result, REDIRECT, "{request:?}");
        // The backend must answer to this node.
        assert_eq!(forwarded.source.ip(), ip_address(net.node));
        let port = forwarded.source.port();
        assert!(port >= SNAT_PORT_MIN, "{forwarded:?}");
        let by_node = at(net.node, port);
        assert_eq!(forwarded, request.translated(&by_node, &backend, 1));
        // Another packet takes the same way.
        assert_eq!(bench.run("node_ingress", &request), (REDIRECT, forwarded.clone()));
        let reply = answer(protocol, &backend, &by_node);
        bench.expect(
            "node_ingress",
            &reply,
            REDIRECT,
            &reply.translated(&service, &client, 1),
        );
        // What the node itself has sent on is not touched again.
        bench.expect_untouched("node_egress", &forwarded);
        bench.expect_untouched("node_egress", &reply.translated(&service, &client, 1));
    }
}

fn from_a_pod(bench: &mut Bench, net: &Net, protocol: Protocol) {
    let service_address = at(net.cluster_ip, 80);
    let pod = at(net.local_pod, 42_001);
    // On another node: routed as any packet, with the pod's own address.
    bench.serve(service(net, protocol, &[net.remote_pod]));
    let backend = at(net.remote_pod, 8080);
    let request = first(protocol, &pod, &service_address);
    bench.expect(
        "pod_egress",
        &request,
        CONTINUE,
        &request.translated(&pod, &backend, 0),
    );
    let reply = answer(protocol, &backend, &pod);
    bench.expect(
        "node_ingress",
        &reply,
        REDIRECT,
        &reply.translated(&service_address, &pod, 1),
    );
    bench.expect(
        "pod_ingress",
        &reply,
        CONTINUE,
        &reply.translated(&service_address, &pod, 0),
    );

    // Itself.
    bench.serve(service(net, protocol, &[net.local_pod]));
    let pod = at(net.local_pod, 42_002);
    let (own, hairpin) = (at(net.local_pod, 8080), at(net.hairpin, 42_002));
    let request = first(protocol, &pod, &service_address);
    bench.expect(
        "pod_egress",
        &request,
        REDIRECT,
        &request.translated(&hairpin, &own, 1),
    );
    let reply = answer(protocol, &own, &hairpin);
    bench.expect(
        "pod_egress",
        &reply,
        REDIRECT,
        &reply.translated(&service_address, &pod, 1),
    );

    // Another pod of this node, whose address is not in the tables: by the node's own routing.
    bench.serve(service(net, protocol, &[net.other_pod]));
    let pod = at(net.local_pod, 42_003);
    let backend = at(net.other_pod, 8080);
    let request = first(protocol, &pod, &service_address);
    bench.expect(
        "pod_egress",
        &request,
        CONTINUE,
        &request.translated(&pod, &backend, 0),
    );
    let reply = answer(protocol, &backend, &pod);
    bench.expect(
        "pod_egress",
        &reply,
        REDIRECT,
        &reply.translated(&service_address, &pod, 1),
    );

    // No Service: straight to the other pod, or left alone.
    let direct = first(protocol, &at(net.other_pod, 42_004), &at(net.local_pod, 9));
    let forwarded = direct.translated(&at(net.other_pod, 42_004), &at(net.local_pod, 9), 1);
    bench.expect("pod_egress", &direct, REDIRECT, &forwarded);
    bench.expect_untouched(
        "pod_egress",
        &first(protocol, &at(net.local_pod, 42_005), &at(net.remote_pod, 9)),
    );
    bench.expect_untouched(
        "pod_ingress",
        &first(protocol, &at(net.client, 42_006), &at(net.local_pod, 9)),
    );
}

fn to_the_world(bench: &Bench, net: &Net, protocol: Protocol) {
    let (pod, world) = (at(net.local_pod, 43_001), at(net.world, 443));
    let request = first(protocol, &pod, &world);
    // The node's own routing finds the way of the first packet.
    bench.expect_untouched("pod_egress", &request);
    let (result, sent) = bench.run("node_egress", &request);
    assert_eq!(
        (result, sent.source.ip()),
        (CONTINUE, ip_address(net.node)),
        "{request:?}"
    );
    let by_node = sent.source.to_string();
    assert!(sent.source.port() >= SNAT_PORT_MIN, "{sent:?}");
    assert_eq!(sent, request.translated(&by_node, &world, 0));
    // The others take a short cut.
    bench.expect(
        "pod_egress",
        &request,
        REDIRECT,
        &request.translated(&by_node, &world, 1),
    );
    let reply = answer(protocol, &world, &by_node);
    bench.expect(
        "node_ingress",
        &reply,
        REDIRECT,
        &reply.translated(&world, &pod, 1),
    );
    // Within the cluster everybody keeps their address.
    for inside in [net.remote_pod, net.node] {
        bench.expect_untouched("node_egress", &first(protocol, &pod, &at(inside, 443)));
    }
    // So does whoever is no pod.
    bench.expect_untouched("node_egress", &first(protocol, &at(net.client, 43_001), &world));
}

fn nobody_is_there(bench: &mut Bench, net: &Net, protocol: Protocol) {
    let ipv4 = ip_address(net.node).is_ipv4();
    let mut ports = service(net, protocol, &[]);
    bench.serve(ports.clone());
    let service_address = at(net.cluster_ip, 80);
    let pod = at(net.local_pod, 44_001);
    let request = first(protocol, &pod, &service_address);
    let before = bench.drops(DropReason::NoEndpoints);
    let (result, refusal) = bench.run("pod_egress", &request);
    assert_eq!(result, REDIRECT, "back to where it came from");
    assert_eq!(bench.drops(DropReason::NoEndpoints), before + 1);
    let expected = if protocol == Protocol::TCP {
        let body = Body::Tcp {
            flags: RST | ACK,
            sequence: 0,
            acknowledged: 1001,
            data: Vec::new(),
        };
        Packet::new(&service_address, &pod, body)
    } else {
        let (kind, code, header) = if ipv4 { (3, 3, 20) } else { (1, 4, 40) };
        let body = Body::Error {
            kind,
            code,
            rest: 0,
            inner: request.ip_bytes()[..header + 8].to_vec(),
        };
        Packet::new(&at(net.cluster_ip, 0), &at(net.local_pod, 0), body)
    };
    assert_eq!(refusal, expected);
    if protocol == Protocol::TCP {
        // In the middle of a connection: the number that the sender expects next.
        let (_, refusal) = bench.run("pod_egress", &Packet::tcp(&pod, &service_address, ACK));
        let body = Body::Tcp {
            flags: RST,
            sequence: 2000,
            acknowledged: 0,
            data: Vec::new(),
        };
        assert_eq!(refusal, Packet::new(&service_address, &pod, body));
        bench.expect_drop(
            "pod_egress",
            &Packet::tcp(&pod, &service_address, RST),
            DropReason::NoEndpoints,
        );
    }
    // externalTrafficPolicy: Local, and the only endpoints are elsewhere.
    ports[1].elsewhere = true;
    bench.serve(ports);
    let request = first(protocol, &at(net.client, 44_002), &at(net.external_ip, 80));
    bench.expect_drop("node_ingress", &request, DropReason::NoLocalEndpoints);
}

/// An ICMP error about a packet.
fn error(source: &str, about: &Packet) -> Packet {
    let (kind, code) = if about.source.is_ipv4() { (3, 4) } else { (2, 0) };
    let inner = about.ip_bytes();
    let header = if about.source.is_ipv4() { 20 } else { 40 };
    let body = Body::Error {
        kind,
        code,
        rest: 1400,
        inner: inner[..header + 8].to_vec(),
    };
    let mut error = Packet::new(&at(source, 0), &at(source, 0), body);
    error.destination.set_ip(about.source.ip());
    error
}

fn errors(bench: &mut Bench, net: &Net) {
    // The ports of the packet inside are the translated ones, but its transport checksum stays what it was.
    let mask = |mut packet: Packet| {
        if let Body::Error { inner, .. } = &mut packet.body {
            let header = if inner[0] >> 4 == 4 { 20 } else { 40 };
            inner[header + 4..].fill(0);
            // It has been forwarded since it was sent.
            if header == 20 {
                assert_eq!(
                    checksum(&[&inner[..header]]),
                    0,
                    "the checksum of the header inside"
                );
                inner[8] = 0;
                inner[10..12].fill(0);
            } else {
                inner[7] = 0;
            }
        }
        packet
    };
    let router = if ip_address(net.node).is_ipv4() {
        "192.0.2.1"
    } else {
        "[2001:db8::1]"
    };
    let service_address = at(net.external_ip, 80);
    let client = at(net.client, 45_001);
    for protocol in PROTOCOLS {
        // Another node's backend: what a router says of the translated packet is told to the client of its own.
        bench.serve(service(net, protocol, &[net.remote_pod]));
        let request = first(protocol, &client, &service_address);
        let (_, forwarded) = bench.run("node_ingress", &request);
        for source in [router, net.remote_pod] {
            let told = if source == net.remote_pod {
                net.external_ip
            } else {
                source
            };
            let (result, translated) = bench.run("node_ingress", &error(source, &forwarded));
            let mut expected = error(told, &request);
            expected.ttl = translated.ttl;
            assert_eq!(mask(translated), mask(expected), "{protocol:?} by {source}");
            assert!(result == REDIRECT || result == CONTINUE, "{result}");
        }
        // And back: a router on the way to the client cannot pass on an answer.
        let reply = answer(protocol, &at(net.remote_pod, 8080), &forwarded.source.to_string());
        let (_, returned) = bench.run("node_ingress", &reply);
        let (result, translated) = bench.run("node_ingress", &error(router, &returned));
        let mut expected = error(router, &reply);
        expected.ttl = translated.ttl;
        assert_eq!(mask(translated), mask(expected), "{protocol:?}");
        assert!(result == REDIRECT || result == CONTINUE, "{result}");

        // A pod that has no such port, behind a Service.
        bench.serve(service(net, protocol, &[net.other_pod]));
        let pod = at(net.local_pod, 45_002);
        let request = first(protocol, &pod, &at(net.cluster_ip, 80));
        let (_, forwarded) = bench.run("pod_egress", &request);
        let (result, translated) = bench.run("pod_egress", &error(net.other_pod, &forwarded));
        let mut expected = error(net.cluster_ip, &request);
        expected.ttl -= 1;
        assert_eq!(
            (result, mask(translated)),
            (REDIRECT, mask(expected)),
            "{protocol:?}"
        );
    }
    // About packets that were never translated.
    let direct = Packet::udp(&at(net.local_pod, 45_003), &at(net.client, 9));
    bench.expect_untouched("node_ingress", &error(router, &direct));
}

fn echoes(bench: &mut Bench, net: &Net) {
    let echo = |reply, source: &str, destination: &str| {
        let data = b"are you there?".to_vec();
        Packet::new(source, destination, Body::Echo { reply, data })
    };
    let (pod, world) = (at(net.local_pod, 777), at(net.world, 0));
    let request = echo(false, &pod, &world);
    let (result, sent) = bench.run("node_egress", &request);
    assert_eq!((result, sent.source.ip()), (CONTINUE, ip_address(net.node)));
    assert!(sent.source.port() >= SNAT_PORT_MIN, "{sent:?}");
    let reply = echo(true, &world, &sent.source.to_string());
    bench.expect(
        "node_ingress",
        &reply,
        REDIRECT,
        &reply.translated(&world, &pod, 1),
    );
    // A pod's answers are to requests that came in as they are.
    bench.expect_untouched(
        "node_egress",
        &echo(true, &at(net.local_pod, 0), &at(net.world, 5)),
    );
    bench.serve(service(net, Protocol::TCP, &[net.local_pod]));
    bench.expect_drop(
        "pod_egress",
        &echo(false, &pod, &at(net.cluster_ip, 0)),
        DropReason::ServiceEcho,
    );
}

fn fragments(bench: &mut Bench, net: &Net) {
    bench.serve(service(net, Protocol::UDP, &[net.local_pod]));
    let (client, service_address) = (at(net.client, 46_001), at(net.external_ip, 80));
    let data = vec![7; 64];
    let datagram = Packet::new(&client, &service_address, Body::Udp { checksum: true, data });
    let [first, second] = datagram.fragments(7, 32);
    let (result, first) = bench.run_bytes("node_ingress", &first);
    assert_eq!(result, REDIRECT);
    let (result, second) = bench.run_bytes("node_ingress", &second);
    assert_eq!(result, REDIRECT);
    let whole = Packet::reassemble([&first, &second]);
    assert_eq!(whole, datagram.translated(&client, &at(net.local_pod, 8080), 1));
    // One that has overtaken its first: to an address of a Service alone it is lost, elsewhere it is nobody's business.
    let to = |ip: &str| Packet::udp(&client, &at(ip, 80)).fragments(8, 8)[1].clone();
    let before = bench.drops(DropReason::FragmentUnknown);
    assert_eq!(bench.run_bytes("node_ingress", &to(net.cluster_ip)).0, SHOT);
    assert_eq!(bench.drops(DropReason::FragmentUnknown), before + 1);
    assert_eq!(bench.run_bytes("node_ingress", &to(net.local_pod)).0, CONTINUE);
}

fn a_connection_ends(bench: &mut Bench, net: &Net) {
    let (client, service_address) = (at(net.client, 47_001), at(net.external_ip, 80));
    let via = |bench: &Bench, flags| {
        let (_, packet) = bench.run("node_ingress", &Packet::tcp(&client, &service_address, flags));
        packet.destination.ip()
    };
    bench.serve(service(net, Protocol::TCP, &[net.local_pod]));
    let old = via(bench, SYN);
    // Its backend leaves the Service while the connection is open: it drains.
    bench.run(
        "pod_egress",
        &Packet::tcp(&at(net.local_pod, 8080), &client, SYN | ACK),
    );
    bench.serve(service(net, Protocol::TCP, &[net.other_pod]));
    assert_eq!(via(bench, ACK), old);
    assert_eq!(via(bench, FIN | ACK), old);
    assert_eq!(
        via(bench, ACK),
        old,
        "what follows is still of the old connection"
    );
    // The same ports again are another connection.
    assert_eq!(via(bench, SYN), ip_address(net.other_pod));
    // It was never answered and its backend is gone: the client's next attempt goes to another.
    bench.serve(service(net, Protocol::TCP, &[net.local_pod]));
    assert_eq!(via(bench, SYN), ip_address(net.local_pod));
}

fn the_client_stays(bench: &mut Bench, net: &Net) {
    let backends = [net.local_pod, net.other_pod];
    let mut ports = service(net, Protocol::TCP, &backends);
    for port in &mut ports[..2] {
        port.affinity_timeout_s = 600;
    }
    bench.serve(ports);
    let via = |bench: &Bench, port| {
        let request = Packet::tcp(&at(net.client, port), &at(net.external_ip, 80), SYN);
        bench.run("node_ingress", &request).1.destination.ip()
    };
    let first = via(bench, 48_001);
    for port in 48_002..48_030 {
        assert_eq!(via(bench, port), first);
    }
    let rest: Vec<_> = backends
        .into_iter()
        .filter(|ip| ip_address(ip) != first)
        .collect();
    let mut ports = service(net, Protocol::TCP, &rest);
    for port in &mut ports[..2] {
        port.affinity_timeout_s = 600;
    }
    bench.serve(ports);
    assert_eq!(via(bench, 48_040), ip_address(rest[0]));
}

fn odd_packets(bench: &mut Bench, net: &Net) {
    bench.serve(service(net, Protocol::UDP, &[net.local_pod]));
    let (client, service_address) = (at(net.client, 49_001), at(net.external_ip, 80));
    let pod = at(net.local_pod, 8080);
    // A datagram without a checksum stays without one.
    if ip_address(net.node).is_ipv4() {
        let data = vec![1, 2, 3];
        let bare = Packet::new(
            &client,
            &service_address,
            Body::Udp {
                checksum: false,
                data,
            },
        );
        bench.expect(
            "node_ingress",
            &bare,
            REDIRECT,
            &bare.translated(&client, &pod, 1),
        );
    }
    let mut tired = Packet::udp(&client, &service_address);
    tired.ttl = 1;
    bench.expect_drop("node_ingress", &tired, DropReason::TtlExceeded);
    // Cut off in its transport header, a packet is dropped, and nothing is read beyond its end.
    let frame = Packet::udp(&client, &service_address).bytes();
    let header = if ip_address(net.node).is_ipv4() { 20 } else { 40 };
    for length in 14 + header..14 + header + 8 {
        let (result, packet) = bench.run_bytes("node_ingress", &frame[..length]);
        assert_eq!((result, packet.len()), (SHOT, length));
    }
}
