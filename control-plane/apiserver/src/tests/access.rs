//! Who may do what, and tokens.

use http_body_util::BodyExt;
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
    object["spec"]["volumes"] = json!([
        {"name": "s", "secret": {"secretName": "mine"}},
        {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "audience": "vault"}}]}},
    ]);
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

/// After pkg/apis/authorization/validation/validation_test.go.
#[tokio::test]
async fn reviews_that_ask_nothing_are_refused() {
    let fixture = Fixture::new().await;
    let resource = || json!({"verb": "get", "resource": "pods", "namespace": "default"});
    let (subject, own, local) = (
        "subjectaccessreviews",
        "selfsubjectaccessreviews",
        "namespaces/default/localsubjectaccessreviews",
    );
    let with = |selector: Value| {
        let mut attributes = resource();
        attributes
            .as_object_mut()
            .unwrap()
            .extend(selector.as_object().unwrap().clone());
        json!({"spec": {"user": "me", "resourceAttributes": attributes}})
    };
    let requirement = |field: &str, requirement: Value| with(json!({field: {"requirements": [requirement]}}));
    for (path, review, want) in [
        (
            own,
            json!({"spec": {}}),
            "spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        (
            own,
            json!({"spec": {"resourceAttributes": {}, "nonResourceAttributes": {}}}),
            "spec.nonResourceAttributes: Invalid value: {}: cannot be specified in combination with resourceAttributes",
        ),
        (
            own,
            json!({"metadata": {"name": "a"}, "spec": {"nonResourceAttributes": {}}}),
            "metadata: Invalid value: {\"name\":\"a\"}: must be empty",
        ),
        (
            subject,
            json!({"spec": {"resourceAttributes": resource()}}),
            "spec.user: Invalid value: \"\": at least one of user or group must be specified",
        ),
        (
            subject,
            with(
                json!({"fieldSelector": {"rawSelector": "foo", "requirements": [{"key": "a", "operator": "Exists"}]}}),
            ),
            "spec.resourceAttributes.fieldSelector.rawSelector: Invalid value: \"foo\": may not specified at the same time as requirements",
        ),
        (
            subject,
            with(json!({"labelSelector": {}})),
            "spec.resourceAttributes.labelSelector.requirements: Required value: when spec.resourceAttributes.labelSelector is specified, requirements or rawSelector is required",
        ),
        (
            subject,
            requirement("fieldSelector", json!({"key": "", "operator": "Exists"})),
            "spec.resourceAttributes.fieldSelector.requirements[0].key: Required value: must be specified",
        ),
        (
            subject,
            requirement("fieldSelector", json!({"key": "k", "operator": "In"})),
            "spec.resourceAttributes.fieldSelector.requirements[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
        ),
        (
            subject,
            requirement(
                "labelSelector",
                json!({"key": "k", "operator": "Exists", "values": ["v"]}),
            ),
            "spec.resourceAttributes.labelSelector.requirements[0].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        ),
        (
            local,
            json!({"spec": {"user": "me", "nonResourceAttributes": {"verb": "get", "path": "/"}}}),
            "spec.nonResourceAttributes: Invalid value: {\"path\":\"/\",\"verb\":\"get\"}: disallowed on this kind of request",
        ),
        (
            local,
            json!({"spec": {"user": "me", "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "other"}}}),
            "spec.resourceAttributes.namespace: Invalid value: \"other\": must match metadata.namespace",
        ),
    ] {
        let path = format!("/apis/authorization.k8s.io/v1/{path}");
        let (code, status) = fixture.call("POST", &path, review).await;
        let message = status["message"].as_str().unwrap_or_default();
        assert_eq!(code, 422, "{path}: {status}");
        assert!(message.ends_with(want), "{message}");
    }
    // What newer clients may know is let through.
    let path = format!("/apis/authorization.k8s.io/v1/{subject}");
    let newer = requirement(
        "labelSelector",
        json!({"key": "k", "operator": "Like", "values": ["v"]}),
    );
    assert_eq!(fixture.call("POST", &path, newer).await.0, 201);
    let tokens = "/apis/authentication.k8s.io/v1/tokenreviews";
    let (code, status) = fixture.call("POST", tokens, json!({"spec": {"token": ""}})).await;
    assert_eq!(
        (code, &status["message"]),
        (400, &json!("token is required for TokenReview in authentication"))
    );
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
    let local = "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews";
    assert_eq!(
        fixture.ok("POST", local, spec("x")).await["status"]["allowed"],
        true
    );
    let whoami = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let (_, review) = fixture.call_as(jane(), "POST", whoami, json!({})).await;
    assert_eq!(review["status"]["userInfo"]["username"], "jane");

    // What `kubectl auth can-i --list` shows.
    let rules = async |user: UserInfo, namespace: &str| {
        let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
        let (code, review) = fixture
            .call_as(user, "POST", path, json!({"spec": {"namespace": namespace}}))
            .await;
        (code, review["status"].clone())
    };
    assert_eq!(rules(jane(), "").await.0, 400);
    let (_, janes) = rules(jane(), "default").await;
    assert_eq!(janes["incomplete"], false);
    assert_eq!(
        janes["resourceRules"][0]["resources"],
        json!(["selfsubjectaccessreviews", "selfsubjectrulesreviews"])
    );
    let (_, admins) = rules(UserInfo::new("a", &["system:masters"]), "default").await;
    assert_eq!(
        admins["resourceRules"],
        json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}])
    );
    let (_, nodes) = rules(node("n1"), "default").await;
    assert_eq!(nodes["incomplete"], true);
    let (_, schedulers) = rules(UserInfo::new("system:kube-scheduler", &[]), "default").await;
    // Each rule is what the authorizer goes by.
    for rule in schedulers["resourceRules"].as_array().unwrap() {
        let text = |field: &str| rule[field][0].as_str().unwrap().replace('*', "x");
        let resource = text("resources");
        let (resource, subresource) = resource.split_once('/').unwrap_or((&resource, ""));
        let spec = json!({"spec": {"user": "system:kube-scheduler", "groups": ["system:authenticated"], "resourceAttributes": {
            "verb": text("verbs"), "group": text("apiGroups"), "resource": resource, "subresource": subresource, "namespace": "default",
        }}});
        assert_eq!(
            fixture.ok("POST", path, spec).await["status"]["allowed"],
            true,
            "{rule}"
        );
    }
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
    let eviction = || json!({"metadata": {"name": "a", "namespace": "default"}});
    let evict = async || {
        fixture
            .call("POST", &format!("{pods}/a/eviction"), eviction())
            .await
    };
    let set = async |status: Value| {
        fixture
            .ok("PATCH", &format!("{budgets}/b/status"), json!({"status": status}))
            .await;
    };
    let ready = async |value: &str| {
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": value}]}});
        fixture.ok("PATCH", &format!("{pods}/a/status"), status).await;
    };
    ready("True").await;
    set(json!({"observedGeneration": 0})).await;
    for (status, seconds, why) in [
        (
            json!({}),
            10,
            "The disruption budget b is still being processed by the server.",
        ),
        (
            json!({"observedGeneration": 1}),
            0,
            "The disruption budget b needs 1 healthy pods and has 1 currently",
        ),
        (
            json!({"conditions": [{
                "type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed", "message": "no such scale",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }]}),
            0,
            "The disruption budget b does not allow evicting pods currently because it failed sync: no such scale",
        ),
    ] {
        set(status).await;
        let (code, status) = evict().await;
        assert_eq!(
            (code, status["reason"].as_str(), status["message"].as_str()),
            (
                429,
                Some("TooManyRequests"),
                Some("Cannot evict pod as it would violate the pod's disruption budget.")
            ),
        );
        assert_eq!(
            status["details"]["causes"],
            json!([{"reason": "DisruptionBudget", "message": why}])
        );
        assert_eq!(
            status["details"]["retryAfterSeconds"].as_i64().unwrap_or(0),
            seconds
        );
    }
    set(json!({"disruptionsAllowed": 1})).await;
    // Dry runs spend nothing.
    fixture
        .ok("POST", &format!("{pods}/a/eviction?dryRun=All"), eviction())
        .await;
    assert_eq!(
        fixture.ok("GET", &format!("{budgets}/b"), None).await["status"]["disruptionsAllowed"],
        1
    );
    let (code, done) = evict().await;
    assert_eq!((code, done["status"].as_str()), (201, Some("Success")), "{done}");
    let going = fixture.ok("GET", &format!("{pods}/a"), None).await;
    assert!(going["metadata"]["deletionTimestamp"].is_string());
    let conditions = going["status"]["conditions"].as_array().unwrap();
    let target = conditions
        .iter()
        .find(|own| own["type"] == "DisruptionTarget")
        .unwrap();
    assert_eq!(
        (target["status"].as_str(), target["reason"].as_str()),
        (Some("True"), Some("EvictionByEvictionAPI"))
    );
    let spent = fixture.ok("GET", &format!("{budgets}/b"), None).await;
    assert_eq!(spent["status"]["disruptionsAllowed"], 0);
    assert!(spent["status"]["disruptedPods"]["a"].is_string());
    // What is going already asks nobody.
    assert_eq!(evict().await.0, 201);
}

#[tokio::test]
async fn eviction_of_what_is_not_ready() {
    let pods = "/api/v1/namespaces/default/pods";
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    for (policy, current, code) in [
        (json!(null), 0, 429),
        (json!("IfHealthyBudget"), 0, 429),
        (json!("IfHealthyBudget"), 1, 201),
        (json!(null), 1, 201),
        (json!("AlwaysAllow"), 0, 201),
    ] {
        let fixture = Fixture::new().await;
        bound_pod(&fixture, "a", "n1").await;
        let labels = json!({"metadata": {"labels": {"app": "x"}}});
        fixture.ok("PATCH", &format!("{pods}/a"), labels).await;
        let running =
            json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}});
        fixture.ok("PATCH", &format!("{pods}/a/status"), running).await;
        let budget = |name: &str| {
            json!({"metadata": {"name": name}, "spec": {
                "minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}, "unhealthyPodEvictionPolicy": policy,
            }})
        };
        fixture.ok("POST", budgets, budget("b")).await;
        let status = json!({"status": {
            "observedGeneration": 1, "disruptionsAllowed": 0, "desiredHealthy": 1, "currentHealthy": current, "expectedPods": 1,
        }});
        fixture.ok("PATCH", &format!("{budgets}/b/status"), status).await;
        let eviction = json!({"metadata": {"name": "a"}});
        let path = format!("{pods}/a/eviction");
        let (got, _) = fixture
            .call("POST", &format!("{path}?dryRun=All"), eviction.clone())
            .await;
        assert_eq!(got, code, "{policy} {current}");
        // Two budgets for one pod are nothing that eviction can serve.
        fixture.ok("POST", budgets, budget("c")).await;
        let (code, status) = fixture.call("POST", &path, eviction).await;
        assert_eq!(
            (code, status["message"].as_str()),
            (
                500,
                Some(
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
                )
            )
        );
    }
}

