//! Ending when told to. As the first process of a container the program gets no default reaction to SIGTERM from the kernel:
//! without this, every pod would live through its whole grace period.

use std::process::{ExitCode, exit};
use std::thread;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Ends the process, successfully, at SIGTERM or SIGINT. To be called before other threads are started, which inherit
/// that they leave these signals to the waiting thread.
pub(crate) fn exit_when_told() {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    if signals.thread_block().is_ok() {
        thread::spawn(move || {
            let _ = signals.wait();
            exit(0);
        });
    }
}

/// Reaps orphans until SIGTERM or SIGINT: the part of a sandbox's first process.
pub(crate) fn pause() -> ExitCode {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD]);
    if let Err(errno) = signals.thread_block() {
        eprintln!("cannot block signals: {errno}");
        return ExitCode::FAILURE;
    }
    loop {
        match signals.wait() {
            // One signal may stand for several children.
            Ok(Signal::SIGCHLD) => {
                while let Ok(status) = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                    if status == WaitStatus::StillAlive {
                        break;
                    }
                }
            }
            Ok(_) => return ExitCode::SUCCESS,
            Err(Errno::EINTR) => {}
            Err(errno) => {
                eprintln!("cannot wait for signals: {errno}");
                return ExitCode::FAILURE;
            }
        }
    }
}
