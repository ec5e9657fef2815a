//! The server: HTTP/1.1 with keep-alive and a UDP responder on one port, in both address families.
//!
//! | request | answer |
//! |---|---|
//! | `/`, `/hostname` | the host name, which is the pod's name |
//! | `/clientip` | the address that the connection comes from |
//! | `/env` | the environment |
//! | `/healthz` | 200, or 500 after `POST /fail` (until `POST /ok`) and while the file `/tmp/fail` exists |
//! | a DNS query | the host name, as the text of whatever it asks for |
//! | any other datagram | the host name |

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{env, fs, thread};

use crate::dns;

/// While this file exists the server says that it is unhealthy.
const FAIL_FILE: &str = "/tmp/fail";

/// Longest accepted header line and body: nobody but tests talks to this server, but a bug should end in an error.
const LINE_BYTES_MAX: u64 = 64 * 1024;
const BODY_BYTES_MAX: u64 = 1024 * 1024;

/// Serves for ever.
pub(crate) fn run(port: u16) -> Result<ExitCode, String> {
    let (listener, socket) = bind(port).map_err(|error| format!("cannot listen on port {port}: {error}"))?;
    println!("serving on port {port} as {}", hostname());
    thread::spawn(move || answer_datagrams(&socket));
    accept(&listener);
    Ok(ExitCode::FAILURE)
}

/// Both sockets on the port; on IPv4 alone where the kernel has no IPv6.
fn bind(port: u16) -> io::Result<(TcpListener, UdpSocket)> {
    let on = |address: SocketAddr| Ok((TcpListener::bind(address)?, UdpSocket::bind(address)?));
    on((Ipv6Addr::UNSPECIFIED, port).into()).or_else(|error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied => Err(error),
        _ => on((Ipv4Addr::UNSPECIFIED, port).into()),
    })
}

fn accept(listener: &TcpListener) {
    let healthy = Arc::new(AtomicBool::new(true));
    for stream in listener.incoming() {
        let healthy = Arc::clone(&healthy);
        match stream {
            Ok(stream) => drop(thread::spawn(move || converse(&stream, &healthy))),
            Err(error) => eprintln!("accept: {error}"),
        }
    }
}

fn answer_datagrams(socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((length, peer)) => {
                let name = hostname();
                let answer = dns::answer(&buffer[..length], &name).unwrap_or_else(|| name.into_bytes());
                if let Err(error) = socket.send_to(&answer, peer) {
                    eprintln!("answer {peer}: {error}");
                }
            }
            // An earlier answer met a closed port.
            Err(error) => eprintln!("receive: {error}"),
        }
    }
}

/// Answers requests until the peer closes, asks to close, or is not understood.
fn converse(stream: &TcpStream, healthy: &AtomicBool) -> io::Result<()> {
    let peer = stream.peer_addr()?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = Request::read(&mut reader)? {
        let (status, body) = answer(&request, peer, healthy);
        let connection = if request.keep_alive { "keep-alive" } else { "close" };
        // One write, so that an answer is one segment.
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
            body.len()
        );
        let body = if request.method == "HEAD" { "" } else { &body };
        let mut stream = stream;
        stream.write_all(format!("{head}{body}").as_bytes())?;
        if !request.keep_alive {
            break;
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq)]
struct Request {
    method: String,
    path: String,
    keep_alive: bool,
}

impl Request {
    /// Reads a request with its body; `None` at the end of the connection.
    fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let Some(line) = read_line(reader)? else {
            return Ok(None);
        };
        let mut words = line.split(' ');
        let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else {
            return Err(invalid("not an HTTP request line"));
        };
        let path = target.split('?').next().unwrap_or_default();
        let mut request = Request {
            method: method.to_owned(),
            path: path.to_owned(),
            keep_alive: version == "HTTP/1.1",
        };
        let mut body_bytes = 0;
        loop {
            let header = read_line(reader)?.ok_or_else(|| invalid("the headers do not end"))?;
            let Some((name, value)) = header.split_once(':') else {
                break;
            };
            match (name.to_ascii_lowercase().as_str(), value.trim()) {
                ("connection", value) => request.keep_alive = !value.eq_ignore_ascii_case("close"),
                ("content-length", value) => {
                    body_bytes = value
                        .parse()
                        .map_err(|_| invalid("Content-Length is not a number"))?;
                }
                _ => {}
            }
        }
        if body_bytes > BODY_BYTES_MAX {
            return Err(invalid("the body is too long"));
        }
        io::copy(&mut reader.take(body_bytes), &mut io::sink())?;
        Ok(Some(request))
    }
}

