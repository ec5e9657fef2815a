//! The contract over a real etcd, and what only a store over servers can be asked: to survive them.

mod cluster;
mod failover;

use std::ops::Deref;

use futures::StreamExt;

use self::cluster::Cluster;
use super::*;
use crate::testsuite::take;

crate::contract_tests!(Fixture::new().await);

/// A store over an etcd that goes with it.
struct Fixture {
    store: Etcd,
    cluster: Cluster,
}

impl Fixture {
    async fn new() -> Fixture {
        let cluster = Cluster::single();
        Fixture {
            store: Etcd::connect(options(&cluster)).await.unwrap(),
            cluster,
        }
    }
}

impl Deref for Fixture {
    type Target = Etcd;

    fn deref(&self) -> &Etcd {
        &self.store
    }
}

fn options(cluster: &Cluster) -> EtcdOptions {
    EtcdOptions {
        watch_buffer_events: 64,
        compaction_interval: None,
        ..cluster.options()
    }
}

#[tokio::test]
async fn keys_and_values_are_upstreams() {
    let fixture = Fixture::new().await;
    let value = Bytes::from_static(b"k8s\0value");
    fixture.create("/registry/pods/a/b", value, None).await.unwrap();
    let shown = fixture
        .cluster
        .etcdctl(&["get", "/registry", "--prefix", "-w", "fields"]);
    assert!(shown.contains(r#""Key" : "/registry/pods/a/b""#), "{shown}");
    assert!(shown.contains(r#""Value" : "k8s\x00value""#), "{shown}");
}

/// Two clusters in one etcd: neither sees the other, but its watches know how far they are.
#[tokio::test]
async fn writes_elsewhere_are_progress() {
    let fixture = Fixture::new().await;
    let moved = EtcdOptions {
        prefix: "/two".to_owned(),
        ..options(&fixture.cluster)
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
    let count = || fixture.cluster.etcdctl(&["lease", "list"]).lines().count() - 1;
    assert_eq!(count(), 1);
    // Somebody revokes it: those keys are gone, the next key gets another one.
    let list = fixture.cluster.etcdctl(&["lease", "list"]);
    fixture
        .cluster
        .etcdctl(&["lease", "revoke", list.lines().nth(1).unwrap()]);
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
        ..options(&fixture.cluster)
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
    let key = fixture.cluster.etcdctl(&["get", "compact_rev_key"]);
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
    fixture.cluster.lose_everything();
    match watch.next().await {
        Some(Err(Error::Compacted { requested, .. })) => assert_eq!(requested, last),
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
    // Bound and let go: nobody listens there.
    let port = cluster::free_port();
    let endpoint = format!("http://127.0.0.1:{port}");
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
    let Fixture { store, cluster } = Fixture::new().await;
    let mut watch = store.watch("/w/", 0).await.unwrap();
    drop(store);
    assert!(matches!(watch.next().await, Some(Err(Error::Closed))));
    assert!(watch.next().await.is_none());
    drop(cluster);
}
