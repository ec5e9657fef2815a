//! `/healthz` and `/livez`, as load balancers and the kubelet ask for them.

use std::{net::SocketAddr, sync::atomic::Ordering};

use anyhow::{Context as _, Result};
use tokio::net::TcpListener;

use crate::{
    agent::Synced,
    http::{self, Response},
};

/// Answers until the future is dropped.
pub async fn serve(address: SocketAddr, synced: Synced) -> Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address} (--healthz-bind-address)"))?;
    http::serve(listener, move |path| {
        respond(path, synced.load(Ordering::Relaxed))
    })
    .await;
    Ok(())
}

fn respond(path: &str, synced: bool) -> Response {
    match path {
        "/livez" => Response::text("200 OK", "ok"),
        "/healthz" if synced => Response::text("200 OK", "ok"),
        "/healthz" => Response::text("503 Service Unavailable", "the maps are not in step with the API"),
        _ => Response::text("404 Not Found", "only /healthz and /livez are here"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_follows_the_maps_and_liveness_does_not() {
        let rows = [
            ("/healthz", true, "200 OK"),
            ("/healthz", false, "503 Service Unavailable"),
            ("/livez", false, "200 OK"),
            ("/", true, "404 Not Found"),
        ];
        for (path, synced, status) in rows {
            assert_eq!(respond(path, synced).status, status, "{path}");
        }
    }
}
