//! `/healthz`, `/livez` and `/readyz`: each check by name, all of them together, or all but some.

use http::{HeaderValue, StatusCode, Uri, header};

use crate::{
    context::Api,
    request_info::query_pairs,
    respond::{HttpResponse, text},
};

/// A check that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Check {
    name: &'static str,
    passed: bool,
}

/// Serves `endpoint` and what follows it in the path; `None` when there is no such check.
pub(crate) async fn serve(api: &Api, uri: &Uri, endpoint: &str, rest: &[&str]) -> Option<HttpResponse> {
    let store = api.cache.store.current_revision().await.is_ok();
    let (cache, running) = (api.cache.is_ready(), !api.stopping.is_cancelled());
    let check = |name, passed| Check { name, passed };
    let mut checks = vec![check("ping", true), check("log", true), check("etcd", store)];
    if endpoint == "readyz" {
        checks.push(check("etcd-readiness", store));
    }
    if endpoint != "livez" {
        checks.push(check("informer-sync", cache));
    }
    if endpoint == "readyz" {
        checks.push(check("shutdown", running));
    }
    let (code, body) = match rest {
        [] => all(endpoint, &checks, uri),
        [name] => one(checks.iter().find(|check| check.name == *name)?),
        _ => return None,
    };
    let mut response = text(code, body);
    response.headers_mut().insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    Some(response)
}

fn one(check: &Check) -> (StatusCode, String) {
    match check.passed {
        true => (StatusCode::OK, "ok".to_owned()),
        false => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("internal server error: {} failed\n", check.name),
        ),
    }
}

fn all(endpoint: &str, checks: &[Check], uri: &Uri) -> (StatusCode, String) {
    let verbose = query_pairs(uri).any(|(key, _)| key == "verbose");
    let mut excluded: Vec<String> = query_pairs(uri)
        .filter(|(key, _)| key == "exclude")
        .map(|(_, name)| name)
        .collect();
    let mut lines = String::new();
    let mut passed = true;
    for check in checks {
        let name = check.name;
        if let Some(at) = excluded.iter().position(|excluded| excluded == name) {
            excluded.swap_remove(at);
            lines.push_str(&format!("[+]{name} excluded: ok\n"));
        } else if check.passed {
            lines.push_str(&format!("[+]{name} ok\n"));
        } else {
            passed = false;
            lines.push_str(&format!("[-]{name} failed: reason withheld\n"));
        }
    }
    if !excluded.is_empty() {
        let unknown: Vec<String> = excluded.iter().map(|name| format!("{name:?}")).collect();
        let unknown = unknown.join(", ");
        lines.push_str(&format!(
            "warn: some health checks cannot be excluded: no matches for {unknown}\n"
        ));
    }
    match (passed, verbose) {
        (true, false) => (StatusCode::OK, "ok".to_owned()),
        (true, true) => (StatusCode::OK, format!("{lines}{endpoint} check passed\n")),
        (false, _) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("{lines}{endpoint} check failed\n"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told() {
        let check = |name, passed| Check { name, passed };
        let checks = [check("ping", true), check("etcd", false)];
        for (uri, code, body) in [
            (
                "/readyz",
                500,
                "[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n",
            ),
            ("/readyz?exclude=etcd", 200, "ok"),
            (
                "/readyz?verbose&exclude=etcd&exclude=other",
                200,
                "[+]ping ok\n[+]etcd excluded: ok\nwarn: some health checks cannot be excluded: no matches for \
                 \"other\"\nreadyz check passed\n",
            ),
        ] {
            let (got, text) = all("readyz", &checks, &uri.parse().unwrap());
            assert_eq!((got.as_u16(), text.as_str()), (code, body), "{uri}");
        }
    }
}
