//! The agent as a process, with a scripted API server in the same network namespace.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use aya::maps::{HashMap, Map, MapData, MapInfo};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use proxy_ebpf::{pins, sys};
use proxy_ebpf_common::{NetnsCookie, maps};
use serde_json::{Value, json};

use crate::{
    PATIENCE,
    api::Api,
    client::{NODE_PORT, PORT, SERVERS, VIP4, VIP6, connect, features, service, told},
    network::Namespace,
    sandbox::{BPF_DIR, CGROUP, Client},
};

const HEALTH: &str = "127.0.0.1:10256";
const METRICS: &str = "127.0.0.1:10249";
/// An address that a load balancer gives.
const LOAD_BALANCER: &str = "203.0.113.7";
/// Where a load balancer would ask, by an address of the node.
const HEALTH_CHECK: &str = "172.31.0.11:32000";

/// The life of an agent: it fills the maps, follows changes, is killed, and comes back to an API server that is slow.
pub(crate) fn run() {
    let dir = tempfile::tempdir().expect("make a folder");
    for command in [
        "link add eth0 type veth peer name peer0",
        "link set eth0 up",
        "link set peer0 up",
        "address add 172.31.0.11/24 dev eth0",
        "address add fd00:31::11/64 dev eth0 nodad",
    ] {
        ip(command);
    }
    // Endpoints on loopback are none.
    crate::client::serve_all("172.31.0.11");
    crate::client::serve_all("fd00:31::11");
    let api = Api::start();
    for (name, cidrs, addresses) in [
        (
            "node1",
            ["10.244.0.0/24", "fd00:10:244::/64"],
            ["172.31.0.11", "fd00:31::11"],
        ),
        (
            "node2",
            ["10.244.1.0/24", "fd00:10:244:1::/64"],
            ["172.31.0.12", "fd00:31::12"],
        ),
    ] {
        api.put("nodes", node(name, &cidrs, &addresses));
    }
    api.put("services", web());
    api.put("endpointslices", slice("IPv4", "172.31.0.11", SERVERS[0]));
    api.put("endpointslices", slice("IPv6", "fd00:31::11", SERVERS[0]));

    let agent = Agent::start(&api, dir.path());
    agent.wait_for_health("200");
    let room = |name: &str| {
        let bpf_dir = PathBuf::from(std::env::var_os(BPF_DIR).expect("the parent names the folder"));
        let map = MapInfo::from_pin(pins::maps_of(&bpf_dir).join(name)).expect("ask for a map");
        map.max_entries()
    };
    // As large as such a cluster needs them.
    let rooms = [maps::FRONTENDS4, maps::SLOTS, maps::BACKENDS6].map(room);
    assert_eq!(rooms, [1 << 12, 1 << 13, 1 << 13]);
    let [address4, address6, _] = service(PORT);
    assert_eq!(connect(address4).expect("connect to the Service"), SERVERS[0]);
    assert_eq!(connect(address6).expect("connect to the Service"), SERVERS[0]);
    let loopback = ["127.0.0.1", "127.1.2.3", "::1"];
    // A kernel that does not tell namespaces apart has no node ports on loopback, which would be that of pods too.
    let loopback = loopback.into_iter().filter(|_| features().netns_cookie.is_some());
    for ip in loopback.chain(["172.31.0.11", "fd00:31::12"]) {
        let address = SocketAddr::new(ip.parse().expect("an address"), NODE_PORT);
        assert_eq!(
            connect(address).expect("connect to the node port"),
            SERVERS[0],
            "{ip}"
        );
    }
    let [_, _, other_port] = service(PORT + 1);
    let error = connect(other_port).expect_err("the Service has one port");
    assert_eq!(error.kind(), told(ErrorKind::ConnectionRefused), "{error}");
    node_half(dir.path());
    let listed = Agent::command(&["service", "list"])
        .output()
        .expect("run proxy-ebpf service list");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(
        listed.contains(&format!("{VIP4}:{PORT}/TCP")) && listed.contains(&format!("[{VIP6}]:{PORT}/TCP")),
        "{listed}"
    );

    let datagrams = UdpSocket::bind("0.0.0.0:0").expect("bind");
    datagrams.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
    datagrams.connect(address4).expect("connect a datagram socket");
    api.put("endpointslices", slice("IPv4", "172.31.0.11", SERVERS[1]));
    let error = datagrams.recv(&mut [0]).expect_err("the backend has left");
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
    wait("the new endpoint answers", || {
        connect(address4).is_ok_and(|answered| answered == SERVERS[1])
    });
    for line in [
        // The slices of the first list are no changes, the one above is; it said when its pod changed.
        "kubeproxy_network_programming_duration_seconds_count 1\n",
        // Two ports of two families, and the node port once more for clients from outside.
        "proxy_ebpf_map_entries{map=\"SLOTS\"} 6\n",
        "proxy_ebpf_sockets_ended_total 1\n",
    ] {
        wait(line, || {
            get(METRICS, "/metrics").is_some_and(|text| text.contains(line))
        });
    }
    let answer = get(HEALTH_CHECK, "/").expect("the healthCheckNodePort answers");
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"localEndpoints\":1"),
        "{answer}"
    );
    api.delete("nodes", node("node2", &[], &[]));
    wait("the route of a deleted Node goes", || {
        !ip("route show").contains("10.244.1.0/24")
    });

    too_large(&api, || restricted(&api));
    let rooms = [maps::FRONTENDS4, maps::FRONTENDS6, maps::SLOTS].map(room);
    assert_eq!(rooms, [1 << 16, 1 << 12, 1 << 13]);
    opted_out(&api);
    opted_out_before_it_runs(&api, dir.path());
    taken_ports();

    agent.stop();
    assert_eq!(
        connect(address4).expect("traffic goes on without the agent"),
        SERVERS[1]
    );

    // Services are known, endpoints are not yet: nothing may be concluded from that.
    api.hold(Some("endpointslices"));
    let agent = Agent::start(&api, dir.path());
    api.wait_for_watch("services", 2);
    // It serves from what the one before has left, and load balancers may know.
    agent.wait_for_health("200");
    assert!(!is_synced(), "it cannot have synced");
    assert_eq!(
        connect(address4).expect("traffic goes on while the agent waits"),
        SERVERS[1]
    );
    api.hold(None);
    wait("the agent is in step with the API", is_synced);
    agent.wait_for_health("200");
    assert_eq!(
        connect(address4).expect("traffic goes on after the restart"),
        SERVERS[1]
    );

    api.delete("services", web());
    wait("a deleted Service is gone", || connect(address4).is_err());
    agent.stop();
    let cleaned = Agent::command(&["cleanup"])
        .status()
        .expect("run proxy-ebpf cleanup");
    assert!(cleaned.success());
}

