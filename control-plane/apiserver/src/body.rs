//! Response and request bodies: one small enum, so that a list is the cached bytes of its objects one after the other,
//! never a copy of them all.

use std::{
    convert::Infallible,
    io::Write,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures::Stream;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};

/// What a body that breaks off reports.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request, whatever it came in by.
pub(crate) type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

/// No request body may be larger; upstream's limit too.
pub(crate) const REQUEST_BYTES_MAX: usize = 3 * 1024 * 1024;

/// The body of a response.
pub struct Body(Kind);

enum Kind {
    Full(Option<Bytes>),
    Chunks {
        chunks: std::vec::IntoIter<Bytes>,
        left: u64,
    },
    Lazy {
        parts: Parts,
        left: Option<u64>,
    },
    Gzip(Box<Gzip>),
    Stream(Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>),
}

/// A body on its way through the compressor; the encoder is gone after the last frame.
struct Gzip {
    inner: Body,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

type Parts = Box<dyn Iterator<Item = Result<Bytes, BoxError>> + Send>;

impl Body {
    /// No bytes at all.
    pub fn empty() -> Self {
        Body(Kind::Full(None))
    }

    /// Chunks that are sent one after the other; their total length is announced.
    pub(crate) fn chunks(chunks: Vec<Bytes>) -> Self {
        let left = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        Body(Kind::Chunks {
            chunks: chunks.into_iter(),
            left,
        })
    }

    /// Parts that are made when they are sent; their total length is announced when it is known.
    pub(crate) fn lazy(
        parts: impl Iterator<Item = Result<Bytes, BoxError>> + Send + 'static,
        length: Option<u64>,
    ) -> Self {
        Body(Kind::Lazy {
            parts: Box::new(parts),
            left: length,
        })
    }

    /// The body compressed, if it is larger than [`GZIP_BYTES_MIN`] and no stream of unforeseeable length.
    ///
    /// # Errors
    /// Gives the body back as it was.
    pub(crate) fn gzip(self) -> Result<Self, Self> {
        let inner = match self.0 {
            Kind::Full(Some(bytes)) if bytes.len() > GZIP_BYTES_MIN => {
                let starts = (0..bytes.len()).step_by(FRAME_BYTES);
                Body::chunks(
                    starts
                        .map(|start| bytes.slice(start..bytes.len().min(start + FRAME_BYTES)))
                        .collect(),
                )
            }
            Kind::Chunks { left, .. } if left > GZIP_BYTES_MIN as u64 => self,
            Kind::Lazy { mut parts, left } => {
                // Whether it is large enough shows when so much of it has been made.
                let (mut made, mut length) = (Vec::new(), 0);
                while length <= GZIP_BYTES_MIN
                    && let Some(part) = parts.next()
                {
                    length += part.as_ref().map_or(0, Bytes::len);
                    made.push(part);
                }
                let body = Body(Kind::Lazy {
                    parts: Box::new(made.into_iter().chain(parts)),
                    left,
                });
                if length <= GZIP_BYTES_MIN {
                    return Err(body);
                }
                body
            }
            kind => return Err(Body(kind)),
        };
        let encoder = GzEncoder::new(Vec::with_capacity(FRAME_BYTES), Compression::fast());
        Ok(Body(Kind::Gzip(Box::new(Gzip {
            inner,
            encoder: Some(encoder),
        }))))
    }

