//! Reads: from the snapshot that the last commit left, without ever waiting for the writer.

use std::{
    collections::{BTreeMap, btree_map},
    iter::Peekable,
    ops::Bound,
    sync::{Arc, PoisonError, RwLock},
};

use futures::{StreamExt, stream};
use redb::{ReadOnlyTable, ReadTransaction};
use tokio::sync::watch;

use super::layout::{KEYS, LOG, META, Record, RecordKind, Standing, meta};
use crate::{
    Error, Event, KeyValue, ListOptions, Listing, Result, Revision, WatchStream, prefix_end,
    snapshot::Item,
    watch::{Backlog, Hub},
};

/// One page of a watch's past: small enough to be read in a millisecond and to weigh little.
const BACKLOG_EVENTS: usize = 256;
/// How many log entries one page looks at, where few of them match.
const BACKLOG_SCAN: usize = 16 * BACKLOG_EVENTS;

/// What readers share with the writer.
#[derive(Debug)]
pub(crate) struct Reader {
    snapshot: RwLock<Arc<Snapshot>>,
    hub: Arc<Hub>,
    /// Why nothing can be written any more.
    failure: watch::Sender<Option<Error>>,
}

impl Reader {
    pub(super) fn new(snapshot: Snapshot, hub: Arc<Hub>) -> Reader {
        Reader {
            snapshot: RwLock::new(Arc::new(snapshot)),
            hub,
            failure: watch::Sender::new(None),
        }
    }

    /// Notes that the data file failed; the first failure is the one that is told.
    pub(super) fn fail(&self, error: &Error) {
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert_with(|| error.clone());
            first
        });
    }

    /// Waits until the data file fails; [`Error::Closed`] when the store is closed instead.
    pub(super) fn failed(&self) -> impl Future<Output = Error> + Send + use<> {
        let mut failure = self.failure.subscribe();
        async move {
            match failure.wait_for(Option::is_some).await {
                Ok(failure) => failure.clone().unwrap_or(Error::Closed),
                Err(_) => Error::Closed,
            }
        }
    }

    pub(crate) fn hub(&self) -> &Hub {
        &self.hub
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Shows a commit to all later reads. Comes before its events are published.
    pub(super) fn advance(&self, snapshot: Snapshot) {
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
    }

    pub(super) fn watch(self: &Arc<Self>, prefix: &str, after: Revision) -> Result<WatchStream> {
        // Subscribing first makes the snapshot at least as new as the border between log and subscription.
        let stream = self.hub.subscribe(prefix, after, || {
            let (reader, prefix): (_, Arc<str>) = (self.clone(), prefix.into());
            stream::unfold(Some(after), move |after| {
                let (reader, prefix) = (reader.clone(), prefix.clone());
                async move {
                    let after = after?;
                    let page = tokio::task::spawn_blocking(move || reader.backlog(&prefix, after));
                    let page = page.await.unwrap_or(Err(Error::Closed));
                    let next = page.as_ref().ok().map(|page| page.end);
                    Some((page, next))
                }
            })
            .boxed()
        });
        self.snapshot().check_not_compacted(after)?;
        Ok(stream)
    }

    /// The next page of the events below `prefix` after `after`.
    fn backlog(&self, prefix: &str, after: Revision) -> Result<Backlog> {
        let snapshot = self.snapshot();
        snapshot.backlog(prefix, after, snapshot.revision)
    }
}

/// The store as one commit left it.
pub(super) struct Snapshot {
    pub(super) revision: Revision,
    pub(super) compacted: Revision,
    pub(super) log: ReadOnlyTable<Revision, &'static [u8]>,
    keys: ReadOnlyTable<&'static str, (u64, u64, u64)>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("revision", &self.revision)
            .field("compacted", &self.compacted)
            .finish_non_exhaustive()
    }
}

