//! What a kind does beyond its data: defaulting, preparation, validation.
//!
//! [`Traits`] say the little that most kinds differ in; every method of [`Strategy`] has a default that does the
//! generic thing with them, and a kind overrides what differs. A kind's file is named after its resource.

pub(crate) mod access;
mod admission;
mod apps;
mod authorization;
mod autoscaling;
mod batch;
mod builtin;
mod certificates;
mod core;
mod disabled;
mod extension;
mod flowcontrol;
mod kind;
mod networking;
pub(crate) mod pod;
mod quantities;
mod rbac;
mod resource;
mod scheduling;
mod service;
mod storage;

pub use builtin::builtin;
pub use certificates::signing_request_organizations;

use crate::decode::zero_message;
use crate::meta::{self, NameRule};
use crate::schema::{FieldType, TypeRef};
use crate::status::Result;
use crate::validation::ErrorList;
use serde_json::Value;

/// Where the `scale` subresource finds its numbers. Paths are field names from the object's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScaleMapping {
    /// Desired replicas.
    pub spec_replicas: &'static [&'static str],
    /// Observed replicas.
    pub status_replicas: &'static [&'static str],
    /// The label selector; written to `status.selector` in string form.
    pub selector: &'static [&'static str],
}

/// How deleting an object goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// Remove at once, finalizers permitting.
    Now,
    /// Mark it and let an agent finish within so many seconds (pods).
    Graceful(i64),
}

/// What the generic behaviour needs to know of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traits {
    /// OpenAPI name of the type.
    pub schema: &'static str,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// What names are allowed.
    pub name: NameRule,
    /// Whether there is a status subresource; the main resource then leaves `status` alone.
    pub status: bool,
    /// Fields whose change makes a new generation; empty for kinds without.
    pub generation: &'static [&'static str],
}

/// The behaviour of a kind at one version.
pub trait Strategy: Sync + Send {
    /// What the generic behaviour needs to know.
    fn traits(&self) -> &Traits;

    /// Fills in defaults as upstream does for this version.
    fn default(&self, obj: &mut Value) {
        let _ = obj;
    }

    /// Sets the times that the server takes down where the client does not: `now` is an RFC 3339 time of whole seconds, `subresource` what
    /// is written to (`""` is the main resource). Doing it twice does what doing it once does.
    fn stamp(&self, subresource: &str, new: &mut Value, old: Option<&Value>, now: &str) {
        let _ = (subresource, new, old, now);
    }

    /// Converts between versions that share storage.
    fn convert(&self, obj: Value, from: &str, to: &str) -> Result<Value> {
        let _ = (from, to);
        Ok(obj)
    }

    /// Clears what a creator may not set and sets what the server sets (generation, phase).
    fn prepare_for_create(&self, obj: &mut Value) {
        generic_prepare_for_create(self.traits(), obj);
    }

    /// Carries over what an update of the main resource may not change; bumps the generation when the spec changed.
    fn prepare_for_update(&self, new: &mut Value, old: &Value) {
        generic_prepare_for_update(self.traits(), new, old);
    }

    /// Carries over everything but the status and the metadata that a status update may change.
    fn prepare_for_status_update(&self, new: &mut Value, old: &Value) {
        generic_prepare_for_status_update(new, old);
    }

    /// Checks the fields of a new object that are the kind's own.
    fn validate_fields(&self, obj: &Value, errors: &mut ErrorList) {
        let _ = (obj, errors);
    }

    /// Checks what an update may not change, and the new fields.
    fn validate_fields_update(&self, new: &Value, old: &Value, errors: &mut ErrorList) {
        let _ = old;
        self.validate_fields(new, errors);
    }

    /// Checks a new object, metadata included.
    fn validate(&self, obj: &Value) -> ErrorList {
        let traits = self.traits();
        let mut errors = meta::validate_object_meta(obj, traits.namespaced, traits.name);
        self.validate_fields(obj, &mut errors);
        errors
    }

