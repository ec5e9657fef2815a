//! The entries of `metadata.managedFields`.

use super::field_set::FieldSet;
use serde_json::{Map, Value};
use std::cmp::Ordering;

/// The most entries of operation Update; older ones beyond are put together.
const MAX_UPDATE_MANAGERS: usize = 10;
/// Who owns what was put together.
const ANCIENT_CHANGES: &str = "ancient-changes";
/// The longest name of a manager, in bytes.
const MAX_NAME: usize = 128;

/// How a manager came by its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    /// Server-side apply.
    Apply,
    /// Any other write.
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// Who owns fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manager {
    pub(super) name: String,
    pub(super) operation: Operation,
    pub(super) api_version: String,
    pub(super) subresource: String,
}

impl Manager {
    /// Whether both are the same. An applier stays who it is when it changes to another version.
    pub(super) fn is(&self, other: &Manager) -> bool {
        self.name == other.name
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }
}

/// What a manager owns.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) manager: Manager,
    pub(super) time: Option<String>,
    pub(super) fields: FieldSet,
}

/// Why `managedFields` cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ManagerError {
    /// An entry's operation is neither `Apply` nor `Update`.
    #[error("invalid operation `{0}`")]
    Operation(String),
    /// An entry is not of type `FieldsV1`.
    #[error("invalid fieldsType `{0}`")]
    FieldsType(String),
    /// An entry's fields are malformed.
    #[error("error decoding fieldsV1 of manager `{0}`")]
    Fields(String),
}

/// Reads `metadata.managedFields`.
pub(super) fn decode(managed_fields: &Value) -> Result<Vec<Entry>, ManagerError> {
    let mut entries: Vec<Entry> = Vec::new();
    for value in managed_fields.as_array().into_iter().flatten() {
        let entry = decode_entry(value)?;
        match entries.iter_mut().find(|e| e.manager.is(&entry.manager)) {
            Some(earlier) => *earlier = entry,
            None => entries.push(entry),
        }
    }
    Ok(entries)
}

fn decode_entry(value: &Value) -> Result<Entry, ManagerError> {
    let text = |field: &str| value[field].as_str().unwrap_or_default().to_string();
    let operation = match value["operation"].as_str() {
        Some("Apply") => Operation::Apply,
        Some("Update") => Operation::Update,
        other => return Err(ManagerError::Operation(other.unwrap_or_default().to_string())),
    };
    match value["fieldsType"].as_str() {
        Some("FieldsV1") => {}
        other => return Err(ManagerError::FieldsType(other.unwrap_or_default().to_string())),
    }
    let fields = match &value["fieldsV1"] {
        Value::Null => Some(FieldSet::default()),
        fields => FieldSet::from_fields_v1(fields),
    };
    Ok(Entry {
        time: value["time"].as_str().map(str::to_string),
        fields: fields.ok_or_else(|| ManagerError::Fields(text("manager")))?,
        manager: Manager {
            name: text("manager"),
            operation,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
        },
    })
}

/// Writes `metadata.managedFields`; `None` when nobody owns anything.
pub(super) fn encode(mut entries: Vec<Entry>) -> Option<Value> {
    entries.retain(|entry| !entry.fields.is_empty());
    entries.sort_by(in_order);
    let entries: Vec<Value> = entries.iter().map(encode_entry).collect();
    (!entries.is_empty()).then_some(Value::Array(entries))
}

/// Appliers first, then by age.
fn in_order(a: &Entry, b: &Entry) -> Ordering {
    let key = |entry: &Entry| (entry.manager.operation, seconds(entry));
    key(a)
        .cmp(&key(b))
        .then_with(|| a.manager.name.cmp(&b.manager.name))
        .then_with(|| a.manager.api_version.cmp(&b.manager.api_version))
        .then_with(|| a.manager.subresource.cmp(&b.manager.subresource))
}

fn seconds(entry: &Entry) -> i64 {
    let time = entry.time.as_deref().and_then(|time| time.parse().ok());
    time.map_or(0, jiff::Timestamp::as_second)
}

fn encode_entry(entry: &Entry) -> Value {
    let mut out = Map::new();
    let mut text = |field: &str, value: &str| {
        if !value.is_empty() {
            out.insert(field.into(), value.into());
        }
    };
    text("manager", &entry.manager.name);
    text("operation", entry.manager.operation.as_str());
    text("apiVersion", &entry.manager.api_version);
    text("subresource", &entry.manager.subresource);
    text("time", entry.time.as_deref().unwrap_or_default());
    text("fieldsType", "FieldsV1");
    out.insert("fieldsV1".into(), entry.fields.to_fields_v1());
    Value::Object(out)
}

/// Puts the oldest updates of a version together until few enough entries are left.
pub(super) fn cap_updates(entries: &mut Vec<Entry>) {
    let updates = |entries: &[Entry]| {
        let update = |entry: &&Entry| entry.manager.operation == Operation::Update;
        entries.iter().filter(update).count()
    };
    let mut left = updates(entries);
    if left <= MAX_UPDATE_MANAGERS {
        return;
    }
    entries.sort_by(in_order);
    // Appliers sort first: what follows them are the updates, oldest first.
    let mut at = entries.len() - left;
    while left > MAX_UPDATE_MANAGERS && at < entries.len() {
        let version = &entries[at].manager.api_version;
        let earlier = entries[..at]
            .iter()
            .rposition(|e| e.manager.operation == Operation::Update && e.manager.api_version == *version);
        let Some(bucket) = earlier else {
            at += 1;
            continue;
        };
        let merged = entries.remove(at);
        let bucket = &mut entries[bucket];
        bucket.manager.name = ANCIENT_CHANGES.into();
        bucket.manager.subresource.clear();
        bucket.fields.add(&merged.fields);
        bucket.time = merged.time;
        left -= 1;
    }
}

/// Whether the request asks to forget all managers: an empty list, or one empty entry.
pub(super) fn is_reset(managed_fields: &Value) -> bool {
    match managed_fields.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([Value::Object(entry)]) => entry.is_empty(),
        _ => false,
    }
}

/// Whether two `managedFields` say the same but for the times.
pub fn equal_but_times(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_array(), b.as_array()) else {
        return a == b;
    };
    let same = |a: &Value, b: &Value| match (a.as_object(), b.as_object()) {
        (Some(a), Some(b)) => {
            let said = |map| Map::iter(map).filter(|(key, _)| *key != "time");
            said(a).eq(said(b))
        }
        _ => a == b,
    };
    // Times decide on the order too.
    a.len() == b.len() && a.iter().all(|a| b.iter().any(|b| same(a, b)))
}

/// The manager that a `User-Agent` stands for: what is before the first `/`.
pub fn manager_from_user_agent(user_agent: &str) -> String {
    let name = user_agent.split('/').next().unwrap_or_default();
    let mut out = String::new();
    for c in name.chars().filter(|c| !c.is_control()) {
        if out.len() + c.len_utf8() > MAX_NAME {
            break;
        }
        out.push(c);
    }
    out
}

/// What is wrong with a `fieldManager`.
pub fn manager_problem(name: &str) -> Option<ManagerProblem> {
    if name.len() > MAX_NAME {
        return Some(ManagerProblem::TooLong(MAX_NAME));
    }
    let unprintable = name.char_indices().find(|(_, c)| c.is_control());
    unprintable.map(|(i, _)| ManagerProblem::NotPrintable(i))
}

/// See [`manager_problem`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManagerProblem {
    /// Longer than so many bytes.
    TooLong(usize),
    /// The character at this byte cannot be printed.
    NotPrintable(usize),
}
