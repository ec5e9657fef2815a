//! What a handler works with: the server's parts, and one request with everything decided about it so far.

use std::{collections::BTreeMap, sync::Arc};

use api::{
    decode::FieldValidation,
    registry::{Registry, Resource},
    status::{self, Status},
    validation::{ErrorKind, ErrorList, FieldError},
};
use bytes::Bytes;
use http::{HeaderMap, Uri};
use jiff::Timestamp;
use store::Revision;
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    authn::{UserInfo, service_account::Tokens},
    body::{ReadBodyError, RequestBody},
    documents::Documents,
    limits::Limits,
    metrics::{LongRunning, Metrics},
    negotiation::Output,
    request_info::{RequestInfo, query_pairs},
    service_allocation::ServiceAllocator,
    streaming::KubeletClient,
    watch_cache::{self, Object, ResourceCache, WatchCache},
};

/// The parts that all requests share.
pub(crate) struct Api {
    pub(crate) config: Config,
    pub(crate) registry: Registry,
    pub(crate) cache: Arc<WatchCache>,
    pub(crate) tokens: Option<Tokens>,
    pub(crate) services: ServiceAllocator,
    pub(crate) kubelet: Option<KubeletClient>,
    pub(crate) documents: Documents,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) limits: Limits,
    /// Cancelled when the server is told to stop: it is ready for nobody new.
    pub(crate) stopping: CancellationToken,
    /// Cancelled when it stops: watches end, connections take no further requests.
    pub(crate) draining: CancellationToken,
    /// Held, so that the task lives as long as anybody can ask for anything.
    pub(crate) _background: Background,
}

/// The task that fills the cache; it ends with the server.
pub(crate) struct Background(pub(crate) tokio::task::AbortHandle);

impl Drop for Background {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One request on a resource.
pub(crate) struct Context {
    pub(crate) api: Arc<Api>,
    pub(crate) info: RequestInfo,
    pub(crate) user: UserInfo,
    pub(crate) resource: Arc<Resource>,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) output: Output,
    /// Texts for `Warning` headers.
    pub(crate) warnings: Vec<String>,
    /// Counts the request as running for as long as anybody holds it; streams outlive their handler.
    pub(crate) long_running: Option<Arc<LongRunning>>,
    query: BTreeMap<String, String>,
}

impl Context {
    pub(crate) fn new(
        api: Arc<Api>,
        info: RequestInfo,
        user: UserInfo,
        resource: Arc<Resource>,
        parts: &http::request::Parts,
        output: Output,
    ) -> Self {
        let mut query = BTreeMap::new();
        for (key, value) in query_pairs(&parts.uri) {
            query.entry(key).or_insert(value);
        }
        Context {
            api,
            info,
            user,
            resource,
            uri: parts.uri.clone(),
            headers: parts.headers.clone(),
            output,
            warnings: Vec::new(),
            long_running: None,
            query,
        }
    }

    /// A query parameter; empty when it is not given.
    pub(crate) fn query(&self, key: &str) -> &str {
        self.query.get(key).map_or("", String::as_str)
    }

    /// A boolean query parameter.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.query
            .get(key)
            .is_some_and(|value| crate::request_info::truthy(value))
    }

    /// The namespace for store keys.
    pub(crate) fn namespace(&self) -> Option<&str> {
        (self.resource.namespaced && !self.info.namespace.is_empty()).then_some(self.info.namespace.as_str())
    }

    /// The store key of the object that the path names.
    pub(crate) fn key(&self) -> Result<String, Status> {
        self.resource.key(self.namespace(), &self.info.name)
    }

    /// The cached objects of the resource.
    pub(crate) fn cached(&self) -> Result<Arc<ResourceCache>, Status> {
        self.api.cached(&self.resource)
    }

    /// The object that the path names, as it stands now.
    pub(crate) async fn current(&self) -> Result<Arc<Object>, Status> {
        self.api
            .current(&self.resource, self.namespace(), &self.info.name)
            .await
    }

    pub(crate) fn not_found(&self) -> Status {
        self.resource.not_found(&self.info.name)
    }

    /// `dryRun`, checked.
    pub(crate) fn dry_run(&self) -> Result<bool, Status> {
        dry_run(self.query("dryRun"))
    }

    /// `fieldValidation`, checked.
    pub(crate) fn field_validation(&self) -> Result<FieldValidation, Status> {
        match self.query("fieldValidation") {
            "" | "Warn" => Ok(FieldValidation::Warn),
            "Ignore" => Ok(FieldValidation::Ignore),
            "Strict" => Ok(FieldValidation::Strict),
            other => Err(invalid_option(
                ("meta.k8s.io", "CreateOptions"),
                ErrorKind::NotSupported,
                "fieldValidation",
                &status::quote(other),
                "supported values: \"Ignore\", \"Strict\", \"Warn\"",
            )),
        }
    }
}

