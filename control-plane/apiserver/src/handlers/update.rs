//! Replacement of an object or of a part of it, always compared on the revision it was read at.

use api::{
    apply::equal_but_times,
    meta,
    status::{self, Status},
    validation::ErrorList,
};
use http::StatusCode;
use serde_json::Value;

use super::{
    create::create_object,
    managed::{self, Parts, Tracking},
    write::{
        check_name, decode_current, dedup_owners, deleted, is_done, read_object, remove, settle_namespace,
        strip_server_fields, swap,
    },
};
use crate::{
    admission::{Attributes, Operation, device_admin},
    body::RequestBody,
    context::{Context, now},
    respond::{HttpResponse, written_response},
};

/// How often a change is tried again when others change the object too.
const CONFLICT_ATTEMPTS: usize = 30;

/// Replaces the object, or one of its parts, by the body.
pub(super) async fn update(context: &mut Context, body: RequestBody) -> Result<HttpResponse, Status> {
    let dry_run = context.dry_run()?;
    let mut object = read_object(context, body).await?;
    settle_namespace(context, &mut object)?;
    check_name(context, &object)?;
    let resource = context.resource.clone();
    let creates = resource.strategy.allow_create_on_update() && context.info.subresource.is_empty();
    let blind = meta::resource_version(&object).is_empty() && !resource.strategy.allow_unconditional_update();
    let missing = (creates || blind) && context.current().await.is_err_and(|status| status.code == 404);
    if creates && missing {
        let object = create_object(context, object, dry_run, Tracking::Update("")).await?;
        return Ok(written_response(context, StatusCode::CREATED, object));
    }
    if blind && !missing {
        let mut errors = ErrorList::new();
        errors.push(api::validation::FieldError::new(
            api::validation::ErrorKind::Invalid,
            "metadata.resourceVersion",
            "0x0",
            "must be specified for an update",
        ));
        return Err(status::invalid(
            &resource.group,
            &resource.kind,
            &context.info.name,
            errors,
        ));
    }
    let tracking = tracking(&context.info.subresource);
    let updated = change(context, dry_run, tracking, |_| Ok(object.clone())).await?;
    Ok(written_response(context, StatusCode::OK, updated))
}

/// What a write to a subresource other than `scale` is tracked as.
pub(super) fn tracking(subresource: &str) -> Tracking {
    let known = ["status", "finalize", "approval", "ephemeralcontainers", "resize"];
    Tracking::Update(known.into_iter().find(|name| *name == subresource).unwrap_or(""))
}

