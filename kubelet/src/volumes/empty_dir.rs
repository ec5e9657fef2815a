//! emptyDir: a directory of the pod's own, on disk or in memory.

use std::{fs, io, path::Path};

use super::{files, mount_table};

/// Everyone may do everything: containers of a pod share it under different users.
const MODE: u32 = 0o777;

/// Makes the directory on disk. One that exists is a container's already and is not touched.
pub(super) fn on_disk(dir: &Path, fs_group: Option<u32>) -> io::Result<()> {
    if dir.exists() {
        return Ok(());
    }
    // Made under another name and renamed when it is right, so that a crash leaves none with the wrong mode or group.
    let mut staging = dir.as_os_str().to_owned();
    staging.push(".new");
    let staging = Path::new(&staging);
    match fs::remove_dir_all(staging) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    files::make_dir(staging, MODE)?;
    if let Some(group) = fs_group {
        files::give_to_group(staging, group, false)?;
    }
    fs::rename(staging, dir)
}

/// Makes the directory as a tmpfs of at most `size_limit` bytes. A mounted one is not touched.
pub(super) fn in_memory(dir: &Path, size_limit: Option<i64>, fs_group: Option<u32>) -> io::Result<()> {
    files::make_dir(dir, MODE)?;
    if mount_table::has_own_filesystem(dir)? {
        return Ok(());
    }
    mount_table::mount_tmpfs(dir, &tmpfs_options(size_limit, fs_group))
}

/// Mode and group are mount options rather than later changes, so that a crash leaves no half-made volume.
fn tmpfs_options(size_limit: Option<i64>, fs_group: Option<u32>) -> String {
    let mut options = match fs_group {
        Some(group) => format!("mode=3777,gid={group}"),
        None => "mode=1777".to_owned(),
    };
    if let Some(size) = size_limit.filter(|size| *size > 0) {
        options.push_str(&format!(",size={size}"));
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        assert_eq!(tmpfs_options(None, None), "mode=1777");
        assert_eq!(tmpfs_options(Some(1024), Some(7)), "mode=3777,gid=7,size=1024");
        assert_eq!(
            tmpfs_options(Some(0), None),
            "mode=1777",
            "zero means no limit of its own"
        );
    }
}
