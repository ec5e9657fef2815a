//! Rows follow upstream's `TestServiceToServiceMap`, `TestBuildServiceMap*` and `TestEndpointsToEndpointsMap`
//! (pkg/proxy/servicechangetracker_test.go, endpointschangetracker_test.go) and `TestCategorizeEndpoints`
//! (pkg/proxy/topology_test.go), all v1.33, as far as they concern this proxy. That every
//! cluster IP has an entry for its other ports is left out of the rows: see [`every_cluster_ip_has_an_entry_for_other_ports`].

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use serde_json::{Value, json};

use super::*;

const NODE: &str = "node1";

/// Reads the objects as from the API and compares the ports that follow, one line each.
#[track_caller]
fn check(service: Value, slices: &[Value], expected: &[&str]) {
    let lines: Vec<_> = lines(service, slices, None)
        .into_iter()
        .filter(|line| !line.contains("/*"))
        .collect();
    assert_eq!(lines, expected);
}

fn lines(service: Value, slices: &[Value], zone: Option<&str>) -> Vec<String> {
    let service: core::Service = serde_json::from_value(service).expect("a Service");
    let slices: Vec<_> = slices
        .iter()
        .filter_map(|slice| {
            let slice: discovery::EndpointSlice =
                serde_json::from_value(slice.clone()).expect("an EndpointSlice");
            EndpointSlice::from_api(&slice, NODE)
        })
        .collect();
    match Service::from_api(&service) {
        None => vec!["ignored".to_owned()],
        Some(service) => {
            let addresses = ["172.31.0.11", "fd00:31::11"].map(|ip| ip.parse().expect("an address"));
            let node = ThisNode {
                zone,
                addresses: &addresses.into(),
            };
            service_ports(&service, &slices, node).iter().map(line).collect()
        }
    }
}

fn line(port: &ServicePort) -> String {
    let mut words: Vec<_> = port.frontends.iter().map(FrontendAddress::to_string).collect();
    words.push("->".to_owned());
    words.extend(port.backends.iter().map(SocketAddress::to_string));
    if port.affinity_timeout_s > 0 {
        words.push(format!("affinity {}s", port.affinity_timeout_s));
    }
    if port.elsewhere {
        words.push("elsewhere".to_owned());
    }
    if !port.restricted.is_empty() {
        let restricted = port.restricted.iter().map(FrontendAddress::to_string);
        words.push(format!("at {}", restricted.collect::<Vec<_>>().join(" ")));
        let ranges: Vec<_> = port.source_ranges.iter().map(Cidr::to_string).collect();
        words.push(format!("from [{}]", ranges.join(" ")));
        if port.admits_node {
            words.push("and this node".to_owned());
        }
    }
    words.join(" ")
}

fn service(spec: Value) -> Value {
    json!({ "metadata": { "name": "web", "namespace": "default" }, "spec": spec })
}

fn labelled_service(label: &str) -> Value {
    let mut service = service(json!({ "clusterIPs": ["10.96.0.1"], "ports": [{ "port": 80 }] }));
    service["metadata"]["labels"] = json!({ label: "" });
    service
}

fn slice(address_type: &str, ports: Value, endpoints: Value) -> Value {
    json!({
        "metadata": { "name": "web-1", "namespace": "default", "labels": { "kubernetes.io/service-name": "web" } },
        "addressType": address_type,
        "ports": ports,
        "endpoints": endpoints,
    })
}

fn http(endpoints: Value) -> Value {
    slice("IPv4", json!([{ "port": 8080 }]), endpoints)
}

/// An endpoint with conditions spelled out: r(eady), s(erving), t(erminating).
fn endpoint(address: &str, conditions: &str) -> Value {
    let has = |letter| conditions.contains(letter);
    json!({
        "addresses": [address],
        "conditions": { "ready": has('r'), "serving": has('s'), "terminating": has('t') },
    })
}

