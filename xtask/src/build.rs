//! Building our programs with cargo.

use std::{
    env,
    env::consts::ARCH,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, bail};

/// The packages whose binaries make up a cluster, but for the network plugin.
pub(crate) const PACKAGES: [&str; 3] = ["control-plane", "kubelet", "proxy-ebpf"];

/// The network plugin's package.
pub(crate) const PLUGIN: &str = "orlop-cni";

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
    let directory = target().join("release");
    // Cargo has a directory of its own for each target; whoever starts a cluster looks into one. What is there may be a link
    // to what cargo has built for this machine's libraries.
    let place = directory.join(PLUGIN);
    let plugin = plugin()?;
    if fs::read(&place).ok() != Some(plugin.clone()) {
        let _ = fs::remove_file(&place);
        fs::write(&place, plugin).with_context(|| format!("write {}", place.display()))?;
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("make {} executable", place.display()))?;
    }
    Ok(directory)
}

/// The target of programs without any shared library.
pub(crate) fn static_target() -> String {
    format!("{ARCH}-unknown-linux-musl")
}

/// Builds the network plugin and returns it. It needs no shared library, since it is copied onto nodes that may have others,
/// and starts in a third of the time of a dynamic one: it lives for a millisecond, and the C library that it would else be
/// linked with asks a processor for its features at each start, which virtual machines answer slowly.
pub(crate) fn plugin() -> Result<Vec<u8>> {
    let target = static_target();
    cargo(&["build", "--release", "--package", PLUGIN, "--target", &target])?;
    let path = self::target().join(target).join("release").join(PLUGIN);
    fs::read(&path).with_context(|| format!("read {}", path.display()))
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
    let mut command = Command::new(program);
    // What the cargo that runs us has said of our own package, some build scripts would take for a change, and all that depends
    // on theirs would be built anew, by turns with builds that nobody started from here.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    let output = command
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
