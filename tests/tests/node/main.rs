//! A whole node on a kernel of its own: `cargo xtask kernel-test --node` boots Debian's under QEMU and runs this suite inside,
//! with real containerd and runc, stock `kubectl`, our release programs and their images, on cgroup v2 alone.
//!
//! Elsewhere it runs like the other suites: `cargo test -p tests --test node`. It is about what differs between kernels: the
//! pair of devices that joins a pod to its node, and the cgroups of pods.

mod cgroups;
mod devices;

use std::process::ExitCode;

use tests::suite::{self, Scenario};

const SCENARIOS: &[Scenario] = &[
    (
        "a_pod_lives_and_dies_on_the_kernels_device",
        devices::lives_and_dies,
    ),
    ("a_service_is_reached_on_every_way", devices::service_on_every_way),
    ("cgroups_hold_what_pods_ask_for", cgroups::hold_what_pods_ask_for),
];

fn main() -> ExitCode {
    suite::main(SCENARIOS)
}
