//! Server-side apply and field managers over the whole request path.

use serde_json::{Value, json};

use super::{Fixture, config_map};
use crate::UserInfo;

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

impl Fixture {
    async fn apply(&self, path: &str, config: Value) -> (u16, Value) {
        let user = UserInfo::new("admin", &["system:masters"]);
        self.call_with(user, "PATCH", path, "application/apply-patch+yaml", config)
            .await
    }
}

fn deployment(replicas: impl Into<Option<i64>>, image: &str) -> Value {
    let mut deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": image, "ports": [{"containerPort": 80}]}]},
            },
        },
    });
    if let Some(replicas) = replicas.into() {
        deployment["spec"]["replicas"] = replicas.into();
    }
    deployment
}

fn managers(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    entries
        .into_iter()
        .flatten()
        .map(|entry| {
            let parts = ["manager", "operation", "subresource"].map(|field| text(entry, field));
            parts.join("/").trim_end_matches('/').to_owned()
        })
        .collect()
}

#[tokio::test]
async fn a_deployment_applied_by_two() {
    let fixture = Fixture::new().await;
    let path = format!("{DEPLOYMENTS}/web");
    let one = format!("{path}?fieldManager=one");
    let (code, created) = fixture.apply(&one, deployment(2, "a")).await;
    assert_eq!(code, 201, "{created:#}");
    assert_eq!(managers(&created), ["one/Apply"]);
    assert_eq!(created["spec"]["strategy"]["type"], "RollingUpdate");
    let fields = &created["metadata"]["managedFields"][0]["fieldsV1"];
    assert_eq!(fields["f:spec"]["f:replicas"], json!({}));
    assert_eq!(fields["f:spec"].get("f:strategy"), None);

    // Applying the same again writes nothing.
    let (code, again) = fixture.apply(&one, deployment(2, "a")).await;
    assert_eq!((code, &again), (200, &created));

    let two = format!("{path}?fieldManager=two");
    let (code, conflict) = fixture.apply(&two, deployment(3, "a")).await;
    assert_eq!((code, conflict["reason"].as_str()), (409, Some("Conflict")));
    assert_eq!(
        conflict["message"],
        "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas"
    );
    assert_eq!(
        conflict["details"],
        json!({"causes": [{
            "reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".spec.replicas",
        }]})
    );
    let (code, forced) = fixture
        .apply(&format!("{two}&force=true&dryRun=All"), deployment(3, "a"))
        .await;
    assert_eq!((code, &forced["spec"]["replicas"]), (200, &json!(3)));
    assert_eq!(fixture.ok("GET", &path, None).await, created);
    let (_, forced) = fixture
        .apply(&format!("{two}&force=true"), deployment(3, "a"))
        .await;
    assert_eq!(managers(&forced), ["one/Apply", "two/Apply"]);
    assert_eq!(forced["metadata"]["generation"], 2);

    // What only one of them had goes with it, and gets its default again.
    let (_, left) = fixture.apply(&two, deployment(None, "a")).await;
    assert_eq!(left["spec"]["replicas"], 1);
}

#[tokio::test]
async fn scaling_takes_the_replicas() {
    let fixture = Fixture::new().await;
    let path = format!("{DEPLOYMENTS}/web");
    let apply = format!("{path}?fieldManager=one");
    fixture.apply(&apply, deployment(1, "a")).await;
    let scale = format!("{path}/scale?fieldManager=hand");
    fixture
        .ok("PATCH", &scale, json!({"spec": {"replicas": 4}}))
        .await;
    let scaled = fixture.ok("GET", &path, None).await;
    assert_eq!(managers(&scaled), ["one/Apply", "hand/Update/scale"]);
    let (code, conflict) = fixture.apply(&apply, deployment(1, "a")).await;
    assert_eq!(code, 409);
    assert_eq!(
        conflict["message"],
        "Apply failed with 1 conflict: conflict with \"hand\" with subresource \"scale\" using apps/v1: .spec.replicas"
    );
    // The replicas can be applied by themselves.
    let config = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}, "spec": {"replicas": 5}});
    let scale = format!("{path}/scale?fieldManager=scaler");
    let (code, _) = fixture.apply(&scale, config.clone()).await;
    assert_eq!(code, 409);
    let (code, scaled) = fixture.apply(&format!("{scale}&force=true"), config).await;
    assert_eq!((code, &scaled["spec"]["replicas"]), (200, &json!(5)));
    let scaled = fixture.ok("GET", &path, None).await;
    assert_eq!(managers(&scaled), ["one/Apply", "scaler/Apply/scale"]);
}

