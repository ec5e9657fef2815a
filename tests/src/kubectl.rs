//! Stock `kubectl` as the tests' client.

use std::{
    ffi::OsStr,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// `kubectl` with a cluster's kubeconfig. It runs in the root namespace and dials the published loopback port only.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// The `kubectl` on the path, with this kubeconfig.
    pub fn new(kubeconfig: &Path) -> Kubectl {
        Kubectl {
            program: "kubectl".into(),
            kubeconfig: kubeconfig.to_owned(),
        }
    }

    /// Another `kubectl` binary with the same kubeconfig.
    pub fn with_program(&self, program: &Path) -> Kubectl {
        Kubectl {
            program: program.to_owned(),
            kubeconfig: self.kubeconfig.clone(),
        }
    }

    /// The command, for a caller that wants its pipes.
    pub fn command<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(args)
            .stdin(Stdio::null());
        command
    }

    /// Runs to the end and returns status and output, whatever they are.
    ///
    /// # Errors
    /// `kubectl` cannot be started.
    pub fn output(&self, args: &[&str]) -> Result<Output> {
        self.command(args)
            .output()
            .with_context(|| format!("start {}", self.program.display()))
    }

    /// Runs to the end and returns what it printed.
    ///
    /// # Errors
    /// An exit status other than 0, with the error output.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        text(args, self.output(args)?)
    }

    /// Runs with `input` on standard input.
    ///
    /// # Errors
    /// An exit status other than 0, with the error output.
    pub fn run_with_input(&self, args: &[&str], input: &[u8]) -> Result<String> {
        let mut command = self.command(args);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("start {}", self.program.display()))?;
        if let Some(mut stdin) = child.stdin.take() {
            // It may end before it has read all: then its own error says why.
            let _closed_early = stdin.write_all(input);
        }
        text(args, child.wait_with_output().context("wait for kubectl")?)
    }

    /// Runs a call that must fail and returns its error output.
    ///
    /// # Errors
    /// It succeeded.
    pub fn fails(&self, args: &[&str]) -> Result<String> {
        let output = self.output(args)?;
        if output.status.success() {
            bail!(
                "kubectl {} succeeded: {}",
                args.join(" "),
                String::from_utf8_lossy(&output.stdout).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// `kubectl get … -o json`, parsed.
    ///
    /// # Errors
    /// The call failed or printed no JSON.
    pub fn get(&self, args: &[&str]) -> Result<Value> {
        let mut all = vec!["get"];
        all.extend(args);
        all.extend(["-o", "json"]);
        serde_json::from_str(&self.run(&all)?)
            .with_context(|| format!("parse the output of kubectl {}", all.join(" ")))
    }
}

fn text(args: &[impl AsRef<OsStr>], output: Output) -> Result<String> {
    if !output.status.success() {
        let words: Vec<_> = args.iter().map(|arg| arg.as_ref().to_string_lossy()).collect();
        bail!(
            "kubectl {} ({}): {}",
            words.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
