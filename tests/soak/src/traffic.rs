//! Random clients and watchers, in about the proportions of a Kubernetes API server's.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use store::Revision;
use tokio::sync::watch;

use crate::{
    history::{Answer, Batch, Event, History, Key, LAST_KEY, Recorder, Request, Standing, ValueId, Watched},
    target::{Target, Watch, WatchEnd},
};

/// The pause of a watcher before it tries again, and of a client after a lost answer.
const PAUSE: Duration = Duration::from_millis(20);

/// What kind of run it is.
#[derive(Debug, Clone)]
pub struct Profile {
    /// How many writes are acknowledged in all.
    pub writes: usize,
    /// How many clients ask at the same time.
    pub clients: usize,
    /// How many watchers there are, beside the one that keeps the log.
    pub watchers: usize,
    /// How many groups of keys there are.
    pub groups: u8,
    /// How many keys a group has.
    pub keys: u16,
    /// What share of the requests only reads.
    pub reads: f64,
    /// Somebody compacts the history now and then, and some values expire.
    pub forgets: bool,
}

/// How far a run has come, for whoever breaks things during it.
#[derive(Debug, Clone)]
pub struct Progress {
    acknowledged: watch::Receiver<usize>,
}

impl Progress {
    /// Waits until so many more writes are acknowledged.
    pub async fn more(&mut self, writes: usize) {
        let goal = *self.acknowledged.borrow() + writes;
        if self.acknowledged.wait_for(|now| *now >= goal).await.is_err() {
            // The run is over: nothing more is to break.
            std::future::pending().await
        }
    }
}

/// What the tasks of a run share.
struct Run<T> {
    target: T,
    profile: Profile,
    recorder: Recorder,
    start: Revision,
    /// What clients believe, each key as somebody was told last.
    believed: Mutex<BTreeMap<Key, Option<Standing>>>,
    acknowledged: watch::Sender<usize>,
    next_value: AtomicU64,
    /// The log's watch has told everything up to here.
    logged: AtomicU64,
    nonsense: Mutex<Vec<String>>,
}

/// Runs the clients and watchers while `faults` breaks what they use; it is dropped when the clients are done, and then
/// `heal` puts right what it left broken.
pub async fn run<T: Target>(
    target: T,
    profile: Profile,
    seed: u64,
    faults: impl AsyncFnOnce(Progress),
    heal: impl AsyncFnOnce(),
) -> History {
    let start = target.revision().await;
    let run = Arc::new(Run {
        start,
        recorder: Recorder::default(),
        believed: Mutex::default(),
        acknowledged: watch::Sender::new(0),
        next_value: AtomicU64::new(1),
        logged: AtomicU64::new(start),
        nonsense: Mutex::default(),
        target,
        profile,
    });
    let mut random = StdRng::seed_from_u64(seed);
    let logger = tokio::spawn(run.clone().keep_log());
    let watchers: Vec<_> = (0..run.profile.watchers)
        .map(|_| tokio::spawn(run.clone().watcher(StdRng::from_rng(&mut random))))
        .collect();
    let clients: Vec<_> = (0..run.profile.clients)
        .map(|_| tokio::spawn(run.clone().client(StdRng::from_rng(&mut random))))
        .collect();
    let progress = Progress {
        acknowledged: run.acknowledged.subscribe(),
    };
    tokio::select! {
        _ = futures::future::join_all(clients) => {}
        () = async { faults(progress).await; std::future::pending().await } => {}
    }
    heal().await;
    run.write_last_keys().await;
    let log = logger.await.unwrap_or_default();
    futures::future::join_all(watchers).await;
    let mut history = run.recorder.finish(start, T::CONTIGUOUS, log);
    history.nonsense = std::mem::take(&mut *run.nonsense.lock().unwrap_or_else(PoisonError::into_inner));
    history
}

