//! The API server over its own store, beside the same server over etcd, as its own benchmark reports them.

use std::{collections::BTreeMap, ffi::OsStr, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Options, Row, example, mebibytes, row};

/// The package and the example that measures.
pub(super) const PROGRAM: (&str, &str) = ("apiserver", "api-bench");

/// The phases that are reported, with what they are called in the table, and their targets.
const PHASES: &[(&str, &str, &str)] = &[
    ("create pods", "create a pod, 16 clients", ""),
    ("get", "get a pod, 16 clients", ""),
    ("update", "patch a pod, 16 clients", ""),
    ("list all pods", "list all pods, JSON", ""),
    ("list all pods in protobuf", "list all pods, protobuf", ""),
    (
        "watch fan-out, shared",
        "a change to each watcher, on 10 connections",
        "",
    ),
    (
        "watch fan-out, own",
        "a change to each watcher, each on its own",
        "",
    ),
];

/// The numbers of objects at which requests must cost the same.
const SIZES: &[u64] = &[1000, 10_000, 50_000, 100_000, 200_000];

pub(super) fn measure(programs: &Path, options: &Options, rows: &mut Vec<Row>) -> Result<()> {
    let program = programs.join("control-plane");
    let (pods, watchers, objects) = (
        options.api_pods.to_string(),
        options.api_watchers.to_string(),
        options.api_objects.to_string(),
    );
    let arguments: [&OsStr; 10] = [
        "--program".as_ref(),
        program.as_os_str(),
        "--pods".as_ref(),
        pods.as_ref(),
        "--watchers".as_ref(),
        watchers.as_ref(),
        "--objects".as_ref(),
        objects.as_ref(),
        "--store".as_ref(),
        options.api_store.as_ref(),
    ];
    let report = example(PROGRAM, &arguments)?;
    for (phase, what, target) in PHASES {
        if report.values().all(|stores| stores.get(*phase).is_some()) {
            compare(&report, phase, &format!("API: {what}"), target, rows)?;
        }
    }
    for (store, phases) in &report {
        each(store, phases, rows);
    }
    for kind in [
        "get",
        "create and delete",
        "first page of 100",
        "later page of 100",
    ] {
        for size in SIZES {
            let phase = format!("{kind} at {size} objects");
            if report.values().all(|stores| stores.get(&phase).is_some()) {
                let target = if *size == SIZES[0] { "" } else { "flat" };
                compare(&report, &phase, &format!("API: {phase}"), target, rows)?;
            }
        }
    }
    for (name, what) in [
        ("pss_idle", "idle"),
        ("pss_with_pods", "with the pods"),
        ("pss_with_watchers_own", "with the watchers"),
        ("pss_at_the_end", "with all objects"),
    ] {
        for (store, phases) in &report {
            let processes = phases[name].as_object().into_iter().flatten();
            for (process, bytes) in processes {
                let process = process.trim_end_matches("_bytes");
                let bytes = bytes.as_u64().unwrap_or_default();
                rows.push(row(
                    &format!("API over {store}: PSS of {process}, {what}"),
                    mebibytes(bytes),
                    "",
                ));
            }
        }
    }
    Ok(())
}

/// What one pod and one watcher take of the API server's memory, and what a list of all takes while it is sent.
fn each(store: &str, phases: &Value, rows: &mut Vec<Row>) {
    let pss = |moment: &str| phases[moment]["apiserver_bytes"].as_f64();
    for (what, before, after, count) in [
        ("a pod", "pss_idle", "pss_with_pods", "pods"),
        (
            "a watcher",
            "pss_before_watchers",
            "pss_with_watchers",
            "watchers",
        ),
    ] {
        if let (Some(before), Some(after), Some(count)) = (pss(before), pss(after), phases[count].as_f64()) {
            let kibibytes = (after - before) / count / 1024.0;
            let what = format!("API over {store}: memory for {what}");
            rows.push(row(&what, format!("{kibibytes:.1} KiB"), ""));
        }
    }
    for (phase, what, _) in PHASES.iter().filter(|(phase, ..)| phase.starts_with("list")) {
        if let Some(bytes) = phases[phase]["peak_growth_bytes"].as_u64() {
            let what = format!("API over {store}: memory taken meanwhile, {what}");
            rows.push(row(&what, mebibytes(bytes), ""));
        }
    }
}

/// One phase over both stores: latencies and what a request cost on processors.
fn compare(
    report: &BTreeMap<String, Value>,
    phase: &str,
    what: &str,
    target: &'static str,
    rows: &mut Vec<Row>,
) -> Result<()> {
    for (store, phases) in report {
        let of = |value: &str| {
            let found = phases[phase][value].as_f64();
            found.with_context(|| format!("api-bench does not report {value} of {phase:?} over {store}"))
        };
        let cpu_millis = of("server_cpu_seconds")? * 1000.0 / of("count")?;
        let value = format!(
            "{:.2} / {:.2} ms, {cpu_millis:.3} ms CPU",
            of("p50_ms")?,
            of("p99_ms")?
        );
        rows.push(row(&format!("{what}, over {store} (p50 / p99)"), value, target));
    }
    Ok(())
}
