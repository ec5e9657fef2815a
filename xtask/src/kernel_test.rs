//! `cargo xtask kernel-test`: the eBPF programs on other kernels than this machine's.
//!
//! Debian's kernels are booted under QEMU, without KVM and without a disk: what runs is an initramfs with the same test
//! binaries that `cargo test -p proxy-ebpf` runs here. First every program goes through the verifier, which says how many
//! instructions it looked at; then the kernel tests send real packets and open real sockets inside the guest. With `--node`
//! the guest is a whole node instead: see [`node`].

mod guest;
mod initramfs;
mod kernel;
mod node;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::Deserialize;

use crate::{build, images, setup};
use initramfs::Contents;
use kernel::{Kernel, Series};

/// What the user may choose.
#[derive(Args)]
pub(crate) struct Options {
    /// Only this series of kernels, 5.10, 6.1 or 6.12; may be given several times.
    #[arg(long)]
    kernel: Vec<Series>,
    /// Only the verifier, which is the quickest answer to whether a program loads.
    #[arg(long)]
    verifier_only: bool,
    /// A whole node in place of the programs' own tests: containerd, our release programs and kubectl in the guest. Takes some
    /// minutes for each kernel.
    #[arg(long, conflicts_with = "verifier_only")]
    node: bool,
    /// Only the tests whose names contain this.
    #[arg(long)]
    filter: Option<String>,
    /// Look for newer kernel packages instead of using those that were fetched before.
    #[arg(long)]
    update: bool,
}

/// How a guest marks what is collected from it: `[verifier] <program> <instructions>` and `[kernel] <what it has>`.
const VERIFIER: &str = "[verifier] ";
const FEATURES: &str = "[kernel] ";

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::for_build()?;
    setup::for_kernel_test()?;
    let series = match options.kernel.as_slice() {
        [] => Series::ALL.to_vec(),
        chosen => chosen.to_vec(),
    };
    let kernels = kernel::fetch(&series, options.update)?;
    let (contents, memory_mib) = if options.node {
        (node::contents(options.filter.as_deref())?, node::MEMORY_MIB)
    } else {
        (tests_alone(options)?, MEMORY_MIB)
    };
    let mut failed = Vec::new();
    let mut table = Table::default();
    for kernel in &kernels {
        let begun = Instant::now();
        println!("== Linux {} ({})", kernel.series, kernel.package);
        let archive = initramfs::build(kernel, &contents)?;
        let outcome = guest::boot(kernel, &archive, memory_mib)?;
        table.collect(kernel.series, &outcome.lines);
        println!(
            "== Linux {}: {} in {} s",
            kernel.series,
            if outcome.passed { "passed" } else { "FAILED" },
            begun.elapsed().as_secs()
        );
        if !outcome.passed {
            failed.push(kernel.series.to_string());
        }
    }
    print!("{}", table.text(&kernels));
    if !failed.is_empty() {
        bail!("tests have failed on Linux {}", failed.join(", "));
    }
    Ok(())
}

/// Memory of a guest that runs nothing but tests, in MiB.
const MEMORY_MIB: u32 = 2048;

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The tests of the programs and of the network plugin, and the programs that they start.
fn tests_alone(options: &Options) -> Result<Contents> {
    let programs = test_programs()?;
    Ok(Contents {
        script: script(options, &programs),
        programs: programs.into_iter().map(|program| program.path).collect(),
        tools: Vec::new(),
        files: Vec::new(),
        modules: Vec::new(),
    })
}

fn script(options: &Options, programs: &[TestProgram]) -> String {
    let tests = programs.iter().filter(|program| program.is_test);
    let (first, rest): (Vec<_>, Vec<_>) = tests.partition(|program| program.name == "verifier");
    let path = |program: &TestProgram| quoted(&program.path.display().to_string());
    let mut lines: Vec<_> = first
        .into_iter()
        .map(|program| format!("{} --nocapture || failed=1", path(program)))
        .collect();
    if !options.verifier_only {
        // One at a time: there is one processor, and it is a slow one.
        let filter = options.filter.as_deref().map(quoted).unwrap_or_default();
        // What an agent takes of memory is no matter of the kernel, and takes long to find out.
        for program in rest.into_iter().filter(|program| program.name != "memory") {
            // Of another package only what has to do with kernels: the rest needs a whole Debian.
            let filter = match program.package {
                build::PLUGIN => NETKIT,
                _ => filter.as_str(),
            };
            lines.push(format!("{} --test-threads=1 {filter} || failed=1", path(program)));
        }
    }
    lines.join("\n")
}

