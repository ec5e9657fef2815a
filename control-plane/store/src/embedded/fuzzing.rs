//! Rows of the log and the journal, as any bytes that a damaged file might hold.

pub use super::journal::fuzzing::journal;
use super::layout::Record;

/// A row: what can be read is written the same.
pub fn log_record(data: &[u8]) {
    if let Ok(record) = Record::decode(data) {
        let mut written = vec![0; record.encoded_len()];
        record.encode(&mut written);
        assert_eq!(written, data);
    }
}
