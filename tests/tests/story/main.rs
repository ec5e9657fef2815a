//! The newcomer's story on a real single-node cluster: stock kubectl, real containerd, runc and kernel.
//!
//! Scenarios run one after the other on one cluster, each in a namespace of its own. `cargo test -p tests --test story --
//! NAME` runs those whose name contains NAME. The programs and images come from `cargo xtask test`, which builds them.

mod bad_input;
mod deploy;
mod everyday;
mod kill;
mod newcomer;
mod restarts;
mod service;
mod volumes;

use std::process::ExitCode;

use tests::suite::{self, IMAGE, Scenario, World, expect_contains};

const SCENARIOS: &[Scenario] = &[
    ("newcomer_looks_around", newcomer::looks_around),
    ("newcomer_runs_up_twice", newcomer::runs_up_twice),
    (
        "service_spreads_and_survives_replacement",
        service::spreads_and_survives_replacement,
    ),
    (
        "service_by_ipv6_and_name_in_environment",
        service::ipv6_and_environment,
    ),
    ("everyday_logs", everyday::logs),
    ("everyday_exec", everyday::exec),
    ("everyday_rollout", everyday::rollout),
    ("everyday_apply_and_formats", everyday::apply_and_formats),
    ("everyday_watch", everyday::watch),
    ("everyday_cordon_and_drain", everyday::cordon_and_drain),
    ("volumes_are_seen_and_refreshed", volumes::seen_and_refreshed),
    ("restarts_back_off", restarts::back_off),
    (
        "restarts_readiness_and_liveness",
        restarts::readiness_and_liveness,
    ),
    ("bad_input_unknown_image", bad_input::unknown_image),
    ("bad_input_manifests", bad_input::manifests),
    ("bad_input_flags", bad_input::flags),
    (
        "bad_input_kernel_without_a_feature",
        bad_input::kernel_without_a_feature,
    ),
    ("bad_input_port_taken", bad_input::port_taken),
    (
        "bad_input_network_plugin_absent",
        bad_input::network_plugin_absent,
    ),
    ("bad_input_containerd_down", bad_input::containerd_down),
    ("deploy_installs_and_uninstalls", deploy::installs_and_uninstalls),
    ("kill_each_daemon_under_traffic", kill::each_daemon_under_traffic),
];

fn main() -> ExitCode {
    suite::main(SCENARIOS)
}
