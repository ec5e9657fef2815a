//! The thread that writes. It sleeps until there is a write, a deadline or a compaction, and holds the only handle that
//! can change the file.

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant, SystemTime},
};

use redb::{Database, ReadableDatabase};
use tokio::sync::oneshot;

use super::{
    compaction::Schedule,
    layout::UnixMillis,
    reader::{Reader, Snapshot},
    transaction::{Tables, Write},
};
use crate::{Error, Result, Revision, snapshot::unix_millis};

/// The most writes that share a transaction, so that the first does not wait long for the last.
const BATCH_WRITES: usize = 1024;
/// The most bytes of values that share a transaction; they are in memory until the commit.
const BATCH_BYTES: usize = 2 << 20;
/// How many keys expire in one transaction.
const EXPIRE_STEP: usize = 256;
/// How many log entries compaction looks at in one transaction: a few milliseconds, which writes wait for.
const SCRUB_STEP: usize = 1024;
/// A deadline is in wall-clock time, which may be set while the thread sleeps: look again after so long.
const CLOCK_CHECK: Duration = Duration::from_secs(60);

/// What the store asks of its writer.
#[derive(Debug)]
pub(super) enum Command {
    Write {
        write: Write,
        reply: oneshot::Sender<Result<Revision>>,
    },
    Compact {
        revision: Revision,
        reply: oneshot::Sender<Result<()>>,
    },
}

pub(super) struct Writer {
    database: Database,
    reader: Arc<Reader>,
    queue: mpsc::Receiver<Command>,
    revision: Revision,
    compaction: Option<Schedule>,
    /// When the next key expires.
    next_deadline: Option<UnixMillis>,
    /// Compaction has left something to remove from the log.
    scrub: bool,
}

impl Writer {
    pub(super) fn new(
        database: Database,
        reader: Arc<Reader>,
        queue: mpsc::Receiver<Command>,
        compaction_interval: Option<Duration>,
    ) -> Writer {
        let revision = reader.snapshot().revision;
        let now = Instant::now();
        let compaction = compaction_interval.map(|interval| Schedule::new(interval, now, revision));
        // The first turn of the loop looks at the deadlines and at what an interrupted compaction has left.
        Writer {
            database,
            reader,
            queue,
            revision,
            compaction,
            next_deadline: Some(0),
            scrub: true,
        }
    }

    /// Returns when the store is dropped and all writes before that are answered.
    pub(super) fn run(mut self) {
        while let Ok(first) = self.sleep() {
            if let Some(first) = first {
                let batch = self.gather(first);
                self.serve(batch);
            }
            let due = self
                .compaction
                .as_mut()
                .and_then(|it| it.due(Instant::now(), self.revision));
            if due.is_some() || self.scrub || self.has_expired() {
                self.tidy(due);
            }
        }
    }

    /// Waits for a command, or until there is something to tidy (`None`).
    fn sleep(&self) -> Result<Option<Command>, mpsc::TryRecvError> {
        let wait = match self.next_wake() {
            Some(wait) if wait.is_zero() => {
                return match self.queue.try_recv() {
                    Ok(command) => Ok(Some(command)),
                    Err(mpsc::TryRecvError::Empty) => Ok(None),
                    Err(disconnected) => Err(disconnected),
                };
            }
            Some(wait) => wait,
            None => {
                return self
                    .queue
                    .recv()
                    .map(Some)
                    .map_err(|_| mpsc::TryRecvError::Disconnected);
            }
        };
        match self.queue.recv_timeout(wait) {
            Ok(command) => Ok(Some(command)),
            Err(mpsc::RecvTimeoutError::Timeout) => Ok(None),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(mpsc::TryRecvError::Disconnected),
        }
    }

    fn next_wake(&self) -> Option<Duration> {
        if self.scrub {
            return Some(Duration::ZERO);
        }
        let deadline = self.next_deadline.map(|deadline| {
            let wait = deadline.saturating_sub(unix_millis(SystemTime::now()));
            Duration::from_millis(wait).min(CLOCK_CHECK)
        });
        let compaction = self
            .compaction
            .as_ref()
            .map(|it| it.next().saturating_duration_since(Instant::now()));
        deadline.into_iter().chain(compaction).min()
    }

