//! What `orlop-cni` notes of the sandboxes that it attaches: a pod's UID and the path of its network namespace, written before the
//! first device is made, which is before the pod has a process.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// The file system of the node, seen from inside a pod that shares the node's process ids but not its mounts.
const ROOT: &str = "/proc/1/root";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The plugin's folder of records.
#[derive(Debug)]
pub(super) struct Records {
    dir: PathBuf,
}

/// What matters of a record.
#[derive(Debug, Deserialize, PartialEq, Eq)]
struct Owner {
    #[serde(rename = "podUID")]
    pod_uid: Option<Box<str>>,
    netns: PathBuf,
}

impl Records {
    /// Those below the plugin's `dataDir`, as the node knows it.
    pub(super) fn new(data_dir: &Path) -> Self {
        Self {
            dir: data_dir.to_owned(),
        }
    }

    /// The network namespaces of these pods as far as they are on record. Sandboxes come and go meanwhile: what cannot be read is
    /// as good as gone.
    pub(super) fn namespaces<'a>(&self, is_wanted: impl Fn(&str) -> Option<&'a str>) -> Vec<(&'a str, File)> {
        let paths = self.read(is_wanted).unwrap_or_default();
        let opened = paths.into_iter().flat_map(|(uid, paths)| {
            let files = paths
                .into_iter()
                .filter_map(|path| on_node(&path, |path| File::open(path).ok()));
            files.map(move |file| (uid, file))
        });
        opened.collect()
    }

    fn read<'a>(
        &self,
        is_wanted: impl Fn(&str) -> Option<&'a str>,
    ) -> io::Result<HashMap<&'a str, Vec<PathBuf>>> {
        let boot_id = fs::read_to_string(BOOT_ID)?;
        let mut found = HashMap::<_, Vec<_>>::new();
        let Some(networks) = on_node(&self.dir, |dir| fs::read_dir(dir).ok()) else {
            return Ok(found);
        };
        for network in networks {
            let Ok(records) = fs::read_dir(network?.path().join(boot_id.trim())) else {
                continue;
            };
            for record in records {
                let record = record?;
                let name = record.file_name();
                let name = name.to_string_lossy();
                if !(name.starts_with("pending_") || name.starts_with("ready_")) {
                    continue;
                }
                // One that has just changed its name is read under the other when the next device appears or the pod is told of.
                let Ok(content) = fs::read(record.path()) else {
                    continue;
                };
                let Ok(owner) = serde_json::from_slice::<Owner>(&content) else {
                    continue;
                };
                if let Some(uid) = owner.pod_uid.as_deref().and_then(&is_wanted) {
                    found.entry(uid).or_default().push(owner.netns);
                }
            }
        }
        Ok(found)
    }
}

/// Opens what the node knows by a path: what this process knows by it, else what the node's first process does, if we may ask.
fn on_node<T>(path: &Path, open: impl Fn(&Path) -> Option<T>) -> Option<T> {
    let below_root = || Path::new(ROOT).join(path.strip_prefix("/").unwrap_or(path));
    open(path).or_else(|| open(&below_root()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_this_boot_tell_where_pods_are() {
        let dir = tempfile::tempdir().expect("a folder");
        let boot_id = fs::read_to_string(BOOT_ID).expect("a boot id");
        let boot = dir.path().join("orlop").join(boot_id.trim());
        let earlier = dir.path().join("orlop/another-boot");
        for folder in [&boot, &earlier] {
            fs::create_dir_all(folder).expect("make a folder");
        }
        let owner = |uid: &str, netns: &str| {
            format!(
                r#"{{"containerID":"c","ifname":"eth0","podUID":"{uid}","netns":"{netns}","netnsID":[1,2]}}"#
            )
        };
        for (path, content) in [
            (boot.join("ready_orl1.aa_10.244.0.2"), owner("a", "/run/netns/1")),
            (
                boot.join("pending_orl2.aa_10.244.0.3"),
                owner("a", "/run/netns/2"),
            ),
            (boot.join("ready_orl3.bb_10.244.0.4"), owner("b", "/run/netns/3")),
            // Of a runtime that does not say whose sandbox it is.
            (
                boot.join("ready_orl4_10.244.0.5"),
                r#"{"containerID":"c","ifname":"eth0","netns":"/run/netns/4"}"#.to_owned(),
            ),
            (boot.join("ready_orl5.aa_10.244.0.6"), "{".to_owned()),
            (boot.join("cursor"), owner("a", "/run/netns/6")),
            (
                earlier.join("ready_orl7.aa_10.244.0.7"),
                owner("a", "/run/netns/7"),
            ),
            (dir.path().join("orlop/lock"), String::new()),
        ] {
            fs::write(path, content).expect("write a record");
        }
        let records = Records::new(dir.path());
        let found = records
            .read(|uid| (uid == "a").then_some("a"))
            .expect("read the records");
        let mut paths = found["a"].clone();
        paths.sort();
        assert_eq!(paths, ["/run/netns/1", "/run/netns/2"].map(PathBuf::from));
        assert_eq!(found.len(), 1);
        // Nobody has been attached yet.
        let none = Records::new(&dir.path().join("nothing"));
        assert_eq!(none.namespaces(|_| Some("a")).len(), 0);
    }
}
