//! The configuration file, as any text.

/// A file: it is read, or all its mistakes are named.
pub fn config_file(data: &[u8]) {
    if let Ok(text) = str::from_utf8(data)
        && let Err(mistakes) = super::file::parse(text)
    {
        assert!(!mistakes.is_empty());
    }
}
