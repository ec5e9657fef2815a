//! The objects that every cluster has, made at start when they are missing.

use std::sync::Arc;

use api::status::Status;
use http::Method;
use serde_json::{Value, json};

use crate::{
    context::{Api, now},
    internal,
    server::Error,
};

/// The ServiceCIDR that the flags describe.
const DEFAULT_SERVICE_CIDR: &str = "kubernetes";

/// Namespaces that are always there.
const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// Makes what is missing, through the pipeline, as any client would.
pub(crate) async fn run(api: &Arc<Api>) -> Result<(), Error> {
    for name in NAMESPACES {
        create(api, "/api/v1/namespaces", json!({"metadata": {"name": name}})).await?;
    }
    for (name, value, description) in [
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ] {
        let class = json!({"metadata": {"name": name}, "value": value, "description": description});
        create(api, "/apis/scheduling.k8s.io/v1/priorityclasses", class).await?;
    }
    default_service_cidr(api).await?;
    kubernetes_service(api).await
}

/// The Service `kubernetes`, through which pods find this server.
async fn kubernetes_service(api: &Arc<Api>) -> Result<(), Error> {
    let port = api.config.secure_port;
    let Some(address) = api.services.kubernetes_address() else {
        return Ok(());
    };
    let service = json!({
        "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address.to_string(),
            "sessionAffinity": "None",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
        },
    });
    create(api, "/api/v1/namespaces/default/services", service).await?;

    let own = api.config.public_address();
    if own.is_loopback() || own.is_unspecified() {
        tracing::warn!(
            address = %own,
            "pods cannot reach this server through the Service kubernetes: give --advertise-address"
        );
        return Ok(());
    }
    let endpoints = json!({
        "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{
            "addresses": [{"ip": own.to_string()}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }],
    });
    put(api, "/api/v1/namespaces/default/endpoints", endpoints).await?;
    let slice = json!({
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if own.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [own.to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    put(
        api,
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
        slice,
    )
    .await
}

/// The ServiceCIDR `kubernetes`, which holds the ranges of the flags. One that says something else is left alone, except
/// that a second family is added.
async fn default_service_cidr(api: &Arc<Api>) -> Result<(), Error> {
    const PATH: &str = "/apis/networking.k8s.io/v1/servicecidrs";
    let ranges = json!(api.services.flag_ranges());
    let object = json!({"metadata": {"name": DEFAULT_SERVICE_CIDR}, "spec": {"cidrs": ranges}});
    create(api, PATH, object).await?;
    let path = format!("{PATH}/{DEFAULT_SERVICE_CIDR}");
    let fail = |why: Status| failed(&path, &Value::Null, why);
    let mut current = internal::request(api, Method::GET, &path, None)
        .await
        .map_err(fail)?;
    let (own, wanted) = (current["spec"]["cidrs"].clone(), ranges.as_array());
    let single = own
        .as_array()
        .filter(|own| own.len() == 1)
        .and_then(|own| own.first());
    if let Some([first, _]) = wanted.map(Vec::as_slice)
        && single == Some(first)
    {
        current["spec"]["cidrs"] = ranges.clone();
        current = internal::request(api, Method::PUT, &path, Some(&current))
            .await
            .map_err(fail)?;
    }
    if current["spec"]["cidrs"] != ranges {
        tracing::warn!(cidrs = %own, flag = %ranges, "the ServiceCIDR kubernetes is not what --service-cluster-ip-range says");
        return Ok(());
    }
    let conditions = current["status"]["conditions"].as_array();
    let known = conditions.is_some_and(|conditions| conditions.iter().any(|one| one["type"] == "Ready"));
    if !known && current["metadata"]["deletionTimestamp"].is_null() {
        let ready = json!({"status": {"conditions": [{
            "type": "Ready", "status": "True", "reason": "",
            "message": "Kubernetes default Service CIDR is ready",
            "lastTransitionTime": api::meta::format_time(now()),
        }]}});
        internal::request(api, Method::PATCH, &format!("{path}/status"), Some(&ready))
            .await
            .map_err(fail)?;
    }
    Ok(())
}

/// Creates an object; one that exists already is left alone.
async fn create(api: &Arc<Api>, path: &str, object: Value) -> Result<(), Error> {
    match internal::request(api, Method::POST, path, Some(&object)).await {
        Ok(_) => Ok(()),
        Err(status) if status.code == 409 => Ok(()),
        Err(status) => Err(failed(path, &object, status)),
    }
}

/// Creates an object, or makes the existing one the same.
async fn put(api: &Arc<Api>, path: &str, object: Value) -> Result<(), Error> {
    match internal::request(api, Method::POST, path, Some(&object)).await {
        Ok(_) => return Ok(()),
        Err(status) if status.code == 409 => {}
        Err(status) => return Err(failed(path, &object, status)),
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let path = format!("{path}/{name}");
    let replaced = internal::request(api, Method::PUT, &path, Some(&object)).await;
    replaced
        .map(|_| ())
        .map_err(|status| failed(&path, &object, status))
}

fn failed(path: &str, object: &Value, why: Status) -> Error {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    Error::Bootstrap {
        what: format!("{path}/{name}"),
        why: why.message.clone(),
    }
}
