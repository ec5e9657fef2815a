//! Maps whose keys are prefixes.

use std::{io, path::Path};

use aya::{
    Pod,
    maps::{LpmTrie, Map as AnyMap, MapData, MapError, lpm_trie::Key},
};

use super::MapsError;
use crate::metrics::MapUse;

/// A map of longest prefixes.
#[derive(Debug)]
pub(crate) struct PrefixMap<K: Pod, V: Pod> {
    name: &'static str,
    max_entries: u32,
    trie: LpmTrie<MapData, K, V>,
}

impl<K: Pod, V: Pod> PrefixMap<K, V> {
    /// Opens a pinned map and checks its type and sizes.
    pub(crate) fn open(dir: &Path, name: &'static str) -> Result<Self, MapsError> {
        let path = dir.join(name);
        let failed = |source| MapsError::Open {
            path: path.clone(),
            source,
        };
        let data = MapData::from_pin(&path).map_err(failed)?;
        let max_entries = data.info().map_err(failed)?.max_entries();
        let trie = LpmTrie::try_from(AnyMap::LpmTrie(data)).map_err(failed)?;
        Ok(Self {
            name,
            max_entries,
            trie,
        })
    }

    /// How many entries the map has room for.
    pub(super) fn max_entries(&self) -> u32 {
        self.max_entries
    }

    /// How full the map is with so many entries.
    pub(super) fn usage(&self, entries: usize) -> MapUse {
        MapUse {
            name: self.name,
            entries,
            max_entries: self.max_entries,
        }
    }

    /// Copies what the map holds to the one of the same name in another folder of pins.
    pub(super) fn copy(&self, dir: &Path) -> Result<(), MapsError> {
        let mut other = Self::open(dir, self.name)?;
        for (bits, key, value) in self.read()? {
            other.insert(bits, key, value)?;
        }
        Ok(())
    }

    /// All entries, with the lengths of their prefixes in bits.
    pub(crate) fn read(&self) -> Result<Vec<(u32, K, V)>, MapsError> {
        let entries = self.trie.iter().map(|entry| {
            let (key, value) = entry?;
            Ok((key.prefix_len(), key.data(), value))
        });
        entries
            .collect::<Result<_, MapError>>()
            .map_err(|source| MapsError::Read {
                name: self.name,
                source: into_io(source),
            })
    }

    /// Writes an entry, replacing the one of the same prefix.
    pub(crate) fn insert(&mut self, bits: u32, key: K, value: V) -> Result<(), MapsError> {
        let written = self.trie.insert(&Key::new(bits, key), value, 0).map_err(into_io);
        written.map_err(|source| match source.raw_os_error() {
            Some(libc::ENOSPC) => MapsError::Full {
                name: self.name,
                max_entries: self.max_entries,
            },
            _ => MapsError::Write {
                name: self.name,
                source,
            },
        })
    }

    /// Removes an entry; one that is not there counts as removed.
    pub(crate) fn remove(&mut self, bits: u32, key: K) -> Result<(), MapsError> {
        match self.trie.remove(&Key::new(bits, key)).map_err(into_io) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            removed => removed.map_err(|source| MapsError::Delete {
                name: self.name,
                source,
            }),
        }
    }
}

fn into_io(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        error => io::Error::other(error),
    }
}
