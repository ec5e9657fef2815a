//! Who may do what. Nothing is allowed that no rule below allows.
//!
//! `system:masters` may do everything; the cluster's own components have a table each; a node reaches its own objects
//! and what its pods refer to. Roles that users write (RBAC) are not evaluated yet.

mod node;

use api::status::{self, Denied, Status};
use serde_json::{Value, json};

pub(crate) use self::node::name_of as node_name;
use crate::{
    authn::{ALL_AUTHENTICATED, SYSTEM_MASTERS, UserInfo},
    request_info::RequestInfo,
    watch_cache::WatchCache,
};

/// What somebody wants to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) verb: String,
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Set for requests that are about no resource.
    pub(crate) path: Option<String>,
    /// The field selector of a list or watch.
    pub(crate) field_selector: Option<String>,
}

impl Attributes {
    /// Of a request that is being served.
    pub(crate) fn of(info: &RequestInfo, field_selector: Option<String>) -> Self {
        if !info.is_resource {
            return Attributes {
                verb: info.verb.clone(),
                path: Some(info.path.clone()),
                ..Attributes::default()
            };
        }
        // Whatever method opens the stream, who runs a command in a pod must be allowed to create it.
        let connects = matches!(info.subresource.as_str(), "exec" | "attach" | "portforward");
        Attributes {
            verb: if connects {
                "create".to_owned()
            } else {
                info.verb.clone()
            },
            group: info.group.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            path: None,
            field_selector,
        }
    }

    /// The 403 of a user to whom this is not allowed.
    pub(crate) fn forbidden(&self, user: &UserInfo, reason: &str) -> Status {
        status::forbidden(Denied {
            user: &user.name,
            verb: &self.verb,
            group: &self.group,
            resource: &self.resource,
            subresource: &self.subresource,
            namespace: &self.namespace,
            name: &self.name,
            path: self.path.as_deref().unwrap_or_default(),
            reason,
        })
    }
}

/// What the authorizer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    Allow,
    /// No rule allows it; the reason may be empty.
    Deny(String),
}

impl Decision {
    fn allow_if(allowed: bool) -> Self {
        if allowed {
            Decision::Allow
        } else {
            Decision::Deny(String::new())
        }
    }
}

/// A line of a rule table; `*` stands for all, `resource/sub` for a subresource, as in RBAC.
struct Rule {
    groups: &'static [&'static str],
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
}

const READ: &[&str] = &["get", "list", "watch"];
const ALL: &[&str] = &["*"];

const fn rule(
    groups: &'static [&'static str],
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
) -> Rule {
    Rule {
        groups,
        resources,
        verbs,
    }
}

/// What `system:kube-scheduler` does, as upstream's role of that name.
const SCHEDULER: &[Rule] = &[
    rule(
        &["", "events.k8s.io"],
        &["events"],
        &["create", "patch", "update"],
    ),
    rule(
        &["coordination.k8s.io"],
        &["leases"],
        &["create", "get", "list", "watch", "update", "patch"],
    ),
    rule(
        &[""],
        &["nodes", "namespaces", "services", "replicationcontrollers"],
        READ,
    ),
    rule(&[""], &["pods"], &["get", "list", "watch", "delete"]),
    rule(&[""], &["pods/binding", "bindings"], &["create"]),
    rule(&[""], &["pods/status"], &["patch", "update"]),
    rule(&["apps"], &["replicasets", "statefulsets"], READ),
    rule(&["policy"], &["poddisruptionbudgets"], READ),
    rule(
        &[""],
        &["persistentvolumeclaims", "persistentvolumes"],
        &["get", "list", "watch", "update", "patch"],
    ),
    rule(&["storage.k8s.io"], ALL, READ),
    rule(
        &["resource.k8s.io"],
        ALL,
        &["get", "list", "watch", "update", "patch", "create", "delete"],
    ),
    rule(&["scheduling.k8s.io"], ALL, READ),
    rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
    rule(&["authorization.k8s.io"], &["subjectaccessreviews"], &["create"]),
];

/// What `system:kube-controller-manager` does: all controllers share its identity, and the garbage collector and the
/// namespace controller work on every resource there is. Secrets' contents are the one thing it has no use for beyond that.
/// Of the verbs it has those of requests, not those that stand for a right alone, such as `impersonate`.
const CONTROLLER_MANAGER: &[Rule] = &[rule(
    ALL,
    ALL,
    &[
        "get",
        "list",
        "watch",
        "create",
        "update",
        "patch",
        "delete",
        "deletecollection",
    ],
)];

