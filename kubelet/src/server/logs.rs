//! Container logs: which container's, which part of them, and following them as they are written.

mod decoder;
mod file;
pub(crate) mod fuzzing;

use std::path::PathBuf;

use futures::{StreamExt, future::BoxFuture};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use tokio_stream::wrappers::ReceiverStream;

use super::{handler::Body, query::Query};

/// Chunks between the reader and a slow client; then the reader waits.
const CHUNKS_IN_FLIGHT: usize = 4;

/// The part of a log that is asked for: upstream's `PodLogOptions`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LogOptions {
    /// Go on as the container writes.
    pub(super) follow: bool,
    /// Of the instance before the current one.
    pub(super) previous: bool,
    /// Put its time before each line.
    pub(super) timestamps: bool,
    /// Begin with this many lines from the end.
    pub(super) tail_lines: Option<u64>,
    /// Leave out what is older.
    pub(super) since: Option<Timestamp>,
    /// End after this many bytes.
    pub(super) limit_bytes: Option<u64>,
    /// Only this stream, `stdout` or `stderr`.
    pub(super) stream: Option<&'static str>,
}

impl LogOptions {
    /// Reads a query as kubectl and the API server write it; the error is for the user.
    pub(super) fn parse(query: &Query, now: Timestamp) -> Result<Self, String> {
        let number = |name: &str, least: u64| match query.first(name) {
            None => Ok(None),
            Some(text) => match text.parse::<u64>() {
                Ok(number) if number >= least => Ok(Some(number)),
                _ => Err(format!(
                    "{name}: Invalid value: \"{text}\": must be greater than or equal to {least}"
                )),
            },
        };
        let since_seconds = number("sinceSeconds", 1)?;
        let since_time = query.first("sinceTime").map(|text| {
            text.parse::<Timestamp>()
                .map_err(|error| format!("sinceTime: Invalid value: \"{text}\": {error}"))
        });
        let since = match (since_seconds, since_time) {
            (Some(_), Some(_)) => {
                return Err("at most one of `sinceTime` or `sinceSeconds` may be specified".into());
            }
            (Some(seconds), None) => {
                let seconds = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
                Some(now.checked_sub(seconds).unwrap_or(Timestamp::MIN))
            }
            (None, Some(time)) => Some(time?),
            (None, None) => None,
        };
        let stream = match query.first("stream") {
            None | Some("" | "All") => None,
            Some("Stdout") => Some("stdout"),
            Some("Stderr") => Some("stderr"),
            Some(other) => {
                return Err(format!(
                    "stream: Unsupported value: \"{other}\": supported values: \"All\", \"Stderr\", \"Stdout\""
                ));
            }
        };
        Ok(Self {
            follow: query.flag("follow"),
            previous: query.flag("previous"),
            timestamps: query.flag("timestamps"),
            tail_lines: number("tailLines", 0)?,
            since,
            limit_bytes: number("limitBytes", 1)?,
            stream,
        })
    }
}

/// The container instance whose log is meant, or upstream's words for why there is none. Pure.
pub(super) fn container_id(
    status: Option<&PodStatus>,
    pod: &str,
    container: &str,
    previous: bool,
) -> Result<String, String> {
    let statuses = status.into_iter().flat_map(|status| {
        let regular = status.container_statuses.iter().flatten();
        let init = status.init_container_statuses.iter().flatten();
        let ephemeral = status.ephemeral_container_statuses.iter().flatten();
        regular.chain(init).chain(ephemeral)
    });
    let Some(status) = statuses.into_iter().find(|status| status.name == container) else {
        return Err(format!(
            "container \"{container}\" in pod \"{pod}\" is not available"
        ));
    };
    let id = chosen_instance(status, pod, container, previous)?;
    // The status has the runtime's name before the id.
    Ok(id.split_once("://").map_or(id.as_str(), |(_, id)| id).to_owned())
}

fn chosen_instance(
    status: &ContainerStatus,
    pod: &str,
    container: &str,
    previous: bool,
) -> Result<String, String> {
    let given = |id: &Option<String>| id.clone().filter(|id| !id.is_empty());
    let last_terminated = status
        .last_state
        .as_ref()
        .and_then(|state| state.terminated.as_ref());
    let last = last_terminated.and_then(|terminated| given(&terminated.container_id));
    if previous {
        return last.ok_or_else(|| {
            format!("previous terminated container \"{container}\" in pod \"{pod}\" not found")
        });
    }
    let is_terminated = || format!("container \"{container}\" in pod \"{pod}\" is terminated");
    let state = status.state.as_ref();
    if state.is_some_and(|state| state.running.is_some()) {
        return given(&status.container_id).ok_or_else(|| {
            format!("container \"{container}\" in pod \"{pod}\" is waiting to start - no logs yet")
        });
    }
    if let Some(terminated) = state.and_then(|state| state.terminated.as_ref()) {
        return given(&terminated.container_id).or(last).ok_or_else(is_terminated);
    }
    if last_terminated.is_some() {
        return last.ok_or_else(is_terminated);
    }
    let waiting = state.and_then(|state| state.waiting.as_ref());
    let reason = match waiting.map(|waiting| waiting.reason.as_deref().unwrap_or_default()) {
        None => {
            return Err(format!(
                "container \"{container}\" in pod \"{pod}\" is waiting to start - no logs yet"
            ));
        }
        Some("ErrImagePull") => "image can't be pulled",
        Some("ImagePullBackOff") => "trying and failing to pull image",
        Some(other) => other,
    };
    Err(format!(
        "container \"{container}\" in pod \"{pod}\" is waiting to start: {reason}"
    ))
}

