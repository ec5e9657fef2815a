//! The server on a real socket: TLS, client certificates good and bad, both HTTP versions, the end of its service.

use std::{error::Error as _, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use store::{Embedded, EmbeddedOptions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::config;
use crate::Server;

/// An authority that signs certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

/// A certificate with its key.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        Authority {
            issuer: Issuer::new(parameters, key),
            certificate,
        }
    }

    fn sign(&self, user: &str, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let mut parameters = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, user);
        parameters
            .distinguished_name
            .push(DnType::OrganizationName, "system:masters");
        parameters.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        change(&mut parameters);
        let key = KeyPair::generate().unwrap();
        let signed = parameters.signed_by(&key, &self.issuer).unwrap();
        Identity {
            chain: vec![signed.der().clone()],
            key,
        }
    }
}

/// A server that listens, and the authority of its certificates.
struct Fixture {
    server: Server,
    address: SocketAddr,
    authority: Authority,
    serving: JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut crate::Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new("kubernetes");
        let own = authority.sign("kube-apiserver", |_| {});
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            Some(path)
        };
        let mut config = config(directory.path());
        config.bind_address = "127.0.0.1".parse().unwrap();
        config.advertise_address = None;
        config.secure_port = 0;
        config.client_ca_file = write("ca.crt", &authority.certificate.pem());
        config.tls_cert_file = write("tls.crt", &pem(&own.chain[0]));
        config.tls_private_key_file = write("tls.key", &own.key.serialize_pem());
        change(&mut config);
        let server = Server::new(config, store(directory.path())).await.unwrap();
        let listening = server.listen().await.unwrap();
        let address = listening.addresses()[0];
        Fixture {
            server,
            address,
            authority,
            serving: tokio::spawn(listening.run()),
            _directory: directory,
        }
    }

    /// Connects with a certificate, or with none, and offers one version of HTTP.
    async fn connect(&self, identity: Option<Identity>, alpn: &[u8]) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.certificate.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut tls = match identity {
            Some(Identity { chain, key }) => {
                let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![alpn.to_vec()];
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(tls));
        connector.connect(name, stream).await.unwrap()
    }

    async fn http1(
        &self,
        identity: Option<Identity>,
    ) -> hyper::client::conn::http1::SendRequest<Full<Bytes>> {
        let stream = TokioIo::new(self.connect(identity, b"http/1.1").await);
        let (sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    async fn http2(
        &self,
        identity: Option<Identity>,
    ) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
        let stream = TokioIo::new(self.connect(identity, b"h2").await);
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
        let (sender, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        sender
    }
}

fn store(directory: &Path) -> Arc<Embedded> {
    Arc::new(Embedded::open(EmbeddedOptions::new(directory)).unwrap())
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let body = STANDARD.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
}

fn get(path: &str) -> Request<Full<Bytes>> {
    let request = Request::builder()
        .method(Method::GET)
        .uri(format!("https://localhost{path}"));
    request
        .header(header::HOST, "localhost")
        .body(Full::default())
        .unwrap()
}

async fn answer(response: Response<Incoming>) -> (u16, Value) {
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&body).unwrap_or_default())
}

#[tokio::test]
async fn credentials_are_counted() {
    let fixture = Fixture::new().await;
    let stranger = Authority::new("kubernetes");
    let someone = fixture.authority.sign("someone@example.com", |_| {});
    for (identity, token, expect) in [
        (None, None, 403),
        (None, Some("Bearer nonsense"), 401),
        (Some(stranger.sign("admin", |_| {})), None, 401),
        (Some(someone), None, 200),
    ] {
        let mut request = get("/api/v1/namespaces");
        if let Some(token) = token {
            let token = token.parse().unwrap();
            request.headers_mut().insert(header::AUTHORIZATION, token);
        }
        let response = fixture.http1(identity).await.send_request(request).await;
        assert_eq!(response.unwrap().status().as_u16(), expect);
    }
    let admin = fixture.authority.sign("admin", |_| {});
    let response = fixture
        .http1(Some(admin))
        .await
        .send_request(get("/metrics"))
        .await;
    let body = response.unwrap().into_body().collect().await.unwrap().to_bytes();
    let metrics = String::from_utf8(body.to_vec()).unwrap();
    for line in [
        "authentication_attempts{result=\"success\"} 3",
        "authentication_attempts{result=\"error\"} 2",
        "authentication_duration_seconds_count{result=\"success\"} 3",
        "authentication_duration_seconds_count{result=\"error\"} 2",
        "authenticated_user_requests{username=\"admin\"} 1",
        "authenticated_user_requests{username=\"email_id\"} 1",
        "authenticated_user_requests{username=\"other\"} 1",
    ] {
        assert!(metrics.lines().any(|own| own == line), "{line}\n{metrics}");
    }
}

