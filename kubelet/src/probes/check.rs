//! Asking a container once, in the way its probe says.

use std::{io, net::IpAddr, time::Duration};

use k8s_openapi::{
    api::core::v1::{Container, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::net::TcpStream;

use super::{Instance, grpc, http_get};
use crate::runtime::{ExecOutcome, ExecSync};

/// Output in an event is cut here, as upstream does.
const OUTPUT_BYTES_MAX: usize = 10 * 1024;

/// What came of asking once. The texts go into events, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Success,
    /// A success with something to say about it.
    Warning(String),
    Failure(String),
    /// The question could not be asked; says nothing about the container.
    Errored(String),
}

/// Asks the container instance once and waits at most `timeout`.
pub(super) async fn check(
    exec: &dyn ExecSync,
    probe: &Probe,
    container: &Container,
    instance: &Instance,
    timeout: Duration,
) -> Answer {
    if let Some(action) = &probe.exec {
        let command = action.command.as_deref().unwrap_or_default();
        return run(exec, &instance.container_id, command, timeout).await;
    }
    let Some(pod_ip) = instance.pod_ip else {
        return Answer::Errored("the pod has no IP address".into());
    };
    if let Some(action) = &probe.http_get {
        return match resolve_port(&action.port, container) {
            Ok(port) => http_get::check(action, pod_ip, port, timeout).await,
            Err(error) => Answer::Errored(error),
        };
    }
    if let Some(action) = &probe.tcp_socket {
        let host = action.host.as_deref().filter(|host| !host.is_empty());
        return match resolve_port(&action.port, container) {
            Ok(port) => connect(host, pod_ip, port, timeout).await,
            Err(error) => Answer::Errored(error),
        };
    }
    if let Some(action) = &probe.grpc {
        return match u16::try_from(action.port) {
            Ok(port) => {
                grpc::check(
                    pod_ip,
                    port,
                    action.service.as_deref().unwrap_or_default(),
                    timeout,
                )
                .await
            }
            Err(_) => Answer::Errored(format!("invalid port number: {}", action.port)),
        };
    }
    Answer::Errored(format!("missing probe handler for {}", container.name))
}

async fn run(exec: &dyn ExecSync, container_id: &str, command: &[String], timeout: Duration) -> Answer {
    match exec.exec_sync(container_id, command, timeout).await {
        Ok(ExecOutcome { exit_code: 0, .. }) => Answer::Success,
        Ok(outcome) => Answer::Failure(text(&outcome.output)),
        // containerd killed the command for taking too long: that is the container's failure.
        Err(error) if error.code == tonic::Code::DeadlineExceeded => Answer::Failure(format!(
            "command timed out: \"{}\" timed out after {}s",
            command.join(" "),
            timeout.as_secs()
        )),
        Err(error) => Answer::Errored(error.to_string()),
    }
}

async fn connect(host: Option<&str>, pod_ip: IpAddr, port: u16, timeout: Duration) -> Answer {
    match dial(host, pod_ip, port, timeout).await {
        Ok(stream) => {
            // Reset rather than an orderly end: thousands of probes must not fill the node with TIME_WAIT sockets.
            let _ = stream.set_zero_linger();
            Answer::Success
        }
        Err(error) => Answer::Failure(error),
    }
}

/// Connects, or says why not as Go's net package does.
pub(super) async fn dial(
    host: Option<&str>,
    pod_ip: IpAddr,
    port: u16,
    timeout: Duration,
) -> Result<TcpStream, String> {
    let address = host_port(host, pod_ip, port);
    let connected = match host {
        Some(host) => tokio::time::timeout(timeout, TcpStream::connect((host, port))).await,
        None => tokio::time::timeout(timeout, TcpStream::connect((pod_ip, port))).await,
    };
    match connected {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(format!("dial tcp {address}: {}", connect_error(&error))),
        Err(_) => Err(format!("dial tcp {address}: i/o timeout")),
    }
}

/// `host:port`, with brackets around IPv6 addresses.
pub(super) fn host_port(host: Option<&str>, pod_ip: IpAddr, port: u16) -> String {
    let host = host.map_or_else(|| pod_ip.to_string(), str::to_owned);
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn connect_error(error: &io::Error) -> String {
    let errno = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused",
        io::ErrorKind::HostUnreachable => "no route to host",
        io::ErrorKind::NetworkUnreachable => "network is unreachable",
        io::ErrorKind::ConnectionReset => "connection reset by peer",
        io::ErrorKind::TimedOut => "connection timed out",
        _ => return error.to_string(),
    };
    format!("connect: {errno}")
}

/// A port by number, or by the name that the container gives it.
pub(super) fn resolve_port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container
                .ports
                .iter()
                .flatten()
                .find(|port| port.name.as_deref() == Some(name));
            match named {
                Some(port) => port.container_port,
                // A number that was written as a string.
                None => name.parse().map_err(|_| format!("port {name} not found"))?,
            }
        }
    };
    u16::try_from(number)
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| format!("invalid port number: {number}"))
}

/// Output as it goes into an event.
pub(super) fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(&output[..output.len().min(OUTPUT_BYTES_MAX)]).into_owned()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ContainerPort;

    use super::*;

    #[test]
    fn ports() {
        let container = Container {
            ports: Some(vec![ContainerPort {
                name: Some("web".into()),
                container_port: 8080,
                ..Default::default()
            }]),
            ..Default::default()
        };
        let rows = [
            (IntOrString::Int(80), Ok(80)),
            (IntOrString::String("web".into()), Ok(8080)),
            (IntOrString::String("9090".into()), Ok(9090)),
            (IntOrString::String("nope".into()), Err("port nope not found")),
            (IntOrString::Int(0), Err("invalid port number: 0")),
            (IntOrString::Int(65536), Err("invalid port number: 65536")),
            (IntOrString::Int(-1), Err("invalid port number: -1")),
        ];
        for (port, expect) in rows {
            let got = resolve_port(&port, &container);
            assert_eq!(
                got.as_ref().map(|port| *port).map_err(String::as_str),
                expect,
                "{port:?}"
            );
        }
    }

    #[test]
    fn addresses() {
        let v6: IpAddr = "fd00::1".parse().expect("an address");
        assert_eq!(host_port(None, v6, 80), "[fd00::1]:80");
        assert_eq!(host_port(Some("example"), v6, 80), "example:80");
    }
}
