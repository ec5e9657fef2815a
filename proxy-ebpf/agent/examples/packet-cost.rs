//! What the packet path costs per packet: `packet-cost --bpf-dir DIR --pod IP --other-pod IP --service IP:PORT`, in the
//! network namespace of a node whose agent has put its links (tcx) at DIR. Prints one JSON object: nanoseconds per packet.
//!
//! The programs run on packets that are on no wire (`BPF_PROG_TEST_RUN`), once per call, because a program changes its packet:
//! a second run would see another one. The median of many calls is the value; the kernel's clock is in it, some 20 ns.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use proxy_ebpf::{pins, sys};
use serde_json::json;

/// Calls per value.
const RUNS: u16 = 5_000;
const SYN: u8 = 2;
const ACK: u8 = 16;
const REDIRECT: i32 = 7;
const CONTINUE: i32 = -1;

#[derive(Parser)]
struct Options {
    /// Where the agent's pins are.
    #[arg(long)]
    bpf_dir: PathBuf,
    /// A pod of this node, which sends.
    #[arg(long)]
    pod: Ipv4Addr,
    /// Another one, to which it sends.
    #[arg(long)]
    other_pod: Ipv4Addr,
    /// A Service whose only backend is the other pod, port 80.
    #[arg(long)]
    service: SocketAddrV4,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let (program, ifindex) = attached(&options, "pod_egress")?;
    let run = |packet: &[u8]| sys::test_run(program.as_fd(), packet, ifindex, 1);
    let measure = |what: &str, expected: i32, packet: &dyn Fn(u16) -> Vec<u8>| -> Result<f64> {
        let mut times = Vec::with_capacity(RUNS.into());
        for number in 0..RUNS {
            let outcome = run(&packet(number)).with_context(|| format!("run pod_egress on {what}"))?;
            if outcome.result != expected {
                bail!("pod_egress on {what}: {} instead of {expected}", outcome.result);
            }
            times.push(outcome.duration_ns);
        }
        times.sort_unstable();
        Ok(f64::from(times[times.len() / 2]))
    };
    let service = |port: u16, flags: u8| tcp(options.pod, port, options.service, flags);
    let direct = SocketAddrV4::new(options.other_pod, 80);
    // 203.0.113.0/24 is nobody's.
    let elsewhere = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 1), 80);
    let report = json!({
        "a first packet to a Service": measure("a first packet", REDIRECT, &|number| service(10_000 + number, SYN))?,
        "a later packet to a Service": measure("a later packet", REDIRECT, &|number| service(10_000 + number, ACK))?,
        "pod to pod": measure("a packet to a pod", REDIRECT, &|_| tcp(options.pod, 9_999, direct, ACK))?,
        "pod to elsewhere": measure("a packet to elsewhere", CONTINUE, &|_| tcp(options.pod, 9_999, elsewhere, ACK))?,
    });
    println!("{report}");
    Ok(())
}

/// The program behind a link of the agent's, and the index of the device of the link.
fn attached(options: &Options, name: &str) -> Result<(OwnedFd, u32)> {
    let links = pins::links_of(&options.bpf_dir);
    let entries = std::fs::read_dir(&links).with_context(|| format!("list {}", links.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", links.display()))?;
        if !entry
            .file_name()
            .to_string_lossy()
            .starts_with(&format!("{name}-"))
        {
            continue;
        }
        let link = sys::open_pin(&entry.path()).context("open a link")?;
        let info = sys::link_info(link.as_fd()).context("ask for a link")?;
        let mut programs = aya::programs::loaded_programs().filter_map(Result::ok);
        let program = programs
            .find(|program| program.id() == info.program_id)
            .context("the link's program is not there")?;
        let fd = program.fd().context("open the link's program")?;
        return Ok((fd.as_fd().try_clone_to_owned()?, info.ifindex()));
    }
    bail!(
        "{} has no link of {name}: this takes a kernel with tcx (6.6)",
        links.display()
    );
}

/// A TCP segment of 64 bytes of data in an Ethernet frame.
fn tcp(source: Ipv4Addr, source_port: u16, destination: SocketAddrV4, flags: u8) -> Vec<u8> {
    const HEADERS: u16 = 20 + 20;
    const DATA: u16 = 64;
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    let mut header = vec![0x45, 0];
    header.extend((HEADERS + DATA).to_be_bytes());
    header.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
    header.extend(source.octets());
    header.extend(destination.ip().octets());
    let sum: u32 = header
        .chunks_exact(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let checksum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    frame.extend(header);
    frame.extend(source_port.to_be_bytes());
    frame.extend(destination.port().to_be_bytes());
    frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    frame.resize(frame.len() + usize::from(DATA), 0);
    frame
}
