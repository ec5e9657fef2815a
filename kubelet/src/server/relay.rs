//! Joins a client's upgraded connection with containerd's streaming server.
//!
//! The request goes to the URL that CRI gave, headers and all. Only when containerd itself answers 101 is the client told
//! 101 too and are the two connections joined; every other answer is passed on as it is. The end of one direction is
//! passed on as the end of that direction alone, so that `exec -i` may close stdin and still read the output.

use std::time::Duration;

use http::{HeaderMap, HeaderName, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn::http1, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::handler::{Body, Refusal, full};

const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Headers that belong to one connection and are rewritten rather than passed on.
const NOT_PASSED_ON: [HeaderName; 4] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::EXPECT,
];

/// Sends the request on to `url` and answers with what comes back.
pub(super) async fn relay(mut request: Request<Incoming>, url: &str) -> Result<Response<Body>, Refusal> {
    let wants_upgrade = request.headers().contains_key(header::UPGRADE);
    if !wants_upgrade {
        return Err((StatusCode::BAD_REQUEST, "Upgrade request required".into()));
    }
    let client = hyper::upgrade::on(&mut request);
    let (response, _) = forward(&request, url).await.map_err(|error| {
        tracing::warn!(error, "the runtime's streaming server cannot be reached");
        (
            StatusCode::BAD_GATEWAY,
            format!("error dialing the container runtime's streaming server: {error}"),
        )
    })?;
    answer(response, client)
}

async fn forward(request: &Request<Incoming>, url: &str) -> Result<(Response<Incoming>, Uri), String> {
    let url: Uri = url.parse().map_err(|error| format!("\"{url}\": {error}"))?;
    let authority = url
        .authority()
        .ok_or_else(|| format!("\"{url}\" has no host"))?
        .clone();
    if url.scheme_str() != Some("http") {
        return Err(format!(
            "\"{url}\": the runtime's streaming server must speak plain HTTP on loopback"
        ));
    }
    let port = authority.port_u16().unwrap_or(80);
    let host = authority.host().trim_matches(['[', ']']);
    let stream = tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect((host, port)))
        .await
        .map_err(|_| format!("{authority}: timed out"))?
        .map_err(|error| format!("{authority}: {error}"))?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    // The task ends with the response, or hands the connection over when it is upgraded.
    tokio::spawn(connection.with_upgrades());

    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let mut onward = Request::builder()
        .method(request.method())
        .uri(path)
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| error.to_string())?;
    *onward.headers_mut() = headers_to_pass_on(request.headers());
    let host = authority
        .as_str()
        .try_into()
        .map_err(|error: header::InvalidHeaderValue| error.to_string())?;
    onward.headers_mut().insert(header::HOST, host);
    let response = sender
        .send_request(onward)
        .await
        .map_err(|error| error.to_string())?;
    Ok((response, url))
}

fn headers_to_pass_on(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    for name in NOT_PASSED_ON {
        headers.remove(name);
    }
    headers
}

fn answer(mut response: Response<Incoming>, client: OnUpgrade) -> Result<Response<Body>, Refusal> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response.map(|body| body.map_err(Into::into).boxed()));
    }
    let server = hyper::upgrade::on(&mut response);
    let mut switched = Response::new(full(bytes::Bytes::new()));
    *switched.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *switched.headers_mut() = response.headers().clone();
    tokio::spawn(async move {
        match tokio::try_join!(client, server) {
            Ok((client, server)) => {
                let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
                if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut server).await {
                    tracing::debug!(%error, "stream ended");
                }
            }
            Err(error) => tracing::debug!(%error, "upgrade did not happen"),
        }
    });
    Ok(switched)
}
