//! The programs of the packet path, run on single packets: what comes out is compared with a model.

mod bench;
mod odd;
mod ranges;
mod state;

use proxy_ebpf_common::{DropReason, Protocol, SNAT_PORT_MIN};

use self::bench::{
    ABORT, Bench, CONTINUE, DATA, INITIATE_TAG, NETS, NODE_PORT, Net, PROTOCOLS, REDIRECT, SHUTDOWN_COMPLETE,
    TAG, answer, at, first, ip_address, sctp, service,
};
use crate::model::{ACK, Body, Packet, RST};

/// Runs everything: loading the programs takes longer than running them.
pub(crate) fn run() {
    let mut bench = Bench::new();
    for net in &NETS {
        for protocol in PROTOCOLS {
            from_outside_to_a_local_pod(&mut bench, net, protocol);
            from_outside_to_another_node(&mut bench, net, protocol);
            from_a_pod(&mut bench, net, protocol);
            from_the_node(&mut bench, net, protocol);
            to_the_world(&bench, net, protocol);
            from_the_world(&mut bench, net, protocol);
            nobody_is_there(&mut bench, net, protocol);
            ranges::only_some_are_admitted(&mut bench, net, protocol);
        }
        odd::errors(&mut bench, net);
        odd::echoes(&mut bench, net);
        odd::fragments(&mut bench, net);
        state::a_connection_ends(&mut bench, net);
        state::what_was_evicted_comes_back(&mut bench, net);
        state::an_answer_under_way_arrives(&mut bench, net);
        state::an_association_ends(&mut bench, net);
        state::both_ways(&mut bench, net);
        state::both_ways_from_the_node(&mut bench, net);
        state::the_client_stays(&mut bench, net);
        odd::odd_packets(&mut bench, net);
        odd::too_big(&mut bench, net);
        state::datagrams_move(&mut bench, net);
        state::datagrams_end(&mut bench, net);
        state::ports_run_out(&bench, net);
    }
    state::collecting_leaves_new_connections_alone(&bench);
}

fn from_outside_to_a_local_pod(bench: &mut Bench, net: &Net, protocol: Protocol) {
    bench.serve(service(net, protocol, &[net.local_pod]));
    let pod = at(net.local_pod, 8080);
    let services = [
        at(net.external_ip, 80),
        at(net.node, NODE_PORT),
        at(net.cluster_ip, 80),
    ];
    for (index, service) in services.iter().enumerate() {
        let client = at(net.client, 40_001 + index as u16);
        let request = first(protocol, &client, service);
        // Straight into the pod, with the client's own address.
        bench.expect_redirect("node_ingress", &request, &client, &pod);
        let reply = answer(protocol, &pod, &client);
        // Without a look at the node's own routing where the Service's address may be the node's.
        if index < 2 {
            bench.expect_redirect("pod_egress", &reply, service, &client);
        } else {
            bench.expect_translated("pod_egress", &reply, service, &client);
        }
        // The same for a device whose pod hook does not see it.
        bench.expect_translated("node_egress", &reply, service, &client);
        // Once it is translated, it is nobody's business any more.
        bench.expect_untouched("node_egress", &reply.translated(service, &client, 0));
    }
    // The same client by the same port at another address: the pod must be able to tell its connections apart.
    let client = at(net.client, 40_001);
    let request = first(protocol, &client, &services[1]);
    let (result, seen_by_pod) = bench.run("node_ingress", &request);
    assert_eq!(
        (result, seen_by_pod.destination.to_string()),
        (REDIRECT, pod.clone())
    );
    assert_eq!(seen_by_pod.source.ip(), ip_address(net.client));
    assert!(seen_by_pod.source.port() >= SNAT_PORT_MIN, "{seen_by_pod:?}");
    let reply = answer(protocol, &pod, &seen_by_pod.source.to_string());
    bench.expect_translated("node_egress", &reply, &services[1], &client);
    // A port of the cluster IP that the Service has not; the world hears nothing.
    let unknown = first(protocol, &client, &at(net.cluster_ip, 81));
    bench.expect_drop("node_ingress", &unknown, DropReason::UnknownPort);
    // The node's own ports are its own.
    bench.expect_untouched("node_ingress", &first(protocol, &client, &at(net.node, 22)));
}

fn from_outside_to_another_node(bench: &mut Bench, net: &Net, protocol: Protocol) {
    bench.serve(service(net, protocol, &[net.remote_pod]));
    let client = at(net.client, 41_001);
    let backend = at(net.remote_pod, 8080);
    for service in [at(net.external_ip, 80), at(net.node, NODE_PORT)] {
        let request = first(protocol, &client, &service);
        let (result, forwarded) = bench.run("node_ingress", &request);
        assert_eq!(result, REDIRECT, "{request:?}");
        // The backend must answer to this node.
        assert_eq!(forwarded.source.ip(), ip_address(net.node));
        let port = forwarded.source.port();
        assert!(port >= SNAT_PORT_MIN, "{forwarded:?}");
        let by_node = at(net.node, port);
        assert_eq!(forwarded, request.translated(&by_node, &backend, 1));
        // Another packet takes the same way.
        assert_eq!(bench.run("node_ingress", &request), (REDIRECT, forwarded.clone()));
        let reply = answer(protocol, &backend, &by_node);
        bench.expect_redirect("node_ingress", &reply, &service, &client);
        // What the node itself has sent on is not touched again.
        bench.expect_untouched("node_egress", &forwarded);
        bench.expect_untouched("node_egress", &reply.translated(&service, &client, 1));
    }
}

