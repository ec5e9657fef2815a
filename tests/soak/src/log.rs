//! The changes of a run in their order, and every state they lead through.

use std::collections::BTreeMap;

use store::Revision;

use crate::history::{Change, Event, Key, Standing, ValueId};

/// The log of a run, indexed.
#[derive(Debug)]
pub struct Log<'a> {
    /// Where it begins: all keys are absent.
    pub start: Revision,
    /// The changes.
    pub events: &'a [Event],
    /// Each key's states, each from its revision on.
    versions: BTreeMap<Key, Vec<Version>>,
    /// Which event wrote a value.
    values: BTreeMap<ValueId, usize>,
}

/// A state that a key came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// Since when.
    pub revision: Revision,
    /// What.
    pub standing: Option<Standing>,
}

impl<'a> Log<'a> {
    /// Indexes the events, which are in revision order; else the violations say so.
    pub fn new(start: Revision, events: &'a [Event], violations: &mut Vec<String>) -> Log<'a> {
        let mut log = Log {
            start,
            events,
            versions: BTreeMap::new(),
            values: BTreeMap::new(),
        };
        let mut last: Option<&Event> = None;
        for (index, event) in events.iter().enumerate() {
            let floor = last.map_or(start, |last| last.revision);
            // Several keys may share a revision, a key may not have two events there.
            let order = event.revision > floor || (last.is_some() && event.revision == floor);
            let repeated = last.is_some()
                && log
                    .at(event.key, floor)
                    .is_some_and(|it| it.revision == event.revision);
            if !order || repeated {
                violations.push(format!("the log goes from revision {floor} to {event:?}"));
            }
            log.append(index, event, violations);
            last = Some(event);
        }
        log
    }

    fn append(&mut self, index: usize, event: &Event, violations: &mut Vec<String>) {
        let versions = self.versions.entry(event.key).or_default();
        let before = versions.last().and_then(|version| version.standing);
        let fits = match event.change {
            Change::Created(_) => before.is_none(),
            Change::Updated(_) | Change::Deleted => before.is_some(),
        };
        let told = event
            .previous
            .is_none_or(|previous| previous == before.map(|before| before.value));
        if !fits || !told {
            violations.push(format!("{event:?} does not follow on {before:?}"));
        }
        versions.push(Version {
            revision: event.revision,
            standing: event.change.value().map(|value| Standing {
                value,
                mod_revision: event.revision,
            }),
        });
        if let Some(value) = event.change.value()
            && self.values.insert(value, index).is_some()
        {
            violations.push(format!("{event:?} writes a value for the second time"));
        }
    }

    /// The newest revision.
    pub fn end(&self) -> Revision {
        self.events.last().map_or(self.start, |event| event.revision)
    }

    /// The key's states, in order.
    pub fn versions(&self, key: Key) -> &[Version] {
        self.versions.get(&key).map_or(&[], Vec::as_slice)
    }

    /// The version that a key had at a revision; `None`: it was never written by then.
    pub fn at(&self, key: Key, revision: Revision) -> Option<Version> {
        let versions = self.versions(key);
        let after = versions.partition_point(|version| version.revision <= revision);
        after.checked_sub(1).map(|index| versions[index])
    }

    /// The key as it stood at a revision.
    pub fn standing(&self, key: Key, revision: Revision) -> Option<Standing> {
        self.at(key, revision)?.standing
    }

    /// All keys of a group as they stood at a revision.
    pub fn list(&self, group: Option<u8>, revision: Revision) -> Vec<(Key, Standing)> {
        let keys = self
            .versions
            .keys()
            .filter(|key| group.is_none_or(|group| key.group == group));
        keys.filter_map(|key| Some((*key, self.standing(*key, revision)?)))
            .collect()
    }

    /// The event that wrote a value.
    pub fn writer_of(&self, value: ValueId) -> Option<&'a Event> {
        self.values.get(&value).map(|index| &self.events[*index])
    }

    /// The event that deleted what stood at `expected`.
    pub fn deletion_of(&self, key: Key, expected: Revision) -> Option<Revision> {
        let versions = self.versions(key);
        let index = versions.partition_point(|version| version.revision < expected);
        let was = versions
            .get(index)
            .filter(|version| version.revision == expected)?;
        let next = versions.get(index + 1)?;
        (was.standing.is_some() && next.standing.is_none()).then_some(next.revision)
    }
}
