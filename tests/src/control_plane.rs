//! A control plane alone: one process on a loopback port, without nodes, that can be killed and started again.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};

use crate::{etcd::free_port, kubeconfig, pki::Pki};

/// The process and what it needs; dropping it kills the process. Its directory is the caller's to remove.
#[derive(Debug)]
pub struct ControlPlane {
    program: PathBuf,
    arguments: Vec<String>,
    kubeconfig: PathBuf,
    log: PathBuf,
    process: Option<Child>,
}

impl ControlPlane {
    /// Makes keys, certificates and an administrator's kubeconfig below `dir` and starts the program with them and with
    /// the further `arguments`. It may take a moment until it answers.
    ///
    /// # Errors
    /// A file cannot be written, or the program cannot be started.
    pub fn start(program: &Path, dir: &Path, arguments: &[String]) -> Result<ControlPlane> {
        let root = ("root-ca-file", "ca");
        ControlPlane::launch(program, dir, None, &[root], arguments)
    }

    /// As [`start`](Self::start), without the scheduler and the controllers.
    ///
    /// # Errors
    /// A file cannot be written, or the program cannot be started.
    pub fn api_server(program: &Path, dir: &Path, arguments: &[String]) -> Result<ControlPlane> {
        ControlPlane::launch(program, dir, Some("apiserver"), &[], arguments)
    }

    /// `certificates`: the flags that only some of the parts have, each with the certificate it names.
    fn launch(
        program: &Path,
        dir: &Path,
        part: Option<&str>,
        certificates: &[(&str, &str)],
        arguments: &[String],
    ) -> Result<ControlPlane> {
        let pki = Pki::control_plane(dir.join("pki"))?;
        let port = free_port();
        let kubeconfig = dir.join("admin.kubeconfig");
        let server = format!("https://{}:{port}", Ipv4Addr::LOCALHOST);
        kubeconfig::write(&kubeconfig, &pki, "alone", &server, "admin")?;
        let mut flags: Vec<String> = part.map(str::to_owned).into_iter().collect();
        flags.extend([
            format!("--data-dir={}", dir.join("data").display()),
            format!("--bind-address={}", Ipv4Addr::LOCALHOST),
            format!("--secure-port={port}"),
        ]);
        for (flag, file) in certificates {
            flags.push(format!("--{flag}={}", pki.certificate(file).display()));
        }
        for (flag, path) in [
            ("client-ca-file", pki.certificate("ca")),
            ("tls-cert-file", pki.certificate("apiserver")),
            ("tls-private-key-file", pki.private_key("apiserver")),
            ("service-account-signing-key-file", pki.private_key("sa")),
        ] {
            flags.push(format!("--{flag}={}", path.display()));
        }
        flags.extend(arguments.iter().cloned());
        let mut control_plane = ControlPlane {
            program: program.to_owned(),
            arguments: flags,
            kubeconfig,
            log: dir.join("control-plane.log"),
            process: None,
        };
        control_plane.start_again()?;
        Ok(control_plane)
    }

    /// Starts the process after it was killed.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start_again(&mut self) -> Result<()> {
        let log = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&self.log)
            .with_context(|| format!("open {}", self.log.display()))?;
        let process = Command::new(&self.program)
            .args(&self.arguments)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", self.program.display()))?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills the process as `kill -9` does, if it runs.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself; either way it has ended afterwards.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Whether the process has ended by itself, or was killed.
    pub fn has_ended(&mut self) -> bool {
        let status = self.process.as_mut().map(Child::try_wait);
        !matches!(status, Some(Ok(None)))
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// What the processes have logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let start = log.floor_char_boundary(log.len().saturating_sub(2000));
            eprintln!("the end of the control plane's log:\n{}", &log[start..]);
        }
    }
}
