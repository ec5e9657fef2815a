//! Clients that people use, each through a session on a real cluster: kubectl in two versions, Helm in two, the Python and the
//! JavaScript client, and a kube-rs program.
//!
//! A client runs where only the API server can be reached: in the host's network namespace, through the published loopback
//! port. It gets a kubeconfig and no flag that a stock cluster would not need. `cargo xtask clients` installs them in the
//! versions that `tests/clients` pins; `cargo xtask test` does that by itself.

mod helm;
mod kube_rs;
mod kubectl;
mod scripts;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use tests::suite::{self, Scenario};

const SCENARIOS: &[Scenario] = &[
    ("kubectl_1_32", |world| kubectl::session(world, "v1.32.")),
    ("kubectl_1_34", |world| kubectl::session(world, "v1.34.")),
    ("helm_3", |world| helm::session(world, "v3.")),
    ("helm_4", |world| helm::session(world, "v4.")),
    ("python", scripts::python),
    ("javascript", scripts::javascript),
    ("kube_rs", kube_rs::session),
];

fn main() -> ExitCode {
    suite::main(SCENARIOS)
}

/// Where `cargo xtask clients` put the clients.
fn installed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.orlop/clients")
}

/// The shell commands of the pod that the sessions look into: it says two lines, serves HTTP, and says the third and ends once
/// a file is there.
const POD_SCRIPT: &str =
    "echo one; echo two; /test serve & until [ -e /tmp/go ]; do sleep 0.1; done; echo three";
