//! The whole request path in process: the real store in a directory of its own, the real pipeline, a client without a socket.

mod access;
mod addresses;
mod apply;
mod certificates;
mod deletion;
mod devices;
mod differential;
mod documents;
mod encodings;
mod etcd;
mod every_kind;
mod expiry;
mod http_rules;
mod lists;
mod metrics;
mod objects;
mod recorded;
mod services;
mod sockets;
mod templates;
mod watches;
mod wire;

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use store::{Embedded, EmbeddedOptions, Store};

use crate::{Config, Server, UserInfo};

/// A server, with the directory that holds its store.
pub(super) struct Fixture {
    pub(super) server: Server,
    pub(super) store: Arc<Embedded>,
    directory: tempfile::TempDir,
}

impl Fixture {
    pub(super) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Embedded::open(EmbeddedOptions::new(directory.path())).unwrap());
        let server = Server::new(config(directory.path()), store.clone())
            .await
            .unwrap();
        Fixture {
            server,
            store,
            directory,
        }
    }

    /// Ends the server and starts another one on what it left.
    pub(super) async fn restart(self) -> Self {
        let Fixture {
            server,
            store,
            directory,
        } = self;
        drop((server, store));
        // The old store is closed when the last task of the old server has seen that; only then the file is free.
        let mut opened = None;
        for _ in 0..200 {
            match Embedded::open(EmbeddedOptions::new(directory.path())) {
                Ok(store) => {
                    opened = Some(Arc::new(store));
                    break;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        let store = opened.expect("the store was not released");
        let server = Server::new(config(directory.path()), store.clone())
            .await
            .unwrap();
        Fixture {
            server,
            store,
            directory,
        }
    }

    /// Sends any request as `system:masters`; returns the code, the headers and the body.
    pub(super) async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> (u16, HeaderMap, Bytes) {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(kube::client::Body::from(body.into())).unwrap();
        let client = self.server.client(UserInfo::new("admin", &["system:masters"]));
        let (parts, body) = client.send(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), parts.headers, bytes)
    }

    /// The store's newest revision.
    pub(super) async fn revision(&self) -> u64 {
        self.store.current_revision().await.unwrap()
    }

    /// Sends a request as `system:masters`; returns the status code and the JSON answer.
    pub(super) async fn call(
        &self,
        method: &str,
        path: &str,
        body: impl Into<Option<Value>>,
    ) -> (u16, Value) {
        self.call_as(UserInfo::new("admin", &["system:masters"]), method, path, body)
            .await
    }

    pub(super) async fn call_as(
        &self,
        user: UserInfo,
        method: &str,
        path: &str,
        body: impl Into<Option<Value>>,
    ) -> (u16, Value) {
        let content_type = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        self.call_with(user, method, path, content_type, body).await
    }

    pub(super) async fn call_with(
        &self,
        user: UserInfo,
        method: &str,
        path: &str,
        content_type: &str,
        body: impl Into<Option<Value>>,
    ) -> (u16, Value) {
        let body = body
            .into()
            .map(|body| body.to_string().into_bytes())
            .unwrap_or_default();
        let request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(path)
            .header(header::CONTENT_TYPE, content_type)
            .body(kube::client::Body::from(body))
            .unwrap();
        let response = self.server.client(user).send(request).await.unwrap();
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// Sends a request that must succeed.
    pub(super) async fn ok(&self, method: &str, path: &str, body: impl Into<Option<Value>>) -> Value {
        let (code, answer) = self.call(method, path, body).await;
        assert!((200..300).contains(&code), "{method} {path}: {code} {answer:#}");
        answer
    }

    /// Starts a watch.
    pub(super) async fn watch(&self, path: &str) -> Events {
        let request = Request::get(path).body(kube::client::Body::empty()).unwrap();
        let client = self.server.client(UserInfo::new("admin", &["system:masters"]));
        let response = client.send(request).await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        Events {
            body: response.into_body(),
            buffer: Vec::new(),
        }
    }
}

/// The events of a watch.
pub(super) struct Events {
    body: kube::client::Body,
    buffer: Vec<u8>,
}

impl Events {
    /// The next event as its type and its object; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let mut event: Value = serde_json::from_slice(&line).unwrap();
                return Some((event["type"].as_str().unwrap().to_owned(), event["object"].take()));
            }
            let frame = tokio::time::timeout(Duration::from_secs(20), self.body.frame());
            let frame = frame.await.expect("no event came")?.unwrap();
            self.buffer.extend_from_slice(&frame.into_data().unwrap());
        }
    }

    /// The next so many events as `TYPE name`.
    pub(super) async fn names(&mut self, count: usize) -> Vec<String> {
        let mut names = Vec::new();
        for _ in 0..count {
            let (kind, object) = self.next().await.unwrap();
            names.push(format!(
                "{kind} {}",
                object["metadata"]["name"].as_str().unwrap_or_default()
            ));
        }
        names
    }
}

pub(super) fn config_map(name: &str, value: &str) -> Value {
    json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}, "data": {"key": value}})
}

pub(super) fn pod(name: &str) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    })
}

pub(super) fn config(directory: &Path) -> Config {
    let key = directory.join("service-account.key");
    if !key.exists() {
        use base64::{Engine, engine::general_purpose::STANDARD};
        use ring::{rand::SystemRandom, signature};
        let document = signature::EcdsaKeyPair::generate_pkcs8(
            &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            &SystemRandom::new(),
        )
        .unwrap();
        let body = STANDARD.encode(document.as_ref());
        std::fs::write(
            &key,
            format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n"),
        )
        .unwrap();
    }
    Config {
        service_account_signing_key_file: Some(key),
        service_cluster_ip_range: vec!["10.96.0.0/16".to_owned(), "fd00:10:96::/112".to_owned()],
        advertise_address: Some("172.31.0.1".parse().unwrap()),
        ..Config::default()
    }
}
