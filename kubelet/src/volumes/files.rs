//! File modes and owners exactly as asked for, whatever the kubelet's umask is.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown},
    path::Path,
};

/// Files of the group may be read and written: volumes that containers write to.
const GROUP_READ_WRITE: u32 = 0o660;
/// Files of the group may be read: volumes whose content the kubelet writes.
const GROUP_READ: u32 = 0o440;
/// Directories may also be entered.
const GROUP_ENTER: u32 = 0o110;
const SETGID: u32 = 0o2000;

/// Makes the directory, and its parents as plain ones; an existing one is left as it is. True when it was made.
pub(super) fn make_dir(path: &Path, mode: u32) -> io::Result<bool> {
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o750).create(parent)?;
    }
    match fs::create_dir(path) {
        Ok(()) => {
            fs::set_permissions(path, Permissions::from_mode(mode))?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes a new file. Its final mode is set before there is anything in it to read.
pub(super) fn write_new(path: &Path, data: &[u8], mode: u32, owner: Option<u32>) -> io::Result<()> {
    let mut file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    if let Some(owner) = owner {
        std::os::unix::fs::fchown(&file, Some(owner), None)?;
    }
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(data)
}

/// What `fsGroup` does to one file: the mode after it. Pure; symlinks are never passed in.
fn mode_with_group(mode: u32, is_dir: bool, read_only: bool) -> u32 {
    let mut mask = if read_only { GROUP_READ } else { GROUP_READ_WRITE };
    if is_dir {
        mask |= GROUP_ENTER | SETGID;
    }
    mode | mask
}

/// Gives everything from `root` down to `group`, as a pod's `fsGroup` asks. Symlinks change owner but are not followed.
///
/// Assumptions: no container writes below `root` meanwhile; it is used on content not yet handed out.
pub(super) fn give_tree_to_group(root: &Path, group: u32, read_only: bool) -> io::Result<()> {
    give_to_group(root, group, read_only)?;
    if fs::symlink_metadata(root)?.is_dir() {
        for entry in fs::read_dir(root)? {
            give_tree_to_group(&entry?.path(), group, read_only)?;
        }
    }
    Ok(())
}

/// Gives one file or directory to `group`; does nothing when it already is the group's.
pub(super) fn give_to_group(path: &Path, group: u32, read_only: bool) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.gid() != group {
        lchown(path, None, Some(group))?;
    }
    if metadata.is_symlink() {
        return Ok(());
    }
    let mode = metadata.mode() & 0o7777;
    let wanted = mode_with_group(mode, metadata.is_dir(), read_only);
    // A change of owner may clear setuid and setgid, so the mode comes last.
    if wanted != mode {
        fs::set_permissions(path, Permissions::from_mode(wanted))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_modes() {
        // (mode, directory, read-only volume, expected), as volume_linux_test.go has them.
        let rows = [
            (0o644, false, false, 0o664),
            (0o644, false, true, 0o644),
            (0o400, false, true, 0o440),
            (0o755, true, false, 0o2775),
            (0o777, true, false, 0o2777),
            (0o700, true, true, 0o2750),
        ];
        for (mode, is_dir, read_only, expect) in rows {
            assert_eq!(
                mode_with_group(mode, is_dir, read_only),
                expect,
                "{mode:o} {is_dir} {read_only}"
            );
        }
    }

    #[test]
    fn modes_ignore_the_umask() {
        let dir = tempfile::tempdir().expect("tempdir");
        let sub = dir.path().join("a/b");
        assert!(make_dir(&sub, 0o777).expect("make"));
        assert!(!make_dir(&sub, 0o700).expect("exists"));
        assert_eq!(fs::metadata(&sub).expect("stat").mode() & 0o7777, 0o777);
        let file = sub.join("f");
        write_new(&file, b"x", 0o666, None).expect("write");
        assert_eq!(fs::metadata(&file).expect("stat").mode() & 0o7777, 0o666);
        let error = write_new(&file, b"y", 0o666, None).expect_err("must not overwrite");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }
}
