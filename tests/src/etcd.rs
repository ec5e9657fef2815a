//! Real etcd servers on loopback, for whoever needs them as a store or as a peer to be measured against.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::{Context, Result, bail};
use rcgen::SanType;

use crate::{
    link::Link,
    pki::{Pki, Subject},
};

/// One cluster of servers; dropping it kills them. Their directory is the caller's to remove.
#[derive(Debug)]
pub struct EtcdServers {
    members: Vec<Member>,
    /// To each member, by which the others reach it; none where it is alone.
    links: Vec<Link>,
    files: Option<EtcdFiles>,
}

/// The PEM files of servers that ask for client certificates.
#[derive(Debug, Clone)]
pub struct EtcdFiles {
    /// The authority of servers and clients.
    pub authority: PathBuf,
    /// A certificate for both.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

#[derive(Debug)]
struct Member {
    endpoint: String,
    arguments: Vec<String>,
    data: PathBuf,
    log: PathBuf,
    process: Option<Child>,
}

impl EtcdServers {
    /// Starts one server without TLS.
    ///
    /// # Errors
    /// etcd is not installed.
    pub fn single(dir: &Path) -> Result<EtcdServers> {
        EtcdServers::start(dir, 1, None, &[])
    }

    /// Starts servers that ask for client certificates, towards clients and among each other. They reach each other over links
    /// that can be made worse. Each gets the further `arguments`.
    ///
    /// # Errors
    /// etcd is not installed.
    pub fn with_tls(dir: &Path, size: usize, arguments: &[String]) -> Result<EtcdServers> {
        let files = EtcdServers::files_in(dir)?;
        EtcdServers::start(dir, size, Some(files), arguments)
    }

