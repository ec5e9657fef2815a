//! Who may do what, and tokens.

use serde_json::{Value, json};

use super::{Fixture, pod};
use crate::UserInfo;

fn node(name: &str) -> UserInfo {
    UserInfo::new(format!("system:node:{name}"), &["system:nodes"])
}

fn jane() -> UserInfo {
    UserInfo::new("jane", &["dev"])
}

async fn bound_pod(fixture: &Fixture, name: &str, node: &str) -> Value {
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    fixture
        .call("POST", accounts, json!({"metadata": {"name": "default"}}))
        .await;
    let mut object = pod(name);
    object["spec"]["nodeName"] = node.into();
    object["spec"]["volumes"] = json!([{"name": "s", "secret": {"secretName": "mine"}}]);
    fixture
        .ok("POST", "/api/v1/namespaces/default/pods", object)
        .await
}

#[tokio::test]
async fn nothing_is_allowed_by_default() {
    let fixture = Fixture::new().await;
    let (code, status) = fixture
        .call_as(jane(), "GET", "/api/v1/namespaces/default/pods", None)
        .await;
    assert_eq!((code, status["reason"].as_str()), (403, Some("Forbidden")));
    assert_eq!(
        status["message"],
        "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    assert_eq!(fixture.call_as(jane(), "GET", "/api", None).await.0, 200);
    let anonymous = || UserInfo::anonymous();
    assert_eq!(fixture.call_as(anonymous(), "GET", "/version", None).await.0, 200);
    assert_eq!(fixture.call_as(anonymous(), "GET", "/readyz", None).await.0, 200);
    let (code, status) = fixture.call_as(anonymous(), "GET", "/api/v1/pods", None).await;
    assert_eq!(
        (code, status["message"].as_str().unwrap()),
        (
            403,
            "pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" at the cluster scope"
        )
    );
    assert_eq!(fixture.call_as(anonymous(), "GET", "/api", None).await.0, 403);
}

#[tokio::test]
async fn a_node_reaches_its_own() {
    let fixture = Fixture::new().await;
    for name in ["mine", "other"] {
        fixture
            .ok(
                "POST",
                "/api/v1/namespaces/default/secrets",
                json!({"metadata": {"name": name}}),
            )
            .await;
    }
    bound_pod(&fixture, "a", "n1").await;
    let code = async |user: UserInfo, method: &str, path: &str, body: Option<Value>| {
        fixture.call_as(user, method, path, body).await.0
    };
    let secrets = "/api/v1/namespaces/default/secrets";
    assert_eq!(
        code(node("n1"), "GET", &format!("{secrets}/mine"), None).await,
        200
    );
    assert_eq!(
        code(node("n1"), "GET", &format!("{secrets}/other"), None).await,
        403
    );
    assert_eq!(code(node("n1"), "GET", secrets, None).await, 403);
    assert_eq!(
        code(node("n2"), "GET", &format!("{secrets}/mine"), None).await,
        403
    );

    let pods = "/api/v1/pods";
    assert_eq!(
        code(
            node("n1"),
            "GET",
            &format!("{pods}?fieldSelector=spec.nodeName%3Dn1"),
            None
        )
        .await,
        200
    );
    assert_eq!(code(node("n1"), "GET", pods, None).await, 403);
    let status = Some(json!({"status": {"phase": "Running"}}));
    let path = "/api/v1/namespaces/default/pods/a/status";
    assert_eq!(code(node("n2"), "PATCH", path, status.clone()).await, 403);
    assert_eq!(code(node("n1"), "PATCH", path, status).await, 200);

    let object = |name: &str| Some(json!({"metadata": {"name": name}}));
    assert_eq!(code(node("n1"), "POST", "/api/v1/nodes", object("n2")).await, 403);
    assert_eq!(code(node("n1"), "POST", "/api/v1/nodes", object("n1")).await, 201);
    assert_eq!(
        code(
            node("n2"),
            "PATCH",
            "/api/v1/nodes/n1",
            Some(json!({"metadata": {"labels": {"a": "b"}}}))
        )
        .await,
        403
    );
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    assert_eq!(code(node("n1"), "POST", lease, object("n1")).await, 201);
    assert_eq!(code(node("n1"), "POST", lease, object("n2")).await, 403);
}

#[tokio::test]
async fn a_token_dies_with_its_pod() {
    let fixture = Fixture::new().await;
    let pod = bound_pod(&fixture, "a", "n1").await;
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let uid = pod["metadata"]["uid"].clone();
    let request = json!({"spec": {
        "expirationSeconds": 3607, "audiences": ["vault"],
        "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "a", "uid": uid},
    }});
    let (code, status) = fixture.call_as(node("n2"), "POST", path, request.clone()).await;
    assert_eq!(code, 403, "{status}");
    let (code, issued) = fixture.call_as(node("n1"), "POST", path, request).await;
    assert_eq!(code, 201, "{issued}");
    let token = issued["status"]["token"].as_str().unwrap().to_owned();

    let review = async |audiences: Value| {
        let body = json!({"spec": {"token": token, "audiences": audiences}});
        fixture
            .ok("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body)
            .await["status"]
            .clone()
    };
    let good = review(json!(["vault"])).await;
    assert_eq!(good["authenticated"], true);
    assert_eq!(good["user"]["username"], "system:serviceaccount:default:default");
    assert_eq!(
        good["user"]["extra"]["authentication.kubernetes.io/pod-name"],
        json!(["a"])
    );
    assert_ne!(review(json!([])).await["authenticated"], true);
    fixture
        .ok(
            "DELETE",
            "/api/v1/namespaces/default/pods/a?gracePeriodSeconds=0",
            None,
        )
        .await;
    assert_ne!(review(json!(["vault"])).await["authenticated"], true);
}

#[tokio::test]
async fn access_reviews_answer_as_the_authorizer_does() {
    let fixture = Fixture::new().await;
    let attributes = json!({"verb": "get", "resource": "pods", "namespace": "default"});
    let spec = |user: &str| json!({"spec": {"user": user, "groups": ["system:masters"], "resourceAttributes": attributes}});
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    assert_eq!(
        fixture.ok("POST", path, spec("x")).await["status"]["allowed"],
        true
    );
    let own = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let (code, review) = fixture
        .call_as(
            jane(),
            "POST",
            own,
            json!({"spec": {"resourceAttributes": attributes}}),
        )
        .await;
    assert_eq!((code, review["status"]["allowed"].as_bool()), (201, Some(false)));
    assert_eq!(fixture.call_as(jane(), "POST", path, spec("x")).await.0, 403);
    let whoami = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let (_, review) = fixture.call_as(jane(), "POST", whoami, json!({})).await;
    assert_eq!(review["status"]["userInfo"]["username"], "jane");
}

#[tokio::test]
async fn eviction_asks_the_budget() {
    let fixture = Fixture::new().await;
    bound_pod(&fixture, "a", "n1").await;
    let pods = "/api/v1/namespaces/default/pods";
    fixture
        .ok(
            "PATCH",
            &format!("{pods}/a"),
            json!({"metadata": {"labels": {"app": "x"}}}),
        )
        .await;
    fixture
        .ok(
            "PATCH",
            &format!("{pods}/a/status"),
            json!({"status": {"phase": "Running"}}),
        )
        .await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({
        "metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}},
    });
    fixture.ok("POST", budgets, budget).await;
    fixture.ok("PATCH", &format!("{budgets}/b/status"), json!({"status": {
        "observedGeneration": 1, "disruptionsAllowed": 0, "desiredHealthy": 1, "currentHealthy": 1, "expectedPods": 1,
    }})).await;
    let eviction = json!({"metadata": {"name": "a", "namespace": "default"}});
    let (code, status) = fixture
        .call("POST", &format!("{pods}/a/eviction"), eviction.clone())
        .await;
    assert_eq!(
        (code, status["reason"].as_str()),
        (429, Some("TooManyRequests")),
        "{status}"
    );
    fixture
        .ok(
            "PATCH",
            &format!("{budgets}/b/status"),
            json!({"status": {"disruptionsAllowed": 1}}),
        )
        .await;
    fixture.ok("POST", &format!("{pods}/a/eviction"), eviction).await;
    let going = fixture.ok("GET", &format!("{pods}/a"), None).await;
    assert!(going["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(
        fixture.ok("GET", &format!("{budgets}/b"), None).await["status"]["disruptionsAllowed"],
        0
    );
}
