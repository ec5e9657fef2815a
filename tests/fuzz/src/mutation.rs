//! Seeded changes to inputs, for the replay that needs no libFuzzer.

/// SplitMix64: enough randomness, the same everywhere.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 when `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// What is worth writing into most formats.
const TOKENS: &[&[u8]] = &[
    b"\0",
    b"\xff",
    b"\x7f",
    b"-1",
    b"0",
    b"9223372036854775807",
    b"1e400",
    b"null",
    b"{}",
    b"[]",
    b"\"\"",
    b"\\u0000",
    b"\xc3\x28",
    b"$patch",
    b"..",
    b"/",
    b"%00",
    b",",
    b":",
    b"=",
    b"(",
    b"\n",
    b"\xff\xff\xff\xff",
];

/// `entry` with one to four changes; some take a part of `other`.
pub fn mutate(random: &mut Random, entry: &[u8], other: &[u8]) -> Vec<u8> {
    let mut out = entry.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(out.len() + 1);
        let end = (at + random.below(9)).min(out.len());
        match random.below(6) {
            0 if at < out.len() => out[at] ^= 1 << random.below(8),
            1 if at < out.len() => out[at] = random.below(256) as u8,
            2 => drop(out.drain(at..end)),
            3 => {
                let repeated = out[at..end].to_vec();
                out.splice(at..at, repeated);
            }
            4 => {
                let from = random.below(other.len() + 1);
                let part = &other[from..(from + random.below(33)).min(other.len())];
                out.splice(at..end, part.iter().copied());
            }
            _ => {
                let token = TOKENS[random.below(TOKENS.len())];
                out.splice(at..end, token.iter().copied());
            }
        }
    }
    out
}
