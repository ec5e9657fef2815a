//! Pods on the devices that their kernel has: netkit where it can, else veth.

use std::{fs, path::Path, process::Command, thread, time::Duration};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;
use serde_json::Value;
use tests::{
    Component, Place,
    suite::{IMAGE, TIMEOUT, World, expect_contains, test_program},
};

/// Names what this kernel is known to have; `cargo xtask kernel-test` reads it from the kernel's configuration.
const NEEDED: &str = "PROXY_EBPF_TEST_NEEDS";
/// Exchanges of a client.
const COUNT: u64 = 20;

/// A pod comes up on the right pair of devices, can be talked to by kubectl, and leaves nothing behind.
pub(crate) fn lives_and_dies(world: &World<'_>) -> Result<()> {
    world.start_client("client")?;
    let kind = expected_kind(world)?;
    let device = device_of(world, "client")?;
    ensure!(device.kind == kind, "{device:?} is no {kind}");
    let inside = links(Place::namespace_of_pod(&uid(world, "client")?)?, world)?;
    let eth0 = inside.iter().find(|link| link.ifname == "eth0");
    let eth0 = eth0.context("the pod has no eth0")?;
    ensure!(eth0.linkinfo.info_kind.as_deref() == Some(kind), "{eth0:?}");
    // Past the suite's report, for whoever reads what a guest says.
    println!("[kernel] pods of containerd hang on {kind}");

    let said = world.run(&["exec", "client", "--", "echo", "hello"])?;
    expect_contains("exec", &said, "hello")?;
    world.run(&[
        "run",
        "teller",
        "--image",
        IMAGE,
        "--restart=Never",
        "--command",
        "--",
        "echo",
        "told",
    ])?;
    world.run(&[
        "wait",
        "--for=jsonpath={.status.phase}=Succeeded",
        TIMEOUT,
        "pod/teller",
    ])?;
    expect_contains("logs", &world.run(&["logs", "teller"])?, "told")?;

    let ips = ips(&world.get(&["pod", "client"])?);
    ensure!(ips.len() == 2, "{ips:?}");
    ensure!(records(world, &ips)? == 1, "the plugin has no record of {ips:?}");
    world.run(&["delete", "pod", "client", "teller", TIMEOUT])?;
    world.until("the device gone", || {
        let left = links(Place::Node(1), world)?;
        match left.iter().find(|link| link.ifname == device.name) {
            None => Ok(()),
            Some(left) => bail!("{left:?}"),
        }
    })?;
    world.until("the record gone", || match records(world, &ips)? {
        0 => Ok(()),
        left => bail!("{left} of {ips:?}"),
    })
}

/// By sockets, by packets, from the node and from outside, by both families and protocols; while the agent is away, and after
/// it is back.
pub(crate) fn service_on_every_way(world: &World<'_>) -> Result<()> {
    world.apply(&manifest())?;
    world.run(&["rollout", "status", "deployment/web", TIMEOUT])?;
    let ready = [
        "wait",
        "--for=condition=Ready",
        TIMEOUT,
        "pod/sockets",
        "pod/packets",
    ];
    world.run(&ready)?;
    world.until("ready endpoints of both families", || {
        match world.ready_endpoints("web")?.len() {
            4 => Ok(()),
            count => bail!("there are {count}"),
        }
    })?;
    every_way(world, "with the agent")?;

    let agent = Component::ProxyEbpf(1);
    let process = world.cluster.process(agent).context("the agent does not run")?;
    process.kill();
    // Away for a moment, not merely restarted.
    thread::sleep(Duration::from_secs(1));
    every_way(world, "without an agent")?;
    world.cluster.start_component(agent)?;
    // It takes over what there is, and adds what is new.
    world.run(&["scale", "deployment/web", "--replicas=1"])?;
    world.until("the ready endpoint of both families", || {
        match world.ready_endpoints("web")?.len() {
            2 => Ok(()),
            count => bail!("there are {count}"),
        }
    })?;
    world.until("the Service to lead to the one that is left", || {
        let pods = world.get(&["pods", "-l", "app=web"])?;
        let pods = pods["items"].as_array().map_or(&[][..], Vec::as_slice);
        ensure!(pods.len() == 1, "there are {}", pods.len());
        let service = world.get(&["service", "web"])?;
        let target = at(&cluster_ips(&service)[0], 80);
        let report = connect(world, Client::Pod("sockets"), &target, "tcp")?;
        let left = pods[0]["metadata"]["name"].as_str();
        ensure!(report.backends.keys().map(String::as_str).eq(left), "{report:?}");
        report.check()
    })?;
    every_way(world, "with the next agent")
}

