//! A built-in kind's behaviour as a static row of functions: what a kind does not set, it does the generic way.

use super::disabled::drop_unused;
use super::{
    Deletion, ScaleMapping, Strategy, Traits, generic_prepare_for_create, generic_prepare_for_status_update,
    generic_prepare_for_update, generic_reset_fields,
};
use crate::meta::NameRule;
use crate::status::Result;
use crate::validation::ErrorList;
use serde_json::{Map, Value};

type Object = Map<String, Value>;
/// See [`Strategy::stamp`].
type Stamp = fn(&str, &mut Value, Option<&Value>, &str);
/// From one `apiVersion` to another.
type Convert = fn(Value, &str, &str) -> Result<Value>;

/// What updates of subresources other than `status` do: prepare and validate, by subresource.
#[derive(Clone, Copy)]
pub(crate) struct Subresources {
    pub(crate) prepare: fn(&Traits, &str, &mut Value, &Value),
    pub(crate) validate: fn(&str, &Value, &Value, &mut ErrorList),
}

/// The functions of a kind.
pub(crate) struct Kind {
    pub(super) traits: Traits,
    default: fn(&mut Object),
    stamp: Stamp,
    convert: Option<Convert>,
    create: fn(&Traits, &mut Value),
    update: fn(&Traits, &mut Value, &Value),
    status: fn(&mut Value, &Value),
    validate: fn(&Value, &mut ErrorList),
    /// `None`: the checks of a new object.
    validate_update: Option<fn(&Value, &Value, &mut ErrorList)>,
    validate_status: fn(&Value, &Value, &mut ErrorList),
    subresources: Option<Subresources>,
    reset: fn(&Traits, &str) -> &'static [&'static str],
    warn_of_given: fn(&Value) -> Vec<String>,
    warn: fn(&Value, Option<&Value>) -> Vec<String>,
    fields: fn(&Value) -> Vec<(&'static str, String)>,
    scale: Option<ScaleMapping>,
    deletion: fn(&Value, Option<i64>) -> Deletion,
    create_on_update: bool,
    unconditional_update: bool,
    orphans: bool,
}

impl Kind {
    /// A namespaced kind without status and generation.
    pub(crate) const fn namespaced(schema: &'static str) -> Kind {
        Kind {
            traits: Traits {
                schema,
                namespaced: true,
                name: NameRule::Subdomain,
                status: false,
                generation: &[],
            },
            default: |_| (),
            stamp: |_, _, _, _| (),
            convert: None,
            create: generic_prepare_for_create,
            update: generic_prepare_for_update,
            status: generic_prepare_for_status_update,
            validate: |_, _| (),
            validate_update: None,
            validate_status: |_, _, _| (),
            subresources: None,
            reset: generic_reset_fields,
            warn_of_given: |_| Vec::new(),
            warn: |_, _| Vec::new(),
            fields: |_| Vec::new(),
            scale: None,
            deletion: |_, _| Deletion::Now,
            create_on_update: false,
            unconditional_update: true,
            orphans: false,
        }
    }

    /// The same at cluster scope.
    pub(crate) const fn cluster(schema: &'static str) -> Kind {
        let mut kind = Kind::namespaced(schema);
        kind.traits.namespaced = false;
        kind
    }

    pub(crate) const fn name(mut self, rule: NameRule) -> Kind {
        self.traits.name = rule;
        self
    }

    pub(crate) const fn status(mut self) -> Kind {
        self.traits.status = true;
        self
    }

