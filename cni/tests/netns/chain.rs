//! The plugin in chains with the reference plugins (Debian's containernetworking-plugins), before it and after it.

use std::path::Path;
use std::process::{Command, Stdio};

use orlop_cni::Error;
use serde_json::{Value, json};

use crate::support::{Node, Pod, addresses, links, run_in};

/// Where Debian puts the reference plugins.
const REFERENCE: &str = "/usr/lib/cni";

/// A list of plugins, run as a runtime runs it: each gets the result of the one before.
struct Chain<'a> {
    node: &'a Node,
    version: &'static str,
    plugins: Vec<Value>,
}

impl Chain<'_> {
    fn call(
        &self,
        command: &str,
        plugin: &Value,
        pod: &Pod,
        previous: Option<&Value>,
    ) -> Result<Value, String> {
        let mut config = plugin.clone();
        config["cniVersion"] = self.version.into();
        config["name"] = "orlop".into();
        if let Some(previous) = previous {
            config["prevResult"] = previous.clone();
        }
        let kind = plugin["type"].as_str().unwrap();
        let program = match kind {
            "orlop-cni" => env!("CARGO_BIN_EXE_orlop-cni").into(),
            kind => Path::new(REFERENCE).join(kind),
        };
        let output = self
            .node
            .netns
            .run(|| {
                let mut child = Command::new(&program)
                    .env("CNI_COMMAND", command)
                    .env("CNI_CONTAINERID", &pod.id)
                    .env("CNI_IFNAME", "eth0")
                    .env("CNI_NETNS", &pod.path)
                    .env("CNI_PATH", REFERENCE)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap_or_else(|error| panic!("{}: {error}; run: cargo xtask setup", program.display()));
                let mut stdin = child.stdin.take().unwrap();
                std::io::Write::write_all(&mut stdin, config.to_string().as_bytes()).unwrap();
                drop(stdin);
                Ok::<_, Error>(child.wait_with_output().unwrap())
            })
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            return Err(format!(
                "{command} {kind}: {text}{}",
                String::from_utf8_lossy(&output.stderr)
            ));
        }
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    fn add(&self, pod: &Pod) -> Result<Value, String> {
        let mut previous = None;
        for plugin in &self.plugins {
            previous = Some(self.call("ADD", plugin, pod, previous.as_ref())?);
        }
        Ok(previous.unwrap())
    }

    fn check(&self, pod: &Pod, result: &Value) -> Result<(), String> {
        // Debian's portmap looks for its rule for IPv4 among those for IPv6 too.
        let mut plugins = self.plugins.iter().filter(|plugin| plugin["type"] != "portmap");
        plugins.try_for_each(|plugin| self.call("CHECK", plugin, pod, Some(result)).map(drop))
    }

    fn del(&self, pod: &Pod, result: &Value) -> Result<(), String> {
        let mut plugins = self.plugins.iter().rev();
        plugins.try_for_each(|plugin| self.call("DEL", plugin, pod, Some(result)).map(drop))
    }
}

fn orlop(node: &Node) -> Value {
    node.config.clone()
}