fn plain() -> Value {
    service(
        json!({ "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [{ "port": 80, "targetPort": 8080 }] }),
    )
}

#[test]
fn an_unnamed_port_matches_an_unnamed_port() {
    check(
        plain(),
        &[http(
            json!([{ "addresses": ["10.244.0.2"] }, { "addresses": ["10.244.0.1"] }]),
        )],
        &["10.96.0.1:80/TCP -> 10.244.0.1:8080/TCP 10.244.0.2:8080/TCP"],
    );
}

#[test]
fn named_ports_match_by_name_and_protocol() {
    let spec = json!({ "clusterIPs": ["10.96.0.1"], "ports": [
        { "name": "http", "port": 80, "targetPort": "web" },
        { "name": "dns", "port": 53, "protocol": "UDP" },
        { "name": "dns-tcp", "port": 53, "protocol": "TCP" },
        { "name": "absent", "port": 99 },
    ] });
    let ports = json!([
        { "name": "http", "port": 8080, "protocol": "TCP" },
        { "name": "dns", "port": 5353, "protocol": "UDP" },
        { "name": "dns-tcp", "port": 5353, "protocol": "TCP" },
        { "name": "other", "port": 1, "protocol": "TCP" },
    ]);
    check(
        service(spec),
        &[slice("IPv4", ports, json!([{ "addresses": ["10.244.0.1"] }]))],
        &[
            "10.96.0.1:80/TCP -> 10.244.0.1:8080/TCP",
            "10.96.0.1:53/UDP -> 10.244.0.1:5353/UDP",
            "10.96.0.1:53/TCP -> 10.244.0.1:5353/TCP",
            "10.96.0.1:99/TCP ->",
        ],
    );
}

#[test]
fn one_name_may_mean_another_number_in_another_slice() {
    let spec = json!({ "clusterIPs": ["10.96.0.1"], "ports": [{ "name": "http", "port": 80, "targetPort": "web" }] });
    let of = |number: u16, address: &str| {
        slice(
            "IPv4",
            json!([{ "name": "http", "port": number }]),
            json!([{ "addresses": [address] }]),
        )
    };
    check(
        service(spec),
        &[of(8080, "10.244.0.1"), of(9090, "10.244.0.2")],
        &["10.96.0.1:80/TCP -> 10.244.0.1:8080/TCP 10.244.0.2:9090/TCP"],
    );
}

#[test]
fn an_endpoint_in_two_slices_counts_once_and_as_the_better_of_the_two() {
    check(
        plain(),
        &[
            http(json!([endpoint("10.244.0.1", "")])),
            http(json!([endpoint("10.244.0.1", "rs")])),
        ],
        &["10.96.0.1:80/TCP -> 10.244.0.1:8080/TCP"],
    );
}

#[test]
fn ready_endpoints_are_used_and_terminating_ones_only_when_there_are_no_others() {
    let rows: [(&[(&str, &str)], &str); 7] = [
        (&[("10.244.0.1", "rs"), ("10.244.0.2", "")], "10.244.0.1:8080/TCP"),
        (
            &[("10.244.0.1", "rs"), ("10.244.0.2", "st")],
            "10.244.0.1:8080/TCP",
        ),
        (
            &[("10.244.0.1", "st"), ("10.244.0.2", "st")],
            "10.244.0.1:8080/TCP 10.244.0.2:8080/TCP",
        ),
        (
            &[("10.244.0.1", "st"), ("10.244.0.2", "t")],
            "10.244.0.1:8080/TCP",
        ),
        (&[("10.244.0.1", "t")], ""),
        // Not ready, but not on its way out either: it has not started yet, or its probe fails.
        (&[("10.244.0.1", "s")], ""),
        // publishNotReadyAddresses says ready of pods that terminate.
        (
            &[("10.244.0.1", "rst"), ("10.244.0.2", "st")],
            "10.244.0.1:8080/TCP",
        ),
    ];
    for (endpoints, expected) in rows {
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|(address, conditions)| endpoint(address, conditions))
            .collect();
        let expected = format!("10.96.0.1:80/TCP -> {expected}");
        check(plain(), &[http(endpoints.into())], &[expected.trim_end()]);
    }
}

#[test]
fn dual_stack_gives_a_port_per_family() {
    let spec = json!({ "clusterIPs": ["fd00:10:96::1", "10.96.0.1"], "ports": [{ "port": 80 }] });
    check(
        service(spec),
        &[
            http(json!([{ "addresses": ["10.244.0.1"] }])),
            slice(
                "IPv6",
                json!([{ "port": 8080 }]),
                json!([{ "addresses": ["fd00:10:244::1"] }]),
            ),
        ],
        &[
            "10.96.0.1:80/TCP -> 10.244.0.1:8080/TCP",
            "[fd00:10:96::1]:80/TCP -> [fd00:10:244::1]:8080/TCP",
        ],
    );
}

#[test]
fn services_without_an_address_or_for_others_are_ignored() {
    let ports = json!([{ "port": 80 }]);
    check(
        service(json!({ "clusterIP": "None", "clusterIPs": ["None"], "ports": ports })),
        &[],
        &["ignored"],
    );
    check(
        service(json!({ "clusterIP": "", "ports": ports })),
        &[],
        &["ignored"],
    );
    check(
        service(json!({ "type": "ExternalName", "externalName": "example.com", "ports": ports })),
        &[],
        &["ignored"],
    );
    check(service(json!({ "clusterIPs": ["10.96.0.1"] })), &[], &["ignored"]);
    check(
        labelled_service("service.kubernetes.io/service-proxy-name"),
        &[],
        &["ignored"],
    );
    check(
        labelled_service("service.kubernetes.io/headless"),
        &[],
        &["ignored"],
    );
    check(labelled_service("app"), &[], &["10.96.0.1:80/TCP ->"]);
}

#[test]
fn slices_that_cannot_be_used_are_ignored() {
    let with_label = |label: &str| {
        let mut slice = http(json!([{ "addresses": ["10.244.0.1"] }]));
        slice["metadata"]["labels"][label] = json!("");
        slice
    };
    let mut of_nobody = http(json!([{ "addresses": ["10.244.0.1"] }]));
    of_nobody["metadata"]["labels"] = json!({});
    let slices = [
        with_label("service.kubernetes.io/service-proxy-name"),
        with_label("service.kubernetes.io/headless"),
        of_nobody,
        slice(
            "FQDN",
            json!([{ "port": 8080 }]),
            json!([{ "addresses": ["example.com"] }]),
        ),
        slice(
            "IPv4",
            json!([{ "name": "", "port": null }]),
            json!([{ "addresses": ["10.244.0.1"] }]),
        ),
        slice("IPv4", json!([{ "port": 8080 }]), json!([{ "addresses": [] }])),
        slice(
            "IPv4",
            json!([{ "port": 8080, "protocol": "SCTP" }]),
            json!([{ "addresses": ["10.244.0.1"] }]),
        ),
        slice("IPv4", Value::Null, Value::Null),
    ];
    check(plain(), &slices, &["10.96.0.1:80/TCP ->"]);
}

#[test]
fn affinity_has_upstreams_default_timeout() {
    let spec = |config: Value| {
        service(json!({
            "clusterIPs": ["10.96.0.1"], "ports": [{ "port": 80 }],
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": config,
        }))
    };
    check(spec(Value::Null), &[], &["10.96.0.1:80/TCP -> affinity 10800s"]);
    check(
        spec(json!({ "clientIP": { "timeoutSeconds": 30 } })),
        &[],
        &["10.96.0.1:80/TCP -> affinity 30s"],
    );
}

#[test]
fn internal_traffic_policy_local_keeps_to_this_node() {
    let spec =
        json!({ "clusterIPs": ["10.96.0.1"], "ports": [{ "port": 80 }], "internalTrafficPolicy": "Local" });
    let on = |address: &str, node: &str| json!({ "addresses": [address], "nodeName": node });
    let slices = [http(json!([on("10.244.0.1", NODE), on("10.244.1.1", "node2")]))];
    check(
        service(spec.clone()),
        &slices,
        &["10.96.0.1:80/TCP -> 10.244.0.1:8080/TCP"],
    );
    let slices = [http(
        json!([on("10.244.1.1", "node2"), { "addresses": ["10.244.0.9"] }]),
    )];
    check(service(spec.clone()), &slices, &["10.96.0.1:80/TCP -> elsewhere"]);
    // Nobody anywhere: clients are refused rather than told to try another node.
    check(
        service(spec),
        &[http(json!([endpoint("10.244.1.1", "")]))],
        &["10.96.0.1:80/TCP ->"],
    );
}

#[test]
fn every_cluster_ip_has_an_entry_for_other_ports() {
    let spec = json!({ "clusterIPs": ["10.96.0.1", "fd00:10:96::1"], "ports": [{ "port": 80 }] });
    let expected = [
        "10.96.0.1:80/TCP ->",
        "[fd00:10:96::1]:80/TCP ->",
        "10.96.0.1:0/* ->",
        "[fd00:10:96::1]:0/* ->",
    ];
    assert_eq!(lines(service(spec), &[], None), expected);
}

fn load_balancer(internal: &str, external: &str) -> Value {
    let mut service = service(json!({
        "type": "LoadBalancer", "clusterIPs": ["10.96.0.1"], "externalIPs": ["198.51.100.1"],
        "internalTrafficPolicy": internal, "externalTrafficPolicy": external,
        "ports": [{ "port": 80, "nodePort": 30080 }],
    }));
    service["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": "203.0.113.1" }] } });
    service
}

