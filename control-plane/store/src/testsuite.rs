//! What every store must do. Each implementation runs all of it through [`contract_tests`](crate::contract_tests), which
//! makes a test of each function here; every function is given a store without any key, which may be at
//! any revision.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{Error, Event, KeyValue, ListOptions, Revision, Store, WatchStream};

/// Makes a test of each function of the suite; `$open` is an expression that opens an empty store.
#[macro_export]
macro_rules! contract_tests {
    ($open:expr) => {
        $crate::contract_tests! { $open;
            writes_are_conditional, revisions_grow_by_one, list_pages, list_at_a_past_revision,
            prefixes_end_at_the_slash, bad_keys_are_refused, watch_continues_the_past, watch_is_bounded_by_compaction,
            watch_from_the_compaction_revision_sees_the_next_delete, a_deletion_is_told_though_it_is_compacted, watch_of_the_future_skips_until_then,
            a_slow_watch_is_cut_off, compaction_keeps_what_stands, ttl_deletes, ttl_is_replaced_by_an_update,
            a_read_names_the_newest_revision, pages_of_a_compacted_revision_are_refused, revisions_never_go_back,
            a_key_created_again_outlives_its_old_deadline, writes_that_share_a_commit_are_told_one_by_one,
            many_watches_of_large_values_lose_nothing,
            concurrent_updates_lose_nothing, concurrent_watches_see_everything_once, random_histories_match_the_model,
            the_size_grows_with_what_is_stored
        }
    };
    ($open:expr; $($name:ident),*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let store = $open;
                $crate::testsuite::$name(&*store).await;
            }
        )*
    };
}

