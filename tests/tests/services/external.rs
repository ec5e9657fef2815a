//! Services as seen from nodes and from outside the cluster.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{Component, suite::World};

use crate::stage::{
    BACKENDS,
    Client::{self, Node, Outside, Packets, Pod},
    EVERYBODY,
    Expect::{self, Answers, Dropped, Nobody},
    Service, Stage, at,
};

/// Of the ranges for documentation: a load balancer's addresses.
const BALANCER: [&str; 2] = ["203.0.113.10", "2001:db8::10"];
/// Addresses that a router sends to a node.
const EXTERNAL: [&str; 2] = ["198.51.100.10", "2001:db8:1::10"];

fn parse(addresses: [&str; 2]) -> Result<Vec<IpAddr>> {
    addresses
        .into_iter()
        .map(|address| address.parse().with_context(|| format!("parse {address}")))
        .collect()
}

/// Writes the load balancer's addresses into the status, as a cloud controller does, and routes them to node 1.
fn balance(stage: &Stage<'_>) -> Result<Vec<IpAddr>> {
    let ingress: Vec<Value> = BALANCER
        .iter()
        .map(|ip| json!({"ip": ip, "ipMode": "VIP"}))
        .collect();
    let patch = json!({"status": {"loadBalancer": {"ingress": ingress}}}).to_string();
    stage.world.run(&[
        "patch",
        "service",
        "web",
        "--subresource=status",
        "--type=merge",
        "-p",
        &patch,
    ])?;
    let addresses = parse(BALANCER)?;
    for address in &addresses {
        stage.route_from_outside(*address, 1)?;
    }
    Ok(addresses)
}

pub(crate) fn node_port(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    let service = stage.service(json!({"type": "NodePort"}))?;
    for node in [1, 2] {
        for ip in stage.node_addresses(node) {
            for (protocol, port) in service.node_ports()? {
                stage.expect_by(protocol, &EVERYBODY, &at(ip, port), Answers(&BACKENDS))?;
            }
        }
    }
    Ok(())
}

pub(crate) fn node_port_on_loopback(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    let service = stage.service(json!({"type": "NodePort"}))?;
    for ip in parse(["127.0.0.1", "::1"])? {
        for (protocol, port) in service.node_ports()? {
            let target = at(ip, port);
            stage.expect_by(protocol, &[Node(1), Node(2)], &target, Answers(&BACKENDS))?;
            // The loopback of a pod is its own.
            stage.expect_by(protocol, &[Pod(1), Packets], &target, Nobody)?;
        }
    }
    Ok(())
}

/// An agent that was told which addresses have node ports keeps to them. Clients on other nodes are that nodes' agents' business.
pub(crate) fn node_port_at_chosen_addresses(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    let service = stage.service(json!({"type": "NodePort"}))?;
    let ports = service.node_ports()?;
    let [ipv4, ipv6] = stage.node_addresses(2);
    let expect = |clients: &[Client], ip: IpAddr, expected: Expect<'_>| -> Result<()> {
        for (protocol, port) in ports {
            stage.expect_by(protocol, clients, &at(ip, port), expected)?;
        }
        Ok(())
    };
    let clients = [Node(2), Outside];
    for ip in [ipv4, ipv6] {
        expect(&clients, ip, Answers(&BACKENDS))?;
    }
    world.cluster.restart_with(
        Component::ProxyEbpf(2),
        &["--nodeport-addresses", &format!("{ipv4}/32")],
    )?;
    let outcome = expect(&clients, ipv6, Nobody)
        .and_then(|()| expect(&[Node(2)], Ipv4Addr::LOCALHOST.into(), Nobody))
        .and_then(|()| expect(&clients, ipv4, Answers(&BACKENDS)));
    world.cluster.restart_with(Component::ProxyEbpf(2), &[])?;
    outcome?;
    for ip in [ipv4, ipv6] {
        expect(&clients, ip, Answers(&BACKENDS))?;
    }
    Ok(())
}

pub(crate) fn load_balancer_and_external_ips(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    stage.service(json!({"type": "LoadBalancer", "externalIPs": EXTERNAL}))?;
    for ip in balance(&stage)? {
        stage.expect(&EVERYBODY, &at(ip, 80), Answers(&BACKENDS))?;
    }
    for ip in parse(EXTERNAL)? {
        stage.route_from_outside(ip, 2)?;
        stage.expect(&EVERYBODY, &at(ip, 80), Answers(&BACKENDS))?;
    }
    Ok(())
}

