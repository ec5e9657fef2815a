//! A read tells the state at the revision it names, and what is compacted is refused, no more and no less.

use store::Revision;

use crate::{
    history::{Answer, History, Moment, Operation, Request},
    log::Log,
};

pub(super) fn check(history: &History, log: &Log<'_>, violations: &mut Vec<String>) {
    let compactions = Compactions::new(history);
    for operation in &history.operations {
        match (&operation.request, &operation.answer) {
            (
                Request::Get(key),
                Answer::Found {
                    standing,
                    revision: Some(revision),
                },
            ) => {
                let expected = log.standing(*key, *revision);
                if *standing != expected {
                    violations.push(format!("the log has {expected:?}: {operation:?}"));
                }
            }
            (Request::List(group, asked), Answer::Listed { items, revision }) => {
                if asked.is_some_and(|asked| asked != *revision) || *items != log.list(*group, *revision) {
                    violations.push(format!(
                        "the log has {:?}: {operation:?}",
                        log.list(*group, *revision)
                    ));
                }
                if compactions.forgotten(revision, operation.called) && asked.is_some() {
                    violations.push(format!("a compacted revision was read: {operation:?}"));
                }
            }
            (Request::StaleList(group), Answer::Listed { items, revision })
                if *items != log.list(*group, *revision) =>
            {
                let expected = log.list(*group, *revision);
                violations.push(format!("the log has {expected:?}: {operation:?}"));
            }
            (Request::List(_, Some(asked)), Answer::Compacted) if compactions.possible(*asked, operation) => {
            }
            (_, Answer::Compacted) => violations.push(format!("nobody had compacted that: {operation:?}")),
            _ => {}
        }
    }
}

/// The compactions of a run.
struct Compactions {
    /// When asked, when answered (`None`: nobody knows), up to where.
    all: Vec<(Moment, Option<Moment>, Revision)>,
}

impl Compactions {
    fn new(history: &History) -> Compactions {
        let all = history.operations.iter().filter_map(|operation| {
            let Request::Compact(revision) = operation.request else {
                return None;
            };
            let done = (operation.answer == Answer::Done).then_some(operation.returned);
            Some((operation.called, done, revision))
        });
        Compactions { all: all.collect() }
    }

    /// A revision was certainly compacted away by then; the compaction's own revision stays readable.
    fn forgotten(&self, revision: &Revision, by: Moment) -> bool {
        self.all
            .iter()
            .any(|(_, done, up_to)| done.is_some_and(|done| done < by) && revision < up_to)
    }

    /// Somebody may have compacted a revision away before the operation returned.
    fn possible(&self, revision: Revision, operation: &Operation) -> bool {
        self.all
            .iter()
            .any(|(called, _, up_to)| *called < operation.returned && revision < *up_to)
    }
}
