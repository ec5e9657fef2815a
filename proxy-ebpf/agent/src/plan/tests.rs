//! Plans are compared as text, one write a line; [`Kernel`] carries them out write by write and checks what a program would
//! see in between.

use std::{collections::BTreeMap, net::IpAddr};

use proxy_ebpf_common::{Protocol, Scope};

use super::*;

/// The maps, as programs see them.
#[derive(Default)]
struct Kernel {
    frontends: BTreeMap<FrontendAddress, Frontend>,
    slots: BTreeMap<SlotKey, BackendId>,
    backends: BTreeMap<BackendId, SocketAddress>,
    matches: BTreeSet<AffinityMatchKey>,
    ranges: BTreeSet<(ServiceId, Cidr)>,
    node_addresses: BTreeSet<IpAddr>,
}

impl Kernel {
    /// Carries out a plan in its order, checking after every write that every frontend leads somewhere.
    fn apply(&mut self, plan: &Plan) {
        for &(id, address) in &plan.put_backends {
            assert_eq!(
                self.backends.insert(id, address),
                None,
                "a backend is never changed"
            );
        }
        for &key in &plan.put_matches {
            assert!(self.matches.insert(key), "written twice");
            self.check();
        }
        for &key in &plan.put_ranges {
            assert!(self.ranges.insert(key), "written twice");
            self.check();
        }
        for &(key, backend) in &plan.put_slots {
            self.slots.insert(key, backend);
            self.check();
        }
        for &(address, frontend) in &plan.put_frontends {
            self.frontends.insert(address, frontend);
            self.check();
        }
        for address in &plan.delete_frontends {
            assert!(
                self.frontends.remove(address).is_some(),
                "{address} was not there"
            );
        }
        for key in &plan.delete_slots {
            assert!(self.slots.remove(key).is_some(), "{key:?} was not there");
            self.check();
        }
        for key in &plan.delete_matches {
            assert!(self.matches.remove(key), "{key:?} was not there");
        }
        for key in &plan.delete_ranges {
            assert!(self.ranges.remove(key), "{key:?} was not there");
        }
        for (id, _) in &plan.delete_backends {
            assert!(self.backends.remove(id).is_some(), "{id:?} was not there");
            self.check();
        }
        for ip in &plan.put_node_addresses {
            assert!(self.node_addresses.insert(*ip), "written twice");
        }
        for ip in &plan.delete_node_addresses {
            assert!(self.node_addresses.remove(ip), "{ip} was not there");
        }
    }

    fn check(&self) {
        for (address, frontend) in &self.frontends {
            for slot in 0..frontend.slots {
                let id = self.slots.get(&SlotKey {
                    service: frontend.service,
                    slot,
                });
                let backend = id.and_then(|id| self.backends.get(id));
                assert!(backend.is_some(), "slot {slot} of {address} leads nowhere");
            }
        }
    }

    fn entries(&self) -> Entries {
        Entries {
            frontends: self
                .frontends
                .iter()
                .map(|(&address, &frontend)| (address, frontend))
                .collect(),
            slots: self.slots.iter().map(|(&key, &backend)| (key, backend)).collect(),
            backends: self
                .backends
                .iter()
                .map(|(&id, &address)| (id, address))
                .collect(),
            matches: self.matches.iter().copied().collect(),
            ranges: self.ranges.iter().copied().collect(),
            node_addresses: self.node_addresses.iter().copied().collect(),
        }
    }
}

/// Tables and the kernel that they describe.
#[derive(Default)]
struct World {
    tables: Tables,
    kernel: Kernel,
}

impl World {
    /// A node whose maps were left in this state.
    fn restored(kernel: Kernel) -> Self {
        Self {
            tables: Tables::new(kernel.entries()),
            kernel,
        }
    }

    #[track_caller]
    fn plan(&mut self, changes: &[Change], expected: &[&str]) {
        let plan = self.tables.plan(clone(changes));
        self.carry_out(&plan, expected);
    }

    #[track_caller]
    fn plan_all(&mut self, changes: &[Change], expected: &[&str]) {
        let plan = self.tables.plan_all(clone(changes));
        self.carry_out(&plan, expected);
        // What was planned is what was asked for, so that asking again gives nothing; and a restart finds the same.
        for tables in [&mut self.tables, &mut Tables::new(self.kernel.entries())] {
            let again = tables.plan_all(clone(changes));
            assert!(again.is_empty(), "not settled: {again:?}");
        }
    }

    #[track_caller]
    fn carry_out(&mut self, plan: &Plan, expected: &[&str]) {
        assert_eq!(lines(plan), expected);
        self.kernel.apply(plan);
        let entries = self.tables.entries();
        assert_eq!(
            entries,
            self.kernel.entries(),
            "the tables must say what the maps hold"
        );
        assert_eq!(self.tables.sizes(), sizes(&entries));
    }
}

