//! The pods that wait for a node: which is next, and which need not be tried before something changes.
//!
//! Pure: time is an argument. A pod is in one of these places:
//!
//! - *gated*: it says itself that it is not to be scheduled yet; leaves when its gates are gone;
//! - *active*: to be tried, the highest priority first, then the longest waiting;
//! - *in flight*: being tried, or its binding is being written;
//! - *unschedulable*: no node takes it; leaves when a change makes one that would, or after a long time;
//! - *backing off*: woken by a change shortly after its last attempt. It is tried when its time has come or nothing is
//!   active, so that pods that fail again and again do not stand in the way of others;
//! - *failed*: writing its binding failed. It is tried when its time has come, not before.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::pod::PodInfo;

/// After so long a pod is tried again even if nothing seems to have changed; upstream's default.
const UNSCHEDULABLE_MAX: Duration = Duration::from_secs(300);

type Uid = Arc<str>;

#[derive(Debug)]
pub(crate) struct Queue {
    initial_backoff: Duration,
    max_backoff: Duration,
    entries: HashMap<Uid, Entry>,
    /// (priority, order of arrival, pod), the next one first.
    active: BTreeSet<(Reverse<i32>, u64, Uid)>,
    /// When each waiting pod is tried, the soonest first.
    backing_off: BTreeSet<(Instant, Uid)>,
    failed: BTreeSet<(Instant, Uid)>,
    unschedulable: BTreeSet<(Instant, Uid)>,
    /// Numbers arrivals.
    arrivals: u64,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<PodInfo>,
    arrival: u64,
    attempts: u32,
    /// End of the wait that the last failed attempt earned.
    backoff_until: Option<Instant>,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Gated,
    Active,
    InFlight,
    Unschedulable { until: Instant },
    BackingOff { until: Instant },
    Failed { until: Instant },
}

impl Queue {
    pub(crate) fn new(initial_backoff: Duration, max_backoff: Duration) -> Queue {
        Queue {
            initial_backoff,
            max_backoff,
            entries: HashMap::new(),
            active: BTreeSet::new(),
            backing_off: BTreeSet::new(),
            failed: BTreeSet::new(),
            unschedulable: BTreeSet::new(),
            arrivals: 0,
        }
    }

    /// Takes in a pod that waits, new or changed. Returns whether it is held back by gates.
    pub(crate) fn set(&mut self, pod: Arc<PodInfo>, now: Instant) -> bool {
        let uid = pod.reference.uid.clone();
        let gated = !pod.constraints.scheduling_gates.is_empty();
        let Some(entry) = self.entries.get_mut(&uid) else {
            self.arrivals += 1;
            let entry = Entry {
                pod,
                arrival: self.arrivals,
                attempts: 0,
                backoff_until: None,
                place: Place::InFlight,
            };
            self.entries.insert(uid.clone(), entry);
            self.put(&uid, if gated { Place::Gated } else { Place::Active });
            return gated;
        };
        let changed = !entry.pod.is_placed_like(&pod);
        let place = entry.place;
        if !changed || place == Place::InFlight {
            entry.pod = pod;
            return place == Place::Gated;
        }
        // The old priority is part of its place.
        self.take(&uid);
        if let Some(entry) = self.entries.get_mut(&uid) {
            entry.pod = pod;
        }
        match place {
            _ if gated => self.put(&uid, Place::Gated),
            Place::Gated | Place::Active => self.put(&uid, Place::Active),
            // A pod that asks for less may fit now.
            Place::Unschedulable { .. } => self.wake_one(&uid, now),
            Place::BackingOff { .. } | Place::Failed { .. } | Place::InFlight => self.put(&uid, place),
        }
        gated
    }

    pub(crate) fn remove(&mut self, uid: &str) {
        self.take(uid);
        self.entries.remove(uid);
    }

    /// After a list: forgets the pods that are not in it.
    pub(crate) fn retain(&mut self, uids: &HashSet<Uid>) {
        let gone: Vec<_> = self
            .entries
            .keys()
            .filter(|uid| !uids.contains(*uid))
            .cloned()
            .collect();
        gone.iter().for_each(|uid| self.remove(uid));
    }

    /// The pod to try next; it is in flight until its outcome is told.
    pub(crate) fn pop(&mut self) -> Option<Arc<PodInfo>> {
        let uid = match self.active.first() {
            Some((_, _, uid)) => uid.clone(),
            None => self.backing_off.first()?.1.clone(),
        };
        self.take(&uid);
        self.entries.get(&uid).map(|entry| entry.pod.clone())
    }

    /// The outcome "no node takes it".
    pub(crate) fn unschedulable(&mut self, uid: &str, now: Instant) {
        if self.back_off(uid, now).is_some() {
            self.put(
                uid,
                Place::Unschedulable {
                    until: now + UNSCHEDULABLE_MAX,
                },
            );
        }
    }

