//! Every Service feature, on a cluster of two nodes, driven by `kubectl` and seen by clients of every kind: pods whose sockets
//! are translated, pods whose packets are, processes of a node, and a machine outside. Each scenario covers IPv4 and IPv6; what
//! it shows is a row of the README's feature table.

mod external;
mod giant;
mod internal;
mod load;
mod odd;
mod plain;
mod stage;
mod topology;

use std::process::ExitCode;

use tests::suite::{Scenario, main_with_nodes};

const SCENARIOS: &[Scenario] = &[
    ("cluster_ip", internal::cluster_ip),
    ("several_named_ports", internal::several_named_ports),
    ("without_selector", internal::without_selector),
    ("session_affinity", internal::session_affinity),
    (
        "internal_traffic_policy_local",
        internal::internal_traffic_policy_local,
    ),
    ("prefer_same_node", topology::prefer_same_node),
    ("prefer_same_zone", topology::prefer_same_zone),
    ("topology_mode_auto", topology::topology_mode_auto),
    ("terminating_endpoints", internal::terminating_endpoints),
    (
        "publish_not_ready_addresses",
        internal::publish_not_ready_addresses,
    ),
    ("no_endpoints_refuse", internal::no_endpoints_refuse),
    ("other_ports_of_a_service", internal::other_ports_of_a_service),
    ("hairpin", internal::hairpin),
    ("service_proxy_name", internal::service_proxy_name),
    ("headless_is_not_proxied", odd::headless),
    ("bad_input", odd::bad_input),
    (
        "connected_socket_of_a_backend_that_left",
        odd::connected_socket_of_a_backend_that_left,
    ),
    (
        "a_pod_opts_out_of_the_socket_path",
        odd::a_pod_opts_out_of_the_socket_path,
    ),
    ("node_port", external::node_port),
    (
        "node_port_at_chosen_addresses",
        external::node_port_at_chosen_addresses,
    ),
    ("node_port_on_loopback", external::node_port_on_loopback),
    (
        "load_balancer_and_external_ips",
        external::load_balancer_and_external_ips,
    ),
    (
        "load_balancer_source_ranges",
        external::load_balancer_source_ranges,
    ),
    (
        "load_balancer_without_node_ports",
        external::load_balancer_without_node_ports,
    ),
    (
        "external_traffic_policy_local",
        external::external_traffic_policy_local,
    ),
    ("host_port", external::host_port),
    ("plain_clients", plain::plain_clients),
    ("no_connection_fails_under_changes", load::no_connection_fails),
    ("a_giant_service", giant::a_giant_service),
];

fn main() -> ExitCode {
    main_with_nodes(2, SCENARIOS)
}
