//! The first block of a store's file, and where in the file is what.
//!
//! | bytes | |
//! |---|---|
//! | 0 to 8 | [`MAGIC`] |
//! | 8 to 12 | CRC-32 of bytes 12 to 24 |
//! | 12 to 16 | version of this layout |
//! | 16 to 20 | blocks of a segment |
//! | 20 to 24 | the salt of the records' checksums |
//!
//! The head is written once. Two segments follow, and then what redb takes for its file.

use super::{BLOCK, record};
use crate::{Error, Result};

pub(super) const MAGIC: &[u8; 8] = b"StoreV1\n";
const VERSION: u32 = 1;
/// A record with one block, and two without.
const SEGMENT_BLOCKS_MIN: u32 = 4;
/// 1 GiB: a larger one is no journal of ours.
const SEGMENT_BLOCKS_MAX: u32 = 1 << 18;

/// What the head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    segment_blocks: u32,
    pub(super) salt: u32,
}

impl Head {
    pub(super) fn new(segment_bytes: usize, salt: u32) -> Head {
        let blocks = u32::try_from(segment_bytes / BLOCK).unwrap_or(u32::MAX);
        Head {
            segment_blocks: blocks.clamp(SEGMENT_BLOCKS_MIN, SEGMENT_BLOCKS_MAX),
            salt,
        }
    }

    pub(super) fn segment_bytes(self) -> usize {
        self.segment_blocks as usize * BLOCK
    }

    /// Where a segment begins.
    pub(super) fn segment_at(self, index: usize) -> u64 {
        (BLOCK + index * self.segment_bytes()) as u64
    }

    /// Where redb's file begins.
    pub(super) fn data_at(self) -> u64 {
        self.segment_at(2)
    }

    pub(super) fn encode(self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        block[..8].copy_from_slice(MAGIC);
        block[12..16].copy_from_slice(&VERSION.to_le_bytes());
        block[16..20].copy_from_slice(&self.segment_blocks.to_le_bytes());
        block[20..24].copy_from_slice(&self.salt.to_le_bytes());
        let crc = record::checksum(0, &block[12..24]);
        block[8..12].copy_from_slice(&crc.to_le_bytes());
        block
    }

    pub(super) fn decode(block: &[u8; BLOCK]) -> Result<Head> {
        let number = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
        if !block.starts_with(MAGIC) {
            return Err(Error::Corrupt(
                "the file does not begin as a store does".to_owned(),
            ));
        }
        if number(8) != record::checksum(0, &block[12..24]) {
            return Err(Error::Corrupt(
                "the checksum of its first block is wrong".to_owned(),
            ));
        }
        if number(12) != VERSION {
            let text = format!("it has file layout {}, this version reads {VERSION}", number(12));
            return Err(Error::Corrupt(text));
        }
        let segment_blocks = number(16);
        if !(SEGMENT_BLOCKS_MIN..=SEGMENT_BLOCKS_MAX).contains(&segment_blocks) {
            return Err(Error::Corrupt(format!("a journal of {segment_blocks} blocks")));
        }
        Ok(Head {
            segment_blocks,
            salt: number(20),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_come_back() {
        let head = Head::new(4 << 20, 77);
        assert_eq!(Head::decode(&head.encode()).unwrap(), head);
        assert_eq!(head.data_at(), 4096 + (8 << 20));
        assert_eq!(Head::new(0, 0).segment_bytes(), 4 * BLOCK);
    }

    #[test]
    fn damage_is_told() {
        let good = Head::new(1 << 20, 77).encode();
        let error = |at: usize, mend: bool| {
            let mut block = good;
            block[at] ^= 0x81;
            if mend {
                let crc = record::checksum(0, &block[12..24]);
                block[8..12].copy_from_slice(&crc.to_le_bytes());
            }
            Head::decode(&block).unwrap_err().to_string()
        };
        assert!(error(0, false).contains("does not begin as a store does"));
        assert!(error(16, false).contains("checksum"));
        assert!(error(12, true).contains("file layout 128"), "{}", error(12, true));
        assert!(error(19, true).contains("a journal of"));
    }
}
