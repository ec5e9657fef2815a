//! SPDY/3.1 framing, as far as the streams of kubelets need it. Bytes in, frames out; no I/O.
//!
//! Neither side of these streams keeps flow-control windows (the library that kubelets and container runtimes use never
//! did), so WINDOW_UPDATE is read and otherwise ignored; back-pressure is the connection's own.

use std::sync::OnceLock;

use bytes::{Buf, Bytes, BytesMut};
use flate2::{Compress, Compression, FlushCompress};

/// Data frames are sent no larger than this.
pub(super) const DATA_BYTES_MAX: usize = 32 * 1024;
/// No frame that a peer sends may be larger.
const FRAME_BYTES_MAX: usize = 1024 * 1024;

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const FLAG_FIN: u8 = 1;

/// What a peer sent, reduced to what streams act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// The peer accepted a stream.
    Reply { stream: u32, fin: bool },
    /// A part of a stream.
    Data { stream: u32, fin: bool, payload: Bytes },
    /// The peer gave a stream up.
    Reset { stream: u32 },
    /// The peer wants this echoed.
    Ping { id: u32 },
    /// The peer will not go on.
    GoAway,
    /// Nothing that matters here.
    Other,
}

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Error {
    /// A frame is larger than any honest one.
    #[error("SPDY frame of {0} bytes is too large")]
    TooLarge(usize),
    /// A control frame is shorter than its kind.
    #[error("SPDY control frame {0} is cut short")]
    Short(u16),
    /// The peer speaks another version.
    #[error("SPDY version {0} is not spoken here")]
    Version(u16),
    /// Headers could not be compressed.
    #[error("SPDY headers could not be compressed")]
    Compress,
}

/// Turns bytes into frames.
#[derive(Default)]
pub(crate) struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Where the next bytes of the connection go.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next complete frame.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, Error> {
        let Some((head, _)) = self.buffer.split_first_chunk::<8>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(Error::TooLarge(length));
        }
        if self.buffer.len() < 8 + length {
            self.buffer.reserve(8 + length - self.buffer.len());
            return Ok(None);
        }
        let first = self.buffer.get_u32();
        let flags = self.buffer.get_u8();
        self.buffer.advance(3);
        let mut payload = self.buffer.split_to(length).freeze();
        let fin = flags & FLAG_FIN != 0;
        if first & 0x8000_0000 == 0 {
            return Ok(Some(Frame::Data {
                stream: first,
                fin,
                payload,
            }));
        }
        let version = (first >> 16) as u16 & 0x7fff;
        if version != VERSION {
            return Err(Error::Version(version));
        }
        let kind = first as u16;
        let number = |payload: &mut Bytes| {
            (payload.len() >= 4)
                .then(|| payload.get_u32() & 0x7fff_ffff)
                .ok_or(Error::Short(kind))
        };
        Ok(Some(match kind {
            SYN_REPLY => Frame::Reply {
                stream: number(&mut payload)?,
                fin,
            },
            RST_STREAM => Frame::Reset {
                stream: number(&mut payload)?,
            },
            PING if payload.len() >= 4 => Frame::Ping {
                id: payload.get_u32(),
            },
            PING => return Err(Error::Short(kind)),
            GOAWAY => Frame::GoAway,
            _ => Frame::Other,
        }))
    }
}

/// Turns what is to be sent into bytes. Headers of a connection share one compression state.
pub(super) struct Encoder {
    compress: Compress,
}

impl Encoder {
    pub(super) fn new() -> Result<Self, Error> {
        let mut compress = Compress::new(Compression::default(), true);
        compress
            .set_dictionary(dictionary())
            .map_err(|_| Error::Compress)?;
        Ok(Encoder { compress })
    }

