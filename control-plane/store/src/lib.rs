//! The revisioned key-value store beneath the API server.
//!
//! What it watches: nothing. What it alone writes: the data directory it is given. An etcd cluster it shares with whoever
//! else writes there. What it never does: look inside a value, or know what a Kubernetes object is.
//!
//! The contract is etcd's, reduced to what an API server needs: every write gets a revision of its own, strictly
//! greater than all before it; a read names the revision it saw; a write is compared on the modification revision;
//! a watch delivers every change below a prefix after a revision, in order, exactly once. Two implementations pass one
//! test suite: [`Embedded`], a file of this machine, and [`Etcd`], a cluster of servers.

mod embedded;
mod error;
mod etcd;
#[doc(hidden)]
pub mod fuzzing;
mod snapshot;
#[cfg(test)]
mod testsuite;
mod watch;

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;

pub use embedded::{Embedded, EmbeddedOptions};
pub use error::{Error, EtcdFailure, Result};
pub use etcd::{Etcd, EtcdOptions, EtcdTls};
pub use snapshot::SnapshotStatus;
pub use watch::WatchStream;

/// A point in the store's history. Each write is one more than the write before. 0 is before all writes; an empty etcd
/// begins at 1.
///
/// A plain integer and not a newtype because it is the `resourceVersion` that clients compare as an integer.
pub type Revision = u64;

/// One key with its value as some revision saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The full key, for example `/registry/pods/default/web-0`.
    pub key: Arc<str>,
    /// The value as it was written. Cloning shares the bytes.
    pub value: Bytes,
    /// The revision of the write that created the key (it changes when the key is deleted and created again).
    pub create_revision: Revision,
    /// The revision of the last write to the key.
    pub mod_revision: Revision,
}

/// What [`Store::list`] shall return.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// At most so many items; 0 means all.
    pub limit: usize,
    /// Only keys strictly after this one (the last key of the page before).
    pub after: Option<String>,
    /// The revision to read at; `None` reads the newest. A revision in the future is [`Error::FutureRevision`], one that
    /// was compacted away is [`Error::Compacted`].
    pub revision: Option<Revision>,
    /// Do not count what follows the page, which takes the longer the more that is: [`Listing::remaining`] then only tells
    /// whether it is 0.
    pub uncounted: bool,
}

/// A page of keys in key order, all as one revision saw them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The keys of this page.
    pub items: Vec<KeyValue>,
    /// The revision that was read: of the whole store, not of the newest item.
    pub revision: Revision,
    /// How many keys below the prefix follow after this page; only whether any do, where [`ListOptions::uncounted`].
    pub remaining: u64,
}

/// One change, as a watch delivers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The key was created or updated.
    Put {
        /// The key as the write left it. `create_revision == mod_revision` says that it is new.
        current: KeyValue,
        /// The key before the write, absent for a creation.
        previous: Option<KeyValue>,
    },
    /// The key was deleted.
    Delete {
        /// The key before the deletion.
        previous: KeyValue,
        /// The revision of the deletion itself.
        revision: Revision,
    },
}

impl Event {
    /// The revision of the write that made this event.
    pub fn revision(&self) -> Revision {
        match self {
            Event::Put { current, .. } => current.mod_revision,
            Event::Delete { revision, .. } => *revision,
        }
    }

    /// The key that changed.
    pub fn key(&self) -> &Arc<str> {
        match self {
            Event::Put { current, .. } => &current.key,
            Event::Delete { previous, .. } => &previous.key,
        }
    }
}

/// The store's contract. Every method may be called from any task; an acknowledged write is on disk.
///
/// Keys start with `/` and prefixes end with `/`, so that `/registry/pods/a/` never matches `/registry/pods/ab/…`.
pub trait Store: Send + Sync + 'static {
    /// Reads one key at the newest revision. The revision returned is the store's at the time of the read, also when the key is absent.
    fn get(&self, key: &str) -> impl Future<Output = Result<(Option<KeyValue>, Revision)>> + Send;

    /// Reads the keys below `prefix` in key order.
    fn list(&self, prefix: &str, options: ListOptions) -> impl Future<Output = Result<Listing>> + Send;

    /// Writes a key that must not exist. A key with a `ttl` is deleted by the store when that time has passed.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] with the key as it stands.
    fn create(
        &self,
        key: &str,
        value: Bytes,
        ttl: Option<Duration>,
    ) -> impl Future<Output = Result<Revision>> + Send;

    /// Replaces a key whose modification revision must be `expected`.
    ///
    /// # Errors
    /// [`Error::Conflict`] with the key as it stands, `None` when it is absent.
    fn update(
        &self,
        key: &str,
        value: Bytes,
        expected: Revision,
        ttl: Option<Duration>,
    ) -> impl Future<Output = Result<Revision>> + Send;

    /// Deletes a key whose modification revision must be `expected`; the revision returned is that of the deletion.
    ///
    /// # Errors
    /// [`Error::Conflict`] with the key as it stands, `None` when it is absent.
    fn delete(&self, key: &str, expected: Revision) -> impl Future<Output = Result<Revision>> + Send;

    /// All changes below `prefix` whose revision is greater than `after`, in order, without end.
    ///
    /// # Errors
    /// [`Error::Compacted`] when `after` lies before the compaction: the reader must list again.
    fn watch(&self, prefix: &str, after: Revision) -> impl Future<Output = Result<WatchStream>> + Send;

    /// The newest revision: all writes up to it are visible to every later read.
    fn current_revision(&self) -> impl Future<Output = Result<Revision>> + Send;

    /// How much storage the database takes, in bytes: history and free pages included. Of etcd the member that is asked.
    fn size_bytes(&self) -> impl Future<Output = Result<u64>> + Send;

    /// Forgets history up to and including `revision`; keys as they stood at `revision` stay readable.
    fn compact(&self, revision: Revision) -> impl Future<Output = Result<()>> + Send;
}

fn check_key(key: &str) -> Result<()> {
    if key.starts_with('/') {
        Ok(())
    } else {
        Err(Error::InvalidKey(key.to_owned()))
    }
}

fn check_prefix(prefix: &str) -> Result<()> {
    if prefix.starts_with('/') && prefix.ends_with('/') {
        Ok(())
    } else {
        Err(Error::InvalidKey(prefix.to_owned()))
    }
}

/// The first key that does not start with `prefix`, which ends with `/`: the character after `/` is `0`.
fn prefix_end(prefix: &str) -> String {
    format!("{}0", &prefix[..prefix.len() - 1])
}