fn every_way(world: &World<'_>, when: &str) -> Result<()> {
    let service = world.get(&["service", "web"])?;
    let node_port = service["spec"]["ports"][0]["nodePort"]
        .as_u64()
        .context("a node port")?;
    let node_port = u16::try_from(node_port)?;
    let layout = world.cluster.layout();
    let node = [layout.node_ip(1).to_string(), layout.node_ip6(1).to_string()];
    for (ip, node) in cluster_ips(&service).iter().zip(&node) {
        for protocol in ["tcp", "udp"] {
            for (client, target) in [
                (Client::Pod("sockets"), at(ip, 80)),
                (Client::Pod("packets"), at(ip, 80)),
                (Client::Pod("packets"), at(node, node_port)),
                (Client::Place(Place::Node(1)), at(ip, 80)),
                (Client::Place(Place::Outside), at(node, node_port)),
            ] {
                connect(world, client, &target, protocol)
                    .and_then(|report| report.check())
                    .with_context(|| format!("{client:?} to {target} by {protocol} {when}"))?;
            }
        }
    }
    if !can_opt_out()? {
        return Ok(());
    }
    // Who opts out is translated by packets, which leave a trace; who does not, is not.
    let connections = proxy(world, &["ct", "list"])?;
    let has = |pod: &str| -> Result<bool> {
        let ips = ips(&world.get(&["pod", pod])?);
        Ok(ips.iter().all(|ip| connections.contains(ip)))
    };
    ensure!(has("packets")?, "{connections}");
    ensure!(!has("sockets")?, "{connections}");
    Ok(())
}

/// Whether the kernel tells pods apart, as it does since 5.14.
fn can_opt_out() -> Result<bool> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?;
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    let mut next = || numbers.next().and_then(|number| number.parse::<u32>().ok());
    match (next(), next()) {
        (Some(major), Some(minor)) => Ok((major, minor) >= (5, 14)),
        _ => bail!("the kernel's release is {release:?}"),
    }
}

