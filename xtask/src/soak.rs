//! `cargo xtask soak`: long runs of random clients under faults. Short ones of the same kind are among the tests; these are
//! for whoever changed something that they guard, and for a night.

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::{build, images, setup};

/// What is run.
#[derive(Subcommand)]
pub(crate) enum Subject {
    /// Both stores, the embedded one under power cuts, the etcd one while its members are killed; every history is checked
    /// for linearizability and for what watches promise.
    Store(Store),
    /// The control plane's HTTPS API, checked likewise, while its process is killed by SIGKILL again and again.
    ControlPlane(ControlPlane),
    /// Connections all the time, by every path, on a cluster of two nodes whose agents are killed and replaced while endpoints
    /// change and maps grow: none may fail. Then a Service of a million endpoints comes and goes beside others, and one long
    /// random history of Services is checked against a model.
    DataPlane(DataPlane),
}

#[derive(Args)]
pub(crate) struct Store {
    /// For how long, in minutes.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// The first run's seed; each run after that has the next number.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Args)]
pub(crate) struct ControlPlane {
    /// How many writes are acknowledged.
    #[arg(long, default_value_t = 100_000)]
    writes: usize,
    /// Over three etcd servers, of which one at a time is killed too.
    #[arg(long)]
    etcd: bool,
    /// What random choices follow from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Args)]
pub(crate) struct DataPlane {
    /// For how long there are connections, in minutes.
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// What the history follows from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) fn run(subject: &Subject) -> Result<()> {
    setup::for_build()?;
    setup::for_tests()?;
    match subject {
        Subject::Store(options) => soak(&[
            "store".to_owned(),
            format!("--minutes={}", options.minutes),
            format!("--seed={}", options.seed),
        ]),
        Subject::ControlPlane(options) => {
            let program = build::programs()?.join("control-plane");
            let mut arguments = vec![
                "control-plane".to_owned(),
                format!("--program={}", program.display()),
                format!("--writes={}", options.writes),
                format!("--seed={}", options.seed),
            ];
            if options.etcd {
                arguments.push("--etcd".to_owned());
            }
            soak(&arguments)
        }
        Subject::DataPlane(options) => data_plane(options),
    }
}

/// What `cargo xtask test` does in short, in long.
fn data_plane(options: &DataPlane) -> Result<()> {
    setup::for_cluster()?;
    setup::require_kubectl()?;
    build::programs()?;
    images::build(&build::target().join("images"))?;
    tests::sweep("t-")?;
    build::cargo_with(
        &[
            "test",
            "-p",
            "tests",
            "--test",
            "services",
            "--",
            "no_connection_fails",
            "a_giant_service",
        ],
        &[("ORLOP_LOAD_MINUTES", options.minutes.to_string())],
    )?;
    build::cargo_with(
        &["test", "-p", "proxy-ebpf", "--test", "kernel", "random_services"],
        &[("PROXY_EBPF_SEED", options.seed.to_string())],
    )
}

/// Runs the crate of that name, optimised like what it examines.
fn soak(arguments: &[String]) -> Result<()> {
    let mut command = vec!["run", "--quiet", "--release", "-p", "soak", "--"];
    command.extend(arguments.iter().map(String::as_str));
    build::cargo(&command)
}