fn lines(plan: &Plan) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(
        plan.put_backends
            .iter()
            .map(|(id, address)| format!("+ backend {} = {address}", id.0)),
    );
    lines.extend(
        plan.put_matches
            .iter()
            .map(|key| format!("+ match {}/{}", key.service.0, key.backend.0)),
    );
    lines.extend(
        plan.put_ranges
            .iter()
            .map(|(id, range)| format!("+ range {} {range}", id.0)),
    );
    lines.extend(
        plan.put_slots
            .iter()
            .map(|(key, id)| format!("+ slot {}/{} = {}", key.service.0, key.slot, id.0)),
    );
    lines.extend(plan.put_frontends.iter().map(|(address, frontend)| {
        let Frontend { service, slots, .. } = frontend;
        format!("+ frontend {address} = {} x{slots}", service.0)
    }));
    lines.extend(
        plan.delete_frontends
            .iter()
            .map(|address| format!("- frontend {address}")),
    );
    lines.extend(
        plan.delete_slots
            .iter()
            .map(|key| format!("- slot {}/{}", key.service.0, key.slot)),
    );
    lines.extend(
        plan.delete_matches
            .iter()
            .map(|key| format!("- match {}/{}", key.service.0, key.backend.0)),
    );
    lines.extend(
        plan.delete_ranges
            .iter()
            .map(|(id, range)| format!("- range {} {range}", id.0)),
    );
    lines.extend(
        plan.delete_backends
            .iter()
            .map(|(id, address)| format!("- backend {} = {address}", id.0)),
    );
    lines.extend(
        plan.conflicts
            .iter()
            .map(|(service, address)| format!("! {service} wants {address}")),
    );
    lines
}

fn clone(changes: &[Change]) -> Vec<Change> {
    changes
        .iter()
        .map(|change| Change {
            service: change.service.clone(),
            ports: change.ports.clone(),
            health_check: change.health_check,
        })
        .collect()
}

fn address(text: &str) -> SocketAddress {
    let (ip, port) = text.rsplit_once(':').expect("address:port");
    let address: IpAddr = ip.trim_matches(['[', ']']).parse().expect("an address");
    SocketAddress {
        address,
        port: port.parse().expect("a port"),
        protocol: Protocol::TCP,
    }
}

fn port(frontends: &[&str], backends: &[&str]) -> ServicePort {
    let frontends = frontends.iter().map(|text| address(text).into());
    ServicePort {
        frontends: frontends.collect(),
        backends: backends.iter().map(|text| address(text)).collect(),
        ..ServicePort::default()
    }
}

fn service(name: &str, ports: &[ServicePort]) -> Change {
    Change {
        service: ObjectName::new("default", name),
        ports: ports.to_vec(),
        health_check: None,
    }
}

fn range(text: &str) -> Cidr {
    text.parse().expect("a network")
}

/// A Service with one address.
fn web(backends: &[&str]) -> Change {
    service("web", &[port(&["10.96.0.1:80"], backends)])
}

fn sticky(backends: &[&str]) -> Change {
    service(
        "web",
        &[ServicePort {
            affinity_timeout_s: 60,
            ..port(&["10.96.0.1:80"], backends)
        }],
    )
}

#[test]
fn plan_start() {
    World::default().plan_all(
        &[
            web(&["10.0.0.1:8080", "10.0.0.2:8080"]),
            service("none", &[port(&["10.96.0.2:80"], &[])]),
        ],
        &[
            "+ backend 1 = 10.0.0.1:8080/TCP",
            "+ backend 2 = 10.0.0.2:8080/TCP",
            "+ slot 1/0 = 1",
            "+ slot 1/1 = 2",
            "+ frontend 10.96.0.1:80/TCP = 1 x2",
            "+ frontend 10.96.0.2:80/TCP = 2 x0",
        ],
    );
}

#[test]
fn plan_unchanged() {
    let mut world = World::default();
    let wanted = [web(&["10.0.0.1:8080"])];
    world.tables.plan_all(clone(&wanted));
    let plan = world.tables.plan(clone(&wanted));
    assert_eq!((plan.unchanged, plan.writes()), (1, 0));
}

#[test]
fn plan_one_endpoint_more_is_a_backend_a_slot_and_a_count() {
    let mut world = World::default();
    world.tables.plan(vec![web(&["10.0.0.1:1", "10.0.0.3:1"])]);
    let plan = world
        .tables
        .plan(vec![web(&["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"])]);
    let expected = [
        "+ backend 3 = 10.0.0.2:1/TCP",
        "+ slot 1/2 = 3",
        "+ frontend 10.96.0.1:80/TCP = 1 x3",
    ];
    assert_eq!(lines(&plan), expected);
}

#[test]
fn plan_one_endpoint_less_moves_the_last_into_its_place() {
    let mut world = World::restored(three());
    world.plan_all(
        &[web(&["10.0.0.2:1", "10.0.0.3:1"])],
        &[
            "+ slot 1/0 = 3",
            "+ frontend 10.96.0.1:80/TCP = 1 x2",
            "- slot 1/2",
            "- backend 1 = 10.0.0.1:1/TCP",
        ],
    );
}

