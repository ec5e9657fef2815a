//! The server over real TLS and real sockets on loopback; the API server behind its authorizer is scripted.

use std::{
    fs,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair,
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("signed").pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// Certificate and key, PEM.
    fn issue(&self, name: &str, groups: &[&str]) -> (String, String) {
        let mut params = params(name, groups);
        params.subject_alt_names = vec![rcgen::SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into())];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        (certificate.pem(), key.serialize_pem())
    }
}

fn params(name: &str, groups: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    for group in groups {
        params.distinguished_name.push(DnType::OrganizationName, *group);
    }
    params
}

struct OnePod(Arc<Pod>);

impl Host for OnePod {
    fn pods(&self) -> Vec<Arc<Pod>> {
        vec![self.0.clone()]
    }

    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let metadata = &self.0.metadata;
        (metadata.namespace.as_deref() == Some(namespace) && metadata.name.as_deref() == Some(name))
            .then(|| self.0.clone())
    }

    fn container_exit(&self, _container_id: &str) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

/// A running server, and what its authorizer asked.
struct Fixture {
    address: SocketAddr,
    authority: Authority,
    _dir: tempfile::TempDir,
    reviews: Arc<AtomicUsize>,
    last_review: Arc<Mutex<serde_json::Value>>,
}

impl Fixture {
    /// The scripted API server allows whatever `alice` or a member of `admins` asks.
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let authority = Authority::new("ca");
        let (certificate, key) = authority.issue("system:node:n1", &["system:nodes"]);
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).expect("write");
            path
        };
        let config = ServerConfig {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls_cert_file: write("tls.crt", &certificate),
            tls_private_key_file: write("tls.key", &key),
            client_ca_file: Some(write("ca.crt", &authority.pem)),
            node_name: "n1".into(),
        };
        let reviews = Arc::new(AtomicUsize::new(0));
        let last_review = Arc::new(Mutex::new(serde_json::Value::Null));
        let (count, last) = (reviews.clone(), last_review.clone());
        let api = tower::service_fn(move |request: Request<kube::client::Body>| {
            let (count, last) = (count.clone(), last.clone());
            async move {
                count.fetch_add(1, Ordering::SeqCst);
                let body = request.into_body().collect_bytes().await.expect("a body");
                let mut review: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
                let spec = review["spec"].clone();
                let allowed = spec["user"] == "alice"
                    || spec["groups"]
                        .as_array()
                        .is_some_and(|groups| groups.contains(&json!("admins")));
                *last.lock().expect("no panic elsewhere") = spec;
                review["status"] = json!({"allowed": allowed});
                let answer = serde_json::to_vec(&review).expect("JSON");
                Ok::<_, io::Error>(Response::new(kube::client::Body::from(answer)))
            }
        });
        let client = kube::Client::new(api, "default");
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "u1"},
            "spec": {"containers": [{"name": "c"}]},
            "status": {"containerStatuses": [{
                "name": "c", "ready": false, "restartCount": 0, "image": "", "imageID": "",
                "state": {"waiting": {"reason": "ContainerCreating"}}
            }]}
        }))
        .expect("a pod");
        let runtime = Runtime::new("/nonexistent/containerd.sock");
        let server = Server::bind(&config, Arc::new(OnePod(Arc::new(pod))), runtime, client)
            .await
            .expect("bind");
        let address = server.local_addr().expect("bound");
        tokio::spawn(server.run());
        Self {
            address,
            authority,
            _dir: dir,
            reviews,
            last_review,
        }
    }

    async fn get(&self, identity: Option<(String, String)>, path: &str) -> (StatusCode, String) {
        self.send(identity, Request::get(path)).await.expect("an answer")
    }

    async fn send(
        &self,
        identity: Option<(String, String)>,
        request: http::request::Builder,
    ) -> Result<(StatusCode, String), Box<dyn std::error::Error>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.pem.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder.with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes())?],
                PrivateKeyDer::from_pem_slice(key.as_bytes())?,
            )?,
        };
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::from(self.address.ip());
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = request
            .header(header::HOST, "kubelet")
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