    /// Opens a stream.
    pub(super) fn syn_stream(&mut self, stream: u32, headers: &[(&str, &str)]) -> Result<Vec<u8>, Error> {
        let mut block = Vec::new();
        block.extend((headers.len() as u32).to_be_bytes());
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend((text.len() as u32).to_be_bytes());
            block.extend(text.as_bytes());
        }
        // A few headers: whatever compression does, twice their size and some is room enough.
        let mut compressed = Vec::with_capacity(block.len() * 2 + 1024);
        let consumed_before = self.compress.total_in();
        self.compress
            .compress_vec(&block, &mut compressed, FlushCompress::Sync)
            .map_err(|_| Error::Compress)?;
        if self.compress.total_in() - consumed_before != block.len() as u64 {
            return Err(Error::Compress);
        }
        let mut payload = Vec::with_capacity(10 + compressed.len());
        payload.extend(stream.to_be_bytes());
        payload.extend([0; 6]);
        payload.extend(compressed);
        Ok(control(SYN_STREAM, 0, &payload))
    }

    /// A part of a stream; `payload` is at most [`DATA_BYTES_MAX`] long.
    pub(super) fn data(stream: u32, payload: &[u8], fin: bool) -> Vec<u8> {
        let mut frame = Vec::with_capacity(8 + payload.len());
        frame.extend((stream & 0x7fff_ffff).to_be_bytes());
        frame.extend(flags_and_length(if fin { FLAG_FIN } else { 0 }, payload.len()));
        frame.extend(payload);
        frame
    }

    /// Echoes a ping.
    pub(super) fn ping(id: u32) -> Vec<u8> {
        control(PING, 0, &id.to_be_bytes())
    }
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(8 + payload.len());
    frame.extend((VERSION | 0x8000).to_be_bytes());
    frame.extend(kind.to_be_bytes());
    frame.extend(flags_and_length(flags, payload.len()));
    frame.extend(payload);
    frame
}

fn flags_and_length(flags: u8, length: usize) -> [u8; 4] {
    let length = (length as u32).to_be_bytes();
    [flags, length[1], length[2], length[3]]
}

