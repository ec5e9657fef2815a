//! The `scale` subresource: one number of any resource that has replicas.

use api::{
    decode::Expected,
    meta,
    patch::{json_patch, merge_patch, strategic_merge},
    schema::TypeRef,
    status::{self, Status},
    strategy::ScaleMapping,
};
use http::StatusCode;
use serde_json::{Value, json};

use super::{
    apply::{self, Configuration},
    managed::Tracking,
    update::change,
    write::{check_name, read_expected, settle_namespace},
};
use crate::{
    body::RequestBody,
    context::{Context, read_body},
    negotiation::content_type,
    respond::{HttpResponse, typed_response},
};

/// Reads the scale.
pub(super) async fn get(context: &Context) -> Result<HttpResponse, Status> {
    let object = super::write::decode_current(context, &context.current().await?)?;
    answer(context, &object)
}

/// Sets the scale.
pub(super) async fn update(context: &mut Context, body: RequestBody) -> Result<HttpResponse, Status> {
    let mut scale = read_expected(context, body, expected()?).await?;
    settle_namespace(context, &mut scale)?;
    check_name(context, &scale)?;
    write(context, move |_| Ok(scale.clone())).await
}

/// Patches the scale.
pub(super) async fn patch(context: &mut Context, body: RequestBody) -> Result<HttpResponse, Status> {
    let kind = content_type(&context.headers).to_owned();
    let bytes = read_body(body).await?;
    if kind == apply::CONTENT_TYPE {
        return apply_scale(context, &bytes).await;
    }
    let schema = expected()?.schema;
    let parsed = || -> Result<Value, Status> {
        serde_json::from_slice(&bytes)
            .map_err(|error| status::bad_request(format!("error decoding patch: {error}")))
    };
    write(context, |scale| match kind.as_str() {
        "application/json-patch+json" => json_patch(scale, &bytes),
        "application/merge-patch+json" => Ok(merge_patch(scale, &parsed()?)),
        "application/strategic-merge-patch+json" => strategic_merge(scale, &parsed()?, schema),
        _ => Err(status::unsupported_media_type(&[
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
            apply::CONTENT_TYPE,
        ])),
    })
    .await
}

/// Applies a scale: a configuration of the resource with nothing but its replicas.
async fn apply_scale(context: &mut Context, bytes: &[u8]) -> Result<HttpResponse, Status> {
    let dry_run = context.dry_run()?;
    let mapping = mapping(context)?;
    let scale = Configuration::read(context, bytes, expected()?)?;
    let mut config = json!({
        "apiVersion": context.resource.api_version(),
        "kind": context.resource.kind,
        "metadata": {"name": context.info.name},
    });
    if let Some(replicas) = scale.object["spec"].get("replicas") {
        set(&mut config, mapping.spec_replicas, replicas.clone());
    }
    let subresource = std::mem::take(&mut context.info.subresource);
    let config = Configuration {
        object: config,
        ..scale
    };
    let changed = apply::change_by(context, &config, "scale", dry_run).await;
    context.info.subresource = subresource;
    answer(context, &changed?)
}

async fn write(
    context: &mut Context,
    make: impl Fn(&Value) -> Result<Value, Status>,
) -> Result<HttpResponse, Status> {
    let dry_run = context.dry_run()?;
    let mapping = mapping(context)?;
    let gvk = context.resource.gvk();
    let name = context.info.name.clone();
    let subresource_name = format!("{}/scale", context.resource.plural);
    // The change is one of the main resource: its preparation, generation and validation apply.
    let subresource = std::mem::take(&mut context.info.subresource);
    let changed = change(context, dry_run, Tracking::Update("scale"), |object| {
        let scale = make(&scale_of(object, mapping))?;
        let (uid, own) = (meta::uid(&scale), meta::uid(object));
        if !uid.is_empty() && uid != own {
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {own}");
            return Err(status::conflict(&gvk.group, &subresource_name, &name, &why));
        }
        let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
        if replicas < 0 {
            let mut errors = api::validation::ErrorList::new();
            errors.push(api::validation::FieldError::new(
                api::validation::ErrorKind::Invalid,
                "spec.replicas",
                replicas.to_string(),
                "must be greater than or equal to 0",
            ));
            return Err(status::invalid("autoscaling", "Scale", &name, errors));
        }
        let mut object = object.clone();
        set(&mut object, mapping.spec_replicas, replicas.into());
        let asked = meta::resource_version(&scale).to_owned();
        if asked.is_empty() {
            meta::metadata_mut(&mut object).remove("resourceVersion");
        } else {
            meta::metadata_mut(&mut object).insert("resourceVersion".to_owned(), asked.into());
        }
        Ok(object)
    })
    .await;
    context.info.subresource = subresource;
    tracing::debug!(kind = %gvk.kind, "scaled");
    answer(context, &changed?)
}

