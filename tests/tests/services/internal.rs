//! Services as seen from inside the cluster.

use std::{collections::BTreeSet, thread, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;
use tests::suite::World;

use crate::stage::{
    BACKENDS,
    Client::{self, Backend, BackendPackets, Node, Packets, Pod},
    EVERYBODY,
    Expect::{Answers, Nobody, OneOf, Refused},
    INSIDE, Stage, at,
};

pub(crate) fn cluster_ip(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    let service = stage.service(json!({}))?;
    ensure!(service.cluster_ips().len() == 2, "dual stack gives two addresses");
    for ip in service.cluster_ips() {
        stage.expect(&INSIDE, &at(ip, 80), Answers(&BACKENDS))?;
    }
    // A backend that goes is not given out any more, one that comes is.
    world.run(&["delete", "pod", "web-1"])?;
    for ip in service.cluster_ips() {
        stage.expect(&INSIDE, &at(ip, 80), Answers(&["web-2"]))?;
    }
    stage.apply(&[stage.backend(1, json!({}))])?;
    for ip in service.cluster_ips() {
        stage.expect(&INSIDE, &at(ip, 80), Answers(&BACKENDS))?;
    }
    // A deleted Service is no address any more.
    world.run(&["delete", "service", "web"])?;
    for ip in service.cluster_ips() {
        stage.expect(&[Pod(1), Packets], &at(ip, 80), Nobody)?;
    }
    Ok(())
}

pub(crate) fn several_named_ports(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    // The same name is another number in each pod.
    world.run(&["delete", "pod", "web-1", "web-2"])?;
    let pods = [(1, 8081), (2, 8082)].map(|(node, port)| {
        stage.backend(
            node,
            json!({
                "args": ["serve", "--port", port.to_string()],
                "ports": [
                    {"name": "web", "containerPort": port},
                    {"name": "names", "containerPort": port, "protocol": "UDP"},
                ],
            }),
        )
    });
    stage.apply(&pods)?;
    let service = stage.service(json!({"ports": [
        {"name": "tcp", "port": 80, "targetPort": "web", "protocol": "TCP"},
        {"name": "other", "port": 81, "targetPort": "web", "protocol": "TCP"},
        {"name": "udp", "port": 80, "targetPort": "names", "protocol": "UDP"},
    ]}))?;
    for ip in service.cluster_ips() {
        stage.expect(&INSIDE, &at(ip, 80), Answers(&BACKENDS))?;
        stage.expect_by("tcp", &INSIDE, &at(ip, 81), Answers(&BACKENDS))?;
    }
    Ok(())
}

pub(crate) fn without_selector(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    let service = stage.service(json!({"selector": null}))?;
    for ip in service.cluster_ips() {
        stage.expect(&INSIDE, &at(ip, 80), Refused)?;
    }
    // Two slices of each family make up the endpoints.
    for (name, node) in [("first", 1), ("second", 2)] {
        let pod = world.get(&["pod", BACKENDS[node - 1]])?;
        for (index, family) in ["IPv4", "IPv6"].into_iter().enumerate() {
            stage.apply(&[json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("web-{name}-{}", family.to_lowercase()),
                    "labels": {"kubernetes.io/service-name": "web"},
                },
                "addressType": family,
                "endpoints": [{"addresses": [pod["status"]["podIPs"][index]["ip"]]}],
                "ports": [
                    {"name": "tcp", "port": 80, "protocol": "TCP"},
                    {"name": "udp", "port": 80, "protocol": "UDP"},
                ],
            })])?;
        }
    }
    for ip in service.cluster_ips() {
        stage.expect(&INSIDE, &at(ip, 80), Answers(&BACKENDS))?;
    }
    Ok(())
}

pub(crate) fn session_affinity(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    let with_timeout = |seconds: u32| {
        stage.service(json!({
            "type": "NodePort",
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}},
        }))
    };
    let service = with_timeout(600)?;
    stage.endpoints(2)?;
    for ip in service.cluster_ips() {
        stage.expect(&INSIDE, &at(ip, 80), OneOf(&BACKENDS))?;
    }
    for ip in stage.node_addresses(1) {
        for (protocol, port) in service.node_ports()? {
            stage.expect_by(protocol, &[Client::Outside], &at(ip, port), OneOf(&BACKENDS))?;
        }
    }
    // Whoever stays away for longer is nobody's client any more, and may get another backend.
    with_timeout(1)?;
    for ip in service.cluster_ips() {
        for client in [Pod(1), Packets] {
            let mut seen = BTreeSet::new();
            world.until(&format!("{client:?} to see both backends in time"), || {
                seen.insert(stage.ask(client, &at(ip, 80), "/hostname")?);
                thread::sleep(Duration::from_millis(1500));
                ensure!(seen.len() == BACKENDS.len(), "{seen:?}");
                Ok(())
            })?;
        }
    }
    Ok(())
}

