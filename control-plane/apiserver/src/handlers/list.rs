//! A collection: selectors, pages, and the rules of resourceVersion and its match.

use std::sync::Arc;

use api::{
    selector::{FieldSelector, LabelSelector},
    status::{self, Status},
    validation::{ErrorKind, ErrorList, FieldError},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use store::{ListOptions, Revision};

use crate::{
    context::{Context, cache_error, parse_revision, store_error},
    list_body::{list_response, measure},
    respond::{HttpResponse, is_stored_version},
    watch_cache::{Filter, Object, ResourceCache},
};

/// At which state a list reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReadAt {
    /// The newest.
    Newest,
    /// Whatever is at hand, not older than this.
    NotOlderThan(Revision),
    /// Exactly this.
    Exactly(Revision),
}

/// A page of a collection, as it was read.
struct Listing {
    objects: Vec<Arc<Object>>,
    revision: Revision,
    remaining: u64,
}

/// Where a list goes on: the token that clients hand back.
#[derive(Debug, Serialize, Deserialize)]
struct Continue {
    v: String,
    rv: i64,
    start: String,
}

const CONTINUE_VERSION: &str = "meta.k8s.io/v1";

const CONTINUE_EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You \
                                can start a new list without the continue parameter, or use the continue token in \
                                this response to retrieve the remainder of the results. Continuing with the provided \
                                token results in an inconsistent list - objects that were created, modified, or \
                                deleted between the time the first chunk was returned and now may show up in the list.";

/// A page of a collection, with the metadata of its list.
pub(super) struct Page {
    pub(super) objects: Vec<Arc<Object>>,
    pub(super) metadata: Map<String, Value>,
}

/// Lists.
pub(super) async fn list(context: &Context) -> Result<HttpResponse, Status> {
    let Page { objects, metadata } = page(context).await?;
    measure(context, &objects).await;
    list_response(context, metadata, objects)
}

/// Reads what the request's list options ask for.
pub(super) async fn page(context: &Context) -> Result<Page, Status> {
    let filter = filter(context)?;
    let cached = context.cached()?;
    let limit = limit(context)?;
    let (at, after) = read_at(context, limit)?;
    let listing = match read(context, &cached, &filter, limit, at, after.as_deref()).await {
        Err(mut status) if status.code == 410 && after.is_some() => {
            status.message = CONTINUE_EXPIRED.to_owned();
            let token = after.as_deref().map(|after| token(&cached.prefix, after, -1));
            status.metadata = json!({"continue": token});
            return Err(status);
        }
        other => other?,
    };

    let mut metadata = Map::new();
    metadata.insert("resourceVersion".to_owned(), listing.revision.to_string().into());
    if listing.remaining > 0
        && let Some(last) = listing.objects.last()
    {
        let rv = i64::try_from(listing.revision).unwrap_or(i64::MAX);
        metadata.insert("continue".to_owned(), token(&cached.prefix, &last.key, rv).into());
        if !filter.selects() {
            metadata.insert("remainingItemCount".to_owned(), listing.remaining.into());
        }
    }
    Ok(Page {
        objects: listing.objects,
        metadata,
    })
}

/// Reads the selectors and the namespace of a list, a watch or a deletion of a collection.
pub(super) fn filter(context: &Context) -> Result<Filter, Status> {
    let labels = LabelSelector::parse(context.query("labelSelector"))?;
    let mut fields = context.query("fieldSelector").to_owned();
    if context.info.verb == "watch" && context.info.named_in_path {
        // The old form, /api/v1/watch/namespaces/x/pods/y.
        fields = format!("metadata.name={},{fields}", context.info.name);
    }
    let fields = FieldSelector::parse(&fields)?;
    for requirement in fields.requirements() {
        let field = requirement.field.as_str();
        let common = field == "metadata.name" || field == "metadata.namespace";
        if !common && !context.resource.strategy.is_selectable(field) {
            return Err(unselectable(context, field));
        }
    }
    let version = (!is_stored_version(&context.resource)).then(|| context.resource.clone());
    let namespace = context.namespace().unwrap_or_default().to_owned();
    // Refuses namespaces that could not be part of a key.
    context.resource.list_prefix(context.namespace())?;
    Ok(Filter {
        namespace,
        labels,
        fields,
        version,
    })
}

