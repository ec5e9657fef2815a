//! Defaults of pods and pod templates.

use crate::quantity::Quantity;
use crate::strategy::access::{Object, child, each, ensure, set, set_nonzero};
use serde_json::{Value, json};

/// Fields that only pods have defaults for, besides those of templates.
pub(crate) fn pod(obj: &mut Object) {
    let spec = ensure(obj, "spec");
    pod_spec(spec);
    for containers in ["containers", "initContainers"] {
        for container in each(spec, containers) {
            limits_to_requests(container);
        }
    }
    if spec.contains_key("resources") {
        limits_to_requests(spec);
    }
    set(spec, "enableServiceLinks", true);
}

/// A field that holds a pod template.
pub(crate) fn template(owner: &mut Object) {
    if let Some(template) = child(owner, "template") {
        pod_spec(ensure(template, "spec"));
    }
}

/// A pod spec, in a pod or a template.
pub(crate) fn pod_spec(spec: &mut Object) {
    // The deprecated name mirrors the current one.
    if spec.get("serviceAccountName").is_none_or(|n| n == "")
        && let Some(name) = spec.get("serviceAccount").cloned()
    {
        spec.insert("serviceAccountName".into(), name);
    }
    if let Some(name) = spec.get("serviceAccountName").cloned().filter(|n| n != "") {
        spec.insert("serviceAccount".into(), name);
    }
    set(spec, "restartPolicy", "Always");
    set(spec, "dnsPolicy", "ClusterFirst");
    set(spec, "schedulerName", "default-scheduler");
    set(spec, "terminationGracePeriodSeconds", 30);
    ensure(spec, "securityContext");
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for containers in ["initContainers", "containers", "ephemeralContainers"] {
        for c in each(spec, containers) {
            container(c);
            if host_network && containers != "ephemeralContainers" {
                for port in each(c, "ports") {
                    let number = port.get("containerPort").and_then(Value::as_i64).unwrap_or(0);
                    set_nonzero(port, "hostPort", number);
                }
            }
        }
    }
    if let Some(resources) = child(spec, "resources") {
        round_resources(resources);
    }
    if let Some(overhead) = child(spec, "overhead") {
        round(overhead);
    }
    for v in each(spec, "volumes") {
        volume(v);
    }
}

fn container(c: &mut Object) {
    let image = c.get("image").and_then(Value::as_str).unwrap_or("");
    let policy = image_pull_policy(image);
    set(c, "imagePullPolicy", policy);
    set(c, "terminationMessagePath", "/dev/termination-log");
    set(c, "terminationMessagePolicy", "File");
    for port in each(c, "ports") {
        set(port, "protocol", "TCP");
    }
    for env in each(c, "env") {
        if let Some(reference) = child(env, "valueFrom").and_then(|v| child(v, "fieldRef")) {
            set(reference, "apiVersion", "v1");
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = child(c, probe) {
            for (field, value) in [
                ("timeoutSeconds", 1),
                ("periodSeconds", 10),
                ("successThreshold", 1),
                ("failureThreshold", 3),
            ] {
                set_nonzero(probe, field, value);
            }
            handler(probe);
        }
    }
    if let Some(lifecycle) = child(c, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = child(lifecycle, hook) {
                handler(hook);
            }
        }
    }
    if let Some(resources) = child(c, "resources") {
        round_resources(resources);
    }
}

fn handler(handler: &mut Object) {
    if let Some(http) = child(handler, "httpGet") {
        set(http, "path", "/");
        set(http, "scheme", "HTTP");
    }
    if let Some(grpc) = child(handler, "grpc") {
        grpc.entry("service").or_insert_with(|| "".into());
    }
}

/// Always for `latest`, given or implied; otherwise what is there will do.
fn image_pull_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains('@') {
        return "IfNotPresent";
    }
    match last.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

fn limits_to_requests(owner: &mut Object) {
    let Some(resources) = child(owner, "resources") else {
        return;
    };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else {
        return;
    };
    let requests = ensure(resources, "requests");
    for (name, quantity) in limits {
        requests.entry(name).or_insert(quantity);
    }
}

