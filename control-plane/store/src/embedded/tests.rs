//! The contract, and what only a store with a file can be asked: to come back.

use std::{ops::Deref, os::unix::fs::PermissionsExt, path::Path};

use futures::StreamExt;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use redb::ReadableTableMetadata;
use tempfile::TempDir;

use super::*;
use crate::testsuite::{Model, take};

crate::contract_tests!(Fixture::new());

/// A store in a directory that goes with it.
struct Fixture {
    store: Embedded,
    _dir: TempDir,
}

impl Fixture {
    fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        Fixture {
            store: open(dir.path()),
            _dir: dir,
        }
    }
}

impl Deref for Fixture {
    type Target = Embedded;

    fn deref(&self) -> &Embedded {
        &self.store
    }
}

fn open(dir: &Path) -> Embedded {
    Embedded::open(options(dir)).unwrap()
}

fn options(dir: &Path) -> EmbeddedOptions {
    EmbeddedOptions {
        watch_buffer_events: 64,
        compaction_interval: None,
        ..EmbeddedOptions::new(dir)
    }
}

#[tokio::test]
async fn histories_go_on_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = StdRng::seed_from_u64(7);
    let mut model = Model::new(0);
    for _ in 0..20 {
        let store = open(dir.path());
        for _ in 0..random.random_range(0..40) {
            model.step(&store, &mut random).await;
        }
    }
}

#[tokio::test]
async fn deadlines_survive_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let ttl = Duration::from_millis(20);
    let created = open(dir.path())
        .create("/t/a", Bytes::new(), Some(ttl))
        .await
        .unwrap();
    let store = open(dir.path());
    let mut watch = store.watch("/t/", created).await.unwrap();
    assert_eq!(take(&mut watch, 1).await[0].revision(), created + 1);
}

#[tokio::test]
async fn the_sooner_deadline_goes_first() {
    let fixture = Fixture::new();
    let ttl = Some(Duration::from_millis(30));
    let start = fixture.create("/t/b", Bytes::new(), ttl).await.unwrap();
    fixture.create("/t/a", Bytes::new(), ttl).await.unwrap();
    let mut watch = fixture.watch("/t/", start + 1).await.unwrap();
    let events = take(&mut watch, 2).await;
    assert_eq!(
        [events[0].key().as_ref(), events[1].key().as_ref()],
        ["/t/b", "/t/a"]
    );
}

/// With many more entries than one step removes, and reopened in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_frees_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let keys = 50_u64;
    let mut revisions = Vec::new();
    for key in 0..keys {
        revisions.push(
            store
                .create(&format!("/c/{key}"), Bytes::new(), None)
                .await
                .unwrap(),
        );
    }
    for round in 0..60 {
        let value = Bytes::from(round.to_string());
        let updates = revisions.iter().enumerate().map(|(key, revision)| {
            let (store, value) = (&store, value.clone());
            async move {
                store
                    .update(&format!("/c/{key}"), value, *revision, None)
                    .await
                    .unwrap()
            }
        });
        revisions = futures::future::join_all(updates).await;
    }
    let head = store.current_revision().await.unwrap();
    assert_eq!(log_len(&store), head);
    store.compact(head).await.unwrap();
    drop(store);
    store = open(dir.path());
    // Each write's answer follows at least one step of the work.
    let mut extra = 0;
    while log_len(&store) > keys + extra {
        store
            .create(&format!("/d/{extra}"), Bytes::new(), None)
            .await
            .unwrap();
        extra += 1;
        assert!(extra < 100, "the log keeps {} entries", log_len(&store));
    }
    assert_eq!(
        store
            .list("/c/", ListOptions::default())
            .await
            .unwrap()
            .items
            .len() as u64,
        keys
    );
}

fn log_len(store: &Embedded) -> u64 {
    store.reader.snapshot().log.len().unwrap()
}

#[tokio::test]
async fn compacts_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let interval = Some(Duration::from_millis(20));
    let options = EmbeddedOptions {
        compaction_interval: interval,
        ..options(dir.path())
    };
    let store = Embedded::open(options).unwrap();
    let mut last = store.create("/c/a", Bytes::new(), None).await.unwrap();
    // Ends when the compaction has come, however slow the machine is.
    while store.watch("/c/", 0).await.is_ok() {
        last = store.update("/c/a", Bytes::new(), last, None).await.unwrap();
    }
    assert!(matches!(
        store.watch("/c/", 0).await,
        Err(Error::Compacted { requested: 0, .. })
    ));
    assert!(store.watch("/c/", last).await.is_ok());
}

#[tokio::test]
async fn only_one_can_open() {
    let fixture = Fixture::new();
    let error = Embedded::open(options(fixture._dir.path())).unwrap_err();
    assert!(matches!(error, Error::Open { .. }), "{error}");
}

/// As when the machine lost its power while the store was made for the first time.
#[tokio::test]
async fn a_half_made_file_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("store.new"), [7; 5000]).unwrap();
    let store = open(dir.path());
    assert_eq!(store.create("/a", Bytes::new(), None).await.unwrap(), 1);
    assert!(!dir.path().join("store.new").exists());
}

#[tokio::test]
async fn files_are_the_owners_alone() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("deep/store");
    let _store = open(&data);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&data), mode(&data.join(layout::FILE_NAME))), (0o700, 0o600));
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_named() {
    let error = Embedded::open(options(Path::new("/proc/none/store"))).unwrap_err();
    assert!(error.to_string().contains("/proc/none/store"), "{error}");
}

#[tokio::test]
async fn dropping_ends_watches() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut watch = store.watch("/w/", 0).await.unwrap();
    drop(store);
    assert!(matches!(watch.next().await, Some(Err(Error::Closed))));
    assert!(watch.next().await.is_none());
}
