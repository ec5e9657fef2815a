//! What is too old to be read any more, and watchers that are too slow.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use store::Store;

use super::{Fixture, config_map};

const PATH: &str = "/api/v1/namespaces/kube-public/configmaps";

async fn filled(count: usize) -> Fixture {
    let fixture = Fixture::new().await;
    for at in 0..count {
        fixture.ok("POST", PATH, config_map(&format!("n{at}"), "1")).await;
    }
    fixture
}

#[tokio::test]
async fn a_compacted_version_is_gone() {
    let fixture = filled(4).await;
    let first = fixture.ok("GET", &format!("{PATH}?limit=2"), None).await;
    let old = first["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let token = first["metadata"]["continue"].as_str().unwrap();
    fixture.ok("DELETE", &format!("{PATH}/n3"), None).await;
    fixture.ok("POST", PATH, config_map("n4", "1")).await;
    fixture.store.compact(fixture.revision().await).await.unwrap();

    let exact = format!("{PATH}?resourceVersion={old}&resourceVersionMatch=Exact");
    let (code, status) = fixture.call("GET", &exact, None).await;
    assert_eq!(
        (code, &status["reason"], &status["code"]),
        (410, &json!("Expired"), &json!(410))
    );
    // A lower bound is no trouble: the newest state is not older.
    fixture
        .ok("GET", &format!("{PATH}?resourceVersion={old}"), None)
        .await;

    // The Status offers a token that goes on in the present.
    let (code, status) = fixture
        .call("GET", &format!("{PATH}?limit=2&continue={token}"), None)
        .await;
    assert_eq!((code, &status["reason"]), (410, &json!("Expired")));
    let message = status["message"].as_str().unwrap();
    assert!(
        message.starts_with("The provided continue parameter is too old"),
        "{message}"
    );
    let token = status["metadata"]["continue"].as_str().unwrap();
    let inside: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).unwrap()).unwrap();
    assert_eq!(inside["rv"], -1);
    let rest = fixture
        .ok("GET", &format!("{PATH}?limit=2&continue={token}"), None)
        .await;
    let names: Vec<_> = rest["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| &item["metadata"]["name"])
        .collect();
    assert_eq!(names, ["n2", "n4"]);
    let newest = fixture.revision().await.to_string();
    assert_eq!(rest["metadata"]["resourceVersion"], newest);
}

#[tokio::test]
async fn a_watch_from_before_the_compaction_says_so_in_the_stream() {
    let fixture = filled(3).await;
    fixture.store.compact(fixture.revision().await).await.unwrap();
    let mut events = fixture
        .watch(&format!("{PATH}?watch=true&resourceVersion=1"))
        .await;
    let (kind, status) = events.next().await.unwrap();
    assert_eq!(
        (kind.as_str(), &status["code"], &status["reason"]),
        ("ERROR", &json!(410), &json!("Expired"))
    );
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .starts_with("too old resource version: 1 ("),
        "{status}"
    );
    assert_eq!(events.next().await, None);
    // From the compacted revision itself nothing is missing.
    let newest = fixture.revision().await;
    let mut events = fixture
        .watch(&format!("{PATH}?watch=true&resourceVersion={newest}"))
        .await;
    fixture.ok("POST", PATH, config_map("z", "1")).await;
    assert_eq!(events.names(1).await, ["ADDED z"]);
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_cut_off() {
    let fixture = filled(1).await;
    let since = fixture.revision().await;
    let path = format!("{PATH}?watch=true&resourceVersion={since}");
    let (mut slow, mut quick) = (fixture.watch(&path).await, fixture.watch(&path).await);
    let total = 1500_u32;
    let written = async {
        for at in 0..total {
            let change = json!({"data": {"key": at.to_string()}});
            fixture.ok("PATCH", &format!("{PATH}/n0"), change).await;
        }
    };
    let read = async {
        for at in 0..total {
            let (_, object) = quick.next().await.unwrap();
            assert_eq!(object["data"]["key"], at.to_string());
        }
    };
    tokio::join!(written, read);
    // What waited for it, in order and without a gap; then the end. It goes on from where it stopped.
    let mut last = String::new();
    let mut count = 0;
    while let Some((kind, object)) = slow.next().await {
        assert_eq!(
            (kind.as_str(), &object["data"]["key"]),
            ("MODIFIED", &json!(count.to_string()))
        );
        last = object["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
        count += 1;
    }
    assert!(count > 0 && count < total, "{count}");
    let mut resumed = fixture
        .watch(&format!("{PATH}?watch=true&resourceVersion={last}"))
        .await;
    assert_eq!(resumed.next().await.unwrap().1["data"]["key"], count.to_string());
    let (_, _, metrics) = fixture.ask("GET", "/metrics", &[], "").await;
    let metrics = String::from_utf8_lossy(&metrics);
    assert!(
        metrics.contains("apiserver_terminated_watchers_total{group=\"\",resource=\"configmaps\"} 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn tokens_survive_a_restart() {
    let fixture = filled(3).await;
    let first = fixture.ok("GET", &format!("{PATH}?limit=1"), None).await;
    let fixture = fixture.restart().await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let rest = fixture.ok("GET", &format!("{PATH}?continue={token}"), None).await;
    assert_eq!(rest["items"].as_array().unwrap().len(), 2);
    assert_eq!(
        rest["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
}