pub(crate) fn load_balancer_source_ranges(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    let service = |ranges: &[&str]| -> Result<Service> {
        stage.service(json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ranges}))
    };
    service(&["172.31.0.0/24", "fd00:31::/64"])?;
    let addresses = balance(&stage)?;
    for ip in &addresses {
        stage.expect(&[Outside, Node(1)], &at(*ip, 80), Answers(&BACKENDS))?;
        stage.expect(&[Pod(1), Packets], &at(*ip, 80), Nobody)?;
    }
    service(&["192.0.2.0/24", "2001:db8:2::/64"])?;
    for ip in &addresses {
        stage.expect(&[Outside, Node(1), Pod(1), Packets], &at(*ip, 80), Dropped)?;
    }
    // Ranges of one family do not restrict the other.
    service(&["192.0.2.0/24"])?;
    for ip in &addresses {
        let expected = if ip.is_ipv4() { Dropped } else { Answers(&BACKENDS) };
        stage.expect(&[Outside], &at(*ip, 80), expected)?;
    }
    Ok(())
}

pub(crate) fn load_balancer_without_node_ports(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    let service = stage.service(json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false}))?;
    ensure!(service.node_port().is_err(), "a node port was allocated");
    for ip in balance(&stage)? {
        stage.expect(&EVERYBODY, &at(ip, 80), Answers(&BACKENDS))?;
    }
    Ok(())
}

pub(crate) fn external_traffic_policy_local(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    let service = stage.service(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}))?;
    let health = service.get("/spec/healthCheckNodePort").and_then(Value::as_u64);
    let health = health
        .and_then(|port| u16::try_from(port).ok())
        .context("a healthCheckNodePort")?;
    let balancer = balance(&stage)?;
    for node in [1, 2] {
        for ip in stage.node_addresses(node) {
            let own = [BACKENDS[node - 1]];
            for (protocol, port) in service.node_ports()? {
                stage.expect_by(protocol, &[Outside], &at(ip, port), Answers(&own))?;
            }
            let target = at(ip, service.node_port()?);
            // The backend sees who it is.
            let seen = stage.ask(Outside, &target, "/clientip")?;
            ensure!(
                seen.starts_with("172.31.0.") || seen.starts_with("fd00:31:"),
                "the backend sees {seen}"
            );
        }
    }
    for ip in &balancer {
        stage.expect(&[Outside], &at(*ip, 80), Answers(&["web-1"]))?;
        // From inside, the policy of where one comes in has no meaning.
        stage.expect(&[Pod(1), Packets, Node(1)], &at(*ip, 80), Answers(&BACKENDS))?;
    }
    for ip in stage.node_addresses(1) {
        let answer = stage.ask(Outside, &at(ip, health), "/")?;
        ensure!(
            answer.contains("\"localEndpoints\":1"),
            "the health check says {answer}"
        );
    }
    // A node without a backend drops, so that the load balancer's next try goes elsewhere.
    world.run(&["delete", "pod", "web-2"])?;
    for ip in stage.node_addresses(2) {
        for (protocol, port) in service.node_ports()? {
            stage.expect_by(protocol, &[Outside], &at(ip, port), Dropped)?;
        }
        world.until("the health check to say no", || {
            match stage.ask(Outside, &at(ip, health), "/") {
                Err(_) => Ok(()),
                Ok(answer) => anyhow::bail!("it says {answer}"),
            }
        })?;
    }
    Ok(())
}

pub(crate) fn host_port(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    world.run(&["delete", "pod", "web-1"])?;
    let ports = json!({"ports": [
        {"name": "tcp", "containerPort": 80, "hostPort": 8180, "protocol": "TCP"},
        {"name": "udp", "containerPort": 80, "hostPort": 8180, "protocol": "UDP"},
    ]});
    stage.apply(&[stage.backend(1, ports)])?;
    stage.ready(&["web-1"])?;
    for ip in stage.node_addresses(1) {
        stage.expect(&EVERYBODY, &at(ip, 8180), Answers(&["web-1"]))?;
    }
    for ip in stage.node_addresses(2) {
        stage.expect(&[Pod(1), Packets, Outside], &at(ip, 8180), Nobody)?;
    }
    Ok(())
}
