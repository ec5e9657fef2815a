//! What a Kubernetes resource is: the registry, field schemas, decoding, defaulting, validation, selectors,
//! patch engines, tables, discovery and OpenAPI.
//!
//! Everything here is a pure function of its arguments. The crate does no I/O, reads no clock and rolls no dice:
//! times, uids and random suffixes are arguments. Objects are [`serde_json::Value`]; a built-in kind is a
//! [`registry::Resource`] made from static data plus a [`strategy::Strategy`] for what data cannot say.
//!
//! Bytes from outside go through [`decode`], which never panics and bounds size and depth.

pub mod apply;
pub mod decode;
pub mod discovery;
pub mod meta;
pub mod openapi;
pub mod patch;
pub mod printers;
pub mod quantity;
pub mod registry;
pub mod schema;
pub mod selector;
pub mod status;
pub mod strategy;
pub mod table;
pub mod validation;
