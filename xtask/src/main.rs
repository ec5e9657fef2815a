//! The project's own commands: `cargo xtask <command>`. Only cargo is needed to start them; what else they need they install
//! with the system's package manager, after naming it.

mod bench;
mod build;
mod build_ebpf;
mod clients;
mod down;
mod fuzz;
mod images;
mod kernel_test;
mod setup;
mod soak;
mod test;
#[cfg(test)]
mod tidy;
mod up;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, starts, tests and measures Orlop.")]
struct Command {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Sets the machine up, builds everything and starts a single-node cluster; run again, it repairs what is missing.
    Up(up::Options),
    /// Removes a cluster and everything that was made for it, also after a crash.
    Down(down::Options),
    /// Installs what building and testing needs, and nothing else.
    Setup,
    /// Runs every test: unit tests, then the end-to-end stories on real clusters.
    Test(test::Options),
    /// Measures the promised numbers on an isolated cluster.
    Bench(bench::Options),
    /// Runs random clients under faults for a long time and checks everything they were told.
    #[command(subcommand)]
    Soak(soak::Subject),
    /// Compiles the eBPF programs to the object that proxy-ebpf embeds.
    BuildEbpf {
        /// Compare with the committed object instead of replacing it.
        #[arg(long)]
        check: bool,
    },
    /// Boots Debian's kernels 5.10, 6.1 and 6.12 and runs the eBPF programs and their tests on them.
    KernelTest(kernel_test::Options),
    /// Lets libFuzzer search for inputs that break decoders and patch engines, and keeps what it finds worth keeping.
    Fuzz(fuzz::Options),
    /// Installs the clients whose sessions the tests play: kubectl, Helm, the Python and the JavaScript client.
    Clients,
    /// Makes the OCI archives of the pause image, the test image and our own programs.
    Images {
        /// Take the programs of this directory instead of building them.
        #[arg(long)]
        programs: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    match run(Command::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Up(options) => up::run(options),
        Task::Down(options) => down::run(&options),
        Task::Setup => setup::for_build()
            .and_then(|()| setup::for_cluster())
            .and_then(|()| setup::for_tests())
            .and_then(|()| clients::install()),
        Task::Test(options) => test::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Soak(subject) => soak::run(&subject),
        Task::BuildEbpf { check } => build_ebpf::run(check),
        Task::KernelTest(options) => kernel_test::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Clients => clients::install(),
        Task::Images { programs } => make_images(programs),
    }
}

fn make_images(programs: Option<PathBuf>) -> Result<()> {
    setup::for_build()?;
    let folder = build::target().join("images");
    let programs = programs.map_or_else(build::programs, Ok)?;
    let made = [
        images::build(&folder)?,
        images::programs(&programs, &folder.join("programs"))?,
    ];
    for archive in made.iter().flat_map(|images| &images.archives) {
        println!("{}", archive.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Command;

    #[test]
    fn every_command_line_can_be_read() {
        Command::command().debug_assert();
    }
}
