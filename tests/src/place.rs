//! Places of a cluster, besides its pods, where a program can be run.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::{Cluster, cgroup};

/// Where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On a node (from 1), as one of its own processes: in its network namespace and below its cgroup.
    Node(usize),
    /// On the network that joins the nodes, but on none of them.
    Outside,
    /// In the network namespace of this process, but outside of its cgroups: like a pod whose sockets nobody translates.
    NamespaceOf(i32),
}

impl Place {
    /// The network namespace of a pod, by its uid.
    ///
    /// # Errors
    /// None of its processes runs.
    pub fn namespace_of_pod(uid: &str) -> Result<Place> {
        let needle = format!("pod{uid}");
        for entry in fs::read_dir("/proc").context("read /proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // A process may end while it is looked at.
            let cgroups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            if cgroups.contains(&needle) {
                return Ok(Place::NamespaceOf(pid));
            }
        }
        bail!("no process of pod {uid} runs")
    }
}

impl Place {
    /// The command that runs `program` there.
    ///
    /// # Errors
    /// The machine has no cgroup2 hierarchy.
    pub fn command(self, cluster: &Cluster, program: &Path) -> Result<Command> {
        let layout = cluster.layout();
        // nsenter enters the network namespace alone: the mounts, the cgroups among them, stay as they are.
        let command = match self {
            Place::Node(index) => {
                let cgroup = layout.node_cgroup(index);
                let procs = cgroup::unified_mount()?
                    .join(cgroup.trim_start_matches('/'))
                    .join("system/cgroup.procs");
                let mut command = Command::new("sh");
                command
                    .args(["-c", "echo $$ > \"$1\" && shift && exec nsenter \"$@\"", "sh"])
                    .arg(procs)
                    .arg(format!("--net=/run/netns/{}", layout.node_netns(index)))
                    .arg("--")
                    .arg(program);
                command
            }
            Place::Outside => {
                let mut command = Command::new("nsenter");
                command
                    .arg(format!("--net=/run/netns/{}", layout.control_plane_netns()))
                    .arg("--")
                    .arg(program);
                command
            }
            Place::NamespaceOf(pid) => {
                let mut command = Command::new("nsenter");
                command
                    .arg(format!("--net=/proc/{pid}/ns/net"))
                    .arg("--")
                    .arg(program);
                command
            }
        };
        Ok(command)
    }
}
