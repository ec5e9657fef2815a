//! `proxy-ebpf`: the command line, then what it asks for.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;
use proxy_ebpf::agent;
use tracing::error;

fn main() -> ExitCode {
    heap::share();
    match cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{}", agent::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}
