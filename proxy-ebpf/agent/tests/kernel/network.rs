//! Network namespaces joined by veths: an outside client, two nodes and their pods, without any way out.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
    process::Command,
    sync::Arc,
    thread,
    time::Duration,
};

use netlink_packet_route::link::{
    InfoData, InfoKind, InfoNetkit, LinkAttribute, LinkInfo, LinkMessage, NetkitMode,
};
use nix::{
    sched::{CloneFlags, setns, unshare},
    sys::{
        socket::{self, AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, sockopt},
        time::{TimeVal, TimeValLike as _},
    },
};

/// No call takes longer unless something is broken.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The same for connecting.
const SEND_TIMEOUT_S: i64 = 10;
/// What `Talk::transfer` sends.
pub(crate) const BULK: usize = 4 << 20;
/// Larger than any packet here: it travels in fragments.
pub(crate) const LARGE_DATAGRAM: usize = 4000;

/// A network namespace. It goes with the last clone, its devices with it.
#[derive(Clone)]
pub(crate) struct Namespace(Arc<File>);

impl Namespace {
    /// An empty one, with its loopback up.
    pub(crate) fn new() -> Self {
        let file = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("make a network namespace; these tests need root");
            File::open("/proc/thread-self/ns/net").expect("open the namespace")
        });
        let namespace = Self(Arc::new(file.join().expect("the thread ends well")));
        namespace.ip("link set lo up");
        namespace
    }

    /// That of this process.
    pub(crate) fn own() -> Self {
        Self(Arc::new(
            File::open("/proc/self/ns/net").expect("open the namespace"),
        ))
    }

    /// Does something inside, on a thread of its own.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter();
                work()
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn enter(&self) {
        setns(&*self.0, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
    }

    #[track_caller]
    pub(crate) fn ip(&self, arguments: &str) -> String {
        let output = self.run(|| {
            Command::new("ip")
                .args(arguments.split(' '))
                .output()
                .expect("run ip, of iproute2")
        });
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip {arguments}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub(crate) fn set(&self, setting: &str, value: &str) {
        self.run(|| {
            std::fs::write(Path::new("/proc/sys/net").join(setting), value).expect("change a setting")
        });
    }

    /// What `ip` calls it.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Joins a device `eth0` here to a device `name` there.
    pub(crate) fn join(&self, other: &Self, name: &str) {
        let path = self.path();
        other.ip(&format!("link add {name} type veth peer name eth0 netns {path}"));
        other.ip(&format!("link set {name} up"));
        self.ip("link set eth0 up");
    }

    /// The same with a pair of netkit devices that carry Ethernet headers. Fails where the kernel has none.
    pub(crate) fn join_by_netkit(&self, other: &Self, name: &str) -> io::Result<()> {
        let netns = self.0.as_raw_fd();
        other.run(|| {
            let mut pod = LinkMessage::default();
            pod.attributes = vec![
                LinkAttribute::IfName("eth0".to_owned()),
                LinkAttribute::NetNsFd(netns),
            ];
            let data = InfoData::Netkit(vec![InfoNetkit::Mode(NetkitMode::L2), InfoNetkit::Peer(pod)]);
            let mut node = LinkMessage::default();
            node.attributes = vec![
                LinkAttribute::IfName(name.to_owned()),
                LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Netkit), LinkInfo::Data(data)]),
            ];
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection()?;
                let connection = tokio::spawn(connection);
                let made = handle.link().add(node).execute().await;
                connection.abort();
                made.map_err(|error| match error {
                    rtnetlink::Error::NetlinkError(error) => error.to_io(),
                    other => io::Error::other(other),
                })
            })
        })?;
        other.ip(&format!("link set {name} up"));
        self.ip("link set eth0 up");
        Ok(())
    }

    /// Servers of both protocols that say who they are and whom they see, and send back what they get.
    pub(crate) fn serve(&self, name: &'static str, port: u16) {
        let namespace = self.clone();
        let (tcp, udp) = self.run(move || {
            let any = SocketAddr::new("::".parse().expect("an address"), port);
            (
                TcpListener::bind(any).expect("listen"),
                UdpSocket::bind(any).expect("bind"),
            )
        });
        drop(namespace);
        thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                thread::spawn(move || answer(name, stream));
            }
        });
        thread::spawn(move || {
            let mut buffer = vec![0; 2 * LARGE_DATAGRAM];
            while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
                let mut reply = greeting(name, peer).into_bytes();
                reply.extend(&buffer[..length]);
                let _ = udp.send_to(&reply, peer);
            }
        });
    }

    /// Connects, and returns who answered and the address that it has seen.
    pub(crate) fn connect(&self, address: &str) -> io::Result<Seen> {
        Ok(self.open(address)?.0)
    }

    /// Connects and stays connected.
    pub(crate) fn open(&self, address: &str) -> io::Result<(Seen, Talk)> {
        let address: SocketAddr = address.parse().expect("an address");
        self.run(|| greet(TcpStream::connect_timeout(&address, TIMEOUT)?, address))
    }

    /// The same from a port that other connections may have too, as those of clients with many connections do.
    pub(crate) fn open_by(&self, port: u16, address: &str) -> io::Result<(Seen, Talk)> {
        let address: SocketAddr = address.parse().expect("an address");
        self.run(|| {
            let socket = bind(SockType::Stream, None, port, address)?;
            socket::setsockopt(&socket, sockopt::SendTimeout, &TimeVal::seconds(SEND_TIMEOUT_S))?;
            socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
            greet(socket.into(), address)
        })
    }

    /// Sends a datagram from a socket that is connected, so that errors reach it, and returns the same.
    pub(crate) fn ask(&self, address: &str, length: usize) -> io::Result<Seen> {
        self.asking_by(0, address)?(length)
    }

    /// The same, as often as one likes, from a port that other sockets may have too; zero: any.
    pub(crate) fn asking_by(
        &self,
        port: u16,
        address: &str,
    ) -> io::Result<impl Fn(usize) -> io::Result<Seen>> {
        let address: SocketAddr = address.parse().expect("an address");
        let socket: UdpSocket = self.run(|| bind(SockType::Datagram, None, port, address))?.into();
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.connect(address)?;
        Ok(move |length| {
            let sent: Vec<u8> = (0..length).map(|index| index as u8).collect();
            socket.send(&sent)?;
            let mut buffer = vec![0; 2 * LARGE_DATAGRAM];
            let received = socket.recv(&mut buffer)?;
            let end = buffer.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
            assert_eq!(&buffer[end..received], &sent, "datagrams must come back whole");
            Ok(Seen::parse(&buffer[..end]))
        })
    }
}

