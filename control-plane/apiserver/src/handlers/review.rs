//! Reviews: who is this, and may they? Answered by the same authenticator and authorizer that serve requests.

use api::{
    registry::{Resource, Verb},
    status::{self, Status},
    validation::ErrorList,
};
use http::StatusCode;
use serde_json::{Value, json};

use super::write::{read_object, settle_namespace};
use crate::{
    authn::UserInfo,
    authz::{self, Attributes, Decision},
    body::RequestBody,
    context::{Context, now},
    respond::{HttpResponse, typed_response},
};

/// Whether a resource is a question and not an object.
pub(super) fn is_review(resource: &Resource) -> bool {
    matches!(
        resource.group.as_ref(),
        "authentication.k8s.io" | "authorization.k8s.io"
    ) && !resource.verbs.contains(Verb::Get)
}

/// Answers the review in the body.
pub(super) async fn create(context: &mut Context, body: RequestBody) -> Result<HttpResponse, Status> {
    let mut review = read_object(context, body).await?;
    settle_namespace(context, &mut review)?;
    let resource = &context.resource;
    let mut errors = ErrorList::new();
    resource.strategy.validate_fields(&review, &mut errors);
    if !errors.is_empty() {
        return Err(status::invalid(&resource.group, &resource.kind, "", errors));
    }
    let plural = context.resource.plural.clone();
    review["status"] = match plural.as_ref() {
        "tokenreviews" => token(context, &review["spec"])?,
        "selfsubjectreviews" => json!({"userInfo": user_info(&context.user)}),
        "selfsubjectrulesreviews" => {
            if review["spec"]["namespace"]
                .as_str()
                .unwrap_or_default()
                .is_empty()
            {
                return Err(status::bad_request("no namespace on request"));
            }
            rules(context)
        }
        "selfsubjectaccessreviews" => access(context, &context.user, &review["spec"]),
        "subjectaccessreviews" | "localsubjectaccessreviews" => {
            access(context, &subject(&review["spec"]), &review["spec"])
        }
        _ => return Err(status::method_not_allowed()),
    };
    let mut output = context.output;
    output.form = Default::default();
    Ok(typed_response(
        StatusCode::CREATED,
        output,
        context.resource.schema,
        &review,
    ))
}

fn token(context: &Context, spec: &Value) -> Result<Value, Status> {
    let Some(token) = spec["token"].as_str().filter(|token| !token.is_empty()) else {
        let why = "token is required for TokenReview in authentication";
        return Err(status::bad_request(why));
    };
    let Some(tokens) = &context.api.tokens else {
        return Ok(json!({"user": {}}));
    };
    let mut audiences = texts(&spec["audiences"]);
    if audiences.is_empty() {
        audiences = tokens.audiences().to_vec();
    }
    Ok(
        match tokens.verify(token, &audiences, &context.api.cache, now()) {
            Ok(verified) => json!({
                "authenticated": true, "user": user_info(&verified.user), "audiences": verified.audiences,
            }),
            Err(error) => json!({"user": {}, "error": error}),
        },
    )
}

/// Validation has seen to it that a review asks of either a resource or a path.
fn access(context: &Context, user: &UserInfo, spec: &Value) -> Value {
    let resource = &spec["resourceAttributes"];
    let path = &spec["nonResourceAttributes"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let attributes = if resource.is_object() {
        Attributes {
            verb: text(&resource["verb"]),
            group: text(&resource["group"]),
            resource: text(&resource["resource"]),
            subresource: text(&resource["subresource"]),
            namespace: text(&resource["namespace"]),
            name: text(&resource["name"]),
            path: None,
            field_selector: resource["fieldSelector"]["rawSelector"]
                .as_str()
                .map(str::to_owned),
        }
    } else {
        Attributes {
            verb: text(&path["verb"]),
            path: Some(text(&path["path"])),
            ..Attributes::default()
        }
    };
    match authz::authorize(user, &attributes, &context.api.cache) {
        Decision::Allow => json!({"allowed": true}),
        Decision::Deny(reason) if reason.is_empty() => json!({"allowed": false}),
        Decision::Deny(reason) => json!({"allowed": false, "reason": reason}),
    }
}

/// Whom a review asks about.
fn subject(spec: &Value) -> UserInfo {
    UserInfo {
        name: spec["user"].as_str().unwrap_or_default().to_owned(),
        groups: texts(&spec["groups"]),
        ..UserInfo::default()
    }
}

/// What one may do, as far as it is known without asking for each object.
fn rules(context: &Context) -> Value {
    let rules = authz::rules_of(&context.user);
    let mut answer = json!({
        "resourceRules": rules.resources, "nonResourceRules": rules.paths, "incomplete": rules.incomplete.is_some(),
    });
    if let Some(why) = rules.incomplete {
        answer["evaluationError"] = why.into();
    }
    answer
}

fn user_info(user: &UserInfo) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.clone().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

fn texts(value: &Value) -> Vec<String> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}
