//! How targets that need several documents find them in one input: a byte chooses a kind, a byte has flags, and bytes 0
//! separate the documents.

use std::sync::LazyLock;

use api::registry::{Registry, Resource};
use serde_json::Value;

pub(crate) static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::builtin);

/// Kinds with all sorts of lists, maps and unions; the first byte counts them, and then all others of the registry.
const KINDS: [(&str, &str, &str); 8] = [
    ("", "v1", "pods"),
    ("", "v1", "services"),
    ("", "v1", "configmaps"),
    ("apps", "v1", "deployments"),
    ("batch", "v1", "jobs"),
    ("networking.k8s.io", "v1", "ingresses"),
    ("rbac.authorization.k8s.io", "v1", "clusterroles"),
    ("", "v1", "nodes"),
];

fn resource(number: usize) -> Option<&'static Resource> {
    match number.checked_sub(KINDS.len()) {
        Some(other) => REGISTRY
            .resources()
            .nth(other % REGISTRY.resources().count())
            .map(|it| &**it),
        None => {
            let (group, version, plural) = KINDS[number];
            REGISTRY.find(group, version, plural).map(|it| &**it)
        }
    }
}

/// An input, taken apart.
pub(crate) struct Input<'a> {
    pub(crate) resource: &'static Resource,
    pub(crate) flags: u8,
    documents: Vec<&'a [u8]>,
}

impl<'a> Input<'a> {
    /// `None` when the two bytes are missing.
    pub(crate) fn new(data: &'a [u8]) -> Option<Input<'a>> {
        let ([kind, flags], documents) = data.split_first_chunk::<2>()?;
        Some(Input {
            resource: resource(usize::from(*kind))?,
            flags: *flags,
            documents: documents.split(|byte| *byte == 0).collect(),
        })
    }

    /// A document's bytes; nothing when there are not so many.
    pub(crate) fn bytes(&self, number: usize) -> &'a [u8] {
        self.documents.get(number).copied().unwrap_or_default()
    }

    /// A document as JSON.
    pub(crate) fn json(&self, number: usize) -> Option<Value> {
        serde_json::from_slice(self.bytes(number)).ok()
    }
}
