//! Network namespaces: opening, entering, and telling whether one still exists.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

/// Why a namespace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path does not open.
    #[error("cannot open {}", path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// What the open failed with.
        #[source]
        source: io::Error,
    },
    /// The path is something else.
    #[error("{} is not a network namespace", path.display())]
    NotANamespace {
        /// The path.
        path: PathBuf,
    },
    /// The namespace is the one in which the plugin itself runs: a "pod" there would be the node.
    #[error("{} is the node's own network namespace", path.display())]
    Own {
        /// The path.
        path: PathBuf,
    },
    /// Entering failed.
    #[error("cannot enter the namespace")]
    Enter {
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
}

/// What tells one namespace from another for as long as it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NetnsId {
    dev: u64,
    ino: u64,
}

/// An open network namespace.
#[derive(Debug)]
pub struct Netns {
    file: File,
    id: NetnsId,
}

impl Netns {
    /// Opens the namespace of a pod.
    ///
    /// # Errors
    /// The path is missing, is no network namespace, or is the caller's own.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let netns = Self::open_any(path)?;
        if netns.id == Self::current()?.id {
            return Err(Error::Own {
                path: path.to_owned(),
            });
        }
        Ok(netns)
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn current() -> Result<Self, Error> {
        Self::open_any(Path::new("/proc/thread-self/ns/net"))
    }

    /// A new, empty namespace, which lives as long as the value or anything inside.
    ///
    /// # Errors
    /// The caller may not make namespaces.
    pub fn anonymous() -> Result<Self, Error> {
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| Error::Enter { source: errno.into() })?;
            Self::current()
        })
    }

    /// Runs `work` inside the namespace, on a thread of its own, so that the caller stays where it is.
    ///
    /// # Errors
    /// The namespace cannot be entered; the caller's error type carries that.
    pub fn run<T: Send, E: From<Error> + Send>(
        &self,
        work: impl FnOnce() -> Result<T, E> + Send,
    ) -> Result<T, E> {
        on_thread(|| {
            self.enter()?;
            work()
        })
    }

    /// Moves the calling thread into the namespace for good. Cheaper than [`Self::run`] for whoever ends soon anyway.
    ///
    /// # Errors
    /// The namespace cannot be entered; the thread is where it was.
    pub fn enter(&self) -> Result<(), Error> {
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| Error::Enter { source: errno.into() })
    }

    /// The namespace's identity.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// A path by which other processes can open the namespace while this value lives.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.file.as_raw_fd()
        ))
    }

    /// The descriptor, for the kernel calls that want one.
    pub fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    fn open_any(path: &Path) -> Result<Self, Error> {
        let open = |source| Error::Open {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(open)?;
        let kind = fstatfs(&file)
            .map_err(|errno| open(errno.into()))?
            .filesystem_type();
        if kind != NSFS_MAGIC {
            return Err(Error::NotANamespace {
                path: path.to_owned(),
            });
        }
        let metadata = file.metadata().map_err(open)?;
        Ok(Netns {
            id: NetnsId {
                dev: metadata.dev(),
                ino: metadata.ino(),
            },
            file,
        })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Whether the path still leads to this namespace. In doubt it does: an address must not be given away on a guess.
pub fn is_alive(path: &Path, id: NetnsId) -> bool {
    match std::fs::metadata(path) {
        Ok(metadata) => {
            NetnsId {
                dev: metadata.dev(),
                ino: metadata.ino(),
            } == id
        }
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_pod_namespace_is_refused() {
        let refused = |path: &str| Netns::open(Path::new(path)).unwrap_err();
        assert!(matches!(refused("/nonexistent"), Error::Open { .. }));
        assert!(matches!(
            refused("/proc/self/status"),
            Error::NotANamespace { .. }
        ));
        assert!(matches!(refused("/proc/thread-self/ns/net"), Error::Own { .. }));
    }

    #[test]
    fn a_namespace_is_alive_until_its_path_leads_elsewhere() {
        let netns = Netns::anonymous().unwrap();
        let (path, id) = (netns.path(), netns.id());
        assert!(is_alive(&path, id));
        assert!(!is_alive(Path::new("/proc/self/status"), id));
        drop(netns);
        assert!(!is_alive(Path::new("/nonexistent/netns"), id));
    }
}
