//! A journal beneath redb: what it syncs goes to the disk in one piece.
//!
//! A commit of redb changes some eight pages, which lie all over its file: a disk takes two or three times as long for them
//! as for one piece of the same length. So a sync appends them to a journal, and that is all it waits for. When a segment of
//! the journal is full, another thread puts the pages into their place (each once, however often it was changed) while the
//! journal goes on in the other segment. Reads see the pages that are not yet in their place.
//!
//! The journal and redb's file are one file, so that nobody can copy, restore or remove the one without the other:
//! head, segment, segment, redb's file. After a crash the records are put into their places again, in order; redb then finds
//! what it had synced. That a sync of many pages takes several records, of which the last may be lost, is no more than redb
//! expects of a disk.

mod checkpoint;
pub(super) mod fuzzing;
mod head;
mod overlay;
mod record;
mod recovery;
mod region;

use std::{
    collections::BTreeSet,
    fs, io,
    ops::Bound,
    os::unix::fs::FileExt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use redb::{BackendError, StorageBackend};

pub(super) use self::region::Region;
use self::{
    checkpoint::Desk,
    head::Head,
    overlay::{Block, Overlay},
    record::Header,
};
use crate::{Error, Result};

/// redb's pages are as large, and what disks and the page cache move at once.
const BLOCK: usize = 4096;
/// The end of a segment is kept for two records without blocks: the one that tells of the other segment's checkpoint, and the
/// one that tells of this segment's, should a crash come before it was left.
const KEPT_BYTES: usize = 2 * BLOCK;
/// What is written without a sync is put into its place once it is so many times as long as a segment, as when redb moves half
/// of its file: it would be in memory otherwise.
const SPILL_SEGMENTS: usize = 4;

/// How long redb's file is, in bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Length(Arc<AtomicU64>);

impl Length {
    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }
}

/// A storage for redb, with its journal.
#[derive(Debug)]
pub(super) struct Journal<B> {
    shared: Arc<Shared<B>>,
    writer: Mutex<Writer>,
    checkpointer: Mutex<Option<JoinHandle<()>>>,
}

/// What both threads use.
#[derive(Debug)]
struct Shared<B> {
    region: Region<B>,
    /// The same file, with `O_DSYNC`: a write is on the disk when it returns, without waiting for others'.
    through: Option<fs::File>,
    head: Head,
    overlay: RwLock<Overlay>,
    desk: Desk,
    length: Length,
}

/// The end of the journal.
#[derive(Debug)]
struct Writer {
    /// The blocks that were written since the last sync.
    pending: BTreeSet<u64>,
    segment: usize,
    /// Where the next record begins in the segment, in bytes.
    position: usize,
    next_sequence: u64,
    /// The last record that says more than what is in its place.
    last_needed: u64,
    /// The length and the checkpoint that the last record tells.
    told: (u64, u64),
    /// Something was put into its place that no record tells of. Older ones must not be put over it.
    spilled: bool,
    /// A write failed; what is on the disk shows only when it is opened anew.
    failed: bool,
    buffer: Vec<u8>,
}

/// Makes an empty storage: whatever was there is gone. Nothing is synced.
pub(super) fn make(backend: &impl StorageBackend, segment_bytes: usize, salt: u32) -> io::Result<()> {
    let head = Head::new(segment_bytes, salt);
    backend.set_len(0)?;
    backend.set_len(head.data_at())?;
    backend.write(0, &head.encode())?;
    // Written, because the first write to a hole of a file takes several times as long as any later one.
    let zeros = vec![0; head.segment_bytes()];
    for segment in 0..2 {
        backend.write(head.segment_at(segment), &zeros)?;
    }
    Ok(())
}

fn read_head(backend: &impl StorageBackend) -> Result<Head> {
    let mut block = [0; BLOCK];
    if backend.len().map_err(redb::Error::Io)? < BLOCK as u64 {
        return Err(Error::Corrupt(
            "its file is shorter than a store's head".to_owned(),
        ));
    }
    backend.read(0, &mut block).map_err(redb::Error::Io)?;
    Head::decode(&block)
}

