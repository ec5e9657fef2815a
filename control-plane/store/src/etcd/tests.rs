//! The contract over a real etcd, and what only a store over servers can be asked: to survive them.

use std::ops::Deref;

use ::tests::EtcdServers;
use futures::StreamExt;
use tempfile::TempDir;

use super::*;
use crate::testsuite::take;

crate::contract_tests!(Fixture::new().await);

/// A store over an etcd that goes with it.
struct Fixture {
    store: Etcd,
    servers: EtcdServers,
    _dir: TempDir,
}

impl Fixture {
    async fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let servers = EtcdServers::single(dir.path()).unwrap();
        Fixture {
            store: Etcd::connect(options(&servers)).await.unwrap(),
            servers,
            _dir: dir,
        }
    }
}

impl Deref for Fixture {
    type Target = Etcd;

    fn deref(&self) -> &Etcd {
        &self.store
    }
}

fn options(servers: &EtcdServers) -> EtcdOptions {
    EtcdOptions {
        watch_buffer_events: 64,
        compaction_interval: None,
        ..EtcdOptions::new(servers.endpoints())
    }
}

#[tokio::test]
async fn keys_and_values_are_upstreams() {
    let fixture = Fixture::new().await;
    let value = Bytes::from_static(b"k8s\0value");
    fixture.create("/registry/pods/a/b", value, None).await.unwrap();
    let shown = fixture
        .servers
        .etcdctl(&["get", "/registry", "--prefix", "-w", "fields"])
        .unwrap();
    assert!(shown.contains(r#""Key" : "/registry/pods/a/b""#), "{shown}");
    assert!(shown.contains(r#""Value" : "k8s\x00value""#), "{shown}");
}

/// Two clusters in one etcd: neither sees the other, but its watches know how far they are.
#[tokio::test]
async fn writes_elsewhere_are_progress() {
    let fixture = Fixture::new().await;
    let moved = EtcdOptions {
        prefix: "/two".to_owned(),
        ..options(&fixture.servers)
    };
    let other = Etcd::connect(moved).await.unwrap();
    let key = "/registry/pods/a";
    let start = fixture.create(key, Bytes::new(), None).await.unwrap();
    let mut watch = fixture.watch("/registry/", start).await.unwrap();
    let elsewhere = other.create(key, Bytes::new(), None).await.unwrap();
    while watch.delivered() < elsewhere {
        assert_eq!(watch.advance(watch.delivered()).await.unwrap(), []);
    }
    let listing = other.list("/registry/", ListOptions::default()).await.unwrap();
    assert_eq!(listing.items.len(), 1);
    assert_eq!(
        (&*listing.items[0].key, listing.items[0].mod_revision),
        (key, elsewhere)
    );
    let mut theirs = other.watch("/registry/", 0).await.unwrap();
    assert_eq!(take(&mut theirs, 1).await[0].revision(), elsewhere);
}

/// What is no text in the range of a list is passed over, also where a whole page is of it.
#[tokio::test]
async fn keys_that_are_no_text_are_passed_over() {
    let fixture = Fixture::new().await;
    fixture.create("/a/1", Bytes::new(), None).await.unwrap();
    fixture.create("/a/z", Bytes::new(), None).await.unwrap();
    for byte in *b"\xf0\xf1\xf2" {
        let put = Operation::Put(PutRequest {
            key: [b"/a/2", &[byte][..]].concat().into(),
            ..PutRequest::default()
        });
        let transaction = TxnRequest {
            success: vec![put.into()],
            ..TxnRequest::default()
        };
        let members = &fixture.shared.members;
        let put = members.write("put", |api| api.txn(transaction.clone()));
        assert!(put.await.unwrap().succeeded);
    }
    let options = ListOptions {
        limit: 2,
        ..ListOptions::default()
    };
    let listing = fixture.list("/a/", options).await.unwrap();
    let keys: Vec<_> = listing.items.iter().map(|item| &*item.key).collect();
    assert_eq!((keys, listing.remaining), (vec!["/a/1", "/a/z"], 0));
}

#[tokio::test]
async fn leases_are_shared() {
    let fixture = Fixture::new().await;
    let ttl = Some(Duration::from_secs(3600));
    for key in ["/t/a", "/t/b", "/t/c"] {
        fixture.create(key, Bytes::new(), ttl).await.unwrap();
    }
    let count = || {
        fixture
            .servers
            .etcdctl(&["lease", "list"])
            .unwrap()
            .lines()
            .count()
            - 1
    };
    assert_eq!(count(), 1);
    // Somebody revokes it: those keys are gone, the next key gets another one.
    let list = fixture.servers.etcdctl(&["lease", "list"]).unwrap();
    fixture
        .servers
        .etcdctl(&["lease", "revoke", list.lines().nth(1).unwrap()])
        .unwrap();
    assert_eq!(fixture.get("/t/a").await.unwrap().0, None);
    fixture.create("/t/a", Bytes::new(), ttl).await.unwrap();
    assert_eq!(count(), 1);
}

/// Two API servers take turns; neither compacts what the other has not seen for an interval.
#[tokio::test]
async fn compacts_by_itself() {
    let fixture = Fixture::new().await;
    let interval = EtcdOptions {
        compaction_interval: Some(Duration::from_millis(100)),
        ..options(&fixture.servers)
    };
    let _one = Etcd::connect(interval.clone()).await.unwrap();
    let _two = Etcd::connect(interval).await.unwrap();
    let mut last = fixture.create("/c/a", Bytes::new(), None).await.unwrap();
    let first = last;
    // Ends when the compaction has come, however slow the machine is.
    while fixture.watch("/c/", first).await.is_ok() {
        last = fixture.update("/c/a", Bytes::new(), last, None).await.unwrap();
    }
    assert!(fixture.watch("/c/", last).await.is_ok());
    let key = fixture.servers.etcdctl(&["get", "compact_rev_key"]).unwrap();
    let revision: Revision = key.lines().nth(1).unwrap().parse().unwrap();
    assert!(revision <= fixture.current_revision().await.unwrap());
}

/// As after the restoration of a backup.
#[tokio::test]
async fn a_cluster_that_was_set_back_ends_watches() {
    let mut fixture = Fixture::new().await;
    let mut last = 0;
    for key in ["/w/a", "/w/b", "/w/c"] {
        last = fixture.create(key, Bytes::new(), None).await.unwrap();
    }
    let mut watch = fixture.watch("/w/", last).await.unwrap();
    fixture.servers.lose_everything().unwrap();
    match watch.next().await {
        // Less, where the feed had not come to the last write.
        Some(Err(Error::Compacted { requested, .. })) => assert!(requested <= last),
        other => panic!("{other:?}"),
    }
    let start = fixture.current_revision().await.unwrap();
    let mut watch = fixture.watch("/w/", start).await.unwrap();
    let again = fixture.create("/w/a", Bytes::new(), None).await.unwrap();
    assert!(again < last);
    assert_eq!(take(&mut watch, 1).await[0].revision(), again);
}

#[tokio::test]
async fn errors_name_the_endpoint() {
    // Nobody listens there any more.
    let dir = tempfile::tempdir().unwrap();
    let endpoint = EtcdServers::single(dir.path()).unwrap().endpoints().remove(0);
    let options = EtcdOptions {
        patience: Duration::from_millis(50),
        ..EtcdOptions::new(vec![endpoint.clone()])
    };
    let error = Etcd::connect(options).await.unwrap_err();
    assert!(error.to_string().contains(&endpoint), "{error}");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("refused"), "{cause}");

    for endpoints in [vec![], vec!["http://[".to_owned()]] {
        let error = Etcd::connect(EtcdOptions::new(endpoints)).await.unwrap_err();
        assert!(matches!(error, Error::Etcd { .. }), "{error}");
    }
    let tls = EtcdTls {
        ca_file: "/none/ca.pem".into(),
        client_files: None,
    };
    let options = EtcdOptions {
        tls: Some(tls),
        ..EtcdOptions::new(vec![endpoint])
    };
    let error = Etcd::connect(options).await.unwrap_err();
    assert!(error.to_string().contains("/none/ca.pem"), "{error}");
}

#[tokio::test]
async fn dropping_ends_watches() {
    let Fixture { store, servers, _dir } = Fixture::new().await;
    let mut watch = store.watch("/w/", 0).await.unwrap();
    drop(store);
    assert!(matches!(watch.next().await, Some(Err(Error::Closed))));
    assert!(watch.next().await.is_none());
    drop(servers);
}

/// A transaction that writes several keys, and a lease that ends, make one revision of many events: a watch tells all of
/// them at once, and never part of them as its progress (as etcd issue 15220).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_of_several_keys_is_told_at_once() {
    const KEYS: usize = 40;
    let fixture = Fixture::new().await;
    let start = fixture.current_revision().await.unwrap();
    let mut live = fixture.watch("/m/", start).await.unwrap();
    let put = |index: usize| {
        let put = Operation::Put(PutRequest {
            key: format!("/m/{index}").into(),
            value: vec![b'x'; 100].into(),
            ..PutRequest::default()
        });
        put.into()
    };
    let transaction = TxnRequest {
        success: (0..KEYS).map(put).collect(),
        ..TxnRequest::default()
    };
    let members = &fixture.shared.members;
    let done = members.write("put", |api| api.txn(transaction.clone()));
    assert!(done.await.unwrap().succeeded);
    let whole = |events: Vec<Arc<crate::Event>>, revision| {
        assert_eq!(events.len(), KEYS);
        assert!(events.iter().all(|event| event.revision() == revision));
    };
    whole(live.next().await.unwrap().unwrap(), start + 1);
    assert_eq!(live.delivered(), start + 1);
    let mut past = fixture.watch("/m/", start).await.unwrap();
    whole(past.next().await.unwrap().unwrap(), start + 1);

    let ttl = Some(Duration::from_secs(3600));
    let mut last = 0;
    for index in 0..10 {
        last = fixture
            .create(&format!("/t/{index}"), Bytes::new(), ttl)
            .await
            .unwrap();
    }
    let mut live = fixture.watch("/t/", last).await.unwrap();
    let list = fixture.servers.etcdctl(&["lease", "list"]).unwrap();
    fixture
        .servers
        .etcdctl(&["lease", "revoke", list.lines().nth(1).unwrap()])
        .unwrap();
    let told = live.next().await.unwrap().unwrap();
    assert_eq!(told.len(), 10);
    assert!(told.iter().all(|event| event.revision() == last + 1));
    let mut past = fixture.watch("/t/", last).await.unwrap();
    assert_eq!(past.next().await.unwrap().unwrap(), told);
}

/// From etcd to the embedded store and back into another etcd, whose revision goes on where the first one's was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_go_from_store_to_store() {
    let first = Fixture::new().await;
    for index in 0..30 {
        let key = format!("/registry/things/{index}");
        first.create(&key, vec![index; 100].into(), None).await.unwrap();
    }
    let ttl = Some(Duration::from_secs(3600));
    let last = first
        .create("/registry/events/a", Bytes::new(), ttl)
        .await
        .unwrap();
    first.create("/elsewhere/a", Bytes::new(), None).await.unwrap();
    let listing = first.list("/registry/", ListOptions::default()).await.unwrap();

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("from-etcd");
    let saved = first
        .save_snapshot(std::fs::File::create(&file).unwrap())
        .await
        .unwrap();
    assert_eq!((saved.revision, saved.keys), (last + 1, 31));
    let embedded_dir = dir.path().join("embedded");
    let (_, revision) = crate::Embedded::restore_snapshot(&embedded_dir, &file, 500).unwrap();
    let embedded = crate::Embedded::open(crate::EmbeddedOptions::new(&embedded_dir)).unwrap();
    let found = embedded.list("/", ListOptions::default()).await.unwrap();
    assert_eq!((found.items, found.revision), (listing.items.clone(), revision));

    let file = dir.path().join("from-embedded");
    embedded
        .save_snapshot(std::fs::File::create(&file).unwrap())
        .unwrap();
    let error = first.restore_snapshot(&file, 0).await.unwrap_err();
    assert!(
        matches!(&error, Error::NotEmpty(key) if key.starts_with("/registry/")),
        "{error}"
    );
    let second = Fixture::new().await;
    let (status, raised) = second.restore_snapshot(&file, 10).await.unwrap();
    assert_eq!(status.revision, revision);
    assert!(raised >= revision + 10 + 31);
    let found = second.list("/registry/", ListOptions::default()).await.unwrap();
    let values = |items: &[KeyValue]| -> Vec<_> {
        items
            .iter()
            .map(|item| (item.key.clone(), item.value.clone()))
            .collect()
    };
    assert_eq!(values(&found.items), values(&listing.items));
    for old in [last, revision, revision + 10] {
        let watch = second.watch("/registry/", old).await.map(drop);
        assert!(
            matches!(watch, Err(Error::Compacted { .. })),
            "a watch from {old}: {watch:?}"
        );
    }
    let leases = second.servers.etcdctl(&["lease", "list"]).unwrap();
    assert_eq!(leases.lines().count(), 2, "{leases}");
    assert_eq!(second.servers.etcdctl(&["get", "orlop", "--prefix"]).unwrap(), "");
}