#[tokio::test]
async fn status_has_managers_of_its_own() {
    let fixture = Fixture::new().await;
    let path = format!("{DEPLOYMENTS}/web");
    fixture
        .apply(&format!("{path}?fieldManager=one"), deployment(1, "a"))
        .await;
    let status = json!({"spec": {"replicas": 9}, "status": {"replicas": 1}});
    let status_path = format!("{path}/status?fieldManager=controller");
    let changed = fixture.ok("PATCH", &status_path, status.clone()).await;
    assert_eq!(managers(&changed), ["one/Apply", "controller/Update/status"]);
    assert_eq!(
        changed["metadata"]["managedFields"][1]["fieldsV1"],
        json!({"f:status": {"f:replicas": {}}})
    );
    assert_eq!(changed["spec"]["replicas"], 1);
    let again = fixture.ok("PATCH", &status_path, status).await;
    assert_eq!(again, changed);

    let applied = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "status": {"readyReplicas": 1},
    });
    let (code, applied) = fixture
        .apply(&format!("{path}/status?fieldManager=s"), applied)
        .await;
    assert_eq!((code, &applied["status"]["readyReplicas"]), (200, &json!(1)));
    assert_eq!(
        managers(&applied),
        ["one/Apply", "s/Apply/status", "controller/Update/status"]
    );
}

#[tokio::test]
async fn managed_fields_can_be_changed_and_forgotten() {
    let fixture = Fixture::new().await;
    let created = fixture
        .ok(
            "POST",
            &format!("{CONFIG_MAPS}?fieldManager=maker"),
            config_map("a", "1"),
        )
        .await;
    assert_eq!(managers(&created), ["maker/Update"]);
    let path = format!("{CONFIG_MAPS}/a");
    // Clients that know nothing of them do no harm.
    let mut ignorant = config_map("a", "2");
    ignorant["metadata"]["resourceVersion"] = created["metadata"]["resourceVersion"].clone();
    let updated = fixture
        .ok("PUT", &format!("{path}?fieldManager=other"), ignorant)
        .await;
    assert_eq!(managers(&updated), ["maker/Update", "other/Update"]);

    // As kubectl does it to come from client-side apply.
    let mut entries = updated["metadata"]["managedFields"].clone();
    entries[0]["operation"] = "Apply".into();
    let migration = json!([
        {"op": "replace", "path": "/metadata/managedFields", "value": entries},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": updated["metadata"]["resourceVersion"]},
    ]);
    let admin = || UserInfo::new("admin", &["system:masters"]);
    let (code, migrated) = fixture
        .call_with(admin(), "PATCH", &path, "application/json-patch+json", migration)
        .await;
    assert_eq!(
        (code, managers(&migrated)),
        (200, vec!["maker/Apply".to_owned(), "other/Update".to_owned()])
    );

    for reset in [json!([]), json!([{}])] {
        let made = fixture
            .ok(
                "PATCH",
                &format!("{path}?fieldManager=x"),
                json!({"data": {"x": reset.to_string()}}),
            )
            .await;
        let forgotten = fixture
            .ok("PATCH", &path, json!({"metadata": {"managedFields": reset}}))
            .await;
        assert_eq!(forgotten["metadata"].get("managedFields"), None, "{made:#}");
    }
    let (_, applied) = fixture
        .apply(&format!("{path}?fieldManager=y&force=1"), config_map("a", "3"))
        .await;
    assert_eq!(managers(&applied), ["y/Apply", "before-first-apply/Update"]);
}

#[tokio::test]
async fn a_replacement_forgets_managers_by_an_empty_list() {
    let fixture = Fixture::new().await;
    let path = format!("{CONFIG_MAPS}/a");
    fixture.ok("POST", CONFIG_MAPS, config_map("a", "1")).await;
    for (given, forgets) in [
        (None, false),
        (Some(Value::Null), false),
        (Some(json!([{"manager": "x", "operation": "Nonsense"}])), false),
        (Some(json!([{}])), true),
        (Some(json!([])), true),
    ] {
        fixture.ok("DELETE", &path, None).await;
        fixture.ok("POST", CONFIG_MAPS, config_map("a", "1")).await;
        let mut object = config_map("a", "2");
        if let Some(given) = &given {
            object["metadata"]["managedFields"] = given.clone();
        }
        let updated = fixture.ok("PUT", &path, object).await;
        assert_eq!(managers(&updated).is_empty(), forgets, "{given:?}");
    }
    // To a subresource it says nothing; to an apply, that it must not be there, unless as null.
    let (_, applied) = fixture
        .apply(&format!("{path}?fieldManager=m&force=true"), json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "managedFields": null}, "data": {"key": "3"},
        }))
        .await;
    assert_eq!(managers(&applied)[0], "m/Apply", "{applied:#}");
    fixture
        .apply(&format!("{DEPLOYMENTS}/web?fieldManager=one"), deployment(1, "a"))
        .await;
    let mut object = deployment(1, "a");
    object["metadata"]["managedFields"] = json!([]);
    let status = fixture
        .ok("PUT", &format!("{DEPLOYMENTS}/web/status"), object)
        .await;
    assert_eq!(managers(&status), ["one/Apply"]);
}

