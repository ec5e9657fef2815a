//! The paths and their operations.

use super::definitions::{self, Definitions};
use super::json::Json;
use super::{Dialect, Scope, parameters};
use crate::registry::{GroupVersionKind, Registry, Resource, Subresource, Verb};
use std::fmt::Write as _;

const CONTENT: &[&str] = &[
    "application/json",
    "application/vnd.kubernetes.protobuf",
    "application/yaml",
];
const WATCH_CONTENT: &[&str] = &[
    "application/json",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf",
    "application/vnd.kubernetes.protobuf;stream=watch",
    "application/yaml",
];
const PATCH_CONTENT: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];
const ANY_CONTENT: &[&str] = &["*/*"];
const TEXT_CONTENT: &[&str] = &["text/plain"];

/// Writes the members of `paths`.
pub(super) struct Paths<'a, 'd> {
    json: &'a mut Json,
    definitions: &'a mut Definitions<'d>,
}

/// One method of a path.
struct Operation<'a> {
    method: &'static str,
    id: String,
    description: String,
    tag: &'a str,
    /// `x-kubernetes-action` and the kind; none for discovery.
    action: Option<(&'static str, &'a GroupVersionKind)>,
    query: &'static [&'static str],
    /// Media types and definition of the request body, and whether there must be one.
    body: Option<(&'static [&'static str], &'static str, bool)>,
    /// Definition of the answer; text if none.
    answer: Option<&'static str>,
    content: &'static [&'static str],
    codes: &'static [&'static str],
}

impl<'a, 'd> Paths<'a, 'd> {
    pub(super) fn new(json: &'a mut Json, definitions: &'a mut Definitions<'d>) -> Self {
        Paths { json, definitions }
    }

    /// The paths of a document, or of a part of the v2 document.
    pub(super) fn scope(&mut self, registry: &Registry, scope: Scope<'_>) {
        match scope {
            Scope::Core => {
                let id = "getCoreAPIVersions";
                self.discovery(
                    "/api/",
                    id,
                    "core",
                    "available API versions",
                    definitions::API_VERSIONS,
                );
            }
            Scope::Groups => {
                let id = "getAPIVersions";
                self.discovery(
                    "/apis/",
                    id,
                    "apis",
                    "available API versions",
                    definitions::API_GROUP_LIST,
                );
            }
            Scope::Group(group) => {
                let name = camel(group);
                self.discovery(
                    &format!("/apis/{group}/"),
                    &format!("get{name}APIGroup"),
                    &lower_first(&name),
                    "information of a group",
                    definitions::API_GROUP,
                );
            }
            Scope::GroupVersion(group, version) => self.group_version(registry, group, version),
        }
    }

    fn discovery(&mut self, path: &str, id: &str, tag: &str, what: &str, answer: &'static str) {
        let operation = Operation {
            method: "get",
            id: id.to_owned(),
            description: format!("get {what}"),
            tag,
            action: None,
            query: &[],
            body: None,
            answer: Some(answer),
            content: CONTENT,
            codes: &["200"],
        };
        self.item(path, &[], &[], &[operation]);
    }

    fn group_version(&mut self, registry: &Registry, group: &str, version: &str) {
        let base = match group {
            "" => format!("/api/{version}"),
            _ => format!("/apis/{group}/{version}"),
        };
        let name = if group.is_empty() {
            "Core".to_owned()
        } else {
            camel(group)
        };
        let tag = format!("{}_{version}", lower_first(&name));
        let prefix = name + &upper_first(version);
        let id = format!("get{prefix}APIResources");
        let answer = definitions::API_RESOURCE_LIST;
        self.discovery(&format!("{base}/"), &id, &tag, "available resources", answer);
        for resource in registry.group_version(group, version) {
            let gvk = resource.gvk();
            let writer = ResourcePaths {
                resource,
                gvk: &gvk,
                prefix: &prefix,
                tag: &tag,
                definition: resource.schema.name(),
                list: self.definitions.of_kind(&GroupVersionKind {
                    kind: resource.list_kind.clone(),
                    ..gvk.clone()
                }),
            };
            writer.write(self, &base);
        }
    }