fn from_a_pod(bench: &mut Bench, net: &Net, protocol: Protocol) {
    let service_address = at(net.cluster_ip, 80);
    let pod = at(net.local_pod, 42_001);
    // On another node: routed as any packet, with the pod's own address.
    bench.serve(service(net, protocol, &[net.remote_pod]));
    let backend = at(net.remote_pod, 8080);
    let request = first(protocol, &pod, &service_address);
    bench.expect_translated("pod_egress", &request, &pod, &backend);
    let reply = answer(protocol, &backend, &pod);
    bench.expect_redirect("node_ingress", &reply, &service_address, &pod);
    bench.expect_translated("pod_ingress", &reply, &service_address, &pod);

    // Itself.
    bench.serve(service(net, protocol, &[net.local_pod]));
    let pod = at(net.local_pod, 42_002);
    let (own, hairpin) = (at(net.local_pod, 8080), at(net.hairpin, 42_002));
    let request = first(protocol, &pod, &service_address);
    bench.expect_redirect("pod_egress", &request, &hairpin, &own);
    let reply = answer(protocol, &own, &hairpin);
    bench.expect_redirect("pod_egress", &reply, &service_address, &pod);

    // Another pod of this node, whose address is not in the tables: by the node's own routing.
    bench.serve(service(net, protocol, &[net.other_pod]));
    let pod = at(net.local_pod, 42_003);
    let backend = at(net.other_pod, 8080);
    let request = first(protocol, &pod, &service_address);
    bench.expect_translated("pod_egress", &request, &pod, &backend);
    let reply = answer(protocol, &backend, &pod);
    bench.expect_redirect("pod_egress", &reply, &service_address, &pod);

    // No Service: straight to the other pod, or left alone.
    let (other, own) = (at(net.other_pod, 42_004), at(net.local_pod, 9));
    bench.expect_redirect("pod_egress", &first(protocol, &other, &own), &other, &own);
    bench.expect_untouched(
        "pod_egress",
        &first(protocol, &at(net.local_pod, 42_005), &at(net.remote_pod, 9)),
    );
    bench.expect_untouched(
        "pod_ingress",
        &first(protocol, &at(net.client, 42_006), &at(net.local_pod, 9)),
    );
}

/// What the node's own processes send, if their sockets were left alone.
fn from_the_node(bench: &mut Bench, net: &Net, protocol: Protocol) {
    let mut ports = 42_101..;
    for service_address in [at(net.cluster_ip, 80), at(net.external_ip, 80)] {
        // On another node, and on this one.
        for (pod, program) in [(net.remote_pod, "node_ingress"), (net.local_pod, "pod_egress")] {
            let node = at(net.node, ports.next().expect("a port"));
            let backend = at(pod, 8080);
            bench.serve(service(net, protocol, &[pod]));
            let request = first(protocol, &node, &service_address);
            bench.expect_redirect("node_egress", &request, &node, &backend);
            // The answer is for the node itself.
            let reply = answer(protocol, &backend, &node);
            bench.expect_translated(program, &reply, &service_address, &node);
        }
    }
}

fn to_the_world(bench: &Bench, net: &Net, protocol: Protocol) {
    let (pod, world) = (at(net.local_pod, 43_001), at(net.world, 443));
    let request = first(protocol, &pod, &world);
    // The node's own routing finds the way of the first packet.
    bench.expect_untouched("pod_egress", &request);
    let (result, sent) = bench.run("node_egress", &request);
    assert_eq!(
        (result, sent.source.ip()),
        (CONTINUE, ip_address(net.node)),
        "{request:?}"
    );
    let by_node = sent.source.to_string();
    assert!(sent.source.port() >= SNAT_PORT_MIN, "{sent:?}");
    assert_eq!(sent, request.translated(&by_node, &world, 0));
    // The others take a short cut.
    bench.expect_redirect("pod_egress", &request, &by_node, &world);
    let reply = answer(protocol, &world, &by_node);
    bench.expect_redirect("node_ingress", &reply, &world, &pod);
    // Within the cluster everybody keeps their address.
    for inside in [net.remote_pod, net.node] {
        bench.expect_untouched("node_egress", &first(protocol, &pod, &at(inside, 443)));
    }
    // So does whoever is no pod.
    bench.expect_untouched("node_egress", &first(protocol, &at(net.client, 43_001), &world));
}