    /// The outcome "the binding could not be written".
    pub(crate) fn failed(&mut self, uid: &str, now: Instant) {
        if let Some(until) = self.back_off(uid, now) {
            self.put(uid, Place::Failed { until });
        }
    }

    /// Something changed: the unschedulable pods for which `helps` holds are tried again.
    pub(crate) fn wake(&mut self, now: Instant, helps: impl Fn(&PodInfo) -> bool) {
        let helped = self.unschedulable.iter().map(|(_, uid)| uid);
        let helped = helped.filter(|uid| self.entries.get(*uid).is_some_and(|entry| helps(&entry.pod)));
        for uid in helped.cloned().collect::<Vec<_>>() {
            self.take(&uid);
            self.wake_one(&uid, now);
        }
    }

    /// When [`Self::flush`] will next find something.
    pub(crate) fn next_flush(&self) -> Option<Instant> {
        let waiting = [&self.backing_off, &self.failed, &self.unschedulable];
        waiting
            .iter()
            .filter_map(|queue| queue.first())
            .map(|(until, _)| *until)
            .min()
    }

    /// Moves on the pods whose waiting time is over.
    pub(crate) fn flush(&mut self, now: Instant) {
        let waiting = [&self.backing_off, &self.failed, &self.unschedulable];
        let due = waiting
            .iter()
            .flat_map(|queue| queue.iter().take_while(|(until, _)| *until <= now));
        for uid in due.map(|(_, uid)| uid.clone()).collect::<Vec<_>>() {
            self.take(&uid);
            self.put(&uid, Place::Active);
        }
    }

    fn wake_one(&mut self, uid: &str, now: Instant) {
        let until = self.entries.get(uid).and_then(|entry| entry.backoff_until);
        match until.filter(|until| *until > now) {
            Some(until) => self.put(uid, Place::BackingOff { until }),
            None => self.put(uid, Place::Active),
        }
    }

    /// Counts a failed attempt of a pod in flight. Returns the end of the wait it earns; `None` when the pod is gone.
    fn back_off(&mut self, uid: &str, now: Instant) -> Option<Instant> {
        let entry = self
            .entries
            .get_mut(uid)
            .filter(|entry| entry.place == Place::InFlight)?;
        let doublings = entry.attempts.min(16);
        entry.attempts += 1;
        let wait = self
            .initial_backoff
            .saturating_mul(1 << doublings)
            .min(self.max_backoff);
        entry.backoff_until = Some(now + wait);
        entry.backoff_until
    }

    /// Takes a pod out of its place, whichever it is; it is in flight then.
    fn take(&mut self, uid: &str) {
        let Some((uid, entry)) = self.entries.get_key_value(uid) else {
            return;
        };
        match entry.place {
            Place::Gated | Place::InFlight => {}
            Place::Active => drop(self.active.remove(&entry.active_key(uid))),
            Place::BackingOff { until } => drop(self.backing_off.remove(&(until, uid.clone()))),
            Place::Failed { until } => drop(self.failed.remove(&(until, uid.clone()))),
            Place::Unschedulable { until } => drop(self.unschedulable.remove(&(until, uid.clone()))),
        }
        let uid = uid.clone();
        if let Some(entry) = self.entries.get_mut(&uid) {
            entry.place = Place::InFlight;
        }
    }

    /// Puts a pod in flight into a place.
    fn put(&mut self, uid: &str, place: Place) {
        let Some((uid, entry)) = self.entries.get_key_value(uid) else {
            return;
        };
        match place {
            Place::Gated | Place::InFlight => {}
            Place::Active => drop(self.active.insert(entry.active_key(uid))),
            Place::BackingOff { until } => drop(self.backing_off.insert((until, uid.clone()))),
            Place::Failed { until } => drop(self.failed.insert((until, uid.clone()))),
            Place::Unschedulable { until } => drop(self.unschedulable.insert((until, uid.clone()))),
        }
        let uid = uid.clone();
        if let Some(entry) = self.entries.get_mut(&uid) {
            entry.place = place;
        }
    }
}

