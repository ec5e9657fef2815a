//! What the store does for its users: durable writes beside etcd's, and what a request costs as the store fills.

use std::ffi::OsStr;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Options, Row, example, mebibytes, row};

/// The package and the example that measures.
pub(super) const PROGRAM: (&str, &str) = ("store", "store-bench");

/// Both stores on the same disk, by turns, and the embedded one with few and with many keys.
pub(super) fn measure(options: &Options, rows: &mut Vec<Row>) -> Result<()> {
    let arguments = [
        "--clients",
        &options.store_clients,
        "--objects",
        &options.store_objects,
        "--etcd",
    ];
    let report = example(PROGRAM, &arguments.map(OsStr::new))?;
    let list = |name: &str| {
        let list = report.get(name).and_then(Value::as_array);
        list.with_context(|| format!("store-bench does not report {name:?}"))
    };
    for pair in list("writes")?.chunks(2) {
        if let [ours, etcds] = pair {
            writes(ours, etcds, rows)?;
        }
    }
    objects(list("objects")?, rows)
}

fn writes(ours: &Value, etcds: &Value, rows: &mut Vec<Row>) -> Result<()> {
    let clients = number(ours, "clients")?;
    for (name, measured) in [("embedded", ours), ("etcd", etcds)] {
        rows.push(row(
            &format!("store: durable writes/s, {clients} clients, {name} (p50, p99 µs)"),
            format!(
                "{} ({}, {})",
                number(measured, "writes_per_second")?,
                number(measured, "latency_us_p50")?,
                number(measured, "latency_us_p99")?
            ),
            "",
        ));
        rows.push(row(
            &format!("  CPU of store and client, µs a write; PSS of the store's process, {name}"),
            format!(
                "{} µs, {}",
                number(measured, "cpu_us_per_write")?,
                mebibytes(number(measured, "pss_bytes")? as u64)
            ),
            "",
        ));
    }
    let ratio = number(ours, "writes_per_second")? / number(etcds, "writes_per_second")?.max(1.0);
    rows.push(row(
        &format!("  embedded / etcd, {clients} clients"),
        format!("{ratio:.1}x"),
        "2x",
    ));
    Ok(())
}

/// A request in the fullest store beside the same in the emptiest.
fn objects(measured: &[Value], rows: &mut Vec<Row>) -> Result<()> {
    let (Some(few), Some(many)) = (measured.first(), measured.last()) else {
        return Ok(());
    };
    let counts = format!(
        "{} and {} keys",
        number(few, "objects")?,
        number(many, "objects")?
    );
    for (what, name) in [
        ("get", "get_us_p50"),
        ("update", "update_us_p50"),
        ("list of 500", "page_us_p50"),
    ] {
        rows.push(row(
            &format!("store: a {what} among {counts} (p50)"),
            format!("{} and {} µs", number(few, name)?, number(many, name)?),
            "flat",
        ));
    }
    Ok(())
}

fn number(of: &Value, name: &str) -> Result<f64> {
    let number = of.get(name).and_then(Value::as_f64);
    number.with_context(|| format!("store-bench does not report {name:?}"))
}
