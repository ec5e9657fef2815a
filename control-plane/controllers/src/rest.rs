//! The few HTTP requests that controllers make, over a given [`kube::Client`].
//!
//! Controllers keep reduced objects (see [`crate::objects`]), so nothing read here may be written back whole.
//! Every write is therefore a create, a patch of just the fields that the controller owns, or a delete.

use http::{Method, Request};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::Write as _;
use std::sync::Arc;

/// Asks for bodies as they are: a watch compressed event by event cannot be decoded on the way.
const IDENTITY: &str = "identity";
const JSON: &str = "application/json";
/// Object metadata only; the garbage collector wants nothing else.
pub(crate) const PARTIAL_METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
pub(crate) const PARTIAL_METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// A request that failed, with what it was for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The server refused, or could not be reached.
    #[error("{operation}")]
    Request {
        operation: String,
        #[source]
        source: Box<kube::Error>,
    },
    /// The answer was not what the API promises.
    #[error("{operation}: cannot decode the answer")]
    Decode {
        operation: String,
        #[source]
        source: serde_json::Error,
    },
    /// The request could not be built.
    #[error("{operation}: cannot build the request")]
    Build {
        operation: String,
        #[source]
        source: http::Error,
    },
    /// What the reconciler found makes the step impossible for now; it is tried again later.
    #[error("{0}")]
    Unfinished(String),
}

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The server's `Status`, if it answered at all.
    pub(crate) fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Request { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            _ => None,
        }
    }

    fn has_reason(&self, reason: &str) -> bool {
        self.status().is_some_and(|status| status.reason == reason)
    }

    pub(crate) fn is_not_found(&self) -> bool {
        self.status().is_some_and(|status| status.code == 404)
    }

    pub(crate) fn is_already_exists(&self) -> bool {
        self.has_reason("AlreadyExists")
    }

    pub(crate) fn is_conflict(&self) -> bool {
        self.has_reason("Conflict")
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.status().is_some_and(|status| status.code == 410)
    }

    /// The namespace is being deleted: nothing can be created in it, and nothing needs to be.
    pub(crate) fn is_namespace_terminating(&self) -> bool {
        self.status()
            .and_then(|status| status.details.as_ref())
            .is_some_and(|details| {
                details
                    .causes
                    .iter()
                    .any(|cause| cause.reason == "NamespaceTerminating")
            })
    }

    /// What a user should read: the server's message, or the whole chain of causes.
    pub(crate) fn message(&self) -> String {
        match self.status() {
            Some(status) => status.message.clone(),
            None => chain(self),
        }
    }
}

/// An error with all of its sources, for logs.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}

/// A kind of object as the API serves it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Resource {
    /// Empty for the core group.
    pub(crate) group: Arc<str>,
    pub(crate) version: Arc<str>,
    pub(crate) kind: Arc<str>,
    pub(crate) plural: Arc<str>,
    pub(crate) namespaced: bool,
}

impl Resource {
    pub(crate) fn new(group: &str, version: &str, kind: &str, plural: &str, namespaced: bool) -> Self {
        Self {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            plural: plural.into(),
            namespaced,
        }
    }

    /// `v1` or `apps/v1`, as in `apiVersion`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The path of the collection (`name` empty) or of one object, with a subresource if one is named.
    fn path(&self, namespace: &str, name: &str, subresource: &str) -> String {
        let mut path = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if self.namespaced && !namespace.is_empty() {
            path.push_str("/namespaces/");
            path.push_str(namespace);
        }
        for part in [&*self.plural, name, subresource] {
            if !part.is_empty() {
                path.push('/');
                path.push_str(part);
            }
        }
        path
    }
}

/// The body of a patch and how the server is to read it.
pub(crate) enum Patch<'a> {
    Merge(&'a Value),
    StrategicMerge(&'a Value),
}

/// How an object is to be deleted.
#[derive(Debug, Default, Clone)]
pub(crate) struct DeleteOptions<'a> {
    /// Delete only the object with this uid.
    pub(crate) uid: Option<&'a str>,
    /// Delete only at this resource version.
    pub(crate) resource_version: Option<&'a str>,
    /// `Background`, `Foreground` or `Orphan`.
    pub(crate) propagation_policy: Option<&'a str>,
    pub(crate) grace_period_seconds: Option<i64>,
}

impl DeleteOptions<'_> {
    fn body(&self) -> Value {
        let mut body = serde_json::json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        let mut preconditions = serde_json::Map::new();
        if let Some(uid) = self.uid {
            preconditions.insert("uid".into(), uid.into());
        }
        if let Some(version) = self.resource_version {
            preconditions.insert("resourceVersion".into(), version.into());
        }
        if !preconditions.is_empty() {
            body["preconditions"] = Value::Object(preconditions);
        }
        if let Some(policy) = self.propagation_policy {
            body["propagationPolicy"] = policy.into();
        }
        if let Some(seconds) = self.grace_period_seconds {
            body["gracePeriodSeconds"] = seconds.into();
        }
        body
    }
}

/// A page of a list.
#[derive(Deserialize)]
pub(crate) struct Page<T> {
    #[serde(default)]
    pub(crate) metadata: PageMeta,
    #[serde(
        bound = "T: Deserialize<'de>",
        default = "Vec::new",
        deserialize_with = "null_as_default"
    )]
    pub(crate) items: Vec<T>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PageMeta {
    pub(crate) resource_version: String,
    #[serde(rename = "continue")]
    pub(crate) continue_: String,
}

/// Go writes an empty slice or map as `null` where a field is always present.
pub(crate) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The requests; cheap to clone.
#[derive(Clone)]
pub(crate) struct Rest {
    client: kube::Client,
}

