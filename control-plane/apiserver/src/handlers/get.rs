//! One object by name.

use api::status::Status;

use crate::{
    context::{Context, cache_error, parse_revision},
    respond::{HttpResponse, object_response},
};

/// Reads an object: the newest state, or any state not older than the resourceVersion asked for.
pub(super) async fn get(context: &Context) -> Result<HttpResponse, Status> {
    let key = context.key()?;
    let cached = context.cached()?;
    match context.query("resourceVersion") {
        "" => drop(context.api.cache.fresh().await.map_err(cache_error)?),
        revision => context
            .api
            .cache
            .reach(parse_revision(revision)?)
            .await
            .map_err(cache_error)?,
    }
    let object = cached.get(&key).ok_or_else(|| context.not_found())?;
    object_response(context, &object)
}