#[tokio::test]
async fn impersonation_is_authorised_and_honoured_or_refused() {
    let fixture = Fixture::new().await;
    let review = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let who = json!({"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1"}).to_string();
    let json = ("content-type", "application/json");
    let (code, _, body) = fixture
        .ask(
            "POST",
            review,
            &[
                json,
                ("impersonate-user", "jane"),
                ("impersonate-group", "dev"),
                ("impersonate-uid", "7"),
                ("impersonate-extra-scopes", "view"),
            ],
            who.clone(),
        )
        .await;
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (code, &answer["status"]["userInfo"]),
        (
            201,
            &json!({
                "username": "jane", "uid": "7", "groups": ["dev", "system:authenticated"], "extra": {"scopes": ["view"]},
            })
        )
    );
    // From then on the request is that user's, whatever its sender may do.
    let pods = "/api/v1/namespaces/default/pods";
    let (code, _, body) = fixture
        .ask("GET", pods, &[("impersonate-user", "jane")], "")
        .await;
    let status: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (code, status["message"].as_str().unwrap()),
        (
            403,
            "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
        )
    );
    let (code, ..) = fixture
        .ask("GET", pods, &[("impersonate-group", "dev")], "")
        .await;
    assert_eq!(code, 400);
    // Nobody but system:masters may.
    let ask = async |user: UserInfo, headers: &[(&str, &str)]| {
        let mut request = http::Request::get("/api");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(kube::client::Body::empty()).unwrap();
        let response = fixture.server.client(user).send(request).await.unwrap();
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let status: Value = serde_json::from_slice(&body).unwrap_or_default();
        (code, status["message"].as_str().unwrap_or_default().to_owned())
    };
    for user in ["jane", "system:kube-controller-manager", "system:kube-scheduler"] {
        let headers = [
            ("impersonate-user", "system:admin"),
            ("impersonate-group", "system:masters"),
        ];
        let expect = format!(
            "users \"system:admin\" is forbidden: User \"{user}\" cannot impersonate resource \"users\" in API group \"\" at the \
             cluster scope"
        );
        assert_eq!(ask(UserInfo::new(user, &[]), &headers).await, (403, expect));
        let headers = [("impersonate-user", "system:serviceaccount:kube-system:admin")];
        assert_eq!(ask(UserInfo::new(user, &[]), &headers).await.0, 403);
    }
    assert_eq!(ask(node("n1"), &[("impersonate-user", "jane")]).await.0, 403);
    assert_eq!(
        ask(UserInfo::anonymous(), &[("impersonate-user", "jane")])
            .await
            .0,
        403
    );
}

