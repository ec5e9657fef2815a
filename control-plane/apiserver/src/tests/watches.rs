//! Watches: nothing lost, nothing twice, in order.

use serde_json::json;

use super::{Fixture, config_map};

const PATH: &str = "/api/v1/namespaces/kube-public/configmaps";

#[tokio::test]
async fn a_watch_tells_what_happened_since() {
    let fixture = Fixture::new().await;
    let list = fixture.ok("GET", PATH, None).await;
    let since = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    fixture.ok("POST", PATH, config_map("a", "1")).await;
    fixture
        .ok("PATCH", &format!("{PATH}/a"), json!({"data": {"key": "2"}}))
        .await;
    // The past is read from the store's log, the rest comes live.
    let mut events = fixture
        .watch(&format!("{PATH}?watch=true&resourceVersion={since}"))
        .await;
    assert_eq!(events.names(2).await, ["ADDED a", "MODIFIED a"]);
    fixture.ok("POST", PATH, config_map("b", "1")).await;
    fixture.ok("DELETE", &format!("{PATH}/a"), None).await;
    assert_eq!(events.names(1).await, ["ADDED b"]);
    let (kind, deleted) = events.next().await.unwrap();
    assert_eq!(kind, "DELETED");
    let revision = |value: &serde_json::Value| {
        value["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    // A deletion carries its own revision.
    let list = fixture.ok("GET", PATH, None).await;
    assert_eq!(revision(&deleted), revision(&list));
}

#[tokio::test]
async fn without_a_version_a_watch_starts_with_what_exists() {
    let fixture = Fixture::new().await;
    fixture.ok("POST", PATH, config_map("a", "1")).await;
    let mut events = fixture.watch(&format!("{PATH}?watch=true")).await;
    assert_eq!(events.names(1).await, ["ADDED a"]);
    fixture.ok("POST", PATH, config_map("b", "1")).await;
    assert_eq!(events.names(1).await, ["ADDED b"]);
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let fixture = Fixture::new().await;
    fixture.ok("POST", PATH, config_map("a", "1")).await;
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = fixture.watch(&format!("{PATH}?{query}")).await;
    assert_eq!(events.names(1).await, ["ADDED a"]);
    let (kind, bookmark) = events.next().await.unwrap();
    assert_eq!(kind, "BOOKMARK");
    assert_eq!(bookmark["kind"], "ConfigMap");
    assert_eq!(
        bookmark["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    let (code, _) = fixture
        .call("GET", &format!("{PATH}?watch=1&sendInitialEvents=true"), None)
        .await;
    assert_eq!(code, 422);
}

#[tokio::test]
async fn entering_and_leaving_a_selector() {
    let fixture = Fixture::new().await;
    let mut events = fixture
        .watch(&format!("{PATH}?watch=true&labelSelector=app%3Dx"))
        .await;
    let label = |value: &str| json!({"metadata": {"labels": {"app": value}}});
    fixture.ok("POST", PATH, config_map("a", "1")).await;
    fixture.ok("PATCH", &format!("{PATH}/a"), label("x")).await;
    fixture
        .ok("PATCH", &format!("{PATH}/a"), json!({"data": {"key": "2"}}))
        .await;
    fixture.ok("PATCH", &format!("{PATH}/a"), label("y")).await;
    fixture.ok("DELETE", &format!("{PATH}/a"), None).await;
    fixture
        .ok(
            "POST",
            PATH,
            json!({"metadata": {"name": "end", "labels": {"app": "x"}}}),
        )
        .await;
    assert_eq!(
        events.names(4).await,
        ["ADDED a", "MODIFIED a", "DELETED a", "ADDED end"]
    );
}

#[tokio::test]
async fn a_watch_ends_with_a_bookmark_when_its_time_is_over() {
    let fixture = Fixture::new().await;
    let mut events = fixture
        .watch(&format!(
            "{PATH}?watch=1&timeoutSeconds=3&allowWatchBookmarks=true"
        ))
        .await;
    let (kind, bookmark) = events.next().await.unwrap();
    assert_eq!(kind, "BOOKMARK");
    let current = fixture.ok("GET", PATH, None).await;
    assert_eq!(
        bookmark["metadata"]["resourceVersion"],
        current["metadata"]["resourceVersion"]
    );
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn every_watcher_sees_the_same_order() {
    let fixture = Fixture::new().await;
    let mut watches = Vec::new();
    for _ in 0..5 {
        watches.push(fixture.watch(&format!("{PATH}?watch=true")).await);
    }
    let writes = (0..40).map(|at| fixture.ok("POST", PATH, config_map(&format!("n{at}"), "")));
    futures::future::join_all(writes.map(|write| async move { drop(write.await) })).await;
    let first = watches[0].names(40).await;
    for watch in &mut watches[1..] {
        assert_eq!(watch.names(40).await, first);
    }
}
