//! The embedded store: one redb file, one thread that writes it.
//!
//! Writes queue up for the writer thread, which takes all that wait, decides their conflicts in order of arrival and
//! commits them in one transaction: a single fsync serves them all. Nothing is acknowledged, published to a watch or
//! visible to a read before that fsync. Reads go to the snapshot of the last commit and never wait for the writer.
//!
//! A copying B-tree and not a log of values: memory holds a small page cache instead of an index of all keys. The pages that a
//! commit changes go through a [`journal`], because a disk takes one piece in a third of the time that it takes for many.

mod backup;
mod compaction;
mod file;
pub(crate) mod fuzzing;
mod journal;
mod layout;
mod reader;
mod transaction;
mod writer;

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use redb::StorageBackend;
use tokio::sync::oneshot;

use self::{
    journal::Length,
    reader::Reader,
    transaction::{Write, WriteKind},
    writer::{Command, Writer},
};
use crate::{
    Error, KeyValue, ListOptions, Listing, Result, Revision, Store, WatchStream, check_key, check_prefix,
    watch::Hub,
};

/// A smaller file is not looked into: what could be won is not worth the time of a start.
const SHRINK_FROM_BYTES: u64 = 64 << 20;

/// How an [`Embedded`] store is opened.
#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    /// The directory that holds the data; it is made, readable by its owner alone, when it is absent.
    pub dir: PathBuf,
    /// How much memory the page cache may take, in bytes.
    pub cache_bytes: usize,
    /// After so many undelivered events a watch is cut off.
    pub watch_buffer_events: usize,
    /// How long the journal is of a store that is made, in bytes. What it holds is in memory too.
    pub journal_bytes: usize,
    /// History older than one to two such intervals is forgotten by itself; `None` leaves that to [`Store::compact`].
    pub compaction_interval: Option<Duration>,
}

impl EmbeddedOptions {
    /// The defaults for a directory.
    pub fn new(dir: impl Into<PathBuf>) -> EmbeddedOptions {
        EmbeddedOptions {
            dir: dir.into(),
            // A page cache beneath the kernel's own: enough for the inner pages of some 100,000 keys. Less makes lists slow; more
            // is memory for nothing: with 200,000 keys of 1 kB, a read or a page costs the same up to 64 MiB (`store-bench
            // --objects 200000 --cache-bytes N`), since it is leaves that are missed, and the kernel has those.
            cache_bytes: 4 << 20,
            // A reader is woken with everything that waits, so only one that stands still gets this far behind.
            watch_buffer_events: 8192,
            // At one client a segment of half of it lasts for some fifty commits, most of which change the same pages. Twice as much
            // is 4 % faster at 64 clients and takes 9 MiB more under that load, half as much stands still at times.
            journal_bytes: 4 << 20,
            // What kube-apiserver asks of etcd.
            compaction_interval: Some(Duration::from_secs(300)),
        }
    }
}

/// A store in a directory of this machine. One process can have it open at a time.
///
/// Dropping it finishes the commit in flight and closes the file; watches end with [`Error::Closed`].
#[derive(Debug)]
pub struct Embedded {
    reader: Arc<Reader>,
    length: Length,
    commands: Option<mpsc::Sender<Command>>,
    writer: Option<JoinHandle<()>>,
    /// Goes last.
    _lock: Option<fs::File>,
}

impl Embedded {
    /// Opens the store, and creates or repairs it where that is needed.
    ///
    /// # Errors
    /// [`Error::Open`] when the directory cannot be written or another process has the store open, [`Error::Corrupt`]
    /// when a newer version wrote it.
    pub fn open(options: EmbeddedOptions) -> Result<Embedded> {
        let path = options.dir.join(layout::FILE_NAME);
        let failed = |error| file::failed_to_open(&path, error);
        file::make_dir(&options.dir).map_err(failed)?;
        let lock = file::lock(&options.dir).map_err(failed)?;
        if !path.exists() {
            file::make(&path, &path.with_extension("new"), &options, |_| Ok(())).map_err(failed)?;
        }
        let length = Length::default();
        let mut database = file::open(&path, &options, length.clone()).map_err(failed)?;
        if length.bytes() >= SHRINK_FROM_BYTES {
            shrink_if_sparse(&mut database, length.bytes())?;
        }
        Embedded::start(database, length, &options, Some(lock))
    }

    /// As [`open`](Self::open), but makes nothing where there is no store.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`Error::Open`] also when there is none.
    pub fn open_existing(options: EmbeddedOptions) -> Result<Embedded> {
        let path = options.dir.join(layout::FILE_NAME);
        match fs::metadata(&path) {
            Ok(_) => Embedded::open(options),
            Err(error) => Err(Error::Open {
                path,
                source: Arc::new(redb::Error::Io(error)),
            }),
        }
    }

