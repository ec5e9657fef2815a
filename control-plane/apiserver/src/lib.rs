//! The API server: HTTP over the store.
//!
//! What it watches: the store, from the root. What it alone writes: the store; everybody else writes through it. What it
//! never does: know a kind. A request is request info, authentication, authorization, then one handler for its verb, written
//! once over the [`api`] crate's registry entry; the few real special cases (bindings, evictions, tokens, streams) have
//! a file each.
//!
//! Lists, gets and watches are served from the watch cache, which holds each object once, as the bytes that are sent.

mod admission;
mod authn;
mod authz;
mod body;
mod bootstrap;
mod context;
mod documents;
#[doc(hidden)]
pub mod fuzzing;
mod handlers;
mod health;
mod impersonation;
mod internal;
mod limits;
mod list_body;
mod metrics;
mod negotiation;
mod pipeline;
mod protobuf;
mod request_info;
mod respond;
mod serve;
mod server;
mod service_allocation;
mod storage;
mod streaming;
mod watch_cache;

#[cfg(test)]
mod tests;

pub use authn::UserInfo;
pub use body::{Body, BoxError};
pub use documents::KUBERNETES_VERSION;
pub use serve::Listening;
pub use server::{Config, Error, Server};
