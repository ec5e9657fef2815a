//! The store behind an object-safe door, so that the server is not generic over which store it runs on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use store::{ListOptions, Listing, Result, Revision, Store, WatchStream};

use crate::metrics::Metrics;

/// The store as the server holds it.
pub(crate) type Storage = Arc<dyn DynStore>;

/// Every key of the API server lies below this prefix, so that a watch of it sees every revision.
pub(crate) const ROOT: &str = "/registry/";

/// [`Store`] with boxed futures; see there for what the methods promise.
pub(crate) trait DynStore: Send + Sync + 'static {
    fn list<'a>(&'a self, prefix: &'a str, options: ListOptions) -> BoxFuture<'a, Result<Listing>>;
    fn create<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        ttl: Option<Duration>,
    ) -> BoxFuture<'a, Result<Revision>>;
    fn update<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        expected: Revision,
        ttl: Option<Duration>,
    ) -> BoxFuture<'a, Result<Revision>>;
    fn delete<'a>(&'a self, key: &'a str, expected: Revision) -> BoxFuture<'a, Result<Revision>>;
    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> BoxFuture<'a, Result<WatchStream>>;
    fn current_revision(&self) -> BoxFuture<'_, Result<Revision>>;
    fn size_bytes(&self) -> BoxFuture<'_, Result<u64>>;
}

/// A store whose answers are timed.
pub(crate) struct Measured<S> {
    store: Arc<S>,
    metrics: Arc<Metrics>,
}

impl<S: Store> Measured<S> {
    pub(crate) fn new(store: Arc<S>, metrics: Arc<Metrics>) -> Self {
        Measured { store, metrics }
    }

    /// Times an operation on a key or a prefix.
    async fn timed<T>(
        &self,
        operation: &'static str,
        key: &str,
        answer: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let start = Instant::now();
        let answer = answer.await;
        let failed = answer.as_ref().is_err_and(|error| {
            !matches!(
                error,
                store::Error::Conflict { .. } | store::Error::AlreadyExists { .. }
            )
        });
        self.metrics
            .stored(operation, resource_prefix(key), start.elapsed(), failed);
        answer
    }
}

/// The part of a key that names the resource: `/registry/pods/`, `/registry/services/specs/` or
/// `/registry/apiregistration.k8s.io/apiservices/`.
fn resource_prefix(key: &str) -> &str {
    let Some(rest) = key.strip_prefix(ROOT) else {
        return ROOT;
    };
    let first = rest.split('/').next().unwrap_or_default();
    let segments = if first == "services" || first.contains('.') {
        2
    } else {
        1
    };
    match rest.match_indices('/').nth(segments - 1) {
        Some((at, _)) => &key[..ROOT.len() + at + 1],
        None => ROOT,
    }
}

impl<S: Store> DynStore for Measured<S> {
    fn list<'a>(&'a self, prefix: &'a str, options: ListOptions) -> BoxFuture<'a, Result<Listing>> {
        Box::pin(self.timed("list", prefix, self.store.list(prefix, options)))
    }

    fn create<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        ttl: Option<Duration>,
    ) -> BoxFuture<'a, Result<Revision>> {
        Box::pin(self.timed("create", key, self.store.create(key, value, ttl)))
    }

    fn update<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        expected: Revision,
        ttl: Option<Duration>,
    ) -> BoxFuture<'a, Result<Revision>> {
        Box::pin(self.timed("update", key, self.store.update(key, value, expected, ttl)))
    }

    fn delete<'a>(&'a self, key: &'a str, expected: Revision) -> BoxFuture<'a, Result<Revision>> {
        Box::pin(self.timed("delete", key, self.store.delete(key, expected)))
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> BoxFuture<'a, Result<WatchStream>> {
        Box::pin(self.store.watch(prefix, after))
    }

    fn current_revision(&self) -> BoxFuture<'_, Result<Revision>> {
        Box::pin(self.store.current_revision())
    }

    fn size_bytes(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(self.store.size_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_their_resource() {
        for (key, prefix) in [
            ("/registry/pods/default/a", "/registry/pods/"),
            ("/registry/services/specs/default/a", "/registry/services/specs/"),
            ("/registry/namespaces/default", "/registry/namespaces/"),
            (
                "/registry/apiregistration.k8s.io/apiservices/v1.",
                "/registry/apiregistration.k8s.io/apiservices/",
            ),
            ("/registry/", "/registry/"),
            ("/elsewhere", "/registry/"),
        ] {
            assert_eq!(resource_prefix(key), prefix, "{key}");
        }
    }
}
