use serde_json::json;

use super::*;

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().expect("a time")
}

/// The cells of an object made a minute before [`now`], by column name.
fn cells(group: &str, kind: &str, mut object: Value) -> impl Fn(&str) -> Value {
    object["metadata"]["creationTimestamp"] = json!("2026-01-01T11:59:00Z");
    let printer = printer(group, kind);
    let row = (printer.row)(&object, now());
    assert_eq!(row.len(), printer.columns.len(), "{kind}: one cell per column");
    move |column| {
        let index = printer.columns.iter().position(|c| c.name == column);
        row[index.unwrap_or_else(|| panic!("no column {column}"))].clone()
    }
}

/// Rows of upstream's `TestPrintPod`.
#[test]
fn pod_status() {
    let check = |spec: Value, status: Value, ready: &str, shown: &str, restarts: &str| {
        let cell = cells(
            "",
            "Pod",
            json!({"metadata": {"name": "p"}, "spec": spec, "status": status}),
        );
        assert_eq!(
            (cell("Ready"), cell("Status"), cell("Restarts")),
            (ready.into(), shown.into(), restarts.into()),
            "{status}"
        );
    };
    let two = json!({"containers": [{}, {}]});
    let running = json!({"ready": true, "restartCount": 3, "state": {"running": {}}});
    check(
        two.clone(),
        json!({"phase": "podPhase", "containerStatuses": [running, {"restartCount": 3}]}),
        "1/2",
        "podPhase",
        "6",
    );
    check(
        two.clone(),
        json!({"phase": "podPhase", "containerStatuses": [running, {"state": {"waiting": {"reason": "ContainerWaitingReason"}}, "restartCount": 3}]}),
        "1/2",
        "ContainerWaitingReason",
        "6",
    );
    check(
        two.clone(),
        json!({"phase": "podPhase", "containerStatuses": [running, {"state": {"terminated": {"signal": 9}}, "restartCount": 3}]}),
        "1/2",
        "Signal:9",
        "6",
    );
    check(
        two.clone(),
        json!({"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]}),
        "0/2",
        "Completed",
        "0",
    );
    let crashed = json!({"restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"finishedAt": "2026-01-01T11:59:50Z"}}});
    check(
        json!({"containers": [{}]}),
        json!({"phase": "Running", "containerStatuses": [crashed]}),
        "0/1",
        "CrashLoopBackOff",
        "2 (10s ago)",
    );
    let init = json!({"initContainers": [{"name": "a"}, {"name": "b"}], "containers": [{}]});
    check(
        init.clone(),
        json!({"phase": "Pending", "initContainerStatuses": [{"name": "a", "state": {"running": {}}}]}),
        "0/1",
        "Init:0/2",
        "0",
    );
    check(
        init,
        json!({"phase": "Pending", "initContainerStatuses": [{"name": "a", "restartCount": 1, "state": {"terminated": {"exitCode": 2, "reason": "Error"}}}]}),
        "0/1",
        "Init:Error",
        "1",
    );
    let sidecar = json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}], "containers": [{}]});
    check(
        sidecar,
        json!({"phase": "Running", "conditions": [{"type": "Initialized", "status": "True"}],
            "initContainerStatuses": [{"name": "s", "started": true, "ready": true, "state": {"running": {}}}],
            "containerStatuses": [{"ready": true, "state": {"running": {}}}]}),
        "2/2",
        "Running",
        "0",
    );
    check(
        two,
        json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
        "0/2",
        "SchedulingGated",
        "0",
    );
}

#[test]
fn a_deleted_pod_is_terminating_unless_it_has_ended() {
    let deleted = |phase: &str| {
        let object = json!({"metadata": {"name": "p", "deletionTimestamp": "2026-01-01T11:59:59Z"}, "status": {"phase": phase}});
        cells("", "Pod", object)("Status")
    };
    assert_eq!(deleted("Running"), "Terminating");
    assert_eq!(deleted("Succeeded"), "Succeeded");
}