/// A line without its end; `None` at the end of the stream.
fn read_line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    let read = reader.take(LINE_BYTES_MAX).read_line(&mut line)?;
    Ok((read > 0).then(|| line.trim_end().to_owned()))
}

fn answer(request: &Request, peer: SocketAddr, healthy: &AtomicBool) -> (&'static str, String) {
    const OK: &str = "200 OK";
    match (request.method.as_str(), request.path.as_str()) {
        ("GET" | "HEAD", "/" | "/hostname") => (OK, hostname()),
        ("GET" | "HEAD", "/clientip") => (OK, peer.ip().to_canonical().to_string()),
        ("GET" | "HEAD", "/env") => (
            OK,
            env::vars()
                .map(|(name, value)| format!("{name}={value}\n"))
                .collect(),
        ),
        ("GET" | "HEAD", "/healthz") => {
            if healthy.load(Ordering::Relaxed) && !Path::new(FAIL_FILE).exists() {
                (OK, "ok".to_owned())
            } else {
                ("500 Internal Server Error", "failing as told".to_owned())
            }
        }
        ("POST", "/fail") => {
            healthy.store(false, Ordering::Relaxed);
            (OK, "failing from now on".to_owned())
        }
        ("POST", "/ok") => {
            healthy.store(true, Ordering::Relaxed);
            (OK, "healthy from now on".to_owned())
        }
        _ => (
            "404 Not Found",
            format!("there is no {} {}", request.method, request.path),
        ),
    }
}

/// The host name of the container's UTS namespace.
fn hostname() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::{Plan, Protocol, run};

    fn start() -> SocketAddr {
        let (listener, socket) = bind_anywhere();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, listener.local_addr().unwrap().port()));
        thread::spawn(move || answer_datagrams(&socket));
        thread::spawn(move || accept(&listener));
        address
    }

    /// Both sockets on one free port: the UDP port of the same number may be taken, so try until both are had.
    fn bind_anywhere() -> (TcpListener, UdpSocket) {
        loop {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()) {
                return (listener, socket);
            }
        }
    }

    /// Sends requests over one connection and returns what came back until the end.
    fn exchange(address: SocketAddr, requests: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(requests.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_connection_carries_several_requests() {
        let text = exchange(
            start(),
            "GET /clientip HTTP/1.1\r\nHost: x\r\n\r\nPOST /nothing HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc\
             GET /hostname?x=1 HTTP/1.1\r\nConnection: close\r\n\r\n",
        );
        assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2, "{text}");
        assert_eq!(text.matches("HTTP/1.1 404 Not Found").count(), 1, "{text}");
        assert!(
            text.contains("\r\n\r\n127.0.0.1") && text.ends_with(&hostname()),
            "{text}"
        );
    }

    #[test]
    fn health_is_switched() {
        let address = start();
        let ask = |line: &str| exchange(address, &format!("{line} HTTP/1.0\r\n\r\n"));
        assert!(ask("GET /healthz").contains("200 OK"));
        ask("POST /fail");
        assert!(ask("GET /healthz").contains("500 Internal Server Error"));
        ask("POST /ok");
        assert!(ask("GET /healthz").contains("200 OK"));
    }

    #[test]
    fn the_client_counts_answers_of_both_protocols() {
        let target = start();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let report = run(&Plan {
                target,
                protocol,
                count: 20,
                interval: std::time::Duration::ZERO,
                timeout: crate::connect::EXCHANGE_TIMEOUT,
                path: "/hostname".to_owned(),
            });
            assert_eq!(
                (report.failures, report.backends.get(&hostname())),
                (0, Some(&20)),
                "{report:?}"
            );
        }
    }

    #[test]
    fn the_client_counts_failures() {
        // Servers of these tests listen on 127.0.0.1 only: its neighbour refuses their ports.
        let target = (Ipv4Addr::new(127, 0, 0, 2), start().port()).into();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let report = run(&Plan {
                target,
                protocol,
                count: 7,
                interval: std::time::Duration::ZERO,
                timeout: crate::connect::EXCHANGE_TIMEOUT,
                path: "/hostname".to_owned(),
            });
            assert_eq!(
                (report.failures, report.backends.len(), report.errors.len()),
                (7, 0, 5),
                "{report:?}"
            );
        }
    }
}