impl Entry {
    fn active_key(&self, uid: &Uid) -> (Reverse<i32>, u64, Uid) {
        (Reverse(self.pod.constraints.priority), self.arrival, uid.clone())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing;

    fn pod(name: &str, spec: Value) -> Arc<PodInfo> {
        let mut pod = testing::pod(spec);
        pod.reference.name = name.to_owned();
        pod.reference.uid = name.into();
        Arc::new(pod)
    }

    fn plain(name: &str) -> Arc<PodInfo> {
        pod(name, json!({}))
    }

    struct Fixture {
        queue: Queue,
        start: Instant,
    }

    impl Fixture {
        fn new() -> Fixture {
            Fixture {
                queue: Queue::new(Duration::from_secs(1), Duration::from_secs(10)),
                start: Instant::now(),
            }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        fn pop(&mut self) -> Option<String> {
            self.queue.pop().map(|pod| pod.reference.name.clone())
        }
    }

    #[test]
    fn priority_then_arrival() {
        let mut fixture = Fixture::new();
        let now = fixture.start;
        for (name, priority) in [("b", 0), ("a", 0), ("high", 10), ("low", -1)] {
            assert!(!fixture.queue.set(pod(name, json!({"priority": priority})), now));
        }
        fixture.queue.set(pod("low", json!({"priority": 5})), now);
        assert_eq!(
            [(); 5].map(|()| fixture.pop().unwrap_or_default()),
            ["high", "low", "b", "a", ""]
        );
    }

    #[test]
    fn gates_hold_back() {
        let mut fixture = Fixture::new();
        let now = fixture.start;
        assert!(
            fixture
                .queue
                .set(pod("p", json!({"schedulingGates": [{"name": "g"}]})), now)
        );
        assert_eq!((fixture.pop(), fixture.queue.next_flush()), (None, None));
        assert!(!fixture.queue.set(plain("p"), now));
        assert_eq!(fixture.pop().as_deref(), Some("p"));
    }

    #[test]
    fn only_a_change_that_helps_wakes() {
        let mut fixture = Fixture::new();
        let now = fixture.start;
        for name in ["a", "b"] {
            fixture.queue.set(plain(name), now);
        }
        while let Some(name) = fixture.pop() {
            fixture.queue.unschedulable(&name, now);
        }
        fixture.queue.wake(fixture.at(5), |pod| pod.reference.name == "b");
        assert_eq!((fixture.pop().as_deref(), fixture.pop()), (Some("b"), None));
        // The same pod again, say with a new condition, is no change.
        fixture.queue.set(plain("a"), now);
        assert_eq!(fixture.pop(), None);
        fixture.queue.set(
            pod("a", json!({"tolerations": [{"operator": "Exists"}]})),
            fixture.at(5),
        );
        assert_eq!(fixture.pop().as_deref(), Some("a"));
    }

    #[test]
    fn those_that_back_off_come_last() {
        let mut fixture = Fixture::new();
        let now = fixture.start;
        fixture.queue.set(plain("old"), now);
        fixture.pop();
        fixture.queue.unschedulable("old", now);
        fixture.queue.wake(now, |_| true);
        fixture.queue.set(plain("new"), now);
        assert_eq!(fixture.queue.next_flush(), Some(fixture.at(1)));
        assert_eq!(
            [fixture.pop(), fixture.pop(), fixture.pop()],
            [Some("new".into()), Some("old".into()), None]
        );
    }

    #[test]
    fn failures_wait_longer_and_longer() {
        let mut fixture = Fixture::new();
        let mut now = fixture.start;
        fixture.queue.set(plain("p"), now);
        for wait in [1, 2, 4, 8, 10, 10] {
            assert_eq!(fixture.pop().as_deref(), Some("p"));
            fixture.queue.failed("p", now);
            assert_eq!(fixture.pop(), None, "a failed pod is not tried before its time");
            assert_eq!(fixture.queue.next_flush(), Some(now + Duration::from_secs(wait)));
            now += Duration::from_secs(wait);
            fixture.queue.flush(now - Duration::from_millis(1));
            assert_eq!(fixture.pop(), None);
            fixture.queue.flush(now);
        }
    }

    #[test]
    fn unschedulable_pods_are_tried_again_after_long() {
        let mut fixture = Fixture::new();
        let now = fixture.start;
        fixture.queue.set(plain("p"), now);
        fixture.pop();
        fixture.queue.unschedulable("p", now);
        assert_eq!(fixture.queue.next_flush(), Some(fixture.at(300)));
        fixture.queue.flush(fixture.at(300));
        assert_eq!(fixture.pop().as_deref(), Some("p"));
    }

    #[test]
    fn removed_pods_are_nowhere() {
        let mut fixture = Fixture::new();
        let now = fixture.start;
        for name in ["active", "flying", "unschedulable"] {
            fixture.queue.set(plain(name), now);
        }
        fixture.queue.remove("active");
        assert_eq!(fixture.pop().as_deref(), Some("flying"));
        assert_eq!(fixture.pop().as_deref(), Some("unschedulable"));
        fixture.queue.unschedulable("unschedulable", now);
        fixture.queue.retain(&HashSet::new());
        fixture.queue.failed("flying", now);
        fixture.queue.wake(now, |_| true);
        assert_eq!((fixture.pop(), fixture.queue.next_flush()), (None, None));
    }
}
