//! Who may do what: the attributes of a request, and asking the API server about them.
//!
//! A positive answer is remembered for five minutes and a negative one for thirty seconds, as upstream's defaults are,
//! so that an exec costs one round trip at most and a revoked permission is gone soon. No answer means no.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::Method;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::{Api, api::PostParams};

const ALLOWED_TTL: Duration = Duration::from_secs(300);
const DENIED_TTL: Duration = Duration::from_secs(30);
/// Far more callers than a cluster has; beyond it, everything is asked anew.
const REMEMBERED_MAX: usize = 1024;
const AUTHENTICATED: &str = "system:authenticated";

/// The holder of a verified client certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Caller {
    pub(super) user: String,
    pub(super) groups: Vec<String>,
}

/// What a request needs: the verb on `nodes/<any of the subresources>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) verb: &'static str,
    /// The narrow permission before the one that covers everything.
    pub(super) subresources: Vec<&'static str>,
}

/// Upstream's fine-grained mapping. Pure.
///
/// What runs something in a container is `create` whatever the method is: a GET that upgrades to an exec is no read.
pub(super) fn attributes(method: &Method, path: &str) -> Attributes {
    let verb = match *method {
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    };
    let below = |root: &str| {
        path.strip_prefix(root)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let runs_something = ["/exec", "/attach", "/portForward", "/run"]
        .into_iter()
        .any(below);
    let subresources = if below("/stats") {
        vec!["stats"]
    } else if below("/metrics") {
        vec!["metrics"]
    } else if below("/logs") {
        vec!["log"]
    } else if below("/checkpoint") {
        vec!["checkpoint"]
    } else if below("/pods") || below("/runningpods") {
        vec!["pods", "proxy"]
    } else if below("/healthz") {
        vec!["healthz", "proxy"]
    } else if below("/configz") {
        vec!["configz", "proxy"]
    } else {
        vec!["proxy"]
    };
    Attributes {
        verb: if runs_something { "create" } else { verb },
        subresources,
    }
}

type Question = (Caller, &'static str, &'static str);

/// Asks the API server, and remembers.
pub(super) struct Authorizer {
    reviews: Api<SubjectAccessReview>,
    node_name: String,
    answers: Mutex<HashMap<Question, (bool, Instant)>>,
}

impl Authorizer {
    pub(super) fn new(client: kube::Client, node_name: String) -> Self {
        Self {
            reviews: Api::all(client),
            node_name,
            answers: Mutex::default(),
        }
    }

    /// Whether one of the permissions that would do is the caller's.
    pub(super) async fn allows(&self, caller: &Caller, attributes: &Attributes) -> bool {
        for subresource in &attributes.subresources {
            if self.allows_one(caller, attributes.verb, subresource).await {
                return true;
            }
        }
        false
    }

    async fn allows_one(&self, caller: &Caller, verb: &'static str, subresource: &'static str) -> bool {
        let question = (caller.clone(), verb, subresource);
        if let Some(answer) = self.remembered(&question) {
            return answer;
        }
        match self.ask(&question).await {
            Ok(answer) => {
                self.remember(question, answer);
                answer
            }
            Err(error) => {
                tracing::warn!(user = caller.user, verb, subresource, %error,
                    "asking the API server for a permission failed: denied");
                false
            }
        }
    }

    async fn ask(&self, (caller, verb, subresource): &Question) -> kube::Result<bool> {
        let mut groups = caller.groups.clone();
        groups.push(AUTHENTICATED.into());
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(caller.user.clone()),
                groups: Some(groups),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some((*verb).to_owned()),
                    version: Some("v1".into()),
                    resource: Some("nodes".into()),
                    subresource: Some((*subresource).to_owned()),
                    name: Some(self.node_name.clone()),
                    ..Default::default()
                }),
                ..Default::default()
            },
            ..Default::default()
        };
        let answer = self.reviews.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    fn remembered(&self, question: &Question) -> Option<bool> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let (allowed, at) = answers.get(question)?;
        (at.elapsed() < ttl(*allowed)).then_some(*allowed)
    }

    fn remember(&self, question: Question, allowed: bool) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= REMEMBERED_MAX {
            answers.retain(|_, (allowed, at)| at.elapsed() < ttl(*allowed));
        }
        if answers.len() >= REMEMBERED_MAX {
            answers.clear();
        }
        answers.insert(question, (allowed, Instant::now()));
    }
}

fn ttl(allowed: bool) -> Duration {
    if allowed { ALLOWED_TTL } else { DENIED_TTL }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows follow upstream's `TestGetRequestAttributes` (pkg/kubelet/server/auth_test.go), except that running something
    /// is always `create`.
    #[test]
    fn mapping() {
        let rows: [(Method, &str, &str, &[&str]); 17] = [
            (Method::GET, "/pods", "get", &["pods", "proxy"]),
            (Method::GET, "/pods/", "get", &["pods", "proxy"]),
            (Method::GET, "/podsx", "get", &["proxy"]),
            (Method::GET, "/runningpods/", "get", &["pods", "proxy"]),
            (Method::GET, "/healthz", "get", &["healthz", "proxy"]),
            (Method::GET, "/healthz/syncloop", "get", &["healthz", "proxy"]),
            (Method::GET, "/configz", "get", &["configz", "proxy"]),
            (Method::GET, "/metrics", "get", &["metrics"]),
            (Method::GET, "/metrics/cadvisor", "get", &["metrics"]),
            (Method::GET, "/stats/summary", "get", &["stats"]),
            (Method::POST, "/stats/", "create", &["stats"]),
            (Method::GET, "/logs/x", "get", &["log"]),
            (Method::GET, "/containerLogs/ns/p/c", "get", &["proxy"]),
            (Method::GET, "/exec/ns/p/c", "create", &["proxy"]),
            (Method::POST, "/attach/ns/p/c", "create", &["proxy"]),
            (Method::PUT, "/portForward/ns/p", "create", &["proxy"]),
            (Method::DELETE, "/other", "delete", &["proxy"]),
        ];
        for (method, path, verb, subresources) in rows {
            let expect = Attributes {
                verb,
                subresources: subresources.to_vec(),
            };
            assert_eq!(attributes(&method, path), expect, "{method} {path}");
        }
    }
}
