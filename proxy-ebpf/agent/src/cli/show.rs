//! The subcommands that look.

use std::{
    fs,
    io::Write as _,
    net::IpAddr,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use proxy_ebpf::{
    inspect::{self, connections, monitor, services, status, trace},
    pins,
};
use proxy_ebpf_common::EventKind;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::{BpfDir, Output, OutputFlag};

mod target;

#[derive(Args)]
pub(super) struct Status {
    #[command(flatten)]
    bpf: BpfDir,
    #[command(flatten)]
    output: OutputFlag,
}

#[derive(Args)]
pub(super) struct ServiceList {
    #[command(flatten)]
    bpf: BpfDir,
    #[command(flatten)]
    output: OutputFlag,
}

#[derive(Args)]
pub(super) struct Trace {
    /// Who connects: `pod` or `namespace/pod`, an address, `node` for a process of this node, or `outside`.
    client: String,
    /// What it connects to: `service:port` or `namespace/service:port`, where a port may be a name, or `address:port`.
    target: String,
    /// TCP, UDP or SCTP.
    #[arg(long, default_value = "TCP", ignore_case = true)]
    protocol: target::ProtocolName,
    /// Kubeconfig, for names. Without it the service account of the pod is used; addresses need neither.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    bpf: BpfDir,
    #[command(flatten)]
    output: OutputFlag,
}

#[derive(Args)]
pub(super) struct CtList {
    #[command(flatten)]
    bpf: BpfDir,
    #[command(flatten)]
    output: OutputFlag,
}

#[derive(Args)]
pub(super) struct Monitor {
    /// What to show.
    #[arg(long, value_delimiter = ',', default_values = ["drop", "new"])]
    events: Vec<Kind>,
    /// End after so many events.
    #[arg(long)]
    count: Option<u64>,
    /// Switches events off when the standard input ends: how a monitor that is killed is cleaned up after.
    #[arg(long, hide = true)]
    guard: bool,
    #[command(flatten)]
    bpf: BpfDir,
    #[command(flatten)]
    output: OutputFlag,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Packets that are dropped, or answered by an error.
    Drop,
    /// First packets of connections.
    New,
    /// All packets that are translated.
    Translated,
}

impl Status {
    pub(super) fn run(self) -> Result<()> {
        let status = status::read(&self.bpf.bpf_dir)?;
        self.output.print(&status, || status.table())
    }
}

impl ServiceList {
    pub(super) fn run(self) -> Result<()> {
        let services = services::services(&inspect::open(&self.bpf.bpf_dir)?.read()?);
        self.output.print(&services, || services::table(&services))
    }
}

impl Trace {
    pub(super) fn run(self) -> Result<()> {
        let entries = inspect::open(&self.bpf.bpf_dir)?.read()?;
        let query = target::resolve(
            &self.client,
            &self.target,
            self.protocol,
            self.kubeconfig.as_deref(),
        )?;
        let trace = trace::trace(&entries, &query);
        self.output.print(&trace, || trace.table())
    }
}

impl CtList {
    pub(super) fn run(self) -> Result<()> {
        inspect::open(&self.bpf.bpf_dir)?;
        let now_s = uptime()?.as_secs().try_into().unwrap_or(u32::MAX);
        let connections = connections::read(&pins::maps_of(&self.bpf.bpf_dir), now_s)?;
        self.output
            .print(&connections, || connections::table(&connections))
    }
}

impl Monitor {
    pub(super) fn run(self) -> Result<()> {
        let maps_dir = pins::maps_of(&self.bpf.bpf_dir);
        if self.guard {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            return monitor::switch_off_after(&maps_dir);
        }
        inspect::open(&self.bpf.bpf_dir)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the runtime")?;
        runtime.block_on(self.show(maps_dir))
    }

    async fn show(self, maps_dir: PathBuf) -> Result<()> {
        let boot = SystemTime::now() - uptime()?;
        let mut events = monitor::Events::open(&maps_dir)?;
        let kinds: Vec<_> = self.events.iter().map(|kind| kind.of_events()).collect();
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let switch = monitor::Switch::take(&maps_dir)?;
        // It waits for the switch, and this for it: the switch must go first.
        let _guard = self.guard()?;
        let _switch = switch.on(&kinds)?;
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            let event = tokio::select! {
                event = events.next() => event?,
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            };
            // What was written for the monitor before this one may still be there.
            if !kinds.contains(&event.kind) {
                continue;
            }
            let seen = monitor::Seen::of(&event, boot);
            let line = match self.output.output {
                Output::Table => seen.line(),
                Output::Json => serde_json::to_string(&seen).context("write JSON")?,
            };
            // Whoever reads may have had enough, as `head` has.
            if writeln!(std::io::stdout(), "{line}").is_err() {
                break;
            }
            left -= 1;
        }
        Ok(())
    }

    /// Starts a process that outlives this one and switches events off. It sees the end of this one by its standard input.
    fn guard(&self) -> Result<Guard> {
        let program = std::env::current_exe().context("find this program")?;
        let child = Command::new(program)
            .args(["monitor", "--guard", "--bpf-dir"])
            .arg(&self.bpf.bpf_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A terminal's Ctrl-C, and whoever kills a group, must not reach it.
            .process_group(0)
            .spawn()
            .context("start what cleans up after this monitor")?;
        Ok(Guard(child))
    }
}

struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

impl Kind {
    fn of_events(self) -> EventKind {
        match self {
            Self::Drop => EventKind::DROP,
            Self::New => EventKind::NEW,
            Self::Translated => EventKind::TRANSLATED,
        }
    }
}

impl OutputFlag {
    fn print<T: Serialize>(&self, value: &T, table: impl FnOnce() -> String) -> Result<()> {
        let text = match self.output {
            Output::Table => table(),
            Output::Json => serde_json::to_string_pretty(value).context("write JSON")? + "\n",
        };
        match std::io::stdout().write_all(text.as_bytes()) {
            // Whoever reads may have had enough, as `head` has.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            result => result.context("write to the standard output"),
        }
    }
}

/// For how long the machine has run, by the clock that the programs read.
fn uptime() -> Result<Duration> {
    let text = fs::read_to_string("/proc/uptime").context("read /proc/uptime")?;
    let seconds = text.split(' ').next().and_then(|seconds| seconds.parse().ok());
    Ok(Duration::from_secs_f64(
        seconds.context("/proc/uptime is not understood")?,
    ))
}

/// An address, if the text is one.
fn ip(text: &str) -> Option<IpAddr> {
    text.trim_matches(['[', ']']).parse().ok()
}

/// Splits `host:port`, where an IPv6 address stands in brackets.
fn split_port(text: &str) -> Result<(&str, &str)> {
    let Some((host, port)) = text
        .rsplit_once(':')
        .filter(|(host, port)| !host.is_empty() && !port.is_empty())
    else {
        bail!("{text:?} names no port: write service:port, namespace/service:port or address:port");
    };
    Ok((host, port))
}
