//! What is no Service of this proxy, what should not be in a slice, and what outlives its backend.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tests::suite::{World, expect_contains};

use crate::stage::{
    BACKENDS,
    Client::{Packets, Pod},
    Expect::Answers,
    INSIDE, Stage, at,
};

pub(crate) fn headless(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    stage.service(json!({"clusterIP": "None"}))?;
    stage.endpoints(2)?;
    // One that the proxy knows, so that what it has seen of the first is known to be all.
    world.run(&["create", "service", "clusterip", "other", "--tcp=80"])?;
    stage.known("other", &[1])?;
    let services = stage.proxy(1, &["service", "list"])?;
    for ip in stage.pod_ips()?.concat() {
        ensure!(
            !services.contains(&at(ip, 80)),
            "a headless Service is proxied: {services}"
        );
    }
    // Its clients know the pods' own addresses, which nobody translates.
    for (index, ips) in stage.pod_ips()?.into_iter().enumerate() {
        for ip in ips {
            stage.expect(&INSIDE, &at(ip, 80), Answers(&[BACKENDS[index]]))?;
        }
    }
    Ok(())
}

/// Addresses that mean something else on every node are refused by name, and what is wrong with one Service is no other's
/// business.
pub(crate) fn bad_input(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    let service = stage.service(json!({"type": "NodePort"}))?;
    let slice = |name: &str, family: &str, address: &str| {
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "odd"}},
            "addressType": family,
            "endpoints": [{"addresses": [address]}],
            "ports": [{"name": "tcp", "port": 80, "protocol": "TCP"}],
        })
    };
    for (family, address) in [
        ("IPv4", "127.0.0.1"),
        ("IPv4", "0.0.0.0"),
        ("IPv4", "169.254.0.1"),
        ("IPv4", "224.0.0.1"),
        ("IPv4", "no address"),
        ("IPv4", "fd00::1"),
        ("IPv6", "::1"),
        ("IPv6", "::"),
        ("IPv6", "fe80::1"),
        ("IPv6", "ff02::1"),
        ("IPv6", "10.0.0.1"),
    ] {
        match stage.apply(&[slice("refused", family, address)]) {
            Ok(()) => bail!("a slice of {family} with the address {address} was accepted"),
            Err(error) => expect_contains("the refusal", &format!("{error:#}"), "endpoints[0].addresses[0]")?,
        }
    }
    // Two Services cannot have one node port.
    let port = service.node_port()?;
    let odd = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "odd"},
        "spec": {"type": "NodePort", "ports": [{"name": "tcp", "port": 80, "nodePort": port}]},
    });
    match stage.apply(&[odd]) {
        Ok(()) => bail!("node port {port} was given to two Services"),
        Err(error) => expect_contains("the refusal", &format!("{error:#}"), "already allocated")?,
    }
    // What is accepted and leads nowhere: an address that nobody has, a host name, a port without a number.
    let nowhere = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "odd"},
        "spec": {"ports": [{"name": "tcp", "port": 80}]},
    });
    let mut all_ports = slice("all-ports", "IPv4", "192.0.2.2");
    all_ports["ports"] = json!([{"name": "tcp", "protocol": "TCP"}]);
    stage.apply(&[
        nowhere,
        slice("nobody", "IPv4", "192.0.2.1"),
        slice("name", "FQDN", "example.com"),
        all_ports,
    ])?;
    world.until("the proxy to have taken them in", || {
        let services = stage.proxy(1, &["service", "list"])?;
        expect_contains("service list", &services, "192.0.2.1:80")
    })?;
    for ip in service.cluster_ips() {
        stage.expect(&INSIDE, &at(ip, 80), Answers(&BACKENDS))?;
    }
    Ok(())
}

