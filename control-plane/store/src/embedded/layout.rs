//! What the data file holds.
//!
//! | table | key | value |
//! |---|---|---|
//! | `log` | revision | what that write did: kind, revisions, key, new value |
//! | `keys` | key | where it stands in the log: revisions of creation and last write, deadline |
//! | `deadlines` | (Unix milliseconds, key) | nothing: the keys that expire, soonest first |
//! | `meta` | name | a number, see [`meta`] |
//!
//! A value is written once, into the log, and stays there while it is the newest of its key or history still reaches it.
//! So an update costs its value and two small entries, history is a scan of one table, and listing keys or counting them
//! touches no values at all.

use std::sync::Arc;

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::reader::Snapshot;
use crate::{Error, KeyValue, Result, Revision};

/// The data file's name in the store's directory.
pub(super) const FILE_NAME: &str = "store.redb";

pub(super) const LOG: TableDefinition<'_, Revision, &[u8]> = TableDefinition::new("log");
pub(super) const KEYS: TableDefinition<'_, &str, (Revision, Revision, UnixMillis)> =
    TableDefinition::new("keys");
pub(super) const DEADLINES: TableDefinition<'_, (UnixMillis, &str), ()> = TableDefinition::new("deadlines");
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// Wall-clock time, because a deadline outlives the process. 0 stands for "never" in `keys`.
pub(super) use crate::snapshot::UnixMillis;

/// The names in the `meta` table.
pub(super) mod meta {
    /// The version of this layout.
    pub(in crate::embedded) const FORMAT: &str = "format";
    /// The newest revision. Not the log's last key, because that one may be a deletion that was compacted away.
    pub(in crate::embedded) const REVISION: &str = "revision";
    /// History up to and including this revision is forgotten.
    pub(in crate::embedded) const COMPACTED: &str = "compacted";
    /// The log was cleared of what compaction forgot up to this revision; catches up with `COMPACTED` in steps.
    pub(in crate::embedded) const SCRUBBED: &str = "scrubbed";
}

const FORMAT_VERSION: u64 = 1;

/// Makes the tables of a new file, or checks those of an old one, and returns the state it holds.
pub(super) fn initialise(database: &Database) -> Result<Snapshot> {
    let transaction = database.begin_write()?;
    let known = {
        transaction.open_table(LOG)?;
        transaction.open_table(KEYS)?;
        transaction.open_table(DEADLINES)?;
        let mut meta_table = transaction.open_table(META)?;
        let known = meta_table.get(meta::FORMAT)?.map(|format| format.value());
        if known.is_none() {
            meta_table.insert(meta::FORMAT, FORMAT_VERSION)?;
            for name in [meta::REVISION, meta::COMPACTED, meta::SCRUBBED] {
                meta_table.insert(name, 0)?;
            }
        }
        known
    };
    match known {
        None => transaction.commit()?,
        Some(FORMAT_VERSION) => transaction.abort()?,
        Some(other) => {
            let text = format!("it has format {other}, this version reads format {FORMAT_VERSION}");
            return Err(Error::Corrupt(text));
        }
    }
    Snapshot::take(&database.begin_read()?)
}

/// Where a key stands in the log: a row of `keys`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) create_revision: Revision,
    pub(super) mod_revision: Revision,
    pub(super) deadline: Option<UnixMillis>,
}

impl Standing {
    pub(super) fn decode((create_revision, mod_revision, deadline): (u64, u64, u64)) -> Standing {
        Standing {
            create_revision,
            mod_revision,
            deadline: (deadline != 0).then_some(deadline),
        }
    }

    pub(super) fn encode(self) -> (u64, u64, u64) {
        (
            self.create_revision,
            self.mod_revision,
            self.deadline.unwrap_or(0),
        )
    }
}

/// A row of `log`, borrowed from its page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) kind: RecordKind,
    /// When the key was created, for a deletion: the key that was deleted.
    pub(super) create_revision: Revision,
    /// The write to this key before this one, 0 for a creation.
    pub(super) previous: Revision,
    pub(super) key: &'a str,
    pub(super) value: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordKind {
    Put = 1,
    Delete = 2,
}

/// kind, create revision, previous revision, length of the key.
const HEADER_BYTES: usize = 1 + 8 + 8 + 4;

impl<'a> Record<'a> {
    pub(super) fn encoded_len(&self) -> usize {
        HEADER_BYTES + self.key.len() + self.value.len()
    }

    /// Fills `out`, which must be [`Self::encoded_len`] long.
    pub(super) fn encode(&self, out: &mut [u8]) {
        let (header, body) = out.split_at_mut(HEADER_BYTES);
        header[0] = self.kind as u8;
        header[1..9].copy_from_slice(&self.create_revision.to_le_bytes());
        header[9..17].copy_from_slice(&self.previous.to_le_bytes());
        // A key is part of a URL path and never gets near 4 GiB.
        header[17..21].copy_from_slice(&(self.key.len() as u32).to_le_bytes());
        let (key, value) = body.split_at_mut(self.key.len());
        key.copy_from_slice(self.key.as_bytes());
        value.copy_from_slice(self.value);
    }

    pub(super) fn decode(bytes: &'a [u8]) -> Result<Record<'a>> {
        Record::parse(bytes).ok_or_else(|| Error::Corrupt("a log entry has an unknown shape".to_owned()))
    }

    fn parse(bytes: &'a [u8]) -> Option<Record<'a>> {
        let (header, body) = bytes.split_at_checked(HEADER_BYTES)?;
        let kind = match header[0] {
            1 => RecordKind::Put,
            2 => RecordKind::Delete,
            _ => return None,
        };
        let key_len = u32::from_le_bytes(header[17..21].try_into().ok()?) as usize;
        let (key, value) = body.split_at_checked(key_len)?;
        Some(Record {
            kind,
            create_revision: u64::from_le_bytes(header[1..9].try_into().ok()?),
            previous: u64::from_le_bytes(header[9..17].try_into().ok()?),
            key: str::from_utf8(key).ok()?,
            value,
        })
    }

    /// The key as this write, whose revision is `revision`, left it.
    pub(super) fn to_key_value(self, revision: Revision) -> KeyValue {
        KeyValue {
            key: Arc::from(self.key),
            value: Bytes::copy_from_slice(self.value),
            create_revision: self.create_revision,
            mod_revision: revision,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_survives_encoding() {
        for (kind, key, value) in [
            (RecordKind::Put, "/a/b", &b"value"[..]),
            (RecordKind::Put, "/", b""),
            (RecordKind::Delete, "/registry/pods/ns/\u{e9}", b""),
        ] {
            let record = Record {
                kind,
                create_revision: 7,
                previous: u64::MAX,
                key,
                value,
            };
            let mut bytes = vec![0xff; record.encoded_len()];
            record.encode(&mut bytes);
            assert_eq!(Record::decode(&bytes).unwrap(), record);
            for len in 0..HEADER_BYTES + key.len() {
                assert!(Record::decode(&bytes[..len]).is_err(), "cut to {len} bytes");
            }
        }
    }
}
