//! Encodings of objects beside their JSON, kept as long as there is room for them.
//!
//! Whoever lists in protobuf usually is not alone: stock clients fill their caches with such lists, and making one of an
//! object takes many times as long as sending it. Kept for all objects they would double what the cache takes, so there is
//! an end to it.

use std::sync::{
    OnceLock,
    atomic::{AtomicUsize, Ordering},
};

/// For all objects together: the messages of some ten thousand pods.
const BYTES_MAX: usize = 32 << 20;

/// How many bytes are kept in this process.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// The place of one object's encoding.
#[derive(Debug, Default)]
pub(super) struct Kept(OnceLock<Box<[u8]>>);

impl Kept {
    pub(super) fn get(&self) -> Option<&[u8]> {
        self.0.get().map(|bytes| &**bytes)
    }

    /// Keeps the bytes, if there is room.
    pub(super) fn keep(&self, bytes: &[u8]) {
        let room = |taken: usize| taken.checked_add(bytes.len()).filter(|taken| *taken <= BYTES_MAX);
        if TAKEN
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room)
            .is_ok()
            && self.0.set(bytes.into()).is_err()
        {
            // Somebody else was faster.
            TAKEN.fetch_sub(bytes.len(), Ordering::Relaxed);
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(bytes) = self.get() {
            TAKEN.fetch_sub(bytes.len(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Other tests of the process keep little.
    #[test]
    fn there_is_an_end_to_it() {
        let part = vec![1; BYTES_MAX / 4];
        let all: Vec<Kept> = (0..5).map(|_| Kept::default()).collect();
        for kept in &all {
            kept.keep(&part);
        }
        let count = |all: &[Kept]| all.iter().filter(|kept| kept.get().is_some()).count();
        assert!((3..5).contains(&count(&all)), "{}", count(&all));
        // Kept once, and given back when the object goes.
        all[0].keep(&part[..1]);
        assert_eq!(all[0].get(), Some(&*part));
        drop(all);
        let again = Kept::default();
        again.keep(&part);
        assert!(again.get().is_some());
    }
}
