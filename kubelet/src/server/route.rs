//! What a path asks for. Pure.

use super::query::decode;

/// A container of a pod, as paths name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ContainerPath {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) container: String,
}

/// Everything the server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    Healthz,
    Pods,
    ContainerLogs(ContainerPath),
    Exec(ContainerPath),
    Attach(ContainerPath),
    Run(ContainerPath),
    PortForward { namespace: String, pod: String },
    NotFound,
}

impl Route {
    /// Takes a path apart. A uid between the pod and the container is accepted, as upstream does.
    pub(super) fn of(path: &str) -> Self {
        let parts: Vec<String> = path
            .trim_matches('/')
            .split('/')
            .map(|part| decode(part, false))
            .collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let container = |namespace: &str, pod: &str, container: &str| ContainerPath {
            namespace: namespace.into(),
            pod: pod.into(),
            container: container.into(),
        };
        match parts.as_slice() {
            ["healthz"] | ["healthz", "ping" | "log" | "syncloop"] => Route::Healthz,
            ["pods"] => Route::Pods,
            ["containerLogs", namespace, pod, name] => Route::ContainerLogs(container(namespace, pod, name)),
            ["exec", namespace, pod, name] | ["exec", namespace, pod, _, name] => {
                Route::Exec(container(namespace, pod, name))
            }
            ["attach", namespace, pod, name] | ["attach", namespace, pod, _, name] => {
                Route::Attach(container(namespace, pod, name))
            }
            ["run", namespace, pod, name] | ["run", namespace, pod, _, name] => {
                Route::Run(container(namespace, pod, name))
            }
            ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => Route::PortForward {
                namespace: (*namespace).into(),
                pod: (*pod).into(),
            },
            _ => Route::NotFound,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let container = |name: &str| ContainerPath {
            namespace: "ns".into(),
            pod: "p".into(),
            container: name.into(),
        };
        let forward = || Route::PortForward {
            namespace: "ns".into(),
            pod: "p".into(),
        };
        let rows = [
            ("/healthz", Route::Healthz),
            ("/healthz/ping", Route::Healthz),
            ("/healthz/nope", Route::NotFound),
            ("/pods/", Route::Pods),
            ("/containerLogs/ns/p/c", Route::ContainerLogs(container("c"))),
            ("/containerLogs/ns/p", Route::NotFound),
            ("/exec/ns/p/c", Route::Exec(container("c"))),
            ("/exec/ns/p/some-uid/c", Route::Exec(container("c"))),
            ("/attach/ns/p/c%20d", Route::Attach(container("c d"))),
            ("/run/ns/p/c", Route::Run(container("c"))),
            ("/portForward/ns/p", forward()),
            ("/portForward/ns/p/uid", forward()),
            ("/stats/summary", Route::NotFound),
            ("/", Route::NotFound),
        ];
        for (path, expect) in rows {
            assert_eq!(Route::of(path), expect, "{path}");
        }
    }
}
