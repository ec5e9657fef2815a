//! The one way of every request: request info, authentication, authorization, handler; errors become `Status`.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use api::status::{self, Status};
use futures::FutureExt;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header, request::Parts};

use crate::{
    authn::UserInfo,
    authz::{self, Attributes, Decision},
    body::RequestBody,
    context::{Api, Context, now},
    documents, handlers, impersonation,
    limits::{Overloaded, too_many_requests},
    metrics::{Labels, LongRunning, Outcome},
    negotiation::{self, Form, Output},
    request_info::{RequestInfo, go_duration, query, truthy},
    respond::{HttpResponse, status_response, text},
    serve::ClientCertificate,
};

/// A request that changes something is answered within this time, as upstream's handlers have it.
const MUTATION_TIMEOUT: Duration = Duration::from_secs(34);
/// A longer `Audit-ID` of a client is not taken over, as upstream.
const AUDIT_ID_BYTES_MAX: usize = 64;

/// Answers a request. A user that is given is taken as authenticated: the caller is in this process.
pub(crate) async fn handle(
    api: Arc<Api>,
    request: Request<RequestBody>,
    user: Option<UserInfo>,
) -> HttpResponse {
    let start = Instant::now();
    let info = RequestInfo::new(request.method(), request.uri());
    let gzip = info.verb != "watch" && negotiation::accepts_gzip(request.headers());
    let audit_id = audit_id(request.headers());
    let known = api
        .registry
        .find(&info.group, &info.version, &info.resource)
        .is_some_and(|resource| {
            info.subresource.is_empty() || resource.subresource(&info.subresource).is_some()
        });
    let applies = negotiation::content_type(request.headers()) == "application/apply-patch+yaml";
    let dry_run = query(request.uri(), "dryRun").is_some_and(|value| !value.is_empty());
    let series = api.metrics.series(&Labels::new(&info, known, applies, dry_run));
    let streams = is_long_running(&info, request.uri());
    let in_flight = (!streams).then(|| api.metrics.begin(is_mutating(&info)));
    let stream = streams.then(|| Arc::new(LongRunning::new(series.clone())));
    let (verb, resource) = (info.verb.clone(), info.resource.clone());
    let answer = AssertUnwindSafe(route(api.clone(), request, info, user, stream))
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
    let took = (!streams).then(|| start.elapsed());
    let length = took.and_then(|_| response.body().known_len());
    series.answered(response.status().as_u16(), took, length);
    if gzip && !response.headers().contains_key(header::CONTENT_ENCODING) {
        response = compressed(response);
    }
    let headers = response.headers_mut();
    if let Some(id) = audit_id {
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

/// What logs on both sides know the request by: the client's own id, or a new one.
fn audit_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let given = headers.get("audit-id");
    let given = given.filter(|id| !id.is_empty() && id.len() <= AUDIT_ID_BYTES_MAX);
    given
        .cloned()
        .or_else(|| HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).ok())
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
    stream: Option<Arc<LongRunning>>,
) -> HttpResponse {
    let (parts, body) = request.into_parts();
    let fallback = negotiation::output(&parts.headers, &parts.uri, false)
        .map(|output| Output {
            form: Form::Object,
            ..output
        })
        .unwrap_or_default();
    let refuse = |status: Status| status_response(fallback, &status);

    let user = match user.map_or_else(|| authenticated(&api, &parts), Ok) {
        Ok(user) => user,
        Err(status) => return refuse(status),
    };
    let user = match impersonation::acting_user(&parts.headers, user, &api.cache) {
        Ok(user) => user,
        Err(status) => return refuse(status),
    };
    let limit = match (&stream, timeout(&parts.uri, longest(&api, &info))) {
        (Some(_), _) => None,
        (None, Ok(limit)) => Some(limit),
        (None, Err(status)) => return refuse(status),
    };
    let limits = api.clone();
    let _turn = match &stream {
        Some(_) => None,
        None => match limits.limits.turn(&user, is_mutating(&info)).await {
            Ok(turn) => Some(turn),
            Err(Overloaded) => return too_many_requests(),
        },
    };
    let selector = info
        .is_resource
        .then(|| query(&parts.uri, "fieldSelector"))
        .flatten();
    let attributes = Attributes::of(&info, selector);
    if let Decision::Deny(reason) = authz::authorize(&user, &attributes, &api.cache) {
        return refuse(attributes.forbidden(&user, &reason));
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
    // Over all namespaces there are lists and watches; an object is always in one.
    if resource.namespaced && info.namespace.is_empty() && info.named_in_path {
        return not_found();
    }
    let output = match negotiation::output(&parts.headers, &parts.uri, info.verb == "watch") {
        Ok(output) => output,
        // Streams have formats of their own.
        Err(_) if stream.is_some() && info.verb != "watch" => Output::default(),
        Err(status) => return refuse(status),
    };
    if let Err(status) = negotiation::check_metadata_form(output, &info.verb, &resource) {
        return refuse(status);
    }
    let mut context = Context::new(api, info, user, resource, &parts, output);
    context.long_running = stream;
    context.warnings.extend(deprecation(&context));
    let (warnings, answer) = answered(context, Request::from_parts(parts, body), limit).await;
    let mut response = answer.unwrap_or_else(refuse);
    for warning in &warnings {
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

/// What those are told who use an API that they had better leave; it is counted too.
fn deprecation(context: &Context) -> Option<String> {
    let warning = context.resource.deprecation_warning()?;
    let subresource = match &*context.info.subresource {
        "" => "",
        name => &context.resource.subresource(name)?.name,
    };
    context.api.metrics.deprecated(&context.resource, subresource);
    Some(warning)
}

/// Has the handler answer within the limit; returns its warnings too.
///
/// A change runs on a task of its own, which nobody's leaving ends: what it has begun (an address reserved, an object
/// written) it also finishes, when the client hangs up or gets a 504 meanwhile.
async fn answered(
    mut context: Context,
    request: Request<RequestBody>,
    limit: Option<Duration>,
) -> (Vec<String>, Result<HttpResponse, Status>) {
    let Some(limit) = limit else {
        let answer = handlers::dispatch(&mut context, request).await;
        return (context.warnings, answer);
    };
    let mutates = is_mutating(&context.info);
    let handler = async move {
        let answer = handlers::dispatch(&mut context, request).await;
        (context.warnings, answer)
    };
    let too_late = || {
        let message = "request did not complete within requested timeout - context deadline exceeded";
        (Vec::new(), Err(status::timeout(message)))
    };
    if !mutates {
        return tokio::time::timeout(limit, handler)
            .await
            .unwrap_or_else(|_| too_late());
    }
    match tokio::time::timeout(limit, tokio::spawn(handler)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only the end of the runtime cancels it.
            Err(error) => (Vec::new(), Err(status::internal_error(error.to_string()))),
        },
        Err(_) => too_late(),
    }
}

/// Who asks, and that somebody has.
fn authenticated(api: &Api, parts: &Parts) -> Result<UserInfo, Status> {
    let start = Instant::now();
    let answer = authenticate(api, parts);
    let outcome = match &answer {
        Ok(user) => Outcome::Success(&user.name),
        Err(_) => Outcome::Error,
    };
    api.metrics.authentication.attempted(outcome, start.elapsed());
    answer
}

/// Who asks: the client certificate if there is a good one, else the bearer token, else nobody.
fn authenticate(api: &Api, parts: &Parts) -> Result<UserInfo, Status> {
    let certificate = parts.extensions.get::<ClientCertificate>();
    let certificate = certificate.map(|ClientCertificate(presented)| presented.user(now()));
    if let Some(Some(user)) = certificate {
        return Ok(user.clone());
    }
    let Some(token) = bearer_token(&parts.headers) else {
        // Whoever shows a certificate that proves nothing is not taken for one who shows none.
        return match certificate {
            Some(_) => Err(status::unauthorized()),
            None => Ok(UserInfo::anonymous()),
        };
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

/// The bearer token; other schemes say nothing to us, as upstream.
fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn is_mutating(info: &RequestInfo) -> bool {
    !matches!(info.verb.as_str(), "get" | "list" | "watch" | "head" | "options")
}

fn is_long_running(info: &RequestInfo, uri: &Uri) -> bool {
    let streams = matches!(
        info.subresource.as_str(),
        "exec" | "attach" | "portforward" | "proxy"
    );
    let follows = info.subresource == "log" && query(uri, "follow").is_some_and(|value| truthy(&value));
    info.verb == "watch" || info.is_resource && (streams || follows)
}

/// How long the answer may take, whatever the client says.
fn longest(api: &Api, info: &RequestInfo) -> Duration {
    let max = api.config.request_timeout;
    if is_mutating(info) {
        max.min(MUTATION_TIMEOUT)
    } else {
        max
    }
}

/// How long the client is willing to wait, within our own limit.
fn timeout(uri: &Uri, max: Duration) -> Result<Duration, Status> {
    let asked = query(uri, "timeout").filter(|text| !text.is_empty());
    let Some(text) = asked else {
        return Ok(max);
    };
    let Some(duration) = go_duration(&text) else {
        return Err(status::bad_request(format!(
            "invalid timeout specified in the request URL - time: invalid duration {}",
            status::quote(&text)
        )));
    };
    Ok(match duration {
        Duration::ZERO => max,
        duration => duration.min(max),
    })
}

fn not_found() -> HttpResponse {
    text(StatusCode::NOT_FOUND, "404 page not found\n".to_owned())
}
