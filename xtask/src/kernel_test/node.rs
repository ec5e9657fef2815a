//! A whole node inside a guest: containerd and runc, our programs and their images, `kubectl`, and the suite that starts and
//! questions it.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};

use super::{initramfs::Contents, quoted, test_targets};
use crate::{build, images, setup};

/// Programs that a node and the suite start, besides those of every guest.
const TOOLS: [&str; 6] = [
    // That of busybox has programs of its own, which it takes before those in the path.
    "sh",
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "runc",
    "kubectl",
];

/// The suite's test target.
const SUITE: &str = "node";

/// Memory of such a guest, all of whose files are in it, in MiB.
pub(super) const MEMORY_MIB: u32 = 6144;

/// Builds what the node consists of.
pub(super) fn contents(filter: Option<&str>) -> Result<Contents> {
    setup::for_cluster()?;
    setup::require_kubectl()?;
    let directory = build::programs()?;
    let archives = images::build(&build::target().join("images"))?.archives;
    let suite = test_targets("tests", &["--test", SUITE])?;
    let Some(suite) = suite.into_iter().find(|program| program.name == SUITE) else {
        bail!("the package tests has no test target {SUITE:?}");
    };
    let mut programs: Vec<PathBuf> = build::PACKAGES
        .iter()
        .chain([&build::PLUGIN])
        .map(|name| directory.join(name))
        .collect();
    programs.extend([suite.path.clone(), images::test_program()]);
    // Containers' files are made of the node's.
    let script = format!(
        "hostname guest\n\
         echo '127.0.0.1 localhost' > /etc/hosts\n\
         touch /etc/resolv.conf\n\
         export CARGO_TARGET_DIR={}\n\
         {} {} || failed=1",
        quoted(&build::target().display().to_string()),
        quoted(&suite.path.display().to_string()),
        filter.map(quoted).unwrap_or_default(),
    );
    Ok(Contents {
        programs: programs.iter().map(absolute).collect::<Result<_>>()?,
        tools: TOOLS.into(),
        files: archives.iter().map(absolute).collect::<Result<_>>()?,
        modules: vec!["overlay"],
        script,
    })
}

fn absolute(path: &PathBuf) -> Result<PathBuf> {
    fs::canonicalize(path).with_context(|| format!("find {}", path.display()))
}
