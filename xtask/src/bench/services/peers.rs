//! The peers: two plain network namespaces behind a node, and the rules that kube-proxy would write there.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    io::Write as _,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Of the range for tests of networks, which the cluster does not use.
const CLIENT: &str = "198.18.0.2";
const CLIENT_GATEWAY: &str = "198.18.0.1";
const SERVER: &str = "198.18.0.6";
const SERVER_GATEWAY: &str = "198.18.0.5";

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
    _server: Namespace,
    process: Child,
    program: PathBuf,
}

impl Peers {
    /// Joins two namespaces to the node's, and starts the server.
    pub(super) fn make(node: &str, program: &Path) -> Result<Self> {
        let client = Namespace::make(node, "bp-client", CLIENT, CLIENT_GATEWAY)?;
        let server = Namespace::make(node, "bp-server", SERVER, SERVER_GATEWAY)?;
        let process = command_in(&server.name)
            .arg(program)
            .arg("answer")
            .stdout(Stdio::null())
            .spawn()
            .context("start the server")?;
        // The first load would meet a server that does not listen yet.
        thread::sleep(Duration::from_millis(300));
        Ok(Self {
            node: node.to_owned(),
            client,
            _server: server,
            process,
            program: program.to_owned(),
        })
    }

    pub(super) fn server(&self) -> &'static str {
        SERVER
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

impl Drop for Peers {
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
