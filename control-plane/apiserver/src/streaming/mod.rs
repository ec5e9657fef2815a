//! Streams to kubelets: logs, commands, forwarded ports; and the proxies to nodes, pods and Services.
//!
//! A connection is handed over only after the other side really said 101; whatever else it says becomes the answer.

mod kubelet;
mod pod;
mod proxy;
mod spdy;
mod translator;
mod upgrade;

use api::status::{self, Status};
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, BodyStream, Limited};
use hyper::body::Incoming;

pub(crate) use self::kubelet::KubeletClient;
pub(crate) use self::proxy::proxy;
pub(crate) use self::spdy::{Decoder, Frame};
pub(crate) use self::translator::{Streams, run as translate};
use crate::{
    body::{Body, BoxError, RequestBody, empty_request_body},
    context::Context,
    request_info::query_pairs,
    respond::HttpResponse,
};

/// How much of a kubelet's error text is passed on.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// `pods/log`: the kubelet's answer, as it comes.
pub(crate) async fn log(context: &Context) -> Result<HttpResponse, Status> {
    let pod = context.current().await?.value();
    let path = pod::log_path(context, &pod)?;
    let Some(node) = pod::node_of(&pod) else {
        // Nothing has run yet, so there is nothing to show.
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        return Ok(response);
    };
    let answer = send(context, &node, Method::GET, &path, HeaderMap::new()).await?;
    if !answer.status().is_success() {
        return Err(failure(answer).await);
    }
    let mut response = Response::new(relay(answer.into_body()));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

/// `pods/exec`, `pods/attach` and `pods/portforward`.
pub(crate) async fn connect(
    context: &Context,
    request: Request<RequestBody>,
) -> Result<HttpResponse, Status> {
    let pod = context.current().await?.value();
    let path = pod::connect_path(context, &pod, query_pairs(&context.uri))?;
    let node = pod::node_of(&pod).ok_or_else(|| {
        status::bad_request(format!("pod {} does not have a host assigned", context.info.name))
    })?;
    upgrade::upgrade(context, request, &node, &path).await
}

/// Sends a request without a body to the kubelet of a node.
async fn send(
    context: &Context,
    node: &str,
    method: Method,
    path: &str,
    headers: HeaderMap,
) -> Result<Response<Incoming>, Status> {
    let client = context.api.kubelet.as_ref().ok_or_else(|| {
        status::internal_error("--kubelet-client-certificate was not given: kubelets cannot be reached")
    })?;
    let node = kubelet::locate(&context.api, node)?;
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, node.address.to_string())
        .body(empty_request_body())
        .map_err(|error| status::internal_error(error.to_string()))?;
    request.headers_mut().extend(headers);
    client.send(&node, request).await
}

/// What a kubelet said instead of doing what it was asked, as the `Status` upstream makes of it.
async fn failure(answer: Response<Incoming>) -> Status {
    let code = answer.status();
    let body = Limited::new(answer.into_body(), ERROR_BYTES_MAX).collect().await;
    let text = body
        .map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned())
        .unwrap_or_default();
    if let Ok(status) = serde_json::from_str::<Status>(&text)
        && status.kind == "Status"
    {
        return status;
    }
    match code {
        StatusCode::BAD_REQUEST => status::bad_request(text),
        StatusCode::NOT_FOUND => Status::failure(404, "NotFound", text),
        StatusCode::INTERNAL_SERVER_ERROR => status::internal_error(text),
        code if code.is_redirection() => {
            status::internal_error("the kubelet redirects, which is not followed")
        }
        code => status::internal_error(format!("an error on the server ({code}): {text}")),
    }
}

/// A backend's body, frame by frame.
fn relay(body: Incoming) -> Body {
    Body::stream(BodyStream::new(body).filter_map(|frame| async move {
        match frame {
            Ok(frame) => frame.into_data().ok().map(Ok),
            Err(error) => Some(Err(BoxError::from(error))),
        }
    }))
}