/// Kinds with selectable fields of their own refuse others in other words than kinds without.
fn unselectable(context: &Context, field: &str) -> Status {
    let has_own = !context
        .resource
        .strategy
        .selectable_fields(&Value::Null)
        .is_empty();
    status::bad_request(if has_own {
        format!("field label not supported: {field}")
    } else {
        let field = status::quote(field);
        format!(r#"{field} is not a known field selector: only "metadata.name", "metadata.namespace""#)
    })
}

/// How many objects a page has; 0 is all. Whoever takes any state gets all of it, as from upstream's watch cache.
fn limit(context: &Context) -> Result<usize, Status> {
    if context.query("resourceVersion") == "0" && context.query("continue").is_empty() {
        return Ok(0);
    }
    match context.query("limit") {
        "" => Ok(0),
        text => text
            .parse::<i64>()
            .map(|limit| usize::try_from(limit).unwrap_or(0))
            .map_err(|_| {
                status::bad_request(format!(
                    "strconv.ParseInt: parsing {}: invalid syntax",
                    status::quote(text)
                ))
            }),
    }
}

/// Decides at which state to read, and after which key.
fn read_at(context: &Context, limit: usize) -> Result<(ReadAt, Option<String>), Status> {
    let revision = context.query("resourceVersion");
    let matching = context.query("resourceVersionMatch");
    let continued = context.query("continue");
    let initial_events = !context.query("sendInitialEvents").is_empty();
    let errors = option_errors(revision, matching, continued, initial_events);
    if !errors.is_empty() {
        return Err(status::invalid("meta.k8s.io", "ListOptions", "", errors));
    }
    if !continued.is_empty() {
        if !matches!(revision, "" | "0") {
            return Err(status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let (rv, after) = decode_token(continued, &context.resource.storage.prefix)?;
        return Ok((
            u64::try_from(rv).map_or(ReadAt::Newest, ReadAt::Exactly),
            Some(after),
        ));
    }
    if revision.is_empty() {
        return Ok((ReadAt::Newest, None));
    }
    let revision = parse_revision(revision)?;
    let exact = matching == "Exact" || limit > 0 && revision > 0 && matching.is_empty();
    Ok((
        if exact {
            ReadAt::Exactly(revision)
        } else {
            ReadAt::NotOlderThan(revision)
        },
        None,
    ))
}

/// What is wrong with the options of a list that is no watch.
fn option_errors(revision: &str, matching: &str, continued: &str, initial_events: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut push = |error, path: &str, value: &str, why: &str| {
        errors.push(FieldError::new(error, path, value, why));
    };
    if !matching.is_empty() {
        let path = "resourceVersionMatch";
        if revision.is_empty() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            push(ErrorKind::Forbidden, path, "", why);
        }
        if !continued.is_empty() {
            let why = "resourceVersionMatch is forbidden when continue is provided";
            push(ErrorKind::Forbidden, path, "", why);
        }
        if !matches!(matching, "Exact" | "NotOlderThan") {
            let supported = r#"supported values: "Exact", "NotOlderThan", """#;
            push(ErrorKind::NotSupported, path, &status::quote(matching), supported);
        }
        if matching == "Exact" && revision == "0" {
            let why = r#"resourceVersionMatch "exact" is forbidden for resourceVersion "0""#;
            push(ErrorKind::Forbidden, path, "", why);
        }
    }
    if initial_events {
        let why = "sendInitialEvents is forbidden for list";
        push(ErrorKind::Forbidden, "sendInitialEvents", "", why);
    }
    errors
}

async fn read(
    context: &Context,
    cached: &ResourceCache,
    filter: &Filter,
    limit: usize,
    at: ReadAt,
    after: Option<&str>,
) -> Result<Listing, Status> {
    let cache = &context.api.cache;
    let revision = match at {
        ReadAt::Newest => cache.fresh().await.map_err(cache_error)?,
        ReadAt::NotOlderThan(revision) | ReadAt::Exactly(revision) => {
            cache.reach(revision).await.map_err(cache_error)?;
            revision
        }
    };
    let page = cached.page(filter, after, limit);
    if matches!(at, ReadAt::Exactly(_)) && page.revision_from > revision {
        return past(context, cached, filter, limit, after, revision).await;
    }
    cached
        .counters()
        .listed_from_cache(page.fetched, page.objects.len());
    match at {
        ReadAt::Exactly(_) => Ok(Listing {
            objects: page.objects,
            revision,
            remaining: page.remaining,
        }),
        _ => {
            let revision = cache.progress().max(page.revision_from).max(revision);
            Ok(Listing {
                objects: page.objects,
                revision,
                remaining: page.remaining,
            })
        }
    }
}

/// Reads a page as a past revision saw it, from the store.
async fn past(
    context: &Context,
    cached: &ResourceCache,
    filter: &Filter,
    limit: usize,
    after: Option<&str>,
    revision: Revision,
) -> Result<Listing, Status> {
    let prefix = context.resource.list_prefix(context.namespace())?;
    let mut listing = Listing {
        objects: Vec::new(),
        revision,
        remaining: 0,
    };
    let mut after = after.map(str::to_owned);
    let mut fetched = 0;
    loop {
        let options = ListOptions {
            limit,
            after: after.take(),
            revision: Some(revision),
            ..ListOptions::default()
        };
        let page = context
            .api
            .cache
            .store
            .list(&prefix, options)
            .await
            .map_err(|error| store_error(&error))?;
        fetched += page.items.len();
        let mut left = page.items.len() as u64;
        for item in &page.items {
            if limit > 0 && listing.objects.len() == limit {
                break;
            }
            left -= 1;
            if let Some(object) = Object::from_store(&cached.resource, &cached.prefix, item)
                && filter.matches(&object)
            {
                listing.objects.push(Arc::new(object));
            }
        }
        listing.remaining = page.remaining + left;
        after = page.items.last().map(|item| item.key.to_string());
        let full = limit > 0 && listing.objects.len() == limit;
        if full || page.remaining == 0 || after.is_none() {
            cached
                .counters()
                .listed_from_store(fetched, listing.objects.len());
            return Ok(listing);
        }
    }
}

/// The token of a list that goes on after a key.
fn token(prefix: &str, after: &str, rv: i64) -> String {
    let start = after.strip_prefix(prefix).unwrap_or(after);
    let token = Continue {
        v: CONTINUE_VERSION.to_owned(),
        rv,
        start: format!("{start}\0"),
    };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
}

/// The revision and the last key of a token.
pub(crate) fn decode_token(text: &str, prefix: &str) -> Result<(i64, String), Status> {
    let invalid = |why: &str| status::bad_request(format!("continue key is not valid: {why}"));
    let bytes = URL_SAFE_NO_PAD
        .decode(text.trim_end_matches('='))
        .map_err(|error| invalid(&error.to_string()))?;
    let token: Continue = serde_json::from_slice(&bytes).map_err(|error| invalid(&error.to_string()))?;
    if token.v != CONTINUE_VERSION {
        return Err(invalid(&format!(
            "server does not recognize this encoded version {}",
            status::quote(&token.v)
        )));
    }
    if token.rv == 0 || token.start.is_empty() {
        return Err(invalid(
            "incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
        ));
    }
    let start = token.start.strip_suffix('\0').unwrap_or(&token.start);
    if start.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        return Err(invalid(&status::quote(&token.start)));
    }
    Ok((token.rv, format!("{prefix}{start}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_and_stay_below_their_prefix() {
        let token_text = token("/registry/pods/", "/registry/pods/a/b", 7);
        assert_eq!(
            decode_token(&token_text, "/registry/pods/").unwrap(),
            (7, "/registry/pods/a/b".to_owned())
        );
        let escape = token("/registry/pods/", "/registry/pods/../secrets/a", 7);
        assert_eq!(decode_token(&escape, "/registry/pods/").unwrap_err().code, 400);
        assert_eq!(decode_token("%%%", "/registry/pods/").unwrap_err().code, 400);
        assert_eq!(decode_token("e30", "/registry/pods/").unwrap_err().code, 400);
    }

    #[test]
    fn options_of_lists() {
        for (revision, matching, continued, initial_events, expect) in [
            ("", "", "", false, 0),
            ("5", "Exact", "", false, 0),
            ("0", "NotOlderThan", "", false, 0),
            ("0", "Exact", "", false, 1),
            ("", "Exact", "", false, 1),
            ("", "Exact", "token", false, 2),
            ("5", "exact", "", false, 1),
            ("", "", "", true, 1),
            ("", "Newer", "token", true, 4),
        ] {
            let errors = option_errors(revision, matching, continued, initial_events);
            assert_eq!(
                errors.len(),
                expect,
                "{revision} {matching} {continued} {initial_events}"
            );
        }
    }
}
