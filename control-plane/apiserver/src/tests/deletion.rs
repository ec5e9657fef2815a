//! Deletion: finalizers, grace, preconditions, collections, namespaces.

use serde_json::json;

use super::{Fixture, config_map, pod};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn the_last_finalizer_deletes() {
    let fixture = Fixture::new().await;
    let mut object = config_map("a", "");
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    fixture.ok("POST", CONFIG_MAPS, object).await;
    let path = format!("{CONFIG_MAPS}/a");
    let held = fixture.ok("DELETE", &path, None).await;
    assert!(held["metadata"]["deletionTimestamp"].is_string(), "{held}");
    let (code, _) = fixture
        .call(
            "PATCH",
            &path,
            json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}}),
        )
        .await;
    assert_eq!(code, 422);
    fixture
        .ok("PATCH", &path, json!({"metadata": {"finalizers": null}}))
        .await;
    assert_eq!(fixture.call("GET", &path, None).await.0, 404);
}

#[tokio::test]
async fn pods_go_in_two_steps_once_they_are_on_a_node() {
    let fixture = Fixture::new().await;
    fixture
        .ok(
            "POST",
            "/api/v1/namespaces/default/serviceaccounts",
            json!({"metadata": {"name": "default"}}),
        )
        .await;
    fixture.ok("POST", PODS, pod("free")).await;
    fixture.ok("DELETE", &format!("{PODS}/free"), None).await;
    assert_eq!(fixture.call("GET", &format!("{PODS}/free"), None).await.0, 404);

    let mut bound = pod("bound");
    bound["spec"]["nodeName"] = "n1".into();
    fixture.ok("POST", PODS, bound).await;
    let path = format!("{PODS}/bound");
    let marked = fixture.ok("DELETE", &path, None).await;
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    let shortened = fixture
        .ok("DELETE", &format!("{path}?gracePeriodSeconds=5"), None)
        .await;
    assert_eq!(shortened["metadata"]["deletionGracePeriodSeconds"], 5);
    let kept = fixture
        .ok("DELETE", &format!("{path}?gracePeriodSeconds=60"), None)
        .await;
    assert_eq!(kept["metadata"]["deletionGracePeriodSeconds"], 5);
    fixture
        .ok(
            "DELETE",
            &path,
            json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}),
        )
        .await;
    assert_eq!(fixture.call("GET", &path, None).await.0, 404);
}

#[tokio::test]
async fn preconditions_and_policies() {
    let fixture = Fixture::new().await;
    fixture.ok("POST", CONFIG_MAPS, config_map("a", "")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let (code, _) = fixture
        .call("DELETE", &path, json!({"preconditions": {"uid": "other"}}))
        .await;
    assert_eq!(code, 409);
    let both = json!({"orphanDependents": true, "propagationPolicy": "Orphan"});
    assert_eq!(fixture.call("DELETE", &path, both).await.0, 422);
    let (code, waiting) = fixture
        .call("DELETE", &path, json!({"propagationPolicy": "Foreground"}))
        .await;
    assert_eq!(
        (code, &waiting["metadata"]["finalizers"]),
        (200, &json!(["foregroundDeletion"]))
    );
}

#[tokio::test]
async fn collections_by_selector() {
    let fixture = Fixture::new().await;
    for (name, app) in [("a", "x"), ("b", "x"), ("c", "y")] {
        fixture
            .ok(
                "POST",
                CONFIG_MAPS,
                json!({"metadata": {"name": name, "labels": {"app": app}}}),
            )
            .await;
    }
    let deleted = fixture
        .ok("DELETE", &format!("{CONFIG_MAPS}?labelSelector=app%3Dx"), None)
        .await;
    assert_eq!(deleted["items"].as_array().unwrap().len(), 2);
    let left = fixture
        .ok("GET", &format!("{CONFIG_MAPS}?labelSelector=app"), None)
        .await;
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_namespace_goes_when_it_is_finalized() {
    let fixture = Fixture::new().await;
    fixture
        .ok("POST", "/api/v1/namespaces", json!({"metadata": {"name": "n"}}))
        .await;
    let going = fixture.ok("DELETE", "/api/v1/namespaces/n", None).await;
    assert_eq!(going["status"]["phase"], "Terminating");
    let (code, status) = fixture
        .call("POST", "/api/v1/namespaces/n/configmaps", config_map("a", ""))
        .await;
    assert_eq!(
        (code, status["details"]["causes"][0]["reason"].as_str()),
        (403, Some("NamespaceTerminating"))
    );
    let mut finalized = going.clone();
    finalized["spec"]["finalizers"] = json!([]);
    fixture
        .ok("PUT", "/api/v1/namespaces/n/finalize", finalized)
        .await;
    assert_eq!(fixture.call("GET", "/api/v1/namespaces/n", None).await.0, 404);
    let (code, status) = fixture.call("DELETE", "/api/v1/namespaces/default", None).await;
    assert_eq!(code, 403, "{status}");
}