/// Whether the kernel has netkit devices.
pub(crate) fn has_netkit() -> bool {
    let (node, pod) = (Namespace::new(), Namespace::new());
    match pod.join_by_netkit(&node, "orlprobe") {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP), "{error}");
            false
        }
    }
}

/// Who answered, and the address that it has seen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seen {
    pub(crate) server: String,
    pub(crate) client: IpAddr,
}

impl Seen {
    fn parse(line: &[u8]) -> Self {
        let line = String::from_utf8_lossy(line);
        let (server, client) = line.trim().split_once(' ').expect("a greeting");
        Self {
            server: server.to_owned(),
            client: client.parse().expect("an address"),
        }
    }
}

/// An open connection.
pub(crate) struct Talk(TcpStream);

impl Talk {
    /// Sends something and waits for it to come back.
    pub(crate) fn echo(&mut self, data: &[u8]) -> io::Result<()> {
        self.0.write_all(data)?;
        let mut back = vec![0; data.len()];
        self.0.read_exact(&mut back)?;
        assert_eq!(back, data);
        Ok(())
    }

    /// Sends much, while it comes back.
    pub(crate) fn transfer(self) -> io::Result<()> {
        let sent: Vec<u8> = (0..BULK).map(|index| ((index * 7) >> 5) as u8).collect();
        let mut writer = self.0.try_clone()?;
        let mut reader = self.0;
        thread::scope(|scope| {
            scope.spawn(|| writer.write_all(&sent));
            let mut back = vec![0; BULK];
            reader.read_exact(&mut back)?;
            assert!(back == sent, "what comes back must be what was sent");
            Ok(())
        })
    }
}

/// A socket for this peer, on a port that others may share, or on any with port 0.
pub(crate) fn bind(
    kind: SockType,
    protocol: Option<SockProtocol>,
    port: u16,
    peer: SocketAddr,
) -> io::Result<OwnedFd> {
    let (family, any): (_, SocketAddr) = if peer.is_ipv4() {
        (AddressFamily::Inet, ([0, 0, 0, 0], port).into())
    } else {
        (AddressFamily::Inet6, (Ipv6Addr::UNSPECIFIED, port).into())
    };
    let socket = socket::socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol)?;
    if peer.is_ipv6() {
        socket::setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(any))?;
    Ok(socket)
}

/// Reads who is there.
fn greet(mut stream: TcpStream, address: SocketAddr) -> io::Result<(Seen, Talk)> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    assert_eq!(stream.peer_addr()?, address);
    let line = read_line(&mut stream)?;
    Ok((Seen::parse(&line), Talk(stream)))
}

/// What a server says first; nothing of what follows is read.
pub(crate) fn read_line(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    Ok(line)
}

fn greeting(name: &str, peer: SocketAddr) -> String {
    format!("{name} {}\n", peer.ip().to_canonical())
}

fn answer(name: &str, mut stream: TcpStream) -> io::Result<()> {
    let peer = stream.peer_addr()?;
    stream.write_all(greeting(name, peer).as_bytes())?;
    let mut reader = stream.try_clone()?;
    io::copy(&mut reader, &mut stream).map(drop)
}
