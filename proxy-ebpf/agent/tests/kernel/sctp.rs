//! Real SCTP associations over the packet path: one-to-one sockets, whose programs no cgroup has a hook for.
//!
//! A host with several addresses tells its peer of all of them inside the first packets, where nobody translates them: the peer
//! tries them past the Service and is told that there is no such association, which ends the one there is. So clients of IPv6
//! leave IPv4 alone here, as they have to wherever there is a NAT.

use std::{
    collections::BTreeSet,
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Ipv6Addr, SocketAddr, TcpStream},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
    thread,
    time::Duration,
};

use nix::sys::{
    socket::{self, AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, sockopt},
    time::{TimeVal, TimeValLike as _},
};
use proxy_ebpf_common::SNAT_PORT_MIN;

use crate::{
    agent::{Agent, wait},
    network::{Namespace, bind, read_line},
    sandbox::CGROUP,
    traffic::{
        CLIENT, CLUSTER_IP, EXTERNAL_IP, NODE_PORT, NODE1, POD_A, POD_B, POD_C, Pair, Stage, TARGET, at,
    },
};

/// No call takes longer unless something is broken.
const TIMEOUT: Duration = Duration::from_secs(20);
/// What [`Association::transfer`] sends, in messages that travel in many chunks and in chunks that travel in one packet.
const BULK: usize = 256 << 10;
const MESSAGES: [usize; 2] = [60_000, 700];

/// Whether the kernel has SCTP, or knows where to find it.
pub(crate) fn is_there() -> bool {
    match open(AddressFamily::Inet) {
        Ok(_) => true,
        Err(error) => {
            let missing = [libc::EPROTONOSUPPORT, libc::ESOCKTNOSUPPORT].map(Some);
            assert!(missing.contains(&error.raw_os_error()), "{error}");
            false
        }
    }
}

pub(crate) fn run(pair: Pair) {
    let dir = tempfile::tempdir().expect("make a folder");
    let stage = Stage::set([pair, pair]);
    for (namespace, name) in [(&stage.pod_a, "a"), (&stage.pod_b, "b"), (&stage.pod_c, "c")] {
        serve(namespace, name);
    }
    // That of the clients: sockets are translated here, but for those of SCTP.
    let cgroup = std::env::var_os(CGROUP).expect("the parent names the cgroup");
    let cgroup = Path::new(&cgroup);
    stage.endpoints(&[POD_B]);
    let agent = Agent::start_in(&stage.api, dir.path(), cgroup);
    agent.wait_for_health("200");
    for (pods, name) in [(POD_B, "b"), (POD_A, "a"), (POD_C, "c")] {
        stage.endpoints(&[pods]);
        for family in [0, 1] {
            wait_for(&stage, family, Some(name));
            from_outside(&stage, family, name);
            from_a_pod(&stage, family, name);
            from_the_node(family, name);
        }
    }
    for family in [0, 1] {
        ports_are_kept_apart(&stage, family);
        both_ways(&stage, family);
    }
    many_at_once(&stage);
    let agent = restarts(&stage, agent, dir.path(), cgroup);
    for family in [0, 1] {
        the_backend_leaves(&stage, family);
        the_backend_vanishes(&stage, family);
    }
    nobody_is_there(&stage);
    agent.stop();
    let cleaned = Agent::command(&["cleanup"])
        .status()
        .expect("run proxy-ebpf cleanup");
    assert!(cleaned.success());
}

/// A client in the world reaches a pod of the node as itself, and one of another node with the node's address.
fn from_outside(stage: &Stage, family: usize, server: &str) {
    for address in [at(EXTERNAL_IP[family], 80), at(NODE1[family], NODE_PORT)] {
        let mut association = connect(&stage.client, None, &address);
        let client = association.client();
        if server == "c" {
            assert_eq!(client.ip().to_string(), NODE1[family], "{address}");
            assert!(client.port() >= SNAT_PORT_MIN, "{address} by {client}");
        } else {
            assert_eq!(client.ip().to_string(), CLIENT[family], "{address}");
        }
        association.reached(server, &address);
        association.transfer();
    }
}

/// A pod reaches another one as itself, and itself as somebody else.
fn from_a_pod(stage: &Stage, family: usize, server: &str) {
    for address in [
        at(CLUSTER_IP[family], 80),
        at(EXTERNAL_IP[family], 80),
        at(NODE1[family], NODE_PORT),
    ] {
        let mut association = connect(&stage.pod_a, None, &address);
        let client = association.client().ip().to_string();
        assert_eq!(client == POD_A[family], server != "a", "{client} by {address}");
        association.reached(server, &address);
        association.transfer();
    }
}

fn from_the_node(family: usize, server: &str) {
    for address in [at(CLUSTER_IP[family], 80), at(EXTERNAL_IP[family], 80)] {
        let mut association = connect(&Namespace::own(), None, &address);
        assert_eq!(association.client().ip().to_string(), NODE1[family], "{address}");
        association.reached(server, &address);
        association.transfer();
    }
}

