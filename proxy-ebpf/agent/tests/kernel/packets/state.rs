//! What the programs remember: connections and their ends, clients, and ports.

use std::{collections::BTreeSet, os::fd::AsFd as _, time::Instant};

use aya::util::KernelVersion;
use proxy_ebpf::{
    connections::{
        Collector,
        plan::{AGAIN, Flush},
    },
    desired::SocketAddress,
    inspect::connections,
    plan::Plan,
    sys,
};
use proxy_ebpf_common::{
    Address as _, Address4, BackendId, Conntrack, ConntrackFlags, ConntrackKey, DropReason, Port, Protocol,
    SNAT_PORT_MIN, ServiceId, maps,
};

use super::bench::{
    ABORT, Bench, CONTINUE, DATA, INIT, INIT_ACK, Net, REDIRECT, SHOT, SHUTDOWN_COMPLETE, at, ip_address,
    sctp, service,
};
use crate::{
    agent::wait,
    has,
    model::{ACK, FIN, Packet, RST, SYN},
};

pub(super) fn a_connection_ends(bench: &mut Bench, net: &Net) {
    let (client, service_address) = (at(net.client, 47_001), at(net.external_ip, 80));
    let via = |bench: &Bench, flags| {
        let (_, packet) = bench.run("node_ingress", &Packet::tcp(&client, &service_address, flags));
        packet.destination.ip()
    };
    bench.serve(service(net, Protocol::TCP, &[net.local_pod]));
    let old = via(bench, SYN);
    // Its backend leaves the Service while the connection is open: it drains.
    bench.run(
        "pod_egress",
        &Packet::tcp(&at(net.local_pod, 8080), &client, SYN | ACK),
    );
    bench.serve(service(net, Protocol::TCP, &[net.other_pod]));
    assert_eq!(via(bench, ACK), old);
    assert_eq!(via(bench, FIN | ACK), old);
    assert_eq!(
        via(bench, ACK),
        old,
        "what follows is still of the old connection"
    );
    // The same ports again are another connection.
    assert_eq!(via(bench, SYN), ip_address(net.other_pod));
    // It was never answered and its backend is gone: the client's next attempt goes to another.
    bench.serve(service(net, Protocol::TCP, &[net.local_pod]));
    assert_eq!(via(bench, SYN), ip_address(net.local_pod));
}

/// What the kernel has evicted comes back, also when an answer was taken for something else meanwhile.
pub(super) fn what_was_evicted_comes_back(bench: &mut Bench, net: &Net) {
    let (client, service_address) = (at(net.world, 47_003), at(net.external_ip, 80));
    let pod = at(net.local_pod, 8080);
    bench.serve(service(net, Protocol::TCP, &[net.local_pod]));
    let agrees = Packet::tcp(&pod, &client, SYN | ACK);
    bench.run("node_ingress", &Packet::tcp(&client, &service_address, SYN));
    bench.run("node_egress", &agrees);
    bench.forget(net, Protocol::TCP, (net.local_pod, 8080), (net.world, 47_003));
    bench.expect_untouched("node_egress", &agrees);
    // This one might be of a connection to the world that was evicted.
    let data = Packet::tcp(&pod, &client, ACK);
    let (_, stray) = bench.run("node_egress", &data);
    assert_eq!(stray.source.ip(), ip_address(net.node));
    // The next change of the connection's state brings it back.
    bench.run("node_ingress", &Packet::tcp(&client, &service_address, FIN | ACK));
    let (_, answer) = bench.run("node_egress", &data);
    assert_eq!(answer, data.translated(&service_address, &client, 0));
}

/// An answer that is under way while its client's datagrams go to another backend already arrives, and changes nothing for them.
pub(super) fn an_answer_under_way_arrives(bench: &mut Bench, net: &Net) {
    let (client, service_address) = (at(net.world, 47_004), at(net.external_ip, 80));
    let request = Packet::udp(&client, &service_address);
    bench.serve(service(net, Protocol::UDP, &[net.local_pod]));
    let pod = at(net.local_pod, 8080);
    let (_, sent) = bench.run("node_ingress", &request);
    assert_eq!(sent.destination.to_string(), pod);
    // As the agent does when a backend has left. The next one is on another node, which must see this node's address.
    bench.serve(service(net, Protocol::UDP, &[net.remote_pod]));
    bench.forget(net, Protocol::UDP, (net.world, 47_004), (net.external_ip, 80));
    let moved = bench.run("node_ingress", &request);
    assert_eq!(moved.1.source.ip(), ip_address(net.node));
    assert_eq!(moved.1.destination.to_string(), at(net.remote_pod, 8080));

    bench.expect_translated(
        "node_egress",
        &Packet::udp(&pod, &client),
        &service_address,
        &client,
    );
    assert_eq!(bench.run("node_ingress", &request), moved);
    let answer = Packet::udp(&at(net.remote_pod, 8080), &moved.1.source.to_string());
    bench.expect_redirect("node_ingress", &answer, &service_address, &client);
}

