//! The measuring pair: a server with next to no work of its own, and a client that counts and times exchanges with it.
//!
//! An exchange is [`MESSAGE_BYTES`] there and as many back. The server's threads take one connection at a time and stay with
//! it, so it serves [`SERVER_THREADS`] connections at once. Datagrams have a thread of their own.

use std::fmt::Write as _;
use std::io::{self, Read, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use crate::ask;

/// What an exchange sends in each direction.
const MESSAGE_BYTES: usize = 64;
/// What a stream writes at once.
const CHUNK_BYTES: usize = 128 << 10;
/// Connections that the server serves at once.
const SERVER_THREADS: usize = 128;
/// The first byte of a message tells the server to answer it …
const ECHO: u8 = b'e';
/// … or to read to the end without an answer.
const SINK: u8 = b's';
/// A lost packet is an error, not a pause.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often to look for the file that ends it.
const LOOK: Duration = Duration::from_millis(50);

/// How the client uses its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A connection per exchange.
    Short,
    /// Connections without any exchange: what is timed is the way of the first packet and its answer.
    Connect,
    /// One exchange after the other on each connection.
    KeepAlive,
    /// As many bytes as go through, in one direction.
    Stream,
    /// A datagram socket per exchange.
    Datagram,
    /// One exchange after the other on each datagram socket.
    Datagrams,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "short" => Ok(Mode::Short),
            "connect" => Ok(Mode::Connect),
            "keep-alive" => Ok(Mode::KeepAlive),
            "stream" => Ok(Mode::Stream),
            "datagram" => Ok(Mode::Datagram),
            "datagrams" => Ok(Mode::Datagrams),
            _ => Err(format!(
                "--mode {text:?} must be short, connect, keep-alive, stream, datagram or datagrams"
            )),
        }
    }
}

/// What the client does.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Where to.
    pub(crate) target: SocketAddr,
    /// How.
    pub(crate) mode: Mode,
    /// Threads with a connection each.
    pub(crate) connections: usize,
    /// For how long at most.
    pub(crate) duration: Duration,
    /// How many exchanges a second there may be, over all connections; `None`: as many as there can be. Not of a stream.
    pub(crate) rate: Option<NonZeroU32>,
    /// Ends it when it appears.
    pub(crate) until: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Of each exchange, connecting included. Not of a stream.
    microseconds: Vec<u32>,
    bytes: u64,
    /// Connections that did not come about or did not last.
    pub(crate) failures: u64,
    error: Option<String>,
    elapsed: Duration,
}

impl Report {
    fn add(&mut self, other: Report) {
        self.microseconds.extend(other.microseconds);
        self.bytes += other.bytes;
        self.failures += other.failures;
        self.error = self.error.take().or(other.error);
    }

    fn time(&mut self, begun: Instant) {
        let took = u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX);
        self.microseconds.push(took);
    }

    fn fail(&mut self, error: &io::Error) {
        self.failures += 1;
        self.error.get_or_insert_with(|| error.to_string());
    }

    /// One line of JSON: exchanges and bytes per second, quantiles of an exchange's time, failures and the first reason.
    pub(crate) fn json(mut self) -> String {
        self.microseconds.sort_unstable();
        let seconds = self.elapsed.as_secs_f64().max(f64::EPSILON);
        let quantile = |hundredths: usize| {
            let index = self.microseconds.len().saturating_sub(1) * hundredths / 100;
            self.microseconds.get(index).copied().unwrap_or_default()
        };
        let mut text = format!(
            "{{\"per_second\": {:.1}, \"bytes_per_second\": {:.0}, \"p50_us\": {}, \"p99_us\": {}, \"failures\": {}",
            self.microseconds.len() as f64 / seconds,
            self.bytes as f64 / seconds,
            quantile(50),
            quantile(99),
            self.failures,
        );
        if let Some(error) = &self.error {
            let _ = write!(text, ", \"error\": {:?}", error);
        }
        text.push('}');
        text
    }
}

