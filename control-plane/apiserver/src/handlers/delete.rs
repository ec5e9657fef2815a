//! Deletion of one object or of a collection: preconditions, grace, finalizers, propagation.

use api::{
    meta,
    schema::TypeRef,
    status::{self, Status, StatusDetails},
    strategy::Deletion,
    validation::ErrorKind,
};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::Value;

use super::{
    list::{Page, page},
    write::{decode_current, deleted, is_done, remove, swap},
};
use crate::{
    admission::{Attributes, Operation},
    body::RequestBody,
    context::{Context, dry_run, invalid_option, now, read_body},
    list_body::list_response,
    negotiation, protobuf,
    respond::{HttpResponse, status_response, written_response},
    watch_cache::set_resource_version,
};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// How often a deletion is tried again when the object changes meanwhile.
const CONFLICT_ATTEMPTS: usize = 30;

/// `DeleteOptions`, from the body or the query.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DeleteOptions {
    kind: Option<String>,
    grace_period_seconds: Option<i64>,
    preconditions: Option<Preconditions>,
    orphan_dependents: Option<bool>,
    propagation_policy: Option<String>,
    dry_run: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

/// What became of a deletion.
pub(super) struct Outcome {
    object: Value,
    /// Whether the object is gone.
    gone: bool,
}

/// Deletes the object that the path names.
pub(super) async fn delete(context: &mut Context, body: RequestBody) -> Result<HttpResponse, Status> {
    let options = options(context, body).await?;
    warn_of_orphans(context, &options);
    let outcome = delete_object(context, &options).await?;
    // Upstream says so only to those who ask in the old way, for fear of breaking others.
    let code = if !outcome.gone && options.orphan_dependents == Some(false) {
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    };
    if !outcome.gone || returns_object(&context.resource.plural) {
        return Ok(written_response(context, code, outcome.object));
    }
    let details = StatusDetails {
        name: context.info.name.clone(),
        group: context.resource.group.to_string(),
        kind: context.resource.plural.to_string(),
        uid: meta::uid(&outcome.object).to_owned(),
        ..StatusDetails::default()
    };
    Ok(status_response(context.output, &Status::success(Some(details))))
}

/// Jobs leave their pods behind unless the request says what to do with them, which surprises people.
fn warn_of_orphans(context: &mut Context, options: &DeleteOptions) {
    let said = options.propagation_policy.is_some() || options.orphan_dependents.is_some();
    if !said && context.resource.group == "batch" && context.resource.plural == "jobs" {
        let what = "child pods are preserved by default when jobs are deleted";
        let instead = "set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning";
        context.warnings.push(format!("{what}; {instead}"));
    }
}

/// Deletes the objects of a list, one after the other: all that match, or a page of them when the options have a limit.
/// Answers with that list, its objects as they were before.
pub(super) async fn delete_collection(
    context: &mut Context,
    body: RequestBody,
) -> Result<HttpResponse, Status> {
    let options = options(context, body).await?;
    warn_of_orphans(context, &options);
    let Page { objects, metadata } = page(context).await?;
    for object in &objects {
        context.info.name = object.name().to_owned();
        context.info.namespace = object.namespace().to_owned();
        match delete_object(context, &options).await {
            Err(status) if status.code != 404 => return Err(status),
            _ => {}
        }
    }
    list_response(context, metadata, objects)
}

/// Reads the options; what the body does not say may be in the query.
pub(super) async fn options(context: &Context, body: RequestBody) -> Result<DeleteOptions, Status> {
    let bytes = read_body(body).await?;
    let mut options = DeleteOptions::default();
    if bytes.is_empty() {
        if let Some(seconds) = Some(context.query("gracePeriodSeconds")).filter(|text| !text.is_empty()) {
            let parsed = seconds.parse().map_err(|_| {
                status::bad_request(format!(
                    "strconv.ParseInt: parsing {}: invalid syntax",
                    status::quote(seconds)
                ))
            })?;
            options.grace_period_seconds = Some(parsed);
        }
        let text = |key| {
            Some(context.query(key))
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };
        options.propagation_policy = text("propagationPolicy");
        options.orphan_dependents = text("orphanDependents").map(|_| context.flag("orphanDependents"));
        options.dry_run = text("dryRun").map(|value| vec![value]);
    } else {
        let content_type = negotiation::content_type(&context.headers);
        if content_type != protobuf::CONTENT_TYPE {
            negotiation::media(&context.headers)?;
        }
        options = decode_options(content_type, &bytes).map_err(|error| {
            status::bad_request(format!("unable to decode the body as DeleteOptions: {error}"))
        })?;
        if options.dry_run.as_ref().is_none_or(Vec::is_empty) && !context.query("dryRun").is_empty() {
            options.dry_run = Some(vec![context.query("dryRun").to_owned()]);
        }
    }
    options.check()?;
    Ok(options)
}