/// What `system:kube-proxy` does, as upstream's `system:node-proxier`, and what a network plugin needs.
const PROXY: &[Rule] = &[
    rule(
        &[""],
        &["services", "endpoints", "nodes", "pods", "namespaces"],
        READ,
    ),
    rule(&["discovery.k8s.io"], &["endpointslices"], READ),
    rule(&["networking.k8s.io"], &["networkpolicies", "servicecidrs"], READ),
    rule(
        &["", "events.k8s.io"],
        &["events"],
        &["create", "patch", "update"],
    ),
];

/// What everybody who authenticated may ask: upstream's `system:basic-user`.
const BASIC_USER: &[Rule] = &[
    rule(
        &["authorization.k8s.io"],
        &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
        &["create"],
    ),
    rule(&["authentication.k8s.io"], &["selfsubjectreviews"], &["create"]),
];

/// Paths open to everybody, with credentials or without: upstream's `system:public-info-viewer`.
const PUBLIC_PATHS: &[&str] = &["/healthz", "/livez", "/readyz", "/version", "/version/"];
/// Paths open to everybody who authenticated: upstream's `system:discovery`.
const DISCOVERY_PATHS: &[&str] = &[
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
    "/openapi",
    "/openapi/*",
    "/openid/*",
    "/.well-known/*",
];

/// Decides.
pub(crate) fn authorize(user: &UserInfo, attributes: &Attributes, cache: &WatchCache) -> Decision {
    if user.in_group(SYSTEM_MASTERS) {
        return Decision::Allow;
    }
    let authenticated = user.in_group(ALL_AUTHENTICATED);
    if let Some(path) = &attributes.path {
        let read = matches!(attributes.verb.as_str(), "get" | "head");
        let public =
            path_among(path, PUBLIC_PATHS) || path.starts_with("/livez/") || path.starts_with("/readyz/");
        let metrics = path == "/metrics" && user.name == "system:kube-controller-manager";
        return Decision::allow_if(
            read && (public || metrics || authenticated && path_among(path, DISCOVERY_PATHS)),
        );
    }
    let rules = own_rules(user);
    let own = |rules: &[Rule]| rules.iter().any(|rule| rule.covers(attributes));
    if own(rules) || authenticated && own(BASIC_USER) {
        return Decision::Allow;
    }
    match node::name_of(user) {
        Some(node) => node::authorize(node, attributes, cache),
        None => Decision::Deny(String::new()),
    }
}

/// The table of a component.
fn own_rules(user: &UserInfo) -> &'static [Rule] {
    match user.name.as_str() {
        "system:kube-scheduler" => SCHEDULER,
        "system:kube-controller-manager" => CONTROLLER_MANAGER,
        "system:kube-proxy" => PROXY,
        _ => &[],
    }
}

/// What a user may do, as `SelfSubjectRulesReview` tells it.
pub(crate) struct RuleList {
    pub(crate) resources: Vec<Value>,
    pub(crate) paths: Vec<Value>,
    /// Why there is more than can be listed.
    pub(crate) incomplete: Option<&'static str>,
}

/// Lists what [`authorize`] allows a user.
pub(crate) fn rules_of(user: &UserInfo) -> RuleList {
    let resource =
        |rule: &Rule| json!({"verbs": rule.verbs, "apiGroups": rule.groups, "resources": rule.resources});
    let path = |verbs: &[&str], paths: &[&str]| json!({"verbs": verbs, "nonResourceURLs": paths});
    if user.in_group(SYSTEM_MASTERS) {
        return RuleList {
            resources: vec![resource(&rule(ALL, ALL, ALL))],
            paths: vec![path(ALL, ALL)],
            incomplete: None,
        };
    }
    let mut resources: Vec<Value> = own_rules(user).iter().map(resource).collect();
    let mut paths = vec![path(&["get"], PUBLIC_PATHS)];
    if user.in_group(ALL_AUTHENTICATED) {
        resources.extend(BASIC_USER.iter().map(resource));
        paths.push(path(&["get"], DISCOVERY_PATHS));
    }
    RuleList {
        resources,
        paths,
        incomplete: node::name_of(user).map(|_| "node authorizer does not support user rule resolution"),
    }
}

fn path_among(path: &str, patterns: &[&str]) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => path == *pattern,
    })
}

impl Rule {
    fn covers(&self, attributes: &Attributes) -> bool {
        let among = |set: &[&str], item: &str| set.iter().any(|member| *member == "*" || *member == item);
        let resource = if attributes.subresource.is_empty() {
            attributes.resource.clone()
        } else {
            format!("{}/{}", attributes.resource, attributes.subresource)
        };
        among(self.verbs, &attributes.verb)
            && among(self.groups, &attributes.group)
            && among(self.resources, &resource)
    }
}