    /// Changes of these fields make a new generation.
    pub(crate) const fn generation(mut self, fields: &'static [&'static str]) -> Kind {
        self.traits.generation = fields;
        self
    }

    pub(crate) const fn defaults(mut self, default: fn(&mut Object)) -> Kind {
        self.default = default;
        self
    }

    pub(crate) const fn stamps(mut self, stamp: Stamp) -> Kind {
        self.stamp = stamp;
        self
    }

    pub(crate) const fn converts(mut self, convert: Convert) -> Kind {
        self.convert = Some(convert);
        self
    }

    pub(crate) const fn prepares_create(mut self, create: fn(&Traits, &mut Value)) -> Kind {
        self.create = create;
        self
    }

    pub(crate) const fn prepares_update(mut self, update: fn(&Traits, &mut Value, &Value)) -> Kind {
        self.update = update;
        self
    }

    pub(crate) const fn prepares_status(mut self, status: fn(&mut Value, &Value)) -> Kind {
        self.status = status;
        self
    }

    pub(crate) const fn validates(mut self, validate: fn(&Value, &mut ErrorList)) -> Kind {
        self.validate = validate;
        self
    }

    pub(crate) const fn validates_update(mut self, validate: fn(&Value, &Value, &mut ErrorList)) -> Kind {
        self.validate_update = Some(validate);
        self
    }

    pub(crate) const fn validates_status(mut self, validate: fn(&Value, &Value, &mut ErrorList)) -> Kind {
        self.validate_status = validate;
        self
    }

    pub(crate) const fn subresources(mut self, subresources: Subresources) -> Kind {
        self.subresources = Some(subresources);
        self
    }

    /// Instead of [`generic_reset_fields`].
    pub(crate) const fn resets(mut self, reset: fn(&Traits, &str) -> &'static [&'static str]) -> Kind {
        self.reset = reset;
        self
    }

    pub(crate) const fn warns(mut self, warn: fn(&Value, Option<&Value>) -> Vec<String>) -> Kind {
        self.warn = warn;
        self
    }

    pub(crate) const fn warns_of_given(mut self, warn: fn(&Value) -> Vec<String>) -> Kind {
        self.warn_of_given = warn;
        self
    }

    pub(crate) const fn selectable(mut self, fields: fn(&Value) -> Vec<(&'static str, String)>) -> Kind {
        self.fields = fields;
        self
    }

    pub(crate) const fn scales(mut self, scale: ScaleMapping) -> Kind {
        self.scale = Some(scale);
        self
    }

    pub(crate) const fn deletes(mut self, deletion: fn(&Value, Option<i64>) -> Deletion) -> Kind {
        self.deletion = deletion;
        self
    }

    pub(crate) const fn create_on_update(mut self) -> Kind {
        self.create_on_update = true;
        self
    }

    /// PUT needs a resourceVersion.
    pub(crate) const fn conditional_update(mut self) -> Kind {
        self.unconditional_update = false;
        self
    }

    pub(crate) const fn orphans(mut self) -> Kind {
        self.orphans = true;
        self
    }
}

impl Strategy for Kind {
    fn traits(&self) -> &Traits {
        &self.traits
    }

    fn default(&self, obj: &mut Value) {
        if let Value::Object(map) = obj {
            (self.default)(map);
        }
    }

    fn stamp(&self, subresource: &str, new: &mut Value, old: Option<&Value>, now: &str) {
        (self.stamp)(subresource, new, old, now);
    }

    fn convert(&self, obj: Value, from: &str, to: &str) -> Result<Value> {
        match self.convert {
            Some(convert) if from != to => convert(obj, from, to),
            _ => Ok(obj),
        }
    }

    fn prepare_for_create(&self, obj: &mut Value) {
        drop_unused(self.traits.schema, obj, None);
        (self.create)(&self.traits, obj);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value) {
        drop_unused(self.traits.schema, new, Some(old));
        (self.update)(&self.traits, new, old);
    }

    fn prepare_for_status_update(&self, new: &mut Value, old: &Value) {
        drop_unused(self.traits.schema, new, Some(old));
        (self.status)(new, old);
    }

    fn validate_fields(&self, obj: &Value, errors: &mut ErrorList) {
        (self.validate)(obj, errors);
    }

    fn validate_fields_update(&self, new: &Value, old: &Value, errors: &mut ErrorList) {
        match self.validate_update {
            Some(validate) => validate(new, old, errors),
            None => (self.validate)(new, errors),
        }
    }

    fn validate_status_fields(&self, new: &Value, old: &Value, errors: &mut ErrorList) {
        (self.validate_status)(new, old, errors);
    }

    fn prepare_for_subresource_update(&self, subresource: &str, new: &mut Value, old: &Value) {
        drop_unused(self.traits.schema, new, Some(old));
        match self.subresources {
            Some(of) => (of.prepare)(&self.traits, subresource, new, old),
            None => *new = old.clone(),
        }
    }

    fn validate_subresource_fields(
        &self,
        subresource: &str,
        new: &Value,
        old: &Value,
        errors: &mut ErrorList,
    ) {
        if let Some(of) = self.subresources {
            (of.validate)(subresource, new, old, errors);
        }
    }

    fn reset_fields(&self, subresource: &str) -> &'static [&'static str] {
        (self.reset)(&self.traits, subresource)
    }

    fn warnings_of_given(&self, obj: &Value) -> Vec<String> {
        (self.warn_of_given)(obj)
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        (self.warn)(obj, old)
    }

    fn allow_create_on_update(&self) -> bool {
        self.create_on_update
    }

    fn allow_unconditional_update(&self) -> bool {
        self.unconditional_update
    }

    fn deletion(&self, obj: &Value, requested: Option<i64>) -> Deletion {
        (self.deletion)(obj, requested)
    }

    fn orphans_by_default(&self) -> bool {
        self.orphans
    }

    fn scale(&self) -> Option<ScaleMapping> {
        self.scale
    }

    fn selectable_fields(&self, obj: &Value) -> Vec<(&'static str, String)> {
        (self.fields)(obj)
    }
}