/// Clients of SCTP use the same port for every association.
pub(super) fn an_association_ends(bench: &mut Bench, net: &Net) {
    let (client, service_address) = (at(net.client, 47_002), at(net.external_ip, 80));
    let via = |bench: &Bench, kind| {
        let (_, packet) = bench.run("node_ingress", &sctp(&client, &service_address, kind));
        packet.destination.ip()
    };
    for last in [ABORT, SHUTDOWN_COMPLETE] {
        bench.serve(service(net, Protocol::SCTP, &[net.local_pod]));
        let old = via(bench, INIT);
        assert_eq!(old, ip_address(net.local_pod));
        bench.run("pod_egress", &sctp(&at(net.local_pod, 8080), &client, INIT_ACK));
        // What is begun again while it lives is a restart of the same.
        assert_eq!(via(bench, INIT), old);
        bench.serve(service(net, Protocol::SCTP, &[net.local_pod, net.other_pod]));
        assert_eq!(via(bench, INIT), old);
        bench.serve(service(net, Protocol::SCTP, &[net.other_pod]));
        assert_eq!(via(bench, DATA), old, "it drains");
        // Its end is the backend's word as well as the client's.
        if last == ABORT {
            bench.run("pod_egress", &sctp(&at(net.local_pod, 8080), &client, last));
        } else {
            via(bench, last);
        }
        assert_eq!(
            via(bench, DATA),
            old,
            "what follows is still of the old association"
        );
        assert_eq!(via(bench, INIT), ip_address(net.other_pod));
        // The backend leaves without a word, and the client, which has lost its memory, begins anew.
        bench.run("pod_egress", &sctp(&at(net.other_pod, 8080), &client, INIT_ACK));
        bench.serve(service(net, Protocol::SCTP, &[net.local_pod]));
        assert_eq!(via(bench, INIT), ip_address(net.local_pod));
        via(bench, ABORT);
    }
}

