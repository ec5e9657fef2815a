//! One write transaction: decides each write in turn and notes what it did.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use redb::{ReadableTable, Table, WriteTransaction};

use super::layout::{DEADLINES, KEYS, LOG, META, Record, RecordKind, Standing, UnixMillis, meta};
use crate::{Error, Event, KeyValue, Result, Revision, snapshot::unix_millis};

/// A write as it was asked for.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) key: Arc<str>,
    pub(super) kind: WriteKind,
}

#[derive(Debug)]
pub(super) enum WriteKind {
    Create {
        value: Bytes,
        ttl: Option<Duration>,
    },
    Update {
        value: Bytes,
        expected: Revision,
        ttl: Option<Duration>,
    },
    Delete {
        expected: Revision,
    },
}

impl Write {
    /// How much of a transaction's budget the write takes.
    pub(super) fn weight_bytes(&self) -> usize {
        match &self.kind {
            WriteKind::Create { value, .. } | WriteKind::Update { value, .. } => value.len(),
            WriteKind::Delete { .. } => 0,
        }
    }
}

/// The open tables of a write transaction, and the events its writes make. Nothing counts before the commit.
pub(super) struct Tables<'txn> {
    log: Table<'txn, Revision, &'static [u8]>,
    keys: Table<'txn, &'static str, (u64, u64, u64)>,
    deadlines: Table<'txn, (UnixMillis, &'static str), ()>,
    meta: Table<'txn, &'static str, u64>,
    now: UnixMillis,
    outcome: Outcome,
}

/// What a transaction did, to be told once it is committed.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The store's revision after it.
    pub(super) revision: Revision,
    pub(super) events: Vec<Arc<Event>>,
    /// The soonest of the deadlines that it set.
    pub(super) soonest_deadline: Option<UnixMillis>,
    /// There is something to commit.
    pub(super) changed: bool,
}

