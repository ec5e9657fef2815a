//! Acting as somebody else: the `Impersonate-*` headers, each of which the one who asks must be allowed to give.
//!
//! Upstream's `endpoints/filters/impersonation`: every user, group, uid and extra value is a request of its own to the
//! authorizer, verb `impersonate`. What is not allowed is refused; nothing is left out silently.

use std::collections::BTreeMap;

use api::status::{self, Status};
use http::{HeaderMap, HeaderName};

use crate::{
    authn::{ALL_AUTHENTICATED, ALL_UNAUTHENTICATED, ANONYMOUS, UserInfo},
    authz::{self, Attributes, Decision},
    watch_cache::WatchCache,
};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA_PREFIX: &str = "impersonate-extra-";

const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// Who the request shall be from, and what its sender must be allowed for that.
#[derive(Debug, PartialEq)]
struct Plan {
    user: UserInfo,
    needed: Vec<Attributes>,
}

/// The user a request is served as: the one who sent it, or the one it names.
///
/// # Errors
///
/// 400 for headers that name no user, 403 for what the sender may not impersonate.
pub(crate) fn acting_user(
    headers: &HeaderMap,
    sender: UserInfo,
    cache: &WatchCache,
) -> Result<UserInfo, Status> {
    let Some(plan) = plan(headers)? else {
        return Ok(sender);
    };
    for attributes in &plan.needed {
        if let Decision::Deny(reason) = authz::authorize(&sender, attributes, cache) {
            return Err(attributes.forbidden(&sender, &reason));
        }
    }
    tracing::info!(sender = sender.name, user = plan.user.name, "impersonating");
    Ok(plan.user)
}

/// Whether there is a header about it; one in another encoding than UTF-8 is one too.
fn names_anybody(headers: &HeaderMap) -> bool {
    headers.keys().any(is_ours)
}

fn is_ours(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(name, USER | GROUP | UID) || name.starts_with(EXTRA_PREFIX)
}

/// `None` when the headers ask for nothing.
fn plan(headers: &HeaderMap) -> Result<Option<Plan>, Status> {
    if !names_anybody(headers) {
        return Ok(None);
    }
    let text = |name: &str| {
        let values = headers.get_all(name).into_iter();
        values
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect::<Vec<_>>()
    };
    let first = |name: &str| text(name).into_iter().next().unwrap_or_default();
    let (name, uid, given_groups) = (first(USER), first(UID), text(GROUP));
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for header in headers.keys() {
        if let Some(key) = header.as_str().strip_prefix(EXTRA_PREFIX) {
            extra
                .entry(unescaped(key))
                .or_default()
                .extend(text(header.as_str()));
        }
    }
    if name.is_empty() {
        if given_groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(None);
        }
        let asked = requested(&given_groups, &extra, &uid);
        let message = format!("requested [{}] without impersonating a user", asked.join(" "));
        return Err(status::bad_request(message));
    }
    let impersonate = |group: &str, resource: &str, name: &str| Attributes {
        verb: "impersonate".to_owned(),
        group: group.to_owned(),
        resource: resource.to_owned(),
        name: name.to_owned(),
        ..Attributes::default()
    };
    let mut needed = Vec::new();
    let mut groups = given_groups.clone();
    match service_account(&name) {
        Some((namespace, account)) => {
            needed.push(Attributes {
                namespace: namespace.to_owned(),
                ..impersonate("", "serviceaccounts", account)
            });
            if given_groups.is_empty() {
                groups.push("system:serviceaccounts".to_owned());
                groups.push(format!("system:serviceaccounts:{namespace}"));
            }
        }
        None => needed.push(impersonate("", "users", &name)),
    }
    needed.extend(given_groups.iter().map(|group| impersonate("", "groups", group)));
    for (key, values) in &extra {
        needed.extend(values.iter().map(|value| Attributes {
            subresource: key.clone(),
            ..impersonate("authentication.k8s.io", "userextras", value)
        }));
    }
    if !uid.is_empty() {
        needed.push(impersonate("authentication.k8s.io", "uids", &uid));
    }
    let among = |group: &str| groups.iter().any(|own| own == group);
    if name == ANONYMOUS {
        if !among(ALL_UNAUTHENTICATED) {
            groups.push(ALL_UNAUTHENTICATED.to_owned());
        }
    } else if !among(ALL_AUTHENTICATED) && !among(ALL_UNAUTHENTICATED) {
        groups.push(ALL_AUTHENTICATED.to_owned());
    }
    let user = UserInfo {
        name,
        uid,
        groups,
        extra,
    };
    Ok(Some(Plan { user, needed }))
}

/// Namespace and name of a service account's user name.
fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    let valid = !namespace.is_empty() && !name.is_empty() && !name.contains(':');
    valid.then_some((namespace, name))
}

