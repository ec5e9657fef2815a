//! The proxies: HTTP requests passed on to a node's kubelet, a pod or a Service's endpoint.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use api::status::{self, Status};
use http::{HeaderName, Request, Response, StatusCode, header};
use tokio::net::TcpStream;

use super::{
    kubelet::{self, exchange, may_dial},
    relay,
};
use crate::{body::RequestBody, context::Context, respond::HttpResponse, watch_cache::Filter};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// What belongs to one connection, or to us, and is not passed on.
const NOT_PASSED_ON: &[HeaderName] = &[
    header::CONNECTION,
    header::UPGRADE,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::HOST,
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
];

/// `proxy` of nodes, pods and services.
pub(crate) async fn proxy(context: &Context, request: Request<RequestBody>) -> Result<HttpResponse, Status> {
    if request.headers().contains_key(header::UPGRADE) {
        return Err(status::bad_request("upgrades through the proxy are not served"));
    }
    let (parts, body) = request.into_parts();
    let mut path = format!(
        "/{}",
        raw_remainder(parts.uri.path(), context.namespace().is_some())
    );
    if let Some(query) = parts.uri.query() {
        path.push('?');
        path.push_str(query);
    }
    let mut backend = Request::builder()
        .method(parts.method)
        .uri(path)
        .body(body)
        .map_err(|error| status::bad_request(error.to_string()))?;
    for (name, value) in &parts.headers {
        if !NOT_PASSED_ON.contains(name) {
            backend.headers_mut().append(name.clone(), value.clone());
        }
    }
    let set_host = |request: &mut Request<RequestBody>, address: SocketAddr| {
        if let Ok(host) = address.to_string().parse() {
            request.headers_mut().insert(header::HOST, host);
        }
    };
    let (scheme, name, port) = split_name(&context.info.name)?;
    let answer = if context.info.resource == "nodes" {
        let mut node = kubelet::locate(&context.api, &name)?;
        if let Some(port) = port.as_deref().and_then(|port| port.parse().ok()) {
            node.address.set_port(port);
        }
        set_host(&mut backend, node.address);
        let client = context.api.kubelet.as_ref().ok_or_else(|| {
            status::internal_error("--kubelet-client-certificate was not given: kubelets cannot be reached")
        })?;
        client.send(&node, backend).await?
    } else {
        if scheme == "https" {
            return Err(status::bad_request(
                "the proxy speaks only http to pods and services",
            ));
        }
        let address = match context.info.resource.as_str() {
            "pods" => pod_address(context, &name, port.as_deref())?,
            _ => service_address(context, &name, port.as_deref())?,
        };
        if !may_dial(address.ip()) {
            return Err(status::bad_request("address not allowed"));
        }
        set_host(&mut backend, address);
        let failed =
            |why: String| status::service_unavailable(format!("error trying to reach service: {why}"));
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
            .await
            .map_err(|_| failed("timed out".to_owned()))?
            .map_err(|error| failed(format!("dial tcp {address}: {error}")))?;
        exchange(stream, backend).await.map_err(failed)?
    };
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(status::internal_error(
            "the backend switched protocols without being asked to",
        ));
    }
    let (parts, body) = answer.into_parts();
    let mut response = Response::new(relay(body));
    *response.status_mut() = parts.status;
    for (name, value) in &parts.headers {
        if !NOT_PASSED_ON.contains(name) {
            response.headers_mut().append(name.clone(), value.clone());
        }
    }
    Ok(response)
}

/// What follows the segment `proxy`, still encoded as the client sent it.
fn raw_remainder(path: &str, namespaced: bool) -> &str {
    // /api/v1/nodes/NAME/proxy/… or /api/v1/namespaces/NAMESPACE/pods/NAME/proxy/…
    let before = if namespaced { 8 } else { 6 };
    path.splitn(before + 1, '/').nth(before).unwrap_or_default()
}

/// `name`, `name:port`, `https:name:port`.
fn split_name(text: &str) -> Result<(String, String, Option<String>), Status> {
    let parts: Vec<&str> = text.split(':').collect();
    let port = |port: &str| (!port.is_empty()).then(|| port.to_owned());
    match parts.as_slice() {
        [name] => Ok((String::new(), (*name).to_owned(), None)),
        [name, number] => Ok((String::new(), (*name).to_owned(), port(number))),
        [scheme, name, number] => Ok(((*scheme).to_owned(), (*name).to_owned(), port(number))),
        _ => Err(status::bad_request(format!(
            "invalid proxy request {}",
            status::quote(text)
        ))),
    }
}

