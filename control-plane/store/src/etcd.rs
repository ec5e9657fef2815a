//! The store over an etcd cluster of version 3.4 or newer, with upstream's keys and values as they are.
//!
//! Writes are transactions on the modification revision; reads are linearizable. All watches of this process share one
//! etcd watch, the feed, which follows *every* key from the revision the store was opened at. Following only a prefix would
//! need progress notifications to tell how far a silent prefix has come, and those of etcd before 3.4.25 and 3.5.8 may
//! overtake the events they speak of (etcd issue 15220). Every revision has an event on some key, so a watch of all keys
//! knows its progress from the events alone, on every version. The price is that the certificate must allow to read all
//! keys and that writes of other users of the same cluster pass through here.
//!
//! What happened before a watch began is read with an etcd watch of its own, as slowly as its reader likes.

mod api;
mod backup;
mod compactor;
mod follower;
pub(crate) mod fuzzing;
mod keyspace;
mod leases;
mod members;
mod newest;
mod responses;

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::task::AbortHandle;

use self::{
    api::{
        Api, CompactionRequest, Compare, DeleteRangeRequest, Operation, PutRequest, RangeRequest, TxnRequest,
        TxnResponse,
    },
    follower::Follower,
    keyspace::Keyspace,
    leases::Leases,
    members::Members,
    newest::Newest,
    responses::{etcd_revision, key_value},
};
use crate::{
    Error, EtcdFailure, KeyValue, ListOptions, Listing, Result, Revision, Store, WatchStream, check_key,
    check_prefix,
    watch::{Backlog, Hub},
};

/// A list of everything is asked for in pages of so many keys, so that no single answer is huge.
const PAGE: usize = 5000;

/// How long a compaction waits for this process's own feed.
const COMPACTION_PATIENCE: Duration = Duration::from_secs(5);

/// How an [`Etcd`] store is reached.
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    /// The members' client URLs. They must be of one cluster.
    pub endpoints: Vec<String>,
    /// For `https` endpoints.
    pub tls: Option<EtcdTls>,
    /// What etcd's keys begin with where ours begin with `/registry`.
    pub prefix: String,
    /// How long members that do not answer are tried in turn before a request fails. An election takes a second or two.
    pub patience: Duration,
    /// After so many undelivered events a watch is cut off.
    pub watch_buffer_events: usize,
    /// History older than one to two such intervals is forgotten; `None` leaves that to others.
    pub compaction_interval: Option<Duration>,
}

impl EtcdOptions {
    /// The defaults for a cluster without TLS.
    pub fn new(endpoints: Vec<String>) -> EtcdOptions {
        EtcdOptions {
            endpoints,
            tls: None,
            prefix: keyspace::ROOT.to_owned(),
            patience: Duration::from_secs(10),
            watch_buffer_events: 8192,
            compaction_interval: Some(Duration::from_secs(300)),
        }
    }
}

/// PEM files that protect the connection.
#[derive(Debug, Clone)]
pub struct EtcdTls {
    /// The certificates that the servers' are checked against.
    pub ca_file: PathBuf,
    /// The client's certificate and its key, for servers that ask for one.
    pub client_files: Option<(PathBuf, PathBuf)>,
}

/// A store in an etcd cluster. Dropping it ends its watches with [`Error::Closed`].
#[derive(Debug)]
pub struct Etcd {
    shared: Arc<Shared>,
    hub: Arc<Hub>,
    leases: Leases,
    newest: Newest,
    tasks: Vec<AbortHandle>,
}

/// What the store's tasks need of it.
#[derive(Debug)]
struct Shared {
    members: Members,
    keyspace: Keyspace,
}

