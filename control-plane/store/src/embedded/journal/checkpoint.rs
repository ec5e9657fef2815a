//! Puts what the journal holds into its place, beside the thread that writes the journal.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use redb::StorageBackend;

use super::{BLOCK, Shared, overlay::Blocks};

/// The most that is written at once, in bytes.
const RUN_BYTES: usize = 256 << 10;

/// What the writer of the journal and the thread that checkpoints say to each other.
#[derive(Debug, Default)]
pub(super) struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    job: Option<Job>,
    /// A job was taken and is not done.
    busy: bool,
    /// Everything up to this sequence is in its place.
    checkpointed: u64,
    failure: Option<(io::ErrorKind, String)>,
    closed: bool,
}

/// Blocks to put into their place, and the last record that says what they are.
#[derive(Debug)]
struct Job {
    blocks: Arc<Blocks>,
    through: u64,
}

impl Desk {
    pub(super) fn new(checkpointed: u64) -> Desk {
        Desk {
            state: Mutex::new(State {
                checkpointed,
                ..State::default()
            }),
            changed: Condvar::new(),
        }
    }

    /// Hands in blocks; nothing may be under way.
    pub(super) fn submit(&self, blocks: Arc<Blocks>, through: u64) {
        self.lock().job = Some(Job { blocks, through });
        self.changed.notify_all();
    }

    /// Up to which sequence everything is in its place.
    ///
    /// # Errors
    /// The one that ended the checkpoints.
    pub(super) fn checkpointed(&self) -> io::Result<u64> {
        self.lock().checkpointed()
    }

    /// Waits until nothing is under way.
    ///
    /// # Errors
    /// The one that ended the checkpoints.
    pub(super) fn wait(&self) -> io::Result<u64> {
        let mut state = self.lock();
        while state.failure.is_none() && (state.busy || state.job.is_some()) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.checkpointed()
    }

    /// Lets the thread end when it has done what is handed in.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn take(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.job.take() {
                state.busy = true;
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn done(&self, result: io::Result<u64>) {
        let mut state = self.lock();
        state.busy = false;
        match result {
            Ok(through) => state.checkpointed = through,
            Err(error) => state.failure = Some((error.kind(), error.to_string())),
        }
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn checkpointed(&self) -> io::Result<u64> {
        match &self.failure {
            Some((kind, text)) => Err(io::Error::new(*kind, text.clone())),
            None => Ok(self.checkpointed),
        }
    }
}

/// The thread: does what is handed in until the desk is closed or the file fails.
pub(super) fn run<B: StorageBackend>(shared: &Shared<B>) {
    // Also when this panics, which the journal's writer would wait out for ever otherwise.
    let _gone = Gone(&shared.desk);
    while let Some(job) = shared.desk.take() {
        let result = place(shared, &job.blocks);
        let failed = result.is_err();
        if !failed {
            shared.overlay_mut().thaw();
        }
        shared.desk.done(result.map(|()| job.through));
        if failed {
            return;
        }
    }
}

struct Gone<'a>(&'a Desk);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if state.failure.is_none() && !state.closed {
            state.failure = Some((
                io::ErrorKind::Other,
                "the journal is not emptied any more".to_owned(),
            ));
        }
        self.0.changed.notify_all();
    }
}

/// Writes blocks where they belong, neighbours together, and syncs.
pub(super) fn place<B: StorageBackend>(shared: &Shared<B>, blocks: &Blocks) -> io::Result<()> {
    let mut sorted: Vec<_> = blocks.iter().collect();
    sorted.sort_unstable_by_key(|(number, _)| **number);
    let mut run = Vec::new();
    for neighbours in sorted.chunk_by(|(a, _), (b, _)| **a + 1 == **b) {
        for piece in neighbours.chunks(RUN_BYTES / BLOCK) {
            let Some((first, _)) = piece.first() else { continue };
            run.clear();
            piece
                .iter()
                .for_each(|(_, block)| run.extend_from_slice(&block[..]));
            shared.region.write(**first * BLOCK as u64, &run)?;
        }
    }
    shared.region.sync_data()
}