fn round_resources(resources: &mut Object) {
    for field in ["limits", "requests"] {
        if let Some(quantities) = child(resources, field) {
            round(quantities);
        }
    }
}

/// Resources are no finer than thousandths.
fn round(quantities: &mut Object) {
    for value in quantities.values_mut() {
        if let Some(q) = value.as_str().and_then(|t| Quantity::parse(t).ok())
            && Quantity::from_milli(q.milli_value()) != q
        {
            *value = Quantity::from_milli(q.milli_value()).canonical().into();
        }
    }
}

fn volume(v: &mut Object) {
    const MODE: i64 = 0o644;
    if v.keys().all(|k| k == "name") {
        v.insert("emptyDir".into(), json!({}));
    }
    for (source, default) in [
        ("secret", MODE),
        ("configMap", MODE),
        ("downwardAPI", MODE),
        ("projected", MODE),
    ] {
        if let Some(source) = child(v, source) {
            set(source, "defaultMode", default);
        }
    }
    if let Some(source) = child(v, "downwardAPI") {
        downward_items(source);
    }
    if let Some(projected) = child(v, "projected") {
        for source in each(projected, "sources") {
            if let Some(downward) = child(source, "downwardAPI") {
                downward_items(downward);
            }
            if let Some(token) = child(source, "serviceAccountToken") {
                set(token, "expirationSeconds", 3600);
            }
        }
    }
    if let Some(image) = child(v, "image") {
        let policy = image_pull_policy(image.get("reference").and_then(Value::as_str).unwrap_or(""));
        set(image, "pullPolicy", policy);
    }
    if let Some(template) = child(v, "ephemeral").and_then(|e| child(e, "volumeClaimTemplate")) {
        set(ensure(template, "spec"), "volumeMode", "Filesystem");
    }
    volume_source(v);
}

fn downward_items(source: &mut Object) {
    for item in each(source, "items") {
        if let Some(reference) = child(item, "fieldRef") {
            set(reference, "apiVersion", "v1");
        }
    }
}

/// Sources that pods and persistent volumes share.
pub(crate) fn volume_source(v: &mut Object) {
    if let Some(path) = child(v, "hostPath") {
        path.entry("type").or_insert_with(|| "".into());
    }
    if let Some(iscsi) = child(v, "iscsi") {
        set(iscsi, "iscsiInterface", "default");
    }
    if let Some(rbd) = child(v, "rbd") {
        set(rbd, "pool", "rbd");
        set(rbd, "user", "admin");
        set(rbd, "keyring", "/etc/ceph/keyring");
    }
    if let Some(disk) = child(v, "azureDisk") {
        set(disk, "cachingMode", "ReadWrite");
        set(disk, "kind", "Shared");
        set(disk, "fsType", "ext4");
        set(disk, "readOnly", false);
    }
    if let Some(scale) = child(v, "scaleIO") {
        set(scale, "storageMode", "ThinProvisioned");
        set(scale, "fsType", "xfs");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policies() {
        for (image, want) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.27", "IfNotPresent"),
            ("localhost:5000/nginx", "Always"),
            ("localhost:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:0123", "IfNotPresent"),
            ("nginx:latest@sha256:0123", "IfNotPresent"),
        ] {
            assert_eq!(image_pull_policy(image), want, "{image}");
        }
    }

    #[test]
    fn limits_become_requests_in_pods_only() {
        let mut value = json!({"spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "0.0001"}}}]}});
        let map = value.as_object_mut().unwrap();
        pod(map);
        assert_eq!(
            value["spec"]["containers"][0]["resources"]["requests"],
            json!({"cpu": "1m", "memory": "1Gi"})
        );
    }

    #[test]
    fn host_network_takes_the_ports() {
        let mut value = json!({"spec": {"hostNetwork": true, "containers": [{"name": "c", "ports": [{"containerPort": 80}]}]}});
        pod(value.as_object_mut().unwrap());
        assert_eq!(
            value["spec"]["containers"][0]["ports"][0],
            json!({"containerPort": 80, "hostPort": 80, "protocol": "TCP"})
        );
    }
}