#[tokio::test]
async fn nobody_gets_in_without_a_word_from_the_api_server() {
    let fixture = Fixture::start().await;
    assert_eq!(
        fixture.get(None, "/pods").await,
        (StatusCode::UNAUTHORIZED, "Unauthorized".into())
    );
    assert_eq!(fixture.get(None, "/healthz").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(
        fixture.reviews.load(Ordering::SeqCst),
        0,
        "the nameless are not asked about"
    );

    let stranger = Authority::new("other").issue("alice", &[]);
    assert!(
        fixture.send(Some(stranger), Request::get("/pods")).await.is_err(),
        "a foreign CA"
    );

    let bob = fixture.authority.issue("bob", &["users"]);
    let forbidden = "Forbidden (user=bob, verb=get, resource=nodes, subresource(s)=[pods proxy])";
    assert_eq!(
        fixture.get(Some(bob.clone()), "/pods").await,
        (StatusCode::FORBIDDEN, forbidden.into())
    );
    assert_eq!(
        fixture.reviews.load(Ordering::SeqCst),
        2,
        "nodes/pods, then nodes/proxy"
    );
    assert_eq!(
        *fixture.last_review.lock().expect("no panic elsewhere"),
        json!({
            "user": "bob", "groups": ["users", "system:authenticated"],
            "resourceAttributes": {"verb": "get", "version": "v1", "resource": "nodes", "subresource": "proxy", "name": "n1"}
        })
    );
    assert_eq!(fixture.get(Some(bob), "/pods").await.0, StatusCode::FORBIDDEN);
    assert_eq!(fixture.reviews.load(Ordering::SeqCst), 2, "remembered");

    let admin = fixture.authority.issue("carol", &["users", "admins"]);
    assert_eq!(
        fixture.get(Some(admin), "/healthz").await,
        (StatusCode::OK, "ok".into())
    );
}

#[tokio::test]
async fn pods_and_the_words_for_what_is_not_there() {
    let fixture = Fixture::start().await;
    let alice = || Some(fixture.authority.issue("alice", &[]));
    let (status, body) = fixture.get(alice(), "/pods").await;
    assert_eq!(status, StatusCode::OK);
    let list: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(
        (&list["kind"], &list["apiVersion"]),
        (&json!("PodList"), &json!("v1"))
    );
    assert_eq!(list["items"][0]["metadata"]["name"], "web");

    let rows = [
        (
            "/containerLogs/ns/nope/c",
            StatusCode::NOT_FOUND,
            "pod \"nope\" does not exist",
        ),
        (
            "/containerLogs/ns/web/x",
            StatusCode::NOT_FOUND,
            "container \"x\" not found in pod \"web\"",
        ),
        (
            "/containerLogs/ns/web/c",
            StatusCode::BAD_REQUEST,
            "container \"c\" in pod \"web\" is waiting to start: ContainerCreating",
        ),
        (
            "/containerLogs/ns/web/c?previous=true",
            StatusCode::BAD_REQUEST,
            "previous terminated container \"c\" in pod \"web\" not found",
        ),
        ("/stats/summary", StatusCode::NOT_FOUND, "404 page not found"),
        (
            "/exec/ns/web/c",
            StatusCode::BAD_REQUEST,
            "you must specify at least 1 of stdin, stdout, stderr",
        ),
        (
            "/exec/ns/nope/c?output=1",
            StatusCode::NOT_FOUND,
            "pod does not exist",
        ),
    ];
    for (path, status, body) in rows {
        assert_eq!(
            fixture.get(alice(), path).await,
            (status, body.to_owned()),
            "{path}"
        );
    }
    let (status, body) = fixture.get(alice(), "/exec/ns/web/c?output=1&command=ls").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "containerd is down");
    assert!(body.starts_with("rpc error: code = "), "{body}");
}

#[tokio::test]
async fn unusable_files_are_named() {
    let dir = tempfile::tempdir().expect("tempdir");
    let config = |path: &Path| ServerConfig {
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        tls_cert_file: path.to_owned(),
        tls_private_key_file: path.to_owned(),
        client_ca_file: None,
        node_name: "n1".into(),
    };
    let empty = dir.path().join("empty");
    fs::write(&empty, "").expect("write");
    let error = tls::config(&config(&empty))
        .expect_err("no certificate")
        .to_string();
    assert_eq!(
        error,
        format!("tlsCertFile: {}: holds no certificate", empty.display())
    );
    let error = tls::config(&config(&dir.path().join("absent")))
        .expect_err("no file")
        .to_string();
    assert!(error.starts_with("tlsCertFile: "), "{error}");
}

/// Serves every connection by relaying to `url`, as exec does once it has the runtime's URL.
async fn relaying_server(url: String) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bind");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let url = url.clone();
            let answer = service_fn(move |request| {
                let url = url.clone();
                async move {
                    Ok::<_, std::convert::Infallible>(match relay::relay(request, &url).await {
                        Ok(response) => response,
                        Err((status, message)) => {
                            let mut response = Response::new(handler::full(message));
                            *response.status_mut() = status;
                            response
                        }
                    })
                }
            });
            tokio::spawn(
                http1::Builder::new()
                    .half_close(true)
                    .serve_connection(TokioIo::new(stream), answer)
                    .with_upgrades(),
            );
        }
    });
    address
}

