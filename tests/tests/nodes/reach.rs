//! Who reaches whom, and with which address.

use std::{net::IpAddr, time::Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tests::{
    Place, iperf,
    suite::{World, test_program},
};

use crate::stage::{NODES, STREAM_PORT, Stage, at, pod};

/// An address of the same family.
fn like(ips: &[IpAddr], other: IpAddr) -> Result<IpAddr> {
    let mut ips = ips.iter().copied();
    ips.find(|ip| ip.is_ipv6() == other.is_ipv6())
        .context("no address of the family")
}

pub(crate) fn pods_reach_pods(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    stage.all_reach_all()?;
    // Nobody translates a pod's address on the way to another pod.
    for from in NODES {
        for to in NODES {
            for &ip in &stage.ips[&to] {
                let seen = stage.ask(from, &at(ip, 80), "/clientip")?;
                let own = like(&stage.ips[&from], ip)?;
                if seen.parse() != Ok(own) {
                    bail!("pod-{to} at {ip} saw {seen} instead of pod-{from}'s {own}");
                }
            }
        }
    }
    // As it should be: directly on one network, by VXLAN beyond.
    for (from, near) in [(1, Some(2)), (2, Some(1)), (3, None)] {
        for line in stage.routes(from)?.lines() {
            let by_vxlan = line.contains("dev orlop-vxlan");
            let layout = world.cluster.layout();
            let direct = near.is_some_and(|near| {
                line.contains(&format!("via {} ", layout.node_ip(near)))
                    || line.contains(&format!("via {} ", layout.node_ip6(near)))
            });
            if by_vxlan == direct {
                bail!("node{from} has a route that is neither to a neighbour nor by VXLAN: {line}");
            }
        }
        let count = stage.routes(from)?.lines().count();
        if count != 4 {
            bail!("node{from} has {count} routes: {}", stage.routes(from)?);
        }
    }
    Ok(())
}

pub(crate) fn nodes_reach_pods(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    for from in NODES {
        for to in NODES {
            for &ip in &stage.ips[&to] {
                world.until(&format!("node{from} to reach {ip} of pod-{to}"), || {
                    stage.connect_from_node(from, &at(ip, 80), "/hostname").map(drop)
                })?;
            }
        }
    }
    Ok(())
}

/// Fails unless a stream has passed. A connection whose large packets are lost transfers next to nothing.
fn passed(report: &str) -> Result<()> {
    let report: Value = serde_json::from_str(report.trim()).context("a report")?;
    let bytes = report["bytes_per_second"].as_f64().unwrap_or_default();
    ensure!(report["failures"] == 0 && bytes > 1_000_000.0, "{report}");
    Ok(())
}

/// What fits between neighbours does not fit into the tunnel: pods must know.
pub(crate) fn large_packets_pass(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    for (from, to) in [(1, 3), (3, 1), (1, 2)] {
        for &ip in &stage.ips[&to] {
            let target = at(ip, STREAM_PORT);
            let text = stage.in_pod(from, &["load", &target, "--mode", "stream", "--seconds", "1"])?;
            passed(&text).with_context(|| format!("pod-{from} to {target}"))?;
        }
    }
    // By a Service, from a machine that knows nothing of the tunnel: it is told by the address that it has asked for.
    let far = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "far"},
        "spec": {
            "type": "NodePort",
            "selector": {"node": "3"},
            "ipFamilyPolicy": "RequireDualStack",
            "ports": [{"port": STREAM_PORT}],
        },
    });
    world.run(&["label", "pod", "pod-3", "node=3"])?;
    world.apply(&far.to_string())?;
    let far = world.get(&["service", "far"])?;
    let port = far["spec"]["ports"][0]["nodePort"].as_u64();
    let port = port
        .and_then(|port| u16::try_from(port).ok())
        .context("a node port")?;
    let cluster_ips = far["spec"]["clusterIPs"].as_array().into_iter().flatten();
    let cluster_ips = cluster_ips.filter_map(|ip| ip.as_str()?.parse::<IpAddr>().ok());
    let layout = world.cluster.layout();
    let mut ways: Vec<_> = [IpAddr::from(layout.node_ip(1)), layout.node_ip6(1).into()]
        .map(|ip| (Place::Outside, at(ip, port)))
        .to_vec();
    let packets = stage.namespace_of(1)?;
    ways.extend(cluster_ips.map(|ip| (packets, at(ip, STREAM_PORT))));
    for (place, target) in ways {
        world.until(&format!("large packets from {place:?} to {target}"), || {
            let output = place
                .command(world.cluster, &test_program())?
                .args(["load", &target, "--mode", "stream", "--seconds", "1"])
                .output()
                .context("run the test program")?;
            passed(&String::from_utf8_lossy(&output.stdout))
        })?;
    }
    for node in NODES {
        let mtu = world.run(&[
            "exec",
            &format!("pod-{node}"),
            "-c",
            "main",
            "--",
            "cat",
            "/sys/class/net/eth0/mtu",
        ])?;
        if mtu.trim() != "1450" {
            bail!("pod-{node} has an MTU of {mtu}");
        }
    }
    Ok(())
}