impl Etcd {
    /// Connects to the cluster and begins to follow it. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::ReadFile`] for a certificate that cannot be read, [`Error::Etcd`] when no member answers.
    pub async fn connect(options: EtcdOptions) -> Result<Etcd> {
        let shared = Arc::new(Shared {
            members: Members::new(&options)?,
            keyspace: Keyspace::new(&options.prefix),
        });
        let start = shared.members.revision().await?;
        let hub = Arc::new(Hub::new(start, options.watch_buffer_events));
        let mut follower = Follower::new(shared.clone(), start);
        follower.open().await?;
        let feed = follower::feed(follower, hub.clone());
        let mut tasks = vec![tokio::spawn(feed).abort_handle()];
        if let Some(interval) = options.compaction_interval {
            tasks.push(tokio::spawn(compactor::run(shared.clone(), interval)).abort_handle());
        }
        Ok(Etcd {
            shared,
            hub,
            leases: Leases::default(),
            newest: Newest::default(),
            tasks,
        })
    }

    /// A put under the condition that the key has this modification revision; 0: that it is absent.
    async fn put(&self, key: &str, value: &Bytes, expected: i64, ttl: Option<Duration>) -> Result<Outcome> {
        let etcd_key = self.shared.keyspace.theirs(key)?;
        let mut lease_lost = false;
        loop {
            let lease = match ttl {
                Some(ttl) => Some(self.leases.lease_for(&self.shared.members, ttl).await?),
                None => None,
            };
            let put = Operation::Put(PutRequest {
                key: etcd_key.clone(),
                value: value.clone(),
                lease: lease.unwrap_or_default(),
            });
            let transaction = conditional(etcd_key.clone(), expected, put);
            match (self.transact(key, "write a key", transaction).await, lease) {
                // An administrator may have revoked it, or this process slept for longer than it lasts.
                (Err(Error::Etcd { source, .. }), Some(lease))
                    if !lease_lost && members::is_unknown_lease(&source) =>
                {
                    lease_lost = true;
                    self.leases.forget(lease).await;
                }
                (outcome, _) => return outcome,
            }
        }
    }

    async fn transact(&self, key: &str, operation: &'static str, transaction: TxnRequest) -> Result<Outcome> {
        let members = &self.shared.members;
        let answer = members
            .write(operation, |api| api.txn(transaction.clone()))
            .await?;
        outcome(answer, key).map_err(|failure| members.failed(operation, failure))
    }

    /// Waits until the feed has told everything up to a revision: a previous value that is compacted before is lost to it.
    async fn told(&self, revision: Revision) -> Result<()> {
        let now = self.hub.published();
        let mut watch = self.hub.subscribe("/", now, || stream::empty().boxed());
        while watch.delivered() < revision {
            watch.advance(watch.delivered()).await?;
        }
        Ok(())
    }

    /// The conflict that a write meets whose expected revision no key can have.
    async fn impossible(&self, key: &str, expected: Revision) -> Error {
        match self.get(key).await {
            Ok((current, _)) => Error::Conflict {
                key: key.into(),
                expected,
                current,
            },
            Err(error) => error,
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        self.hub.close();
    }
}

impl Store for Etcd {
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision)> {
        check_key(key)?;
        let members = &self.shared.members;
        let request = RangeRequest {
            key: self.shared.keyspace.theirs(key)?,
            ..RangeRequest::default()
        };
        let answer = members
            .read("read a key", |api| api.range(request.clone()))
            .await?;
        let failed = |failure| members.failed("read a key", failure);
        let revision = members::header_revision(answer.header.as_ref()).map_err(failed)?;
        let found = answer.kvs.into_iter().next();
        let found = found.map(|found| key_value(found, key.into())).transpose();
        Ok((found.map_err(failed)?, revision))
    }

