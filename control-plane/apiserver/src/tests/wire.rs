//! One request as a client writes it, and the answer as it comes.

use http::{HeaderMap, Method, Request, header};
use http_body_util::BodyExt;
use serde_json::Value;

use super::Fixture;
use crate::UserInfo;

/// What is sent.
pub(super) struct Call<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) headers: Vec<(header::HeaderName, &'a str)>,
    pub(super) body: Vec<u8>,
}

impl<'a> Call<'a> {
    pub(super) fn new(method: &'a str, path: &'a str) -> Self {
        Call {
            method,
            path,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// With a header, unless its value is empty.
    pub(super) fn header(mut self, name: header::HeaderName, value: &'a str) -> Self {
        if !value.is_empty() {
            self.headers.push((name, value));
        }
        self
    }
}

/// What came back.
pub(super) struct Answer {
    pub(super) code: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The body as JSON, or as text if it is none.
    pub(super) fn value(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| String::from_utf8_lossy(&self.body).into_owned().into())
    }
}

impl Fixture {
    /// Sends a request as `system:masters`.
    pub(super) async fn send(&self, call: Call<'_>) -> Answer {
        let mut request = Request::builder()
            .method(Method::from_bytes(call.method.as_bytes()).unwrap())
            .uri(call.path);
        for (name, value) in call.headers {
            request = request.header(name, value);
        }
        let request = request.body(kube::client::Body::from(call.body)).unwrap();
        let client = self.server.client(UserInfo::new("admin", &["system:masters"]));
        let response = client.send(request).await.unwrap();
        Answer {
            code: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.into_body().collect().await.unwrap().to_bytes().to_vec(),
        }
    }
}
