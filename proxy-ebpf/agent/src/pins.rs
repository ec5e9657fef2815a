//! Where maps and links outlive the agent: `<bpf-dir>/v<layout>/{maps,links}`.
//!
//! The layout's version is part of the path, so that programs of one layout never meet maps of another.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use proxy_ebpf_common::LAYOUT_VERSION;
use thiserror::Error;
use tracing::info;

use crate::tc;

/// Where the BPF file system is mounted by convention.
const BPFFS: &str = "/sys/fs/bpf";

/// Folder of maps that are to take the place of others.
const GROWING: &str = "growing";

/// Why the pins cannot be used.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum PinError {
    #[error(
        "mount the BPF file system at {path}: is CONFIG_BPF_SYSCALL in the kernel, and does this process have CAP_SYS_ADMIN?"
    )]
    Mount { path: PathBuf, source: nix::Error },
    #[error(
        "--bpf-dir {path} is not on a BPF file system: use a folder below {BPFFS}, or mount one there (mount -t bpf bpf {path})"
    )]
    NotBpffs { path: PathBuf },
    #[error("take the programs from the devices")]
    Devices(#[source] io::Error),
    #[error("access {path}")]
    Access { path: PathBuf, source: io::Error },
    #[error("another proxy-ebpf works with --bpf-dir {path}: stop it first")]
    Locked { path: PathBuf },
}

/// The folder of pins, locked against other agents while this lives.
#[derive(Debug)]
pub struct Pins {
    version: PathBuf,
    _lock: Flock<File>,
}

impl Pins {
    /// Opens the folder, making it and mounting the BPF file system if need be.
    pub fn open(bpf_dir: &Path) -> Result<Self, PinError> {
        mount_bpffs(bpf_dir)?;
        make_dir(bpf_dir)?;
        let lock = lock(bpf_dir)?;
        let version = bpf_dir.join(format!("v{LAYOUT_VERSION}"));
        make_dir(&version.join("maps"))?;
        make_dir(&version.join("links"))?;
        Ok(Self { version, _lock: lock })
    }

    /// Where maps are pinned.
    pub fn maps(&self) -> PathBuf {
        maps_dir(&self.version)
    }

    /// An empty folder for the pins of maps that are to take the place of others.
    pub(crate) fn growing(&self) -> Result<PathBuf, PinError> {
        let dir = self.version.join(GROWING);
        make_dir(&dir)?;
        // An agent that died on the way has left some here; nothing uses them.
        remove_pins(&dir)?;
        Ok(dir)
    }

    /// Whether no agent has pinned maps here yet.
    pub(crate) fn is_new(&self) -> Result<bool, PinError> {
        Ok(entries(&self.maps())?.is_empty())
    }

    /// Pins every map but those of these names in `dir` too.
    pub(crate) fn link_maps_except(&self, names: &[&str], dir: &Path) -> Result<(), PinError> {
        for path in entries(&self.maps())? {
            let is_other = |name: &&OsStr| names.iter().all(|other| *other != *name);
            let Some(file_name) = path.file_name().filter(is_other) else {
                continue;
            };
            fs::hard_link(&path, dir.join(file_name)).map_err(|source| PinError::Access { path, source })?;
        }
        Ok(())
    }

    /// Puts the maps of these names of `dir` in place of those that are pinned, each in one step, and removes the folder.
    pub(crate) fn take_over(&self, names: &[&str], dir: &Path) -> Result<(), PinError> {
        for name in names {
            let path = dir.join(name);
            fs::rename(&path, self.maps().join(name)).map_err(|source| PinError::Access { path, source })?;
        }
        remove_pins(dir)?;
        remove_dir(dir)
    }

    /// Removes what agents with another layout of tables have pinned, and returns the number of pins. Their programs run
    /// beside this agent's until then, so that nobody waits for tables to be filled; whatever the first of the two has
    /// translated is no Service's to the other.
    pub fn remove_other_versions(&self) -> Result<usize, PinError> {
        let bpf_dir = self.version.parent().unwrap_or(&self.version);
        let versions = entries(bpf_dir)?.into_iter();
        let others = versions.filter(|path| is_version(path) && *path != self.version);
        others.map(|version| remove_version(&version)).sum()
    }

    /// Pinned links of programs on devices, with their file names: those that are named after more than a program.
    pub(crate) fn device_links(&self) -> Result<Vec<(PathBuf, String)>, PinError> {
        let paths = entries(&self.version.join("links"))?.into_iter();
        let named = paths.filter_map(|path| {
            let name = path.file_name()?.to_str()?.to_owned();
            name.contains('-').then_some((path, name))
        });
        Ok(named.collect())
    }

    /// Where the link of a program is pinned.
    pub fn link(&self, program: &str) -> PathBuf {
        self.version.join("links").join(program)
    }
}

/// The folder of pinned maps, for those who only read.
pub fn maps_of(bpf_dir: &Path) -> PathBuf {
    maps_dir(&bpf_dir.join(format!("v{LAYOUT_VERSION}")))
}

/// The folder of pinned links, for those who only read.
pub fn links_of(bpf_dir: &Path) -> PathBuf {
    bpf_dir.join(format!("v{LAYOUT_VERSION}")).join("links")
}

