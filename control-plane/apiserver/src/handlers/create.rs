//! Creation.

use api::{
    meta,
    status::{self, Status},
};
use http::StatusCode;
use serde_json::Value;

use super::{
    managed::{self, Parts, Tracking},
    write::{
        dedup_owners, encode_or_forget, random_suffix, read_object, settle_namespace, strip_server_fields,
        ttl,
    },
};
use crate::{
    admission::{Attributes, Operation, device_admin},
    body::RequestBody,
    context::{Context, cache_error, now, store_error},
    respond::{HttpResponse, written_response},
    watch_cache::set_resource_version,
};

/// How often another name is tried when a generated one is taken.
const GENERATE_ATTEMPTS: usize = 8;

/// Creates the object in the body.
pub(super) async fn create(context: &mut Context, body: RequestBody) -> Result<HttpResponse, Status> {
    let dry_run = context.dry_run()?;
    let object = read_object(context, body).await?;
    let object = create_object(context, object, dry_run, Tracking::Update("")).await?;
    Ok(written_response(context, StatusCode::CREATED, object))
}

/// Creates an object: defaults, admission, validation, store.
pub(super) async fn create_object(
    context: &mut Context,
    mut object: Value,
    dry_run: bool,
    tracking: Tracking,
) -> Result<Value, Status> {
    settle_namespace(context, &mut object)?;
    let resource = context.resource.clone();
    if !meta::resource_version(&object).is_empty() {
        return Err(status::unknown_error(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    let generated = meta::name(&object).is_empty() && !meta::generate_name_base(&object).is_empty();
    if generated {
        rename(&mut object);
    }
    context.info.name = meta::name(&object).to_owned();

    context.warnings.extend(dedup_owners(&mut object, ""));
    let given = managed::take(&mut object);
    let metadata = meta::metadata_mut(&mut object);
    strip_server_fields(metadata);
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        metadata.remove(field);
    }
    metadata.insert("uid".to_owned(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".to_owned(), meta::format_time(now()).into());

    let stamped = meta::format_time(now());
    resource.strategy.default(&mut object);
    resource.strategy.stamp("", &mut object, None, &stamped);
    let managed = match tracking {
        Tracking::Applied => given,
        Tracking::Update(_) => Parts::new(context, "")?.of_new(&object, given.as_ref()),
    };
    let attributes = Attributes::new(context, Operation::Create);
    context.api.admit(&attributes, &mut object, None).await?;
    resource.strategy.default(&mut object);
    let mut warnings = resource.strategy.warnings_of_given(&object);
    resource.strategy.prepare_for_create(&mut object);
    resource.strategy.stamp("", &mut object, None, &stamped);
    managed::put(&mut object, managed);
    let mut errors = device_admin::problems(&context.api, &attributes, &object, None).await?;
    errors.extend(resource.strategy.validate(&object));
    if !errors.is_empty() {
        return Err(status::invalid(
            &resource.group,
            &resource.kind,
            meta::name(&object),
            errors,
        ));
    }
    let api = context.api.clone();
    let key = resource.key(context.namespace(), meta::name(&object))?;
    if !generated && is_taken(context, &key).await? {
        // Said before anything is reserved: an address that the object itself holds is not what is wrong.
        return Err(status::already_exists(
            &resource.group,
            &resource.plural,
            meta::name(&object),
        ));
    }
    // Addresses are held in the object's name: under another generated name they are taken anew.
    let unreserved = (generated && resource.plural == "services").then(|| object.clone());
    let mut reservation = api.reserve(&resource, &mut object, None, dry_run).await?;
    warnings.extend(resource.strategy.warnings(&object, None));
    context.warnings.append(&mut warnings);

    for attempt in 1.. {
        let key = resource.key(context.namespace(), meta::name(&object))?;
        if dry_run {
            return match is_taken(context, &key).await? {
                true => Err(status::already_exists(
                    &resource.group,
                    &resource.plural,
                    meta::name(&object),
                )),
                false => Ok(object),
            };
        }
        let bytes = encode_or_forget(context, &mut object)?;
        match context.api.cache.store.create(&key, bytes, ttl(&resource)).await {
            Ok(revision) => {
                set_resource_version(&mut object, revision);
                break;
            }
            Err(store::Error::AlreadyExists { .. }) if generated && attempt < GENERATE_ATTEMPTS => {
                if let Some(unreserved) = &unreserved {
                    object = unreserved.clone();
                }
                rename(&mut object);
                if unreserved.is_some() {
                    reservation = api.reserve(&resource, &mut object, None, dry_run).await?;
                }
            }
            Err(store::Error::AlreadyExists { .. }) => {
                let name = meta::name(&object);
                return Err(match generated {
                    true => status::generate_name_conflict(&resource.group, &resource.plural, name),
                    false => status::already_exists(&resource.group, &resource.plural, name),
                });
            }
            Err(error) => return Err(store_error(&error)),
        }
    }
    if let Some(reservation) = reservation {
        reservation.keep().await;
    }
    Ok(object)
}

/// Whether there is an object. The cache may yet show one whose deletion was answered already, so what it shows is looked at
/// again when it has caught up.
async fn is_taken(context: &Context, key: &str) -> Result<bool, Status> {
    let cached = context.cached()?;
    if cached.get(key).is_none() {
        return Ok(false);
    }
    context.api.cache.fresh().await.map_err(cache_error)?;
    Ok(cached.get(key).is_some())
}

fn rename(object: &mut Value) {
    let name = meta::generate_name(meta::generate_name_base(object), &random_suffix());
    meta::metadata_mut(object).insert("name".to_owned(), name.into());
}
