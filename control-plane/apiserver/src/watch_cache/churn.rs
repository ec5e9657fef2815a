//! Memory goes back to the system when it has become quiet. The allocator keeps what lies between things that live on: for an
//! object of a tenth of a megabyte one megabyte is taken while it is decoded, and after sixty large slices had come and gone, 42
//! of 46 MiB stayed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

/// After fewer bytes of objects have come and gone it is not worth it.
const WORTH: usize = 1 << 20;
/// How often it is looked whether it has become quiet. Who still holds an object that is gone, such as a watch that tells of it,
/// has let go of it by then.
const PERIOD: Duration = Duration::from_secs(10);
/// Fewer bytes in a period are quiet.
const QUIET: usize = 64 << 10;
/// So many periods without quiet are enough.
const PERIODS_MAX: usize = 60;

/// What has come and gone since memory was given back last.
#[derive(Debug, Default)]
pub(super) struct Churn {
    bytes: AtomicUsize,
    is_watched: AtomicBool,
}

impl Churn {
    /// Notes that objects of so many bytes have come or gone. Gives memory back later once that is worth it.
    pub(super) fn note(self: &Arc<Self>, bytes: usize) {
        if self.add(bytes) {
            let churn = self.clone();
            tokio::spawn(async move {
                let mut before = churn.so_far();
                for _ in 0..PERIODS_MAX {
                    tokio::time::sleep(PERIOD).await;
                    let now = churn.so_far();
                    if now - before < QUIET {
                        break;
                    }
                    before = now;
                }
                churn.begin();
                // Takes milliseconds where there is much.
                let _ = tokio::task::spawn_blocking(heap::release).await;
            });
        }
    }

    /// Whether it is the caller who has to give memory back.
    fn add(&self, bytes: usize) -> bool {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        before + bytes >= WORTH && !self.is_watched.swap(true, Ordering::Relaxed)
    }

    fn so_far(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// From here on it counts from nothing.
    fn begin(&self) {
        self.bytes.store(0, Ordering::Relaxed);
        self.is_watched.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_for_much() {
        let churn = Churn::default();
        assert!(!churn.add(WORTH / 2));
        assert!(churn.add(WORTH / 2));
        // Somebody is about to do it.
        assert!(!churn.add(WORTH));
        churn.begin();
        assert!(!churn.add(WORTH - 1));
        assert!(churn.add(1));
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_until_it_is_quiet_but_not_for_ever() {
        let churn = Arc::new(Churn::default());
        let begun = tokio::time::Instant::now();
        churn.note(WORTH);
        tokio::time::sleep(PERIOD / 2).await;
        // Busy in the first period, quiet in the second.
        churn.note(QUIET);
        tokio::time::sleep(PERIOD).await;
        assert!(churn.so_far() > 0);
        while churn.so_far() > 0 {
            tokio::time::sleep(PERIOD / 10).await;
        }
        assert!(begun.elapsed() <= PERIOD * 3);
        churn.note(WORTH);
        for _ in 0..PERIODS_MAX * 3 {
            tokio::time::sleep(PERIOD / 2).await;
            if churn.so_far() == 0 {
                return;
            }
            churn.note(QUIET);
        }
        panic!("it waits for ever");
    }
}
