//! Real traffic over the packet path: an agent on one node, an outside client, pods on it and on another node.

use std::{
    fs,
    io::ErrorKind,
    net::Ipv4Addr,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use aya::maps::{HashMap, Map, MapData, MapInfo};
use proxy_ebpf::{pins, sys};
use proxy_ebpf_common::{Address4, LocalPod, maps};
use serde_json::{Value, json};

use crate::{
    agent::{Agent, ip, node, wait},
    api::Api,
    monitor,
    network::{LARGE_DATAGRAM, Namespace, Seen},
    sandbox::{BPF_DIR, CGROUP},
};

/// An address of each family.
pub(crate) type Both = [&'static str; 2];

pub(crate) const CLIENT: Both = ["172.31.0.99", "fd00:31::99"];
pub(crate) const NODE1: Both = ["172.31.0.11", "fd00:31::11"];
const NODE2: Both = ["172.31.0.12", "fd00:31::12"];
pub(crate) const POD_A: Both = ["10.244.0.5", "fd00:10:244::5"];
pub(crate) const POD_B: Both = ["10.244.0.6", "fd00:10:244::6"];
pub(crate) const POD_C: Both = ["10.244.1.5", "fd00:10:244:1::5"];
pub(crate) const CLUSTER_IP: Both = ["10.96.0.20", "fd00:10:96::20"];
pub(crate) const EXTERNAL_IP: Both = ["198.51.100.7", "fd00:51::7"];
pub(crate) const NODE_PORT: u16 = 30090;
pub(crate) const TARGET: u16 = 8080;
const SERVER: u16 = 9090;

pub(crate) struct Stage {
    pub(crate) client: Namespace,
    pub(crate) pod_a: Namespace,
    pub(crate) pod_b: Namespace,
    pub(crate) pod_c: Namespace,
    pub(crate) api: Api,
    _others: [Namespace; 2],
}

/// A cgroup that nobody is in: no socket is translated.
struct Nobody(PathBuf);

impl Nobody {
    fn make() -> Self {
        let parent = std::env::var_os(CGROUP).expect("the parent names the cgroup");
        let path = Path::new(&parent).join("nobody");
        fs::create_dir(&path).expect("make a cgroup");
        Self(path)
    }
}

impl Drop for Nobody {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// What joins a pod to its node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pair {
    Veth,
    Netkit,
}

impl Stage {
    /// Kills the agent and starts another one, while clients that have to succeed come and go, and one talks on.
    pub(crate) fn restart_under(
        &self,
        agent: Agent,
        dir: &Path,
        cgroup: &Path,
        connects: &(dyn Fn() + Sync),
        mut talks: impl FnMut(),
    ) -> Agent {
        let (stop, made) = (AtomicBool::new(false), AtomicU32::new(0));
        thread::scope(|scope| {
            // A failure must not wait for the clients, who wait to be told.
            let _stop = Set(&stop);
            let clients = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    connects();
                    made.fetch_add(1, Ordering::Relaxed);
                    // The agent may have this processor too.
                    thread::sleep(Duration::from_millis(1));
                }
            });
            let progress = |what: &str| {
                let before = made.load(Ordering::Relaxed);
                wait(what, || {
                    made.load(Ordering::Relaxed) > before + 20 || clients.is_finished()
                });
            };
            progress("clients connect");
            agent.kill();
            progress("clients connect without an agent");
            talks();
            let agent = Agent::start_in(&self.api, dir, cgroup);
            agent.wait_for_health("200");
            progress("clients connect with the next agent");
            talks();
            stop.store(true, Ordering::Relaxed);
            clients.join().expect("every client has succeeded");
            agent
        })
    }

    pub(crate) fn set([pair_a, pair_b]: [Pair; 2]) -> Self {
        let (lan, node1, node2) = (Namespace::new(), Namespace::own(), Namespace::new());
        let client = Namespace::new();
        lan.ip("link add br0 type bridge");
        lan.ip("link set br0 up");
        for (namespace, port, addresses) in [
            (&client, "port0", CLIENT),
            (&node1, "port1", NODE1),
            (&node2, "port2", NODE2),
        ] {
            namespace.join(&lan, port);
            lan.ip(&format!("link set {port} master br0"));
            let [v4, v6] = addresses;
            namespace.ip(&format!("address add {v4}/24 dev eth0"));
            namespace.ip(&format!("address add {v6}/64 dev eth0 nodad"));
        }
        for (node, other, v4, v6) in [
            (&node1, NODE2, "10.244.1.0/24", "fd00:10:244:1::/64"),
            (&node2, NODE1, "10.244.0.0/24", "fd00:10:244::/64"),
        ] {
            node.set("ipv4/ip_forward", "1");
            node.set("ipv6/conf/all/forwarding", "1");
            // Those of node1 are the agent's.
            if other == NODE1 {
                node.ip(&format!("route add {v4} via {}", other[0]));
                node.ip(&format!("-6 route add {v6} via {}", other[1]));
            }
            // The way to the cluster IPs of whoever does not translate them.
            node.ip(&format!("route add default via {}", CLIENT[0]));
            node.ip(&format!("-6 route add default via {}", CLIENT[1]));
        }
        for (vip, by) in [(EXTERNAL_IP[0], NODE1[0]), (CLUSTER_IP[0], NODE1[0])] {
            client.ip(&format!("route add {vip}/32 via {by}"));
        }
        client.ip(&format!("-6 route add {}/128 via {}", EXTERNAL_IP[1], NODE1[1]));
        let pod_a = pod(&node1, "orla", pair_a, POD_A);
        let pod_b = pod(&node1, "orlb", pair_b, POD_B);
        let pod_c = pod(&node2, "orlc", Pair::Veth, POD_C);
        for (namespace, name) in [(&pod_a, "a"), (&pod_b, "b"), (&pod_c, "c")] {
            namespace.serve(name, TARGET);
        }
        client.serve("client", SERVER);
        let api = Api::start();
        api.put(
            "nodes",
            node("node1", &["10.244.0.0/24", "fd00:10:244::/64"], &NODE1),
        );
        api.put(
            "nodes",
            node("node2", &["10.244.1.0/24", "fd00:10:244:1::/64"], &NODE2),
        );
        let stage = Self {
            client,
            pod_a,
            pod_b,
            pod_c,
            api,
            _others: [lan, node2],
        };
        stage.api.put("services", service());
        stage
    }

    /// Makes these pods the endpoints of the Service.
    pub(crate) fn endpoints(&self, pods: &[Both]) {
        for (index, family) in ["IPv4", "IPv6"].into_iter().enumerate() {
            let addresses: Vec<_> = pods.iter().map(|pod| pod[index]).collect();
            self.api.put("endpointslices", slice(family, &addresses));
        }
    }

    /// Brings a pod back whose device was down.
    pub(crate) fn pod_b_returns(&self) {
        self.pod_b.ip("link set eth0 up");
        let [_, v6] = POD_B;
        self.pod_b.ip(&format!("address replace {v6}/128 dev eth0 nodad"));
        way_out(&self.pod_b);
    }

    /// Returns once a client that connects reaches the server, or nobody.
    fn wait_for(&self, address: &str, server: Option<&str>) {
        wait(&format!("{address} leads to {server:?}"), || {
            let seen = self.client.connect(address).ok().map(|seen| seen.server);
            seen.as_deref() == server
        });
    }
}