/// The dictionary of the SPDY/3 specification that header compression starts from.
fn dictionary() -> &'static [u8] {
    const NAMES: &[&str] = &[
        "options",
        "head",
        "post",
        "put",
        "delete",
        "trace",
        "accept",
        "accept-charset",
        "accept-encoding",
        "accept-language",
        "accept-ranges",
        "age",
        "allow",
        "authorization",
        "cache-control",
        "connection",
        "content-base",
        "content-encoding",
        "content-language",
        "content-length",
        "content-location",
        "content-md5",
        "content-range",
        "content-type",
        "date",
        "etag",
        "expect",
        "expires",
        "from",
        "host",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "last-modified",
        "location",
        "max-forwards",
        "pragma",
        "proxy-authenticate",
        "proxy-authorization",
        "range",
        "referer",
        "retry-after",
        "server",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "vary",
        "via",
        "warning",
        "www-authenticate",
        "method",
        "get",
        "status",
        "200 OK",
        "version",
        "HTTP/1.1",
        "url",
        "public",
        "set-cookie",
        "keep-alive",
        "origin",
    ];
    const REST: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
        203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 \
        Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun \
        Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,\
        image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,\
        sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";
    static DICTIONARY: OnceLock<Vec<u8>> = OnceLock::new();
    DICTIONARY.get_or_init(|| {
        let mut dictionary = Vec::with_capacity(1423);
        for name in NAMES {
            dictionary.extend((name.len() as u32).to_be_bytes());
            dictionary.extend(name.as_bytes());
        }
        dictionary.extend(REST.as_bytes());
        dictionary
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Decompress, FlushDecompress};

    fn decode_all(bytes: &[u8], step: usize) -> Vec<Frame> {
        let mut decoder = Decoder::default();
        let mut frames = Vec::new();
        for part in bytes.chunks(step) {
            decoder.buffer().extend_from_slice(part);
            while let Some(frame) = decoder.next().unwrap() {
                frames.push(frame);
            }
        }
        frames
    }

    #[test]
    fn the_dictionary_is_the_one_of_the_specification() {
        // Its length and its Adler-32, which starts every compressed header block.
        assert_eq!(dictionary().len(), 1423);
        let frame = Encoder::new().unwrap().syn_stream(1, &[]).unwrap();
        assert_eq!(
            frame[18..24],
            [0x78, 0x9c, 0xe3, 0xc6, 0xa7, 0xc2].map(|byte| if byte == 0x9c { 0xbb } else { byte })
        );
    }

    #[test]
    fn headers_of_several_streams_share_their_compression() {
        let mut encoder = Encoder::new().unwrap();
        let mut inflate = Decompress::new(true);
        for (stream, kind) in [(1, "error"), (3, "stdin"), (5, "stdout")] {
            let frame = encoder.syn_stream(stream, &[("streamtype", kind)]).unwrap();
            assert_eq!(frame[..4], [0x80, 3, 0, 1]);
            assert_eq!(frame[8..12], stream.to_be_bytes());
            let mut block = Vec::with_capacity(256);
            let mut input = &frame[18..];
            if stream == 1 {
                let error = inflate
                    .decompress_vec(input, &mut block, FlushDecompress::Sync)
                    .unwrap_err();
                assert_eq!(error.needs_dictionary(), Some(0xe3c6_a7c2));
                inflate.set_dictionary(dictionary()).unwrap();
                input = &frame[18 + 6..];
            }
            inflate
                .decompress_vec(input, &mut block, FlushDecompress::Sync)
                .unwrap();
            let mut expect = vec![0, 0, 0, 1, 0, 0, 0, 10];
            expect.extend(b"streamtype");
            expect.extend((kind.len() as u32).to_be_bytes());
            expect.extend(kind.as_bytes());
            assert_eq!(block, expect);
        }
    }

    #[test]
    fn frames_come_out_however_the_bytes_are_cut() {
        let mut bytes = control(SYN_REPLY, 0, &[0, 0, 0, 1, 0, 0, 0, 0]);
        bytes.extend(Encoder::data(1, b"hello", false));
        bytes.extend(Encoder::ping(2));
        bytes.extend(control(9, 0, &[0, 0, 0, 1, 0, 1, 0, 0]));
        bytes.extend(Encoder::data(1, b"", true));
        bytes.extend(control(RST_STREAM, 0, &[0, 0, 0, 3, 0, 0, 0, 5]));
        bytes.extend(control(GOAWAY, 0, &[0; 8]));
        let expect = vec![
            Frame::Reply {
                stream: 1,
                fin: false,
            },
            Frame::Data {
                stream: 1,
                fin: false,
                payload: Bytes::from_static(b"hello"),
            },
            Frame::Ping { id: 2 },
            Frame::Other,
            Frame::Data {
                stream: 1,
                fin: true,
                payload: Bytes::new(),
            },
            Frame::Reset { stream: 3 },
            Frame::GoAway,
        ];
        for step in [1, 2, 3, 7, 1000] {
            assert_eq!(decode_all(&bytes, step), expect, "{step}");
        }
    }

    #[test]
    fn bad_frames_are_errors() {
        let mut decoder = Decoder::default();
        decoder
            .buffer()
            .extend_from_slice(&[0, 0, 0, 1, 0, 0xff, 0xff, 0xff]);
        assert_eq!(decoder.next(), Err(Error::TooLarge(0xff_ffff)));
        let mut decoder = Decoder::default();
        decoder.buffer().extend_from_slice(&control(RST_STREAM, 0, &[0]));
        assert_eq!(decoder.next(), Err(Error::Short(RST_STREAM)));
        let mut decoder = Decoder::default();
        decoder.buffer().extend_from_slice(&[0x80, 2, 0, 1, 0, 0, 0, 0]);
        assert_eq!(decoder.next(), Err(Error::Version(2)));
    }
}