/// A pod's cgroup, which goes with the test however that ends.
struct PodCgroup(PathBuf);

impl PodCgroup {
    fn make(path: PathBuf) -> Self {
        fs::create_dir(&path).expect("make the pod's cgroup");
        Self(path)
    }
}

impl Drop for PodCgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("{} is left behind: {error}", self.0.display());
        }
    }
}

/// A pod whose sockets are left alone for as long as an annotation asks for that.
fn opted_out(api: &Api) {
    if features().netns_cookie.is_none() {
        return;
    }
    let uid = "4f1c2a90-7d7e-4a55-8a0b-000000000001";
    let cgroup = PathBuf::from(std::env::var_os(CGROUP).expect("the parent names the cgroup"))
        .join(format!("pod{uid}"));
    // Dropped after the client that is in it.
    let cgroup = PodCgroup::make(cgroup);
    let bpf_dir = PathBuf::from(std::env::var_os(BPF_DIR).expect("the parent names the folder"));
    let pod = |annotations: Value| {
        json!({
            "metadata": { "name": "shy", "namespace": "default", "uid": uid, "annotations": annotations },
            "spec": { "nodeName": "node1", "containers": [] },
            "status": { "phase": "Running", "podIPs": [{ "ip": "10.244.0.77" }] },
        })
    };
    let mut client = Client::start("pod", &cgroup.0, &bpf_dir);
    assert_eq!(client.line(), "ready");
    let mut says = |expected: &str| {
        wait(&format!("the pod's sockets are {expected}"), || {
            client.tell("try");
            client.line() == expected
        });
    };
    api.put("pods", pod(json!({})));
    says("translated");
    api.put(
        "pods",
        pod(json!({ "proxy-ebpf.orlop.dev/socket-path": "false" })),
    );
    says("left alone");
    // Others are not concerned.
    let [address4, _, _] = service(PORT);
    connect(address4).expect("connect to the Service");
    api.put("pods", pod(json!({ "proxy-ebpf.orlop.dev/socket-path": "true" })));
    says("translated");
    api.put(
        "pods",
        pod(json!({ "proxy-ebpf.orlop.dev/socket-path": "false" })),
    );
    says("left alone");
    api.delete("pods", pod(json!({})));
    says("translated");
    client.finish();
}