#[test]
fn services() {
    let service = |spec: Value, status: Value| {
        cells(
            "",
            "Service",
            json!({"metadata": {"name": "s"}, "spec": spec, "status": status}),
        )
    };
    let cell = service(
        json!({"type": "NodePort", "clusterIP": "10.0.0.1", "selector": {"app": "x"},
            "ports": [{"port": 80, "nodePort": 30001, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}),
        json!({}),
    );
    assert_eq!(
        (cell("Port(s)"), cell("External-IP"), cell("Selector")),
        ("80:30001/TCP,53/UDP".into(), "<none>".into(), "app=x".into())
    );
    assert_eq!(
        service(json!({"type": "LoadBalancer"}), json!({}))("External-IP"),
        "<pending>"
    );
    assert_eq!(
        service(json!({"type": "ExternalName", "externalName": "a.b"}), json!({}))("External-IP"),
        "a.b"
    );
}

#[test]
fn endpoints_are_cut_after_three() {
    let addresses: Vec<Value> = (1..=5).map(|i| json!({"ip": format!("10.0.0.{i}")})).collect();
    let cell = cells(
        "",
        "Endpoints",
        json!({"metadata": {}, "subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]}),
    );
    assert_eq!(
        cell("Endpoints"),
        "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more..."
    );
    assert_eq!(
        cells("", "Endpoints", json!({"metadata": {}}))("Endpoints"),
        "<none>"
    );
}

#[test]
fn events_of_both_groups_read_alike() {
    let old = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p"}, "message": " m\n", "type": "Normal",
        "reason": "R", "source": {"component": "kubelet", "host": "n"}, "lastTimestamp": "2026-01-01T11:59:30Z", "count": 4});
    let new = json!({"metadata": {"name": "e"}, "regarding": {"kind": "Pod", "name": "p"}, "note": "m", "type": "Normal",
        "reason": "R", "reportingController": "kubelet", "reportingInstance": "n", "eventTime": "2026-01-01T11:00:00.000001Z",
        "series": {"count": 4, "lastObservedTime": "2026-01-01T11:59:30.5Z"}});
    for (group, object) in [("", old), ("events.k8s.io", new)] {
        let cell = cells(group, "Event", object);
        assert_eq!(
            (
                cell("Last Seen"),
                cell("Object"),
                cell("Message"),
                cell("Source"),
                cell("Count")
            ),
            (
                "30s".into(),
                "pod/p".into(),
                "m".into(),
                "kubelet, n".into(),
                4.into()
            )
        );
    }
}

#[test]
fn nodes() {
    let cell = cells(
        "",
        "Node",
        json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/worker": "", "kubernetes.io/role": "edge"}},
            "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "1.2.3.4"}]}}),
    );
    assert_eq!(
        (cell("Status"), cell("Roles")),
        ("Ready,SchedulingDisabled".into(), "edge,worker".into())
    );
    assert_eq!(
        (cell("Internal-IP"), cell("External-IP")),
        ("1.2.3.4".into(), "<none>".into())
    );
}

/// Rows of upstream's `TestHumanDuration`.
#[test]
fn durations() {
    let rows = [
        (-5, "<invalid>"),
        (-1, "0s"),
        (70, "70s"),
        (2 * 60, "2m"),
        (3 * 60 + 12, "3m12s"),
        (30 * 60 + 1, "30m"),
        (3 * 3600 + 120, "3h2m"),
        (10 * 3600, "10h"),
        (49 * 3600, "2d1h"),
        (10 * 86400, "10d"),
        (2 * 365 * 86400, "2y"),
        (3 * 365 * 86400 + 5 * 86400, "3y5d"),
        (9 * 365 * 86400 + 5 * 86400, "9y"),
    ];
    for (seconds, text) in rows {
        assert_eq!(human_duration(seconds), text, "{seconds}");
    }
}

/// Every kind that is served has a row with one cell per column, also for an object that has no fields at all.
#[test]
fn no_object_breaks_a_printer() {
    for resource in crate::registry::Registry::builtin().resources() {
        let printer = printer(&resource.group, &resource.kind);
        for object in [
            json!({}),
            json!({"metadata": 1, "spec": "x", "status": [], "data": 3, "ports": {}, "subsets": "a"}),
        ] {
            assert_eq!(
                (printer.row)(&object, now()).len(),
                printer.columns.len(),
                "{resource:?}"
            );
        }
    }
}

/// Rows of upstream's `printers_test.go`, one object and some of its cells each.
#[test]
fn cells_of_other_kinds() {
    type Row = (
        &'static str,
        &'static str,
        Value,
        &'static [(&'static str, &'static str)],
    );
    let rows: Vec<Row> = vec![
        (
            "",
            "Endpoints",
            json!({"subsets": [{"addresses": [{"ip": "1.1.1.1"}, {"ip": "fd00::1"}], "ports": [{"port": 80}, {"port": 443}]}]}),
            &[("Endpoints", "1.1.1.1:80,[fd00::1]:80,1.1.1.1:443 + 1 more...")],
        ),
        (
            "",
            "Endpoints",
            json!({"subsets": [{"addresses": [{"ip": "1.1.1.1"}]}]}),
            &[("Endpoints", "1.1.1.1")],
        ),
        (
            "networking.k8s.io",
            "Ingress",
            json!({"spec": {"rules": [{"host": "a"}, {}, {"host": "b"}, {"host": "c"}, {"host": "d"}], "tls": [{}]},
                "status": {"loadBalancer": {"ingress": [{"ip": "2.2.2.2"}, {"hostname": "lb"}, {"ip": "1.1.1.1"}]}}}),
            &[
                ("Class", "<none>"),
                ("Hosts", "a,b,c + 2 more..."),
                ("Address", "1.1.1.1,2.2.2.2,lb"),
                ("Ports", "80, 443"),
            ],
        ),
        (
            "networking.k8s.io",
            "Ingress",
            json!({"spec": {"rules": [{}]}}),
            &[("Hosts", "*"), ("Ports", "80")],
        ),
        (
            "networking.k8s.io",
            "IngressClass",
            json!({"spec": {"controller": "c", "parameters": {"apiGroup": "g", "kind": "K", "name": "n"}}}),
            &[("Parameters", "K.g/n"), ("Controller", "c")],
        ),
        (
            "networking.k8s.io",
            "IPAddress",
            json!({"spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "kubernetes"}}}),
            &[("ParentRef", "services/default/kubernetes")],
        ),
        (
            "networking.k8s.io",
            "NetworkPolicy",
            json!({"spec": {"podSelector": {"matchLabels": {"x": "y"}, "matchExpressions": [
                {"key": "a", "operator": "In", "values": ["c", "b"]}, {"key": "z", "operator": "DoesNotExist"}]}}}),
            &[("Pod-Selector", "a in (b,c),x=y,!z")],
        ),
        (
            "discovery.k8s.io",
            "EndpointSlice",
            json!({"addressType": "IPv4", "ports": [{"port": 80, "name": "http"}, {"name": "any"}, {}],
                "endpoints": [{"addresses": ["1.1.1.1"]}, {"addresses": ["1.1.1.2"]}, {"addresses": ["1.1.1.3"]}, {"addresses": ["1.1.1.4"]}]}),
            &[
                ("Ports", "80,any,*"),
                ("Endpoints", "1.1.1.1,1.1.1.2,1.1.1.3 + 1 more..."),
            ],
        ),
        (
            "storage.k8s.io",
            "CSIDriver",
            json!({"spec": {"attachRequired": true}}),
            &[("TokenRequests", "<unset>"), ("Modes", "<none>")],
        ),
        (
            "storage.k8s.io",
            "VolumeAttributesClass",
            json!({"driverName": "d"}),
            &[("DriverName", "d")],
        ),
        (
            "",
            "PersistentVolume",
            json!({"metadata": {"annotations": {"volume.beta.kubernetes.io/storage-class": "old"}},
                "spec": {"accessModes": ["ReadOnlyMany", "ReadWriteOnce"], "storageClassName": "new"}}),
            &[
                ("Capacity", "0"),
                ("Access Modes", "RWO,ROX"),
                ("StorageClass", "old"),
                ("VolumeMode", "<unset>"),
            ],
        ),
        (
            "",
            "ResourceQuota",
            json!({"status": {"hard": {"pods": "10", "limits.cpu": "2"}, "used": {"limits.cpu": "1"}}}),
            &[("Request", "pods: 0/10"), ("Limit", "limits.cpu: 1/2")],
        ),
        (
            "",
            "ComponentStatus",
            json!({"conditions": [{"type": "Healthy", "status": "Unknown", "error": "e"}]}),
            &[("Status", "Unhealthy"), ("Error", "e")],
        ),
        (
            "",
            "Event",
            json!({"involvedObject": {"kind": "Node"}, "source": {"component": "x", "host": "x"}}),
            &[("Object", "node"), ("Source", "x, x"), ("Last Seen", "<unknown>")],
        ),
        (
            "admissionregistration.k8s.io",
            "ValidatingAdmissionPolicyBinding",
            json!({"spec": {"policyName": "p", "paramRef": {"name": "n"}}}),
            &[("PolicyName", "p"), ("ParamRef", "*/n")],
        ),
        (
            "admissionregistration.k8s.io",
            "MutatingAdmissionPolicy",
            json!({"spec": {"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}}}),
            &[("ParamKind", "v1/ConfigMap")],
        ),
        (
            "flowcontrol.apiserver.k8s.io",
            "PriorityLevelConfiguration",
            json!({"spec": {"type": "Exempt", "exempt": {"nominalConcurrencyShares": 3}}}),
            &[("Type", "Exempt"), ("NominalConcurrencyShares", "<none>")],
        ),
        (
            "certificates.k8s.io",
            "ClusterTrustBundle",
            json!({"spec": {}}),
            &[("SignerName", "<none>")],
        ),
        (
            "certificates.k8s.io",
            "CertificateSigningRequest",
            json!({"spec": {"username": "u", "expirationSeconds": 3600}, "status": {"certificate": "x", "conditions": [{"type": "Approved"}, {"type": "Failed"}]}}),
            &[
                ("Condition", "Approved,Failed,Issued"),
                ("RequestedDuration", "60m"),
            ],
        ),
        (
            "policy",
            "PodDisruptionBudget",
            json!({"spec": {"minAvailable": "30%"}}),
            &[("Min Available", "30%"), ("Max Unavailable", "N/A")],
        ),
        (
            "apps",
            "ControllerRevision",
            json!({"metadata": {"ownerReferences": [{"controller": true, "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d"}]}}),
            &[("Controller", "daemonset.apps/d")],
        ),
        (
            "batch",
            "Job",
            json!({"spec": {"parallelism": 3}, "status": {"succeeded": 1, "startTime": "2026-01-01T11:00:00Z",
                "completionTime": "2026-01-01T11:01:30Z", "conditions": [{"type": "Suspended", "status": "True"}]}}),
            &[
                ("Completions", "1/1 of 3"),
                ("Duration", "90s"),
                ("Status", "Suspended"),
            ],
        ),
        (
            "batch",
            "CronJob",
            json!({"spec": {"schedule": "* * * * *", "suspend": true}}),
            &[
                ("Timezone", "<none>"),
                ("Suspend", "True"),
                ("Last Schedule", "<none>"),
            ],
        ),
    ];
    for (group, kind, mut object, expect) in rows {
        if object["metadata"].is_null() {
            object["metadata"] = json!({});
        }
        let cell = cells(group, kind, object);
        for (column, text) in expect {
            assert_eq!(cell(column), *text, "{kind} {column}");
        }
    }
}

/// Rows of upstream's `TestPrintHPA`.
#[test]
fn targets_of_autoscalers() {
    let check = |metrics: Value, current: Value, expect: &str| {
        let object =
            json!({"metadata": {}, "spec": {"metrics": metrics}, "status": {"currentMetrics": current}});
        let cell = cells("autoscaling", "HorizontalPodAutoscaler", object);
        assert_eq!(cell("Targets"), expect);
    };
    let cpu = |target: Value| json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
    let external = |target: Value| json!({"type": "External", "external": {"target": target}});
    check(json!([]), json!([]), "<none>");
    check(
        json!([cpu(json!({"averageUtilization": 80}))]),
        json!([]),
        "cpu: <unknown>/80%",
    );
    check(
        json!([cpu(json!({"averageUtilization": 80}))]),
        json!([{"resource": {"current": {"averageUtilization": 50, "averageValue": "40m"}}}]),
        "cpu: 50%/80%",
    );
    check(json!([cpu(json!({}))]), json!([]), "cpu: <unknown>/<auto>");
    check(
        json!([cpu(json!({"averageValue": "100m"}))]),
        json!([{"resource": {"current": {"averageValue": "50m"}}}]),
        "cpu: 50m/100m",
    );
    check(
        json!([{"type": "Pods", "pods": {"target": {"averageValue": "100m"}}}]),
        json!([{"pods": {"current": {"averageValue": "50m"}}}]),
        "50m/100m",
    );
    check(
        json!([external(json!({"averageValue": "100m"}))]),
        json!([{"external": {"current": {"averageValue": "50m"}}}]),
        "50m/100m (avg)",
    );
    check(
        json!([
            external(json!({"value": "100m"})),
            external(json!({"value": "1"})),
            external(json!({"value": "2"}))
        ]),
        json!([{"external": {"current": {"value": "50m"}}}]),
        "50m/100m, <unknown>/1 + 1 more...",
    );
}

#[test]
fn pods_that_have_ended_say_so() {
    let of = |phase: &str| row_conditions("", "Pod", &json!({"status": {"phase": phase}}));
    assert_eq!(of("Running"), None);
    assert_eq!(
        of("Failed"),
        Some(
            json!([{"type": "Completed", "status": "True", "reason": "Failed", "message": "The pod failed."}])
        )
    );
    assert_eq!(of("Succeeded").unwrap()[0]["reason"], "Succeeded");
    assert_eq!(
        row_conditions("batch", "Job", &json!({"status": {"phase": "Failed"}})),
        None
    );
}
