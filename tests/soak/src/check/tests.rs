//! The checker itself: a history that holds, and one small lie after the other.

use super::*;
use crate::history::{Batch, Change, Event, Key, Operation, Request, Standing, Watched};

const A: Key = Key { group: 0, number: 1 };
const B: Key = Key { group: 1, number: 2 };

/// After revision 10: 11 creates A, 12 creates B, 13 updates A, 14 deletes B; one after the other, each told to its client.
fn honest() -> History {
    let operation = |called, request, answer| Operation {
        called,
        returned: called + 1,
        request,
        answer,
    };
    let written = |revision| Answer::Written(Some(revision));
    let log = vec![
        event(11, A, Change::Created(1), None),
        event(12, B, Change::Created(2), None),
        event(13, A, Change::Updated(3), Some(1)),
        event(14, B, Change::Deleted, Some(2)),
    ];
    let create = |key, value| Request::Create {
        key,
        value,
        ttl: false,
    };
    History {
        start: 10,
        contiguous: true,
        operations: vec![
            operation(0, create(A, 1), written(11)),
            operation(2, create(B, 2), written(12)),
            operation(4, Request::Get(A), found(Some((1, 11)), 12)),
            operation(6, create(A, 4), Answer::Refused(Some(standing(1, 11)))),
            operation(
                8,
                Request::Update {
                    key: A,
                    value: 3,
                    expected: 11,
                },
                written(13),
            ),
            operation(10, Request::Delete { key: B, expected: 12 }, written(14)),
            operation(12, Request::List(None, None), listed(&[(A, 3, 13)], 14)),
            operation(14, Request::List(Some(1), Some(12)), listed(&[(B, 2, 12)], 12)),
            operation(16, Request::Compact(12), Answer::Done),
            operation(18, Request::List(None, Some(11)), Answer::Compacted),
            operation(
                20,
                Request::StaleList(None),
                listed(&[(A, 1, 11), (B, 2, 12)], 12),
            ),
        ],
        watches: vec![Watched {
            group: None,
            after: 10,
            called: 0,
            batches: vec![batch(&log[..2], Some(12)), batch(&log[2..], Some(14))],
            compacted: false,
        }],
        log,
        nonsense: Vec::new(),
    }
}

fn event(revision: u64, key: Key, change: Change, previous: Option<u64>) -> Event {
    Event {
        revision,
        key,
        change,
        previous: Some(previous),
    }
}

fn batch(events: &[Event], progress: Option<u64>) -> Batch {
    Batch {
        events: events.to_vec(),
        progress,
    }
}

fn standing(value: u64, mod_revision: u64) -> Option<Standing> {
    Some(Standing { value, mod_revision })
}

fn found(told: Option<(u64, u64)>, revision: u64) -> Answer {
    Answer::Found {
        standing: told.and_then(|(value, mod_revision)| standing(value, mod_revision)),
        revision: Some(revision),
    }
}

fn listed(items: &[(Key, u64, u64)], revision: u64) -> Answer {
    let items = items.iter().map(|(key, value, mod_revision)| {
        let (value, mod_revision) = (*value, *mod_revision);
        (*key, Standing { value, mod_revision })
    });
    Answer::Listed {
        items: items.collect(),
        revision,
    }
}

/// What the checker says of the honest history after a change.
fn after(change: impl FnOnce(&mut History)) -> Vec<String> {
    let mut history = honest();
    change(&mut history);
    check(&history).err().unwrap_or_default()
}

#[track_caller]
fn lie(expected: &str, change: impl FnOnce(&mut History)) {
    let violations = after(change);
    assert!(
        violations.iter().any(|violation| violation.contains(expected)),
        "{expected:?} is not among {violations:#?}"
    );
}

#[test]
fn an_honest_history_holds() {
    let summary = check(&honest()).unwrap();
    assert_eq!((summary.acknowledged, summary.refused, summary.events), (4, 1, 4));
    assert_eq!((summary.told, summary.compacted), (4, 1));
}

#[test]
fn a_lost_write_is_noticed() {
    lie("lost or elsewhere", |history| {
        history.log.remove(2);
        history.contiguous = false;
    });
    // Told at another revision than it has.
    lie("lost or elsewhere", |history| {
        history.operations[4].answer = Answer::Written(Some(12))
    });
}

#[test]
fn a_lost_answer_leaves_both_possible() {
    let lost = Answer::Unknown("killed".to_owned());
    assert_eq!(
        after(|history| history.operations[4].answer = lost.clone()),
        [""; 0]
    );
    let without = after(|history| {
        history.operations[4].answer = lost.clone();
        history.log.truncate(2);
        history.operations.drain(5..);
        history.watches[0].batches.truncate(1);
    });
    assert_eq!(without, [""; 0]);
    // But it cannot have happened before it was asked for.
    lie("was told before", |history| {
        history.operations[4].answer = lost;
        history.operations[4].called = 100;
        history.operations[4].returned = 101;
    });
}

#[test]
fn a_refused_write_that_happened_is_noticed() {
    lie("a refused write happened", |history| {
        history.operations[4].answer = Answer::Refused(Some(standing(1, 11)));
    });
}