#[tokio::test]
async fn certificates_good_and_bad() {
    let fixture = Fixture::new().await;
    let stranger = Authority::new("kubernetes");
    let past = rcgen::date_time_ymd(2020, 1, 1);
    let path = "/api/v1/namespaces";
    for (what, identity, code, reason) in [
        ("good", Some(fixture.authority.sign("admin", |_| {})), 200, None),
        (
            "of a stranger",
            Some(stranger.sign("admin", |_| {})),
            401,
            Some("Unauthorized"),
        ),
        (
            "expired",
            Some(
                fixture
                    .authority
                    .sign("admin", |parameters| parameters.not_after = past),
            ),
            401,
            Some("Unauthorized"),
        ),
        (
            "for servers only",
            Some(fixture.authority.sign("admin", |parameters| {
                parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            })),
            401,
            Some("Unauthorized"),
        ),
        ("none", None, 403, Some("Forbidden")),
    ] {
        let mut sender = fixture.http1(identity).await;
        let (got, status) = answer(sender.send_request(get(path)).await.unwrap()).await;
        assert_eq!(
            (got, status["reason"].as_str()),
            (code, reason),
            "{what}: {status}"
        );
        // Nobody needs to be somebody to learn the version, but who claims to be somebody must be.
        let (got, _) = answer(sender.send_request(get("/version")).await.unwrap()).await;
        assert_eq!(got, if code == 401 { 401 } else { 200 }, "{what}");
    }
}

#[tokio::test]
async fn a_token_counts_beside_a_bad_certificate() {
    let fixture = Fixture::new().await;
    let client = fixture
        .server
        .client(crate::UserInfo::new("admin", &["system:masters"]));
    let token = Request::post("/api/v1/namespaces/kube-system/serviceaccounts/a/token")
        .header(header::CONTENT_TYPE, "application/json")
        .body(kube::client::Body::from(b"{\"spec\": {}}".to_vec()))
        .unwrap();
    let account = Request::post("/api/v1/namespaces/kube-system/serviceaccounts")
        .header(header::CONTENT_TYPE, "application/json")
        .body(kube::client::Body::from(
            b"{\"metadata\": {\"name\": \"a\"}}".to_vec(),
        ))
        .unwrap();
    assert_eq!(client.send(account).await.unwrap().status(), StatusCode::CREATED);
    let issued = client
        .send(token)
        .await
        .unwrap()
        .into_body()
        .collect()
        .await
        .unwrap()
        .to_bytes();
    let issued: Value = serde_json::from_slice(&issued).unwrap();
    let bearer = format!("Bearer {}", issued["status"]["token"].as_str().unwrap());

    let mut sender = fixture
        .http1(Some(Authority::new("x").sign("admin", |_| {})))
        .await;
    for (authorization, code) in [
        (bearer.as_str(), 403),
        ("Bearer nonsense", 401),
        ("Basic YTpi", 401),
    ] {
        let mut request = get("/api/v1/namespaces");
        request
            .headers_mut()
            .insert(header::AUTHORIZATION, authorization.parse().unwrap());
        let (got, status) = answer(sender.send_request(request).await.unwrap()).await;
        assert_eq!(got, code, "{authorization}: {status}");
        if code == 403 {
            let message = status["message"].as_str().unwrap();
            assert!(
                message.contains("system:serviceaccount:kube-system:a"),
                "{message}"
            );
        }
    }
}