pub(crate) fn a_service_spreads(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80}]},
    });
    world.apply(&service.to_string())?;
    let service = world.get(&["service", "web"])?;
    let ips = service["spec"]["clusterIPs"]
        .as_array()
        .context("no clusterIPs")?;
    for ip in ips.iter().filter_map(|ip| ip.as_str()?.parse::<IpAddr>().ok()) {
        for from in NODES {
            world.until(&format!("all backends to answer pod-{from} at {ip}"), || {
                // By the sockets of a pod, and by its packets.
                let target = at(ip, 80);
                for report in [
                    stage.connect(from, &target, 40)?,
                    stage.connect_by_packets(from, &target, 40)?,
                ] {
                    ensure!(report.backends.len() == 3, "{report:?}");
                }
                Ok(())
            })?;
        }
    }
    Ok(())
}

pub(crate) fn host_port(world: &World<'_>) -> Result<()> {
    let mut pods = NODES.map(|node| pod(world, node));
    pods[0]["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": 8180}]);
    let stage = Stage::set_with(world, pods.to_vec())?;
    let layout = world.cluster.layout();
    for ip in [IpAddr::from(layout.node_ip(1)), layout.node_ip6(1).into()] {
        let target = at(ip, 8180);
        world.until(&format!("{target} to lead to pod-1"), || {
            let report = stage.connect(1, &target, 2)?;
            match report.backends.contains_key("pod-1") {
                true => Ok(()),
                false => bail!("{report:?}"),
            }
        })?;
    }
    for ip in [IpAddr::from(layout.node_ip(2)), layout.node_ip6(2).into()] {
        if let Ok(report) = stage.connect(2, &at(ip, 8180), 1) {
            bail!("node2 has the host port too: {report:?}");
        }
    }
    // It is closed with the pod.
    world.run(&["delete", "pod", "pod-1", "--wait=true"])?;
    for ip in [IpAddr::from(layout.node_ip(1)), layout.node_ip6(1).into()] {
        world.until("the host port to be closed", || {
            match stage.connect(2, &at(ip, 8180), 1) {
                Err(_) => Ok(()),
                Ok(report) => bail!("{report:?}"),
            }
        })?;
    }
    Ok(())
}

/// What a pod may get and send, in bits per second.
const INGRESS: u64 = 40_000_000;
const EGRESS: u64 = 80_000_000;
/// What a pod may get, and send, at once before that: containerd asks for as many bits as a number of 32 bits can say.
const BURST_BYTES: u64 = u32::MAX as u64 / 8;
/// More than that.
const DRAIN: &str = "520M";
/// How long the other transfers take.
const SECONDS: &str = "2";

