//! Who reaches whom, and with which address.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tests::suite::World;

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

/// What fits between neighbours does not fit into the tunnel: pods must know.
pub(crate) fn large_packets_pass(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    for (from, to) in [(1, 3), (3, 1), (1, 2)] {
        for &ip in &stage.ips[&to] {
            let target = at(ip, STREAM_PORT);
            let text = stage.in_pod(from, &["load", &target, "--mode", "stream", "--seconds", "1"])?;
            let report: Value = serde_json::from_str(text.trim()).context("a report")?;
            let bytes = report["bytes_per_second"].as_f64().unwrap_or_default();
            // A connection whose large packets are lost transfers next to nothing.
            if report["failures"] != 0 || bytes < 1_000_000.0 {
                bail!("pod-{from} to {target}: {report}");
            }
        }
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
                let report = stage.connect(from, &at(ip, 80), 40)?;
                match report.backends.len() {
                    3 => Ok(()),
                    _ => bail!("{report:?}"),
                }
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
    world.until("the host port to be closed", || {
        match stage.connect(2, &at(layout.node_ip(1).into(), 8180), 1) {
            Err(_) => Ok(()),
            Ok(report) => bail!("{report:?}"),
        }
    })
}

/// The annotation travels through kubelet and containerd to the plugin.
pub(crate) fn bandwidth(world: &World<'_>) -> Result<()> {
    let mut pods = NODES.map(|node| pod(world, node));
    pods[0]["metadata"]["annotations"] =
        json!({"kubernetes.io/ingress-bandwidth": "8M", "kubernetes.io/egress-bandwidth": "16M"});
    let stage = Stage::set_with(world, pods.to_vec())?;
    let link = stage.ip(1, &["-4", "route", "get", &stage.ips[&1][0].to_string()])?;
    let link = link
        .split("dev ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .context("no route")?;
    let shown = stage.ip(1, &["link", "show", "dev", link])?;
    if !shown.contains("qdisc tbf") {
        bail!("the node's end is not limited: {shown}");
    }
    let target = at(stage.ips[&2][0], STREAM_PORT);
    let text = stage.in_pod(1, &["load", &target, "--mode", "stream", "--seconds", "1"])?;
    if text.contains("\"failures\": 0") {
        Ok(())
    } else {
        bail!("{text}")
    }
}
