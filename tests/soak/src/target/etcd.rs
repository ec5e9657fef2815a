//! The store over a cluster of real etcd servers with TLS, whose members are killed, cut off and slowed down.

use std::{path::Path, sync::Arc};

use anyhow::Context;
use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use store::{Etcd, EtcdOptions, EtcdTls, Revision, Store};
use tests::EtcdServers;

use super::{StoreWatch, Target, WatchEnd};
use crate::history::{Answer, Request};

/// Starts a cluster whose members run with settings that make rare paths common, drawn at random.
///
/// # Errors
/// etcd is not installed.
pub fn start(dir: &Path, random: &mut StdRng) -> anyhow::Result<EtcdServers> {
    let [snapshots, batch] = [[50, 100, 1000], [10, 100, 1000]].map(|of| *of.choose(random).unwrap_or(&100));
    let (heartbeat_ms, election_ms) = *[(29, 271), (101, 521), (100, 2000)]
        .choose(random)
        .unwrap_or(&(100, 1000));
    let arguments = [
        format!("--snapshot-count={snapshots}"),
        format!("--experimental-compaction-batch-limit={batch}"),
        "--experimental-watch-progress-notify-interval=100ms".to_owned(),
        format!("--heartbeat-interval={heartbeat_ms}"),
        format!("--election-timeout={election_ms}"),
    ];
    EtcdServers::with_tls(dir, 3, &arguments)
}

/// The flags with which a control plane uses the cluster.
pub fn flags(servers: &EtcdServers) -> Vec<String> {
    let mut flags = vec![format!("--etcd-servers={}", servers.endpoints().join(","))];
    if let Some(files) = servers.files() {
        let paths = [
            ("cafile", &files.authority),
            ("certfile", &files.certificate),
            ("keyfile", &files.key),
        ];
        flags.extend(
            paths
                .iter()
                .map(|(flag, path)| format!("--etcd-{flag}={}", path.display())),
        );
    }
    flags
}

/// Connects to the cluster, beginning at a random member.
///
/// # Errors
/// None of its members answers.
pub async fn connect(servers: &EtcdServers, buffer: usize, random: &mut StdRng) -> anyhow::Result<Arc<Etcd>> {
    let mut endpoints = servers.endpoints();
    let first = random.random_range(0..endpoints.len());
    endpoints.rotate_left(first);
    let tls = servers.files().map(|files| EtcdTls {
        ca_file: files.authority.clone(),
        client_files: Some((files.certificate.clone(), files.key.clone())),
    });
    let options = EtcdOptions {
        tls,
        watch_buffer_events: buffer,
        compaction_interval: None,
        ..EtcdOptions::new(endpoints)
    };
    Etcd::connect(options)
        .await
        .map(Arc::new)
        .context("connect to etcd")
}

impl Target for Arc<Etcd> {
    type Watch = StoreWatch;

    const CONTIGUOUS: bool = true;

    async fn ask(&self, request: &Request) -> Answer {
        super::ask(&**self, request).await
    }

    async fn revision(&self) -> Revision {
        loop {
            if let Ok(revision) = self.current_revision().await {
                return revision;
            }
        }
    }

    async fn watch(&self, group: Option<u8>, after: Revision) -> Result<StoreWatch, WatchEnd> {
        super::watch(&**self, group, after).await
    }
}
