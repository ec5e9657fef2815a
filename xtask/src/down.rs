//! `cargo xtask down`: the cluster is gone, whatever state it was in.

use anyhow::{Result, bail};
use clap::Args;
use tests::Layout;

/// What the user may choose.
#[derive(Args)]
pub(crate) struct Options {
    /// The cluster's name.
    #[arg(long, default_value = "orlop")]
    name: String,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let layout = Layout::new(&options.name)?;
    let before = tests::leftovers(&layout)?;
    if before.is_empty() {
        println!("There is no cluster {:?}.", options.name);
        return Ok(());
    }
    tests::teardown(&layout)?;
    let left = tests::leftovers(&layout)?;
    if !left.is_empty() {
        bail!("left behind:\n  {}", left.join("\n  "));
    }
    println!(
        "The cluster {:?} is gone: {} things removed.",
        options.name,
        before.len()
    );
    Ok(())
}
