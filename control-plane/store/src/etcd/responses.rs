//! From etcd's messages to ours. Nothing here trusts the server to be sane: what makes no sense is an error.

use std::sync::Arc;

use super::{
    api::{self, WatchResponse},
    keyspace::Keyspace,
};
use crate::{EtcdFailure, Event, KeyValue, Revision};

/// What happened up to a revision.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) events: Vec<Arc<Event>>,
    /// Everything up to here is told by this batch and those before; never within a revision.
    pub(super) revision: Revision,
}

/// Why a watch cannot go on.
#[derive(Debug)]
pub(super) enum Interruption {
    /// What comes next is forgotten; so far.
    Compacted(Revision),
    /// The server or the way to it.
    Failed(EtcdFailure),
}

impl From<EtcdFailure> for Interruption {
    fn from(failure: EtcdFailure) -> Interruption {
        Interruption::Failed(failure)
    }
}

/// Makes whole revisions, each told once and in order, of the responses of one etcd watch of all keys.
#[derive(Debug)]
pub(super) struct Assembler {
    /// Events up to here are known to the reader.
    told: Revision,
    /// The last event's revision.
    seen: Revision,
    /// Events of a revision that may not be complete.
    held: Vec<Arc<Event>>,
}

impl Assembler {
    pub(super) fn new(told: Revision) -> Assembler {
        Assembler {
            told,
            seen: told,
            held: Vec::new(),
        }
    }

    pub(super) fn accept(
        &mut self,
        response: WatchResponse,
        keyspace: &Keyspace,
    ) -> Result<Option<Batch>, Interruption> {
        if response.compact_revision > 0 {
            return Err(Interruption::Compacted(revision(response.compact_revision)?));
        }
        if response.canceled {
            return Err(EtcdFailure::WatchCancelled(response.cancel_reason).into());
        }
        for event in response.events {
            let Some(kv) = &event.kv else {
                return Err(EtcdFailure::Malformed("an event has no key").into());
            };
            let revision = revision(kv.mod_revision)?;
            if revision <= self.told {
                continue;
            }
            if revision < self.seen {
                return Err(EtcdFailure::Malformed("the watch went backwards").into());
            }
            self.seen = revision;
            if let Some(key) = keyspace.ours(&kv.key) {
                self.held.push(Arc::new(to_event(event, key, revision)?));
            }
        }
        // The rest of a revision may come with the next fragment.
        let complete = if response.fragment {
            self.seen.saturating_sub(1)
        } else {
            self.seen
        };
        if complete <= self.told {
            return Ok(None);
        }
        self.told = complete;
        let incomplete = self
            .held
            .iter()
            .position(|event| event.revision() > complete)
            .map_or_else(Vec::new, |at| self.held.split_off(at));
        Ok(Some(Batch {
            events: std::mem::replace(&mut self.held, incomplete),
            revision: complete,
        }))
    }
}

/// A previous value that is missing was compacted away before the server came to send it: the reader must list again.
fn to_event(event: api::Event, key: Arc<str>, at: Revision) -> Result<Event, Interruption> {
    let previous = event.prev_kv.map(|previous| key_value(previous, key.clone()));
    let previous = previous.transpose()?;
    match (event.kind, event.kv) {
        (api::Event::PUT, Some(current)) => {
            let current = key_value(current, key)?;
            if previous.is_none() && current.create_revision != current.mod_revision {
                return Err(Interruption::Compacted(at));
            }
            Ok(Event::Put { current, previous })
        }
        (api::Event::DELETE, _) => match previous {
            Some(previous) => Ok(Event::Delete {
                previous,
                revision: at,
            }),
            None => Err(Interruption::Compacted(at)),
        },
        _ => Err(EtcdFailure::Malformed("an event is neither a put nor a deletion").into()),
    }
}

/// A key of etcd under our name for it.
pub(super) fn key_value(item: api::KeyValue, key: Arc<str>) -> Result<KeyValue, EtcdFailure> {
    Ok(KeyValue {
        key,
        create_revision: revision(item.create_revision)?,
        mod_revision: revision(item.mod_revision)?,
        value: item.value,
    })
}

/// Etcd counts with a sign, and from 1.
pub(super) fn revision(number: i64) -> Result<Revision, EtcdFailure> {
    match Revision::try_from(number) {
        Ok(revision) if revision > 0 => Ok(revision),
        _ => Err(EtcdFailure::Malformed("a revision is not positive")),
    }
}

