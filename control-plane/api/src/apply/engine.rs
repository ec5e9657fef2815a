//! What a write does to the managers of an object, and what applying makes of it.

use super::conflict::Conflict;
use super::field_set::FieldSet;
use super::last_applied::{KUBECTL, fields_from_client, refresh};
use super::managers::{Entry, Manager, ManagerError, Operation, cap_updates, decode, encode, is_reset};
use super::shape::Shape;
use super::tree::{Difference, fields_of, known_fields_of, merge, remove, with_named};
use crate::decode::zero_message;
use crate::schema::TypeRef;
use serde_json::Value;
use std::sync::LazyLock;

/// Who owned the fields of an object that nobody had tracked when it was first applied to.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// Who writes without a name.
const UNKNOWN: &str = "unknown";

/// Metadata that nobody owns.
static UNTRACKED: LazyLock<FieldSet> = LazyLock::new(|| {
    FieldSet::of(&[
        "apiVersion",
        "kind",
        "metadata",
        "metadata.name",
        "metadata.namespace",
        "metadata.creationTimestamp",
        "metadata.selfLink",
        "metadata.uid",
        "metadata.generation",
        "metadata.managedFields",
        "metadata.resourceVersion",
    ])
});

/// The other versions of a kind: entries name fields as their version has them.
pub trait Versions {
    /// The schema at a version; `None` when it is not served.
    fn schema(&self, api_version: &str) -> Option<TypeRef>;

    /// An object at another version; `None` when it cannot be had there.
    fn convert(&self, object: &Value, from: &str, to: &str) -> Option<Value>;
}

/// A write, as far as tracking needs to know it.
#[derive(Clone, Copy)]
pub struct Write<'a> {
    /// Who writes.
    pub manager: &'a str,
    /// The version of the objects at hand.
    pub api_version: &'a str,
    /// The subresource that is written, or empty.
    pub subresource: &'a str,
    /// Fields, as dotted paths, that this endpoint leaves alone, whatever the request says.
    pub reset: &'a [&'a str],
    /// The time of the write.
    pub now: &'a str,
    /// The schema at [`Write::api_version`].
    pub schema: TypeRef,
    /// The other versions.
    pub versions: &'a dyn Versions,
}

/// What applying makes.
#[derive(Debug)]
pub struct Applied {
    /// The object, values as the configuration spells them and nulls where something became empty.
    pub object: Value,
    /// Its `managedFields`.
    pub managed_fields: Option<Value>,
}

/// Why a configuration cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The live object's `managedFields` cannot be read.
    #[error("failed to decode managed fields: {0}")]
    Managers(#[from] ManagerError),
    /// The configuration has fields that cannot be.
    #[error("{}", join(.0))]
    Config(Vec<String>),
    /// Others own fields with other values.
    #[error("{} conflicts", .0.len())]
    Conflicts(Vec<Conflict>),
    /// The merged object is malformed.
    #[error(transparent)]
    Malformed(#[from] crate::status::Status),
}

fn join(errors: &[String]) -> String {
    match errors {
        [one] => one.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    }
}

impl Write<'_> {
    fn shape(&self) -> Shape {
        Shape::of_type(self.schema)
    }

    fn manager(&self, operation: Operation) -> Manager {
        let name = if self.manager.is_empty() {
            UNKNOWN
        } else {
            self.manager
        };
        Manager {
            name: name.into(),
            operation,
            api_version: self.api_version.into(),
            subresource: self.subresource.into(),
        }
    }

    fn reset(&self) -> FieldSet {
        FieldSet::of(self.reset)
    }

    fn difference(&self, old: &Value, new: &Value) -> Difference {
        Difference::between(self.shape(), old, new).without(&self.reset())
    }
}

