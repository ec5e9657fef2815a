//! Transfers measured by iperf3.

use std::{
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    Cluster, Place,
    suite::{LIMIT, expect_contains},
    wait,
};

/// iperf3's own port.
pub const PORT: u16 = 5201;

/// What came of a transfer.
#[derive(Debug, Clone, Copy)]
pub struct Transfer {
    /// What the receiver has got, without headers.
    pub bytes: u64,
    /// From before the first packet until after the last.
    pub took: Duration,
}

/// Sends from `client` to a server in `server`, at `host` and `port`, which lead to [`PORT`] there. `arguments` say how much.
///
/// # Errors
/// iperf3 is missing, or the connection is not made or fails.
pub fn transfer(
    cluster: &Cluster,
    (client, server): (Place, Place),
    (host, port): (&str, u16),
    arguments: &[&str],
) -> Result<Transfer> {
    let _server = Server::start(cluster, server)?;
    let begun = Instant::now();
    let output = client
        .command(cluster, Path::new("iperf3"))?
        .args(["-c", host, "-p", &port.to_string()])
        .args(["-J", "--connect-timeout", "5000"])
        .args(arguments)
        .output()
        .context("start iperf3")?;
    let took = begun.elapsed();
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "iperf3 to {host}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: Value = serde_json::from_str(&text).context("iperf3's report")?;
    let bytes = report["end"]["sum_received"]["bytes"].as_u64();
    let bytes = bytes.with_context(|| format!("iperf3 does not say what was received: {}", report["end"]))?;
    Ok(Transfer { bytes, took })
}

/// iperf3 for one client.
struct Server(Child);

impl Server {
    fn start(cluster: &Cluster, place: Place) -> Result<Self> {
        let port = PORT.to_string();
        let mut command = place.command(cluster, Path::new("iperf3"))?;
        let child = command
            .args(["-s", "-1", "-p", &port])
            .stdout(Stdio::null())
            .spawn()
            .context("start iperf3")?;
        let server = Self(child);
        wait::until("iperf3 to listen", LIMIT, || {
            let output = place
                .command(cluster, Path::new("ss"))?
                .args(["-Hltn", &format!("sport = :{port}")])
                .output()
                .context("start ss")?;
            expect_contains("ss", &String::from_utf8_lossy(&output.stdout), &port)
        })?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended by itself if its client has been there.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
