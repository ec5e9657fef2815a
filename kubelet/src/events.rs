//! Events about pods and the node, as `kubectl describe` shows them.
//!
//! Recording never waits: events go through a bounded queue to one task, which counts repetitions in one object,
//! combines similar ones, and limits the rate per object as upstream's correlator does. What does not fit is dropped
//! and counted, since an Event is a courtesy and a pod worker must not wait for it.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, Node, ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use tokio::{sync::mpsc, time::Instant};

/// Enough for every container of a hundred pods to start at once.
const QUEUE_SIZE: usize = 1024;
/// Distinct events remembered for counting.
const REMEMBERED: usize = 1024;
/// Similar events (same object, reason and type; other messages) beyond this many are combined into one.
const SIMILAR_MAX: usize = 10;
/// Similar events count together within this time.
const SIMILAR_WINDOW: Duration = Duration::from_secs(600);
/// Events per object that are let through at once …
const BURST: f64 = 25.0;
/// … and the seconds in which one more is earned.
const REFILL_SECONDS: f64 = 300.0;
/// How the message of a combined event begins.
const COMBINED: &str = "(combined from similar events): ";

/// `Normal` or `Warning`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// As it should be.
    Normal,
    /// Worth a look.
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

struct Occurrence {
    object: ObjectReference,
    kind: EventType,
    reason: String,
    message: String,
    at: Timestamp,
}

/// Records Events. Cloning it is cheap.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: mpsc::Sender<Occurrence>,
    dropped: Arc<AtomicU64>,
}