/// The annotations travel through kubelet and containerd to the plugin, and what passes is measured. A limit is a bucket of tokens:
/// however fast the machine is, no more than the bucket and what has run into it can have passed.
pub(crate) fn bandwidth(world: &World<'_>) -> Result<()> {
    let mut pods = NODES.map(|node| pod(world, node)).to_vec();
    pods[0]["metadata"]["annotations"] = json!({
        "kubernetes.io/ingress-bandwidth": INGRESS.to_string(),
        "kubernetes.io/egress-bandwidth": EGRESS.to_string(),
    });
    let mut neighbour = pod(world, 1);
    neighbour["metadata"]["name"] = json!("neighbour");
    pods.push(neighbour);
    let stage = Stage::set_with(world, pods)?;
    world.run(&["wait", "--for=condition=Ready", "--timeout=90s", "pod/neighbour"])?;
    let limited = Peer::of(&stage, "pod-1")?;
    // Without limits, on the same node and on another one.
    let others = [Peer::of(&stage, "neighbour")?, Peer::of(&stage, "pod-2")?];
    for (what, bits, inbound) in [("gets", INGRESS, true), ("sends", EGRESS, false)] {
        let way = |other: &'_ Peer| {
            if inbound {
                (other.place, limited.place)
            } else {
                (limited.place, other.place)
            }
        };
        let (begun, mut passed) = (Instant::now(), 0);
        let mut pass = |other: &Peer, family: usize, arguments: &[&str]| -> Result<(u64, u64)> {
            let to = if inbound { &limited } else { other };
            let transfer = iperf::transfer(
                world.cluster,
                way(other),
                (&to.ips[family], iperf::PORT),
                arguments,
            )?;
            let most = BURST_BYTES + (begun.elapsed().as_secs_f64() * bits as f64 / 8.0) as u64 - passed;
            passed += transfer.bytes;
            Ok((transfer.bytes, most))
        };
        let (bytes, most) = pass(&others[0], 0, &["-n", DRAIN])?;
        ensure!(
            bytes > BURST_BYTES && bytes <= most,
            "pod-1 {what} {bytes} bytes at once, of {most}"
        );
        let mut most_of_all = 0;
        for (other, family) in others.iter().flat_map(|other| [(other, 0), (other, 1)]) {
            let (bytes, most) = pass(other, family, &["-t", SECONDS])?;
            println!(
                "  pod-1 {what} {bytes} of at most {most} bytes, the other is {}",
                other.name
            );
            ensure!(
                (1..=most).contains(&bytes),
                "pod-1 {what} {bytes} bytes of {most}"
            );
            most_of_all = most_of_all.max(most);
        }
        // Without a limit more passes in the same time, on one node and between two.
        for (other, from) in others.iter().flat_map(|other| [(other, 1), (other, 2)]) {
            let what = format!("more than {most_of_all} bytes from node{from} to {}", other.name);
            world.until(&what, || {
                let places = (Place::Node(from), other.place);
                let to = (other.ips[0].as_str(), iperf::PORT);
                let free = iperf::transfer(world.cluster, places, to, &["-t", SECONDS])?;
                ensure!(free.bytes > most_of_all, "{free:?}");
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// A pod that sends or gets.
struct Peer {
    name: &'static str,
    place: Place,
    /// Its addresses, one of each family.
    ips: Vec<String>,
}

impl Peer {
    fn of(stage: &Stage<'_>, name: &'static str) -> Result<Self> {
        let pod = stage.world.get(&["pod", name])?;
        let ips = pod["status"]["podIPs"].as_array().into_iter().flatten();
        Ok(Self {
            name,
            place: Place::namespace_of_pod(pod["metadata"]["uid"].as_str().context("a pod without uid")?)?,
            ips: ips.filter_map(|ip| Some(ip["ip"].as_str()?.to_owned())).collect(),
        })
    }
}
