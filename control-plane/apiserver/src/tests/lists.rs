//! Lists: the rules of resourceVersion, its match, pages and tokens.

use serde_json::{Value, json};

use super::{Fixture, config_map};

const PATH: &str = "/api/v1/namespaces/kube-public/configmaps";

async fn filled() -> Fixture {
    let fixture = Fixture::new().await;
    for at in 0..5 {
        let mut object = config_map(&format!("n{at}"), "1");
        object["metadata"]["labels"] = json!({"half": if at < 3 { "a" } else { "b" }});
        fixture.ok("POST", PATH, object).await;
    }
    fixture
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn what_remains_is_told_only_without_selectors() {
    let fixture = filled().await;
    let page = fixture.ok("GET", &format!("{PATH}?limit=2"), None).await;
    assert_eq!(page["metadata"]["remainingItemCount"], 3);
    let page = fixture
        .ok("GET", &format!("{PATH}?limit=2&labelSelector=half%3Da"), None)
        .await;
    assert_eq!(names(&page), ["n0", "n1"]);
    assert!(page["metadata"].get("remainingItemCount").is_none());
    let token = page["metadata"]["continue"].as_str().unwrap();
    let path = format!("{PATH}?limit=2&labelSelector=half%3Da&continue={token}");
    let last = fixture.ok("GET", &path, None).await;
    assert_eq!(names(&last), ["n2"]);
    assert!(last["metadata"].get("continue").is_none());
    assert_eq!(
        last["metadata"]["resourceVersion"],
        page["metadata"]["resourceVersion"]
    );
}

#[tokio::test]
async fn pages_show_the_state_of_the_first_one() {
    let fixture = filled().await;
    let first = fixture.ok("GET", &format!("{PATH}?limit=2"), None).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    fixture.ok("DELETE", &format!("{PATH}/n2"), None).await;
    fixture.ok("POST", PATH, config_map("n9", "1")).await;
    let rest = fixture.ok("GET", &format!("{PATH}?continue={token}"), None).await;
    assert_eq!(names(&rest), ["n2", "n3", "n4"]);
    assert_eq!(
        rest["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    // A version and a limit mean exactly that version; without a limit it is a lower bound.
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let exact = fixture
        .ok("GET", &format!("{PATH}?limit=10&resourceVersion={version}"), None)
        .await;
    assert_eq!(names(&exact), ["n0", "n1", "n2", "n3", "n4"]);
    let newer = fixture
        .ok("GET", &format!("{PATH}?resourceVersion={version}"), None)
        .await;
    assert_eq!(names(&newer), ["n0", "n1", "n3", "n4", "n9"]);
}

#[tokio::test]
async fn options_that_contradict_each_other() {
    let fixture = filled().await;
    for (query, code, reason) in [
        ("resourceVersionMatch=Exact", 422, "Invalid"),
        ("resourceVersionMatch=Exact&resourceVersion=0", 422, "Invalid"),
        ("resourceVersionMatch=Some&resourceVersion=1", 422, "Invalid"),
        (
            "resourceVersionMatch=NotOlderThan&resourceVersion=1&continue=x",
            422,
            "Invalid",
        ),
        ("sendInitialEvents=true", 422, "Invalid"),
        ("resourceVersion=1&continue=x", 400, "BadRequest"),
        ("resourceVersion=abc", 400, "BadRequest"),
        ("resourceVersion=-1", 400, "BadRequest"),
        ("continue=x", 400, "BadRequest"),
        ("limit=many", 400, "BadRequest"),
        ("fieldSelector=spec.nodeName%3Da", 400, "BadRequest"),
        ("watch=1&resourceVersionMatch=NotOlderThan", 422, "Invalid"),
        (
            "watch=1&sendInitialEvents=true&resourceVersionMatch=Exact",
            422,
            "Invalid",
        ),
    ] {
        let (got, status) = fixture.call("GET", &format!("{PATH}?{query}"), None).await;
        assert_eq!(
            (got, status["reason"].as_str()),
            (code, Some(reason)),
            "{query}: {status}"
        );
    }
}

#[tokio::test]
async fn a_version_of_the_future_is_waited_for_and_then_refused() {
    let fixture = filled().await;
    for query in ["", "&limit=1", "&watch=1"] {
        let path = format!("{PATH}?resourceVersion=999999{query}");
        let (code, status) = fixture.call("GET", &path, None).await;
        assert_eq!((code, &status["reason"]), (504, &json!("Timeout")), "{status}");
        assert_eq!(
            status["details"]["causes"][0]["reason"],
            "ResourceVersionTooLarge"
        );
        assert_eq!(status["details"]["retryAfterSeconds"], 1);
    }
}