#[test]
fn plan_a_replaced_endpoint_takes_the_place() {
    World::restored(three()).plan_all(
        &[web(&["10.0.0.1:1", "10.0.0.3:1", "10.0.0.4:1"])],
        &[
            "+ backend 4 = 10.0.0.4:1/TCP",
            "+ slot 1/1 = 4",
            "- backend 2 = 10.0.0.2:1/TCP",
        ],
    );
}

#[test]
fn plan_the_last_endpoint_leaves_and_another_comes() {
    let mut world = World::restored(three());
    world.plan(
        &[web(&[])],
        &[
            "+ frontend 10.96.0.1:80/TCP = 1 x0",
            "- slot 1/0",
            "- slot 1/1",
            "- slot 1/2",
            "- backend 1 = 10.0.0.1:1/TCP",
            "- backend 2 = 10.0.0.2:1/TCP",
            "- backend 3 = 10.0.0.3:1/TCP",
        ],
    );
    world.plan_all(
        &[web(&["10.0.0.1:1"])],
        // The id of a backend that is gone is not used again soon: affinity may still name it.
        &[
            "+ backend 4 = 10.0.0.1:1/TCP",
            "+ slot 1/0 = 4",
            "+ frontend 10.96.0.1:80/TCP = 1 x1",
        ],
    );
}

#[test]
fn plan_a_shared_backend_lives_as_long_as_one_service_has_it() {
    let mut world = World::default();
    let other = service("other", &[port(&["10.96.0.2:80"], &["10.0.0.1:1"])]);
    world.plan_all(
        &[web(&["10.0.0.1:1"]), other],
        &[
            "+ backend 1 = 10.0.0.1:1/TCP",
            "+ slot 1/0 = 1",
            "+ slot 2/0 = 1",
            "+ frontend 10.96.0.1:80/TCP = 1 x1",
            "+ frontend 10.96.0.2:80/TCP = 2 x1",
        ],
    );
    world.plan(
        &[service("web", &[])],
        &["- frontend 10.96.0.1:80/TCP", "- slot 1/0"],
    );
    world.plan(
        &[service("other", &[])],
        &[
            "- frontend 10.96.0.2:80/TCP",
            "- slot 2/0",
            "- backend 1 = 10.0.0.1:1/TCP",
        ],
    );
}

#[test]
fn plan_a_backend_that_passes_between_services_keeps_its_id() {
    let mut world = World::restored(three());
    world.plan_all(
        &[
            web(&["10.0.0.1:1", "10.0.0.2:1"]),
            service("other", &[port(&["10.96.0.2:80"], &["10.0.0.3:1"])]),
        ],
        &[
            "+ slot 2/0 = 3",
            "+ frontend 10.96.0.1:80/TCP = 1 x2",
            "+ frontend 10.96.0.2:80/TCP = 2 x1",
            "- slot 1/2",
        ],
    );
}

#[test]
fn plan_a_changed_port_is_a_new_frontend_of_the_old_backends() {
    let mut world = World::default();
    world.tables.plan_all(vec![web(&["10.0.0.1:1"])]);
    let plan = world
        .tables
        .plan(vec![service("web", &[port(&["10.96.0.1:81"], &["10.0.0.1:1"])])]);
    let expected = [
        "+ slot 2/0 = 1",
        "+ frontend 10.96.0.1:81/TCP = 2 x1",
        "- frontend 10.96.0.1:80/TCP",
        "- slot 1/0",
    ];
    assert_eq!(lines(&plan), expected);
}

#[test]
fn plan_several_frontends_share_slots() {
    let mut world = World::default();
    world.plan_all(
        &[service(
            "web",
            &[port(&["10.96.0.1:80", "192.0.2.1:80"], &["10.0.0.1:1"])],
        )],
        &[
            "+ backend 1 = 10.0.0.1:1/TCP",
            "+ slot 1/0 = 1",
            "+ frontend 10.96.0.1:80/TCP = 1 x1",
            "+ frontend 192.0.2.1:80/TCP = 1 x1",
        ],
    );
    world.plan_all(
        &[service("web", &[port(&["192.0.2.1:80"], &["10.0.0.1:1"])])],
        &["- frontend 10.96.0.1:80/TCP"],
    );
}

#[test]
fn plan_both_families_have_slots_of_their_own() {
    World::default().plan_all(
        &[service(
            "web",
            &[
                port(&["10.96.0.1:80"], &["10.0.0.1:1"]),
                port(&["[fd00::1]:80"], &["[fd01::1]:1"]),
            ],
        )],
        &[
            "+ backend 1 = 10.0.0.1:1/TCP",
            "+ backend 2 = [fd01::1]:1/TCP",
            "+ slot 1/0 = 1",
            "+ slot 2/0 = 2",
            "+ frontend 10.96.0.1:80/TCP = 1 x1",
            "+ frontend [fd00::1]:80/TCP = 2 x1",
        ],
    );
}

