//! One handler per verb, written once over the registry entry; no handler per kind.

mod apply;
mod binding;
mod create;
mod delete;
mod eviction;
mod get;
mod list;
mod managed;
mod patch;
mod review;
mod scale;
mod token;
mod update;
mod watch;
mod write;

use api::{
    registry::Verb,
    status::{self, Status},
};
use http::Request;

pub(crate) use self::delete::decode_options as delete_options;
pub(crate) use self::list::decode_token;
pub(crate) use self::write::random_suffix;
use crate::{body::RequestBody, context::Context, respond::HttpResponse, streaming};

/// Serves a request on a resource.
pub(crate) async fn dispatch(
    context: &mut Context,
    request: Request<RequestBody>,
) -> Result<HttpResponse, Status> {
    if !context.info.subresource.is_empty() {
        return subresource(context, request).await;
    }
    let verb = match context.info.verb.as_str() {
        "get" => Verb::Get,
        "list" => Verb::List,
        "watch" => Verb::Watch,
        "create" if !context.info.named_in_path => Verb::Create,
        "update" => Verb::Update,
        "patch" => Verb::Patch,
        "delete" => Verb::Delete,
        "deletecollection" => Verb::DeleteCollection,
        _ => return Err(status::method_not_allowed()),
    };
    let needs_name = matches!(verb, Verb::Get | Verb::Update | Verb::Patch | Verb::Delete);
    if !context.resource.verbs.contains(verb) || needs_name && !context.info.named_in_path {
        return Err(status::method_not_allowed());
    }
    let over_all = context.resource.namespaced && context.info.namespace.is_empty();
    if over_all && matches!(verb, Verb::Create | Verb::DeleteCollection) {
        return Err(status::method_not_allowed());
    }
    let body = request.into_body();
    match verb {
        Verb::Get => get::get(context).await,
        Verb::List => list::list(context).await,
        Verb::Watch => watch::watch(context).await,
        Verb::Create if review::is_review(&context.resource) => review::create(context, body).await,
        Verb::Create if context.resource.plural == "bindings" => binding::create(context, body).await,
        Verb::Create => create::create(context, body).await,
        Verb::Update => update::update(context, body).await,
        Verb::Patch => patch::patch(context, body).await,
        Verb::Delete => delete::delete(context, body).await,
        Verb::DeleteCollection => delete::delete_collection(context, body).await,
    }
}

async fn subresource(context: &mut Context, request: Request<RequestBody>) -> Result<HttpResponse, Status> {
    let name = context.info.subresource.clone();
    if context.resource.subresource(&name).is_none() {
        return Err(status::resource_not_found());
    }
    let verb = context.info.verb.clone();
    match (name.as_str(), verb.as_str()) {
        ("status" | "ephemeralcontainers" | "approval" | "resize", "get") => get::get(context).await,
        ("status" | "finalize" | "approval" | "ephemeralcontainers" | "resize", "update") => {
            update::update(context, request.into_body()).await
        }
        ("status" | "approval" | "ephemeralcontainers" | "resize", "patch") => {
            patch::patch(context, request.into_body()).await
        }
        ("scale", "get") => scale::get(context).await,
        ("scale", "update") => scale::update(context, request.into_body()).await,
        ("scale", "patch") => scale::patch(context, request.into_body()).await,
        ("binding", "create") => binding::create(context, request.into_body()).await,
        ("eviction", "create") => eviction::create(context, request.into_body()).await,
        ("token", "create") => token::create(context, request.into_body()).await,
        ("log", "get") => streaming::log(context).await,
        ("exec" | "attach" | "portforward", "get" | "create") => streaming::connect(context, request).await,
        ("proxy", _) => streaming::proxy(context, request).await,
        _ => Err(status::method_not_allowed()),
    }
}