    async fn list(&self, prefix: &str, options: ListOptions) -> Result<Listing> {
        check_prefix(prefix)?;
        let (mut start, end) = self.shared.keyspace.range(prefix, options.after.as_deref())?;
        let limit = match options.limit {
            0 => usize::MAX,
            limit => limit,
        };
        let mut items = Vec::new();
        let mut revision = options.revision;
        loop {
            let page = (limit - items.len()).min(PAGE);
            let answer = self
                .shared
                .range(start.clone(), end.clone(), page, revision)
                .await?;
            // The pages after the first are of the same revision.
            let revision = *revision.get_or_insert(answer.revision);
            let got = answer.found.len() as u64;
            let remaining = answer.count.saturating_sub(got);
            if let Some(last) = answer.found.last() {
                start = [&last.key, &[0][..]].concat().into();
            }
            for item in answer.found {
                // Other users' keys that are no text are none of ours.
                if let Some(key) = self.shared.keyspace.ours(&item.key) {
                    let item = key_value(item, key);
                    items.push(item.map_err(|failure| self.shared.members.failed("list keys", failure))?);
                }
            }
            if got == 0 || remaining == 0 || items.len() == limit {
                return Ok(Listing {
                    items,
                    revision,
                    remaining,
                });
            }
        }
    }

    async fn create(&self, key: &str, value: Bytes, ttl: Option<Duration>) -> Result<Revision> {
        check_key(key)?;
        match self.put(key, &value, 0, ttl).await? {
            Outcome::Done(revision) => Ok(revision),
            Outcome::Stands(Some(current)) => Err(Error::AlreadyExists { current }),
            Outcome::Stands(None) => {
                let failure = EtcdFailure::Malformed("a key is neither there nor absent");
                Err(self.shared.members.failed("write a key", failure))
            }
        }
    }

