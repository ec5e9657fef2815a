//! The `orlop-cni` binary: environment and stdin in, one JSON document on stdout.
//!
//! Errors go to stdout too: that is where runtimes look for them.

use std::io::{Read, Write};
use std::process::ExitCode;

use orlop_cni::{Error, commands, request::Request};

#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    let mut stdin = Vec::new();
    let outcome = match std::io::stdin().read_to_end(&mut stdin) {
        Ok(_) => Request::parse(|name| std::env::var(name).ok(), &stdin)
            .and_then(|request| commands::run(&request)),
        Err(source) => Err(Error::ReadConfig { source }),
    };
    let (document, code) = match outcome {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(document)) => (document, ExitCode::SUCCESS),
        Err(error) => (error.document(&stdin), ExitCode::FAILURE),
    };
    match writeln!(std::io::stdout(), "{document}") {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}
