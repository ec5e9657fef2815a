//! Which objects a list or a watch is about.

use std::sync::Arc;

use api::{
    registry::Resource,
    selector::{FieldSelector, LabelOp, LabelSelector},
};

use super::{Event, Object};

/// A namespace and two selectors.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// Empty means all namespaces.
    pub(crate) namespace: String,
    pub(crate) labels: LabelSelector,
    pub(crate) fields: FieldSelector,
    /// The version whose field names the selector uses, when it is not the stored one.
    pub(crate) version: Option<Arc<Resource>>,
}

/// What a change is to somebody who sees only a part of the objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Added,
    Modified,
    Deleted,
}

impl Change {
    /// The `type` of the watch event.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Change::Added => "ADDED",
            Change::Modified => "MODIFIED",
            Change::Deleted => "DELETED",
        }
    }
}

impl Filter {
    /// Whether there is anything to select by beside the namespace; `remainingItemCount` is only known without.
    pub(crate) fn selects(&self) -> bool {
        !self.labels.is_empty() || !self.fields.is_empty()
    }

    /// The name that an object must have, if the selector says so.
    pub(super) fn name(&self) -> Option<&str> {
        let requirements = self.fields.requirements().iter();
        let mut names = requirements.filter(|one| one.field == "metadata.name" && one.equal);
        names.next().map(|one| one.value.as_str())
    }

    pub(crate) fn matches(&self, object: &Object) -> bool {
        (self.namespace.is_empty() || self.namespace == object.namespace())
            && labels_match(&self.labels, |key| object.label(key))
            && self.fields_match(object)
    }

    fn fields_match(&self, object: &Object) -> bool {
        let Some(resource) = self.version.as_deref().filter(|_| !self.fields.is_empty()) else {
            return self.fields.matches(|field| object.field(field));
        };
        let Some(value) = object.value_as(resource) else {
            return false;
        };
        let fields = resource.strategy.selectable_fields(&value);
        self.fields.matches(|field| {
            let own = fields
                .iter()
                .find(|(name, _)| *name == field)
                .map(|(_, value)| value.as_str());
            own.or_else(|| {
                field
                    .starts_with("metadata.")
                    .then(|| object.field(field))
                    .flatten()
            })
        })
    }

    /// What an event means within the filter; an object that leaves it is deleted, one that enters is added.
    pub(crate) fn classify(&self, event: &Event) -> Option<Change> {
        let matched = |object: &Option<_>| object.as_deref().is_some_and(|object| self.matches(object));
        match (matched(&event.previous), matched(&event.current)) {
            (false, false) => None,
            (false, true) => Some(Change::Added),
            (true, true) => Some(Change::Modified),
            (true, false) => Some(Change::Deleted),
        }
    }
}

/// Whether a label selector matches labels that are looked up one by one.
fn labels_match<'a>(selector: &LabelSelector, get: impl Fn(&str) -> Option<&'a str>) -> bool {
    selector.requirements().iter().all(|requirement| {
        let value = get(&requirement.key);
        let among = |value: &str| requirement.values.iter().any(|allowed| allowed == value);
        let compare = |holds: fn(&i64, &i64) -> bool| {
            let (value, bound) = (
                value.and_then(|value| value.parse().ok()),
                requirement.values.first(),
            );
            let bound = bound.and_then(|bound| bound.parse().ok());
            value
                .zip(bound)
                .is_some_and(|(value, bound)| holds(&value, &bound))
        };
        match requirement.op {
            LabelOp::In => value.is_some_and(among),
            LabelOp::NotIn => !value.is_some_and(among),
            LabelOp::Exists => value.is_some(),
            LabelOp::DoesNotExist => value.is_none(),
            LabelOp::Gt => compare(i64::gt),
            LabelOp::Lt => compare(i64::lt),
        }
    })
}
