//! What is asked: the different ways to one contract.

pub mod api;
pub mod embedded;
pub mod etcd;
mod value;

use std::future::Future;

use store::{ListOptions, Revision, Store, WatchStream};

use crate::history::{Answer, Batch, Change, Event, Key, Request, Standing, ValueId};

/// A store, however it is reached.
pub trait Target: Send + Sync + 'static {
    /// A watch of it.
    type Watch: Watch;

    /// All revisions during a run belong to the run's keys.
    const CONTIGUOUS: bool;

    /// Carries out a request.
    fn ask(&self, request: &Request) -> impl Future<Output = Answer> + Send;

    /// The newest revision, for the start of a run; waits for as long as that takes.
    fn revision(&self) -> impl Future<Output = Revision> + Send;

    /// Begins a watch of a group (`None`: of all groups) after a revision.
    fn watch(
        &self,
        group: Option<u8>,
        after: Revision,
    ) -> impl Future<Output = Result<Self::Watch, WatchEnd>> + Send;
}

/// A running watch.
pub trait Watch: Send {
    /// What it tells next.
    fn next(&mut self) -> impl Future<Output = Result<Batch, WatchEnd>> + Send;
}

/// Why a watch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEnd {
    /// The history it wants is forgotten: its reader has to list.
    Compacted,
    /// Anything else: its reader goes on where it was.
    Broken(String),
    /// It told what no store may tell.
    Nonsense(String),
}

/// How long a value of a soak lives that the store is to delete by itself.
const TTL: std::time::Duration = std::time::Duration::from_millis(1500);

fn path(key: Key) -> String {
    format!("/registry/soak/{}/{}", key.group, key.number)
}

fn prefix(group: Option<u8>) -> String {
    match group {
        Some(group) => format!("/registry/soak/{group}/"),
        None => "/registry/soak/".to_owned(),
    }
}

fn key(path: &str) -> Result<Key, String> {
    let parse = || {
        let (group, number) = path.strip_prefix("/registry/soak/")?.split_once('/')?;
        Some(Key {
            group: group.parse().ok()?,
            number: number.parse().ok()?,
        })
    };
    parse().ok_or_else(|| format!("{path:?} is nobody's key"))
}

/// A request to anything that keeps the store's contract.
async fn ask(store: &impl Store, request: &Request) -> Answer {
    let answer = match request {
        Request::Get(key) => match store.get(&path(*key)).await {
            Ok((found, revision)) => found
                .as_ref()
                .map(standing)
                .transpose()
                .map(|standing| Answer::Found {
                    standing,
                    revision: Some(revision),
                }),
            Err(error) => Ok(failed(&error)),
        },
        Request::List(group, revision) => list(store, *group, *revision).await,
        // A store has no other state at hand.
        Request::StaleList(group) => list(store, *group, None).await,
        Request::Create { key, value, ttl } => {
            let content = value::encode(*value);
            written(store.create(&path(*key), content, ttl.then_some(TTL)).await)
        }
        Request::Update { key, value, expected } => {
            let content = value::encode(*value);
            written(store.update(&path(*key), content, *expected, None).await)
        }
        Request::Delete { key, expected } => written(store.delete(&path(*key), *expected).await),
        Request::Compact(revision) => match store.compact(*revision).await {
            Ok(()) => Ok(Answer::Done),
            Err(error) => Ok(failed(&error)),
        },
    };
    answer.unwrap_or_else(Answer::Nonsense)
}

