//! redb's part of the file.

use std::io;

use redb::StorageBackend;

use super::head::Head;
use crate::Result;

/// redb's file, without the journal before it. Alone it is for a file that is being filled under another name, where nothing
/// counts before the end.
#[derive(Debug)]
pub(in crate::embedded) struct Region<B> {
    pub(super) backend: B,
    begins: u64,
}

impl<B: StorageBackend> Region<B> {
    pub(super) fn new(backend: B, head: Head) -> Region<B> {
        Region {
            backend,
            begins: head.data_at(),
        }
    }

    /// Of a storage that [`make`](super::make) made.
    pub(in crate::embedded) fn open(backend: B) -> Result<Region<B>> {
        let head = super::read_head(&backend)?;
        Ok(Region::new(backend, head))
    }
}

impl<B: StorageBackend> StorageBackend for Region<B> {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.backend.len()?.saturating_sub(self.begins))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.backend.read(self.begins + offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.backend.set_len(self.begins + len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.backend.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.backend.write(self.begins + offset, data)
    }

    fn close(&self) -> Result<(), io::Error> {
        self.backend.close()
    }
}