/// A pod without a process is known by what the plugin has noted before it makes the pod's device.
fn opted_out_before_it_runs(api: &Api, dir: &Path) {
    if features().netns_cookie.is_none() {
        return;
    }
    let uid = "4f1c2a90-7d7e-4a55-8a0b-000000000002";
    let pod = json!({
        "metadata": {
            "name": "early", "namespace": "default", "uid": uid,
            "annotations": { "proxy-ebpf.orlop.dev/socket-path": "false" },
        },
        "spec": { "nodeName": "node1", "containers": [] },
        "status": { "phase": "Pending" },
    });
    let maps = pins::maps_of(Path::new(
        &std::env::var_os(BPF_DIR).expect("the parent names the folder"),
    ));
    let opted_out = || {
        let map = MapData::from_pin(maps.join(maps::OPTED_OUT)).expect("open the table");
        let map = HashMap::<_, NetnsCookie, u32>::try_from(Map::HashMap(map)).expect("it is a set");
        let cookies = map.keys().map(|cookie| cookie.expect("read the table").0);
        cookies
            .map(|[low, high]| u64::from(low) | u64::from(high) << 32)
            .collect::<Vec<_>>()
    };
    api.put("pods", pod.clone());
    let sandbox = Namespace::new();
    let cookie = sandbox.run(sys::netns_cookie).expect("the kernel tells cookies");
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot id");
    let records = dir.join("data/orlop").join(boot_id.trim());
    fs::create_dir_all(&records).expect("make the plugin's folder");
    let record = json!({ "containerID": "early", "ifname": "eth0", "podUID": uid, "netns": sandbox.path() });
    fs::write(
        records.join("pending_orlearly.0123_10.244.0.78"),
        record.to_string(),
    )
    .expect("write a record");
    sandbox.join(&Namespace::own(), "orlearly");
    wait("the pod's namespace is in the table", || opted_out() == [cookie]);
    api.delete("pods", pod);
    wait("it is forgotten with the pod", || opted_out().is_empty());
    fs::remove_dir_all(dir.join("data")).expect("remove the plugin's folder");
}

/// The node's own processes cannot listen where a Service is reached by others; this process is one of them.
fn taken_ports() {
    if features().netns_cookie.is_none() {
        return;
    }
    let refused = told(ErrorKind::AddrInUse);
    for ip in [
        "0.0.0.0",
        "172.31.0.11",
        "127.0.0.1",
        "::",
        "fd00:31::11",
        "::1",
        "::ffff:172.31.0.11",
    ] {
        let address = SocketAddr::new(ip.parse().expect("an address"), NODE_PORT);
        let error = TcpListener::bind(address).expect_err("it is a node port");
        assert_eq!(error.kind(), refused, "{address}: {error}");
        // The Service has it for TCP only, and another port not at all.
        drop(UdpSocket::bind(address).expect("a datagram socket is no concern of the Service"));
        let next = SocketAddr::new(address.ip(), NODE_PORT + 1);
        drop(TcpListener::bind(next).expect("it is no node port"));
    }
    // An address that is no node's.
    drop(TcpListener::bind(("127.0.0.1", PORT)).expect("the cluster IP's port is free on the node"));
    let text = get(METRICS, "/metrics").expect("metrics");
    assert!(
        text.contains("proxy_ebpf_drops_total{reason=\"port_taken\"} 7\n"),
        "{text}"
    );
}

/// While there is a Service that would fill a map which must not grow, the others go on and follow their changes: `meanwhile`.
fn too_large(api: &Api, meanwhile: impl FnOnce()) {
    let addresses: Vec<String> = (0..=255).map(|last| format!("203.0.114.{last}")).collect();
    let ports: Vec<_> = (1..=257)
        .map(|port| json!({ "name": format!("port-{port}"), "port": port }))
        .collect();
    let large = json!({
        "metadata": { "name": "large", "namespace": "default" },
        "spec": { "clusterIPs": ["10.96.0.88"], "externalIPs": addresses, "ports": ports },
    });
    let refused = |count| {
        let line = format!("proxy_ebpf_refused_services {count}\n");
        wait(&line, || {
            get(METRICS, "/metrics").is_some_and(|text| text.contains(&line))
        });
    };
    api.put("services", large.clone());
    refused(1);
    meanwhile();
    api.delete("services", large);
    refused(0);

    // Either of these fits, both do not.
    let [larger, large] = [(160, 115), (100, 116)].map(|(ports, third)| {
        let addresses: Vec<String> = (0..=255).map(|last| format!("203.0.{third}.{last}")).collect();
        let ports: Vec<_> = (1..=ports)
            .map(|port| json!({ "name": format!("port-{port}"), "port": port }))
            .collect();
        json!({
            "metadata": { "name": format!("large-{third}"), "namespace": "default" },
            "spec": { "clusterIPs": [format!("10.96.0.{third}")], "externalIPs": addresses, "ports": ports },
        })
    });
    let frontends = |least: usize| {
        wait(&format!("at least {least} frontends"), || {
            let text = get(METRICS, "/metrics").unwrap_or_default();
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("proxy_ebpf_map_entries{map=\"FRONTENDS4\"} "));
            line.is_some_and(|count| count.parse().is_ok_and(|count: usize| count > least))
        });
    };
    api.put("services", large.clone());
    frontends(25_600);
    api.put("services", larger.clone());
    refused(1);
    // The other one leaves room for it.
    api.delete("services", large);
    refused(0);
    frontends(40_960);
    api.delete("services", larger);
}

