//! The blocks of a PEM text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A block.
pub(in crate::strategy) struct Block<'a> {
    /// What its frame says it is.
    pub(in crate::strategy) label: &'a str,
    /// Whether there are headers before the contents.
    pub(in crate::strategy) has_headers: bool,
    /// The decoded contents.
    pub(in crate::strategy) contents: Vec<u8>,
}

/// The well-formed blocks; other text between them is skipped, as Go does.
pub(in crate::strategy) fn blocks(text: &str) -> Vec<Block<'_>> {
    const BEGIN: &str = "-----BEGIN ";
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(BEGIN) {
        rest = &rest[start + BEGIN.len()..];
        let Some((label, body)) = rest.split_once("-----") else {
            break;
        };
        let end = format!("-----END {label}-----");
        let Some((body, after)) = body.split_once(&end) else {
            continue;
        };
        let (headers, contents) = match body.split_once("\n\n") {
            Some((headers, contents)) if headers.contains(':') => (headers, contents),
            _ => ("", body),
        };
        let compact: String = contents.split_whitespace().collect();
        if let Ok(contents) = STANDARD.decode(compact) {
            blocks.push(Block {
                label,
                has_headers: headers.contains(':'),
                contents,
            });
            rest = after;
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_between_other_text() {
        let text = "x\n-----BEGIN A B-----\neHh4\n-----END A B-----\ny\n-----BEGIN C-----\nk: v\n\neA==\n-----END C-----\n-----BEGIN D-----\n!\n-----END D-----\n-----BEGIN E";
        let found: Vec<_> = blocks(text)
            .iter()
            .map(|b| (b.label, b.has_headers, b.contents.len()))
            .collect();
        assert_eq!(found, [("A B", false, 3), ("C", true, 1)]);
        for odd in [
            "",
            "-----BEGIN ",
            "-----BEGIN -----",
            "-----BEGIN A----------END B-----",
        ] {
            assert!(blocks(odd).is_empty(), "{odd}");
        }
    }
}