#[tokio::test]
async fn tokens_are_for_whom_they_were_asked() {
    let fixture = Fixture::new().await;
    let pod = bound_pod(&fixture, "a", "n1").await;
    fixture
        .ok("POST", "/api/v1/nodes", json!({"metadata": {"name": "n1"}}))
        .await;
    let uid = pod["metadata"]["uid"].clone();
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let path = format!("{accounts}/default/token");
    fixture
        .ok("POST", accounts, json!({"metadata": {"name": "other"}}))
        .await;
    fixture
        .ok(
            "POST",
            "/api/v1/namespaces/default/secrets",
            json!({"metadata": {"name": "s"}}),
        )
        .await;
    let account = fixture.ok("GET", &format!("{accounts}/default"), None).await;
    let bound = |kind: &str, version: &str, name: &str, uid: &str| json!({"spec": {"boundObjectRef": {"kind": kind, "apiVersion": version, "name": name, "uid": uid}}});
    let seconds = |seconds: i64| json!({"spec": {"expirationSeconds": seconds}});
    for (request, code, reason, message) in [
        (
            json!({"metadata": {"name": "other"}}),
            422,
            "Invalid",
            "TokenRequest.authentication.k8s.io \"default\" is invalid: metadata.name: Invalid value: \"other\": must match the service account name if specified",
        ),
        (
            json!({"metadata": {"namespace": "other"}}),
            400,
            "BadRequest",
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            json!({"metadata": {"uid": "other"}}),
            409,
            "Conflict",
            "Operation cannot be fulfilled on TokenRequest.authentication.k8s.io \"default\": the UID in the token request (other) does not match the UID of the service account (",
        ),
        (
            seconds(599),
            422,
            "Invalid",
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes",
        ),
        (
            seconds((1 << 32) + 1),
            422,
            "Invalid",
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds",
        ),
        (
            bound("ConfigMap", "v1", "c", ""),
            400,
            "BadRequest",
            "cannot bind token to object of type /v1, Kind=ConfigMap",
        ),
        (
            bound("Deployment", "apps/v1", "c", ""),
            400,
            "BadRequest",
            "cannot bind token to object of type apps/v1, Kind=Deployment",
        ),
        (
            bound("Pod", "v1", "none", ""),
            404,
            "NotFound",
            "pods \"none\" not found",
        ),
        (
            bound("Secret", "v1", "none", ""),
            404,
            "NotFound",
            "secrets \"none\" not found",
        ),
        (
            bound("Node", "v1", "none", ""),
            404,
            "NotFound",
            "nodes \"none\" not found",
        ),
        (
            bound("Pod", "v1", "a", "other"),
            409,
            "Conflict",
            "Operation cannot be fulfilled on Pod \"a\": the UID in the bound object reference (other) does not match the UID in record. The object might have been deleted and then recreated",
        ),
    ] {
        let (got, status) = fixture.call("POST", &path, request).await;
        assert_eq!((got, status["reason"].as_str()), (code, Some(reason)), "{status}");
        assert!(
            status["message"].as_str().unwrap().starts_with(message),
            "{status}"
        );
    }
    let (code, status) = fixture
        .call(
            "POST",
            &format!("{accounts}/other/token"),
            bound("Pod", "v1", "a", ""),
        )
        .await;
    assert_eq!(
        (code, status["message"].as_str()),
        (
            400,
            Some(
                "cannot bind token for serviceaccount \"other\" to pod running with different serviceaccount name."
            )
        )
    );
    assert_eq!(
        fixture
            .call("POST", &format!("{accounts}/none/token"), json!({}))
            .await
            .0,
        404
    );

    // What is good, and what it says.
    let plain = fixture.ok("POST", &path, json!({"status": {"token": "x"}})).await;
    assert_eq!(plain["metadata"]["name"], "default");
    assert_eq!(plain["metadata"]["uid"], account["metadata"]["uid"]);
    assert_eq!(plain["spec"]["expirationSeconds"], 3600);
    let claims_of_plain = claims(&plain);
    assert_eq!(claims_of_plain["aud"], plain["spec"]["audiences"]);
    assert_eq!(
        claims_of_plain["exp"].as_i64().unwrap() - claims_of_plain["iat"].as_i64().unwrap(),
        3600
    );
    for (request, claim, expect) in [
        (bound("Secret", "v1", "s", ""), "secret", "s"),
        (bound("Pod", "", "a", uid.as_str().unwrap()), "pod", "a"),
        (bound("Node", "v1", "n1", ""), "node", "n1"),
    ] {
        let issued = fixture.ok("POST", &path, request).await;
        assert_eq!(claims(&issued)["kubernetes.io"][claim]["name"], expect);
    }
    let dry = fixture
        .ok("POST", &format!("{path}?dryRun=All"), seconds(600))
        .await;
    assert!(
        dry["status"]["token"].as_str().unwrap_or_default().is_empty(),
        "{dry}"
    );

    // A pod of a node that is gone still names it.
    fixture.ok("DELETE", "/api/v1/nodes/n1", None).await;
    let issued = fixture.ok("POST", &path, bound("Pod", "v1", "a", "")).await;
    assert_eq!(claims(&issued)["kubernetes.io"]["node"], json!({"name": "n1"}));
}

