//! The long runs behind `cargo xtask soak`: each prints a line for every history that held, and keeps one that did not.

mod control_plane;
mod store;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use soak::{
    check::{Summary, check},
    history::History,
};

#[derive(Parser)]
#[command(
    name = "soak",
    about = "Random clients, faults, and a check of everything that was told."
)]
struct Command {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Subcommand)]
enum Subject {
    /// Both stores: the embedded one under power cuts, and three etcd servers of which one at a time is killed.
    Store(store::Options),
    /// The control plane's HTTPS API, with its process killed by SIGKILL again and again.
    ControlPlane(control_plane::Options),
}

#[tokio::main]
async fn main() -> ExitCode {
    // rustls must know its cryptography before the first connection. Nobody else in this process sets it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let outcome = match Command::parse().subject {
        Subject::Store(options) => store::run(&options).await,
        Subject::ControlPlane(options) => control_plane::run(&options).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Checks a history; one with violations is kept for whoever looks into it.
fn judge(name: &str, history: &History) -> anyhow::Result<Summary> {
    let violations = match check(history) {
        Ok(summary) => return Ok(summary),
        Err(violations) => violations,
    };
    let path = PathBuf::from(format!("history-{}.json", name.replace([' ', ','], "-")));
    let file = std::fs::File::create(&path).with_context(|| format!("create {}", path.display()))?;
    serde_json::to_writer(std::io::BufWriter::new(file), history).context("keep the history")?;
    bail!(
        "{name}: the history (kept in {}) does not hold:\n  {}",
        path.display(),
        violations.join("\n  ")
    )
}