/// A pod has connections to a backend by the Service and past it, from one port.
pub(super) fn both_ways(bench: &mut Bench, net: &Net) {
    let (service_address, backend) = (at(net.cluster_ip, 80), at(net.remote_pod, 8080));
    let tcp = |source: &str, destination: &str, flags| Packet::tcp(source, destination, flags);
    bench.serve(service(net, Protocol::TCP, &[net.remote_pod]));
    let by_service = |bench: &Bench, pod: &str| {
        let request = tcp(pod, &service_address, SYN);
        bench.expect_translated("pod_egress", &request, pod, &backend);
    };
    let answered = |bench: &Bench, pod: &str, flags| {
        let reply = tcp(&backend, pod, flags);
        bench.expect_redirect("node_ingress", &reply, &service_address, pod);
    };

    // The connection by the Service is over, and the other one is only seen on its way into the pod.
    let pod = at(net.local_pod, 56_001);
    by_service(bench, &pod);
    answered(bench, &pod, RST | ACK);
    bench.expect_untouched("pod_ingress", &tcp(&pod, &backend, SYN));
    bench.expect_untouched("node_ingress", &tcp(&backend, &pod, SYN | ACK));

    // Where it is seen first it takes another port, for what may still come.
    let pod = at(net.local_pod, 56_002);
    by_service(bench, &pod);
    answered(bench, &pod, SYN | ACK);
    bench.run("pod_egress", &tcp(&pod, &service_address, FIN | ACK));
    let (_, sent) = bench.run("pod_egress", &tcp(&pod, &backend, SYN));
    assert!(sent.source.port() >= SNAT_PORT_MIN, "{sent:?}");
    answered(bench, &pod, FIN | ACK);

    // The same while it lives.
    let pod = at(net.local_pod, 56_003);
    by_service(bench, &pod);
    answered(bench, &pod, SYN | ACK);
    let direct = tcp(&pod, &backend, SYN);
    let (result, sent) = bench.run("pod_egress", &direct);
    assert_eq!((result, sent.source.ip()), (CONTINUE, ip_address(net.local_pod)));
    assert!(sent.source.port() >= SNAT_PORT_MIN, "{sent:?}");
    let other = sent.source.to_string();
    assert_eq!(sent, direct.translated(&other, &backend, 0));
    bench.expect_translated("pod_egress", &direct, &other, &backend);
    bench.expect_untouched("node_egress", &sent);
    // What the one by the Service has become on its way out is not taken for a second one.
    bench.expect_untouched("node_egress", &direct);
    let reply = tcp(&backend, &other, SYN | ACK);
    bench.expect_redirect("node_ingress", &reply, &backend, &pod);
    answered(bench, &pod, ACK);
    // It is over, and the Service's is forgotten: the next one keeps its port, from its first packet to its last.
    bench.run("pod_egress", &tcp(&pod, &backend, FIN | ACK));
    bench.run("node_ingress", &tcp(&backend, &other, FIN | ACK));
    bench.forget(
        net,
        Protocol::TCP,
        (net.remote_pod, 8080),
        (net.local_pod, 56_003),
    );
    for flags in [SYN, ACK, FIN | ACK] {
        bench.expect_untouched("pod_egress", &tcp(&pod, &backend, flags));
    }

    // The one past the Service has just been opened.
    let pod = at(net.local_pod, 56_006);
    bench.expect_untouched("pod_egress", &tcp(&pod, &backend, SYN));
    let request = tcp(&pod, &service_address, SYN);
    let (_, sent) = bench.run("pod_egress", &request);
    assert!(sent.source.port() >= SNAT_PORT_MIN, "{sent:?}");
    let other = sent.source.to_string();
    assert_eq!(sent, request.translated(&other, &backend, 0));
    bench.expect_untouched("node_ingress", &tcp(&backend, &pod, SYN | ACK));

    // The one past the Service was there first, unseen. What its backend says shows that.
    let pod = at(net.local_pod, 56_004);
    by_service(bench, &pod);
    bench.expect_untouched("node_ingress", &tcp(&backend, &pod, ACK));
    let request = tcp(&pod, &service_address, SYN);
    let (_, sent) = bench.run("pod_egress", &request);
    assert!(sent.source.port() >= SNAT_PORT_MIN, "{sent:?}");
    let other = sent.source.to_string();
    assert_eq!(sent, request.translated(&other, &backend, 0));
    let reply = tcp(&backend, &other, SYN | ACK);
    bench.expect_redirect("node_ingress", &reply, &service_address, &pod);
    for flags in [ACK, FIN | ACK] {
        bench.expect_untouched("node_ingress", &tcp(&backend, &pod, flags));
        bench.expect_untouched("pod_egress", &tcp(&pod, &backend, flags));
    }

    // Datagrams say nothing of connections: those past the Service take another port while those by it are remembered.
    bench.serve(service(net, Protocol::UDP, &[net.remote_pod]));
    let pod = at(net.local_pod, 56_005);
    bench.expect_untouched("pod_egress", &Packet::udp(&pod, &backend));
    let request = Packet::udp(&pod, &service_address);
    bench.expect_translated("pod_egress", &request, &pod, &backend);
    let (_, sent) = bench.run("pod_egress", &Packet::udp(&pod, &backend));
    assert!(sent.source.port() >= SNAT_PORT_MIN, "{sent:?}");
    let reply = Packet::udp(&backend, &sent.source.to_string());
    bench.expect_redirect("node_ingress", &reply, &backend, &pod);
    let reply = Packet::udp(&backend, &pod);
    bench.expect_redirect("node_ingress", &reply, &service_address, &pod);
}