/// Of two associations from one port to one backend, by two addresses of the Service, each gets its own answers; a pod's
/// port stays as it is.
fn ports_are_kept_apart(stage: &Stage, family: usize) {
    let addresses = [at(EXTERNAL_IP[family], 80), at(NODE1[family], NODE_PORT)];
    let mut both = addresses.map(|address| connect(&stage.client, Some(5000), &address));
    let [one, other] = both.each_ref().map(Association::client);
    assert_eq!(one.ip(), other.ip());
    assert_ne!(one.port(), other.port());
    for association in &mut both {
        association.reached("c", "by one port");
        association.echo(b"mine");
    }
    let association = connect(&stage.pod_a, Some(5000), &at(CLUSTER_IP[family], 80));
    assert_eq!(association.client().port(), 5000);
}

/// A pod has associations with a backend by the Service and past it, from one port.
fn both_ways(stage: &Stage, family: usize) {
    let (service, backend) = (at(CLUSTER_IP[family], 80), at(POD_C[family], TARGET));
    for (port, first, second) in [(5001, &service, &backend), (5002, &backend, &service)] {
        let mut one = connect(&stage.pod_a, Some(port), first);
        let mut other = connect(&stage.pod_a, Some(port), second);
        one.echo(b"first");
        other.echo(b"second");
        drop(other);
        one.echo(b"still there");
    }
}

/// Many associations live side by side and reach all backends.
fn many_at_once(stage: &Stage) {
    stage.endpoints(&[POD_A, POD_B, POD_C]);
    for family in [0, 1] {
        for name in ["a", "b", "c"] {
            wait_for(stage, family, Some(name));
        }
        for (namespace, address) in [
            (&stage.client, at(NODE1[family], NODE_PORT)),
            (&stage.pod_a, at(CLUSTER_IP[family], 80)),
        ] {
            let mut associations: Vec<_> = (0..24).map(|_| connect(namespace, None, &address)).collect();
            for round in 0..3_u8 {
                for (index, association) in (0_u8..).zip(&mut associations) {
                    association.echo(&[round, index, 7]);
                }
            }
            let servers: BTreeSet<_> = associations.iter().map(|one| one.server.clone()).collect();
            assert_eq!(servers.len(), 3, "{servers:?} by {address}");
        }
    }
}

/// The agent is killed and comes back while associations go on and begin.
fn restarts(stage: &Stage, agent: Agent, dir: &Path, cgroup: &Path) -> Agent {
    let address = at(NODE1[0], NODE_PORT);
    let mut long = connect(&stage.client, None, &address);
    let connects = || drop(connect(&stage.client, None, &address));
    stage.restart_under(agent, dir, cgroup, &connects, || {
        long.echo(b"are you still there?")
    })
}

/// A client that always uses the same port, as is usual with SCTP, reaches another backend once its association is over and
/// the one it had is no endpoint any more.
fn the_backend_leaves(stage: &Stage, family: usize) {
    let address = at(EXTERNAL_IP[family], 80);
    stage.endpoints(&[POD_B]);
    only(stage, family, "b");
    let mut association = connect(&stage.client, Some(5010), &address);
    association.reached("b", &address);
    stage.endpoints(&[POD_C]);
    only(stage, family, "c");
    // What has begun goes on.
    association.echo(b"still there");
    association.end();
    connect(&stage.client, Some(5010), &address).reached("c", &address);
}

/// The same with a backend that is gone without a word, and a client that has lost its memory: nobody ends the association.
fn the_backend_vanishes(stage: &Stage, family: usize) {
    let address = at(EXTERNAL_IP[family], 80);
    stage.endpoints(&[POD_B]);
    only(stage, family, "b");
    let association = connect(&stage.client, Some(5011), &address);
    stage.pod_b.ip("link set eth0 down");
    stage.endpoints(&[POD_C]);
    only(stage, family, "c");
    let (option, bits) = [("-4", 32), ("-6", 128)][family];
    let route = format!("{option} route replace {{}} {}/{bits}", EXTERNAL_IP[family]);
    stage.client.ip(&route.replace("{}", "blackhole"));
    association.abort();
    stage
        .client
        .ip(&format!("{} via {}", route.replace("{} ", ""), NODE1[family]));
    connect(&stage.client, Some(5011), &address).reached("c", &address);
    stage.pod_b_returns();
}

/// Without endpoints clients are told so at once.
fn nobody_is_there(stage: &Stage) {
    stage.endpoints(&[]);
    for family in [0, 1] {
        wait_for(stage, family, None);
        for address in [at(NODE1[family], NODE_PORT), at(EXTERNAL_IP[family], 80)] {
            for namespace in [&stage.client, &stage.pod_a, &Namespace::own()] {
                let error = try_connect(namespace, None, &address).expect_err("nobody is there");
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{address}: {error}");
            }
        }
    }
}

/// Returns once a client from outside reaches the server, which may be one of several, or nobody.
fn wait_for(stage: &Stage, family: usize, server: Option<&str>) {
    let address = at(EXTERNAL_IP[family], 80);
    wait(&format!("{address} leads to {server:?}"), || {
        let reached = try_connect(&stage.client, None, &address).ok();
        reached.map(|association| association.server).as_deref() == server
    });
}

