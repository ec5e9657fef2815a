//! What stands between a well-formed request and the store: rules that look at more than the object itself.
//!
//! The rules run in upstream's order, first those that change the object, then those that only look. They read other
//! objects from the watch cache.

mod certificate;
pub(crate) mod device_admin;
mod namespace_lifecycle;
mod node_restriction;
mod node_taint;
mod priority;
mod runtime_class;
mod service_account;
mod toleration;
pub(crate) mod topology_labels;

use std::sync::Arc;

use api::{
    registry::Resource,
    status::{self, Status},
};
use serde_json::Value;

use crate::{
    authn::UserInfo,
    context::{Api, Context},
};

/// What a request does to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
}

/// A request as admission sees it.
pub(crate) struct Attributes {
    pub(crate) operation: Operation,
    pub(crate) resource: Arc<Resource>,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) user: UserInfo,
}

impl Attributes {
    pub(crate) fn new(context: &Context, operation: Operation) -> Self {
        Attributes {
            operation,
            resource: context.resource.clone(),
            subresource: context.info.subresource.clone(),
            namespace: context.info.namespace.clone(),
            name: context.info.name.clone(),
            user: context.user.clone(),
        }
    }

    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        self.resource.group == group && self.resource.plural == plural
    }

    /// The 403 of a rule.
    fn forbidden(&self, why: &str) -> Status {
        status::forbidden_object(&self.resource.group, &self.resource.plural, &self.name, why)
    }

    fn creates_pod(&self) -> bool {
        self.operation == Operation::Create && self.subresource.is_empty() && self.is("", "pods")
    }
}

impl Api {
    /// Runs every rule; changes the object where a rule fills something in.
    pub(crate) async fn admit(
        &self,
        attributes: &Attributes,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        namespace_lifecycle::admit(self, attributes).await?;
        node_restriction::admit(self, attributes, object, old)?;
        certificate::admit(attributes, object, old)?;
        node_taint::admit(attributes, object);
        if attributes.creates_pod() {
            service_account::admit(self, attributes, object).await?;
            toleration::admit(object);
            priority::admit(self, attributes, object)?;
            runtime_class::admit(self, attributes, object)?;
            topology_labels::admit(self, attributes, object).await?;
        }
        Ok(())
    }
}