    fn has_expired(&self) -> bool {
        self.next_deadline
            .is_some_and(|deadline| deadline <= unix_millis(SystemTime::now()))
    }

    /// Everything that waits by now, as far as it fits into one transaction.
    fn gather(&self, first: Command) -> Vec<Command> {
        let mut weight_bytes = first.weight_bytes();
        let mut batch = vec![first];
        while batch.len() < BATCH_WRITES && weight_bytes < BATCH_BYTES {
            let Ok(command) = self.queue.try_recv() else { break };
            weight_bytes += command.weight_bytes();
            batch.push(command);
        }
        batch
    }

    /// Carries out the commands in one transaction and answers each, refused ones too, after the commit: what a refusal
    /// says may rest on a write before it in the batch.
    fn serve(&mut self, batch: Vec<Command>) {
        let transacted = self.transact(|tables| {
            let mut answers = Vec::with_capacity(batch.len());
            for command in &batch {
                let result = match command {
                    Command::Write { write, .. } => tables.write(write),
                    Command::Compact { revision, .. } => tables.compact(*revision).map(|()| *revision),
                };
                match result {
                    Err(error) if !error.is_refusal() => return Err(error),
                    answer => answers.push(answer),
                }
            }
            Ok(answers)
        });
        let answers = transacted.unwrap_or_else(|error| vec![Err(error); batch.len()]);
        for (command, answer) in batch.into_iter().zip(answers) {
            // Whoever does not wait for the answer any more does not want it.
            match command {
                Command::Write { reply, .. } => drop(reply.send(answer)),
                Command::Compact { reply, .. } => {
                    self.scrub |= answer.is_ok();
                    drop(reply.send(answer.map(drop)));
                }
            }
        }
    }

    /// One step of what the store does by itself.
    fn tidy(&mut self, compact_to: Option<Revision>) {
        let transacted = self.transact(|tables| {
            if let Some(revision) = compact_to {
                tables.compact(revision)?;
            }
            Ok((tables.expire(EXPIRE_STEP)?, tables.scrub(SCRUB_STEP)?))
        });
        match transacted {
            Ok((next_deadline, scrub)) => {
                self.next_deadline = next_deadline;
                self.scrub = scrub;
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the store cannot tidy up"
                );
                self.next_deadline = Some(unix_millis(SystemTime::now() + CLOCK_CHECK));
                self.scrub = false;
            }
        }
    }

    /// Runs `work` in a transaction. When this returns `Ok`, it is on disk, visible to reads and published to watches.
    ///
    /// When the data file fails, everything later fails too: what a file system has on disk after a failure only shows when
    /// the file is opened anew.
    fn transact<T>(&mut self, work: impl FnOnce(&mut Tables<'_>) -> Result<T>) -> Result<T> {
        let reader = self.reader.clone();
        self.try_transact(work).inspect_err(|error| {
            if let Error::Storage(_) = error {
                reader.fail(error);
            }
        })
    }

    fn try_transact<T>(&mut self, work: impl FnOnce(&mut Tables<'_>) -> Result<T>) -> Result<T> {
        let transaction = self.database.begin_write()?;
        // Dropping the transaction on any error below aborts it.
        let (answer, outcome) = {
            let mut tables = Tables::open(&transaction, self.revision, SystemTime::now())?;
            let answer = work(&mut tables)?;
            (answer, tables.finish()?)
        };
        if !outcome.changed {
            transaction.abort()?;
            return Ok(answer);
        }
        transaction.commit()?;
        self.revision = outcome.revision;
        self.next_deadline = self
            .next_deadline
            .into_iter()
            .chain(outcome.soonest_deadline)
            .min();
        let snapshot = self.snapshot().inspect_err(|_| {
            // These events cannot be told in their place any more; whoever waits for them has to list again.
            self.reader.hub().close();
        })?;
        self.reader.advance(snapshot);
        self.reader.hub().publish(&outcome.events, outcome.revision);
        Ok(answer)
    }

    fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::take(&self.database.begin_read()?)
    }
}

impl Command {
    /// How much of a transaction's budget the command takes.
    fn weight_bytes(&self) -> usize {
        match self {
            Command::Write { write, .. } => write.weight_bytes(),
            Command::Compact { .. } => 0,
        }
    }
}
