use super::*;

const AUTO: Routing = Routing {
    mode: RoutingMode::Auto,
    vni: 1,
    port: 4789,
};

fn cidr(text: &str) -> Cidr {
    text.parse().expect("a network")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn node(pod_cidrs: &[&str], internal_ips: &[&str]) -> Node {
    Node {
        pod_cidrs: pod_cidrs.iter().map(|text| cidr(text)).collect(),
        internal_ips: internal_ips.iter().map(|text| ip(text)).collect(),
        ..Node::default()
    }
}

fn link(address: &str, prefix: u8, ifindex: u32, mtu: u32) -> OnLink {
    let address = ip(address);
    OnLink {
        network: Cidr::of(address, prefix).expect("a prefix"),
        address,
        ifindex,
        interface: format!("eth{ifindex}").into(),
        mtu,
    }
}

/// The node `own` with its links, and others as given.
fn cluster(others: &[(&str, Node)]) -> (HashMap<String, Node>, Vec<OnLink>) {
    let own = node(
        &["10.244.0.0/24", "fd00:10:244::/64"],
        &["172.31.0.11", "fd00:31::11"],
    );
    let mut nodes = HashMap::from([("own".to_owned(), own)]);
    nodes.extend(
        others
            .iter()
            .map(|(name, node)| ((*name).to_owned(), node.clone())),
    );
    (
        nodes,
        vec![link("172.31.0.11", 24, 2, 1500), link("fd00:31::11", 64, 2, 1500)],
    )
}

fn near() -> (&'static str, Node) {
    (
        "near",
        node(
            &["10.244.1.0/24", "fd00:10:244:1::/64"],
            &["172.31.0.12", "fd00:31::12"],
        ),
    )
}

fn far() -> (&'static str, Node) {
    (
        "far",
        node(
            &["10.244.2.0/24", "fd00:10:244:2::/64"],
            &["172.32.0.13", "fd00:32::13"],
        ),
    )
}

/// What is planned for `own`, as text.
fn plan(others: &[(&str, Node)], routing: Routing) -> State {
    let (nodes, links) = cluster(others);
    wanted("own", &nodes, &links, routing)
}

fn lines(changes: &[Change]) -> Vec<String> {
    changes.iter().map(Change::to_string).collect()
}

fn routes(state: &State) -> Vec<String> {
    state.routes.iter().map(Route::to_string).collect()
}

#[test]
fn nodes_on_one_network_get_routes_and_no_tunnel() {
    let state = plan(&[near()], AUTO);
    assert_eq!(
        routes(&state),
        [
            "10.244.1.0/24 via 172.31.0.12",
            "fd00:10:244:1::/64 via fd00:31::12"
        ]
    );
    assert!(
        state
            .routes
            .iter()
            .all(|route| route.device == Device::Link(2) && route.source.is_none())
    );
    assert_eq!(state.tunnel, None);
    assert!(state.forwarding.is_empty() && state.neighbours.is_empty() && state.addresses.is_empty());
}

#[test]
fn nodes_beyond_a_router_get_the_tunnel() {
    let state = plan(&[near(), far()], AUTO);
    let mac = Mac::of_node("far");
    let gateway = IpAddr::from(mac.link_local());
    assert_eq!(
        routes(&state),
        [
            "10.244.1.0/24 via 172.31.0.12".to_owned(),
            "10.244.2.0/24 via 10.244.2.0 by VXLAN".to_owned(),
            "fd00:10:244:1::/64 via fd00:31::12".to_owned(),
            format!("fd00:10:244:2::/64 via {gateway} by VXLAN"),
        ]
    );
    let sources: Vec<_> = state.routes.iter().filter_map(|route| route.source).collect();
    assert_eq!(sources, [ip("10.244.0.1"), ip("fd00:10:244::1")]);
    assert_eq!(state.forwarding, BTreeMap::from([(mac, ip("172.32.0.13"))]));
    assert_eq!(
        state.neighbours,
        BTreeMap::from([(ip("10.244.2.0"), mac), (gateway, mac)])
    );
    assert_eq!(
        state.addresses,
        BTreeSet::from([ip("10.244.0.1"), ip("fd00:10:244::1")])
    );
    let tunnel = state.tunnel.expect("a tunnel");
    assert_eq!(
        (tunnel.local, tunnel.mtu, tunnel.mac),
        (ip("172.31.0.11"), 1450, Mac::of_node("own"))
    );
}

#[test]
fn the_mode_overrules_what_is_near() {
    let direct = plan(
        &[near(), far()],
        Routing {
            mode: RoutingMode::Direct,
            ..AUTO
        },
    );
    assert_eq!(routes(&direct), routes(&plan(&[near()], AUTO)));
    let vxlan = plan(
        &[near(), far()],
        Routing {
            mode: RoutingMode::Vxlan,
            ..AUTO
        },
    );
    assert_eq!(vxlan.routes.len(), 4);
    assert!(vxlan.routes.iter().all(|route| route.device == Device::Tunnel));
    assert_eq!(vxlan.forwarding.len(), 2);
}

#[test]
fn each_family_goes_its_own_way() {
    // On one network by IPv4 only, and one with IPv6 pods but no IPv6 address.
    let half = (
        "half",
        node(&["10.244.3.0/24", "fd00:10:244:3::/64"], &["172.31.0.14"]),
    );
    let state = plan(&[half], AUTO);
    let gateway = Mac::of_node("half").link_local();
    assert_eq!(
        routes(&state),
        [
            "10.244.3.0/24 via 172.31.0.14".to_owned(),
            format!("fd00:10:244:3::/64 via {gateway} by VXLAN")
        ]
    );
    assert_eq!(state.neighbours.len(), 1);
}

#[test]
fn an_ipv6_underlay_leaves_less_room() {
    let own = node(&["fd00:10:244::/64"], &["fd00:31::11"]);
    let other = node(&["fd00:10:244:2::/64"], &["fd00:32::13"]);
    let nodes = HashMap::from([("own".to_owned(), own), ("far".to_owned(), other)]);
    let mtu = |uplink| {
        let state = wanted("own", &nodes, &[link("fd00:31::11", 64, 2, uplink)], AUTO);
        state.tunnel.expect("a tunnel").mtu
    };
    assert_eq!(mtu(1500), 1430);
    assert_eq!(mtu(9000), 8930);
    // IPv6 needs this much.
    assert_eq!(mtu(1300), 1280);
}

#[test]
fn nodes_that_make_no_sense_are_left_out() {
    for (what, other) in [
        ("without pods yet", node(&[], &["172.31.0.14"])),
        ("without an address", node(&["10.244.9.0/24"], &[])),
        ("that claims our pods", node(&["10.244.0.0/24"], &["172.31.0.14"])),
        (
            "that claims everybody's pods",
            node(&["10.244.0.0/16"], &["172.31.0.14"]),
        ),
        (
            "that claims our address",
            node(&["10.244.9.0/24"], &["172.31.0.11"]),
        ),
    ] {
        let state = plan(
            &[("other", other)],
            Routing {
                mode: RoutingMode::Direct,
                ..AUTO
            },
        );
        assert_eq!(state, State::default(), "a node {what}");
    }
    // Of two that claim the same pods, the first by name.
    let state = plan(
        &[
            ("b", node(&["10.244.9.0/24"], &["172.31.0.15"])),
            ("a", node(&["10.244.9.0/24"], &["172.31.0.14"])),
        ],
        AUTO,
    );
    assert_eq!(routes(&state), ["10.244.9.0/24 via 172.31.0.14"]);
}

#[test]
fn an_unknown_node_wants_nothing() {
    let (nodes, links) = cluster(&[near()]);
    assert_eq!(wanted("stranger", &nodes, &links, AUTO), State::default());
}

#[test]
fn the_most_specific_network_is_the_way() {
    let (nodes, mut links) = cluster(&[near()]);
    links.insert(0, link("172.16.0.1", 12, 7, 1500));
    let state = wanted("own", &nodes, &links, AUTO);
    assert!(state.routes.iter().all(|route| route.device == Device::Link(2)));
}

#[test]
fn changes_from_nothing_build_from_the_bottom() {
    let state = plan(&[far()], AUTO);
    let mac = Mac::of_node("far");
    let gateway = mac.link_local();
    assert_eq!(
        lines(&changes(&state, &State::default())),
        [
            "make a tunnel from 172.31.0.11".to_owned(),
            "add address 10.244.0.1 to the tunnel".to_owned(),
            "add address fd00:10:244::1 to the tunnel".to_owned(),
            format!("send frames for {mac} to 172.32.0.13"),
            format!("neighbour 10.244.2.0 is at {mac}"),
            format!("neighbour {gateway} is at {mac}"),
            "add route to 10.244.2.0/24 via 10.244.2.0 by VXLAN".to_owned(),
            format!("add route to fd00:10:244:2::/64 via {gateway} by VXLAN"),
        ]
    );
    assert_eq!(changes(&state, &state), []);
    assert_eq!(changes(&State::default(), &State::default()), []);
}

#[test]
fn a_node_that_moves_away_and_comes_back_changes_its_routes_in_place() {
    let (direct, tunnelled) = (plan(&[near()], AUTO), {
        let mut moved = near().1;
        moved.internal_ips = vec![ip("172.32.0.12"), ip("fd00:32::12")];
        plan(&[("near", moved)], AUTO)
    });
    let there = lines(&changes(&tunnelled, &direct));
    assert_eq!(
        there
            .iter()
            .filter(|line| line.starts_with("change route"))
            .count(),
        2,
        "{there:?}"
    );
    assert!(
        !there
            .iter()
            .any(|line| line.contains("route") && !line.starts_with("change")),
        "{there:?}"
    );
    let back = lines(&changes(&direct, &tunnelled));
    assert_eq!(
        back.last().map(String::as_str),
        Some("remove the tunnel"),
        "{back:?}"
    );
    assert_eq!(back.len(), 3, "{back:?}");
}

#[test]
fn a_readdressed_node_changes_its_entry_only() {
    let before = plan(&[near(), far()], AUTO);
    let mut moved = far().1;
    moved.internal_ips[0] = ip("172.33.0.13");
    let after = plan(&[near(), ("far", moved)], AUTO);
    let mac = Mac::of_node("far");
    assert_eq!(
        lines(&changes(&after, &before)),
        [format!("send frames for {mac} to 172.33.0.13")]
    );
}

#[test]
fn a_new_address_of_this_node_makes_the_tunnel_anew() {
    let before = plan(&[near(), far()], AUTO);
    let mut after = before.clone();
    after.tunnel = after.tunnel.map(|tunnel| Tunnel {
        local: ip("172.31.0.99"),
        ..tunnel
    });
    let lines = lines(&changes(&after, &before));
    assert_eq!(
        lines[..2],
        ["remove the tunnel", "make a tunnel from 172.31.0.99"]
    );
    // The direct routes stay, all that was on the device is there again.
    assert_eq!(
        lines.iter().filter(|line| line.starts_with("add route")).count(),
        2,
        "{lines:?}"
    );
    assert!(
        !lines
            .iter()
            .any(|line| line.starts_with("change") || line.starts_with("remove route")),
        "{lines:?}"
    );
}

#[test]
fn a_larger_mtu_is_set_on_the_tunnel_there_is() {
    let before = plan(&[far()], AUTO);
    let mut after = before.clone();
    after.tunnel = after.tunnel.map(|tunnel| Tunnel { mtu: 8950, ..tunnel });
    assert_eq!(lines(&changes(&after, &before)), ["set up the tunnel"]);
    let mut down = before.clone();
    down.tunnel = down.tunnel.map(|tunnel| Tunnel { up: false, ..tunnel });
    assert_eq!(lines(&changes(&before, &down)), ["set up the tunnel"]);
}

#[test]
fn a_node_that_leaves_takes_everything_with_it() {
    let before = plan(
        &[
            near(),
            far(),
            ("other", node(&["10.244.5.0/24"], &["172.32.0.15"])),
        ],
        AUTO,
    );
    let after = plan(&[near(), far()], AUTO);
    let mac = Mac::of_node("other");
    assert_eq!(
        lines(&changes(&after, &before)),
        [
            "remove route to 10.244.5.0/24 via 10.244.5.0 by VXLAN".to_owned(),
            "remove neighbour 10.244.5.0".to_owned(),
            format!("no longer send frames for {mac} to 172.32.0.15"),
        ]
    );
}

#[test]
fn pods_that_pass_to_another_node_change_their_route() {
    let route = |host: u8| Route {
        destination: cidr("10.244.1.0/24"),
        gateway: [172, 31, 0, host].into(),
        device: Device::Link(2),
        source: None,
    };
    let state = |host| State {
        routes: BTreeSet::from([route(host)]),
        ..State::default()
    };
    assert_eq!(changes(&state(13), &state(12)), [Change::ReplaceRoute(route(13))]);
}

#[test]
fn addresses_of_tunnels_follow_from_names() {
    let mac = Mac::of_node("node1");
    assert_eq!(mac, Mac::of_node("node1"));
    assert_ne!(mac, Mac::of_node("node2"));
    assert_eq!(
        mac.0[0] & 0x03,
        0x02,
        "{mac} must be unicast and locally administered"
    );
    assert_eq!(
        Mac([0x02, 0x00, 0x5e, 0x10, 0x00, 0x01]).link_local(),
        ip("fe80::5eff:fe10:1")
    );
}

#[test]
fn the_configuration_names_ranges_and_mtu() {
    let (nodes, mut links) = cluster(&[far()]);
    links.push(link("192.168.9.9", 24, 3, 9000));
    let read = |tunnel| {
        let text = conflist(
            &nodes["own"],
            &links,
            tunnel,
            Path::new("/var/lib/orlop-cni"),
            PodDevices::Auto,
        );
        serde_json::from_str::<serde_json::Value>(&text).expect("JSON")
    };
    let direct = read(None);
    let expected = json!({
        "cniVersion": "1.0.0",
        "name": "orlop",
        "plugins": [{
            "type": "orlop-cni",
            "dataDir": "/var/lib/orlop-cni",
            "mtu": 1500,
            "ranges": ["10.244.0.0/24", "fd00:10:244::/64"],
            "device": "auto",
            "hostPorts": "proxy-ebpf",
            "capabilities": { "portMappings": true, "bandwidth": true, "ips": true, "mac": true },
        }],
    });
    assert_eq!(direct, expected);
    let tunnelled = read(wanted("own", &nodes, &links, AUTO).tunnel);
    assert_eq!(tunnelled["plugins"][0]["mtu"], 1450);
}

#[test]
fn pods_get_netkit_only_where_the_agent_has_programs_for_it() {
    use PodDevices::{Auto, Netkit, Veth};
    for (chosen, runs_on_netkit, expected) in [
        (Auto, true, Auto),
        (Auto, false, Veth),
        (Veth, true, Veth),
        (Veth, false, Veth),
        // What was asked for by name is not replaced: the plugin says that there is none.
        (Netkit, true, Netkit),
        (Netkit, false, Netkit),
    ] {
        assert_eq!(
            chosen.for_agent(runs_on_netkit),
            expected,
            "{chosen:?} {runs_on_netkit}"
        );
    }
    assert_eq!(PodDevices::default(), Auto);
}
