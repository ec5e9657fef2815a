//! The ConfigMaps and Secrets that pods of this node refer to.
//!
//! One watch per referenced object, with a field selector on its name: a node may read only the objects its pods use,
//! so a watch over a namespace is not open to it. The watch lives as long as a pod refers to the object; an immutable
//! object is read once. A change wakes the pods that use the object, which then read it here.

use std::{
    collections::{BTreeSet, HashMap, HashSet, hash_map},
    fmt,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use futures::TryStreamExt;
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{ConfigMap, Pod, Secret},
};
use kube::{
    Api, Resource,
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::Wake;
use crate::{backoff::WatchBackoff, pod};

/// How long a reader waits for the first answer of a new watch.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why an object could not be read. That it does not exist is no error.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ObjectError {
    /// The API server refused, or could not be asked.
    #[error("failed to get {kind} \"{namespace}/{name}\": {reason}")]
    Read {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The API server's words.
        reason: String,
    },
    /// The watch has not answered yet.
    #[error("failed to sync {kind} cache: timed out waiting for the condition (\"{namespace}/{name}\")")]
    Timeout {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    ConfigMap,
    Secret,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::ConfigMap => "configmap",
            Kind::Secret => "secret",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct ObjectRef {
    kind: Kind,
    namespace: String,
    name: String,
}

#[derive(Clone)]
enum Object {
    ConfigMap(Arc<ConfigMap>),
    Secret(Arc<Secret>),
}

impl Object {
    /// Uid and resourceVersion: equal for the same state of the same object.
    fn version(&self) -> (Option<&str>, Option<&str>) {
        let metadata = match self {
            Object::ConfigMap(object) => &object.metadata,
            Object::Secret(object) => &object.metadata,
        };
        (metadata.uid.as_deref(), metadata.resource_version.as_deref())
    }

    fn is_immutable(&self) -> bool {
        match self {
            Object::ConfigMap(object) => object.immutable.unwrap_or(false),
            Object::Secret(object) => object.immutable.unwrap_or(false),
        }
    }
}

/// What a watch knows.
#[derive(Clone)]
enum State {
    /// Nothing yet. Left by the first answer or the first error.
    Pending,
    /// The first read failed; the watch tries again. Left by an answer.
    Failed(String),
    /// The object, or that there is none. Kept through failures of the watch: old content beats none.
    Known(Option<Object>),
}

struct Entry {
    pods: HashSet<String>,
    state: watch::Receiver<State>,
    _watch: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Entries {
    by_object: HashMap<ObjectRef, Entry>,
    by_pod: HashMap<String, BTreeSet<ObjectRef>>,
}

/// A cache of the ConfigMaps and Secrets referenced by registered pods.
pub struct ObjectCache {
    client: kube::Client,
    wake: Wake,
    entries: Mutex<Entries>,
}

impl fmt::Debug for ObjectCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.entries();
        f.debug_struct("ObjectCache")
            .field("objects", &entries.by_object.len())
            .field("pods", &entries.by_pod.len())
            .finish_non_exhaustive()
    }
}

impl ObjectCache {
    /// An empty cache. `wake` is called with the uid of each pod that uses a changed object.
    pub fn new(client: kube::Client, wake: Wake) -> Arc<Self> {
        Arc::new(Self {
            client,
            wake,
            entries: Mutex::default(),
        })
    }

    /// Watches everything the pod refers to. Repeating it costs a comparison.
    pub fn register(self: &Arc<Self>, pod: &Pod) {
        self.set_references(pod::uid(pod), references(pod));
    }

    /// Ends the watches that no other pod needs.
    pub fn unregister(self: &Arc<Self>, pod_uid: &str) {
        self.set_references(pod_uid, BTreeSet::new());
    }

    /// A ConfigMap; `None` when it does not exist. One that no registered pod refers to is read from the API server.
    pub async fn config_map(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<ConfigMap>>, ObjectError> {
        let reference = reference(Kind::ConfigMap, namespace, name);
        match self.known(&reference).await? {
            Some(Some(Object::ConfigMap(object))) => Ok(Some(object)),
            Some(_) => Ok(None),
            None => self.get(&reference).await,
        }
    }

    /// A Secret; `None` when it does not exist. One that no registered pod refers to is read from the API server.
    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<Secret>>, ObjectError> {
        let reference = reference(Kind::Secret, namespace, name);
        match self.known(&reference).await? {
            Some(Some(Object::Secret(object))) => Ok(Some(object)),
            Some(_) => Ok(None),
            None => self.get(&reference).await,
        }
    }

    /// What the watch on the object knows; the outer `None` when there is no watch.
    async fn known(&self, reference: &ObjectRef) -> Result<Option<Option<Object>>, ObjectError> {
        let Some(mut state) = self
            .entries()
            .by_object
            .get(reference)
            .map(|entry| entry.state.clone())
        else {
            return Ok(None);
        };
        let answered = state.wait_for(|state| !matches!(state, State::Pending));
        let state = match tokio::time::timeout(FIRST_ANSWER_TIMEOUT, answered).await {
            Ok(Ok(state)) => state.clone(),
            // The last reference went away while we waited.
            Ok(Err(_)) => return Ok(None),
            Err(_) => {
                return Err(ObjectError::Timeout {
                    kind: reference.kind.as_str(),
                    namespace: reference.namespace.clone(),
                    name: reference.name.clone(),
                });
            }
        };
        match state {
            State::Known(object) => Ok(Some(object)),
            State::Failed(reason) => Err(read_error(reference, reason)),
            State::Pending => Ok(None),
        }
    }

    async fn get<K>(&self, reference: &ObjectRef) -> Result<Option<Arc<K>>, ObjectError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + fmt::Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &reference.namespace);
        match api.get_opt(&reference.name).await {
            Ok(object) => Ok(object.map(Arc::new)),
            Err(error) => Err(read_error(reference, api_message(&error))),
        }
    }

    fn set_references(self: &Arc<Self>, pod_uid: &str, wanted: BTreeSet<ObjectRef>) {
        let mut entries = self.entries();
        let Entries { by_object, by_pod } = &mut *entries;
        let had = by_pod.remove(pod_uid).unwrap_or_default();
        for gone in had.difference(&wanted) {
            if let hash_map::Entry::Occupied(mut entry) = by_object.entry(gone.clone()) {
                entry.get_mut().pods.remove(pod_uid);
                if entry.get().pods.is_empty() {
                    entry.remove();
                }
            }
        }
        for new in wanted.difference(&had) {
            by_object
                .entry(new.clone())
                .or_insert_with(|| self.start_watch(new))
                .pods
                .insert(pod_uid.to_owned());
        }
        if !wanted.is_empty() {
            by_pod.insert(pod_uid.to_owned(), wanted);
        }
    }

    fn start_watch(self: &Arc<Self>, reference: &ObjectRef) -> Entry {
        let (sender, state) = watch::channel(State::Pending);
        let cache = Arc::downgrade(self);
        let (client, reference) = (self.client.clone(), reference.clone());
        let task = tokio::spawn(async move {
            match reference.kind {
                Kind::ConfigMap => {
                    follow(client, cache, reference, sender, |mut object: ConfigMap| {
                        object.metadata.managed_fields = None;
                        Object::ConfigMap(Arc::new(object))
                    })
                    .await;
                }
                Kind::Secret => {
                    follow(client, cache, reference, sender, |mut object: Secret| {
                        object.metadata.managed_fields = None;
                        Object::Secret(Arc::new(object))
                    })
                    .await;
                }
            }
        });
        Entry {
            pods: HashSet::new(),
            state,
            _watch: AbortOnDropHandle::new(task),
        }
    }

    fn wake_users(&self, reference: &ObjectRef) {
        let pods: Vec<String> = self
            .entries()
            .by_object
            .get(reference)
            .map(|entry| entry.pods.iter().cloned().collect())
            .unwrap_or_default();
        for pod in pods {
            (self.wake)(&pod);
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows one object until the entry is dropped or the object turns out to be immutable.
async fn follow<K>(
    client: kube::Client,
    cache: Weak<ObjectCache>,
    reference: ObjectRef,
    sender: watch::Sender<State>,
    wrap: fn(K) -> Object,
) where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + fmt::Debug
        + Send
        + 'static,
{
    let api: Api<K> = Api::namespaced(client, &reference.namespace);
    let mut states = pin!(watcher::watch_object(api, &reference.name).backoff(WatchBackoff::default()));
    loop {
        let new = match states.try_next().await {
            Ok(Some(object)) => State::Known(object.map(wrap)),
            Ok(None) => break,
            Err(error) => {
                tracing::debug!(kind = reference.kind.as_str(), namespace = reference.namespace,
                    name = reference.name, %error, "watch failed, will retry");
                State::Failed(watch_message(&error))
            }
        };
        let is_final = matches!(&new, State::Known(Some(object)) if object.is_immutable());
        let mut must_wake = false;
        sender.send_if_modified(|state| {
            let change = change(state, &new);
            must_wake = change == Change::NewsForPods;
            if change == Change::None {
                return false;
            }
            *state = new;
            true
        });
        if must_wake && let Some(cache) = cache.upgrade() {
            cache.wake_users(&reference);
        }
        if is_final {
            break;
        }
    }
    // The sender stays: readers must see the last state, not a closed channel.
    sender.closed().await;
}

#[derive(Debug, PartialEq, Eq)]
enum Change {
    /// Same as before.
    None,
    /// The first answer; whoever asked is waiting for it.
    FirstAnswer,
    /// Pods that read the state before must look again.
    NewsForPods,
}

/// How much of a change `new` is. Pure.
fn change(old: &State, new: &State) -> Change {
    match (old, new) {
        (State::Pending, State::Pending) => Change::None,
        (State::Pending, _) => Change::FirstAnswer,
        (State::Known(_), State::Failed(_) | State::Pending) => Change::None,
        (State::Known(old), State::Known(new)) => {
            if old.as_ref().map(Object::version) == new.as_ref().map(Object::version) {
                Change::None
            } else {
                Change::NewsForPods
            }
        }
        // The text may differ, but pods retry on their own after a failure.
        (State::Failed(_), State::Failed(_)) => Change::FirstAnswer,
        (State::Failed(_), State::Pending) => Change::None,
        (State::Failed(_), State::Known(_)) => Change::NewsForPods,
    }
}

/// Everything the pod's volumes and containers refer to. Pure.
fn references(pod: &Pod) -> BTreeSet<ObjectRef> {
    let namespace = pod::namespace(pod);
    let mut found = BTreeSet::new();
    let mut add = |kind, name: &str| {
        if !name.is_empty() {
            found.insert(reference(kind, namespace, name));
        }
    };
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        if let Some(source) = &volume.config_map {
            add(Kind::ConfigMap, &source.name);
        }
        if let Some(source) = &volume.secret {
            add(Kind::Secret, source.secret_name.as_deref().unwrap_or_default());
        }
        for source in volume
            .projected
            .iter()
            .flat_map(|projected| projected.sources.iter().flatten())
        {
            if let Some(source) = &source.config_map {
                add(Kind::ConfigMap, &source.name);
            }
            if let Some(source) = &source.secret {
                add(Kind::Secret, &source.name);
            }
        }
    }
    for container in pod::all_containers(pod) {
        for source in container.env_from.iter().flatten() {
            if let Some(source) = &source.config_map_ref {
                add(Kind::ConfigMap, &source.name);
            }
            if let Some(source) = &source.secret_ref {
                add(Kind::Secret, &source.name);
            }
        }
        for source in container
            .env
            .iter()
            .flatten()
            .filter_map(|variable| variable.value_from.as_ref())
        {
            if let Some(source) = &source.config_map_key_ref {
                add(Kind::ConfigMap, &source.name);
            }
            if let Some(source) = &source.secret_key_ref {
                add(Kind::Secret, &source.name);
            }
        }
    }
    found
}

fn reference(kind: Kind, namespace: &str, name: &str) -> ObjectRef {
    ObjectRef {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

fn read_error(reference: &ObjectRef, reason: String) -> ObjectError {
    ObjectError::Read {
        kind: reference.kind.as_str(),
        namespace: reference.namespace.clone(),
        name: reference.name.clone(),
        reason,
    }
}

/// The API server's own message where there is one: users compare it with kubectl's.
pub(super) fn api_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => chain(other),
    }
}

fn watch_message(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => api_message(error),
        other => chain(other),
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn known(version: &str) -> State {
        State::Known(Some(Object::ConfigMap(Arc::new(ConfigMap {
            metadata: ObjectMeta {
                resource_version: Some(version.into()),
                ..Default::default()
            },
            ..Default::default()
        }))))
    }

    #[test]
    fn changes() {
        let absent = || State::Known(None);
        let failed = || State::Failed("no".into());
        let rows = [
            (State::Pending, known("1"), Change::FirstAnswer),
            (State::Pending, absent(), Change::FirstAnswer),
            (State::Pending, failed(), Change::FirstAnswer),
            (known("1"), known("1"), Change::None),
            (known("1"), known("2"), Change::NewsForPods),
            (known("1"), absent(), Change::NewsForPods),
            (absent(), known("1"), Change::NewsForPods),
            (absent(), absent(), Change::None),
            (known("1"), failed(), Change::None),
            (failed(), known("1"), Change::NewsForPods),
        ];
        for (row, (old, new, expect)) in rows.iter().enumerate() {
            assert_eq!(change(old, new), *expect, "row {row}");
        }
    }

    #[test]
    fn pod_references() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "ns", "name": "p", "uid": "u"},
            "spec": {
                "volumes": [
                    {"name": "a", "configMap": {"name": "cm1"}},
                    {"name": "b", "secret": {"secretName": "s1"}},
                    {"name": "c", "projected": {"sources": [{"configMap": {"name": "cm2"}}, {"secret": {"name": "s2"}}]}},
                    {"name": "d", "emptyDir": {}}
                ],
                "initContainers": [{"name": "i", "envFrom": [{"configMapRef": {"name": "cm3"}}, {"secretRef": {"name": "s3"}}]}],
                "containers": [{"name": "c", "env": [
                    {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm1", "key": "k"}}},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s4", "key": "k"}}},
                    {"name": "C", "value": "x"}
                ]}]
            }
        }))
        .expect("a pod");
        let names: Vec<(&str, String)> = references(&pod)
            .into_iter()
            .map(|reference| {
                (
                    reference.kind.as_str(),
                    format!("{}/{}", reference.namespace, reference.name),
                )
            })
            .collect();
        let expect = [
            ("configmap", "ns/cm1"),
            ("configmap", "ns/cm2"),
            ("configmap", "ns/cm3"),
            ("secret", "ns/s1"),
            ("secret", "ns/s2"),
            ("secret", "ns/s3"),
            ("secret", "ns/s4"),
        ]
        .map(|(kind, name)| (kind, name.to_owned()));
        assert_eq!(names, expect);
    }
}
