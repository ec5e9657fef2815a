//! The contract, and what only a store with a file can be asked: to come back.

use std::{ops::Deref, os::unix::fs::PermissionsExt, path::Path};

use futures::StreamExt;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use redb::ReadableTableMetadata;
use soak::disk::Disk;
use tempfile::TempDir;

use super::*;
use crate::{
    SnapshotStatus,
    snapshot::{Item, SnapshotWriter},
    testsuite::{Model, take},
};

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
        // Changes its segments often, and needs several records for a large sync.
        journal_bytes: 64 << 10,
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

/// A file of before there was a journal, which is redb's alone, also one that was not closed.
#[tokio::test]
async fn an_older_file_is_given_a_journal() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(layout::FILE_NAME);
    let store = lived_in(dir.path()).await;
    let (kept, head) = (
        store.list("/s/", ListOptions::default()).await.unwrap().items,
        store.current_revision().await.unwrap(),
    );
    drop(store);
    let plain = fs::read(&path).unwrap().split_off(4096 + (64 << 10));
    assert!(plain.starts_with(b"redb"));
    let mut unclosed = plain.clone();
    unclosed[9] |= 2;
    for old in [plain, unclosed] {
        fs::write(&path, &old).unwrap();
        // And the attempt before this one was cut off.
        fs::write(path.with_extension("new"), &old).unwrap();
        for _ in 0..2 {
            let store = open(dir.path());
            assert_eq!(
                store.list("/s/", ListOptions::default()).await.unwrap().items,
                kept
            );
            assert_eq!(store.current_revision().await.unwrap(), head);
        }
        assert!(fs::read(&path).unwrap().starts_with(b"StoreV1"));
        assert!(!path.with_extension("new").exists());
    }
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

/// A store with something of everything: updated, deleted, expiring, large, compacted.
async fn lived_in(dir: &Path) -> Embedded {
    let store = open(dir);
    let a = store.create("/s/a", Bytes::from("1"), None).await.unwrap();
    let b = store
        .create("/s/b", Bytes::from(vec![b'b'; 100_000]), None)
        .await
        .unwrap();
    store.update("/s/a", Bytes::from("2"), a, None).await.unwrap();
    store.compact(b).await.unwrap();
    store.delete("/s/b", b).await.unwrap();
    let hour = Some(Duration::from_secs(3600));
    store.create("/s/c", Bytes::from("3"), hour).await.unwrap();
    store
        .create("/s/d", Bytes::from(vec![b'd'; 50_000]), None)
        .await
        .unwrap();
    store
}

#[tokio::test]
async fn a_snapshot_becomes_a_store_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = lived_in(&dir.path().join("old")).await;
    let head = store.current_revision().await.unwrap();
    let file = dir.path().join("snapshot");
    let saved = store.save_snapshot(fs::File::create(&file).unwrap()).unwrap();
    assert_eq!((saved.revision, saved.keys), (head, 3));
    assert_eq!(SnapshotStatus::of_file(&file).unwrap(), saved);
    // What is written after it is not in it, and its revisions are never given again.
    let lost = store.create("/s/lost", Bytes::new(), None).await.unwrap();

    let new = dir.path().join("new");
    let (status, revision) = Embedded::restore_snapshot(&new, &file, 1000).unwrap();
    assert_eq!((status, revision), (saved, head + 1000));
    let restored = open(&new);
    let expected = store.list(
        "/s/",
        ListOptions {
            revision: Some(head),
            ..ListOptions::default()
        },
    );
    let listing = restored.list("/s/", ListOptions::default()).await.unwrap();
    assert_eq!(
        (listing.items, listing.revision),
        (expected.await.unwrap().items, revision)
    );
    for old in [1, head, lost, revision - 1] {
        let watch = restored.watch("/s/", old).await;
        assert!(
            matches!(watch, Err(Error::Compacted { .. })),
            "a watch from {old}"
        );
    }
    let mut watch = restored.watch("/s/", revision).await.unwrap();
    let d = restored.get("/s/d").await.unwrap().0.unwrap();
    assert_eq!(
        restored
            .update("/s/d", Bytes::new(), d.mod_revision, None)
            .await
            .unwrap(),
        revision + 1
    );
    match &*take(&mut watch, 1).await[0] {
        crate::Event::Put { previous, .. } => assert_eq!(previous.as_ref(), Some(&d)),
        other => panic!("{other:?}"),
    }
    // Compaction finds what the restored keys supersede.
    restored.compact(revision + 1).await.unwrap();
    let deadlines = |store: &Embedded| {
        let mut found = Vec::new();
        let all = store.reader.snapshot().for_each(|item| {
            found.push(item.deadline);
            Ok(())
        });
        all.unwrap();
        found
    };
    assert_eq!(deadlines(&restored)[..3], deadlines(&store)[..3]);
    assert!(deadlines(&restored)[1].is_some());
}

#[tokio::test]
async fn an_expired_key_of_a_snapshot_goes_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("snapshot");
    let mut writer = SnapshotWriter::new(fs::File::create(&file).unwrap(), 5).unwrap();
    let item = |key: &str, mod_revision, deadline| Item {
        key_value: KeyValue {
            key: key.into(),
            value: Bytes::new(),
            create_revision: 1,
            mod_revision,
        },
        deadline,
    };
    writer.item(&item("/s/a", 5, Some(1))).unwrap();
    // As one transaction of etcd leaves them.
    writer.item(&item("/s/b", 4, None)).unwrap();
    writer.item(&item("/s/c", 4, None)).unwrap();
    writer.finish().unwrap();
    let new = dir.path().join("new");
    let (_, revision) = Embedded::restore_snapshot(&new, &file, 10).unwrap();
    let store = open(&new);
    let mut watch = store.watch("/s/", revision).await.unwrap();
    assert_eq!(&**take(&mut watch, 1).await[0].key(), "/s/a");
    let listing = store.list("/s/", ListOptions::default()).await.unwrap();
    let found: Vec<_> = listing
        .items
        .iter()
        .map(|item| (&*item.key, item.mod_revision))
        .collect();
    assert_eq!(found, [("/s/b", 4), ("/s/c", 16)]);
}