/// A streaming server: reads one request head, answers `head`, then echoes until the peer's end and says goodbye.
async fn streaming_server(head: &'static str) -> (SocketAddr, tokio::sync::oneshot::Receiver<String>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bind");
    let address = listener.local_addr().expect("bound");
    let (sender, request) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accept");
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            seen.push(stream.read_u8().await.expect("a head"));
        }
        let _ = sender.send(String::from_utf8_lossy(&seen).to_lowercase());
        stream.write_all(head.as_bytes()).await.expect("write");
        if head.starts_with("HTTP/1.1 101") {
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await.expect("echo");
            // Stdin has ended; the output has not.
            write.write_all(b"goodbye").await.expect("write");
            write.shutdown().await.expect("end");
        }
    });
    (address, request)
}

const UPGRADE: &str = "POST /exec/ns/p/c?command=cat HTTP/1.1\r\nHost: kubelet\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
    X-Stream-Protocol-Version: v4.channel.k8s.io\r\nX-Stream-Protocol-Version: channel.k8s.io\r\nContent-Length: 0\r\n\r\n";

#[tokio::test]
async fn streams_are_joined_after_a_101_and_end_one_way_at_a_time() {
    let (backend, request) = streaming_server(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\nfirst words",
    )
    .await;
    let server = relaying_server(format!("http://{backend}/exec/TOKEN")).await;
    let mut client = TcpStream::connect(server).await.expect("connect");
    client.write_all(UPGRADE.as_bytes()).await.expect("write");
    let mut seen = Vec::new();
    while !seen.ends_with(b"first words") {
        seen.push(client.read_u8().await.expect("more"));
    }
    let head = String::from_utf8_lossy(&seen).to_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    for line in [
        "upgrade: spdy/3.1\r\n",
        "x-stream-protocol-version: v4.channel.k8s.io\r\n",
    ] {
        assert!(head.contains(line), "{line:?} in {head}");
    }
    let onward = request.await.expect("a request");
    assert!(onward.starts_with("post /exec/token http/1.1\r\n"), "{onward}");
    for line in [
        &format!("host: {backend}\r\n"),
        "upgrade: spdy/3.1\r\n",
        "x-stream-protocol-version: v4.channel.k8s.io\r\n",
        "x-stream-protocol-version: channel.k8s.io\r\n",
    ] {
        assert!(onward.contains(line), "{line:?} in {onward}");
    }

    // More than any buffer on the way, while the other side sends it back.
    let data: Vec<u8> = (0..4_000_000_u32).map(|number| (number % 251) as u8).collect();
    let (mut read, mut write) = client.into_split();
    let sent = data.clone();
    let writing = tokio::spawn(async move {
        write.write_all(&sent).await.expect("write");
        write.shutdown().await.expect("end of stdin");
        write
    });
    let mut echoed = Vec::new();
    read.read_to_end(&mut echoed).await.expect("to the end");
    drop(writing.await.expect("no panic"));
    assert!(echoed.starts_with(&data), "everything came back");
    assert_eq!(String::from_utf8_lossy(&echoed[data.len()..]), "goodbye");
}

#[tokio::test]
async fn other_answers_are_passed_on() {
    let (backend, _request) = streaming_server(
        "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nno such token",
    )
    .await;
    let server = relaying_server(format!("http://{backend}/exec/TOKEN")).await;
    let ask = |request: String| async move {
        let mut client = TcpStream::connect(server).await.expect("connect");
        client.write_all(request.as_bytes()).await.expect("write");
        client.shutdown().await.expect("end");
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("an answer");
        answer
    };
    let answer = ask(UPGRADE.to_owned()).await;
    assert!(
        answer.starts_with("HTTP/1.1 404 Not Found\r\n") && answer.ends_with("no such token"),
        "{answer}"
    );
    let answer = ask("GET /exec/ns/p/c HTTP/1.1\r\nHost: kubelet\r\n\r\n".to_owned()).await;
    assert!(
        answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("Upgrade request required"),
        "{answer}"
    );
    let server = relaying_server("http://127.0.0.1:1/exec/TOKEN".into()).await;
    let mut client = TcpStream::connect(server).await.expect("connect");
    client.write_all(UPGRADE.as_bytes()).await.expect("write");
    let mut head = [0; 12];
    client.read_exact(&mut head).await.expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 502");
}
