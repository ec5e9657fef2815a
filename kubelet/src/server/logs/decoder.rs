//! The CRI log format: from the file's bytes to what the user sees. Pure.
//!
//! ```text
//! 2016-10-06T00:17:09.669794202Z stdout P part of a line with no end yet,
//! 2016-10-06T00:17:09.669794203Z stdout F and the rest of it
//! ```

use jiff::Timestamp;

use super::LogOptions;

/// The runtime cuts lines at 16 KiB; what is longer than this without an end is no log and is dropped.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Digits of a second's fraction, so that times line up.
const FRACTION_DIGITS: usize = 9;

/// One line of a log file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry<'a> {
    timestamp: &'a str,
    stream: &'a str,
    /// The line goes on in the next entry.
    partial: bool,
    content: &'a [u8],
}

/// Decodes a log file fed in pieces.
#[derive(Debug)]
pub(super) struct Decoder {
    options: LogOptions,
    /// The beginning of a line whose end has not been read.
    pending: Vec<u8>,
    /// In the middle of a line that is too long.
    dropping: bool,
    /// Whether the next content begins a line for the user.
    at_line_start: bool,
    left: Option<u64>,
}

impl Decoder {
    /// A decoder at the beginning of a line.
    pub(super) fn new(options: &LogOptions) -> Self {
        Self {
            options: options.clone(),
            pending: Vec::new(),
            dropping: false,
            at_line_start: true,
            left: options.limit_bytes,
        }
    }

    /// Whether `limitBytes` is used up.
    pub(super) fn is_done(&self) -> bool {
        self.left == Some(0)
    }

    /// Takes a piece of the file and appends what it shows to `out`.
    pub(super) fn feed(&mut self, mut piece: &[u8], out: &mut Vec<u8>) {
        while let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = (&piece[..end], &piece[end + 1..]);
            if self.dropping {
                self.dropping = false;
            } else if self.pending.is_empty() {
                self.line(line, out);
            } else {
                self.pending.extend_from_slice(line);
                let whole = std::mem::take(&mut self.pending);
                self.line(&whole, out);
            }
            piece = rest;
        }
        if self.dropping {
            return;
        }
        if self.pending.len() + piece.len() > LINE_BYTES_MAX {
            self.pending = Vec::new();
            self.dropping = true;
            return;
        }
        self.pending.extend_from_slice(piece);
    }

    /// The file ends here, perhaps in the middle of a line: the writer was killed.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        let rest = std::mem::take(&mut self.pending);
        if !rest.is_empty() {
            self.line(&rest, out);
        }
        self.dropping = false;
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(entry) = parse(line) else {
            tracing::debug!(
                length = line.len(),
                "skipped a line that is not in the CRI log format"
            );
            return;
        };
        if self.options.stream.is_some_and(|wanted| wanted != entry.stream) {
            return;
        }
        if let Some(since) = self.options.since
            && !entry
                .timestamp
                .parse::<Timestamp>()
                .is_ok_and(|time| time >= since)
        {
            return;
        }
        if self.options.timestamps && self.at_line_start {
            let padded = pad_fraction(entry.timestamp);
            self.put(padded.as_bytes(), out);
            self.put(b" ", out);
        }
        self.put(entry.content, out);
        if !entry.partial {
            self.put(b"\n", out);
        }
        self.at_line_start = !entry.partial;
    }

    fn put(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let take = match &mut self.left {
            None => bytes.len(),
            Some(left) => {
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= take as u64;
                take
            }
        };
        out.extend_from_slice(&bytes[..take]);
    }
}

/// Takes one line, without its newline, apart.
fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let timestamp = std::str::from_utf8(fields.next()?)
        .ok()
        .filter(|text| looks_like_time(text))?;
    let stream = std::str::from_utf8(fields.next()?).ok()?;
    if !matches!(stream, "stdout" | "stderr") {
        return None;
    }
    // Tags are separated by colons; the first says whether the line is whole.
    let partial = match fields.next()?.split(|byte| *byte == b':').next()? {
        b"P" => true,
        b"F" => false,
        _ => return None,
    };
    Some(Entry {
        timestamp,
        stream,
        partial,
        content: fields.next()?,
    })
}

/// Cheap enough for every line; a full parse happens only when times are compared.
fn looks_like_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= "2006-01-02T15:04:05Z".len() && bytes[4] == b'-' && bytes[10] == b'T'
}