fn pod_address(context: &Context, name: &str, port: Option<&str>) -> Result<SocketAddr, Status> {
    let pods = context.api.builtin("", "v1", "pods")?;
    let key = pods.key(context.namespace(), name)?;
    let pod = context
        .api
        .cached(&pods)?
        .get(&key)
        .ok_or_else(|| pods.not_found(name))?
        .value();
    let address = pod["status"]["podIP"]
        .as_str()
        .and_then(|address| address.parse::<IpAddr>().ok());
    let address = address.ok_or_else(|| status::bad_request("address not allowed"))?;
    let own = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mut own = own.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let number = match port {
        None => own
            .next()
            .and_then(|port| port["containerPort"].as_u64())
            .unwrap_or(80),
        Some(text) => match text.parse() {
            Ok(number) => number,
            Err(_) => own
                .find(|port| port["name"] == text)
                .and_then(|port| port["containerPort"].as_u64())
                .ok_or_else(|| status::bad_request(format!("no such port {}", status::quote(text))))?,
        },
    };
    let number = u16::try_from(number).map_err(|_| status::bad_request("port out of range"))?;
    Ok(SocketAddr::new(address, number))
}

/// A ready endpoint of a Service's port.
fn service_address(context: &Context, name: &str, port: Option<&str>) -> Result<SocketAddr, Status> {
    let services = context.api.builtin("", "v1", "services")?;
    let key = services.key(context.namespace(), name)?;
    let service = context
        .api
        .cached(&services)?
        .get(&key)
        .ok_or_else(|| services.not_found(name))?
        .value();
    let ports = service["spec"]["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let wanted = match port {
        None if ports.len() == 1 => ports.first(),
        None => None,
        Some(text) => ports
            .iter()
            .find(|port| port["name"] == text || port["port"].as_u64() == text.parse().ok()),
    };
    let wanted = wanted.ok_or_else(|| {
        let port = port.unwrap_or_default();
        status::service_unavailable(format!(
            "no service port {} found for service {}",
            status::quote(port),
            status::quote(name)
        ))
    })?;
    let port_name = wanted["name"].as_str().unwrap_or_default();
    let slices = context.api.builtin("discovery.k8s.io", "v1", "endpointslices")?;
    let filter = Filter {
        namespace: context.info.namespace.clone(),
        ..Filter::default()
    };
    for slice in context.api.cached(&slices)?.list(&filter) {
        if slice.label("kubernetes.io/service-name") != Some(name) {
            continue;
        }
        let slice = slice.value();
        let list = |field: &str| slice[field].as_array().cloned().unwrap_or_default();
        let number = list("ports")
            .iter()
            .find(|port| port["name"].as_str().unwrap_or_default() == port_name)
            .and_then(|port| u16::try_from(port["port"].as_u64()?).ok());
        let ready = list("endpoints")
            .iter()
            .filter(|endpoint| endpoint["conditions"]["ready"] != false)
            .find_map(|endpoint| endpoint["addresses"][0].as_str()?.parse::<IpAddr>().ok());
        if let (Some(number), Some(address)) = (number, ready) {
            return Ok(SocketAddr::new(address, number));
        }
    }
    Err(status::service_unavailable(format!(
        "no endpoints available for service {}",
        status::quote(name)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_ports() {
        let check = |text: &str, expect: (&str, &str, Option<&str>)| {
            let (scheme, name, port) = split_name(text).unwrap();
            assert_eq!(
                (scheme.as_str(), name.as_str(), port.as_deref()),
                expect,
                "{text}"
            );
        };
        check("web", ("", "web", None));
        check("web:80", ("", "web", Some("80")));
        check("https:web:", ("https", "web", None));
        assert!(split_name("a:b:c:d").is_err());
    }

    #[test]
    fn the_path_stays_encoded() {
        let pod = "/api/v1/namespaces/proxy/pods/b/proxy";
        assert_eq!(
            raw_remainder(&format!("{pod}/x%2Fy/proxy/"), true),
            "x%2Fy/proxy/"
        );
        assert_eq!(raw_remainder(pod, true), "");
        assert_eq!(raw_remainder("/api/v1/nodes/n/proxy/logs/", false), "logs/");
    }
}
