//! What is no plain packet: ICMP, fragments, and what does not fit.

use proxy_ebpf_common::{DropReason, Protocol, SNAT_PORT_MIN};

use super::bench::{
    Bench, CONTINUE, MTU, Net, PROTOCOLS, REDIRECT, SHOT, answer, at, first, ip_address, service,
};
use crate::model::{Body, Packet, checksum};

/// An ICMP error about a packet.
pub(super) fn error(source: &str, about: &Packet) -> Packet {
    let (kind, code) = if about.source.is_ipv4() { (3, 4) } else { (2, 0) };
    let inner = about.ip_bytes();
    let header = if about.source.is_ipv4() { 20 } else { 40 };
    let body = Body::Error {
        kind,
        code,
        rest: 1400,
        inner: inner[..header + 8].to_vec(),
    };
    let mut error = Packet::new(&at(source, 0), &at(source, 0), body);
    error.destination.set_ip(about.source.ip());
    error
}

pub(super) fn errors(bench: &mut Bench, net: &Net) {
    // The ports of the packet inside are the translated ones, but its transport checksum stays what it was.
    let mask = |mut packet: Packet| {
        if let Body::Error { inner, .. } = &mut packet.body {
            let header = if inner[0] >> 4 == 4 { 20 } else { 40 };
            inner[header + 4..].fill(0);
            // It has been forwarded since it was sent.
            if header == 20 {
                assert_eq!(
                    checksum(&[&inner[..header]]),
                    0,
                    "the checksum of the header inside"
                );
                inner[8] = 0;
                inner[10..12].fill(0);
            } else {
                inner[7] = 0;
            }
        }
        packet
    };
    let router = if ip_address(net.node).is_ipv4() {
        "192.0.2.1"
    } else {
        "[2001:db8::1]"
    };
    let service_address = at(net.external_ip, 80);
    let client = at(net.client, 45_001);
    for protocol in PROTOCOLS {
        // Another node's backend: what a router says of the translated packet is told to the client of its own.
        bench.serve(service(net, protocol, &[net.remote_pod]));
        let request = first(protocol, &client, &service_address);
        let (_, forwarded) = bench.run("node_ingress", &request);
        for source in [router, net.remote_pod] {
            let told = if source == net.remote_pod {
                net.external_ip
            } else {
                source
            };
            let (result, translated) = bench.run("node_ingress", &error(source, &forwarded));
            let mut expected = error(told, &request);
            expected.ttl = translated.ttl;
            assert_eq!(mask(translated), mask(expected), "{protocol:?} by {source}");
            assert!(result == REDIRECT || result == CONTINUE, "{result}");
        }
        // And back: a router on the way to the client cannot pass on an answer.
        let reply = answer(protocol, &at(net.remote_pod, 8080), &forwarded.source.to_string());
        let (_, returned) = bench.run("node_ingress", &reply);
        let (result, translated) = bench.run("node_ingress", &error(router, &returned));
        let mut expected = error(router, &reply);
        expected.ttl = translated.ttl;
        assert_eq!(mask(translated), mask(expected), "{protocol:?}");
        assert!(result == REDIRECT || result == CONTINUE, "{result}");

        // A pod that has no such port, behind a Service.
        bench.serve(service(net, protocol, &[net.other_pod]));
        let pod = at(net.local_pod, 45_002);
        let request = first(protocol, &pod, &at(net.cluster_ip, 80));
        let (_, forwarded) = bench.run("pod_egress", &request);
        let (result, translated) = bench.run("pod_egress", &error(net.other_pod, &forwarded));
        let mut expected = error(net.cluster_ip, &request);
        expected.ttl -= 1;
        assert_eq!(
            (result, mask(translated)),
            (REDIRECT, mask(expected)),
            "{protocol:?}"
        );
    }
    // About packets that were never translated.
    let direct = Packet::udp(&at(net.local_pod, 45_003), &at(net.client, 9));
    bench.expect_untouched("node_ingress", &error(router, &direct));
}

