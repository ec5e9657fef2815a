//! Snapshots of the embedded store, and stores made of snapshots.

use std::{io::Write, path::Path};

use redb::{Database, ReadableTable};

use super::{
    Embedded, EmbeddedOptions, file,
    layout::{self, DEADLINES, KEYS, LOG, META, Record, RecordKind, Standing, meta},
};
use crate::{
    Error, Result, Revision,
    snapshot::{self, Item, SnapshotReader, SnapshotStatus, SnapshotWriter},
};

impl Embedded {
    /// Writes a snapshot of the newest revision. Others read and write meanwhile; the file grows by what they write until
    /// this is done. Blocks.
    ///
    /// # Errors
    /// [`Error::SnapshotIo`] when `out` fails.
    pub fn save_snapshot(&self, out: impl Write) -> Result<SnapshotStatus> {
        let snapshot = self.reader.snapshot();
        let mut writer = SnapshotWriter::new(out, snapshot.revision)?;
        snapshot.for_each(|item| writer.item(&item))?;
        writer.finish()
    }

    /// Makes a store in `dir`, which must not have one, from a snapshot's file. It appears there whole or not at all.
    ///
    /// Its revision is the snapshot's and `bump` more, and its history begins there: so no revision that was handed out
    /// after the snapshot was taken is given to another write, and whoever comes with one is told that it is compacted.
    /// Returns what the snapshot was, and the new revision. Blocks.
    ///
    /// # Errors
    /// [`Error::Snapshot`] when the file is damaged, [`Error::NotEmpty`] when there is a store.
    pub fn restore_snapshot(dir: &Path, file: &Path, bump: Revision) -> Result<(SnapshotStatus, Revision)> {
        let path = dir.join(layout::FILE_NAME);
        if path.exists() {
            return Err(Error::NotEmpty(path.display().to_string()));
        }
        let reader = snapshot::open(file)?;
        let options = EmbeddedOptions::new(dir);
        file::make(&path, &path.with_extension("restoring"), &options, |database| {
            fill(database, reader, bump)
        })
    }
}

/// Fills an empty file in one transaction, which is committed when the checksum was right.
fn fill(
    database: &Database,
    mut reader: SnapshotReader<impl std::io::Read>,
    bump: Revision,
) -> Result<(SnapshotStatus, Revision)> {
    let too_large = || Error::Snapshot(format!("its revision cannot be raised by {bump}"));
    let mut revision = reader.revision().checked_add(bump).ok_or_else(too_large)?;
    let transaction = database.begin_write()?;
    let status = {
        let mut log = transaction.open_table(LOG)?;
        let mut keys = transaction.open_table(KEYS)?;
        let mut deadlines = transaction.open_table(DEADLINES)?;
        while let Some(Item { key_value, deadline }) = reader.next()? {
            // In etcd one transaction may have written several keys at one revision. Here the others get new ones.
            let mut mod_revision = key_value.mod_revision;
            if log.get(mod_revision)?.is_some() {
                revision = revision.checked_add(1).ok_or_else(too_large)?;
                mod_revision = revision;
            }
            let record = Record {
                kind: RecordKind::Put,
                create_revision: key_value.create_revision,
                previous: 0,
                key: &key_value.key,
                value: &key_value.value,
            };
            record.encode(log.insert_reserve(mod_revision, record.encoded_len())?.as_mut());
            let standing = Standing {
                create_revision: key_value.create_revision,
                mod_revision,
                deadline,
            };
            if keys.insert(&*key_value.key, standing.encode())?.is_some() {
                return Err(Error::Snapshot(format!("it has key {:?} twice", key_value.key)));
            }
            if let Some(deadline) = deadline {
                deadlines.insert((deadline, &*key_value.key), ())?;
            }
        }
        let mut numbers = transaction.open_table(META)?;
        for name in [meta::REVISION, meta::COMPACTED, meta::SCRUBBED] {
            numbers.insert(name, revision)?;
        }
        reader.finish()?
    };
    transaction.commit()?;
    Ok((status, revision))
}
