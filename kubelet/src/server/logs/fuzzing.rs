//! Log files, as any bytes that a runtime might have left.

use jiff::Timestamp;

use super::{LogOptions, decoder::Decoder};

/// Options, the size of the pieces that are read, and the file: what is shown is the same whatever the pieces, and never
/// more than was asked for.
pub fn log_lines(data: &[u8]) {
    let Some(([flags, limit, piece], file)) = data.split_first_chunk::<3>() else {
        return;
    };
    let options = LogOptions {
        timestamps: flags & 1 != 0,
        since: (flags & 2 != 0).then_some(Timestamp::UNIX_EPOCH),
        limit_bytes: (flags & 4 != 0).then_some(u64::from(*limit)),
        stream: match flags >> 3 & 3 {
            1 => Some("stdout"),
            2 => Some("stderr"),
            _ => None,
        },
        ..LogOptions::default()
    };
    let whole = shown(&options, file, file.len().max(1));
    assert_eq!(whole, shown(&options, file, usize::from(*piece).max(1)));
    if let Some(limit) = options.limit_bytes {
        assert!(whole.len() as u64 <= limit);
    }
}

fn shown(options: &LogOptions, file: &[u8], piece: usize) -> Vec<u8> {
    let (mut decoder, mut out) = (Decoder::new(options), Vec::new());
    for piece in file.chunks(piece) {
        decoder.feed(piece, &mut out);
        if decoder.is_done() {
            return out;
        }
    }
    decoder.finish(&mut out);
    out
}