    /// A path with the operations it has, if any.
    fn item(&mut self, path: &str, segments: &[&str], query: &[&str], operations: &[Operation<'_>]) {
        if operations.is_empty() {
            return;
        }
        let Paths { json, definitions } = self;
        let dialect = definitions.dialect;
        json.key(path).object(|json| {
            for operation in operations {
                json.key(operation.method)
                    .object(|json| operation.write(json, definitions));
            }
            if segments.is_empty() && query.is_empty() {
                return;
            }
            json.key("parameters").array(|json| {
                for name in segments {
                    parameters::path(json, dialect, name);
                }
                for name in query {
                    parameters::query(json, dialect, name);
                }
            });
        });
    }
}

/// What the operations of one resource have in common.
struct ResourcePaths<'a> {
    resource: &'a Resource,
    gvk: &'a GroupVersionKind,
    /// Group and version in operation ids: `AppsV1`.
    prefix: &'a str,
    tag: &'a str,
    definition: &'static str,
    list: Option<&'static str>,
}

impl ResourcePaths<'_> {
    fn write(&self, paths: &mut Paths<'_, '_>, base: &str) {
        let plural = &self.resource.plural;
        let mut collection = format!("{base}/{plural}");
        let mut segments = Vec::new();
        if self.resource.namespaced {
            if self.resource.verbs.contains(Verb::List) {
                let mut list = self.operation(Verb::List, None);
                list.id = format!("list{}{}ForAllNamespaces", self.prefix, self.resource.kind);
                // Its own parameters are those of the path, as no other method shares it.
                paths.item(&collection, &[], &["pretty"], &[list]);
            }
            collection = format!("{base}/namespaces/{{namespace}}/{plural}");
            segments.push("namespace");
        }
        if self.resource.verbs.contains(Verb::Watch) {
            paths.definitions.want(definitions::WATCH_EVENT);
        }
        let collection_operations = self.operations(&[Verb::DeleteCollection, Verb::List, Verb::Create]);
        paths.item(&collection, &segments, &["pretty"], &collection_operations);

        let item = format!("{collection}/{{name}}");
        segments.insert(0, "name");
        let item_operations = self.operations(&[Verb::Delete, Verb::Get, Verb::Patch, Verb::Update]);
        paths.item(&item, &segments, &["pretty"], &item_operations);
        for subresource in &self.resource.subresources {
            let path = format!("{item}/{}", subresource.name);
            if subresource.connect {
                self.connect(paths, &path, &mut segments, subresource);
                continue;
            }
            let operations: Vec<_> = [Verb::Get, Verb::Patch, Verb::Create, Verb::Update]
                .into_iter()
                .filter(|verb| subresource.verbs.contains(*verb))
                .map(|verb| {
                    let mut operation = self.operation(verb, Some(subresource));
                    let definition = paths.definitions.of_kind(&subresource.kind);
                    if subresource.name == "log" {
                        (operation.answer, operation.content) = (None, TEXT_CONTENT);
                    } else if let Some(definition) = definition {
                        operation.is_of(definition);
                    }
                    operation
                })
                .collect();
            let mut query = parameters::of_subresource(&subresource.name).to_vec();
            query.push("pretty");
            paths.item(&path, &segments, &query, &operations);
        }
    }

    /// A subresource that hands the connection on: any method it takes, no schema.
    fn connect(
        &self,
        paths: &mut Paths<'_, '_>,
        path: &str,
        segments: &mut Vec<&'static str>,
        subresource: &Subresource,
    ) {
        let is_proxy = subresource.name == "proxy";
        let methods: &[&'static str] = match is_proxy {
            true => &["delete", "get", "head", "options", "patch", "post", "put"],
            false => &["get", "post"],
        };
        let operations = |suffix: &str| -> Vec<Operation<'_>> {
            let operation = |method: &&'static str| Operation {
                method,
                id: format!(
                    "connect{}{}{}{}{suffix}",
                    self.prefix,
                    upper_first(method),
                    self.subject(),
                    upper_first(&subresource.name),
                ),
                description: format!(
                    "connect {} requests to {} of {}",
                    method.to_uppercase(),
                    subresource.name,
                    self.resource.kind
                ),
                tag: self.tag,
                action: Some(("connect", &subresource.kind)),
                query: &[],
                body: None,
                answer: None,
                content: ANY_CONTENT,
                codes: &["200"],
            };
            methods.iter().map(operation).collect()
        };
        let query = parameters::of_subresource(&subresource.name);
        paths.item(path, segments, query, &operations(""));
        if is_proxy {
            segments.push("path");
            let path = format!("{path}/{{path}}");
            paths.item(&path, segments, &[], &operations("WithPath"));
            segments.pop();
        }
    }

    fn operations(&self, verbs: &[Verb]) -> Vec<Operation<'_>> {
        verbs
            .iter()
            .filter(|verb| self.resource.verbs.contains(**verb))
            .map(|verb| self.operation(*verb, None))
            .collect()
    }

    /// What operation ids call the resource: `NamespacedPod`.
    fn subject(&self) -> String {
        let scope = if self.resource.namespaced {
            "Namespaced"
        } else {
            ""
        };
        format!("{scope}{}", self.resource.kind)
    }

    fn operation<'a>(&'a self, verb: Verb, subresource: Option<&'a Subresource>) -> Operation<'a> {
        let kind = &self.resource.kind;
        let body = Some((ANY_CONTENT, self.definition, true));
        let delete = Some((ANY_CONTENT, definitions::DELETE_OPTIONS, false));
        let patch = Some((PATCH_CONTENT, definitions::PATCH, true));
        let (method, action, id, what, query, body, codes): (_, _, _, _, _, _, &[&str]) = match verb {
            Verb::Create => {
                let codes = &["200", "201", "202"];
                ("post", "post", "create", "create", parameters::WRITE, body, codes)
            }
            Verb::Delete => {
                let codes = &["200", "202"];
                (
                    "delete",
                    "delete",
                    "delete",
                    "delete",
                    parameters::DELETE,
                    delete,
                    codes,
                )
            }
            Verb::DeleteCollection => {
                let query = parameters::DELETE_COLLECTION;
                let what = "delete collection of";
                (
                    "delete",
                    "deletecollection",
                    "delete",
                    what,
                    query,
                    delete,
                    &["200"],
                )
            }
            Verb::Get => ("get", "get", "read", "read", &[][..], None, &["200"]),
            Verb::List | Verb::Watch => {
                let what = "list or watch objects of kind";
                ("get", "list", "list", what, parameters::LIST, None, &["200"])
            }
            Verb::Patch => {
                let codes = &["200", "201"];
                let what = "partially update";
                ("patch", "patch", "patch", what, parameters::PATCH, patch, codes)
            }
            Verb::Update => {
                let codes = &["200", "201"];
                ("put", "put", "replace", "replace", parameters::WRITE, body, codes)
            }
        };
        let mut description = format!("{what} ");
        if let Some(subresource) = subresource {
            // Writing to a String cannot fail.
            let _ = write!(description, "{} of ", subresource.name);
        }
        description.push_str(kind);
        let collection = if verb == Verb::DeleteCollection {
            "Collection"
        } else {
            ""
        };
        let answer = match verb {
            Verb::Delete | Verb::DeleteCollection => Some(definitions::STATUS),
            Verb::List | Verb::Watch => self.list,
            _ => Some(self.definition),
        };
        Operation {
            method,
            id: format!(
                "{id}{}{collection}{}{}",
                self.prefix,
                self.subject(),
                subresource.map(|s| upper_first(&s.name)).unwrap_or_default(),
            ),
            description,
            tag: self.tag,
            action: Some((action, subresource.map_or(self.gvk, |s| &s.kind))),
            query,
            body,
            answer,
            content: if matches!(verb, Verb::List) {
                WATCH_CONTENT
            } else {
                CONTENT
            },
            codes,
        }
    }
}