#[test]
fn plan_affinity_is_granted_and_withdrawn_per_backend() {
    let mut world = World::restored(three());
    world.plan_all(
        &[sticky(&["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"])],
        &[
            "+ match 1/1",
            "+ match 1/2",
            "+ match 1/3",
            "+ frontend 10.96.0.1:80/TCP = 1 x3",
        ],
    );
    world.plan_all(
        &[sticky(&["10.0.0.1:1", "10.0.0.3:1", "10.0.0.4:1"])],
        &[
            "+ backend 4 = 10.0.0.4:1/TCP",
            "+ match 1/4",
            "+ slot 1/1 = 4",
            "- match 1/2",
            "- backend 2 = 10.0.0.2:1/TCP",
        ],
    );
    world.plan_all(
        &[web(&["10.0.0.1:1", "10.0.0.3:1", "10.0.0.4:1"])],
        &[
            "+ frontend 10.96.0.1:80/TCP = 1 x3",
            "- match 1/1",
            "- match 1/3",
            "- match 1/4",
        ],
    );
}

#[test]
fn plan_an_address_passes_to_another_service_in_one_step() {
    let mut world = World::default();
    world.tables.plan_all(vec![web(&["10.0.0.1:1"])]);
    let heir = service("heir", &[port(&["10.96.0.1:80"], &["10.0.0.9:1"])]);
    let plan = world.tables.plan(vec![service("web", &[]), heir]);
    let expected = [
        "+ backend 2 = 10.0.0.9:1/TCP",
        "+ slot 1/0 = 2",
        "- backend 1 = 10.0.0.1:1/TCP",
    ];
    assert_eq!(lines(&plan), expected);
}

#[test]
fn plan_an_address_that_is_taken_stays_with_its_owner() {
    let mut world = World::default();
    world.tables.plan_all(vec![web(&[])]);
    let rival = || service("rival", &[port(&["10.96.0.1:80"], &["10.0.0.9:1"])]);
    let plan = world.tables.plan(vec![rival()]);
    assert_eq!(lines(&plan), ["! default/rival wants 10.96.0.1:80/TCP"]);
    let plan = world.tables.plan(vec![service("web", &[]), rival()]);
    assert_eq!(plan.conflicts, []);
    assert_eq!(plan.put_frontends.len(), 1);
}

/// CVE-2020-8554: whoever may write externalIPs names the address of somebody else's Service.
#[test]
fn plan_a_cluster_ip_wins_over_an_external_one() {
    let rival = || {
        let mut port = port(&["10.96.0.1:80", "10.96.0.2:80"], &["10.0.0.9:1"]);
        port.external = vec![address("10.96.0.1:80").into()];
        service("a-rival", &[port])
    };
    let conflict = (
        ObjectName::new("default", "a-rival"),
        address("10.96.0.1:80").into(),
    );
    let owner_of = |tables: &Tables| {
        let frontend = &tables.frontends[&FrontendAddress::from(address("10.96.0.1:80"))];
        frontend.owner.clone().map(|owner| owner.to_string())
    };
    // Before the rival, after it, and together with it, in whatever order.
    let mut before = Tables::default();
    before.plan_all(vec![web(&["10.0.0.1:1"])]);
    let plan = before.plan(vec![rival()]);
    assert_eq!(plan.conflicts, std::slice::from_ref(&conflict));
    let mut after = Tables::default();
    after.plan_all(vec![rival()]);
    assert_eq!(
        owner_of(&after).as_deref(),
        Some("default/a-rival"),
        "nobody else wants it"
    );
    let plan = after.plan(vec![web(&["10.0.0.1:1"])]);
    assert_eq!(plan.conflicts, std::slice::from_ref(&conflict));
    assert_eq!(
        plan.put_frontends.len(),
        1,
        "the rival's own address is not touched: {plan:?}"
    );
    let mut together = Tables::default();
    assert_eq!(
        together.plan_all(vec![rival(), web(&["10.0.0.1:1"])]).conflicts,
        [conflict]
    );
    for tables in [&before, &after, &together] {
        assert_eq!(owner_of(tables).as_deref(), Some("default/web"));
    }
    // A restart finds everything in its place.
    let mut restarted = Tables::new(together.entries());
    assert!(restarted.plan_all(vec![rival(), web(&["10.0.0.1:1"])]).is_empty());
}

#[test]
fn plan_one_address_leads_elsewhere_for_clients_from_outside() {
    let from_outside = FrontendAddress {
        scope: Scope::EXTERNAL,
        ..address("0.0.0.0:30080").into()
    };
    let outside = ServicePort {
        frontends: vec![from_outside],
        ..port(&[], &["10.0.0.1:1"])
    };
    World::default().plan_all(
        &[service(
            "web",
            &[port(&["0.0.0.0:30080"], &["10.0.0.1:1", "10.0.0.2:1"]), outside],
        )],
        &[
            "+ backend 1 = 10.0.0.1:1/TCP",
            "+ backend 2 = 10.0.0.2:1/TCP",
            "+ slot 1/0 = 1",
            "+ slot 1/1 = 2",
            "+ slot 2/0 = 1",
            "+ frontend 0.0.0.0:30080/TCP = 1 x2",
            "+ frontend 0.0.0.0:30080/TCP from outside = 2 x1",
        ],
    );
}

