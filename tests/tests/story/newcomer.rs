//! The first minutes: what a newcomer types to see what there is.

use anyhow::{Result, bail};
use tests::{Cluster, Component};

use crate::{World, expect_contains};

pub(crate) fn looks_around(world: &World<'_>) -> Result<()> {
    let nodes = world.run(&["get", "nodes"])?;
    expect_contains("get nodes", &nodes, "node1")?;
    expect_contains("get nodes", &nodes, "Ready")?;
    expect_contains("get nodes", &nodes, "v1.37")?;
    world.run(&["get", "pods", "-A", "-o", "wide"])?;

    let description = world.run(&["describe", "node", "node1"])?;
    for part in [
        "KubeletReady",
        "Capacity:",
        "containerd://",
        "PodCIDRs:",
        "InternalIP:",
        "Allocated resources:",
    ] {
        expect_contains("describe node", &description, part)?;
    }
    let resources = world.run(&["api-resources"])?;
    for kind in [
        "Deployment",
        "EndpointSlice",
        "CustomResourceDefinition",
        "FlowSchema",
        "ResourceClaim",
        "ValidatingAdmissionPolicy",
    ] {
        expect_contains("api-resources", &resources, kind)?;
    }
    expect_contains("version", &world.run(&["version"])?, "Server Version: v1.37")?;
    expect_contains("cluster-info", &world.run(&["cluster-info"])?, "is running at")?;
    let service = world.kubectl.get(&["service", "kubernetes", "-n", "default"])?;
    if service["spec"]["clusterIP"] != "10.96.0.1" {
        bail!(
            "the Service kubernetes has the address {}",
            service["spec"]["clusterIP"]
        );
    }
    for namespace in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        world
            .kubectl
            .run(&["get", "serviceaccount", "default", "-n", namespace])?;
        world
            .kubectl
            .run(&["get", "configmap", "kube-root-ca.crt", "-n", namespace])?;
    }
    Ok(())
}

pub(crate) fn runs_up_twice(world: &World<'_>) -> Result<()> {
    let components = [
        Component::ControlPlane,
        Component::Containerd(1),
        Component::Kubelet(1),
        Component::ProxyEbpf(1),
    ];
    let before = components.map(|component| world.cluster.process(component));
    Cluster::start(world.cluster.config().clone(), &mut |_| {})?;
    let after = components.map(|component| world.cluster.process(component));
    if before != after || before.contains(&None) {
        bail!("a second start replaced a running process: {before:?} became {after:?}");
    }
    Ok(())
}
