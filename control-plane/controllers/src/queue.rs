//! The work queue between events and a reconciler.
//!
//! A key is in the queue at most once. A key added while it is being processed is processed once more
//! afterwards, never twice at the same time: that is what lets a reconciler work without locks on its object.
//! Failures come back with an exponential delay, timed wake-ups with the delay asked for.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// First delay after a failure; upstream's `DefaultTypedControllerRateLimiter` starts there too.
const BASE_DELAY: Duration = Duration::from_millis(5);
/// Longest delay between two attempts. Upstream waits up to 1000 s; a cluster that heals should not look dead that long.
const MAX_DELAY: Duration = Duration::from_secs(60);

/// Names one object of a kind: namespace (empty for cluster-scoped kinds) and name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A queue of keys; see the module documentation.
pub(crate) struct Queue<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

struct State<K> {
    ready: VecDeque<K>,
    /// Keys that wait in `ready`, or will be put there once their processing ends.
    dirty: HashSet<K>,
    processing: HashSet<K>,
    delayed: BinaryHeap<Reverse<(Instant, u64)>>,
    /// The keys of `delayed` by their sequence number, so that keys need no order.
    delayed_keys: HashMap<u64, K>,
    next_delayed: u64,
    failures: HashMap<K, u32>,
}

impl<K: Clone + Eq + Hash> Queue<K> {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                ready: VecDeque::new(),
                dirty: HashSet::new(),
                processing: HashSet::new(),
                delayed: BinaryHeap::new(),
                delayed_keys: HashMap::new(),
                next_delayed: 0,
                failures: HashMap::new(),
            }),
            wake: Notify::new(),
        }
    }

    /// Wakes the reconciler for `key` as soon as a worker is free.
    pub(crate) fn add(&self, key: K) {
        if self.state.lock().add(key) {
            self.wake.notify_one();
        }
    }

    /// Wakes the reconciler for `key` no sooner than after `delay`.
    pub(crate) fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let mut state = self.state.lock();
        let sequence = state.next_delayed;
        state.next_delayed += 1;
        state.delayed.push(Reverse((Instant::now() + delay, sequence)));
        state.delayed_keys.insert(sequence, key);
        drop(state);
        self.wake.notify_one();
    }

    /// Adds `key` again with a delay that doubles with each failure in a row. Returns the delay.
    pub(crate) fn add_rate_limited(&self, key: K) -> Duration {
        let failures = {
            let mut state = self.state.lock();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            *failures = failures.saturating_add(1);
            *failures
        };
        let delay = BASE_DELAY
            .saturating_mul(1 << (failures - 1).min(20))
            .min(MAX_DELAY);
        self.add_after(key, delay);
        delay
    }

    /// Ends the row of failures of `key`.
    pub(crate) fn forget(&self, key: &K) {
        self.state.lock().failures.remove(key);
    }

    /// Waits for the next key. The caller must hand it back to [`Queue::done`].
    pub(crate) async fn next(&self) -> K {
        loop {
            let notified = self.wake.notified();
            let deadline = {
                let mut state = self.state.lock();
                state.promote(Instant::now());
                if let Some(key) = state.ready.pop_front() {
                    state.dirty.remove(&key);
                    state.processing.insert(key.clone());
                    if !state.ready.is_empty() {
                        // A stored permit is one permit: hand it on so that the other workers see the rest.
                        self.wake.notify_one();
                    }
                    return key;
                }
                state.delayed.peek().map(|Reverse((at, _))| *at)
            };
            match deadline {
                Some(at) => tokio::select! {
                    () = notified => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => notified.await,
            }
        }
    }

    /// Ends the processing of `key`; it is queued again if it was added meanwhile.
    pub(crate) fn done(&self, key: &K) {
        let mut state = self.state.lock();
        state.processing.remove(key);
        if state.dirty.contains(key) {
            state.ready.push_back(key.clone());
            drop(state);
            self.wake.notify_one();
        }
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    /// Returns whether a worker has something new to do.
    fn add(&mut self, key: K) -> bool {
        if !self.dirty.insert(key.clone()) || self.processing.contains(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    fn promote(&mut self, now: Instant) {
        while let Some(Reverse((at, sequence))) = self.delayed.peek().copied() {
            if at > now {
                return;
            }
            self.delayed.pop();
            if let Some(key) = self.delayed_keys.remove(&sequence) {
                self.add(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_added_twice_comes_once() {
        let queue = Queue::new();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, "a");
        assert_eq!(queue.next().await, "b");
        assert!(
            tokio::time::timeout(Duration::from_secs(3600), queue.next())
                .await
                .is_err()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_processed_comes_again_after_done_only() {
        let queue = Queue::new();
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        queue.add("a");
        assert!(
            tokio::time::timeout(Duration::from_secs(3600), queue.next())
                .await
                .is_err()
        );
        queue.done(&"a");
        assert_eq!(queue.next().await, "a");
        queue.done(&"a");
        assert!(
            tokio::time::timeout(Duration::from_secs(3600), queue.next())
                .await
                .is_err()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn delayed_keys_come_in_the_order_of_their_deadlines() {
        let queue = Queue::new();
        let start = Instant::now();
        queue.add_after("late", Duration::from_secs(20));
        queue.add_after("soon", Duration::from_secs(10));
        assert_eq!(queue.next().await, "soon");
        assert_eq!(start.elapsed().as_secs(), 10);
        assert_eq!(queue.next().await, "late");
        assert_eq!(start.elapsed().as_secs(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_double_the_delay_up_to_the_cap_and_forget_resets() {
        let queue = Queue::new();
        let delays: Vec<_> = (0..4).map(|_| queue.add_rate_limited("a").as_millis()).collect();
        assert_eq!(delays, [5, 10, 20, 40]);
        for _ in 0..40 {
            queue.add_rate_limited("a");
        }
        assert_eq!(queue.add_rate_limited("a"), MAX_DELAY);
        queue.forget(&"a");
        assert_eq!(queue.add_rate_limited("a"), BASE_DELAY);
    }

    #[tokio::test]
    async fn every_worker_is_woken_for_a_burst() {
        let queue = Arc::new(Queue::new());
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.next().await })
            })
            .collect();
        tokio::task::yield_now().await;
        for i in 0..4 {
            queue.add(i);
        }
        let mut seen = Vec::new();
        for worker in workers {
            seen.push(worker.await.unwrap());
        }
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3]);
    }
}
