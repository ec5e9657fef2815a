//! Namespaces, nodes, configuration, accounts, events, quotas.

use super::access::{Object, child, each, ensure, is_true, set, text};
use super::kind::{Kind, Subresources};
use super::service::convert_event;
use super::{Traits, generic_prepare_for_create};
use crate::meta::{self, NameRule};
use crate::quantity::Quantity;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

mod event;
mod pair;
mod quota;
mod validate;

/// Namespaces.
pub(super) static NAMESPACE: Kind = Kind::cluster("io.k8s.api.core.v1.Namespace")
    .name(NameRule::Label)
    .status()
    .defaults(|obj| {
        let name = text_of(obj.get("metadata"), "name");
        if !name.is_empty() {
            let labels = ensure(ensure(obj, "metadata"), "labels");
            labels.insert("kubernetes.io/metadata.name".into(), name.into());
        }
    })
    .prepares_create(|traits, obj| {
        generic_prepare_for_create(traits, obj);
        obj["status"] = json!({"phase": "Active"});
        if let Some(map) = obj.as_object_mut() {
            let finalizers = ensure(map, "spec")
                .entry("finalizers")
                .or_insert_with(|| json!([]));
            if let Some(list) = finalizers.as_array_mut()
                && !list.iter().any(|f| f == "kubernetes")
            {
                list.push("kubernetes".into());
            }
        }
    })
    .prepares_update(|traits, new, old| {
        super::generic_prepare_for_update(traits, new, old);
        // Only the finalize subresource changes these.
        super::keep(new, old, "spec");
    })
    .validates(validate::namespace)
    // What is being finalized is what it was.
    .validates_update(|_, _, _| ())
    .validates_status(validate::namespace_status)
    .subresources(Subresources {
        prepare: |_, subresource, new, old| {
            if subresource == "finalize" {
                meta::carry_over(new, old);
                super::keep(new, old, "status");
            } else {
                *new = old.clone();
            }
        },
        validate: |_, new, _, errors| validate::finalized_namespace(new, errors),
    })
    .selectable(|obj| {
        vec![
            ("name", meta::name(obj).into()),
            ("status.phase", text(obj, "/status/phase").into()),
        ]
    });

/// Nodes. A kubelet registers its node with a status.
pub(super) static NODE: Kind = Kind::cluster("io.k8s.api.core.v1.Node")
    .status()
    .defaults(|obj| {
        let Some(status) = child(obj, "status") else {
            return;
        };
        if !status.contains_key("allocatable")
            && let Some(capacity) = status.get("capacity").cloned()
        {
            status.insert("allocatable".into(), capacity);
        }
    })
    .prepares_create(|traits, obj| {
        let status = obj.get("status").cloned();
        generic_prepare_for_create(traits, obj);
        if let Some(status) = status {
            obj["status"] = status;
        }
        mirror_pod_cidr(obj);
    })
    .prepares_update(|traits, new, old| {
        super::generic_prepare_for_update(traits, new, old);
        mirror_pod_cidr(new);
    })
    .warns(|obj, _| {
        let mut out = Vec::new();
        if obj.pointer("/spec/configSource").is_some() {
            out.push("spec.configSource: the feature is removed".into());
        }
        if !text(obj, "/spec/externalID").is_empty() {
            let why = "this field is deprecated, and is unused by Kubernetes";
            out.push(format!("spec.externalID: {why}"));
        }
        out
    })
    .validates(validate::node)
    .validates_update(validate::node_update)
    .validates_status(validate::node_update)
    .selectable(|obj| {
        vec![(
            "spec.unschedulable",
            is_true(obj, "/spec/unschedulable").to_string(),
        )]
    });

/// ConfigMaps.
pub(super) static CONFIG_MAP: Kind = Kind::namespaced("io.k8s.api.core.v1.ConfigMap")
    .validates(validate::config_map)
    .validates_update(validate::config_map_update);

/// Secrets.
pub(super) static SECRET: Kind = Kind::namespaced("io.k8s.api.core.v1.Secret")
    .defaults(|obj| {
        set(obj, "type", "Opaque");
        if let Some(Value::Object(plain)) = obj.remove("stringData") {
            let data = ensure(obj, "data");
            for (key, value) in plain {
                data.insert(key, STANDARD.encode(value.as_str().unwrap_or("")).into());
            }
        }
    })
    .warns(|obj, _| {
        let data = |key: &str| {
            let data = obj.get("data").and_then(|data| data.get(key));
            let data = data.and_then(Value::as_str).unwrap_or("");
            STANDARD.decode(data).unwrap_or_default()
        };
        let problem = (text(obj, "/type") == "kubernetes.io/tls")
            .then(|| pair::problem(&data("tls.crt"), &data("tls.key")))
            .flatten();
        problem.into_iter().collect()
    })
    .validates(validate::secret)
    .validates_update(validate::secret_update)
    .selectable(|obj| vec![("type", text(obj, "/type").into())]);

const MOUNTABLE_SECRETS: &str = "kubernetes.io/enforce-mountable-secrets";

/// ServiceAccounts. Secrets are referred to by their names alone.
pub(super) static SERVICE_ACCOUNT: Kind = Kind::namespaced("io.k8s.api.core.v1.ServiceAccount")
    .prepares_create(|traits, obj| {
        generic_prepare_for_create(traits, obj);
        names_only(obj);
    })
    .prepares_update(|traits, new, old| {
        super::generic_prepare_for_update(traits, new, old);
        names_only(new);
    })
    .validates(validate::service_account)
    .warns(|obj, old| {
        let has = |obj| meta::annotations(obj).is_some_and(|all| all.contains_key(MOUNTABLE_SECRETS));
        let why = "deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets";
        let warned = has(obj) && !old.is_some_and(has);
        warned
            .then(|| format!("metadata.annotations[{MOUNTABLE_SECRETS}]: {why}"))
            .into_iter()
            .collect()
    });

