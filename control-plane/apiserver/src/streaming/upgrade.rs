//! Upgraded connections: SPDY is relayed as it is; of WebSocket the protocols of today are translated to the SPDY that
//! kubelets speak, the older ones, which kubelets speak too, are relayed.

use api::status::{self, Status};
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};

use super::{failure, send, translator};
use crate::{
    body::{Body, RequestBody},
    context::Context,
    respond::HttpResponse,
};

const SPDY: &str = "SPDY/3.1";
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// What kubelets speak to us; its status message carries the exit code.
const KUBELET_PROTOCOL: HeaderValue = HeaderValue::from_static("v4.channel.k8s.io");
const PORT_FORWARD_PROTOCOL: HeaderValue = HeaderValue::from_static("portforward.k8s.io");
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// What makes out a relayed SPDY connection.
const SPDY_HEADERS: [HeaderName; 2] = [header::UPGRADE, STREAM_PROTOCOL];
/// What makes out a relayed WebSocket connection; without extensions, which no kubelet has.
const WEBSOCKET_HEADERS: [HeaderName; 5] = [
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_ACCEPT,
];

/// Small buffers: most of these connections are people's terminals.
const BUFFER_BYTES: usize = 16 * 1024;
/// No message of a client is larger.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// A client's connection after the upgrade.
type WebSocket = WebSocketStream<TokioIo<Upgraded>>;

/// Upgrades the client's connection and the one to the kubelet, and joins them.
pub(super) async fn upgrade(
    context: &Context,
    mut request: Request<RequestBody>,
    node: &str,
    path: &str,
) -> Result<HttpResponse, Status> {
    let wanted = request
        .headers()
        .get(header::UPGRADE)
        .and_then(|value| value.to_str().ok());
    let wanted = wanted.unwrap_or_default().to_ascii_lowercase();
    match wanted.as_str() {
        "spdy/3.1" => relay(context, &mut request, Method::POST, &SPDY_HEADERS, node, path).await,
        "websocket" => match translated(context, request.headers()) {
            Some(protocol) => websocket(context, &mut request, protocol, node, path).await,
            None => relay(context, &mut request, Method::GET, &WEBSOCKET_HEADERS, node, path).await,
        },
        _ => Err(status::bad_request("Upgrade request required")),
    }
}

/// Which of the WebSocket protocols that the client offers is translated here; without one, the kubelet decides.
fn translated(context: &Context, headers: &HeaderMap) -> Option<&'static str> {
    let offered: Vec<&str> = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let spoken: &[&'static str] = match context.info.subresource.as_str() {
        "portforward" => &[TUNNEL],
        _ => &["v5.channel.k8s.io", "v4.channel.k8s.io"],
    };
    spoken.iter().find(|protocol| offered.contains(protocol)).copied()
}

/// Asks the kubelet for an upgrade; anything but 101 becomes the answer.
async fn kubelet_upgrade(
    context: &Context,
    node: &str,
    method: Method,
    path: &str,
    mut headers: HeaderMap,
) -> Result<Response<hyper::body::Incoming>, Status> {
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    let answer = send(context, node, method, path, headers).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(failure(answer).await);
    }
    Ok(answer)
}

/// A client that speaks what kubelets speak: after both upgrades the bytes pass through. `named` are the headers that make
/// out the protocol, in both directions.
async fn relay(
    context: &Context,
    request: &mut Request<RequestBody>,
    method: Method,
    named: &[HeaderName],
    node: &str,
    path: &str,
) -> Result<HttpResponse, Status> {
    let headers = only(named, request.headers());
    let answer = kubelet_upgrade(context, node, method, path, headers).await?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = only(named, answer.headers());
    response
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    let client = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let joined = async {
            let mut kubelet = TokioIo::new(hyper::upgrade::on(answer).await?);
            let mut client = TokioIo::new(client.await?);
            let sizes = (BUFFER_BYTES, BUFFER_BYTES);
            let copied =
                tokio::io::copy_bidirectional_with_sizes(&mut client, &mut kubelet, sizes.0, sizes.1);
            if let Err(error) = copied.await {
                tracing::debug!(%error, "stream broke off");
            }
            Ok::<_, hyper::Error>(())
        };
        if let Err(error) = joined.await {
            tracing::debug!(%error, "upgrade failed");
        }
    });
    Ok(response)
}