/// The revision in a request. 0 would mean the newest; before all writes etcd is at 1.
pub(super) fn etcd_revision(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, create: i64, at: i64) -> api::Event {
        api::Event {
            kind: api::Event::PUT,
            kv: Some(pb(key, create, at)),
            prev_kv: (create != at).then(|| pb(key, create, at - 1)),
        }
    }

    fn delete(key: &str, at: i64) -> api::Event {
        api::Event {
            kind: api::Event::DELETE,
            kv: Some(pb(key, 0, at)),
            prev_kv: Some(pb(key, 1, at - 1)),
        }
    }

    fn pb(key: &str, create_revision: i64, mod_revision: i64) -> api::KeyValue {
        api::KeyValue {
            key: key.to_owned().into(),
            create_revision,
            mod_revision,
            ..api::KeyValue::default()
        }
    }

    fn response(events: Vec<api::Event>, fragment: bool) -> WatchResponse {
        WatchResponse {
            events,
            fragment,
            ..WatchResponse::default()
        }
    }

    /// What a watch that knows everything up to 10 makes of responses: revisions of the events, revision of the batch.
    fn check(responses: Vec<WatchResponse>, expected: &[Option<(&[Revision], Revision)>]) {
        let mut assembler = Assembler::new(10);
        let keyspace = Keyspace::new("/registry");
        for (response, expected) in responses.into_iter().zip(expected) {
            let batch = assembler.accept(response, &keyspace).unwrap();
            let got = batch.map(|batch| {
                let revisions: Vec<_> = batch.events.iter().map(|event| event.revision()).collect();
                (revisions, batch.revision)
            });
            assert_eq!(
                got,
                expected.map(|(revisions, revision)| (revisions.to_vec(), revision))
            );
        }
    }

    fn interruption(response: WatchResponse) -> Interruption {
        let mut assembler = Assembler::new(10);
        assembler
            .accept(response, &Keyspace::new("/registry"))
            .unwrap_err()
    }

    #[test]
    fn whole_revisions_once() {
        let events = |events| response(events, false);
        check(
            vec![
                events(vec![]),
                events(vec![put("/a", 9, 10), put("/a", 9, 11), delete("/a", 12)]),
                events(vec![put("/a", 9, 11), delete("/a", 12)]),
                events(vec![delete("/b", 13), delete("/c", 13)]),
            ],
            &[None, Some((&[11, 12], 12)), None, Some((&[13, 13], 13))],
        );
    }

    #[test]
    fn fragments_are_held_until_their_revision_is_whole() {
        check(
            vec![
                response(vec![put("/a", 9, 11), delete("/b", 12)], true),
                response(vec![delete("/c", 12)], true),
                response(vec![delete("/d", 12), put("/a", 9, 14)], false),
            ],
            &[Some((&[11], 11)), None, Some((&[12, 12, 12, 14], 14))],
        );
    }

    #[test]
    fn keys_of_others_are_progress_only() {
        let other = put("compact_rev_key", 3, 11);
        check(vec![response(vec![other], false)], &[Some((&[], 11))]);
    }

    #[test]
    fn what_is_compacted_is_told() {
        let compacted = WatchResponse {
            canceled: true,
            compact_revision: 15,
            ..WatchResponse::default()
        };
        assert!(matches!(interruption(compacted), Interruption::Compacted(15)));
        for mut event in [put("/a", 9, 11), delete("/a", 11)] {
            event.prev_kv = None;
            let gap = interruption(response(vec![event], false));
            assert!(matches!(gap, Interruption::Compacted(11)), "{gap:?}");
        }
    }

    #[test]
    fn garbage_is_an_error() {
        let nothing = api::Event::default();
        let mut strange = put("/a", 11, 11);
        strange.kind = 7;
        for events in [
            vec![nothing],
            vec![strange],
            vec![put("/a", 11, -4)],
            vec![put("/a", 12, 12), put("/a", 11, 11)],
            vec![put("/a", -1, 11)],
        ] {
            let shown = format!("{events:?}");
            assert!(
                matches!(
                    interruption(response(events, false)),
                    Interruption::Failed(EtcdFailure::Malformed(_))
                ),
                "{shown}"
            );
        }
    }
}
