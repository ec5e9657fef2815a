//! From a request to its answer: authenticate, authorize, dispatch.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use k8s_cri::v1::{AttachRequest, ExecRequest, PortForwardRequest};
use k8s_openapi::{List, api::core::v1::Pod};

use super::{
    Host, Service,
    authorizer::{self, Caller},
    logs,
    query::Query,
    relay,
    route::{ContainerPath, Route},
};
use crate::{
    pod,
    runtime::{ExecSync, RuntimeError},
};

/// Errors of a body that is relayed from elsewhere.
pub(super) type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// Every answer's body.
pub(super) type Body = BoxBody<Bytes, BodyError>;

/// A refusal: the status code and the words for the user.
pub(super) type Refusal = (StatusCode, String);

/// Answers one request.
pub(super) async fn answer<H: Host>(
    service: &Service<H>,
    caller: Option<&Caller>,
    request: Request<Incoming>,
) -> Response<Body> {
    match dispatch(service, caller, request).await {
        Ok(response) => response,
        Err((status, message)) => text(status, message),
    }
}

async fn dispatch<H: Host>(
    service: &Service<H>,
    caller: Option<&Caller>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let Some(caller) = caller else {
        return Err((StatusCode::UNAUTHORIZED, "Unauthorized".into()));
    };
    let path = request.uri().path();
    let attributes = authorizer::attributes(request.method(), path);
    if !service.authorizer.allows(caller, &attributes).await {
        return Err((
            StatusCode::FORBIDDEN,
            format!(
                "Forbidden (user={}, verb={}, resource=nodes, subresource(s)=[{}])",
                caller.user,
                attributes.verb,
                attributes.subresources.join(" ")
            ),
        ));
    }
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let streams = matches!(*request.method(), Method::GET | Method::POST);
    match Route::of(path) {
        Route::Healthz if reads => Ok(text(StatusCode::OK, "ok".into())),
        Route::Pods if reads => pods(service),
        Route::ContainerLogs(target) if reads => container_logs(service, &target, &query).await,
        Route::Exec(target) if streams => exec(service, &target, &query, request).await,
        Route::Attach(target) if streams => attach(service, &target, &query, request).await,
        Route::PortForward { namespace, pod } if streams => {
            port_forward(service, &namespace, &pod, &query, request).await
        }
        Route::Run(target) if *request.method() == Method::POST => run(service, &target, &query).await,
        Route::NotFound => Err((StatusCode::NOT_FOUND, "404 page not found".into())),
        _ => Err((StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed".into())),
    }
}

fn pods<H: Host>(service: &Service<H>) -> Result<Response<Body>, Refusal> {
    let list: List<Pod> = List {
        items: service.host.pods().iter().map(|pod| Pod::clone(pod)).collect(),
        ..Default::default()
    };
    let json = serde_json::to_vec(&list).map_err(internal)?;
    let mut response = Response::new(full(json));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    Ok(response)
}

async fn container_logs<H: Host>(
    service: &Service<H>,
    target: &ContainerPath,
    query: &Query,
) -> Result<Response<Body>, Refusal> {
    for (name, value) in [
        ("podID", &target.pod),
        ("containerName", &target.container),
        ("podNamespace", &target.namespace),
    ] {
        if value.is_empty() {
            return Err((
                StatusCode::BAD_REQUEST,
                format!("{{\"message\": \"Missing {name}.\"}}"),
            ));
        }
    }
    let options = logs::LogOptions::parse(query, jiff::Timestamp::now())
        .map_err(|message| (StatusCode::UNPROCESSABLE_ENTITY, message))?;
    let Some(pod) = service.host.pod(&target.namespace, &target.pod) else {
        return Err((
            StatusCode::NOT_FOUND,
            format!("pod \"{}\" does not exist", target.pod),
        ));
    };
    if !has_container(&pod, &target.container) {
        return Err((
            StatusCode::NOT_FOUND,
            format!(
                "container \"{}\" not found in pod \"{}\"",
                target.container, target.pod
            ),
        ));
    }
    let bad_request = |message| (StatusCode::BAD_REQUEST, message);
    let container_id = logs::container_id(
        pod.status.as_ref(),
        &target.pod,
        &target.container,
        options.previous,
    )
    .map_err(bad_request)?;
    let status = service
        .runtime
        .container_status(&container_id)
        .await
        .map_err(|error| {
            tracing::debug!(container_id, %error, "no status of a container whose log is asked for");
            bad_request(format!(
                "unable to retrieve container logs for containerd://{container_id}"
            ))
        })?;
    let exit = service.host.container_exit(&container_id);
    let body = logs::open(status.log_path.into(), options, exit)
        .await
        .map_err(bad_request)?;
    let mut response = Response::new(body);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    Ok(response)
}

async fn exec<H: Host>(
    service: &Service<H>,
    target: &ContainerPath,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let streams = Streams::parse(query)?;
    let container_id = running_container(service, target).await?;
    let exec = ExecRequest {
        container_id,
        cmd: query.all("command").map(str::to_owned).collect(),
        tty: streams.tty,
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
    };
    let url = service.runtime.exec(exec).await.map_err(runtime_refusal)?;
    relay::relay(request, &url).await
}

async fn attach<H: Host>(
    service: &Service<H>,
    target: &ContainerPath,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let streams = Streams::parse(query)?;
    let container_id = running_container(service, target).await?;
    let attach = AttachRequest {
        container_id,
        tty: streams.tty,
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
    };
    let url = service.runtime.attach(attach).await.map_err(runtime_refusal)?;
    relay::relay(request, &url).await
}

async fn port_forward<H: Host>(
    service: &Service<H>,
    namespace: &str,
    name: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let pod = existing_pod(service, namespace, name)?;
    let mut port = Vec::new();
    for text in query.all("port").flat_map(|list| list.split(',')) {
        let number: u16 = text
            .parse()
            .map_err(|_| (StatusCode::BAD_REQUEST, format!("invalid port \"{text}\"")))?;
        port.push(i32::from(number));
    }
    let sandboxes = service
        .runtime
        .list_pod_sandboxes(Some(pod::uid(&pod)))
        .await
        .map_err(runtime_refusal)?;
    let ready = i32::from(k8s_cri::v1::PodSandboxState::SandboxReady);
    let sandbox = sandboxes
        .into_iter()
        .filter(|sandbox| sandbox.state == ready)
        .max_by_key(|sandbox| sandbox.created_at)
        .ok_or_else(|| {
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("pod not found (\"{name}_{namespace}\")"),
            )
        })?;
    let forward = PortForwardRequest {
        pod_sandbox_id: sandbox.id,
        port,
    };
    let url = service
        .runtime
        .port_forward(forward)
        .await
        .map_err(runtime_refusal)?;
    relay::relay(request, &url).await
}

async fn run<H: Host>(
    service: &Service<H>,
    target: &ContainerPath,
    query: &Query,
) -> Result<Response<Body>, Refusal> {
    let container_id = running_container(service, target).await?;
    let command: Vec<String> = query
        .first("cmd")
        .unwrap_or_default()
        .split(' ')
        .map(str::to_owned)
        .collect();
    let outcome = service
        .runtime
        .exec_sync(&container_id, &command, Duration::ZERO)
        .await
        .map_err(runtime_refusal)?;
    if outcome.exit_code != 0 {
        let message = format!(
            "command exited with {}: {}",
            outcome.exit_code,
            String::from_utf8_lossy(&outcome.output)
        );
        return Err((StatusCode::INTERNAL_SERVER_ERROR, message));
    }
    Ok(Response::new(full(outcome.output)))
}

/// Which streams an exec or attach wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Streams {
    fn parse(query: &Query) -> Result<Self, Refusal> {
        let wants = |name| matches!(query.first(name), Some("1" | "true"));
        let tty = wants("tty");
        let streams = Self {
            stdin: wants("input"),
            stdout: wants("output"),
            // A terminal has one output.
            stderr: wants("error") && !tty,
            tty,
        };
        if !(streams.stdin || streams.stdout || streams.stderr) {
            let message = "you must specify at least 1 of stdin, stdout, stderr";
            return Err((StatusCode::BAD_REQUEST, message.into()));
        }
        Ok(streams)
    }
}

