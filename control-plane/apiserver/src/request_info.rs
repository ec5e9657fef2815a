//! What a request asks for, read off its method, path and query by upstream's rules, before anything else is decided.

use std::time::Duration;

use http::{Method, Uri};

/// A request as authorization, admission and the handlers see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RequestInfo {
    /// Whether the path names a resource (otherwise only `path` and `verb` mean something).
    pub(crate) is_resource: bool,
    /// The path without the query.
    pub(crate) path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or the method in lower case.
    pub(crate) verb: String,
    /// The API group, empty for core.
    pub(crate) group: String,
    /// The version within the group.
    pub(crate) version: String,
    /// The namespace, empty for cluster-scoped requests and requests over all namespaces.
    pub(crate) namespace: String,
    /// The resource's plural name.
    pub(crate) resource: String,
    /// The part after the name, such as `status`.
    pub(crate) subresource: String,
    /// The object's name; for a list or watch the name that its field selector asks for.
    pub(crate) name: String,
    /// Whether the name was in the path.
    pub(crate) named_in_path: bool,
}

impl RequestInfo {
    /// Reads a request's method, path and query.
    pub(crate) fn new(method: &Method, uri: &Uri) -> Self {
        let path = uri.path().to_owned();
        let verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        };
        let mut info = RequestInfo {
            verb: method.as_str().to_ascii_lowercase(),
            path: path.clone(),
            ..Self::default()
        };

        let decoded: Vec<String> = path.trim_matches('/').split('/').map(decode_segment).collect();
        let parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
        if parts.len() < 3 {
            return info;
        }
        let mut rest: &[&str] = match parts[0] {
            "api" => &parts[1..],
            "apis" if parts.len() >= 4 => {
                info.group = parts[1].to_owned();
                &parts[2..]
            }
            _ => return info,
        };
        info.is_resource = true;
        info.version = rest[0].to_owned();
        rest = &rest[1..];
        info.verb = verb.to_owned();
        if matches!(rest.first(), Some(&("watch" | "proxy"))) {
            if rest.len() < 2 {
                info.is_resource = false;
                return info;
            }
            info.verb = rest[0].to_owned();
            rest = &rest[1..];
        }
        if rest.first() == Some(&"namespaces") && rest.len() > 1 {
            info.namespace = rest[1].to_owned();
            if rest.len() > 2 && !matches!(rest[2], "status" | "finalize") {
                rest = &rest[2..];
            }
        }
        info.resource = rest.first().copied().unwrap_or_default().to_owned();
        info.name = rest.get(1).copied().unwrap_or_default().to_owned();
        info.named_in_path = !info.name.is_empty();
        info.subresource = rest.get(2).copied().unwrap_or_default().to_owned();

        if info.name.is_empty() && info.verb == "get" {
            let watching = query(uri, "watch").is_some_and(|value| truthy(&value));
            info.verb = if watching { "watch" } else { "list" }.to_owned();
        }
        if info.name.is_empty() && info.verb == "delete" {
            info.verb = "deletecollection".to_owned();
        }
        if !info.named_in_path
            && matches!(info.verb.as_str(), "list" | "watch" | "deletecollection")
            && let Some(name) = query(uri, "fieldSelector").as_deref().and_then(selected_name)
        {
            info.name = name;
        }
        info
    }
}

/// The value of a query parameter, decoded; the first one when it is repeated.
pub(crate) fn query(uri: &Uri, key: &str) -> Option<String> {
    query_pairs(uri)
        .find(|(name, _)| name == key)
        .map(|(_, value)| value)
}

/// All query parameters in order, decoded.
pub(crate) fn query_pairs(uri: &Uri) -> impl Iterator<Item = (String, String)> {
    uri.query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name, true), decode(value, true))
        })
}

/// Go's reading of a boolean query parameter: everything but `false` and `0` is true.
pub(crate) fn truthy(value: &str) -> bool {
    !matches!(value.to_ascii_lowercase().as_str(), "false" | "0")
}

/// Go's notation of a duration, such as `1m30s` or `500ms`; negative ones count as nothing.
pub(crate) fn go_duration(text: &str) -> Option<Duration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.');
        let unit = unit.unwrap_or(rest.len());
        seconds += number
            * match &rest[..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    if text.is_empty() {
        return None;
    }
    Duration::try_from_secs_f64(if negative { 0.0 } else { seconds }).ok()
}

fn decode_segment(text: &str) -> String {
    decode(text, false)
}