#[test]
fn plan_says_which_datagram_backends_left_which_service() {
    let udp = |texts: &[&str]| -> Vec<ServicePort> {
        let mut port = port(&["10.96.0.1:53"], texts);
        let protocol = Protocol::UDP;
        port.frontends[0].socket.protocol = protocol;
        port.backends
            .iter_mut()
            .for_each(|backend| backend.protocol = protocol);
        vec![port]
    };
    let mut tables = Tables::default();
    let mut left = |changes: &[Change], whole: bool| {
        let plan = if whole {
            tables.plan_all(clone(changes))
        } else {
            tables.plan(clone(changes))
        };
        let left = plan
            .left
            .iter()
            .map(|(service, backend)| format!("{} {backend}", service.0));
        left.collect::<Vec<_>>().join(", ")
    };
    let rows: [(&[Change], bool, &str); 7] = [
        // 0 to N: nobody is stuck anywhere.
        (&[service("dns", &udp(&[]))], true, ""),
        (
            &[service("dns", &udp(&["10.0.0.1:53", "10.0.0.2:53"]))],
            false,
            "",
        ),
        (
            &[service("dns", &udp(&["10.0.0.2:53", "10.0.0.3:53"]))],
            false,
            "1 10.0.0.1:53/UDP",
        ),
        // Connections see for themselves.
        (&[web(&["10.0.0.9:80"])], false, ""),
        (&[web(&[])], false, ""),
        // N to 0, and a Service that goes.
        (
            &[service("dns", &udp(&["10.0.0.2:53"]))],
            false,
            "1 10.0.0.3:53/UDP",
        ),
        (&[], true, "1 10.0.0.2:53/UDP"),
    ];
    for (changes, whole, expected) in rows {
        assert_eq!(left(changes, whole), expected);
    }
    // An agent that was away when it happened knows it from the maps.
    let mut world = World::default();
    let plan = world
        .tables
        .plan_all(vec![service("dns", &udp(&["10.0.0.1:53"]))]);
    world.kernel.apply(&plan);
    let plan = Tables::new(world.kernel.entries()).plan_all(vec![service("dns", &udp(&[]))]);
    assert_eq!(plan.left, [(ServiceId(1), udp(&["10.0.0.1:53"])[0].backends[0])]);
}

#[test]
fn plan_node_addresses_come_and_go() {
    let ips = |texts: &[&str]| -> BTreeSet<IpAddr> {
        texts
            .iter()
            .map(|text| text.parse().expect("an address"))
            .collect()
    };
    let mut world = World::default();
    for (wanted, put, delete) in [
        (
            ips(&["0.0.0.0", "fd00::1"]),
            ips(&["0.0.0.0", "fd00::1"]),
            ips(&[]),
        ),
        (ips(&["0.0.0.0", "fd00::2"]), ips(&["fd00::2"]), ips(&["fd00::1"])),
        (ips(&["0.0.0.0", "fd00::2"]), ips(&[]), ips(&[])),
    ] {
        let mut plan = Plan::default();
        world.tables.plan_node_addresses(wanted, &mut plan);
        assert_eq!(plan.put_node_addresses, put.into_iter().collect::<Vec<_>>());
        assert_eq!(plan.delete_node_addresses, delete.into_iter().collect::<Vec<_>>());
        world.kernel.apply(&plan);
        assert_eq!(
            Tables::new(world.kernel.entries()).entries(),
            world.tables.entries()
        );
    }
}

#[test]
fn plan_all_deletes_what_nobody_asks_for() {
    World::restored(three()).plan_all(
        &[],
        &[
            "- frontend 10.96.0.1:80/TCP",
            "- slot 1/0",
            "- slot 1/1",
            "- slot 1/2",
            "- backend 1 = 10.0.0.1:1/TCP",
            "- backend 2 = 10.0.0.2:1/TCP",
            "- backend 3 = 10.0.0.3:1/TCP",
        ],
    );
}

#[test]
fn plan_one_service_leaves_what_is_unclaimed_alone() {
    World::restored(three()).plan(
        &[service("other", &[port(&["10.96.0.2:80"], &["10.0.0.1:1"])])],
        &["+ slot 2/0 = 1", "+ frontend 10.96.0.2:80/TCP = 2 x1"],
    );
}

#[test]
fn plan_mends_what_a_crash_left_half_written() {
    let wanted = [sticky(&["10.0.0.1:1", "10.0.0.2:1", "10.0.0.4:1"])];
    // Every prefix of the writes of a plan is a state in which the agent may have died.
    let full = Tables::new(three().entries()).plan_all(clone(&wanted));
    for writes in 0..=full.writes() {
        let mut kernel = three();
        kernel.apply(&prefix(&full, writes));
        let mut world = World::restored(kernel);
        let plan = world.tables.plan_all(clone(&wanted));
        assert!(plan.writes() <= full.writes(), "after {writes} writes: {plan:?}");
        world.kernel.apply(&plan);
        assert_eq!(world.tables.entries(), world.kernel.entries());
        assert!(world.tables.plan_all(clone(&wanted)).is_empty());
    }
}

