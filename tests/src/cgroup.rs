//! The cluster's subtree in every cgroup hierarchy.
//!
//! Machines differ: cgroup v1 controllers each in a hierarchy of its own, cgroup2 alone, or both (hybrid). The mounts are
//! read from the kernel, never assumed. Everything that a cluster starts lives below `/<cluster>` in at least the
//! cgroup2 hierarchy, so its processes can be found without a record.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// One mounted cgroup hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Its mount point.
    pub(crate) mount: PathBuf,
    /// Whether it is cgroup2.
    pub(crate) unified: bool,
    /// The v1 controllers mounted there.
    pub(crate) controllers: Vec<String>,
}

/// The hierarchies mounted on this machine.
pub(crate) fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    Ok(parse(&mounts))
}

fn parse(mounts: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(mount), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let unified = kind == "cgroup2";
        if !unified && kind != "cgroup" || found.iter().any(|known| known.mount == Path::new(mount)) {
            continue;
        }
        let controllers = options
            .split(',')
            .filter(|option| {
                !matches!(
                    *option,
                    "rw" | "ro" | "relatime" | "nosuid" | "nodev" | "noexec" | "xattr"
                )
            })
            .map(str::to_owned)
            .collect();
        found.push(Hierarchy {
            mount: mount.into(),
            unified,
            controllers: if unified { Vec::new() } else { controllers },
        });
    }
    found
}

/// The mount point of cgroup2, which the data plane's socket hooks need.
pub(crate) fn unified_mount() -> Result<PathBuf> {
    let found = hierarchies()?.into_iter().find(|hierarchy| hierarchy.unified);
    match found {
        Some(hierarchy) => Ok(hierarchy.mount),
        None => bail!(
            "cgroup2 is not mounted, and the data plane attaches its socket programs there; \
             mount it: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified"
        ),
    }
}

/// The hierarchies that the cluster's daemons join: cgroup2, and the v1 ones that account memory and CPU.
fn joined() -> Result<Vec<Hierarchy>> {
    Ok(hierarchies()?
        .into_iter()
        .filter(|hierarchy| {
            hierarchy.unified
                || hierarchy
                    .controllers
                    .iter()
                    .any(|c| matches!(c.as_str(), "memory" | "pids" | "cpu"))
        })
        .collect())
}

/// Makes `path` (for example `/orlop/node1/system`) in the hierarchies that daemons join and returns the files to write a pid to.
pub(crate) fn make(path: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for hierarchy in joined()? {
        let directory = hierarchy.mount.join(path.trim_start_matches('/'));
        fs::create_dir_all(&directory).with_context(|| format!("make cgroup {}", directory.display()))?;
        if hierarchy.unified {
            delegate(&hierarchy.mount, path)?;
        }
        files.push(directory.join("cgroup.procs"));
    }
    Ok(files)
}

/// Hands the controllers of a cgroup2 hierarchy down to every inner directory of `path`, so that pods below can be limited.
fn delegate(mount: &Path, path: &str) -> Result<()> {
    let mut directory = mount.to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    for part in &parts {
        let available = fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
        for controller in available
            .split_whitespace()
            .filter(|c| matches!(*c, "cpu" | "cpuset" | "memory" | "pids" | "io" | "hugetlb"))
        {
            fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"))
                .with_context(|| format!("enable controller {controller} below {}", directory.display()))?;
        }
        directory.push(part);
    }
    Ok(())
}

/// All processes in the cluster's subtree, in any hierarchy.
pub(crate) fn processes(cluster: &str) -> Result<Vec<i32>> {
    let mut pids = Vec::new();
    for hierarchy in hierarchies()? {
        for directory in directories(&hierarchy.mount.join(cluster)) {
            let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        }
    }
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

/// `root` and all directories below it, parents first; nothing when it does not exist.
pub(crate) fn directories(root: &Path) -> Vec<PathBuf> {
    if !root.is_dir() {
        return Vec::new();
    }
    let mut all = vec![root.to_owned()];
    let mut next = 0;
    while next < all.len() {
        let entries = fs::read_dir(&all[next]).into_iter().flatten().flatten();
        let below: Vec<PathBuf> = entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect();
        all.extend(below);
        next += 1;
    }
    all
}

/// Kills every process in the cluster's subtree and removes the subtree from every hierarchy.
pub(crate) fn remove(cluster: &str, limit: Duration) -> Result<()> {
    let start = Instant::now();
    loop {
        let pids = processes(cluster)?;
        for pid in &pids {
            // A process that ended between the listing and the signal is what we want anyway.
            let _ended = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        let mut left = Vec::new();
        for hierarchy in hierarchies()? {
            for directory in directories(&hierarchy.mount.join(cluster)).into_iter().rev() {
                if fs::remove_dir(&directory).is_err() {
                    left.push(directory);
                }
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        if start.elapsed() > limit {
            bail!("cgroups {left:?} cannot be removed; processes {pids:?} are still in them");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_and_pure_machines_are_told_apart() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        let found = parse(hybrid);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].controllers, ["cpu", "cpuacct"]);
        assert!(found[1].unified);

        let pure = parse("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec,relatime,nsdelegate 0 0\n");
        assert_eq!(
            pure,
            [Hierarchy {
                mount: "/sys/fs/cgroup".into(),
                unified: true,
                controllers: vec![]
            }]
        );
    }
}