/// Serves for ever, in both families.
pub(crate) fn serve(port: u16) -> Result<ExitCode, String> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .map_err(|error| format!("cannot listen on port {port}: {error}"))?;
    let datagrams = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))
        .map_err(|error| format!("cannot answer datagrams on port {port}: {error}"))?;
    println!("answering on port {port}");
    thread::spawn(move || answer_datagrams(&datagrams));
    let listener = Arc::new(listener);
    let threads: Vec<_> = (0..SERVER_THREADS)
        .map(|_| {
            let listener = Arc::clone(&listener);
            thread::spawn(move || {
                loop {
                    // A client that goes away is its own business.
                    let _ = listener.accept().and_then(|(stream, _)| answer(&stream));
                }
            })
        })
        .collect();
    for thread in threads {
        let _ = thread.join();
    }
    Ok(ExitCode::FAILURE)
}

fn answer(mut stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut message = [0; MESSAGE_BYTES];
    loop {
        stream.read_exact(&mut message)?;
        if message[0] == SINK {
            let mut chunk = vec![0; CHUNK_BYTES];
            while stream.read(&mut chunk)? > 0 {}
            return Ok(());
        }
        stream.write_all(&message)?;
    }
}

fn answer_datagrams(socket: &UdpSocket) {
    let mut message = [0; MESSAGE_BYTES];
    loop {
        // What goes wrong is one client's business.
        let _ = socket
            .recv_from(&mut message)
            .and_then(|(length, client)| socket.send_to(&message[..length], client));
    }
}

/// Carries out the plan.
pub(crate) fn run(plan: Plan) -> Report {
    let start = Instant::now();
    let end = End {
        at: start + plan.duration,
        told: Arc::default(),
    };
    if let Some(file) = plan.until.clone() {
        let told = Arc::clone(&end.told);
        thread::spawn(move || {
            while !file.exists() {
                thread::sleep(LOOK);
            }
            told.store(true, Ordering::Relaxed);
        });
    }
    let threads: Vec<_> = (0..plan.connections)
        .map(|_| {
            let (plan, end) = (plan.clone(), end.clone());
            thread::spawn(move || one(&plan, &end))
        })
        .collect();
    let mut report = Report::default();
    for thread in threads {
        match thread.join() {
            Ok(of_thread) => report.add(of_thread),
            Err(_) => report.fail(&io::Error::other("a thread panicked")),
        }
    }
    report.elapsed = start.elapsed();
    report
}

/// When to end.
#[derive(Clone)]
struct End {
    at: Instant,
    told: Arc<AtomicBool>,
}

impl End {
    fn is_here(&self) -> bool {
        self.told.load(Ordering::Relaxed) || Instant::now() >= self.at
    }
}

/// Keeps a thread to its part of the rate. Time that was lost is not made up for: that would be a burst.
struct Pace {
    period: Duration,
    next: Instant,
}

impl Pace {
    fn of(plan: &Plan) -> Self {
        let period = plan.rate.map_or(Duration::ZERO, |rate| {
            Duration::from_secs(1) * u32::try_from(plan.connections).unwrap_or(u32::MAX) / rate.get()
        });
        Self {
            period,
            next: Instant::now(),
        }
    }

    fn wait(&mut self) {
        let now = Instant::now();
        thread::sleep(self.next.saturating_duration_since(now));
        self.next = self.next.max(now) + self.period;
    }
}

fn one(plan: &Plan, end: &End) -> Report {
    let mut report = Report::default();
    let mut pace = Pace::of(plan);
    while !end.is_here() {
        let outcome = match plan.mode {
            Mode::Short => {
                pace.wait();
                let begun = Instant::now();
                connect(plan.target).and_then(|stream| exchange(&stream, &mut report, begun))
            }
            Mode::Connect => {
                pace.wait();
                let begun = Instant::now();
                connect(plan.target).map(|_stream| report.time(begun))
            }
            Mode::KeepAlive => connect(plan.target).and_then(|stream| {
                while !end.is_here() {
                    pace.wait();
                    exchange(&stream, &mut report, Instant::now())?;
                }
                Ok(())
            }),
            Mode::Stream => connect(plan.target).and_then(|stream| pour(&stream, &mut report, end)),
            Mode::Datagram => {
                pace.wait();
                let begun = Instant::now();
                ask::socket(plan.target, TIMEOUT)
                    .and_then(|socket| exchange_datagrams(&socket, &mut report, begun))
            }
            Mode::Datagrams => ask::socket(plan.target, TIMEOUT).and_then(|socket| {
                while !end.is_here() {
                    pace.wait();
                    exchange_datagrams(&socket, &mut report, Instant::now())?;
                }
                Ok(())
            }),
        };
        if let Err(error) = outcome {
            report.fail(&error);
        }
    }
    report
}

fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    // Closing resets: the port can be used again at once, so that a second has no limit of connections.
    let at_once = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream, sockopt::Linger, &at_once)?;
    Ok(stream)
}

fn exchange(mut stream: &TcpStream, report: &mut Report, begun: Instant) -> io::Result<()> {
    let mut message = [ECHO; MESSAGE_BYTES];
    let connected = begun.elapsed();
    let exchanged = stream
        .write_all(&message)
        .and_then(|()| stream.read_exact(&mut message));
    exchanged.map_err(|error| explained(error, stream.local_addr(), connected, begun))?;
    report.time(begun);
    report.bytes += MESSAGE_BYTES as u64;
    Ok(())
}

/// Whoever looks for the reason needs to know which connection it was, and when.
fn explained(
    error: io::Error,
    own: io::Result<SocketAddr>,
    connected: Duration,
    begun: Instant,
) -> io::Error {
    let text = format!(
        "port {}, {connected:?} to connect, {:?} in all: {error}",
        own.map_or(0, |own| own.port()),
        begun.elapsed()
    );
    io::Error::new(error.kind(), text)
}

/// Nothing sends a lost datagram again.
fn exchange_datagrams(socket: &UdpSocket, report: &mut Report, begun: Instant) -> io::Result<()> {
    let mut message = [ECHO; MESSAGE_BYTES];
    let connected = begun.elapsed();
    // One that is ended has no port any more.
    let own = socket.local_addr();
    let exchanged = socket.send(&message).and_then(|_| socket.recv(&mut message));
    let length = exchanged.map_err(|error| explained(error, own, connected, begun))?;
    report.time(begun);
    report.bytes += length as u64;
    Ok(())
}

fn pour(mut stream: &TcpStream, report: &mut Report, end: &End) -> io::Result<()> {
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(&[SINK; MESSAGE_BYTES])?;
    let chunk = vec![0; CHUNK_BYTES];
    while !end.is_here() {
        report.bytes += stream.write(&chunk)? as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_against_the_server() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let target = listener.local_addr().expect("an address");
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || answer(&stream));
            }
        });
        let datagrams = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let target_of_datagrams = datagrams.local_addr().expect("an address");
        thread::spawn(move || answer_datagrams(&datagrams));
        for (mode, target) in [
            (Mode::Short, target),
            (Mode::Connect, target),
            (Mode::KeepAlive, target),
            (Mode::Stream, target),
            (Mode::Datagram, target_of_datagrams),
            (Mode::Datagrams, target_of_datagrams),
        ] {
            let plan = Plan {
                target,
                mode,
                connections: 2,
                duration: Duration::from_millis(30),
                rate: None,
                until: None,
            };
            let report = run(plan);
            assert_eq!(report.failures, 0, "{mode:?}: {:?}", report.error);
            let did = match mode {
                Mode::Connect => report.microseconds.len() as u64,
                _ => report.bytes,
            };
            assert!(did > 0, "{mode:?}");
        }
        // A file that is there already ends it, whatever else was said; and a rate is kept.
        let plan = Plan {
            target,
            mode: Mode::Short,
            connections: 1,
            duration: Duration::from_secs(3600),
            rate: NonZeroU32::new(10),
            until: Some("/proc/self/exe".into()),
        };
        let report = run(plan);
        assert_eq!(report.failures, 0, "{:?}", report.error);
        let most = report.elapsed.as_secs_f64() * 10.0 + 1.0;
        assert!(
            (report.microseconds.len() as f64) <= most,
            "{} of {most}",
            report.microseconds.len()
        );
    }

    #[test]
    fn a_report_is_a_line_of_json() {
        let mut report = Report {
            microseconds: vec![3, 1, 2],
            elapsed: Duration::from_secs(2),
            bytes: 192,
            ..Report::default()
        };
        report.fail(&io::Error::other("a \"reason\""));
        assert_eq!(
            report.json(),
            "{\"per_second\": 1.5, \"bytes_per_second\": 96, \"p50_us\": 2, \"p99_us\": 2, \"failures\": 1, \
             \"error\": \"a \\\"reason\\\"\"}"
        );
    }
}