#[test]
fn plan_mends_entries_that_make_no_sense() {
    let mut kernel = three();
    // A slot without its backend, a backend twice, a backend of nobody, a slot far out, a match of nobody.
    kernel.slots.insert(
        SlotKey {
            service: ServiceId(1),
            slot: 1,
        },
        BackendId(77),
    );
    kernel.backends.insert(BackendId(9), address("10.0.0.1:1"));
    kernel.backends.insert(BackendId(8), address("10.9.9.9:1"));
    kernel.slots.insert(
        SlotKey {
            service: ServiceId(1),
            slot: 9,
        },
        BackendId(9),
    );
    kernel.slots.insert(
        SlotKey {
            service: ServiceId(5),
            slot: 0,
        },
        BackendId(1),
    );
    kernel.matches.insert(AffinityMatchKey {
        service: ServiceId(6),
        backend: BackendId(1),
    });
    World::restored(kernel).plan_all(
        &[web(&["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"])],
        &[
            "+ slot 1/1 = 2",
            "- slot 1/9",
            "- slot 5/0",
            "- match 6/1",
            "- backend 9 = 10.0.0.1:1/TCP",
            "- backend 8 = 10.9.9.9:1/TCP",
        ],
    );
}

/// Who loses its datagram connections, and who keeps them.
#[test]
fn plan_datagrams_are_forgotten_when_a_backend_leaves_or_a_first_one_comes_and_not_by_a_restart() {
    let datagrams = |text: &str| SocketAddress {
        protocol: Protocol::UDP,
        ..address(text)
    };
    let dns = |backends: &[&str]| {
        let port = ServicePort {
            frontends: vec![datagrams("10.96.0.10:53").into()],
            backends: backends.iter().map(|text| datagrams(text)).collect(),
            ..ServicePort::default()
        };
        vec![service("dns", &[port])]
    };
    let frontend = datagrams("10.96.0.10:53");
    let mut world = World::default();
    let plan = |world: &mut World, changes: Vec<Change>| {
        let plan = world.tables.plan(changes);
        world.kernel.apply(&plan);
        let backends = |pairs: &[(ServiceId, SocketAddress)]| {
            let mut ports: Vec<_> = pairs.iter().map(|(_, backend)| backend.port).collect();
            ports.sort_unstable();
            ports
        };
        (backends(&plan.left), backends(&plan.joined), plan.appeared)
    };
    let none = Vec::<u16>::new;
    let (one, both) = (&["10.0.0.1:1"][..], &["10.0.0.1:1", "10.0.0.2:2"][..]);
    // From nobody to one: what was told that nobody is there is forgotten.
    assert_eq!(plan(&mut world, dns(&[])), (none(), none(), vec![]));
    assert_eq!(plan(&mut world, dns(one)), (none(), vec![1], vec![frontend]));
    assert_eq!(plan(&mut world, dns(both)), (none(), vec![2], vec![]));
    // A restart finds what is there.
    let mut restarted = Tables::new(world.kernel.entries());
    let again = restarted.plan_all(dns(both));
    assert!(
        again.is_empty() && again.left.is_empty() && again.appeared.is_empty(),
        "{again:?}"
    );
    // An agent that was killed had noticed who left, and not told anybody: sockets and connections still show it.
    let [id] = [restarted.entries().frontends[0].1.service];
    let served = ["10.0.0.1:1", "10.0.0.2:2", "10.0.0.3:3"].map(|text| (id, datagrams(text)));
    let elsewhere = (ServiceId(id.0 + 1), datagrams("10.0.0.1:1"));
    let mut astray = restarted.astray(served.into_iter().chain([elsewhere]));
    astray.sort_unstable();
    assert_eq!(astray, [served[2], elsewhere]);
    // One that left while nobody looked is noticed by the restart, and nobody else is concerned.
    let late = Tables::new(world.kernel.entries()).plan_all(dns(one));
    assert_eq!(late.left.len(), 1, "{late:?}");
    assert_eq!((late.left[0].1.port, late.appeared.len()), (2, 0));
    // One of two, the last, and the Service itself.
    assert_eq!(plan(&mut world, dns(one)), (vec![2], none(), vec![]));
    assert_eq!(plan(&mut world, dns(&[])), (vec![1], none(), vec![]));
    plan(&mut world, dns(both));
    assert_eq!(
        plan(&mut world, vec![service("dns", &[])]),
        (vec![1, 2], none(), vec![])
    );
}