/// What a token says.
fn claims(issued: &Value) -> Value {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let token = issued["status"]["token"].as_str().unwrap();
    let claims = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}

#[tokio::test]
async fn projected_tokens_live_longer_than_they_say() {
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let request = |seconds: i64, audiences: Value, pod: Option<&Value>| {
        let bound = pod.map(
            |pod| json!({"kind": "Pod", "apiVersion": "v1", "name": "a", "uid": pod["metadata"]["uid"]}),
        );
        json!({"spec": {"expirationSeconds": seconds, "audiences": audiences, "boundObjectRef": bound}})
    };
    let life = |issued: &Value| {
        let claims = claims(issued);
        let from = |claim: &Value| claim.as_i64().map(|time| time - claims["iat"].as_i64().unwrap());
        (from(&claims["exp"]), from(&claims["kubernetes.io"]["warnafter"]))
    };
    let fixture = Fixture::new().await;
    let pod = bound_pod(&fixture, "a", "n1").await;
    let own = json!(["https://kubernetes.default.svc.cluster.local"]);
    for audiences in [Value::Null, own] {
        let issued = fixture
            .ok("POST", path, request(3607, audiences, Some(&pod)))
            .await;
        assert_eq!(life(&issued), (Some(31_536_000), Some(3607)));
        // Who asked is told what was asked for.
        let expires: jiff::Timestamp = issued["status"]["expirationTimestamp"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(
            expires.as_second() - claims(&issued)["iat"].as_i64().unwrap(),
            3607
        );
        let review = json!({"spec": {"token": issued["status"]["token"]}});
        let review = fixture
            .ok("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review)
            .await;
        assert_eq!(review["status"]["authenticated"], true);
    }
    for (seconds, audiences, pod) in [
        (3606, Value::Null, Some(&pod)),
        (3607, json!(["vault"]), Some(&pod)),
        (3607, Value::Null, None),
    ] {
        let issued = fixture.ok("POST", path, request(seconds, audiences, pod)).await;
        assert_eq!(life(&issued), (Some(seconds), None));
    }
    let (_, _, page) = fixture.ask("GET", "/metrics", &[], "").await;
    let page = String::from_utf8(page.to_vec()).unwrap();
    for line in [
        "serviceaccount_valid_tokens_total 2",
        "serviceaccount_stale_tokens_total 0",
    ] {
        assert!(page.lines().any(|seen| seen == line), "{line}");
    }

    // Not if it is turned off.
    let Fixture {
        server,
        store,
        directory,
    } = fixture;
    drop(server);
    let config = crate::Config {
        service_account_extend_token_expiration: false,
        ..super::config(directory.path())
    };
    let server = crate::Server::new(config, store.clone()).await.unwrap();
    let fixture = Fixture {
        server,
        store,
        directory,
    };
    let issued = fixture
        .ok("POST", path, request(3607, Value::Null, Some(&pod)))
        .await;
    assert_eq!(life(&issued), (Some(3607), None));
}

#[tokio::test]
async fn nodes_get_tokens_that_their_pods_mount() {
    let fixture = Fixture::new().await;
    bound_pod(&fixture, "first", "n1").await;
    let mut own = pod("a");
    own["spec"]["nodeName"] = "n1".into();
    own["spec"]["serviceAccountName"] = "default".into();
    own["spec"]["volumes"] = json!([
        {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "audience": "vault"}}]}},
        {"name": "c", "csi": {"driver": "csi.example.com"}},
    ]);
    let own = fixture.ok("POST", "/api/v1/namespaces/default/pods", own).await;
    fixture
        .ok(
            "POST",
            "/apis/storage.k8s.io/v1/csidrivers",
            json!({"metadata": {"name": "csi.example.com"}, "spec": {"tokenRequests": [{"audience": "storage"}]}}),
        )
        .await;
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let uid = own["metadata"]["uid"].as_str().unwrap();
    let ask = async |who: &str, reference: Value, audiences: Value| {
        let request = json!({"spec": {"audiences": audiences, "boundObjectRef": reference}});
        let (code, status) = fixture.call_as(node(who), "POST", path, request).await;
        (code, status["message"].as_str().unwrap_or_default().to_owned())
    };
    let reference = |kind: &str, name: &str, uid: &str| json!({"kind": kind, "apiVersion": "v1", "name": name, "uid": uid});
    for (who, asked, audiences, code, why) in [
        ("n1", reference("Pod", "a", uid), json!(["vault"]), 201, ""),
        ("n1", reference("Pod", "a", uid), json!(["storage"]), 201, ""),
        // The volume that every pod gets is for the API server.
        ("n1", reference("Pod", "a", uid), json!([]), 201, ""),
        (
            "n1",
            reference("Pod", "a", uid),
            json!(["vault", "storage"]),
            403,
            "node may only request 0 or 1 audiences",
        ),
        (
            "n1",
            reference("Pod", "a", uid),
            json!(["bank"]),
            403,
            "audience \"bank\" not found in pod spec volume, system:node:n1 is not authorized to request tokens for this audience",
        ),
        (
            "n1",
            Value::Null,
            json!([]),
            403,
            "node requested token not bound to a pod",
        ),
        (
            "n1",
            reference("Secret", "a", uid),
            json!([]),
            403,
            "node requested token not bound to a pod",
        ),
        (
            "n1",
            reference("Pod", "a", ""),
            json!([]),
            403,
            "node requested token with a pod binding without a uid",
        ),
        (
            "n1",
            reference("Pod", "a", "other"),
            json!([]),
            403,
            "the UID in the bound object reference (other) does not match the UID in record. The object might have been deleted and then recreated",
        ),
    ] {
        let (got, message) = ask(who, asked, audiences).await;
        assert_eq!(got, code, "{message}");
        assert!(message.ends_with(why), "{message}");
    }
    let (code, _) = ask("n2", reference("Pod", "a", uid), json!(["vault"])).await;
    assert_eq!(code, 403);
}
