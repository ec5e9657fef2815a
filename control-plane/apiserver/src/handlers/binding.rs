//! Binding a pod to a node: what a scheduler writes.

use api::{
    decode::Expected,
    meta,
    schema::TypeRef,
    status::{self, Status},
    validation::{ErrorKind, ErrorList, FieldError},
};
use serde_json::{Value, json};

use super::write::{modify, read_expected, settle_namespace};
use crate::{
    admission::topology_labels,
    body::RequestBody,
    context::{Context, now},
    respond::{HttpResponse, status_response},
};

/// Sets the pod's node, once.
pub(super) async fn create(context: &mut Context, body: RequestBody) -> Result<HttpResponse, Status> {
    let dry_run = context.dry_run()?;
    let schema = TypeRef::by_name("io.k8s.api.core.v1.Binding")
        .ok_or_else(|| status::internal_error("Binding is not known"))?;
    let expected = Expected {
        group: "",
        version: "v1",
        kind: "Binding",
        schema,
    };
    let mut binding = read_expected(context, body, expected).await?;
    settle_namespace(context, &mut binding)?;
    if context.info.resource == "bindings" {
        context.info.name = meta::name(&binding).to_owned();
        context.resource = context.api.builtin("", "v1", "pods")?;
    }
    if meta::name(&binding) != context.info.name {
        return Err(status::bad_request(
            "name in URL does not match name in Binding object",
        ));
    }
    validate(&binding, &context.info.name)?;
    let node = binding["target"]["name"].as_str().unwrap_or_default().to_owned();
    let place = topology_labels::of_node(&context.api, &node).await?;
    topology_labels::merge(&mut binding, &place);
    let labels = meta::labels(&binding).cloned().unwrap_or_default();
    let (uid, revision) = (
        meta::uid(&binding).to_owned(),
        meta::resource_version(&binding).to_owned(),
    );
    let name = context.info.name.clone();
    let conflict = |why: String| status::conflict("", "pods/binding", &name, &why);
    let annotations = meta::annotations(&binding).cloned().unwrap_or_default();
    let bind = |pod: &mut Value| {
        for (what, asked, own) in [
            ("UID", &uid, meta::uid(pod)),
            ("ResourceVersion", &revision, meta::resource_version(pod)),
        ] {
            if !asked.is_empty() && asked != own {
                let why = format!(
                    "Precondition failed: {what} in precondition: {asked}, {what} in object meta: {own}"
                );
                return Err(status::conflict("", "pods", &name, &why));
            }
        }
        if !meta::deletion_timestamp(pod).is_empty() {
            return Err(conflict(format!(
                "pod {name} is being deleted, cannot be assigned to a host"
            )));
        }
        if let Some(bound) = pod["spec"]["nodeName"].as_str().filter(|bound| !bound.is_empty()) {
            return Err(conflict(format!(
                "pod {name} is already assigned to node {}",
                status::quote(bound)
            )));
        }
        if pod["spec"]["schedulingGates"]
            .as_array()
            .is_some_and(|gates| !gates.is_empty())
        {
            return Err(conflict(format!(
                "pod {name} has non-empty .spec.schedulingGates"
            )));
        }
        pod["spec"]["nodeName"] = node.clone().into();
        if !annotations.is_empty() {
            let own = meta::metadata_mut(pod)
                .entry("annotations")
                .or_insert_with(|| json!({}));
            if let Some(own) = own.as_object_mut() {
                own.extend(annotations.clone());
            }
        }
        topology_labels::merge(pod, &labels);
        set_scheduled(pod);
        Ok(())
    };
    if dry_run {
        let mut pod = context.current().await?.value();
        bind(&mut pod)?;
    } else {
        modify(context, bind).await?;
    }
    let mut done = Status::success(None);
    done.code = 201;
    Ok(status_response(context.output, &done))
}

fn validate(binding: &Value, name: &str) -> Result<(), Status> {
    let mut errors = ErrorList::new();
    let target = &binding["target"];
    let kind = target["kind"].as_str().unwrap_or_default();
    if !matches!(kind, "" | "Node") {
        errors.push(FieldError::new(
            ErrorKind::NotSupported,
            "target.kind",
            status::quote(kind),
            "supported values: \"Node\", \"<empty>\"",
        ));
    }
    if target["name"].as_str().unwrap_or_default().is_empty() {
        errors.push(FieldError::new(ErrorKind::Required, "target.name", "", ""));
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(status::invalid("", "Binding", name, errors))
    }
}

fn set_scheduled(pod: &mut Value) {
    let condition = json!({
        "type": "PodScheduled", "status": "True",
        "lastProbeTime": null, "lastTransitionTime": meta::format_time(now()),
    });
    let mut conditions = pod["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    match conditions.iter_mut().find(|own| own["type"] == "PodScheduled") {
        Some(own) => *own = condition,
        None => conditions.push(condition),
    }
    pod["status"]["conditions"] = conditions.into();
}