/// A process of the node has connections to a backend by the Service and past it, from one port. Both are seen after the node's
/// routing alone, so a packet that a program has not seen before is the one past it.
pub(super) fn both_ways_from_the_node(bench: &mut Bench, net: &Net) {
    let mut ports = 57_001..;
    for (pod, on_its_way, answers) in [
        (net.remote_pod, "node_egress", "node_ingress"),
        (net.local_pod, "pod_ingress", "pod_egress"),
    ] {
        let (service_address, backend) = (at(net.cluster_ip, 80), at(pod, 8080));
        let mut own = || at(net.node, ports.next().expect("a port"));
        let tcp = |source: &str, destination: &str, flags| Packet::tcp(source, destination, flags);
        bench.serve(service(net, Protocol::TCP, &[pod]));
        let by_service = |bench: &Bench, packet: &Packet, own: &str| {
            bench.expect_redirect("node_egress", packet, own, &backend);
        };
        let answered = |bench: &Bench, packet: &Packet, from: &str, own: &str| {
            bench.expect_translated(answers, packet, from, own);
        };
        let by_another_port = |bench: &Bench, packet: &Packet| {
            let (result, sent) = bench.run(on_its_way, packet);
            assert_eq!((result, sent.source.ip()), (CONTINUE, ip_address(net.node)));
            assert!(sent.source.port() >= SNAT_PORT_MIN, "{sent:?}");
            let other = sent.source.to_string();
            assert_eq!(sent, packet.translated(&other, &backend, 0));
            other
        };

        // The one by the Service was first.
        let node = own();
        by_service(bench, &tcp(&node, &service_address, SYN), &node);
        answered(bench, &tcp(&backend, &node, SYN | ACK), &service_address, &node);
        let other = by_another_port(bench, &tcp(&node, &backend, SYN));
        answered(bench, &tcp(&backend, &other, SYN | ACK), &backend, &node);
        for flags in [ACK, FIN | ACK] {
            let sent = tcp(&node, &backend, flags);
            bench.expect_translated(on_its_way, &sent, &other, &backend);
        }
        by_service(bench, &tcp(&node, &service_address, ACK), &node);
        answered(bench, &tcp(&backend, &node, ACK), &service_address, &node);

        // It is over: what may still come is its own.
        let node = own();
        by_service(bench, &tcp(&node, &service_address, SYN), &node);
        answered(bench, &tcp(&backend, &node, RST | ACK), &service_address, &node);
        by_another_port(bench, &tcp(&node, &backend, SYN));

        // The one past the Service has just been opened.
        let node = own();
        bench.expect_untouched(on_its_way, &tcp(&node, &backend, SYN));
        let request = tcp(&node, &service_address, SYN);
        let (result, sent) = bench.run("node_egress", &request);
        assert!(sent.source.port() >= SNAT_PORT_MIN, "{sent:?}");
        let other = sent.source.to_string();
        assert_eq!(
            (result, &sent),
            (REDIRECT, &request.translated(&other, &backend, 1))
        );
        answered(bench, &tcp(&backend, &other, SYN | ACK), &service_address, &node);
        bench.expect_untouched(answers, &tcp(&backend, &node, SYN | ACK));
        bench.expect_untouched(on_its_way, &tcp(&node, &backend, ACK));

        // Datagrams, the one past the Service first, which makes no difference.
        bench.serve(service(net, Protocol::UDP, &[pod]));
        let node = own();
        let direct = Packet::udp(&node, &backend);
        bench.expect_untouched(on_its_way, &direct);
        by_service(bench, &Packet::udp(&node, &service_address), &node);
        let other = by_another_port(bench, &direct);
        answered(bench, &Packet::udp(&backend, &other), &backend, &node);
        answered(bench, &Packet::udp(&backend, &node), &service_address, &node);
    }
}

pub(super) fn the_client_stays(bench: &mut Bench, net: &Net) {
    let backends = [net.local_pod, net.other_pod];
    let mut ports = service(net, Protocol::TCP, &backends);
    for port in &mut ports[..2] {
        port.affinity_timeout_s = 600;
    }
    bench.serve(ports);
    let via = |bench: &Bench, port| {
        let request = Packet::tcp(&at(net.client, port), &at(net.external_ip, 80), SYN);
        bench.run("node_ingress", &request).1.destination.ip()
    };
    let first = via(bench, 48_001);
    for port in 48_002..48_030 {
        assert_eq!(via(bench, port), first);
    }
    let rest: Vec<_> = backends
        .into_iter()
        .filter(|ip| ip_address(ip) != first)
        .collect();
    let mut ports = service(net, Protocol::TCP, &rest);
    for port in &mut ports[..2] {
        port.affinity_timeout_s = 600;
    }
    bench.serve(ports);
    assert_eq!(via(bench, 48_040), ip_address(rest[0]));
}

