//! Label and field selectors.

mod field;
mod label;

pub use field::{FieldRequirement, FieldSelector};
pub use label::{LabelOp, LabelRequirement, LabelSelector};