#[tokio::test]
async fn a_damaged_snapshot_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = lived_in(&dir.path().join("old")).await;
    let mut bytes = Vec::new();
    store.save_snapshot(&mut bytes).unwrap();
    let file = dir.path().join("snapshot");
    let new = dir.path().join("new");
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    for damaged in [&bytes[..bytes.len() - 1], &bytes[..100], &flipped] {
        fs::write(&file, damaged).unwrap();
        let error = Embedded::restore_snapshot(&new, &file, 1000).unwrap_err();
        assert!(matches!(error, Error::Snapshot(_)), "{error}");
        assert_eq!(fs::read_dir(&new).unwrap().count(), 0);
    }
    fs::write(&file, &bytes).unwrap();
    Embedded::restore_snapshot(&new, &file, 1000).unwrap();
    let again = Embedded::restore_snapshot(&new, &file, 1000).unwrap_err();
    assert!(matches!(again, Error::NotEmpty(_)), "{again}");
    let error = Embedded::restore_snapshot(&dir.path().join("newer"), &file, u64::MAX).unwrap_err();
    assert!(error.to_string().contains("cannot be raised"), "{error}");
}

/// With clients that go on writing, and a watch that is open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_of_one_revision() {
    let fixture = Fixture::new();
    let mut last = fixture.create("/s/0", Bytes::new(), None).await.unwrap();
    for round in 0..20 {
        let writing = async {
            for key in 0..10 {
                let key = format!("/s/{round}/{key}");
                last = fixture
                    .create(&key, Bytes::from(vec![b'x'; 3000]), None)
                    .await
                    .unwrap();
            }
        };
        let saving = async {
            let mut bytes = Vec::new();
            tokio::task::yield_now().await;
            (fixture.save_snapshot(&mut bytes).unwrap(), bytes)
        };
        let ((), (status, bytes)) = futures::join!(writing, saving);
        // Nothing is ever deleted here: each revision is a key.
        assert_eq!(status.keys, status.revision);
        assert_eq!(status.bytes, bytes.len() as u64);
    }
}

/// What stays lies between what goes, so that the file does not get smaller by itself.
#[tokio::test]
async fn a_sparse_file_is_shrunk() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(layout::FILE_NAME);
    let store = open(dir.path());
    for key in 0..200 {
        let value = Bytes::from(vec![b'x'; 20_000]);
        store.create(&format!("/s/{key:03}"), value, None).await.unwrap();
    }
    let mut kept = Vec::new();
    let mut last = 0;
    let all = store.list("/s/", ListOptions::default()).await.unwrap().items;
    for (index, item) in all.into_iter().enumerate() {
        if index % 20 == 19 {
            kept.push(item);
        } else {
            last = store.delete(&item.key, item.mod_revision).await.unwrap();
        }
    }
    store.compact(last).await.unwrap();
    let mut extra = 0;
    while log_len(&store) > kept.len() as u64 + extra {
        extra += 1;
        store
            .create(&format!("/d/{extra}"), Bytes::new(), None)
            .await
            .unwrap();
    }
    drop(store);
    let len = || fs::metadata(&path).unwrap().len();
    let before = len();
    let length = Length::default();
    let mut database = file::open(&path, &options(dir.path()), length.clone()).unwrap();
    shrink_if_sparse(&mut database, length.bytes()).unwrap();
    drop(database);
    assert!(len() < before / 4, "{before} bytes became {}", len());
    let found = open(dir.path())
        .list("/s/", ListOptions::default())
        .await
        .unwrap();
    assert_eq!(found.items, kept);
}

/// As etcd issue 14685, where a crash during defragmentation left wrong revisions.
#[tokio::test]
async fn power_may_be_cut_while_a_file_is_shrunk() {
    let disk = Disk::default();
    let store = Embedded::open_on(disk.clone(), &options(Path::new("/nowhere"))).unwrap();
    let mut last = 0;
    for key in 0..40 {
        let value = Bytes::from(vec![b'x'; 20_000]);
        let created = store.create(&format!("/s/{key}"), value, None).await.unwrap();
        last = created;
        if key % 8 != 7 {
            last = store.delete(&format!("/s/{key}"), created).await.unwrap();
        }
    }
    store.compact(last).await.unwrap();
    let kept = store.list("/s/", ListOptions::default()).await.unwrap();
    drop(store);

    let mut random = StdRng::seed_from_u64(21);
    let mut cut = 0;
    loop {
        let sparse = disk.copy_after_power_cut(&mut random);
        let opened = file::open_on(sparse.clone(), &options(Path::new("/nowhere")), Length::default());
        let mut database = opened.unwrap();
        sparse.cut_power_after(cut);
        let shrunk = database.compact().is_ok();
        drop(database);
        let left = sparse.copy_after_power_cut(&mut random);
        let store = Embedded::open_on(left, &options(Path::new("/nowhere"))).unwrap();
        let found = store.list("/s/", ListOptions::default()).await.unwrap();
        assert_eq!(found, kept, "power cut after {cut}");
        if shrunk {
            break;
        }
        cut += 3;
    }
    assert!(cut > 9, "only {cut} writes and syncs");
}