    /// Bytes of unknown length, sent as they come.
    pub(crate) fn stream(stream: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> Self {
        Body(Kind::Stream(Box::pin(stream)))
    }

    /// The length when it is known before sending.
    pub(crate) fn known_len(&self) -> Option<u64> {
        match &self.0 {
            Kind::Full(bytes) => Some(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Kind::Chunks { left, .. } => Some(*left),
            Kind::Lazy { left, .. } => *left,
            Kind::Gzip(_) | Kind::Stream(_) => None,
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Body(Kind::Full((!bytes.is_empty()).then_some(bytes)))
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Chunks { chunks, left } => {
                let frame = next_frame(chunks);
                *left -= frame.as_ref().map_or(0, |frame| frame.len() as u64);
                Poll::Ready(frame.map(|bytes| Ok(Frame::data(bytes))))
            }
            Kind::Lazy { parts, left } => {
                let frame = gather(parts);
                if let (Some(left), Some(Ok(frame))) = (left, &frame) {
                    *left = left.saturating_sub(frame.len() as u64);
                }
                Poll::Ready(frame.map(|bytes| bytes.map(Frame::data)))
            }
            Kind::Gzip(gzip) => {
                let frame = ready!(gzip.poll_frame(cx));
                Poll::Ready(frame.map(|bytes| bytes.map(Frame::data)))
            }
            Kind::Stream(stream) => stream
                .as_mut()
                .poll_next(cx)
                .map(|next| next.map(|bytes| bytes.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Full(bytes) => bytes.is_none(),
            Kind::Chunks { chunks, .. } => chunks.len() == 0,
            Kind::Lazy { left, .. } => *left == Some(0),
            Kind::Gzip(gzip) => gzip.encoder.is_none(),
            Kind::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.known_len()
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Small chunks are copied together up to this size, so that a list of small objects is not a frame for each.
const FRAME_BYTES: usize = 32 * 1024;

/// Smaller bodies are not worth the time; upstream's limit too.
const GZIP_BYTES_MIN: usize = 128 * 1024;

/// The next parts, as many as fill a frame.
fn gather(parts: &mut Parts) -> Option<Result<Bytes, BoxError>> {
    let mut frame = Vec::new();
    while frame.len() < FRAME_BYTES {
        match parts.next() {
            Some(Ok(part)) => frame.extend_from_slice(&part),
            Some(Err(error)) => return Some(Err(error)),
            None => break,
        }
    }
    (!frame.is_empty()).then(|| Ok(frame.into()))
}

impl Gzip {
    /// The next frame of compressed bytes.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        loop {
            let Some(encoder) = self.encoder.as_mut() else {
                return Poll::Ready(None);
            };
            match ready!(http_body::Body::poll_frame(Pin::new(&mut self.inner), cx)) {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    if let Err(error) = encoder.write_all(&data) {
                        return Poll::Ready(Some(Err(error.into())));
                    }
                    if encoder.get_ref().len() >= FRAME_BYTES {
                        let full = std::mem::take(encoder.get_mut());
                        return Poll::Ready(Some(Ok(full.into())));
                    }
                }
                Some(Err(error)) => {
                    self.encoder = None;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    let last = self.encoder.take().map(GzEncoder::finish);
                    return Poll::Ready(last.map(|last| last.map(Bytes::from).map_err(BoxError::from)));
                }
            }
        }
    }
}

fn next_frame(chunks: &mut std::vec::IntoIter<Bytes>) -> Option<Bytes> {
    let fits = |length: usize, chunks: &std::vec::IntoIter<Bytes>| {
        chunks
            .as_slice()
            .first()
            .is_some_and(|next| length + next.len() <= FRAME_BYTES)
    };
    let first = chunks.next()?;
    if !fits(first.len(), chunks) {
        return Some(first);
    }
    let mut frame = Vec::with_capacity(FRAME_BYTES);
    frame.extend_from_slice(&first);
    while fits(frame.len(), chunks) {
        frame.extend_from_slice(&chunks.next()?);
    }
    Some(frame.into())
}

/// Boxes any body into a [`RequestBody`].
pub(crate) fn request_body<B>(body: B) -> RequestBody
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

/// A request body without bytes.
pub(crate) fn empty_request_body() -> RequestBody {
    http_body_util::Empty::new()
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

/// Why a request body could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadBodyError {
    /// It is larger than [`REQUEST_BYTES_MAX`].
    #[error("limit is {REQUEST_BYTES_MAX}")]
    TooLarge,
    /// The client went away or broke the protocol.
    #[error("unable to read request body")]
    Read(#[source] BoxError),
}

/// Reads a whole request body, within the limit.
pub(crate) async fn read(mut body: RequestBody) -> Result<Bytes, ReadBodyError> {
    let mut first = Bytes::new();
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(ReadBodyError::Read)?.into_data() else {
            continue;
        };
        if first.len() + all.len() + data.len() > REQUEST_BYTES_MAX {
            return Err(ReadBodyError::TooLarge);
        }
        // Most bodies are a single frame, which then need not be copied.
        if first.is_empty() && all.is_empty() {
            first = data;
            continue;
        }
        all.extend_from_slice(&std::mem::take(&mut first));
        all.extend_from_slice(&data);
    }
    Ok(if all.is_empty() { first } else { all.into() })
}
