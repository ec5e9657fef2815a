//! Whether one store with a single order of all writes could have told a history.
//!
//! The log (one uninterrupted watch of all keys) is that order. So the question, for which a search over all orders would
//! be needed in general, falls into parts that are each decided exactly and in about linear time:
//!
//! - [`writes`]: the log is made of nothing but the writes that clients asked for, each at most once, each under its own
//!   condition, and of every write that was acknowledged;
//! - [`reads`]: each read tells the state that the log leads to at the revision it names;
//! - [`order`]: the order of the log agrees with the order in time: what was answered before something else was asked
//!   comes before it. Writes have their place in the log, and so have reads that name a revision; an answer that names none
//!   (a refusal) takes the first place that explains it, which leaves all others the most room. This, with the two above,
//!   is strict serializability;
//! - [`watches`]: every watch told exactly the log's events of its keys after its start, in order, whole revisions at a
//!   time, and never claimed to have told more than it had.

mod order;
mod reads;
#[cfg(test)]
mod tests;
mod watches;
mod writes;

use std::fmt;

use crate::{
    history::{Answer, History},
    log::Log,
};

/// So many violations are told; the first ones say enough.
const TOLD: usize = 20;

/// What a history that holds consisted of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Requests.
    pub operations: usize,
    /// Writes that were acknowledged.
    pub acknowledged: usize,
    /// Writes that were refused by their condition.
    pub refused: usize,
    /// Requests without a definite answer.
    pub unknown: usize,
    /// Of those without a definite answer, the writes that did happen.
    pub happened: usize,
    /// Changes in the log.
    pub events: usize,
    /// Watches, each beginning where another had ended or at a random place of the past.
    pub watches: usize,
    /// The events they told, together.
    pub told: usize,
    /// Watches and reads that were refused because of a compaction.
    pub compacted: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} operations: {} writes acknowledged, {} refused; {} answers lost, {} of those writes happened; {} changes; {} \
             watches told {} events; {} compacted",
            self.operations,
            self.acknowledged,
            self.refused,
            self.unknown,
            self.happened,
            self.events,
            self.watches,
            self.told,
            self.compacted
        )
    }
}

impl Summary {
    /// Adds another run's.
    pub fn add(&mut self, other: &Summary) {
        self.operations += other.operations;
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.happened += other.happened;
        self.events += other.events;
        self.watches += other.watches;
        self.told += other.told;
        self.compacted += other.compacted;
    }
}

/// Checks a history.
///
/// # Errors
/// The first violations, each in a sentence.
pub fn check(history: &History) -> Result<Summary, Vec<String>> {
    let mut violations = history.nonsense.clone();
    let log = Log::new(history.start, &history.log, &mut violations);
    if history.contiguous {
        contiguous(&log, &mut violations);
    }
    for operation in &history.operations {
        if let Answer::Nonsense(why) = &operation.answer {
            violations.push(format!("{:?}: {why}", operation.request));
        }
    }
    writes::check(history, &log, &mut violations);
    reads::check(history, &log, &mut violations);
    order::check(history, &log, &mut violations);
    watches::check(history, &log, &mut violations);
    violations.truncate(TOLD);
    if violations.is_empty() {
        Ok(summary(history, &log))
    } else {
        Err(violations)
    }
}

/// Every revision is somebody's.
fn contiguous(log: &Log<'_>, violations: &mut Vec<String>) {
    let mut last = log.start;
    for event in log.events {
        if event.revision > last + 1 {
            violations.push(format!(
                "the log has nothing between revision {last} and {event:?}"
            ));
        }
        last = event.revision;
    }
}

fn summary(history: &History, log: &Log<'_>) -> Summary {
    let mut summary = Summary {
        operations: history.operations.len(),
        events: history.log.len(),
        watches: history.watches.len(),
        told: history
            .watches
            .iter()
            .flat_map(|watch| &watch.batches)
            .map(|batch| batch.events.len())
            .sum(),
        compacted: history.watches.iter().filter(|watch| watch.compacted).count(),
        ..Summary::default()
    };
    for operation in &history.operations {
        match &operation.answer {
            Answer::Written(_) => summary.acknowledged += 1,
            Answer::Refused(_) => summary.refused += 1,
            Answer::Unknown(_) => {
                summary.unknown += 1;
                summary.happened += usize::from(writes::place(operation, log).is_some());
            }
            Answer::Compacted => summary.compacted += 1,
            Answer::Found { .. } | Answer::Listed { .. } | Answer::Done | Answer::Nonsense(_) => {}
        }
    }
    summary
}
