//! A watch: the stream of changes, with bookmarks, until its time is over.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

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
use tokio::time::{Instant, Sleep};

use super::list::filter;
use crate::{
    body::{Body, BoxError},
    context::{Context, cache_error, invalid_option, now, parse_revision},
    metrics::LongRunning,
    negotiation::{Encoding, Form, Output},
    protobuf::encode,
    respond::{HttpResponse, is_stored_version, meta_type, protobuf_object, response},
    watch_cache::{self, Change, Event, Object, ResourceCache, Since, Watch, WatchCache, convert_to, frame},
};

/// How often a watch that asked for bookmarks gets one.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// A last bookmark is sent this long before the watch ends.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);
/// Without `timeoutSeconds` a watch lasts between this and twice this.
const MIN_TIMEOUT: Duration = Duration::from_secs(1800);

/// Frames that wait together are sent together, up to this size.
const BATCH_BYTES: usize = 32 * 1024;

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
    let until = Instant::now() + timeout(context)?;
    let content_type = context.output.stream_content_type();
    let watch = match Watch::start(cache, &cached, filter, since).await {
        Ok(watch) => watch,
        Err(error) => {
            // The stream itself says so: clients expect 200 and an ERROR event.
            let body = writer.error(&too_old(error));
            cached.counters().sent.observe(body.len() as f64);
            return Ok(response(StatusCode::OK, content_type, body));
        }
    };
    let frames = Frames {
        watch,
        cache: cache.clone(),
        cached,
        writer,
        bookmarks: bookmarks.then(|| Bookmarks::new(until)),
        initial_events_end: initial == Some(true) && bookmarks,
        until,
        timer: Box::pin(tokio::time::sleep_until(until)),
        sent: 0,
        ended: false,
        _running: context.long_running.clone(),
    };
    let frames = futures::stream::unfold(frames, |mut frames| async move {
        let bytes = frames.next().await?;
        Some((Ok::<Bytes, BoxError>(bytes), frames))
    });
    Ok(response(StatusCode::OK, content_type, Body::stream(frames)))
}

/// When the next bookmark is due.
struct Bookmarks {
    next: Instant,
    /// Shortly before the end of the watch there is one more.
    last: Option<Instant>,
}

impl Bookmarks {
    fn new(until: Instant) -> Self {
        Bookmarks {
            next: Instant::now() + BOOKMARK_INTERVAL,
            last: Some(until - BOOKMARK_BEFORE_END),
        }
    }

    fn due(&self) -> Instant {
        self.last.map_or(self.next, |last| last.min(self.next))
    }

    fn sent(&mut self, now: Instant) {
        self.last = self.last.filter(|last| *last > now);
        self.next = now + BOOKMARK_INTERVAL;
    }
}

/// The frames of one watch. They are made when the connection has room for them, so a client that does not read costs
/// what waits in its [`Watch`], and no more.
struct Frames {
    watch: Watch,
    cache: Arc<WatchCache>,
    cached: Arc<ResourceCache>,
    writer: FrameWriter,
    bookmarks: Option<Bookmarks>,
    /// The bookmark that ends the initial events is still to come.
    initial_events_end: bool,
    until: Instant,
    timer: Pin<Box<Sleep>>,
    /// The newest revision that the client knows of.
    sent: Revision,
    ended: bool,
    _running: Option<Arc<LongRunning>>,
}

