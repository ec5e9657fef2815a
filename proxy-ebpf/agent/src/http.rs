//! What probes, load balancers and Prometheus need of HTTP: one GET per connection, answered from memory.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tracing::{debug, warn};

/// A request line of a probe is far shorter; whoever sends more is not answered.
const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// Time for one request, so that idle connections cannot pile up.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long after a failure to listen the next attempt is made. Another process's port is not given up in milliseconds.
const RETRY: Duration = Duration::from_secs(5);

/// Where to listen.
#[derive(Clone, Copy, Debug)]
pub struct Listen {
    /// `None`: nowhere.
    pub address: Option<SocketAddr>,
    /// The flag that says so, for errors.
    pub flag: &'static str,
    /// Whether a port that is taken is an error instead of something to wait for.
    pub hard_fail: bool,
}

impl Listen {
    /// Listens, as soon as that is possible. Waits for ever where there is nothing to listen on.
    pub(crate) async fn bind(self) -> Result<TcpListener> {
        let Some(address) = self.address else {
            return std::future::pending().await;
        };
        loop {
            match TcpListener::bind(address).await {
                Err(error) if !self.hard_fail => {
                    warn!(%address, flag = self.flag, %error, "cannot listen, will retry");
                    tokio::time::sleep(RETRY).await;
                }
                result => {
                    return result.with_context(|| format!("listen on {address} ({})", self.flag));
                }
            }
        }
    }
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    /// Number and reason.
    pub(crate) status: &'static str,
    pub(crate) content_type: &'static str,
    /// A header of its own, without the line's end.
    pub(crate) header: Option<String>,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn text(status: &'static str, body: impl Into<String>) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            header: None,
            body: body.into(),
        }
    }
}

/// Answers until the future is dropped; `respond` is given the path.
pub(crate) async fn serve(
    listener: TcpListener,
    respond: impl Fn(&str) -> Response + Clone + Send + 'static,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let respond = respond.clone();
                tokio::spawn(async move {
                    if let Err(error) = timeout(TIMEOUT, answer(stream, respond)).await {
                        debug!(%error, "a client was too slow");
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, usually: closing others takes a moment.
                warn!(%error, "cannot accept connections");
                tokio::time::sleep(TIMEOUT).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, respond: impl Fn(&str) -> Response) {
    let mut request = Vec::new();
    let mut chunk = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut chunk).await {
            Ok(1..) if request.len() > REQUEST_BYTES_MAX => return,
            Ok(count @ 1..) => request.extend_from_slice(&chunk[..count]),
            Ok(0) | Err(_) => return,
        }
    }
    if let Err(error) = stream.write_all(&response(&request, respond)).await {
        debug!(%error, "a client went away");
    }
}

/// The bytes that answer a request.
fn response(request: &[u8], respond: impl Fn(&str) -> Response) -> Vec<u8> {
    let line = request.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let Response {
        status,
        content_type,
        header,
        body,
    } = match method {
        "GET" | "HEAD" => respond(path),
        _ => Response::text("405 Method Not Allowed", "only GET and HEAD are answered"),
    };
    let header = header.map(|header| header + "\r\n").unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n{header}connection: close\r\n\r\n",
        body.len()
    );
    let body = if method == "HEAD" { "" } else { &body };
    (head + body).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_answered_and_other_methods_refused() {
        let answer = |request: &str| {
            let answer = response(request.as_bytes(), |path| Response {
                header: Some("X-Test: 1".to_owned()),
                ..Response::text("200 OK", path)
            });
            String::from_utf8(answer).expect("text")
        };
        let get = answer("GET /healthz?verbose HTTP/1.1\r\nHost: node\r\n\r\n");
        assert!(get.starts_with("HTTP/1.1 200 OK\r\n"), "{get}");
        assert!(get.contains("\r\nX-Test: 1\r\n"), "{get}");
        assert!(get.ends_with("\r\n\r\n/healthz"), "{get}");
        let head = answer("HEAD /a HTTP/1.1\r\n\r\n");
        assert!(
            head.contains("content-length: 2\r\n") && head.ends_with("\r\n\r\n"),
            "{head}"
        );
        for refused in ["POST / HTTP/1.1\r\n\r\n", "\r\n\r\n"] {
            assert!(answer(refused).starts_with("HTTP/1.1 405 "), "{refused:?}");
        }
    }
}