/// Whether an agent works with these pins.
pub fn is_in_use(bpf_dir: &Path) -> Result<bool, PinError> {
    match lock(bpf_dir) {
        Ok(_) => Ok(false),
        Err(PinError::Locked { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Removes everything that any version of the agent has pinned: programs are detached, tables are gone. Returns the number
/// of pins and filters.
pub fn remove(bpf_dir: &Path) -> Result<usize, PinError> {
    if !bpf_dir.exists() {
        return Ok(0);
    }
    if !is_bpffs(bpf_dir)? {
        return Err(PinError::NotBpffs {
            path: bpf_dir.to_owned(),
        });
    }
    let _lock = lock(bpf_dir)?;
    // Where the kernel has no links for devices there are filters.
    let mut removed = tc::detach_all().map_err(PinError::Devices)?;
    for version in entries(bpf_dir)?.into_iter().filter(|path| is_version(path)) {
        removed += remove_version(&version)?;
    }
    // The kernel itself puts views of all maps and programs into a new BPF file system.
    let is_kernels = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "debug");
    if bpf_dir != Path::new(BPFFS) && entries(bpf_dir)?.iter().all(is_kernels) {
        remove_empty(bpf_dir)?;
    }
    Ok(removed)
}

/// Removes one layout's pins. Links first: no program should see its maps vanish.
fn remove_version(version: &Path) -> Result<usize, PinError> {
    let mut removed = 0;
    for kind in ["links", "maps", GROWING] {
        let dir = version.join(kind);
        if dir.exists() {
            removed += remove_pins(&dir)?;
            remove_dir(&dir)?;
        }
    }
    remove_dir(version)?;
    Ok(removed)
}

/// Removes the folder itself, or, where it is a mount point (see [`mount_bpffs`]), the mount.
fn remove_empty(bpf_dir: &Path) -> Result<(), PinError> {
    let parent = bpf_dir.parent().unwrap_or(bpf_dir);
    if is_bpffs(parent)? {
        return remove_dir(bpf_dir);
    }
    // The lock on it is still held, so it is unmounted once that is gone.
    umount2(bpf_dir, MntFlags::MNT_DETACH).map_err(|errno| PinError::Access {
        path: bpf_dir.to_owned(),
        source: errno.into(),
    })
}

fn maps_dir(version: &Path) -> PathBuf {
    version.join("maps")
}

fn is_version(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.and_then(|name| name.strip_prefix('v'))
        .is_some_and(|number| number.parse::<u32>().is_ok())
}

/// Mounts the BPF file system that `dir` should be on: at the usual place if `dir` is below it, else at `dir`.
fn mount_bpffs(dir: &Path) -> Result<(), PinError> {
    if is_bpffs(dir)? {
        return Ok(());
    }
    let path = if dir.starts_with(BPFFS) {
        PathBuf::from(BPFFS)
    } else {
        dir.to_owned()
    };
    if !path.starts_with(BPFFS) {
        // Hiding a folder that has something in it would be a nasty surprise.
        make_dir(&path)?;
        if !entries(&path)?.is_empty() {
            return Err(PinError::NotBpffs { path });
        }
    }
    mount(Some("bpf"), &path, Some("bpf"), MsFlags::empty(), None::<&str>).map_err(|source| {
        PinError::Mount {
            path: path.clone(),
            source,
        }
    })?;
    info!(path = %path.display(), "mounted the BPF file system");
    Ok(())
}

/// Whether `path`, or the part of it that exists, is on a BPF file system.
fn is_bpffs(path: &Path) -> Result<bool, PinError> {
    let existing = path
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    let stat = statfs(existing).map_err(|errno| PinError::Access {
        path: existing.to_owned(),
        source: errno.into(),
    })?;
    Ok(stat.filesystem_type() == BPF_FS_MAGIC)
}

fn lock(bpf_dir: &Path) -> Result<Flock<File>, PinError> {
    let access = |source| PinError::Access {
        path: bpf_dir.to_owned(),
        source,
    };
    let dir = File::open(bpf_dir).map_err(access)?;
    Flock::lock(dir, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::Error::EWOULDBLOCK => PinError::Locked {
            path: bpf_dir.to_owned(),
        },
        errno => access(errno.into()),
    })
}

fn make_dir(path: &Path) -> Result<(), PinError> {
    fs::create_dir_all(path).map_err(|source| PinError::Access {
        path: path.to_owned(),
        source,
    })
}

/// Removes the pins in a folder and returns their number.
fn remove_pins(dir: &Path) -> Result<usize, PinError> {
    let pins = entries(dir)?;
    let count = pins.len();
    for pin in pins {
        fs::remove_file(&pin).map_err(|source| PinError::Access { path: pin, source })?;
    }
    Ok(count)
}

fn remove_dir(path: &Path) -> Result<(), PinError> {
    fs::remove_dir(path).map_err(|source| PinError::Access {
        path: path.to_owned(),
        source,
    })
}

pub(crate) fn entries(dir: &Path) -> Result<Vec<PathBuf>, PinError> {
    let access = |source| PinError::Access {
        path: dir.to_owned(),
        source,
    };
    fs::read_dir(dir)
        .map_err(access)?
        .map(|entry| Ok(entry.map_err(access)?.path()))
        .collect()
}

/// Opens a pin; `None` if there is none.
pub(crate) fn open(path: &Path) -> Result<Option<OwnedFd>, PinError> {
    match crate::sys::open_pin(path) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PinError::Access {
            path: path.to_owned(),
            source,
        }),
    }
}
