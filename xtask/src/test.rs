//! `cargo xtask test`: everything that is checked, in the order in which failures are cheapest to find.

use anyhow::Result;
use clap::Args;

use crate::{build, build_ebpf, clients, images, setup};

/// What the user may choose.
#[derive(Args)]
pub(crate) struct Options {
    /// Only the tests that need no cluster.
    #[arg(long)]
    unit: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::for_build()?;
    setup::for_cluster()?;
    setup::for_tests()?;
    if !options.unit {
        setup::require_kubectl()?;
        clients::install()?;
    }
    build_ebpf::run(true)?;
    build::cargo(&["test", "--workspace", "--exclude", "tests"])?;
    build::cargo(&["test", "-p", "tests", "--lib"])?;
    if options.unit {
        return Ok(());
    }
    let programs = build::programs()?;
    let images = build::target().join("images");
    images::build(&images)?;
    images::programs(&programs, &images.join("programs"))?;
    tests::sweep("t-")?;
    let suites = ["story", "clients", "services", "nodes", "node"];
    let targets = suites.iter().flat_map(|suite| ["--test", suite]);
    let command: Vec<&str> = ["test", "-p", "tests"].into_iter().chain(targets).collect();
    build::cargo(&command)
}
