//! Three members with TLS, killed and brought back under writes: nothing that was acknowledged is lost, and the watch that
//! ran all the while tells every change once.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use super::*;
use crate::Event;

const CLIENTS: usize = 6;
/// Written last.
const END: &str = "/end";

/// By revision, whose which step was acknowledged.
type Acknowledgements = BTreeMap<Revision, (usize, u64)>;

/// The writers' side of the story.
#[derive(Default)]
struct Writers {
    acknowledged: Mutex<Acknowledgements>,
    failures: AtomicUsize,
    stop: AtomicBool,
}

impl Writers {
    /// Creates, updates and deletes its key by turns. After a failure, which may or may not have written, it looks.
    async fn run(&self, store: &Etcd, client: usize) {
        let key = key(client);
        let (mut step, mut revision) = (0, 0);
        // Whether a write without an answer may still be under way.
        let mut doubt = false;
        while !self.stop.load(Ordering::Relaxed) {
            let written = match step % 3 {
                0 => store.create(&key, value(client, step), None).await,
                1 => store.update(&key, value(client, step), revision, None).await,
                _ => store.delete(&key, revision).await,
            };
            match written {
                Ok(written) => {
                    revision = written;
                    let mut acknowledged = self.acknowledged.lock().unwrap();
                    assert_eq!(acknowledged.insert(revision, (client, step)), None);
                    step += 1;
                    doubt = false;
                }
                Err(error) => {
                    assert!(doubt || matches!(error, Error::Etcd { .. }), "{error}");
                    doubt = true;
                    self.failures.fetch_add(1, Ordering::Relaxed);
                    let found = loop {
                        match store.get(&key).await {
                            Ok((found, _)) => break found,
                            Err(error) => assert!(matches!(error, Error::Etcd { .. }), "{error}"),
                        }
                    };
                    revision = found.as_ref().map_or(0, |found| found.mod_revision);
                    let found = found.map(|found| found.value);
                    if found == step_leaves(client, step) {
                        step += 1;
                    } else {
                        assert_eq!(found, step_before(client, step), "{key} before step {step}");
                    }
                }
            }
        }
    }

    /// Waits until so many more writes are acknowledged.
    async fn more(&self, count: usize) {
        let acknowledged = || self.acknowledged.lock().unwrap().len();
        let goal = acknowledged() + count;
        while acknowledged() < goal {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go() {
    let mut cluster = Cluster::with_tls(3);
    let options = EtcdOptions {
        compaction_interval: None,
        ..cluster.options()
    };
    let store = Etcd::connect(options).await.unwrap();
    let start = store.current_revision().await.unwrap();
    let writers = Writers::default();
    let all = futures::future::join_all((0..CLIENTS).map(|client| writers.run(&store, client)));
    let story = async {
        writers.more(200).await;
        // The one that all requests and the watch go to.
        cluster.kill_member(0);
        writers.more(200).await;
        cluster.start_member(0);
        writers.more(200).await;
        // From here the one that was away is needed for every write.
        cluster.kill_member(1);
        writers.more(200).await;
        cluster.start_member(1);
        writers.more(100).await;
        writers.stop.store(true, Ordering::Relaxed);
    };
    let watcher = async {
        let mut watch = store.watch("/", start).await.unwrap();
        let mut events = Vec::<Arc<Event>>::new();
        while events.last().is_none_or(|event| &**event.key() != END) {
            for event in watch.next().await.unwrap().unwrap() {
                let next = start + 1 + events.len() as Revision;
                assert_eq!(event.revision(), next, "the watch misses or repeats");
                events.push(event);
            }
        }
        events
    };
    let writing = async {
        futures::join!(all, story);
        store.create(END, Bytes::new(), None).await.unwrap();
    };
    let limit = Duration::from_secs(120);
    let (_, events) = tokio::time::timeout(limit, async { futures::join!(writing, watcher) })
        .await
        .expect("the cluster recovers");

    let acknowledged = writers.acknowledged.into_inner().unwrap();
    check(&store, start, &events, &acknowledged).await;
    let mut replay = store.watch("/", start).await.unwrap();
    assert_eq!(take(&mut replay, events.len()).await, events);
    eprintln!(
        "{} writes acknowledged, {} failed, {} revisions",
        acknowledged.len(),
        writers.failures.load(Ordering::Relaxed),
        events.len()
    );
}

/// Every acknowledged write is among the events, and they lead to the keys as they are.
async fn check(store: &Etcd, start: Revision, events: &[Arc<Event>], acknowledged: &Acknowledgements) {
    for (revision, (client, step)) in acknowledged {
        let event = &events[(revision - start - 1) as usize];
        assert_eq!(**event.key(), key(*client));
        match &**event {
            Event::Put { current, previous } => {
                assert_eq!(current.value, value(*client, *step));
                assert_eq!(previous.is_none(), step.is_multiple_of(3));
            }
            Event::Delete { previous, .. } => {
                assert_eq!((step % 3, &previous.value), (2, &value(*client, step - 1)));
            }
        }
    }
    let mut keys = BTreeMap::new();
    for event in events {
        let (before, told) = match &**event {
            Event::Put { current, previous } => (
                keys.insert(current.key.clone(), current.clone()),
                previous.as_ref(),
            ),
            Event::Delete { previous, .. } => (keys.remove(&previous.key), Some(previous)),
        };
        assert_eq!(before.as_ref(), told);
    }
    let listing = store.list("/", ListOptions::default()).await.unwrap();
    assert_eq!(listing.items, Vec::from_iter(keys.into_values()));
}

fn key(client: usize) -> String {
    format!("/k/{client}")
}

fn value(client: usize, step: u64) -> Bytes {
    format!("{client} {step} {}", "p".repeat((step as usize * 371) % 3000)).into()
}

/// The key after a step.
fn step_leaves(client: usize, step: u64) -> Option<Bytes> {
    (step % 3 != 2).then(|| value(client, step))
}

/// The key before a step.
fn step_before(client: usize, step: u64) -> Option<Bytes> {
    step.checked_sub(1).and_then(|before| step_leaves(client, before))
}
