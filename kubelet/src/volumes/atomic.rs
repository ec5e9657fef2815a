//! Replaces a set of files all at once.
//!
//! The layout is upstream's, since containers and sidecars watch for it:
//!
//! ```text
//! <volume>/..2026_11_23_04_05_06.1234567890/key   the content, never changed once visible
//! <volume>/..data -> ..2026_11_23_04_05_06.1234567890
//! <volume>/key -> ..data/key
//! ```
//!
//! One rename of `..data` switches every file. A crash leaves either the old set or the new one, and the next write
//! removes whatever else is lying there.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::symlink,
    path::{Component, Path, PathBuf},
};

use super::{files, payload::Payload};

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";
const FILE_NAME_BYTES_MAX: usize = 255;
const PATH_BYTES_MAX: usize = 4096;

/// Makes `dir` show exactly the files of `payload`. True when something was written.
///
/// `finish` runs on the complete new content before it becomes visible.
pub(super) fn write(
    dir: &Path,
    payload: &Payload,
    finish: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<bool> {
    for path in payload.keys() {
        validate(path).map_err(io::Error::other)?;
    }
    let old = match fs::read_link(dir.join(DATA)) {
        Ok(target) => Some(target),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if let Some(old) = &old
        && is_current(&dir.join(old), payload)?
        && links_exist(dir, payload)
    {
        return Ok(false);
    }

    let new = new_content_dir(dir)?;
    let new_path = dir.join(&new);
    for (path, file) in payload {
        let path = new_path.join(path);
        if let Some(parent) = path.parent() {
            make_dirs(&new_path, parent)?;
        }
        files::write_new(&path, &file.data, file.mode, file.owner)?;
    }
    finish(&new_path)?;
    for name in visible_names(payload) {
        match symlink(Path::new(DATA).join(name), dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    let switch = dir.join(DATA_NEW);
    remove_if_present(&switch)?;
    symlink(&new, &switch)?;
    fs::rename(&switch, dir.join(DATA))?;
    sweep(dir, &new, payload)?;
    Ok(true)
}

/// Upstream's rules for a path inside a volume.
fn validate(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("invalid path: must not be empty: \"\"".into());
    }
    if path.starts_with('/') {
        return Err(format!("invalid path: must be relative path: {path}"));
    }
    if path.len() > PATH_BYTES_MAX {
        return Err(format!(
            "invalid path: must be less than or equal to {PATH_BYTES_MAX} characters"
        ));
    }
    for element in path.split('/') {
        if element == ".." {
            return Err(format!("invalid path: must not contain '..': {path}"));
        }
        if element.len() > FILE_NAME_BYTES_MAX {
            return Err(format!(
                "invalid path: filenames must be less than or equal to {FILE_NAME_BYTES_MAX} characters"
            ));
        }
    }
    if path.starts_with("..") {
        return Err(format!("invalid path: must not start with '..': {path}"));
    }
    Ok(())
}

/// Whether `content` holds exactly the payload's files with the payload's bytes.
fn is_current(content: &Path, payload: &Payload) -> io::Result<bool> {
    let mut present = BTreeSet::new();
    match list_files(content, content, &mut present) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        result => result?,
    }
    let wanted: BTreeSet<PathBuf> = payload.keys().map(|path| clean(path)).collect();
    if present != wanted {
        return Ok(false);
    }
    for (path, file) in payload {
        if fs::read(content.join(path))? != file.data {
            return Ok(false);
        }
    }
    Ok(true)
}

fn links_exist(dir: &Path, payload: &Payload) -> bool {
    visible_names(payload)
        .iter()
        .all(|name| fs::symlink_metadata(dir.join(name)).is_ok())
}

fn list_files(root: &Path, dir: &Path, files: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list_files(root, &entry.path(), files)?;
        } else if let Ok(relative) = entry.path().strip_prefix(root) {
            files.insert(relative.to_owned());
        }
    }
    Ok(())
}

/// The path without `.` and doubled slashes.
fn clean(path: &str) -> PathBuf {
    Path::new(path)
        .components()
        .filter(|component| !matches!(component, Component::CurDir))
        .collect()
}

/// The first element of every path: what is linked from the volume's top.
fn visible_names(payload: &Payload) -> BTreeSet<&str> {
    payload
        .keys()
        .filter_map(|path| {
            path.split('/')
                .find(|element| !element.is_empty() && *element != ".")
        })
        .collect()
}

fn new_content_dir(dir: &Path) -> io::Result<String> {
    let stamp = jiff::Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S").to_string();
    let name = format!("{stamp}.{}", rand::random::<u32>());
    // Others may enter it whatever the umask is; the files' own modes decide what they read.
    if !files::make_dir(&dir.join(&name), 0o755)? {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, name));
    }
    Ok(name)
}

fn make_dirs(root: &Path, dir: &Path) -> io::Result<()> {
    if dir == root || dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        make_dirs(root, parent)?;
    }
    files::make_dir(dir, 0o755).map(drop)
}

