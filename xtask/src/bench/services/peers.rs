//! The peers: two plain network namespaces behind a node, and the rules that kube-proxy would write there.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Of the range for tests of networks, which the cluster does not use.
const CLIENT: &str = "198.18.0.2";
const CLIENT_GATEWAY: &str = "198.18.0.1";
const SERVER: &str = "198.18.0.6";
const SERVER_GATEWAY: &str = "198.18.0.5";
/// On another node.
const FAR_SERVER: &str = "198.18.0.10";
const FAR_GATEWAY: &str = "198.18.0.9";

/// Where network namespaces have names.
const NETNS: &str = "/run/netns";

/// What translates the peers' Service.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rules {
    /// A rule per Service in one chain, and chains for its endpoints: kube-proxy's mode `iptables`.
    Iptables,
    /// One map from addresses to chains: kube-proxy's mode `nftables`.
    Nftables,
}

impl Rules {
    pub(super) fn name(self) -> &'static str {
        match self {
            Rules::Iptables => "iptables",
            Rules::Nftables => "nftables",
        }
    }

    /// The Service's address. Each kind has its own, so that both can stand side by side.
    pub(super) fn address(self) -> &'static str {
        match self {
            Rules::Iptables => "198.19.0.1",
            Rules::Nftables => "198.19.0.2",
        }
    }

    /// A script for `iptables-restore` or `nft`, with `count` Services; the measured one stands in their middle.
    fn script(self, count: u32) -> String {
        let services = (0..count).map(|number| {
            if number == count / 2 {
                (self.address().to_owned(), SERVER.to_owned(), number)
            } else {
                let address = |first: u32| Ipv4Addr::from(first + number).to_string();
                // 12.0.0.0/8 and 13.0.0.0/8: nobody dials them.
                (address(12 << 24), address(13 << 24), number)
            }
        });
        match self {
            Rules::Iptables => iptables(services),
            Rules::Nftables => nftables(services),
        }
    }
}

fn iptables(services: impl Iterator<Item = (String, String, u32)>) -> String {
    let (mut chains, mut rules) = (String::new(), String::new());
    for (address, endpoint, number) in services {
        let (service, end) = (format!("KUBE-SVC-{number}"), format!("KUBE-SEP-{number}"));
        let _ = writeln!(chains, ":{service} - [0:0]\n:{end} - [0:0]");
        let _ = writeln!(
            rules,
            "-A KUBE-SERVICES -d {address}/32 -p tcp -m tcp --dport 80 -j {service}"
        );
        let _ = writeln!(rules, "-A {service} -j {end}");
        let _ = writeln!(
            rules,
            "-A {end} -p tcp -m tcp -j DNAT --to-destination {endpoint}:80"
        );
    }
    format!(
        "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n{chains}-A PREROUTING -j KUBE-SERVICES\n{rules}COMMIT\n"
    )
}

fn nftables(services: impl Iterator<Item = (String, String, u32)>) -> String {
    let (mut chains, mut elements) = (String::new(), String::new());
    for (address, endpoint, number) in services {
        let _ = writeln!(
            chains,
            "chain endpoint-{number} {{ meta l4proto tcp dnat to {endpoint}:80; }}"
        );
        let _ = writeln!(
            chains,
            "chain service-{number} {{ numgen random mod 1 vmap {{ 0 : goto endpoint-{number} }}; }}"
        );
        let _ = writeln!(elements, "{address} . tcp . 80 : goto service-{number},");
    }
    format!(
        "table ip peer {{ }}\ndelete table ip peer\ntable ip peer {{\n{chains}\
         map services {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{\n{elements}}} }}\n\
         chain dispatch {{ ip daddr . meta l4proto . th dport vmap @services; }}\n\
         chain prerouting {{ type nat hook prerouting priority dstnat; jump dispatch; }}\n}}\n"
    )
}

/// The two namespaces, and the server that runs in one of them. Gone when dropped.
pub(super) struct Peers {
    node: String,
    client: Namespace,
    server: Server,
    program: PathBuf,
}

/// A namespace and the server that runs in it. Gone when dropped.
pub(super) struct Server {
    address: &'static str,
    process: Child,
    _namespace: Namespace,
}

impl Peers {
    /// Joins two namespaces to the node's, and starts the server.
    pub(super) fn make(node: &str, program: &Path) -> Result<Self> {
        Ok(Self {
            node: node.to_owned(),
            client: Namespace::make(node, "bp-client", CLIENT, CLIENT_GATEWAY)?,
            server: Server::start(node, "bp-server", SERVER, SERVER_GATEWAY, program)?,
            program: program.to_owned(),
        })
    }

