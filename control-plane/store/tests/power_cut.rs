//! A power cut loses what was written but not synced, in any part and in any order. Here it comes after every single write
//! and sync that the store makes, and again while the store repairs itself. `soak`'s histories add concurrency to that.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::StreamExt;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use soak::disk::Disk;
use store::{Embedded, EmbeddedOptions, Error, ListOptions, Result, Revision, Store};

/// What one client does, one thing after the other.
#[derive(Debug, Clone, Copy)]
enum Step {
    Create(u8, usize),
    Update(u8, usize),
    Delete(u8),
    Compact,
}

/// Values from below to above the file's pages, so that it grows; deletions and compactions, so that pages are freed and
/// used again.
const STORY: &[Step] = &[
    Step::Create(1, 10),
    Step::Create(2, 9000),
    Step::Update(1, 5000),
    Step::Delete(2),
    Step::Create(3, 20_000),
    Step::Compact,
    Step::Update(1, 100),
    Step::Create(2, 3000),
    Step::Update(3, 0),
    Step::Delete(1),
    Step::Compact,
    Step::Update(2, 12_000),
];

/// Keys with value length and modification revision.
type State = BTreeMap<String, (usize, Revision)>;

/// The states that the story leads through, with the store's revision.
fn states() -> Vec<(State, Revision)> {
    let mut all = vec![(State::new(), 0)];
    for step in STORY {
        let (mut state, mut revision) = all.last().unwrap().clone();
        match *step {
            Step::Create(key, len) | Step::Update(key, len) => {
                revision += 1;
                state.insert(format!("/k/{key}"), (len, revision));
            }
            Step::Delete(key) => {
                revision += 1;
                state.remove(&format!("/k/{key}"));
            }
            Step::Compact => {}
        }
        all.push((state, revision));
    }
    all
}

/// Plays the story until something fails; returns how many steps were acknowledged.
async fn play(disk: &Disk, states: &[(State, Revision)]) -> usize {
    let Ok(store) = open(disk) else { return 0 };
    for (index, step) in STORY.iter().enumerate() {
        if let Err(error) = take(&store, *step, &states[index]).await {
            assert!(matches!(error, Error::Storage(_)), "{step:?}: {error}");
            return index;
        }
    }
    STORY.len()
}

async fn take(store: &Embedded, step: Step, (state, revision): &(State, Revision)) -> Result<()> {
    let expected = |key: u8| state[&format!("/k/{key}")].1;
    let value = |len: usize| Bytes::from(vec![len as u8; len]);
    match step {
        Step::Create(key, len) => {
            let key = format!("/k/{key}");
            store.create(&key, value(len), None).await.map(drop)
        }
        Step::Update(key, len) => {
            let expected = expected(key);
            let key = format!("/k/{key}");
            store.update(&key, value(len), expected, None).await.map(drop)
        }
        Step::Delete(key) => store.delete(&format!("/k/{key}"), expected(key)).await.map(drop),
        Step::Compact => store.compact(*revision).await,
    }
}

fn open(disk: &Disk) -> Result<Embedded> {
    let options = EmbeddedOptions {
        compaction_interval: None,
        // A segment is full after some steps of the story.
        journal_bytes: 256 << 10,
        ..EmbeddedOptions::new("/nowhere")
    };
    Embedded::open_on(disk.clone(), &options)
}

/// A disk with a store that was made and closed. (A file gets its name only then.)
fn empty_store() -> Disk {
    let disk = Disk::default();
    drop(open(&disk).unwrap());
    disk
}

#[tokio::test]
async fn every_write_and_sync_may_be_the_last() {
    let states = states();
    let whole = empty_store();
    assert_eq!(play(&whole, &states).await, STORY.len());
    let steps = whole.steps() - empty_store().steps();
    assert!(steps > 60, "the story takes only {steps} writes and syncs");
    let mut random = StdRng::seed_from_u64(11);
    for cut in 0..steps {
        let disk = empty_store();
        disk.cut_power_after(cut);
        let acknowledged = play(&disk, &states).await;
        for _ in 0..3 {
            let mut left = disk.copy_after_power_cut(&mut random);
            // And again, while that is being repaired.
            left.cut_power_after(random.random_range(0..12));
            let _ = open(&left);
            left = left.copy_after_power_cut(&mut random);
            check(&left, &states, acknowledged, cut).await;
        }
    }
}

/// The store is as after the acknowledged steps, or as after one more: the one that was not answered.
async fn check(disk: &Disk, states: &[(State, Revision)], acknowledged: usize, cut: u64) {
    let store = open(disk).unwrap_or_else(|error| panic!("power cut after {cut}: {error}"));
    let listing = store.list("/k/", ListOptions::default()).await.unwrap();
    let found: State = listing
        .items
        .iter()
        .inspect(|item| assert!(item.value.iter().all(|byte| *byte == item.value.len() as u8)))
        .map(|item| (item.key.to_string(), (item.value.len(), item.mod_revision)))
        .collect();
    let found = (found, listing.revision);
    let possible = &states[acknowledged..states.len().min(acknowledged + 2)];
    assert!(
        possible.contains(&found),
        "power cut after {cut}, {acknowledged} acknowledged: {found:?}"
    );
    let next = store.create("/after", Bytes::new(), None).await.unwrap();
    assert_eq!(next, found.1 + 1, "power cut after {cut}");
}

/// A write whose sync failed is not acknowledged, nor is any after it; what was acknowledged stays readable, and is found
/// again when the disk is well.
#[tokio::test]
async fn nothing_is_acknowledged_after_a_failed_sync() {
    let disk = Disk::default();
    let store = open(&disk).unwrap();
    let created = store.create("/k/a", Bytes::from("1"), None).await.unwrap();
    let mut watch = store.watch("/k/", created).await.unwrap();
    disk.cut_power_after(0);
    for _ in 0..3 {
        let error = store
            .update("/k/a", Bytes::from("2"), created, None)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Storage(_)), "{error}");
    }
    assert_eq!(store.get("/k/a").await.unwrap().0.unwrap().mod_revision, created);
    assert!(matches!(store.failed().await, Error::Storage(_)));
    drop(store);
    assert!(
        matches!(watch.next().await, Some(Err(Error::Closed))),
        "nothing was published"
    );

    let after = disk.copy_after_power_cut(&mut StdRng::seed_from_u64(5));
    let store = open(&after).unwrap();
    let (found, head) = store.get("/k/a").await.unwrap();
    // The failed write may be on the disk or not, but as a whole.
    let expected = if found.unwrap().mod_revision == created {
        created
    } else {
        created + 1
    };
    assert_eq!(head, expected);
    assert_eq!(store.create("/k/b", Bytes::new(), None).await.unwrap(), head + 1);
}
