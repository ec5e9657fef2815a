//! What clients asked and what they were told, with the order in time of both.

use std::{
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Serialize;
use store::Revision;

/// A moment, in no unit: a greater one is later. One counter serves all clients.
pub type Moment = u64;

/// Tells one written value from every other of the run.
pub type ValueId = u64;

/// The number of the key that ends a group: it is written after everything else.
pub const LAST_KEY: u16 = u16::MAX;

/// A key, as all targets can name it: a group is a prefix of the store, or a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Key {
    /// Which prefix.
    pub group: u8,
    /// Which key below it.
    pub number: u16,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.group, self.number)
    }
}

/// A key that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// The value written last.
    pub value: ValueId,
    /// The revision of that write.
    pub mod_revision: Revision,
}

/// What a client asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Request {
    /// The newest state of a key.
    Get(Key),
    /// All keys of a group (`None`: of all groups), at a revision (`None`: at the newest).
    List(Option<u8>, Option<Revision>),
    /// All keys of a group as any state that is at hand has them, be it the newest or not.
    StaleList(Option<u8>),
    /// A write of a key that must be absent; with `ttl` the store may delete it by itself.
    Create {
        /// Which key.
        key: Key,
        /// What to write.
        value: ValueId,
        /// It may expire.
        ttl: bool,
    },
    /// A write of a key that must stand at `expected`.
    Update {
        /// Which key.
        key: Key,
        /// What to write.
        value: ValueId,
        /// The modification revision it must have.
        expected: Revision,
    },
    /// The deletion of a key that must stand at `expected`.
    Delete {
        /// Which key.
        key: Key,
        /// The modification revision it must have.
        expected: Revision,
    },
    /// History up to the revision is to be forgotten.
    Compact(Revision),
}

impl Request {
    /// The key, of requests that are about one.
    pub fn key(&self) -> Option<Key> {
        match self {
            Request::Get(key)
            | Request::Create { key, .. }
            | Request::Update { key, .. }
            | Request::Delete { key, .. } => Some(*key),
            Request::List(..) | Request::StaleList(_) | Request::Compact(_) => None,
        }
    }

    /// Whether it may change a key.
    pub fn is_write(&self) -> bool {
        matches!(
            self,
            Request::Create { .. } | Request::Update { .. } | Request::Delete { .. }
        )
    }
}

/// What a client was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Answer {
    /// To a get: the key, and the store's revision where that is told.
    Found {
        /// `None`: the key is absent.
        standing: Option<Standing>,
        /// When.
        revision: Option<Revision>,
    },
    /// To a list.
    Listed {
        /// In key order.
        items: Vec<(Key, Standing)>,
        /// Of the whole store, when it was read.
        revision: Revision,
    },
    /// The write is done. The revision is not always told.
    Written(Option<Revision>),
    /// The write's condition does not hold; the key as it stands, where that is told.
    Refused(Option<Option<Standing>>),
    /// The revision that was asked for is forgotten.
    Compacted,
    /// The history is forgotten as asked.
    Done,
    /// There was no answer, or a failure: a write may or may not have happened, and may happen yet.
    Unknown(String),
    /// An answer that no store may ever give, such as a value that nobody wrote.
    Nonsense(String),
}

/// A request and its answer.
#[derive(Debug, Clone, Serialize)]
pub struct Operation {
    /// When it was asked.
    pub called: Moment,
    /// When it was answered.
    pub returned: Moment,
    /// What was asked.
    pub request: Request,
    /// What was told.
    pub answer: Answer,
}

/// One change, as a watch tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// The revision of the write.
    pub revision: Revision,
    /// The key that changed.
    pub key: Key,
    /// What became of it.
    pub change: Change,
    /// The value before (`None` in it: the key was absent), where that is told.
    pub previous: Option<Option<ValueId>>,
}

/// What became of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Change {
    /// It was absent before.
    Created(ValueId),
    /// It stood before.
    Updated(ValueId),
    /// It is absent now.
    Deleted,
}

impl Change {
    /// The value written.
    pub fn value(self) -> Option<ValueId> {
        match self {
            Change::Created(value) | Change::Updated(value) => Some(value),
            Change::Deleted => None,
        }
    }
}

/// What a watch tells at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Batch {
    /// In order.
    pub events: Vec<Event>,
    /// Everything up to here has been told with this batch.
    pub progress: Option<Revision>,
}

/// One watch, from its opening to its end.
#[derive(Debug, Clone, Serialize)]
pub struct Watched {
    /// Which keys; `None`: all.
    pub group: Option<u8>,
    /// It is to begin after this revision.
    pub after: Revision,
    /// When it was asked for.
    pub called: Moment,
    /// What it told.
    pub batches: Vec<Batch>,
    /// It ended, or could not begin, because the history it wanted is forgotten.
    pub compacted: bool,
}

/// A whole run.
#[derive(Debug, Default, Serialize)]
pub struct History {
    /// The store's revision before it, when the keys were absent.
    pub start: Revision,
    /// Every revision after `start` belongs to a key of the run.
    pub contiguous: bool,
    /// What the clients did.
    pub operations: Vec<Operation>,
    /// What one watch of all keys told from the start to the end.
    pub log: Vec<Event>,
    /// What the others told.
    pub watches: Vec<Watched>,
    /// What watches told that no store may tell.
    pub nonsense: Vec<String>,
}

/// Where all clients of a run write down what happens to them.
#[derive(Debug, Default)]
pub struct Recorder {
    clock: AtomicU64,
    operations: Mutex<Vec<Operation>>,
    watches: Mutex<Vec<Watched>>,
}

impl Recorder {
    /// This moment, later than every one before.
    pub fn now(&self) -> Moment {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// Asks through `ask` and notes what came of it.
    pub async fn operation(&self, request: Request, ask: impl AsyncFnOnce(&Request) -> Answer) -> Answer {
        let called = self.now();
        let answer = ask(&request).await;
        let operation = Operation {
            called,
            returned: self.now(),
            request,
            answer: answer.clone(),
        };
        lock(&self.operations).push(operation);
        answer
    }

    /// Notes a watch that has ended.
    pub fn watch(&self, watched: Watched) {
        lock(&self.watches).push(watched);
    }

    /// Ends the run. `log` is what the one uninterrupted watch told.
    pub fn finish(&self, start: Revision, contiguous: bool, log: Vec<Event>) -> History {
        History {
            start,
            contiguous,
            operations: std::mem::take(&mut lock(&self.operations)),
            log,
            watches: std::mem::take(&mut lock(&self.watches)),
            nonsense: Vec::new(),
        }
    }
}

/// No code panics while it holds one of these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
