//! A watch: the stream of changes, with bookmarks, until its time is over.

use std::{sync::Arc, time::Duration};

use api::{
    registry::Resource,
    status::{self, Status},
    table::{partial_object_metadata, table},
    validation::ErrorKind,
};
use bytes::Bytes;
use http::StatusCode;
use rand::RngExt;
use serde_json::{Value, json};
use store::Revision;
use tokio::{sync::mpsc, time::Instant};

use super::list::filter;
use crate::{
    body::{Body, BoxError},
    context::{Context, cache_error, invalid_option, now, parse_revision, store_error},
    negotiation::{Encoding, Form, Output},
    protobuf::encode,
    respond::{HttpResponse, is_stored_version, meta_type, protobuf_object, response},
    watch_cache::{Change, Event, Since, Watch, WatchCache, convert_to, frame},
};

/// How often a watch that asked for bookmarks gets one.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// A last bookmark is sent this long before the watch ends.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);
/// Without `timeoutSeconds` a watch lasts between this and twice this.
const MIN_TIMEOUT: Duration = Duration::from_secs(1800);

const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// Starts a watch and answers with its stream.
pub(super) async fn watch(context: &Context) -> Result<HttpResponse, Status> {
    let filter = filter(context)?;
    let cached = context.cached()?;
    let cache = &context.api.cache;
    let initial = initial_events(context)?;
    let revision = match context.query("resourceVersion") {
        "" => None,
        text => Some(parse_revision(text)?),
    };
    let bookmarks = context.flag("allowWatchBookmarks");
    match (revision, initial) {
        // What exists now, read consistently.
        (None, _) | (Some(0), Some(true)) => drop(cache.fresh().await.map_err(cache_error)?),
        (Some(revision), _) => cache.reach(revision).await.map_err(cache_error)?,
    }
    let since = match (revision, initial) {
        (_, Some(true)) | (None | Some(0), None) => Since::Now,
        (None | Some(0), Some(false)) => Since::Revision(cache.progress()),
        (Some(revision), _) => Since::Revision(revision),
    };
    let writer = FrameWriter {
        resource: context.resource.clone(),
        output: context.output,
        columns_sent: false,
    };
    let plan = StreamPlan {
        bookmarks,
        initial_events_end: initial == Some(true) && bookmarks,
        until: Instant::now() + timeout(context)?,
    };
    let content_type = context.output.stream_content_type();
    let watch = match Watch::start(cache, &cached, filter, since).await {
        Ok(watch) => watch,
        Err(error) => {
            // The stream itself says so: clients expect 200 and an ERROR event.
            let body = writer.error(&expired(cache_error(error), revision));
            return Ok(response(StatusCode::OK, content_type, body));
        }
    };
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(run(watch, cache.clone(), writer, plan, sender));
    let frames = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver
            .recv()
            .await
            .map(|frame| (Ok::<Bytes, BoxError>(frame), receiver))
    });
    Ok(response(StatusCode::OK, content_type, Body::stream(frames)))
}

struct StreamPlan {
    bookmarks: bool,
    initial_events_end: bool,
    until: Instant,
}

