//! What HTTP itself says: codes, headers, forms of refusal, limits.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Fixture, config_map, pod};

const PATH: &str = "/api/v1/namespaces/default/configmaps";
const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn refusals() {
    let fixture = Fixture::new().await;
    fixture.ok("POST", PATH, config_map("a", "1")).await;
    let one = format!("{PATH}/a");
    let object = config_map("b", "1").to_string();
    for (method, path, headers, body, code, reason) in [
        ("GET", "/api/v1/nonsense", None, "", 404, None),
        ("GET", "/apis/made.up/v1/things", None, "", 404, None),
        ("GET", "/nonsense", None, "", 404, None),
        ("POST", "/version", None, "", 404, None),
        (
            "GET",
            "/api/v1/namespaces/default/configmaps/a/nonsense",
            None,
            "",
            404,
            Some("NotFound"),
        ),
        (
            "GET",
            "/api/v1/namespaces/default/configmaps/b",
            None,
            "",
            404,
            Some("NotFound"),
        ),
        ("POST", &one, Some(JSON), &object, 405, Some("MethodNotAllowed")),
        ("PUT", PATH, Some(JSON), &object, 405, Some("MethodNotAllowed")),
        (
            "GET",
            PATH,
            Some(("accept", "text/html")),
            "",
            406,
            Some("NotAcceptable"),
        ),
        (
            "POST",
            PATH,
            Some(("content-type", "text/plain")),
            &object,
            415,
            Some("UnsupportedMediaType"),
        ),
        ("PATCH", &one, Some(JSON), "{}", 415, Some("UnsupportedMediaType")),
        ("POST", PATH, Some(JSON), "{", 400, Some("BadRequest")),
        (
            "GET",
            &format!("{PATH}?timeout=soon"),
            None,
            "",
            400,
            Some("BadRequest"),
        ),
        ("GET", &format!("{PATH}?timeout=34s"), None, "", 200, None),
        ("GET", &format!("{PATH}/"), None, "", 200, None),
        ("GET", "/api/", None, "", 200, None),
        ("GET", "/apis/", None, "", 200, None),
        (
            "POST",
            PATH,
            Some(("content-type", "application/json; charset=utf-8")),
            &object,
            201,
            None,
        ),
    ] {
        let headers: Vec<_> = headers.into_iter().collect();
        let (got, answered, bytes) = fixture.ask(method, path, &headers, body).await;
        assert_eq!(got, code, "{method} {path}: {bytes:?}");
        assert!(answered.contains_key("audit-id"), "{method} {path}");
        assert_eq!(answered["cache-control"], "no-cache, private", "{method} {path}");
        let status: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        match reason {
            Some(reason) => {
                let seen = (&status["kind"], &status["reason"], &status["code"]);
                assert_eq!(
                    seen,
                    (&json!("Status"), &json!(reason), &json!(code)),
                    "{method} {path}"
                );
            }
            None if code == 404 => assert_eq!(bytes, "404 page not found\n", "{path}"),
            None => {}
        }
    }
}

#[tokio::test]
async fn ids_warnings_and_people() {
    let fixture = Fixture::new().await;
    let (_, headers, _) = fixture.ask("GET", "/version", &[("audit-id", "mine")], "").await;
    assert_eq!(headers["audit-id"], "mine");
    let too_long = "x".repeat(65);
    let (_, headers, _) = fixture
        .ask("GET", "/version", &[("audit-id", &too_long)], "")
        .await;
    assert_ne!(headers["audit-id"], too_long.as_str());

    let mut object = config_map("a", "1");
    object["nonsense"] = "\"x\\".into();
    let (code, headers, _) = fixture.ask("POST", PATH, &[JSON], object.to_string()).await;
    assert_eq!(
        (code, headers["warning"].to_str().unwrap()),
        (201, "299 - \"unknown field \\\"nonsense\\\"\"")
    );
    let strict = format!("{PATH}?fieldValidation=Strict");
    let (code, _, body) = fixture.ask("POST", &strict, &[JSON], object.to_string()).await;
    assert_eq!(code, 400, "{body:?}");

    let (_, _, plain) = fixture.ask("GET", &format!("{PATH}/a"), &[], "").await;
    let (_, headers, pretty) = fixture
        .ask("GET", &format!("{PATH}/a?pretty=true"), &[], "")
        .await;
    assert_eq!(headers["content-type"], "application/json");
    assert!(
        !plain.contains(&b' ') && pretty.starts_with(b"{\n  \""),
        "{pretty:?}"
    );
    let value = |bytes: &Bytes| serde_json::from_slice::<Value>(bytes).unwrap();
    assert_eq!(value(&plain), value(&pretty));
}

