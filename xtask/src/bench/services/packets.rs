//! What the programs of the packet path cost per packet, on the node where the agent has put them.

use std::{ffi::OsStr, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    super::{Row, row},
    peers,
    stage::Stage,
};
use crate::build;

/// The package and the example that run the programs.
pub(super) const PROGRAM: (&str, &str) = ("proxy-ebpf", "packet-cost");

pub(super) fn measure(stage: &Stage<'_>, rows: &mut Vec<Row>) -> Result<()> {
    let layout = stage.cluster.layout();
    let program = build::target().join("release/examples").join(PROGRAM.1);
    let (bpf_dir, service) = (layout.bpf_dir(1), format!("{}:80", stage.service));
    let arguments = [
        OsStr::new("--bpf-dir"),
        bpf_dir.as_os_str(),
        OsStr::new("--pod"),
        OsStr::new(&stage.client),
        OsStr::new("--other-pod"),
        OsStr::new(&stage.server),
        OsStr::new("--service"),
        OsStr::new(&service),
    ];
    let output = peers::run_in(&layout.node_netns(1), Path::new(&program).as_os_str(), &arguments)?;
    let report: Value = serde_json::from_str(&output).with_context(|| format!("parse {output:?}"))?;
    for (what, nanoseconds) in report.as_object().into_iter().flatten() {
        let nanoseconds = nanoseconds
            .as_f64()
            .with_context(|| format!("{what} is no number"))?;
        rows.push(row(
            &format!("packet path, {what}"),
            format!("{nanoseconds:.0} ns, {:.1} M/s per core", 1e3 / nanoseconds),
            "",
        ));
    }
    Ok(())
}