impl<B: StorageBackend> Journal<B> {
    /// Opens a storage that [`make`] made, and puts into its place what the journal holds. Nobody else may have it open.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it is none, or damaged; [`Error::Storage`] when it cannot be read or written.
    pub(super) fn open(backend: B, through: Option<fs::File>, length: Length) -> Result<Journal<B>> {
        let io = |error| Error::from(redb::Error::Io(error));
        let head = read_head(&backend)?;
        let file_bytes = backend.len().map_err(io)?;
        let Some(data_bytes) = file_bytes.checked_sub(head.data_at()) else {
            return Err(Error::Corrupt(format!(
                "its file has {file_bytes} bytes, its journal alone has more"
            )));
        };
        let mut segments = [(); 2].map(|()| vec![0; head.segment_bytes()]);
        for (index, segment) in segments.iter_mut().enumerate() {
            backend.read(head.segment_at(index), segment).map_err(io)?;
        }
        let found = recovery::find(head, [&segments[0], &segments[1]]);
        let plan = found.plan()?;
        length.set(data_bytes);
        let shared = Shared {
            region: Region::new(backend, head),
            through,
            head,
            overlay: RwLock::default(),
            desk: Desk::new(plan.checkpointed),
            length,
        };
        let mut writer = Writer {
            pending: BTreeSet::new(),
            segment: plan.segment,
            position: plan.position,
            next_sequence: plan.next_sequence,
            last_needed: plan.checkpointed,
            told: (data_bytes, plan.checkpointed),
            spilled: false,
            failed: false,
            buffer: Vec::new(),
        };
        if let Some(last) = plan.replay.last() {
            tracing::info!(
                records = plan.replay.len(),
                "putting what the store's journal holds into its place"
            );
            let mut overlay = Overlay::default();
            let mut blocks = last.header.len.div_ceil(BLOCK as u64);
            for (number, block) in plan.replay.iter().flat_map(|record| record.blocks()) {
                // Only a record whose checksum is right by chance could name such a one.
                if number >= u64::MAX / BLOCK as u64 {
                    return Err(Error::Corrupt(format!("its journal has a block {number}")));
                }
                blocks = blocks.max(number + 1);
                overlay.write(number, 0, block, |_| Ok(())).map_err(io)?;
            }
            shared.region.set_len(blocks * BLOCK as u64).map_err(io)?;
            checkpoint::place(&shared, &overlay.freeze()).map_err(io)?;
            shared.set_len(last.header.len).map_err(io)?;
            shared.region.sync_data().map_err(io)?;
            writer.told.0 = last.header.len;
            writer.append(&shared, plan.checkpointed, &[]).map_err(io)?;
        } else if let Some(len) = plan.len.filter(|len| *len != data_bytes) {
            // It was changed with nobody syncing that, or a power cut undid the change. Every opening comes to the same.
            shared.set_len(len).map_err(io)?;
            writer.told.0 = len;
        }
        let shared = Arc::new(shared);
        let checkpointer = std::thread::Builder::new()
            .name("store-journal".to_owned())
            .spawn({
                let shared = shared.clone();
                move || checkpoint::run(&shared)
            })
            .map_err(io)?;
        Ok(Journal {
            shared,
            writer: Mutex::new(writer),
            checkpointer: Mutex::new(Some(checkpointer)),
        })
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts everything into its place, notes that, and ends the thread.
    fn finish(&self, writer: &mut Writer) -> io::Result<()> {
        writer.sync(&self.shared)?;
        self.shared.desk.wait()?;
        if !self.shared.overlay().is_empty() {
            let blocks = self.shared.overlay_mut().freeze();
            self.shared.desk.submit(blocks, writer.next_sequence - 1);
            self.shared.desk.wait()?;
        }
        writer.tell(&self.shared, writer.last_needed)
    }

    fn stop(&self) {
        self.shared.desk.close();
        let thread = self
            .checkpointer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the thread that empties the store's journal had panicked");
        }
    }
}

impl<B> Drop for Journal<B> {
    fn drop(&mut self) {
        // redb closes its storage; this is for one that was never given to it.
        self.shared.desk.close();
    }
}

impl<B: StorageBackend> Shared<B> {
    fn overlay(&self) -> RwLockReadGuard<'_, Overlay> {
        self.overlay.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn overlay_mut(&self) -> RwLockWriteGuard<'_, Overlay> {
        self.overlay.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.region.set_len(bytes)?;
        self.length.set(bytes);
        Ok(())
    }

    /// Writes to the journal; it is on the disk afterwards.
    fn write_through(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match &self.through {
            Some(file) => file.write_all_at(bytes, offset),
            None => {
                self.region.backend.write(offset, bytes)?;
                self.region.backend.sync_data()
            }
        }
    }
}