#[test]
fn a_write_against_its_condition_is_noticed() {
    lie("met the key at", |history| {
        history.operations[4].request = Request::Update {
            key: A,
            value: 3,
            expected: 10,
        };
    });
}

#[test]
fn a_change_that_nobody_asked_for_is_noticed() {
    lie("nobody asked for", |history| {
        history.log.push(event(15, A, Change::Updated(9), Some(3)))
    });
    lie("nobody asked for", |history| {
        history.log.push(event(15, A, Change::Deleted, Some(3)))
    });
    let expired = after(|history| {
        history.operations[0].request = Request::Create {
            key: A,
            value: 1,
            ttl: true,
        };
        history.log.truncate(2);
        history.log.push(event(13, A, Change::Deleted, Some(1)));
        history.operations.drain(4..);
        history.watches.clear();
    });
    assert_eq!(expired, [""; 0]);
}

#[test]
fn a_gap_in_the_revisions_is_noticed() {
    lie("has nothing between", |history| history.log[3].revision = 15);
}

#[test]
fn two_deletions_cannot_both_be_acknowledged() {
    lie("two writes share", |history| {
        let mut again = history.operations[5].clone();
        again.called = 30;
        again.returned = 31;
        history.operations.push(again);
    });
}

#[test]
fn a_stale_read_is_noticed() {
    // True of revision 11, but 12 had been told.
    lie("was told before", |history| {
        history.operations[2].answer = found(Some((1, 11)), 11)
    });
    // A refusal that only a state of the past explains.
    lie("no state from", |history| {
        history.operations.push(Operation {
            called: 30,
            returned: 31,
            request: Request::Create {
                key: A,
                value: 9,
                ttl: false,
            },
            answer: Answer::Refused(Some(standing(1, 11))),
        });
    });
}

#[test]
fn a_read_of_the_future_is_noticed() {
    // The get was answered before the write of 13 was asked for.
    lie("was told before", |history| {
        history.operations[2].answer = found(Some((3, 13)), 13)
    });
}

#[test]
fn a_wrong_value_is_noticed() {
    lie("the log has", |history| {
        history.operations[2].answer = found(Some((2, 11)), 12)
    });
    lie("the log has", |history| {
        history.operations[6].answer = listed(&[], 14)
    });
    lie("the log has", |history| {
        history.operations[7].answer = listed(&[(B, 2, 12)], 13)
    });
    // A stale list may be old, but not of two times.
    lie("the log has", |history| {
        history.operations[10].answer = listed(&[(A, 3, 13), (B, 2, 12)], 12)
    });
}

#[test]
fn compaction_is_neither_more_nor_less_than_was_asked() {
    lie("a compacted revision was read", |history| {
        history.operations[9].answer = listed(&[(A, 1, 11)], 11);
    });
    lie("nobody had compacted", |history| {
        history.operations[9].request = Request::List(None, Some(12));
    });
}

#[test]
fn a_missed_a_repeated_and_a_disordered_event_are_noticed() {
    lie("told its progress", |history| {
        history.watches[0].batches[1].events.truncate(1)
    });
    lie("where the log has", |history| {
        history.watches[0].batches[1].events.swap_remove(0);
    });
    lie("where the log has", |history| {
        let again = history.watches[0].batches[0].events[1].clone();
        history.watches[0].batches[1].events.insert(0, again);
    });
    lie("where the log has", |history| {
        history.watches[0].batches[1].events.swap(0, 1)
    });
    lie("where the log has", |history| {
        history.watches[0].batches[1].events[0].previous = Some(Some(2));
    });
    // Of its group, and after its start.
    lie("where the log has", |history| history.watches[0].group = Some(1));
    lie("where the log has", |history| history.watches[0].after = 11);
}

#[test]
fn progress_ahead_of_the_events_is_noticed() {
    lie("told its progress", |history| {
        history.watches[0].batches[0].progress = Some(13)
    });
    lie("went back", |history| {
        history.watches[0].batches.push(batch(&[], Some(13)));
    });
}

#[test]
fn half_a_revision_is_noticed() {
    let whole = |history: &mut History| {
        // Two keys at one revision, as when a lease of etcd ends.
        for operation in &mut history.operations[..2] {
            let Request::Create { key, value, .. } = operation.request else {
                unreachable!()
            };
            operation.request = Request::Create {
                key,
                value,
                ttl: true,
            };
        }
        history.operations.truncate(2);
        history.log.truncate(2);
        history.log.push(event(13, A, Change::Deleted, Some(1)));
        history.log.push(event(13, B, Change::Deleted, Some(2)));
        history.watches[0].batches = vec![batch(&history.log, Some(13))];
    };
    assert_eq!(after(whole), [""; 0]);
    lie("only a part of revision 13", |history| {
        whole(history);
        history.watches[0].batches = vec![batch(&history.log[..3], None), batch(&history.log[3..], None)];
    });
}

#[test]
fn nonsense_is_passed_on() {
    lie("torn", |history| {
        history.operations[2].answer = Answer::Nonsense("torn".to_owned())
    });
    lie("torn", |history| history.nonsense.push("torn".to_owned()));
}
