//! Starting a daemon in a cluster's namespaces and finding it again.
//!
//! A daemon outlives the harness. What is known of it is a pid file with the process's start time, so that a pid that the
//! kernel has given to somebody else is never taken for ours.

use std::{
    ffi::OsString,
    fs::{self, File},
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{cgroup, layout::Layout};

/// A running process, told from a later one with the same pid by its start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// The process id.
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks from boot to the process's start.
    start_ticks: u64,
}

/// What to start and where.
pub(crate) struct Spec {
    /// Its name in pid and log files, for example `node1-kubelet`.
    pub(crate) name: String,
    /// The program.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) args: Vec<OsString>,
    /// Additional environment.
    pub(crate) env: Vec<(String, OsString)>,
    /// The network namespace, by the name `ip netns` knows it by.
    pub(crate) netns: String,
    /// The cgroup in every joined hierarchy.
    pub(crate) cgroup: String,
    /// A listening socket to hand over as file descriptor 3, in systemd's way (`LISTEN_FDS`).
    pub(crate) listener: Option<OwnedFd>,
}

impl Process {
    /// The process with this pid, if there is one and it has not ended: a zombie has.
    pub fn find(pid: i32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in parentheses and may contain anything.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let (state, threads, start) = (fields.first()?, fields.get(17)?, fields.get(19)?);
        // While others of its threads end, the first one is a zombie already, and the files are still open.
        if *state == "Z" && matches!(*threads, "0" | "1") {
            return None;
        }
        Some(Process {
            pid,
            start_ticks: start.parse().ok()?,
        })
    }

    /// Whether this very process still runs.
    pub fn is_running(&self) -> bool {
        Process::find(self.pid) == Some(*self)
    }

    /// Sends a signal, unless the process has ended.
    pub fn signal(&self, signal: Signal) {
        if self.is_running() {
            // It may end between the look and the signal, which is no error.
            let _ended = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Asks the process to end and waits until it has.
    ///
    /// # Errors
    /// It still runs after `limit` (and is then killed).
    pub fn terminate(&self, limit: Duration) -> Result<()> {
        self.signal(Signal::SIGTERM);
        let start = Instant::now();
        while self.is_running() {
            if start.elapsed() > limit {
                self.signal(Signal::SIGKILL);
                bail!(
                    "process {} did not end within {} s of SIGTERM",
                    self.pid,
                    limit.as_secs()
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Kills the process as `kill -9` does and waits until it is gone.
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
        while self.is_running() {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The memory that this process alone accounts for, in bytes (PSS of all its mappings).
    ///
    /// # Errors
    /// The process has ended.
    pub fn pss_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/smaps_rollup", self.pid);
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("Pss:"))
            .ok_or_else(|| anyhow!("{path} has no Pss line"))?;
        let kib: u64 = line
            .trim()
            .trim_end_matches("kB")
            .trim()
            .parse()
            .with_context(|| format!("parse {line:?} of {path}"))?;
        Ok(kib * 1024)
    }

    /// Whether the program on disk is still the one that runs: false after a rebuild.
    pub(crate) fn runs(&self, program: &Path) -> bool {
        fs::read_link(format!("/proc/{}/exe", self.pid)).is_ok_and(|exe| exe == program)
    }
}

/// The daemon called `name`, when its pid file names a process that still runs.
pub(crate) fn read(layout: &Layout, name: &str) -> Option<Process> {
    let text = fs::read_to_string(layout.pid_file(name)).ok()?;
    let (pid, start) = text.trim().split_once(' ')?;
    let process = Process {
        pid: pid.parse().ok()?,
        start_ticks: start.parse().ok()?,
    };
    process.is_running().then_some(process)
}

/// Starts a daemon: in its network namespace and cgroup, in a session of its own, with its output in its log file.
pub(crate) fn start(layout: &Layout, spec: Spec) -> Result<Process> {
    let log_path = layout.log(&spec.name);
    let log = open_log(&log_path)?;
    let mut command = Command::new("/bin/sh");
    command
        .arg("-c")
        .arg(wrapper(&spec)?)
        .arg("sh")
        .arg(&spec.program)
        .args(&spec.args);
    command.envs(spec.env.iter().map(|(key, value)| (key, value)));
    command.stdout(log.try_clone()?).stderr(log).process_group(0);
    command.stdin(spec.listener.map_or_else(Stdio::null, Stdio::from));

    let child = in_netns(&spec.netns, move || command.spawn().context("start /bin/sh"))
        .with_context(|| format!("start {} in namespace {}", spec.program.display(), spec.netns))?;
    let pid = i32::try_from(child.id()).context("a pid that does not fit")?;
    let process = Process::find(pid).ok_or_else(|| {
        anyhow!(
            "{} ended at once; its last words are in {}",
            spec.program.display(),
            log_path.display()
        )
    })?;
    reap_in_background(child);
    let pid_file = layout.pid_file(&spec.name);
    fs::write(&pid_file, format!("{} {}\n", process.pid, process.start_ticks))
        .with_context(|| format!("write {}", pid_file.display()))?;
    Ok(process)
}

/// The shell lines that put the process into its cgroups and descriptors before it becomes the program. Its pid stays.
fn wrapper(spec: &Spec) -> Result<String> {
    let mut lines = String::from("set -e\n");
    for file in cgroup::make(&spec.cgroup)? {
        lines.push_str(&format!("echo $$ > '{}'\n", file.display()));
    }
    if spec.listener.is_some() {
        lines.push_str("exec 3<&0 0</dev/null\nexport LISTEN_FDS=1 LISTEN_PID=$$\n");
    }
    lines.push_str("exec \"$@\"\n");
    Ok(lines)
}

/// Runs `work` on a thread that has entered the network namespace; children started there stay in it.
pub(crate) fn in_netns<T: Send>(netns: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let path = format!("/run/netns/{netns}");
    let namespace = File::open(&path).with_context(|| format!("open network namespace {path}"))?;
    thread::scope(|scope| {
        scope
            .spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("enter network namespace {path}"))?;
                work()
            })
            .join()
            .map_err(|_| anyhow!("a thread in namespace {netns} panicked"))?
    })
}

fn open_log(path: &Path) -> Result<File> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    }
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("open log {}", path.display()))
}

/// A killed daemon must not stay a zombie while the harness that started it still runs.
fn reap_in_background(mut child: std::process::Child) {
    thread::spawn(move || {
        // The exit status is of no use: whoever cares looks at the process or its log.
        let _status = child.wait();
    });
}
