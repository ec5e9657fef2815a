//! The objects that every cluster has, made at start when they are missing.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::{
    authn::{SYSTEM_MASTERS, UserInfo},
    body::request_body,
    context::Api,
    pipeline,
    server::Error,
};

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

/// Creates an object; one that exists already is left alone.
async fn create(api: &Arc<Api>, path: &str, object: Value) -> Result<(), Error> {
    match send(api, Method::POST, path, &object).await? {
        (code, _) if code.is_success() || code == StatusCode::CONFLICT => Ok(()),
        (_, answer) => Err(failed(path, &object, answer)),
    }
}

/// Creates an object, or makes the existing one the same.
async fn put(api: &Arc<Api>, path: &str, object: Value) -> Result<(), Error> {
    let (code, answer) = send(api, Method::POST, path, &object).await?;
    if code.is_success() {
        return Ok(());
    }
    if code != StatusCode::CONFLICT {
        return Err(failed(path, &object, answer));
    }
    let path = format!(
        "{path}/{}",
        object["metadata"]["name"].as_str().unwrap_or_default()
    );
    match send(api, Method::PUT, &path, &object).await? {
        (code, _) if code.is_success() => Ok(()),
        (_, answer) => Err(failed(&path, &object, answer)),
    }
}

async fn send(
    api: &Arc<Api>,
    method: Method,
    path: &str,
    object: &Value,
) -> Result<(StatusCode, String), Error> {
    let body = http_body_util::Full::new(Bytes::from(object.to_string()));
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json")
        .body(request_body(body))
        .map_err(|error| failed(path, object, error.to_string()))?;
    let user = UserInfo::new("system:apiserver", &[SYSTEM_MASTERS]);
    let response = pipeline::handle(api.clone(), request, Some(user)).await;
    let code = response.status();
    let body = response.into_body().collect().await;
    let body = body.map_err(|error| failed(path, object, error.to_string()))?;
    Ok((code, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
}

fn failed(path: &str, object: &Value, why: String) -> Error {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    Error::Bootstrap {
        what: format!("{path}/{name}"),
        why,
    }
}