#[test]
fn external_addresses_share_the_backends_unless_the_policies_differ() {
    let on = |address: &str, node: &str| json!({ "addresses": [address], "nodeName": node });
    let slices = [http(json!([on("10.244.0.1", NODE), on("10.244.1.1", "node2")]))];
    let external = "198.51.100.1:80/TCP 203.0.113.1:80/TCP 0.0.0.0:30080/TCP";
    let from_outside =
        "198.51.100.1:80/TCP from outside 203.0.113.1:80/TCP from outside 0.0.0.0:30080/TCP from outside";
    let (both, here) = ("10.244.0.1:8080/TCP 10.244.1.1:8080/TCP", "10.244.0.1:8080/TCP");
    let rows: [(&str, &str, &[String]); 4] = [
        (
            "Cluster",
            "Cluster",
            &[format!("10.96.0.1:80/TCP {external} -> {both}")],
        ),
        (
            "Local",
            "Cluster",
            &[
                format!("10.96.0.1:80/TCP -> {here}"),
                format!("{external} -> {both}"),
            ],
        ),
        (
            "Cluster",
            "Local",
            &[
                format!("10.96.0.1:80/TCP {external} -> {both}"),
                format!("{from_outside} -> {here}"),
            ],
        ),
        (
            "Local",
            "Local",
            &[
                format!("10.96.0.1:80/TCP -> {here}"),
                format!("{external} -> {both}"),
                format!("{from_outside} -> {here}"),
            ],
        ),
    ];
    for (internal, external, expected) in rows {
        let expected: Vec<_> = expected.iter().map(String::as_str).collect();
        check(load_balancer(internal, external), &slices, &expected);
    }
}