#[tokio::test]
async fn managers_go_before_an_object_is_too_large() {
    let fixture = Fixture::new().await;
    let args: Vec<String> = (0..3).map(|_| "x".repeat(400 * 1024)).collect();
    let mut object = super::pod("a");
    object["spec"]["containers"][0]["args"] = args.into();
    // Each key is in the object once, and once more in what its manager owns.
    let annotations: serde_json::Map<String, Value> =
        (0..2000).map(|i| (format!("{:0>60}", i), "1".into())).collect();
    object["metadata"]["annotations"] = annotations.into();
    let pods = "/api/v1/namespaces/default/pods";
    fixture
        .ok(
            "POST",
            "/api/v1/namespaces/default/serviceaccounts",
            json!({"metadata": {"name": "default"}}),
        )
        .await;
    let made = fixture.ok("POST", pods, object.clone()).await;
    assert_eq!(managers(&made), ["unknown/Update"]);
    object["metadata"]["name"] = "b".into();
    object["spec"]["containers"][0]["args"]
        .as_array_mut()
        .unwrap()
        .push("x".repeat(120 * 1024).into());
    let made = fixture.ok("POST", pods, object).await;
    assert_eq!(managers(&made), Vec::<String>::new());
}

#[tokio::test]
async fn who_writes_without_a_name() {
    let fixture = Fixture::new().await;
    for (i, (user, manager)) in [
        ("system:kube-scheduler", "kube-scheduler"),
        ("somebody", "unknown"),
    ]
    .into_iter()
    .enumerate()
    {
        let user = UserInfo::new(user, &["system:masters"]);
        let name = format!("a{i}");
        let (_, made) = fixture
            .call_as(user, "POST", CONFIG_MAPS, config_map(&name, "1"))
            .await;
        assert_eq!(managers(&made), [format!("{manager}/Update")]);
    }
}

#[tokio::test]
async fn what_cannot_be_applied() {
    let fixture = Fixture::new().await;
    let path = format!("{CONFIG_MAPS}/a");
    let named = format!("{path}?fieldManager=m");
    let with = |field: &str, value: Value| {
        let mut config = config_map("a", "1");
        config[field] = value;
        config
    };
    for (path, config, code, message) in [
        (
            &path,
            config_map("a", "1"),
            422,
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ),
        (
            &named,
            with("metadata", json!({"name": "a", "managedFields": []})),
            400,
            "metadata.managedFields must be nil",
        ),
        (
            &named,
            with("kind", "Secret".into()),
            400,
            "invalid object type: /v1, Kind=Secret",
        ),
        (
            &named,
            with("nope", 1.into()),
            500,
            "failed to create typed patch object (default/a; v1, Kind=ConfigMap): .nope: field not declared in schema",
        ),
        (
            &named,
            config_map("b", "1"),
            400,
            "the name of the object (b) does not match the name on the URL (a)",
        ),
        (
            &named,
            with("metadata", json!({"name": "a", "uid": "u"})),
            409,
            "Operation cannot be fulfilled on configmaps \"a\": uid mismatch: the provided object specified uid u, and no existing object was found",
        ),
    ] {
        let (got, status) = fixture.apply(path, config).await;
        assert_eq!(
            (got, status["message"].as_str()),
            (code, Some(message)),
            "{status:#}"
        );
    }
    let (code, status) = fixture
        .call("PATCH", &format!("{path}?force=true"), json!({}))
        .await;
    assert_eq!(
        (code, status["message"].as_str()),
        (
            422,
            Some(
                "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch"
            )
        )
    );
    let long = format!("{CONFIG_MAPS}?fieldManager={}", "x".repeat(129));
    let (code, _) = fixture.call("POST", &long, config_map("a", "1")).await;
    assert_eq!(code, 422);
}

#[tokio::test]
async fn who_may_not_create_may_not_apply_what_is_not_there() {
    let fixture = Fixture::new().await;
    let scheduler = || UserInfo::new("system:kube-scheduler", &["system:authenticated"]);
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let path = format!("{claims}/a?fieldManager=scheduler");
    let media = "application/apply-patch+yaml";
    let claim = || {
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "a"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        })
    };
    let (code, status) = fixture
        .call_with(scheduler(), "PATCH", &path, media, claim())
        .await;
    assert_eq!(
        (code, status["reason"].as_str()),
        (403, Some("Forbidden")),
        "{status:#}"
    );
    fixture.ok("POST", claims, claim()).await;
    let (code, status) = fixture
        .call_with(scheduler(), "PATCH", &path, media, claim())
        .await;
    assert_eq!(code, 200, "{status:#}");
}
