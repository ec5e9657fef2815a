//! Removing a cluster, also one whose maker was killed, and saying what is left of one.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};

use crate::{cgroup, gateway, layout::Layout, network, process::Process};

/// How long processes may take to disappear after SIGKILL.
const KILL_LIMIT: Duration = Duration::from_secs(120);

/// Removes every process, cgroup, mount, namespace, pin and file of a cluster, in the order that makes each step possible:
/// processes hold mounts and cgroups, mounts hold directories. A cluster that does not exist is removed already.
///
/// # Errors
/// The first thing that cannot be removed.
pub fn teardown(layout: &Layout) -> Result<()> {
    cgroup::remove(layout.name(), KILL_LIMIT)?;
    for root in [layout.run(), layout.state()] {
        for mount in mounts_below(&root)?.into_iter().rev() {
            umount2(&mount, MntFlags::MNT_DETACH).with_context(|| format!("unmount {}", mount.display()))?;
        }
    }
    gateway::close(layout)?;
    for namespace in network::namespaces(layout) {
        network::ip(&["netns", "delete", &namespace])?;
    }
    for root in [layout.run(), layout.state()] {
        remove_directory(&root)?;
    }
    for parent in [Layout::run_root(), Layout::state_root()] {
        // Another cluster may still live there; only an empty directory goes.
        let _not_empty = fs::remove_dir(parent);
    }
    Ok(())
}

/// What is left of a cluster after [`teardown`]: nothing, when it worked. One line for each thing.
///
/// # Errors
/// The kernel's lists cannot be read.
pub fn leftovers(layout: &Layout) -> Result<Vec<String>> {
    let mut left = Vec::new();
    left.extend(
        cgroup::processes(layout.name())?
            .into_iter()
            .map(|pid| format!("process {pid}")),
    );
    for hierarchy in cgroup::hierarchies()? {
        left.extend(
            cgroup::directories(&hierarchy.mount.join(layout.name()))
                .iter()
                .map(|path| format!("cgroup {}", path.display())),
        );
    }
    for root in [layout.run(), layout.state()] {
        left.extend(
            mounts_below(&root)?
                .iter()
                .map(|path| format!("mount {}", path.display())),
        );
        if root.exists() {
            left.push(format!("directory {}", root.display()));
        }
    }
    left.extend(
        network::namespaces(layout)
            .into_iter()
            .map(|name| format!("network namespace {name}")),
    );
    if gateway::is_open(layout) {
        left.push("the gateway to the host".to_owned());
    }
    left.extend(processes_that_name(&layout.run())?);
    Ok(left)
}

/// Removes the clusters whose name begins with `prefix` and whose maker is gone: what killed test runs left behind.
///
/// # Errors
/// One of them cannot be removed.
pub fn sweep(prefix: &str) -> Result<()> {
    let names = fs::read_dir(Layout::state_root())
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    for name in names.filter(|name| name.starts_with(prefix)) {
        let Ok(layout) = Layout::new(&name) else { continue };
        let owner = fs::read_to_string(layout.state().join("owner")).unwrap_or_default();
        let alive = owner.trim().parse().ok().and_then(Process::find).is_some();
        if !alive {
            teardown(&layout)?;
        }
    }
    Ok(())
}

/// The mount points at or below a directory, in the order they were made.
pub(crate) fn mounts_below(root: &Path) -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    let points = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape);
    Ok(points.filter(|path| path.starts_with(root)).collect())
}

/// The kernel writes blanks and backslashes in paths as octal escapes.
fn unescape(path: &str) -> PathBuf {
    path.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
        .into()
}

/// Processes with a path below `directory` on their command line: a shim that escaped its cgroup would show here.
fn processes_that_name(directory: &Path) -> Result<Vec<String>> {
    let needle = format!("{}/", directory.display());
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("read /proc")?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(&needle) {
            found.push(format!("process {pid}: {}", command.trim()));
        }
    }
    Ok(found)
}

fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