/// A datagram says neither that it opens a connection nor that it ends one.
pub(super) fn datagrams_move(bench: &mut Bench, net: &Net) {
    let collector = Collector::start(&bench.dir).expect("start the collector");
    let (client, service_address) = (at(net.client, 51_001), at(net.external_ip, 80));
    let via = |bench: &Bench| {
        let (_, packet) = bench.run("node_ingress", &Packet::udp(&client, &service_address));
        packet.destination.ip()
    };
    bench.serve(service(net, Protocol::UDP, &[net.local_pod]));
    assert_eq!(via(bench), ip_address(net.local_pod));
    let plan = bench.serve(service(net, Protocol::UDP, &[net.other_pod]));
    assert_eq!(
        via(bench),
        ip_address(net.local_pod),
        "the table of connections decides"
    );
    let flush = |plan: Plan| {
        collector.flush(Flush {
            left: plan.left.into_iter().collect(),
            appeared: plan.appeared.into_iter().collect(),
            joined: plan.joined.into_iter().collect(),
            ..Flush::default()
        });
    };
    flush(plan);
    wait("datagrams go to the new backend", || {
        via(bench) == ip_address(net.other_pod)
    });

    // An agent is killed after it has written the tables: the next one finds whose datagrams are not where they should be.
    bench.serve(service(net, Protocol::UDP, &[net.local_pod]));
    let next = Collector::start(&bench.dir).expect("start the collector");
    next.flush(bench.astray(&next));
    wait("datagrams go where the tables say", || {
        via(bench) == ip_address(net.local_pod)
    });

    // What was sent into the world before there was the Service.
    bench.serve(Vec::new());
    let (pod, address) = (at(net.local_pod, 51_002), at(net.external_ip, 80));
    let request = Packet::udp(&pod, &address);
    let (_, sent) = bench.run("node_egress", &request);
    assert_eq!(sent.source.ip(), ip_address(net.node));
    let plan = bench.serve(service(net, Protocol::UDP, &[net.other_pod]));
    assert!(!plan.appeared.is_empty());
    flush(plan);
    let expected = request.translated(&pod, &at(net.other_pod, 8080), 0);
    wait("datagrams go to the Service", || {
        bench.run("pod_egress", &request).1 == expected
    });
}

/// Datagrams that are sent on and on must not keep a connection to nobody alive: not when the last backend has left, not when
/// the Service is gone, and not when a program has noted the connection just after it was forgotten.
pub(super) fn datagrams_end(bench: &mut Bench, net: &Net) {
    let collector = Collector::start(&bench.dir).expect("start the collector");
    let flush = |plan: &Plan| {
        collector.flush(Flush {
            left: plan.left.iter().copied().collect(),
            appeared: plan.appeared.iter().copied().collect(),
            joined: plan.joined.iter().copied().collect(),
            ..Flush::default()
        });
    };
    let (client, service_address) = (at(net.client, 55_001), at(net.external_ip, 80));
    let request = Packet::udp(&client, &service_address);
    let to_pod = |bench: &Bench, pod: &str| {
        bench.run("node_ingress", &request).1.destination == at(pod, 8080).parse().expect("an address")
    };
    bench.serve(service(net, Protocol::UDP, &[net.local_pod]));
    assert!(to_pod(bench, net.local_pod));

    // The last backend leaves: the sender is told.
    let plan = bench.serve(service(net, Protocol::UDP, &[]));
    assert!(!plan.left.is_empty() && plan.appeared.is_empty(), "{plan:?}");
    flush(&plan);
    let refused = bench.drops(DropReason::NoEndpoints);
    wait("the sender is told that nobody is there", || {
        bench.run("node_ingress", &request);
        bench.drops(DropReason::NoEndpoints) > refused
    });
    // The first one comes: nothing remembers the refusal.
    flush(&bench.serve(service(net, Protocol::UDP, &[net.local_pod])));
    assert!(to_pod(bench, net.local_pod));

    // The Service goes: its address is nobody's.
    let plan = bench.serve(Vec::new());
    assert!(!plan.left.is_empty(), "{plan:?}");
    flush(&plan);
    wait("the address is nobody's", || {
        bench.run("node_ingress", &request) == (CONTINUE, request.clone())
    });

    // As if a program had read the tables before the change and noted the connection after the flush. Programs take less than
    // the time after which it is repeated; whether this one does is up to the machine, so it may try again.
    let decoy = Packet::udp(&at(net.client, 55_002), &service_address);
    let noted = |bench: &Bench, packet: &Packet| {
        let entries = connections::read(&bench.dir, 0).expect("read the connections");
        let source = packet.source.to_string();
        entries.iter().any(|entry| entry.source == source)
    };
    let noted_in_time = (0..20).any(|attempt| {
        let plan = bench.serve(service(net, Protocol::UDP, &[net.local_pod]));
        if attempt > 0 {
            flush(&plan);
        }
        wait("datagrams go to the old backend", || to_pod(bench, net.local_pod));
        bench.run("node_ingress", &decoy);
        assert!(noted(bench, &decoy));
        let plan = bench.plan(service(net, Protocol::UDP, &[net.other_pod]));
        let flushed = Instant::now();
        flush(&plan);
        wait("the table was looked through", || !noted(bench, &decoy));
        assert!(to_pod(bench, net.local_pod), "the tables are the old ones");
        let in_time = flushed.elapsed() < AGAIN;
        bench.apply(&plan);
        if !in_time {
            flush(&plan);
        }
        wait("what was noted is forgotten", || to_pod(bench, net.other_pod));
        in_time
    });
    assert!(noted_in_time, "nothing was ever noted in time");
}