/// Reads a `dryRun` value: only `All` exists.
pub(crate) fn dry_run(value: &str) -> Result<bool, Status> {
    match value {
        "" => Ok(false),
        "All" => Ok(true),
        other => Err(invalid_option(
            ("meta.k8s.io", "CreateOptions"),
            ErrorKind::NotSupported,
            "dryRun",
            &format!("[{}]", status::quote(other)),
            "supported values: \"All\"",
        )),
    }
}

/// The 422 for an option (group and kind of the options object) that is not valid.
pub(crate) fn invalid_option(
    (group, kind): (&str, &str),
    error: ErrorKind,
    path: &str,
    bad_value: &str,
    detail: &str,
) -> Status {
    let mut errors = ErrorList::new();
    errors.push(FieldError::new(error, path, bad_value, detail));
    status::invalid(group, kind, "", errors)
}

impl Api {
    /// Ends watches, and connections once what is being answered is.
    pub(crate) fn drain(&self) {
        self.draining.cancel();
        self.cache.close();
    }

    pub(crate) fn cached(&self, resource: &Resource) -> Result<Arc<ResourceCache>, Status> {
        self.cache
            .resource(&resource.storage.prefix)
            .cloned()
            .ok_or_else(|| status::internal_error(format!("{} is not stored", resource.plural)))
    }

    /// An object as it stands now.
    pub(crate) async fn current(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Arc<Object>, Status> {
        let key = resource.key(namespace, name)?;
        self.cache.fresh().await.map_err(cache_error)?;
        self.cached(resource)?
            .get(&key)
            .ok_or_else(|| resource.not_found(name))
    }

    /// An object of a built-in kind, as it stands now; `None` when there is none.
    pub(crate) async fn find(
        &self,
        group: &str,
        version: &str,
        plural: &str,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<Arc<Object>>, Status> {
        let resource = self.builtin(group, version, plural)?;
        match self.current(&resource, namespace, name).await {
            Ok(object) => Ok(Some(object)),
            Err(status) if status.code == 404 => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// A resource that is always there.
    pub(crate) fn builtin(&self, group: &str, version: &str, plural: &str) -> Result<Arc<Resource>, Status> {
        let resource = self.registry.find(group, version, plural);
        resource
            .cloned()
            .ok_or_else(|| status::internal_error(format!("{plural} are not served")))
    }
}

/// The time of the request, as objects carry it.
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// Reads a whole body, or says why not.
pub(crate) async fn read_body(body: RequestBody) -> Result<Bytes, Status> {
    crate::body::read(body).await.map_err(|error| match error {
        ReadBodyError::TooLarge => {
            status::request_entity_too_large(format!("Request entity too large: {error}"))
        }
        ReadBodyError::Read(_) => status::bad_request(error.to_string()),
    })
}

/// The answer when the cache cannot serve a read.
pub(crate) fn cache_error(error: watch_cache::Error) -> Status {
    match error {
        watch_cache::Error::TooLarge { requested, current } => {
            status::too_large_resource_version(requested, current)
        }
        watch_cache::Error::Store(error) => store_error(&error),
    }
}

/// The answer when the store fails for a reason that is not the client's.
pub(crate) fn store_error(error: &store::Error) -> Status {
    match error {
        store::Error::Compacted { .. } => {
            status::expired("The resourceVersion for the provided list is too old.")
        }
        store::Error::FutureRevision { requested, current } => {
            status::too_large_resource_version(*requested, *current)
        }
        other => {
            tracing::error!(error = other as &dyn std::error::Error, "store failed");
            status::internal_error(other.to_string())
        }
    }
}

/// Reads a resourceVersion parameter.
pub(crate) fn parse_revision(text: &str) -> Result<Revision, Status> {
    text.parse().map_err(|_| {
        status::bad_request(format!(
            "invalid resource version {}: strconv.ParseUint: parsing {}: invalid syntax",
            status::quote(text),
            status::quote(text)
        ))
    })
}
