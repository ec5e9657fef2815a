//! `cargo xtask fuzz [TARGET]…`: libFuzzer on the targets of the crate `fuzz`, with the compiler that everything is built with.
//!
//! Only our own crates are instrumented, by a wrapper around the compiler: that is what is to be searched, and what they
//! depend on is there already from `cargo test`. The corpus is unpacked below `.orlop/fuzz`, grows there, and what libFuzzer selects of it goes back
//! into the repository. An input that fails stays in `.orlop/fuzz/<target>/` and its path is printed.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{build, setup};

/// What the user may choose.
#[derive(Args)]
pub(crate) struct Options {
    /// The targets; all of them when none is named.
    targets: Vec<String>,
    /// How long each of them runs.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// The longest input that is tried, in bytes.
    #[arg(long, default_value_t = 4096)]
    max_len: usize,
}

/// A target that takes more than this has a leak or a loop. The targets count what single inputs take by themselves.
const RSS_MIB_MAX: u32 = 2048;
/// An input that takes longer is a failure.
const TIMEOUT_SECONDS: u32 = 10;

/// The flags of `cargo fuzz`, without a sanitizer: hardly any of this is unsafe code, and libFuzzer alone is much faster.
const INSTRUMENTATION: &str = "-Copt-level=2 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::for_build()?;
    setup::for_fuzz()?;
    let programs = Programs::build()?;
    let known = programs.targets()?;
    if let Some(unknown) = options.targets.iter().find(|target| !known.contains(target)) {
        bail!("there is no target {unknown:?}; there are: {}", known.join(" "));
    }
    let chosen = if options.targets.is_empty() {
        &known
    } else {
        &options.targets
    };
    let mut failed = Vec::new();
    for target in chosen {
        if let Err(error) = programs.fuzz(target, options) {
            println!("{target}: {error:#}");
            failed.push(target.as_str());
        }
    }
    if !failed.is_empty() {
        bail!("these targets failed: {}", failed.join(" "));
    }
    Ok(())
}

/// The two programs of the crate `fuzz`.
struct Programs {
    fuzz: PathBuf,
    corpus: PathBuf,
}

impl Programs {
    fn build() -> Result<Programs> {
        let directory = build::target().join("fuzz");
        fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        let wrapper = directory.join("rustc");
        // Build scripts run without libFuzzer.
        let script = format!(
            "#!/bin/sh\ncase \" $* \" in *build_script*) exec \"$@\" ;; *) exec \"$@\" {INSTRUMENTATION} ;; esac\n"
        );
        if fs::read_to_string(&wrapper).ok().as_ref() != Some(&script) {
            fs::write(&wrapper, script).with_context(|| format!("write {}", wrapper.display()))?;
            fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))
                .with_context(|| format!("make {} executable", wrapper.display()))?;
        }
        build::cargo(&["build", "--package", "fuzz", "--bin", "corpus"])?;
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        execute(
            Command::new(cargo)
                .args([
                    "build",
                    "--package",
                    "fuzz",
                    "--bin",
                    "fuzz",
                    "--features",
                    "libfuzzer",
                ])
                .env("RUSTC_WORKSPACE_WRAPPER", &wrapper)
                .env("CXXFLAGS", "-O2")
                .current_dir(build::root()),
        )?;
        let programs = build::target().join("debug");
        Ok(Programs {
            fuzz: programs.join("fuzz"),
            corpus: programs.join("corpus"),
        })
    }

    fn targets(&self) -> Result<Vec<String>> {
        let output = Command::new(&self.corpus)
            .arg("list")
            .output()
            .context("start corpus")?;
        let text = String::from_utf8(output.stdout).context("read the list of targets")?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Searches from the corpus on, then keeps the smallest selection of entries that reaches all that was reached.
    fn fuzz(&self, target: &str, options: &Options) -> Result<()> {
        let home = build::root().join(".orlop/fuzz").join(target);
        let (all, selected) = (home.join("corpus"), home.join("selected"));
        self.corpus(&["unpack", target], &all)?;
        let seconds = (options.minutes * 60.0).ceil();
        self.libfuzzer(
            target,
            options,
            &[
                format!("-max_total_time={seconds}"),
                format!("-artifact_prefix={}/", home.display()),
            ],
            &[&all],
        )?;
        if selected.exists() {
            fs::remove_dir_all(&selected).with_context(|| format!("remove {}", selected.display()))?;
        }
        fs::create_dir_all(&selected).with_context(|| format!("make {}", selected.display()))?;
        self.libfuzzer(target, options, &["-merge=1".to_owned()], &[&selected, &all])?;
        self.corpus(&["pack", target], &selected)
    }

    fn corpus(&self, args: &[&str], directory: &Path) -> Result<()> {
        execute(Command::new(&self.corpus).args(args).arg(directory))
    }

    fn libfuzzer(
        &self,
        target: &str,
        options: &Options,
        flags: &[String],
        directories: &[&PathBuf],
    ) -> Result<()> {
        execute(
            Command::new(&self.fuzz)
                .env("ORLOP_FUZZ_TARGET", target)
                .arg(format!("-max_len={}", options.max_len))
                .arg(format!("-rss_limit_mb={RSS_MIB_MAX}"))
                .arg(format!("-timeout={TIMEOUT_SECONDS}"))
                .args(["-print_final_stats=1", "-verbosity=0"])
                .args(flags)
                .args(directories),
        )
    }
}

fn execute(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("start {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{:?} ended with {status}", command.get_program());
    }
    Ok(())
}
