//! The one way of every request: request info, authentication, authorization, handler; errors become `Status`.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use api::status::{self, Status};
use futures::FutureExt;
use http::{HeaderValue, Request, StatusCode, header, request::Parts};

use crate::{
    authn::UserInfo,
    authz::{self, Attributes, Decision},
    body::RequestBody,
    context::{Api, Context, now},
    documents, handlers,
    negotiation::{self, Form, Output},
    request_info::{RequestInfo, query},
    respond::{HttpResponse, status_response, text},
    serve::ClientCertificate,
};

/// A request that is not a stream is answered within this time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Answers a request. A user that is given is taken as authenticated: the caller is in this process.
pub(crate) async fn handle(
    api: Arc<Api>,
    request: Request<RequestBody>,
    user: Option<UserInfo>,
) -> HttpResponse {
    let info = RequestInfo::new(request.method(), request.uri());
    let (verb, resource) = (info.verb.clone(), info.resource.clone());
    let gzip = verb != "watch" && negotiation::accepts_gzip(request.headers());
    let in_flight = api.metrics.begin();
    let answer = AssertUnwindSafe(route(api.clone(), request, info, user))
        .catch_unwind()
        .await;
    drop(in_flight);
    let mut response = answer.unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("unknown");
        tracing::error!(verb, resource, message, "request panicked");
        status_response(
            Output::default(),
            &status::internal_error("the server panicked while answering"),
        )
    });
    api.metrics.count(&verb, &resource, response.status().as_u16());
    if gzip && !response.headers().contains_key(header::CONTENT_ENCODING) {
        response = compressed(response);
    }
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()) {
        headers.insert("audit-id", id);
    }
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(
            header::CACHE_CONTROL,
            HeaderValue::from_static("no-cache, private"),
        );
    }
    if response.body().known_len().is_none() && !headers_say_upgrade(&response) {
        response.headers_mut().insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
    }
    response
}

fn compressed(response: HttpResponse) -> HttpResponse {
    let (mut parts, body) = response.into_parts();
    let body = body.gzip();
    if body.is_ok() {
        parts
            .headers
            .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        parts.headers.remove(header::CONTENT_LENGTH);
        parts
            .headers
            .append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    HttpResponse::from_parts(parts, body.unwrap_or_else(|body| body))
}

fn headers_say_upgrade(response: &HttpResponse) -> bool {
    response.status() == StatusCode::SWITCHING_PROTOCOLS
}

async fn route(
    api: Arc<Api>,
    request: Request<RequestBody>,
    info: RequestInfo,
    user: Option<UserInfo>,
) -> HttpResponse {
    let (parts, body) = request.into_parts();
    let fallback = negotiation::output(&parts.headers, &parts.uri, false)
        .map(|output| Output {
            form: Form::Object,
            ..output
        })
        .unwrap_or_default();
    let refuse = |status: Status| status_response(fallback, &status);

    let user = match user.map_or_else(|| authenticate(&api, &parts), Ok) {
        Ok(user) => user,
        Err(status) => return refuse(status),
    };
    let selector = info
        .is_resource
        .then(|| query(&parts.uri, "fieldSelector"))
        .flatten();
    let attributes = Attributes::of(&info, selector);
    if let Decision::Deny(reason) = authz::authorize(&user, &attributes, &api.cache) {
        // Without credentials, asking for them comes before saying no.
        return match user.is_anonymous() {
            true => refuse(status::unauthorized()),
            false => refuse(attributes.forbidden(&user, &reason)),
        };
    }
    if !info.is_resource {
        let served = matches!(info.verb.as_str(), "get" | "head");
        let document = if served {
            documents::serve(&api, &parts.uri, &parts.headers).await
        } else {
            None
        };
        return document.unwrap_or_else(not_found);
    }
    let Some(resource) = api
        .registry
        .find(&info.group, &info.version, &info.resource)
        .cloned()
    else {
        return not_found();
    };
    if !resource.namespaced && !info.namespace.is_empty() && info.resource != "namespaces" {
        return not_found();
    }
    let output = match negotiation::output(&parts.headers, &parts.uri, info.verb == "watch") {
        Ok(output) => output,
        // Streams have formats of their own.
        Err(_) if is_long_running(&info, &parts) => Output::default(),
        Err(status) => return refuse(status),
    };
    let limit = if is_long_running(&info, &parts) {
        None
    } else {
        Some(timeout(&parts))
    };
    let mut context = Context::new(api, info, user, resource, &parts, output);
    let request = Request::from_parts(parts, body);
    let handler = handlers::dispatch(&mut context, request);
    let answer = match limit {
        Some(limit) => tokio::time::timeout(limit, handler).await.unwrap_or_else(|_| {
            Err(status::timeout(
                "request did not complete within the requested timeout",
            ))
        }),
        None => handler.await,
    };
    let mut response = answer.unwrap_or_else(refuse);
    for warning in &context.warnings {
        let quoted = warning
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace(['\n', '\r'], " ");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

/// Who asks: the bearer token if there is one, else the client certificate, else nobody.
fn authenticate(api: &Api, parts: &Parts) -> Result<UserInfo, Status> {
    let authorization = parts
        .headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let certificate = parts.extensions.get::<ClientCertificate>();
    if let Some(ClientCertificate(user)) = certificate {
        return Ok(UserInfo::clone(user));
    }
    let Some(authorization) = authorization else {
        return Ok(UserInfo::anonymous());
    };
    let token = match authorization.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => {
            token.trim()
        }
        _ => return Err(status::unauthorized()),
    };
    let tokens = api.tokens.as_ref().ok_or_else(status::unauthorized)?;
    match tokens.verify(token, tokens.audiences(), &api.cache, now()) {
        Ok(verified) => Ok(verified.user),
        Err(why) => {
            tracing::debug!(why, "bearer token refused");
            Err(status::unauthorized())
        }
    }
}

fn is_long_running(info: &RequestInfo, parts: &Parts) -> bool {
    let streams = matches!(
        info.subresource.as_str(),
        "exec" | "attach" | "portforward" | "proxy"
    );
    let follows = info.subresource == "log" && query(&parts.uri, "follow").is_some();
    info.verb == "watch" || streams || follows
}

fn timeout(parts: &Parts) -> Duration {
    let asked = query(&parts.uri, "timeout").and_then(|text| {
        let seconds = text.strip_suffix('s').unwrap_or(&text);
        seconds.parse::<f64>().ok().filter(|seconds| *seconds > 0.0)
    });
    asked.map_or(REQUEST_TIMEOUT, |seconds| {
        Duration::from_secs_f64(seconds.min(60.0))
    })
}

fn not_found() -> HttpResponse {
    text(StatusCode::NOT_FOUND, "404 page not found\n".to_owned())
}
