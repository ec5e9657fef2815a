//! Snapshots of an etcd cluster's keys, and clusters filled from snapshots. Etcd's own snapshots are of one member's whole
//! database; these are of the API server's keys alone, and an embedded store can be made of them too.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::Path,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::{
    Etcd, Outcome, PAGE, Shared,
    api::{
        self, DeleteRangeRequest, LeaseTimeToLiveRequest, Operation, PutRequest, RangeRequest, TxnRequest,
    },
    members,
    responses::{etcd_revision, key_value},
};
use crate::{
    Error, EtcdFailure, Result, Revision, Store,
    snapshot::{self, Item, SnapshotStatus, SnapshotWriter, UnixMillis, unix_millis},
};

/// What belongs to the API server; others may have keys beside it.
const REGISTRY: &str = "/registry/";
/// The key that is written, outside everybody's prefix, to raise the cluster's revision.
const FILLER: Bytes = Bytes::from_static(b"orlop_restore_revision");
/// How many writes of a restoration are under way at once.
const CONCURRENCY: usize = 64;

impl Etcd {
    /// Writes a snapshot of the newest revision. What compaction forgets meanwhile makes it fail.
    ///
    /// # Errors
    /// [`Error::SnapshotIo`] when `out` fails, [`Error::Compacted`] when it takes longer than history lasts.
    pub async fn save_snapshot(&self, out: impl Write + Send) -> Result<SnapshotStatus> {
        let shared = &self.shared;
        let operation = "list keys";
        let revision = shared.members.revision().await?;
        let mut writer = SnapshotWriter::new(out, revision)?;
        let mut deadlines = BTreeMap::new();
        let (mut start, end) = shared.keyspace.range(REGISTRY, None)?;
        loop {
            let request = RangeRequest {
                key: start,
                range_end: end.clone(),
                limit: PAGE as i64,
                revision: etcd_revision(revision),
                ..RangeRequest::default()
            };
            let answer = shared
                .members
                .read(operation, |api| api.range(request.clone()))
                .await;
            let found = match answer {
                Ok(answer) => answer.kvs,
                Err(error) => return Err(shared.refine(error, revision).await),
            };
            shared.learn_deadlines(&found, &mut deadlines).await?;
            let Some(last) = found.last() else { break };
            start = [&last.key, &[0][..]].concat().into();
            for item in found {
                // Other users' keys that are no text are none of ours.
                let Some(key) = shared.keyspace.ours(&item.key) else {
                    continue;
                };
                let deadline = deadlines.get(&item.lease).copied().flatten();
                let key_value =
                    key_value(item, key).map_err(|failure| shared.members.failed(operation, failure))?;
                writer.item(&Item { key_value, deadline })?;
            }
        }
        writer.finish()
    }

    /// Writes all keys of a snapshot's file into a cluster that has none below the prefix.
    ///
    /// Etcd gives every write a revision of its own, so the cluster's revision is first raised to the snapshot's and `bump`
    /// more, one small write each, and then compacted: so no revision that was handed out after the snapshot was taken is
    /// given to another write, and whoever comes with an old one is told that it is compacted. Returns what the snapshot
    /// was, and the new revision. What an interruption leaves behind has to be removed by hand before another attempt.
    ///
    /// # Errors
    /// [`Error::Snapshot`] when the file is damaged, [`Error::NotEmpty`] when there is a key.
    pub async fn restore_snapshot(&self, file: &Path, bump: Revision) -> Result<(SnapshotStatus, Revision)> {
        // Nothing is written before the whole file was seen to be good.
        let status = SnapshotStatus::of_file(file)?;
        let (start, end) = self.shared.keyspace.range(REGISTRY, None)?;
        let found = self.shared.range(start, end, 1, None).await?;
        if let Some(first) = found.found.first() {
            return Err(Error::NotEmpty(String::from_utf8_lossy(&first.key).into_owned()));
        }
        let goal = status
            .revision
            .checked_add(bump)
            .ok_or_else(|| Error::Snapshot(format!("its revision cannot be raised by {bump}")))?;
        self.shared.raise_revision(found.revision, goal).await?;

        let mut reader = snapshot::open(file)?;
        let now = unix_millis(SystemTime::now());
        let items = std::iter::from_fn(|| reader.next().transpose());
        stream::iter(items)
            .map(|item| async move { self.restore_item(item?, now).await })
            .buffer_unordered(CONCURRENCY)
            .try_collect::<()>()
            .await?;
        let revision = self.current_revision().await?;
        self.compact(revision).await?;
        Ok((status, revision))
    }

    async fn restore_item(&self, item: Item, now: UnixMillis) -> Result<()> {
        let Item { key_value, deadline } = item;
        // What expired meanwhile goes as soon as etcd can.
        let ttl = deadline.map(|deadline| Duration::from_millis(deadline.saturating_sub(now)));
        match self.put(&key_value.key, &key_value.value, 0, ttl).await? {
            Outcome::Done(_) => Ok(()),
            Outcome::Stands(_) => Err(Error::NotEmpty(key_value.key.to_string())),
        }
    }
}

impl Shared {
    /// Asks for the leases of keys that are not known yet, when they end.
    async fn learn_deadlines(
        &self,
        found: &[api::KeyValue],
        known: &mut BTreeMap<i64, Option<UnixMillis>>,
    ) -> Result<()> {
        let leases: BTreeSet<i64> = found.iter().map(|item| item.lease).collect();
        known.entry(0).or_insert(None);
        for id in leases {
            if known.contains_key(&id) {
                continue;
            }
            let request = LeaseTimeToLiveRequest { id };
            let answer = self
                .members
                .read("tell a lease's time", |api| api.lease_time_to_live(request))
                .await?;
            // -1: it ends right now.
            let seconds = u64::try_from(answer.ttl_seconds).unwrap_or(0);
            let deadline = unix_millis(SystemTime::now()).saturating_add(seconds.saturating_mul(1000));
            known.insert(id, Some(deadline));
        }
        Ok(())
    }

    async fn raise_revision(&self, from: Revision, goal: Revision) -> Result<()> {
        if from < goal {
            tracing::info!(from, goal, "raising etcd's revision, one write each");
        }
        let write = |operation: Operation| async move {
            let request = TxnRequest {
                success: vec![operation.into()],
                ..TxnRequest::default()
            };
            let what = "raise its revision";
            let answer = self.members.write(what, |api| api.txn(request.clone())).await?;
            let failed = |failure: EtcdFailure| self.members.failed(what, failure);
            members::header_revision(answer.header.as_ref()).map_err(failed)
        };
        let put = || PutRequest {
            key: FILLER,
            ..PutRequest::default()
        };
        stream::iter(from..goal)
            .map(|_| write(Operation::Put(put())))
            .buffer_unordered(CONCURRENCY)
            .try_for_each(|_| async { Ok(()) })
            .await?;
        if from < goal {
            write(Operation::DeleteRange(DeleteRangeRequest { key: FILLER })).await?;
        }
        Ok(())
    }
}