/// Returns once the server is the only one: others were endpoints before.
fn only(stage: &Stage, family: usize, server: &str) {
    let address = at(EXTERNAL_IP[family], 80);
    wait(&format!("{address} leads to {server} alone"), || {
        let mut reached = (0..8).map(|_| try_connect(&stage.client, None, &address));
        reached.all(|association| association.is_ok_and(|association| association.server == server))
    });
}

/// An association that has begun, and what its server has said of it.
#[derive(Debug)]
struct Association {
    stream: TcpStream,
    server: String,
    client: SocketAddr,
}

impl Association {
    /// The address of the client as the server sees it.
    fn client(&self) -> SocketAddr {
        self.client
    }

    #[track_caller]
    fn reached(&self, server: &str, how: &str) {
        assert_eq!(self.server, server, "{how}");
    }

    /// Sends a message and waits for it to come back.
    #[track_caller]
    fn echo(&mut self, message: &[u8]) {
        self.stream.write_all(message).expect("send a message");
        let mut back = vec![0; message.len()];
        self.stream.read_exact(&mut back).expect("receive a message");
        assert_eq!(back, message);
    }

    /// Sends much, while it comes back.
    #[track_caller]
    fn transfer(&mut self) {
        for size in MESSAGES {
            let sent: Vec<u8> = (0..BULK).map(|index| ((index * 7) >> 5) as u8).collect();
            let mut writer = self.stream.try_clone().expect("share the socket");
            thread::scope(|scope| {
                scope.spawn(|| {
                    for message in sent.chunks(size) {
                        writer.write_all(message).expect("send a message");
                    }
                });
                let mut back = vec![0; BULK];
                self.stream.read_exact(&mut back).expect("receive messages");
                assert!(back == sent, "what comes back must be what was sent");
            });
        }
    }

    /// Ends the association and waits until the server has agreed.
    fn end(mut self) {
        self.stream
            .shutdown(std::net::Shutdown::Write)
            .expect("end the association");
        // A socket whose association has ended before it was asked has none.
        match self.stream.read(&mut [0]) {
            Ok(length) => assert_eq!(length, 0),
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotConnected, "{error}"),
        }
    }

    /// Ends the association at once.
    fn abort(self) {
        let linger = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        socket::setsockopt(&self.stream, sockopt::Linger, &linger).expect("change the socket");
    }
}

#[track_caller]
fn connect(namespace: &Namespace, port: Option<u16>, address: &str) -> Association {
    try_connect(namespace, port, address).unwrap_or_else(|error| panic!("connect to {address}: {error}"))
}

/// Begins an association, from a port that others may have too.
fn try_connect(namespace: &Namespace, port: Option<u16>, address: &str) -> io::Result<Association> {
    let address: SocketAddr = address.parse().expect("an address");
    namespace.run(|| {
        let protocol = Some(SockProtocol::Sctp);
        let socket = bind(SockType::Stream, protocol, port.unwrap_or(0), address)?;
        socket::setsockopt(
            &socket,
            sockopt::SendTimeout,
            &TimeVal::seconds(TIMEOUT.as_secs().cast_signed()),
        )?;
        socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(TIMEOUT))?;
        assert_eq!(stream.peer_addr()?, address);
        let line = read_line(&mut stream)?;
        let line = String::from_utf8_lossy(&line);
        let (server, client) = line.trim().split_once(' ').expect("a greeting");
        Ok(Association {
            stream,
            server: server.to_owned(),
            client: client.parse().expect("an address"),
        })
    })
}

/// A server of both families that says who it is and whom it sees, and sends back what it gets.
fn serve(namespace: &Namespace, name: &'static str) {
    let listener = namespace.run(|| {
        let any: SocketAddr = (Ipv6Addr::UNSPECIFIED, TARGET).into();
        let listener = open(AddressFamily::Inet6).expect("open a socket");
        socket::bind(listener.as_raw_fd(), &SockaddrStorage::from(any)).expect("bind");
        socket::listen(&listener, Backlog::MAXCONN).expect("listen");
        listener
    });
    thread::spawn(move || {
        while let Ok(accepted) = socket::accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            thread::spawn(move || answer(name, accepted));
        }
    });
}

fn answer(name: &str, accepted: i32) -> io::Result<()> {
    let mut stream = TcpStream::from(owned(accepted));
    let peer = stream.peer_addr()?;
    let seen = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    stream.write_all(format!("{name} {seen}\n").as_bytes())?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length])?;
    }
}

#[expect(unsafe_code, reason = "nix returns the accepted socket as a number")]
fn owned(socket: i32) -> OwnedFd {
    // SAFETY: it was just accepted and is nobody else's.
    unsafe { OwnedFd::from_raw_fd(socket) }
}

fn open(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    Ok(socket::socket(
        family,
        SockType::Stream,
        flags,
        SockProtocol::Sctp,
    )?)
}
