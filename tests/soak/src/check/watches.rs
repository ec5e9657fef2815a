//! What a watch promises: ordered, unique, complete, whole revisions, and honest about how far it has come. Resumable comes
//! of it: a watch is checked against the log from the revision it was asked to begin after, whoever had read up to there.

use crate::{
    history::{Event, History, Watched},
    log::Log,
};

pub(super) fn check(history: &History, log: &Log<'_>, violations: &mut Vec<String>) {
    for watched in &history.watches {
        check_one(watched, log, violations);
    }
}

fn check_one(watched: &Watched, log: &Log<'_>, violations: &mut Vec<String>) {
    let name = || {
        format!(
            "the watch of {:?} after {} (asked at {})",
            watched.group, watched.after, watched.called
        )
    };
    let first = log
        .events
        .partition_point(|event| event.revision <= watched.after);
    let mut expected = log.events[first..]
        .iter()
        .filter(|event| watched.group.is_none_or(|group| event.key.group == group))
        .peekable();
    let mut progress = watched.after;
    for batch in &watched.batches {
        for event in &batch.events {
            match expected.next() {
                Some(next) if same(next, event) => {}
                next => {
                    violations.push(format!("{} told {event:?}, where the log has {next:?}", name()));
                    return;
                }
            }
            if event.revision <= progress {
                violations.push(format!(
                    "{} had told its progress to {progress} before {event:?}",
                    name()
                ));
            }
        }
        let next = expected.peek().map(|event| event.revision);
        if let (Some(last), Some(next)) = (batch.events.last(), next)
            && last.revision == next
        {
            violations.push(format!("{} told only a part of revision {next}", name()));
        }
        let Some(told) = batch.progress else { continue };
        if next.is_some_and(|next| next <= told) {
            violations.push(format!(
                "{} told its progress to {told} before revision {next:?}",
                name()
            ));
        }
        if told < progress {
            violations.push(format!("{} went back from {progress} to {told}", name()));
        }
        progress = told;
    }
}

/// A watch may tell less of the value before than the log's own did, but nothing else.
fn same(logged: &Event, told: &Event) -> bool {
    (logged.revision, logged.key, logged.change) == (told.revision, told.key, told.change)
        && (told.previous.is_none() || logged.previous.is_none() || told.previous == logged.previous)
}
