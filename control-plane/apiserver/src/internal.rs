//! Requests that the server makes of itself: through the whole pipeline, as any client's, so that what it writes is
//! defaulted, validated and watched like everything else.

use std::sync::Arc;

use api::status::{self, Status};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, header};
use http_body_util::BodyExt;
use serde_json::Value;

use crate::{
    authn::{SYSTEM_MASTERS, UserInfo},
    body::request_body,
    context::Api,
    pipeline,
};

/// The user of these requests.
const USER: &str = "system:apiserver";

/// Sends a request; anything but success is the `Status` that came instead.
///
/// (Boxed: handlers call this, and it calls handlers.)
pub(crate) fn request<'a>(
    api: &'a Arc<Api>,
    method: Method,
    path: &'a str,
    body: Option<&'a Value>,
) -> BoxFuture<'a, Result<Value, Status>> {
    let content_type = match method {
        Method::PATCH => "application/merge-patch+json",
        _ => "application/json",
    };
    let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
    Box::pin(async move {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, content_type)
            .header(header::USER_AGENT, "kube-apiserver")
            .body(request_body(http_body_util::Full::new(body)))
            .map_err(|error| status::internal_error(error.to_string()))?;
        let user = UserInfo::new(USER, &[SYSTEM_MASTERS]);
        let response = pipeline::handle(api.clone(), request, Some(user)).await;
        let code = response.status();
        let body = response.into_body().collect().await;
        let body = body
            .map_err(|error| status::internal_error(error.to_string()))?
            .to_bytes();
        if !code.is_success() {
            let text = || String::from_utf8_lossy(&body).into_owned();
            return Err(
                serde_json::from_slice(&body).unwrap_or_else(|_| Status::failure(code.as_u16(), "", text()))
            );
        }
        serde_json::from_slice(&body).map_err(|error| status::internal_error(error.to_string()))
    })
}