impl Operation<'_> {
    /// Bodies are of that definition (patches stay patches).
    fn is_of(&mut self, definition: &'static str) {
        self.answer = Some(definition);
        if let Some((_, body, _)) = &mut self.body
            && *body != definitions::PATCH
        {
            *body = definition;
        }
    }

    fn write(&self, json: &mut Json, definitions: &mut Definitions<'_>) {
        let dialect = definitions.dialect;
        json.key("description").string(&self.description);
        json.key("operationId").string(&self.id);
        json.key("tags").array(|json| json.string(self.tag));
        let has_body_parameter = dialect == Dialect::V2 && self.body.is_some();
        if has_body_parameter || !self.query.is_empty() {
            json.key("parameters").array(|json| {
                if let Some((_, definition, required)) = self.body.filter(|_| has_body_parameter) {
                    json.object(|json| {
                        json.key("in").string("body");
                        json.key("name").string("body");
                        if required {
                            json.key("required").raw("true");
                        }
                        definitions.reference(json.key("schema"), definition);
                    });
                }
                for name in self.query {
                    parameters::query(json, dialect, name);
                }
            });
        }
        match dialect {
            Dialect::V2 => self.media_types(json),
            Dialect::V3 => self.request_body(json, definitions),
        }
        json.key("responses").object(|json| {
            for code in self.codes {
                json.key(code)
                    .object(|json| self.response(json, definitions, code));
            }
            json.key("401")
                .object(|json| json.key("description").string("Unauthorized"));
        });
        if let Some((action, kind)) = self.action {
            json.key("x-kubernetes-action").string(action);
            json.key("x-kubernetes-group-version-kind").object(|json| {
                definitions::kind_members(json, &kind.group, &kind.version, &kind.kind);
            });
        }
    }

    fn media_types(&self, json: &mut Json) {
        let consumes = self.body.map_or(ANY_CONTENT, |(content, ..)| content);
        for (key, types) in [("consumes", consumes), ("produces", self.content)] {
            json.key(key)
                .array(|json| types.iter().for_each(|ty| json.string(ty)));
        }
    }

    fn request_body(&self, json: &mut Json, definitions: &mut Definitions<'_>) {
        let Some((content, definition, required)) = self.body else {
            return;
        };
        json.key("requestBody").object(|json| {
            json.key("content").object(|json| {
                for ty in content {
                    json.key(ty)
                        .object(|json| definitions.reference(json.key("schema"), definition));
                }
            });
            if required {
                json.key("required").raw("true");
            }
        });
    }

    fn response(&self, json: &mut Json, definitions: &mut Definitions<'_>, code: &str) {
        json.key("description").string(match code {
            "201" => "Created",
            "202" => "Accepted",
            _ => "OK",
        });
        let dialect = definitions.dialect;
        let mut schema = |json: &mut Json| match self.answer {
            Some(definition) => definitions.reference(json.key("schema"), definition),
            None => json
                .key("schema")
                .object(|json| json.key("type").string("string")),
        };
        match dialect {
            Dialect::V2 => schema(json),
            Dialect::V3 => json.key("content").object(|json| {
                for ty in self.content {
                    json.key(ty).object(&mut schema);
                }
            }),
        }
    }
}

/// `rbac.authorization.k8s.io` as `RbacAuthorization`.
fn camel(group: &str) -> String {
    let group = group.strip_suffix(".k8s.io").unwrap_or(group);
    group.split('.').map(upper_first).collect()
}

fn upper_first(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .into_iter()
        .flat_map(char::to_uppercase)
        .chain(chars)
        .collect()
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .into_iter()
        .flat_map(char::to_lowercase)
        .chain(chars)
        .collect()
}
