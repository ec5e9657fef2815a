//! ADD as a runtime sees it, beside what nobody could do without: `cargo run --release -p orlop-cni --example add-latency --
//! PLUGIN [PODS [PARALLEL]]`. One line per measurement, times in milliseconds:
//! `WHAT p50 P50 p99 P99 total TOTAL cpu-per-call CPU`.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use orlop_cni::bench::{BenchError, Latencies, Scene};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize| args.get(index).and_then(|text| text.parse::<usize>().ok());
    let Some(plugin) = args.first().map(PathBuf::from) else {
        eprintln!("usage: add-latency PLUGIN [PODS [PARALLEL]]");
        return ExitCode::from(2);
    };
    let pods = number(1).unwrap_or(250);
    match measure(&plugin, pods, number(2).unwrap_or(pods)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = error
                .source()
                .map(|cause| format!(": {cause}"))
                .unwrap_or_default();
            eprintln!("{error}{cause}");
            ExitCode::FAILURE
        }
    }
}

fn measure(plugin: &std::path::Path, pods: usize, parallel: usize) -> Result<(), BenchError> {
    let data_dir = std::env::temp_dir().join(format!("orlop-add-latency-{}", std::process::id()));
    let added = Scene::new(pods, parallel)?.add(plugin, &data_dir);
    // Nobody else knows of the directory, and what is left of it is a temporary file's fate.
    let _removed = std::fs::remove_dir_all(&data_dir);
    print("add", pods, &added?);
    print(
        "process-start",
        pods,
        &Scene::new(pods, parallel)?.version(plugin)?,
    );
    print("bare-veth-pair", pods, &Scene::new(pods, parallel)?.bare_pairs()?);
    Ok(())
}

fn print(what: &str, calls: usize, latencies: &Latencies) {
    let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
    println!(
        "{what} p50 {:.1} p99 {:.1} total {:.1} cpu-per-call {:.2}",
        ms(latencies.percentile(50)),
        ms(latencies.percentile(99)),
        ms(latencies.total),
        ms(latencies.cpu) / calls.max(1) as f64
    );
}