impl Snapshot {
    pub(super) fn take(transaction: &ReadTransaction) -> Result<Snapshot> {
        let meta_table = transaction.open_table(META)?;
        let number = |name| -> Result<u64> {
            let value = meta_table.get(name)?.map(|value| value.value());
            value.ok_or_else(|| Error::Corrupt(format!("it lacks the number {name:?}")))
        };
        Ok(Snapshot {
            revision: number(meta::REVISION)?,
            compacted: number(meta::COMPACTED)?,
            log: transaction.open_table(LOG)?,
            keys: transaction.open_table(KEYS)?,
        })
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<KeyValue>> {
        match self.keys.get(key)? {
            Some(row) => self.value(Standing::decode(row.value()).mod_revision).map(Some),
            None => Ok(None),
        }
    }

    /// All keys in key order, each with its deadline.
    pub(super) fn for_each(&self, mut visit: impl FnMut(Item) -> Result<()>) -> Result<()> {
        for row in self.keys.range::<&str>(..)? {
            let standing = Standing::decode(row?.1.value());
            visit(Item {
                key_value: self.value(standing.mod_revision)?,
                deadline: standing.deadline,
            })?;
        }
        Ok(())
    }

    pub(super) fn list(&self, prefix: &str, options: &ListOptions) -> Result<Listing> {
        let revision = options.revision.unwrap_or(self.revision);
        if revision > self.revision {
            return Err(Error::FutureRevision {
                requested: revision,
                current: self.revision,
            });
        }
        self.check_not_compacted(revision)?;
        let since = self.standings_before_changes(prefix, revision)?;
        let mut keys = KeysAt::new(self, prefix, options.after.as_deref(), &since)?;
        let limit = if options.limit == 0 {
            usize::MAX
        } else {
            options.limit
        };
        let mut items = Vec::new();
        while items.len() < limit {
            match keys.next()? {
                Some(mod_revision) => items.push(self.value(mod_revision)?),
                None => {
                    return Ok(Listing {
                        items,
                        revision,
                        remaining: 0,
                    });
                }
            }
        }
        let mut remaining = 0;
        while keys.next()?.is_some() {
            remaining += 1;
            if options.uncounted {
                break;
            }
        }
        Ok(Listing {
            items,
            revision,
            remaining,
        })
    }

    /// Which version each key below `prefix` had at `revision`, for the keys that changed since; `None`: it was absent.
    fn standings_before_changes(
        &self,
        prefix: &str,
        revision: Revision,
    ) -> Result<BTreeMap<String, Option<Revision>>> {
        let mut before = BTreeMap::new();
        if revision == self.revision {
            return Ok(before);
        }
        for row in self.log.range(revision + 1..)? {
            let (_, bytes) = row?;
            let record = Record::decode(bytes.value())?;
            // Only the first change after the revision tells what was there at the revision.
            if record.key.starts_with(prefix) && !before.contains_key(record.key) {
                before.insert(
                    record.key.to_owned(),
                    (record.previous != 0).then_some(record.previous),
                );
            }
        }
        Ok(before)
    }

    fn backlog(&self, prefix: &str, after: Revision, end: Revision) -> Result<Backlog> {
        self.check_not_compacted(after)?;
        let mut events = Vec::new();
        let mut rows = self.log.range(after + 1..=end)?;
        for _ in 0..BACKLOG_SCAN {
            let Some(row) = rows.next() else {
                return Ok(Backlog { events, end });
            };
            let (revision, bytes) = row?;
            let (revision, record) = (revision.value(), Record::decode(bytes.value())?);
            if record.key.starts_with(prefix) {
                events.push(Arc::new(self.event(record, revision)?));
            }
            if events.len() == BACKLOG_EVENTS {
                return Ok(Backlog {
                    events,
                    end: revision,
                });
            }
            if revision == end {
                return Ok(Backlog { events, end });
            }
        }
        // The next page starts before the entry that this one did not look at.
        let end = match rows.next() {
            Some(row) => row?.0.value() - 1,
            None => end,
        };
        Ok(Backlog { events, end })
    }

    fn event(&self, record: Record<'_>, revision: Revision) -> Result<Event> {
        let previous = match record.previous {
            0 => None,
            previous => Some(self.value(previous)?),
        };
        match (record.kind, previous) {
            (RecordKind::Put, previous) => Ok(Event::Put {
                current: record.to_key_value(revision),
                previous,
            }),
            (RecordKind::Delete, Some(previous)) => Ok(Event::Delete { previous, revision }),
            (RecordKind::Delete, None) => Err(Error::Corrupt(format!(
                "revision {revision} deletes a key that did not exist"
            ))),
        }
    }

    /// What the write of that revision put.
    fn value(&self, revision: Revision) -> Result<KeyValue> {
        let row = self.log.get(revision)?;
        let row = row.ok_or_else(|| Error::Corrupt(format!("the log lacks revision {revision}")))?;
        Ok(Record::decode(row.value())?.to_key_value(revision))
    }

    fn check_not_compacted(&self, requested: Revision) -> Result<()> {
        if requested < self.compacted {
            return Err(Error::Compacted {
                requested,
                compacted: self.compacted,
            });
        }
        Ok(())
    }
}

/// The keys below a prefix as they stood at a past revision: the keys of today, corrected by what changed since.
struct KeysAt<'a> {
    today: Peekable<redb::Range<'static, &'static str, (u64, u64, u64)>>,
    changed: Peekable<btree_map::Range<'a, String, Option<Revision>>>,
}

impl<'a> KeysAt<'a> {
    fn new(
        snapshot: &Snapshot,
        prefix: &'a str,
        after: Option<&'a str>,
        changed: &'a BTreeMap<String, Option<Revision>>,
    ) -> Result<KeysAt<'a>> {
        // A page may start anywhere, also outside the prefix; the range must not be turned upside down by that.
        let end = prefix_end(prefix);
        let start = match after {
            Some(after) if after >= end.as_str() => Bound::Included(end.as_str()),
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let range = (start, Bound::Excluded(end.as_str()));
        Ok(KeysAt {
            today: snapshot.keys.range::<&str>(range)?.peekable(),
            changed: changed.range::<str, _>(range).peekable(),
        })
    }

    /// The revision of the next key's last write.
    fn next(&mut self) -> Result<Option<Revision>> {
        loop {
            let Some(today) = self.today.peek() else {
                match self.changed.next() {
                    Some((_, Some(revision))) => return Ok(Some(*revision)),
                    Some((_, None)) => continue,
                    None => return Ok(None),
                }
            };
            let order = match (today, self.changed.peek()) {
                (Ok((key, _)), Some((changed, _))) => key.value().cmp(changed.as_str()),
                _ => std::cmp::Ordering::Less,
            };
            if order.is_ge()
                && let Some((_, before)) = self.changed.next()
            {
                if order.is_eq() {
                    self.today.next();
                }
                match before {
                    Some(revision) => return Ok(Some(*revision)),
                    None => continue,
                }
            }
            if let Some(row) = self.today.next() {
                return Ok(Some(Standing::decode(row?.1.value()).mod_revision));
            }
        }
    }
}