/// Removes links to files that are gone, older content and what a crash left.
fn sweep(dir: &Path, current: &str, payload: &Payload) -> io::Result<()> {
    let visible = visible_names(payload);
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name == DATA || name == current || visible.contains(name.as_ref()) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            // Anything else is not ours: a directory of the user's cannot be here, the volume is mounted read-only.
            if name.starts_with("..") {
                fs::remove_dir_all(entry.path())?;
            }
        } else {
            remove_if_present(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_if_present(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::volumes::payload::ProjectedFile;

    fn payload(files: &[(&str, &str, u32)]) -> Payload {
        files
            .iter()
            .map(|(path, data, mode)| {
                let file = ProjectedFile {
                    data: data.as_bytes().to_vec(),
                    mode: *mode,
                    owner: None,
                };
                ((*path).to_owned(), file)
            })
            .collect()
    }

    fn no_finish(_: &Path) -> io::Result<()> {
        Ok(())
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .expect("list")
            .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
            .filter(|name| !name.starts_with("..2"))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn writes_switches_and_sweeps() {
        let volume = tempfile::tempdir().expect("tempdir");
        let dir = volume.path();
        let first = payload(&[("a", "1", 0o644), ("sub/b", "2", 0o400), ("sub/c", "3", 0o666)]);
        assert!(write(dir, &first, no_finish).expect("first"));
        assert_eq!(names(dir), ["..data", "a", "sub"]);
        assert_eq!(fs::read_to_string(dir.join("sub/b")).expect("read"), "2");
        assert_eq!(
            fs::metadata(dir.join("sub/b")).expect("stat").mode() & 0o7777,
            0o400
        );
        assert_eq!(
            fs::metadata(dir.join("sub/c")).expect("stat").mode() & 0o7777,
            0o666
        );
        assert_eq!(fs::read_link(dir.join("a")).expect("link"), Path::new("..data/a"));

        let before = fs::read_link(dir.join("..data")).expect("link");
        assert!(!write(dir, &first, no_finish).expect("unchanged"));
        assert_eq!(
            fs::read_link(dir.join("..data")).expect("link"),
            before,
            "no write when nothing changed"
        );

        let second = payload(&[("a", "1!", 0o644), ("d", "4", 0o644)]);
        assert!(write(dir, &second, no_finish).expect("second"));
        assert_eq!(names(dir), ["..data", "a", "d"]);
        assert_eq!(fs::read_to_string(dir.join("a")).expect("read"), "1!");
        assert!(!dir.join(before).exists(), "the old content is removed");

        assert!(write(dir, &Payload::new(), no_finish).expect("emptied"));
        assert_eq!(names(dir), ["..data"]);
    }

    #[test]
    fn heals_what_a_crash_left() {
        let volume = tempfile::tempdir().expect("tempdir");
        let dir = volume.path();
        let files = payload(&[("a", "1", 0o644)]);
        write(dir, &files, no_finish).expect("first");
        fs::create_dir(dir.join("..2001_01_01_00_00_00.7")).expect("stale content");
        symlink("..2001_01_01_00_00_00.7", dir.join("..data_tmp")).expect("stale switch");
        fs::remove_file(dir.join("a")).expect("lost link");
        assert!(write(dir, &files, no_finish).expect("healed"));
        assert_eq!(names(dir), ["..data", "a"]);
        assert!(!dir.join("..2001_01_01_00_00_00.7").exists());

        let content = dir.join(fs::read_link(dir.join("..data")).expect("link"));
        fs::remove_dir_all(content).expect("lost content");
        assert!(write(dir, &files, no_finish).expect("healed"));
        assert_eq!(fs::read_to_string(dir.join("a")).expect("read"), "1");
    }

    #[test]
    fn a_failed_finish_shows_nothing() {
        let volume = tempfile::tempdir().expect("tempdir");
        let dir = volume.path();
        let result = write(dir, &payload(&[("a", "1", 0o644)]), |_| {
            Err(io::Error::other("no"))
        });
        assert!(result.is_err());
        assert_eq!(names(dir), Vec::<String>::new());
    }

    #[test]
    fn paths() {
        let long_name = "x".repeat(256);
        let rows = [
            ("", "invalid path: must not be empty: \"\""),
            ("/a", "invalid path: must be relative path: /a"),
            ("a/../b", "invalid path: must not contain '..': a/../b"),
            ("..a", "invalid path: must not start with '..': ..a"),
            (
                long_name.as_str(),
                "invalid path: filenames must be less than or equal to 255 characters",
            ),
        ];
        for (path, expect) in rows {
            assert_eq!(validate(path).expect_err(path), expect);
        }
        for path in ["a", "a/b", "a/..b", ".hidden", "a..b"] {
            assert_eq!(validate(path), Ok(()), "{path}");
        }
    }
}
