//! Deletion: finalizers, grace, preconditions, collections, namespaces.

use serde_json::{Value, json};

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
async fn jobs_without_a_policy_warn_of_their_pods() {
    let fixture = Fixture::new().await;
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let job = json!({"metadata": {"name": "j", "finalizers": ["example.com/hold"]}, "spec": {"template": {"spec":
        {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    fixture.ok("POST", jobs, job).await;
    let one = format!("{jobs}/j");
    let expect = "299 - \"child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning\"";
    for (path, body, warned) in [
        (&one, json!({}), true),
        (&one, json!({"gracePeriodSeconds": 0}), true),
        (&one, json!({"propagationPolicy": "Orphan"}), false),
        (&one, json!({"orphanDependents": false}), false),
        (&jobs.to_owned(), json!({}), true),
        (
            &jobs.to_owned(),
            json!({"propagationPolicy": "Background"}),
            false,
        ),
    ] {
        let headers = [("content-type", "application/json")];
        let (code, headers, answer) = fixture.ask("DELETE", path, &headers, body.to_string()).await;
        assert!((200..300).contains(&code), "{answer:?}");
        let warning = headers.get("warning").map(|text| text.to_str().unwrap());
        assert_eq!(warning, warned.then_some(expect), "{path} {body}");
    }
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

#[tokio::test]
async fn a_collection_is_deleted_by_pages_when_asked_to() {
    let fixture = Fixture::new().await;
    let path = "/api/v1/namespaces/default/secrets";
    for name in ["a", "b", "c", "d"] {
        fixture
            .ok(
                "POST",
                path,
                json!({"metadata": {"name": name, "labels": {"l": "1"}}}),
            )
            .await;
    }
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap().iter();
        items
            .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let before = fixture.ok("GET", &format!("{path}?limit=2"), None).await;
    let first = fixture.ok("DELETE", &format!("{path}?limit=2"), None).await;
    // The objects are answered as they were, with where to go on.
    assert_eq!(first, before);
    assert_eq!(
        (first["kind"].as_str(), names(&first)),
        (Some("SecretList"), vec!["a".to_owned(), "b".to_owned()])
    );
    assert_eq!(first["metadata"]["remainingItemCount"], 2);
    assert_eq!(names(&fixture.ok("GET", path, None).await), ["c", "d"]);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = fixture
        .ok("DELETE", &format!("{path}?limit=1&continue={token}"), None)
        .await;
    assert_eq!(names(&second), ["c"]);
    let last = fixture
        .ok("DELETE", &format!("{path}?labelSelector=l=1"), None)
        .await;
    assert_eq!(names(&last), ["d"]);
    assert_eq!(last["metadata"].get("continue"), None);
    let none = fixture.ok("DELETE", path, None).await;
    assert_eq!(names(&none), Vec::<String>::new());
    // What waits for a finalizer is in the list as well, and stays.
    let waits = json!({"metadata": {"name": "w", "finalizers": ["x/y"]}});
    fixture.ok("POST", path, waits).await;
    let waiting = fixture.ok("DELETE", path, None).await;
    assert_eq!(waiting["items"][0]["metadata"].get("deletionTimestamp"), None);
    let there = fixture.ok("GET", &format!("{path}/w"), None).await;
    assert!(there["metadata"]["deletionTimestamp"].is_string());
    for bad in ["limit=x", "continue=x", "resourceVersionMatch=Exact"] {
        let (code, status) = fixture.call("DELETE", &format!("{path}?{bad}"), None).await;
        assert!(matches!(code, 400 | 422), "{bad}: {status}");
    }
}

#[tokio::test]
async fn over_all_namespaces_there_are_only_lists() {
    let fixture = Fixture::new().await;
    for (method, path, code) in [
        ("POST", "/api/v1/configmaps", 405),
        ("DELETE", "/api/v1/configmaps", 405),
        ("GET", "/api/v1/configmaps/a", 404),
        ("DELETE", "/api/v1/configmaps/a", 404),
        ("PUT", "/apis/apps/v1/deployments/a", 404),
        ("PATCH", "/apis/apps/v1/deployments/a/scale", 404),
        ("GET", "/api/v1/configmaps", 200),
    ] {
        let body = matches!(method, "POST" | "PUT" | "PATCH").then(|| json!({"metadata": {"name": "a"}}));
        assert_eq!(fixture.call(method, path, body).await.0, code, "{method} {path}");
    }
}
