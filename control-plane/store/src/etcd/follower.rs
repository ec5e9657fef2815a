//! Follows the cluster's history, over members that come and go.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tonic::Streaming;

use super::{
    Shared,
    api::{WatchCreateRequest, WatchResponse},
    responses::{Assembler, Batch, Interruption, etcd_revision, revision},
};
use crate::{Error, EtcdFailure, Result, Revision, watch::Hub};

/// The pause before a watch that broke is opened again.
const PAUSE: Duration = Duration::from_millis(200);
/// How long etcd may take to tell that a watch is compacted; it looks every 100 ms.
const COMPACTED_TIMEOUT: Duration = Duration::from_secs(2);

/// A watch of all keys that survives its connections.
pub(super) struct Follower {
    shared: Arc<Shared>,
    told: Revision,
    open: Option<(Streaming<WatchResponse>, Assembler)>,
}

impl Follower {
    /// Tells what follows `after`. Nothing is sent before [`Self::next`] is called.
    pub(super) fn new(shared: Arc<Shared>, after: Revision) -> Follower {
        Follower {
            shared,
            told: after,
            open: None,
        }
    }

    /// What happened next, however long that takes. Not safe to cancel, but to drop.
    ///
    /// # Errors
    /// Only [`Error::Compacted`]: what follows is forgotten, or the cluster was set back to an older state.
    pub(super) async fn next(&mut self) -> Result<Batch> {
        loop {
            match self.step().await {
                Ok(Some(batch)) => {
                    self.told = batch.revision;
                    return Ok(batch);
                }
                Ok(None) => {}
                Err(error @ Error::Compacted { .. }) => return Err(error),
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        after = self.told,
                        "the watch of etcd broke, opening it again"
                    );
                    self.open = None;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Opens the watch, unless it is.
    ///
    /// Where there is something to catch up with, it begins with the events *of* the last revision told. They are known
    /// already; but etcd tells that history is missing only when the start lies before the compaction, and a watch that
    /// starts right after it misses a deletion at the compaction's own revision (etcd issue 19179). Where there is not, it
    /// begins with what comes next: etcd then serves it from memory at once, whatever is compacted.
    pub(super) async fn open(&mut self) -> Result<&mut (Streaming<WatchResponse>, Assembler)> {
        let opened = match self.open.take() {
            Some(open) => open,
            None => {
                let current = self.shared.members.revision().await?;
                if current < self.told {
                    return Err(Error::Compacted {
                        requested: self.told,
                        compacted: current,
                    });
                }
                let start = self.told + u64::from(current == self.told);
                (self.shared.watch(start).await?, Assembler::new(self.told))
            }
        };
        Ok(self.open.insert(opened))
    }

    async fn step(&mut self) -> Result<Option<Batch>> {
        let operation = "keep a watch";
        let (shared, told) = (self.shared.clone(), self.told);
        let members = &shared.members;
        let (watch, assembler) = self.open().await?;
        let response = match watch.message().await {
            Ok(Some(response)) => response,
            Ok(None) => {
                let failure = EtcdFailure::WatchCancelled("the stream ended".to_owned());
                return Err(members.failed(operation, failure));
            }
            Err(error) => return Err(members.failed(operation, EtcdFailure::Status(error))),
        };
        match assembler.accept(response, &shared.keyspace) {
            Ok(batch) => Ok(batch),
            Err(Interruption::Compacted(compacted)) => Err(Error::Compacted {
                requested: told,
                compacted,
            }),
            Err(Interruption::Failed(failure)) => Err(members.failed(operation, failure)),
        }
    }
}

impl Shared {
    /// Opens a watch of all keys that begins with the events of a revision.
    async fn watch(&self, from: Revision) -> Result<Streaming<WatchResponse>> {
        let all = Bytes::from_static(&[0]);
        let request = WatchCreateRequest {
            key: all.clone(),
            range_end: all,
            start_revision: etcd_revision(from),
            prev_kv: true,
            fragment: true,
        };
        self.members
            .read("open a watch", |api| api.watch(request.clone()))
            .await
    }
}

/// Publishes all that happens to the watches of this process, without end.
pub(super) async fn feed(mut follower: Follower, hub: Arc<Hub>) {
    let shared = follower.shared.clone();
    loop {
        match follower.next().await {
            Ok(batch) => hub.publish(&batch.events, batch.revision),
            Err(error) => match shared.members.revision().await {
                Ok(current) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        current,
                        "history of etcd was missed, all watches start over"
                    );
                    hub.restart(&error, current);
                    follower = Follower::new(shared.clone(), current);
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "etcd does not answer");
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
}

/// Up to where history is forgotten, given a revision that is. Only a watch tells.
pub(super) async fn compacted_revision(shared: &Shared, requested: Revision) -> Revision {
    let told = async {
        let mut watch = shared.watch(requested).await.ok()?;
        while let Ok(Some(response)) = watch.message().await {
            if response.compact_revision > 0 {
                return revision(response.compact_revision).ok();
            }
        }
        None
    };
    match tokio::time::timeout(COMPACTED_TIMEOUT, told).await {
        Ok(Some(compacted)) => compacted,
        _ => requested + 1,
    }
}
