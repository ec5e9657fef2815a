//! Services as stock clients see them: curl, nc, dig and iperf3, by both paths and from outside.

use std::{
    io::Write,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{
    Place, iperf,
    suite::{World, expect_contains},
};

use crate::stage::{BACKENDS, Client, Expect, Stage, at};

/// Where programs of this machine can run: a pod's network namespace, whose packets are translated; a node, whose sockets are;
/// and outside of the cluster.
fn places(stage: &Stage<'_>) -> Result<[(&'static str, Place); 3]> {
    Ok([
        ("a pod's packets", stage.namespace_of("client-1")?),
        ("a node", Place::Node(1)),
        ("outside", Place::Outside),
    ])
}

fn command(world: &World<'_>, place: Place, program: &str, arguments: &[&str]) -> Result<Command> {
    let mut command = place.command(world.cluster, Path::new(program))?;
    command.args(arguments);
    Ok(command)
}

fn run(mut command: Command, input: &str) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start a client")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).context("write to a client")?;
    }
    let output = child.wait_with_output().context("wait for a client")?;
    ensure!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// One exchange with a target by a stock client: `curl` or `dig` of this machine where they can run as the client, busybox's
/// `wget` or `nslookup` in the client's own pod.
///
/// # Errors
/// It sees something else than is expected.
pub(crate) fn confirm(
    stage: &Stage<'_>,
    client: Client,
    target: &str,
    protocol: &str,
    expected: Expect<'_>,
) -> Result<()> {
    let target: SocketAddr = target.parse().with_context(|| format!("parse {target:?}"))?;
    let seconds = match expected {
        Expect::Answers(_) | Expect::OneOf(_) => "10",
        _ => "2",
    };
    let url = format!("http://{target}/hostname");
    let (host, port) = (target.ip().to_string(), target.port().to_string());
    let (server, port_option) = (format!("@{host}"), format!("-port={port}"));
    let time_option = format!("+time={seconds}");
    let is_pod = matches!(client, Client::Pod(_) | Client::Backend(_));
    let words: &[&str] = match (is_pod, protocol) {
        (true, "tcp") => &["timeout", seconds, "wget", "-q", "-O", "-", &url],
        (true, _) => &[
            "timeout",
            seconds,
            "nslookup",
            &port_option,
            "-type=txt",
            "who.",
            &host,
        ],
        (false, "tcp") => &[
            "curl",
            "-sSf",
            "-g",
            "--noproxy",
            "*",
            "--max-time",
            seconds,
            &url,
        ],
        (false, _) => &[
            "dig",
            &server,
            "-p",
            &port,
            "+short",
            "+tries=1",
            &time_option,
            "TXT",
            "who.",
        ],
    };
    let output = stage
        .program(client, words[0], Path::new(words[0]))?
        .args(&words[1..])
        .output()
        .with_context(|| format!("start {}", words[0]))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let is_answered = |by: &[&str]| by.iter().any(|backend| said.contains(backend));
    // curl says by its status only that nobody listens.
    let is_refused = said.to_lowercase().contains("refused") || output.status.code() == Some(7);
    let is_right = match expected {
        Expect::Answers(backends) | Expect::OneOf(backends) => {
            output.status.success() && is_answered(backends)
        }
        Expect::Refused => !is_answered(&BACKENDS) && is_refused,
        Expect::Dropped => !is_answered(&BACKENDS) && !is_refused && !output.status.success(),
        Expect::Nobody => !is_answered(&BACKENDS) && !output.status.success(),
    };
    ensure!(is_right, "{words:?}: {}: {said}", output.status);
    Ok(())
}

pub(crate) fn plain_clients(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    // What one client does over several connections must reach one server.
    world.run(&["delete", "pod", "web-2"])?;
    let service = stage.service(json!({"type": "NodePort", "ports": [
        {"name": "tcp", "port": 80, "protocol": "TCP"},
        {"name": "udp", "port": 80, "protocol": "UDP"},
        {"name": "iperf", "port": iperf::PORT, "protocol": "TCP"},
    ]}))?;
    let node_ports: Vec<u16> = (0..3)
        .map(|index| {
            let port = service
                .get(&format!("/spec/ports/{index}/nodePort"))
                .and_then(Value::as_u64);
            port.and_then(|port| u16::try_from(port).ok())
                .context("a node port")
        })
        .collect::<Result<_>>()?;
    for (name, place) in places(&stage)? {
        let outside = place == Place::Outside;
        let ips = if outside {
            stage.node_addresses(1).to_vec()
        } else {
            service.cluster_ips()
        };
        let [tcp, udp, iperf_port] = match node_ports[..] {
            [tcp, udp, iperf] if outside => [tcp, udp, iperf],
            _ => [80, 80, iperf::PORT],
        };
        for ip in ips {
            let (host, udp) = (ip.to_string(), udp.to_string());
            let url = format!("http://{}/hostname", at(ip, tcp));
            let tcp = tcp.to_string();
            let by = |what: &str| format!("{what} of {name} at {host}");
            world.until(&by("curl"), || {
                let curl = command(
                    world,
                    place,
                    "curl",
                    &["-sSf", "-g", "--noproxy", "*", "--max-time", "5", &url],
                )?;
                expect_contains("curl", &run(curl, "")?, "web-1")
            })?;
            world.until(&by("nc by TCP"), || {
                let nc = command(world, place, "nc", &["-w", "5", &host, &tcp])?;
                expect_contains("nc", &run(nc, "GET /hostname HTTP/1.0\r\n\r\n")?, "web-1")
            })?;
            world.until(&by("nc by UDP"), || {
                let nc = command(world, place, "nc", &["-u", "-w", "1", &host, &udp])?;
                expect_contains("nc -u", &run(nc, "hello")?, "web-1")
            })?;
            world.until(&by("dig"), || {
                let server = format!("@{host}");
                let arguments = [
                    &server, "-p", &udp, "+short", "+tries=1", "+time=5", "TXT", "who.",
                ];
                let dig = command(world, place, "dig", &arguments)?;
                expect_contains("dig", &run(dig, "")?, "\"web-1\"")
            })?;
            world.until(&by("iperf3"), || {
                let places = (place, stage.namespace_of("web-1")?);
                let received =
                    iperf::transfer(world.cluster, places, (&host, iperf_port), &["-n", "4M"])?.bytes;
                ensure!(received >= 4_000_000, "{received} bytes were received");
                Ok(())
            })?;
        }
    }
    Ok(())
}
