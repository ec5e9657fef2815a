//! What Services cost the agent: memory, a cold start, one change.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tests::{Cluster, Component, wait};

use super::{
    super::{Row, mebibytes, row, seconds},
    stage::{ENDPOINTS, agent, fill, metrics, sample, wait_for_slots},
};

/// Changes of single slices, one after the other.
const CHANGES: u32 = 20;
/// How long a change may take to be seen in the agent's metrics before something is wrong.
const PATIENCE: Duration = Duration::from_secs(30);

/// With no Services and at each of `counts`, which grow.
pub(super) fn measure(cluster: &Cluster, counts: &[u32], rows: &mut Vec<Row>) -> Result<()> {
    let base = agent(cluster)?.pss_bytes()?;
    rows.push(row("agent PSS without Services", mebibytes(base), ""));
    rows.push(row(
        "  kernel memory of its maps",
        mebibytes(map_memory(cluster)?),
        "",
    ));
    let mut filled = 0;
    for &count in counts {
        fill(cluster, &mut filled, count)?;
        let pss = agent(cluster)?.pss_bytes()?;
        rows.push(row(&format!("agent PSS at {count} Services"), mebibytes(pss), ""));
        rows.push(row(
            "  kernel memory of its maps",
            mebibytes(map_memory(cluster)?),
            "",
        ));
        memory_per_service("agent memory per Service", base, pss, count, rows);
    }
    let Some(&count) = counts.last() else {
        return Ok(());
    };
    one_change(cluster, count, rows)?;
    cold_start(cluster, count, rows)?;
    let pss = agent(cluster)?.pss_bytes()?;
    rows.push(row("  agent PSS then", mebibytes(pss), ""));
    memory_per_service("  agent memory per Service then", base, pss, count, rows);
    Ok(())
}

/// What the kernel has set aside for the agent's maps: no process is charged for it.
fn map_memory(cluster: &Cluster) -> Result<u64> {
    let output = agent_command(cluster, &["status", "--output", "json"])?;
    let status: Value = serde_json::from_slice(&output).context("parse what proxy-ebpf status says")?;
    let bytes = status["mapMemoryBytes"].as_u64();
    bytes.with_context(|| format!("no mapMemoryBytes in {status}"))
}

/// Runs the agent's program for the maps of node 1, and returns what it prints.
fn agent_command(cluster: &Cluster, arguments: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(cluster.config().binaries.directory.join("proxy-ebpf"))
        .args(arguments)
        .arg("--bpf-dir")
        .arg(cluster.layout().bpf_dir(1))
        .output()
        .context("start proxy-ebpf")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("proxy-ebpf {}: {}", arguments.join(" "), said.trim());
    }
    Ok(output.stdout)
}

fn memory_per_service(what: &str, base: u64, pss: u64, count: u32, rows: &mut Vec<Row>) {
    let each = pss.saturating_sub(base) as f64 / 1e3 / f64::from(count);
    rows.push(row(
        &format!("{what} at {count}"),
        format!("{each:.2} kB"),
        "1.5 kB",
    ));
}

/// The time from a slice's event to the end of the writes that follow from it.
fn one_change(cluster: &Cluster, count: u32, rows: &mut Vec<Row>) -> Result<()> {
    const SYNCS: &str = "kubeproxy_sync_partial_proxy_rules_duration_seconds";
    let kubectl = cluster.kubectl();
    let read = |what: &str| -> Result<f64> {
        let name = format!("{SYNCS}_{what}");
        sample(&metrics(cluster)?, &name).with_context(|| format!("the agent has no {name}"))
    };
    let (sum, syncs) = (read("sum")?, read("count")?);
    for number in 0..CHANGES.min(count) {
        let patch = r#"{"endpoints":[{"addresses":["11.255.0.1"]},{"addresses":["11.255.0.2"]},{"addresses":["11.255.0.3"]}]}"#;
        let name = format!("s-{number}");
        kubectl.run(&[
            "-n",
            "fill",
            "patch",
            "endpointslice",
            &name,
            "--type=merge",
            "-p",
            patch,
        ])?;
        wait::until("the change is synced", PATIENCE, || {
            let done = read("count")? - syncs;
            if done <= f64::from(number) {
                bail!("{done} syncs after {} changes", number + 1);
            }
            Ok(())
        })?;
    }
    let each = (read("sum")? - sum) / (read("count")? - syncs);
    let what = format!("one slice of {count} changed: planning and writing");
    rows.push(row(&what, format!("{:.2} ms", each * 1e3), "1 ms"));
    Ok(())
}

/// An agent that finds no maps.
fn cold_start(cluster: &Cluster, count: u32, rows: &mut Vec<Row>) -> Result<()> {
    agent(cluster)?.kill();
    agent_command(cluster, &["cleanup"])?;
    let start = Instant::now();
    cluster.start_component(Component::ProxyEbpf(1))?;
    wait_for_slots(cluster, count * ENDPOINTS)?;
    let what = format!("{count} Services x {ENDPOINTS} endpoints: a cold agent's start to full maps");
    rows.push(row(&what, seconds(start.elapsed()), ""));
    let metrics = metrics(cluster)?;
    let name = "kubeproxy_sync_full_proxy_rules_duration_seconds_sum";
    let sum = sample(&metrics, name).with_context(|| format!("the agent has no {name}"))?;
    rows.push(row(
        "  of which planning and writing",
        format!("{:.0} ms", sum * 1e3),
        "400 ms",
    ));
    Ok(())
}