/// A datagram socket that is connected to a backend which is no endpoint any more is ended, also while that backend lives on and
/// answers; its owner's next socket reaches another one.
pub(crate) fn connected_socket_of_a_backend_that_left(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    let service = stage.service(json!({"selector": null}))?;
    let ips = stage.pod_ips()?;
    for (index, vip) in service.cluster_ips().into_iter().enumerate() {
        let endpoint = |node: usize| -> Result<()> {
            let family = if vip.is_ipv6() { "IPv6" } else { "IPv4" };
            let address = ips[node - 1].get(index).context("a pod without an address")?;
            stage.apply(&[slice_of_web(family, &[address.to_string()])])
        };
        endpoint(1)?;
        stage.expect_by("udp", &[Pod(1), Packets], &at(vip, 80), Answers(&["web-1"]))?;
        let arguments = ["exec", "client-1", "--", "/test", "ask", &at(vip, 80)];
        let repeat = ["--count", "2000", "--interval-ms", "50", "--timeout-ms", "60000"];
        let mut command = world
            .kubectl
            .command(world.scoped(&[&arguments[..], &repeat].concat()));
        let mut child = Killed(command.stdout(Stdio::piped()).spawn().context("start kubectl")?);
        let mut lines = BufReader::new(child.0.stdout.take().context("a pipe")?).lines();
        let mut next = || {
            lines
                .next()
                .context("the client has ended")?
                .context("read its lines")
        };
        let first = next()?;
        ensure!(first == "web-1", "{first} answered first");
        endpoint(2)?;
        let then = next()?;
        // An ended socket says so once, by whichever call comes first: a read is told why, a write that nobody is connected.
        let ended = ["connection abort", "Destination address required"];
        ensure!(
            then.starts_with("error: ") && ended.iter().any(|how| then.contains(how)),
            "after its backend had left the client saw {then:?}"
        );
        let last = next()?;
        ensure!(last == "web-2", "{last} answered last");
    }
    Ok(())
}

/// With the annotation a pod's sockets are left alone and its packets are translated; without, no packet ever is.
pub(crate) fn a_pod_opts_out_of_the_socket_path(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    let service = stage.service(json!({}))?;
    let targets: Vec<String> = service.cluster_ips().into_iter().map(|ip| at(ip, 80)).collect();
    let annotate = |value: &str| {
        let annotation = format!("proxy-ebpf.orlop.dev/socket-path{value}");
        world.run(&["annotate", "pod", "client-1", &annotation]).map(drop)
    };
    // How many connections of the pod to the Service the packet path has seen, after some more were made.
    let seen = |target: &str| -> Result<usize> {
        stage.expect_by("tcp", &[Pod(1)], target, Answers(&BACKENDS))?;
        let connections: Value = serde_json::from_str(&stage.proxy(1, &["ct", "list", "-o", "json"])?)?;
        let connections = connections.as_array().context("no list")?;
        Ok(connections
            .iter()
            .filter(|connection| connection["destination"] == *target)
            .count())
    };
    for target in &targets {
        let count = seen(target)?;
        ensure!(count == 0, "{count} connections to {target} went by packets");
    }
    annotate("=false")?;
    for target in &targets {
        world.until(&format!("connections to {target} to go by packets"), || {
            ensure!(seen(target)? > 0, "none does");
            Ok(())
        })?;
    }
    annotate("-")?;
    for target in &targets {
        world.until(&format!("connections to {target} to go by sockets again"), || {
            let before = seen(target)?;
            let after = seen(target)?;
            ensure!(after <= before, "there are {after} by packets after {before}");
            Ok(())
        })?;
    }
    Ok(())
}

/// A process that does not outlive its scenario.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One of the slices of the Service `web`, made by hand.
pub(crate) fn slice_of_web(family: &str, addresses: &[String]) -> Value {
    let endpoints: Vec<Value> = addresses
        .iter()
        .map(|address| json!({"addresses": [address]}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("web-{}", family.to_lowercase()),
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": [
            {"name": "tcp", "port": 80, "protocol": "TCP"},
            {"name": "udp", "port": 80, "protocol": "UDP"},
        ],
    })
}