/// A pod as `orlop-cni` wires it.
fn pod(node: &Namespace, device: &str, pair: Pair, [v4, v6]: Both) -> Namespace {
    let pod = Namespace::new();
    match pair {
        Pair::Veth => pod.join(node, device),
        Pair::Netkit => pod.join_by_netkit(node, device).expect("make a netkit pair"),
    }
    pod.ip("link set eth0 address 02:00:00:00:00:05");
    node.ip(&format!("link set {device} address 02:00:00:00:00:01"));
    // The plugin switches it off, and systemd may switch it on again afterwards.
    node.set(&format!("ipv4/conf/{device}/rp_filter"), "2");
    pod.ip(&format!("address add {v4}/32 dev eth0"));
    pod.ip(&format!("address add {v6}/128 dev eth0 nodad"));
    way_out(&pod);
    for (family, ip, bits) in [("-4", v4, 32), ("-6", v6, 128)] {
        node.ip(&format!(
            "{family} neighbour add {ip} lladdr 02:00:00:00:00:05 dev {device}"
        ));
        node.ip(&format!("{family} route add {ip}/{bits} dev {device}"));
    }
    pod
}

/// What a pod forgets as its device goes down.
fn way_out(pod: &Namespace) {
    for (family, gateway) in [("-4", "169.254.1.1"), ("-6", "fe80::1")] {
        pod.ip(&format!(
            "{family} neighbour replace {gateway} lladdr 02:00:00:00:00:01 dev eth0"
        ));
        pod.ip(&format!(
            "{family} route replace default via {gateway} dev eth0 onlink"
        ));
    }
}

