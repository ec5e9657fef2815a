//! The store behind an object-safe door, so that the server is not generic over which store it runs on.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use store::{ListOptions, Listing, Result, Revision, Store, WatchStream};

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
}

impl<S: Store> DynStore for S {
    fn list<'a>(&'a self, prefix: &'a str, options: ListOptions) -> BoxFuture<'a, Result<Listing>> {
        Box::pin(Store::list(self, prefix, options))
    }

    fn create<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        ttl: Option<Duration>,
    ) -> BoxFuture<'a, Result<Revision>> {
        Box::pin(Store::create(self, key, value, ttl))
    }

    fn update<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        expected: Revision,
        ttl: Option<Duration>,
    ) -> BoxFuture<'a, Result<Revision>> {
        Box::pin(Store::update(self, key, value, expected, ttl))
    }

    fn delete<'a>(&'a self, key: &'a str, expected: Revision) -> BoxFuture<'a, Result<Revision>> {
        Box::pin(Store::delete(self, key, expected))
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> BoxFuture<'a, Result<WatchStream>> {
        Box::pin(Store::watch(self, prefix, after))
    }

    fn current_revision(&self) -> BoxFuture<'_, Result<Revision>> {
        Box::pin(Store::current_revision(self))
    }
}
