//! What a pod asks for becomes what the kernel holds it to, whichever version of cgroups it has.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use tests::suite::{IMAGE, TIMEOUT, World, expect_contains};

/// Guaranteed, burstable and best effort.
pub(crate) fn hold_what_pods_ask_for(world: &World<'_>) -> Result<()> {
    let limits = "cpu: 500m, memory: 64Mi";
    for (name, resources) in [
        ("guaranteed", format!("limits: {{{limits}}}")),
        (
            "burstable",
            format!("requests: {{cpu: 100m, memory: 32Mi}}, limits: {{{limits}}}"),
        ),
        ("besteffort", String::new()),
    ] {
        world.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
             containers:\n  - name: main\n    image: {IMAGE}\n    resources: {{{resources}}}\n    \
             command: [sh, -c, \"trap 'exit 0' TERM; sleep 36000 & wait\"]\n"
        ))?;
    }
    let pods = ["guaranteed", "burstable", "besteffort"];
    for pod in pods {
        world.run(&["wait", "--for=condition=Ready", TIMEOUT, &format!("pod/{pod}")])?;
    }
    for (pod, weight, quota, memory) in [
        ("guaranteed", "20", "50000 100000", "67108864"),
        ("burstable", "4", "50000 100000", "67108864"),
        ("besteffort", "1", "max 100000", "max"),
    ] {
        let cgroup = cgroup_of(world, pod)?;
        let inside = if pod == "guaranteed" { "kubepods/pod" } else { pod };
        expect_contains("the pod's cgroup", &cgroup.display().to_string(), inside)?;
        let Some(unified) = unified()? else {
            // With the first version the story's scenarios look.
            println!("SKIPPED: this machine has not cgroup v2 alone");
            return Ok(());
        };
        for (file, expected) in [("cpu.weight", weight), ("cpu.max", quota), ("memory.max", memory)] {
            let path = unified.join(&cgroup).join(file);
            let value = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            ensure!(value.trim() == expected, "{}: {}", path.display(), value.trim());
        }
    }
    let cgroups = pods.map(|pod| cgroup_of(world, pod));
    // A container that takes more than it may is ended for that.
    world.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: greedy}}\nspec:\n  restartPolicy: Never\n  containers:\n  - name: main\n    \
         image: {IMAGE}\n    resources: {{limits: {{memory: 32Mi}}}}\n    command: [tail, -c, \"67108864\", /dev/zero]\n"
    ))?;
    world.run(&[
        "wait",
        "--for=jsonpath={.status.phase}=Failed",
        TIMEOUT,
        "pod/greedy",
    ])?;
    let greedy = world.get(&["pod", "greedy"])?;
    // The reason is OOMKilled only if containerd hears of that before it hears of the end (containerd#8180).
    let ended = &greedy["status"]["containerStatuses"][0]["state"]["terminated"];
    ensure!(ended["exitCode"] == 137, "it ended by {ended}");

    world.run(&[
        "delete",
        "pod",
        "guaranteed",
        "burstable",
        "besteffort",
        "greedy",
        TIMEOUT,
    ])?;
    for cgroup in cgroups {
        let cgroup = cgroup?;
        let Some(unified) = unified()? else { continue };
        world.until("the pod's cgroup gone", || match unified.join(&cgroup).exists() {
            true => bail!("{} is there", cgroup.display()),
            false => Ok(()),
        })?;
    }
    Ok(())
}

/// A pod's cgroup, below the mount point.
fn cgroup_of(world: &World<'_>, pod: &str) -> Result<PathBuf> {
    let pod = world.get(&["pod", pod])?;
    let uid = pod["metadata"]["uid"].as_str().context("a pod without uid")?;
    let needle = format!("pod{uid}");
    for entry in fs::read_dir("/proc").context("read /proc")?.flatten() {
        // A process may end while it is looked at.
        let cgroups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let line = cgroups.lines().find(|line| line.contains(&needle));
        let Some(path) = line.and_then(|line| line.splitn(3, ':').nth(2)) else {
            continue;
        };
        let path = Path::new(path.trim_start_matches('/'));
        let pod = path
            .ancestors()
            .find(|path| path.file_name().is_some_and(|name| name == needle.as_str()));
        return Ok(pod
            .context("a container's cgroup is not below its pod's")?
            .to_owned());
    }
    bail!("no process of pod {uid} runs")
}

/// Where cgroup v2 is mounted, if there is no other.
fn unified() -> Result<Option<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read the mounts")?;
    let of_kind = |kind: &str| {
        let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        lines
            .find(|fields| fields.get(2) == Some(&kind))
            .map(|fields| PathBuf::from(fields[1]))
    };
    Ok(if of_kind("cgroup").is_some() {
        None
    } else {
        of_kind("cgroup2")
    })
}