/// Writes the frames of one watch until its time is over, its client goes, or it is cut off.
async fn run(
    mut watch: Watch,
    cache: Arc<WatchCache>,
    mut writer: FrameWriter,
    plan: StreamPlan,
    sender: mpsc::Sender<Bytes>,
) {
    let mut sent: Revision = 0;
    while let Some(object) = watch.next_initial() {
        sent = sent.max(object.revision);
        let bytes = writer.object("ADDED", &object.body);
        if sender.send(bytes).await.is_err() {
            return;
        }
    }
    if plan.initial_events_end {
        sent = sent.max(watch.synced_at);
        if sender.send(writer.bookmark(sent, true)).await.is_err() {
            return;
        }
    }
    let mut next_bookmark = Instant::now() + BOOKMARK_INTERVAL;
    let mut last_bookmark_due = plan.bookmarks;
    loop {
        let final_bookmark = plan.until - BOOKMARK_BEFORE_END;
        let wake = match plan.bookmarks {
            true if last_bookmark_due => next_bookmark.min(final_bookmark),
            true | false => plan.until,
        };
        tokio::select! {
            item = watch.next() => match item {
                Ok(Some((change, event))) => {
                    sent = event.revision;
                    if sender.send(writer.event(change, &event)).await.is_err() {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    let _ = sender.send(writer.error(&expired(store_error(&error), None))).await;
                    return;
                }
            },
            () = sender.closed() => return,
            () = tokio::time::sleep_until(wake) => {
                let now = Instant::now();
                if now >= plan.until {
                    return;
                }
                if now >= final_bookmark {
                    last_bookmark_due = false;
                }
                next_bookmark = now + BOOKMARK_INTERVAL;
                // Whatever progress says by now already waits in the watch: tell it before the bookmark.
                let progress = cache.progress();
                while let Some((change, event)) = watch.try_next() {
                    sent = event.revision;
                    if sender.send(writer.event(change, &event)).await.is_err() {
                        return;
                    }
                }
                if watch.is_live() {
                    sent = sent.max(progress);
                    if sender.send(writer.bookmark(sent, false)).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// Turns changes into frames of the form the client asked for.
struct FrameWriter {
    resource: Arc<Resource>,
    output: Output,
    columns_sent: bool,
}

impl FrameWriter {
    fn event(&mut self, change: Change, event: &Event) -> Bytes {
        if self.is_shared() {
            event.frame(change, self.output.encoding, &self.resource)
        } else {
            self.object(change.name(), &event.body(change))
        }
    }

    fn object(&mut self, kind: &str, body: &Bytes) -> Bytes {
        if self.is_shared() && self.output.encoding != Encoding::Protobuf {
            return frame(kind, body);
        }
        let value: Value = serde_json::from_slice(body).unwrap_or_default();
        let value = convert_to(&self.resource, value).unwrap_or_else(|status| status.to_value());
        let shown = match self.output.form {
            Form::Object => value,
            Form::Metadata => partial_object_metadata(&value),
            Form::Table(include) => {
                let columns = !std::mem::replace(&mut self.columns_sent, true);
                let metadata = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
                table(
                    &self.resource,
                    std::iter::once(&value),
                    metadata,
                    include,
                    columns,
                    now(),
                )
            }
        };
        self.written(kind, &shown)
    }

    fn bookmark(&mut self, revision: Revision, initial_events_end: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_events_end {
            metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        let object = match self.output.form {
            Form::Object => {
                json!({"kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": metadata})
            }
            Form::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            Form::Table(include) => {
                let columns = !std::mem::replace(&mut self.columns_sent, true);
                let marked = json!({
                    "kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": metadata,
                });
                let list = json!({"resourceVersion": revision.to_string()});
                table(
                    &self.resource,
                    std::iter::once(&marked),
                    list,
                    include,
                    columns,
                    now(),
                )
            }
        };
        self.written("BOOKMARK", &object)
    }

    fn error(&self, status: &Status) -> Bytes {
        self.written("ERROR", &status.to_value())
    }

    /// A frame around an object, which may be of the resource's type or of one of `meta/v1`.
    fn written(&self, kind: &str, object: &Value) -> Bytes {
        match self.output.encoding {
            Encoding::Protobuf => {
                let own = object["kind"] == *self.resource.kind;
                let meta = || object["kind"].as_str().and_then(meta_type);
                let schema = if own { None } else { meta() }.unwrap_or(self.resource.schema);
                encode::watch_frame(kind, &protobuf_object(schema, object)).into()
            }
            _ => frame(kind, object.to_string().as_bytes()),
        }
    }

    /// Whether the frames are the same for everybody who asked for this encoding.
    fn is_shared(&self) -> bool {
        self.output.form == Form::Object && is_stored_version(&self.resource)
    }
}

/// A watch that starts before the oldest kept revision is told so in the watch's own words.
fn expired(status: Status, revision: Option<Revision>) -> Status {
    if status.code != 410 {
        return status;
    }
    status::expired(format!(
        "too old resource version: {}",
        revision.unwrap_or_default()
    ))
}

/// `sendInitialEvents`, with the rules that go with it.
fn initial_events(context: &Context) -> Result<Option<bool>, Status> {
    let invalid = |error, value: &str, why: &str| {
        let options = ("meta.k8s.io", "ListOptions");
        Err(invalid_option(options, error, "resourceVersionMatch", value, why))
    };
    let matching = context.query("resourceVersionMatch");
    if context.query("sendInitialEvents").is_empty() {
        if !matching.is_empty() {
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            return invalid(ErrorKind::Forbidden, "", why);
        }
        return Ok(None);
    }
    match matching {
        "NotOlderThan" => Ok(Some(context.flag("sendInitialEvents"))),
        "" => {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            invalid(ErrorKind::Forbidden, "", why)
        }
        other => {
            let supported = "supported values: \"NotOlderThan\"";
            invalid(ErrorKind::NotSupported, &status::quote(other), supported)
        }
    }
}

fn timeout(context: &Context) -> Result<Duration, Status> {
    match context.query("timeoutSeconds") {
        "" | "0" => Ok(MIN_TIMEOUT.mul_f64(1.0 + rand::rng().random::<f64>())),
        text => text.parse().map(Duration::from_secs).map_err(|_| {
            status::bad_request(format!(
                "strconv.ParseInt: parsing {}: invalid syntax",
                status::quote(text)
            ))
        }),
    }
}