#[test]
fn local_policies_without_a_local_endpoint_point_elsewhere() {
    let slices = [http(
        json!([{ "addresses": ["10.244.1.1"], "nodeName": "node2" }]),
    )];
    check(
        load_balancer("Local", "Local"),
        &slices,
        &[
            "10.96.0.1:80/TCP -> elsewhere",
            "198.51.100.1:80/TCP 203.0.113.1:80/TCP 0.0.0.0:30080/TCP -> 10.244.1.1:8080/TCP",
            "198.51.100.1:80/TCP from outside 203.0.113.1:80/TCP from outside 0.0.0.0:30080/TCP from outside -> elsewhere",
        ],
    );
}

#[test]
fn node_ports_exist_in_the_families_of_the_service() {
    let spec = json!({
        "type": "NodePort", "clusterIPs": ["fd00:10:96::1"], "ports": [{ "port": 80, "nodePort": 30080 }],
    });
    check(service(spec), &[], &["[fd00:10:96::1]:80/TCP [::]:30080/TCP ->"]);
}

#[test]
fn only_addresses_that_packets_arrive_with_are_translated() {
    let with = |ingress: Value, ranges: Value| {
        let mut service = service(json!({
            "type": "LoadBalancer", "clusterIPs": ["10.96.0.1"], "ports": [{ "port": 80 }],
            "loadBalancerSourceRanges": ranges,
            // The Service's own address once more, and addresses that mean something else on every node.
            "externalIPs": ["10.96.0.1", "127.0.0.1", "169.254.1.1", "0.0.0.0", "224.0.0.1", "nonsense"],
        }));
        service["status"] = json!({ "loadBalancer": { "ingress": [ingress] } });
        service
    };
    let rows = [
        (json!({ "ip": "203.0.113.1" }), Value::Null, " 203.0.113.1:80/TCP"),
        (
            json!({ "ip": "203.0.113.1", "ipMode": "VIP" }),
            json!([]),
            " 203.0.113.1:80/TCP",
        ),
        (json!({ "ip": "203.0.113.1", "ipMode": "Proxy" }), Value::Null, ""),
        (json!({ "hostname": "lb.example.com" }), Value::Null, ""),
        (json!({ "ip": "2001:db8::1" }), Value::Null, ""),
    ];
    for (ingress, ranges, expected) in rows {
        check(
            with(ingress, ranges),
            &[],
            &[&format!("10.96.0.1:80/TCP{expected} ->")],
        );
    }
}

