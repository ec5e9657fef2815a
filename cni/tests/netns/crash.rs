//! The plugin is killed at every one of its system calls; after a DEL nothing may be left.

use std::io::Write;
use std::path::Path;

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::support::{Node, links};

/// Runs the plugin and kills it as it enters its `nth` system call after it was started. Returns whether it was killed,
/// or else had ended before.
#[expect(clippy::zombie_processes, reason = "the tracer waits for the process itself")]
fn run_until(node: &Node, command: &str, id: &str, netns: &Path, nth: usize) -> bool {
    node.netns
        .run(|| {
            // The plugin reads its configuration first: it cannot have done anything when the tracer gets hold of it.
            let mut child = node.spawn(command, id, "eth0", Some(netns));
            let pid = Pid::from_raw(child.id() as i32);
            let options = ptrace::Options::PTRACE_O_TRACESYSGOOD
                | ptrace::Options::PTRACE_O_TRACECLONE
                | ptrace::Options::PTRACE_O_EXITKILL;
            ptrace::seize(pid, options).unwrap();
            ptrace::interrupt(pid).unwrap();
            child
                .stdin
                .take()
                .unwrap()
                .write_all(node.config.to_string().as_bytes())
                .unwrap();

            let mut entered = 0;
            loop {
                let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
                match waitpid(Pid::from_raw(-1), Some(flags)).unwrap() {
                    WaitStatus::PtraceSyscall(thread) => {
                        // Between a kill and its report a thread may be gone already.
                        let entry = ptrace::syscall_info(thread)
                            .is_ok_and(|info| info.op == libc::PTRACE_SYSCALL_INFO_ENTRY);
                        entered += usize::from(entry);
                        if entered == nth && entry {
                            kill(pid, Signal::SIGKILL).unwrap();
                        } else {
                            let _ = ptrace::syscall(thread, None);
                        }
                    }
                    WaitStatus::PtraceEvent(thread, ..) => {
                        let _ = ptrace::syscall(thread, None);
                    }
                    WaitStatus::Stopped(thread, signal) => {
                        let _ = ptrace::syscall(thread, signal);
                    }
                    WaitStatus::Exited(ended, code) if ended == pid => {
                        assert_eq!(code, 0, "{command} fails without being killed");
                        return Ok::<_, orlop_cni::Error>(false);
                    }
                    WaitStatus::Signaled(ended, signal, _) if ended == pid => {
                        assert_eq!(signal, Signal::SIGKILL);
                        return Ok(true);
                    }
                    _ => {}
                }
            }
        })
        .unwrap()
}

/// Calls `attempt` with 1, 2, … for as long as it kills, and says how often that was.
fn at_every_system_call(mut attempt: impl FnMut(usize) -> bool) -> usize {
    (1..).take_while(|&nth| attempt(nth)).count()
}

#[test]
fn add_killed_anywhere_leaves_nothing_after_del() {
    let node = Node::new();
    let mut half_way = 0;
    let kills = at_every_system_call(|nth| {
        let pod = node.pod(&format!("p{nth}"));
        let killed = run_until(&node, "ADD", &pod.id, &pod.path, nth);
        half_way += usize::from(killed && !node.residue().is_empty());
        node.del(&pod).unwrap();
        assert_eq!(
            node.residue(),
            Vec::<String>::new(),
            "killed at system call {nth}"
        );
        assert_eq!(links(&pod.netns), ["lo"], "killed at system call {nth}");
        killed
    });
    // The test would prove nothing if it had not met the plugin half way.
    assert!(
        half_way > 20 && kills > half_way,
        "{kills} kills, {half_way} of them half way"
    );
}

#[test]
fn add_killed_anywhere_can_be_tried_again() {
    let node = Node::new();
    at_every_system_call(|nth| {
        let pod = node.pod(&format!("p{nth}"));
        let killed = run_until(&node, "ADD", &pod.id, &pod.path, nth);
        // Killed after the commit it is attached, and refused as such.
        let done = node.records().iter().any(|name| name.starts_with("ready_"));
        let again = node.add(&pod);
        assert_eq!(
            again.success, !done,
            "killed at system call {nth}: {}",
            again.document
        );
        node.del(&pod).unwrap();
        assert_eq!(
            node.residue(),
            Vec::<String>::new(),
            "killed at system call {nth}"
        );
        killed
    });
}

#[test]
fn del_killed_anywhere_can_be_repeated() {
    let node = Node::new();
    let kills = at_every_system_call(|nth| {
        let pod = node.pod(&format!("p{nth}"));
        node.add(&pod).unwrap();
        let killed = run_until(&node, "DEL", &pod.id, &pod.path, nth);
        node.run("DEL", &pod.id, None, &node.config).unwrap();
        assert_eq!(
            node.residue(),
            Vec::<String>::new(),
            "killed at system call {nth}"
        );
        killed
    });
    assert!(kills > 10, "only {kills} system calls seen");
}

#[test]
fn gc_killed_anywhere_can_be_repeated() {
    let mut node = Node::new();
    node.config["cniVersion"] = "1.1.0".into();
    let keep = node.pod("keep");
    let kept = node.add(&keep).unwrap();
    let add = node.config.clone();
    let kills = at_every_system_call(|nth| {
        node.config = add.clone();
        let stale = [node.pod(&format!("a{nth}")), node.pod(&format!("b{nth}"))];
        for pod in &stale {
            node.add(pod).unwrap();
        }
        node.config["cni.dev/valid-attachments"] =
            serde_json::json!([{"containerID": "keep", "ifname": "eth0"}]);
        let killed = run_until(&node, "GC", "-", &keep.path, nth);
        node.run("GC", "", None, &node.config).unwrap();
        assert_eq!(node.residue().len(), 2, "killed at system call {nth}");
        killed
    });
    assert!(kills > 10, "only {kills} system calls seen");
    node.config = add;
    node.check(&keep, &kept).unwrap();
}

#[test]
fn what_a_killed_add_held_is_free_once_its_namespace_is_gone() {
    let mut node = Node::new();
    node.config["ranges"] = serde_json::json!(["10.1.0.0/30"]);
    at_every_system_call(|nth| {
        let pod = node.pod(&format!("p{nth}"));
        let killed = run_until(&node, "ADD", &pod.id, &pod.path, nth);
        drop(pod);
        // No DEL. The only address of the range must be there for the next pod.
        let next = node.pod(&format!("next{nth}"));
        node.add(&next).unwrap();
        node.del(&next).unwrap();
        killed
    });
}