/// The headers that are named, with all their values.
fn only(named: &[HeaderName], headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for name in named {
        for value in headers.get_all(name) {
            kept.append(name, value.clone());
        }
    }
    kept
}

/// A client that speaks a WebSocket protocol which is translated.
async fn websocket(
    context: &Context,
    request: &mut Request<RequestBody>,
    protocol: &'static str,
    node: &str,
    path: &str,
) -> Result<HttpResponse, Status> {
    let headers = request.headers();
    let forwards = protocol == TUNNEL;
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    let key = key.ok_or_else(|| status::bad_request("Sec-WebSocket-Key is missing"))?;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|error| status::internal_error(error.to_string()))?;
    let towards = if forwards {
        PORT_FORWARD_PROTOCOL
    } else {
        KUBELET_PROTOCOL
    };
    let spdy = HeaderMap::from_iter([
        (header::UPGRADE, HeaderValue::from_static(SPDY)),
        (STREAM_PROTOCOL, towards),
    ]);
    let answer = kubelet_upgrade(context, node, Method::POST, path, spdy).await?;

    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = HeaderMap::from_iter([
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
        (header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol)),
    ]);
    let streams = translator::Streams {
        stdin: context.flag("stdin"),
        stdout: context.flag("stdout"),
        stderr: context.flag("stderr") && !context.flag("tty"),
        tty: context.flag("tty"),
    };
    let client = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let (Ok(kubelet), Ok(client)) = (hyper::upgrade::on(answer).await, client.await) else {
            return;
        };
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let client = TokioIo::new(client);
        let client = WebSocketStream::from_raw_socket(client, Role::Server, Some(config)).await;
        let kubelet = TokioIo::new(kubelet);
        let ended = if forwards {
            tunnel(client, kubelet).await
        } else {
            translator::run(client, kubelet, streams).await
        };
        if let Err(error) = ended {
            tracing::debug!(error, "stream broke off");
        }
    });
    Ok(response)
}

/// Forwarded ports: the client speaks SPDY inside of WebSocket messages.
async fn tunnel(client: WebSocket, kubelet: TokioIo<Upgraded>) -> Result<(), String> {
    let (mut to_client, mut from_client) = client.split();
    let (mut from_kubelet, mut to_kubelet) = tokio::io::split(kubelet);
    let text = |error: &dyn std::error::Error| error.to_string();
    let up = async {
        while let Some(message) = from_client.next().await {
            match message.map_err(|error| text(&error))? {
                Message::Binary(bytes) => {
                    to_kubelet.write_all(&bytes).await.map_err(|error| text(&error))?;
                    to_kubelet.flush().await.map_err(|error| text(&error))?;
                }
                Message::Close(_) => break,
                _ => {}
            }
        }
        Ok(())
    };
    let down = async {
        let mut buffer = bytes::BytesMut::with_capacity(BUFFER_BYTES);
        loop {
            buffer.reserve(BUFFER_BYTES);
            if from_kubelet
                .read_buf(&mut buffer)
                .await
                .map_err(|error| text(&error))?
                == 0
            {
                let _ = to_client.send(Message::Close(None)).await;
                return Ok(());
            }
            let bytes = buffer.split().freeze();
            to_client
                .send(Message::Binary(bytes))
                .await
                .map_err(|error| text(&error))?;
        }
    };
    // Either direction's end is the end: there is no half-closed port forwarding.
    tokio::select! { ended = up => ended, ended = down => ended }
}
