//! From objects to responses: the form the client asked for, the encoding, the headers every answer has.

use api::{
    registry::Resource,
    schema::TypeRef,
    status::Status,
    table::{partial_object_metadata, table},
};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};

use crate::{
    body::Body,
    context::{Context, now},
    negotiation::{Encoding, Form, Output},
    protobuf::encode,
    watch_cache::{self, Object, convert_to},
};

/// A finished response.
pub(crate) type HttpResponse = Response<Body>;

/// A response with a body of a content type.
pub(crate) fn response(code: StatusCode, content_type: &'static str, body: impl Into<Body>) -> HttpResponse {
    let mut response = Response::new(body.into());
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A plain text response.
pub(crate) fn text(code: StatusCode, body: impl Into<Body>) -> HttpResponse {
    response(code, "text/plain; charset=utf-8", body)
}

/// A value of one of the types of `meta/v1` (`Status`, `APIResourceList`) in the encoding that was asked for; a document
/// without such a type is JSON when protobuf was asked for.
pub(crate) fn value_response(code: StatusCode, output: Output, value: &Value) -> HttpResponse {
    match value["kind"].as_str().and_then(meta_type) {
        Some(schema) => typed_response(code, output, schema, value),
        None if output.encoding == Encoding::Protobuf => {
            let output = Output {
                encoding: Encoding::Json,
                ..output
            };
            response(code, output.content_type(), encode_value(output, value))
        }
        None => response(code, output.content_type(), encode_value(output, value)),
    }
}

/// A value of a type in the encoding that was asked for.
pub(crate) fn typed_response(
    code: StatusCode,
    output: Output,
    schema: TypeRef,
    value: &Value,
) -> HttpResponse {
    let body = match output.encoding {
        Encoding::Protobuf => protobuf_object(schema, value).into(),
        _ => encode_value(output, value),
    };
    response(code, output.content_type(), body)
}

/// An object in its protobuf envelope.
pub(crate) fn protobuf_object(schema: TypeRef, value: &Value) -> Vec<u8> {
    let text = |field: &str| value[field].as_str().unwrap_or_default();
    let nothing = Map::new();
    let object = value.as_object().unwrap_or(&nothing);
    encode::object(text("apiVersion"), text("kind"), schema, object)
}

/// A type of `meta/v1` by its kind.
pub(crate) fn meta_type(kind: &str) -> Option<TypeRef> {
    TypeRef::by_name(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}"))
}

/// A `Status` as a response.
pub(crate) fn status_response(output: Output, status: &Status) -> HttpResponse {
    let code = StatusCode::from_u16(status.code).unwrap_or(match status.status.as_str() {
        "Success" => StatusCode::OK,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    });
    let mut response = value_response(code, output, &status.to_value());
    if let Some(seconds) = status.details.as_ref().map(|details| details.retry_after_seconds)
        && seconds > 0
    {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A cached object, in the version and the form that were asked for.
pub(crate) fn object_response(context: &Context, object: &Object) -> Result<HttpResponse, Status> {
    if context.output.is_plain() && is_stored_version(&context.resource) {
        return Ok(response(
            StatusCode::OK,
            context.output.content_type(),
            object.body(),
        ));
    }
    let output = context.output;
    if output.encoding == Encoding::Protobuf
        && output.form == Form::Object
        && is_stored_version(&context.resource)
    {
        let resource = &context.resource;
        let message = object.protobuf(resource.schema);
        let body = encode::enveloped(&resource.api_version(), &resource.kind, &message);
        return Ok(response(StatusCode::OK, output.content_type(), body));
    }
    Ok(written_response(
        context,
        StatusCode::OK,
        convert_to(&context.resource, object.value())?,
    ))
}

/// An object in the version of the resource, in the form that was asked for.
pub(crate) fn written_response(context: &Context, code: StatusCode, object: Value) -> HttpResponse {
    let shown = match context.output.form {
        Form::Object => return typed_response(code, context.output, context.resource.schema, &object),
        Form::Metadata => partial_object_metadata(&object),
        Form::Table(include) => {
            let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
            let rows = std::iter::once(&object);
            table(&context.resource, rows, metadata, include, true, now())
        }
    };
    value_response(code, context.output, &context.output.in_version(shown))
}

/// Whether objects are stored in the very version that the resource serves.
pub(crate) fn is_stored_version(resource: &Resource) -> bool {
    let stored = &resource.storage.version;
    stored.version == resource.version && stored.group == resource.group && stored.kind == resource.kind
}

fn encode_value(output: Output, value: &Value) -> Bytes {
    match output.encoding {
        Encoding::Json | Encoding::Protobuf => {
            let plain = || Bytes::from(value.to_string());
            value.as_object().map_or_else(plain, watch_cache::encode)
        }
        Encoding::Pretty => serde_json::to_vec_pretty(value).unwrap_or_default().into(),
        Encoding::Yaml => serde_saphyr::to_string(value).unwrap_or_default().into(),
    }
}