/// Two servers, their Service, and a client of each path.
fn manifest() -> String {
    let client = |name: &str, annotations: &str| {
        format!(
            r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, annotations: {{{annotations}}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: {IMAGE}
    command: [sh, -c, "trap 'exit 0' TERM; sleep 36000 & wait"]
"#
        )
    };
    let sockets = client("sockets", "");
    let packets = client("packets", r#"proxy-ebpf.orlop.dev/socket-path: "false""#);
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {{app: web}}
  ports:
  - {{name: tcp, port: 80, protocol: TCP, nodePort: 30080}}
  - {{name: udp, port: 80, protocol: UDP, nodePort: 30080}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: {IMAGE}
        readinessProbe: {{httpGet: {{path: /healthz, port: 80}}, timeoutSeconds: 30}}
---{sockets}---{packets}"#
    )
}

/// Who connects.
#[derive(Debug, Clone, Copy)]
enum Client<'a> {
    Pod(&'a str),
    Place(Place),
}

/// What the test program's `connect` prints.
#[derive(Debug, Deserialize)]
struct Report {
    backends: std::collections::BTreeMap<String, u64>,
    failures: u64,
    errors: Vec<String>,
}

impl Report {
    /// Every exchange was answered.
    fn check(&self) -> Result<()> {
        let answered: u64 = self.backends.values().sum();
        let names: Vec<_> = self.backends.keys().collect();
        ensure!(
            self.failures == 0 && answered == COUNT,
            "{answered} of {COUNT} were answered, by {names:?}: {:?}",
            self.errors
        );
        Ok(())
    }
}

fn connect(world: &World<'_>, client: Client<'_>, target: &str, protocol: &str) -> Result<Report> {
    let count = COUNT.to_string();
    let arguments = [
        "connect",
        target,
        "--proto",
        protocol,
        "--count",
        &count,
        "--timeout-ms",
        "30000",
    ];
    let mut command = match client {
        Client::Pod(name) => world
            .kubectl
            .command(world.scoped(&["exec", name, "--", "/test"])),
        Client::Place(place) => place.command(world.cluster, &test_program())?,
    };
    let output = command.args(arguments).output().context("start a client")?;
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.trim())
        .with_context(|| format!("parse {text:?}; {}", String::from_utf8_lossy(&output.stderr)))
}

fn at(ip: &str, port: u16) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

fn cluster_ips(service: &Value) -> Vec<String> {
    let ips = service["spec"]["clusterIPs"].as_array();
    ips.into_iter()
        .flatten()
        .filter_map(|ip| ip.as_str().map(str::to_owned))
        .collect()
}

fn ips(pod: &Value) -> Vec<String> {
    let ips = pod["status"]["podIPs"].as_array();
    ips.into_iter()
        .flatten()
        .filter_map(|ip| ip["ip"].as_str().map(str::to_owned))
        .collect()
}

fn uid(world: &World<'_>, pod: &str) -> Result<String> {
    let pod = world.get(&["pod", pod])?;
    let uid = pod["metadata"]["uid"].as_str();
    uid.map(str::to_owned).context("a pod without uid")
}

/// A device, as `ip -json -details link` shows it.
#[derive(Debug, Deserialize)]
struct Link {
    ifindex: u32,
    ifname: String,
    link_index: Option<u32>,
    #[serde(default)]
    linkinfo: LinkInfo,
}

#[derive(Debug, Default, Deserialize)]
struct LinkInfo {
    info_kind: Option<String>,
}

fn links(place: Place, world: &World<'_>) -> Result<Vec<Link>> {
    let output = place
        .command(world.cluster, Path::new("ip"))?
        .args(["-json", "-details", "link", "show"])
        .output()
        .context("start ip")?;
    ensure!(
        output.status.success(),
        "ip link: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("parse {}", String::from_utf8_lossy(&output.stdout)))
}

/// The node's end of a pod's pair.
#[derive(Debug)]
struct Device {
    name: String,
    kind: String,
}

fn device_of(world: &World<'_>, pod: &str) -> Result<Device> {
    let inside = links(Place::namespace_of_pod(&uid(world, pod)?)?, world)?;
    let eth0 = inside
        .iter()
        .find(|link| link.ifname == "eth0")
        .context("the pod has no eth0")?;
    let other_end = eth0.link_index.context("eth0 is no end of a pair")?;
    let link = links(Place::Node(1), world)?
        .into_iter()
        .find(|link| link.ifindex == other_end)
        .ok_or_else(|| anyhow!("the node has no device {other_end}"))?;
    Ok(Device {
        kind: link.linkinfo.info_kind.context("a device of no kind")?,
        name: link.ifname,
    })
}

/// What pods should hang on: the agent writes into the configuration what it has found, and a kernel that is known to have
/// netkit must not be found to have none.
fn expected_kind(world: &World<'_>) -> Result<&'static str> {
    let path = world.cluster.layout().cni_conf_dir(1).join("10-orlop.conflist");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let conflist: Value = serde_json::from_str(&text).context("parse the CNI configuration")?;
    let needed = std::env::var(NEEDED).unwrap_or_default();
    let has_netkit = needed.split(' ').any(|needed| needed == "netkit");
    match conflist["plugins"][0]["device"].as_str() {
        Some("auto") => Ok("netkit"),
        Some("veth") if !has_netkit => Ok("veth"),
        other => bail!("the configuration says {other:?}; the kernel is known to have: {needed:?}"),
    }
}

/// How many of the plugin's records name all these addresses.
fn records(world: &World<'_>, ips: &[String]) -> Result<usize> {
    let data = world.cluster.layout().node_state(1).join("cni/data/orlop");
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("read the boot id")?;
    let directory = data.join(boot_id.trim());
    let entries = fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))?;
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names
        .filter(|name| ips.iter().all(|ip| name.contains(ip.as_str())))
        .count())
}

/// What the service proxy prints.
fn proxy(world: &World<'_>, args: &[&str]) -> Result<String> {
    let cluster = world.cluster;
    let output = Command::new(cluster.config().binaries.directory.join("proxy-ebpf"))
        .args(args)
        .arg("--bpf-dir")
        .arg(cluster.layout().bpf_dir(1))
        .output()
        .context("start proxy-ebpf")?;
    ensure!(
        output.status.success(),
        "proxy-ebpf {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