/// `…05.12Z` as `…05.120000000Z`: the runtime leaves trailing zeros out, users get them.
fn pad_fraction(timestamp: &str) -> String {
    let seconds_end = "2006-01-02T15:04:05".len();
    let (Some(seconds), Some(rest)) = (timestamp.get(..seconds_end), timestamp.get(seconds_end..)) else {
        return timestamp.to_owned();
    };
    let fraction = rest.strip_prefix('.').unwrap_or_default();
    let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
    let zone = if rest.starts_with('.') {
        &fraction[digits..]
    } else {
        rest
    };
    format!("{seconds}.{:0<FRACTION_DIGITS$}{zone}", &fraction[..digits])
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:01.5Z stdout F one\n\
        2026-01-01T00:00:02.000000001Z stderr P tw\n\
        2026-01-01T00:00:02.000000002Z stderr P o, \n\
        2026-01-01T00:00:03Z stderr F too\n\
        not a log line\n\
        2026-01-01T00:00:04.25+02:00 stdout F \n\
        2026-01-01T02:00:05Z stdout F:x  last line\n";

    /// The same whatever the pieces are that the file arrives in.
    fn decode(log: &str, options: &LogOptions) -> String {
        let mut results = [1, 7, 4096].map(|piece| {
            let mut decoder = Decoder::new(options);
            let mut out = Vec::new();
            for piece in log.as_bytes().chunks(piece) {
                decoder.feed(piece, &mut out);
            }
            decoder.finish(&mut out);
            String::from_utf8(out).expect("text")
        });
        assert_eq!(results[0], results[1]);
        assert_eq!(results[1], results[2]);
        std::mem::take(&mut results[0])
    }

    #[test]
    fn contents() {
        let plain = LogOptions::default();
        assert_eq!(decode(LOG, &plain), "one\ntwo, too\n\n last line\n");
        assert_eq!(
            decode(
                LOG,
                &LogOptions {
                    timestamps: true,
                    ..plain.clone()
                }
            ),
            "2026-01-01T00:00:01.500000000Z one\n\
             2026-01-01T00:00:02.000000001Z two, too\n\
             2026-01-01T00:00:04.250000000+02:00 \n\
             2026-01-01T02:00:05.000000000Z  last line\n"
        );
        assert_eq!(
            decode(
                LOG,
                &LogOptions {
                    stream: Some("stderr"),
                    ..plain.clone()
                }
            ),
            "two, too\n"
        );
        let since = Some("2026-01-01T00:00:03Z".parse().expect("a time"));
        assert_eq!(
            decode(
                LOG,
                &LogOptions {
                    since,
                    ..plain.clone()
                }
            ),
            "too\n last line\n"
        );
        for (limit, expect) in [
            (1, "o"),
            (4, "one\n"),
            (7, "one\ntwo"),
            (1000, "one\ntwo, too\n\n last line\n"),
        ] {
            assert_eq!(
                decode(
                    LOG,
                    &LogOptions {
                        limit_bytes: Some(limit),
                        ..plain.clone()
                    }
                ),
                expect
            );
        }
    }

    #[test]
    fn what_is_cut_off_or_too_long() {
        let plain = LogOptions::default();
        assert_eq!(
            decode("2026-01-01T00:00:01Z stdout F end is mis", &plain),
            "end is mis\n"
        );
        assert_eq!(decode("2026-01-01T00:00:01Z stdo", &plain), "");
        let long = format!(
            "2026-01-01T00:00:01Z stdout F {}\n",
            "x".repeat(LINE_BYTES_MAX + 8192)
        );
        let mut decoder = Decoder::new(&plain);
        let mut out = Vec::new();
        for piece in long.as_bytes().chunks(4096) {
            decoder.feed(piece, &mut out);
        }
        decoder.feed(b"2026-01-01T00:00:01Z stdout F ok\n", &mut out);
        assert_eq!(String::from_utf8_lossy(&out[..out.len().min(20)]), "ok\n");
    }

    /// Rows follow upstream's `TestParseLog` and `TestParseCRILog`.
    #[test]
    fn lines() {
        let bad: [&[u8]; 7] = [
            b"",
            b"2026-01-01T00:00:01Z",
            b"2026-01-01T00:00:01Z stdout",
            b"2026-01-01T00:00:01Z stdout F",
            b"2026-01-01T00:00:01Z stdin F x",
            b"2026-01-01T00:00:01Z stdout Q x",
            b"yesterday stdout F x",
        ];
        for line in bad {
            assert_eq!(parse(line), None, "{}", String::from_utf8_lossy(line));
        }
        let line = b"2026-01-01T00:00:01Z stdout P:TAG1:TAG2 a b ";
        let expect = Entry {
            timestamp: "2026-01-01T00:00:01Z",
            stream: "stdout",
            partial: true,
            content: b"a b ",
        };
        assert_eq!(parse(line), Some(expect));
    }
}
