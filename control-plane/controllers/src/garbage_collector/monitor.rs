//! Watches the metadata of every kind that can be deleted.
//!
//! Which kinds there are is asked again whenever a CustomResourceDefinition or an APIService changes, which the
//! monitors see themselves.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::graph::Uid;
use super::{ACCEPT_WATCH, Partial, Shared};
use crate::discovery::discover;
use crate::informer::{WatchEvent, WatchLines};
use crate::rest::{PARTIAL_METADATA_LIST, Resource, Result, chain};

/// After a change of the kinds, before asking again: a CustomResourceDefinition changes several times until it is served.
const SETTLE: Duration = Duration::from_millis(500);
/// Asks again even if nothing seems to have changed, for API servers that learn of kinds in other ways.
const REDISCOVER: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_secs(1);
const PAGE_SIZE: usize = 500;
const WATCH_SECONDS_MIN: u64 = 300;
const WATCH_SLACK: Duration = Duration::from_secs(30);
/// Kinds that are too many and too short-lived to be collected.
const IGNORED: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];

/// One watched kind.
struct Monitor {
    task: JoinHandle<()>,
    synced: watch::Receiver<bool>,
}

/// Keeps one monitor per kind until cancelled.
pub(super) async fn run(shared: Arc<Shared>, cancel: CancellationToken) {
    let (changed, mut changes) = mpsc::channel(1);
    let work = async {
        let mut monitors: HashMap<Resource, Monitor> = HashMap::new();
        loop {
            match discover(&shared.rest).await {
                Ok(discovery) => {
                    if !discovery.failures.is_empty() {
                        tracing::warn!(failures = ?discovery.failures, "some kinds are not known");
                    }
                    shared.set_kinds(&discovery.kinds);
                    let wanted: HashSet<Resource> = discovery
                        .kinds
                        .into_iter()
                        .filter(|kind| kind.can(&["delete", "list", "watch"]))
                        .map(|kind| kind.resource)
                        .filter(|resource| !IGNORED.contains(&(&*resource.group, &*resource.plural)))
                        .collect();
                    // A group that did not answer keeps its monitors: its objects are not gone.
                    let failed = |resource: &Resource| {
                        let prefix = format!("{}/{}:", resource.group, resource.version);
                        discovery
                            .failures
                            .iter()
                            .any(|failure| failure.starts_with(&prefix))
                    };
                    monitors.retain(|resource, monitor| {
                        let keep = wanted.contains(resource) || failed(resource);
                        if !keep {
                            monitor.task.abort();
                            shared.forget_all_but(resource, &HashSet::new());
                        }
                        keep
                    });
                    for resource in wanted {
                        monitors.entry(resource).or_insert_with_key(|resource| {
                            shared.gate.send_replace(false);
                            start(&shared, resource, changed.clone())
                        });
                    }
                }
                Err(error) => {
                    tracing::debug!(error = chain(&error), "cannot ask for kinds");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            }
            let all_synced = async {
                for monitor in monitors.values() {
                    let mut synced = monitor.synced.clone();
                    // A monitor that ended keeps its last word.
                    let _ = synced.wait_for(|synced| *synced).await;
                }
                shared.gate.send_replace(true);
                tokio::time::sleep(REDISCOVER).await;
            };
            tokio::select! {
                () = all_synced => {}
                _ = changes.recv() => {
                    tokio::time::sleep(SETTLE).await;
                    while changes.try_recv().is_ok() {}
                }
            }
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = work => {}
    }
}

/// Aborts its task when dropped with the others at the end.
impl Drop for Monitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn start(shared: &Arc<Shared>, resource: &Resource, changed: mpsc::Sender<()>) -> Monitor {
    let (synced, receiver) = watch::channel(false);
    let (shared, resource) = (shared.clone(), Arc::new(resource.clone()));
    let task = tokio::spawn(async move {
        let mut version = None;
        loop {
            if let Err(error) = list_and_watch(&shared, &resource, &mut version, &synced, &changed).await {
                if error.is_gone() {
                    version = None;
                }
                tracing::debug!(kind = %resource.kind, error = chain(&error), "watch broken, starting again");
                tokio::time::sleep(RETRY).await;
            }
        }
    });
    Monitor {
        task,
        synced: receiver,
    }
}

async fn list_and_watch(
    shared: &Shared,
    resource: &Arc<Resource>,
    version: &mut Option<String>,
    synced: &watch::Sender<bool>,
    changed: &mpsc::Sender<()>,
) -> Result<()> {
    let from = match version {
        Some(version) => version.clone(),
        None => {
            let listed = list(shared, resource).await?;
            synced.send_replace(true);
            version.insert(listed).clone()
        }
    };
    let defines_kinds = matches!(&*resource.plural, "customresourcedefinitions" | "apiservices");
    let seconds = rand::rng().random_range(WATCH_SECONDS_MIN..WATCH_SECONDS_MIN * 2);
    let query = format!("allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={from}");
    let stream = shared.rest.watch(resource, "", &query, ACCEPT_WATCH).await?;
    let mut lines = WatchLines::new(stream, Duration::from_secs(seconds) + WATCH_SLACK);
    while let Some(line) = lines.next().await {
        match WatchEvent::<Partial>::parse(line)? {
            WatchEvent::Applied(object) => {
                *version = Some(object.metadata.resource_version.to_string());
                shared.observe(resource, &object.metadata);
            }
            WatchEvent::Deleted(object) => {
                *version = Some(object.metadata.resource_version.to_string());
                shared.forget(&object.metadata.uid);
            }
            WatchEvent::Bookmark(at) => {
                *version = Some(at);
                continue;
            }
        }
        if defines_kinds {
            // A full channel says the same already.
            let _ = changed.try_send(());
        }
    }
    Ok(())
}

async fn list(shared: &Shared, resource: &Arc<Resource>) -> Result<String> {
    let mut present: HashSet<Uid> = HashSet::new();
    let mut continue_ = String::new();
    loop {
        let query = format!("limit={PAGE_SIZE}&continue={continue_}");
        let page = shared
            .rest
            .list::<Partial>(resource, "", &query, PARTIAL_METADATA_LIST)
            .await?;
        for object in &page.items {
            present.insert((*object.metadata.uid).into());
            shared.observe(resource, &object.metadata);
        }
        if page.metadata.continue_.is_empty() {
            shared.forget_all_but(resource, &present);
            return Ok(page.metadata.resource_version);
        }
        continue_ = page.metadata.continue_;
    }
}
