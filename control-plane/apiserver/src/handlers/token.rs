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

use super::write::{read_expected, settle_namespace};
use crate::{
    authn::service_account::{Bound, TokenSpec},
    authz::node_name,
    body::RequestBody,
    context::{Context, now},
    respond::{HttpResponse, typed_response},
};

const GROUP: &str = "authentication.k8s.io";
const KIND: &str = "TokenRequest";
const DEFAULT_SECONDS: i64 = 3600;
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;
/// What kubelets ask for where a pod does not say, and nobody else would.
const PROJECTED_SECONDS: i64 = 3607;
const EXTENDED_SECONDS: i64 = 365 * 24 * 60 * 60;

/// Issues a token for the service account that the path names.
pub(super) async fn create(context: &mut Context, body: RequestBody) -> Result<HttpResponse, Status> {
    let dry_run = context.dry_run()?;
    let schema = TypeRef::by_name("io.k8s.api.authentication.v1.TokenRequest")
        .ok_or_else(|| status::internal_error("TokenRequest is not known"))?;
    let expected = Expected {
        group: GROUP,
        version: "v1",
        kind: KIND,
        schema,
    };
    let mut request = read_expected(context, body, expected).await?;
    settle_namespace(context, &mut request)?;
    let (given, asked) = (meta::name(&request).to_owned(), context.info.name.clone());
    if !given.is_empty() && given != asked {
        let why = "must match the service account name if specified";
        return Err(invalid(&asked, "metadata.name", status::quote(&given), why));
    }
    let account = context.current().await?.value();
    let uid = meta::uid(&request).to_owned();
    if !uid.is_empty() && uid != meta::uid(&account) {
        let why = format!(
            "the UID in the token request ({uid}) does not match the UID of the service account ({})",
            meta::uid(&account)
        );
        return Err(status::conflict(GROUP, KIND, &asked, &why));
    }
    let api = context.api.clone();
    let tokens = api
        .tokens
        .as_ref()
        .ok_or_else(|| status::internal_error("no --service-account-signing-key-file was given"))?;

    let seconds = request["spec"]["expirationSeconds"]
        .as_i64()
        .unwrap_or(DEFAULT_SECONDS);
    validate(seconds)?;
    let mut audiences: Vec<String> = request["spec"]["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let reference = &request["spec"]["boundObjectRef"];
    if let Some(node) = node_name(&context.user) {
        admit_node(context, node, reference, &audiences).await?;
    }
    let bound = bound_objects(context, reference).await?;
    if audiences.is_empty() {
        audiences = tokens.audiences().to_vec();
    }
    let now = now();
    let after = |seconds: i64| {
        now.checked_add(SignedDuration::from_secs(seconds))
            .map_err(|error| status::internal_error(error.to_string()))
    };
    let asked_for = after(seconds)?;
    let extends = api.config.service_account_extend_token_expiration
        && seconds == PROJECTED_SECONDS
        && bound.iter().any(|bound| bound.kind == "pod")
        && audiences
            .iter()
            .all(|audience| tokens.audiences().contains(audience));
    let (expires, warn_after) = match extends {
        true => (after(EXTENDED_SECONDS)?, Some(asked_for)),
        false => (asked_for, None),
    };
    let token = match dry_run {
        true => String::new(),
        false => tokens
            .issue(&TokenSpec {
                namespace: &context.info.namespace,
                service_account: (meta::name(&account), meta::uid(&account)),
                bound,
                audiences: audiences.clone(),
                expires,
                warn_after,
                now,
            })
            .ok_or_else(|| status::internal_error("no --service-account-signing-key-file was given"))?
            .map_err(|error| status::internal_error(error.to_string()))?,
    };
    let metadata = meta::metadata_mut(&mut request);
    metadata.insert("name".to_owned(), context.info.name.clone().into());
    metadata.insert("uid".to_owned(), meta::uid(&account).into());
    metadata.insert("creationTimestamp".to_owned(), meta::format_time(now).into());
    request["spec"]["audiences"] = audiences.into();
    request["spec"]["expirationSeconds"] = seconds.into();
    request["status"] =
        serde_json::json!({"token": token, "expirationTimestamp": meta::format_time(asked_for)});
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
    Err(invalid("", "spec.expirationSeconds", seconds.to_string(), why))
}

/// 422 for one field of the request.
fn invalid(name: &str, path: &str, value: String, why: &str) -> Status {
    let mut errors = ErrorList::new();
    errors.push(FieldError::new(ErrorKind::Invalid, path, value, why));
    status::invalid(GROUP, KIND, name, errors)
}

/// NodeRestriction: what a node asks for must die with one of its pods, and be for somebody whom that pod speaks to.
async fn admit_node(
    context: &Context,
    node: &str,
    reference: &Value,
    audiences: &[String],
) -> Result<(), Status> {
    let forbidden = |why: &str| {
        let name = &context.info.name;
        Err(status::forbidden_object("", "serviceaccounts", name, why))
    };
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    let (name, uid) = (text("name"), text("uid"));
    if (text("apiVersion"), text("kind")) != ("v1", "Pod") || name.is_empty() {
        return forbidden("node requested token not bound to a pod");
    }
    if uid.is_empty() {
        return forbidden("node requested token with a pod binding without a uid");
    }
    let pods = context.api.builtin("", "v1", "pods")?;
    let pod = context
        .api
        .current(&pods, context.namespace(), name)
        .await?
        .value();
    if uid != meta::uid(&pod) {
        return forbidden(&other_uid(uid));
    }
    if pod["spec"]["nodeName"] != node {
        return forbidden("node requested token bound to a pod scheduled on a different node");
    }
    let audience = match audiences {
        [] => "",
        [audience] => audience,
        _ => return forbidden("node may only request 0 or 1 audiences"),
    };
    if mounts_audience(&pod, audience) || drivers_ask_for(context, &pod, audience).await? {
        return Ok(());
    }
    forbidden(&format!(
        "audience {} not found in pod spec volume, {} is not authorized to request tokens for this audience",
        status::quote(audience),
        context.user.name
    ))
}

/// Whether one of the pod's projected volumes has a token for this audience; the API server itself is the empty one.
fn mounts_audience(pod: &Value, audience: &str) -> bool {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let sources = volumes.filter_map(|volume| volume["projected"]["sources"].as_array());
    sources
        .flatten()
        .filter_map(|source| source.get("serviceAccountToken"))
        .any(|token| token["audience"].as_str().unwrap_or_default() == audience)
}

/// Whether a CSI driver of one of the pod's volumes wants tokens for this audience.
async fn drivers_ask_for(context: &Context, pod: &Value, audience: &str) -> Result<bool, Status> {
    let api = &context.api;
    for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
        let driver = match (
            &volume["csi"],
            volume["persistentVolumeClaim"]["claimName"].as_str(),
        ) {
            (csi, _) if csi.is_object() => csi["driver"].as_str().map(str::to_owned),
            (_, Some(claim)) => {
                let claim = api
                    .find("", "v1", "persistentvolumeclaims", context.namespace(), claim)
                    .await?
                    .map(|claim| claim.value());
                let name = claim
                    .as_ref()
                    .and_then(|claim| claim["spec"]["volumeName"].as_str());
                let volume = match name.filter(|name| !name.is_empty()) {
                    Some(name) => api.find("", "v1", "persistentvolumes", None, name).await?,
                    None => None,
                };
                volume.and_then(|volume| {
                    let driver = &volume.value()["spec"]["csi"]["driver"];
                    driver.as_str().map(str::to_owned)
                })
            }
            _ => None,
        };
        let Some(driver) = driver.filter(|driver| !driver.is_empty()) else {
            continue;
        };
        let driver = api
            .find("storage.k8s.io", "v1", "csidrivers", None, &driver)
            .await?;
        let requests = driver.map(|driver| driver.value()["spec"]["tokenRequests"].clone());
        let asks = requests.as_ref().and_then(Value::as_array).into_iter().flatten();
        if asks
            .map(|request| request["audience"].as_str().unwrap_or_default())
            .any(|own| own == audience)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn other_uid(uid: &str) -> String {
    format!(
        "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted \
         and then recreated"
    )
}

/// What the token is to be bound to: it must exist, be the very one, and belong to the account.
async fn bound_objects(context: &Context, reference: &Value) -> Result<Vec<Bound>, Status> {
    if reference.is_null() {
        return Ok(Vec::new());
    }
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    let (kind, name, uid) = (text("kind"), text("name").to_owned(), text("uid"));
    let (group, version) = match text("apiVersion").split_once('/') {
        Some(both) => both,
        None => ("", text("apiVersion")),
    };
    let (claim, plural) = match (group, kind) {
        ("", "Pod") => ("pod", "pods"),
        ("", "Secret") => ("secret", "secrets"),
        ("", "Node") => ("node", "nodes"),
        _ => {
            return Err(status::bad_request(format!(
                "cannot bind token to object of type {group}/{version}, Kind={kind}"
            )));
        }
    };
    let namespace = (plural != "nodes").then_some(context.info.namespace.as_str());
    let resource = context.api.builtin("", "v1", plural)?;
    let object = context.api.current(&resource, namespace, &name).await?.value();
    let own_pod = object["spec"]["serviceAccountName"] == context.info.name.as_str();
    if claim == "pod" && !own_pod {
        return Err(status::bad_request(format!(
            "cannot bind token for serviceaccount {} to pod running with different serviceaccount name.",
            status::quote(&context.info.name)
        )));
    }
    if !uid.is_empty() && uid != meta::uid(&object) {
        return Err(status::conflict("", kind, &name, &other_uid(uid)));
    }
    let mut bound = vec![Bound {
        kind: claim,
        name,
        uid: meta::uid(&object).to_owned(),
    }];
    let node = object["spec"]["nodeName"].as_str().unwrap_or_default();
    if claim == "pod" && !node.is_empty() {
        let found = context.api.find("", "v1", "nodes", None, node).await?;
        // Of a node that is not there its name is told at least.
        let uid = found.map(|found| meta::uid(&found.value()).to_owned());
        bound.push(Bound {
            kind: "node",
            name: node.to_owned(),
            uid: uid.unwrap_or_default(),
        });
    }
    Ok(bound)
}
