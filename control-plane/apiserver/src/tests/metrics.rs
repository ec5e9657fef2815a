//! What `/metrics` tells after requests whose cost is known.

use serde_json::json;
use store::Store;

use super::{Fixture, config_map};

const PATH: &str = "/api/v1/namespaces/default/configmaps";

/// The value of a series; `None` when there is no such series.
fn value(metrics: &str, series: &str) -> Option<f64> {
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

async fn metrics(fixture: &Fixture) -> String {
    let (code, _, body) = fixture.ask("GET", "/metrics", &[], "").await;
    assert_eq!(code, 200);
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn lists_are_counted_with_what_they_cost() {
    let fixture = Fixture::new().await;
    for at in 0..5 {
        let mut object = config_map(&format!("n{at}"), "1");
        if at % 2 == 0 {
            object["metadata"]["labels"] = json!({"even": "yes"});
        }
        fixture.ok("POST", PATH, object).await;
    }
    let past = fixture.ok("GET", PATH, None).await["metadata"]["resourceVersion"].clone();
    fixture.ok("GET", &format!("{PATH}?limit=2"), None).await;
    let even = fixture
        .ok("GET", &format!("{PATH}?labelSelector=even"), None)
        .await;
    assert_eq!(even["items"].as_array().unwrap().len(), 3);
    // Only the store knows how it was before this.
    fixture.ok("DELETE", &format!("{PATH}/n4"), None).await;
    let past = past.as_str().unwrap();
    let path = format!("{PATH}?resourceVersion={past}&resourceVersionMatch=Exact&labelSelector=even");
    let then = fixture.ok("GET", &path, None).await;
    assert_eq!(then["items"].as_array().unwrap().len(), 3);

    let metrics = metrics(&fixture).await;
    for (name, index, expect) in [
        ("apiserver_cache_list_total", true, 3.0),
        ("apiserver_cache_list_fetched_objects_total", true, 12.0),
        ("apiserver_cache_list_returned_objects_total", false, 10.0),
        // Once when the server started, and there was nothing yet.
        ("apiserver_storage_list_total", false, 2.0),
        ("apiserver_storage_list_fetched_objects_total", false, 5.0),
        ("apiserver_storage_list_evaluated_objects_total", false, 5.0),
        ("apiserver_storage_list_returned_objects_total", false, 3.0),
    ] {
        let index = if index { ",index=\"\"" } else { "" };
        let series = format!("{name}{{group=\"\",resource=\"configmaps\"{index}}}");
        assert_eq!(value(&metrics, &series), Some(expect), "{series}");
    }
}

#[tokio::test]
async fn events_are_counted_by_their_size() {
    let fixture = Fixture::new().await;
    fixture.ok("POST", PATH, config_map("small", "1")).await;
    let mut watch = fixture.watch(&format!("{PATH}?watch=true")).await;
    assert_eq!(watch.names(1).await, ["ADDED small"]);
    fixture
        .ok("POST", PATH, config_map("large", &"x".repeat(100_000)))
        .await;
    assert_eq!(watch.names(1).await, ["ADDED large"]);
    fixture
        .ok("POST", PATH, config_map("huge", &"x".repeat(200_000)))
        .await;
    assert_eq!(watch.names(1).await, ["ADDED huge"]);

    let metrics = metrics(&fixture).await;
    let labels = "group=\"\",version=\"v1\",resource=\"configmaps\"";
    for (bound, expect) in [("1024", 1.0), ("65536", 1.0), ("131072", 2.0), ("+Inf", 3.0)] {
        let series = format!("apiserver_watch_events_sizes_bucket{{{labels},le=\"{bound}\"}}");
        assert_eq!(value(&metrics, &series), Some(expect), "{series}");
    }
    let sum = value(&metrics, &format!("apiserver_watch_events_sizes_sum{{{labels}}}")).unwrap();
    assert!((300_000.0..310_000.0).contains(&sum), "{sum}");
    let total = value(&metrics, &format!("apiserver_watch_events_total{{{labels}}}"));
    assert_eq!(total, Some(3.0));
}

#[tokio::test]
async fn the_store_tells_its_size() {
    let fixture = Fixture::new().await;
    let series = "apiserver_storage_size_bytes{storage_cluster_id=\"etcd-0\"}";
    let before = value(&metrics(&fixture).await, series).unwrap();
    let body = "x".repeat(900_000);
    for at in 0..8 {
        fixture
            .ok("POST", PATH, config_map(&format!("large{at}"), &body))
            .await;
    }
    let after = value(&metrics(&fixture).await, series).unwrap();
    assert!(before > 0.0 && after >= 8.0 * 900_000.0, "{before} {after}");
    assert_eq!(after, fixture.store.size_bytes().await.unwrap() as f64);
}

#[tokio::test]
async fn deprecated_apis_warn_and_are_counted() {
    let fixture = Fixture::new().await;
    let series = |resource: &str| {
        format!(
            "apiserver_requested_deprecated_apis{{group=\"\",version=\"v1\",resource=\"{resource}\",subresource=\"\",removed_release=\"\"}}"
        )
    };
    let before = metrics(&fixture).await;
    // The server itself writes those of its own service.
    assert_eq!(value(&before, &series("endpoints")), Some(1.0));
    assert_eq!(value(&before, &series("componentstatuses")), None);
    let endpoints = "/api/v1/namespaces/default/endpoints";
    let used = "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\"";
    let body = json!({"kind": "Endpoints", "apiVersion": "v1", "metadata": {"name": "a"}});
    let json = [("content-type", "application/json")];
    for (method, path, body, expect) in [
        ("GET", endpoints, String::new(), vec![used]),
        ("POST", endpoints, body.to_string(), vec![used]),
        ("GET", &format!("{endpoints}/a"), String::new(), vec![used]),
        ("GET", &format!("{endpoints}/absent"), String::new(), vec![used]),
        ("DELETE", &format!("{endpoints}/a"), String::new(), vec![used]),
        (
            "GET",
            "/api/v1/componentstatuses",
            String::new(),
            vec!["299 - \"v1 ComponentStatus is deprecated in v1.19+\""],
        ),
        ("GET", &format!("{endpoints}/a/status"), String::new(), vec![]),
        (
            "GET",
            "/apis/discovery.k8s.io/v1/endpointslices",
            String::new(),
            vec![],
        ),
    ] {
        let (code, headers, _) = fixture.ask(method, path, &json, body).await;
        let warnings: Vec<_> = headers
            .get_all("warning")
            .iter()
            .map(|value| value.to_str().unwrap())
            .collect();
        assert_eq!(warnings, expect, "{method} {path}: {code}");
    }
    let after = metrics(&fixture).await;
    for resource in ["endpoints", "componentstatuses"] {
        assert_eq!(value(&after, &series(resource)), Some(1.0), "{resource}");
    }
    let all = after
        .lines()
        .filter(|line| line.starts_with("apiserver_requested_deprecated_apis{"));
    assert_eq!(all.count(), 2);
}