    fn files_in(dir: &Path) -> Result<EtcdFiles> {
        let pki = Pki::empty(dir.join("pki"))?;
        pki.authority("ca", "etcd")?;
        let subject = Subject {
            file: "etcd",
            common_name: "etcd",
            organization: None,
            names: vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())],
        };
        pki.issue("ca", &subject)?;
        Ok(EtcdFiles {
            authority: pki.certificate("ca"),
            certificate: pki.certificate("etcd"),
            key: pki.private_key("etcd"),
        })
    }

    fn start(dir: &Path, size: usize, files: Option<EtcdFiles>, further: &[String]) -> Result<EtcdServers> {
        let scheme = if files.is_some() { "https" } else { "http" };
        let url = |port| format!("{scheme}://127.0.0.1:{port}");
        let ports: Vec<_> = (0..size).map(|_| (free_port(), free_port())).collect();
        let mut links = Vec::new();
        // Where the others find a member: at the link to it, or at its port when there are no others.
        let mut found = Vec::new();
        for (_, peer) in &ports {
            if size == 1 {
                found.push(*peer);
                continue;
            }
            let port = free_port();
            links.push(Link::new(port, *peer)?);
            found.push(port);
        }
        let all: Vec<_> = found
            .iter()
            .enumerate()
            .map(|(index, port)| format!("m{index}={}", url(*port)))
            .collect();
        let members = ports.iter().enumerate().map(|(index, (client, peer))| {
            let data = dir.join(format!("m{index}"));
            let mut arguments = Vec::new();
            let mut flag = |name: &str, value: String| arguments.push(format!("--{name}={value}"));
            flag("name", format!("m{index}"));
            flag("data-dir", data.display().to_string());
            flag("listen-client-urls", url(*client));
            flag("advertise-client-urls", url(*client));
            flag("listen-peer-urls", url(*peer));
            flag("initial-advertise-peer-urls", url(found[index]));
            flag("initial-cluster", all.join(","));
            flag("logger", "zap".to_owned());
            // A single server elects itself after one time-out.
            if size == 1 {
                flag("heartbeat-interval", "10".to_owned());
                flag("election-timeout", "100".to_owned());
            }
            for prefix in files.iter().flat_map(|_| ["", "peer-"]) {
                for (name, path) in files.iter().flat_map(EtcdFiles::flags) {
                    flag(&format!("{prefix}{name}"), path.display().to_string());
                }
                flag(&format!("{prefix}client-cert-auth"), "true".to_owned());
            }
            arguments.extend(further.iter().cloned());
            Member {
                endpoint: url(*client),
                arguments,
                data,
                log: dir.join(format!("m{index}.log")),
                process: None,
            }
        });
        let mut servers = EtcdServers {
            members: members.collect(),
            links,
            files,
        };
        for index in 0..size {
            servers.start_member(index)?;
        }
        Ok(servers)
    }

    /// How many members there are, running or not.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// The members' client URLs.
    pub fn endpoints(&self) -> Vec<String> {
        self.members
            .iter()
            .map(|member| member.endpoint.clone())
            .collect()
    }

    /// What a client needs, where the servers ask for a certificate.
    pub fn files(&self) -> Option<&EtcdFiles> {
        self.files.as_ref()
    }

    /// The links to the members, by which the others reach each: none where it is alone.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// The process id of a member that runs.
    pub fn pid(&self, index: usize) -> Option<u32> {
        self.members[index].process.as_ref().map(Child::id)
    }

    /// Starts a member, for the first time or again.
    ///
    /// # Errors
    /// etcd is not installed.
    pub fn start_member(&mut self, index: usize) -> Result<()> {
        let member = &mut self.members[index];
        let log = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&member.log)
            .with_context(|| format!("open {}", member.log.display()))?;
        let process = Command::new("etcd")
            .args(&member.arguments)
            .env_clear()
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start etcd (Debian package etcd-server)")?;
        member.process = Some(process);
        Ok(())
    }

    /// Kills a member as `kill -9` does, if it runs.
    pub fn kill_member(&mut self, index: usize) {
        if let Some(mut process) = self.members[index].process.take() {
            // It may have ended by itself; either way it has ended afterwards.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts the only member again, empty.
    ///
    /// # Errors
    /// Its directory cannot be removed.
    pub fn lose_everything(&mut self) -> Result<()> {
        self.kill_member(0);
        fs::remove_dir_all(&self.members[0].data).context("remove the member's data")?;
        self.start_member(0)
    }

    /// What upstream's own client prints, for a cluster without TLS.
    ///
    /// # Errors
    /// It is not installed, or it fails.
    pub fn etcdctl(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new("etcdctl")
            .args(arguments)
            .env_clear()
            .env("ETCDCTL_API", "3")
            .env("ETCDCTL_ENDPOINTS", &self.members[0].endpoint)
            .output()
            .context("start etcdctl (Debian package etcd-client)")?;
        if !output.status.success() {
            bail!(
                "etcdctl {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        String::from_utf8(output.stdout).context("read what etcdctl prints")
    }
}

impl EtcdFiles {
    fn flags(&self) -> [(&'static str, &Path); 3] {
        [
            ("trusted-ca-file", &self.authority),
            ("cert-file", &self.certificate),
            ("key-file", &self.key),
        ]
    }
}

impl Drop for EtcdServers {
    fn drop(&mut self) {
        for index in 0..self.members.len() {
            self.kill_member(index);
            if std::thread::panicking() {
                let log = fs::read_to_string(&self.members[index].log).unwrap_or_default();
                let start = log.floor_char_boundary(log.len().saturating_sub(2000));
                eprintln!("the end of m{index}'s log:\n{}", &log[start..]);
            }
        }
    }
}

/// A port nobody listens on, at this moment, and that no other caller in this process is given.
///
/// Below the range that the kernel takes for connections: a client that tries to reach a killed server there can end up
/// connected to itself, and then the server cannot come back.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let start = (std::process::id() as u16).wrapping_mul(101);
        let port = 16_000 + start.wrapping_add(step) % 16_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
