//! One change of one object, encoded when the first watcher asks and shared by all.

use std::sync::{Arc, OnceLock};

use api::registry::Resource;
use bytes::Bytes;
use serde_json::Value;
use store::Revision;

use super::{Change, Object};
use crate::{negotiation::Encoding, protobuf::encode as protobuf_encode, respond::protobuf_object};

/// One change of one object, shared by everybody who watches it.
pub(crate) struct Event {
    pub(crate) revision: Revision,
    pub(crate) current: Option<Arc<Object>>,
    pub(crate) previous: Option<Arc<Object>>,
    frames: [OnceLock<Bytes>; 3],
    protobuf_frames: [OnceLock<Bytes>; 3],
}

impl Event {
    pub(crate) fn new(
        revision: Revision,
        current: Option<Arc<Object>>,
        previous: Option<Arc<Object>>,
    ) -> Self {
        Event {
            revision,
            current,
            previous,
            frames: Default::default(),
            protobuf_frames: Default::default(),
        }
    }

    /// The object's bytes as the change shows them.
    pub(crate) fn body(&self, change: Change) -> Bytes {
        match (change, &self.current, &self.previous) {
            (Change::Added | Change::Modified, Some(current), _) => current.body(),
            (_, _, Some(previous)) => previous.body_at(self.revision),
            (_, Some(current), None) => current.body(),
            (_, None, None) => Bytes::new(),
        }
    }

    /// The watch frame in plain JSON or in protobuf, encoded when the first watcher asks.
    pub(crate) fn frame(&self, change: Change, encoding: Encoding, resource: &Resource) -> Bytes {
        let at = change as usize;
        let frame = match encoding {
            Encoding::Protobuf => self.protobuf_frames[at].get_or_init(|| {
                let value: Value = serde_json::from_slice(&self.body(change)).unwrap_or_default();
                protobuf_encode::watch_frame(change.name(), &protobuf_object(resource.schema, &value)).into()
            }),
            _ => self.frames[at].get_or_init(|| frame(change.name(), &self.body(change))),
        };
        frame.clone()
    }
}

/// A watch event as a line of JSON.
pub(crate) fn frame(kind: &str, object: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(object.len() + kind.len() + 24);
    out.extend_from_slice(br#"{"type":""#);
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(br#"","object":"#);
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
    out.into()
}

#[cfg(test)]
mod tests {
    use api::registry::Registry;
    use serde_json::json;

    use super::*;

    /// However many watch: one encoding for each content type and kind of change.
    #[test]
    fn watchers_share_the_bytes() {
        let registry = Registry::builtin();
        let resource = registry.find("", "v1", "configmaps").unwrap();
        let object = |revision| {
            let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
            let key = "/registry/configmaps/a/a".into();
            let object = Object::new(resource, "/registry/configmaps/", key, value, revision);
            Some(Arc::new(object.unwrap()))
        };
        let event = Event::new(2, object(2), object(1));
        let mut different = Vec::new();
        for encoding in [Encoding::Json, Encoding::Protobuf] {
            for change in [Change::Added, Change::Modified, Change::Deleted] {
                let first = event.frame(change, encoding, resource);
                for _ in 0..3 {
                    let again = event.frame(change, encoding, resource);
                    assert_eq!((again.as_ptr(), again.len()), (first.as_ptr(), first.len()));
                }
                different.push(first);
            }
        }
        different.sort();
        different.dedup();
        assert_eq!(different.len(), 6);
    }
}
