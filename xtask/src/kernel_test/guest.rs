//! A virtual machine from its start to its end.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{initramfs::DONE, kernel::Kernel};

/// All tests take a few minutes where every instruction is emulated; whoever takes longer hangs.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// How it went.
pub(super) struct Outcome {
    /// Everything that the guest said.
    pub(super) lines: Vec<String>,
    /// Whether it came to its end, and every test with it.
    pub(super) passed: bool,
}

/// Boots a kernel, shows what it says, and waits until it is switched off.
pub(super) fn boot(kernel: &Kernel, initramfs: &Path, memory_mib: u32) -> Result<Outcome> {
    let mut qemu = Command::new("qemu-system-x86_64")
        // Emulated: KVM is not everywhere, least of all where CI runs. QEMU 7.2 gets cmpxchg16b wrong now and then, which
        // kernels since 6.2 allocate memory with, so the processor has none.
        .args(["-accel", "tcg", "-cpu", "Nehalem,-cx16", "-smp", "1"])
        .args(["-m", &memory_mib.to_string()])
        .args([
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            "-serial",
            "stdio",
        ])
        .arg("-kernel")
        .arg(kernel.image())
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", "console=ttyS0 panic=-1 quiet"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start qemu-system-x86_64")?;
    let console = BufReader::new(qemu.stdout.take().context("its output is piped")?);
    let (sender, receiver) = channel();
    let reader = thread::spawn(move || {
        // A serial console gives bytes; a crashing kernel may give any.
        for line in console.split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let deadline = Instant::now() + LIMIT;
    let mut lines = Vec::new();
    loop {
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                println!("   {line}");
                lines.push(line);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                println!("   nothing came of it in {} minutes", LIMIT.as_secs() / 60);
                qemu.kill().context("stop qemu-system-x86_64")?;
                break;
            }
        }
    }
    drop(receiver);
    let status = qemu.wait().context("wait for qemu-system-x86_64")?;
    // It ends with its pipe.
    let _ = reader.join();
    let passed = status.success() && lines.iter().any(|line| line.strip_prefix(DONE) == Some("0"));
    Ok(Outcome { lines, passed })
}
