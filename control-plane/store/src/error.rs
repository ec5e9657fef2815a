//! What can go wrong in the store. A caller branches on the variant: a conflict is answered to the client, a compaction
//! makes a reader list again, a storage failure is the operator's.

use std::{path::PathBuf, sync::Arc};

use crate::{KeyValue, Revision};

/// The store's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the store refused or failed. Cloning is cheap: one failed commit is the answer to every write it carried.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// [`Store::create`](crate::Store::create) found the key.
    #[error("key {:?} already exists at revision {}", current.key, current.mod_revision)]
    AlreadyExists {
        /// The key as it stands.
        current: KeyValue,
    },
    /// A conditional write named another revision than the key has.
    #[error("key {key:?} is {}, not at revision {expected}", standing(current))]
    Conflict {
        /// The key that was to be written.
        key: Arc<str>,
        /// The revision the caller expected.
        expected: Revision,
        /// The key as it stands, `None` when it is absent.
        current: Option<KeyValue>,
    },
    /// The history that was asked for is forgotten.
    #[error("revision {requested} was compacted, the oldest readable revision is {compacted}")]
    Compacted {
        /// The revision asked for.
        requested: Revision,
        /// The revision up to which history is forgotten; it can itself still be read. (An etcd that does not tell makes
        /// this the revision after the one asked for.)
        compacted: Revision,
    },
    /// A read or a compaction named a revision that is yet to come.
    #[error("revision {requested} is in the future, the newest is {current}")]
    FutureRevision {
        /// The revision asked for.
        requested: Revision,
        /// The newest revision.
        current: Revision,
    },
    /// The reader of a watch was slower than the writers for longer than its buffer lasts. It must list again.
    #[error("the watch was cut off because its reader fell more than {buffered} events behind")]
    WatchOverflow {
        /// How many events waited when it was cut off.
        buffered: usize,
    },
    /// The key does not start with `/`, or the prefix does not start and end with it.
    #[error("invalid key or prefix {0:?}: keys start with '/', prefixes also end with it")]
    InvalidKey(String),
    /// The data directory could not be made, locked or opened.
    #[error("cannot open the store at {}", path.display())]
    Open {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: Arc<redb::Error>,
    },
    /// Reading or writing the data file failed. A write that ends so may or may not have happened.
    #[error("the store's data file cannot be read or written")]
    Storage(#[source] Arc<redb::Error>),
    /// The store holds something this version does not understand.
    #[error("the store's data is damaged: {0}")]
    Corrupt(String),
    /// A snapshot is none, is damaged, or comes from a version that is too new.
    #[error("the snapshot cannot be used: {0}")]
    Snapshot(String),
    /// A snapshot could not be written or read.
    #[error("the snapshot cannot be written or read")]
    SnapshotIo(#[source] Arc<std::io::Error>),
    /// A snapshot was to be restored where there is something already.
    #[error("a snapshot is only restored where nothing is, and there is {0}")]
    NotEmpty(String),
    /// A certificate, a key or a snapshot cannot be read.
    #[error("cannot read {}", path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Arc<std::io::Error>,
    },
    /// An etcd server failed or could not be reached. A write that ends so may or may not have happened.
    #[error("etcd at {endpoint} could not {operation}")]
    Etcd {
        /// The server that was asked last.
        endpoint: Arc<str>,
        /// What it was asked to do.
        operation: &'static str,
        /// Why.
        source: Arc<EtcdFailure>,
    },
    /// The store was shut down.
    #[error("the store is closed")]
    Closed,
}

impl Error {
    /// The store refused the request and is well, as opposed to having failed.
    pub fn is_refusal(&self) -> bool {
        match self {
            Error::AlreadyExists { .. }
            | Error::Conflict { .. }
            | Error::Compacted { .. }
            | Error::FutureRevision { .. }
            | Error::InvalidKey(_) => true,
            Error::WatchOverflow { .. }
            | Error::Open { .. }
            | Error::Storage(_)
            | Error::ReadFile { .. }
            | Error::Etcd { .. }
            | Error::Corrupt(_)
            | Error::Snapshot(_)
            | Error::SnapshotIo(_)
            | Error::NotEmpty(_)
            | Error::Closed => false,
        }
    }
}

/// What went wrong between this process and an etcd server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EtcdFailure {
    /// The endpoint or the certificates are no use.
    #[error("the connection cannot be set up")]
    Connection(#[source] tonic::transport::Error),
    /// The server's refusal, or what happened on the way to it.
    #[error("{}", said(.0))]
    Status(tonic::Status),
    /// There was no answer.
    #[error("no answer within {0:?}")]
    Timeout(std::time::Duration),
    /// The answer makes no sense.
    #[error("its answer is malformed: {0}")]
    Malformed(&'static str),
    /// The server ended a watch.
    #[error("it ended the watch: {0}")]
    WatchCancelled(String),
}

/// The message, and what is at the bottom of it: "tcp connect error" alone would say little.
fn said(status: &tonic::Status) -> String {
    let mut cause = std::error::Error::source(status);
    while let Some(deeper) = cause.and_then(std::error::Error::source) {
        cause = Some(deeper);
    }
    let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
    format!("{}{cause} ({:?})", status.message(), status.code())
}

fn standing(current: &Option<KeyValue>) -> String {
    match current {
        Some(current) => format!("at revision {}", current.mod_revision),
        None => "absent".to_owned(),
    }
}

macro_rules! from_redb {
    ($($kind:ty),*) => {$(
        impl From<$kind> for Error {
            fn from(error: $kind) -> Self {
                Error::Storage(Arc::new(error.into()))
            }
        }
    )*};
}

from_redb!(
    redb::Error,
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError
);