/// Somebody in the world who has a route to pods reaches one by its own address, and gets answers from it.
fn from_the_world(bench: &mut Bench, net: &Net, protocol: Protocol) {
    let (world, pod) = (at(net.world, 43_002), at(net.local_pod, 8081));
    let request = first(protocol, &world, &pod);
    // By the node's own routing, whose rules may not let it pass.
    bench.expect_untouched("node_ingress", &request);
    bench.expect_untouched("node_ingress", &request);
    let reply = answer(protocol, &pod, &world);
    bench.expect_untouched("pod_egress", &reply);
    bench.expect_untouched("node_egress", &reply);
    // Nobody's answers stay what they are, too.
    if protocol == Protocol::TCP {
        let stray = answer(protocol, &at(net.local_pod, 8082), &world);
        bench.expect_untouched("node_egress", &stray);
    }
    // Within the cluster nobody is masqueraded, so nothing has to be noted.
    let inside = first(protocol, &at(net.remote_pod, 43_002), &pod);
    bench.expect_untouched("node_ingress", &inside);

    // By a Service before, from the same port: the two must not have answers that look the same.
    let (world, pod) = (at(net.world, 43_003), at(net.local_pod, 8080));
    bench.serve(service(net, protocol, &[net.local_pod]));
    let by_service = first(protocol, &world, &at(net.external_ip, 80));
    bench.expect_redirect("node_ingress", &by_service, &world, &pod);
    let request = first(protocol, &world, &pod);
    let (result, sent) = bench.run("node_ingress", &request);
    assert_eq!((result, sent.source.ip()), (CONTINUE, ip_address(net.world)));
    assert!(sent.source.port() >= SNAT_PORT_MIN, "{sent:?}");
    let other = sent.source.to_string();
    assert_eq!(sent, request.translated(&other, &pod, 0));
    let reply = answer(protocol, &pod, &other);
    bench.expect_translated("pod_egress", &reply, &pod, &world);
    let reply = answer(protocol, &pod, &world);
    bench.expect_redirect("pod_egress", &reply, &at(net.external_ip, 80), &world);
}

fn nobody_is_there(bench: &mut Bench, net: &Net, protocol: Protocol) {
    let ipv4 = ip_address(net.node).is_ipv4();
    let mut ports = service(net, protocol, &[]);
    bench.serve(ports.clone());
    let service_address = at(net.cluster_ip, 80);
    let pod = at(net.local_pod, 44_001);
    let request = first(protocol, &pod, &service_address);
    let before = bench.drops(DropReason::NoEndpoints);
    let (result, refusal) = bench.run("pod_egress", &request);
    assert_eq!(result, REDIRECT, "back to where it came from");
    assert_eq!(bench.drops(DropReason::NoEndpoints), before + 1);
    let abort = |tag, flags| {
        let data = vec![ABORT, flags, 0, 4];
        Packet::new(&service_address, &pod, Body::Sctp { tag, data })
    };
    let expected = if protocol == Protocol::TCP {
        let body = Body::Tcp {
            flags: RST | ACK,
            sequence: 0,
            acknowledged: 1001,
            data: Vec::new(),
        };
        Packet::new(&service_address, &pod, body)
    } else if protocol == Protocol::SCTP {
        abort(INITIATE_TAG, 0)
    } else {
        let (kind, code, header) = if ipv4 { (3, 3, 20) } else { (1, 4, 40) };
        let body = Body::Error {
            kind,
            code,
            rest: 0,
            inner: request.ip_bytes()[..header + 8].to_vec(),
        };
        Packet::new(&at(net.cluster_ip, 0), &at(net.local_pod, 0), body)
    };
    assert_eq!(refusal, expected);
    if protocol == Protocol::TCP {
        // In the middle of a connection: the number that the sender expects next.
        let (_, refusal) = bench.run("pod_egress", &Packet::tcp(&pod, &service_address, ACK));
        let body = Body::Tcp {
            flags: RST,
            sequence: 2000,
            acknowledged: 0,
            data: Vec::new(),
        };
        assert_eq!(refusal, Packet::new(&service_address, &pod, body));
        bench.expect_drop(
            "pod_egress",
            &Packet::tcp(&pod, &service_address, RST),
            DropReason::NoEndpoints,
        );
    }
    if protocol == Protocol::SCTP {
        // In the middle of an association the sender knows its own packet's tag.
        let (_, refusal) = bench.run("pod_egress", &sctp(&pod, &service_address, DATA));
        assert_eq!(refusal, abort(TAG, 1));
        for last in [ABORT, SHUTDOWN_COMPLETE] {
            let packet = sctp(&pod, &service_address, last);
            bench.expect_drop("pod_egress", &packet, DropReason::NoEndpoints);
        }
    }
    // externalTrafficPolicy: Local, and the only endpoints are elsewhere.
    ports[1].elsewhere = true;
    bench.serve(ports);
    let request = first(protocol, &at(net.client, 44_002), &at(net.external_ip, 80));
    bench.expect_drop("node_ingress", &request, DropReason::NoLocalEndpoints);
}
