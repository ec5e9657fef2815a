//! A record of the journal: some blocks of the store's file as one sync leaves them.
//!
//! | bytes | |
//! |---|---|
//! | 0 to 8 | [`MAGIC`] |
//! | 8 to 12 | CRC-32 of everything that follows, begun with the file's salt |
//! | 12 to 16 | number of blocks |
//! | 16 to 24 | sequence: one more than the record before it |
//! | 24 to 32 | the sequence up to which everything is in its place |
//! | 32 to 40 | how long the store is, in bytes |
//! | from 40 | the numbers of the blocks, padded to a whole block; then the blocks |
//!
//! Numbers are little endian. A record begins at a whole block, so that no write touches one that was synced before.

use super::BLOCK;

const MAGIC: &[u8; 8] = b"StoreJnl";
const CRC_AT: usize = 8;
const COUNT_AT: usize = 12;
const NUMBERS_AT: usize = 40;

/// What a record says beside its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) sequence: u64,
    /// Records up to this sequence are not needed any more.
    pub(super) checkpointed: u64,
    /// How long the store is, in bytes.
    pub(super) len: u64,
}

/// A record as it was found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    pub(super) header: Header,
    numbers: &'a [u8],
    contents: &'a [u8],
}

/// How many blocks a record takes for its header, with so many numbers in it.
const fn header_blocks(count: usize) -> usize {
    (NUMBERS_AT + 8 * count).div_ceil(BLOCK)
}

/// How long a record of so many blocks is, in bytes.
pub(super) const fn encoded_len(count: usize) -> usize {
    (header_blocks(count) + count) * BLOCK
}

/// How many blocks fit into a record of so many bytes at most.
pub(super) fn capacity(bytes: usize) -> usize {
    let mut count = (bytes / BLOCK).saturating_sub(1);
    while count > 0 && encoded_len(count) > bytes {
        count -= 1;
    }
    count
}

/// Writes a record into `out`, in place of what is there.
pub(super) fn encode<'a>(
    out: &mut Vec<u8>,
    salt: u32,
    header: Header,
    blocks: impl ExactSizeIterator<Item = (u64, &'a [u8; BLOCK])> + Clone,
) {
    let count = blocks.len();
    out.clear();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[0; COUNT_AT - CRC_AT]);
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
    for number in [header.sequence, header.checkpointed, header.len] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    for (number, _) in blocks.clone() {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.resize(header_blocks(count) * BLOCK, 0);
    for (_, block) in blocks {
        out.extend_from_slice(block);
    }
    let crc = checksum(salt, &out[COUNT_AT..]).to_le_bytes();
    out[CRC_AT..COUNT_AT].copy_from_slice(&crc);
}

/// The record that `bytes` begin with, if there is a whole one.
pub(super) fn decode(bytes: &[u8], salt: u32) -> Option<Record<'_>> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let (count, rest) = rest.split_first_chunk::<4>()?;
    let count = u32::from_le_bytes(*count) as usize;
    // Before the length is computed: it might not fit into a number.
    if count > bytes.len() / BLOCK {
        return None;
    }
    let numbers_end = NUMBERS_AT + 8 * count;
    let contents_at = header_blocks(count) * BLOCK;
    let whole = bytes.get(..encoded_len(count))?;
    if checksum(salt, &whole[COUNT_AT..]) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let (checkpointed, rest) = rest.split_first_chunk::<8>()?;
    let (len, _) = rest.split_first_chunk::<8>()?;
    Some(Record {
        header: Header {
            sequence: u64::from_le_bytes(*sequence),
            checkpointed: u64::from_le_bytes(*checkpointed),
            len: u64::from_le_bytes(*len),
        },
        numbers: &whole[NUMBERS_AT..numbers_end],
        contents: &whole[contents_at..],
    })
}

impl<'a> Record<'a> {
    /// The blocks with their numbers.
    pub(super) fn blocks(self) -> impl Iterator<Item = (u64, &'a [u8; BLOCK])> {
        let (numbers, _) = self.numbers.as_chunks::<8>();
        let (contents, _) = self.contents.as_chunks::<BLOCK>();
        let numbers = numbers.iter().map(|number| u64::from_le_bytes(*number));
        numbers.zip(contents)
    }

    /// How long the record is, in bytes.
    pub(super) fn encoded_len(self) -> usize {
        encoded_len(self.numbers.len() / 8)
    }
}

/// Whoever can write values does not know the salt, and so cannot write a value that is taken for a record.
pub(super) fn checksum(salt: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(bytes);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        sequence: 7,
        checkpointed: 5,
        len: 1 << 20,
    };

    fn record(count: usize) -> Vec<u8> {
        let blocks: Vec<_> = (0..count).map(|index| [index as u8; BLOCK]).collect();
        let mut bytes = Vec::new();
        let numbered = blocks
            .iter()
            .enumerate()
            .map(|(index, block)| (index as u64 * 3, block));
        encode(&mut bytes, 99, HEADER, numbered);
        bytes
    }

    #[test]
    fn records_come_back() {
        for count in [0, 1, 9, 507, 508, 1500] {
            let mut bytes = record(count);
            assert_eq!(bytes.len(), encoded_len(count));
            bytes.extend_from_slice(b"what follows");
            let found = decode(&bytes, 99).unwrap();
            assert_eq!((found.header, found.encoded_len()), (HEADER, encoded_len(count)));
            let blocks: Vec<_> = found.blocks().map(|(number, block)| (number, block[0])).collect();
            let expected: Vec<_> = (0..count).map(|index| (index as u64 * 3, index as u8)).collect();
            assert_eq!(blocks, expected);
        }
    }

    #[test]
    fn damage_is_seen() {
        let bytes = record(2);
        assert!(decode(&bytes, 98).is_none(), "another file's");
        for at in (0..bytes.len()).step_by(61).chain(0..NUMBERS_AT + 16) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            assert!(decode(&damaged, 99).is_none(), "byte {at}");
        }
        for len in [0, 7, 8, 15, 39, BLOCK, bytes.len() - 1] {
            assert!(decode(&bytes[..len], 99).is_none(), "{len} bytes");
        }
    }

    #[test]
    fn capacities_are_exact() {
        for bytes in [0, 1, 2, 3, 509, 510, 511, 1023].map(|blocks| blocks * BLOCK) {
            let count = capacity(bytes);
            assert!(count == 0 || encoded_len(count) <= bytes);
            assert!(encoded_len(count + 1) > bytes);
        }
    }
}