#[test]
fn endpoints_that_mean_something_else_on_every_node_are_left_out() {
    let slice = |address_type: &str, addresses: &[&str]| {
        let endpoints: Vec<_> = addresses
            .iter()
            .map(|address| json!({ "addresses": [address], "a field of the future": [{}] }))
            .collect();
        slice(
            address_type,
            json!([{ "port": 8080, "unheard of": 1 }]),
            endpoints.into(),
        )
    };
    let v4 = slice(
        "IPv4",
        &[
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "224.0.0.1",
            "0.0.0.0",
            "nonsense",
            "10.244.0.5",
        ],
    );
    let v6 = slice(
        "IPv6",
        &[
            "::1",
            "fe80::1",
            "ff02::1",
            "::",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "fd00:10:244::5",
        ],
    );
    for (slice, ignored) in [(&v4, 6), (&v6, 6)] {
        let slice = serde_json::from_value(slice.clone()).expect("an EndpointSlice");
        let slice = EndpointSlice::from_api(&slice, NODE).expect("usable");
        assert_eq!(slice.ignored(), ignored);
    }
    let spec = json!({ "clusterIPs": ["10.96.0.1", "fd00:10:96::1"], "ports": [{ "port": 80 }] });
    check(
        service(spec),
        &[v4, v6],
        &[
            "10.96.0.1:80/TCP -> 10.244.0.5:8080/TCP",
            "[fd00:10:96::1]:80/TCP -> [fd00:10:244::5]:8080/TCP",
        ],
    );
}