impl Rest {
    pub(crate) fn new(client: kube::Client) -> Self {
        Self { client }
    }

    /// Reads one object; `None` if there is none.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<T>> {
        let path = resource.path(namespace, name, "");
        match self.call(Method::GET, &path, JSON, None).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads the metadata of one object; `None` if there is none.
    pub(crate) async fn get_metadata<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<T>> {
        let path = resource.path(namespace, name, "");
        match self.call(Method::GET, &path, PARTIAL_METADATA, None).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads a page of a collection; `query` is appended as it is.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: &str,
        query: &str,
        accept: &str,
    ) -> Result<Page<T>> {
        let path = format!("{}?{query}", resource.path(namespace, "", ""));
        self.call(Method::GET, &path, accept, None).await
    }

    /// Opens a watch: a stream of lines, each a watch event in JSON.
    pub(crate) async fn watch(
        &self,
        resource: &Resource,
        namespace: &str,
        query: &str,
        accept: &str,
    ) -> Result<impl futures::AsyncBufRead + use<>> {
        let path = format!("{}?watch=true&{query}", resource.path(namespace, "", ""));
        let operation = format!("watch {}", resource.path(namespace, "", ""));
        let request = Request::get(&path)
            .header(http::header::ACCEPT, accept)
            .header(http::header::ACCEPT_ENCODING, IDENTITY)
            .body(Vec::new())
            .map_err(|source| Error::Build {
                operation: operation.clone(),
                source,
            })?;
        self.client
            .request_stream(request)
            .await
            .map_err(|source| Error::Request {
                operation,
                source: Box::new(source),
            })
    }

    pub(crate) async fn create<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: &str,
        object: &Value,
    ) -> Result<T> {
        let path = resource.path(namespace, "", "");
        self.call(Method::POST, &path, JSON, Some((JSON, object))).await
    }

    /// Patches an object, or its `subresource` unless that is empty.
    pub(crate) async fn patch<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        subresource: &str,
        patch: Patch<'_>,
    ) -> Result<T> {
        let path = resource.path(namespace, name, subresource);
        let (content_type, body) = match patch {
            Patch::Merge(body) => ("application/merge-patch+json", body),
            Patch::StrategicMerge(body) => ("application/strategic-merge-patch+json", body),
        };
        self.call(Method::PATCH, &path, JSON, Some((content_type, body)))
            .await
    }

    /// Replaces a subresource such as `finalize`.
    pub(crate) async fn replace<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        subresource: &str,
        object: &Value,
    ) -> Result<T> {
        let path = resource.path(namespace, name, subresource);
        self.call(Method::PUT, &path, JSON, Some((JSON, object))).await
    }

    /// Deletes an object. The answer is the object as long as it still exists, else a `Status`.
    pub(crate) async fn delete(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        options: &DeleteOptions<'_>,
    ) -> Result<Value> {
        let path = resource.path(namespace, name, "");
        self.call(Method::DELETE, &path, JSON, Some((JSON, &options.body())))
            .await
    }

    pub(crate) async fn delete_collection(
        &self,
        resource: &Resource,
        namespace: &str,
        options: &DeleteOptions<'_>,
    ) -> Result<Value> {
        let path = resource.path(namespace, "", "");
        self.call(Method::DELETE, &path, JSON, Some((JSON, &options.body())))
            .await
    }

    /// Reads a path that is no object, such as a discovery document.
    pub(crate) async fn get_path<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::GET, path, JSON, None).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<T> {
        let operation = || format!("{method} {path}");
        let mut request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header(http::header::ACCEPT, accept)
            .header(http::header::ACCEPT_ENCODING, IDENTITY);
        let bytes = match body {
            None => Vec::new(),
            Some((content_type, value)) => {
                request = request.header(http::header::CONTENT_TYPE, content_type);
                serde_json::to_vec(value).map_err(|source| Error::Decode {
                    operation: operation(),
                    source,
                })?
            }
        };
        let request = request.body(bytes).map_err(|source| Error::Build {
            operation: operation(),
            source,
        })?;
        let text = self
            .client
            .request_text(request)
            .await
            .map_err(|source| Error::Request {
                operation: operation(),
                source: Box::new(source),
            })?;
        serde_json::from_str(&text).map_err(|source| Error::Decode {
            operation: operation(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let pods = Resource::new("", "v1", "Pod", "pods", true);
        let nodes = Resource::new("", "v1", "Node", "nodes", false);
        let deployments = Resource::new("apps", "v1", "Deployment", "deployments", true);
        for (resource, namespace, name, subresource, expect) in [
            (&pods, "", "", "", "/api/v1/pods"),
            (&pods, "a", "b", "status", "/api/v1/namespaces/a/pods/b/status"),
            (&nodes, "", "n", "", "/api/v1/nodes/n"),
            (
                &deployments,
                "a",
                "",
                "",
                "/apis/apps/v1/namespaces/a/deployments",
            ),
        ] {
            assert_eq!(resource.path(namespace, name, subresource), expect);
        }
        assert_eq!(pods.api_version(), "v1");
        assert_eq!(deployments.api_version(), "apps/v1");
    }

    #[test]
    fn delete_options_name_what_is_set_only() {
        assert_eq!(
            DeleteOptions::default().body(),
            serde_json::json!({"kind": "DeleteOptions", "apiVersion": "v1"})
        );
        let options = DeleteOptions {
            uid: Some("u"),
            resource_version: Some("7"),
            propagation_policy: Some("Background"),
            grace_period_seconds: Some(0),
        };
        assert_eq!(
            options.body(),
            serde_json::json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background",
                "gracePeriodSeconds": 0, "preconditions": {"uid": "u", "resourceVersion": "7"}})
        );
    }
}
