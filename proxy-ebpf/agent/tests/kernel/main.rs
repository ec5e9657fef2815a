//! The programs on the kernel of this machine: loaded, attached to a cgroup of the test, and used by real sockets.
//!
//! Each test talks through a child process, which joins the cgroup and a network namespace of its own without any route:
//! whatever reaches a server there was translated. The child is this test binary again, running [`child`].

mod agent;
mod api;
mod client;
mod histories;
mod model;
mod monitor;
mod network;
mod packets;
mod sandbox;
mod sctp;
mod traffic;

use std::{
    io::Write as _,
    net::IpAddr,
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use proxy_ebpf::{
    apply::MapsError,
    desired::{FrontendAddress, ObjectName, ServicePort, SocketAddress},
    pins::{self, PinError, Pins},
    plan::{Change, Entries, Tables},
    programs::{self, Features},
    sys,
};
use proxy_ebpf_common::{Protocol, maps};

use crate::sandbox::Sandbox;

/// Runs one of the [`client`]'s scenarios; does nothing when the test runner calls it.
#[test]
fn child() {
    if let Ok(scenario) = std::env::var(sandbox::SCENARIO) {
        client::run(&scenario);
    }
}

#[test]
fn every_family_and_protocol_is_translated_and_shown_as_the_service() {
    let mut sandbox = Sandbox::new("families");
    let mut tables = Tables::default();
    let echo = |protocol| {
        vec![
            port(
                &[address(client::VIP4, client::PORT, protocol)],
                &[address("127.0.0.1", client::SERVERS[0], protocol)],
            ),
            port(
                &[address(client::VIP6, client::PORT, protocol)],
                &[address("::1", client::SERVERS[0], protocol)],
            ),
        ]
    };
    sandbox.plan(
        &mut tables,
        [
            change("tcp", echo(Protocol::TCP)),
            change("udp", echo(Protocol::UDP)),
        ],
    );
    sandbox.run("families");
}

#[test]
fn a_service_without_backends_refuses() {
    let mut sandbox = Sandbox::new("refused");
    let mut tables = Tables::default();
    let empty = |port_number, elsewhere| {
        let both = [Protocol::TCP, Protocol::UDP];
        let both = both
            .iter()
            .flat_map(|&protocol| [client::VIP4, client::VIP6].map(|ip| address(ip, port_number, protocol)));
        both.map(|frontend| ServicePort {
            elsewhere,
            ..port(&[frontend], &[])
        })
        .collect()
    };
    sandbox.plan(
        &mut tables,
        [
            change("empty", empty(client::PORT, false)),
            change("elsewhere", empty(client::LOCAL_PORT, true)),
        ],
    );
    sandbox.run("refused");
}

#[test]
fn node_ports_are_reached_at_the_addresses_of_nodes_and_nowhere_else() {
    let mut sandbox = Sandbox::new("node-ports");
    let ports = [Protocol::TCP, Protocol::UDP].into_iter().flat_map(|protocol| {
        [("0.0.0.0", "127.0.0.1"), ("::", "::1")].map(|(nodes, backend)| {
            port(
                &[address(nodes, client::NODE_PORT, protocol)],
                &[address(backend, client::SERVERS[0], protocol)],
            )
        })
    });
    sandbox.plan(&mut Tables::default(), [change("web", ports.collect())]);
    sandbox.run("node-ports");
}

#[test]
fn sockets_leave_restricted_addresses_to_packets() {
    let mut sandbox = Sandbox::new("source-ranges");
    let ports = [Protocol::TCP, Protocol::UDP].into_iter().flat_map(|protocol| {
        [
            (client::VIP4, "127.0.0.1", "0.0.0.0/1"),
            (client::VIP6, "::1", "::/1"),
        ]
        .map(|(vip, ip, range)| {
            let frontend = address(vip, client::PORT, protocol);
            ServicePort {
                restricted: vec![frontend.into()],
                source_ranges: [range.parse().expect("a network")].into(),
                // The child is in another network namespace than this process, which is the node.
                admits_node: true,
                ..port(&[frontend], &[address(ip, client::SERVERS[0], protocol)])
            }
        })
    });
    sandbox.plan(&mut Tables::default(), [change("web", ports.collect())]);
    sandbox.run("source-ranges");
}

#[test]
fn a_port_that_a_service_has_not_is_refused() {
    let mut sandbox = Sandbox::new("other-ports");
    let mut ports = three(Protocol::TCP);
    let other_ports = [client::VIP4, client::VIP6].map(|ip| address(ip, 0, Protocol::ANY));
    ports.push(port(&other_ports[..1], &[]));
    ports.push(port(&other_ports[1..], &[]));
    sandbox.plan(&mut Tables::default(), [change("web", ports)]);
    sandbox.run("other-ports");
}

#[test]
fn sockets_are_left_alone_where_nobody_wants_them_translated() {
    let features = Features {
        translate_sockets: false,
        ..Features::detect().expect("ask the kernel; these tests need root")
    };
    let mut sandbox = Sandbox::with_features("packets-only", features);
    let ports = [(client::VIP4, "127.0.0.1"), (client::VIP6, "::1")].map(|(vip, ip)| {
        let at = |ip, number| address(ip, number, Protocol::TCP);
        port(&[at(vip, client::PORT)], &[at(ip, client::SERVERS[0])])
    });
    sandbox.plan(&mut Tables::default(), [change("web", ports.into())]);
    sandbox.run("left-alone");
}

#[test]
fn sockets_of_the_node_are_left_alone_where_its_kernel_would_forget_the_service() {
    Sandbox::bare("overwrites").run("overwrites");
}

#[test]
fn a_kernel_that_cannot_set_the_error_refuses_too() {
    let mut sandbox = Sandbox::with_features("forbidden", Features::default());
    let ports = [Protocol::TCP, Protocol::UDP]
        .map(|protocol| port(&[address(client::VIP4, client::PORT, protocol)], &[]));
    sandbox.plan(&mut Tables::default(), [change("empty", ports.into())]);
    sandbox.run("forbidden");
}

#[test]
fn connections_spread_and_a_datagram_socket_stays() {
    let mut sandbox = Sandbox::new("spread");
    let mut tables = Tables::default();
    sandbox.plan(
        &mut tables,
        [
            change("tcp", three(Protocol::TCP)),
            change("udp", three(Protocol::UDP)),
        ],
    );
    sandbox.run("spread");
}

#[test]
fn affinity_holds_until_the_backend_leaves() {
    let mut sandbox = Sandbox::new("affinity");
    let mut tables = Tables::default();
    let sticky = |backends: &[u16]| {
        let backends: Vec<_> = backends
            .iter()
            .map(|&port| address("127.0.0.1", port, Protocol::TCP))
            .collect();
        let frontend = address(client::VIP4, client::PORT, Protocol::TCP);
        change(
            "sticky",
            vec![ServicePort {
                affinity_timeout_s: 3600,
                ..port(&[frontend], &backends)
            }],
        )
    };
    sandbox.plan(&mut tables, [sticky(&client::SERVERS)]);
    let mut child = sandbox.start("affinity");
    let first: u16 = child
        .line()
        .parse()
        .expect("the child prints the backend that answered every time");
    let rest: Vec<_> = client::SERVERS
        .into_iter()
        .filter(|&port| port != first)
        .collect();
    sandbox.plan(&mut tables, [sticky(&rest)]);
    child.tell("moved");
    let second: u16 = child
        .line()
        .parse()
        .expect("the child prints the backend that answered every time");
    assert!(rest.contains(&second), "{second} answered, but {rest:?} are left");
    child.finish();
}

#[test]
fn sockets_of_a_backend_that_left_are_ended_and_no_others() {
    let mut sandbox = Sandbox::new("left");
    let ended = Arc::default();
    let reaper = sandbox.reaper(&ended);
    let mut tables = Tables::default();
    sandbox.plan(&mut tables, [dns_over(client::SERVERS[0])]);
    let mut child = sandbox.start("left");
    assert_eq!(child.line(), "connected");
    let plan = sandbox.plan(&mut tables, [dns_over(client::SERVERS[1])]);
    assert_eq!(plan.left.len(), 2, "{plan:?}");
    reaper.end(plan.left);
    left_for_good(child, &ended);
}

/// An agent is killed after it has written the tables and before it has ended a socket.
#[test]
fn sockets_that_a_killed_agent_has_not_ended_are_ended_by_the_next() {
    let mut sandbox = Sandbox::new("killed");
    let mut tables = Tables::default();
    sandbox.plan(&mut tables, [dns_over(client::SERVERS[0])]);
    let mut child = sandbox.start("left");
    assert_eq!(child.line(), "connected");
    sandbox.plan(&mut tables, [dns_over(client::SERVERS[1])]);

    sandbox.reopen();
    let ended = Arc::default();
    let reaper = sandbox.reaper(&ended);
    let mut tables = Tables::new(sandbox.maps().read().expect("read the maps"));
    let plan = sandbox.plan_all(&mut tables, vec![dns_over(client::SERVERS[1])]);
    assert!(plan.is_empty() && plan.left.is_empty(), "{plan:?}");
    let inherited = reaper.inherited();
    assert_eq!(inherited.len(), 2, "{inherited:?}");
    reaper.end(tables.astray(inherited));
    left_for_good(child, &ended);
    assert!(reaper.inherited().is_empty(), "they are said once");
}

/// A Service of datagrams in both families, over a server of the scenario `left`.
fn dns_over(server: u16) -> Change {
    let families = [(client::VIP4, "127.0.0.1"), (client::VIP6, "::1")].map(|(vip, ip)| {
        let (vip, ip) = (
            address(vip, client::PORT, Protocol::UDP),
            address(ip, server, Protocol::UDP),
        );
        port(&[vip], &[ip])
    });
    change("dns", families.into())
}

/// The scenario `left` has connected three sockets by the Service and waits for each of them to end.
fn left_for_good(mut child: sandbox::Client, ended: &AtomicU64) {
    child.tell("left");
    child.finish();
    // They are counted together, after the last of them.
    agent::wait("the sockets are counted", || ended.load(Ordering::Relaxed) == 3);
}

/// A program may have read the tables before a change whose sockets were ended before its own is connected.
#[test]
fn a_socket_that_connects_too_late_is_ended_too() {
    let mut sandbox = Sandbox::new("late");
    let ended = Arc::default();
    let reaper = sandbox.reaper(&ended);
    let mut tables = Tables::default();
    let over = |server: u16| {
        let frontend = address(client::VIP4, client::PORT, Protocol::UDP);
        let backend = address("127.0.0.1", server, Protocol::UDP);
        change("dns", vec![port(&[frontend], &[backend])])
    };
    sandbox.plan(&mut tables, [over(client::SERVERS[0])]);
    let mut child = sandbox.start("late");
    assert_eq!(child.line(), "connected");
    // The tables stay the old ones while the sockets are looked through for the first time.
    let plan = tables.plan(vec![over(client::SERVERS[1])]);
    reaper.end(plan.left.clone());
    assert_eq!(child.line(), "ended");
    child.tell("connect");
    assert_eq!(child.line(), "connected");
    sandbox.maps_mut().apply(&plan).expect("write the maps");
    child.tell("wait");
    assert_eq!(child.line(), "ended");
    // The backend comes back while sockets are still being looked for.
    let plan = tables.plan(vec![over(client::SERVERS[0])]);
    reaper.end(plan.left.clone());
    reaper.spare(&plan.joined);
    sandbox.maps_mut().apply(&plan).expect("write the maps");
    child.tell("connect");
    assert_eq!(child.line(), "connected");
    // Until after the last look.
    child.tell("stay");
    child.finish();
    assert_eq!(ended.load(Ordering::Relaxed), 2);
}

#[test]
fn random_services_are_reached_as_the_model_says() {
    histories::run();
}

#[test]
fn packets_are_translated_as_the_model_says() {
    let sandbox = Sandbox::bare("packets");
    sandbox.run("packets");
}

#[test]
fn traffic_reaches_services_by_packets_and_goes_on_without_the_agent() {
    let sandbox = Sandbox::bare("traffic");
    sandbox.run("traffic");
}

#[test]
fn netkit_devices_run_the_programs_of_pods_as_veths_do() {
    if !has("netkit", network::has_netkit()) {
        return;
    }
    // While a node's kernel or configuration changes it has pods of both kinds.
    for pods in ["netkit", "netkit-and-veth", "veth-and-netkit"] {
        let sandbox = Sandbox::bare(pods);
        sandbox.run(pods);
    }
}

#[test]
fn associations_of_sctp_reach_services() {
    if !has("SCTP", sctp::is_there()) {
        return;
    }
    Sandbox::bare("sctp").run("sctp");
    if network::has_netkit() {
        Sandbox::bare("sctp-by-netkit").run("sctp-by-netkit");
    }
}

#[test]
fn a_restart_changes_nothing() {
    let mut sandbox = Sandbox::new("restart");
    let wanted = || {
        let sticky = ServicePort {
            affinity_timeout_s: 60,
            ..three(Protocol::UDP).remove(0)
        };
        [change("tcp", three(Protocol::TCP)), change("udp", vec![sticky])]
    };
    sandbox.plan(&mut Tables::default(), wanted());
    let before = sandbox.snapshot();
    assert!(
        matches!(Pins::open(sandbox.bpf_dir()), Err(PinError::Locked { .. })),
        "two agents must not share maps"
    );

    sandbox.restart();
    let plan = Tables::new(sandbox.maps().read().expect("read the maps")).plan_all(wanted().into());
    assert!(plan.is_empty(), "{plan:?}");
    let after = sandbox.snapshot();
    assert_eq!(before.entries, after.entries);
    assert_eq!(before.maps, after.maps, "maps must be the same ones");
    let ids = |links: &[(&'static str, sys::LinkInfo)]| {
        links
            .iter()
            .map(|(name, link)| (*name, link.id))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        ids(&before.links),
        ids(&after.links),
        "links must be the same ones"
    );
    assert_eq!(after.links.len(), programs::HOOKS.len());
    for ((name, before), (_, after)) in before.links.iter().zip(&after.links) {
        assert_ne!(
            before.program_id, after.program_id,
            "{name} must run the new agent's program"
        );
    }
    sandbox.run("reachable");
}

#[test]
fn traffic_goes_on_while_programs_and_backends_are_replaced() {
    let mut sandbox = Sandbox::new("replaced");
    let mut tables = Tables::default();
    sandbox.plan(&mut tables, [change("tcp", three(Protocol::TCP))]);
    let mut child = sandbox.start("busy");
    assert_eq!(child.line(), "connecting");
    for round in 0..20_usize {
        sandbox.restart();
        // One server stays, the others come and go; every one of them is always there to answer.
        let backends = [
            &client::SERVERS[..1],
            &client::SERVERS[..2],
            &client::SERVERS[..],
            &client::SERVERS[1..],
        ];
        let backends: Vec<_> = backends[round % 4]
            .iter()
            .map(|&port| address("127.0.0.1", port, Protocol::TCP))
            .collect();
        let frontend = address(client::VIP4, client::PORT, Protocol::TCP);
        sandbox.plan(&mut tables, [change("tcp", vec![port(&[frontend], &backends)])]);
    }
    child.tell("stop");
    let report = child.line();
    child.finish();
    let (connections, failures) = report.split_once(' ').expect("two numbers");
    assert_eq!(failures, "0", "of {connections} connections {failures} failed");
    assert_ne!(connections, "0");
}

#[test]
fn a_full_map_is_replaced_by_a_larger_one_under_traffic() {
    let mut sandbox = Sandbox::new("grow");
    let mut tables = Tables::default();
    sandbox.plan(&mut tables, [change("tcp", three(Protocol::TCP))]);
    let mut child = sandbox.start("busy");
    assert_eq!(child.line(), "connecting");

    let before = sandbox.maps().read().expect("read the maps");
    let many = |count: u32| {
        let frontends = (0..count).map(|number| {
            let [_, b, c, d] = number.to_be_bytes();
            address(&format!("10.{b}.{c}.{d}"), 1, Protocol::TCP)
        });
        change("many", vec![port(&frontends.collect::<Vec<_>>(), &[])])
    };
    let plan = Tables::new(before.clone()).plan(vec![many(1 << 16)]);
    let error = sandbox
        .maps_mut()
        .apply(&plan)
        .expect_err("there is one frontend already");
    let MapsError::Full { name, max_entries } = error else {
        panic!("{error}");
    };
    assert_eq!((name, max_entries), (maps::FRONTENDS4, 1 << 16));
    let full = sandbox.maps().read().expect("read the maps");
    assert_eq!(full.frontends.len(), 1 << 16);
    sandbox.grow(name, 2 * max_entries);
    let sorted = |mut entries: Entries| {
        entries.frontends.sort_unstable_by_key(|&(address, _)| address);
        entries
    };
    let grown = sandbox.maps().read().expect("read the maps");
    assert_eq!(sorted(full), sorted(grown.clone()));
    let plan = Tables::new(grown).plan_all(vec![change("tcp", three(Protocol::TCP)), many(1 << 16)]);
    sandbox.maps_mut().apply(&plan).expect("there is room now");

    // The larger map is the one that the programs use and that an agent finds.
    sandbox.restart();
    let kept = sandbox.maps().read().expect("read the maps");
    assert_eq!(kept.frontends.len(), (1 << 16) + 1);
    let small = change("many", Vec::new());
    let plan = Tables::new(kept).plan_all(vec![change("tcp", three(Protocol::TCP)), small]);
    sandbox.maps_mut().apply(&plan).expect("write the maps");
    child.tell("stop");
    let report = child.line();
    child.finish();
    let (connections, failures) = report.split_once(' ').expect("two numbers");
    assert_eq!(failures, "0", "of {connections} connections {failures} failed");
    assert_ne!(connections, "0");
}

#[test]
fn source_ranges_outgrow_their_map() {
    const ROOM: u32 = 1 << 14;
    let mut sandbox = Sandbox::new("ranges");
    let many = || {
        let ranges = (0..=ROOM).map(|number| {
            let [_, b, c, d] = number.to_be_bytes();
            let range = format!("10.{b}.{c}.{d}/32");
            range.parse().expect("a network")
        });
        let frontend = address("203.0.113.1", 80, Protocol::TCP);
        let restricted = ServicePort {
            restricted: vec![frontend.into()],
            source_ranges: ranges.collect(),
            ..port(&[frontend], &[])
        };
        vec![change("many", vec![restricted])]
    };
    let plan = Tables::default().plan(many());
    let error = sandbox.maps_mut().apply(&plan).expect_err("it is one too many");
    let MapsError::Full { name, max_entries } = error else {
        panic!("{error}");
    };
    assert_eq!((name, max_entries), (maps::SOURCE_RANGES4, ROOM));
    // What is written for the next id is beside what the first attempt has left.
    sandbox.grow(name, 4 * max_entries);
    let mut tables = Tables::new(sandbox.maps().read().expect("read the maps"));
    assert_eq!(tables.sizes().ranges, [ROOM as usize, 0]);
    let plan = tables.plan_all(many());
    sandbox.maps_mut().apply(&plan).expect("there is room now");
    sandbox.restart();
    let kept = Tables::new(sandbox.maps().read().expect("read the maps")).entries();
    assert_eq!(kept, tables.entries());
    assert_eq!(kept.ranges.len(), ROOM as usize + 1);
}

#[test]
fn links_follow_the_cgroup() {
    let mut sandbox = Sandbox::new("moved");
    let before = sandbox.snapshot();
    sandbox.move_to_new_cgroup();
    let after = sandbox.snapshot();
    assert_eq!(before.maps, after.maps);
    for ((name, before), (_, after)) in before.links.iter().zip(&after.links) {
        assert_ne!(before.cgroup_id, after.cgroup_id, "{name}");
    }
    sandbox.plan(&mut Tables::default(), [change("tcp", three(Protocol::TCP))]);
    sandbox.run("reachable");
}

#[test]
fn an_agent_lives_dies_and_returns() {
    Sandbox::bare("agent").run("agent");
}

#[test]
fn what_another_layout_has_pinned_goes() {
    let sandbox = Sandbox::new("layouts");
    let (mine, other) = (format!("v{}", proxy_ebpf_common::LAYOUT_VERSION), "v0");
    for kind in ["maps", "links"] {
        let (from, to) = (
            sandbox.bpf_dir().join(&mine).join(kind),
            sandbox.bpf_dir().join(other).join(kind),
        );
        std::fs::create_dir_all(&to).expect("make a folder");
        for entry in std::fs::read_dir(from).expect("list pins") {
            let entry = entry.expect("list pins");
            std::fs::hard_link(entry.path(), to.join(entry.file_name())).expect("pin once more");
        }
    }
    let before = sandbox.snapshot();
    let removed = sandbox
        .pins()
        .remove_other_versions()
        .expect("remove the other layout's");
    assert_eq!(removed, before.maps.len() + before.links.len());
    assert!(!sandbox.bpf_dir().join(other).exists());
    let after = sandbox.snapshot();
    assert_eq!((before.maps, before.links), (after.maps, after.links));
    assert_eq!(
        sandbox.pins().remove_other_versions().expect("nothing to remove"),
        0
    );
}

#[test]
fn cleanup_leaves_nothing() {
    let mut sandbox = Sandbox::new("cleanup");
    sandbox.stop();
    let removed = pins::remove(sandbox.bpf_dir()).expect("remove the pins");
    assert!(removed > programs::HOOKS.len(), "{removed}");
    assert!(!sandbox.bpf_dir().exists());
    assert_eq!(pins::remove(sandbox.bpf_dir()).expect("nothing to remove"), 0);
}

#[test]
fn a_file_system_of_its_own_comes_and_goes() {
    let parent = tempfile::tempdir().expect("make a folder");
    let dir = parent.path().join("bpf");
    let error = Pins::open(parent.path().parent().expect("a parent"))
        .expect_err("the folder of temporary files is in use");
    assert!(matches!(error, PinError::NotBpffs { .. }), "{error}");
    drop(Pins::open(&dir).expect("mount and open"));
    assert_eq!(pins::remove(&dir).expect("remove and unmount"), 0);
    std::fs::remove_dir(&dir).expect("nothing is mounted there");
}

#[test]
fn batches_of_any_size_are_written_read_and_deleted() {
    let map = aya::maps::HashMap::<_, u32, u64>::create(10_000, 0).expect("create a map");
    let fd = aya::maps::IterableMap::map(&map).fd().as_fd();
    let entries: Vec<_> = (0..10_000_u32).map(|key| (key, u64::from(key) * 3)).collect();
    sys::update(fd, &entries).expect("fill the map");
    let error = sys::update(fd, &[(10_000_u32, 0_u64)]).expect_err("the map is full");
    assert_eq!(error.kind(), std::io::ErrorKind::ArgumentListTooLong, "{error}");
    let mut read = sys::read::<u32, u64>(fd).expect("read the map");
    read.sort_unstable();
    assert_eq!(read, entries);
    // Every second key is gone already when all are deleted.
    let even: Vec<_> = (0..10_000_u32).step_by(2).collect();
    sys::delete(fd, &even).expect("delete half");
    let all: Vec<_> = (0..10_000_u32).collect();
    sys::delete(fd, &all).expect("delete all");
    assert_eq!(sys::read::<u32, u64>(fd).expect("read the map"), []);
}

/// Names what this kernel is known to have, in words: then a test of it cannot do without.
const NEEDED: &str = "PROXY_EBPF_TEST_NEEDS";

/// Says what a test does that is about something that not every kernel has.
fn has(what: &str, is_there: bool) -> bool {
    let said = if is_there {
        "[kernel] has"
    } else {
        "SKIPPED: this kernel has no"
    };
    // Past the test runner, which would keep it to itself.
    let said = writeln!(std::io::stderr(), "{said} {what}");
    said.expect("say so");
    let needed = std::env::var(NEEDED).unwrap_or_default();
    let is_needed = needed.split(' ').any(|needed| needed == what);
    assert!(is_there || !is_needed, "this kernel is said to have {what}");
    is_there
}

/// How long a child may take; its own calls have shorter limits.
const PATIENCE: Duration = Duration::from_secs(240);

fn change(name: &str, ports: Vec<ServicePort>) -> Change {
    Change {
        service: ObjectName::new("test", name),
        ports,
        health_check: None,
    }
}

fn port(frontends: &[SocketAddress], backends: &[SocketAddress]) -> ServicePort {
    ServicePort {
        frontends: frontends.iter().copied().map(FrontendAddress::from).collect(),
        backends: backends.to_vec(),
        ..ServicePort::default()
    }
}

fn address(ip: &str, port: u16, protocol: Protocol) -> SocketAddress {
    let address: IpAddr = ip.parse().expect("an address");
    SocketAddress {
        address,
        port,
        protocol,
    }
}

/// A service over all servers of the child.
fn three(protocol: Protocol) -> Vec<ServicePort> {
    let backends = client::SERVERS.map(|port| address("127.0.0.1", port, protocol));
    vec![port(&[address(client::VIP4, client::PORT, protocol)], &backends)]
}
