//! An acknowledged write survives `kill -9`, and an unacknowledged one happened as a whole or not at all.
//!
//! The test runs itself as a child that writes and reports each acknowledgement on its standard output, and kills it
//! after a random number of them: in the middle of a commit, since the child's clients never pause.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use bytes::Bytes;
use futures::StreamExt;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use store::{Embedded, EmbeddedOptions, Event, KeyValue, ListOptions, Revision, Store};

const CHILD_DIR: &str = "STORE_TEST_CHILD_DIR";
const CLIENTS: usize = 12;
const ROUNDS: usize = 12;

/// What the child reported: which client's which step had this revision.
type Acknowledgements = BTreeMap<Revision, (usize, u64)>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = StdRng::seed_from_u64(9);
    let mut head = 0;
    for round in 0..ROUNDS {
        let acknowledged = run_and_kill(dir.path(), random.random_range(1..400));
        assert!(
            *acknowledged.first_key_value().unwrap().0 > head,
            "a revision came again"
        );
        let store = Embedded::open(options(dir.path())).unwrap();
        check(&store, head, &acknowledged).await;
        head = store.current_revision().await.unwrap();
        if round % 3 == 2 {
            store.compact(head).await.unwrap();
        }
    }
}

/// The child's part: clients that each create, update and delete their key, by turns and without end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "is run, and killed, by acknowledged_writes_survive_kill"]
async fn child() {
    let store = Embedded::open(options(std::env::var_os(CHILD_DIR).unwrap().as_ref())).unwrap();
    let client = async |client: usize| {
        let key = key(client);
        let current = store.get(&key).await.unwrap().0;
        let mut step = current.as_ref().map_or(0, |current| step_of(current) + 1);
        let mut revision = current.map_or(0, |current| current.mod_revision);
        loop {
            revision = match step % 3 {
                0 => store.create(&key, value(client, step), None).await.unwrap(),
                1 => store
                    .update(&key, value(client, step), revision, None)
                    .await
                    .unwrap(),
                _ => store.delete(&key, revision).await.unwrap(),
            };
            println!("\nack {revision} {client} {step}");
            step += 1;
        }
    };
    futures::future::join_all((0..CLIENTS).map(client)).await;
}

/// Runs the child until it has reported so many acknowledgements, kills it, and returns all that it got to report.
fn run_and_kill(dir: &Path, reports: usize) -> Acknowledgements {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = Acknowledgements::new();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in lines {
        let line = line.unwrap();
        let Some(report) = line.strip_prefix("ack ") else {
            continue;
        };
        let numbers: Vec<u64> = report.split(' ').map(|number| number.parse().unwrap()).collect();
        let [revision, client, step] = numbers[..] else {
            panic!("torn report {line:?}")
        };
        acknowledged.insert(revision, (client as usize, step));
        if acknowledged.len() == reports {
            child.kill().unwrap();
        }
    }
    assert!(!child.wait().unwrap().success(), "the child ended by itself");
    assert!(
        acknowledged.len() >= reports,
        "the child failed after {} reports",
        acknowledged.len()
    );
    acknowledged
}

/// Replays what happened after `start`: every acknowledged write is in it, and it leads to the keys as they are.
async fn check(store: &Embedded, start: Revision, acknowledged: &Acknowledgements) {
    let head = store.current_revision().await.unwrap();
    assert!(
        head >= *acknowledged.last_key_value().unwrap().0,
        "an acknowledged write is lost"
    );
    let mut keys = list(store, Some(start)).await;
    let mut watch = store.watch("/", start).await.unwrap();
    let mut last = start;
    while last < head {
        for event in watch.next().await.unwrap().unwrap() {
            assert_eq!(event.revision(), last + 1, "history has a gap");
            last += 1;
            if let Some((client, step)) = acknowledged.get(&last) {
                check_event(&event, *client, *step);
            }
            let (before, told) = match &*event {
                Event::Put { current, previous } => (
                    keys.insert(current.key.to_string(), current.clone()),
                    previous.as_ref(),
                ),
                Event::Delete { previous, .. } => (keys.remove(&*previous.key), Some(previous)),
            };
            assert_eq!(before.as_ref(), told);
        }
    }
    assert_eq!(list(store, None).await, keys);
}

fn check_event(event: &Event, client: usize, step: u64) {
    assert_eq!(**event.key(), key(client));
    match event {
        Event::Put { current, previous } => {
            assert_eq!(current.value, value(client, step));
            assert_eq!(previous.is_none(), step.is_multiple_of(3));
        }
        Event::Delete { previous, .. } => {
            assert_eq!(step % 3, 2);
            assert_eq!(previous.value, value(client, step - 1));
        }
    }
}

async fn list(store: &Embedded, revision: Option<Revision>) -> BTreeMap<String, KeyValue> {
    let options = ListOptions {
        revision,
        ..ListOptions::default()
    };
    let items = store.list("/", options).await.unwrap().items;
    items
        .into_iter()
        .map(|item| (item.key.to_string(), item))
        .collect()
}

fn options(dir: &Path) -> EmbeddedOptions {
    EmbeddedOptions {
        compaction_interval: None,
        journal_bytes: 512 << 10,
        ..EmbeddedOptions::new(dir)
    }
}

fn key(client: usize) -> String {
    format!("/k/{client}")
}

/// Tells client and step, in sizes from below to above the file's pages.
fn value(client: usize, step: u64) -> Bytes {
    format!("{client} {step} {}", "p".repeat((step as usize * 371) % 9000)).into()
}

fn step_of(item: &KeyValue) -> u64 {
    str::from_utf8(&item.value)
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}
