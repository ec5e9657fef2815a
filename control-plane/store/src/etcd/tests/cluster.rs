//! Real etcd processes on loopback, each in a directory that goes with it.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use tempfile::TempDir;

use crate::{EtcdOptions, EtcdTls};

/// The servers; dropping it kills them.
pub(super) struct Cluster {
    members: Vec<Member>,
    tls: Option<EtcdTls>,
    dir: TempDir,
}

struct Member {
    endpoint: String,
    arguments: Vec<String>,
    data: PathBuf,
    log: PathBuf,
    process: Option<Child>,
}

impl Cluster {
    /// One server without TLS.
    pub(super) fn single() -> Cluster {
        Cluster::start(1, None, tempfile::tempdir().unwrap())
    }

    /// Servers that ask for client certificates, towards clients and among each other.
    pub(super) fn with_tls(size: usize) -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let tls = make_certificates(dir.path());
        Cluster::start(size, Some(tls), dir)
    }

    fn start(size: usize, tls: Option<EtcdTls>, dir: TempDir) -> Cluster {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = |port| format!("{scheme}://127.0.0.1:{port}");
        let ports: Vec<_> = (0..size).map(|_| (free_port(), free_port())).collect();
        let all: Vec<_> = ports
            .iter()
            .enumerate()
            .map(|(index, (_, peer))| format!("m{index}={}", url(*peer)))
            .collect();
        // A single server elects itself after one time-out.
        let (heartbeat_ms, election_ms) = if size == 1 { (10, 100) } else { (100, 1000) };
        let members = ports.iter().enumerate().map(|(index, (client, peer))| {
            let data = dir.path().join(format!("m{index}"));
            let mut arguments = Vec::new();
            let mut flag = |name: &str, value: String| arguments.push(format!("--{name}={value}"));
            flag("name", format!("m{index}"));
            flag("data-dir", data.display().to_string());
            flag("listen-client-urls", url(*client));
            flag("advertise-client-urls", url(*client));
            flag("listen-peer-urls", url(*peer));
            flag("initial-advertise-peer-urls", url(*peer));
            flag("initial-cluster", all.join(","));
            flag("heartbeat-interval", heartbeat_ms.to_string());
            flag("election-timeout", election_ms.to_string());
            flag("logger", "zap".to_owned());
            if let Some(tls) = &tls {
                let (certificate, key) = tls.client_files.as_ref().unwrap();
                for peer in ["", "peer-"] {
                    flag(&format!("{peer}cert-file"), certificate.display().to_string());
                    flag(&format!("{peer}key-file"), key.display().to_string());
                    flag(
                        &format!("{peer}trusted-ca-file"),
                        tls.ca_file.display().to_string(),
                    );
                    flag(&format!("{peer}client-cert-auth"), "true".to_owned());
                }
            }
            Member {
                endpoint: url(*client),
                arguments,
                data,
                log: dir.path().join(format!("m{index}.log")),
                process: None,
            }
        });
        let mut cluster = Cluster {
            members: members.collect(),
            tls,
            dir,
        };
        (0..size).for_each(|index| cluster.start_member(index));
        cluster
    }

    pub(super) fn options(&self) -> EtcdOptions {
        let endpoints = self.members.iter().map(|member| member.endpoint.clone());
        EtcdOptions {
            tls: self.tls.clone(),
            ..EtcdOptions::new(endpoints.collect())
        }
    }

    pub(super) fn start_member(&mut self, index: usize) {
        let member = &mut self.members[index];
        let log = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&member.log)
            .unwrap();
        let process = Command::new("etcd")
            .args(&member.arguments)
            .env_clear()
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("etcd is installed (Debian package etcd-server)");
        member.process = Some(process);
    }

    /// SIGKILL.
    pub(super) fn kill_member(&mut self, index: usize) {
        let mut process = self.members[index].process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Starts the only member again, empty.
    pub(super) fn lose_everything(&mut self) {
        self.kill_member(0);
        fs::remove_dir_all(&self.members[0].data).unwrap();
        self.start_member(0);
    }

    /// What upstream's own client prints, for a cluster without TLS.
    pub(super) fn etcdctl(&self, arguments: &[&str]) -> String {
        let output = Command::new("etcdctl")
            .args(arguments)
            .env_clear()
            .env("ETCDCTL_API", "3")
            .env("ETCDCTL_ENDPOINTS", &self.members[0].endpoint)
            .output()
            .expect("etcdctl is installed (Debian package etcd-client)");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for index in 0..self.members.len() {
            if self.members[index].process.is_some() {
                self.kill_member(index);
            }
            if std::thread::panicking() {
                let log = fs::read_to_string(&self.members[index].log).unwrap_or_default();
                let start = log.floor_char_boundary(log.len().saturating_sub(2000));
                eprintln!(
                    "the end of m{index}'s log in {}:\n{}",
                    self.dir.path().display(),
                    &log[start..]
                );
            }
        }
    }
}

/// A port nobody listens on, at this moment, and that no other test of this process is given.
///
/// Below the range that the kernel takes for connections: a client that tries to reach a killed server there can end up
/// connected to itself, and then the server cannot come back.
pub(super) fn free_port() -> u16 {
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

/// One certificate authority and one certificate, for the servers and their client.
fn make_certificates(dir: &Path) -> EtcdTls {
    let write = |name: &str, pem: String| {
        let path = dir.join(name);
        fs::write(&path, pem).unwrap();
        path
    };
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);

    let key = KeyPair::generate().unwrap();
    let mut certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    certificate.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    certificate.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let certificate = certificate.signed_by(&key, &issuer).unwrap();
    EtcdTls {
        ca_file: write("ca.pem", ca_pem),
        client_files: Some((
            write("client.pem", certificate.pem()),
            write("client.key", key.serialize_pem()),
        )),
    }
}
