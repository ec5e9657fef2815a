//! Workers against real sockets on loopback and a scripted runtime.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures::future::BoxFuture;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};

use super::*;
use crate::runtime::{ExecOutcome, RuntimeError};

/// Answers exec probes from a list of exit codes; the last one is repeated.
struct Script {
    exit_codes: Mutex<VecDeque<i32>>,
    calls: AtomicUsize,
}

impl ExecSync for Script {
    fn exec_sync<'a>(
        &'a self,
        _container_id: &'a str,
        _command: &'a [String],
        _timeout: Duration,
    ) -> BoxFuture<'a, Result<ExecOutcome, RuntimeError>> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let mut exit_codes = self.exit_codes.lock().expect("no panic elsewhere");
        let exit_code = if exit_codes.len() > 1 {
            exit_codes.pop_front()
        } else {
            exit_codes.front().copied()
        };
        Box::pin(async move {
            Ok(ExecOutcome {
                exit_code: exit_code.unwrap_or(0),
                output: b"said so".to_vec(),
            })
        })
    }
}

struct Fixture {
    manager: ProbeManager,
    script: Arc<Script>,
    wakes: mpsc::UnboundedReceiver<String>,
    events: mpsc::UnboundedReceiver<String>,
}

fn fixture(exit_codes: &[i32]) -> Fixture {
    let script = Arc::new(Script {
        exit_codes: Mutex::new(exit_codes.iter().copied().collect()),
        calls: AtomicUsize::new(0),
    });
    let (wake_sender, wakes) = mpsc::unbounded_channel();
    let (event_sender, events) = mpsc::unbounded_channel();
    let manager = ProbeManager::new(
        script.clone(),
        Arc::new(move |uid: &str| {
            let _ = wake_sender.send(uid.to_owned());
        }),
        Arc::new(
            move |_: &Pod, container: &str, reason: &'static str, message: String| {
                let _ = event_sender.send(format!("{container} {reason} {message}"));
            },
        ),
    );
    Fixture {
        manager,
        script,
        wakes,
        events,
    }
}

fn pod(container: serde_json::Value) -> Arc<Pod> {
    let pod = json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u1"},
        "spec": {"containers": [container]},
    });
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

fn target(container_id: &str) -> ProbeTarget {
    ProbeTarget {
        name: "c".into(),
        container_id: container_id.into(),
        started_at: Timestamp::now(),
        was_ready: false,
        was_started: false,
    }
}

const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

async fn next(receiver: &mut mpsc::UnboundedReceiver<String>) -> String {
    tokio::time::timeout(Duration::from_secs(60), receiver.recv())
        .await
        .expect("something within a minute")
        .expect("the manager lives")
}

#[tokio::test]
async fn startup_holds_the_others_back() {
    let mut fixture = fixture(&[1, 0]);
    let probe = json!({"exec": {"command": ["true"]}, "periodSeconds": 1, "failureThreshold": 5});
    let pod =
        pod(json!({"name": "c", "startupProbe": probe, "readinessProbe": probe, "livenessProbe": probe}));
    fixture.manager.sync(&pod, None, &[target("id1")]);
    assert_eq!(fixture.manager.started("id1"), Some(false));
    assert_eq!(fixture.manager.ready("id1"), Some(false));
    assert_eq!(fixture.manager.alive("id1"), Some(true));
    assert_eq!(fixture.manager.failed("id1"), None);

    assert_eq!(
        next(&mut fixture.events).await,
        "c Unhealthy Startup probe failed: said so"
    );
    assert_eq!(fixture.manager.ready("id1"), Some(false));
    assert_eq!(
        fixture.script.calls.load(Ordering::SeqCst),
        1,
        "only the startup probe has asked"
    );
    assert_eq!(next(&mut fixture.wakes).await, "u1");
    assert_eq!(fixture.manager.started("id1"), Some(true));
    assert_eq!(next(&mut fixture.wakes).await, "u1");
    assert_eq!(fixture.manager.ready("id1"), Some(true));

    fixture.manager.remove("u1");
    assert_eq!(fixture.manager.ready("id1"), None);
}

