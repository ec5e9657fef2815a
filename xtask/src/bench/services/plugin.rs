//! How long the network plugin takes for a pod, alone and among many.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, bail};

use super::super::{Row, row};
use crate::build;

/// The package and the example that run the plugin.
pub(super) const PROGRAM: (&str, &str) = ("orlop-cni", "add-latency");

/// Pods, and how many of them at a time.
const LOADS: [(u32, u32); 2] = [(100, 1), (250, 250)];

/// `directory` has the plugin.
pub(super) fn measure(directory: &Path, rows: &mut Vec<Row>) -> Result<()> {
    for (pods, parallel) in LOADS {
        let output = Command::new(build::target().join("release/examples").join(PROGRAM.1))
            .arg(directory.join("orlop-cni"))
            .args([pods.to_string(), parallel.to_string()])
            .output()
            .with_context(|| format!("start {}", PROGRAM.1))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{}: {}", PROGRAM.1, said.trim());
        }
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            let [what, _, p50, _, p99, _, total, _, cpu] = words[..] else {
                bail!("{} printed {line:?}", PROGRAM.1);
            };
            rows.push(row(
                &format!("CNI, {pods} pods, {parallel} at once: {what} p50 / p99 (all; processor each)"),
                format!("{p50} / {p99} ms ({total}; {cpu})"),
                if what == "add" { "30 ms" } else { "" },
            ));
        }
    }
    Ok(())
}
