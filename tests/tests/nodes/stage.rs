//! What every scenario plays on: a pod on each node.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use tests::{
    Place,
    suite::{IMAGE, World, test_program},
};

/// The nodes; the last one is beyond the router.
pub(crate) const NODES: [usize; 3] = [1, 2, 3];
/// The port of the server that measures.
pub(crate) const STREAM_PORT: u16 = 8081;

/// What the test program's `connect` prints.
#[derive(Debug, Deserialize)]
pub(crate) struct Report {
    pub(crate) backends: BTreeMap<String, u64>,
    failures: u64,
    errors: Vec<String>,
}

/// Pods `pod-1` to `pod-3`, each on the node of its number.
pub(crate) struct Stage<'a> {
    pub(crate) world: &'a World<'a>,
    /// Their addresses, one of each family.
    pub(crate) ips: BTreeMap<usize, Vec<IpAddr>>,
}

/// A pod on a node that serves on port 80, and measures on [`STREAM_PORT`].
pub(crate) fn pod(world: &World<'_>, node: usize) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": format!("pod-{node}"), "labels": {"app": "web"}},
        "spec": {
            "nodeName": world.cluster.layout().node_name(node),
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {"name": "main", "image": IMAGE},
                {"name": "stream", "image": IMAGE, "command": ["/test", "answer", "--port", STREAM_PORT.to_string()]},
            ],
        },
    })
}

/// `address:port`, with brackets where IPv6 needs them.
pub(crate) fn at(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

impl<'a> Stage<'a> {
    pub(crate) fn set(world: &'a World<'a>) -> Result<Self> {
        Self::set_with(world, NODES.map(|node| pod(world, node)).to_vec())
    }

    /// The same with pods of one's own making.
    pub(crate) fn set_with(world: &'a World<'a>, pods: Vec<Value>) -> Result<Self> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": pods});
        world.apply(&list.to_string())?;
        let names = NODES.map(|node| format!("pod/pod-{node}"));
        let mut wait = vec!["wait", "--for=condition=Ready", "--timeout=90s"];
        wait.extend(names.iter().map(String::as_str));
        world.run(&wait)?;
        let mut stage = Self {
            world,
            ips: BTreeMap::new(),
        };
        for node in NODES {
            let pod = world.get(&["pod", &format!("pod-{node}")])?;
            let ips = pod["status"]["podIPs"].as_array();
            let ips: Vec<IpAddr> = ips
                .into_iter()
                .flatten()
                .filter_map(|ip| ip["ip"].as_str()?.parse().ok())
                .collect();
            if ips.len() != 2 {
                bail!("pod-{node} has the addresses {ips:?}, not one of each family");
            }
            stage.ips.insert(node, ips);
        }
        Ok(stage)
    }

    /// Runs the test program in a pod.
    pub(crate) fn in_pod(&self, node: usize, args: &[&str]) -> Result<String> {
        let name = format!("pod-{node}");
        let mut command = vec!["exec", &name, "-c", "main", "--", "/test"];
        command.extend(args);
        self.world.run(&command)
    }

    /// What a pod sees at an address.
    pub(crate) fn connect(&self, node: usize, target: &str, count: usize) -> Result<Report> {
        let count = count.to_string();
        report(&self.in_pod(node, &["connect", target, "--count", &count])?)
    }

    /// The same of a process in the pod's network namespace but outside of its cgroup: packets are translated, no sockets.
    pub(crate) fn connect_by_packets(&self, node: usize, target: &str, count: usize) -> Result<Report> {
        let output = self
            .namespace_of(node)?
            .command(self.world.cluster, &test_program())?
            .args(["connect", target, "--count", &count.to_string()])
            .output()
            .context("run the test program beside a pod")?;
        report(&String::from_utf8_lossy(&output.stdout))
    }

    /// The network namespace of the pod of a node.
    pub(crate) fn namespace_of(&self, node: usize) -> Result<Place> {
        let pod = self.world.get(&["pod", &format!("pod-{node}")])?;
        Place::namespace_of_pod(pod["metadata"]["uid"].as_str().context("a pod without uid")?)
    }

    /// The answer to a pod's request for a path.
    pub(crate) fn ask(&self, node: usize, target: &str, path: &str) -> Result<String> {
        let report = report(&self.in_pod(node, &["connect", target, "--path", path])?)?;
        report.backends.into_keys().next().context("no answer")
    }

    /// What a process of a node sees at an address.
    pub(crate) fn connect_from_node(&self, node: usize, target: &str, path: &str) -> Result<Report> {
        let output = Place::Node(node)
            .command(self.world.cluster, &test_program())?
            .args(["connect", target, "--path", path])
            .output()
            .context("run the test program on a node")?;
        report(&String::from_utf8_lossy(&output.stdout))
    }

    /// Checks, until it holds, that every pod reaches every other directly.
    pub(crate) fn all_reach_all(&self) -> Result<()> {
        self.reach_all(&NODES)
    }

    /// The same for the pods of these nodes alone.
    pub(crate) fn reach_all(&self, from: &[usize]) -> Result<()> {
        for &from in from {
            for to in NODES {
                for ip in &self.ips[&to] {
                    self.world
                        .until(&format!("pod-{from} to reach {ip} of pod-{to}"), || {
                            let report = self.connect(from, &at(*ip, 80), 2)?;
                            match report.backends.contains_key(&format!("pod-{to}")) {
                                true => Ok(()),
                                false => bail!("{report:?}"),
                            }
                        })?;
                }
            }
        }
        Ok(())
    }

    /// What `ip` prints on a node.
    pub(crate) fn ip(&self, node: usize, args: &[&str]) -> Result<String> {
        self.run_on(node, "ip", args)
    }

    /// What `bridge` prints on a node.
    pub(crate) fn bridge(&self, node: usize, args: &[&str]) -> Result<String> {
        self.run_on(node, "bridge", args)
    }

    fn run_on(&self, node: usize, program: &str, args: &[&str]) -> Result<String> {
        let output = Place::Node(node)
            .command(self.world.cluster, Path::new(program))?
            .args(args)
            .output()
            .with_context(|| format!("run {program}"))?;
        if !output.status.success() {
            bail!("{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The routes that a node's agent has made, of both families.
    pub(crate) fn routes(&self, node: usize) -> Result<String> {
        let ipv4 = self.ip(node, &["-4", "route", "show", "proto", "114"])?;
        Ok(ipv4 + &self.ip(node, &["-6", "route", "show", "proto", "114"])?)
    }
}

/// A report without failures.
fn report(text: &str) -> Result<Report> {
    let report: Report =
        serde_json::from_str(text.trim()).with_context(|| format!("not a report: {text}"))?;
    if report.failures > 0 {
        bail!("{} failures: {:?}", report.failures, report.errors);
    }
    Ok(report)
}
