//! A template of pods stays what it is, whoever reads it in whatever form and writes it back: controllers name what they make
//! after a hash of it, and another hash would replace every pod.

use serde_json::{Value, json};

use super::Fixture;

const JSON: &str = "application/json";
const FORMS: [&str; 3] = [JSON, "application/yaml", "application/vnd.kubernetes.protobuf"];

/// Says as little as a template may.
fn sparse() -> Value {
    json!({"containers": [{"name": "c", "image": "i:1"}]})
}

/// Says much, and some of it in forms that are read but not written: quantities, numbers that are texts, empty things.
fn rich() -> Value {
    json!({
        "initContainers": [{"name": "init", "image": "i", "restartPolicy": "Always", "resources": {}, "env": []}],
        "containers": [{
            "name": "c", "image": "registry/i@sha256:0123456789012345678901234567890123456789012345678901234567890123",
            "command": [], "args": ["a"], "workingDir": "", "tty": false, "stdin": true,
            "ports": [{"containerPort": 80, "name": "http"}, {"containerPort": 53, "protocol": "UDP", "hostPort": 0}],
            "env": [
                {"name": "A", "value": ""},
                {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "0"}}},
                {"name": "D", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": false}}}
            ],
            "resources": {
                "limits": {"cpu": "0.50", "memory": "1024Ki", "ephemeral-storage": "1e9", "example.com/gpu": "1"},
                "requests": {"cpu": "500m", "memory": "1048576"}
            },
            "livenessProbe": {"httpGet": {"port": "http", "path": ""}, "initialDelaySeconds": 0, "timeoutSeconds": 0},
            "readinessProbe": {"grpc": {"port": 9000}, "terminationGracePeriodSeconds": null},
            "startupProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 5},
            "lifecycle": {"preStop": {"httpGet": {"port": 80}}, "postStart": {"exec": {"command": ["true"]}}},
            "securityContext": {"capabilities": {"add": ["NET_ADMIN"], "drop": []}, "runAsUser": 0, "privileged": false},
            "volumeMounts": [{"name": "empty", "mountPath": "/e", "readOnly": false, "subPath": ""}]
        }],
        "volumes": [
            {"name": "empty", "emptyDir": {"sizeLimit": "0.5Gi"}},
            {"name": "default"  , "emptyDir": {}},
            {"name": "secret", "secret": {"secretName": "s"}},
            {"name": "config", "configMap": {"name": "c", "items": [{"key": "a", "path": "b"}], "optional": true}},
            {"name": "host", "hostPath": {"path": "/x"}},
            {"name": "down", "downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {"name": "all", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}, {"configMap": {"name": "c"}}]}},
            {"name": "claim", "persistentVolumeClaim": {"claimName": "p"}},
            {"name": "own", "ephemeral": {"volumeClaimTemplate": {"spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1000Mi"}}}}}},
            {"name": "csi", "csi": {"driver": "d.example.com"}},
            {"name": "iscsi", "iscsi": {"targetPortal": "1.2.3.4:3260", "iqn": "iqn.2001-04.com.example:s", "lun": 0}},
            {"name": "image", "image": {"reference": "i:2"}}
        ],
        "affinity": {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}]}},
            "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 1, "podAffinityTerm": {"topologyKey": "z", "labelSelector": {}, "matchLabelKeys": ["a"]}}]}
        },
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"a": "b"}}, "nodeTaintsPolicy": "Honor"}],
        "tolerations": [{"key": "t", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0}],
        "securityContext": {"fsGroup": 0, "sysctls": [], "supplementalGroups": [1]},
        "serviceAccountName": "sa", "automountServiceAccountToken": false, "enableServiceLinks": false,
        "imagePullSecrets": [{"name": "p"}], "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a.b"]}],
        "dnsConfig": {"nameservers": ["1.1.1.1"], "options": [{"name": "ndots", "value": "2"}, {"name": "debug"}]},
        "terminationGracePeriodSeconds": 0, "priorityClassName": "", "hostNetwork": false, "overhead": {"cpu": "0.1"},
        "readinessGates": [{"conditionType": "a/b"}], "nodeSelector": {}, "setHostnameAsFQDN": false, "os": {"name": "linux"}
    })
}