pub(super) fn echoes(bench: &mut Bench, net: &Net) {
    let echo = |reply, source: &str, destination: &str| {
        let data = b"are you there?".to_vec();
        Packet::new(source, destination, Body::Echo { reply, data })
    };
    let (pod, world) = (at(net.local_pod, 777), at(net.world, 0));
    let request = echo(false, &pod, &world);
    let (result, sent) = bench.run("node_egress", &request);
    assert_eq!((result, sent.source.ip()), (CONTINUE, ip_address(net.node)));
    assert!(sent.source.port() >= SNAT_PORT_MIN, "{sent:?}");
    let reply = echo(true, &world, &sent.source.to_string());
    bench.expect_redirect("node_ingress", &reply, &world, &pod);
    // A pod's answers are to requests that came in as they are.
    bench.expect_untouched(
        "node_egress",
        &echo(true, &at(net.local_pod, 0), &at(net.world, 5)),
    );
    bench.serve(service(net, Protocol::TCP, &[net.local_pod]));
    bench.expect_drop(
        "pod_egress",
        &echo(false, &pod, &at(net.cluster_ip, 0)),
        DropReason::ServiceEcho,
    );
}

pub(super) fn fragments(bench: &mut Bench, net: &Net) {
    bench.serve(service(net, Protocol::UDP, &[net.local_pod]));
    let (client, service_address) = (at(net.client, 46_001), at(net.external_ip, 80));
    let data = vec![7; 64];
    let datagram = Packet::new(&client, &service_address, Body::Udp { checksum: true, data });
    let [first, second] = datagram.fragments(7, 32);
    let (result, first) = bench.run_bytes("node_ingress", &first);
    assert_eq!(result, REDIRECT);
    let (result, second) = bench.run_bytes("node_ingress", &second);
    assert_eq!(result, REDIRECT);
    let whole = Packet::reassemble([&first, &second]);
    assert_eq!(whole, datagram.translated(&client, &at(net.local_pod, 8080), 1));
    // One that has overtaken its first: to an address of a Service alone it is lost, elsewhere it is nobody's business.
    let to = |ip: &str| Packet::udp(&client, &at(ip, 80)).fragments(8, 8)[1].clone();
    let before = bench.drops(DropReason::FragmentUnknown);
    assert_eq!(bench.run_bytes("node_ingress", &to(net.cluster_ip)).0, SHOT);
    assert_eq!(bench.drops(DropReason::FragmentUnknown), before + 1);
    assert_eq!(bench.run_bytes("node_ingress", &to(net.local_pod)).0, CONTINUE);
}

pub(super) fn odd_packets(bench: &mut Bench, net: &Net) {
    bench.serve(service(net, Protocol::UDP, &[net.local_pod]));
    let (client, service_address) = (at(net.client, 49_001), at(net.external_ip, 80));
    let pod = at(net.local_pod, 8080);
    // A datagram without a checksum stays without one.
    if ip_address(net.node).is_ipv4() {
        let data = vec![1, 2, 3];
        let bare = Packet::new(
            &client,
            &service_address,
            Body::Udp {
                checksum: false,
                data,
            },
        );
        bench.expect_redirect("node_ingress", &bare, &client, &pod);
    }
    let mut tired = Packet::udp(&client, &service_address);
    tired.ttl = 1;
    bench.expect_drop("node_ingress", &tired, DropReason::TtlExceeded);
    // Cut off in its transport header, a packet is dropped, and nothing is read beyond its end.
    let frame = Packet::udp(&client, &service_address).bytes();
    let header = if ip_address(net.node).is_ipv4() { 20 } else { 40 };
    for length in 14 + header..14 + header + 8 {
        let (result, packet) = bench.run_bytes("node_ingress", &frame[..length]);
        assert_eq!((result, packet.len()), (SHOT, length));
    }
}

/// The way to the other node carries less than the client sends.
pub(super) fn too_big(bench: &mut Bench, net: &Net) {
    bench.serve(service(net, Protocol::UDP, &[net.remote_pod]));
    let (client, service_address) = (at(net.client, 50_001), at(net.external_ip, 80));
    let of = |length| {
        let data = vec![3; length];
        Packet::new(&client, &service_address, Body::Udp { checksum: true, data })
    };
    assert_eq!(bench.run("node_ingress", &of(1300)).0, REDIRECT);
    // Of a connection that is known, and of one that is not.
    let mut other = of(1420);
    other.source.set_port(50_002);
    for request in [of(1420), other] {
        let before = bench.drops(DropReason::TooBig);
        let (result, told) = bench.run("node_ingress", &request);
        assert_eq!((result, bench.drops(DropReason::TooBig)), (REDIRECT, before + 1));
        let mut expected = error(net.external_ip, &request);
        let Body::Error { rest, .. } = &mut expected.body else {
            panic!("it is an error");
        };
        // Kernels before 5.13 do not say how much fits.
        let Body::Error { rest: said, .. } = &told.body else {
            panic!("an error is told: {told:?}");
        };
        assert!([1280, MTU].contains(said), "{told:?}");
        *rest = *said;
        assert_eq!(told, expected);
    }
}
