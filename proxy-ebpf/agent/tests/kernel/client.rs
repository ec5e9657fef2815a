//! What the children do: servers and clients in one network namespace that has nothing but its loopback.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, BufRead as _, ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    process::Command,
    sync::mpsc::{TryRecvError, channel},
    thread,
    time::Duration,
};

use proxy_ebpf::{
    apply::Maps,
    pins::Pins,
    plan::Tables,
    programs::{self, Features},
};
use proxy_ebpf_common::Protocol;

use crate::{
    PATIENCE,
    sandbox::{BPF_DIR, CGROUP},
    traffic::Pair,
};

pub(crate) const VIP4: &str = "10.96.0.10";
pub(crate) const VIP6: &str = "fd00:10:96::a";
/// Port of the Service.
pub(crate) const PORT: u16 = 80;
/// Port of the Service whose backends are on other nodes.
pub(crate) const LOCAL_PORT: u16 = 81;
/// A node port, and the addresses of nodes; the unspecified ones stand for the node's own loopback.
pub(crate) const NODE_PORT: u16 = 30080;
pub(crate) const NODE_ADDRESSES: [&str; 4] = ["172.31.0.12", "fd00:31::12", "0.0.0.0", "::"];
/// Port that is no Service.
const NO_PORT: u16 = 82;
/// Ports of the servers, on both loopback addresses and both protocols.
pub(crate) const SERVERS: [u16; 3] = [8080, 8081, 8082];

/// No call takes longer unless something is broken.
const TIMEOUT: Duration = Duration::from_secs(10);
/// After the last look at the sockets of a backend that has left, which is 12 s after that.
const LOOKED_THROUGH: Duration = Duration::from_secs(15);

pub(crate) fn run(scenario: &str) {
    let cgroup = std::env::var(CGROUP).expect("the parent names the cgroup");
    fs::write(format!("{cgroup}/cgroup.procs"), std::process::id().to_string()).expect("join the cgroup");
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .expect("run ip, of iproute2");
    assert!(up.success());
    for ip in ["127.0.0.1", "::1"] {
        serve_all(ip);
    }
    match scenario {
        "families" => families(),
        "refused" => refused(),
        "forbidden" => forbidden(),
        "node-ports" => node_ports(),
        "other-ports" => other_ports(),
        "source-ranges" | "left-alone" => left_alone(),
        "late" => late(),
        "overwrites" => overwrites(),
        "pod" => pod(),
        "spread" => spread(),
        "affinity" => affinity(),
        "left" => left(),
        "reachable" => reachable(),
        "busy" => busy(),
        "questions" => crate::histories::questions(),
        "agent" => crate::agent::run(),
        "packets" => crate::packets::run(),
        "traffic" => crate::traffic::run([Pair::Veth, Pair::Veth]),
        "netkit" => crate::traffic::run([Pair::Netkit, Pair::Netkit]),
        "netkit-and-veth" => crate::traffic::run([Pair::Veth, Pair::Netkit]),
        "sctp" => crate::sctp::run(Pair::Veth),
        "sctp-by-netkit" => crate::sctp::run(Pair::Netkit),
        "veth-and-netkit" => crate::traffic::run([Pair::Netkit, Pair::Veth]),
        unknown => panic!("there is no scenario {unknown}"),
    }
}

/// All servers at an address.
pub(crate) fn serve_all(ip: &str) {
    for port in SERVERS {
        serve(SocketAddr::new(ip.parse().expect("an address"), port));
    }
}

/// A TCP and a UDP server that answer with their port.
fn serve(address: SocketAddr) {
    let listener = TcpListener::bind(address).expect("listen");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(address.port().to_string().as_bytes()));
        }
    });
    let socket = UdpSocket::bind(address).expect("bind");
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, client)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(address.port().to_string().as_bytes(), client);
        }
    });
}

/// The addresses that a client can give the Service.
pub(crate) fn service(port: u16) -> [SocketAddr; 3] {
    let mapped = match VIP4.parse().expect("an address") {
        IpAddr::V4(vip) => vip.to_ipv6_mapped(),
        IpAddr::V6(vip) => vip,
    };
    let [vip4, vip6]: [IpAddr; 2] = [VIP4, VIP6].map(|vip| vip.parse().expect("an address"));
    [vip4, vip6, mapped.into()].map(|vip| SocketAddr::new(vip, port))
}

/// Connects, and returns which server answered.
pub(crate) fn connect(address: SocketAddr) -> io::Result<u16> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    assert_eq!(
        stream.peer_addr()?,
        address,
        "the peer must look like what was asked for"
    );
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.parse().expect("servers answer with their port"))
}

/// A socket that is not connected, of the family that can reach `address`.
fn datagram_socket(address: SocketAddr) -> UdpSocket {
    let any: SocketAddr = if address.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any).expect("bind");
    socket.set_read_timeout(Some(TIMEOUT)).expect("set a timeout");
    socket
}

