//! `serviceaccounts/token`: tokens that are bound to a pod, a Secret or a Node, and die with it.

use api::{
    decode::Expected,
    meta,
    schema::TypeRef,
    status::{self, Status},
    validation::{ErrorKind, ErrorList, FieldError},
};
use http::StatusCode;
use jiff::SignedDuration;
use serde_json::Value;

use super::write::read_expected;
use crate::{
    authn::service_account::{Bound, TokenSpec},
    authz::node_name,
    body::RequestBody,
    context::{Context, now},
    respond::{HttpResponse, typed_response},
};

const DEFAULT_SECONDS: i64 = 3600;
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;

/// Issues a token for the service account that the path names.
pub(super) async fn create(context: &mut Context, body: RequestBody) -> Result<HttpResponse, Status> {
    let dry_run = context.dry_run()?;
    let schema = TypeRef::by_name("io.k8s.api.authentication.v1.TokenRequest")
        .ok_or_else(|| status::internal_error("TokenRequest is not known"))?;
    let expected = Expected {
        group: "authentication.k8s.io",
        version: "v1",
        kind: "TokenRequest",
        schema,
    };
    let mut request = read_expected(context, body, expected).await?;
    let account = context.current().await?.value();
    let api = context.api.clone();
    let tokens = api
        .tokens
        .as_ref()
        .ok_or_else(|| status::internal_error("no --service-account-signing-key-file was given"))?;

    let seconds = request["spec"]["expirationSeconds"]
        .as_i64()
        .unwrap_or(DEFAULT_SECONDS);
    validate(seconds)?;
    let bound = bound_objects(context, &request["spec"]["boundObjectRef"]).await?;
    let mut audiences: Vec<String> = request["spec"]["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    if audiences.is_empty() {
        audiences = tokens.audiences().to_vec();
    }
    let now = now();
    let expires = now
        .checked_add(SignedDuration::from_secs(seconds))
        .map_err(|error| status::internal_error(error.to_string()))?;
    let token = match dry_run {
        true => String::new(),
        false => tokens
            .issue(&TokenSpec {
                namespace: &context.info.namespace,
                service_account: (meta::name(&account), meta::uid(&account)),
                bound,
                audiences: audiences.clone(),
                expires,
                now,
            })
            .ok_or_else(|| status::internal_error("no --service-account-signing-key-file was given"))?
            .map_err(|error| status::internal_error(error.to_string()))?,
    };
    let metadata = meta::metadata_mut(&mut request);
    metadata.insert("name".to_owned(), context.info.name.clone().into());
    metadata.insert("namespace".to_owned(), context.info.namespace.clone().into());
    metadata.insert("creationTimestamp".to_owned(), meta::format_time(now).into());
    request["spec"]["audiences"] = audiences.into();
    request["spec"]["expirationSeconds"] = seconds.into();
    request["status"] =
        serde_json::json!({"token": token, "expirationTimestamp": meta::format_time(expires)});
    let mut output = context.output;
    output.form = Default::default();
    Ok(typed_response(StatusCode::CREATED, output, schema, &request))
}

fn validate(seconds: i64) -> Result<(), Status> {
    let why = match seconds {
        ..MIN_SECONDS => "may not specify a duration less than 10 minutes",
        MIN_SECONDS..=MAX_SECONDS => return Ok(()),
        _ => "may not specify a duration larger than 2^32 seconds",
    };
    let mut errors = ErrorList::new();
    let path = "spec.expirationSeconds";
    errors.push(FieldError::new(
        ErrorKind::Invalid,
        path,
        seconds.to_string(),
        why,
    ));
    Err(status::invalid(
        "authentication.k8s.io",
        "TokenRequest",
        "",
        errors,
    ))
}

/// What the token is to be bound to: it must exist, be the very one, and belong to the account.
async fn bound_objects(context: &Context, reference: &Value) -> Result<Vec<Bound>, Status> {
    let text = |field: &str| reference[field].as_str().unwrap_or_default().to_owned();
    let by_node = node_name(&context.user);
    if reference.is_null() {
        // What a node asks for must die with one of its pods.
        return match by_node {
            Some(_) => Err(forbidden(context, "node requested token not bound to a pod")),
            None => Ok(Vec::new()),
        };
    }
    let (kind, name, uid) = (text("kind"), text("name"), text("uid"));
    let (claim, plural) = match (kind.as_str(), text("apiVersion").as_str()) {
        ("Pod", "v1") => ("pod", "pods"),
        ("Secret", "v1") => ("secret", "secrets"),
        ("Node", "v1") => ("node", "nodes"),
        _ => {
            return Err(status::bad_request(format!(
                "cannot bind token to object of type {kind}"
            )));
        }
    };
    let namespace = (plural != "nodes").then_some(context.info.namespace.as_str());
    let resource = context.api.builtin("", "v1", plural)?;
    let object = context.api.current(&resource, namespace, &name).await?.value();
    if !uid.is_empty() && uid != meta::uid(&object) {
        return Err(status::conflict(
            "",
            plural,
            &name,
            &format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
                 been deleted and then recreated"
            ),
        ));
    }
    let mut bound = vec![Bound {
        kind: claim,
        name,
        uid: meta::uid(&object).to_owned(),
    }];
    if claim == "pod" {
        if object["spec"]["serviceAccountName"] != context.info.name.as_str() {
            return Err(status::bad_request(format!(
                "cannot bind token for serviceaccount {} to pod running with different serviceaccount name.",
                status::quote(&context.info.name)
            )));
        }
        let node = object["spec"]["nodeName"].as_str().unwrap_or_default();
        if let Some(asking) = by_node
            && (asking != node || uid.is_empty())
        {
            return Err(forbidden(
                context,
                "node requested token bound to a pod scheduled on a different node",
            ));
        }
        if !node.is_empty()
            && let Some(node) = context.api.find("", "v1", "nodes", None, node).await?
        {
            let node = node.value();
            bound.push(Bound {
                kind: "node",
                name: meta::name(&node).to_owned(),
                uid: meta::uid(&node).to_owned(),
            });
        }
    } else if by_node.is_some() {
        return Err(forbidden(context, "node requested token not bound to a pod"));
    }
    Ok(bound)
}

fn forbidden(context: &Context, why: &str) -> Status {
    status::forbidden_object("", "serviceaccounts", &context.info.name, why)
}
