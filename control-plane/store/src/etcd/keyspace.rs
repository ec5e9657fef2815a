//! Our keys and etcd's: the same, except that another prefix may stand where ours begin with `/registry`.

use std::sync::Arc;

use bytes::Bytes;

use crate::{Error, Result, prefix_end};

/// What every key of an API server begins with.
pub(super) const ROOT: &str = "/registry";

/// Translates keys.
#[derive(Debug, Clone)]
pub(super) struct Keyspace {
    /// What stands for [`ROOT`], without a slash at its end; `None` leaves all keys as they are.
    prefix: Option<Box<str>>,
}

impl Keyspace {
    pub(super) fn new(prefix: &str) -> Keyspace {
        let prefix = match prefix.trim_matches('/') {
            "" => String::new(),
            prefix => format!("/{prefix}"),
        };
        Keyspace {
            prefix: (prefix != ROOT).then(|| prefix.into()),
        }
    }

    pub(super) fn theirs(&self, key: &str) -> Result<Bytes> {
        self.translate(key).map(Bytes::from)
    }

    /// `None` for a key that is not ours.
    pub(super) fn ours(&self, key: &[u8]) -> Option<Arc<str>> {
        let key = str::from_utf8(key).ok()?;
        match &self.prefix {
            None => key.starts_with('/').then(|| key.into()),
            Some(prefix) => {
                let rest = key.strip_prefix(&**prefix)?;
                rest.starts_with('/').then(|| format!("{ROOT}{rest}").into())
            }
        }
    }

    /// Etcd's range, from the first key to the one after the last, of the keys below `prefix` that follow `after`.
    pub(super) fn range(&self, prefix: &str, after: Option<&str>) -> Result<(Bytes, Bytes)> {
        let first = self.translate(prefix)?;
        let end = Bytes::from(prefix_end(&first));
        // A page may start anywhere, also outside the prefix.
        let start = match after {
            Some(after) if after >= prefix_end(prefix).as_str() => end.clone(),
            Some(after) if after >= prefix => Bytes::from(format!("{}\0", self.translate(after)?)),
            _ => first.into(),
        };
        Ok((start, end))
    }

    fn translate(&self, key: &str) -> Result<String> {
        match &self.prefix {
            None => Ok(key.to_owned()),
            Some(prefix) => match key.strip_prefix(ROOT) {
                Some(rest) if rest.starts_with('/') => Ok(format!("{prefix}{rest}")),
                _ => Err(Error::InvalidKey(key.to_owned())),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_both_ways() {
        for (prefix, key, etcd_key) in [
            ("/registry", "/registry/pods/a/b", "/registry/pods/a/b"),
            ("registry/", "/other", "/other"),
            ("/clusters/one", "/registry/pods/a/b", "/clusters/one/pods/a/b"),
            ("/", "/registry/pods/a/b", "/pods/a/b"),
        ] {
            let keyspace = Keyspace::new(prefix);
            assert_eq!(keyspace.theirs(key).unwrap(), etcd_key.as_bytes(), "{prefix}");
            assert_eq!(keyspace.ours(etcd_key.as_bytes()).as_deref(), Some(key));
        }
    }

    #[test]
    fn other_keys_are_not_ours() {
        let moved = Keyspace::new("/one");
        for key in ["/registry/a", "/one", "/onetwo/a", "compact_rev_key"] {
            assert_eq!(moved.ours(key.as_bytes()), None, "{key}");
        }
        assert_eq!(moved.ours(b"/one/\xff"), None);
        assert!(moved.theirs("/registryx").is_err());
        assert_eq!(Keyspace::new(ROOT).ours(b"compact_rev_key"), None);
    }

    #[test]
    fn ranges_stay_below_their_prefix() {
        let text = |(start, end): (Bytes, Bytes)| {
            let text = |key: Bytes| String::from_utf8(key.into()).unwrap();
            (text(start), text(end))
        };
        let keyspace = Keyspace::new("/one");
        let below = |after| text(keyspace.range("/registry/pods/", after).unwrap());
        let end = "/one/pods0".to_owned();
        assert_eq!(below(None), ("/one/pods/".to_owned(), end.clone()));
        assert_eq!(below(Some("/a")), ("/one/pods/".to_owned(), end.clone()));
        assert_eq!(
            below(Some("/registry/pods/b")),
            ("/one/pods/b\0".to_owned(), end.clone())
        );
        assert_eq!(below(Some("/z")), (end.clone(), end));
    }
}
