//! Fields that an applied configuration sets and somebody else owns.

use super::managers::{Manager, Operation};
use crate::status::{Status, quote};
use std::collections::BTreeMap;

/// A field that somebody else owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The owner, as messages name it: `"kubectl" using apps/v1`.
    pub manager: String,
    /// The field: `.spec.replicas`.
    pub path: String,
}

impl Conflict {
    pub(super) fn new(manager: &Manager, path: String) -> Conflict {
        let mut text = quote(&manager.name);
        if !manager.subresource.is_empty() {
            text += &format!(" with subresource {}", quote(&manager.subresource));
        }
        if manager.operation == Operation::Update {
            text += &format!(" using {}", manager.api_version);
        }
        Conflict { manager: text, path }
    }
}

/// 409 with a cause per field.
pub fn conflict_status(conflicts: &[Conflict]) -> Status {
    let status = Status::failure(409, "Conflict", message(conflicts));
    conflicts.iter().fold(status, |status, conflict| {
        let why = format!("conflict with {}", conflict.manager);
        status.with_cause("FieldManagerConflict", why, &conflict.path)
    })
}

fn message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            one.manager, one.path
        );
    }
    let mut by_manager: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for conflict in conflicts {
        by_manager
            .entry(&conflict.manager)
            .or_default()
            .push(&conflict.path);
    }
    let mut lines = Vec::new();
    for (manager, paths) in by_manager {
        lines.push(format!("conflicts with {manager}:"));
        lines.extend(paths.iter().map(|path| format!("- {path}")));
    }
    format!(
        "Apply failed with {} conflicts: {}",
        conflicts.len(),
        lines.join("\n")
    )
}
