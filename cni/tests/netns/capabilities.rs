//! What the runtime asks for one pod: addresses, bandwidth, name servers, host ports.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use orlop_cni::Error;
use orlop_cni::netns::Netns;
use serde_json::{Value, json};

use crate::support::{Node, addresses, run_in};

/// The configuration with what the runtime adds to it.
fn with(node: &Node, runtime: Value) -> Value {
    let mut config = node.config.clone();
    config["runtimeConfig"] = runtime;
    config
}

fn check(
    node: &Node,
    id: &str,
    path: &std::path::Path,
    config: &Value,
    result: &Value,
) -> crate::support::Outcome {
    let mut config = config.clone();
    config["prevResult"] = result.clone();
    node.run("CHECK", id, Some(path), &config)
}

#[test]
fn addresses_and_name_servers_are_as_asked_for() {
    let node = Node::new();
    let (a, b) = (node.pod("a"), node.pod("b"));
    let config = with(
        &node,
        json!({"ips": ["10.244.0.77/24"], "mac": "02:00:5e:10:00:77",
               "dns": {"servers": ["10.96.0.10"], "searches": ["svc.cluster.local"]}}),
    );
    let result = node.run("ADD", "a", Some(&a.path), &config).unwrap();
    // The other family is left to the plugin.
    assert_eq!(addresses(&result), ["10.244.0.77", "fd00:10:244::2"]);
    assert_eq!(result["interfaces"][1]["mac"], "02:00:5e:10:00:77");
    assert_eq!(
        result["dns"],
        json!({"nameservers": ["10.96.0.10"], "search": ["svc.cluster.local"]})
    );
    assert!(run_in(&a.netns, "ip", &["link", "show", "eth0"]).contains("02:00:5e:10:00:77"));
    check(&node, "a", &a.path, &config, &result).unwrap();

    // Somebody else has it now.
    let (code, message) = node.run("ADD", "b", Some(&b.path), &config).unwrap_err();
    assert_eq!(
        (code, message.contains("10.244.0.77 was asked for")),
        (103, true),
        "{message}"
    );
    assert_eq!(node.records().len(), 1);
    let (code, message) = node
        .run(
            "ADD",
            "b",
            Some(&b.path),
            &with(&node, json!({"ips": ["192.0.2.1"]})),
        )
        .unwrap_err();
    assert_eq!(
        (code, message.contains("ips: 192.0.2.1 is not an address")),
        (7, true),
        "{message}"
    );
    node.run("DEL", "a", None, &config).unwrap();
    node.run("ADD", "b", Some(&b.path), &config).unwrap();
}

#[test]
fn an_address_that_is_asked_for_is_taken_from_a_pod_that_is_gone() {
    let node = Node::new();
    let config = with(&node, json!({"ips": ["10.244.0.77"]}));
    let gone = node.pod("gone");
    node.run("ADD", "gone", Some(&gone.path), &config).unwrap();
    // No DEL: only its namespace ends.
    drop(gone);
    let next = node.pod("next");
    let result = node.run("ADD", "next", Some(&next.path), &config).unwrap();
    assert_eq!(addresses(&result)[0], "10.244.0.77");
    assert_eq!(node.records().len(), 1);
}

#[test]
fn host_ports_are_refused_unless_somebody_opens_them() {
    let node = Node::new();
    let pod = node.pod("a");
    let mut config = with(
        &node,
        json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}),
    );
    let (code, message) = node.run("ADD", "a", Some(&pod.path), &config).unwrap_err();
    assert_eq!((code, message.contains("hostPort 8080")), (2, true), "{message}");
    assert_eq!(node.residue(), Vec::<String>::new());
    config["hostPorts"] = "proxy-ebpf".into();
    node.run("ADD", "a", Some(&pod.path), &config).unwrap();
}

/// Sends `bytes` from one namespace to an address in the other and returns how long it took until they had arrived.
pub(crate) fn transfer(from: &Netns, to: &Netns, address: &str, bytes: usize) -> Duration {
    let address: IpAddr = address.parse().unwrap();
    let listener = to
        .run(|| Ok::<_, Error>(TcpListener::bind(SocketAddr::new(address, 0)).unwrap()))
        .unwrap();
    let target = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        let server = scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            std::io::copy(&mut (&mut stream).take(bytes as u64), &mut std::io::sink()).unwrap();
            stream.write_all(b"done").unwrap();
        });
        let took = from
            .run(|| {
                let began = Instant::now();
                let mut stream = TcpStream::connect(target).unwrap();
                stream.write_all(&vec![0; bytes]).unwrap();
                let mut answer = [0; 4];
                stream.read_exact(&mut answer).unwrap();
                Ok::<_, Error>(began.elapsed())
            })
            .unwrap();
        server.join().unwrap();
        took
    })
}

#[test]
fn bandwidth_is_limited_in_the_direction_asked_for() {
    let node = Node::new();
    let (to, from) = (node.pod("to"), node.pod("from"));
    // A megabyte per second, of which a tenth may come at once.
    let (rate, burst) = (8_000_000, 800_000);
    let ingress = with(
        &node,
        json!({"bandwidth": {"ingressRate": rate, "ingressBurst": burst}}),
    );
    let egress = with(
        &node,
        json!({"bandwidth": {"egressRate": rate, "egressBurst": burst}}),
    );
    let to_result = node.run("ADD", "to", Some(&to.path), &ingress).unwrap();
    let from_result = node.run("ADD", "from", Some(&from.path), &egress).unwrap();
    check(&node, "to", &to.path, &ingress, &to_result).unwrap();
    check(&node, "from", &from.path, &egress, &from_result).unwrap();

    // A limit can only make it slower: a busy machine cannot make this fail.
    let least = Duration::from_millis(300);
    for address in addresses(&to_result) {
        let took = transfer(&node.netns, &to.netns, &address, 500_000);
        assert!(took > least, "to {address} in {took:?}");
    }
    for address in addresses(&from_result) {
        let server = if address.contains(':') {
            crate::support::NODE_IPV6
        } else {
            crate::support::NODE_IPV4
        };
        let took = transfer(&from.netns, &node.netns, server, 500_000);
        assert!(took > least, "from {address} in {took:?}");
    }

    // CHECK sees a bucket that is gone, and one of another size.
    let host = to_result["interfaces"][0]["name"].as_str().unwrap();
    run_in(&node.netns, "tc", &["qdisc", "del", "dev", host, "root"]);
    let (code, message) = check(&node, "to", &to.path, &ingress, &to_result).unwrap_err();
    assert_eq!(
        (code, message.contains("lacks 1000000 bytes/s")),
        (101, true),
        "{message}"
    );
    run_in(
        &from.netns,
        "tc",
        &[
            "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", "1mbit", "burst", "5000", "limit",
            "9000",
        ],
    );
    check(&node, "from", &from.path, &egress, &from_result).unwrap_err();
    node.run("DEL", "to", None, &ingress).unwrap();
    node.run("DEL", "from", None, &egress).unwrap();
    assert_eq!(node.residue(), Vec::<String>::new());
}