/// The `managedFields` of an object after a write other than apply.
///
/// `live` is the object before and its `managedFields`, `None` when the write creates it; `given` is what the request has
/// in `metadata.managedFields`. Both objects come without them. An object without managers stays so until it is applied to.
pub fn track(
    write: &Write<'_>,
    live: Option<(&Value, Option<&Value>)>,
    new: &Value,
    given: Option<&Value>,
) -> Option<Value> {
    let before = live.and_then(|(_, managed)| managed);
    let given = given.filter(|_| write.subresource.is_empty());
    if live.is_some() && given.is_some_and(is_reset) {
        return None;
    }
    let given = given
        .filter(|given| Some(*given) != before)
        .and_then(|given| decode(given).ok())
        .filter(|entries| !entries.is_empty());
    if live.is_some() && before.is_none() && given.is_none() {
        return None;
    }
    let zero;
    let old = match live {
        Some((object, _)) => object,
        None => {
            zero = zero_message(write.schema);
            &zero
        }
    };
    let difference = write.difference(old, new);
    let mut entries = match given {
        Some(entries) => entries,
        None if difference.is_empty() => return before.cloned(),
        None => before.and_then(|before| decode(before).ok()).unwrap_or_default(),
    };
    let mut versioned = Versioned::new(write, old, new);
    entries.retain_mut(|entry| {
        let Some(difference) = versioned.difference(&difference, &entry.manager.api_version) else {
            return false;
        };
        entry.fields.subtract(&difference.changed);
        entry.fields.subtract(&difference.removed);
        true
    });
    let mut own = difference.changed;
    own.subtract(&UNTRACKED);
    if !own.is_empty() {
        let manager = write.manager(Operation::Update);
        let time = Some(write.now.to_string());
        match entries.iter_mut().find(|entry| entry.manager.is(&manager)) {
            Some(entry) => {
                entry.fields.add(&own);
                entry.time = time;
            }
            None => entries.push(Entry {
                manager,
                time,
                fields: own,
            }),
        }
    }
    entries.retain(|entry| !entry.fields.is_empty());
    cap_updates(&mut entries);
    encode(entries)
}

/// Applies a configuration. `live` is the object before and its `managedFields`, `None` when there is none yet.
///
/// `settle` brings a merged object into the form that live objects have, so that one value spelled in two ways is no
/// conflict.
///
/// # Errors
///
/// See [`ApplyError`]; nothing is changed then.
pub fn apply(
    write: &Write<'_>,
    live: Option<(&Value, Option<&Value>)>,
    config: &Value,
    force: bool,
    settle: impl Fn(Value) -> Result<Value, crate::status::Status>,
) -> Result<Applied, ApplyError> {
    let mut applied = match apply_once(write, live, config, force, &settle) {
        Err(ApplyError::Conflicts(conflicts)) if write.manager == KUBECTL => {
            let allowed =
                live.and_then(|(live, _)| fields_from_client(write.shape(), live, write.api_version));
            let allowed = allowed.map(|fields| fields.paths()).unwrap_or_default();
            let left: Vec<Conflict> = conflicts
                .into_iter()
                .filter(|conflict| !allowed.contains(&conflict.path))
                .collect();
            if !left.is_empty() {
                return Err(ApplyError::Conflicts(left));
            }
            apply_once(write, live, config, true, &settle)?
        }
        other => other?,
    };
    if write.manager == KUBECTL {
        refresh(&mut applied.object, config);
    }
    Ok(applied)
}

fn apply_once(
    write: &Write<'_>,
    live: Option<(&Value, Option<&Value>)>,
    config: &Value,
    force: bool,
    settle: &impl Fn(Value) -> Result<Value, crate::status::Status>,
) -> Result<Applied, ApplyError> {
    let shape = write.shape();
    let mut fields = fields_of(shape, config).map_err(ApplyError::Config)?;
    fields.subtract_trees(&write.reset());
    fields.subtract(&UNTRACKED);

    let zero = zero_message(write.schema);
    let (old, mut entries) = match live {
        Some((object, managed)) => (object, decode(managed.unwrap_or(&Value::Null))?),
        None => (&zero, Vec::new()),
    };
    if entries.is_empty() && live.is_some() {
        entries.extend(before_first_apply(write, &zero, old));
    }
    let manager = write.manager(Operation::Apply);
    let place = entries.iter().position(|entry| entry.manager.is(&manager));
    let last = place.map(|place| entries.remove(place));
    let mut own = Entry {
        manager,
        time: Some(write.now.to_string()),
        fields,
    };

    let merged = merge(shape, if live.is_some() { old } else { &Value::Null }, config);
    let merged = match &last {
        Some(last) => prune(write, merged, &entries, &own, last),
        None => merged,
    };
    let object = settle(merged)?;

    let difference = write.difference(old, &object);
    let mut versioned = Versioned::new(write, old, &object);
    let mut conflicts = Vec::new();
    entries.retain_mut(|entry| {
        let Some(difference) = versioned.difference(&difference, &entry.manager.api_version) else {
            return false;
        };
        let taken = entry.fields.intersection(&difference.changed);
        conflicts.extend(
            taken
                .paths()
                .into_iter()
                .map(|path| Conflict::new(&entry.manager, path)),
        );
        entry.fields.subtract(&difference.changed);
        entry.fields.subtract(&difference.removed);
        true
    });
    if !force && !conflicts.is_empty() {
        return Err(ApplyError::Conflicts(conflicts));
    }
    if let Some(last) = last
        && difference.is_empty()
        && last.fields == own.fields
        && last.manager == own.manager
    {
        own.time = last.time;
    }
    entries.push(own);
    Ok(Applied {
        object,
        managed_fields: encode(entries),
    })
}

