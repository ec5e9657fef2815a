//! Claims for devices that others use, and the times that the server takes down.

use serde_json::{Value, json};

use super::Fixture;

const GROUP: &str = "/apis/resource.k8s.io/v1";

fn claim(name: &str) -> Value {
    let request = json!({"name": "r", "exactly": {"deviceClassName": "c", "adminAccess": true}});
    json!({"metadata": {"name": name}, "spec": {"devices": {"requests": [request]}}})
}

#[tokio::test]
async fn admin_access_needs_a_marked_namespace() {
    let fixture = Fixture::new().await;
    let claims = format!("{GROUP}/namespaces/default/resourceclaims");
    let templates = format!("{GROUP}/namespaces/default/resourceclaimtemplates");
    let template = json!({"metadata": {"name": "a"}, "spec": {"spec": claim("a")["spec"]}});
    let cause = json!([{
        "reason": "FieldValueForbidden",
        "message": "Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing \
                    namespace",
        "field": "spec.devices.requests[0].adminAccess"
    }]);
    for (path, object) in [(&claims, claim("a")), (&templates, template.clone())] {
        let (code, status) = fixture.call("POST", path, object).await;
        assert_eq!((code, &status["details"]["causes"]), (422, &cause), "{status:#}");
    }
    let mark = json!({"metadata": {"labels": {"resource.kubernetes.io/admin-access": "true"}}});
    fixture.ok("PATCH", "/api/v1/namespaces/default", mark).await;
    fixture.ok("POST", &claims, claim("a")).await;
    fixture.ok("POST", &templates, template).await;

    let unmark = json!({"metadata": {"labels": {"resource.kubernetes.io/admin-access": null}}});
    fixture.ok("PATCH", "/api/v1/namespaces/default", unmark).await;
    // What was granted stays; the allocation asks anew.
    let path = format!("{claims}/a");
    fixture
        .ok("PATCH", &path, json!({"metadata": {"labels": {"a": "b"}}}))
        .await;
    let device = json!({"request": "r", "driver": "d", "pool": "p", "device": "x", "adminAccess": true});
    let allocation = json!({"status": {"allocation": {"devices": {"results": [device]}}}});
    let (code, status) = fixture.call("PATCH", &format!("{path}/status"), allocation).await;
    assert_eq!(
        (code, &status["details"]["causes"][0]["field"]),
        (422, &json!("status.allocation.devices.results[0].adminAccess")),
        "{status:#}"
    );
}

#[tokio::test]
async fn taints_say_since_when() {
    let fixture = Fixture::new().await;
    let rules = format!("{GROUP}/devicetaintrules");
    let rule = json!({"metadata": {"name": "a"}, "spec": {"taint": {"key": "k", "effect": "NoSchedule"}}});
    let created = fixture.ok("POST", &rules, rule).await;
    let added = created["spec"]["taint"]["timeAdded"].as_str().expect("a time");
    assert_eq!(added, created["metadata"]["creationTimestamp"]);
    assert_eq!(created["metadata"]["generation"], 1);

    let path = format!("{rules}/a");
    let old = json!({"spec": {"taint": {"timeAdded": "2020-01-01T00:00:00Z"}}});
    let backdated = fixture.ok("PATCH", &path, old).await;
    assert_eq!(backdated["spec"]["taint"]["timeAdded"], "2020-01-01T00:00:00Z");
    let stronger = json!({"spec": {"taint": {"effect": "NoExecute"}}});
    let stronger = fixture.ok("PATCH", &path, stronger).await;
    assert!(stronger["spec"]["taint"]["timeAdded"].as_str().expect("a time") >= added);
    assert_eq!(stronger["metadata"]["generation"], 3);

    // Nobody overwrites what they did not see.
    let mut blind = stronger;
    blind["metadata"]
        .as_object_mut()
        .expect("metadata")
        .remove("resourceVersion");
    let (code, status) = fixture.call("PUT", &path, blind).await;
    assert_eq!(code, 422, "{status:#}");
}