/// Reads options from a body; JSON, where the content type says nothing else.
pub(crate) fn decode_options(content_type: &str, bytes: &[u8]) -> Result<DeleteOptions, String> {
    match content_type {
        "application/yaml" => std::str::from_utf8(bytes)
            .map_err(|error| error.to_string())
            .and_then(|text| serde_saphyr::from_str(text).map_err(|error| error.to_string())),
        protobuf::CONTENT_TYPE => from_protobuf(bytes),
        _ => serde_json::from_slice(bytes).map_err(|error| error.to_string()),
    }
}

fn from_protobuf(bytes: &[u8]) -> Result<DeleteOptions, String> {
    let schema = TypeRef::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions");
    let schema = schema.ok_or("DeleteOptions are not known")?;
    let options = protobuf::open(bytes).and_then(|envelope| envelope.object(schema));
    serde_json::from_value(options.map_err(|error| error.to_string())?).map_err(|error| error.to_string())
}

impl DeleteOptions {
    pub(super) fn check(&self) -> Result<(), Status> {
        let invalid = |error, value: &str, why: &str| {
            Err(invalid_option(
                ("meta.k8s.io", "DeleteOptions"),
                error,
                "propagationPolicy",
                value,
                why,
            ))
        };
        if self.orphan_dependents.is_some() && self.propagation_policy.is_some() {
            let policy = status::quote(self.propagation_policy.as_deref().unwrap_or_default());
            let why = "orphanDependents and deletionPropagation cannot be both set";
            return invalid(ErrorKind::Invalid, &policy, why);
        }
        if let Some(policy) = &self.propagation_policy
            && !matches!(policy.as_str(), "Foreground" | "Background" | "Orphan")
        {
            let supported = r#"supported values: "Foreground", "Background", "Orphan", "nil""#;
            return invalid(ErrorKind::NotSupported, &status::quote(policy), supported);
        }
        if let Some(kind) = self.kind.as_deref().filter(|kind| *kind != "DeleteOptions") {
            return Err(status::bad_request(format!(
                "the body of a deletion is DeleteOptions, not {}",
                status::quote(kind)
            )));
        }
        self.dry_run()?;
        Ok(())
    }

    pub(super) fn dry_run(&self) -> Result<bool, Status> {
        self.dry_run
            .iter()
            .flatten()
            .try_fold(false, |_, value| dry_run(value))
    }

    /// For requests that can say so elsewhere too.
    pub(super) fn set_dry_run(&mut self, dry_run: bool) {
        self.dry_run = dry_run.then(|| vec!["All".to_owned()]);
    }

    /// Which of the garbage collector's finalizers the object shall have, if any.
    fn collector_finalizer(&self, object: &Value, orphans_by_default: bool) -> Option<&'static str> {
        match (self.orphan_dependents, self.propagation_policy.as_deref()) {
            (Some(true), _) | (_, Some("Orphan")) => Some(ORPHAN),
            (_, Some("Foreground")) => Some(FOREGROUND),
            (Some(false), _) | (_, Some(_)) => None,
            // Nothing said: what an earlier deletion asked for stays.
            (None, None) => [ORPHAN, FOREGROUND]
                .into_iter()
                .find(|own| meta::finalizers(object).any(|finalizer| finalizer == *own))
                .or(orphans_by_default.then_some(ORPHAN)),
        }
    }
}

/// Deletes the object the context names, or marks it when something has to happen first.
pub(super) async fn delete_object(context: &mut Context, options: &DeleteOptions) -> Result<Outcome, Status> {
    let resource = context.resource.clone();
    let dry_run = options.dry_run()?;
    for _ in 0..CONFLICT_ATTEMPTS {
        let current = context.current().await?;
        let old = decode_current(context, &current)?;
        check_preconditions(context, options, &old)?;
        let attributes = Attributes::new(context, Operation::Delete);
        context
            .api
            .admit(&attributes, &mut old.clone(), Some(&old))
            .await?;

        let mut new = old.clone();
        set_collector_finalizer(
            &mut new,
            options.collector_finalizer(&old, resource.strategy.orphans_by_default()),
        );
        let grace = resource.strategy.deletion(&old, options.grace_period_seconds);
        mark(&mut new, grace, now());
        if context.resource.plural == "namespaces" && context.resource.group.is_empty() {
            new["status"]["phase"] = "Terminating".into();
        }
        let gone = is_done(&new);
        if dry_run {
            return Ok(Outcome { object: new, gone });
        }
        if gone {
            if let Some(revision) = remove(context, &current).await? {
                let mut object = old;
                deleted(context, &object).await;
                set_resource_version(&mut object, revision);
                return Ok(Outcome { object, gone: true });
            }
        } else if new == old {
            return Ok(Outcome {
                object: old,
                gone: false,
            });
        } else if swap(context, &current, &mut new).await?.is_some() {
            return Ok(Outcome {
                object: new,
                gone: false,
            });
        }
    }
    Err(status::modified(
        &resource.group,
        &resource.plural,
        &context.info.name,
    ))
}

