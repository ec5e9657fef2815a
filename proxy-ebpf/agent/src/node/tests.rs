//! The network of a node in a namespace of its own. Needs root; the namespace ends with the thread that made it.

use std::{future::Future, net::IpAddr, process::Command, time::Duration};

use hashbrown::HashMap;
use nix::sched::{CloneFlags, unshare};

use super::{Network, Node, NodeSettings, Routing, RoutingMode};

/// A node with one interface, and the Nodes that its agent knows.
struct Scene {
    network: Network,
    nodes: HashMap<String, Node>,
    dir: tempfile::TempDir,
}

/// Runs `test` on a node `own` at 172.31.0.11 and fd00:31::11, with `near` on its network and `far` beyond a router.
fn on_a_node<F: Future<Output = ()>>(test: impl FnOnce(Scene) -> F + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests make network namespaces: run them as root");
            for line in [
                "link set lo up",
                "link add eth0 type veth peer name peer0",
                "link set peer0 up",
                "link set eth0 up",
                "address add 172.31.0.11/24 dev eth0",
                "address add fd00:31::11/64 dev eth0 nodad",
                "route add default via 172.31.0.1",
                "route add default via fd00:31::1",
            ] {
                ip(line);
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(test(Scene::new()));
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Runs `ip` with these words and returns the lines that it prints.
fn ip(words: &str) -> Vec<String> {
    run("ip", words)
}

fn run(program: &str, words: &str) -> Vec<String> {
    let output = Command::new(program)
        .args(words.split(' '))
        .output()
        .expect(program);
    assert!(
        output.status.success(),
        "{program} {words}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

fn node(pod_cidrs: &[&str], internal_ips: &[&str]) -> Node {
    Node {
        pod_cidrs: pod_cidrs
            .iter()
            .map(|text| text.parse().expect("a network"))
            .collect(),
        internal_ips: internal_ips
            .iter()
            .map(|text| text.parse().expect("an address"))
            .collect(),
        ..Node::default()
    }
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let nodes = [
            (
                "own",
                node(
                    &["10.244.0.0/24", "fd00:10:244::/64"],
                    &["172.31.0.11", "fd00:31::11"],
                ),
            ),
            (
                "near",
                node(
                    &["10.244.1.0/24", "fd00:10:244:1::/64"],
                    &["172.31.0.12", "fd00:31::12"],
                ),
            ),
            (
                "far",
                node(
                    &["10.244.2.0/24", "fd00:10:244:2::/64"],
                    &["172.32.0.13", "fd00:32::13"],
                ),
            ),
        ];
        Self {
            network: network(dir.path()),
            nodes: nodes
                .into_iter()
                .map(|(name, node)| (name.to_owned(), node))
                .collect(),
            dir,
        }
    }

    async fn reconcile(&mut self) {
        self.network.reconcile(&self.nodes).await;
    }

    fn mtu_of_pods(&self) -> u64 {
        let text = std::fs::read(self.dir.path().join("10-orlop.conflist")).expect("a configuration");
        let conflist: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        conflist["plugins"][0]["mtu"].as_u64().expect("an MTU")
    }
}

fn network(dir: &std::path::Path) -> Network {
    Network::new(
        "own".to_owned(),
        NodeSettings {
            cni_conf_dir: Some(dir.to_owned()),
            cni_data_dir: "/var/lib/orlop-cni".into(),
            routing: Routing {
                mode: RoutingMode::Auto,
                vni: 7,
                port: 4790,
            },
            pod_devices: super::plan::PodDevices::Veth,
        },
    )
}

/// The routes of ours, in the order of the kernel's table.
fn routes() -> Vec<String> {
    let mut routes = ip("-4 route show proto 114");
    routes.extend(ip("-6 route show proto 114"));
    routes
}

/// Everything that an agent may change.
fn state() -> Vec<String> {
    let mut state = routes();
    for words in [
        "-d link show type vxlan",
        "address show",
        "neighbour show nud permanent",
    ] {
        state.extend(ip(words));
    }
    if ip("link show type vxlan").is_empty() {
        return state;
    }
    state.extend(run("bridge", "fdb show dev orlop-vxlan"));
    // The device counts down nothing, but its index grows with each one that is made.
    state
}

#[test]
fn neighbours_are_routed_to_and_others_reached_by_vxlan() {
    on_a_node(async |mut scene| {
        scene.reconcile().await;
        let gateway = super::plan::Mac::of_node("far");
        let lines = routes().join("\n");
        for expected in [
            "10.244.1.0/24 via 172.31.0.12 dev eth0",
            "10.244.2.0/24 via 10.244.2.0 dev orlop-vxlan src 10.244.0.1 onlink",
            "fd00:10:244:1::/64 via fd00:31::12 dev eth0 metric 1024 pref medium",
            "dev orlop-vxlan src fd00:10:244::1 metric 1024",
        ] {
            assert!(lines.contains(expected), "{expected}\n{lines}");
        }
        let fdb = run("bridge", "fdb show dev orlop-vxlan");
        assert_eq!(fdb, [format!("{gateway} dst 172.32.0.13 self permanent")]);
        let neighbours = ip("neighbour show dev orlop-vxlan");
        assert!(
            neighbours.contains(&format!("10.244.2.0 lladdr {gateway} PERMANENT")),
            "{neighbours:?}"
        );
        let device = ip("-d link show orlop-vxlan").join("\n");
        assert!(
            device.contains("mtu 1450") && device.contains("vxlan id 7 local 172.31.0.11"),
            "{device}"
        );
        assert!(
            device.contains("dstport 4790") && device.contains("nolearning"),
            "{device}"
        );
        assert_eq!(scene.mtu_of_pods(), 1450);
        for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            let value = std::fs::read_to_string(format!("/proc/sys/net/{switch}")).expect(switch);
            assert_eq!(value.trim(), "1", "{switch}");
        }
        // The node kept what it learnt from its router before it became one itself.
        let accept_ra = std::fs::read_to_string("/proc/sys/net/ipv6/conf/eth0/accept_ra").expect("a switch");
        assert_eq!(accept_ra.trim(), "2");

        // Another agent finds everything as it should be, and changes nothing.
        let before = state();
        network(scene.dir.path()).reconcile(&scene.nodes).await;
        assert_eq!(state(), before);
    });
}

#[test]
fn the_reverse_path_check_stays_off_pods_and_the_tunnel() {
    on_a_node(async |mut scene| {
        let switch = |name: &str| format!("/proc/sys/net/ipv4/conf/{name}/rp_filter");
        let read = |name: &str| {
            std::fs::read_to_string(switch(name))
                .expect("a switch")
                .trim()
                .to_owned()
        };
        ip("link add orl0123 type veth peer name pod0");
        scene.reconcile().await;
        assert_eq!(read("orlop-vxlan"), "0");
        // As systemd does with every device.
        for name in ["orl0123", "orlop-vxlan", "eth0"] {
            std::fs::write(switch(name), "2").expect("set a switch");
        }
        super::loosen_reverse_paths(["orl0123", "orlop-vxlan", "eth0", "orlgone"].into_iter());
        assert_eq!(
            (read("orl0123"), read("orlop-vxlan")),
            ("0".to_owned(), "0".to_owned())
        );
        assert_eq!(read("eth0"), "2", "the node's own devices are its own business");
    });
}

#[test]
fn nodes_come_move_and_go() {
    on_a_node(async |mut scene| {
        let far = scene.nodes.remove("far").expect("a node");
        scene.reconcile().await;
        assert_eq!(routes().len(), 2);
        assert!(ip("link show type vxlan").is_empty());
        assert_eq!(scene.mtu_of_pods(), 1500);

        scene.nodes.insert("far".to_owned(), far);
        scene.reconcile().await;
        assert_eq!(routes().len(), 4);

        // Another address, still beyond the router.
        let moved = |address: &str| vec![address.parse::<IpAddr>().expect("an address")];
        scene.nodes.get_mut("far").expect("a node").internal_ips = moved("172.33.0.13");
        scene.reconcile().await;
        let fdb = run("bridge", "fdb show dev orlop-vxlan").join("\n");
        assert!(
            fdb.contains("dst 172.33.0.13") && !fdb.contains("172.32.0.13"),
            "{fdb}"
        );

        // The near one changes its network, its pods follow.
        scene.nodes.get_mut("near").expect("a node").internal_ips = moved("172.34.0.12");
        scene.reconcile().await;
        assert!(
            routes().iter().all(|route| route.contains("dev orlop-vxlan")),
            "{:?}",
            routes()
        );
        // And other pods.
        scene.nodes.get_mut("near").expect("a node").pod_cidrs =
            vec!["10.244.77.0/24".parse().expect("a network")];
        scene.reconcile().await;
        let lines = routes().join("\n");
        assert!(
            lines.contains("10.244.77.0/24") && !lines.contains("10.244.1.0/24"),
            "{lines}"
        );

        // This node gets another address.
        ip("address add 172.31.0.99/24 dev eth0");
        scene.nodes.get_mut("own").expect("a node").internal_ips = moved("172.31.0.99");
        scene.reconcile().await;
        let device = ip("-d link show orlop-vxlan").join("\n");
        assert!(device.contains("local 172.31.0.99"), "{device}");
        assert_eq!(routes().len(), 3, "{:?}", routes());

        scene.nodes.retain(|name, _| name == "own");
        scene.reconcile().await;
        assert_eq!(routes(), Vec::<String>::new());
        assert!(ip("link show type vxlan").is_empty());
        assert!(ip("neighbour show nud permanent").is_empty());
    });
}

#[test]
fn what_somebody_else_made_stays() {
    on_a_node(async |mut scene| {
        ip("route add 10.99.0.0/16 via 172.31.0.12 proto static");
        ip("route add 10.244.1.0/24 via 172.31.0.250 proto static");
        ip("neighbour add 172.31.0.250 lladdr 02:00:00:00:00:01 dev eth0 nud permanent");
        scene.reconcile().await;
        // The pods of `near` are somebody else's affair; those of `far` are reached all the same, and pods are started.
        assert_eq!(
            ip("route show 10.244.1.0/24"),
            ["10.244.1.0/24 via 172.31.0.250 dev eth0 proto static"]
        );
        assert!(routes().join("\n").contains("10.244.2.0/24"));
        assert_eq!(scene.mtu_of_pods(), 1450);
        scene.nodes.retain(|name, _| name == "own");
        scene.reconcile().await;
        assert_eq!(routes(), Vec::<String>::new());
        assert_eq!(ip("route show proto static").len(), 2);
        assert_eq!(ip("neighbour show nud permanent").len(), 1);
    });
}

#[test]
fn an_interface_of_the_tunnels_name_is_not_taken_over() {
    on_a_node(async |mut scene| {
        ip("link add orlop-vxlan type veth peer name other");
        scene.reconcile().await;
        assert_eq!(routes(), Vec::<String>::new());
        assert_eq!(ip("link show type veth dev orlop-vxlan").len(), 2);
        assert!(!scene.dir.path().join("10-orlop.conflist").exists());
    });
}

#[test]
fn what_is_taken_away_is_put_back() {
    on_a_node(async |mut scene| {
        scene.reconcile().await;
        let before = routes();
        for damage in [
            "route del 10.244.1.0/24",
            "link del orlop-vxlan",
            "link set eth0 down",
        ] {
            ip(damage);
            assert_ne!(routes(), before, "{damage}");
            if damage.ends_with("down") {
                ip("link set eth0 up");
                // The kernel takes the IPv6 addresses away with the interface.
                ip("address replace fd00:31::11/64 dev eth0 nodad");
            }
            // The kernel says so, and several times if there is more to say: until nothing has been said for a while.
            let said = tokio::time::timeout(Duration::from_secs(30), scene.network.disturbed());
            said.await.expect("the kernel reports the damage");
            while tokio::time::timeout(Duration::from_millis(200), scene.network.disturbed())
                .await
                .is_ok()
            {}
            scene.reconcile().await;
            assert_eq!(routes(), before, "after {damage}");
        }
    });
}

#[test]
fn removal_leaves_what_others_made() {
    on_a_node(async |mut scene| {
        ip("route add 10.99.0.0/16 via 172.31.0.12 proto static");
        scene.reconcile().await;
        let removed = super::remove(scene.dir.path()).await.expect("removed");
        assert!(removed.configuration && removed.changes == 5, "{removed:?}");
        assert_eq!(routes(), Vec::<String>::new());
        assert!(ip("link show type vxlan").is_empty());
        assert_eq!(ip("route show proto static").len(), 1);
        let again = super::remove(scene.dir.path()).await.expect("nothing to remove");
        assert!(!again.configuration && again.changes == 0, "{again:?}");
    });
}
