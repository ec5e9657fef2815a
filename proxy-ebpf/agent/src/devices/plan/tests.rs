use super::*;

fn link(ifindex: u32, name: &str, kind: LinkKind) -> Link {
    Link {
        ifindex,
        name: name.into(),
        kind,
        mac: Some([2, 0, 0, 0, 0, ifindex as u8]),
        has_master: false,
        is_limited: false,
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn route(network: &str, ifindex: u32, has_gateway: bool) -> Route {
    Route {
        network: network.parse().expect("a network"),
        ifindex,
        has_gateway,
    }
}

fn node(name: &str, ips: &[&str], cidrs: &[&str]) -> (String, Node) {
    let node = Node {
        internal_ips: ips.iter().map(|text| ip(text)).collect(),
        pod_cidrs: cidrs
            .iter()
            .map(|text| text.parse().expect("a network"))
            .collect(),
        ..Node::default()
    };
    (name.to_owned(), node)
}

fn settings(masquerade: bool) -> DeviceSettings {
    DeviceSettings {
        node_name: "node1".to_owned(),
        masquerade,
    }
}

fn observed() -> Observed {
    Observed {
        links: vec![
            Link {
                mac: None,
                ..link(1, "lo", LinkKind::Other)
            },
            link(2, "eth0", LinkKind::Veth),
            link(3, "orl0123", LinkKind::Veth),
            link(4, "orlop-vxlan", LinkKind::Tunnel),
            Link {
                has_master: true,
                ..link(5, "veth7", LinkKind::Veth)
            },
            link(6, "cali99", LinkKind::Veth),
            link(7, "unused0", LinkKind::Other),
        ],
        addresses: vec![
            (2, ip("192.168.7.1")),
            (2, ip("172.31.0.11")),
            (2, ip("fd00:31::11")),
            (4, ip("10.244.0.1")),
        ],
        routes: vec![
            route("0.0.0.0/0", 2, true),
            route("172.31.0.0/24", 2, false),
            route("10.244.0.5/32", 3, false),
            route("fd00:10:244::5/128", 3, false),
            route("10.244.0.6/32", 6, false),
        ],
        neighbours: vec![
            (3, ip("10.244.0.5"), [2, 0, 0, 0, 1, 5]),
            (3, ip("fd00:10:244::5"), [2, 0, 0, 0, 1, 5]),
            // Whoever claims an address that is not routed to them.
            (6, ip("10.244.0.5"), [2, 0, 0, 0, 6, 6]),
            (2, ip("10.244.0.6"), [2, 0, 0, 0, 6, 6]),
        ],
    }
}

#[test]
fn devices_are_told_apart() {
    let nodes = HashMap::from([node("node1", &["172.31.0.11", "fd00:31::11"], &["10.244.0.0/24"])]);
    let state = state(&settings(true), &nodes, &observed());
    let roles = [
        (2, Role::Uplink),
        (3, Role::Pod),
        (4, Role::Uplink),
        (6, Role::Pod),
    ];
    assert_eq!(state.roles, roles.into());
    let pods: Vec<_> = state
        .pods
        .iter()
        .map(|(ip, pod)| (ip.to_string(), pod.ifindex, pod.host_mac[5]))
        .collect();
    let expected = [("10.244.0.5", 3, 3), ("fd00:10:244::5", 3, 3)];
    assert_eq!(
        pods,
        expected.map(|(ip, ifindex, mac)| (ip.to_owned(), ifindex, mac))
    );
    // The uplink's address is the one that the Node names; the tunnel's its own, or the Node's where it has none.
    let address4 = |ifindex| Ipv4Addr::from(state.devices[&ifindex].address4.octets()).to_string();
    let address6 = |ifindex| Ipv6Addr::from(state.devices[&ifindex].address6.octets()).to_string();
    assert_eq!(
        (address4(2), address6(2)),
        ("172.31.0.11".to_owned(), "fd00:31::11".to_owned())
    );
    assert_eq!(
        (address4(4), address6(4)),
        ("10.244.0.1".to_owned(), "fd00:31::11".to_owned())
    );
    assert!(state.devices[&2].flags.contains(DeviceFlags::MASQUERADE));
    assert!(!state.devices[&4].flags.contains(DeviceFlags::MASQUERADE));
}

#[test]
fn a_pods_netkit_device_runs_programs_by_itself() {
    let nodes = HashMap::from([node("node1", &["172.31.0.11"], &["10.244.0.0/24"])]);
    let mut observed = observed();
    observed.links[2].kind = LinkKind::Netkit;
    // In mode L3, as another plugin may make them.
    observed.links.push(Link {
        mac: Some([0; 6]),
        ..link(8, "lxc7", LinkKind::Netkit)
    });
    observed.routes.push(route("10.244.0.8/32", 8, false));
    let state = state(&settings(true), &nodes, &observed);
    assert_eq!(state.roles.get(&3), Some(&Role::Netkit));
    assert_eq!(state.roles.get(&8), None);
    assert_eq!(state.pods[&ip("10.244.0.5")].ifindex, 3);
}

#[test]
fn networks_are_this_nodes_or_others() {
    let nodes = HashMap::from([
        node("node1", &[], &["10.244.0.0/24", "fd00:10:244::/64"]),
        node("node2", &[], &["10.244.1.0/24"]),
    ]);
    let networks: Vec<_> = state(&settings(true), &nodes, &Observed::default())
        .networks
        .into_iter()
        .map(|(network, kind)| (network.to_string(), kind))
        .collect();
    let expected = [
        ("10.244.0.0/24", NodeKind::LOCAL),
        ("10.244.1.0/24", NodeKind::REMOTE),
        ("fd00:10:244::/64", NodeKind::LOCAL),
    ];
    assert_eq!(
        networks,
        expected.map(|(network, kind)| (network.to_owned(), kind))
    );
}

#[test]
fn another_plugin_masquerades_itself() {
    let nodes = HashMap::from([node("node1", &["172.31.0.11"], &["10.244.0.0/24"])]);
    let state = state(&settings(false), &nodes, &observed());
    assert!(state.networks.is_empty());
    assert!(
        state
            .devices
            .values()
            .all(|device| !device.flags.contains(DeviceFlags::MASQUERADE))
    );
    // Before the Node is known the default route tells the uplink.
    let unknown = super::state(&settings(false), &HashMap::new(), &observed());
    assert_eq!(unknown.roles.get(&2), Some(&Role::Uplink));
}

#[test]
fn packets_go_by_the_device_of_a_pod_that_is_limited() {
    let nodes = HashMap::from([node("node1", &["172.31.0.11"], &["10.244.0.0/24"])]);
    let mut observed = observed();
    for is_limited in [false, true] {
        observed.links[2].is_limited = is_limited;
        let state = state(&settings(true), &nodes, &observed);
        for address in ["10.244.0.5", "fd00:10:244::5"] {
            let identity = state.pods[&ip(address)].identity;
            assert_eq!(identity & LocalPod::BY_DEVICE != 0, is_limited, "{address}");
        }
    }
}
