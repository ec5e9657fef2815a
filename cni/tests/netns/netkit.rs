//! Pods on netkit devices, where the kernel has them: Linux 6.10 and newer, if CONFIG_NETKIT is set. Elsewhere these tests look at
//! what is said instead, and print that they were skipped.

use std::io::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::attach::reach;
use crate::capabilities::transfer;
use crate::support::{NODE_IPV4, NODE_IPV6, Node, addresses, links, run_in};

/// A node whose pods get devices of this kind.
fn node(device: &str) -> Node {
    let mut node = Node::new();
    node.config["device"] = device.into();
    node
}

/// Whether the kernel makes netkit devices; else, that the plugin says so and leaves nothing.
fn has_netkit() -> bool {
    let node = node("netkit");
    let pod = node.pod("probe");
    let outcome = node.add(&pod);
    if outcome.success {
        node.del(&pod).unwrap();
        return true;
    }
    let (code, message) = outcome.unwrap_err();
    assert_eq!(code, 5);
    assert!(
        message.contains("cannot create the netkit pair") && message.contains("not supported"),
        "{message}"
    );
    assert_eq!(node.residue(), Vec::<String>::new());
    // Past the test runner, which would keep it to itself.
    let said = std::io::stderr().write_all(b"SKIPPED: this kernel has no netkit\n");
    said.unwrap();
    false
}

/// What made a device, and its details, in iproute2's words.
fn details(netns: &orlop_cni::netns::Netns, name: &str) -> String {
    run_in(netns, "ip", &["-o", "-d", "link", "show", name])
}

#[test]
fn netkit_pairs_carry_a_pods_packets() {
    if !has_netkit() {
        return;
    }
    let node = node("netkit");
    let (a, b) = (node.pod("a"), node.pod("b"));
    let results = [node.add(&a).unwrap(), node.add(&b).unwrap()];
    let [a_ips, b_ips] = results.each_ref().map(addresses);
    for family in 0..2 {
        let parse = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
        let node_ip = [NODE_IPV4, NODE_IPV6][family];
        assert_eq!(reach(&a.netns, &b.netns, &b_ips[family]), parse(&a_ips[family]));
        assert_eq!(reach(&node.netns, &a.netns, &a_ips[family]), parse(node_ip));
        assert_eq!(reach(&b.netns, &node.netns, node_ip), parse(&b_ips[family]));
    }
    let host = results[0]["interfaces"][0]["name"].as_str().unwrap();
    for (netns, name, mac) in [
        (&node.netns, host, &results[0]["interfaces"][0]["mac"]),
        (&a.netns, "eth0", &results[0]["interfaces"][1]["mac"]),
    ] {
        let text = details(netns, name);
        // The pod's end too: the kernel does not take it from the other.
        for expected in ["netkit", "mtu 1450", mac.as_str().unwrap()] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }
    node.check(&a, &results[0]).unwrap();
    node.del(&a).unwrap();
    node.run("DEL", "b", None, &node.config).unwrap();
    assert_eq!(node.residue(), Vec::<String>::new());
    assert_eq!(links(&a.netns), ["lo"]);
}

#[test]
fn netkit_is_taken_where_it_is_when_the_choice_is_left_to_the_plugin() {
    let expected = if has_netkit() { "netkit" } else { "veth" };
    let limits = json!({"bandwidth": true});
    for (device, capabilities, expected) in [
        (json!("auto"), &limits, expected),
        // Nothing is said of devices.
        (Value::Null, &limits, expected),
        // Another plugin of the chain limits bandwidth, and may need a veth for that.
        (json!("auto"), &json!({}), "veth"),
        (json!("veth"), &limits, "veth"),
    ] {
        let mut node = Node::new();
        if device != Value::Null {
            node.config["device"] = device.clone();
        }
        node.config["capabilities"] = capabilities.clone();
        let pod = node.pod("a");
        let result = node.add(&pod).unwrap();
        let text = details(&pod.netns, "eth0");
        assert!(text.contains(expected), "{device} {capabilities}: {text}");
        node.check(&pod, &result).unwrap();
        node.del(&pod).unwrap();
        assert_eq!(node.residue(), Vec::<String>::new());
    }
}

/// As after an upgrade: pods keep what they have.
#[test]
fn netkit_and_veth_pods_live_on_one_node() {
    if !has_netkit() {
        return;
    }
    let mut node = node("veth");
    let pods = [node.pod("old"), node.pod("new"), node.pod("gone")];
    let mut ips = Vec::new();
    for (pod, device) in pods.iter().zip(["veth", "netkit", "netkit"]) {
        node.config["device"] = device.into();
        let result = node.add(pod).unwrap();
        assert!(details(&pod.netns, "eth0").contains(device));
        ips.push(addresses(&result));
        // What the configuration says of later pods is no matter.
        node.config["device"] = "auto".into();
        node.check(pod, &result).unwrap();
    }
    let [old, new, _] = &pods;
    for (own, other) in ips[0].iter().zip(&ips[1]) {
        let parse = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
        assert_eq!(reach(&old.netns, &new.netns, other), parse(own));
        assert_eq!(reach(&new.netns, &old.netns, own), parse(other));
    }
    let mut gc = node.config.clone();
    gc["cniVersion"] = "1.1.0".into();
    gc["cni.dev/valid-attachments"] = json!([
        {"containerID": "old", "ifname": "eth0"},
        {"containerID": "new", "ifname": "eth0"},
    ]);
    node.run("GC", "", None, &gc).unwrap();
    assert_eq!(node.records().len(), 2);
    assert_eq!(links(&pods[2].netns), ["lo"]);
    gc["cni.dev/valid-attachments"] = json!([]);
    node.run("GC", "", None, &gc).unwrap();
    assert_eq!(node.residue(), Vec::<String>::new());
}

#[test]
fn netkit_pods_keep_to_their_bandwidth() {
    if !has_netkit() {
        return;
    }
    let mut node = node("netkit");
    // A megabyte per second, of which a tenth may come at once.
    let (rate, burst) = (8_000_000, 800_000);
    node.config["runtimeConfig"] = json!({"bandwidth": {
        "ingressRate": rate, "ingressBurst": burst, "egressRate": rate, "egressBurst": burst,
    }});
    let pod = node.pod("a");
    let result = node.add(&pod).unwrap();
    node.check(&pod, &result).unwrap();
    // A limit can only make it slower: a busy machine cannot make this fail.
    let least = Duration::from_millis(300);
    for (address, own) in addresses(&result).iter().zip([NODE_IPV4, NODE_IPV6]) {
        let took = transfer(&node.netns, &pod.netns, address, 500_000);
        assert!(took > least, "to {address} in {took:?}");
        let took = transfer(&pod.netns, &node.netns, own, 500_000);
        assert!(took > least, "from {address} in {took:?}");
    }
    node.del(&pod).unwrap();
    assert_eq!(node.residue(), Vec::<String>::new());
}

#[test]
fn netkit_add_again_after_one_is_refused() {
    if !has_netkit() {
        return;
    }
    let node = node("netkit");
    let pod = node.pod("a");
    let result = node.add(&pod).unwrap();
    let (code, message) = node.add(&pod).unwrap_err();
    assert_eq!(
        (code, message.contains("already attached")),
        (100, true),
        "{message}"
    );
    let (code, message) = node
        .run("ADD", "other", Some(&pod.path), &node.config)
        .unwrap_err();
    assert_eq!((code, message.contains("File exists")), (5, true), "{message}");
    node.check(&pod, &result).unwrap();
    node.del(&pod).unwrap();
    assert_eq!(node.residue(), Vec::<String>::new());
}