#[test]
fn source_ranges_are_about_addresses_of_the_load_balancer() {
    let with = |ranges: Value| {
        let mut service = service(json!({
            "type": "LoadBalancer", "clusterIPs": ["10.96.0.1"], "externalIPs": ["198.51.100.1"],
            "externalTrafficPolicy": "Local", "loadBalancerSourceRanges": ranges,
            "ports": [{ "port": 80, "nodePort": 30080 }],
        }));
        service["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": "203.0.113.1" }] } });
        // For cloud providers; kube-proxy does not read it.
        service["metadata"]["annotations"] =
            json!({ "service.beta.kubernetes.io/load-balancer-source-ranges": "198.18.0.0/15" });
        service
    };
    let frontends = "10.96.0.1:80/TCP 198.51.100.1:80/TCP 203.0.113.1:80/TCP 0.0.0.0:30080/TCP ->";
    let outside =
        "198.51.100.1:80/TCP from outside 203.0.113.1:80/TCP from outside 0.0.0.0:30080/TCP from outside ->";
    let at = "at 203.0.113.1:80/TCP";
    // The ranges and what is said of them.
    let rows = [
        (json!(["192.0.2.0/24"]), Some("[192.0.2.0/24]")),
        (
            json!([" 192.0.2.9/24\t", "10.0.0.0/8", "192.0.2.0/24"]),
            Some("[10.0.0.0/8 192.0.2.0/24]"),
        ),
        // Of several ranges one that admits everybody.
        (json!(["192.0.2.0/24", "0.0.0.0/0"]), None),
        // Ranges of the other family.
        (json!(["2001:db8::/32"]), None),
        (
            json!(["2001:db8::/32", "192.0.2.0/24", "::/0"]),
            Some("[192.0.2.0/24]"),
        ),
        (json!(["", " "]), None),
        // Nobody can say whom these were to admit.
        (json!(["nonsense"]), Some("[]")),
        (json!(["192.0.2.0/33", "10.0.0.0/8"]), Some("[10.0.0.0/8]")),
        // A node that is admitted is so by all of its addresses, and by the load balancer's.
        (
            json!(["172.31.0.0/24"]),
            Some("[172.31.0.0/24 172.31.0.11/32 203.0.113.1/32] and this node"),
        ),
    ];
    for (ranges, expected) in rows {
        let lines = match expected {
            None => [frontends.to_owned(), outside.to_owned()],
            Some(ranges) => [
                format!("{frontends} {at} from {ranges}"),
                format!("{outside} {at} from outside from {ranges}"),
            ],
        };
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        check(with(ranges), &[], &lines);
    }
}

#[test]
fn hints_count_when_all_have_some_and_one_is_for_this_node() {
    let hinted = |number: u8, conditions: &str, hints: Value| {
        let mut endpoint = endpoint(&format!("10.1.2.{number}"), conditions);
        endpoint["hints"] = hints;
        endpoint
    };
    let zones = |names: &[&str]| {
        let zones: Vec<_> = names.iter().map(|name| json!({ "name": name })).collect();
        json!({ "forZones": zones })
    };
    let node =
        |name: &str, zone: &str| json!({ "forNodes": [{ "name": name }], "forZones": [{ "name": zone }] });
    let (a, b, c) = (zones(&["a"]), zones(&["b"]), zones(&["a", "b", "c"]));
    // The zone of this node, the endpoints 1, 2, 3, and which of them are used.
    type Row<'a> = (Option<&'a str>, [(&'a str, &'a Value); 3], &'a [u8]);
    let rows: [Row<'_>; 12] = [
        (Some("a"), [("rs", &a), ("rs", &b), ("rs", &a)], &[1, 3]),
        (Some("b"), [("rs", &a), ("rs", &b), ("rs", &c)], &[2, 3]),
        // A node without a zone, in a zone that nobody is meant for, and an endpoint without a hint.
        (None, [("rs", &a), ("rs", &b), ("rs", &a)], &[1, 2, 3]),
        (Some(""), [("rs", &a), ("rs", &b), ("rs", &a)], &[1, 2, 3]),
        (Some("d"), [("rs", &a), ("rs", &b), ("rs", &c)], &[1, 2, 3]),
        (
            Some("a"),
            [("rs", &a), ("rs", &Value::Null), ("rs", &a)],
            &[1, 2, 3],
        ),
        // Endpoints that are not ready have no say.
        (Some("a"), [("rs", &a), ("", &Value::Null), ("rs", &b)], &[1]),
        (Some("a"), [("", &a), ("rs", &b), ("rs", &b)], &[2, 3]),
        // Nor do hints when only terminating ones are left.
        (Some("a"), [("st", &a), ("st", &b), ("", &a)], &[1, 2]),
        // Hints for nodes go before those for zones, which remain as the second choice.
        (
            Some("a"),
            [
                ("rs", &node(NODE, "a")),
                ("rs", &node("node2", "a")),
                ("rs", &node("node3", "b")),
            ],
            &[1],
        ),
        (
            Some("a"),
            [
                ("rs", &node("node4", "a")),
                ("rs", &node("node2", "a")),
                ("rs", &node("node3", "b")),
            ],
            &[1, 2],
        ),
        (
            Some("a"),
            [("rs", &node(NODE, "a")), ("rs", &a), ("rs", &node("node3", "b"))],
            &[1, 2],
        ),
    ];
    for (row, (zone, endpoints, expected)) in rows.iter().enumerate() {
        let endpoints: Vec<_> = (1..)
            .zip(endpoints)
            .map(|(number, (conditions, hints))| hinted(number, conditions, (*hints).clone()))
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|number| format!("10.1.2.{number}:8080/TCP"))
            .collect();
        let lines = lines(plain(), &[http(endpoints.into())], *zone);
        assert_eq!(
            lines[0],
            format!("10.96.0.1:80/TCP -> {}", expected.join(" ")),
            "row {row}"
        );
    }
}