    /// Another server, behind another node. Each node routes by the other's address.
    pub(super) fn add_far_server(&self, node: &str, near_ip: Ipv4Addr, far_ip: Ipv4Addr) -> Result<Server> {
        let server = Server::start(node, "bp-far", FAR_SERVER, FAR_GATEWAY, &self.program)?;
        let (near_ip, far_ip) = (near_ip.to_string(), far_ip.to_string());
        ip(&["-n", &self.node, "route", "add", FAR_SERVER, "via", &far_ip])?;
        ip(&["-n", node, "route", "add", CLIENT, "via", &near_ip])?;
        Ok(server)
    }

    pub(super) fn server(&self) -> &'static str {
        self.server.address
    }

    /// Runs the test program as the client.
    pub(super) fn run(&self, arguments: &[&str]) -> Result<String> {
        let arguments: Vec<_> = arguments.iter().map(OsStr::new).collect();
        run_in(&self.client.name, self.program.as_os_str(), &arguments)
    }

    /// Puts `count` Services into the node's rules, in place of those before; how long that took.
    pub(super) fn install(&self, rules: Rules, count: u32) -> Result<Duration> {
        let script = rules.script(count);
        let (program, arguments) = match rules {
            Rules::Iptables => ("iptables-restore", &["-w"][..]),
            Rules::Nftables => ("nft", &["-f", "-"][..]),
        };
        let start = Instant::now();
        let mut process = command_in(&self.node)
            .arg(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {program}"))?;
        let mut stdin = process.stdin.take().context("it is piped")?;
        let written = stdin.write_all(script.as_bytes());
        drop(stdin);
        let output = process
            .wait_with_output()
            .with_context(|| format!("wait for {program}"))?;
        if !output.status.success() {
            bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        written.with_context(|| format!("write to {program}"))?;
        Ok(start.elapsed())
    }
}

impl Server {
    fn start(node: &str, suffix: &str, address: &'static str, gateway: &str, program: &Path) -> Result<Self> {
        let namespace = Namespace::make(node, suffix, address, gateway)?;
        // Not to outlive a benchmark that is killed.
        let mut process = command_in(&namespace.name)
            .args(["setpriv", "--pdeathsig", "KILL", "--"])
            .arg(program)
            .arg("answer")
            .stdout(Stdio::piped())
            .spawn()
            .context("start the server")?;
        // It says when it listens.
        let stdout = process.stdout.take().context("it is piped")?;
        let mut line = String::new();
        let said = BufReader::new(stdout).read_line(&mut line);
        let server = Self {
            address,
            process,
            _namespace: namespace,
        };
        if said.context("read what the server says")? == 0 {
            bail!("the server ended at once");
        }
        Ok(server)
    }

    pub(super) fn address(&self) -> &'static str {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already; nothing else has to be known.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A network namespace with one way out, to the node. Gone when dropped, and its device with it.
struct Namespace {
    name: String,
}

impl Namespace {
    fn make(node: &str, suffix: &str, address: &str, gateway: &str) -> Result<Self> {
        let name = format!("{node}-{suffix}");
        ip(&["netns", "add", &name])?;
        let namespace = Self { name };
        let name = namespace.name.as_str();
        ip(&[
            "-n", node, "link", "add", suffix, "type", "veth", "peer", "name", "eth0", "netns", name,
        ])?;
        ip(&[
            "-n",
            node,
            "address",
            "add",
            &format!("{gateway}/30"),
            "dev",
            suffix,
        ])?;
        ip(&["-n", node, "link", "set", suffix, "up"])?;
        ip(&[
            "-n",
            name,
            "address",
            "add",
            &format!("{address}/30"),
            "dev",
            "eth0",
        ])?;
        ip(&["-n", name, "link", "set", "eth0", "up"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        ip(&["-n", name, "route", "add", "default", "via", gateway])?;
        Ok(namespace)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "delete", &self.name]) {
            eprintln!("{} is left behind: {error:#}", self.name);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("start ip")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("ip {}: {}", arguments.join(" "), said.trim());
    }
    Ok(())
}

/// Of util-linux: it enters the network namespace and no other.
fn command_in(netns: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{netns}")).arg("--");
    command
}

/// Removes the namespaces of benchmarks that were killed: those beside nodes that are no more.
pub(super) fn sweep() -> Result<()> {
    let Ok(entries) = fs::read_dir(NETNS) else {
        // The first namespace with a name makes the folder.
        return Ok(());
    };
    for entry in entries {
        let name = entry.with_context(|| format!("list {NETNS}"))?.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with("b-")) else {
            continue;
        };
        let node = name
            .split_once("-bp-")
            .map(|(node, _)| Path::new(NETNS).join(node));
        if node.is_some_and(|node| !node.exists()) {
            ip(&["netns", "delete", name])?;
        }
    }
    Ok(())
}

/// Runs a program in a network namespace and returns its output.
pub(super) fn run_in(netns: &str, program: &OsStr, arguments: &[&OsStr]) -> Result<String> {
    let output = command_in(netns)
        .arg(program)
        .args(arguments)
        .output()
        .context("start nsenter")?;
    if !output.status.success() {
        bail!(
            "{} in {netns}: {}",
            program.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