/// Sends a datagram, and returns which server answered.
fn ask(socket: &UdpSocket, address: SocketAddr) -> io::Result<u16> {
    socket.send_to(b"?", address)?;
    let mut answer = [0; 16];
    let (length, source) = socket.recv_from(&mut answer)?;
    assert_eq!(
        source, address,
        "the answer must seem to come from what was asked"
    );
    let answer = std::str::from_utf8(&answer[..length]).expect("text");
    Ok(answer.parse().expect("servers answer with their port"))
}

fn families() {
    for address in service(PORT) {
        assert_eq!(
            connect(address).expect("connect to the Service"),
            SERVERS[0],
            "{address}"
        );

        let socket = datagram_socket(address);
        for _ in 0..3 {
            assert_eq!(
                ask(&socket, address).expect("send to the Service"),
                SERVERS[0],
                "{address}"
            );
        }

        let socket = datagram_socket(address);
        socket.connect(address).expect("connect a datagram socket");
        assert_eq!(socket.peer_addr().expect("ask for the peer"), address);
        socket.send(b"?").expect("send on a connected socket");
        let mut answer = [0; 16];
        let (length, source) = socket
            .recv_from(&mut answer)
            .expect("receive on a connected socket");
        assert_eq!(
            (&answer[..length], source),
            (SERVERS[0].to_string().as_bytes(), address)
        );
    }
    // What is no Service is not touched, in either direction: a server itself, and a port that the Service has not.
    for ip in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
        let address = SocketAddr::new(ip.parse().expect("an address"), SERVERS[1]);
        assert_eq!(connect(address).expect("connect to a server"), SERVERS[1]);
        assert_eq!(
            ask(&datagram_socket(address), address).expect("send to a server"),
            SERVERS[1]
        );
    }
    for address in service(NO_PORT) {
        let error = connect(address).expect_err("there is no route to the Service's address");
        assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{address}: {error}");
    }
}

/// What a client is told where `expected` is meant: a kernel that lets no program choose the error says EPERM.
pub(crate) fn told(expected: ErrorKind) -> ErrorKind {
    if features().set_retval {
        expected
    } else {
        ErrorKind::PermissionDenied
    }
}

/// What the running kernel has.
pub(crate) fn features() -> Features {
    Features::detect().expect("ask the kernel")
}

fn refused() {
    for (port, expected) in [
        (PORT, told(ErrorKind::ConnectionRefused)),
        (LOCAL_PORT, told(ErrorKind::HostUnreachable)),
    ] {
        for address in service(port) {
            let error = connect(address).expect_err("nobody is there");
            assert_eq!(error.kind(), expected, "connect to {address}: {error}");
            let socket = datagram_socket(address);
            let error = socket.send_to(b"?", address).expect_err("nobody is there");
            assert_eq!(error.kind(), expected, "send to {address}: {error}");
            let error = socket.connect(address).expect_err("nobody is there");
            assert_eq!(
                error.kind(),
                expected,
                "connect a datagram socket to {address}: {error}"
            );
        }
    }
}

fn node_ports() {
    let at = |ip: &str| SocketAddr::new(ip.parse().expect("an address"), NODE_PORT);
    for ip in ["172.31.0.12", "fd00:31::12", "::ffff:172.31.0.12"] {
        let address = at(ip);
        assert_eq!(
            connect(address).expect("connect to the node port"),
            SERVERS[0],
            "{ip}"
        );
        assert_eq!(
            ask(&datagram_socket(address), address).expect("send to the node port"),
            SERVERS[0],
            "{ip}"
        );
    }
    // The loopback of a pod is its own, and no address but a node's has node ports.
    for ip in [
        "127.0.0.1",
        "127.0.0.2",
        "0.0.0.0",
        "::1",
        "::",
        "::ffff:127.0.0.1",
    ] {
        let error = TcpStream::connect_timeout(&at(ip), TIMEOUT).expect_err("nobody listens");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{ip}: {error}");
    }
    for ip in ["172.31.0.99", "fd00:31::99"] {
        let error = connect(at(ip)).expect_err("there is no route");
        assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{ip}: {error}");
    }
}

/// No socket is sent to the Service, whose addresses have no route.
pub(crate) fn left_alone() {
    for address in service(PORT) {
        let error = connect(address).expect_err("there is no route to the Service's address");
        assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{address}: {error}");
        let socket = datagram_socket(address);
        let error = socket.send_to(b"?", address).expect_err("there is no route");
        assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{address}: {error}");
    }
}