/// The kinds that have templates: where they are, where the template is, and the object around a template.
fn kinds(spec: &Value) -> Vec<(&'static str, &'static str, Value)> {
    let template = |policy: &str| {
        let mut template =
            json!({"metadata": {"labels": {"a": "b"}, "annotations": {"x": "y"}}, "spec": spec.clone()});
        if !policy.is_empty() {
            template["spec"]["restartPolicy"] = policy.into();
        }
        template
    };
    let workload = |version: &str, kind: &str| {
        json!({"apiVersion": version, "kind": kind, "metadata": {"name": "t"},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template("")}})
    };
    let job = json!({"parallelism": 0, "template": template("Never")});
    vec![
        (
            "/apis/apps/v1/namespaces/default/deployments",
            "/spec/template",
            workload("apps/v1", "Deployment"),
        ),
        (
            "/apis/apps/v1/namespaces/default/replicasets",
            "/spec/template",
            workload("apps/v1", "ReplicaSet"),
        ),
        (
            "/apis/apps/v1/namespaces/default/daemonsets",
            "/spec/template",
            workload("apps/v1", "DaemonSet"),
        ),
        (
            "/apis/apps/v1/namespaces/default/statefulsets",
            "/spec/template",
            workload("apps/v1", "StatefulSet"),
        ),
        (
            "/api/v1/namespaces/default/replicationcontrollers",
            "/spec/template",
            json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "t"},
                "spec": {"template": template("")}}),
        ),
        (
            "/api/v1/namespaces/default/podtemplates",
            "/template",
            json!({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "t"}, "template": template("")}),
        ),
        (
            "/apis/batch/v1/namespaces/default/jobs",
            "/spec/template",
            json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "t"}, "spec": job.clone()}),
        ),
        (
            "/apis/batch/v1/namespaces/default/cronjobs",
            "/spec/jobTemplate",
            json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "t"},
                "spec": {"schedule": "@daily", "suspend": true, "jobTemplate": {"spec": job}}}),
        ),
    ]
}

#[tokio::test]
async fn a_template_survives_every_form() {
    for spec in [sparse(), rich()] {
        let fixture = Fixture::new().await;
        for (path, at, body) in kinds(&spec) {
            let created = fixture.ok("POST", path, body.clone()).await;
            let one = format!("{path}/t");
            let same = |answer: &Value, how: &str| {
                let of = |object: &Value| object.pointer(at).map(Value::to_string);
                assert!(of(&created).is_some(), "{one}");
                assert_eq!(of(answer), of(&created), "{one}: {how}");
                let generation = |object: &Value| object["metadata"]["generation"].clone();
                assert_eq!(generation(answer), generation(&created), "{one}: {how}");
            };
            for form in FORMS {
                // The very bytes that were read are written, and read again in another form.
                let (code, headers, bytes) = fixture.ask("GET", &one, &[("accept", form)], Vec::new()).await;
                assert_eq!(
                    (code, headers["content-type"].to_str().unwrap()),
                    (200, form),
                    "{one}"
                );
                let sent = [("content-type", form), ("accept", JSON)];
                let (code, _, answer) = fixture.ask("PUT", &one, &sent, bytes.to_vec()).await;
                let answer: Value = serde_json::from_slice(&answer).unwrap();
                assert_eq!(code, 200, "{one} {form}: {answer:#}");
                same(&answer, form);
                same(&fixture.ok("GET", &one, None).await, form);
            }
            // A Job's labels and selector are the server's.
            if !path.ends_with("/jobs") {
                same(
                    &fixture.ok("PUT", &one, body.clone()).await,
                    "the manifest once more",
                );
            }
            // What was defaulted, created anew, is defaulted to the same.
            let mut again = created.clone();
            again["metadata"] = json!({"name": "again"});
            if path.ends_with("/jobs") {
                again["spec"]["manualSelector"] = true.into();
            }
            let again = fixture.ok("POST", path, again).await;
            assert_eq!(
                again.pointer(at).unwrap().to_string(),
                created.pointer(at).unwrap().to_string(),
                "{one}"
            );
        }
    }
}
