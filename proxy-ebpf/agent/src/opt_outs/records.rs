//! What `orlop-cni` notes of the sandboxes that it attaches: a pod's UID and the path of its network namespace, written before the
//! first device is made, which is before the pod has a process.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::fs::DirEntryExt as _,
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
    /// Those that were there when it was looked at last.
    known: HashMap<Key, Record>,
}

/// What tells a record from all others: a sandbox has one of its own, which keeps its content when its state changes.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    network: OsString,
    /// The file's name without the state, and its inode number.
    name: Box<str>,
    inode: u64,
}

#[derive(Debug)]
struct Record {
    owner: Owner,
    /// Of the network namespace, once somebody has asked for it and it could be opened.
    cookie: Option<u64>,
}

/// What matters of a record's content.
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
            known: HashMap::new(),
        }
    }

    /// The cookies of the network namespaces of some pods as far as they are on record, by the pods' UIDs. Only what was not there
    /// at the last time is read. Sandboxes come and go meanwhile: what cannot be read is as good as gone.
    pub(super) fn cookies(
        &mut self,
        is_wanted: impl Fn(&str) -> bool,
        cookie: impl Fn(&File) -> Option<u64>,
    ) -> Vec<(&str, u64)> {
        if self.look().is_err() {
            return Vec::new();
        }
        let records = self.known.values_mut().filter_map(|record| {
            let uid = record.owner.pod_uid.as_deref().filter(|uid| is_wanted(uid))?;
            if record.cookie.is_none() {
                let netns = on_node(&record.owner.netns, |path| File::open(path).ok());
                record.cookie = netns.as_ref().and_then(&cookie);
            }
            Some((uid, record.cookie?))
        });
        records.collect()
    }

    /// Reads the records that are new and forgets those that are gone.
    fn look(&mut self) -> io::Result<()> {
        let boot_id = fs::read_to_string(BOOT_ID)?;
        let mut before = std::mem::take(&mut self.known);
        let Some(networks) = on_node(&self.dir, |dir| fs::read_dir(dir).ok()) else {
            return Ok(());
        };
        for network in networks {
            let network = network?;
            let Ok(records) = fs::read_dir(network.path().join(boot_id.trim())) else {
                continue;
            };
            for file in records {
                let file = file?;
                let name = file.file_name();
                let name = name.to_string_lossy();
                let Some(name) = name.strip_prefix("pending_").or(name.strip_prefix("ready_")) else {
                    continue;
                };
                let key = Key {
                    network: network.file_name(),
                    name: name.into(),
                    inode: file.ino(),
                };
                let record = before.remove(&key).or_else(|| {
                    // One that has just changed its name is read under the other when the next device appears or the pod is told
                    // of.
                    let content = fs::read(file.path()).ok()?;
                    let owner = serde_json::from_slice(&content).ok()?;
                    Some(Record { owner, cookie: None })
                });
                if let Some(record) = record {
                    self.known.insert(key, record);
                }
            }
        }
        Ok(())
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
        let mut records = Records::new(dir.path());
        let paths = |records: &mut Records| {
            records.look().expect("read the records");
            let of_a = records
                .known
                .values()
                .filter(|record| record.owner.pod_uid.as_deref() == Some("a"));
            let mut paths: Vec<_> = of_a.map(|record| record.owner.netns.clone()).collect();
            paths.sort();
            paths
        };
        assert_eq!(
            paths(&mut records),
            ["/run/netns/1", "/run/netns/2"].map(PathBuf::from)
        );
        assert_eq!(records.known.len(), 4);
        // One gets another state, one goes, one comes. What is known is not read again.
        let second = boot.join("pending_orl2.aa_10.244.0.3");
        fs::write(&second, owner("a", "/run/netns/unread")).expect("change a record");
        fs::rename(&second, boot.join("ready_orl2.aa_10.244.0.3")).expect("rename a record");
        fs::remove_file(boot.join("ready_orl1.aa_10.244.0.2")).expect("remove a record");
        let sixth = boot.join("pending_orl6.aa_10.244.0.7");
        fs::write(sixth, owner("a", "/run/netns/6")).expect("write a record");
        assert_eq!(
            paths(&mut records),
            ["/run/netns/2", "/run/netns/6"].map(PathBuf::from)
        );
        // Nobody has been attached yet.
        let mut none = Records::new(&dir.path().join("nothing"));
        assert_eq!(none.cookies(|_| true, |_| Some(1)), []);
    }

    #[test]
    fn a_namespace_is_asked_for_its_cookie_once_it_is_there() {
        let dir = tempfile::tempdir().expect("a folder");
        let boot_id = fs::read_to_string(BOOT_ID).expect("a boot id");
        let boot = dir.path().join("orlop").join(boot_id.trim());
        fs::create_dir_all(&boot).expect("make a folder");
        let netns = dir.path().join("netns");
        for uid in ["a", "b"] {
            let content = serde_json::json!({ "podUID": uid, "netns": netns });
            fs::write(
                boot.join(format!("ready_orl.{uid}_10.244.0.2")),
                content.to_string(),
            )
            .expect("write a record");
        }
        let mut records = Records::new(dir.path());
        let is_a = |uid: &str| uid == "a";
        assert_eq!(records.cookies(is_a, |_| Some(7)), []);
        File::create(&netns).expect("make a namespace");
        assert_eq!(records.cookies(is_a, |_| None), []);
        assert_eq!(records.cookies(is_a, |_| Some(7)), [("a", 7)]);
        assert_eq!(records.cookies(is_a, |_| unreachable!("it is known")), [("a", 7)]);
    }
}
