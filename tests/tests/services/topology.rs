//! Services whose clients should be kept near.

use anyhow::{Result, bail, ensure};
use serde_json::json;
use tests::suite::World;

use crate::stage::{
    BACKENDS,
    Client::{Node, Packets, Pod},
    Expect::Answers,
    INSIDE, Stage, at,
};

const ZONE: &str = "topology.kubernetes.io/zone";

/// A zone for each node, for as long as this lives.
struct Zones<'a>(&'a World<'a>);

impl<'a> Zones<'a> {
    fn set(world: &'a World<'a>) -> Result<Self> {
        let zones = Self(world);
        for (node, zone) in [(1, "east"), (2, "west")] {
            zones.label(node, &format!("{ZONE}={zone}"))?;
        }
        Ok(zones)
    }

    fn label(&self, node: usize, label: &str) -> Result<()> {
        let name = self.0.cluster.layout().node_name(node);
        self.0
            .kubectl
            .run(&["label", "node", &name, "--overwrite", label])
            .map(drop)
    }
}

impl Drop for Zones<'_> {
    fn drop(&mut self) {
        for node in [1, 2] {
            if let Err(error) = self.label(node, &format!("{ZONE}-")) {
                eprintln!("the zone of node {node} is left behind: {error:#}");
            }
        }
    }
}

/// Clients of either node see the backend of their own.
fn expect_near(stage: &Stage<'_>, ips: &[std::net::IpAddr]) -> Result<()> {
    for ip in ips {
        stage.expect(&[Pod(1), Packets, Node(1)], &at(*ip, 80), Answers(&["web-1"]))?;
        stage.expect(&[Pod(2)], &at(*ip, 80), Answers(&["web-2"]))?;
    }
    Ok(())
}

pub(crate) fn prefer_same_node(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    let service = stage.service(json!({"trafficDistribution": "PreferSameNode"}))?;
    expect_near(&stage, &service.cluster_ips())?;
    // A preference, no demand.
    world.run(&["delete", "pod", "web-1"])?;
    for ip in service.cluster_ips() {
        stage.expect(&[Pod(1), Packets, Node(1)], &at(ip, 80), Answers(&["web-2"]))?;
    }
    Ok(())
}

pub(crate) fn prefer_same_zone(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    let _zones = Zones::set(world)?;
    for name in ["PreferSameZone", "PreferClose"] {
        let service = stage.service(json!({"trafficDistribution": name}))?;
        expect_near(&stage, &service.cluster_ips())?;
        let service = stage.service(json!({"trafficDistribution": null}))?;
        for ip in service.cluster_ips() {
            stage.expect(&INSIDE, &at(ip, 80), Answers(&BACKENDS))?;
        }
    }
    let service = stage.service(json!({"trafficDistribution": "PreferSameZone"}))?;
    expect_near(&stage, &service.cluster_ips())?;
    // A zone without an endpoint is served by the others.
    world.run(&["delete", "pod", "web-2"])?;
    for ip in service.cluster_ips() {
        stage.expect(&INSIDE, &at(ip, 80), Answers(&["web-1"]))?;
    }
    Ok(())
}

/// `service.kubernetes.io/topology-mode: Auto`: zones get endpoints by their CPU, which the two nodes have as much of.
pub(crate) fn topology_mode_auto(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    let _zones = Zones::set(world)?;
    let service = stage.service(json!({}))?;
    world.run(&[
        "annotate",
        "service",
        "web",
        "service.kubernetes.io/topology-mode=Auto",
    ])?;
    expect_near(&stage, &service.cluster_ips())?;
    said(world, "TopologyAwareHintsEnabled")?;
    // One endpoint cannot be fair to two zones: both use it, and somebody says why.
    world.run(&["delete", "pod", "web-1"])?;
    for ip in service.cluster_ips() {
        stage.expect(&INSIDE, &at(ip, 80), Answers(&["web-2"]))?;
    }
    said(world, "TopologyAwareHintsDisabled")?;
    let slices = world.get(&["endpointslices", "-l", "kubernetes.io/service-name=web"])?;
    ensure!(
        !slices.to_string().contains("\"hints\""),
        "hints are left: {slices}"
    );
    Ok(())
}

fn said(world: &World<'_>, reason: &str) -> Result<()> {
    world.until(&format!("an Event {reason}"), || {
        let selector = format!("--field-selector=reason={reason}");
        match world.run(&["get", "events", &selector, "-o", "name"])?.trim() {
            "" => bail!("there is none"),
            _ => Ok(()),
        }
    })
}