#[test]
fn local_policies_do_not_care_for_hints() {
    let zone_b = json!({ "forZones": [{ "name": "b" }] });
    let mut service = load_balancer("Cluster", "Local");
    service["spec"]["externalIPs"] = json!([]);
    service["status"] = json!({});
    let slices = [http(json!([
        { "addresses": ["10.1.2.3"], "nodeName": NODE, "hints": { "forZones": [{ "name": "a" }] } },
        { "addresses": ["10.1.2.4"], "nodeName": NODE, "hints": zone_b },
        { "addresses": ["10.1.2.5"], "nodeName": "node2", "hints": zone_b },
    ]))];
    let expected = [
        "10.96.0.1:80/TCP 0.0.0.0:30080/TCP -> 10.1.2.3:8080/TCP",
        "0.0.0.0:30080/TCP from outside -> 10.1.2.3:8080/TCP 10.1.2.4:8080/TCP",
    ];
    assert_eq!(lines(service, &slices, Some("a"))[..2], expected);
}

#[test]
fn health_checks_count_ready_endpoints_of_this_node() {
    let of = |address_type: &str, address: &str, node: &str, conditions: &str| {
        let mut endpoint = endpoint(address, conditions);
        endpoint["nodeName"] = json!(node);
        let slice = slice(address_type, json!([{ "port": 8080 }]), json!([endpoint]));
        EndpointSlice::from_api(&serde_json::from_value(slice).expect("an EndpointSlice"), NODE)
            .expect("usable")
    };
    let mut api = load_balancer("Cluster", "Local");
    let read = |api: &Value| {
        Service::from_api(&serde_json::from_value(api.clone()).expect("a Service")).expect("one of ours")
    };
    let slices = [
        of("IPv4", "10.244.0.1", NODE, "rs"),
        of("IPv6", "fd00::1", NODE, "rs"),
        of("IPv4", "10.244.0.2", NODE, "rs"),
        of("IPv4", "10.244.0.2", NODE, "rs"),
        of("IPv4", "10.244.0.3", NODE, "st"),
        of("IPv4", "10.244.1.1", "node2", "rs"),
    ];
    assert_eq!(health_check(&read(&api), &slices), None);
    api["spec"]["healthCheckNodePort"] = json!(32000);
    let expected = |local_endpoints| {
        Some(HealthCheck {
            port: 32000,
            local_endpoints,
        })
    };
    assert_eq!(health_check(&read(&api), &slices), expected(2));
    assert_eq!(health_check(&read(&api), &slices[4..]), expected(0));
}