pub(crate) async fn the_size_grows_with_what_is_stored(store: &impl Store) {
    const PIECES: u64 = 64;
    const PIECE_BYTES: u64 = 512 << 10;
    let before = store.size_bytes().await.unwrap();
    assert!(before > 0);
    for piece in 0..PIECES {
        let bytes: Vec<u8> = (0..PIECE_BYTES).map(|at| (at ^ piece) as u8).collect();
        let key = format!("/large/{piece}");
        store.create(&key, bytes.into(), None).await.unwrap();
    }
    // An etcd writes its file a little later than it answers.
    let wanted = PIECES * PIECE_BYTES;
    tokio::time::timeout(Duration::from_secs(60), async {
        while store.size_bytes().await.unwrap() < wanted {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the store is larger than what was put into it");
}

pub(crate) async fn writes_are_conditional(store: &impl Store) {
    let key = "/a/one";
    assert!(matches!(
        store.update(key, value("x"), 1, None).await,
        Err(Error::Conflict { current: None, .. })
    ));
    assert!(matches!(
        store.delete(key, 1).await,
        Err(Error::Conflict { current: None, .. })
    ));

    let created = store.create(key, value("1"), None).await.unwrap();
    match store.create(key, value("2"), None).await {
        Err(Error::AlreadyExists { current }) => assert_eq!(current, key_value(key, "1", created, created)),
        other => panic!("{other:?}"),
    }
    let updated = store.update(key, value("3"), created, None).await.unwrap();
    let stands = key_value(key, "3", created, updated);
    match store.update(key, value("4"), created, None).await {
        Err(Error::Conflict {
            current, expected, ..
        }) => {
            assert_eq!((current, expected), (Some(stands.clone()), created));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        store.delete(key, created).await,
        Err(Error::Conflict { current: Some(_), .. })
    ));
    assert_eq!(store.get(key).await.unwrap(), (Some(stands), updated));

    let deleted = store.delete(key, updated).await.unwrap();
    assert_eq!(store.get(key).await.unwrap(), (None, deleted));
    let again = store.create(key, value("5"), None).await.unwrap();
    assert_eq!(
        store.get(key).await.unwrap().0,
        Some(key_value(key, "5", again, again))
    );
}

pub(crate) async fn revisions_grow_by_one(store: &impl Store) {
    let start = store.current_revision().await.unwrap();
    let mut last = start;
    for index in 0..10 {
        let revision = store
            .create(&format!("/a/{index}"), value("x"), None)
            .await
            .unwrap();
        assert_eq!(revision, last + 1);
        assert!(
            store
                .create(&format!("/a/{index}"), value("x"), None)
                .await
                .is_err()
        );
        last = revision;
    }
    assert_eq!(store.delete("/a/3", start + 4).await.unwrap(), last + 1);
    assert_eq!(store.current_revision().await.unwrap(), last + 1);
}

pub(crate) async fn list_pages(store: &impl Store) {
    let start = store.current_revision().await.unwrap();
    for index in 0..7 {
        store
            .create(&format!("/a/{index}"), value(&index.to_string()), None)
            .await
            .unwrap();
    }
    let all = store.list("/a/", ListOptions::default()).await.unwrap();
    assert_eq!((all.items.len(), all.remaining, all.revision), (7, 0, start + 7));

    let mut after = None;
    let mut seen = Vec::new();
    for (expected, remaining) in [(3, 4), (3, 1), (1, 0)] {
        let options = ListOptions {
            limit: 3,
            after: after.clone(),
            ..ListOptions::default()
        };
        let page = store.list("/a/", options.clone()).await.unwrap();
        assert_eq!((page.items.len(), page.remaining), (expected, remaining));
        let uncounted = ListOptions {
            uncounted: true,
            ..options
        };
        let uncounted = store.list("/a/", uncounted).await.unwrap();
        assert_eq!(
            (&uncounted.items, uncounted.remaining > 0),
            (&page.items, remaining > 0)
        );
        after = page.items.last().map(|item| item.key.to_string());
        seen.extend(page.items);
    }
    assert_eq!(seen, all.items);

    for (after, expected) in [("/a/6", 0), ("/zzz", 0), ("/", 7), ("/a/", 7), ("/a/2x", 4)] {
        let options = ListOptions {
            after: Some(after.to_owned()),
            ..ListOptions::default()
        };
        assert_eq!(
            store.list("/a/", options).await.unwrap().items.len(),
            expected,
            "after {after}"
        );
    }
    assert_eq!(
        store.list("/none/", ListOptions::default()).await.unwrap().items,
        []
    );
}

pub(crate) async fn list_at_a_past_revision(store: &impl Store) {
    let start = store.current_revision().await.unwrap();
    let a = store.create("/p/a", value("a1"), None).await.unwrap();
    let b = store.create("/p/b", value("b1"), None).await.unwrap();
    store.update("/p/a", value("a2"), a, None).await.unwrap();
    store.delete("/p/b", b).await.unwrap();
    store.create("/p/c", value("c1"), None).await.unwrap();
    store.create("/p/b", value("b2"), None).await.unwrap();

    let at = |revision| ListOptions {
        revision: Some(revision),
        ..ListOptions::default()
    };
    let expected: [&[(&str, &str)]; 7] = [
        &[],
        &[("/p/a", "a1")],
        &[("/p/a", "a1"), ("/p/b", "b1")],
        &[("/p/a", "a2"), ("/p/b", "b1")],
        &[("/p/a", "a2")],
        &[("/p/a", "a2"), ("/p/c", "c1")],
        &[("/p/a", "a2"), ("/p/b", "b2"), ("/p/c", "c1")],
    ];
    for (revision, expected) in (start..).zip(expected) {
        let listing = store.list("/p/", at(revision)).await.unwrap();
        assert_eq!(listing.revision, revision);
        assert_eq!(
            pairs(&listing.items),
            owned_pairs(expected),
            "at revision {revision}"
        );
    }
    let page = ListOptions {
        limit: 1,
        after: Some("/p/a".to_owned()),
        revision: Some(start + 3),
        ..ListOptions::default()
    };
    let page = store.list("/p/", page).await.unwrap();
    assert_eq!(
        (pairs(&page.items), page.remaining),
        (owned_pairs(&[("/p/b", "b1")]), 0)
    );
    match store.list("/p/", at(start + 7)).await {
        Err(Error::FutureRevision { requested, current }) => {
            assert_eq!((requested, current), (start + 7, start + 6));
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn prefixes_end_at_the_slash(store: &impl Store) {
    for key in [
        "/pods/a/x",
        "/pods/ab/x",
        "/pods/a",
        "/pods/a0",
        "/pods/a-/x",
        "/podsx/a/x",
    ] {
        store.create(key, value(key), None).await.unwrap();
    }
    let listing = store.list("/pods/a/", ListOptions::default()).await.unwrap();
    assert_eq!(pairs(&listing.items), owned_pairs(&[("/pods/a/x", "/pods/a/x")]));
    let mut watch = store.watch("/pods/a/", 0).await.unwrap();
    assert_eq!(take(&mut watch, 1).await[0].key().as_ref(), "/pods/a/x");
    store.create("/pods/ab/y", value("no"), None).await.unwrap();
    store.create("/pods/a/y", value("yes"), None).await.unwrap();
    assert_eq!(take(&mut watch, 1).await[0].key().as_ref(), "/pods/a/y");
}

pub(crate) async fn bad_keys_are_refused(store: &impl Store) {
    let start = store.current_revision().await.unwrap();
    assert!(matches!(
        store.create("a", value("x"), None).await,
        Err(Error::InvalidKey(_))
    ));
    assert!(matches!(store.get("").await, Err(Error::InvalidKey(_))));
    assert!(matches!(
        store.list("/a", ListOptions::default()).await,
        Err(Error::InvalidKey(_))
    ));
    assert!(matches!(store.watch("a/", 0).await, Err(Error::InvalidKey(_))));
    assert_eq!(store.current_revision().await.unwrap(), start);
}

pub(crate) async fn watch_continues_the_past(store: &impl Store) {
    let created = store.create("/w/a", value("1"), None).await.unwrap();
    let updated = store.update("/w/a", value("2"), created, None).await.unwrap();
    store.create("/other/a", value("no"), None).await.unwrap();
    let mut watch = store.watch("/w/", created).await.unwrap();
    assert_eq!(watch.delivered(), created);
    let deleted = store.delete("/w/a", updated).await.unwrap();
    let again = store.create("/w/a", value("3"), None).await.unwrap();
    let first = key_value("/w/a", "1", created, created);
    let second = key_value("/w/a", "2", created, updated);
    assert_eq!(
        take(&mut watch, 3).await,
        [
            Arc::new(Event::Put {
                current: second.clone(),
                previous: Some(first)
            }),
            Arc::new(Event::Delete {
                previous: second,
                revision: deleted
            }),
            Arc::new(Event::Put {
                current: key_value("/w/a", "3", again, again),
                previous: None
            }),
        ]
    );
    assert_eq!(watch.delivered(), again);
    let other = store.create("/other/b", value("no"), None).await.unwrap();
    while watch.delivered() < other {
        assert_eq!(
            watch.advance(watch.delivered()).await.unwrap(),
            [],
            "a silent prefix still makes progress"
        );
    }
    assert_eq!(watch.delivered(), other);
}

pub(crate) async fn watch_is_bounded_by_compaction(store: &impl Store) {
    let mut last = store.create("/w/a", value("0"), None).await.unwrap();
    for index in 1..10 {
        last = store
            .update("/w/a", value(&index.to_string()), last, None)
            .await
            .unwrap();
    }
    let at = |count| last - 10 + count;
    let mut early = store.watch("/w/", at(1)).await.unwrap();
    store.compact(at(5)).await.unwrap();
    match store.watch("/w/", at(4)).await.map(drop) {
        Err(Error::Compacted { requested, compacted }) => assert_eq!((requested, compacted), (at(4), at(5))),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        take(&mut store.watch("/w/", at(5)).await.unwrap(), 5).await[0].revision(),
        at(6)
    );
    // One that has not read yet what was compacted is told so, instead of being given less.
    match early.next().await {
        Some(Err(Error::Compacted { requested, .. })) => assert_eq!(requested, at(1)),
        other => panic!("{other:?}"),
    }
    assert!(early.next().await.is_none());
}

/// As etcd issue 19179.
pub(crate) async fn watch_from_the_compaction_revision_sees_the_next_delete(store: &impl Store) {
    let created = store.create("/w/a", value("1"), None).await.unwrap();
    let deleted = store.delete("/w/a", created).await.unwrap();
    store.compact(created).await.unwrap();
    let mut watch = store.watch("/w/", created).await.unwrap();
    let previous = key_value("/w/a", "1", created, created);
    assert_eq!(
        take(&mut watch, 1).await,
        [Arc::new(Event::Delete {
            previous,
            revision: deleted
        })]
    );
}

/// As etcd issue 18089: a compaction at the deletion's own revision takes nothing from who watches, and not the revision
/// from the store (etcd issue 17780).
pub(crate) async fn a_deletion_is_told_though_it_is_compacted(store: &impl Store) {
    for round in 0..10 {
        let key = format!("/w/{round}");
        let created = store.create(&key, value("1"), None).await.unwrap();
        let mut watch = store.watch("/w/", created).await.unwrap();
        let deleted = store.delete(&key, created).await.unwrap();
        store.compact(deleted).await.unwrap();
        let told = take(&mut watch, 1).await;
        let previous = key_value(&key, "1", created, created);
        let revision = deleted;
        assert_eq!(told, [Arc::new(Event::Delete { previous, revision })]);
        assert_eq!(store.current_revision().await.unwrap(), deleted);
    }
}

/// As etcd issue 20221.
pub(crate) async fn watch_of_the_future_skips_until_then(store: &impl Store) {
    let start = store.current_revision().await.unwrap();
    let mut watch = store.watch("/w/", start + 3).await.unwrap();
    for index in 1..=5 {
        store
            .create(&format!("/w/{index}"), value("x"), None)
            .await
            .unwrap();
    }
    let revisions: Vec<_> = take(&mut watch, 2)
        .await
        .iter()
        .map(|event| event.revision())
        .collect();
    assert_eq!(revisions, [start + 4, start + 5]);
}

/// The fixture's buffer holds 64 events.
pub(crate) async fn a_slow_watch_is_cut_off(store: &impl Store) {
    let mut slow = store.watch("/w/", 0).await.unwrap();
    let mut elsewhere = store.watch("/quiet/", 0).await.unwrap();
    for index in 0..100 {
        store
            .create(&format!("/w/{index}"), value("x"), None)
            .await
            .unwrap();
    }
    // What another watch has seen, this one was given.
    store.create("/quiet/x", value("x"), None).await.unwrap();
    assert_eq!(take(&mut elsewhere, 1).await[0].key().as_ref(), "/quiet/x");
    assert!(matches!(
        slow.next().await,
        Some(Err(Error::WatchOverflow { .. }))
    ));
    assert!(slow.next().await.is_none());
}

pub(crate) async fn compaction_keeps_what_stands(store: &impl Store) {
    let a = store.create("/c/a", value("a1"), None).await.unwrap();
    let b = store.create("/c/b", value("b1"), None).await.unwrap();
    let a = store.update("/c/a", value("a2"), a, None).await.unwrap();
    let deleted = store.delete("/c/b", b).await.unwrap();
    store.update("/c/a", value("a3"), a, None).await.unwrap();
    store.compact(deleted).await.unwrap();
    store.compact(1).await.unwrap();
    let at = |revision| ListOptions {
        revision: Some(revision),
        ..ListOptions::default()
    };
    assert!(matches!(
        store.list("/c/", at(a)).await,
        Err(Error::Compacted { .. })
    ));
    let listing = store.list("/c/", at(deleted)).await.unwrap();
    assert_eq!(pairs(&listing.items), owned_pairs(&[("/c/a", "a2")]));
    let head = store.current_revision().await.unwrap();
    store.compact(head).await.unwrap();
    assert!(matches!(
        store.compact(head + 1).await,
        Err(Error::FutureRevision { .. })
    ));
    assert_eq!(store.get("/c/a").await.unwrap().0.unwrap().value, value("a3"));
    assert_eq!(store.create("/c/b", value("b2"), None).await.unwrap(), head + 1);
}

pub(crate) async fn ttl_deletes(store: &impl Store) {
    let forever = store.create("/t/forever", value("x"), None).await.unwrap();
    let created = store
        .create("/t/a", value("x"), Some(Duration::from_millis(30)))
        .await
        .unwrap();
    let mut watch = store.watch("/t/", created).await.unwrap();
    match &*take(&mut watch, 1).await[0] {
        Event::Delete { previous, revision } => {
            assert_eq!((&*previous.key, *revision), ("/t/a", created + 1));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(store.get("/t/a").await.unwrap(), (None, created + 1));
    assert_eq!(
        store.get("/t/forever").await.unwrap().0.unwrap().mod_revision,
        forever
    );
}

pub(crate) async fn ttl_is_replaced_by_an_update(store: &impl Store) {
    let ttl = Some(Duration::from_millis(30));
    let kept = store
        .create("/t/kept", value("x"), Some(Duration::from_secs(3600)))
        .await
        .unwrap();
    let kept = store.update("/t/kept", value("y"), kept, None).await.unwrap();
    let gone = store.create("/t/gone", value("x"), None).await.unwrap();
    let start = store.update("/t/gone", value("y"), gone, ttl).await.unwrap();
    // By now it may be gone.
    store.create("/t/last", value("x"), ttl).await.unwrap();
    let mut watch = store.watch("/t/", start).await.unwrap();
    let mut keys: Vec<_> = take(&mut watch, 3)
        .await
        .iter()
        .filter(|event| matches!(&***event, Event::Delete { .. }))
        .map(|event| event.key().to_string())
        .collect();
    // A store may know time only roughly, and let both go in any order.
    keys.sort();
    assert_eq!(keys, ["/t/gone", "/t/last"]);
    assert_eq!(store.get("/t/kept").await.unwrap().0.unwrap().mod_revision, kept);
}

/// Also where nothing is found, and on every page (kine told the revision of the newest item, or 0).
pub(crate) async fn a_read_names_the_newest_revision(store: &impl Store) {
    for index in 0..3 {
        store
            .create(&format!("/r/{index}"), value("x"), None)
            .await
            .unwrap();
    }
    let newest = store.create("/elsewhere/x", value("x"), None).await.unwrap();
    assert_eq!(store.current_revision().await.unwrap(), newest);
    assert_eq!(store.get("/r/none").await.unwrap(), (None, newest));
    assert_eq!(store.get("/r/0").await.unwrap().1, newest);
    for (prefix, after, limit) in [
        ("/none/", None, 0),
        ("/none/", None, 1),
        ("/r/", None, 2),
        ("/r/", Some("/r/1"), 2),
        ("/r/", Some("/r/2"), 2),
    ] {
        for uncounted in [false, true] {
            let options = ListOptions {
                limit,
                after: after.map(str::to_owned),
                uncounted,
                ..ListOptions::default()
            };
            let listing = store.list(prefix, options.clone()).await.unwrap();
            assert_eq!(listing.revision, newest, "{prefix} {options:?}");
        }
    }
}

/// As etcd issue 18667: a read at a revision that is compacted between its parts is refused, never answered with less.
pub(crate) async fn pages_of_a_compacted_revision_are_refused(store: &impl Store) {
    let mut revisions = Vec::new();
    for index in 0..6 {
        let created = store.create(&format!("/p/{index}"), value("1"), None).await;
        revisions.push(created.unwrap());
    }
    let options = ListOptions {
        limit: 2,
        ..ListOptions::default()
    };
    let first = store.list("/p/", options.clone()).await.unwrap();
    for (index, revision) in revisions.iter().enumerate().skip(3) {
        store.delete(&format!("/p/{index}"), *revision).await.unwrap();
    }
    let page = ListOptions {
        after: first.items.last().map(|item| item.key.to_string()),
        revision: Some(first.revision),
        ..options
    };
    let second = store.list("/p/", page.clone()).await.unwrap();
    let keys: Vec<_> = second.items.iter().map(|item| &*item.key).collect();
    assert_eq!((keys, second.remaining), (vec!["/p/2", "/p/3"], 2));
    // At the compaction's own revision all is still there, one before it nothing is.
    store.compact(first.revision).await.unwrap();
    assert_eq!(store.list("/p/", page.clone()).await.unwrap(), second);
    store.compact(first.revision + 1).await.unwrap();
    match store.list("/p/", page).await {
        Err(Error::Compacted { requested, .. }) => assert_eq!(requested, first.revision),
        other => panic!("{other:?}"),
    }
}

/// What anybody was told is the past for whoever asks later (kine's went backwards).
pub(crate) async fn revisions_never_go_back(store: &impl Store) {
    let told = AtomicU64::new(store.current_revision().await.unwrap());
    let ask = async |answer: BoxFuture<'_, Revision>| {
        let floor = told.load(Ordering::SeqCst);
        let revision = answer.await;
        assert!(revision >= floor, "{revision} after {floor} was told");
        told.fetch_max(revision, Ordering::SeqCst);
        revision
    };
    let writer = async |client: usize| {
        for index in 0..30 {
            let key = format!("/b/{client}/{index}");
            let created = ask(Box::pin(async {
                store.create(&key, value("x"), None).await.unwrap()
            }));
            let created = created.await;
            if index % 3 == 0 {
                ask(Box::pin(async { store.delete(&key, created).await.unwrap() })).await;
            }
        }
    };
    let reader = async || {
        for index in 0..60 {
            ask(Box::pin(async {
                match index % 3 {
                    0 => store.current_revision().await.unwrap(),
                    1 => store.get("/b/0/0").await.unwrap().1,
                    _ => {
                        store
                            .list("/b/1/", ListOptions::default())
                            .await
                            .unwrap()
                            .revision
                    }
                }
            }))
            .await;
        }
    };
    futures::join!(
        futures::future::join_all((0..4).map(writer)),
        futures::future::join_all((0..4).map(|_| reader()))
    );
}

/// Who deletes a key takes its deadline with it.
pub(crate) async fn a_key_created_again_outlives_its_old_deadline(store: &impl Store) {
    let ttl = Some(Duration::from_millis(30));
    let created = store.create("/t/a", value("1"), ttl).await.unwrap();
    match store.delete("/t/a", created).await {
        Ok(_) => {}
        // It was deleted already: a slow machine.
        Err(Error::Conflict { current: None, .. }) => {}
        Err(other) => panic!("{other}"),
    }
    let again = store.create("/t/a", value("2"), None).await.unwrap();
    // A later deadline passes: so has the earlier one.
    let later = store.create("/t/b", value("x"), ttl).await.unwrap();
    let mut watch = store.watch("/t/", later).await.unwrap();
    assert_eq!(take(&mut watch, 1).await[0].key().as_ref(), "/t/b");
    assert_eq!(store.get("/t/a").await.unwrap().0.unwrap().mod_revision, again);
}

/// As etcd issue 17247: the more writes of one key share a commit, the more often an event might be told twice, or with the
/// wrong state before it.
pub(crate) async fn writes_that_share_a_commit_are_told_one_by_one(store: &impl Store) {
    const CLIENTS: usize = 24;
    let start = store.create("/s/a", value("0"), None).await.unwrap();
    let mut watch = store.watch("/s/", start).await.unwrap();
    let client = async |client: usize| {
        let mut expected = start;
        let text = client.to_string();
        // The losers of each race try again on what the winner left.
        while let Err(error) = store.update("/s/a", value(&text), expected, None).await {
            match error {
                Error::Conflict {
                    current: Some(current),
                    ..
                } => expected = current.mod_revision,
                other => panic!("{other}"),
            }
        }
    };
    futures::future::join_all((0..CLIENTS).map(client)).await;
    let mut before = key_value("/s/a", "0", start, start);
    for (event, revision) in take(&mut watch, CLIENTS).await.iter().zip(start + 1..) {
        match &**event {
            Event::Put { current, previous } => {
                assert_eq!(
                    (current.mod_revision, previous.as_ref()),
                    (revision, Some(&before))
                );
                before = current.clone();
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(store.get("/s/a").await.unwrap().0, Some(before));
}

/// As etcd issue 17529: many watches on one connection, each with more to tell than its window holds.
pub(crate) async fn many_watches_of_large_values_lose_nothing(store: &impl Store) {
    const WATCHES: usize = 40;
    const WRITES: usize = 50;
    let start = store.current_revision().await.unwrap();
    let large = Bytes::from(vec![b'v'; 100_000]);
    for index in 0..WRITES / 2 {
        store
            .create(&format!("/v/{index}"), large.clone(), None)
            .await
            .unwrap();
    }
    // Half of what they tell is past, half is present.
    let mut watches = Vec::new();
    for _ in 0..WATCHES {
        watches.push(store.watch("/v/", start).await.unwrap());
    }
    for index in WRITES / 2..WRITES {
        store
            .create(&format!("/v/{index}"), large.clone(), None)
            .await
            .unwrap();
    }
    for watch in &mut watches {
        let revisions: Vec<_> = take(watch, WRITES)
            .await
            .iter()
            .map(|event| event.revision())
            .collect();
        assert_eq!(
            revisions,
            (start + 1..=start + WRITES as Revision).collect::<Vec<_>>()
        );
    }
}

pub(crate) async fn concurrent_updates_lose_nothing(store: &impl Store) {
    const CLIENTS: usize = 8;
    const ADDITIONS: usize = 25;
    let start = store.current_revision().await.unwrap();
    for counter in 0..2 {
        store
            .create(&format!("/n/{counter}"), value("0"), None)
            .await
            .unwrap();
    }
    let client = async |client: usize| {
        let key = format!("/n/{}", client % 2);
        for _ in 0..ADDITIONS {
            let mut current = store.get(&key).await.unwrap().0.unwrap();
            loop {
                let sum = number(&current) + 1;
                let expected = current.mod_revision;
                match store.update(&key, value(&sum.to_string()), expected, None).await {
                    Ok(_) => break,
                    Err(Error::Conflict {
                        current: Some(newer), ..
                    }) => {
                        assert!(newer.mod_revision > expected);
                        current = newer;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        }
    };
    futures::future::join_all((0..CLIENTS).map(client)).await;
    let listing = store.list("/n/", ListOptions::default()).await.unwrap();
    assert_eq!(
        listing.items.iter().map(number).sum::<usize>(),
        CLIENTS * ADDITIONS
    );
    assert_eq!(listing.revision - start, 2 + (CLIENTS * ADDITIONS) as Revision);
}

pub(crate) async fn concurrent_watches_see_everything_once(store: &impl Store) {
    const CLIENTS: u64 = 8;
    const WRITES: u64 = 40;
    let empty = store.current_revision().await.unwrap();
    let end = empty + CLIENTS * WRITES;
    let client = async |client: u64| {
        for index in 0..WRITES {
            store
                .create(&format!("/e/{client}/{index}"), value("x"), None)
                .await
                .unwrap();
        }
    };
    let watcher = async || {
        // Begins wherever the writers happen to be: the border between past and present moves with every run.
        let start = store.current_revision().await.unwrap();
        let mut watch = store.watch("/e/", start).await.unwrap();
        let mut last = start;
        while last < end {
            for event in watch.next().await.unwrap().unwrap() {
                assert_eq!(event.revision(), last + 1);
                last = event.revision();
            }
        }
        assert_eq!(watch.delivered(), last);
        let mut replay = store.watch("/e/", 0).await.unwrap();
        let writes = (CLIENTS * WRITES) as usize;
        assert_eq!(take(&mut replay, writes).await.len(), writes);
    };
    let watchers = async {
        for _ in 0..5 {
            futures::join!(watcher(), watcher());
        }
    };
    futures::join!(futures::future::join_all((0..CLIENTS).map(client)), watchers);
}

/// Seeded histories of writes, compactions, past lists and watches against the obvious model.
pub(crate) async fn random_histories_match_the_model(store: &impl Store) {
    let mut random = StdRng::seed_from_u64(0x0a10);
    let mut model = Model::new(store.current_revision().await.unwrap());
    for _ in 0..600 {
        model.step(store, &mut random).await;
    }
}

/// Every state that the store was ever in.
#[derive(Debug)]
pub(crate) struct Model {
    /// The revision of the first state.
    start: Revision,
    /// By revision, the keys below `/m/`.
    states: Vec<BTreeMap<String, KeyValue>>,
    events: Vec<Arc<Event>>,
    compacted: Revision,
}

impl Model {
    pub(crate) fn new(start: Revision) -> Model {
        Model {
            start,
            states: vec![BTreeMap::new()],
            events: Vec::new(),
            compacted: start,
        }
    }

    fn revision(&self) -> Revision {
        self.start + self.states.len() as Revision - 1
    }

    pub(crate) async fn step(&mut self, store: &impl Store, random: &mut StdRng) {
        let key = format!("/m/{}/{}", random.random_range(0..3), random.random_range(0..4));
        let now = self.states.last().unwrap().get(&key).cloned();
        // Mostly the right revision, sometimes a wrong one.
        let expected = match &now {
            Some(now) if random.random_bool(0.9) => now.mod_revision,
            _ => random.random_range(0..self.revision() + 2),
        };
        let content = value(&"v".repeat(random.random_range(0..6000)));
        match random.random_range(0..100) {
            0..30 => match store.create(&key, content.clone(), None).await {
                Ok(revision) => self.put(&key, content, None, revision),
                Err(Error::AlreadyExists { current }) => assert_eq!(Some(current), now),
                Err(other) => panic!("{other}"),
            },
            30..60 => match store.update(&key, content.clone(), expected, None).await {
                Ok(revision) => {
                    assert_eq!(now.as_ref().map(|now| now.mod_revision), Some(expected));
                    self.put(&key, content, now, revision);
                }
                Err(Error::Conflict { current, .. }) => {
                    assert_eq!(current, now);
                    assert_ne!(current.map(|current| current.mod_revision), Some(expected));
                }
                Err(other) => panic!("{other}"),
            },
            60..75 => match store.delete(&key, expected).await {
                Ok(revision) => {
                    let previous = now.expect("only what exists is deleted");
                    assert_eq!(previous.mod_revision, expected);
                    self.advance(revision, |state| drop(state.remove(&key)));
                    self.events.push(Arc::new(Event::Delete { previous, revision }));
                }
                Err(Error::Conflict { current, .. }) => assert_eq!(current, now),
                Err(other) => panic!("{other}"),
            },
            75..78 => {
                let revision = random.random_range(self.compacted..=self.revision());
                store.compact(revision).await.unwrap();
                self.compacted = revision;
            }
            78..90 => self.check_list(store, random).await,
            _ => self.check_watch(store, random).await,
        }
        assert_eq!(
            store.get(&key).await.unwrap(),
            (self.states.last().unwrap().get(&key).cloned(), self.revision())
        );
    }

    fn put(&mut self, key: &str, value: Bytes, previous: Option<KeyValue>, revision: Revision) {
        let create_revision = previous
            .as_ref()
            .map_or(revision, |previous| previous.create_revision);
        let current = KeyValue {
            key: key.into(),
            value,
            create_revision,
            mod_revision: revision,
        };
        self.advance(revision, |state| {
            drop(state.insert(key.to_owned(), current.clone()))
        });
        self.events.push(Arc::new(Event::Put { current, previous }));
    }

    fn advance(&mut self, revision: Revision, change: impl FnOnce(&mut BTreeMap<String, KeyValue>)) {
        assert_eq!(revision, self.revision() + 1);
        let mut state = self.states.last().unwrap().clone();
        change(&mut state);
        self.states.push(state);
    }

    async fn check_list(&self, store: &impl Store, random: &mut StdRng) {
        let revision = random.random_range(self.start..=self.revision());
        let prefix = prefix(random);
        let limit = random.random_range(0..4);
        let mut expected = self.states[(revision - self.start) as usize]
            .values()
            .filter(|item| item.key.starts_with(&prefix));
        let mut after = None;
        loop {
            let options = ListOptions {
                limit,
                after: after.clone(),
                revision: Some(revision),
                ..ListOptions::default()
            };
            let page = match store.list(&prefix, options).await {
                Ok(page) => page,
                Err(Error::Compacted { .. }) => return assert!(revision < self.compacted),
                Err(other) => panic!("{other}"),
            };
            for item in &page.items {
                assert_eq!(Some(item), expected.next());
            }
            assert_eq!(page.remaining as usize, expected.clone().count());
            match page.items.last() {
                Some(last) if page.remaining > 0 => after = Some(last.key.to_string()),
                _ => return,
            }
        }
    }

    async fn check_watch(&self, store: &impl Store, random: &mut StdRng) {
        let after = random.random_range(self.start..=self.revision());
        let prefix = prefix(random);
        let mut watch = match store.watch(&prefix, after).await {
            Ok(watch) => watch,
            Err(Error::Compacted { .. }) => return assert!(after < self.compacted),
            Err(other) => panic!("{other}"),
        };
        let wanted = |event: &&Arc<Event>| event.revision() > after && event.key().starts_with(&prefix);
        let expected: Vec<_> = self.events.iter().filter(wanted).cloned().collect();
        assert_eq!(take(&mut watch, expected.len()).await, expected);
    }
}

fn prefix(random: &mut StdRng) -> String {
    match random.random_range(0..4) {
        3 => "/m/".to_owned(),
        part => format!("/m/{part}/"),
    }
}

/// The next `count` events, however they were batched.
pub(crate) async fn take(watch: &mut WatchStream, count: usize) -> Vec<Arc<Event>> {
    let mut events = Vec::new();
    while events.len() < count {
        let batch = watch
            .next()
            .await
            .expect("watches do not end")
            .expect("the watch is well");
        assert!(!batch.is_empty());
        events.extend(batch);
    }
    assert_eq!(events.len(), count);
    events
}

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn key_value(key: &str, text: &str, create_revision: Revision, mod_revision: Revision) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: value(text),
        create_revision,
        mod_revision,
    }
}

fn number(item: &KeyValue) -> usize {
    str::from_utf8(&item.value).unwrap().parse().unwrap()
}

fn pairs(items: &[KeyValue]) -> Vec<(String, String)> {
    items
        .iter()
        .map(|item| {
            (
                item.key.to_string(),
                String::from_utf8(item.value.to_vec()).unwrap(),
            )
        })
        .collect()
}

fn owned_pairs(items: &[(&str, &str)]) -> Vec<(String, String)> {
    items
        .iter()
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect()
}
