//! The store's file: made, locked, opened.

use std::{
    fs,
    hash::{BuildHasher, RandomState},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use redb::{StorageBackend, backends::FileBackend};

use super::{
    EmbeddedOptions,
    journal::{self, Journal, Length, Region},
    layout,
};
use crate::{Error, Result};

/// Enough for the inner pages while a file is filled.
const MAKE_CACHE_BYTES: usize = 16 << 20;
/// How a file of redb's begins.
const REDB_MAGIC: &[u8] = b"redb";

/// Makes a directory for a store, readable by its owner alone, unless it is there.
pub(super) fn make_dir(dir: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    Ok(made.map_err(redb::Error::Io)?)
}

/// Keeps every other process out, until the result is dropped. redb locks its file too, but only when it is open, and the
/// journal comes before that.
pub(super) fn lock(dir: &Path) -> Result<fs::File> {
    let handle = fs::File::open(dir).map_err(redb::Error::Io)?;
    match handle.try_lock() {
        Ok(()) => Ok(handle),
        Err(fs::TryLockError::WouldBlock) => Err(redb::Error::DatabaseAlreadyOpen)?,
        Err(fs::TryLockError::Error(error)) => Err(redb::Error::Io(error))?,
    }
}

/// Opens the file of a store, which [`make`] made or an older version; nobody else may have it open.
pub(super) fn open(path: &Path, options: &EmbeddedOptions, length: Length) -> Result<redb::Database> {
    adopt(path, options)?;
    let backend = open_backend(path)?;
    let through = fs::OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DSYNC)
        .open(path)
        .map_err(redb::Error::Io)?;
    let journal = Journal::open(backend, Some(through), length)?;
    Ok(open_database(journal, options.cache_bytes).map_err(redb::Error::from)?)
}

/// Opens a store on any storage; an empty one is made.
pub(super) fn open_on(
    backend: impl StorageBackend,
    options: &EmbeddedOptions,
    length: Length,
) -> Result<redb::Database> {
    if backend.len().map_err(redb::Error::Io)? == 0 {
        journal::make(&backend, options.journal_bytes / 2, salt())
            .and_then(|()| backend.sync_data())
            .map_err(redb::Error::Io)?;
    }
    let journal = Journal::open(backend, None, length)?;
    Ok(open_database(journal, options.cache_bytes).map_err(redb::Error::from)?)
}

/// Makes a store's file: filled under another name, so that it is there whole or, after a power cut, not at all.
pub(super) fn make<T>(
    path: &Path,
    unfinished: &Path,
    options: &EmbeddedOptions,
    fill: impl FnOnce(&redb::Database) -> Result<T>,
) -> Result<T> {
    make_dir(path.parent().unwrap_or(Path::new("/")))?;
    let backend = open_backend(unfinished)?;
    journal::make(&backend, options.journal_bytes / 2, salt()).map_err(redb::Error::Io)?;
    let region = Region::open(backend)?;
    let database = open_database(region, MAKE_CACHE_BYTES).map_err(redb::Error::from)?;
    let filled = layout::initialise(&database).and_then(|_| fill(&database));
    drop(database);
    appear(path, unfinished, filled)
}

/// Puts what an older version left, a file of redb's without a journal, behind one.
fn adopt(path: &Path, options: &EmbeddedOptions) -> Result<()> {
    let mut begins = [0; REDB_MAGIC.len()];
    let mut plain = fs::File::open(path).map_err(redb::Error::Io)?;
    match io::Read::read_exact(&mut plain, &mut begins) {
        Ok(()) if begins == REDB_MAGIC => {}
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(redb::Error::Io(error))?,
        _ => return Ok(()),
    }
    tracing::info!("giving the store's file a journal");
    // Open, so that the older version cannot be running.
    let old = open_database(open_backend(path)?, MAKE_CACHE_BYTES).map_err(redb::Error::from)?;
    let unfinished = path.with_extension("new");
    let backend = open_backend(&unfinished)?;
    journal::make(&backend, options.journal_bytes / 2, salt()).map_err(redb::Error::Io)?;
    let mut copy = || {
        let mut new = fs::OpenOptions::new().write(true).open(&unfinished)?;
        io::Seek::seek(&mut new, io::SeekFrom::End(0))?;
        io::Seek::rewind(&mut plain)?;
        io::copy(&mut plain, &mut new)?;
        new.sync_all()
    };
    let copied = copy().map_err(|error| redb::Error::Io(error).into());
    appear(path, &unfinished, copied)?;
    drop(old);
    Ok(())
}

/// Gives a file that is finished its name, and removes one that failed.
fn appear<T>(path: &Path, unfinished: &Path, filled: Result<T>) -> Result<T> {
    match filled {
        Ok(done) => {
            fs::rename(unfinished, path).map_err(redb::Error::Io)?;
            fs::File::open(path.parent().unwrap_or(Path::new("/")))
                .and_then(|dir| dir.sync_all())
                .map_err(redb::Error::Io)?;
            Ok(done)
        }
        Err(error) => {
            // Nobody would look at it; that it cannot be removed changes nothing.
            let _ = fs::remove_file(unfinished);
            Err(error)
        }
    }
}

/// Random, from the seed that the standard library takes for its hash maps.
fn salt() -> u32 {
    let [a, b, c, d, ..] = RandomState::new().hash_one(0).to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn open_backend(path: &Path) -> Result<FileBackend> {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(redb::Error::Io)?;
    Ok(FileBackend::new(file).map_err(redb::Error::from)?)
}

fn open_database(
    backend: impl StorageBackend,
    cache_bytes: usize,
) -> Result<redb::Database, redb::DatabaseError> {
    redb::Builder::new()
        .set_cache_size(cache_bytes)
        .set_repair_callback(|session| {
            tracing::info!(
                progress = session.progress(),
                "the store was not closed cleanly, checking it"
            );
        })
        .create_with_backend(backend)
}

/// An error of the file, as one of opening it.
pub(super) fn failed_to_open(path: &Path, error: Error) -> Error {
    match error {
        Error::Storage(source) => Error::Open {
            path: path.to_owned(),
            source,
        },
        other => other,
    }
}