/// Opens the log; the body reads it while the client takes it. The error is for the user.
pub(super) async fn open(
    path: PathBuf,
    options: LogOptions,
    exit: BoxFuture<'static, ()>,
) -> Result<Body, String> {
    let reader = file::Reader::open(path, options).await?;
    let (sender, chunks) = tokio::sync::mpsc::channel(CHUNKS_IN_FLIGHT);
    tokio::spawn(async move {
        if let Err(error) = reader.run(exit, sender).await {
            tracing::warn!(%error, "reading a container log failed");
        }
    });
    let frames = ReceiverStream::new(chunks).map(|chunk| Ok(Frame::data(chunk)));
    Ok(BodyExt::boxed(StreamBody::new(frames)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn options() {
        let now: Timestamp = "2026-11-23T10:00:00Z".parse().expect("a time");
        let parse = |query| LogOptions::parse(&Query::parse(query), now);
        assert_eq!(parse(""), Ok(LogOptions::default()));
        assert_eq!(
            parse(
                "follow=true&previous=1&timestamps=true&tailLines=0&limitBytes=5&sinceSeconds=60&stream=Stderr"
            ),
            Ok(LogOptions {
                follow: true,
                previous: true,
                timestamps: true,
                tail_lines: Some(0),
                limit_bytes: Some(5),
                since: Some("2026-11-23T09:59:00Z".parse().expect("a time")),
                stream: Some("stderr"),
            })
        );
        assert_eq!(parse("follow=false"), Ok(LogOptions::default()));
        for (query, expect) in [
            (
                "tailLines=-1",
                "tailLines: Invalid value: \"-1\": must be greater than or equal to 0",
            ),
            (
                "limitBytes=0",
                "limitBytes: Invalid value: \"0\": must be greater than or equal to 1",
            ),
            (
                "sinceSeconds=1&sinceTime=2026-11-23T10:00:00Z",
                "at most one of `sinceTime` or `sinceSeconds` may be specified",
            ),
        ] {
            assert_eq!(parse(query), Err(expect.to_owned()), "{query}");
        }
        assert!(parse("sinceTime=yesterday").is_err());
        assert!(parse("stream=Both").is_err());
    }

    /// Rows follow upstream's `TestValidateContainerLogStatus` (pkg/kubelet/kubelet_pods_test.go).
    #[test]
    fn instances() {
        let terminated = |id: &str| json!({"terminated": {"exitCode": 0, "containerID": id}});
        let check =
            |state: serde_json::Value, last: serde_json::Value, previous, expect: Result<&str, &str>| {
                let status: PodStatus = serde_json::from_value(json!({"containerStatuses": [{
                    "name": "c", "ready": false, "restartCount": 0, "image": "i", "imageID": "",
                    "containerID": "containerd://now", "state": state, "lastState": last
                }]}))
                .expect("a status");
                let got = container_id(Some(&status), "p", "c", previous);
                assert_eq!(got.as_deref().map_err(String::as_str), expect, "{status:?}");
            };
        let running = json!({"running": {}});
        check(running.clone(), json!({}), false, Ok("now"));
        check(
            running.clone(),
            json!({}),
            true,
            Err("previous terminated container \"c\" in pod \"p\" not found"),
        );
        check(running, terminated("containerd://old"), true, Ok("old"));
        check(terminated("containerd://done"), json!({}), false, Ok("done"));
        check(terminated(""), terminated("containerd://old"), false, Ok("old"));
        check(
            terminated(""),
            json!({}),
            false,
            Err("container \"c\" in pod \"p\" is terminated"),
        );
        check(
            json!({"waiting": {"reason": "CrashLoopBackOff"}}),
            terminated("containerd://old"),
            false,
            Ok("old"),
        );
        for (reason, expect) in [
            (
                "ContainerCreating",
                "container \"c\" in pod \"p\" is waiting to start: ContainerCreating",
            ),
            (
                "ErrImagePull",
                "container \"c\" in pod \"p\" is waiting to start: image can't be pulled",
            ),
            (
                "ImagePullBackOff",
                "container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image",
            ),
        ] {
            check(
                json!({"waiting": {"reason": reason}}),
                json!({}),
                false,
                Err(expect),
            );
        }
        check(
            json!({}),
            json!({}),
            false,
            Err("container \"c\" in pod \"p\" is waiting to start - no logs yet"),
        );
        assert_eq!(
            container_id(None, "p", "c", false),
            Err("container \"c\" in pod \"p\" is not available".into())
        );
    }
}
