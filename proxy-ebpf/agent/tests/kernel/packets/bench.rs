//! The programs on a node that has devices but no wires, and what both families' stories are made of.

use std::{
    net::IpAddr,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::maps::{HashMap, LpmTrie, Map, MapData, PerCpuArray, lpm_trie::Key};
use proxy_ebpf::{
    apply::Maps,
    connections::{Collector, plan::Flush},
    desired::{ServicePort, SocketAddress},
    packets::PacketPrograms,
    pins::Pins,
    plan::{Plan, Tables},
    programs::{self, Features},
    sys,
};
use proxy_ebpf_common::{
    Address4, Address6, Conntrack, ConntrackKey, Device, DeviceFlags, DropCount, DropReason, LocalPod, Node,
    NodeKey, Port, Protocol, maps,
};

use crate::{
    agent::ip,
    change,
    model::{ACK, Body, Packet, SYN},
    sandbox::{BPF_DIR, CGROUP},
};

pub(super) const CONTINUE: i32 = -1;
pub(super) const SHOT: i32 = 2;
pub(super) const REDIRECT: i32 = 7;

/// What differs between the families: the same story is told in both.
pub(super) struct Net {
    pub(super) client: &'static str,
    pub(super) node: &'static str,
    pub(super) cluster_ip: &'static str,
    pub(super) external_ip: &'static str,
    pub(super) local_pod: &'static str,
    pub(super) other_pod: &'static str,
    pub(super) remote_pod: &'static str,
    pub(super) hairpin: &'static str,
    pub(super) world: &'static str,
}

pub(super) const NETS: [Net; 2] = [
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

pub(super) const PROTOCOLS: [Protocol; 3] = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];
pub(super) const NODE_PORT: u16 = 30080;
/// Of the way to the other node.
pub(super) const MTU: u32 = 1400;

/// The programs, in this process's network namespace with the devices of a node.
pub(super) struct Bench {
    programs: PacketPrograms,
    tables: Tables,
    maps: Maps,
    pub(super) dir: PathBuf,
    uplink: u32,
    pod: u32,
    _pins: Pins,
}

impl Bench {
    pub(super) fn new() -> Self {
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
            "route add 10.244.1.0/24 via 192.0.2.12 mtu lock 1400",
            "-6 route add fd00:10:244:1::/64 via 2001:db8::12 mtu lock 1400",
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

    pub(super) fn describe_node(&mut self) {
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

    pub(super) fn open(&self, name: &str) -> MapData {
        MapData::from_pin(self.dir.join(name)).expect("open a map")
    }

    pub(super) fn insert<K: aya::Pod, V: aya::Pod>(&self, name: &str, key: K, value: V) {
        let mut map = HashMap::try_from(Map::HashMap(self.open(name))).expect("a hash map");
        map.insert(key, value, 0).expect("write a map");
    }

    pub(super) fn insert_prefix<K: aya::Pod, V: aya::Pod>(&self, name: &str, bits: u32, key: K, value: V) {
        let mut map = LpmTrie::try_from(Map::LpmTrie(self.open(name))).expect("a trie");
        map.insert(&Key::new(bits, key), value, 0).expect("write a map");
    }

    /// Removes the entry of the packets from one of these to the other, as if it had been evicted.
    pub(super) fn forget(&self, net: &Net, protocol: Protocol, from: (&str, u16), to: (&str, u16)) {
        fn remove<A>(map: MapData, key: ConntrackKey<A>)
        where
            ConntrackKey<A>: aya::Pod,
            Conntrack<A>: aya::Pod,
        {
            let mut map = HashMap::<_, ConntrackKey<A>, Conntrack<A>>::try_from(Map::LruHashMap(map))
                .expect("a hash map");
            map.remove(&key).expect("it was there");
        }
        let (from_port, to_port) = (Port::new(from.1), Port::new(to.1));
        if ip_address(net.node).is_ipv4() {
            let (from, to) = (address4(from.0), address4(to.0));
            let key = ConntrackKey::new(from, from_port, to, to_port, protocol);
            remove(self.open(maps::CONNTRACK4), key);
        } else {
            let (from, to) = (address6(from.0), address6(to.0));
            let key = ConntrackKey::new(from, from_port, to, to_port, protocol);
            remove(self.open(maps::CONNTRACK6), key);
        }
    }

    /// How many packets were dropped for a reason.
    pub(super) fn drops(&self, reason: DropReason) -> u64 {
        let map =
            PerCpuArray::<_, DropCount>::try_from(Map::PerCpuArray(self.open(maps::DROPS))).expect("counts");
        let counts = map.get(&(reason as u32), 0).expect("read a map");
        counts.iter().map(|count| count.packets).sum()
    }

    /// One port of a Service of the two families.
    pub(super) fn serve(&mut self, ports: Vec<ServicePort>) -> Plan {
        let plan = self.plan(ports);
        self.apply(&plan);
        plan
    }

    /// The first half of [`Self::serve`], which has to be followed by the second.
    pub(super) fn plan(&mut self, ports: Vec<ServicePort>) -> Plan {
        let mut plan = self.tables.plan(vec![change("web", ports)]);
        let nodes = NETS.map(|net| ip_address(net.node));
        self.tables.plan_node_addresses(nodes.into(), &mut plan);
        plan
    }

    pub(super) fn apply(&mut self, plan: &Plan) {
        self.maps.apply(plan).expect("write the maps");
    }

    /// What an agent that has just started flushes.
    pub(super) fn astray(&self, collector: &Collector) -> Flush {
        Flush {
            left: self.tables.astray(collector.inherited()).into_iter().collect(),
            ..Flush::default()
        }
    }

    #[track_caller]
    pub(super) fn run_bytes(&self, program: &'static str, frame: &[u8]) -> (i32, Vec<u8>) {
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
    pub(super) fn run(&self, program: &'static str, packet: &Packet) -> (i32, Packet) {
        let (result, frame) = self.run_bytes(program, &packet.bytes());
        (result, Packet::read(&frame))
    }

    #[track_caller]
    fn expect(&self, program: &'static str, packet: &Packet, result: i32, expected: &Packet) {
        assert_eq!(
            self.run(program, packet),
            (result, expected.clone()),
            "{program} of {packet:?}"
        );
    }

    /// Expects a packet to be sent on with these ends, with one hop less to go.
    #[track_caller]
    pub(super) fn expect_redirect(
        &self,
        program: &'static str,
        packet: &Packet,
        source: &str,
        destination: &str,
    ) {
        let expected = packet.translated(source, destination, 1);
        self.expect(program, packet, REDIRECT, &expected);
    }

    /// Expects a packet to go the node's own way with these ends.
    #[track_caller]
    pub(super) fn expect_translated(
        &self,
        program: &'static str,
        packet: &Packet,
        source: &str,
        destination: &str,
    ) {
        let expected = packet.translated(source, destination, 0);
        self.expect(program, packet, CONTINUE, &expected);
    }

    /// Expects a packet to be left as it is.
    #[track_caller]
    pub(super) fn expect_untouched(&self, program: &'static str, packet: &Packet) {
        self.expect(program, packet, CONTINUE, packet);
    }

    #[track_caller]
    pub(super) fn expect_drop(&self, program: &'static str, packet: &Packet, reason: DropReason) {
        let before = self.drops(reason);
        assert_eq!(self.run(program, packet).0, SHOT, "{program} of {packet:?}");
        assert_eq!(self.drops(reason), before + 1, "{reason:?} for {packet:?}");
    }
}

pub(super) fn index(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).expect("the device exists")
}

pub(super) fn ip_address(text: &str) -> IpAddr {
    text.trim_matches(['[', ']']).parse().expect("an address")
}

pub(super) fn address4(text: &str) -> Address4 {
    match ip_address(text) {
        IpAddr::V4(ip) => Address4::from_octets(ip.octets()),
        IpAddr::V6(ip) => panic!("{ip}"),
    }
}

pub(super) fn address6(text: &str) -> Address6 {
    match ip_address(text) {
        IpAddr::V4(ip) => panic!("{ip}"),
        IpAddr::V6(ip) => Address6::from_octets(ip.octets()),
    }
}

pub(super) fn at(ip: &str, port: u16) -> String {
    format!("{ip}:{port}")
}

/// A packet that opens a connection.
pub(super) fn first(protocol: Protocol, source: &str, destination: &str) -> Packet {
    match protocol {
        Protocol::TCP => Packet::tcp(source, destination, SYN),
        Protocol::UDP => Packet::udp(source, destination),
        _ => sctp(source, destination, INIT),
    }
}

/// Kinds of SCTP's chunks.
pub(super) const DATA: u8 = 0;
pub(super) const INIT: u8 = 1;
pub(super) const INIT_ACK: u8 = 2;
pub(super) const ABORT: u8 = 6;
pub(super) const SHUTDOWN_COMPLETE: u8 = 14;
/// Tags of SCTP: that of a packet which begins no association, and the one that a packet which does asks for.
pub(super) const TAG: [u8; 4] = [9, 8, 7, 6];
pub(super) const INITIATE_TAG: [u8; 4] = [5, 6, 7, 8];

/// A packet of SCTP with a chunk of this kind.
pub(super) fn sctp(source: &str, destination: &str, kind: u8) -> Packet {
    let tag = if kind == INIT { [0; 4] } else { TAG };
    let mut data = vec![kind, 0, 0, 20];
    data.extend(INITIATE_TAG);
    data.extend([1; 12]);
    Packet::new(source, destination, Body::Sctp { tag, data })
}

/// A packet that answers one.
pub(super) fn answer(protocol: Protocol, source: &str, destination: &str) -> Packet {
    match protocol {
        Protocol::TCP => Packet::tcp(source, destination, SYN | ACK),
        Protocol::SCTP => sctp(source, destination, INIT_ACK),
        _ => first(protocol, source, destination),
    }
}

/// A Service at its cluster IP and, at an external one and node ports, for the world.
pub(super) fn service(net: &Net, protocol: Protocol, backends: &[&str]) -> Vec<ServicePort> {
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
