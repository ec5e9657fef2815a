//! Values that tell who wrote them and whether they are whole, in sizes from below to above a page of a disk.

use bytes::Bytes;

use crate::history::ValueId;

const ID_BYTES: usize = 8;

/// The bytes of a value.
pub(super) fn encode(id: ValueId) -> Bytes {
    let mut bytes = Vec::with_capacity(ID_BYTES + padding_len(id));
    bytes.extend_from_slice(&id.to_le_bytes());
    bytes.extend((0..padding_len(id)).map(|index| padding(id, index)));
    bytes.into()
}

/// Which value that is.
///
/// # Errors
/// It is none that was written, or not the whole of it.
pub(super) fn decode(bytes: &[u8]) -> Result<ValueId, String> {
    let torn = || format!("a value of {} bytes is not as it was written", bytes.len());
    let (id, rest) = bytes.split_first_chunk::<ID_BYTES>().ok_or_else(torn)?;
    let id = ValueId::from_le_bytes(*id);
    let whole = rest.len() == padding_len(id)
        && rest
            .iter()
            .enumerate()
            .all(|(index, byte)| *byte == padding(id, index));
    if whole { Ok(id) } else { Err(torn()) }
}

fn padding_len(id: ValueId) -> usize {
    // Most values are small, as most objects are.
    let step = (id.wrapping_mul(7919) % 64) as usize;
    if step == 0 { 9000 } else { step * 37 }
}

fn padding(id: ValueId, index: usize) -> u8 {
    (id as usize).wrapping_add(index / 16) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torn_values_are_noticed() {
        for id in [1, 2, 64, 1 << 40] {
            let bytes = encode(id);
            assert_eq!(decode(&bytes), Ok(id));
            assert!(decode(&bytes[..bytes.len() - 1]).is_err());
            let mut torn = bytes.to_vec();
            *torn.last_mut().unwrap() ^= 1;
            assert!(decode(&torn).is_err());
        }
        assert!(decode(b"").is_err());
    }
}