impl<T: Target> Run<T> {
    async fn client(self: Arc<Self>, mut random: StdRng) {
        while *self.acknowledged.borrow() < self.profile.writes {
            let request = self.draw(&mut random);
            let answer = self.ask(request).await;
            if matches!(answer, Answer::Unknown(_)) {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn ask(&self, request: Request) -> Answer {
        let is_write = request.is_write();
        let answer = self
            .recorder
            .operation(request.clone(), async |request| self.target.ask(request).await)
            .await;
        if is_write && matches!(answer, Answer::Written(_)) {
            self.acknowledged.send_modify(|count| *count += 1);
        }
        self.learn(&request, &answer);
        answer
    }

    fn draw(&self, random: &mut StdRng) -> Request {
        let profile = &self.profile;
        let group = random.random_range(0..profile.groups);
        let key = Key {
            group,
            number: random.random_range(0..profile.keys),
        };
        if random.random_bool(profile.reads) {
            let group = random.random_bool(0.7).then_some(group);
            let logged = self.logged.load(Ordering::Relaxed);
            return match random.random_range(0..100) {
                0..50 => Request::Get(key),
                50..75 => Request::List(group, None),
                75..80 => Request::StaleList(group),
                _ => Request::List(group, Some(recent(self.start, logged, random))),
            };
        }
        if profile.forgets && random.random_ratio(1, 300) {
            // Not beyond what the log's watch has told: there would be a hole in it.
            let logged = self.logged.load(Ordering::Relaxed);
            return Request::Compact(recent(self.start, logged, random));
        }
        let believed = self.lock_believed().get(&key).copied();
        let value = self.next_value.fetch_add(1, Ordering::Relaxed);
        match (believed, random.random_range(0..100)) {
            (None, 50..) => Request::Get(key),
            // Sometimes against what is believed.
            (None | Some(None), _) | (_, 0..5) => Request::Create {
                key,
                value,
                ttl: profile.forgets && random.random_ratio(1, 20),
            },
            (Some(Some(standing)), 5..75) => Request::Update {
                key,
                value,
                expected: standing.mod_revision,
            },
            (Some(Some(standing)), 75..95) => Request::Delete {
                key,
                expected: standing.mod_revision,
            },
            (Some(Some(standing)), _) => Request::Update {
                key,
                value,
                expected: standing.mod_revision.saturating_sub(1).max(1),
            },
        }
    }

    /// Keeps what an answer says of its key, so that most writes meet their condition.
    fn learn(&self, request: &Request, answer: &Answer) {
        let standing = match (request, answer) {
            (Request::Get(_), Answer::Found { standing, .. }) => *standing,
            (_, Answer::Refused(Some(told))) => *told,
            (Request::Delete { .. }, Answer::Written(_)) => None,
            (
                Request::Create { value, .. } | Request::Update { value, .. },
                Answer::Written(Some(revision)),
            ) => Some(Standing {
                value: *value,
                mod_revision: *revision,
            }),
            (Request::List(_, None), Answer::Listed { items, .. }) => {
                let mut believed = self.lock_believed();
                believed.extend(items.iter().map(|(key, standing)| (*key, Some(*standing))));
                return;
            }
            // Nothing is known any more; somebody has to look.
            (_, Answer::Refused(None)) => {
                if let Some(key) = request.key() {
                    self.lock_believed().remove(&key);
                }
                return;
            }
            _ => return,
        };
        if let Some(key) = request.key() {
            self.lock_believed().insert(key, standing);
        }
    }

    fn lock_believed(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, Option<Standing>>> {
        self.believed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends each group with a key that is written after everything else.
    async fn write_last_keys(&self) {
        for group in 0..self.profile.groups {
            loop {
                let key = Key {
                    group,
                    number: LAST_KEY,
                };
                let value: ValueId = self.next_value.fetch_add(1, Ordering::Relaxed);
                let request = Request::Create {
                    key,
                    value,
                    ttl: false,
                };
                match self.ask(request).await {
                    // It may be there from an attempt whose answer was lost.
                    Answer::Written(_) | Answer::Refused(_) => break,
                    _ => tokio::time::sleep(PAUSE).await,
                }
            }
        }
    }

    /// The watch of all keys that is never let down: it goes on exactly where it was, whatever happens.
    async fn keep_log(self: Arc<Self>) -> Vec<Event> {
        let mut log = Vec::new();
        let mut last = LastKeys::new(&self.profile, None);
        while !last.seen() {
            let mut watch = match self.target.watch(None, self.logged.load(Ordering::Relaxed)).await {
                Ok(watch) => watch,
                Err(end) => {
                    if self.is_fatal(&end, "the log's watch") {
                        return log;
                    }
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            while !last.seen() {
                match watch.next().await {
                    Ok(batch) => {
                        batch.events.iter().for_each(|event| last.note(event.key));
                        let position = position(&batch);
                        log.extend(batch.events);
                        self.logged
                            .fetch_max(position.unwrap_or_default(), Ordering::Relaxed);
                    }
                    Err(end) => {
                        if self.is_fatal(&end, "the log's watch") {
                            return log;
                        }
                        break;
                    }
                }
            }
        }
        log
    }

    /// The log's watch is never to be told that what it wants is forgotten.
    fn is_fatal(&self, end: &WatchEnd, who: &str) -> bool {
        let why = match end {
            WatchEnd::Broken(_) => return false,
            WatchEnd::Compacted => format!("{who} is told that what it waits for is forgotten"),
            WatchEnd::Nonsense(why) => format!("{who}: {why}"),
        };
        self.nonsense
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(why);
        true
    }

    /// A watcher like any client: it goes on where it was, after breaks of its own and of others, lists again when it has
    /// to, and sometimes begins somewhere in the past.
    async fn watcher(self: Arc<Self>, mut random: StdRng) {
        let group = random
            .random_bool(0.7)
            .then(|| random.random_range(0..self.profile.groups));
        let mut last = LastKeys::new(&self.profile, group);
        let mut after = self.start;
        while !last.seen() {
            let mut watched = Watched {
                group,
                after,
                called: self.recorder.now(),
                batches: Vec::new(),
                compacted: false,
            };
            let patience = random.random_range(1..400);
            let end = self.read_watch(&mut watched, &mut last, patience).await;
            after = watched
                .batches
                .iter()
                .filter_map(position)
                .fold(after, Revision::max);
            watched.compacted = end == Some(WatchEnd::Compacted);
            self.recorder.watch(watched);
            match end {
                Some(WatchEnd::Compacted) => after = self.relist(group, &mut last).await,
                Some(end) if self.is_fatal(&end, "a watch") => return,
                Some(_) => tokio::time::sleep(PAUSE).await,
                None if random.random_ratio(1, 10) => after = recent(self.start, after, &mut random),
                None => {}
            }
        }
    }

    async fn read_watch(
        &self,
        watched: &mut Watched,
        last: &mut LastKeys,
        patience: usize,
    ) -> Option<WatchEnd> {
        let mut watch = match self.target.watch(watched.group, watched.after).await {
            Ok(watch) => watch,
            Err(end) => return Some(end),
        };
        let mut told = 0;
        while told < patience && !last.seen() {
            match watch.next().await {
                Ok(batch) => {
                    told += batch.events.len();
                    batch.events.iter().for_each(|event| last.note(event.key));
                    watched.batches.push(batch);
                }
                Err(end) => return Some(end),
            }
        }
        None
    }

    /// The revision of a fresh list.
    async fn relist(&self, group: Option<u8>, last: &mut LastKeys) -> Revision {
        loop {
            match self.ask(Request::List(group, None)).await {
                Answer::Listed { items, revision } => {
                    items.iter().for_each(|(key, _)| last.note(*key));
                    return revision;
                }
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}

/// Which of the keys that end the groups a watch has yet to see.
struct LastKeys(Vec<u8>);

impl LastKeys {
    fn new(profile: &Profile, group: Option<u8>) -> LastKeys {
        match group {
            Some(group) => LastKeys(vec![group]),
            None => LastKeys((0..profile.groups).collect()),
        }
    }

    fn note(&mut self, key: Key) {
        if key.number == LAST_KEY {
            self.0.retain(|group| *group != key.group);
        }
    }

    fn seen(&self) -> bool {
        self.0.is_empty()
    }
}

/// Where a reader stands after a batch.
fn position(batch: &Batch) -> Option<Revision> {
    batch
        .progress
        .max(batch.events.last().map(|event| event.revision))
}

/// A revision between the two, mostly near the end, and never so far back that reading from there takes most of the time.
fn recent(start: Revision, end: Revision, random: &mut StdRng) -> Revision {
    let span = end.saturating_sub(start);
    let back = match random.random_range(0..4) {
        0 => random.random_range(0..=span.min(2000)),
        _ => random.random_range(0..=span.min(100)),
    };
    end - back
}