    /// Opens the store on any storage instead of the file in its directory, such as a disk that a test can cut the power of.
    /// Nothing is made in `options.dir`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on(backend: impl StorageBackend, options: &EmbeddedOptions) -> Result<Embedded> {
        let length = Length::default();
        let opened = file::open_on(backend, options, length.clone());
        let database = opened.map_err(|error| file::failed_to_open(&options.dir, error))?;
        Embedded::start(database, length, options, None)
    }

    fn start(
        database: redb::Database,
        length: Length,
        options: &EmbeddedOptions,
        lock: Option<fs::File>,
    ) -> Result<Embedded> {
        let snapshot = layout::initialise(&database)?;
        let hub = Arc::new(Hub::new(snapshot.revision, options.watch_buffer_events));
        let reader = Arc::new(Reader::new(snapshot, hub));
        let (commands, queue) = mpsc::channel();
        let writer = Writer::new(database, reader.clone(), queue, options.compaction_interval);
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn({
                let reader = reader.clone();
                move || {
                    // Also when it panics, which no reader would notice otherwise.
                    let _close = CloseWatches(reader);
                    writer.run();
                }
            })
            .map_err(|error| Error::Storage(Arc::new(redb::Error::Io(error))))?;
        Ok(Embedded {
            reader,
            length,
            commands: Some(commands),
            writer: Some(writer),
            _lock: lock,
        })
    }

    /// Waits until the data file fails, as on a full or a broken disk, and tells how. No write is accepted from then on, so
    /// whoever has the store should end and open it again. [`Error::Closed`] when it was closed in peace.
    pub fn failed(&self) -> impl Future<Output = Error> + Send + use<> {
        self.reader.failed()
    }

    async fn send<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let commands = self.commands.as_ref().ok_or(Error::Closed)?;
        commands.send(command(reply)).map_err(|_| Error::Closed)?;
        answer.await.unwrap_or(Err(Error::Closed))
    }

    async fn write(&self, key: &str, kind: WriteKind) -> Result<Revision> {
        check_key(key)?;
        let write = Write {
            key: key.into(),
            kind,
        };
        self.send(|reply| Command::Write { write, reply }).await
    }
}

/// Ends all watches when nobody writes any more.
struct CloseWatches(Arc<Reader>);

impl Drop for CloseWatches {
    fn drop(&mut self) {
        self.0.hub().close();
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer thread had panicked");
        }
    }
}

impl Store for Embedded {
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision)> {
        check_key(key)?;
        // Two B-tree look-ups, nearly always in memory: cheaper than the way to another thread.
        let snapshot = self.reader.snapshot();
        Ok((snapshot.get(key)?, snapshot.revision))
    }

    async fn list(&self, prefix: &str, options: ListOptions) -> Result<Listing> {
        check_prefix(prefix)?;
        let (snapshot, prefix) = (self.reader.snapshot(), prefix.to_owned());
        tokio::task::spawn_blocking(move || snapshot.list(&prefix, &options))
            .await
            .unwrap_or(Err(Error::Closed))
    }

    async fn create(&self, key: &str, value: Bytes, ttl: Option<Duration>) -> Result<Revision> {
        self.write(key, WriteKind::Create { value, ttl }).await
    }

    async fn update(
        &self,
        key: &str,
        value: Bytes,
        expected: Revision,
        ttl: Option<Duration>,
    ) -> Result<Revision> {
        self.write(key, WriteKind::Update { value, expected, ttl }).await
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<Revision> {
        self.write(key, WriteKind::Delete { expected }).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream> {
        check_prefix(prefix)?;
        self.reader.watch(prefix, after)
    }

    async fn current_revision(&self) -> Result<Revision> {
        Ok(self.reader.snapshot().revision)
    }

    async fn size_bytes(&self) -> Result<u64> {
        Ok(self.length.bytes())
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.send(|reply| Command::Compact { revision, reply }).await
    }
}

/// Gives the space back that compaction has freed, if that is more than half of the file. While the store runs its file only
/// loses what is free at its end; everything else is used again, but the pages in use can only be moved while nobody reads.
fn shrink_if_sparse(database: &mut redb::Database, file_bytes: u64) -> Result<()> {
    let transaction = database.begin_write()?;
    let unused_bytes = transaction.stats()?.fragmented_bytes();
    transaction.abort()?;
    if unused_bytes > file_bytes / 2 {
        tracing::info!(file_bytes, unused_bytes, "giving back the store's unused space");
        let shrunk = database.compact();
        shrunk.map_err(|error| Error::Storage(Arc::new(error.into())))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
