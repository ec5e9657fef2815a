//! What a pod can reach after ADD, and what is left after DEL.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use orlop_cni::Error;
use orlop_cni::netns::Netns;

use crate::support::{NODE_IPV4, NODE_IPV6, Node, addresses, links, run_in};

/// Connects from one namespace to an address in another and returns the peer that the server saw.
pub(crate) fn reach(from: &Netns, to: &Netns, address: &str) -> IpAddr {
    let address: IpAddr = address.parse().unwrap();
    let listener = to
        .run(|| Ok::<_, Error>(TcpListener::bind(SocketAddr::new(address, 0)).unwrap()))
        .unwrap();
    let target = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        let server = scope.spawn(move || {
            let (mut stream, peer) = listener.accept().unwrap();
            stream.write_all(b"hello").unwrap();
            peer.ip()
        });
        let text = from
            .run(|| {
                let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(10))
                    .unwrap_or_else(|error| panic!("{target}: {error}"));
                let mut text = String::new();
                stream.read_to_string(&mut text).unwrap();
                Ok::<_, Error>(text)
            })
            .unwrap();
        assert_eq!(text, "hello");
        server.join().unwrap()
    })
}

#[test]
fn pods_and_node_reach_each_other_at_once() {
    let node = Node::new();
    let (a, b) = (node.pod("a"), node.pod("b"));
    let (a_ips, b_ips) = (
        addresses(&node.add(&a).unwrap()),
        addresses(&node.add(&b).unwrap()),
    );
    for (family, node_ip) in [NODE_IPV4, NODE_IPV6].into_iter().enumerate() {
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(reach(&a.netns, &b.netns, &b_ips[family]), parse(&a_ips[family]));
        assert_eq!(reach(&b.netns, &a.netns, &a_ips[family]), parse(&b_ips[family]));
        assert_eq!(reach(&node.netns, &a.netns, &a_ips[family]), parse(node_ip));
        assert_eq!(reach(&a.netns, &node.netns, node_ip), parse(&a_ips[family]));
        assert_eq!(reach(&a.netns, &a.netns, &a_ips[family]), parse(&a_ips[family]));
    }
    assert_eq!(
        reach(&a.netns, &a.netns, "127.0.0.1"),
        IpAddr::from([127, 0, 0, 1])
    );
}

#[test]
fn add_reports_what_it_made_and_del_removes_it() {
    let node = Node::new();
    let pod = node.pod("a");
    let result = node.add(&pod).unwrap();
    assert_eq!(result["cniVersion"], "1.0.0");
    assert_eq!(addresses(&result), ["10.244.0.2", "fd00:10:244::2"]);
    assert_eq!(result["interfaces"][1]["name"], "eth0");
    assert_eq!(result["interfaces"][1]["sandbox"], pod.path.to_str().unwrap());
    assert!(links(&node.netns).contains(&result["interfaces"][0]["name"].as_str().unwrap().to_owned()));
    assert!(links(&pod.netns).contains(&"eth0".to_owned()));
    let ipv6_setting = |name: &str| {
        let path = format!("/proc/sys/net/ipv6/conf/eth0/{name}");
        let text = pod
            .netns
            .run(|| Ok::<_, Error>(std::fs::read_to_string(path).unwrap()))
            .unwrap();
        text.trim().to_owned()
    };
    assert_eq!(ipv6_setting("mtu"), "1450");
    assert_eq!(ipv6_setting("accept_ra"), "0");
    node.check(&pod, &result).unwrap();
    node.del(&pod).unwrap();
    assert_eq!(node.residue(), Vec::<String>::new());
    assert_eq!(links(&pod.netns), ["lo"]);
    node.del(&pod).unwrap();
}