/// What is asked for, as upstream's message shows it.
fn requested(groups: &[String], extra: &BTreeMap<String, Vec<String>>, uid: &str) -> Vec<String> {
    const VERSION: &str = "authentication.k8s.io/v1";
    let mut out: Vec<String> = groups
        .iter()
        .map(|group| format!("{{Group  {group}    }}"))
        .collect();
    for (key, values) in extra {
        out.extend(
            values
                .iter()
                .map(|value| format!("{{UserExtra  {value}  {VERSION}  {key}}}")),
        );
    }
    if !uid.is_empty() {
        out.push(format!("{{UID  {uid}  {VERSION}  }}"));
    }
    out
}

/// A key of extra values, in which what headers cannot carry is written as in a URL; as it is when that is malformed.
fn unescaped(key: &str) -> String {
    let mut out = Vec::with_capacity(key.len());
    let mut bytes = key.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) => out.push((high * 16 + low) as u8),
            _ => return key.to_owned(),
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(headers: &[(&str, &str)]) -> Result<Option<Plan>, Status> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        plan(&map)
    }

    /// The user as `name uid groups extra`, and what it needs as `resource/subresource namespace/name`.
    fn check(headers: &[(&str, &str)], user: &str, needed: &[&str]) {
        let plan = planned(headers).unwrap().unwrap();
        let shown = format!(
            "{} {} {} {:?}",
            plan.user.name,
            plan.user.uid,
            plan.user.groups.join(","),
            plan.user.extra
        );
        assert_eq!(shown, user, "{headers:?}");
        let shown = |a: &Attributes| {
            assert_eq!(a.verb, "impersonate");
            format!(
                "{}/{}/{} {}/{}",
                a.group, a.resource, a.subresource, a.namespace, a.name
            )
        };
        let shown: Vec<String> = plan.needed.iter().map(shown).collect();
        assert_eq!(shown, needed, "{headers:?}");
    }

    // Rows follow TestImpersonationFilter of k8s.io/apiserver/pkg/endpoints/filters.
    #[test]
    fn who_and_what_it_takes() {
        assert_eq!(planned(&[("authorization", "x")]).unwrap(), None);
        assert_eq!(planned(&[(USER, "")]).unwrap(), None);
        check(
            &[(USER, "jane")],
            "jane  system:authenticated {}",
            &["/users/ /jane"],
        );
        check(
            &[(USER, "jane"), (GROUP, "dev"), (GROUP, "ops"), (UID, "7")],
            "jane 7 dev,ops,system:authenticated {}",
            &[
                "/users/ /jane",
                "/groups/ /dev",
                "/groups/ /ops",
                "authentication.k8s.io/uids/ /7",
            ],
        );
        check(
            &[
                (USER, "jane"),
                ("impersonate-extra-acme.com%2fproject", "a"),
                ("impersonate-extra-acme.com%2fproject", "b"),
            ],
            "jane  system:authenticated {\"acme.com/project\": [\"a\", \"b\"]}",
            &[
                "/users/ /jane",
                "authentication.k8s.io/userextras/acme.com/project /a",
                "authentication.k8s.io/userextras/acme.com/project /b",
            ],
        );
        check(
            &[(USER, "system:serviceaccount:foo:default")],
            "system:serviceaccount:foo:default  system:serviceaccounts,system:serviceaccounts:foo,system:authenticated {}",
            &["/serviceaccounts/ foo/default"],
        );
        check(
            &[(USER, "system:serviceaccount:foo:default"), (GROUP, "x")],
            "system:serviceaccount:foo:default  x,system:authenticated {}",
            &["/serviceaccounts/ foo/default", "/groups/ /x"],
        );
        check(
            &[(USER, "system:anonymous")],
            "system:anonymous  system:unauthenticated {}",
            &["/users/ /system:anonymous"],
        );
        check(
            &[(USER, "jane"), (GROUP, "system:unauthenticated")],
            "jane  system:unauthenticated {}",
            &["/users/ /jane", "/groups/ /system:unauthenticated"],
        );
        for (headers, message) in [
            (
                &[(GROUP, "dev")][..],
                "requested [{Group  dev    }] without impersonating a user",
            ),
            (
                &[(UID, "7")],
                "requested [{UID  7  authentication.k8s.io/v1  }] without impersonating a user",
            ),
            (
                &[("impersonate-extra-scopes", "a")],
                "requested [{UserExtra  a  authentication.k8s.io/v1  scopes}] without impersonating a user",
            ),
        ] {
            let refused = planned(headers).unwrap_err();
            assert_eq!((refused.code, refused.message.as_str()), (400, message));
        }
        assert_eq!(unescaped("a%2"), "a%2");
        assert_eq!(unescaped("a%zz"), "a%zz");
    }
}
