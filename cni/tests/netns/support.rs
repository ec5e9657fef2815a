//! A node and its pods, each a network namespace of its own, and the plugin run as a runtime runs it.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use std::io::Write;

use orlop_cni::netlink::Socket;
use orlop_cni::netns::Netns;
use orlop_cni::wiring::Change;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The node's own addresses, on its loopback: what the kubelet's probes come from.
pub(crate) const NODE_IPV4: &str = "172.31.0.11";
pub(crate) const NODE_IPV6: &str = "fd00:31::11";

/// A node: a namespace, and a directory that stands for its disk.
pub(crate) struct Node {
    pub(crate) netns: Netns,
    pub(crate) dir: TempDir,
    pub(crate) config: Value,
    /// What the runtime says of whose sandbox it is.
    pub(crate) pod_uid: Option<&'static str>,
}

/// A pod's namespace, known by a path that vanishes with it, as a runtime's bind mount does.
pub(crate) struct Pod {
    pub(crate) id: String,
    pub(crate) netns: Netns,
    pub(crate) path: PathBuf,
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// How a run of the plugin ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) success: bool,
    pub(crate) document: Value,
}

impl Outcome {
    #[track_caller]
    pub(crate) fn unwrap(self) -> Value {
        assert!(self.success, "{}", self.document);
        self.document
    }

    /// The code and the message of an error.
    #[track_caller]
    pub(crate) fn unwrap_err(self) -> (u64, String) {
        assert!(!self.success, "{}", self.document);
        let text = self.document["msg"]
            .as_str()
            .expect("an error has a msg")
            .to_owned();
        (self.document["code"].as_u64().expect("an error has a code"), text)
    }
}

impl Node {
    pub(crate) fn new() -> Self {
        let netns = Netns::anonymous().expect("these tests make network namespaces: run them as root");
        netns
            .run(|| {
                let mut socket = Socket::open()?;
                let index = socket.link("lo")?.index;
                let own = [
                    Change::Up,
                    Change::Address(NODE_IPV4.parse().unwrap(), 32),
                    Change::Address(NODE_IPV6.parse().unwrap(), 128),
                ];
                Ok::<_, orlop_cni::Error>(socket.apply("lo", index, &own)?)
            })
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let config = json!({
            "cniVersion": "1.0.0", "name": "orlop", "type": "orlop-cni", "dataDir": dir.path().join("data"),
            "mtu": 1450, "ranges": ["10.244.0.0/24", "fd00:10:244::/64"],
        });
        Node {
            netns,
            dir,
            config,
            pod_uid: None,
        }
    }

    pub(crate) fn pod(&self, id: &str) -> Pod {
        let netns = Netns::anonymous().unwrap();
        let path = self.dir.path().join(format!("netns-{id}"));
        symlink(netns.path(), &path).unwrap();
        Pod {
            id: id.to_owned(),
            netns,
            path,
        }
    }

    /// Starts the plugin in the node's namespace, with stdin still open. Only to be called from inside it.
    pub(crate) fn spawn(&self, command: &str, id: &str, ifname: &str, netns: Option<&Path>) -> Child {
        let mut plugin = Command::new(env!("CARGO_BIN_EXE_orlop-cni"));
        plugin
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", id)
            .env("CNI_IFNAME", ifname);
        let uid = self.pod_uid.map(|uid| format!(";K8S_POD_UID={uid}"));
        plugin.env("CNI_PATH", "/nonexistent").env(
            "CNI_ARGS",
            format!("IgnoreUnknown=1;K8S_POD_NAME=web{}", uid.unwrap_or_default()),
        );
        plugin.env("CNI_NETNS", netns.unwrap_or(Path::new("")));
        plugin
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    pub(crate) fn run(&self, command: &str, id: &str, netns: Option<&Path>, config: &Value) -> Outcome {
        self.run_for(command, id, "eth0", netns, config)
    }

    pub(crate) fn run_for(
        &self,
        command: &str,
        id: &str,
        ifname: &str,
        netns: Option<&Path>,
        config: &Value,
    ) -> Outcome {
        let output = self
            .netns
            .run(|| {
                let mut child = self.spawn(command, id, ifname, netns);
                // A plugin that fails before it reads closes the pipe: its output tells why.
                let _ = child
                    .stdin
                    .take()
                    .unwrap()
                    .write_all(config.to_string().as_bytes());
                Ok::<_, orlop_cni::Error>(child.wait_with_output().unwrap())
            })
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let document = if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).expect(&text)
        };
        Outcome {
            success: output.status.success(),
            document,
        }
    }

    pub(crate) fn add(&self, pod: &Pod) -> Outcome {
        self.run("ADD", &pod.id, Some(&pod.path), &self.config)
    }

    pub(crate) fn del(&self, pod: &Pod) -> Outcome {
        self.run("DEL", &pod.id, Some(&pod.path), &self.config)
    }

    /// CHECK with the result of ADD, as a runtime does.
    pub(crate) fn check(&self, pod: &Pod, result: &Value) -> Outcome {
        let mut config = self.config.clone();
        config["prevResult"] = result.clone();
        self.run("CHECK", &pod.id, Some(&pod.path), &config)
    }

    /// Everything that pods have left on the node: interfaces and records.
    pub(crate) fn residue(&self) -> Vec<String> {
        let mut residue = links(&self.netns);
        residue.retain(|name| name != "lo");
        residue.extend(self.records());
        residue
    }

    /// The names of the address records.
    pub(crate) fn records(&self) -> Vec<String> {
        let Ok(boots) = std::fs::read_dir(self.dir.path().join("data/orlop")) else {
            return Vec::new();
        };
        let mut names: Vec<String> = boots
            .flat_map(|boot| std::fs::read_dir(boot.unwrap().path()).into_iter().flatten())
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("ready_") || name.starts_with("pending_"))
            .collect();
        names.sort();
        names
    }
}

/// Runs a program in a namespace and returns what it prints.
#[track_caller]
pub(crate) fn run_in(netns: &Netns, program: &str, args: &[&str]) -> String {
    let output = netns
        .run(|| Ok::<_, orlop_cni::Error>(Command::new(program).args(args).output().unwrap()))
        .unwrap();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The interfaces of a namespace.
pub(crate) fn links(netns: &Netns) -> Vec<String> {
    netns
        .run(|| Ok::<_, orlop_cni::Error>(Socket::open()?.link_names()?))
        .unwrap()
}

/// The addresses of a result, without their prefixes.
pub(crate) fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().unwrap();
    ips.iter()
        .map(|ip| {
            ip["address"]
                .as_str()
                .unwrap()
                .split('/')
                .next()
                .unwrap()
                .to_owned()
        })
        .collect()
}
