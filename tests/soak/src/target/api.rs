//! A control plane's HTTPS API: keys are ConfigMaps, groups are namespaces, revisions are resource versions.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, stream::BoxStream};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams, Preconditions, VersionMatch, WatchParams},
    core::{ObjectMeta, WatchEvent},
};
use store::Revision;

use super::{Target, Watch, WatchEnd};
use crate::history::{Answer, Batch, Change, Event, Key, Request, Standing, ValueId};

/// What tells our objects from those of others in the same namespaces.
const LABEL: &str = "soak";
/// Where an object has its value.
const FIELD: &str = "value";
/// So many objects are listed at once.
const PAGE: u32 = 7;

/// The API as a client sees it.
#[derive(Clone)]
pub struct ApiServer {
    client: Client,
    /// How many lists of the newest state were asked for; every other one is asked for as a watch.
    lists: Arc<AtomicUsize>,
}

impl ApiServer {
    /// A client with the identity of a kubeconfig file; waits until the server answers it, and makes the namespaces.
    ///
    /// # Errors
    /// The file is no good, or the server does not answer for a minute.
    pub async fn connect(kubeconfig: &std::path::Path, groups: u8) -> anyhow::Result<ApiServer> {
        let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig)?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
        let server = ApiServer {
            client: Client::try_from(config)?,
            lists: Arc::default(),
        };
        let mut last = None;
        for _ in 0..600 {
            match server.make_namespaces(groups).await {
                Ok(()) => return Ok(server),
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(anyhow::anyhow!("the API server does not answer: {last:?}"))
    }

    async fn make_namespaces(&self, groups: u8) -> Result<(), kube::Error> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        for group in 0..groups {
            let namespace = Namespace {
                metadata: ObjectMeta {
                    name: Some(namespace(group)),
                    ..ObjectMeta::default()
                },
                ..Namespace::default()
            };
            match namespaces.create(&PostParams::default(), &namespace).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn group(&self, group: Option<u8>) -> Api<ConfigMap> {
        match group {
            Some(group) => Api::namespaced(self.client.clone(), &namespace(group)),
            None => Api::all(self.client.clone()),
        }
    }

    fn of(&self, key: Key) -> (Api<ConfigMap>, String) {
        (self.group(Some(key.group)), name(key))
    }

    async fn list(&self, group: Option<u8>, parameters: ListParams) -> Result<Answer, kube::Error> {
        let mut parameters = parameters.labels(LABEL).limit(PAGE);
        let mut items = Vec::new();
        loop {
            let page = self.group(group).list(&parameters).await?;
            for object in &page.items {
                match key(object).zip(standing(object)) {
                    Some(item) => items.push(item),
                    None => return Ok(Answer::Nonsense(format!("{object:?} is nobody's"))),
                }
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => {
                    parameters = ListParams::default()
                        .labels(LABEL)
                        .limit(PAGE)
                        .continue_token(&token)
                }
                None => {
                    items.sort_unstable_by_key(|(key, _)| *key);
                    let revision = page.metadata.resource_version.and_then(|it| it.parse().ok());
                    return Ok(match revision {
                        Some(revision) => Answer::Listed { items, revision },
                        None => Answer::Nonsense("a list has no resource version".to_owned()),
                    });
                }
            }
        }
    }

    /// A list as a watch gives it: what exists, up to the bookmark that ends it and says of when it is.
    async fn streaming_list(&self, group: Option<u8>) -> Result<Answer, kube::Error> {
        let parameters = WatchParams::default().initial_events().labels(LABEL).timeout(290);
        let mut told = self.group(group).watch(&parameters, "").await?.boxed();
        let mut items = Vec::new();
        while let Some(event) = told.next().await {
            match event? {
                WatchEvent::Added(object) => match key(&object).zip(standing(&object)) {
                    Some(item) => items.push(item),
                    None => return Ok(Answer::Nonsense(format!("{object:?} is nobody's"))),
                },
                WatchEvent::Bookmark(bookmark) => {
                    let end = bookmark.metadata.annotations.get("k8s.io/initial-events-end");
                    let revision = bookmark.metadata.resource_version.parse();
                    items.sort_unstable_by_key(|(key, _)| *key);
                    return Ok(match (end.map(String::as_str), revision) {
                        (Some("true"), Ok(revision)) => Answer::Listed { items, revision },
                        other => Answer::Nonsense(format!("the initial events end with {other:?}")),
                    });
                }
                WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
                other => return Ok(Answer::Nonsense(format!("{other:?} among the initial events"))),
            }
        }
        Ok(Answer::Unknown("the initial events broke off".to_owned()))
    }

    async fn try_ask(&self, request: &Request) -> Result<Answer, kube::Error> {
        let post = PostParams::default();
        let written = |object: ConfigMap| match standing(&object) {
            Some(standing) => Answer::Written(Some(standing.mod_revision)),
            None => Answer::Nonsense(format!("{object:?} is not what was written")),
        };
        match request {
            Request::Get(key) => {
                let (api, name) = self.of(*key);
                let found = api.get_opt(&name).await?;
                let standing = found.as_ref().map(standing);
                Ok(match standing {
                    Some(None) => Answer::Nonsense(format!("{found:?} is nobody's")),
                    standing => Answer::Found {
                        standing: standing.flatten(),
                        revision: None,
                    },
                })
            }
            Request::List(group, None) if self.lists.fetch_add(1, Ordering::Relaxed) % 2 == 1 => {
                self.streaming_list(*group).await
            }
            Request::List(group, revision) => {
                let mut parameters = ListParams::default();
                if let Some(revision) = revision {
                    parameters = parameters.at(&revision.to_string()).matching(VersionMatch::Exact);
                }
                self.list(*group, parameters).await
            }
            Request::StaleList(group) => self.list(*group, ListParams::default().match_any()).await,
            Request::Create { key, value, .. } => {
                let object = config_map(*key, *value, None);
                self.of(*key).0.create(&post, &object).await.map(written)
            }
            Request::Update { key, value, expected } => {
                let (api, name) = self.of(*key);
                let object = config_map(*key, *value, Some(*expected));
                api.replace(&name, &post, &object).await.map(written)
            }
            Request::Delete { key, expected } => {
                let (api, name) = self.of(*key);
                let parameters = DeleteParams::default().preconditions(Preconditions {
                    resource_version: Some(expected.to_string()),
                    uid: None,
                });
                // The answer does not tell the revision of the deletion.
                api.delete(&name, &parameters)
                    .await
                    .map(|_| Answer::Written(None))
            }
            Request::Compact(_) => Ok(Answer::Unknown("the API does not offer that".to_owned())),
        }
    }
}

impl Target for ApiServer {
    type Watch = ApiWatch;

    /// Others write too.
    const CONTIGUOUS: bool = false;

    async fn ask(&self, request: &Request) -> Answer {
        match self.try_ask(request).await {
            Ok(answer) => answer,
            Err(kube::Error::Api(status)) => match (status.code, request) {
                (410, Request::List(_, Some(_))) => Answer::Compacted,
                (409, Request::Create { .. } | Request::Update { .. } | Request::Delete { .. })
                | (404, Request::Update { .. } | Request::Delete { .. }) => Answer::Refused(None),
                (400..=499, _) if ![408, 410, 429].contains(&status.code) => {
                    Answer::Nonsense(status.to_string())
                }
                _ => Answer::Unknown(status.to_string()),
            },
            Err(error) => Answer::Unknown(error.to_string()),
        }
    }

    async fn revision(&self) -> Revision {
        loop {
            if let Answer::Listed { revision, .. } = self.ask(&Request::List(None, None)).await {
                return revision;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn watch(&self, group: Option<u8>, after: Revision) -> Result<ApiWatch, WatchEnd> {
        let parameters = WatchParams::default().labels(LABEL).timeout(290);
        match self.group(group).watch(&parameters, &after.to_string()).await {
            Ok(stream) => Ok(ApiWatch(stream.boxed())),
            Err(error) => Err(watch_end(&error)),
        }
    }
}

/// A watch over HTTPS.
pub struct ApiWatch(BoxStream<'static, Result<WatchEvent<ConfigMap>, kube::Error>>);

impl Watch for ApiWatch {
    async fn next(&mut self) -> Result<Batch, WatchEnd> {
        let told = match self.0.next().await {
            Some(Ok(told)) => told,
            Some(Err(error)) => return Err(watch_end(&error)),
            None => return Err(WatchEnd::Broken("the response ended".to_owned())),
        };
        match told {
            WatchEvent::Added(object) => event(&object, Change::Created),
            WatchEvent::Modified(object) => event(&object, Change::Updated),
            WatchEvent::Deleted(object) => event(&object, |_| Change::Deleted),
            WatchEvent::Bookmark(bookmark) => match bookmark.metadata.resource_version.parse() {
                Ok(revision) => Ok(Batch {
                    events: Vec::new(),
                    progress: Some(revision),
                }),
                Err(_) => Err(WatchEnd::Nonsense(
                    "a bookmark has no resource version".to_owned(),
                )),
            },
            WatchEvent::Error(status) => Err(watch_end(&kube::Error::Api(status))),
        }
    }
}

fn event(object: &ConfigMap, change: impl FnOnce(ValueId) -> Change) -> Result<Batch, WatchEnd> {
    let Some((key, standing)) = key(object).zip(standing(object)) else {
        return Err(WatchEnd::Nonsense(format!("{object:?} is nobody's")));
    };
    let change = change(standing.value);
    Ok(Batch {
        events: vec![Event {
            revision: standing.mod_revision,
            key,
            change,
            // A deletion shows the object as it last was.
            previous: (change == Change::Deleted).then_some(Some(standing.value)),
        }],
        progress: None,
    })
}

fn watch_end(error: &kube::Error) -> WatchEnd {
    match error {
        kube::Error::Api(status) if status.code == 410 => WatchEnd::Compacted,
        error => WatchEnd::Broken(error.to_string()),
    }
}

fn namespace(group: u8) -> String {
    format!("soak-{group}")
}

fn name(key: Key) -> String {
    format!("k{}", key.number)
}

fn config_map(key: Key, value: ValueId, expected: Option<Revision>) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            namespace: Some(namespace(key.group)),
            name: Some(name(key)),
            labels: Some([(LABEL.to_owned(), String::new())].into()),
            resource_version: expected.map(|expected| expected.to_string()),
            ..ObjectMeta::default()
        },
        data: Some([(FIELD.to_owned(), value.to_string())].into()),
        ..ConfigMap::default()
    }
}

fn key(object: &ConfigMap) -> Option<Key> {
    let meta = &object.metadata;
    Some(Key {
        group: meta.namespace.as_deref()?.strip_prefix("soak-")?.parse().ok()?,
        number: meta.name.as_deref()?.strip_prefix('k')?.parse().ok()?,
    })
}

fn standing(object: &ConfigMap) -> Option<Standing> {
    Some(Standing {
        value: object.data.as_ref()?.get(FIELD)?.parse().ok()?,
        mod_revision: object.metadata.resource_version.as_deref()?.parse().ok()?,
    })
}
