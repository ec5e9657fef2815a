use super::*;
use crate::strategy::pod::default;
use serde_json::json;

fn defaulted(spec: Value) -> Value {
    let mut pod = json!({"metadata": {"name": "p"}, "spec": spec});
    default::pod(pod.as_object_mut().unwrap());
    pod
}

fn messages(spec: Value) -> String {
    let mut errors = ErrorList::new();
    pod(&defaulted(spec), &mut errors);
    if errors.is_empty() {
        String::new()
    } else {
        errors.message()
    }
}

/// A pod whose only container has the given fields too.
fn container(fields: Value) -> Value {
    let mut c = json!({"name": "c", "image": "i"});
    for (key, value) in fields.as_object().unwrap() {
        c[key] = value.clone();
    }
    json!({"containers": [c]})
}

#[test]
fn good_pods() {
    for spec in [
        container(json!({})),
        container(
            json!({"ports": [{"containerPort": 80, "name": "http"}], "readinessProbe": {"tcpSocket": {"port": "http"}}}),
        ),
        container(
            json!({"env": [{"name": "A-b.c", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a/b']"}}}]}),
        ),
        container(
            json!({"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1", "example.com/gpu": "1"}}}),
        ),
        json!({"containers": [{"name": "c", "image": "i"}], "tolerations": [{"operator": "Exists"}], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["fd00::1"]}}),
        json!({"containers": [{"name": "c", "image": "i"}], "initContainers": [{"name": "s", "image": "i", "restartPolicy": "Always", "readinessProbe": {"exec": {"command": ["x"]}}}]}),
    ] {
        assert_eq!(messages(spec.clone()), "", "{spec}");
    }
}

#[test]
fn bad_pods() {
    let cases = [
        (
            container(json!({"image": " i"})),
            r#"spec.containers[0].image: Invalid value: " i": must not have leading or trailing whitespace"#,
        ),
        (
            container(json!({"imagePullPolicy": "Sometimes"})),
            r#"spec.containers[0].imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", "IfNotPresent", "Never""#,
        ),
        (
            container(json!({"livenessProbe": {"exec": {"command": ["x"]}, "successThreshold": 2}})),
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ),
        (
            container(
                json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": ""}}}]}),
            ),
            "spec.containers[0].env[0].valueFrom.secretKeyRef.key: Required value",
        ),
        (
            container(
                json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels"}}}]}),
            ),
            r#"spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: "metadata.labels": supported values: "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs""#,
        ),
        (
            container(json!({"resources": {"requests": {"gpu": "1"}}})),
            r#"[spec.containers[0].resources.requests[gpu]: Invalid value: "gpu": must be a standard resource type or fully qualified, spec.containers[0].resources.requests[gpu]: Invalid value: "gpu": must be a standard resource for containers]"#,
        ),
        (
            json!({"containers": [{"name": "c", "image": "i"}], "initContainers": [{"name": "c", "image": "i", "livenessProbe": {"exec": {"command": ["x"]}}}]}),
            r#"[spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always, spec.containers[0].name: Duplicate value: "c"]"#,
        ),
        (
            json!({"containers": [{"name": "c", "image": "i"}], "dnsPolicy": "None"}),
            "spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "secret": {"defaultMode": 4096}}]}),
            "[spec.volumes[0].secret.secretName: Required value, spec.volumes[0].secret.defaultMode: Invalid value: 4096: must be a number between 0 and 0777 (octal), both inclusive]",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i"}], "tolerations": [{"key": "a", "tolerationSeconds": 1}]}),
            r#"spec.tolerations[0].effect: Invalid value: "": effect must be 'NoExecute' when `tolerationSeconds` is set"#,
        ),
    ];
    for (spec, want) in cases {
        assert_eq!(messages(spec.clone()), want, "{spec}");
    }
}

#[test]
fn updates() {
    let old = defaulted(
        json!({"containers": [{"name": "c", "image": "i"}], "tolerations": [{"key": "a", "operator": "Exists"}], "activeDeadlineSeconds": 10}),
    );
    let check = |change: &dyn Fn(&mut Value)| {
        let mut new = old.clone();
        change(&mut new["spec"]);
        let mut errors = ErrorList::new();
        pod_update(&new, &old, &mut errors);
        if errors.is_empty() {
            String::new()
        } else {
            errors.message()
        }
    };
    assert_eq!(check(&|_| ()), "");
    assert_eq!(check(&|s| s["containers"][0]["image"] = "j".into()), "");
    assert_eq!(check(&|s| s["activeDeadlineSeconds"] = 5.into()), "");
    assert_eq!(
        check(&|s| s["tolerations"] =
            json!([{"key": "a", "operator": "Exists"}, {"key": "b", "operator": "Exists"}])),
        ""
    );
    assert!(check(&|s| s["hostNetwork"] = true.into()).starts_with(
        "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`"
    ));
    assert!(check(&|s| s["containers"][0]["command"] = json!(["x"])).ends_with("changed: spec.containers"));
    assert_eq!(
        check(&|s| s["activeDeadlineSeconds"] = 50.into()),
        "spec.activeDeadlineSeconds: Invalid value: 50: must be less than or equal to previous value"
    );
    assert_eq!(
        check(&|s| s["tolerations"] = json!([])),
        "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"
    );
    assert_eq!(
        check(&|s| s["containers"] = json!([])),
        "[spec.containers: Required value, spec.containers: Forbidden: pod updates may not add or remove containers]"
    );
    assert_eq!(
        check(&|s| s["containers"][0]["image"] = "".into()),
        "spec.containers[0].image: Required value"
    );
}

#[test]
fn gated_pods_may_be_narrowed() {
    let old =
        defaulted(json!({"containers": [{"name": "c", "image": "i"}], "schedulingGates": [{"name": "g"}]}));
    let check = |change: &dyn Fn(&mut Value)| {
        let mut new = old.clone();
        change(&mut new["spec"]);
        let mut errors = ErrorList::new();
        pod_update(&new, &old, &mut errors);
        errors.len()
    };
    assert_eq!(check(&|s| s["schedulingGates"] = json!([])), 0);
    assert_eq!(check(&|s| s["nodeSelector"] = json!({"a": "b"})), 0);
    assert_eq!(check(&|s| s["affinity"] = json!({"nodeAffinity": {}})), 0);
    assert_eq!(
        check(&|s| s["schedulingGates"] = json!([{"name": "g"}, {"name": "h"}])),
        1
    );
}