/// Each connection to the same peer needs a port of its own; when there are no more, the packet is dropped and counted, and
/// connections to others are not affected.
pub(super) fn ports_run_out(bench: &Bench, net: &Net) {
    let world = at(net.world, 4433);
    let before = bench.drops(DropReason::SnatPorts);
    let mut taken = BTreeSet::new();
    let mut dropped = 0;
    for port in 1..=5000 {
        let (result, sent) = bench.run("node_egress", &Packet::udp(&at(net.local_pod, port), &world));
        if result == SHOT {
            dropped += 1;
            continue;
        }
        assert!(sent.source.port() >= SNAT_PORT_MIN, "{sent:?}");
        assert!(
            taken.insert(sent.source.port()),
            "two connections have the port {}",
            sent.source.port()
        );
    }
    let ports = usize::from(u16::MAX - SNAT_PORT_MIN) + 1;
    assert!(
        taken.len() > ports * 9 / 10,
        "{} of {ports} ports are used",
        taken.len()
    );
    assert!(dropped >= 5000 - ports as u64, "{dropped}");
    assert_eq!(bench.drops(DropReason::SnatPorts), before + dropped);
    let elsewhere = Packet::udp(&at(net.local_pod, 5001), &at(net.world, 4434));
    assert_eq!(bench.run("node_egress", &elsewhere).0, CONTINUE);
}

/// Connections that begin under the keys of dead ones stay, also while those are being removed.
pub(super) fn collecting_leaves_new_connections_alone(bench: &Bench) {
    type Key = ConntrackKey<Address4>;
    type Entry = Conntrack<Address4>;
    const COUNT: u16 = 10_000;
    const ROUNDS: u32 = 10;
    const LIVING: u32 = u32::MAX / 2;
    let since = KernelVersion::new(5, 14, 0);
    let tells = KernelVersion::current().is_ok_and(|version| version >= since);
    if !has("removal that tells what it has removed", tells) {
        return;
    }
    let [client, service, pod] = [1, 2, 3].map(|last| Address4::from_octets([192, 0, 2, last]));
    let connections = |expires_s| {
        (0..COUNT).map(move |number| {
            let key = Key::new(client, Port::new(number), service, Port::new(80), Protocol::TCP);
            let entry = Entry {
                source: client,
                source_port: Port::new(number),
                destination: pod,
                destination_port: Port::new(8080),
                expires_s,
                created_s: 0,
                flags: ConntrackFlags::default(),
                service: ServiceId(1),
                backend: BackendId(1),
            };
            (key, entry)
        })
    };
    let map = bench.open(maps::CONNTRACK4);
    let map = map.fd().as_fd();
    let collector = Collector::start(&bench.dir).expect("start the collector");
    let nobody = SocketAddress {
        address: [192, 0, 2, 9].into(),
        port: 9,
        protocol: Protocol::UDP,
    };
    for _ in 0..ROUNDS {
        let dead: Vec<_> = connections(1).collect();
        sys::update(map, &dead).expect("write dead connections");
        // Whatever is to be flushed, the table is looked through.
        collector.flush(Flush {
            appeared: [nobody].into(),
            ..Flush::default()
        });
        for connection in connections(LIVING) {
            sys::update(map, &[connection]).expect("begin a connection");
        }
        wait("all that have begun are there", || {
            let entries = sys::read::<Key, Entry>(map).expect("read the connections");
            let own = entries.iter().filter(|(key, _)| key.source.is(client));
            own.count() == usize::from(COUNT)
        });
    }
    let keys: Vec<_> = connections(LIVING).map(|(key, _)| key).collect();
    sys::delete(map, &keys).expect("end them");
}
