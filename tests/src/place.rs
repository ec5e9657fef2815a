//! Places of a cluster, besides its pods, where a program can be run.

use std::{path::Path, process::Command};

use anyhow::Result;

use crate::{Cluster, cgroup};

/// Where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On a node (from 1), as one of its own processes: in its network namespace and below its cgroup.
    Node(usize),
    /// On the network that joins the nodes, but on none of them.
    Outside,
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
        };
        Ok(command)
    }
}
