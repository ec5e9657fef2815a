//! Create, read, update, patch and list.

use serde_json::{Value, json};

use super::{Fixture, config_map, pod};
use crate::UserInfo;

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn an_object_through_its_life() {
    let fixture = Fixture::new().await;
    let created = fixture.ok("POST", CONFIG_MAPS, config_map("a", "1")).await;
    let path = format!("{CONFIG_MAPS}/a");
    assert!(
        created["metadata"]["uid"]
            .as_str()
            .is_some_and(|uid| uid.len() == 36)
    );
    assert_eq!(fixture.ok("GET", &path, None).await, created);

    let mut changed = created.clone();
    changed["data"]["key"] = "2".into();
    let updated = fixture.ok("PUT", &path, changed.clone()).await;
    assert_ne!(
        updated["metadata"]["resourceVersion"],
        created["metadata"]["resourceVersion"]
    );
    // The version it is based on is gone.
    let (code, status) = fixture.call("PUT", &path, changed).await;
    assert_eq!((code, status["reason"].as_str()), (409, Some("Conflict")));
    assert_eq!(
        status["message"],
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to \
         the latest version and try again"
    );
    // A change that changes nothing writes nothing.
    let again = fixture.ok("PUT", &path, updated.clone()).await;
    assert_eq!(again, updated);

    let patched = fixture
        .ok("PATCH", &path, json!({"data": {"key": null, "other": "3"}}))
        .await;
    assert_eq!(patched["data"], json!({"other": "3"}));

    let (code, status) = fixture.call("POST", CONFIG_MAPS, config_map("a", "1")).await;
    assert_eq!((code, status["reason"].as_str()), (409, Some("AlreadyExists")));
    assert_eq!(status["message"], "configmaps \"a\" already exists");

    let status = fixture.ok("DELETE", &path, None).await;
    assert_eq!(
        (status["status"].as_str(), status["details"]["name"].as_str()),
        (Some("Success"), Some("a"))
    );
    let (code, status) = fixture.call("GET", &path, None).await;
    assert_eq!(
        (code, status["message"].as_str()),
        (404, Some("configmaps \"a\" not found"))
    );
}

#[tokio::test]
async fn what_may_not_be_created() {
    let fixture = Fixture::new().await;
    let refused = async |path: &str, object: Value, code: u16, message: &str| {
        let (seen, status) = fixture.call("POST", path, object).await;
        assert_eq!(
            (seen, status["message"].as_str()),
            (code, Some(message)),
            "{status:#}"
        );
    };
    refused(
        "/api/v1/namespaces/nope/configmaps",
        config_map("a", ""),
        404,
        "namespaces \"nope\" not found",
    )
    .await;
    let mut elsewhere = config_map("a", "");
    elsewhere["metadata"]["namespace"] = "kube-system".into();
    let message = "the namespace of the provided object does not match the namespace sent on the request";
    refused(CONFIG_MAPS, elsewhere, 400, message).await;
    let mut versioned = config_map("a", "");
    versioned["metadata"]["resourceVersion"] = "1".into();
    let message = "resourceVersion should not be set on objects to be created";
    refused(CONFIG_MAPS, versioned, 500, message).await;
    let (code, _) = fixture
        .call("POST", &format!("{CONFIG_MAPS}?dryRun=Some"), config_map("a", ""))
        .await;
    assert_eq!(code, 422);
}

#[tokio::test]
async fn names_are_generated_and_dry_runs_leave_nothing() {
    let fixture = Fixture::new().await;
    let object = json!({"metadata": {"generateName": "a-"}});
    let first = fixture.ok("POST", CONFIG_MAPS, object.clone()).await;
    let name = first["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("a-") && name.len() == 7, "{name}");
    let dry = fixture
        .ok(
            "POST",
            &format!("{CONFIG_MAPS}?dryRun=All"),
            config_map("dry", ""),
        )
        .await;
    assert_eq!(dry["metadata"]["name"], "dry");
    assert_eq!(
        fixture.call("GET", &format!("{CONFIG_MAPS}/dry"), None).await.0,
        404
    );
}

#[tokio::test]
async fn pages_are_one_consistent_list() {
    let fixture = Fixture::new().await;
    let path = "/api/v1/namespaces/kube-public/configmaps";
    for name in ["a", "b", "c", "d", "e"] {
        fixture.ok("POST", path, config_map(name, "")).await;
    }
    let first = fixture.ok("GET", &format!("{path}?limit=2"), None).await;
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    assert_eq!(first["items"][0].get("kind"), None);
    // What happens between the pages is not seen in them.
    fixture.ok("DELETE", &format!("{path}/d"), None).await;
    fixture.ok("POST", path, config_map("cc", "")).await;
    let mut names = Vec::new();
    let mut page = first.clone();
    loop {
        assert_eq!(
            page["metadata"]["resourceVersion"],
            first["metadata"]["resourceVersion"]
        );
        names.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|item| item["metadata"]["name"].clone()),
        );
        let Some(token) = page["metadata"]["continue"].as_str() else {
            break;
        };
        page = fixture
            .ok("GET", &format!("{path}?limit=2&continue={token}"), None)
            .await;
    }
    assert_eq!(json!(names), json!(["a", "b", "c", "d", "e"]));
    assert!(page["metadata"].get("remainingItemCount").is_none());

    let exact = format!(
        "{path}?resourceVersion={}&resourceVersionMatch=Exact",
        first["metadata"]["resourceVersion"].as_str().unwrap()
    );
    assert_eq!(
        fixture.ok("GET", &exact, None).await["items"]
            .as_array()
            .unwrap()
            .len(),
        5
    );
    let (code, status) = fixture
        .call(
            "GET",
            &format!("{path}?limit=2&continue=x&resourceVersion=5"),
            None,
        )
        .await;
    assert_eq!(code, 400, "{status}");
    let (code, status) = fixture
        .call("GET", &format!("{path}?resourceVersion=999999999"), None)
        .await;
    assert_eq!(
        (code, status["reason"].as_str()),
        (504, Some("Timeout")),
        "{status}"
    );
}