    async fn update(
        &self,
        key: &str,
        value: Bytes,
        expected: Revision,
        ttl: Option<Duration>,
    ) -> Result<Revision> {
        check_key(key)?;
        let Some(condition) = condition(expected) else {
            return Err(self.impossible(key, expected).await);
        };
        match self.put(key, &value, condition, ttl).await? {
            Outcome::Done(revision) => Ok(revision),
            Outcome::Stands(current) => Err(Error::Conflict {
                key: key.into(),
                expected,
                current,
            }),
        }
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<Revision> {
        check_key(key)?;
        let Some(condition) = condition(expected) else {
            return Err(self.impossible(key, expected).await);
        };
        let etcd_key = self.shared.keyspace.theirs(key)?;
        let delete = Operation::DeleteRange(DeleteRangeRequest {
            key: etcd_key.clone(),
        });
        let transaction = conditional(etcd_key, condition, delete);
        match self.transact(key, "delete a key", transaction).await? {
            Outcome::Done(revision) => Ok(revision),
            Outcome::Stands(current) => Err(Error::Conflict {
                key: key.into(),
                expected,
                current,
            }),
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream> {
        check_prefix(prefix)?;
        // A read at that revision tells at once what the watch would tell late: that it is compacted.
        let nothing = self.shared.members.probe_key();
        match self.shared.range(nothing, Bytes::new(), 1, Some(after)).await {
            Ok(_) | Err(Error::FutureRevision { .. }) => {}
            Err(error) => return Err(error),
        }
        // The first revision is that of an empty etcd: no event will ever tell that it was reached.
        let after = after.max(1);
        Ok(self.hub.subscribe(prefix, after, || {
            let follower = Follower::new(self.shared.clone(), after);
            let prefix: Arc<str> = prefix.into();
            stream::unfold(Some(follower), move |follower| {
                let prefix = prefix.clone();
                async move {
                    let mut follower = follower?;
                    let page = match follower.next().await {
                        Ok(mut batch) => {
                            batch.events.retain(|event| event.key().starts_with(&*prefix));
                            Backlog {
                                events: batch.events,
                                end: batch.revision,
                            }
                        }
                        Err(error) => return Some((Err(error), None)),
                    };
                    Some((Ok(page), Some(follower)))
                }
            })
            .boxed()
        }))
    }

    async fn current_revision(&self) -> Result<Revision> {
        let shared = self.shared.clone();
        let question = || async move { shared.members.revision().await };
        self.newest.ask(question).await
    }

    async fn size_bytes(&self) -> Result<u64> {
        let operation = "tell its size";
        let members = &self.shared.members;
        let answer = members.read(operation, Api::status).await?;
        u64::try_from(answer.size_bytes)
            .map_err(|_| members.failed(operation, EtcdFailure::Malformed("its size is negative")))
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        if revision > self.hub.published() {
            let current = self.current_revision().await?;
            if revision > current {
                return Err(Error::FutureRevision {
                    requested: revision,
                    current,
                });
            }
            // A feed that does not get there has been interrupted; its watches then start over anyway.
            let _ = tokio::time::timeout(COMPACTION_PATIENCE, self.told(revision)).await;
        }
        self.shared.compact(revision).await
    }
}

/// What a conditional write came to.
enum Outcome {
    Done(Revision),
    /// The condition did not hold; the key as it stands.
    Stands(Option<KeyValue>),
}

/// One answer to a range request.
struct Page {
    found: Vec<api::KeyValue>,
    /// How many keys the whole range has.
    count: u64,
    /// Of the store, when it was asked.
    revision: Revision,
}

impl Shared {
    /// Reads `[start, end)`, or only `start` when `end` is empty.
    async fn range(
        &self,
        start: Bytes,
        end: Bytes,
        limit: usize,
        revision: Option<Revision>,
    ) -> Result<Page> {
        let operation = "list keys";
        let request = RangeRequest {
            key: start,
            range_end: end,
            limit: limit.try_into().unwrap_or(i64::MAX),
            revision: revision.map_or(0, etcd_revision),
            ..RangeRequest::default()
        };
        let answer = self.members.read(operation, |api| api.range(request.clone()));
        let answer = match answer.await {
            Ok(answer) => answer,
            Err(error) => return Err(self.refine(error, revision.unwrap_or_default()).await),
        };
        let newest = members::header_revision(answer.header.as_ref())
            .map_err(|failure| self.members.failed(operation, failure))?;
        Ok(Page {
            count: answer.count.try_into().unwrap_or_default(),
            found: answer.kvs,
            revision: newest,
        })
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        let request = CompactionRequest {
            revision: etcd_revision(revision),
        };
        let answer = self
            .members
            .read("compact its history", |api| api.compact(request.clone()));
        match answer.await {
            Ok(_) => Ok(()),
            Err(error) => match self.refine(error, revision).await {
                // Somebody was faster.
                Error::Compacted { .. } => Ok(()),
                error => Err(error),
            },
        }
    }

    /// Says with revisions what etcd only says with words.
    async fn refine(&self, error: Error, requested: Revision) -> Error {
        match members::out_of_range(&error) {
            Some(members::OutOfRange::Compacted) => Error::Compacted {
                requested,
                compacted: follower::compacted_revision(self, requested).await,
            },
            Some(members::OutOfRange::Future) => match self.members.revision().await {
                Ok(current) => Error::FutureRevision { requested, current },
                Err(error) => error,
            },
            None => error,
        }
    }
}

/// The modification revision that a key must have; none for what no key of etcd has.
fn condition(expected: Revision) -> Option<i64> {
    i64::try_from(expected).ok().filter(|expected| *expected > 0)
}

fn conditional(key: Bytes, mod_revision: i64, operation: Operation) -> TxnRequest {
    let get = RangeRequest {
        key: key.clone(),
        ..RangeRequest::default()
    };
    TxnRequest {
        compare: vec![Compare::mod_revision(key, mod_revision)],
        success: vec![operation.into()],
        failure: vec![Operation::Range(get).into()],
    }
}

fn outcome(answer: TxnResponse, key: &str) -> Result<Outcome, EtcdFailure> {
    if answer.succeeded {
        return members::header_revision(answer.header.as_ref()).map(Outcome::Done);
    }
    let current = members::first_range(answer.responses)?.kvs.into_iter().next();
    let current = current.map(|current| key_value(current, key.into()));
    Ok(Outcome::Stands(current.transpose()?))
}

#[cfg(test)]
mod tests;