#[tokio::test]
async fn a_failed_liveness_probe_holds_until_the_next_instance() {
    let mut fixture = fixture(&[1]);
    let probe = json!({"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 2});
    let pod = pod(json!({"name": "c", "livenessProbe": probe}));
    fixture.manager.sync(&pod, None, &[target("id1")]);
    assert_eq!(next(&mut fixture.wakes).await, "u1");
    assert_eq!(fixture.manager.failed("id1"), Some(ProbeKind::Liveness));
    assert_eq!(fixture.script.calls.load(Ordering::SeqCst), 2);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(
        fixture.script.calls.load(Ordering::SeqCst),
        2,
        "a container being killed is not asked"
    );
    // Repeating what is known starts nothing over.
    fixture.manager.sync(&pod, None, &[target("id1")]);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(fixture.script.calls.load(Ordering::SeqCst), 2);

    fixture.manager.sync(&pod, None, &[]);
    assert_eq!(fixture.manager.failed("id1"), None);
    fixture.manager.sync(&pod, None, &[target("id2")]);
    assert_eq!(fixture.manager.alive("id2"), Some(true));
    assert_eq!(next(&mut fixture.wakes).await, "u1");
    assert_eq!(fixture.manager.failed("id2"), Some(ProbeKind::Liveness));
}

#[tokio::test]
async fn a_failed_startup_probe_and_a_stopping_pod() {
    let mut fixture = fixture(&[1]);
    let probe = json!({"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1});
    let pod = pod(json!({"name": "c", "startupProbe": probe}));
    fixture.manager.sync(&pod, None, &[target("id1")]);
    assert_eq!(next(&mut fixture.wakes).await, "u1");
    assert_eq!(fixture.manager.failed("id1"), Some(ProbeKind::Startup));
    assert_eq!(fixture.manager.started("id1"), Some(false));

    let mut stopping = (*pod).clone();
    stopping.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
        Timestamp::now(),
    ));
    fixture.manager.sync(&Arc::new(stopping), None, &[target("id2")]);
    assert_eq!(next(&mut fixture.wakes).await, "u1");
    assert_eq!(
        fixture.manager.started("id2"),
        Some(true),
        "not restarted for looking dead"
    );
    assert_eq!(fixture.script.calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_restarted_kubelet_keeps_what_was_ready() {
    let fixture = fixture(&[1]);
    let probe = json!({"exec": {"command": ["x"]}, "periodSeconds": 1, "initialDelaySeconds": 1000});
    let pod = pod(json!({"name": "c", "startupProbe": probe, "readinessProbe": probe}));
    let known = ProbeTarget {
        was_ready: true,
        was_started: true,
        ..target("id1")
    };
    fixture.manager.sync(&pod, None, &[known]);
    assert_eq!(fixture.manager.ready("id1"), Some(true));
    assert_eq!(fixture.manager.started("id1"), Some(true));
}

/// Serves `responses` one per connection, then closes; returns the requests seen.
async fn serve(responses: Vec<String>) -> (u16, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    let (sender, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for response in responses {
            let (mut stream, _) = listener.accept().await.expect("accept");
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.expect("read");
            let _ = sender.send(String::from_utf8_lossy(&request[..length]).into_owned());
            stream.write_all(response.as_bytes()).await.expect("write");
        }
    });
    (port, requests)
}

async fn ask(probe: serde_json::Value) -> check::Answer {
    let pod = pod(json!({"name": "c", "readinessProbe": probe}));
    let container = &pod::containers(&pod)[0];
    let instance = Instance {
        pod: pod.clone(),
        pod_ip: Some(LOOPBACK),
        container_id: "id".into(),
        started_at: Timestamp::now(),
        stopping: false,
    };
    let script = Script {
        exit_codes: Mutex::default(),
        calls: AtomicUsize::new(0),
    };
    let probe = container.readiness_probe.as_ref().expect("a probe");
    check::check(&script, probe, container, &instance, Duration::from_secs(5)).await
}

#[tokio::test]
async fn http_get() {
    use check::Answer::{Failure, Success, Warning};
    let ok = || "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned();
    let (port, mut requests) = serve(vec![
        ok(),
        "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\noops".into(),
        "HTTP/1.1 302 Found\r\nLocation: /moved\r\nContent-Length: 0\r\n\r\n".into(),
        ok(),
        "HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/elsewhere\r\nContent-Length: 4\r\n\r\nbody".into(),
        String::new(),
    ])
    .await;
    let get = json!({"httpGet": {"port": port, "path": "/healthz?full=1", "httpHeaders": [{"name": "X-Probe", "value": "yes"}]}});
    assert_eq!(ask(get.clone()).await, Success);
    let request = requests.recv().await.expect("seen").to_lowercase();
    assert!(
        request.starts_with("get /healthz?full=1 http/1.1\r\n"),
        "{request}"
    );
    for line in [
        format!("host: 127.0.0.1:{port}"),
        "user-agent: kube-probe/1.37".into(),
        "x-probe: yes".into(),
    ] {
        assert!(request.contains(&line), "{line} in {request}");
    }
    assert_eq!(
        ask(get.clone()).await,
        Failure("HTTP probe failed with statuscode: 500".into())
    );
    assert_eq!(ask(get.clone()).await, Success, "after a redirect");
    assert_eq!(
        ask(get.clone()).await,
        Warning("Probe terminated redirects, Response body: body".into())
    );
    assert_eq!(
        ask(get).await,
        Failure(format!("Get \"http://127.0.0.1:{port}/healthz?full=1\": EOF"))
    );
}

/// A gRPC server that answers every call with these bytes as its one message, or with this status.
async fn grpc_server(answers: Vec<Result<Vec<u8>, u8>>) -> (u16, mpsc::UnboundedReceiver<String>) {
    use bytes::Bytes;
    use http::{HeaderMap, Request, Response};
    use http_body_util::{BodyExt, StreamBody};
    use hyper::body::{Frame, Incoming};
    use hyper_util::rt::{TokioExecutor, TokioIo};

    let listener = TcpListener::bind((LOOPBACK, 0)).await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    let (sender, calls) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for answer in answers {
            let (stream, _) = listener.accept().await.expect("accept");
            let sender = sender.clone();
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let (sender, answer) = (sender.clone(), answer.clone());
                async move {
                    let path = request.uri().path().to_owned();
                    let body = request.into_body().collect().await.expect("a body").to_bytes();
                    // Five bytes of framing, then the message.
                    let _ = sender.send(format!("{path} {:?}", &body[5..]));
                    let status = answer.as_ref().err().copied().unwrap_or(0);
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", u16::from(status).into());
                    let message = answer.unwrap_or_default();
                    let length = u32::try_from(message.len()).expect("small").to_be_bytes();
                    let framed = [&[0], length.as_slice(), &message].concat();
                    let frames = [
                        Ok::<_, Infallible>(Frame::data(Bytes::from(framed))),
                        Ok(Frame::trailers(trailers)),
                    ];
                    let mut response = Response::new(StreamBody::new(futures::stream::iter(frames)));
                    response
                        .headers_mut()
                        .insert("content-type", "application/grpc".parse().expect("a value"));
                    Ok::<_, Infallible>(response)
                }
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    (port, calls)
}

#[tokio::test]
async fn grpc_health() {
    use check::Answer::{Failure, Success};
    let (port, mut calls) = grpc_server(vec![Ok(vec![8, 1]), Ok(vec![8, 2]), Err(12), Err(5)]).await;
    let probe = json!({"grpc": {"port": port, "service": "db"}});
    assert_eq!(ask(probe.clone()).await, Success);
    assert_eq!(
        calls.recv().await.expect("seen"),
        "/grpc.health.v1.Health/Check [10, 2, 100, 98]"
    );
    assert_eq!(
        ask(probe.clone()).await,
        Failure("service unhealthy (responded with \"NOT_SERVING\")".into())
    );
    let unimplemented =
        "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): ";
    assert_eq!(ask(probe.clone()).await, Failure(unimplemented.into()));
    let not_found = "error: health rpc probe failed: rpc error: code = NotFound desc = ";
    assert_eq!(ask(probe).await, Failure(not_found.into()));
}

#[tokio::test]
async fn hooks_take_any_answer() {
    let (port, mut requests) = serve(vec!["HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".into()]).await;
    let action = |port: u16| HTTPGetAction {
        path: Some("/stop".into()),
        port: k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(port.into()),
        ..Default::default()
    };
    let send =
        async |action| http_get_once(&action, &Container::default(), LOOPBACK, Duration::from_secs(5)).await;
    assert_eq!(send(action(port)).await, Ok(()));
    let request = requests.recv().await.expect("seen").to_lowercase();
    assert!(
        request.starts_with("get /stop http/1.1\r\n") && request.contains("kube-lifecycle/1.37"),
        "{request}"
    );
    assert_eq!(send(action(0)).await, Err("invalid port number: 0".into()));
}

#[tokio::test]
async fn refused_connections() {
    // A port that was just given back is free.
    let port = TcpListener::bind((LOOPBACK, 0))
        .await
        .expect("bind")
        .local_addr()
        .expect("address")
        .port();
    let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
    assert_eq!(
        ask(json!({"tcpSocket": {"port": port}})).await,
        check::Answer::Failure(refused.clone())
    );
    assert_eq!(
        ask(json!({"httpGet": {"port": port, "scheme": "HTTPS"}})).await,
        check::Answer::Failure(format!("Get \"https://127.0.0.1:{port}/\": {refused}"))
    );
    let listener = TcpListener::bind((LOOPBACK, 0)).await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    assert_eq!(
        ask(json!({"tcpSocket": {"port": port}})).await,
        check::Answer::Success
    );
}
