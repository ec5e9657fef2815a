//! Journals as a damaged file might hold them.

use super::{
    BLOCK,
    head::Head,
    record::{self, Header},
    recovery,
};

/// Four bytes for a record: sequence, what it says is in its place, number of blocks (whose first bit chooses the segment),
/// and a byte that is flipped in it if it is not zero. And the bytes themselves, as a head and as a record.
pub fn journal(data: &[u8]) {
    if let Some(block) = data.first_chunk::<BLOCK>() {
        // An error is as good as a head.
        let _head = Head::decode(block);
    }
    if let Some(record) = record::decode(data, 0) {
        let mut written = Vec::new();
        let blocks: Vec<_> = record.blocks().collect();
        record::encode(&mut written, 0, record.header, blocks.into_iter());
        assert_eq!(written.len(), record.encoded_len());
    }
    let mut segments = [Vec::new(), Vec::new()];
    let (rows, rest) = data.as_chunks::<4>();
    for [sequence, checkpointed, count, flip] in rows.iter().take(64) {
        let header = Header {
            sequence: u64::from(*sequence),
            checkpointed: u64::from(*checkpointed),
            len: u64::from(*count),
        };
        let block = [*sequence; BLOCK];
        let mut bytes = Vec::new();
        let blocks = vec![(u64::from(*count), &block); usize::from(count & 7)];
        record::encode(&mut bytes, 1, header, blocks.into_iter());
        if *flip != 0 {
            let at = usize::from(*flip) * 16 % bytes.len();
            bytes[at] ^= flip;
        }
        segments[usize::from(count >> 7)].extend(bytes);
    }
    segments[0].extend_from_slice(rest);
    let head = Head::new(segments[0].len().max(segments[1].len()), 1);
    if let Ok(plan) = recovery::find(head, [&segments[0], &segments[1]]).plan() {
        let sequences: Vec<_> = plan.replay.iter().map(|record| record.header.sequence).collect();
        assert!(sequences.is_sorted_by(|a, b| a + 1 == *b), "{sequences:?}");
        assert!(sequences.last().is_none_or(|last| last + 1 == plan.next_sequence));
        assert!(plan.position <= segments[plan.segment].len());
    }
}
