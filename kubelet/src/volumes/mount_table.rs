//! The mount table: what is mounted below a pod's directory, and taking it away.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::{ffi::OsStringExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
};

/// Mounts a tmpfs on `dir`. Its pages stay out of swap where the kernel can do that (6.4 and later).
pub(super) fn mount_tmpfs(dir: &Path, options: &str) -> io::Result<()> {
    let mount_with =
        |options: &str| mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), Some(options));
    match mount_with(&format!("{options},noswap")) {
        Err(Errno::EINVAL) => mount_with(options)?,
        result => result?,
    }
    Ok(())
}

/// Whether a file system of its own is mounted on `dir`. Cheaper than the table, which grows with every pod; it does not
/// see bind mounts.
pub(super) fn has_own_filesystem(dir: &Path) -> io::Result<bool> {
    let parent = dir.parent().unwrap_or(dir);
    Ok(fs::metadata(dir)?.dev() != fs::metadata(parent)?.dev())
}

/// Whether something is mounted right on `path`.
pub(super) fn is_mount_point(path: &Path) -> io::Result<bool> {
    let path = match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        path => path?,
    };
    Ok(mount_points()?.contains(&path))
}

/// Takes down one mount. What still uses it keeps it until it ends.
pub(super) fn unmount(path: &Path) -> io::Result<()> {
    umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    Ok(())
}

/// Unmounts everything at or below `dir`, then deletes `dir`.
///
/// Errors: nothing is deleted while a mount remains, because a bind mount can show data that is not the pod's.
pub(super) fn remove_tree(dir: &Path) -> io::Result<()> {
    let dir = match dir.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        dir => dir?,
    };
    // Later mounts cover earlier ones, so they come off first.
    for mount_point in points_below(mount_points()?, &dir).into_iter().rev() {
        unmount(&mount_point)?;
    }
    if let Some(left) = points_below(mount_points()?, &dir).first() {
        return Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!("{} is still mounted", left.display()),
        ));
    }
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn mount_points() -> io::Result<Vec<PathBuf>> {
    // The thread's own table: equal to the process's, unless a test gave the thread a mount namespace.
    let table = fs::read("/proc/thread-self/mountinfo")?;
    Ok(parse(&table))
}

fn points_below(points: Vec<PathBuf>, dir: &Path) -> Vec<PathBuf> {
    points
        .into_iter()
        .filter(|point| point.starts_with(dir))
        .collect()
}

/// The mount points of a mountinfo table, in mount order. Pure.
fn parse(table: &[u8]) -> Vec<PathBuf> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(unescape)
        .collect()
}

/// Undoes the kernel's octal escapes of space, tab, newline and backslash.
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| *byte == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(escaped) => {
                path.push(escaped);
                rest = &tail[3..];
            }
            None => {
                path.push(*byte);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo() {
        let table = b"22 1 0:21 / /proc rw,relatime - proc proc rw\n\
            36 22 0:32 / /var/lib/x/a\\040b\\134c rw shared:5 - tmpfs tmpfs rw\n\
            37 22 0:33 /sub /var/lib/x rw - tmpfs tmpfs rw\n";
        let points = parse(table);
        assert_eq!(points.len(), 3);
        assert_eq!(points[1], Path::new("/var/lib/x/a b\\c"));
        assert_eq!(
            points_below(points, Path::new("/var/lib/x")),
            [Path::new("/var/lib/x/a b\\c"), Path::new("/var/lib/x")]
        );
        assert_eq!(
            points_below(vec!["/var/lib/xy".into()], Path::new("/var/lib/x")),
            Vec::<PathBuf>::new()
        );
    }
}
