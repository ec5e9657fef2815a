//! The pod network on three nodes: two on one network, and a third beyond a router that knows nothing of pods.
//!
//! `cargo test -p tests --test nodes -- NAME` runs the scenarios whose name contains NAME.

mod changes;
mod reach;
mod stage;

use std::process::ExitCode;

use tests::suite::{Scenario, main_with_far_nodes};

const SCENARIOS: &[Scenario] = &[
    ("pods_reach_pods_on_every_node", reach::pods_reach_pods),
    ("nodes_reach_pods_on_every_node", reach::nodes_reach_pods),
    ("large_packets_pass", reach::large_packets_pass),
    ("a_service_spreads_over_all_nodes", reach::a_service_spreads),
    ("a_host_port_is_open_on_its_node_alone", reach::host_port),
    ("a_pod_keeps_to_its_bandwidth", reach::bandwidth),
    ("routes_are_put_back", changes::routes_are_put_back),
    ("a_node_gets_another_address", changes::readdressed),
    ("a_node_is_removed_and_added_again", changes::removed_and_added),
];

fn main() -> ExitCode {
    main_with_far_nodes(3, 1, SCENARIOS)
}
