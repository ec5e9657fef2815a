//! hostPath: checks that the node's path is what the pod says it is.

use std::{
    fs::{self, FileType},
    io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt},
    path::Path,
};

/// Checks, or makes, `path` as `kind` demands; the error is upstream's text.
pub(super) fn check(path: &str, kind: &str) -> Result<(), String> {
    if path.split('/').any(|element| element == "..") {
        return Err(format!("invalid HostPath `{path}`: must not contain '..'"));
    }
    match kind {
        "" => Ok(()),
        "DirectoryOrCreate" => {
            make_unless_present(path, |path| {
                fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
            })?;
            expect(path, "Directory", "directory")
        }
        "Directory" => expect(path, "Directory", "directory"),
        "FileOrCreate" => {
            make_unless_present(path, |path| {
                fs::OpenOptions::new()
                    .create(true)
                    .append(true)
                    .mode(0o644)
                    .open(path)
                    .map(drop)
            })?;
            expect(path, "File", "file")
        }
        "File" => expect(path, "File", "file"),
        "Socket" => expect(path, "Socket", "socket file"),
        "CharDevice" => expect(path, "CharDevice", "character device"),
        "BlockDevice" => expect(path, "BlockDevice", "block device"),
        other => Err(format!("{other} is an invalid volume type")),
    }
}

fn make_unless_present(path: &str, make: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), String> {
    if fs::metadata(path).is_ok() {
        return Ok(());
    }
    make(Path::new(path)).map_err(|error| format!("{path}: {error}"))
}

fn expect(path: &str, kind: &str, description: &str) -> Result<(), String> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(format!("hostPath {path} doesn't exist"));
        }
        Err(error) => {
            return Err(format!(
                "hostPath type check failed, {path} is not a {description}, unable to determine its type: {error}"
            ));
        }
    };
    let found = type_name(metadata.file_type());
    if found != kind {
        return Err(format!(
            "hostPath type check failed: {path} is not a {description}, it's a {found}"
        ));
    }
    Ok(())
}

fn type_name(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "Directory"
    } else if kind.is_socket() {
        "Socket"
    } else if kind.is_char_device() {
        "CharDevice"
    } else if kind.is_block_device() {
        "BlockDevice"
    } else {
        "File"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        let dir = tempfile::tempdir().expect("tempdir");
        let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        fs::write(at("file"), "").expect("file");
        let _socket = std::os::unix::net::UnixListener::bind(at("sock")).expect("socket");
        let rows = [
            (at("absent"), "", Ok(())),
            (
                at("absent"),
                "Directory",
                Err(format!("hostPath {} doesn't exist", at("absent"))),
            ),
            (at("file"), "File", Ok(())),
            (
                at("file"),
                "Directory",
                Err(format!(
                    "hostPath type check failed: {} is not a directory, it's a File",
                    at("file")
                )),
            ),
            (at("sock"), "Socket", Ok(())),
            (at("new/dir"), "DirectoryOrCreate", Ok(())),
            (at("new/dir"), "Directory", Ok(())),
            (at("new/file"), "FileOrCreate", Ok(())),
            (at("new/file"), "File", Ok(())),
            ("/dev/null".into(), "CharDevice", Ok(())),
            (
                "/dev/null".into(),
                "BlockDevice",
                Err("hostPath type check failed: /dev/null is not a block device, it's a CharDevice".into()),
            ),
            (
                "/a/../b".into(),
                "",
                Err("invalid HostPath `/a/../b`: must not contain '..'".into()),
            ),
            ("/".into(), "Fifo", Err("Fifo is an invalid volume type".into())),
        ];
        for (path, kind, expect) in rows {
            assert_eq!(check(&path, kind), expect, "{path} {kind}");
        }
    }
}
