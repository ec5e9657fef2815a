//! Every served resource as data.
//!
//! A built-in kind is a row of the static table in `builtin`; a custom resource will be the same [`Resource`] made at
//! run time, which is why names are `Cow` and the registry is swapped as a whole.

mod builtin;

use crate::schema::TypeRef;
use crate::status::{self, Result};
use crate::strategy::Strategy;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

/// A string that built-ins have for free and custom resources own.
pub type Name = Cow<'static, str>;

/// Group, version and kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersionKind {
    /// API group; empty for core.
    pub group: Name,
    /// Version, e.g. `v1`.
    pub version: Name,
    /// Kind, e.g. `Pod`.
    pub kind: Name,
}

impl GroupVersionKind {
    /// From its three parts.
    pub fn new(group: impl Into<Name>, version: impl Into<Name>, kind: impl Into<Name>) -> Self {
        GroupVersionKind {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
        }
    }

    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }
}

/// `v1`, `apps/v1`.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_string()
    } else {
        format!("{group}/{version}")
    }
}

/// An API verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Verb {
    /// POST
    Create = 0,
    /// DELETE of one
    Delete = 1,
    /// DELETE of a collection
    DeleteCollection = 2,
    /// GET of one
    Get = 3,
    /// GET of a collection
    List = 4,
    /// PATCH
    Patch = 5,
    /// PUT
    Update = 6,
    /// GET with `watch`
    Watch = 7,
}

impl Verb {
    /// All, in the order discovery lists them.
    pub const ALL: [Verb; 8] = [
        Verb::Create,
        Verb::Delete,
        Verb::DeleteCollection,
        Verb::Get,
        Verb::List,
        Verb::Patch,
        Verb::Update,
        Verb::Watch,
    ];

    /// The lower-case name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Patch => "patch",
            Verb::Update => "update",
            Verb::Watch => "watch",
        }
    }
}

/// A set of verbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VerbSet(u8);

impl VerbSet {
    /// What a normal resource serves.
    pub const ALL: VerbSet = VerbSet(0xff);
    /// Reviews.
    pub const CREATE: VerbSet = VerbSet::of(&[Verb::Create]);
    /// `status`, `scale`, …
    pub const GET_PATCH_UPDATE: VerbSet = VerbSet::of(&[Verb::Get, Verb::Patch, Verb::Update]);
    /// `log`, …
    pub const GET: VerbSet = VerbSet::of(&[Verb::Get]);

    /// A set of the given verbs.
    pub const fn of(verbs: &[Verb]) -> VerbSet {
        let mut bits = 0;
        let mut i = 0;
        while i < verbs.len() {
            bits |= 1 << verbs[i] as u8;
            i += 1;
        }
        VerbSet(bits)
    }

    /// Whether the verb is in it.
    pub const fn contains(self, verb: Verb) -> bool {
        self.0 & (1 << verb as u8) != 0
    }

    /// The verbs in discovery order.
    pub fn iter(self) -> impl Iterator<Item = Verb> {
        Verb::ALL.into_iter().filter(move |v| self.contains(*v))
    }
}

/// What kind of handling a subresource needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subresource {
    /// `status`, `scale`, `log`, …
    pub name: Name,
    /// Kind of its bodies (the resource's own for `status`).
    pub kind: GroupVersionKind,
    /// Verbs discovery shows.
    pub verbs: VerbSet,
    /// Verbs served over HTTP methods that discovery words otherwise: connect subresources take GET and POST (and all methods for `proxy`).
    pub connect: bool,
}

/// Where objects of a resource are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageLocation {
    /// Key prefix ending in `/`: `/registry/pods/`.
    pub prefix: Name,
    /// Version the bytes in the store are in; differs from the served one where versions share a prefix.
    pub version: GroupVersionKind,
}

/// One served resource at one version.
pub struct Resource {
    /// API group; empty for core.
    pub group: Name,
    /// Version.
    pub version: Name,
    /// Kind.
    pub kind: Name,
    /// Plural: the path segment.
    pub plural: Name,
    /// Singular name that `kubectl` takes.
    pub singular: Name,
    /// Kind of lists.
    pub list_kind: Name,
    /// Short names: `po`.
    pub short_names: Vec<Name>,
    /// Categories: `all`.
    pub categories: Vec<Name>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Verbs served.
    pub verbs: VerbSet,
    /// Subresources in discovery order.
    pub subresources: Vec<Subresource>,
    /// Fields.
    pub schema: TypeRef,
    /// Where objects are kept; reviews have none in effect (no verb reads them).
    pub storage: StorageLocation,
    /// Since when, and for what, clients are asked not to use it.
    pub deprecated: Option<Deprecation>,
    /// What data cannot say.
    pub strategy: &'static dyn Strategy,
}