/// In pages, so that these are checked too.
async fn list(store: &impl Store, group: Option<u8>, revision: Option<Revision>) -> Result<Answer, String> {
    let mut options = ListOptions {
        limit: 7,
        after: None,
        revision,
        // Both ways are to be right.
        uncounted: revision.is_some(),
    };
    let mut items = Vec::new();
    loop {
        let page = match store.list(&prefix(group), options.clone()).await {
            Ok(page) => page,
            // The pages after the first may be compacted away though the first was of the newest revision.
            Err(store::Error::Compacted { .. }) if revision.is_none() => {
                return Ok(Answer::Unknown("compacted between two pages".to_owned()));
            }
            Err(error) => return Ok(failed(&error)),
        };
        for item in &page.items {
            items.push((key(&item.key)?, standing(item)?));
        }
        options.revision = Some(page.revision);
        options.after = page.items.last().map(|item| item.key.to_string());
        if page.remaining == 0 {
            items.sort_unstable_by_key(|(key, _)| *key);
            return Ok(Answer::Listed {
                items,
                revision: page.revision,
            });
        }
    }
}

fn written(result: store::Result<Revision>) -> Result<Answer, String> {
    match result {
        Ok(revision) => Ok(Answer::Written(Some(revision))),
        Err(store::Error::AlreadyExists { current }) => Ok(Answer::Refused(Some(Some(standing(&current)?)))),
        Err(store::Error::Conflict { current, .. }) => {
            let current = current.as_ref().map(standing).transpose()?;
            Ok(Answer::Refused(Some(current)))
        }
        Err(error) => Ok(failed(&error)),
    }
}

fn failed(error: &store::Error) -> Answer {
    match error {
        store::Error::Compacted { .. } => Answer::Compacted,
        store::Error::Storage(_) | store::Error::Closed | store::Error::Etcd { .. } => {
            Answer::Unknown(error.to_string())
        }
        other => Answer::Nonsense(other.to_string()),
    }
}

fn standing(item: &store::KeyValue) -> Result<Standing, String> {
    if item.create_revision > item.mod_revision {
        return Err(format!("{} was written before it was created", item.key));
    }
    Ok(Standing {
        value: value::decode(&item.value)?,
        mod_revision: item.mod_revision,
    })
}

/// A watch of anything that keeps the store's contract.
#[derive(Debug)]
pub struct StoreWatch(WatchStream);

async fn watch(store: &impl Store, group: Option<u8>, after: Revision) -> Result<StoreWatch, WatchEnd> {
    match store.watch(&prefix(group), after).await {
        Ok(stream) => Ok(StoreWatch(stream)),
        Err(error) => Err(watch_end(&error)),
    }
}

fn watch_end(error: &store::Error) -> WatchEnd {
    match error {
        store::Error::WatchOverflow { .. } => WatchEnd::Broken(error.to_string()),
        error => match failed(error) {
            Answer::Compacted => WatchEnd::Compacted,
            Answer::Nonsense(why) => WatchEnd::Nonsense(why),
            _ => WatchEnd::Broken(error.to_string()),
        },
    }
}

impl Watch for StoreWatch {
    async fn next(&mut self) -> Result<Batch, WatchEnd> {
        let known = self.0.delivered();
        let told = self.0.advance(known).await.map_err(|error| watch_end(&error))?;
        let progress = self.0.delivered();
        let events: Result<_, String> = told.iter().map(|it| event(it)).collect();
        Ok(Batch {
            events: events.map_err(WatchEnd::Nonsense)?,
            progress: Some(progress),
        })
    }
}

fn event(told: &store::Event) -> Result<Event, String> {
    let (change, previous) = match told {
        store::Event::Put { current, previous } => {
            let value = standing(current)?.value;
            let is_new = current.create_revision == current.mod_revision;
            if is_new != previous.is_none() {
                return Err(format!("{told:?} is both an update and a creation"));
            }
            let change = if is_new {
                Change::Created(value)
            } else {
                Change::Updated(value)
            };
            (change, previous.as_ref())
        }
        store::Event::Delete { previous, .. } => (Change::Deleted, Some(previous)),
    };
    let previous: Option<ValueId> = previous.map(|it| standing(it).map(|it| it.value)).transpose()?;
    Ok(Event {
        revision: told.revision(),
        key: key(told.key())?,
        change,
        previous: Some(previous),
    })
}