fn answer(context: &Context, object: &Value) -> Result<HttpResponse, Status> {
    let mut output = context.output;
    output.form = Default::default();
    Ok(typed_response(
        StatusCode::OK,
        output,
        expected()?.schema,
        &scale_of(object, mapping(context)?),
    ))
}

fn mapping(context: &Context) -> Result<ScaleMapping, Status> {
    context
        .resource
        .strategy
        .scale()
        .ok_or_else(status::resource_not_found)
}

fn expected() -> Result<Expected<'static>, Status> {
    let schema = TypeRef::by_name("io.k8s.api.autoscaling.v1.Scale")
        .ok_or_else(|| status::internal_error("Scale is not known"))?;
    Ok(Expected {
        group: "autoscaling",
        version: "v1",
        kind: "Scale",
        schema,
    })
}

fn scale_of(object: &Value, mapping: ScaleMapping) -> Value {
    let metadata = &object["metadata"];
    let mut own = serde_json::Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = metadata.get(field) {
            own.insert(field.to_owned(), value.clone());
        }
    }
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": own,
        "spec": {},
        "status": {"replicas": at(object, mapping.status_replicas).as_i64().unwrap_or(0)},
    });
    let replicas = at(object, mapping.spec_replicas).as_i64().unwrap_or(0);
    if replicas != 0 {
        scale["spec"]["replicas"] = replicas.into();
    }
    let selector = selector_text(at(object, mapping.selector));
    if !selector.is_empty() {
        scale["status"]["selector"] = selector.into();
    }
    scale
}

fn at<'a>(object: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(object, |value, field| &value[*field])
}

fn set(object: &mut Value, path: &[&str], value: Value) {
    let mut slot = object;
    for field in path {
        if !slot.is_object() {
            *slot = json!({});
        }
        slot = &mut slot[*field];
    }
    *slot = value;
}

/// A label selector in its string form, by key; a plain map of labels is one too.
fn selector_text(selector: &Value) -> String {
    let labels = match (&selector["matchLabels"], &selector["matchExpressions"]) {
        (Value::Null, Value::Null) => selector,
        (labels, _) => labels,
    };
    let labels = labels.as_object().into_iter().flatten();
    let mut terms: Vec<(&str, String)> = labels
        .map(|(key, value)| {
            (
                key.as_str(),
                format!("{key}={}", value.as_str().unwrap_or_default()),
            )
        })
        .collect();
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or_default();
        let mut values: Vec<&str> = expression["values"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        values.sort_unstable();
        let values = values.join(",");
        let term = match expression["operator"].as_str() {
            Some("In") => format!("{key} in ({values})"),
            Some("NotIn") => format!("{key} notin ({values})"),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        };
        terms.push((key, term));
    }
    terms.sort_by_key(|(key, _)| *key);
    let terms: Vec<String> = terms.into_iter().map(|(_, term)| term).collect();
    terms.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_as_text() {
        assert_eq!(selector_text(&json!({"app": "a"})), "app=a");
        let selector = json!({
            "matchLabels": {"b": "c"},
            "matchExpressions": [{"key": "a", "operator": "In", "values": ["y", "x"]}, {"key": "z", "operator": "Exists"}],
        });
        assert_eq!(selector_text(&selector), "a in (x,y),b=c,z");
        let selector = json!({
            "matchLabels": {"b": "c"},
            "matchExpressions": [{"key": "z", "operator": "DoesNotExist"}],
        });
        assert_eq!(selector_text(&selector), "b=c,!z");
        assert_eq!(selector_text(&Value::Null), "");
    }
}