pub(crate) fn internal_traffic_policy_local(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    let service = stage.service(json!({"internalTrafficPolicy": "Local"}))?;
    for ip in service.cluster_ips() {
        stage.expect(&[Pod(1), Packets, Node(1)], &at(ip, 80), Answers(&["web-1"]))?;
        stage.expect(&[Pod(2)], &at(ip, 80), Answers(&["web-2"]))?;
    }
    world.run(&["delete", "pod", "web-1"])?;
    for ip in service.cluster_ips() {
        stage.expect(&[Pod(1), Packets, Node(1)], &at(ip, 80), Nobody)?;
        stage.expect(&[Pod(2)], &at(ip, 80), Answers(&["web-2"]))?;
    }
    Ok(())
}

/// Endpoints that are about to go serve as long as there are no others.
pub(crate) fn terminating_endpoints(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    world.run(&["delete", "pod", "web-1", "web-2"])?;
    let slow = json!({"lifecycle": {"preStop": {"exec": {"command": ["sleep", "60"]}}}});
    let pods = [1, 2].map(|node| {
        let mut pod = stage.backend(node, slow.clone());
        pod["spec"]["terminationGracePeriodSeconds"] = json!(60);
        pod
    });
    stage.apply(&pods)?;
    stage.ready(&BACKENDS)?;
    let service = stage.service(json!({}))?;
    stage.endpoints(2)?;
    world.run(&["delete", "pod", "web-1", "--wait=false"])?;
    for ip in service.cluster_ips() {
        stage.expect(&INSIDE, &at(ip, 80), Answers(&["web-2"]))?;
    }
    world.run(&["delete", "pod", "web-2", "--wait=false"])?;
    stage.endpoints(0)?;
    for ip in service.cluster_ips() {
        stage.expect(&INSIDE, &at(ip, 80), Answers(&BACKENDS))?;
    }
    world
        .run(&["delete", "pod", "web-1", "web-2", "--grace-period=0", "--force"])
        .map(drop)
}

pub(crate) fn publish_not_ready_addresses(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    world.run(&["delete", "pod", "web-1", "web-2"])?;
    let never = json!({"readinessProbe": {"exec": {"command": ["false"]}, "periodSeconds": 1}});
    stage.apply(&[stage.backend(1, never)])?;
    let service = stage.service(json!({}))?;
    world.run(&[
        "wait",
        "--for=jsonpath={.status.phase}=Running",
        "--timeout=90s",
        "pod/web-1",
    ])?;
    for ip in service.cluster_ips() {
        stage.expect(&INSIDE, &at(ip, 80), Refused)?;
    }
    stage.service(json!({"publishNotReadyAddresses": true}))?;
    for ip in service.cluster_ips() {
        stage.expect(&INSIDE, &at(ip, 80), Answers(&["web-1"]))?;
    }
    Ok(())
}

pub(crate) fn no_endpoints_refuse(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    let service = stage.service(json!({"selector": {"app": "nobody"}, "type": "NodePort"}))?;
    for ip in service.cluster_ips() {
        stage.expect(&INSIDE, &at(ip, 80), Refused)?;
    }
    for ip in stage.node_addresses(1) {
        for (protocol, port) in service.node_ports()? {
            stage.expect_by(protocol, &EVERYBODY, &at(ip, port), Refused)?;
        }
    }
    Ok(())
}

/// What a Service has not is nobody's, and does not wander over the network.
pub(crate) fn other_ports_of_a_service(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    let service = stage.service(json!({}))?;
    for ip in service.cluster_ips() {
        stage.expect(&INSIDE, &at(ip, 80), Answers(&BACKENDS))?;
        stage.expect(&INSIDE, &at(ip, 8080), Nobody)?;
    }
    Ok(())
}

/// A backend reaches itself through its own Service.
pub(crate) fn hairpin(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    world.run(&["delete", "pod", "web-2"])?;
    let service = stage.service(json!({}))?;
    stage.endpoints(1)?;
    for ip in service.cluster_ips() {
        stage.expect(&[Backend(1), BackendPackets(1)], &at(ip, 80), Answers(&["web-1"]))?;
    }
    Ok(())
}

/// A Service that belongs to another proxy is left to it.
pub(crate) fn service_proxy_name(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    let service = stage.service(json!({}))?;
    for ip in service.cluster_ips() {
        stage.expect(&INSIDE, &at(ip, 80), Answers(&BACKENDS))?;
    }
    let label = "service.kubernetes.io/service-proxy-name";
    world.run(&["label", "service", "web", &format!("{label}=another")])?;
    for ip in service.cluster_ips() {
        stage.expect(&INSIDE, &at(ip, 80), Nobody)?;
    }
    world.run(&["label", "service", "web", &format!("{label}-")])?;
    for ip in service.cluster_ips() {
        stage.expect(&INSIDE, &at(ip, 80), Answers(&BACKENDS))?;
    }
    Ok(())
}
