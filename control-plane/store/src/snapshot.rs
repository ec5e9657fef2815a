//! Snapshots: all keys as they stood at one revision, in a file that either store can be made of.
//!
//! | bytes | what |
//! |---|---|
//! | 16 | `orlop-snapshot` and the version of this format |
//! | 8 | the revision |
//! | 8 | when it was taken, in Unix milliseconds |
//! | 4, 4, 8, 8, 8, key, value | for each key, in key order: the lengths of key and value, its revisions of creation and last write, its deadline (Unix milliseconds, 0: none) |
//! | 4 | 0, where the next key's length would be |
//! | 8 | how many keys there are |
//! | 32 | SHA-256 of everything before |
//!
//! Numbers are little-endian. It can be written while it is made and read while it comes, and what is cut off or changed
//! anywhere is noticed at the latest at the end.

use std::{
    fmt,
    fs::File,
    io::{self, BufReader, Read, Write},
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::{Error, KeyValue, Result, Revision};

const MAGIC: &[u8; 16] = b"orlop-snapshot\0\x01";
/// The magic without the version.
const NAME_BYTES: usize = 15;
const SUM_BYTES: usize = 32;

/// A wall-clock time, in milliseconds since 1970.
pub(crate) type UnixMillis = u64;

pub(crate) fn unix_millis(time: SystemTime) -> UnixMillis {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotStatus {
    /// The store's revision that it shows.
    pub revision: Revision,
    /// When it was taken, in milliseconds since 1970.
    pub taken_unix_millis: u64,
    /// How many keys it has.
    pub keys: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// The SHA-256 of its content, with which it ends.
    pub sha256: [u8; SUM_BYTES],
}

impl SnapshotStatus {
    /// The checksum in hexadecimal.
    pub fn hash(&self) -> String {
        use fmt::Write;
        self.sha256.iter().fold(String::new(), |mut text, byte| {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// Reads a whole snapshot and checks it.
    ///
    /// # Errors
    /// [`Error::Snapshot`] when it is damaged, cut off, or none.
    pub fn of_file(path: &Path) -> Result<SnapshotStatus> {
        let mut reader = open(path)?;
        while reader.next()?.is_some() {}
        reader.finish()
    }
}

/// A key in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) key_value: KeyValue,
    /// When the store is to delete it.
    pub(crate) deadline: Option<UnixMillis>,
}

/// Makes a snapshot.
pub(crate) struct SnapshotWriter<W> {
    out: W,
    sum: Sha256,
    bytes: u64,
    keys: u64,
    revision: Revision,
    taken: UnixMillis,
}

impl<W: Write> SnapshotWriter<W> {
    pub(crate) fn new(out: W, revision: Revision) -> Result<SnapshotWriter<W>> {
        let mut writer = SnapshotWriter {
            out,
            sum: Sha256::new(),
            bytes: 0,
            keys: 0,
            revision,
            taken: unix_millis(SystemTime::now()),
        };
        writer.write(MAGIC)?;
        writer.write(&revision.to_le_bytes())?;
        writer.write(&writer.taken.to_le_bytes())?;
        Ok(writer)
    }

    pub(crate) fn item(&mut self, item: &Item) -> Result<()> {
        let KeyValue {
            key,
            value,
            create_revision,
            mod_revision,
        } = &item.key_value;
        let too_long = |_| Error::Snapshot(format!("key {key:?} or its value is longer than 4 GiB"));
        self.write(&u32::try_from(key.len()).map_err(too_long)?.to_le_bytes())?;
        self.write(&u32::try_from(value.len()).map_err(too_long)?.to_le_bytes())?;
        for number in [*create_revision, *mod_revision, item.deadline.unwrap_or(0)] {
            self.write(&number.to_le_bytes())?;
        }
        self.write(key.as_bytes())?;
        self.write(value)?;
        self.keys += 1;
        Ok(())
    }

    /// Ends it; what is written to may have to be synced yet.
    pub(crate) fn finish(mut self) -> Result<SnapshotStatus> {
        self.write(&0_u32.to_le_bytes())?;
        self.write(&self.keys.to_le_bytes())?;
        let sha256: [u8; SUM_BYTES] = self.sum.finalize().into();
        self.out.write_all(&sha256).map_err(broken)?;
        self.out.flush().map_err(broken)?;
        Ok(SnapshotStatus {
            revision: self.revision,
            taken_unix_millis: self.taken,
            keys: self.keys,
            bytes: self.bytes + SUM_BYTES as u64,
            sha256,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.sum.update(bytes);
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes).map_err(broken)
    }
}

/// Reads a snapshot. What [`next`](Self::next) yields is only to be trusted after [`finish`](Self::finish).
pub(crate) struct SnapshotReader<R> {
    input: R,
    sum: Sha256,
    bytes: u64,
    keys: u64,
    revision: Revision,
    taken: UnixMillis,
    ended: bool,
}

/// Opens a snapshot's file.
pub(crate) fn open(path: &Path) -> Result<SnapshotReader<BufReader<File>>> {
    let file = File::open(path).map_err(|error| Error::ReadFile {
        path: path.to_owned(),
        source: Arc::new(error),
    })?;
    SnapshotReader::new(BufReader::with_capacity(1 << 16, file))
}

impl<R: Read> SnapshotReader<R> {
    pub(crate) fn new(input: R) -> Result<SnapshotReader<R>> {
        let mut reader = SnapshotReader {
            input,
            sum: Sha256::new(),
            bytes: 0,
            keys: 0,
            revision: 0,
            taken: 0,
            ended: false,
        };
        let magic: [u8; MAGIC.len()] = reader.array()?;
        if magic[..NAME_BYTES] != MAGIC[..NAME_BYTES] {
            return Err(Error::Snapshot("it does not begin like one".to_owned()));
        }
        if magic != *MAGIC {
            let version = magic[NAME_BYTES];
            return Err(Error::Snapshot(format!(
                "it has format {version}, which this version cannot read"
            )));
        }
        reader.revision = reader.number()?;
        reader.taken = reader.number()?;
        Ok(reader)
    }

    /// The revision it says it shows.
    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    /// The next key; `None` after the last.
    pub(crate) fn next(&mut self) -> Result<Option<Item>> {
        if self.ended {
            return Ok(None);
        }
        let key_len = u32::from_le_bytes(self.array()?);
        if key_len == 0 {
            self.ended = true;
            return Ok(None);
        }
        let value_len = u32::from_le_bytes(self.array()?);
        let [create_revision, mod_revision, deadline] = [self.number()?, self.number()?, self.number()?];
        let key = String::from_utf8(self.take(key_len)?).ok();
        let value = Bytes::from(self.take(value_len)?);
        self.keys += 1;
        let key =
            key.filter(|_| (1..=mod_revision).contains(&create_revision) && mod_revision <= self.revision);
        let Some(key) = key else {
            return Err(Error::Snapshot(format!(
                "its key number {} makes no sense",
                self.keys
            )));
        };
        Ok(Some(Item {
            key_value: KeyValue {
                key: key.into(),
                value,
                create_revision,
                mod_revision,
            },
            deadline: (deadline != 0).then_some(deadline),
        }))
    }

    /// Checks what was read; to be called after [`next`](Self::next) yielded its last key.
    pub(crate) fn finish(mut self) -> Result<SnapshotStatus> {
        let keys = self.number()?;
        let expected: [u8; SUM_BYTES] = self.sum.clone().finalize().into();
        let sha256: [u8; SUM_BYTES] = self.array()?;
        if sha256 != expected {
            return Err(Error::Snapshot("its checksum is wrong".to_owned()));
        }
        let mut beyond = [0];
        if keys != self.keys || self.input.read(&mut beyond).map_err(broken)? != 0 {
            return Err(Error::Snapshot("it goes on after its end".to_owned()));
        }
        Ok(SnapshotStatus {
            revision: self.revision,
            taken_unix_millis: self.taken,
            keys,
            bytes: self.bytes,
            sha256,
        })
    }

    fn number(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(cut_off)?;
        self.sum.update(bytes);
        self.bytes += N as u64;
        Ok(bytes)
    }

    /// Memory grows with what is really there, whatever a damaged length says.
    fn take(&mut self, len: u32) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        (&mut self.input)
            .take(u64::from(len))
            .read_to_end(&mut bytes)
            .map_err(broken)?;
        if bytes.len() != len as usize {
            return Err(cut_off(io::ErrorKind::UnexpectedEof.into()));
        }
        self.sum.update(&bytes);
        self.bytes += u64::from(len);
        Ok(bytes)
    }
}

fn cut_off(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::Snapshot("it ends too early".to_owned()),
        _ => broken(error),
    }
}

fn broken(error: io::Error) -> Error {
    Error::SnapshotIo(Arc::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items() -> Vec<Item> {
        let item = |key: &str, value: &str, deadline| Item {
            key_value: KeyValue {
                key: key.into(),
                value: value.to_owned().into(),
                create_revision: 3,
                mod_revision: 7,
            },
            deadline,
        };
        vec![item("/a", "one", None), item("/b\u{e9}", "", Some(99))]
    }

    fn written() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = SnapshotWriter::new(&mut bytes, 10).unwrap();
        items().iter().for_each(|item| writer.item(item).unwrap());
        let status = writer.finish().unwrap();
        assert_eq!(
            (status.revision, status.keys, status.bytes),
            (10, 2, bytes.len() as u64)
        );
        bytes
    }

    fn read(bytes: &[u8]) -> Result<(Vec<Item>, SnapshotStatus)> {
        let mut reader = SnapshotReader::new(bytes)?;
        let mut items = Vec::new();
        while let Some(item) = reader.next()? {
            items.push(item);
        }
        Ok((items, reader.finish()?))
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = written();
        let (found, status) = read(&bytes).unwrap();
        assert_eq!(found, items());
        assert_eq!(
            (status.revision, status.keys, status.bytes),
            (10, 2, bytes.len() as u64)
        );
        assert_eq!(status.hash().len(), 64);
    }

    #[test]
    fn a_snapshot_that_is_cut_off_is_refused() {
        let bytes = written();
        for len in 0..bytes.len() {
            let error = read(&bytes[..len]).unwrap_err();
            assert!(
                error.to_string().contains("ends too early"),
                "{len} bytes: {error}"
            );
        }
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let bytes = written();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                let error = read(&changed).unwrap_err();
                assert!(matches!(error, Error::Snapshot(_)), "byte {at}: {error}");
            }
        }
        let longer = [&bytes[..], b"x"].concat();
        assert!(read(&longer).unwrap_err().to_string().contains("goes on"));
    }

    #[test]
    fn other_formats_are_named() {
        let mut bytes = written();
        bytes[NAME_BYTES] = 9;
        assert!(read(&bytes).unwrap_err().to_string().contains("format 9"));
        assert!(
            read(b"PK\x03\x04 and then some more")
                .unwrap_err()
                .to_string()
                .contains("begin")
        );
    }
}