impl Recorder {
    /// Starts the task that writes events as coming from the kubelet of `node_name`.
    pub fn start(client: kube::Client, node_name: &str) -> Self {
        let (queue, occurrences) = mpsc::channel(QUEUE_SIZE);
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            client,
            source: EventSource {
                component: Some("kubelet".into()),
                host: Some(node_name.into()),
            },
            correlator: Correlator::default(),
        };
        tokio::spawn(writer.run(occurrences, dropped.clone()));
        Self { queue, dropped }
    }

    /// An event about a pod.
    pub fn pod(&self, pod: &Pod, kind: EventType, reason: &str, message: impl Into<String>) {
        self.record(pod_reference(pod, None), kind, reason, message.into());
    }

    /// An event about a container of a pod; `init` as in `spec.initContainers`.
    pub fn container(
        &self,
        pod: &Pod,
        name: &str,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let init = crate::pod::init_containers(pod)
            .iter()
            .any(|container| container.name == name);
        let list = if init { "initContainers" } else { "containers" };
        let path = format!("spec.{list}{{{name}}}");
        self.record(pod_reference(pod, Some(path)), kind, reason, message.into());
    }

    /// An event about the node.
    pub fn node(&self, node: &Node, kind: EventType, reason: &str, message: impl Into<String>) {
        let name = node.metadata.name.clone();
        let object = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            // Upstream puts the name here, and `kubectl describe node` finds events by it.
            uid: name.clone(),
            name,
            ..Default::default()
        };
        self.record(object, kind, reason, message.into());
    }

    fn record(&self, object: ObjectReference, kind: EventType, reason: &str, message: String) {
        // The API refuses messages longer than this.
        let message = truncate(message, 1024);
        tracing::debug!(object = object.name, reason, message, "event");
        let occurrence = Occurrence {
            object,
            kind,
            reason: reason.to_owned(),
            message,
            at: Timestamp::now(),
        };
        if self.queue.try_send(occurrence).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn truncate(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        let mut end = bytes_max;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

fn pod_reference(pod: &Pod, field_path: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path,
    }
}

struct Writer {
    client: kube::Client,
    source: EventSource,
    correlator: Correlator,
}

impl Writer {
    async fn run(mut self, mut occurrences: mpsc::Receiver<Occurrence>, dropped: Arc<AtomicU64>) {
        while let Some(occurrence) = occurrences.recv().await {
            let lost = dropped.swap(0, Ordering::Relaxed);
            if lost > 0 {
                tracing::warn!(lost, "events were dropped, the API server is slow to take them");
            }
            let Some((key, action)) = self.correlator.correlate(&occurrence, Instant::now()) else {
                continue;
            };
            if let Err(error) = self.write(&key, action, occurrence).await {
                tracing::debug!(%error, "writing an event");
            }
        }
    }

    async fn write(&mut self, key: &Key, action: Action, occurrence: Occurrence) -> kube::Result<()> {
        let namespace = occurrence
            .object
            .namespace
            .clone()
            .unwrap_or_else(|| "default".into());
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let (name, count, first) = match action {
            Action::Create => (None, 1, occurrence.at),
            Action::Count { name, count, first } => (Some(name), count, first),
        };
        if let Some(name) = &name {
            let patch = serde_json::json!({
                "count": count,
                "lastTimestamp": Time(occurrence.at),
                "message": key.message,
            });
            match api
                .patch(name, &PatchParams::default(), &Patch::Merge(patch))
                .await
            {
                // Events expire; a repetition after that makes a new one.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => return other.map(drop),
            }
        }
        let object_name = occurrence.object.name.clone().unwrap_or_default();
        let unique = u64::try_from(occurrence.at.as_nanosecond()).unwrap_or_default();
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{object_name}.{unique:x}")),
                namespace: Some(namespace),
                ..Default::default()
            },
            involved_object: occurrence.object,
            reason: Some(occurrence.reason),
            message: Some(key.message.clone()),
            type_: Some(occurrence.kind.as_str().into()),
            source: Some(self.source.clone()),
            first_timestamp: Some(Time(first)),
            last_timestamp: Some(Time(occurrence.at)),
            count: Some(count),
            reporting_component: Some("kubelet".into()),
            reporting_instance: self.source.host.clone(),
            ..Default::default()
        };
        let created = api.create(&PostParams::default(), &event).await?;
        self.correlator
            .written(key, created.metadata.name.unwrap_or_default(), count, first);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Similar {
    object_uid: String,
    field_path: String,
    kind: EventType,
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    similar: Similar,
    message: String,
}

#[derive(Debug, PartialEq, Eq)]
enum Action {
    Create,
    Count {
        name: String,
        count: i32,
        first: Timestamp,
    },
}

struct Written {
    name: String,
    count: i32,
    first: Timestamp,
}

struct Bucket {
    tokens: f64,
    at: Instant,
}

/// What has been written lately, to count repetitions and to keep a failing object from flooding the API.
#[derive(Default)]
struct Correlator {
    written: HashMap<Key, Written>,
    similar: HashMap<Similar, (std::collections::HashSet<String>, Instant)>,
    buckets: HashMap<String, Bucket>,
}

impl Correlator {
    /// What to do with an occurrence; `None` when its object has used up its rate.
    fn correlate(&mut self, occurrence: &Occurrence, now: Instant) -> Option<(Key, Action)> {
        self.shrink();
        let uid = occurrence.object.uid.clone().unwrap_or_default();
        let bucket = self.buckets.entry(uid.clone()).or_insert(Bucket {
            tokens: BURST,
            at: now,
        });
        let earned = now.duration_since(bucket.at).as_secs_f64() / REFILL_SECONDS;
        bucket.tokens = (bucket.tokens + earned).min(BURST);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return None;
        }
        bucket.tokens -= 1.0;

        let similar = Similar {
            object_uid: uid,
            field_path: occurrence.object.field_path.clone().unwrap_or_default(),
            kind: occurrence.kind,
            reason: occurrence.reason.clone(),
        };
        let (messages, since) = self
            .similar
            .entry(similar.clone())
            .or_insert_with(|| (Default::default(), now));
        if now.duration_since(*since) > SIMILAR_WINDOW {
            messages.clear();
        }
        *since = now;
        messages.insert(occurrence.message.clone());
        // All that are too many share one object, which shows the latest message.
        let combined = messages.len() > SIMILAR_MAX;
        let (identity, message) = if combined {
            messages.remove(&occurrence.message);
            (COMBINED.to_owned(), format!("{COMBINED}{}", occurrence.message))
        } else {
            (occurrence.message.clone(), occurrence.message.clone())
        };
        let action = match self.written.get_mut(&Key {
            similar: similar.clone(),
            message: identity,
        }) {
            None => Action::Create,
            Some(written) => {
                written.count = written.count.saturating_add(1);
                Action::Count {
                    name: written.name.clone(),
                    count: written.count,
                    first: written.first,
                }
            }
        };
        Some((Key { similar, message }, action))
    }

    fn written(&mut self, key: &Key, name: String, count: i32, first: Timestamp) {
        let mut key = key.clone();
        if key.message.starts_with(COMBINED) {
            key.message = COMBINED.into();
        }
        self.written.insert(key, Written { name, count, first });
    }

    fn shrink(&mut self) {
        if self.written.len() > REMEMBERED {
            self.written.clear();
        }
        if self.similar.len() > REMEMBERED {
            self.similar.clear();
        }
        if self.buckets.len() > REMEMBERED {
            self.buckets.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occurrence(message: &str) -> Occurrence {
        Occurrence {
            object: ObjectReference {
                uid: Some("uid".into()),
                ..Default::default()
            },
            kind: EventType::Warning,
            reason: "BackOff".into(),
            message: message.into(),
            at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn repetitions_are_counted_in_one_object() {
        let mut correlator = Correlator::default();
        let now = Instant::now();
        let (key, action) = correlator
            .correlate(&occurrence("again"), now)
            .expect("let through");
        assert_eq!(action, Action::Create);
        correlator.written(&key, "e1".into(), 1, Timestamp::UNIX_EPOCH);
        let (_, action) = correlator
            .correlate(&occurrence("again"), now)
            .expect("let through");
        assert_eq!(
            action,
            Action::Count {
                name: "e1".into(),
                count: 2,
                first: Timestamp::UNIX_EPOCH
            }
        );
    }

    #[test]
    fn similar_events_are_combined() {
        let mut correlator = Correlator::default();
        let now = Instant::now();
        for index in 0..SIMILAR_MAX {
            let message = format!("message {index}");
            let (key, action) = correlator
                .correlate(&occurrence(&message), now)
                .expect("let through");
            assert_eq!((key.message.as_str(), action), (message.as_str(), Action::Create));
        }
        let (key, action) = correlator
            .correlate(&occurrence("one more"), now)
            .expect("let through");
        assert_eq!(key.message, "(combined from similar events): one more");
        assert_eq!(action, Action::Create);
        correlator.written(&key, "combined".into(), 1, Timestamp::UNIX_EPOCH);
        let (key, action) = correlator
            .correlate(&occurrence("yet another"), now)
            .expect("let through");
        assert_eq!(key.message, "(combined from similar events): yet another");
        assert!(matches!(action, Action::Count { count: 2, .. }), "{action:?}");
    }

    #[test]
    fn an_object_that_floods_is_cut_off_and_recovers() {
        let mut correlator = Correlator::default();
        let now = Instant::now();
        let let_through = (0..100)
            .filter(|_| correlator.correlate(&occurrence("x"), now).is_some())
            .count();
        assert_eq!(let_through, 25);
        let later = now + Duration::from_secs(301);
        assert!(correlator.correlate(&occurrence("x"), later).is_some());
        assert!(correlator.correlate(&occurrence("x"), later).is_none());
    }
}