#[tokio::test]
async fn limits_of_size() {
    let fixture = Fixture::new().await;
    let large = json!({"metadata": {"name": "a"}, "data": {"key": "x".repeat(3 * 1024 * 1024)}});
    let (code, status) = fixture.call("POST", PATH, large).await;
    assert_eq!(
        (code, &status["reason"]),
        (413, &json!("RequestEntityTooLarge")),
        "{status}"
    );
    // What would not fit into etcd is refused by either store. (ConfigMaps have a limit of their own, below this one.)
    let mut annotated = pod("a");
    annotated["spec"]["containers"][0]["args"] = json!(["x".repeat(1600 * 1024)]);
    fixture
        .ok(
            "POST",
            "/api/v1/namespaces/default/serviceaccounts",
            json!({"metadata": {"name": "default"}}),
        )
        .await;
    let (code, status) = fixture
        .call("POST", "/api/v1/namespaces/default/pods", annotated)
        .await;
    assert_eq!(
        (code, &status["reason"]),
        (413, &json!("RequestEntityTooLarge")),
        "{status}"
    );
}

/// Whoever leaves in the middle of a write: what was begun is finished.
#[tokio::test]
async fn a_client_that_hangs_up_leaves_nothing_half_done() {
    let fixture = Fixture::new().await;
    let services = "/api/v1/namespaces/default/services";
    let service = json!({"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}});
    let since = fixture.revision().await;
    let watch = |path: &str| {
        let path = format!("{path}?watch=true&resourceVersion={since}");
        let fixture = &fixture;
        async move { fixture.watch(&path).await }
    };
    let addresses = "/apis/networking.k8s.io/v1/ipaddresses";
    let (mut taken, mut written) = (watch(addresses).await, watch(services).await);
    let call = fixture.call("POST", services, service);
    // The address is the first of two writes. Once it is there, nobody wants the answer any more.
    tokio::select! {
        biased;
        _ = taken.next() => {}
        _ = call => {}
    }
    assert_eq!(written.names(1).await, ["ADDED a"]);
    let created = fixture.ok("GET", &format!("{services}/a"), None).await;
    let address = created["spec"]["clusterIP"].as_str().unwrap();
    fixture.ok("GET", &format!("{addresses}/{address}"), None).await;
}

#[tokio::test]
async fn every_dry_run_leaves_no_trace() {
    let fixture = Fixture::new().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    fixture
        .ok("POST", accounts, json!({"metadata": {"name": "default"}}))
        .await;
    let pods = "/api/v1/namespaces/default/pods";
    fixture.ok("POST", pods, pod("a")).await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": pod("x")["spec"]});
    let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template});
    fixture
        .ok(
            "POST",
            deployments,
            json!({"metadata": {"name": "d"}, "spec": spec}),
        )
        .await;
    let current = fixture.ok("GET", &format!("{pods}/a"), None).await;
    let eviction = json!({"metadata": {"name": "a"}});
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n"}});
    let token = json!({"spec": {"expirationSeconds": 3600}});
    let status = json!({"status": {"phase": "Running"}});
    let labels = json!({"metadata": {"labels": {"x": "y"}}});
    let revision = fixture.revision().await;
    for (method, path, body) in [
        ("POST", pods.to_owned(), Some(pod("b"))),
        ("PUT", format!("{pods}/a"), Some(current.clone())),
        ("PATCH", format!("{pods}/a"), Some(labels)),
        ("PATCH", format!("{pods}/a/status"), Some(status)),
        ("POST", format!("{pods}/a/eviction"), Some(eviction)),
        ("POST", format!("{pods}/a/binding"), Some(binding)),
        ("POST", format!("{accounts}/default/token"), Some(token)),
        (
            "PATCH",
            format!("{deployments}/d/scale"),
            Some(json!({"spec": {"replicas": 5}})),
        ),
        ("DELETE", format!("{pods}/a"), None),
        ("DELETE", pods.to_owned(), None),
        ("DELETE", "/api/v1/namespaces/kube-node-lease".to_owned(), None),
    ] {
        fixture.ok(method, &format!("{path}?dryRun=All"), body).await;
        assert_eq!(fixture.revision().await, revision, "{method} {path}");
        let (code, refused) = fixture
            .call(method, &format!("{path}?dryRun=Some"), json!({}))
            .await;
        assert!(code == 422 || code == 400, "{method} {path}: {refused}");
    }
    tokio::time::timeout(
        Duration::from_secs(1),
        fixture.ok("GET", &format!("{pods}/a"), None),
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn versions_are_integers_that_grow() {
    let fixture = Fixture::new().await;
    let empty = fixture.ok("GET", PATH, None).await;
    let version = |value: &Value| {
        let text = value["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
        let number: u64 = text.parse().unwrap();
        assert!(number > 0 && text == number.to_string(), "{text}");
        number
    };
    assert_eq!(
        version(&empty),
        fixture.revision().await,
        "an empty list has the store's version too"
    );
    let created = fixture.ok("POST", PATH, config_map("a", "1")).await;
    let other = fixture.ok("POST", PATH, config_map("b", "1")).await;
    let changed = fixture
        .ok("PATCH", &format!("{PATH}/a"), json!({"data": {"key": "2"}}))
        .await;
    assert!(version(&empty) < version(&created) && version(&created) < version(&other));
    assert!(version(&other) < version(&changed));
    // An object's version is that of its own last write, and does not move with others'.
    let read = fixture.ok("GET", &format!("{PATH}/b"), None).await;
    assert_eq!(version(&read), version(&other));
    // A change that changes nothing is no write.
    let same = fixture
        .ok("PATCH", &format!("{PATH}/a"), json!({"data": {"key": "2"}}))
        .await;
    assert_eq!(version(&same), version(&changed));
    for query in [
        "resourceVersion=0".to_owned(),
        format!("resourceVersion={}", version(&created)),
    ] {
        let read = fixture.ok("GET", &format!("{PATH}/a?{query}"), None).await;
        assert!(version(&read) >= version(&created));
    }
    let (code, status) = fixture
        .call("GET", &format!("{PATH}/a?resourceVersion=999999"), None)
        .await;
    assert_eq!(
        (code, &status["details"]["causes"][0]["reason"]),
        (504, &json!("ResourceVersionTooLarge"))
    );
}

#[tokio::test]
async fn health_and_metrics() {
    let fixture = Fixture::new().await;
    let (code, _, body) = fixture.ask("GET", "/readyz?verbose", &[], "").await;
    let body = String::from_utf8_lossy(&body).into_owned();
    assert_eq!(code, 200);
    for line in [
        "[+]ping ok\n",
        "[+]etcd ok\n",
        "[+]informer-sync ok\n",
        "readyz check passed\n",
    ] {
        assert!(body.contains(line), "{body}");
    }
    let (code, headers, body) = fixture.ask("GET", "/livez/etcd", &[], "").await;
    assert_eq!(
        (code, &*body, &headers["content-type"]),
        (200, &b"ok"[..], &"text/plain; charset=utf-8".parse().unwrap())
    );
    assert_eq!(fixture.ask("GET", "/livez/nonsense", &[], "").await.0, 404);

    fixture.ok("POST", PATH, config_map("a", "1")).await;
    fixture.call("GET", &format!("{PATH}/b"), None).await;
    let _watch = fixture.watch(&format!("{PATH}?watch=true")).await;
    let (_, _, metrics) = fixture.ask("GET", "/metrics", &[], "").await;
    let metrics = String::from_utf8_lossy(&metrics).into_owned();
    let of = |verb: &str, scope: &str| {
        format!(
            "verb=\"{verb}\",dry_run=\"\",group=\"\",version=\"v1\",resource=\"configmaps\",subresource=\"\",scope=\"{scope}\",component=\"apiserver\""
        )
    };
    for line in [
        format!(
            "apiserver_request_total{{{},code=\"201\"}} 1",
            of("POST", "namespace")
        ),
        format!(
            "apiserver_request_total{{{},code=\"404\"}} 1",
            of("GET", "resource")
        ),
        format!(
            "apiserver_request_duration_seconds_count{{{}}} 1",
            of("POST", "namespace")
        ),
        format!(
            "apiserver_longrunning_requests{{{}}} 1",
            of("WATCH", "namespace").replace("dry_run=\"\",", "")
        ),
        format!(
            "apiserver_response_sizes_bucket{{{},le=\"1e+06\"}} 1",
            of("GET", "resource").replace("dry_run=\"\",", "")
        ),
        "etcd_requests_total{operation=\"create\",group=\"\",resource=\"configmaps\"} 1".to_owned(),
        "apiserver_current_inflight_requests{request_kind=\"mutating\"} 0".to_owned(),
        "apiserver_resource_objects{group=\"\",resource=\"configmaps\"} 1".to_owned(),
        "apiserver_storage_objects{resource=\"servicecidrs.networking.k8s.io\"} 1".to_owned(),
        "apiserver_registered_watchers{group=\"\",version=\"v1\",kind=\"ConfigMap\"} 1".to_owned(),
        "etcd_request_duration_seconds_count{operation=\"create\",group=\"\",resource=\"configmaps\"} 1"
            .to_owned(),
    ] {
        assert!(metrics.lines().any(|own| own == line), "{line}\n{metrics}");
    }

    fixture.server.shut_down();
    let (code, _, body) = fixture.ask("GET", "/readyz", &[], "").await;
    let body = String::from_utf8_lossy(&body).into_owned();
    assert_eq!(code, 500);
    assert!(
        body.contains("[-]shutdown failed: reason withheld\nreadyz check failed\n"),
        "{body}"
    );
    assert_eq!(fixture.ask("GET", "/livez", &[], "").await.0, 200);
}

#[tokio::test]
async fn complaints_come_all_at_once() {
    let fixture = Fixture::new().await;
    let json = r#"{"metadata":{"name":"a","nope":1},"data":{"k":"1","k":"2"},"data":{"k":"2"},"x":1,"x":2}"#;
    let yaml = "metadata:\n  name: a\n  nope: 1\ndata:\n  k: a\n  k: b\nx: 1\nx: 2\n";
    let twice = "error converting YAML to JSON: yaml: unmarshal errors:\n  line 6: key \"k\" already set in map\n  line 8: key \"x\" already set in map";
    let of_json = [
        "unknown field \"metadata.nope\"",
        "duplicate field \"data.k\"",
        "duplicate field \"data\"",
        "unknown field \"x\"",
        "unknown field \"x\"",
    ];
    let of_yaml = [twice, "unknown field \"metadata.nope\"", "unknown field \"x\""];
    let (_, _, old) = fixture
        .ask("POST", PATH, &[JSON], config_map("a", "1").to_string())
        .await;
    assert!(old.starts_with(b"{"));
    for (media, body, complaints) in [
        ("application/json", json, &of_json[..]),
        ("application/yaml", yaml, &of_yaml[..]),
    ] {
        for (method, path) in [("POST", PATH.to_owned()), ("PUT", format!("{PATH}/a"))] {
            let ask = async |mode: &str| {
                let path = format!("{path}?dryRun=All&fieldValidation={mode}");
                let body = if method == "POST" {
                    body.replace("name\":\"a", "name\":\"b")
                        .replace("name: a", "name: b")
                } else {
                    body.to_owned()
                };
                let (code, headers, body) =
                    fixture.ask(method, &path, &[("content-type", media)], body).await;
                let warnings: Vec<String> = headers
                    .get_all("warning")
                    .iter()
                    .map(|text| text.to_str().unwrap().to_owned())
                    .collect();
                let answer: Value = serde_json::from_slice(&body).unwrap();
                (code, warnings, answer)
            };
            let (code, warnings, answer) = ask("Strict").await;
            let expect = format!(
                "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: {}",
                complaints.join(", ")
            );
            assert_eq!(
                (code, answer["message"].as_str().unwrap()),
                (400, expect.as_str()),
                "{method}"
            );
            assert!(warnings.is_empty());
            let (code, warnings, answer) = ask("Ignore").await;
            assert!((200..300).contains(&code) && warnings.is_empty(), "{answer}");
            let quoted = |text: &&str| format!("299 - \"{}\"", text.replace('"', "\\\"").replace('\n', " "));
            for mode in ["Warn", ""] {
                let (code, warnings, answer) = ask(mode).await;
                assert!((200..300).contains(&code), "{answer}");
                assert_eq!(
                    warnings,
                    complaints.iter().map(quoted).collect::<Vec<_>>(),
                    "{method} {mode}"
                );
            }
        }
    }
}

#[tokio::test]
async fn complaints_about_patches() {
    let fixture = Fixture::new().await;
    fixture.ok("POST", PATH, config_map("a", "1")).await;
    let one = format!("{PATH}/a");
    for (media, patch, complaints) in [
        (
            "application/merge-patch+json",
            r#"{"data":{"k":"1","k":"2"},"x":1}"#,
            "duplicate field \"data.k\", unknown field \"x\"",
        ),
        (
            "application/strategic-merge-patch+json",
            r#"{"data":{"k":"1","k":"2"},"x":1}"#,
            "duplicate field \"data.k\", unknown field \"x\"",
        ),
        (
            "application/json-patch+json",
            r#"[{"op":"add","path":"/x","value":1,"y":2,"op":"add"}]"#,
            "json patch duplicate field \"[0].op\", json patch unknown field \"[0].y\", unknown field \"x\"",
        ),
    ] {
        let ask = async |mode: &str| {
            let path = format!("{one}?dryRun=All&fieldValidation={mode}");
            let (code, headers, body) = fixture
                .ask("PATCH", &path, &[("content-type", media)], patch)
                .await;
            let warnings = headers.get_all("warning").iter().count();
            (code, warnings, serde_json::from_slice::<Value>(&body).unwrap())
        };
        let (code, _, status) = ask("Strict").await;
        assert_eq!(
            (code, status["reason"].as_str()),
            (422, Some("Invalid")),
            "{status}"
        );
        let why = status["details"]["causes"][0]["message"].as_str().unwrap();
        assert!(
            why.ends_with(&format!("strict decoding error: {complaints}")),
            "{why}"
        );
        let (code, warnings, status) = ask("Warn").await;
        assert_eq!(
            (code, warnings),
            (200, complaints.split(", ").count()),
            "{status}"
        );
        assert_eq!(ask("Ignore").await.1, 0);
    }
    // An apply that names a field twice.
    let twice = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  k: a\n  k: b\n";
    let media = [("content-type", "application/apply-patch+yaml")];
    let apply = format!("{one}?fieldManager=m");
    let (code, headers, _) = fixture.ask("PATCH", &apply, &media, twice).await;
    assert_eq!((code, headers.get_all("warning").iter().count()), (200, 1));
    let (code, _, body) = fixture
        .ask("PATCH", &format!("{apply}&fieldValidation=Strict"), &media, twice)
        .await;
    let status: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (code, status["message"].as_str().unwrap()),
        (
            400,
            "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  line 6: key \"k\" already set in map"
        )
    );
}

#[tokio::test]
async fn warnings_about_what_is_valid() {
    let fixture = Fixture::new().await;
    fixture
        .ok(
            "POST",
            "/api/v1/namespaces/default/serviceaccounts",
            json!({"metadata": {"name": "default"}}),
        )
        .await;
    let warnings = async |method: &str, path: &str, media: &str, body: &Value| {
        let (code, headers, answer) = fixture
            .ask(method, path, &[("content-type", media)], body.to_string())
            .await;
        assert!((200..300).contains(&code), "{answer:?}");
        let texts = headers.get_all("warning").iter();
        texts
            .map(|text| text.to_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let json = "application/json";
    let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "1"});
    let mut object = config_map("a", "1");
    object["metadata"]["ownerReferences"] = json!([owner, owner]);
    let twice = "; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: 1\"";
    let expect = format!("299 - \".metadata.ownerReferences contains duplicate entries{twice}");
    assert_eq!(
        warnings("POST", PATH, json, &object).await,
        std::slice::from_ref(&expect)
    );
    let one = format!("{PATH}/a");
    assert_eq!(warnings("PUT", &one, json, &object).await, [expect]);
    let stored = fixture.ok("GET", &one, None).await;
    assert_eq!(stored["metadata"]["ownerReferences"], json!([owner]));
    let expect = format!(
        "299 - \".metadata.ownerReferences contains duplicate entries after mutating admission happens{twice}"
    );
    let patch = json!({"metadata": {"ownerReferences": [owner, owner]}});
    assert_eq!(
        warnings("PATCH", &one, "application/merge-patch+json", &patch).await,
        [expect]
    );

    // A template's warnings come when it changes, not with every write of its object.
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let web = json!({
        "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {
            "containers": [{"name": "c", "image": "i", "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}],
        }}},
    });
    let hides = "299 - \"spec.template.spec.containers[0].env[1]: hides previous definition of \\\"A\\\", which may be dropped when using apply\"";
    assert_eq!(warnings("POST", deployments, json, &web).await, [hides]);
    let one = format!("{deployments}/web");
    let merge = "application/merge-patch+json";
    let nothing: [&str; 0] = [];
    assert_eq!(
        warnings("PATCH", &one, merge, &json!({"metadata": {"labels": {"x": "y"}}})).await,
        nothing
    );
    assert_eq!(
        warnings("PATCH", &one, merge, &json!({"spec": {"replicas": 2}})).await,
        [hides]
    );
    let headless = json!({"metadata": {"name": "s"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}], "externalIPs": ["1.2.3.4"]}});
    assert_eq!(
        warnings("POST", "/api/v1/namespaces/default/services", json, &headless).await,
        ["299 - \"spec.externalIPs is ignored for headless services\""]
    );
    let pod = json!({"metadata": {"name": "p"}, "spec": {
        "nodeSelector": {"beta.kubernetes.io/os": "linux"}, "containers": [{"name": "c", "image": "i"}],
    }});
    assert_eq!(
        warnings("POST", "/api/v1/namespaces/default/pods", json, &pod).await,
        [
            "299 - \"spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \\\"kubernetes.io/os\\\" instead\""
        ]
    );
}