impl<'txn> Tables<'txn> {
    pub(super) fn open(
        transaction: &'txn WriteTransaction,
        revision: Revision,
        now: SystemTime,
    ) -> Result<Tables<'txn>> {
        Ok(Tables {
            log: transaction.open_table(LOG)?,
            keys: transaction.open_table(KEYS)?,
            deadlines: transaction.open_table(DEADLINES)?,
            meta: transaction.open_table(META)?,
            now: unix_millis(now),
            outcome: Outcome {
                revision,
                ..Outcome::default()
            },
        })
    }

    /// Carries out one write. A refusal (conflict, exists) leaves the tables as they were; any other error spoils the
    /// transaction.
    pub(super) fn write(&mut self, write: &Write) -> Result<Revision> {
        let current = self.current(&write.key)?;
        match (&write.kind, current) {
            (WriteKind::Create { .. }, Some((current, _))) => Err(Error::AlreadyExists { current }),
            (WriteKind::Create { value, ttl }, None) => self.put(&write.key, value, *ttl, None),
            (WriteKind::Update { value, expected, ttl }, Some(current))
                if current.0.mod_revision == *expected =>
            {
                self.put(&write.key, value, *ttl, Some(current))
            }
            (WriteKind::Delete { expected }, Some(current)) if current.0.mod_revision == *expected => {
                self.delete(current)
            }
            (WriteKind::Update { expected, .. } | WriteKind::Delete { expected }, current) => {
                Err(Error::Conflict {
                    key: write.key.clone(),
                    expected: *expected,
                    current: current.map(|(current, _)| current),
                })
            }
        }
    }

    /// Deletes up to `limit` keys whose time has passed, the soonest first. Returns when the next one is due, which lies
    /// in the past when the limit was reached.
    pub(super) fn expire(&mut self, limit: usize) -> Result<Option<UnixMillis>> {
        for _ in 0..limit {
            let (deadline, key) = match self.deadlines.first()? {
                Some((row, _)) if row.value().0 <= self.now => (row.value().0, row.value().1.to_owned()),
                Some((row, _)) => return Ok(Some(row.value().0)),
                None => return Ok(None),
            };
            match self.current(&key)? {
                Some(current) if current.1 == Some(deadline) => {
                    self.delete(current)?;
                }
                _ => {
                    return Err(Error::Corrupt(format!(
                        "key {key:?} has a deadline that is not its own"
                    )));
                }
            }
        }
        Ok(self.deadlines.first()?.map(|(row, _)| row.value().0))
    }

    /// Forgets history up to `revision`: first in name, the log is cleared by [`Self::scrub`]. Going back is no error, the
    /// history is just as forgotten as was asked.
    pub(super) fn compact(&mut self, revision: Revision) -> Result<()> {
        if revision > self.outcome.revision {
            let current = self.outcome.revision;
            return Err(Error::FutureRevision {
                requested: revision,
                current,
            });
        }
        if revision > self.number(meta::COMPACTED)? {
            self.meta.insert(meta::COMPACTED, revision)?;
            self.outcome.changed = true;
        }
        Ok(())
    }

    /// Removes from the log what compaction has made unreachable, looking at up to `limit` entries. Returns whether
    /// there is more to do.
    ///
    /// Each write names the one before it, so a walk over the forgotten writes finds everything that they superseded.
    pub(super) fn scrub(&mut self, limit: usize) -> Result<bool> {
        let (scrubbed, compacted) = (self.number(meta::SCRUBBED)?, self.number(meta::COMPACTED)?);
        let mut superseded = Vec::new();
        let mut end = compacted;
        for (index, row) in self.log.range(scrubbed + 1..=compacted)?.enumerate() {
            let (revision, bytes) = row?;
            if index == limit {
                end = revision.value() - 1;
                break;
            }
            let record = Record::decode(bytes.value())?;
            if record.previous != 0 {
                superseded.push(record.previous);
            }
            if record.kind == RecordKind::Delete {
                superseded.push(revision.value());
            }
        }
        for revision in superseded {
            self.log.remove(revision)?;
        }
        if end != scrubbed {
            self.meta.insert(meta::SCRUBBED, end)?;
            self.outcome.changed = true;
        }
        Ok(end < compacted)
    }

    /// Ends the writing and notes the new revision.
    pub(super) fn finish(mut self) -> Result<Outcome> {
        if !self.outcome.events.is_empty() {
            self.meta.insert(meta::REVISION, self.outcome.revision)?;
            self.outcome.changed = true;
        }
        Ok(self.outcome)
    }

    fn current(&self, key: &str) -> Result<Option<(KeyValue, Option<UnixMillis>)>> {
        let Some(row) = self.keys.get(key)? else {
            return Ok(None);
        };
        let standing = Standing::decode(row.value());
        let entry = self.log.get(standing.mod_revision)?;
        let entry = entry.ok_or_else(|| {
            Error::Corrupt(format!(
                "the log lacks revision {} of key {key:?}",
                standing.mod_revision
            ))
        })?;
        let key_value = Record::decode(entry.value())?.to_key_value(standing.mod_revision);
        Ok(Some((key_value, standing.deadline)))
    }

    fn put(
        &mut self,
        key: &Arc<str>,
        value: &Bytes,
        ttl: Option<Duration>,
        before: Option<(KeyValue, Option<UnixMillis>)>,
    ) -> Result<Revision> {
        let revision = self.outcome.revision + 1;
        let create_revision = before
            .as_ref()
            .map_or(revision, |(before, _)| before.create_revision);
        self.append(Record {
            kind: RecordKind::Put,
            create_revision,
            previous: before.as_ref().map_or(0, |(before, _)| before.mod_revision),
            key,
            value,
        })?;
        let deadline = ttl.map(|ttl| {
            let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
            self.now.saturating_add(ttl).max(1)
        });
        let previous_deadline = before.as_ref().and_then(|(_, deadline)| *deadline);
        if deadline != previous_deadline {
            if let Some(old) = previous_deadline {
                self.deadlines.remove((old, &**key))?;
            }
            if let Some(new) = deadline {
                self.deadlines.insert((new, &**key), ())?;
                let soonest = self.outcome.soonest_deadline.get_or_insert(new);
                *soonest = new.min(*soonest);
            }
        }
        let standing = Standing {
            create_revision,
            mod_revision: revision,
            deadline,
        };
        self.keys.insert(&**key, standing.encode())?;
        let current = KeyValue {
            key: key.clone(),
            value: value.clone(),
            create_revision,
            mod_revision: revision,
        };
        let previous = before.map(|(before, _)| before);
        self.outcome
            .events
            .push(Arc::new(Event::Put { current, previous }));
        Ok(revision)
    }

    fn delete(&mut self, (previous, deadline): (KeyValue, Option<UnixMillis>)) -> Result<Revision> {
        let revision = self.append(Record {
            kind: RecordKind::Delete,
            create_revision: previous.create_revision,
            previous: previous.mod_revision,
            key: &previous.key,
            value: b"",
        })?;
        self.keys.remove(&*previous.key)?;
        if let Some(deadline) = deadline {
            self.deadlines.remove((deadline, &*previous.key))?;
        }
        self.outcome
            .events
            .push(Arc::new(Event::Delete { previous, revision }));
        Ok(revision)
    }

    fn append(&mut self, record: Record<'_>) -> Result<Revision> {
        let revision = self.outcome.revision + 1;
        let mut bytes = self.log.insert_reserve(revision, record.encoded_len())?;
        record.encode(bytes.as_mut());
        self.outcome.revision = revision;
        Ok(revision)
    }

    fn number(&self, name: &str) -> Result<u64> {
        Ok(self.meta.get(name)?.map_or(0, |value| value.value()))
    }
}
