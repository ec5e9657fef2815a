//! The versions of a kind as the registry serves them.

use super::engine::Versions;
use crate::registry::{Registry, Resource};
use crate::schema::TypeRef;
use serde_json::Value;

/// The versions that share storage with a resource.
#[derive(Clone, Copy)]
pub struct ServedVersions<'a> {
    registry: &'a Registry,
    resource: &'a Resource,
}

impl<'a> ServedVersions<'a> {
    /// Of a resource.
    pub fn new(registry: &'a Registry, resource: &'a Resource) -> Self {
        ServedVersions { registry, resource }
    }

    fn resource(&self, api_version: &str) -> Option<&'a Resource> {
        let prefix = &self.resource.storage.prefix;
        let mut resources = self.registry.resources();
        resources
            .find(|r| r.storage.prefix == *prefix && r.api_version() == api_version)
            .map(|r| &**r)
    }
}

impl Versions for ServedVersions<'_> {
    fn schema(&self, api_version: &str) -> Option<TypeRef> {
        Some(self.resource(api_version)?.schema)
    }

    fn convert(&self, object: &Value, from: &str, to: &str) -> Option<Value> {
        let target = self.resource(to)?;
        let strategy = self.resource.strategy;
        let mut converted = strategy.convert(object.clone(), from, to).ok()?;
        let map = converted.as_object_mut()?;
        map.insert("apiVersion".into(), to.into());
        map.insert("kind".into(), Value::from(&*target.kind));
        Some(converted)
    }
}
