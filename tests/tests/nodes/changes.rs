//! What happens to the network when nodes and routes change.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::json;
use tests::{Component, suite::World};

use crate::stage::Stage;

/// Somebody else's tool tidied up; the kernel tells the agent.
pub(crate) fn routes_are_put_back(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    let before = stage.routes(1)?;
    stage.ip(1, &["link", "del", "orlop-vxlan"])?;
    let near = before
        .lines()
        .find(|line| line.contains("dev eth0"))
        .context("a direct route")?;
    let near = near.split(' ').next().context("a destination")?;
    stage.ip(1, &["route", "del", near])?;
    world.until("the routes to be as before", || match stage.routes(1)? {
        now if now == before => Ok(()),
        now => bail!("{now}\ninstead of\n{before}"),
    })?;
    stage.all_reach_all()
}

/// The node beyond the router moves to another address; its pods go on as they are.
pub(crate) fn readdressed(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    let (cluster, layout) = (world.cluster, world.cluster.layout());
    let old = layout.node_ip(3);
    let [a, b, c, _] = old.octets();
    let new = IpAddr::from([a, b, c, 99]);
    // What a kubelet would report after its machine has got another address. This one must not contradict.
    let kubelet = cluster.process(Component::Kubelet(3)).context("a kubelet")?;
    kubelet.terminate(Duration::from_secs(10))?;
    stage.ip(3, &["address", "add", &format!("{new}/24"), "dev", "eth0"])?;
    let (name, ipv6) = (layout.node_name(3), layout.node_ip6(3));
    let addresses = json!([{"type": "InternalIP", "address": new}, {"type": "InternalIP", "address": ipv6},
                           {"type": "Hostname", "address": name}]);
    let patch = json!({"status": {"addresses": addresses}}).to_string();
    let status = [
        "patch",
        "node",
        &name,
        "--subresource=status",
        "--type=merge",
        "-p",
        &patch,
    ];
    world.kubectl.run(&status)?;
    world.until("node1 to send frames for node3 to its new address", || {
        let entries = stage.bridge(1, &["fdb", "show", "dev", "orlop-vxlan"])?;
        match entries.contains(&format!("dst {new}")) {
            true => Ok(()),
            false => bail!("{entries}"),
        }
    })?;
    // Nothing can be run in its pods while its kubelet is away, but they answer.
    stage.reach_all(&[1, 2])?;

    // And back, by the kubelet itself. The old address was there all along: its going would take the new one, and the way
    // to the router, with it.
    cluster.start_component(Component::Kubelet(3))?;
    world.until("node1 to send frames for node3 to its old address", || {
        let entries = stage.bridge(1, &["fdb", "show", "dev", "orlop-vxlan"])?;
        match entries.contains(&format!("dst {old}")) {
            true => Ok(()),
            false => bail!("{entries}"),
        }
    })?;
    stage.ip(3, &["address", "del", &format!("{new}/24"), "dev", "eth0"])?;
    stage.all_reach_all()
}

/// The routes to a node's pods are gone with it, and back with it.
pub(crate) fn removed_and_added(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    let cluster = world.cluster;
    let names = [2, 3].map(|node| cluster.layout().node_name(node));
    for node in [2, 3] {
        let kubelet = cluster.process(Component::Kubelet(node)).context("a kubelet")?;
        kubelet.terminate(Duration::from_secs(10))?;
    }
    world.kubectl.run(&["delete", "node", &names[0], &names[1]])?;
    world.until("node1 to have no routes to other nodes, and no tunnel", || {
        let (routes, links) = (stage.routes(1)?, stage.ip(1, &["link", "show", "type", "vxlan"])?);
        match routes.is_empty() && links.is_empty() {
            true => Ok(()),
            false => bail!("{routes}{links}"),
        }
    })?;
    for node in [2, 3] {
        cluster.start_component(Component::Kubelet(node))?;
        cluster.wait_for_node(node)?;
    }
    // The pods of removed nodes are removed too; these are new ones, in whatever networks the nodes have now.
    world.run(&[
        "delete",
        "pods",
        "--all",
        "--force",
        "--grace-period=0",
        "--wait=true",
    ])?;
    Stage::set(world)?.all_reach_all()
}
