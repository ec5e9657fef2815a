//! Building our programs with cargo.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, bail};

/// The packages whose binaries make up a cluster.
const PACKAGES: [&str; 4] = ["control-plane", "kubelet", "proxy-ebpf", "orlop-cni"];

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(Path::to_owned)
        .unwrap_or_default()
}

/// Cargo's target directory.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Builds the cluster's programs as they are meant to run and returns the directory they are in.
pub(crate) fn programs() -> Result<PathBuf> {
    let mut args = vec!["build", "--release"];
    args.extend(PACKAGES.iter().flat_map(|package| ["-p", *package]));
    cargo(&args)?;
    Ok(target().join("release"))
}

/// Runs the cargo that started us, in the repository's root.
pub(crate) fn cargo(args: &[&str]) -> Result<()> {
    run_cargo(args, &[], Stdio::inherit()).map(drop)
}

/// The same with variables added to the environment.
pub(crate) fn cargo_with(args: &[&str], variables: &[(&str, String)]) -> Result<()> {
    run_cargo(args, variables, Stdio::inherit()).map(drop)
}

/// The same, and returns what it prints.
pub(crate) fn cargo_messages(args: &[&str]) -> Result<String> {
    let output = run_cargo(args, &[], Stdio::piped())?;
    String::from_utf8(output.stdout).context("read what cargo printed")
}

fn run_cargo(args: &[&str], variables: &[(&str, String)], stdout: Stdio) -> Result<Output> {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(program)
        .args(args)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .current_dir(root())
        .stdin(Stdio::inherit())
        .stdout(stdout)
        .stderr(Stdio::inherit())
        .output()
        .context("start cargo")?;
    if !output.status.success() {
        bail!("cargo {} failed ({})", args.join(" "), output.status);
    }
    Ok(output)
}
