//! Events about objects, for `kubectl describe` and `kubectl get events`.
//!
//! Reconcilers must not wait for Events, and a flood of them must not grow memory: they go through a bounded
//! channel to one task, and what does not fit is dropped. Equal Events become one with a count, as in client-go.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::objects::{Meta, Object};
use crate::rest::{Error, Patch, Resource, Rest, chain};

/// Events that may wait for the API server.
const WAITING_MAX: usize = 1024;
/// How many Events are remembered to be counted up rather than repeated (client-go remembers 4096).
const REMEMBERED_MAX: usize = 1024;
/// An Event older than this is written anew; the server forgets Events after an hour.
const REMEMBERED_FOR: Duration = Duration::from_secs(50 * 60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum EventType {
    Normal,
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// What an Event is about.
#[derive(Debug, Clone)]
pub(crate) struct Reference {
    api_version: String,
    kind: String,
    namespace: String,
    name: String,
    uid: String,
    resource_version: String,
}

impl Reference {
    pub(crate) fn to<T: Object>(object: &T) -> Self {
        Self::new(T::resource(), object.meta())
    }

    pub(crate) fn new(resource: &Resource, meta: &Meta) -> Self {
        Self {
            api_version: resource.api_version(),
            kind: resource.kind.to_string(),
            namespace: meta.namespace.to_string(),
            name: meta.name.to_string(),
            uid: meta.uid.to_string(),
            resource_version: meta.resource_version.to_string(),
        }
    }
}

struct Event {
    component: &'static str,
    regarding: Reference,
    type_: EventType,
    reason: &'static str,
    message: String,
}

/// The sending side; cheap to clone.
#[derive(Clone)]
pub(crate) struct Recorder {
    component: &'static str,
    sender: mpsc::Sender<Event>,
}

impl Recorder {
    /// The recorder and the task that writes what it is given.
    pub(crate) fn new() -> (Self, Writer) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        (
            Self {
                component: "kube-controller-manager",
                sender,
            },
            Writer {
                receiver,
                written: HashMap::new(),
            },
        )
    }

    /// The same recorder, speaking as `component`.
    pub(crate) fn with_component(&self, component: &'static str) -> Self {
        Self {
            component,
            sender: self.sender.clone(),
        }
    }

    pub(crate) fn publish(
        &self,
        regarding: Reference,
        type_: EventType,
        reason: &'static str,
        message: String,
    ) {
        let event = Event {
            component: self.component,
            regarding,
            type_,
            reason,
            message,
        };
        if let Err(error) = self.sender.try_send(event) {
            tracing::debug!(%error, "event dropped");
        }
    }
}

/// The task that writes Events.
pub(crate) struct Writer {
    receiver: mpsc::Receiver<Event>,
    written: HashMap<u64, Written>,
}

/// An Event that exists already.
struct Written {
    namespace: String,
    name: String,
    count: u32,
    last: Timestamp,
}

impl Writer {
    pub(crate) async fn run(mut self, rest: Rest, cancel: CancellationToken) {
        let resource = Resource::new("", "v1", "Event", "events", true);
        loop {
            let event = tokio::select! {
                () = cancel.cancelled() => return,
                event = self.receiver.recv() => match event {
                    Some(event) => event,
                    None => return,
                },
            };
            if let Err(error) = self.write(&rest, &resource, &event, Timestamp::now()).await
                && !error.is_namespace_terminating()
            {
                tracing::debug!(reason = event.reason, error = chain(&error), "event not written");
            }
        }
    }

    async fn write(
        &mut self,
        rest: &Rest,
        resource: &Resource,
        event: &Event,
        now: Timestamp,
    ) -> Result<(), Error> {
        let key = identity(event);
        if let Some(written) = self.written.get_mut(&key)
            && now.duration_since(written.last).unsigned_abs() < REMEMBERED_FOR
        {
            let count = written.count + 1;
            let body = json!({"count": count, "lastTimestamp": seconds(now)});
            let patched: Result<Value, _> = rest
                .patch(
                    resource,
                    &written.namespace,
                    &written.name,
                    "",
                    Patch::StrategicMerge(&body),
                )
                .await;
            match patched {
                Ok(_) => {
                    written.count = count;
                    written.last = now;
                    return Ok(());
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let body = body(event, now);
        let namespace = namespace(event).to_owned();
        let created: Value = rest.create(resource, &namespace, &body).await?;
        let name = created["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if self.written.len() >= REMEMBERED_MAX {
            self.written.retain(|_, written| {
                now.duration_since(written.last).unsigned_abs() < Duration::from_secs(60)
            });
            if self.written.len() >= REMEMBERED_MAX {
                self.written.clear();
            }
        }
        self.written.insert(
            key,
            Written {
                namespace,
                name,
                count: 1,
                last: now,
            },
        );
        Ok(())
    }
}

/// Events about cluster-scoped objects live in the default namespace.
fn namespace(event: &Event) -> &str {
    match &*event.regarding.namespace {
        "" => "default",
        namespace => namespace,
    }
}

/// Events that are equal in this are one Event with a count.
fn identity(event: &Event) -> u64 {
    let mut hasher = DefaultHasher::new();
    event.component.hash(&mut hasher);
    event.regarding.uid.hash(&mut hasher);
    event.regarding.name.hash(&mut hasher);
    event.type_.hash(&mut hasher);
    event.reason.hash(&mut hasher);
    event.message.hash(&mut hasher);
    hasher.finish()
}

/// `metav1.Time` has whole seconds.
fn seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second())
        .unwrap_or(time)
        .to_string()
}

fn body(event: &Event, now: Timestamp) -> Value {
    let regarding = &event.regarding;
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": format!("{}.{:x}", regarding.name, now.as_nanosecond()),
            "namespace": namespace(event),
        },
        "involvedObject": {
            "apiVersion": regarding.api_version,
            "kind": regarding.kind,
            "namespace": regarding.namespace,
            "name": regarding.name,
            "uid": regarding.uid,
            "resourceVersion": regarding.resource_version,
        },
        "type": event.type_.as_str(),
        "reason": event.reason,
        "message": event.message,
        "source": {"component": event.component},
        "reportingComponent": event.component,
        "firstTimestamp": seconds(now),
        "lastTimestamp": seconds(now),
        "count": 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(message: &str) -> Event {
        Event {
            component: "c",
            regarding: Reference {
                api_version: "v1".into(),
                kind: "Node".into(),
                namespace: String::new(),
                name: "n".into(),
                uid: "u".into(),
                resource_version: "1".into(),
            },
            type_: EventType::Normal,
            reason: "R",
            message: message.into(),
        }
    }

    #[test]
    fn equal_events_share_an_identity() {
        assert_eq!(identity(&event("a")), identity(&event("a")));
        assert_ne!(identity(&event("a")), identity(&event("b")));
    }

    #[test]
    fn cluster_scoped_objects_have_their_events_in_default() {
        let body = body(&event("a"), "2026-01-01T00:00:00.5Z".parse().unwrap());
        assert_eq!(body["metadata"]["namespace"], "default");
        assert_eq!(body["involvedObject"]["namespace"], "");
        assert_eq!(body["lastTimestamp"], "2026-01-01T00:00:00Z");
    }
}