fn other_ports() {
    let refused = told(ErrorKind::ConnectionRefused);
    for address in service(NO_PORT) {
        let error = connect(address).expect_err("the Service has no such port");
        assert_eq!(error.kind(), refused, "{address}: {error}");
        let socket = datagram_socket(address);
        let error = socket
            .send_to(b"?", address)
            .expect_err("the Service has no such port");
        assert_eq!(error.kind(), refused, "{address}: {error}");
        // Left to the routing table, of which resolvers ask in this way which source address it would choose.
        let error = socket.connect(address).expect_err("there is no route");
        assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{address}: {error}");
    }
    connect(service(PORT)[0]).expect("connect to the Service");
}

fn forbidden() {
    let [address, _, mapped] = service(PORT);
    for address in [address, mapped] {
        let error = connect(address).expect_err("nobody is there");
        assert_eq!(
            error.kind(),
            ErrorKind::PermissionDenied,
            "connect to {address}: {error}"
        );
        let error = datagram_socket(address)
            .send_to(b"?", address)
            .expect_err("nobody is there");
        assert_eq!(
            error.kind(),
            ErrorKind::PermissionDenied,
            "send to {address}: {error}"
        );
    }
}

fn spread() {
    let [address, _, mapped] = service(PORT);
    let everybody = BTreeSet::from(SERVERS);
    for address in [address, mapped] {
        let answered: BTreeSet<_> = (0..200).map(|_| connect(address).expect("connect")).collect();
        assert_eq!(answered, everybody, "connections must reach every backend");
        let mut by_socket = BTreeSet::new();
        for _ in 0..200 {
            let socket = datagram_socket(address);
            let answered: BTreeSet<_> = (0..4).map(|_| ask(&socket, address).expect("send")).collect();
            assert_eq!(
                answered.len(),
                1,
                "a socket must stay with one backend: {answered:?}"
            );
            by_socket.extend(answered);
        }
        assert_eq!(by_socket, everybody, "sockets must reach every backend");
    }
}

fn affinity() {
    let [address, _, mapped] = service(PORT);
    let stay = || {
        let answered: BTreeSet<_> = (0..100)
            .map(|round| connect(if round % 2 == 0 { address } else { mapped }).expect("connect"))
            .collect();
        assert_eq!(
            answered.len(),
            1,
            "a client must stay with one backend: {answered:?}"
        );
        for port in answered {
            println!("> {port}");
        }
    };
    stay();
    let mut line = String::new();
    io::stdin()
        .lock()
        .read_line(&mut line)
        .expect("hear from the parent");
    assert_eq!(line.trim(), "moved");
    stay();
}

fn left() {
    let connect = |address: SocketAddr| {
        let socket = datagram_socket(address);
        socket.connect(address).expect("connect a datagram socket");
        socket
    };
    let answer = |socket: &UdpSocket| -> io::Result<u16> {
        socket.send(b"?")?;
        let mut answer = [0; 16];
        let length = socket.recv(&mut answer)?;
        let answer = std::str::from_utf8(&answer[..length]).expect("text");
        Ok(answer.parse().expect("servers answer with their port"))
    };
    let by_service = service(PORT).map(|address| (address, connect(address)));
    let direct =
        ["127.0.0.1", "::1"].map(|ip| connect(SocketAddr::new(ip.parse().expect("an address"), SERVERS[0])));
    let unconnected = datagram_socket(by_service[0].0);
    let local = unconnected.local_addr().expect("ask for the address");
    for socket in by_service.iter().map(|(_, socket)| socket).chain(&direct) {
        assert_eq!(answer(socket).expect("the backend is there"), SERVERS[0]);
    }
    assert_eq!(
        ask(&unconnected, by_service[0].0).expect("send to the Service"),
        SERVERS[0]
    );
    println!("> connected");
    let mut line = String::new();
    io::stdin()
        .lock()
        .read_line(&mut line)
        .expect("hear from the parent");
    assert_eq!(line.trim(), "left");

    for (address, socket) in &by_service {
        // The server is still there, so that only the abort can end this; it wakes the receiver.
        let mut nothing = [0; 16];
        let error = socket.recv(&mut nothing).expect_err("nothing was asked");
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{address}: {error}");
        socket.connect(address).expect("connect the same socket again");
        assert_eq!(
            answer(socket).expect("the new backend answers"),
            SERVERS[1],
            "{address}"
        );
    }
    for socket in &direct {
        assert_eq!(
            answer(socket).expect("a pod's own address is nobody's Service"),
            SERVERS[0]
        );
    }
    assert_eq!(
        ask(&unconnected, by_service[0].0).expect("send to the Service"),
        SERVERS[1]
    );
    assert_eq!(unconnected.local_addr().expect("ask for the address"), local);
}

/// The next line of the parent, which must be this one.
fn hear(expected: &str) {
    let mut line = String::new();
    io::stdin()
        .lock()
        .read_line(&mut line)
        .expect("hear from the parent");
    assert_eq!(line.trim(), expected);
}

