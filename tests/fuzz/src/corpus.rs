//! The inputs that are kept, a file for each target: a line is an entry, with what is not printable ASCII escaped as in a Rust
//! byte string. Comments begin with `#`. Entries above the line [`FOUND`] are written by hand; those below it were found
//! by libFuzzer and are replaced by a better selection whenever it finds one.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// Separates what people wrote from what was found.
const FOUND: &str = "# Found by cargo xtask fuzz:";
/// How much of what was found is kept for one target, in bytes as they are written.
const FOUND_BYTES_MAX: usize = 48 * 1024;

fn path(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(format!("{target}.txt"))
}

/// All entries of a target.
///
/// # Errors
/// The file is missing, or a line has an escape that is none.
pub fn read(target: &str) -> Result<Vec<Vec<u8>>> {
    let path = path(target);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| unescape(line).with_context(|| format!("{}: {line}", path.display())))
        .collect()
}

/// Replaces what was found by `entries`, the shortest first and as many as may be kept; what people wrote stays.
///
/// # Errors
/// The file cannot be read or written.
pub fn write(target: &str, entries: Vec<Vec<u8>>) -> Result<()> {
    let path = path(target);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let by_hand = text.split(FOUND).next().unwrap_or_default().trim_end();
    let known: BTreeSet<&str> = by_hand.lines().collect();
    let mut found: Vec<String> = entries.iter().map(|entry| escape(entry)).collect();
    found.sort_by_key(|line| (line.len(), line.clone()));
    found.dedup();
    let mut out = format!("{by_hand}\n\n{FOUND}\n");
    let mut left = FOUND_BYTES_MAX;
    for line in found.iter().filter(|line| !known.contains(line.as_str())) {
        if line.len() + 1 > left {
            break;
        }
        left -= line.len() + 1;
        out.push_str(line);
        out.push('\n');
    }
    fs::write(&path, out).with_context(|| format!("write {}", path.display()))
}

fn escape(entry: &[u8]) -> String {
    let text = entry.escape_ascii().to_string();
    // A line must not look like a comment, and quotes need no escape here.
    let text = text.replace("\\'", "'").replace("\\\"", "\"");
    match text.strip_prefix('#') {
        Some(rest) => format!("\\x23{rest}"),
        None => text,
    }
}

fn unescape(line: &str) -> Result<Vec<u8>> {
    let mut entry = Vec::with_capacity(line.len());
    let mut bytes = line.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            entry.push(byte);
            continue;
        }
        entry.push(match bytes.next() {
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'\\') => b'\\',
            Some(b'x') => {
                let digits = [bytes.next(), bytes.next()].map(Option::unwrap_or_default);
                u8::from_str_radix(str::from_utf8(&digits)?, 16)?
            }
            other => bail!("unknown escape {other:?}"),
        });
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives() {
        let all: Vec<u8> = (0..=255).collect();
        for entry in [&all[..], b"#", b"", b"\\n\"'", "ü".as_bytes()] {
            let line = escape(entry);
            assert!(line.is_ascii() && !line.starts_with('#') && !line.contains('\n'));
            assert_eq!(unescape(&line).unwrap(), entry, "{line}");
        }
        assert!(unescape("\\q").is_err() && unescape("\\xg0").is_err());
    }
}