/// So many that most tables would overflow: it takes no more than memory, and others get their share of the plan.
#[test]
fn plan_a_million_endpoints() {
    const COUNT: u32 = 1_000_000;
    let backends = (0..COUNT).map(|number| SocketAddress {
        address: std::net::Ipv4Addr::from_bits(0x0b00_0000 + number).into(),
        port: 1,
        protocol: Protocol::TCP,
    });
    let huge = ServicePort {
        backends: backends.collect(),
        ..port(&["10.96.0.99:80"], &[])
    };
    let mut tables = Tables::default();
    let plan = tables.plan_all(vec![service("huge", &[huge]), web(&["10.0.0.1:1"])]);
    assert_eq!(plan.put_backends.len(), COUNT as usize + 1);
    assert_eq!(plan.put_slots.len(), COUNT as usize + 1);
    let slots: Vec<_> = plan
        .put_frontends
        .iter()
        .map(|(_, frontend)| frontend.slots)
        .collect();
    assert_eq!(slots, [COUNT, 1]);
    assert_eq!(tables.sizes().slots, COUNT as usize + 1);
    let plan = tables.plan(vec![service("huge", &[])]);
    assert_eq!(plan.delete_backends.len(), COUNT as usize);
    // What is left is found in smaller tables too.
    tables.shrink();
    let plan = tables.plan(vec![web(&["10.0.0.1:1", "10.0.0.2:1"])]);
    assert_eq!((plan.put_backends.len(), plan.put_slots.len()), (1, 1));
}

#[test]
fn plan_source_ranges_are_there_before_the_frontend_asks_and_go_after() {
    let with = |ranges: &[&str], admits_node| {
        let restricted = if ranges.is_empty() {
            Vec::new()
        } else {
            vec![address("203.0.113.1:80").into()]
        };
        let ports = [ServicePort {
            external: vec![address("203.0.113.1:80").into()],
            restricted,
            source_ranges: ranges.iter().map(|text| range(text)).collect(),
            admits_node,
            ..port(&["203.0.113.1:80"], &[])
        }];
        [service("web", &ports)]
    };
    let flags = |world: &World| world.kernel.frontends[&address("203.0.113.1:80").into()].flags;
    let mut world = World::default();
    world.plan_all(
        &with(&["192.0.2.0/24", "10.0.0.0/8"], false),
        &[
            "+ range 1 10.0.0.0/8",
            "+ range 1 192.0.2.0/24",
            "+ frontend 203.0.113.1:80/TCP = 1 x0",
        ],
    );
    let restricted = FrontendFlags::EXTERNAL.union(FrontendFlags::SOURCE_RANGES);
    assert_eq!(flags(&world), restricted);
    world.plan(
        &with(&["192.0.2.0/24", "198.51.100.0/24"], true),
        &[
            "+ range 1 198.51.100.0/24",
            "+ frontend 203.0.113.1:80/TCP = 1 x0",
            "- range 1 10.0.0.0/8",
        ],
    );
    assert_eq!(flags(&world), restricted.union(FrontendFlags::ADMITS_NODE));
    world.plan(
        &with(&[], false),
        &[
            "+ frontend 203.0.113.1:80/TCP = 1 x0",
            "- range 1 192.0.2.0/24",
            "- range 1 198.51.100.0/24",
        ],
    );
    assert_eq!(flags(&world), FrontendFlags::EXTERNAL);
    world.plan(
        &with(&["192.0.2.0/24"], false),
        &["+ range 1 192.0.2.0/24", "+ frontend 203.0.113.1:80/TCP = 1 x0"],
    );
    world.plan(
        &[service("web", &[])],
        &["- frontend 203.0.113.1:80/TCP", "- range 1 192.0.2.0/24"],
    );
}

#[test]
fn random_histories_end_where_a_fresh_start_would() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut world = World::default();
        let mut wanted: BTreeMap<u64, Vec<ServicePort>> = BTreeMap::new();
        for _ in 0..40 {
            let name = random.below(4);
            let ports: Vec<_> = (0..random.below(3))
                .map(|number| ServicePort {
                    frontends: vec![address(&format!("10.96.0.{name}:{number}")).into()],
                    source_ranges: (0..random.below(3))
                        .map(|_| range(&format!("192.0.{}.0/24", random.below(3))))
                        .collect(),
                    backends: (1..9)
                        .filter(|_| random.below(2) == 0)
                        .map(|host| address(&format!("10.0.0.{host}:1")))
                        .collect(),
                    affinity_timeout_s: random.below(2) as u32,
                    elsewhere: random.below(5) == 0,
                    ..ServicePort::default()
                })
                .collect();
            wanted.insert(name, ports.clone());
            if random.below(8) == 0 {
                world.tables = Tables::new(world.kernel.entries());
                let all: Vec<_> = wanted
                    .iter()
                    .map(|(name, ports)| service(&name.to_string(), ports))
                    .collect();
                let plan = world.tables.plan_all(all);
                world.kernel.apply(&plan);
            } else {
                let plan = world.tables.plan(vec![service(&name.to_string(), &ports)]);
                world.kernel.apply(&plan);
            }
            let entries = world.tables.entries();
            assert_eq!(entries, world.kernel.entries(), "seed {seed}");
            assert_eq!(world.tables.sizes(), sizes(&entries), "seed {seed}");
        }
        for port in wanted.values().flatten() {
            let frontend = world.kernel.frontends[&port.frontends[0]];
            let slots = (0..frontend.slots).map(|slot| SlotKey {
                service: frontend.service,
                slot,
            });
            let mut found: Vec<_> = slots
                .map(|key| world.kernel.backends[&world.kernel.slots[&key]])
                .collect();
            found.sort_unstable();
            assert_eq!(found, port.backends, "seed {seed}");
        }
        let ports: usize = wanted.values().map(Vec::len).sum();
        let slots: usize = wanted.values().flatten().map(|port| port.backends.len()).sum();
        let matches = wanted
            .values()
            .flatten()
            .filter(|port| port.affinity_timeout_s > 0);
        let matches: usize = matches.map(|port| port.backends.len()).sum();
        let backends: BTreeSet<_> = wanted
            .values()
            .flatten()
            .flat_map(|port| &port.backends)
            .collect();
        let Kernel {
            frontends,
            slots: all_slots,
            backends: all_backends,
            matches: all_matches,
            ranges: all_ranges,
            node_addresses: _,
        } = &world.kernel;
        let sizes = (
            frontends.len(),
            all_slots.len(),
            all_backends.len(),
            all_matches.len(),
            all_ranges.len(),
        );
        let ranges: usize = wanted
            .values()
            .flatten()
            .map(|port| port.source_ranges.len())
            .sum();
        assert_eq!(
            sizes,
            (ports, slots, backends.len(), matches, ranges),
            "seed {seed}: nothing may be left behind"
        );
    }
}