fn existing_pod<H: Host>(service: &Service<H>, namespace: &str, name: &str) -> Result<Arc<Pod>, Refusal> {
    service
        .host
        .pod(namespace, name)
        .ok_or_else(|| (StatusCode::NOT_FOUND, "pod does not exist".into()))
}

/// The newest instance of the container; the runtime itself refuses one that does not run.
async fn running_container<H: Host>(service: &Service<H>, target: &ContainerPath) -> Result<String, Refusal> {
    existing_pod(service, &target.namespace, &target.pod)?;
    let instances = service
        .runtime
        .containers_of(&target.namespace, &target.pod, &target.container)
        .await
        .map_err(runtime_refusal)?;
    match instances.into_iter().next() {
        Some(container) => Ok(container.id),
        None => Err((
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("container not found (\"{}\")", target.container),
        )),
    }
}

fn has_container(pod: &Pod, name: &str) -> bool {
    let ephemeral = pod
        .spec
        .iter()
        .flat_map(|spec| spec.ephemeral_containers.iter().flatten());
    pod::all_containers(pod).any(|container| container.name == name)
        || ephemeral.into_iter().any(|container| container.name == name)
}

fn runtime_refusal(error: RuntimeError) -> Refusal {
    let status = match error.code {
        tonic::Code::NotFound => StatusCode::NOT_FOUND,
        tonic::Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, error.to_string())
}

fn internal(error: impl std::fmt::Display) -> Refusal {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

fn text(status: StatusCode, message: String) -> Response<Body> {
    let mut response = Response::new(full(message));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// A body that is all there.
pub(super) fn full(data: impl Into<Bytes>) -> Body {
    Full::new(data.into())
        .map_err(|never: Infallible| match never {})
        .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams() {
        let parse = |query| Streams::parse(&Query::parse(query)).ok();
        let streams = |stdin, stdout, stderr, tty| {
            Some(Streams {
                stdin,
                stdout,
                stderr,
                tty,
            })
        };
        assert_eq!(parse("output=1&error=1"), streams(false, true, true, false));
        assert_eq!(
            parse("input=1&output=1&error=1&tty=1"),
            streams(true, true, false, true)
        );
        assert_eq!(parse("input=true"), streams(true, false, false, false));
        assert_eq!(parse("error=1&tty=1"), None);
        assert_eq!(parse("output=0"), None);
    }
}