#[tokio::test]
async fn many_streams_of_one_connection() {
    let fixture = Fixture::new().await;
    let sender = fixture.http2(Some(fixture.authority.sign("admin", |_| {}))).await;
    // Far more than the 100 streams that many servers stop at: each watch of a client's informers is one.
    let mut watches = Vec::new();
    for _ in 0..300 {
        let mut sender = sender.clone();
        let response = sender
            .send_request(get("/api/v1/namespaces?watch=true"))
            .await
            .unwrap();
        assert_eq!(
            (response.status(), response.version()),
            (StatusCode::OK, Version::HTTP_2)
        );
        assert!(!response.headers().contains_key(header::CONNECTION));
        watches.push(response.into_body());
    }
    for watch in &mut watches {
        let frame = watch.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(frame.starts_with(br#"{"type":"ADDED""#), "{frame:?}");
    }
}

#[tokio::test]
async fn headers_beyond_all_measure() {
    let fixture = Fixture::new().await;
    let mut request = get("/version");
    let large = "x".repeat(600 * 1024);
    request.headers_mut().insert("x-large", large.parse().unwrap());
    let mut sender = fixture.http1(None).await;
    let response = sender.send_request(request.clone()).await.unwrap();
    assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    // 100 KiB are unusual, and fine.
    request
        .headers_mut()
        .insert("x-large", large[..100 * 1024].parse().unwrap());
    let mut sender = fixture.http1(None).await;
    assert_eq!(
        sender.send_request(request.clone()).await.unwrap().status(),
        StatusCode::OK
    );
    let mut sender = fixture.http2(None).await;
    assert_eq!(
        sender.send_request(request).await.unwrap().status(),
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_answered_with_504() {
    let fixture = Fixture::new().await;
    let admin = fixture.authority.sign("admin", |_| {});
    let mut stream = fixture.connect(Some(admin), b"http/1.1").await;
    // The rest of the body never comes.
    let head = "POST /api/v1/namespaces?timeout=50ms HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                content-length: 100\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut seen = String::new();
    let read = async {
        while !seen.contains("deadline exceeded") {
            let mut some = [0; 4096];
            let count = stream.read(&mut some).await.unwrap();
            assert!(count > 0, "{seen}");
            seen.push_str(&String::from_utf8_lossy(&some[..count]));
        }
    };
    tokio::time::timeout(Duration::from_secs(20), read)
        .await
        .expect("an answer");
    assert!(seen.starts_with("HTTP/1.1 504 "), "{seen}");
    let message = "Timeout: request did not complete within requested timeout - context deadline exceeded";
    assert!(
        seen.contains(message) && seen.contains(r#""reason":"Timeout""#),
        "{seen}"
    );
}

#[tokio::test]
async fn the_end_of_service_ends_watches_cleanly() {
    let fixture = Fixture::new().await;
    let admin = || Some(fixture.authority.sign("admin", |_| {}));
    let path = "/api/v1/namespaces?watch=true&resourceVersion=0";
    let (mut one, mut two) = (fixture.http1(admin()).await, fixture.http2(admin()).await);
    let mut idle = fixture.http1(admin()).await;
    assert_eq!(
        idle.send_request(get("/version")).await.unwrap().status(),
        StatusCode::OK
    );
    let watches = [
        one.send_request(get(path)).await.unwrap(),
        two.send_request(get(path)).await.unwrap(),
    ];
    fixture.server.shut_down();
    for watch in watches {
        // The last chunk or END_STREAM, not a broken connection: collecting is no error.
        let told = watch.into_body().collect().await.unwrap().to_bytes();
        assert!(told.ends_with(b"}\n"), "{told:?}");
    }
    tokio::time::timeout(Duration::from_secs(8), fixture.serving)
        .await
        .expect("connections that nobody uses do not hold the server up")
        .unwrap();
    assert!(TcpStream::connect(fixture.address).await.is_err());
}

#[tokio::test]
async fn a_stopping_server_serves_for_a_while() {
    let fixture = Fixture::with(|config| config.shutdown_delay_duration = Duration::from_secs(2)).await;
    let mut old = fixture.http2(Some(fixture.authority.sign("admin", |_| {}))).await;
    let watch = old
        .send_request(get("/api/v1/namespaces?watch=true&resourceVersion=0"))
        .await
        .unwrap();
    fixture.server.shut_down();
    // Not ready, but alive and at everybody's service, over connections old and new.
    let mut new = fixture.http1(Some(fixture.authority.sign("admin", |_| {}))).await;
    for (path, code) in [("/readyz", 500), ("/livez", 200), ("/api/v1/namespaces", 200)] {
        let answer = new.send_request(get(path)).await.unwrap();
        assert_eq!(answer.status(), code, "{path}");
        answer.into_body().collect().await.unwrap();
    }
    let told = watch.into_body().collect().await.unwrap().to_bytes();
    assert!(told.ends_with(b"}\n"), "{told:?}");
    tokio::time::timeout(Duration::from_secs(20), fixture.serving)
        .await
        .expect("it does end")
        .unwrap();
}

#[tokio::test]
async fn connections_are_told_to_go_away_now_and_then() {
    let fixture = Fixture::with(|config| config.goaway_chance = 0.02).await;
    let admin = || Some(fixture.authority.sign("admin", |_| {}));
    let mut two = fixture.http2(admin()).await;
    let mut answered = 0;
    // Each request has one chance in fifty; that two thousand have none is one in 10^17.
    while answered < 2000 && two.ready().await.is_ok() {
        match two.send_request(get("/version")).await {
            Ok(answer) => assert_eq!(answer.status(), 200),
            // Sent when the connection had been given up already: a client sends it again.
            Err(error) => {
                assert!(
                    error.is_canceled() || error.is_closed() || error.source().is_some(),
                    "{error:?}"
                );
                break;
            }
        }
        answered += 1;
    }
    assert!(answered < 2000);
    // HTTP/1.1 knows no such thing.
    let mut one = fixture.http1(admin()).await;
    for _ in 0..300 {
        one.ready().await.unwrap();
        let answer = one.send_request(get("/version")).await.unwrap();
        answer.into_body().collect().await.unwrap();
    }
    for chance in [-0.1, 0.03, f64::NAN] {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(directory.path());
        config.goaway_chance = chance;
        let refused = Server::new(config, store(directory.path())).await.err().unwrap();
        assert!(refused.to_string().contains("goaway-chance"), "{refused}");
    }
}
