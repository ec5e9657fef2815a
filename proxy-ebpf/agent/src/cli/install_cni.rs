//! `proxy-ebpf install-cni`: the init step of the DaemonSet's pods.

use std::{
    fs::{self, File, Permissions},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::Args;
use proxy_ebpf::node::{DROP_IN, DROP_IN_NAME};

#[derive(Args)]
pub(super) struct InstallCni {
    /// The plugin to install.
    #[arg(long, default_value = "/opt/cni/bin/orlop-cni")]
    source: PathBuf,
    /// Folder from which the container runtime starts plugins.
    #[arg(long)]
    cni_bin_dir: PathBuf,
    /// Folder of systemd's kernel settings, `/etc/sysctl.d` of the host, for a file that keeps the reverse path check off the
    /// devices of pods.
    #[arg(long)]
    sysctl_dir: Option<PathBuf>,
}

impl InstallCni {
    pub(super) fn run(self) -> Result<()> {
        let plugin =
            fs::read(&self.source).with_context(|| format!("read --source {}", self.source.display()))?;
        let name = self.source.file_name().context("--source names no file")?;
        install(&self.cni_bin_dir.join(name), &plugin, 0o755)?;
        if let Some(dir) = &self.sysctl_dir {
            install(&dir.join(DROP_IN_NAME), DROP_IN.as_bytes(), 0o644)?;
        }
        Ok(())
    }
}

fn install(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    if fs::read(path).is_ok_and(|installed| installed == content) {
        println!("{} is up to date", path.display());
        return Ok(());
    }
    replace(path, content, mode).with_context(|| format!("write {}", path.display()))?;
    println!("{} is installed", path.display());
    Ok(())
}

/// Writes beside the file and renames, so that the runtime finds the old plugin or the new one, whole, at any time. One that
/// runs meanwhile keeps its file.
fn replace(path: &Path, content: &[u8], mode: u32) -> std::io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    // A node that loses power now must not have an empty plugin.
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_put_in_place_whole_and_left_alone_after_that() {
        let dir = tempfile::tempdir().expect("make a folder");
        let source = dir.path().join("orlop-cni");
        fs::write(&source, "first").expect("write");
        let bin = dir.path().join("host/opt/cni/bin");
        let install = || InstallCni {
            source: source.clone(),
            cni_bin_dir: bin.clone(),
            sysctl_dir: Some(dir.path().join("sysctl.d")),
        };
        install().run().expect("install");
        let installed = bin.join("orlop-cni");
        assert_eq!(fs::read(&installed).expect("it is there"), b"first");
        let mode = fs::metadata(&installed)
            .expect("it is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o755);
        let settings = fs::read_to_string(dir.path().join("sysctl.d/99-zz-orlop.conf")).expect("it is there");
        assert!(
            settings.contains("\n-net.ipv4.conf.orl*.rp_filter = 0\n"),
            "{settings}"
        );
        let before = fs::metadata(&installed)
            .and_then(|meta| meta.modified())
            .expect("its time");
        install().run().expect("install again");
        let after = fs::metadata(&installed)
            .and_then(|meta| meta.modified())
            .expect("its time");
        assert_eq!(before, after);

        let held = File::open(&installed).expect("a running plugin holds its file");
        fs::write(&source, "second").expect("write");
        install().run().expect("upgrade");
        assert_eq!(fs::read(&installed).expect("it is there"), b"second");
        assert_eq!(std::io::read_to_string(held).expect("the old one"), "first");
        let names = fs::read_dir(&bin).expect("list").count();
        assert_eq!(names, 1, "nothing else is left there");

        fs::remove_file(&source).expect("remove");
        let error = install().run().expect_err("there is nothing to install");
        assert!(format!("{error:#}").contains("--source"), "{error:#}");
    }
}