impl Frames {
    /// The next frames; `None` when the watch's time is over or it was cut off.
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        if let Some(frames) = self.initial() {
            return Some(frames);
        }
        if std::mem::take(&mut self.initial_events_end) {
            self.sent = self.sent.max(self.watch.synced_at);
            let frame = self.writer.bookmark(self.sent, true);
            return Some(self.counted(frame));
        }
        loop {
            let wake = self.bookmarks.as_ref().map_or(self.until, Bookmarks::due);
            let wake = wake.min(self.until);
            if self.timer.deadline() != wake {
                self.timer.as_mut().reset(wake);
            }
            tokio::select! {
                item = self.watch.next() => return match item {
                    Ok(item) => item.map(|item| self.events(item)),
                    Err(error) => {
                        self.ended = true;
                        let frame = self.writer.error(&too_old(watch_cache::Error::Store(error)));
                        Some(self.counted(frame))
                    }
                },
                () = self.timer.as_mut() => {}
            }
            let now = Instant::now();
            if now >= self.until {
                return None;
            }
            if let Some(frames) = self.bookmark(now) {
                return Some(frames);
            }
        }
    }

    /// Objects of the initial state, as many as fill a batch.
    fn initial(&mut self) -> Option<Bytes> {
        let mut batch = Vec::new();
        while batch.len() < BATCH_BYTES
            && let Some(object) = self.watch.next_initial()
        {
            self.sent = self.sent.max(object.revision);
            self.cached.counters().initial.fetch_add(1, Ordering::Relaxed);
            let frame = self.writer.initial(&object);
            batch.extend_from_slice(&self.counted(frame));
        }
        (!batch.is_empty()).then(|| batch.into())
    }

    /// A change, with those that wait already behind it. A single one, the usual case, is not copied.
    fn events(&mut self, first: watch_cache::Item) -> Bytes {
        let frame = self.event(first);
        let Some(second) = self.watch.try_next() else {
            return frame;
        };
        let mut batch = frame.to_vec();
        let mut next = Some(second);
        while let Some(item) = next {
            batch.extend_from_slice(&self.event(item));
            next = if batch.len() < BATCH_BYTES {
                self.watch.try_next()
            } else {
                None
            };
        }
        batch.into()
    }

    fn event(&mut self, (change, event): watch_cache::Item) -> Bytes {
        self.sent = event.revision;
        let frame = self.writer.event(change, &event);
        self.counted(frame)
    }

    fn counted(&self, frame: Bytes) -> Bytes {
        self.cached.counters().sent.observe(frame.len() as f64);
        frame
    }

    /// A bookmark behind everything that happened before it.
    fn bookmark(&mut self, now: Instant) -> Option<Bytes> {
        self.bookmarks.as_mut()?.sent(now);
        // Whatever progress says by now already waits in the watch: it is told first.
        let progress = self.cache.progress();
        let mut frames = Vec::new();
        while let Some(item) = self.watch.try_next() {
            frames.extend_from_slice(&self.event(item));
        }
        if self.watch.is_live() {
            self.sent = self.sent.max(progress);
            let frame = self.writer.bookmark(self.sent, false);
            frames.extend_from_slice(&self.counted(frame));
        }
        (!frames.is_empty()).then(|| frames.into())
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

    /// An object of the initial state.
    fn initial(&mut self, object: &Object) -> Bytes {
        if self.is_shared() && self.output.encoding == Encoding::Protobuf {
            let message = object.protobuf(self.resource.schema);
            let object = encode::enveloped(&self.resource.api_version(), &self.resource.kind, &message);
            return encode::watch_frame("ADDED", &object).into();
        }
        self.object("ADDED", &object.body())
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
        let shown = match self.output.form {
            Form::Object => shown,
            Form::Metadata | Form::Table(_) => self.output.in_version(shown),
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
        let object = match self.output.form {
            Form::Object => object,
            Form::Metadata | Form::Table(_) => self.output.in_version(object),
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

/// What a watch says when it cannot start where it was asked to, or cannot go on.
fn too_old(error: watch_cache::Error) -> Status {
    match error {
        watch_cache::Error::Store(store::Error::Compacted { requested, compacted }) => {
            status::expired(format!("too old resource version: {requested} ({compacted})"))
        }
        watch_cache::Error::Store(store::Error::WatchOverflow { .. }) => {
            status::expired("The resourceVersion for the provided watch is too old.")
        }
        other => cache_error(other),
    }
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
