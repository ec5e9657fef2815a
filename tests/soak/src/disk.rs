//! A disk that can lose its power: what was written but not synced is then lost, in any part and in any order.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rand::{RngExt, rngs::StdRng};
use redb::StorageBackend;

/// What disks write at once, or not at all.
const SECTOR_BYTES: usize = 512;

/// A disk in memory. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct Disk(Arc<Mutex<Image>>);

#[derive(Debug, Clone, Default)]
struct Image {
    synced: Vec<u8>,
    /// As the running system sees it.
    cached: Vec<u8>,
    /// Offset and length of each write since the last sync.
    unsynced: Vec<(usize, usize)>,
    /// How many more writes and syncs it takes; `None`: all.
    remaining: Option<u64>,
    /// How many it took.
    steps: u64,
}

impl Disk {
    /// The disk as it may be found after a power cut at this moment. This one goes on.
    pub fn copy_after_power_cut(&self, random: &mut StdRng) -> Disk {
        let image = self.lock();
        let mut left = image.synced.clone();
        // The file's length is metadata, which may be ahead of its content.
        if random.random_bool(0.5) {
            left.resize(image.cached.len(), 0);
        }
        let keep = random.random_range(0.0..1.0);
        for (offset, len) in &image.unsynced {
            for sector in (*offset..offset + len).step_by(SECTOR_BYTES) {
                let end = (sector + SECTOR_BYTES).min(offset + len);
                if end <= left.len() && end <= image.cached.len() && random.random_bool(keep) {
                    left[sector..end].copy_from_slice(&image.cached[sector..end]);
                }
            }
        }
        Disk(Arc::new(Mutex::new(Image {
            synced: left.clone(),
            cached: left,
            ..Image::default()
        })))
    }

    /// Cuts the power: from now on nothing works. Returns the disk as it is found afterwards.
    pub fn cut_power(&self, random: &mut StdRng) -> Disk {
        self.cut_power_after(0);
        self.copy_after_power_cut(random)
    }

    /// Lets so many more writes and syncs through; all that follow fail.
    pub fn cut_power_after(&self, steps: u64) {
        self.lock().remaining = Some(steps);
    }

    /// How many writes and syncs there were.
    pub fn steps(&self) -> u64 {
        self.lock().steps
    }

    fn lock(&self) -> MutexGuard<'_, Image> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Image {
    fn step(&mut self) -> Result<(), io::Error> {
        match &mut self.remaining {
            Some(0) => return Err(io::Error::other("the disk has no power")),
            Some(remaining) => *remaining -= 1,
            None => {}
        }
        self.steps += 1;
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.lock().cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let image = self.lock();
        let offset = offset as usize;
        let content = image.cached.get(offset..offset + out.len());
        out.copy_from_slice(content.ok_or_else(|| io::Error::other("beyond the end of the disk"))?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        let mut image = self.lock();
        image.step()?;
        image.cached.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let mut image = self.lock();
        image.step()?;
        image.synced = image.cached.clone();
        image.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let mut image = self.lock();
        image.step()?;
        let offset = offset as usize;
        let end = offset + data.len();
        if end > image.cached.len() {
            return Err(io::Error::other("beyond the end of the disk"));
        }
        image.cached[offset..end].copy_from_slice(data);
        image.unsynced.push((offset, data.len()));
        Ok(())
    }
}