/// Changes an object: reads it, asks `make` for the new state, settles, admits, validates and writes it, and starts over
/// when somebody else was faster, unless the new state names the resourceVersion it is based on.
pub(super) async fn change(
    context: &mut Context,
    dry_run: bool,
    tracking: Tracking,
    make: impl Fn(&Value) -> Result<Value, Status>,
) -> Result<Value, Status> {
    let resource = context.resource.clone();
    let api = context.api.clone();
    let warnings = context.warnings.len();
    for _ in 0..CONFLICT_ATTEMPTS {
        let current = context.current().await?;
        let mut old = decode_current(context, &current)?;
        let mut new = make(&old)?;
        context.warnings.truncate(warnings);
        let when = match context.info.verb.as_str() {
            "patch" => " after mutating admission happens",
            _ => "",
        };
        context.warnings.extend(dedup_owners(&mut new, when));
        let (before, given) = (managed::take(&mut old), managed::take(&mut new));
        let based_on = meta::resource_version(&new).to_owned();
        let unconditional = based_on.is_empty() || based_on == "0";
        if !unconditional && based_on != current.revision.to_string() {
            return Err(modified(context));
        }
        let uid = meta::uid(&new);
        if !uid.is_empty() && uid != meta::uid(&old) {
            return Err(status::conflict(
                &resource.group,
                &resource.plural,
                &context.info.name,
                &format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                    meta::uid(&old)
                ),
            ));
        }
        settle(context, &mut new, &old);
        let parts = match tracking {
            Tracking::Update(subresource) => Some(Parts::new(context, subresource)?),
            Tracking::Applied => None,
        };
        let track =
            |parts: &Parts, new: &Value| parts.of_changed((&old, before.as_ref()), new, given.as_ref());
        let early = matches!(context.info.subresource.as_str(), "" | "status");
        let mut managed = parts
            .as_ref()
            .filter(|_| early)
            .and_then(|parts| track(parts, &new));
        let attributes = Attributes::new(context, Operation::Update);
        context.api.admit(&attributes, &mut new, Some(&old)).await?;
        resource.strategy.default(&mut new);
        let problems = device_admin::problems(&api, &attributes, &new, Some(&old)).await?;
        prepare(context, &mut new, &old, problems)?;
        match &parts {
            // These endpoints change a part of what they are sent, which is known only now.
            Some(parts) if !early => managed = track(parts, &new),
            Some(_) => {}
            None => managed = given,
        }
        let main = context.info.subresource.is_empty();
        let reservation = match main {
            true => api.reserve(&resource, &mut new, Some(&old), dry_run).await?,
            false => None,
        };
        if main {
            // What did not change was said before.
            let generation = meta::generation(&new);
            if generation == 0 || generation != meta::generation(&old) {
                context
                    .warnings
                    .extend(resource.strategy.warnings(&new, Some(&old)));
            }
        }
        if new == old && same_managers(managed.as_ref(), before.as_ref()) {
            managed::put(&mut old, before);
            return Ok(old);
        }
        managed::put(&mut new, managed);
        if dry_run {
            return Ok(new);
        }
        let written = if is_done(&new) {
            let removed = remove(context, &current).await?;
            if removed.is_some() {
                deleted(context, &new).await;
            }
            removed
        } else {
            swap(context, &current, &mut new).await?
        };
        if written.is_some() {
            if let Some(reservation) = reservation {
                reservation.keep().await;
            }
            return Ok(new);
        }
        // Patches say what shall change, not what they saw: they are applied again to what is there now.
        if !unconditional && context.info.verb != "patch" {
            return Err(modified(context));
        }
    }
    Err(modified(context))
}

/// A write that changes nothing does not become one by its time.
fn same_managers(new: Option<&Value>, old: Option<&Value>) -> bool {
    match (new, old) {
        (Some(new), Some(old)) => equal_but_times(new, old),
        (new, old) => new.is_none() == old.is_none(),
    }
}

fn modified(context: &Context) -> Status {
    status::modified(
        &context.resource.group,
        &context.resource.plural,
        &context.info.name,
    )
}

/// Gives the new state the system's metadata of the old one.
fn settle(context: &Context, new: &mut Value, old: &Value) {
    context.resource.strategy.default(new);
    let stamped = meta::format_time(now());
    let subresource = &context.info.subresource;
    context
        .resource
        .strategy
        .stamp(subresource, new, Some(old), &stamped);
    let system = [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ];
    let metadata = meta::metadata_mut(new);
    strip_server_fields(metadata);
    let old = &old["metadata"];
    for field in system {
        if metadata.get(field).is_none_or(Value::is_null)
            && let Some(value) = old.get(field)
        {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    for field in ["generation", "resourceVersion"] {
        match old.get(field) {
            Some(value) => drop(metadata.insert(field.to_owned(), value.clone())),
            None => drop(metadata.remove(field)),
        }
    }
}

/// Restricts the change to what the endpoint may change, and checks it; something may be wrong with it already.
fn prepare(context: &Context, new: &mut Value, old: &Value, mut errors: ErrorList) -> Result<(), Status> {
    let resource = &context.resource;
    let strategy = resource.strategy;
    errors.extend(match context.info.subresource.as_str() {
        "status" => {
            strategy.prepare_for_status_update(new, old);
            strategy.validate_status_update(new, old)
        }
        subresource @ ("finalize" | "approval" | "ephemeralcontainers" | "resize") => {
            strategy.prepare_for_subresource_update(subresource, new, old);
            strategy.validate_subresource_update(subresource, new, old)
        }
        _ => {
            strategy.prepare_for_update(new, old);
            strategy.validate_update(new, old)
        }
    });
    if errors.is_empty() {
        return Ok(());
    }
    Err(status::invalid(
        &resource.group,
        &resource.kind,
        meta::name(new),
        errors,
    ))
}