fn names_only(account: &mut Value) {
    let secrets = account.get_mut("secrets").and_then(Value::as_array_mut);
    for secret in secrets.into_iter().flatten().filter_map(Value::as_object_mut) {
        secret.retain(|field, _| field == "name");
    }
}

/// Core Events.
pub(super) static EVENT: Kind = Kind::namespaced("io.k8s.api.core.v1.Event")
    .name(NameRule::PathSegment)
    .create_on_update()
    .converts(convert_event)
    .validates(event::event)
    .selectable(|obj| event_fields(obj, "involvedObject", "reportingComponent", "/source/component"));

/// Events of `events.k8s.io`.
pub(super) static EVENT_V1: Kind = Kind::namespaced("io.k8s.api.events.v1.Event")
    .create_on_update()
    .converts(convert_event)
    .validates(|obj, errors| event::strict(&core_event(obj), errors))
    .validates_update(|new, old, errors| event::strict_update(&core_event(new), &core_event(old), errors))
    .selectable(|obj| {
        event_fields(
            obj,
            "regarding",
            "reportingController",
            "/deprecatedSource/component",
        )
    });

/// The Event under the names of the core version.
fn core_event(obj: &Value) -> Value {
    convert_event(obj.clone(), "events.k8s.io/v1", "v1").unwrap_or_default()
}

/// LimitRanges.
pub(super) static LIMIT_RANGE: Kind = Kind::namespaced("io.k8s.api.core.v1.LimitRange")
    .create_on_update()
    .defaults(limit_range)
    .prepares_create(|traits, obj| {
        generic_prepare_for_create(traits, obj);
        // Nobody else may leave the name to the server altogether.
        if meta::name(obj).is_empty() {
            let name = meta::uid(obj).to_owned();
            meta::metadata_mut(obj).insert("name".into(), name.into());
        }
    })
    .validates(quota::limit_range);

/// ResourceQuotas.
pub(super) static RESOURCE_QUOTA: Kind = Kind::namespaced("io.k8s.api.core.v1.ResourceQuota")
    .status()
    .validates(quota::resource_quota)
    .validates_update(quota::resource_quota_update)
    .validates_status(quota::resource_quota_status);

/// Leases.
pub(super) static LEASE: Kind = Kind::namespaced("io.k8s.api.coordination.v1.Lease")
    .conditional_update()
    .create_on_update()
    .validates(validate::lease);

fn text_of(owner: Option<&Value>, field: &str) -> String {
    owner
        .and_then(|o| o.get(field))
        .and_then(Value::as_str)
        .unwrap_or("")
        .to_string()
}

/// `podCIDR` is the first of `podCIDRs`; clients may set either.
fn mirror_pod_cidr(obj: &mut Value) {
    let first = text(obj, "/spec/podCIDRs/0").to_string();
    let single = text(obj, "/spec/podCIDR").to_string();
    if first.is_empty() && !single.is_empty() {
        obj["spec"]["podCIDRs"] = json!([single]);
    } else if single.is_empty() && !first.is_empty() {
        obj["spec"]["podCIDR"] = first.into();
    }
}

fn event_fields(obj: &Value, object: &str, controller: &str, source: &str) -> Vec<(&'static str, String)> {
    let of = |field: &str| text(obj, &format!("/{object}/{field}")).to_string();
    let reporter = text(obj, &format!("/{controller}")).to_string();
    let component = text(obj, source).to_string();
    let source = if component.is_empty() {
        reporter.clone()
    } else {
        component
    };
    let names: [&'static str; 7] = if object == "regarding" {
        [
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
        ]
    } else {
        [
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
        ]
    };
    let mut fields: Vec<(&'static str, String)> = names
        .into_iter()
        .map(|name| (name, of(name.rsplit('.').next().unwrap_or(""))))
        .collect();
    fields.push(("reason", text(obj, "/reason").into()));
    fields.push(("type", text(obj, "/type").into()));
    if object == "regarding" {
        fields.push(("reportingController", reporter));
    } else {
        fields.push(("reportingComponent", reporter));
        fields.push(("source", source));
    }
    fields
}

/// Per container: the default limit is the maximum, the default request the default limit or else the minimum.
fn limit_range(obj: &mut Object) {
    let Some(spec) = child(obj, "spec") else { return };
    for item in each(spec, "limits") {
        if item.get("type").and_then(Value::as_str) != Some("Container") {
            continue;
        }
        for (from, to) in [
            ("max", "default"),
            ("default", "defaultRequest"),
            ("min", "defaultRequest"),
        ] {
            let Some(values) = item.get(from).and_then(Value::as_object).cloned() else {
                continue;
            };
            if values.is_empty() {
                continue;
            }
            let target = ensure(item, to);
            for (name, quantity) in values {
                let known = quantity.as_str().is_some_and(|t| Quantity::parse(t).is_ok());
                if known {
                    target.entry(name).or_insert(quantity);
                }
            }
        }
    }
}

/// ComponentStatuses and bindings: nothing of their own is stored.
pub(super) static BINDING: Kind = Kind::namespaced("io.k8s.api.core.v1.Binding")
    .prepares_create(keep_all)
    .validates(event::binding);
/// See [`BINDING`].
pub(super) static COMPONENT_STATUS: Kind = Kind::cluster("io.k8s.api.core.v1.ComponentStatus");

fn keep_all(_: &Traits, _: &mut Value) {}