/// The entry of all that was there before anybody was tracked.
fn before_first_apply(write: &Write<'_>, zero: &Value, live: &Value) -> Option<Entry> {
    let mut fields = write.difference(zero, live).changed;
    fields.subtract(&UNTRACKED);
    let manager = Write {
        manager: BEFORE_FIRST_APPLY,
        subresource: "",
        ..*write
    }
    .manager(Operation::Update);
    (!fields.is_empty()).then(|| Entry {
        manager,
        time: Some(write.now.to_string()),
        fields,
    })
}

/// Removes what the applier named last time and names no longer, unless somebody else owns it.
fn prune(write: &Write<'_>, merged: Value, others: &[Entry], own: &Entry, last: &Entry) -> Value {
    if last.fields.is_empty() {
        return merged;
    }
    let (here, there) = (write.api_version, last.manager.api_version.as_str());
    if here == there {
        return prune_at(write.shape(), write, &merged, others, own, last);
    }
    let Some(schema) = write.versions.schema(there) else {
        return merged;
    };
    let Some(converted) = write.versions.convert(&merged, here, there) else {
        return merged;
    };
    let pruned = prune_at(Shape::of_type(schema), write, &converted, others, own, last);
    write.versions.convert(&pruned, there, here).unwrap_or(merged)
}

/// The same on an object at the version of the last configuration.
fn prune_at(
    shape: Shape,
    write: &Write<'_>,
    merged: &Value,
    others: &[Entry],
    own: &Entry,
    last: &Entry,
) -> Value {
    let version = last.manager.api_version.as_str();
    let all = with_named(shape, &known_fields_of(shape, merged));
    let last = with_named(shape, &last.fields);
    // What is left when all goes that the applier had, and what others or the new configuration have comes back.
    let mut keep = known_fields_of(shape, &remove(shape, merged, &last));
    for entry in others.iter().chain([own]) {
        if entry.manager.api_version == version {
            keep.add(&entry.fields);
        } else if let Some(fields) = translated(write, merged, version, entry) {
            keep.add(&fields);
        }
    }
    let keep = with_named(shape, &keep);
    let mut gone = all;
    gone.subtract(&keep);
    // Only what the applier had may go.
    let gone = gone.intersection(&last);
    remove(shape, merged, &gone)
}

/// An entry's fields in the words of another version: those of the object with nothing but them in it.
fn translated(write: &Write<'_>, merged: &Value, version: &str, entry: &Entry) -> Option<FieldSet> {
    let theirs = entry.manager.api_version.as_str();
    let shape = Shape::of_type(write.versions.schema(theirs)?);
    let object = write.versions.convert(merged, version, theirs)?;
    let mut others = known_fields_of(shape, &object);
    others.subtract(&with_named(shape, &entry.fields));
    let only = remove(shape, &object, &others);
    let back = write.versions.convert(&only, theirs, version)?;
    let here = Shape::of_type(write.versions.schema(version)?);
    Some(known_fields_of(here, &back))
}

/// The difference of two objects at the versions that entries are in.
struct Versioned<'a> {
    write: &'a Write<'a>,
    old: &'a Value,
    new: &'a Value,
    known: Vec<(String, Option<Difference>)>,
}

impl<'a> Versioned<'a> {
    fn new(write: &'a Write<'a>, old: &'a Value, new: &'a Value) -> Self {
        Versioned {
            write,
            old,
            new,
            known: Vec::new(),
        }
    }

    /// The difference at a version, `own` being that at the version of the write; `None` when it is not served.
    fn difference<'s>(&'s mut self, own: &'s Difference, version: &str) -> Option<&'s Difference> {
        if version == self.write.api_version {
            return Some(own);
        }
        let at = match self.known.iter().position(|(known, _)| known == version) {
            Some(at) => at,
            None => {
                self.known.push((version.to_string(), self.at(version)));
                self.known.len() - 1
            }
        };
        self.known[at].1.as_ref()
    }

    fn at(&self, version: &str) -> Option<Difference> {
        let versions = self.write.versions;
        let shape = Shape::of_type(versions.schema(version)?);
        let old = versions.convert(self.old, self.write.api_version, version)?;
        let new = versions.convert(self.new, self.write.api_version, version)?;
        Some(Difference::between(shape, &old, &new).without(&self.write.reset()))
    }
}