fn sizes(entries: &Entries) -> Sizes {
    let of_families = |addresses: Vec<IpAddr>| {
        let ipv6 = addresses.iter().filter(|ip| ip.is_ipv6()).count();
        [addresses.len() - ipv6, ipv6]
    };
    let frontends = entries
        .frontends
        .iter()
        .map(|(address, _)| address.socket.address);
    let backends = entries.backends.iter().map(|(_, address)| address.address);
    Sizes {
        frontends: of_families(frontends.collect()),
        slots: entries.slots.len(),
        backends: of_families(backends.collect()),
        matches: entries.matches.len(),
        ranges: of_families(entries.ranges.iter().map(|(_, range)| range.address).collect()),
        node_addresses: of_families(entries.node_addresses.clone()),
    }
}

/// One Service with three backends, as an earlier agent left it.
fn three() -> Kernel {
    let mut world = World::default();
    let plan = world
        .tables
        .plan_all(vec![web(&["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"])]);
    world.kernel.apply(&plan);
    world.kernel
}

/// The first `count` writes of a plan.
fn prefix(plan: &Plan, mut count: usize) -> Plan {
    fn take<T: Clone>(items: &[T], count: &mut usize) -> Vec<T> {
        let taken = items.len().min(*count);
        *count -= taken;
        items[..taken].to_vec()
    }
    Plan {
        put_backends: take(&plan.put_backends, &mut count),
        put_matches: take(&plan.put_matches, &mut count),
        put_slots: take(&plan.put_slots, &mut count),
        put_frontends: take(&plan.put_frontends, &mut count),
        delete_frontends: take(&plan.delete_frontends, &mut count),
        delete_slots: take(&plan.delete_slots, &mut count),
        delete_matches: take(&plan.delete_matches, &mut count),
        delete_backends: take(&plan.delete_backends, &mut count),
        ..Plan::default()
    }
}

/// SplitMix64: enough to vary tests, the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (value ^ (value >> 31)) % limit
    }
}

#[test]
fn sizes_of_a_service_are_what_it_adds_to_empty_tables() {
    let socket = |ip: &str, port| SocketAddress {
        address: ip.parse().expect("an address"),
        port,
        protocol: Protocol::TCP,
    };
    let frontend = |ip: &str, port| FrontendAddress::from(socket(ip, port));
    let change = || Change {
        service: ObjectName::new("default", "web"),
        ports: vec![
            ServicePort {
                frontends: vec![frontend("10.96.0.1", 80), frontend("fd00:96::1", 80)],
                backends: vec![socket("10.0.0.1", 8080), socket("10.0.0.2", 8080)],
                affinity_timeout_s: 60,
                restricted: vec![frontend("10.96.0.1", 80)],
                source_ranges: ["192.0.2.0/24", "2001:db8::/32", "2001:db9::/32"]
                    .map(|range| range.parse().expect("a network"))
                    .into(),
                ..ServicePort::default()
            },
            ServicePort {
                frontends: vec![frontend("10.96.0.1", 443)],
                // One of them has been counted.
                backends: vec![socket("10.0.0.1", 8080), socket("fd00::1", 8080)],
                ..ServicePort::default()
            },
        ],
        health_check: None,
    };
    let mut tables = Tables::default();
    tables.plan(vec![change()]);
    let sizes = Sizes::of(&change());
    assert_eq!(sizes, tables.sizes());
    assert_eq!(sizes.total(), 3 + 4 + 3 + 2 + 3);
    assert_eq!(sizes.without(sizes), Some(Sizes::default()));
    let more = Sizes {
        ranges: [0, 3],
        ..sizes
    };
    assert_eq!(sizes.without(more), None);
}
