//! Server-side apply: who owns which fields of an object, and what an applied configuration makes of it.
//!
//! Every write leaves its mark in `metadata.managedFields`: an entry per manager with the set of fields it gave their
//! values. [`track`] keeps the entries up to date for ordinary writes; [`apply`] merges a configuration into the live
//! object, refuses to take what others own unless told to, and removes what the manager named last time but no longer.
//!
//! The merge runs over a [`shape`]: what a value is, as far as merging is concerned. Shapes of built-in kinds come from
//! the schema tables; everything else here only knows shapes. Objects come and go without their `managedFields`, which
//! the caller holds apart: nothing then ever compares or copies them along with the object.

mod conflict;
mod engine;
mod field_set;
mod last_applied;
mod managers;
mod shape;
#[cfg(test)]
mod tests;
mod tree;
mod versions;

pub use conflict::{Conflict, conflict_status};
pub use engine::{Applied, ApplyError, Versions, Write, apply, track};
pub use field_set::FieldSet;
pub use managers::{ManagerError, ManagerProblem, equal_but_times, manager_from_user_agent, manager_problem};
pub use versions::ServedVersions;