#[tokio::test]
async fn selectors() {
    let fixture = Fixture::new().await;
    let labelled = |name: &str, value: &str| json!({"metadata": {"name": name, "labels": {"app": value}}});
    fixture.ok("POST", CONFIG_MAPS, labelled("a", "x")).await;
    fixture.ok("POST", CONFIG_MAPS, labelled("b", "y")).await;
    let names = async |query: &str| {
        let list = fixture.ok("GET", &format!("{CONFIG_MAPS}?{query}"), None).await;
        let items = list["items"].as_array().unwrap().clone();
        items
            .iter()
            .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names("labelSelector=app%3Dx").await, ["a"]);
    assert_eq!(names("labelSelector=app%20in%20(y,z)").await, ["b"]);
    assert_eq!(
        names("labelSelector=app&fieldSelector=metadata.name%3Db").await,
        ["b"]
    );
    let (code, status) = fixture
        .call("GET", &format!("{CONFIG_MAPS}?fieldSelector=data.x%3Dy"), None)
        .await;
    assert_eq!(
        (code, status["message"].as_str()),
        (
            400,
            Some(r#""data.x" is not a known field selector: only "metadata.name", "metadata.namespace""#)
        )
    );
}

#[tokio::test]
async fn concurrent_patches_are_all_applied() {
    let fixture = Fixture::new().await;
    fixture.ok("POST", CONFIG_MAPS, config_map("a", "")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let patches = (0..20).map(|at| fixture.ok("PATCH", &path, json!({"data": {format!("k{at}"): "v"}})));
    futures::future::join_all(patches).await;
    let object = fixture.ok("GET", &path, None).await;
    assert_eq!(object["data"].as_object().unwrap().len(), 21);
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let fixture = Fixture::new().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    fixture
        .ok("POST", accounts, json!({"metadata": {"name": "default"}}))
        .await;
    let pods = "/api/v1/namespaces/default/pods";
    let created = fixture.ok("POST", pods, pod("a")).await;
    assert_eq!(created["status"]["phase"], "Pending");
    assert_eq!(created["spec"]["serviceAccountName"], "default");
    let volume = created["spec"]["volumes"][0]["name"].as_str().unwrap();
    assert!(volume.starts_with("kube-api-access-"), "{volume}");
    let status = fixture
        .ok(
            "PATCH",
            &format!("{pods}/a/status"),
            json!({"status": {"phase": "Running"}, "spec": {"nodeName": "n"}}),
        )
        .await;
    assert_eq!(status["status"]["phase"], "Running");
    assert!(status["spec"].get("nodeName").is_none());
    let labelled = fixture
        .ok(
            "PATCH",
            &format!("{pods}/a"),
            json!({"metadata": {"labels": {"a": "b"}}, "status": {"phase": "Failed"}}),
        )
        .await;
    assert_eq!(labelled["status"]["phase"], "Running");
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let fixture = Fixture::new().await;
    fixture
        .ok(
            "POST",
            "/api/v1/namespaces/default/serviceaccounts",
            json!({"metadata": {"name": "default"}}),
        )
        .await;
    fixture
        .ok("POST", "/api/v1/namespaces/default/pods", pod("a"))
        .await;
    let path = "/api/v1/namespaces/default/pods/a/binding";
    let binding = |node: &str| json!({"kind": "Binding", "apiVersion": "v1", "metadata": {"name": "a"}, "target": {"kind": "Node", "name": node}});
    let scheduler = || UserInfo::new("system:kube-scheduler", &[]);
    assert_eq!(
        fixture.call_as(scheduler(), "POST", path, binding("n1")).await.0,
        201
    );
    let (code, status) = fixture.call_as(scheduler(), "POST", path, binding("n2")).await;
    assert_eq!(code, 409);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("pod a is already assigned to node \"n1\""),
        "{status}"
    );
    let bound = fixture
        .ok(
            "GET",
            "/api/v1/namespaces/default/pods?fieldSelector=spec.nodeName%3Dn1",
            None,
        )
        .await;
    assert_eq!(
        bound["items"][0]["status"]["conditions"][0]["type"],
        "PodScheduled"
    );
}