/// A load balancer's address that admits this node, then others, then everybody.
fn restricted(api: &Api) {
    let service = |ranges: &[&str]| {
        let mut service = web();
        service["metadata"]["name"] = json!("restricted");
        service["spec"]["clusterIPs"] = json!(["10.96.0.77"]);
        service["spec"]["loadBalancerSourceRanges"] = json!(ranges);
        service["spec"]["externalTrafficPolicy"] = json!("Cluster");
        service["spec"]["healthCheckNodePort"] = Value::Null;
        service["spec"]["ports"] = json!([{ "name": "http", "port": PORT }]);
        service["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": LOAD_BALANCER }] } });
        service
    };
    let mut endpoints = slice("IPv4", "172.31.0.11", SERVERS[2]);
    endpoints["metadata"]["name"] = json!("restricted-ipv4");
    endpoints["metadata"]["labels"] = json!({ "kubernetes.io/service-name": "restricted" });
    let address = SocketAddr::new(LOAD_BALANCER.parse().expect("an address"), PORT);
    let listed = |clients: &str| {
        wait(&format!("the address is listed for {clients}"), || {
            let listed = Agent::command(&["service", "list"])
                .output()
                .expect("run proxy-ebpf service list");
            let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
            listed
                .lines()
                .any(|line| line.contains(&address.to_string()) && line.contains(clients))
        });
    };
    api.put("endpointslices", endpoints.clone());
    api.put("services", service(&["172.31.0.0/24"]));
    if features().netns_cookie.is_some() {
        wait("the node is admitted", || {
            connect(address).is_ok_and(|answered| answered == SERVERS[2])
        });
    }
    // By all of its addresses, and by the load balancer's.
    listed("172.31.0.0/24, 172.31.0.11/32, 203.0.113.7/32");
    api.put("services", service(&["192.0.2.0/24"]));
    listed("192.0.2.0/24");
    let traced = Agent::command(&["service", "trace", "192.0.3.1", &address.to_string()])
        .output()
        .expect("run proxy-ebpf service trace");
    let traced = String::from_utf8_lossy(&traced.stdout).into_owned();
    assert!(traced.contains("=> refused (source_range)"), "{traced}");
    let error = connect(address).expect_err("the node is not admitted, and there is no route");
    assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{error}");
    api.put("services", service(&[]));
    wait("everybody is admitted", || {
        connect(address).is_ok_and(|answered| answered == SERVERS[2])
    });
    api.delete("services", service(&[]));
    api.delete("endpointslices", endpoints);
    wait("it is gone", || connect(address).is_err());
}

/// Whether the agent has brought the maps in step since it was started.
fn is_synced() -> bool {
    let never = "kubeproxy_sync_proxy_rules_last_timestamp_seconds 0\n";
    get(METRICS, "/metrics").is_some_and(|text| !text.contains(never))
}

fn node_half(dir: &Path) {
    let path = dir.join("net.d/10-orlop.conflist");
    // It is written last: what else belongs to the node half is there by then.
    wait("the CNI configuration appears", || path.exists());
    let conflist = fs::read_to_string(path).expect("read the CNI configuration");
    let conflist: Value = serde_json::from_str(&conflist).expect("JSON");
    assert_eq!(
        conflist["plugins"][0]["ranges"],
        json!(["10.244.0.0/24", "fd00:10:244::/64"])
    );
    assert_eq!(conflist["plugins"][0]["dataDir"], json!(dir.join("data")));
    // Left to the plugin where this agent has programs for either kind.
    let devices = if crate::network::has_netkit() {
        "auto"
    } else {
        "veth"
    };
    assert_eq!(conflist["plugins"][0]["device"], devices);
    // Of the namespace of the thread that asks, which is this one's.
    for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        let value = fs::read_to_string(Path::new("/proc/sys/net").join(setting)).expect("read a setting");
        assert_eq!(value.trim(), "1", "{setting}");
    }
    assert!(ip("route show").contains("10.244.1.0/24 via 172.31.0.12 dev eth0"));
    assert!(ip("-6 route show").contains("fd00:10:244:1::/64 via fd00:31::12 dev eth0"));
    assert!(
        !ip("route show").contains("10.244.0.0/24"),
        "this node's own pods are the plugin's business"
    );
}