/// Sets the deletion's time and grace. A later deletion may only shorten the grace of an earlier one.
fn mark(object: &mut Value, deletion: Deletion, now: Timestamp) {
    let requested = match deletion {
        Deletion::Graceful(seconds) => seconds.max(0),
        Deletion::Now => 0,
    };
    let before = meta::deletion_grace_period_seconds(object);
    let marked = !meta::deletion_timestamp(object).is_empty();
    let metadata = meta::metadata_mut(object);
    let seconds = match before {
        _ if !marked => {
            if let Some(generation) = metadata.get("generation").and_then(Value::as_i64) {
                metadata.insert("generation".to_owned(), (generation + 1).into());
            }
            requested
        }
        Some(before) if requested < before => requested,
        _ => return,
    };
    let at = match (marked, metadata.get("deletionTimestamp").and_then(Value::as_str)) {
        (true, Some(timestamp)) => timestamp.parse::<Timestamp>().ok().and_then(|at| {
            at.checked_sub(SignedDuration::from_secs(before.unwrap_or(0)))
                .ok()
        }),
        _ => Some(now),
    };
    let at = at
        .and_then(|at| at.checked_add(SignedDuration::from_secs(seconds)).ok())
        .unwrap_or(now);
    metadata.insert("deletionTimestamp".to_owned(), meta::format_time(at).into());
    metadata.insert("deletionGracePeriodSeconds".to_owned(), seconds.into());
}

fn set_collector_finalizer(object: &mut Value, wanted: Option<&str>) {
    let before: Vec<String> = meta::finalizers(object).map(str::to_owned).collect();
    let mut finalizers: Vec<String> = before
        .iter()
        .filter(|own| !matches!(own.as_str(), ORPHAN | FOREGROUND))
        .cloned()
        .collect();
    match wanted {
        Some(wanted) if before.iter().any(|own| own == wanted) => return,
        Some(wanted) => finalizers.push(wanted.to_owned()),
        None => {}
    }
    let metadata = meta::metadata_mut(object);
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), finalizers.into());
    }
}

fn check_preconditions(context: &Context, options: &DeleteOptions, object: &Value) -> Result<(), Status> {
    let Some(preconditions) = &options.preconditions else {
        return Ok(());
    };
    let fields = [
        ("UID", &preconditions.uid, meta::uid(object)),
        (
            "ResourceVersion",
            &preconditions.resource_version,
            meta::resource_version(object),
        ),
    ];
    for (field, wanted, actual) in fields {
        if let Some(wanted) = wanted
            && wanted != actual
        {
            let why = format!(
                "the {field} in the precondition ({wanted}) does not match the {field} in record ({actual}). The object \
                 might have been deleted and then recreated"
            );
            return Err(status::conflict(
                &context.resource.group,
                &context.resource.plural,
                &context.info.name,
                &why,
            ));
        }
    }
    Ok(())
}

/// The resources whose deletion answers with the object that is gone.
fn returns_object(plural: &str) -> bool {
    matches!(
        plural,
        "pods"
            | "podtemplates"
            | "persistentvolumes"
            | "persistentvolumeclaims"
            | "resourcequotas"
            | "serviceaccounts"
            | "services"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    #[test]
    fn grace_is_only_shortened() {
        let mut pod = json!({"metadata": {"name": "a", "generation": 1}});
        mark(&mut pod, Deletion::Graceful(30), at(0));
        assert_eq!(meta::deletion_timestamp(&pod), meta::format_time(at(30)));
        assert_eq!(meta::generation(&pod), 2);
        let marked = pod.clone();
        mark(&mut pod, Deletion::Graceful(60), at(5));
        assert_eq!(pod, marked);
        mark(&mut pod, Deletion::Graceful(10), at(5));
        assert_eq!(meta::deletion_timestamp(&pod), meta::format_time(at(10)));
        assert!(!is_done(&pod));
        mark(&mut pod, Deletion::Now, at(6));
        assert!(is_done(&pod));
    }

    #[test]
    fn finalizers_keep_an_object() {
        let mut object = json!({"metadata": {"name": "a", "finalizers": ["x/y"]}});
        mark(&mut object, Deletion::Now, at(0));
        assert!(!is_done(&object));
        object["metadata"]["finalizers"] = json!([]);
        assert!(is_done(&object));
        let mut namespace =
            json!({"kind": "Namespace", "metadata": {}, "spec": {"finalizers": ["kubernetes"]}});
        mark(&mut namespace, Deletion::Now, at(0));
        assert!(!is_done(&namespace));
    }

    #[test]
    fn propagation_becomes_a_finalizer() {
        let options = |policy: &str| DeleteOptions {
            propagation_policy: Some(policy.to_owned()),
            ..DeleteOptions::default()
        };
        let object = json!({"metadata": {"finalizers": [ORPHAN, "x/y"]}});
        for (policy, expect) in [
            ("Orphan", Some(ORPHAN)),
            ("Foreground", Some(FOREGROUND)),
            ("Background", None),
        ] {
            assert_eq!(options(policy).collector_finalizer(&object, false), expect);
        }
        assert_eq!(
            DeleteOptions::default().collector_finalizer(&object, false),
            Some(ORPHAN)
        );
        let mut changed = object.clone();
        set_collector_finalizer(&mut changed, Some(FOREGROUND));
        assert_eq!(changed["metadata"]["finalizers"], json!(["x/y", FOREGROUND]));
    }
}
