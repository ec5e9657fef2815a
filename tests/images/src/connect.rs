//! The client: many short exchanges with one address, and a count of who answered.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use crate::ask;

/// How long one exchange may take unless the plan says otherwise. Far more than a service on the same node needs, so that
/// only a loss exceeds it.
pub(crate) const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);

/// How many reasons a report quotes.
const ERRORS_MAX: usize = 5;

/// By what to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// A connection each, with one HTTP request.
    Tcp,
    /// A socket each, with one datagram.
    Udp,
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tcp" => Ok(Protocol::Tcp),
            "udp" => Ok(Protocol::Udp),
            _ => Err(format!("--proto {text:?} must be tcp or udp")),
        }
    }
}

/// What to do.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Where to connect to.
    pub(crate) target: SocketAddr,
    /// By what.
    pub(crate) protocol: Protocol,
    /// How often.
    pub(crate) count: u64,
    /// How long to wait between two.
    pub(crate) interval: Duration,
    /// How long each may take.
    pub(crate) timeout: Duration,
    /// What an HTTP server is asked for.
    pub(crate) path: String,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Answers by host name.
    pub(crate) backends: BTreeMap<String, u64>,
    /// Exchanges without an answer.
    pub(crate) failures: u64,
    /// The first few reasons.
    pub(crate) errors: Vec<String>,
}

impl Report {
    /// One line of JSON.
    pub(crate) fn json(&self) -> String {
        let backends: Vec<String> = self
            .backends
            .iter()
            .map(|(name, count)| format!("{}: {count}", quoted(name)))
            .collect();
        let errors: Vec<String> = self.errors.iter().map(|error| quoted(error)).collect();
        format!(
            "{{\"backends\": {{{}}}, \"failures\": {}, \"errors\": [{}]}}",
            backends.join(", "),
            self.failures,
            errors.join(", ")
        )
    }
}

/// Carries out the plan, one exchange after the other.
pub(crate) fn run(plan: &Plan) -> Report {
    let mut report = Report::default();
    for nth in 1..=plan.count {
        let answer = match plan.protocol {
            Protocol::Tcp => by_tcp(plan),
            Protocol::Udp => by_udp(plan),
        };
        match answer {
            Ok(name) => *report.backends.entry(name).or_default() += 1,
            Err(error) => {
                report.failures += 1;
                if report.errors.len() < ERRORS_MAX {
                    report.errors.push(format!("exchange {nth}: {error}"));
                }
            }
        }
        if nth < plan.count {
            thread::sleep(plan.interval);
        }
    }
    report
}

fn by_tcp(plan: &Plan) -> io::Result<String> {
    let (target, path) = (plan.target, &plan.path);
    let mut stream = TcpStream::connect_timeout(&target, plan.timeout)?;
    stream.set_read_timeout(Some(plan.timeout))?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.trim().to_owned()),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("unexpected answer {text:?}"),
        )),
    }
}

fn by_udp(plan: &Plan) -> io::Result<String> {
    let socket = ask::socket(plan.target, plan.timeout)?;
    socket.send(b"hostname")?;
    let mut buffer = [0; 256];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).trim().to_owned())
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_json() {
        let report = Report {
            backends: BTreeMap::from([("a".to_owned(), 2), ("b\"\\\n".to_owned(), 1)]),
            failures: 1,
            errors: vec!["exchange 3: refused".to_owned()],
        };
        assert_eq!(
            report.json(),
            r#"{"backends": {"a": 2, "b\"\\\u000a": 1}, "failures": 1, "errors": ["exchange 3: refused"]}"#
        );
        assert_eq!(
            Report::default().json(),
            r#"{"backends": {}, "failures": 0, "errors": []}"#
        );
    }
}
