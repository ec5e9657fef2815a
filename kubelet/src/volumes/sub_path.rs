//! subPath: a part of a volume, bound where the container runtime can mount it.
//!
//! A container that writes to a volume can put symlinks into it at any time. So a path inside a volume is walked once,
//! by the kernel, which refuses to leave the volume (`openat2` with `RESOLVE_BENEATH`), and what it found is bound by its
//! file descriptor. The name is never walked again; the runtime is handed the bind mount.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    os::unix::fs::MetadataExt,
    path::{Component, Path},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    mount::{MsFlags, mount},
    sys::stat::{Mode, fchmod, fstat, mkdirat},
};

use super::{files, mount_table};

/// Replaces `$(NAME)` by the container's variables. Unlike in a command, one that does not exist is an error: the path
/// would be another container's.
pub(super) fn expand(expression: &str, env: &BTreeMap<String, String>) -> Result<String, String> {
    let missing = Cell::new(None);
    let expanded = crate::env::expand(expression, |name| {
        let value = env.get(name).map(String::as_str);
        if value.is_none() {
            missing.set(Some(name.to_owned()));
        }
        value
    });
    match missing.take() {
        Some(name) => Err(format!("missing value for \"{name}\"")),
        None => Ok(expanded),
    }
}

/// Binds `sub_path` of the volume at `target`, making missing directories in the volume.
///
/// What is bound there already stays when it still is what `sub_path` names, and is replaced otherwise.
pub(super) fn bind(volume: &Path, sub_path: &str, target: &Path) -> Result<(), String> {
    if sub_path.starts_with('/') {
        return Err(format!("error SubPath `{sub_path}` must not be an absolute path"));
    }
    if Path::new(sub_path)
        .components()
        .any(|part| part == Component::ParentDir)
    {
        return Err(format!(
            "unable to provision SubPath `{sub_path}`: must not contain '..'"
        ));
    }
    bind_beneath(volume, sub_path, target).map_err(|error| match error {
        Errno::EXDEV | Errno::ELOOP => {
            format!(
                "subpath \"{sub_path}\" not within volume path \"{}\"",
                volume.display()
            )
        }
        other => format!("{}: {}", volume.join(sub_path).display(), io::Error::from(other)),
    })
}

fn bind_beneath(volume: &Path, sub_path: &str, target: &Path) -> Result<(), Errno> {
    let root = nix::fcntl::open(
        volume,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    let source = match open_beneath(&root, Path::new(sub_path)) {
        Err(Errno::ENOENT) => make_beneath(&root, Path::new(sub_path))?,
        source => source?,
    };
    let found = fstat(&source)?;
    let is_dir = found.st_mode & libc::S_IFMT == libc::S_IFDIR;
    if mount_table::is_mount_point(target).map_err(errno)? {
        let bound = fs::metadata(target).map_err(errno)?;
        if (bound.dev(), bound.ino()) == (found.st_dev, found.st_ino) {
            return Ok(());
        }
        mount_table::unmount(target).map_err(errno)?;
    }
    make_target(target, is_dir).map_err(errno)?;
    let source = format!("/proc/self/fd/{}", source.as_raw_fd());
    mount(
        Some(source.as_str()),
        target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
}

fn open_beneath(root: &impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    loop {
        // The kernel asks for another try when something was renamed while it walked.
        match openat2(root, path, how) {
            Err(Errno::EAGAIN) => {}
            result => return result,
        }
    }
}

/// Makes the missing directories of `path`, with the mode of the volume's own directory, and opens the last.
fn make_beneath(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let mode = Mode::from_bits_truncate(fstat(root)?.st_mode & 0o777);
    let mut parent = root.try_clone().map_err(errno)?;
    let mut walked = std::path::PathBuf::new();
    for part in path
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
    {
        walked.push(part);
        parent = match open_beneath(root, &walked) {
            Ok(existing) => existing,
            Err(Errno::ENOENT) => {
                let name = Path::new(part.as_os_str());
                // A dangling symlink of that name makes this fail, as it should.
                mkdirat(&parent, name, mode)?;
                let how = OpenHow::new()
                    .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
                    .resolve(ResolveFlag::RESOLVE_BENEATH);
                let made = openat2(&parent, name, how)?;
                // The umask took bits away; a setgid bit inherited from the parent must stay.
                let inherited = Mode::from_bits_truncate(fstat(&made)?.st_mode & libc::S_ISGID);
                fchmod(&made, mode | inherited)?;
                made
            }
            Err(error) => return Err(error),
        };
    }
    Ok(parent)
}

/// A bind mount needs something of its own kind to cover.
fn make_target(target: &Path, is_dir: bool) -> io::Result<()> {
    if let Ok(present) = fs::symlink_metadata(target) {
        if present.is_dir() == is_dir {
            return Ok(());
        }
        if present.is_dir() {
            fs::remove_dir(target)?;
        } else {
            fs::remove_file(target)?;
        }
    }
    if is_dir {
        return files::make_dir(target, 0o750).map(drop);
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    files::write_new(target, b"", 0o640, None)
}

fn errno(error: io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expansion() {
        let env = [
            ("POD".to_owned(), "web-0".to_owned()),
            ("E".to_owned(), String::new()),
        ]
        .into();
        let rows = [
            ("plain", Ok("plain")),
            ("$(POD)/logs", Ok("web-0/logs")),
            ("a$(E)b", Ok("ab")),
            ("$$(POD)", Ok("$(POD)")),
            ("$POD", Ok("$POD")),
            ("$(POD", Ok("$(POD")),
            ("x$", Ok("x$")),
            ("$(NOPE)", Err("missing value for \"NOPE\"")),
        ];
        for (expression, expect) in rows {
            let got = expand(expression, &env);
            assert_eq!(got.as_deref().map_err(String::as_str), expect, "{expression}");
        }
    }
}