    /// Checks an update of the main resource, metadata included.
    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = meta::validate_object_meta_update(new, old);
        self.validate_fields_update(new, old, &mut errors);
        errors
    }

    /// Checks what a status update made of the kind's own fields.
    fn validate_status_fields(&self, new: &Value, old: &Value, errors: &mut ErrorList) {
        let _ = (new, old, errors);
    }

    /// Checks an update of the status subresource, metadata included.
    fn validate_status_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = meta::validate_object_meta_update(new, old);
        self.validate_status_fields(new, old, &mut errors);
        errors
    }

    /// Carries over everything but what an update of a subresource other than `status` may change.
    fn prepare_for_subresource_update(&self, subresource: &str, new: &mut Value, old: &Value) {
        let _ = subresource;
        *new = old.clone();
    }

    /// Checks what an update of a subresource other than `status` made of the kind's own fields.
    fn validate_subresource_fields(
        &self,
        subresource: &str,
        new: &Value,
        old: &Value,
        errors: &mut ErrorList,
    ) {
        let _ = (subresource, new, old, errors);
    }

    /// Checks an update of a subresource other than `status`, metadata included.
    fn validate_subresource_update(&self, subresource: &str, new: &Value, old: &Value) -> ErrorList {
        let mut errors = meta::validate_object_meta_update(new, old);
        self.validate_subresource_fields(subresource, new, old, &mut errors);
        errors
    }

    /// Fields, as dotted paths, that a write to the main resource (`""`) or to a subresource leaves alone whatever the
    /// request says: nobody comes to own them by it.
    fn reset_fields(&self, subresource: &str) -> &'static [&'static str] {
        generic_reset_fields(self.traits(), subresource)
    }

    /// Warnings about what the creator of the object has said himself: before it is prepared.
    fn warnings_of_given(&self, obj: &Value) -> Vec<String> {
        let _ = obj;
        Vec::new()
    }

    /// Warnings for the creator of the object, or for the updater of the `old` one.
    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let _ = (obj, old);
        Vec::new()
    }

    /// Whether PUT makes a missing object.
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// Whether PUT works without a resourceVersion.
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// How a delete with the requested grace period goes about it.
    fn deletion(&self, obj: &Value, requested: Option<i64>) -> Deletion {
        let _ = (obj, requested);
        Deletion::Now
    }

    /// What a delete without a policy does to dependents: true orphans them.
    fn orphans_by_default(&self) -> bool {
        false
    }

    /// The `scale` subresource, if there is one.
    fn scale(&self) -> Option<ScaleMapping> {
        None
    }

    /// The fields selectable besides `metadata.name` and `metadata.namespace`, with their values.
    fn selectable_fields(&self, obj: &Value) -> Vec<(&'static str, String)> {
        let _ = obj;
        Vec::new()
    }

    /// Whether a field label is selectable (`metadata.name` and `metadata.namespace` always are).
    fn is_selectable(&self, label: &str) -> bool {
        self.selectable_fields(&Value::Null)
            .iter()
            .any(|(name, _)| *name == label)
    }
}

/// The default of [`Strategy::prepare_for_create`], for overrides that add to it.
pub fn generic_prepare_for_create(traits: &Traits, obj: &mut Value) {
    let metadata = meta::metadata_mut(obj);
    for field in [
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
    ] {
        metadata.remove(field);
    }
    if !traits.generation.is_empty() {
        metadata.insert("generation".into(), 1.into());
    }
    if traits.status {
        reset_status(traits, obj);
    }
}

/// Empties the status, as Go writes an empty one.
pub(crate) fn reset_status(traits: &Traits, obj: &mut Value) {
    let field = TypeRef::by_name(traits.schema).and_then(|schema| schema.field("status"));
    let Some(map) = obj.as_object_mut() else { return };
    match field.map(|f| (f.is_pointer(), f.ty())) {
        Some((false, FieldType::Message(status))) => map.insert("status".into(), zero_message(status)),
        _ => map.remove("status"),
    };
}

/// The default of [`Strategy::prepare_for_update`], for overrides that add to it.
pub fn generic_prepare_for_update(traits: &Traits, new: &mut Value, old: &Value) {
    meta::carry_over(new, old);
    if traits.status {
        keep(new, old, "status");
    }
    bump_generation(traits, new, old);
}

/// Makes a new generation if one of its fields changed.
pub(crate) fn bump_generation(traits: &Traits, new: &mut Value, old: &Value) {
    if traits
        .generation
        .iter()
        .any(|field| new.get(field) != old.get(field))
    {
        set_generation(new, meta::generation(old) + 1);
    }
}

/// Sets the number of the generation.
pub(crate) fn set_generation(obj: &mut Value, generation: i64) {
    meta::metadata_mut(obj).insert("generation".into(), generation.into());
}

/// The default of [`Strategy::prepare_for_status_update`], for overrides that add to it.
pub fn generic_prepare_for_status_update(new: &mut Value, old: &Value) {
    meta::carry_over(new, old);
    let mut next = old.clone();
    if let Some(out) = next.as_object_mut() {
        for field in ["metadata", "status"] {
            match new.get_mut(field).map(Value::take) {
                Some(value) => out.insert(field.into(), value),
                None => out.remove(field),
            };
        }
    }
    *new = next;
}

/// The default of [`Strategy::reset_fields`].
pub(crate) fn generic_reset_fields(traits: &Traits, subresource: &str) -> &'static [&'static str] {
    match subresource {
        "" if traits.status => &["status"],
        "status" => &["spec"],
        _ => &[],
    }
}

/// A status update that also leaves alone the metadata that users set.
pub(crate) fn prepare_for_status_update_alone(new: &mut Value, old: &Value) {
    generic_prepare_for_status_update(new, old);
    for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
        keep_metadata(new, old, field);
    }
}

/// The reset fields of kinds with [`prepare_for_status_update_alone`].
pub(crate) fn reset_metadata_too(traits: &Traits, subresource: &str) -> &'static [&'static str] {
    match subresource {
        "status" => &["metadata", "spec"],
        other => generic_reset_fields(traits, other),
    }
}

/// Puts a field of the metadata back to what it was.
pub(crate) fn keep_metadata(new: &mut Value, old: &Value, field: &str) {
    let before = meta::metadata(old).and_then(|m| m.get(field)).cloned();
    let metadata = meta::metadata_mut(new);
    match before {
        Some(value) => metadata.insert(field.into(), value),
        None => metadata.remove(field),
    };
}

/// Puts a field back to what it was.
pub(crate) fn keep(new: &mut Value, old: &Value, field: &str) {
    if let Some(map) = new.as_object_mut() {
        match old.get(field) {
            Some(value) => map.insert(field.into(), value.clone()),
            None => map.remove(field),
        };
    }
}