/// Which of the network plugin's tests are about the kernel.
const NETKIT: &str = "netkit";

/// An executable of one of the packages that are tested.
struct TestProgram {
    package: &'static str,
    name: String,
    is_test: bool,
    /// Where cargo has put it, which is also where tests look for the programs that they start.
    path: PathBuf,
}

/// Builds the integration tests of `proxy-ebpf` and of the network plugin, and the programs themselves.
fn test_programs() -> Result<Vec<TestProgram>> {
    let mut programs = programs_of("proxy-ebpf")?;
    if !programs.iter().any(|program| program.name == "verifier") {
        bail!("proxy-ebpf has no test target `verifier`");
    }
    programs.extend(programs_of(build::PLUGIN)?);
    Ok(programs)
}

fn programs_of(package: &'static str) -> Result<Vec<TestProgram>> {
    test_targets(package, &["--test", "*", "--bin", package])
}

/// Builds targets of a package with the test profile.
fn test_targets(package: &'static str, targets: &[&str]) -> Result<Vec<TestProgram>> {
    #[derive(Deserialize)]
    struct Message {
        executable: Option<PathBuf>,
        target: Option<Target>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
        kind: Vec<String>,
    }
    let mut command = vec!["test", "--no-run", "-p", package];
    command.extend(targets);
    command.push("--message-format=json-render-diagnostics");
    let messages = build::cargo_messages(&command)?;
    let mut programs = Vec::new();
    for line in messages.lines() {
        let message: Message = serde_json::from_str(line).context("read what cargo says of its artifacts")?;
        let (Some(path), Some(target)) = (message.executable, message.target) else {
            continue;
        };
        let is_test = target.kind.iter().any(|kind| kind == "test");
        // The program's own unit tests need no other kernel; their name is that of the program with a hash.
        let is_unit_test = !is_test && path.file_name().is_none_or(|name| *name != *target.name);
        if !is_unit_test {
            programs.push(TestProgram {
                package,
                name: target.name,
                is_test,
                path,
            });
        }
    }
    Ok(programs)
}

/// What the verifier said, by program and kernel.
#[derive(Default)]
struct Table {
    instructions: BTreeMap<String, BTreeMap<Series, String>>,
    features: BTreeMap<Series, BTreeSet<String>>,
}

impl Table {
    fn collect(&mut self, series: Series, lines: &[String]) {
        for line in lines {
            // The test runner may have begun the line with the name of the test.
            let marked = |mark| line.split_once(mark).map(|(_, rest)| rest);
            if let Some((program, count)) = marked(VERIFIER).and_then(|rest| rest.trim().split_once(' ')) {
                let row = self.instructions.entry(program.to_owned()).or_default();
                row.insert(series, count.to_owned());
            } else if let Some(feature) = marked(FEATURES) {
                self.features
                    .entry(series)
                    .or_default()
                    .insert(feature.to_owned());
            }
        }
    }

    fn text(&self, kernels: &[Kernel]) -> String {
        let mut lines = Vec::new();
        for (series, features) in &self.features {
            lines.extend(features.iter().map(|feature| format!("{series}: {feature}")));
        }
        let cells = |cell: &dyn Fn(Series) -> String| {
            let cells = kernels
                .iter()
                .map(|kernel| format!("{:>10}", cell(kernel.series)));
            cells.collect::<String>()
        };
        let heads = cells(&|series| series.to_string());
        lines.push(format!("{:<24}{heads}", "instructions verified"));
        for (program, counts) in &self.instructions {
            let counts = cells(&|series| counts.get(&series).cloned().unwrap_or_else(|| "-".to_owned()));
            lines.push(format!("{program:<24}{counts}"));
        }
        lines.join("\n") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_guests_say_becomes_a_table() {
        let kernel = |series: &str| Kernel {
            series: series.parse().unwrap(),
            package: String::new(),
            folder: PathBuf::new(),
        };
        let kernels = [kernel("5.10"), kernel("6.12")];
        let mut table = Table::default();
        let say = |lines: &[&str]| lines.iter().map(|&line| line.to_owned()).collect::<Vec<_>>();
        table.collect(
            kernels[0].series,
            &say(&["noise", "[verifier] connect4 120", "test a ... [kernel] no tcx"]),
        );
        table.collect(
            kernels[1].series,
            &say(&["[verifier] connect4 130", "[verifier] tc_pod 9"]),
        );
        let expected = [
            "5.10: no tcx",
            "instructions verified         5.10      6.12",
            "connect4                       120       130",
            "tc_pod                           -         9",
        ];
        assert_eq!(table.text(&kernels).lines().collect::<Vec<_>>(), expected);
    }
}
