//! loadBalancerSourceRanges: whom a Service admits at the address of its load balancer.

use std::net::IpAddr;

use proxy_ebpf_common::{DropReason, Protocol};

use super::bench::{Bench, CONTINUE, NODE_PORT, Net, REDIRECT, answer, at, first, ip_address, service};

/// A client outside, a pod and the node itself are admitted or not by the source addresses of their packets; the other
/// addresses of the Service admit everybody.
pub(super) fn only_some_are_admitted(bench: &mut Bench, net: &Net, protocol: Protocol) {
    let backend = at(net.local_pod, 8080);
    let load_balancer = at(net.external_ip, 80);
    let restrict = |bench: &mut Bench, ranges: &[String]| {
        let mut ports = service(net, protocol, &[net.local_pod]);
        let restricted = ports[1].frontends.iter();
        let restricted = restricted.filter(|frontend| frontend.socket.address == ip_address(net.external_ip));
        ports[1].restricted = restricted.copied().collect();
        assert_eq!(ports[1].restricted.len(), 1);
        ports[1].source_ranges = ranges
            .iter()
            .map(|range| range.parse().expect("a network"))
            .collect();
        bench.serve(ports);
    };
    let whole = |ip: &str| match ip_address(ip) {
        IpAddr::V4(ip) => format!("{ip}/32"),
        IpAddr::V6(ip) => format!("{ip}/128"),
    };
    // Whoever sends what by which hook, and what becomes of it if they are admitted.
    let clients = [
        ("node_ingress", net.client),
        ("pod_egress", net.other_pod),
        ("node_egress", net.node),
    ];
    for (index, (hook, admitted)) in clients.into_iter().enumerate() {
        restrict(bench, &[whole(admitted), whole(net.world)]);
        for (other, (program, client)) in clients.into_iter().enumerate() {
            let source = at(client, 52_001 + (10 * index + other) as u16);
            let request = first(protocol, &source, &load_balancer);
            if client != admitted {
                bench.expect_drop(program, &request, DropReason::SourceRange);
                continue;
            }
            assert_eq!(program, hook);
            let (result, translated) = bench.run(program, &request);
            assert_eq!(translated.destination.to_string(), backend, "{request:?}");
            assert_eq!(translated.source.ip(), ip_address(client));
            assert!([CONTINUE, REDIRECT].contains(&result), "{result}");
            let reply = answer(protocol, &backend, &translated.source.to_string());
            let (_, reply) = bench.run("pod_egress", &reply);
            assert_eq!(reply.source.to_string(), load_balancer);
        }
        // Nobody is kept from the other addresses.
        let everybody = [
            ("node_ingress", net.client, at(net.node, NODE_PORT)),
            ("pod_egress", net.other_pod, at(net.node, NODE_PORT)),
            ("pod_egress", net.other_pod, at(net.cluster_ip, 80)),
        ];
        for (other, (program, client, service_address)) in everybody.into_iter().enumerate() {
            let source = at(client, 53_001 + (10 * index + other) as u16);
            let (_, translated) = bench.run(program, &first(protocol, &source, &service_address));
            assert_eq!(
                translated.destination.to_string(),
                backend,
                "{source} to {service_address}"
            );
        }
    }
    // A connection that was admitted goes on when its client no longer is; it is no packet of a new one.
    restrict(bench, &[whole(net.client)]);
    let client = at(net.client, 54_001);
    let request = first(protocol, &client, &load_balancer);
    let (_, admitted) = bench.run("node_ingress", &request);
    restrict(bench, &[]);
    assert_eq!(bench.run("node_ingress", &request).1, admitted);
    bench.expect_drop(
        "node_ingress",
        &first(protocol, &at(net.client, 54_002), &load_balancer),
        DropReason::SourceRange,
    );
}
