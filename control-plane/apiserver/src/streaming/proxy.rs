//! The proxies: HTTP requests passed on to a node's kubelet, a pod or a Service's endpoint.
//!
//! Upgrades are passed on too: after the backend's 101 the bytes of both sides are relayed, whatever they are.

mod target;
mod tls;

use std::{sync::Arc, time::Duration};

use api::status::{self, Status};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use self::target::Target;
use super::{KubeletClient, kubelet::exchange, relay};
use crate::{
    body::{Body, RequestBody},
    context::Context,
    metrics::LongRunning,
    respond::HttpResponse,
};

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
    let target = Target::of(context)?;
    let uri = request.uri();
    let rest = raw_remainder(uri.path(), context.namespace().is_some());
    let asks = matches!(*request.method(), Method::GET | Method::HEAD);
    if asks
        && rest.is_empty()
        && !uri.path().ends_with('/')
        && !request.headers().contains_key(header::UPGRADE)
    {
        // Links in the backend's answer are relative to its root.
        return redirect(&with_query(&format!("{}/", uri.path()), uri));
    }
    let path = with_query(&format!("/{rest}"), uri);
    let kubelet = context.api.kubelet.as_ref();
    forward(&target, kubelet, &path, request, context.long_running.clone()).await
}

fn with_query(path: &str, uri: &Uri) -> String {
    match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}

/// Sends a request to a target under another path; `running` is held for as long as an upgraded connection lives.
async fn forward(
    target: &Target,
    kubelet: Option<&KubeletClient>,
    path: &str,
    mut request: Request<RequestBody>,
    running: Option<Arc<LongRunning>>,
) -> Result<HttpResponse, Status> {
    let upgrade = request.headers().get(header::UPGRADE).cloned();
    let client = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let mut backend = Request::builder()
        .method(parts.method)
        .uri(path)
        .body(body)
        .map_err(|error| status::bad_request(error.to_string()))?;
    let headers = backend.headers_mut();
    copy_headers(&parts.headers, headers);
    if let Ok(host) = target.address().to_string().parse() {
        headers.insert(header::HOST, host);
    }
    if let Some(protocol) = &upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol.clone());
    }
    let answer = send(target, kubelet, backend).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (parts, body) = answer.into_parts();
        let mut response = Response::new(relay(body));
        *response.status_mut() = parts.status;
        copy_headers(&parts.headers, response.headers_mut());
        return Ok(response);
    }
    if upgrade.is_none() {
        return Err(status::internal_error(
            "the backend switched protocols without being asked to",
        ));
    }
    Ok(joined(running, client, answer))
}

/// Passes the backend's 101 on, and joins both connections once the client's has been upgraded too.
fn joined(
    running: Option<Arc<LongRunning>>,
    client: hyper::upgrade::OnUpgrade,
    mut answer: Response<Incoming>,
) -> HttpResponse {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    // Nothing of a 101 is ours: it is one hop's answer, and the hop is relayed whole.
    *response.headers_mut() = answer.headers().clone();
    let backend = hyper::upgrade::on(&mut answer);
    tokio::spawn(async move {
        let _running = running;
        let streams = async { Ok::<_, hyper::Error>((client.await?, backend.await?)) };
        match streams.await {
            Ok((client, backend)) => {
                let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
                if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut backend).await {
                    tracing::debug!(%error, "proxied stream broke off");
                }
            }
            Err(error) => tracing::debug!(%error, "upgrade through the proxy failed"),
        }
    });
    response
}

async fn send(
    target: &Target,
    kubelet: Option<&KubeletClient>,
    request: Request<RequestBody>,
) -> Result<Response<Incoming>, Status> {
    let (address, encrypted) = match target {
        Target::Node(node) => {
            let client = kubelet.ok_or_else(|| {
                status::internal_error(
                    "--kubelet-client-certificate was not given: kubelets cannot be reached",
                )
            })?;
            return client.send(node, request).await;
        }
        Target::Address { address, tls } => (*address, *tls),
    };
    let failed = |why: String| status::service_unavailable(format!("error trying to reach service: {why}"));
    let connected = async {
        let stream = TcpStream::connect(address).await;
        let stream = stream.map_err(|error| format!("dial tcp {address}: {error}"))?;
        match encrypted {
            true => tls::handshake(stream, address)
                .await
                .map(|stream| Stream::Tls(Box::new(stream))),
            false => Ok(Stream::Plain(stream)),
        }
    };
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, connected)
        .await
        .map_err(|_| failed(format!("dial tcp {address}: i/o timeout")))?
        .map_err(failed)?;
    let answer = match stream {
        Stream::Plain(stream) => exchange(stream, request).await,
        Stream::Tls(stream) => exchange(stream, request).await,
    };
    answer.map_err(failed)
}

/// A connection to a backend.
enum Stream {
    Plain(TcpStream),
    Tls(Box<tls::TlsStream>),
}

fn copy_headers(from: &HeaderMap, to: &mut HeaderMap) {
    for (name, value) in from {
        if !NOT_PASSED_ON.contains(name) {
            to.append(name.clone(), value.clone());
        }
    }
}

fn redirect(location: &str) -> Result<HttpResponse, Status> {
    let location = location
        .parse()
        .map_err(|_| status::bad_request("the path is no header value"))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// What follows the segment `proxy`, still encoded as the client sent it.
fn raw_remainder(path: &str, namespaced: bool) -> &str {
    // /api/v1/nodes/NAME/proxy/… or /api/v1/namespaces/NAMESPACE/pods/NAME/proxy/…
    let before = if namespaced { 8 } else { 6 };
    path.splitn(before + 1, '/').nth(before).unwrap_or_default()
}

#[cfg(test)]
mod tests;