/// A version of an API that clients had better leave. None that is served goes away in a release that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deprecation {
    /// The release from which on, e.g. `1.33`.
    pub since: &'static str,
    /// What to use instead, as `group/version Kind`; empty where there is nothing.
    pub replacement: &'static str,
}

impl std::fmt::Debug for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Resource({}/{} {})", self.group, self.version, self.plural)
    }
}

impl Resource {
    /// Group, version, kind.
    pub fn gvk(&self) -> GroupVersionKind {
        GroupVersionKind::new(self.group.clone(), self.version.clone(), self.kind.clone())
    }

    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// What clients that use a deprecated API are told.
    pub fn deprecation_warning(&self) -> Option<String> {
        let Deprecation { since, replacement } = self.deprecated?;
        let instead = match replacement {
            "" => String::new(),
            replacement => format!("; use {replacement}"),
        };
        Some(format!(
            "{} {} is deprecated in v{since}+{instead}",
            self.api_version(),
            self.kind
        ))
    }

    /// A subresource by name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// The store key of an object. Segments that could leave the prefix are refused.
    pub fn key(&self, namespace: Option<&str>, name: &str) -> Result<String> {
        let prefix = self.list_prefix(namespace)?;
        Ok(prefix + segment("name", name)?)
    }

    /// The store key prefix of a namespace's objects, or of all of them.
    pub fn list_prefix(&self, namespace: Option<&str>) -> Result<String> {
        let mut key = self.storage.prefix.to_string();
        if let (true, Some(namespace)) = (self.namespaced, namespace) {
            key.push_str(segment("namespace", namespace)?);
            key.push('/');
        }
        Ok(key)
    }

    /// What a request body must be.
    pub fn expected(&self) -> crate::decode::Expected<'_> {
        crate::decode::Expected {
            group: &self.group,
            version: &self.version,
            kind: &self.kind,
            schema: self.schema,
        }
    }

    /// 404 for one of its objects.
    pub fn not_found(&self, name: &str) -> status::Status {
        status::not_found(&self.group, &self.plural, name)
    }
}

/// A name or namespace that may be part of a store key.
fn segment<'a>(what: &str, text: &'a str) -> Result<&'a str> {
    let why = match text {
        "" => "may not be empty",
        "." => "may not be '.'",
        ".." => "may not be '..'",
        t if t.contains('/') => "may not contain '/'",
        t if t.contains('%') => "may not contain '%'",
        t if t.len() > 253 => "must be no more than 253 characters",
        t if t.contains('\0') => "may not contain NUL",
        _ => return Ok(text),
    };
    Err(status::bad_request(format!(
        "{what} {}: {why}",
        status::quote(text)
    )))
}

/// All served resources. Cheap to clone; replaced as a whole when it changes.
#[derive(Clone)]
pub struct Registry(Arc<Tables>);

struct Tables {
    resources: Vec<Arc<Resource>>,
    by_path: HashMap<String, usize>,
    by_kind: HashMap<GroupVersionKind, usize>,
    groups: Vec<(Name, Vec<Name>)>,
}

impl Registry {
    /// The built-in resources.
    pub fn builtin() -> Registry {
        builtin::registry()
    }

    /// A registry of the given resources; `groups` fixes the discovery order, preferred version first.
    pub fn new(resources: Vec<Arc<Resource>>, groups: Vec<(Name, Vec<Name>)>) -> Registry {
        let mut by_path = HashMap::with_capacity(resources.len());
        let mut by_kind = HashMap::with_capacity(resources.len());
        for (i, r) in resources.iter().enumerate() {
            by_path.insert(path_key(&r.group, &r.version, &r.plural), i);
            by_kind.entry(r.gvk()).or_insert(i);
        }
        Registry(Arc::new(Tables {
            resources,
            by_path,
            by_kind,
            groups,
        }))
    }

    /// By path segments.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.0
            .by_path
            .get(&path_key(group, version, plural))
            .and_then(|i| self.0.resources.get(*i))
    }

    /// By kind.
    pub fn by_kind(&self, gvk: &GroupVersionKind) -> Option<&Arc<Resource>> {
        self.0.by_kind.get(gvk).and_then(|i| self.0.resources.get(*i))
    }

    /// All, in upstream's discovery order.
    pub fn resources(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.0.resources.iter()
    }

    /// Groups in discovery order (core first, as the empty string), each with its versions, preferred first.
    pub fn groups(&self) -> &[(Name, Vec<Name>)] {
        &self.0.groups
    }

    /// The resources of one group-version in discovery order.
    pub fn group_version<'a>(
        &'a self,
        group: &'a str,
        version: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Resource>> {
        self.resources()
            .filter(move |r| r.group == group && r.version == version)
    }
}

fn path_key(group: &str, version: &str, plural: &str) -> String {
    format!("{group}/{version}/{plural}")
}
