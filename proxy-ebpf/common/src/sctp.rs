//! SCTP's checksum, a CRC-32C, after a change of ports, and that of the shortest packets.
//!
//! A CRC is linear: what changes in it depends only on which bits changed and on how much follows them. So the ports of an
//! SCTP packet can be translated without reading the packet.

/// The polynomial, lowest bit first as the CRC processes them.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// A packet's length has 16 bits.
const BITS: usize = 16;
/// A CRC has eight digits of four bits.
const DIGITS: usize = 8;

/// What a digit of a CRC becomes as 2ⁿ zero bytes follow: by n, by the digit's place, and by the digit. A table instead of
/// shifts and additions: the verifier walks every step of a loop, for every way that leads to it.
static ZERO_BYTES: [[[u32; 16]; DIGITS]; BITS] = zero_bytes();

/// What is to be added (by exclusive or) to the checksum of a packet of `length` bytes whose first four bytes change by
/// `change` (also by exclusive or, the first byte lowest). The checksum too is read with its first byte lowest.
#[inline(always)]
pub fn checksum_change(change: u32, length: u16) -> u32 {
    let mut crc = change;
    for (bit, digits) in ZERO_BYTES.iter().enumerate() {
        let mut followed = 0;
        for (place, digit) in digits.iter().enumerate() {
            followed ^= digit[(crc >> (4 * place) & 0xf) as usize];
        }
        // Without a branch, of which each would double what the verifier has to look at.
        let applies = u32::from(length >> bit & 1).wrapping_neg();
        crc = (followed & applies) | (crc & !applies);
    }
    crc
}

/// The checksum of a packet of sixteen bytes, given in words with their first byte lowest: of a header, whose checksum counts
/// as zero, and a chunk without content.
#[inline(always)]
pub fn short_checksum([ports, tag, kind]: [u32; 3]) -> u32 {
    ZEROS ^ checksum_change(ports, 16) ^ checksum_change(tag, 12) ^ checksum_change(kind, 4)
}

/// The checksum of sixteen zero bytes.
const ZEROS: u32 = {
    let mut crc = u32::MAX;
    let mut bit = 0;
    while bit < 16 * 8 {
        crc = (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg());
        bit += 1;
    }
    !crc
};

/// The product of two polynomials.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 0;
    while bit < 32 {
        if (a << bit) >> 31 == 1 {
            product ^= b;
        }
        b = (b >> 1) ^ (POLYNOMIAL & (b & 1).wrapping_neg());
        bit += 1;
    }
    product
}

const fn zero_bytes() -> [[[u32; 16]; DIGITS]; BITS] {
    let mut table = [[[0; 16]; DIGITS]; BITS];
    // One zero byte is a multiplication by x⁸.
    let mut power = 1 << (31 - 8);
    let mut bit = 0;
    while bit < BITS {
        let mut entry = 0;
        while entry < DIGITS * 16 {
            let (place, digit) = (entry / 16, entry % 16);
            table[bit][place][digit] = multiply((digit as u32) << (4 * place), power);
            entry += 1;
        }
        power = multiply(power, power);
        bit += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// The checksum by the book, bit by bit.
    fn crc32c(data: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in data {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg());
            }
        }
        !crc
    }

    #[test]
    fn a_short_packet_has_the_checksum_of_its_bytes() {
        let packet = [1, 2, 3, 4, 0xa5, 6, 7, 0x88, 0, 0, 0, 0, 6, 1, 0, 4];
        let word = |at: usize| u32::from_le_bytes(packet[at..at + 4].try_into().unwrap());
        assert_eq!(short_checksum([word(0), word(4), word(12)]), crc32c(&packet));
        assert_eq!(short_checksum([0; 3]), crc32c(&[0; 16]));
    }

    #[test]
    fn a_change_of_ports_changes_the_checksum_as_computing_it_anew_does() {
        // The check value of the CRC's catalogue.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        for length in [12_u16, 13, 16, 255, 256, 1452, 65_535] {
            let mut data: Vec<u8> = (0..length)
                .map(|index| (index.wrapping_mul(31) >> 3) as u8)
                .collect();
            let old = crc32c(&data);
            let change = [0x9c, 0x40, 0x1f, 0x90];
            for (byte, change) in data.iter_mut().zip(change) {
                *byte ^= change;
            }
            let expected = crc32c(&data);
            assert_eq!(
                old ^ checksum_change(u32::from_le_bytes(change), length),
                expected,
                "{length}"
            );
        }
    }
}
