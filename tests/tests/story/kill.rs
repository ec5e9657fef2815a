//! `kill -9` of each daemon in turn, under traffic.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tests::Component;

use crate::{
    IMAGE, World,
    service::{Connections, cluster_ip},
};

/// Connections that the client makes while daemons die: one each 10 ms.
const CONNECTIONS: &str = "2000";

pub(crate) fn each_daemon_under_traffic(world: &World<'_>) -> Result<()> {
    world.start_web(3)?;
    world.start_client("client")?;
    let address = cluster_ip(world, "web")?;
    world.until("three ready endpoints", || {
        match world.ready_endpoints("web")?.len() {
            3 => Ok(()),
            count => bail!("there are {count}"),
        }
    })?;
    let before = containers(world)?;
    let objects = names(world)?;
    // The client runs in the background of its pod, so that no stream through a killed daemon carries its report.
    let command = format!(
        "(/test connect {address}:80 --proto tcp --count {CONNECTIONS} --interval-ms 10 > /tmp/report 2>&1; touch /tmp/done) > /dev/null 2>&1 &"
    );
    world.run(&["exec", "client", "--", "sh", "-c", &command])?;

    for component in [
        Component::ControlPlane,
        Component::Kubelet(1),
        Component::ProxyEbpf(1),
        Component::Containerd(1),
    ] {
        let process = world
            .cluster
            .process(component)
            .with_context(|| format!("{} does not run", component.name()))?;
        process.kill();
        // Dead for a moment, not merely restarted: traffic must not need it.
        std::thread::sleep(Duration::from_millis(500));
        world.cluster.start_component(component)?;
        world.cluster.wait_for_api()?;
        converges(world).with_context(|| format!("after kill -9 of {}", component.name()))?;
    }
    world.until("the client's report", || {
        world
            .run(&["exec", "client", "--", "test", "-e", "/tmp/done"])
            .map(drop)
    })?;
    let report = world.run(&["exec", "client", "--", "cat", "/tmp/report"])?;
    Connections::parse(&report)?
        .check(CONNECTIONS.parse()?, 3)
        .context("traffic while daemons were killed")?;

    let after = containers(world)?;
    if before != after {
        bail!("containers were restarted: {before:?} became {after:?}");
    }
    let now = names(world)?;
    if let Some(lost) = objects.iter().find(|name| !now.contains(name)) {
        bail!("{lost} was lost");
    }
    Ok(())
}

/// The cluster does all its work again: a new Deployment rolls out, its Service has endpoints, it can be deleted.
fn converges(world: &World<'_>) -> Result<()> {
    world.run(&["wait", "--for=condition=Ready", "--timeout=90s", "node/node1"])?;
    world.run(&["create", "deployment", "again", "--image", IMAGE, "--replicas=1"])?;
    world.run(&["rollout", "status", "deployment/again", "--timeout=90s"])?;
    world.run(&["delete", "deployment", "again", "--timeout=90s"])?;
    world.until("its pod gone", || {
        match world
            .run(&["get", "pods", "-l", "app=again", "-o", "name"])?
            .trim()
        {
            "" => Ok(()),
            left => bail!("left: {left}"),
        }
    })
}

/// Each container's id and restart count: the same before and after, or something was restarted.
fn containers(world: &World<'_>) -> Result<Vec<(String, Value, Value)>> {
    let pods = world.get(&["pods"])?;
    let mut all: Vec<(String, Value, Value)> = pods["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|pod| {
            let status = &pod["status"]["containerStatuses"][0];
            (
                pod["metadata"]["name"].to_string(),
                status["containerID"].clone(),
                status["restartCount"].clone(),
            )
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(all)
}

/// Everything of the scenario that must not be lost.
fn names(world: &World<'_>) -> Result<Vec<String>> {
    let kinds = "deployments,replicasets,pods,services,endpointslices,configmaps,serviceaccounts";
    let text = world.run(&["get", kinds, "-o", "name"])?;
    Ok(text.lines().map(str::to_owned).collect())
}
