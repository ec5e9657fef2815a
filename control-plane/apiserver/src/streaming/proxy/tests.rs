//! Requests through the proxy to a backend on loopback, plain and encrypted, upgraded and not.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::body::request_body;

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

/// Answers with what it was asked, and after an upgrade says everything twice.
async fn backend(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let headers = request.headers();
    let seen = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    if let Some(protocol) = seen("upgrade") {
        let key = seen("sec-websocket-key").unwrap_or_default();
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgraded.await.unwrap());
            let mut word = [0; 5];
            while stream.read_exact(&mut word).await.is_ok() {
                stream.write_all(&word.repeat(2)).await.unwrap();
            }
        });
        let response = Response::builder()
            .status(101)
            .header("connection", "Upgrade")
            .header("upgrade", protocol)
            .header("sec-websocket-accept", format!("for {key}"));
        return Ok(response.body(Full::default()).unwrap());
    }
    let (authorization, custom) = (seen("authorization"), seen("x-custom"));
    let told = format!(
        "{} {} {authorization:?} {custom:?}",
        request.method(),
        request.uri()
    );
    let response = Response::builder().status(418).header("x-backend", "yes");
    Ok(response.body(Full::from(told)).unwrap())
}

async fn serve<B>(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, service: B)
where
    B: hyper::service::HttpService<Incoming, Error = Infallible> + Send + 'static,
    B::Future: Send,
    B::ResBody: Send + 'static,
    <B::ResBody as http_body::Body>::Data: Send,
    <B::ResBody as http_body::Body>::Error: Into<crate::BoxError>,
{
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let _ = connection.with_upgrades().await;
}

/// Starts a backend.
async fn start_backend(tls: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tls.then(|| {
        let own = rcgen::generate_simple_self_signed(vec!["whoever".to_owned()]).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                match acceptor {
                    Some(acceptor) => {
                        serve(acceptor.accept(stream).await.unwrap(), service_fn(backend)).await
                    }
                    None => serve(stream, service_fn(backend)).await,
                }
            });
        }
    });
    address
}

/// Starts a server that passes everything on to a backend, and connects to it.
async fn through_the_proxy(tls: bool) -> TcpStream {
    let address = start_backend(tls).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = service_fn(move |request: Request<Incoming>| async move {
            let target = Target::Address { address, tls };
            let answer = forward(&target, None, "/its/path?x=y", request.map(request_body), None).await;
            Ok::<_, Infallible>(answer.unwrap())
        });
        serve(stream, service).await;
    });
    TcpStream::connect(front).await.unwrap()
}

#[tokio::test]
async fn answers_come_back_as_they_are() {
    for tls in [false, true] {
        let stream = TokioIo::new(through_the_proxy(tls).await);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request = Request::post("/api/v1/namespaces/n/pods/p/proxy/its/path?x=y")
            .header("host", "here")
            .header("authorization", "Bearer of the API server")
            .header("x-custom", "1");
        let answer = sender
            .send_request(request.body(Full::<Bytes>::default()).unwrap())
            .await
            .unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["x-backend"]),
            (418, &HeaderValue::from_static("yes"))
        );
        let told = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(told, r#"POST /its/path?x=y None Some("1")"#);
    }
}

#[tokio::test]
async fn upgrades_are_joined() {
    for tls in [false, true] {
        let mut stream = through_the_proxy(tls).await;
        let request = "GET /x HTTP/1.1\r\nhost: here\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
                       sec-websocket-key: mine\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            seen.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(seen).unwrap().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        assert!(
            head.contains("upgrade: websocket") && head.contains("sec-websocket-accept: for mine"),
            "{head}"
        );
        stream.write_all(b"helloworld").await.unwrap();
        let mut twice = [0; 20];
        stream.read_exact(&mut twice).await.unwrap();
        assert_eq!(&twice, b"hellohelloworldworld");
    }
}