#[test]
fn reference_plugins_follow_in_every_version_that_they_speak() {
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        let node = Node::new();
        let mut chain = Chain {
            node: &node,
            version,
            plugins: vec![
                orlop(&node),
                json!({"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}}),
                json!({"type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 80_000,
                       "egressRate": 8_000_000, "egressBurst": 80_000}),
                json!({"type": "portmap", "snat": false,
                       "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}}),
            ],
        };
        // Debian's firewall plugin does not speak the oldest.
        if version != "0.3.1" {
            chain
                .plugins
                .push(json!({"type": "firewall", "backend": "iptables"}));
        }
        let pod = node.pod("a");
        let result = chain.add(&pod).unwrap();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(addresses(&result), ["10.244.0.2", "fd00:10:244::2"]);
        let somaxconn = pod
            .netns
            .run(|| Ok::<_, Error>(std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap()))
            .unwrap();
        assert_eq!(somaxconn.trim(), "500");
        if version != "0.3.1" {
            chain.check(&pod, &result).unwrap();
        }
        chain.del(&pod, &result).unwrap();
        assert_eq!(node.records(), Vec::<String>::new());
        assert_eq!(links(&pod.netns), ["lo"]);
        // What the others leave is theirs: nothing of ours is among it.
        assert!(!links(&node.netns).iter().any(|name| name.starts_with("orl")));
    }
}

#[test]
fn a_reference_plugin_comes_before() {
    let node = Node::new();
    let chain = Chain {
        node: &node,
        version: "1.0.0",
        plugins: vec![
            json!({"type": "loopback"}),
            orlop(&node),
            json!({"type": "tuning", "mtu": 1400}),
        ],
    };
    let pod = node.pod("a");
    let result = chain.add(&pod).unwrap();
    let names: Vec<_> = result["interfaces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["name"].clone())
        .collect();
    assert_eq!((names[0].clone(), names[2].clone()), ("lo".into(), "eth0".into()));
    let ips = result["ips"].as_array().unwrap();
    let own = ips
        .iter()
        .find(|ip| ip["address"] == "10.244.0.2/32")
        .expect("our address");
    assert_eq!(own["interface"], 2);
    // What a plugin after ours has changed is no reason for CHECK to fail.
    chain.check(&pod, &result).unwrap();
    chain.del(&pod, &result).unwrap();
    assert_eq!(node.residue(), Vec::<String>::new());
}

#[test]
fn a_pods_own_routing_table_is_no_reason_for_check_to_fail() {
    let node = Node::new();
    let chain = Chain {
        node: &node,
        version: "1.0.0",
        plugins: vec![orlop(&node), json!({"type": "sbr"})],
    };
    let pod = node.pod("a");
    let result = chain.add(&pod).unwrap();
    // The default routes are in a table of their own now.
    assert_eq!(run_in(&pod.netns, "ip", &["-4", "route", "show", "default"]), "");
    assert!(run_in(&pod.netns, "ip", &["-4", "rule"]).contains("from 10.244.0.2"));
    chain.check(&pod, &result).unwrap();
    chain.del(&pod, &result).unwrap();
    assert_eq!(node.residue(), Vec::<String>::new());
}

#[test]
fn everything_that_follows_can_follow_at_once() {
    let node = Node::new();
    let chain = Chain {
        node: &node,
        version: "1.0.0",
        plugins: vec![
            json!({"type": "loopback"}),
            orlop(&node),
            json!({"type": "tuning", "sysctl": {"net.core.somaxconn": "501"}, "promisc": true}),
            json!({"type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 80_000}),
            json!({"type": "portmap", "snat": true,
                   "runtimeConfig": {"portMappings": [{"hostPort": 8081, "containerPort": 80, "protocol": "tcp"}]}}),
            json!({"type": "firewall", "backend": "iptables"}),
            json!({"type": "sbr"}),
        ],
    };
    let pod = node.pod("a");
    let result = chain.add(&pod).unwrap();
    chain.check(&pod, &result).unwrap();
    chain.del(&pod, &result).unwrap();
    // A second time, as runtimes do when they are not sure.
    chain.call("DEL", &orlop(&node), &pod, None).unwrap();
    assert_eq!(node.records(), Vec::<String>::new());
    assert_eq!(links(&pod.netns), ["lo"]);
}

#[test]
fn a_plugin_that_makes_the_interface_itself_cannot_come_before() {
    let node = Node::new();
    let ptp = json!({"type": "ptp", "ipam": {"type": "host-local", "subnet": "10.99.0.0/24",
                     "dataDir": node.dir.path().join("host-local")}});
    let chain = Chain {
        node: &node,
        version: "1.0.0",
        plugins: vec![ptp.clone(), orlop(&node)],
    };
    let pod = node.pod("a");
    let error = chain.add(&pod).unwrap_err();
    assert!(
        error.contains("ADD orlop-cni") && error.contains("File exists"),
        "{error}"
    );
    assert_eq!(node.records(), Vec::<String>::new());
    // What was there is as it was, and the runtime's DEL of the whole chain goes through.
    assert!(links(&pod.netns).contains(&"eth0".to_owned()));
    chain.call("DEL", &orlop(&node), &pod, None).unwrap();
    chain.call("DEL", &ptp, &pod, None).unwrap();
    assert_eq!(links(&pod.netns), ["lo"]);
}

#[test]
fn a_chain_that_breaks_off_is_undone_by_del() {
    let node = Node::new();
    let broken = json!({"type": "bandwidth", "ingressRate": 8_000_000});
    let chain = Chain {
        node: &node,
        version: "1.0.0",
        plugins: vec![orlop(&node), broken],
    };
    let pod = node.pod("a");
    chain.add(&pod).unwrap_err();
    assert_eq!(node.records().len(), 1);
    // As runtimes do it: the last result that there was, or none.
    chain.call("DEL", &orlop(&node), &pod, None).unwrap();
    assert_eq!(node.residue(), Vec::<String>::new());
}
