//! What a journal says after a crash.

use std::collections::BTreeMap;

use super::{BLOCK, head::Head, record, record::Record};
use crate::{Error, Result};

/// The valid records of the two segments, by sequence. Each with the segment and the byte where it begins.
#[derive(Debug)]
pub(super) struct Found<'a> {
    records: BTreeMap<u64, (usize, usize, Record<'a>)>,
}

/// Where writing goes on, and what has to be put into its place before.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    /// In order; empty when everything is in its place.
    pub(super) replay: Vec<Record<'a>>,
    /// How long the store is, in bytes; `None`: nobody has said so yet.
    pub(super) len: Option<u64>,
    pub(super) segment: usize,
    /// Where the next record begins in the segment.
    pub(super) position: usize,
    pub(super) next_sequence: u64,
    /// Everything up to here is in its place when `replay` is.
    pub(super) checkpointed: u64,
}

/// Looks for records at every block. There are old ones among them, whose sequence tells.
pub(super) fn find<'a>(head: Head, segments: [&'a [u8]; 2]) -> Found<'a> {
    let mut records = BTreeMap::new();
    for (index, segment) in segments.into_iter().enumerate() {
        let mut at = 0;
        while at < segment.len() {
            match record::decode(&segment[at..], head.salt) {
                Some(record) => {
                    records.insert(record.header.sequence, (index, at, record));
                    at += record.encoded_len();
                }
                None => at += BLOCK,
            }
        }
    }
    Found { records }
}

impl<'a> Found<'a> {
    /// # Errors
    /// [`Error::Corrupt`] when a record is damaged that was followed by another one. Each was synced before the next was
    /// written, so that is no crash's work, and what it said was acknowledged.
    pub(super) fn plan(self) -> Result<Plan<'a>> {
        let Some((&last, &(segment, at, record))) = self.records.last_key_value() else {
            return Ok(Plan {
                replay: Vec::new(),
                len: None,
                segment: 0,
                position: 0,
                next_sequence: 1,
                checkpointed: 0,
            });
        };
        let in_place = self
            .records
            .values()
            .map(|(_, _, record)| record.header.checkpointed)
            .max();
        let in_place = in_place.unwrap_or(0);
        let needed: Vec<_> = self.records.range(in_place + 1..).collect();
        if needed.len() as u64 != last.saturating_sub(in_place) {
            return Err(Error::Corrupt(format!(
                "its journal lacks some of the records {} to {last}",
                in_place + 1
            )));
        }
        let carries = needed
            .iter()
            .any(|(_, (_, _, record))| record.blocks().next().is_some());
        Ok(Plan {
            replay: if carries {
                needed.into_iter().map(|(_, (_, _, record))| *record).collect()
            } else {
                Vec::new()
            },
            len: Some(record.header.len),
            segment,
            position: at + record.encoded_len(),
            next_sequence: last + 1,
            checkpointed: if carries { last } else { in_place },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::journal::record::{Header, encode};

    const SEGMENT_BLOCKS: usize = 16;

    fn head() -> Head {
        Head::new(SEGMENT_BLOCKS * BLOCK, 5)
    }

    /// Records: sequence, checkpointed, number of blocks.
    type Rows<'a> = &'a [(u64, u64, usize)];

    /// Segments with such records, one after the other.
    fn segments(rows: [Rows<'_>; 2]) -> [Vec<u8>; 2] {
        rows.map(|rows| {
            let mut segment = Vec::new();
            for &(sequence, checkpointed, count) in rows {
                let header = Header {
                    sequence,
                    checkpointed,
                    len: sequence,
                };
                let blocks = vec![[sequence as u8; BLOCK]; count];
                let mut bytes = Vec::new();
                encode(&mut bytes, 5, header, blocks.iter().map(|block| (0, block)));
                segment.extend(bytes);
            }
            segment.resize(SEGMENT_BLOCKS * BLOCK, 0);
            segment
        })
    }

    /// Sequences to replay, segment, block position, next sequence, checkpointed.
    fn plan(segments: &[Vec<u8>; 2]) -> Result<(Vec<u64>, usize, usize, u64, u64)> {
        let found = find(head(), [&segments[0], &segments[1]]);
        let plan = found.plan()?;
        let replay = plan.replay.iter().map(|record| record.header.sequence).collect();
        Ok((
            replay,
            plan.segment,
            plan.position / BLOCK,
            plan.next_sequence,
            plan.checkpointed,
        ))
    }

    #[test]
    fn plans_follow_the_records() {
        let rows: [(&str, [Rows<'_>; 2], _); 7] = [
            ("a new one", [&[], &[]], (vec![], 0, 0, 1, 0)),
            (
                "the first",
                [&[(1, 0, 1), (2, 0, 3)], &[]],
                (vec![1, 2], 0, 6, 3, 2),
            ),
            (
                "closed",
                [&[(1, 0, 1), (2, 0, 1), (3, 2, 0)], &[]],
                (vec![], 0, 5, 4, 2),
            ),
            (
                "the second segment, the first not yet in its place",
                [&[(1, 0, 1), (2, 0, 1)], &[(3, 0, 1)]],
                (vec![1, 2, 3], 1, 2, 4, 3),
            ),
            (
                "and now it is",
                [&[(1, 0, 1), (2, 0, 1)], &[(3, 0, 1), (4, 2, 1)]],
                (vec![3, 4], 1, 4, 5, 4),
            ),
            (
                "the first again, over old records",
                [&[(5, 2, 2), (2, 0, 1)], &[(3, 0, 1), (4, 2, 1)]],
                (vec![3, 4, 5], 0, 3, 6, 5),
            ),
            (
                "reopened twice without a write",
                [&[(1, 0, 1), (2, 1, 0), (3, 1, 0)], &[]],
                (vec![], 0, 4, 4, 1),
            ),
        ];
        for (name, rows, expected) in rows {
            assert_eq!(plan(&segments(rows)).unwrap(), expected, "{name}");
        }
    }

    #[test]
    fn a_torn_last_record_is_nothing() {
        let mut torn = segments([&[(1, 0, 1), (2, 0, 3)], &[]]);
        torn[0][5 * BLOCK] ^= 1;
        assert_eq!(plan(&torn).unwrap(), (vec![1], 0, 2, 2, 1));
    }

    #[test]
    fn a_damaged_record_between_others_is_told() {
        let mut damaged = segments([&[(1, 0, 1), (2, 0, 1), (3, 0, 1)], &[(4, 0, 1)]]);
        damaged[0][3 * BLOCK] ^= 1;
        let error = plan(&damaged).unwrap_err().to_string();
        assert!(error.contains("records 1 to 4"), "{error}");
        // What is in its place may be damaged.
        let mut damaged = segments([&[(1, 0, 1), (2, 0, 1)], &[(3, 2, 1)]]);
        damaged[0][BLOCK] ^= 1;
        assert_eq!(plan(&damaged).unwrap(), (vec![3], 1, 2, 4, 3));
    }
}