#[test]
fn whatever_new_interfaces_are_set_to_pods_are_reached() {
    let switch = |netns: &Netns, path: &str, value: Option<&str>| {
        let path = format!("/proc/sys/net/{path}");
        let work = || {
            if let Some(value) = value {
                std::fs::write(&path, value).unwrap();
            }
            Ok::<_, Error>(std::fs::read_to_string(&path).unwrap().trim().to_owned())
        };
        netns.run(work).unwrap()
    };
    for (rp_filter, disable_ipv6, accept_ra) in [("0", "0", "0"), ("2", "1", "2"), ("1", "0", "1")] {
        let node = Node::new();
        let pod = node.pod("a");
        for netns in [&node.netns, &pod.netns] {
            switch(netns, "ipv4/conf/default/rp_filter", Some(rp_filter));
            switch(netns, "ipv6/conf/default/disable_ipv6", Some(disable_ipv6));
            switch(netns, "ipv6/conf/default/accept_ra", Some(accept_ra));
        }
        let result = node.add(&pod).unwrap();
        let host = result["interfaces"][0]["name"].as_str().unwrap();
        let of_host = |family, key| switch(&node.netns, &format!("{family}/conf/{host}/{key}"), None);
        assert_eq!(of_host("ipv4", "rp_filter"), "0");
        assert_eq!(of_host("ipv6", "disable_ipv6"), "0");
        // Who forwards takes no advice at 1 either.
        assert_eq!(of_host("ipv6", "forwarding"), "1");
        assert_ne!(of_host("ipv6", "accept_ra"), "2");
        for (key, expected) in [("disable_ipv6", "0"), ("accept_ra", "0"), ("accept_dad", "0")] {
            assert_eq!(
                switch(&pod.netns, &format!("ipv6/conf/eth0/{key}"), None),
                expected,
                "{key}"
            );
        }
        for (address, node_ip) in addresses(&result).iter().zip([NODE_IPV4, NODE_IPV6]) {
            assert_eq!(reach(&node.netns, &pod.netns, address).to_string(), node_ip);
        }
    }
}

#[test]
fn one_family_is_enough() {
    let mut node = Node::new();
    for (name, range, expect, node_ip) in [
        ("four", "10.1.0.0/24", "10.1.0.2", NODE_IPV4),
        ("six", "fd00:1::/64", "fd00:1::2", NODE_IPV6),
    ] {
        node.config["ranges"] = serde_json::json!([range]);
        let pod = node.pod(name);
        let result = node.add(&pod).unwrap();
        assert_eq!(addresses(&result), [expect]);
        assert_eq!(reach(&node.netns, &pod.netns, expect).to_string(), node_ip);
        node.check(&pod, &result).unwrap();
        node.del(&pod).unwrap();
    }
    assert_eq!(node.residue(), Vec::<String>::new());
}

#[test]
fn an_interface_that_exists_already_is_an_error_that_leaves_nothing() {
    let node = Node::new();
    let pod = node.pod("a");
    // Another network's attachment under the same name, made by the plugin itself for a second container id.
    node.run("ADD", "other", Some(&pod.path), &node.config).unwrap();
    let before = node.residue();
    let (code, message) = node.add(&pod).unwrap_err();
    assert_eq!(code, 5);
    assert!(
        message.contains("cannot create the veth pair") && message.contains("File exists"),
        "{message}"
    );
    assert_eq!(node.residue(), before);
}

#[test]
fn an_interface_of_somebody_else_is_not_taken_over() {
    let node = Node::new();
    let pod = node.pod("a");
    run_in(
        &pod.netns,
        "ip",
        &["link", "add", "eth0", "type", "veth", "peer", "name", "eth9"],
    );
    let (code, message) = node.add(&pod).unwrap_err();
    assert_eq!((code, message.contains("File exists")), (5, true), "{message}");
    assert_eq!(node.residue(), Vec::<String>::new());
    let mut left = links(&pod.netns);
    left.sort();
    assert_eq!(left, ["eth0", "eth9", "lo"]);
    // DEL undoes what ADD did, which was nothing.
    node.del(&pod).unwrap();
    assert_eq!(links(&pod.netns).len(), 3);
}

#[test]
fn a_second_add_without_del_is_refused() {
    let node = Node::new();
    let pod = node.pod("a");
    let result = node.add(&pod).unwrap();
    let (code, message) = node.add(&pod).unwrap_err();
    assert_eq!(code, 100);
    assert!(
        message.contains("interface eth0 of container a is already attached"),
        "{message}"
    );
    node.check(&pod, &result).unwrap();
}

#[test]
fn the_nodes_own_namespace_is_never_a_pod() {
    let node = Node::new();
    let path = node.netns.path();
    let (code, message) = node.run("ADD", "a", Some(&path), &node.config).unwrap_err();
    assert_eq!(code, 4);
    assert!(
        message.contains("is the node's own network namespace"),
        "{message}"
    );
    assert_eq!(node.residue(), Vec::<String>::new());
}