impl Writer {
    fn sync<B: StorageBackend>(&mut self, shared: &Shared<B>) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("the store's journal has failed before"));
        }
        let result = self.try_sync(shared);
        self.failed = result.is_err();
        result
    }

    fn try_sync<B: StorageBackend>(&mut self, shared: &Shared<B>) -> io::Result<()> {
        if self.pending.is_empty() && self.told.0 == shared.length.bytes() && !self.spilled {
            return Ok(());
        }
        if self.spilled {
            // The next record says that no older one is needed.
            shared.desk.wait()?;
            self.spilled = false;
        }
        let blocks = shared
            .overlay()
            .collect(std::mem::take(&mut self.pending).into_iter());
        let room = shared.head.segment_bytes() - KEPT_BYTES;
        let mut rest = &blocks[..];
        loop {
            let (now, later) = rest.split_at(rest.len().min(record::capacity(room)));
            if self.position + record::encoded_len(now.len()) > room {
                self.change_segments(shared)?;
            }
            self.append(shared, shared.desk.checkpointed()?, now)?;
            self.last_needed = self.next_sequence - 1;
            rest = later;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// Has this segment's blocks put into their place, and goes on in the other one, whose blocks are.
    fn change_segments<B: StorageBackend>(&mut self, shared: &Shared<B>) -> io::Result<()> {
        let checkpointed = shared.desk.wait()?;
        // Before a record that is not needed any more is overwritten, another one has to say so.
        self.tell(shared, checkpointed)?;
        let blocks = shared.overlay_mut().freeze();
        shared.desk.submit(blocks, self.next_sequence - 1);
        self.segment = 1 - self.segment;
        self.position = 0;
        Ok(())
    }

    /// Has what was written put into its place, if that is much. It is free in what was synced last, or redb would not have
    /// written there before a sync.
    fn spill<B: StorageBackend>(&mut self, shared: &Shared<B>) -> io::Result<()> {
        if shared.overlay().active() * BLOCK < SPILL_SEGMENTS * shared.head.segment_bytes() {
            return Ok(());
        }
        shared.desk.wait()?;
        let blocks = shared.overlay_mut().freeze();
        shared.desk.submit(blocks, self.next_sequence - 1);
        self.pending.clear();
        self.spilled = true;
        Ok(())
    }

    /// Notes in the journal what is in its place, unless it says so already.
    fn tell<B: StorageBackend>(&mut self, shared: &Shared<B>, checkpointed: u64) -> io::Result<()> {
        if self.told.1 < checkpointed {
            self.append(shared, checkpointed, &[])?;
        }
        Ok(())
    }

    fn append<B: StorageBackend>(
        &mut self,
        shared: &Shared<B>,
        checkpointed: u64,
        blocks: &[(u64, Arc<Block>)],
    ) -> io::Result<()> {
        let header = Header {
            sequence: self.next_sequence,
            checkpointed,
            len: shared.length.bytes(),
        };
        let contents = blocks.iter().map(|(number, block)| (*number, &**block));
        record::encode(&mut self.buffer, shared.head.salt, header, contents);
        if self.position + self.buffer.len() > shared.head.segment_bytes() {
            return Err(io::Error::other(
                "a record reaches beyond its segment of the store's journal",
            ));
        }
        let at = shared.head.segment_at(self.segment) + self.position as u64;
        shared.write_through(at, &self.buffer)?;
        self.position += self.buffer.len();
        self.next_sequence += 1;
        self.told = (header.len, checkpointed);
        // A large one is rare, and not kept.
        if self.buffer.capacity() > 64 * BLOCK {
            self.buffer = Vec::new();
        }
        Ok(())
    }
}

impl<B: StorageBackend> StorageBackend for Journal<B> {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.shared.length.bytes())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let (first, skipped) = (offset / BLOCK as u64, (offset % BLOCK as u64) as usize);
        let blocks = (skipped + out.len()).div_ceil(BLOCK);
        // Taken before the file is read: until they are in their place they are here.
        let above: Vec<_> = {
            let overlay = self.shared.overlay();
            let found = |index| Some((index, overlay.get(first + index as u64)?.clone()));
            (0..blocks).filter_map(found).collect()
        };
        if above.len() < blocks {
            self.shared.region.read(offset, out)?;
        }
        for (index, block) in above {
            let block_at = (index * BLOCK).saturating_sub(skipped);
            let from = if index == 0 { skipped } else { 0 };
            let len = (BLOCK - from).min(out.len() - block_at);
            out[block_at..block_at + len].copy_from_slice(&block[from..from + len]);
        }
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> Result<(), io::Error> {
        let mut writer = self.writer();
        if bytes < self.shared.length.bytes() {
            // What is being put into its place might make the file longer again.
            self.shared.desk.wait()?;
            let blocks = bytes.div_ceil(BLOCK as u64);
            self.shared.overlay_mut().truncate(blocks);
            writer.pending.retain(|number| *number < blocks);
        }
        self.shared.set_len(bytes)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.writer().sync(&self.shared)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let mut writer = self.writer();
        writer.spill(&self.shared)?;
        let mut overlay = self.shared.overlay_mut();
        let (mut offset, mut data) = (offset, data);
        while !data.is_empty() {
            let (number, at) = (offset / BLOCK as u64, (offset % BLOCK as u64) as usize);
            let (now, later) = data.split_at(data.len().min(BLOCK - at));
            overlay.write(number, at, now, |block| {
                let begins = number * BLOCK as u64;
                let there = self
                    .shared
                    .length
                    .bytes()
                    .saturating_sub(begins)
                    .min(BLOCK as u64);
                self.shared.region.read(begins, &mut block[..there as usize])
            })?;
            writer.pending.insert(number);
            offset += now.len() as u64;
            data = later;
        }
        Ok(())
    }

    fn close(&self) -> Result<(), io::Error> {
        let finished = self.finish(&mut self.writer());
        self.stop();
        finished.and(self.shared.region.backend.close())
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.shared.region.backend.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.shared.region.backend.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.shared.region.backend.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.shared.region.backend.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.shared.region.backend.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.shared.region.backend.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests;
