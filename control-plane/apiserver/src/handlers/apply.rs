//! Server-side apply: a configuration merged into what is there, or made into a new object.

use api::{
    apply::{Applied, ApplyError, apply as merge_configuration, conflict_status},
    decode::{Expected, FieldValidation, decode_value, yaml_to_value_and_complaint},
    meta,
    status::{self, Status},
    validation::ErrorKind,
};
use http::StatusCode;
use serde_json::Value;

use super::{
    create::create_object,
    managed::{self, Parts, Tracking},
    update::change,
    write::settle_namespace,
};
use crate::{
    authz::{self, Attributes, Decision},
    body::RequestBody,
    context::{Context, invalid_option, read_body},
    respond::{HttpResponse, written_response},
};

/// What makes a patch an apply.
pub(super) const CONTENT_TYPE: &str = "application/apply-patch+yaml";

/// A configuration that has been read.
pub(super) struct Configuration {
    pub(super) object: Value,
    /// Take fields from other managers.
    pub(super) force: bool,
}

impl Configuration {
    /// Reads a request's configuration, which must be of a kind.
    pub(super) fn read(context: &mut Context, bytes: &[u8], expected: Expected<'_>) -> Result<Self, Status> {
        if context.query("fieldManager").is_empty() {
            return Err(invalid_option(
                ("meta.k8s.io", "PatchOptions"),
                ErrorKind::Required,
                "fieldManager",
                "",
                "is required for apply patch",
            ));
        }
        let (object, complaint) = yaml_to_value_and_complaint(bytes)
            .map_err(|error| status::bad_request(format!("error decoding YAML: {}", error.message)))?;
        match (complaint, context.field_validation()?) {
            (None, _) | (_, FieldValidation::Ignore) => {}
            (Some(complaint), FieldValidation::Warn) => context.warnings.push(complaint),
            (Some(complaint), FieldValidation::Strict) => {
                let message = format!("error strict decoding YAML: {complaint}");
                return Err(status::bad_request(message));
            }
        }
        let (version, kind) = (text(&object, "apiVersion"), text(&object, "kind"));
        let wanted = api::registry::api_version(expected.group, expected.version);
        if version != wanted || kind != expected.kind {
            return Err(status::bad_request(format!(
                "invalid object type: {}, Kind={kind}",
                if version.contains('/') || version.is_empty() {
                    version.clone()
                } else {
                    format!("/{version}")
                },
            )));
        }
        if !object["metadata"]["managedFields"].is_null() {
            return Err(status::bad_request("metadata.managedFields must be nil"));
        }
        let name = meta::name(&object);
        if !name.is_empty() && name != context.info.name {
            return Err(status::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                context.info.name
            )));
        }
        Ok(Configuration {
            object,
            force: context.flag("force"),
        })
    }
}

fn text(object: &Value, field: &str) -> String {
    object[field].as_str().unwrap_or_default().to_owned()
}

/// Applies the body to the object that the path names.
pub(super) async fn apply(context: &mut Context, body: RequestBody) -> Result<HttpResponse, Status> {
    let dry_run = context.dry_run()?;
    let bytes = read_body(body).await?;
    let resource = context.resource.clone();
    let mut config = Configuration::read(context, &bytes, resource.expected())?;
    settle_namespace(context, &mut config.object)?;
    let subresource = context.info.subresource.clone();
    if subresource.is_empty() && context.current().await.is_err_and(|status| status.code == 404) {
        match create(context, &config, dry_run).await {
            // Somebody else made it meanwhile.
            Err(status) if status.reason == "AlreadyExists" => {}
            created => return Ok(written_response(context, StatusCode::CREATED, created?)),
        }
    }
    let updated = change_by(context, &config, &subresource, dry_run).await?;
    Ok(written_response(context, StatusCode::OK, updated))
}

/// Changes the object that the path names by a configuration.
pub(super) async fn change_by(
    context: &mut Context,
    config: &Configuration,
    subresource: &str,
    dry_run: bool,
) -> Result<Value, Status> {
    let applier = Applier::new(context, config, subresource)?;
    change(context, dry_run, Tracking::Applied, |old| {
        applier.apply(Some(old))
    })
    .await
}

async fn create(context: &mut Context, config: &Configuration, dry_run: bool) -> Result<Value, Status> {
    let mut info = context.info.clone();
    info.verb = "create".to_owned();
    let attributes = Attributes::of(&info, None);
    if let Decision::Deny(reason) = authz::authorize(&context.user, &attributes, &context.api.cache) {
        return Err(attributes.forbidden(&context.user, &reason));
    }
    let uid = meta::uid(&config.object);
    if !uid.is_empty() {
        let why = format!(
            "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
        );
        let resource = &context.resource;
        return Err(status::conflict(
            &resource.group,
            &resource.plural,
            &context.info.name,
            &why,
        ));
    }
    let mut object = Applier::new(context, config, "")?.apply(None)?;
    let name = context.info.name.clone();
    meta::metadata_mut(&mut object).insert("name".to_owned(), name.into());
    create_object(context, object, dry_run, Tracking::Applied).await
}

/// What applying needs of the request, apart from the object it is applied to.
struct Applier<'a> {
    parts: Parts,
    config: &'a Configuration,
    /// `default/web; apps/v1, Kind=Deployment`.
    described: String,
}

impl<'a> Applier<'a> {
    fn new(context: &Context, config: &'a Configuration, subresource: &str) -> Result<Self, Status> {
        let resource = &context.resource;
        let described = format!(
            "{}/{}; {}, Kind={}",
            context.namespace().unwrap_or_default(),
            context.info.name,
            resource.api_version(),
            resource.kind
        );
        Ok(Applier {
            parts: Parts::new(context, subresource)?,
            config,
            described,
        })
    }

    /// The object with the configuration applied, `managedFields` included.
    fn apply(&self, live: Option<&Value>) -> Result<Value, Status> {
        let live = live.map(|live| {
            let mut live = live.clone();
            let managed = managed::take(&mut live);
            (live, managed)
        });
        let resource = &self.parts.resource;
        let settle = |merged| {
            let decoded = decode_value(merged, resource.expected(), FieldValidation::Ignore)?;
            Ok(decoded.value)
        };
        let applied = self.parts.with_write(|write| {
            let live = live.as_ref().map(|(live, managed)| (live, managed.as_ref()));
            merge_configuration(write, live, &self.config.object, self.config.force, settle)
        });
        let Applied {
            mut object,
            managed_fields,
        } = applied.map_err(|error| self.refused(error))?;
        managed::put(&mut object, managed_fields);
        Ok(object)
    }

    fn refused(&self, error: ApplyError) -> Status {
        match error {
            ApplyError::Conflicts(conflicts) => conflict_status(&conflicts),
            ApplyError::Malformed(status) => status,
            ApplyError::Config(_) => status::unknown_error(format!(
                "failed to create typed patch object ({}): {error}",
                self.described
            )),
            ApplyError::Managers(_) => status::unknown_error(error.to_string()),
        }
    }
}
