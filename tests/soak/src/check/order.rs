//! The order of the log agrees with the order in time.

use store::Revision;

use super::writes;
use crate::{
    history::{Answer, History, Operation, Request, Standing},
    log::Log,
};

/// Where in the single order an operation took place. A write is its revision; a read comes after the write of the revision
/// it saw and before the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    revision: Revision,
    read: bool,
}

pub(super) fn check(history: &History, log: &Log<'_>, violations: &mut Vec<String>) {
    let operations = &history.operations;
    let mut by_call: Vec<usize> = (0..operations.len()).collect();
    by_call.sort_unstable_by_key(|index| operations[*index].called);
    let mut by_return = by_call.clone();
    by_return.sort_unstable_by_key(|index| operations[*index].returned);
    let mut by_return = by_return.into_iter().peekable();
    let mut places: Vec<Option<Place>> = vec![None; operations.len()];
    // The last place of all that was answered by now: whatever is asked from here on comes after it.
    let mut floor = Place {
        revision: log.start,
        read: true,
    };
    for index in by_call {
        let operation = &operations[index];
        while let Some(earlier) =
            by_return.next_if(|earlier| operations[*earlier].returned < operation.called)
        {
            // What was not answered may happen at any later time and binds nobody.
            if !matches!(operations[earlier].answer, Answer::Unknown(_)) {
                floor = floor.max(places[earlier].unwrap_or(floor));
            }
        }
        places[index] = match wanted(operation, log) {
            Wanted::Exactly(place) => {
                let after = place > floor || (place.read && place == floor);
                if !after {
                    violations.push(format!("{floor:?} was told before, yet {place:?}: {operation:?}"));
                }
                Some(place)
            }
            Wanted::NotBefore(place) => Some(place),
            Wanted::Where(explains) => {
                let place = first_place(operation, log, floor, &*explains);
                if place.is_none() {
                    violations.push(format!("no state from {floor:?} on explains {operation:?}"));
                }
                place
            }
            Wanted::Anywhere => None,
        };
    }
}

/// What an answer says of its place.
enum Wanted<'a> {
    Exactly(Place),
    /// A read of the past: that past must have been there.
    NotBefore(Place),
    /// Wherever the key stands so.
    Where(Box<dyn Fn(Option<Standing>) -> bool + 'a>),
    Anywhere,
}

fn wanted<'a>(operation: &'a Operation, log: &Log<'_>) -> Wanted<'a> {
    let read = |revision| Place { revision, read: true };
    match (&operation.request, &operation.answer) {
        (
            Request::Get(_),
            Answer::Found {
                revision: Some(at), ..
            },
        ) => Wanted::Exactly(read(*at)),
        (Request::Get(_), Answer::Found { standing, .. }) => {
            Wanted::Where(Box::new(move |now| now == *standing))
        }
        (Request::List(_, None), Answer::Listed { revision, .. }) => Wanted::Exactly(read(*revision)),
        (Request::List(_, Some(_)), Answer::Listed { revision, .. }) => Wanted::NotBefore(read(*revision)),
        (_, Answer::Refused(told)) => Wanted::Where(Box::new(move |now| {
            refuses(&operation.request, now) && told.is_none_or(|told| told == now)
        })),
        // A deletion whose answer was lost may have been another's doing.
        (Request::Delete { .. }, Answer::Unknown(_)) => Wanted::Anywhere,
        (_, Answer::Written(_) | Answer::Unknown(_)) => match writes::place(operation, log) {
            Some(revision) => Wanted::Exactly(Place {
                revision,
                read: false,
            }),
            None => Wanted::Anywhere,
        },
        _ => Wanted::Anywhere,
    }
}

/// Whether the write's condition fails on a key that stands so.
fn refuses(request: &Request, now: Option<Standing>) -> bool {
    match request {
        Request::Create { .. } => now.is_some(),
        Request::Update { expected, .. } | Request::Delete { expected, .. } => {
            now.is_none_or(|now| now.mod_revision != *expected)
        }
        Request::Get(_) | Request::List(..) | Request::StaleList(_) | Request::Compact(_) => false,
    }
}

/// The first place from `floor` on at which the operation's key stands as wanted.
fn first_place(
    operation: &Operation,
    log: &Log<'_>,
    floor: Place,
    explains: &dyn Fn(Option<Standing>) -> bool,
) -> Option<Place> {
    let key = operation.request.key()?;
    let read = |revision| Place { revision, read: true };
    if explains(log.standing(key, floor.revision)) {
        return Some(read(floor.revision));
    }
    let versions = log.versions(key);
    let later = versions.partition_point(|version| version.revision <= floor.revision);
    versions[later..]
        .iter()
        .find(|version| explains(version.standing))
        .map(|version| read(version.revision))
}