fn decode(text: &str, form: bool) -> String {
    if !text.contains(['%', '+']) {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |byte: Option<&u8>| byte.and_then(|byte| (*byte as char).to_digit(16));
        match bytes[at] {
            b'%' => match (hex(bytes.get(at + 1)), hex(bytes.get(at + 2))) {
                (Some(high), Some(low)) => {
                    out.push((high * 16 + low) as u8);
                    at += 2;
                }
                _ => out.push(b'%'),
            },
            b'+' if form => out.push(b' '),
            byte => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn selected_name(selector: &str) -> Option<String> {
    selector.split(',').find_map(|term| {
        let value = term.trim().strip_prefix("metadata.name")?;
        let value = value.strip_prefix("==").or_else(|| value.strip_prefix('='))?;
        (!value.is_empty()).then(|| value.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: Method, uri: &str, expect: [&str; 7]) {
        let info = RequestInfo::new(&method, &uri.parse().unwrap());
        let seen = [
            info.verb.as_str(),
            &info.group,
            &info.version,
            &info.namespace,
            &info.resource,
            &info.subresource,
            &info.name,
        ];
        assert_eq!(seen, expect, "{method} {uri}");
        assert!(info.is_resource, "{method} {uri}");
    }

    // Rows follow TestGetAPIRequestInfo of k8s.io/apiserver/pkg/endpoints/request.
    #[test]
    fn resources() {
        let get = || Method::GET;
        check(
            get(),
            "/api/v1/namespaces",
            ["list", "", "v1", "", "namespaces", "", ""],
        );
        check(
            get(),
            "/api/v1/namespaces/other",
            ["get", "", "v1", "other", "namespaces", "", "other"],
        );
        check(
            get(),
            "/api/v1/namespaces/other/pods",
            ["list", "", "v1", "other", "pods", "", ""],
        );
        check(
            get(),
            "/api/v1/namespaces/other/pods/foo",
            ["get", "", "v1", "other", "pods", "", "foo"],
        );
        check(get(), "/api/v1/pods", ["list", "", "v1", "", "pods", "", ""]);
        check(
            get(),
            "/api/v1/pods?watch=true",
            ["watch", "", "v1", "", "pods", "", ""],
        );
        check(
            get(),
            "/api/v1/pods?watch=false",
            ["list", "", "v1", "", "pods", "", ""],
        );
        check(
            get(),
            "/api/v1/watch/namespaces/other/pods",
            ["watch", "", "v1", "other", "pods", "", ""],
        );
        check(
            get(),
            "/api/v1/namespaces/other/pods?fieldSelector=metadata.name%3Dfoo&watch=1",
            ["watch", "", "v1", "other", "pods", "", "foo"],
        );
        check(
            Method::PUT,
            "/api/v1/namespaces/other/finalize",
            ["update", "", "v1", "other", "namespaces", "finalize", "other"],
        );
        check(
            get(),
            "/api/v1/namespaces/other/pods/foo/log",
            ["get", "", "v1", "other", "pods", "log", "foo"],
        );
        check(
            get(),
            "/apis/apps/v1/namespaces/a/deployments/b/scale",
            ["get", "apps", "v1", "a", "deployments", "scale", "b"],
        );
        check(
            Method::DELETE,
            "/api/v1/namespaces/other/pods",
            ["deletecollection", "", "v1", "other", "pods", "", ""],
        );
    }

    #[test]
    fn durations() {
        for (text, expect) in [
            ("34s", Some(34_000)),
            ("1m30s", Some(90_000)),
            ("1.5s", Some(1500)),
            ("500ms", Some(500)),
            ("0", Some(0)),
            ("-3s", Some(0)),
            ("", None),
            ("34", None),
            ("s", None),
            ("1day", None),
            ("999999999999999999999h", None),
        ] {
            assert_eq!(go_duration(text), expect.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn other_paths() {
        for path in [
            "/",
            "/api",
            "/api/v1",
            "/apis/apps/v1",
            "/healthz",
            "/openapi/v3/apis/apps/v1",
        ] {
            let info = RequestInfo::new(&Method::GET, &path.parse().unwrap());
            assert!(!info.is_resource, "{path}");
            assert_eq!(info.verb, "get");
        }
    }

    #[test]
    fn encoded_slashes_stay_in_their_segment() {
        let info = RequestInfo::new(&Method::GET, &"/api/v1/namespaces/a%2Fb/pods".parse().unwrap());
        assert_eq!(info.namespace, "a/b");
    }
}