fn service() -> Value {
    json!({
        "metadata": { "name": "echo", "namespace": "default" },
        "spec": {
            "type": "NodePort",
            "clusterIPs": CLUSTER_IP,
            "externalIPs": EXTERNAL_IP,
            "ports": [
                { "name": "tcp", "port": 80, "nodePort": NODE_PORT },
                { "name": "udp", "port": 80, "nodePort": NODE_PORT, "protocol": "UDP" },
                { "name": "sctp", "port": 80, "nodePort": NODE_PORT, "protocol": "SCTP" },
            ],
        },
    })
}

fn slice(family: &str, addresses: &[&str]) -> Value {
    let endpoints = addresses
        .iter()
        .map(|address| json!({ "addresses": [address], "conditions": { "ready": true } }));
    json!({
        "metadata": {
            "name": format!("echo-{}", family.to_lowercase()),
            "namespace": "default",
            "labels": { "kubernetes.io/service-name": "echo" },
        },
        "addressType": family,
        "ports": [
            { "name": "tcp", "port": TARGET, "protocol": "TCP" },
            { "name": "udp", "port": TARGET, "protocol": "UDP" },
            { "name": "sctp", "port": TARGET, "protocol": "SCTP" },
        ],
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

pub(crate) fn at(ip: &str, port: u16) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

fn seen(server: &str, client: &str) -> Seen {
    Seen {
        server: server.to_owned(),
        client: client.parse().expect("an address"),
    }
}

pub(crate) fn run(pairs: [Pair; 2]) {
    let dir = tempfile::tempdir().expect("make a folder");
    let nobody = Nobody::make();
    let stage = Stage::set(pairs);
    stage.endpoints(&[POD_A]);
    let agent = Agent::start_in(&stage.api, dir.path(), &nobody.0);
    agent.wait_for_health("200");
    for family in [0, 1] {
        stage.wait_for(&at(EXTERNAL_IP[family], 80), Some("a"));
        from_outside(&stage, family, "a", CLIENT[family]);
        to_the_world(&stage, family);
    }
    from_the_world(&stage);
    forged(&stage);
    monitor::run(&stage);
    for (device, pair) in ["orla", "orlb"].into_iter().zip(pairs) {
        assert_attached(device, pair);
    }
    from_pods(&stage, POD_A, "a");
    outgrow(&stage);
    stage.endpoints(&[POD_B]);
    stage.wait_for(&at(EXTERNAL_IP[0], 80), Some("b"));
    stage.wait_for(&at(EXTERNAL_IP[1], 80), Some("b"));
    from_pods(&stage, POD_B, "b");
    from_the_node("b");
    both_ways(&Namespace::own(), NODE1, CLUSTER_IP, POD_B, "b");
    limited(&stage);
    stage.endpoints(&[POD_C]);
    for family in [0, 1] {
        stage.wait_for(&at(EXTERNAL_IP[family], 80), Some("c"));
        from_outside(&stage, family, "c", NODE1[family]);
    }
    from_pods(&stage, POD_C, "c");
    from_the_node("c");
    both_ways(&stage.pod_a, POD_A, CLUSTER_IP, POD_C, "c");
    both_ways(&Namespace::own(), NODE1, CLUSTER_IP, POD_C, "c");
    let agent = restarts(&stage, agent, dir.path(), &nobody.0);
    nobody_is_there(&stage);
    agent.stop();
    let cleaned = Agent::command(&["cleanup"])
        .status()
        .expect("run proxy-ebpf cleanup");
    assert!(cleaned.success());
}

/// Has maps replaced by larger ones. Programs that went on with the old ones would not see that the Service has more endpoints.
fn outgrow(stage: &Stage) {
    let addresses = (1..=64).flat_map(|last| [format!("203.0.115.{last}"), format!("fd00:115::{last}")]);
    let ports = (1..=70).map(|port| json!({ "name": format!("port-{port}"), "port": port }));
    stage.api.put(
        "services",
        json!({
            "metadata": { "name": "wide", "namespace": "default" },
            "spec": {
                "clusterIPs": ["10.96.0.115", "fd00:96::115"],
                "externalIPs": addresses.collect::<Vec<_>>(),
                "ports": ports.collect::<Vec<_>>(),
            },
        }),
    );
    let maps = pins::maps_of(Path::new(
        &std::env::var_os(BPF_DIR).expect("the parent names the folder"),
    ));
    let room = |name: &str| MapInfo::from_pin(maps.join(name)).map(|map| map.max_entries());
    wait("both maps have room for 8192 frontends", || {
        [maps::FRONTENDS4, maps::FRONTENDS6]
            .iter()
            .all(|name| room(name).is_ok_and(|room| room == 1 << 13))
    });
    stage.endpoints(&[POD_A, POD_B]);
    for (external_ip, server) in EXTERNAL_IP.iter().flat_map(|ip| [(ip, "a"), (ip, "b")]) {
        stage.wait_for(&at(external_ip, 80), Some(server));
    }
    // Whoever waits for one of the two next must not find it by chance.
    stage.endpoints(&[]);
    for external_ip in EXTERNAL_IP {
        stage.wait_for(&at(external_ip, 80), None);
    }
}

/// What a pod gets is limited by a bucket on the node's end of its device, also where packets are sent past that end.
fn limited(stage: &Stage) {
    // Half a second for what is transferred. A limit can only make it slower: a busy machine cannot make this fail.
    let least = Duration::from_millis(300);
    tc("qdisc add dev orlb root tbf rate 64mbit burst 128kb latency 500ms");
    // A discipline is nothing that devices tell of, other than what the plugin does after it has put one there.
    ip("link set orlb alias limited");
    let maps = pins::maps_of(Path::new(
        &std::env::var_os(BPF_DIR).expect("the parent names the folder"),
    ));
    let goes_by_device = || {
        let map = MapData::from_pin(maps.join(maps::LOCAL_PODS4)).expect("open the table");
        let map = HashMap::<_, Address4, LocalPod>::try_from(Map::HashMap(map)).expect("it is a map");
        let octets = POD_B[0].parse::<Ipv4Addr>().expect("an address").octets();
        let pod = map.get(&Address4::from_octets(octets), 0);
        pod.is_ok_and(|pod| pod.identity & LocalPod::BY_DEVICE != 0)
    };
    wait("packets go by the pod's device", goes_by_device);
    for family in [0, 1] {
        for (client, address) in [
            (&stage.pod_a, at(POD_B[family], TARGET)),
            (&stage.pod_a, at(CLUSTER_IP[family], 80)),
            (&stage.client, at(EXTERNAL_IP[family], 80)),
        ] {
            let (seen, talk) = client.open(&address).expect("connect");
            assert_eq!(seen.server, "b");
            let begun = Instant::now();
            talk.transfer().expect("talk for long");
            let took = begun.elapsed();
            assert!(took > least, "{address} in {took:?}");
        }
    }
    tc("qdisc del dev orlb root");
    ip("link set orlb alias unlimited");
    wait("packets go past the pod's device", || !goes_by_device());
}

fn tc(arguments: &str) {
    let status = Command::new("tc").args(arguments.split(' ')).status();
    assert!(status.expect("run tc, of iproute2").success(), "tc {arguments}");
}

/// A pod's device runs both programs, in the way of its kind.
fn assert_attached(device: &str, pair: Pair) {
    let ifindex = nix::net::if_::if_nametoindex(device).expect("the device exists");
    let (names, kind) = match pair {
        Pair::Veth => (["pod_ingress", "pod_egress"], sys::LinkKind::TCX),
        Pair::Netkit => (["netkit_ingress", "netkit_egress"], sys::LinkKind::NETKIT),
    };
    let links = pins::links_of(Path::new(
        &std::env::var_os(BPF_DIR).expect("the parent names the folder"),
    ));
    for name in names {
        let path = links.join(format!("{name}-{ifindex}"));
        if pair == Pair::Veth && !path.exists() {
            // Kernels before 6.6 have no links for devices.
            continue;
        }
        let link = sys::open_pin(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let info = sys::link_info(link.as_fd()).expect("ask for the link");
        assert_eq!(info.kind, kind, "{name}");
        // Of the program that runs as the pod sends, the kernel names the pod's end, by its index in the pod.
        match name {
            "netkit_egress" => assert_ne!(info.ifindex(), 0),
            _ => assert_eq!(info.ifindex(), ifindex, "{name}"),
        }
    }
}

/// A client in the world reaches `server`, which sees the client as `client`.
fn from_outside(stage: &Stage, family: usize, server: &str, client: &str) {
    let expected = seen(server, client);
    for address in [at(EXTERNAL_IP[family], 80), at(NODE1[family], NODE_PORT)] {
        let (seen, talk) = stage.client.open(&address).expect("connect");
        assert_eq!(seen, expected, "{address}");
        talk.transfer().expect("talk for long");
        for length in [1, LARGE_DATAGRAM] {
            let seen = stage.client.ask(&address, length).expect("send a datagram");
            assert_eq!(seen, expected, "{length} bytes to {address}");
        }
    }
}

/// A pod reaches `server` by the cluster IP and by the others, with its own address unless that is the server's.
fn from_pods(stage: &Stage, server: Both, name: &str) {
    for family in [0, 1] {
        for address in [
            at(CLUSTER_IP[family], 80),
            at(EXTERNAL_IP[family], 80),
            at(NODE1[family], NODE_PORT),
        ] {
            let (seen, talk) = stage.pod_a.open(&address).expect("connect");
            assert_eq!(seen.server, name, "{address}");
            let hairpin = server == POD_A;
            assert_eq!(
                seen.client.to_string() == POD_A[family],
                !hairpin,
                "{seen:?} by {address}"
            );
            talk.transfer().expect("talk for long");
            for length in [1, LARGE_DATAGRAM] {
                let seen = stage.pod_a.ask(&address, length).expect("send a datagram");
                assert_eq!(seen.server, name, "{length} bytes to {address}");
            }
        }
    }
}

/// A client has connections to a backend by the Service and past it, from one port: each gets its own answers.
fn both_ways(client: &Namespace, client_ip: Both, service_ip: Both, backend_ip: Both, server: &str) {
    let mut ports = 21_000..;
    for family in [0, 1] {
        let (service, backend) = (at(service_ip[family], 80), at(backend_ip[family], TARGET));
        let expected = seen(server, client_ip[family]);
        let open = |address: &str, port: u16| {
            let opened = client.open_by(port, address);
            let (seen_by_server, talk) =
                opened.unwrap_or_else(|error| panic!("connect to {address} by {port}: {error}"));
            assert_eq!(seen_by_server, expected, "{address} by {port}");
            talk
        };
        for (first, second) in [(&service, &backend), (&backend, &service)] {
            let port = ports.next().expect("a port");
            let mut one = open(first, port);
            let mut other = open(second, port);
            one.echo(b"first").expect("the first connection lives");
            other.echo(b"second").expect("the second connection lives");
            drop(other);
            one.echo(b"still there")
                .expect("the first connection outlives the other");
            // The first has just ended, and its backend may not know yet.
            let port = ports.next().expect("a port");
            drop(open(first, port));
            open(second, port)
                .echo(b"second")
                .expect("the second connection lives");
            // Datagrams of sockets that have one peer each.
            let port = ports.next().expect("a port");
            let [one, other] = [first, second].map(|address| {
                let ask = client.asking_by(port, address);
                let ask = ask.unwrap_or_else(|error| panic!("bind {port} for {address}: {error}"));
                (ask, address)
            });
            for (ask, address) in [&one, &other, &one, &other] {
                for length in [1, LARGE_DATAGRAM] {
                    let seen_by_server = ask(length)
                        .unwrap_or_else(|error| panic!("{length} bytes to {address} by {port}: {error}"));
                    assert_eq!(seen_by_server, expected, "{length} bytes to {address} by {port}");
                }
            }
        }
    }
}

/// A process of the node reaches `server`, with the node's address.
fn from_the_node(server: &str) {
    let node = Namespace::own();
    for family in [0, 1] {
        for address in [at(CLUSTER_IP[family], 80), at(EXTERNAL_IP[family], 80)] {
            let (seen_by_server, talk) = node
                .open(&address)
                .unwrap_or_else(|error| panic!("connect to {server} by {address}: {error}"));
            assert_eq!(seen_by_server, seen(server, NODE1[family]), "{address}");
            talk.transfer().expect("talk for long");
            for length in [1, LARGE_DATAGRAM] {
                let seen_by_server = node.ask(&address, length).expect("send a datagram");
                assert_eq!(
                    seen_by_server,
                    seen(server, NODE1[family]),
                    "{length} bytes to {address}"
                );
            }
        }
    }
}

/// A pod talks to somebody outside the cluster, who has no route to pods.
fn to_the_world(stage: &Stage, family: usize) {
    let world = at(CLIENT[family], SERVER);
    let (seen_by_world, talk) = stage.pod_a.open(&world).expect("connect to the world");
    assert_eq!(seen_by_world, seen("client", NODE1[family]));
    talk.transfer().expect("talk for long");
    let seen_by_world = stage
        .pod_a
        .ask(&world, LARGE_DATAGRAM)
        .expect("send to the world");
    assert_eq!(seen_by_world, seen("client", NODE1[family]));
}

/// Whoever administers a pod's network can give its packets the mark of those that are translated already. It counts for nothing.
fn forged(stage: &Stage) {
    // A filter that takes every packet, and writes its class where the mark is: `TRANSLATED` in `skb.rs`.
    let filter = "filter add dev eth0 egress bpf bytecode 1,6\t0\t0\t4294967295 classid 1:4f52";
    stage.pod_a.run(|| {
        tc("qdisc add dev eth0 clsact");
        tc(filter);
    });
    for family in [0, 1] {
        to_the_world(stage, family);
    }
    stage.pod_a.run(|| tc("qdisc del dev eth0 clsact"));
}

/// Somebody outside the cluster who has a route to a pod reaches it by its own address, and as himself.
fn from_the_world(stage: &Stage) {
    let routes = [0, 1].map(|family| {
        let (option, bits) = [("-4", 32), ("-6", 128)][family];
        let route = format!("{}/{bits} via {}", POD_A[family], NODE1[family]);
        stage.client.ip(&format!("{option} route add {route}"));
        let pod = at(POD_A[family], TARGET);
        let expected = seen("a", CLIENT[family]);
        let (seen_by_pod, talk) = stage.client.open(&pod).expect("connect to the pod");
        assert_eq!(seen_by_pod, expected);
        talk.transfer().expect("talk for long");
        let seen_by_pod = stage.client.ask(&pod, LARGE_DATAGRAM).expect("send to the pod");
        assert_eq!(seen_by_pod, expected);
        format!("{option} route delete {route}")
    });
    both_ways(&stage.client, CLIENT, EXTERNAL_IP, POD_A, "a");
    for delete in routes {
        stage.client.ip(&delete);
    }
}

/// Sets a switch at its end, also at that of a failure.
struct Set<'a>(&'a AtomicBool);

impl Drop for Set<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The agent is killed and comes back while clients go on.
fn restarts(stage: &Stage, agent: Agent, dir: &Path, cgroup: &Path) -> Agent {
    let address = at(NODE1[0], NODE_PORT);
    let (_, mut long) = stage.client.open(&address).expect("connect");
    let connects = || drop(stage.client.connect(&address).expect("every connection is made"));
    stage.restart_under(agent, dir, cgroup, &connects, || {
        let talk = long.echo(b"are you still there?");
        talk.expect("the connection outlives the agent");
    })
}

/// Without endpoints clients are told so at once.
fn nobody_is_there(stage: &Stage) {
    stage.endpoints(&[]);
    for family in [0, 1] {
        for address in [at(NODE1[family], NODE_PORT), at(EXTERNAL_IP[family], 80)] {
            stage.wait_for(&address, None);
            for namespace in [&stage.client, &stage.pod_a] {
                let error = namespace.connect(&address).expect_err("nobody is there");
                assert_eq!(
                    error.kind(),
                    ErrorKind::ConnectionRefused,
                    "connect to {address}: {error}"
                );
                let error = namespace.ask(&address, 1).expect_err("nobody is there");
                assert_eq!(
                    error.kind(),
                    ErrorKind::ConnectionRefused,
                    "send to {address}: {error}"
                );
            }
        }
    }
}
