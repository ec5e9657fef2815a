//! What the store does for its users: durable writes, as its own benchmark reports them.

use std::ffi::OsStr;

use anyhow::Result;
use serde_json::Value;

use super::{Row, example, row};

/// The package and the example that measures.
pub(super) const PROGRAM: (&str, &str) = ("store", "store-bench");

/// Durable writes per second of the embedded store, as its own benchmark reports them.
pub(super) fn measure(rows: &mut Vec<Row>) -> Result<()> {
    for clients in ["1", "64"] {
        let arguments = ["--clients", clients, "--seconds", "5"];
        let report = example(PROGRAM, &arguments.map(OsStr::new))?;
        let value = report
            .get("writes_per_second")
            .map_or_else(|| format!("{report:?}"), Value::to_string);
        rows.push(row(
            &format!("store: durable writes/s, {clients} clients"),
            value,
            "2x etcd (a later issue measures both)",
        ));
    }
    Ok(())
}