/// A running `proxy-ebpf`.
pub(crate) struct Agent(Child);

impl Agent {
    fn start(api: &Api, dir: &Path) -> Self {
        let cgroup = std::env::var_os(CGROUP).expect("the parent names the cgroup");
        Self::start_in(api, dir, Path::new(&cgroup))
    }

    /// Starts one that translates the sockets of a cgroup.
    pub(crate) fn start_in(api: &Api, dir: &Path, cgroup: &Path) -> Self {
        let kubeconfig = dir.join("kubeconfig");
        fs::write(&kubeconfig, api.kubeconfig()).expect("write the kubeconfig");
        let flag = |name: &str, path: PathBuf| format!("--{name}={}", path.display());
        let mut command = Self::command(&[
            &flag("kubeconfig", kubeconfig),
            &flag("cni-conf-dir", dir.join("net.d")),
            &flag("cni-data-dir", dir.join("data")),
            &flag("cgroup-path", cgroup.to_owned()),
            "--hostname-override=node1",
            // As many as tests can fill.
            "--map-entries-max=65536",
            &format!("--healthz-bind-address={HEALTH}"),
            &format!("--metrics-bind-address={METRICS}"),
        ]);
        Self(command.spawn().expect("start proxy-ebpf"))
    }

    pub(crate) fn command(arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_proxy-ebpf"));
        command
            .args(arguments)
            .arg("--bpf-dir")
            .arg(std::env::var_os(BPF_DIR).expect("the parent names the folder"));
        command
    }

    /// Returns once /healthz answers with this status.
    pub(crate) fn wait_for_health(&self, status: &str) {
        wait(&format!("/healthz answers {status}"), || {
            get(HEALTH, "/healthz")
                .is_some_and(|answer| answer.lines().next().is_some_and(|line| line.contains(status)))
        });
    }

    /// Ends the agent as the kernel does.
    pub(crate) fn kill(mut self) {
        self.0.kill().expect("send SIGKILL");
        self.0.wait().expect("wait for proxy-ebpf");
    }

    /// Ends the agent as an init system does.
    pub(crate) fn stop(mut self) {
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM).expect("send SIGTERM");
        let status = self.0.wait().expect("wait for proxy-ebpf");
        assert!(status.success(), "{status}");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The whole answer, if anybody listens.
fn get(address: &str, path: &str) -> Option<String> {
    let address: SocketAddr = address.parse().ok()?;
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node1\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Waits for something that follows from what was done, however long the machine takes.
#[track_caller]
pub(crate) fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not after {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .expect("run ip, of iproute2");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn node(name: &str, cidrs: &[&str], addresses: &[&str]) -> Value {
    let addresses: Vec<_> = addresses
        .iter()
        .map(|address| json!({ "type": "InternalIP", "address": address }))
        .collect();
    json!({ "metadata": { "name": name }, "spec": { "podCIDRs": cidrs }, "status": { "addresses": addresses } })
}

fn web() -> Value {
    json!({
        "metadata": { "name": "web", "namespace": "default" },
        "spec": {
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Local",
            "healthCheckNodePort": 32000,
            "clusterIPs": [VIP4, VIP6],
            "ports": [
                { "name": "http", "port": PORT, "nodePort": NODE_PORT },
                { "name": "datagrams", "port": PORT, "protocol": "UDP" },
            ],
        },
    })
}

fn slice(family: &str, address: &str, port: u16) -> Value {
    json!({
        "metadata": {
            "name": format!("web-{}", family.to_lowercase()),
            "namespace": "default",
            "labels": { "kubernetes.io/service-name": "web" },
            "annotations": { "endpoints.kubernetes.io/last-change-trigger-time": jiff::Timestamp::now().to_string() },
        },
        "addressType": family,
        "ports": [
            { "name": "http", "port": port, "protocol": "TCP" },
            { "name": "datagrams", "port": port, "protocol": "UDP" },
        ],
        "endpoints": [{ "addresses": [address], "conditions": { "ready": true }, "nodeName": "node1" }],
    })
}