/// This process is the node: it installs the programs itself, as on a kernel that gives its own users of sockets what a program
/// has written.
fn overwrites() {
    let features = Features {
        kernel_connect_overwrites: true,
        ..features()
    };
    if features.netns_cookie.is_none() {
        return;
    }
    let environment = |name| PathBuf::from(std::env::var_os(name).expect("the parent says where"));
    let pins = Pins::open(&environment(BPF_DIR)).expect("open the pins");
    programs::install(&pins, &environment(CGROUP), features).expect("install the programs");
    let mut maps = Maps::open(&pins.maps()).expect("open the maps");
    let ports = [Protocol::TCP, Protocol::UDP].into_iter().flat_map(|protocol| {
        [(VIP4, "0.0.0.0", "127.0.0.1"), (VIP6, "::", "::1")].map(|(vip, nodes, ip)| {
            crate::port(
                &[
                    crate::address(vip, PORT, protocol),
                    crate::address(nodes, NODE_PORT, protocol),
                ],
                &[crate::address(ip, SERVERS[0], protocol)],
            )
        })
    });
    let mut tables = Tables::default();
    let mut plan = tables.plan(vec![crate::change("web", ports.collect())]);
    let nodes = NODE_ADDRESSES.map(|ip| ip.parse().expect("an address"));
    tables.plan_node_addresses(nodes.into(), &mut plan);
    maps.apply(&plan).expect("write the maps");

    left_alone();
    // No file system is mounted from the node's own loopback, whose packets no program sees.
    for ip in ["127.0.0.1", "::1"] {
        let address = SocketAddr::new(ip.parse().expect("an address"), NODE_PORT);
        assert_eq!(connect(address).expect("connect to the node port"), SERVERS[0]);
    }
    // A pod's sockets are its own: they are sent to its own loopback here, where nobody listens.
    let pod = crate::network::Namespace::new();
    for address in service(PORT) {
        let error = pod.run(|| connect(address)).expect_err("nobody listens");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{address}: {error}");
    }
}

fn late() {
    let [address, _, _] = service(PORT);
    let connect = || {
        let socket = datagram_socket(address);
        socket.connect(address).expect("connect a datagram socket");
        println!("> connected");
        socket
    };
    let ends = |socket: &UdpSocket| {
        let error = socket.recv(&mut [0; 16]).expect_err("nothing was asked");
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
        println!("> ended");
    };
    ends(&connect());
    hear("connect");
    let socket = connect();
    hear("wait");
    socket.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
    ends(&socket);
    hear("connect");
    let socket = connect();
    hear("stay");
    socket
        .set_read_timeout(Some(LOOKED_THROUGH))
        .expect("set a timeout");
    let error = socket.recv(&mut [0; 16]).expect_err("nothing was asked");
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
}

/// A pod that says, whenever it is asked, whether its sockets are translated. Its Service's backend is itself, at an address
/// that its namespace has too.
fn pod() {
    // An address of IPv6 is nobody's for a moment, even on loopback, unless it needs no look for duplicates.
    for (ip, device) in [("172.31.0.11/32", "lo"), ("fd00:31::11/128", "lo nodad")] {
        crate::agent::ip(&format!("address add {ip} dev {device}"));
    }
    for ip in ["172.31.0.11", "fd00:31::11"] {
        serve_all(ip);
    }
    let [address, _, _] = service(PORT);
    println!("> ready");
    for line in io::stdin().lock().lines() {
        assert_eq!(line.expect("hear from the parent"), "try");
        match connect(address) {
            Ok(_) => println!("> translated"),
            Err(error) if error.kind() == ErrorKind::NetworkUnreachable => println!("> left alone"),
            Err(error) => panic!("connect to {address}: {error}"),
        }
    }
}

fn reachable() {
    let [address, _, mapped] = service(PORT);
    for address in [address, mapped] {
        connect(address).expect("connect to the Service");
    }
}

/// Connects again and again until told to stop, and says how often that went well and how often not.
fn busy() {
    // A slow machine makes more connections than a small one remembers the ends of; those that it forgets are reset.
    fs::write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "262144")
        .expect("let the kernel remember many connections");
    let [address, _, _] = service(PORT);
    let (sender, told) = channel();
    thread::spawn(move || {
        let mut line = String::new();
        let _ = io::stdin().lock().read_line(&mut line);
        let _ = sender.send(line);
    });
    println!("> connecting");
    let (mut connections, mut failures) = (0_u32, 0_u32);
    while told.try_recv() == Err(TryRecvError::Empty) {
        match connect(address) {
            Ok(_) => connections += 1,
            Err(error) => {
                eprintln!("connection {connections}: {error}");
                failures += 1;
            }
        }
    }
    println!("> {connections} {failures}");
}
