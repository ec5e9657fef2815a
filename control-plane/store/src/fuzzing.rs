//! The entrances of the fuzz targets to decoders that are this crate's own. Each takes any bytes and panics where a decoder
//! breaks a promise; nothing else calls them.

pub use crate::{
    embedded::fuzzing::{journal, log_record},
    etcd::fuzzing::etcd_responses,
};

use crate::snapshot::SnapshotReader;

/// A snapshot's file.
pub fn snapshot_file(data: &[u8]) {
    let Ok(mut reader) = SnapshotReader::new(data) else {
        return;
    };
    while let Ok(Some(_item)) = reader.next() {}
    let _status = reader.finish();
}
