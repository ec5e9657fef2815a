//! The servers that are measured, and what the kernel says of them.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use tests::{ControlPlane, EtcdServers, Process};

use crate::load::Latencies;

/// An API server, with the etcd beneath it if there is one.
pub(crate) struct Servers {
    control_plane: ControlPlane,
    etcd: Option<EtcdServers>,
    _directory: tempfile::TempDir,
}

impl Servers {
    /// Starts them in a directory below the working directory, whose disk is the one that is measured.
    pub(crate) fn start(program: &Path, with_etcd: bool) -> Result<Self> {
        let directory = tempfile::tempdir_in(std::env::current_dir()?)?;
        let etcd = match with_etcd {
            true => {
                let below = directory.path().join("etcd");
                std::fs::create_dir(&below)?;
                Some(EtcdServers::single(&below)?)
            }
            false => None,
        };
        let arguments: Vec<String> = etcd
            .iter()
            .map(|servers| format!("--etcd-servers={}", servers.endpoints().join(",")))
            .collect();
        let control_plane = ControlPlane::api_server(program, directory.path(), &arguments)?;
        Ok(Servers {
            control_plane,
            etcd,
            _directory: directory,
        })
    }

    pub(crate) fn kubeconfig(&self) -> &Path {
        self.control_plane.kubeconfig()
    }

    fn pids(&self) -> impl Iterator<Item = (&'static str, u32)> {
        let etcd = self.etcd.as_ref().and_then(|servers| servers.pid(0));
        let own = self.control_plane.pid().map(|pid| ("apiserver", pid));
        own.into_iter().chain(etcd.map(|pid| ("etcd", pid)))
    }

    /// PSS of each process, in bytes, when it has come to rest.
    pub(crate) fn memory(&self) -> Result<Value> {
        std::thread::sleep(Duration::from_secs(2));
        let mut memory = Map::new();
        for (name, pid) in self.pids() {
            let process = Process::find(i32::try_from(pid)?).with_context(|| format!("{name} has ended"))?;
            memory.insert(format!("{name}_bytes"), process.pss_bytes()?.into());
        }
        Ok(memory.into())
    }

    /// What the API server complained about.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let log = self.control_plane.log();
        let complaints = log
            .lines()
            .filter(|line| line.contains("WARN") || line.contains("ERROR"));
        complaints.take(20).map(str::to_owned).collect()
    }

    /// Begins a phase.
    pub(crate) fn phase(&mut self, name: &str) -> Phase<'_> {
        let resident = self.control_plane.pid().and_then(|pid| {
            // 5 sets the peak back to what is resident now.
            std::fs::write(format!("/proc/{pid}/clear_refs"), "5").ok()?;
            status_bytes(pid, "VmRSS:")
        });
        Phase {
            cpu: self.cpu(),
            resident: resident.unwrap_or_default(),
            servers: self,
            name: name.to_owned(),
            start: Instant::now(),
            latencies: Vec::new(),
        }
    }

    /// Time on processors so far.
    fn cpu(&self) -> Duration {
        let ticks: u64 = self.pids().filter_map(|(_, pid)| ticks(pid)).sum();
        // The kernel counts in hundredths of a second here.
        Duration::from_millis(ticks * 10)
    }
}

/// User and system time of a process.
fn ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    // The 14th and 15th field of the file; the first two are cut off.
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

/// A line of `/proc/<pid>/status` that is in kilobytes.
fn status_bytes(pid: u32, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// A phase that runs.
pub(crate) struct Phase<'a> {
    servers: &'a Servers,
    name: String,
    start: Instant,
    cpu: Duration,
    /// What the API server had in memory when the phase began, in bytes.
    resident: u64,
    latencies: Latencies,
}

impl Phase<'_> {
    pub(crate) fn add(&mut self, latencies: Latencies) -> Result<()> {
        if latencies.is_empty() {
            anyhow::bail!("{}: nothing was measured", self.name);
        }
        self.latencies.extend(latencies);
        Ok(())
    }

    /// Ends the phase and writes what it found.
    pub(crate) fn done(mut self, report: &mut Map<String, Value>) -> Result<()> {
        let (took, cpu) = (self.start.elapsed(), self.servers.cpu() - self.cpu);
        let pid = self.servers.control_plane.pid();
        let peak = pid
            .and_then(|pid| status_bytes(pid, "VmHWM:"))
            .unwrap_or_default();
        self.latencies.sort_unstable();
        let count = self.latencies.len();
        let quantile_ms = |q: f64| {
            let at = ((count as f64 * q) as usize).min(count - 1);
            let millis = self.latencies[at].as_secs_f64() * 1000.0;
            (millis * 1000.0).round() / 1000.0
        };
        let found = json!({
            "count": count,
            "per_second": (count as f64 / took.as_secs_f64()).round(),
            "p50_ms": quantile_ms(0.5),
            "p99_ms": quantile_ms(0.99),
            "server_cpu_seconds": cpu.as_secs_f64(),
            "peak_growth_bytes": peak.saturating_sub(self.resident),
        });
        eprintln!("{}: {found}", self.name);
        report.insert(self.name, found);
        Ok(())
    }
}
