//! Which attachment holds which addresses.
//!
//! A record is a directory entry whose *name* carries the addresses:
//!
//! ```text
//! <dataDir>/<network>/lock
//! <dataDir>/<network>/<boot id>/ready_orl3f9…_10.244.0.5_fd00:10:244::5      done: the pod runs with these
//! <dataDir>/<network>/<boot id>/pending_orl77a….41c…_10.244.0.6              ADD is under way, or was killed
//! <dataDir>/<network>/<boot id>/cursor                                       the addresses given last
//! ```
//!
//! Guarantees:
//! * A record appears, changes its state and disappears by one `rename` or `unlink` each. A plugin killed between any two
//!   instructions leaves a whole record or none, and the record is there before the first interface is.
//! * One listing of the directory is all that an allocation reads; files are opened only to tell dead attachments from
//!   live ones.
//! * Records of another boot count for nothing: their namespaces ended with that boot. As the boot id is part of the path,
//!   whatever a power cut made of unsynced files is never looked at, so nothing here waits for a disk: a `kill` cannot
//!   lose what was written, only the end of the boot can, and that voids it anyway.
//!
//! Only the choice of an address is serialised, by a lock on a file; all other steps are single atomic operations on a name
//! that belongs to one attachment, and the specification forbids concurrent calls for one.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::netns::{NetnsId, is_alive};
use crate::range::Range;
use crate::request::AttachmentId;

/// Why records could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Every address of a range is held by a live attachment.
    #[error("range {range} has no free address: all {held} are held by attachments")]
    Exhausted {
        /// The full range.
        range: Range,
        /// How many addresses are held.
        held: usize,
    },
    /// The address that was asked for is another attachment's.
    #[error("{address} was asked for and is held by another attachment")]
    Taken {
        /// The address.
        address: IpAddr,
    },
    /// A record's file holds something else.
    #[error("{} is not as this plugin writes records", path.display())]
    NotARecord {
        /// The file.
        path: PathBuf,
        /// Where it differs.
        #[source]
        source: serde_json::Error,
    },
    /// A file operation failed.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What it failed with.
        #[source]
        source: io::Error,
    },
}

impl Error {
    fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io {
            operation,
            path,
            source,
        }
    }
}

/// How far the attachment of a record has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// ADD has reserved the addresses and is at work, or was killed at it. Ends by `ready`, or by release.
    Pending,
    /// ADD succeeded. Ends by release.
    Ready,
}

/// A record as its name tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// How far ADD came.
    pub state: State,
    /// The node end of the pair, which stands for the attachment.
    pub link: String,
    /// Stands for the pod that the attachment is one of, if the runtime said which: see [`pod_tag`].
    pub pod: Option<String>,
    /// What the attachment holds.
    pub addresses: Vec<IpAddr>,
}

/// What stands for a pod's interface in the names of records: a hash of the pod's UID and the interface's name. A pod has one
/// sandbox at a time, and each of them is another container to the runtime.
pub fn pod_tag(pod_uid: &str, ifname: &str) -> String {
    let digest = Sha256::new()
        .chain_update(pod_uid)
        .chain_update([0])
        .chain_update(ifname)
        .finalize();
    hex::encode(&digest[..6])
}

impl Record {
    fn file_name(&self) -> String {
        let state = match self.state {
            State::Pending => "pending",
            State::Ready => "ready",
        };
        let pod = self.pod.as_ref().map(|tag| format!(".{tag}")).unwrap_or_default();
        self.addresses
            .iter()
            .fold(format!("{state}_{}{pod}", self.link), |name, address| {
                format!("{name}_{address}")
            })
    }

    /// `None` for the other files of the directory.
    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('_');
        let state = match parts.next()? {
            "pending" => State::Pending,
            "ready" => State::Ready,
            _ => return None,
        };
        let names = parts.next()?;
        let (link, pod) = match names.split_once('.') {
            Some((link, pod)) => (link, Some(pod.to_owned())),
            None => (names, None),
        };
        let link = link.to_owned();
        let addresses = parts.map(|part| part.parse().ok()).collect::<Option<Vec<_>>>()?;
        Some(Record {
            state,
            link,
            pod,
            addresses,
        })
    }
}

/// What is inside a record's file: needed to tell whether the attachment still lives, and by people.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// `CNI_CONTAINERID`.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `K8S_POD_UID` of `CNI_ARGS`.
    #[serde(default, rename = "podUID", skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// `CNI_NETNS`.
    pub netns: PathBuf,
    /// Which namespace was found there.
    pub netns_id: NetnsId,
}

impl Owner {
    /// The attachment that owns the record.
    pub fn attachment(&self) -> AttachmentId {
        AttachmentId {
            container_id: self.container_id.clone(),
            ifname: self.ifname.clone(),
        }
    }
}

/// The records of one network on this node, in this boot.
#[derive(Debug)]
pub struct Ipam {
    network_dir: PathBuf,
    boot_dir: PathBuf,
}

/// The kernel's name for the current boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

impl Ipam {
    /// The records of `network` below `data_dir`; makes nothing yet.
    ///
    /// # Errors
    /// The boot id cannot be read.
    pub fn new(data_dir: &Path, network: &str) -> Result<Self, Error> {
        let boot_id = fs::read_to_string(BOOT_ID).map_err(Error::io("read", Path::new(BOOT_ID)))?;
        let network_dir = data_dir.join(network);
        Ok(Ipam {
            boot_dir: network_dir.join(boot_id.trim()),
            network_dir,
        })
    }

    /// Reserves one address of each range, as a pending record: the one in `wanted`, if that is in the range.
    ///
    /// # Errors
    /// [`Error::Exhausted`], [`Error::Taken`] or a failed file operation; none leaves a record.
    pub fn reserve(
        &self,
        link: &str,
        owner: &Owner,
        ranges: &[Range],
        wanted: &[IpAddr],
    ) -> Result<Record, Error> {
        let _lock = self.lock()?;
        self.forget_other_boots()?;
        let records = self.records()?;
        let cursor = self.cursor();
        let addresses = allocate(ranges, &records, &cursor, wanted)?;
        let record = Record {
            state: State::Pending,
            link: link.to_owned(),
            pod: owner.pod_uid.as_ref().map(|uid| pod_tag(uid, &owner.ifname)),
            addresses,
        };
        let content = serde_json::to_vec(owner).expect("a record's owner is plain data");
        self.replace(&record.file_name(), &content)?;
        // Being killed before this only means that the next attachment looks at a taken address first.
        let cursor: Vec<String> = record.addresses.iter().map(IpAddr::to_string).collect();
        self.replace("cursor", cursor.join("\n").as_bytes())?;
        Ok(record)
    }

    /// Marks a pending record as done.
    ///
    /// # Errors
    /// The record is gone, or the directory cannot be written; the record is then as before.
    pub fn commit(&self, record: &mut Record) -> Result<(), Error> {
        let from = self.boot_dir.join(record.file_name());
        let done = Record {
            state: State::Ready,
            ..record.clone()
        };
        fs::rename(&from, self.boot_dir.join(done.file_name())).map_err(Error::io("rename", &from))?;
        *record = done;
        Ok(())
    }

    /// Frees the addresses of a record; it is fine if somebody was quicker.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn release(&self, record: &Record) -> Result<(), Error> {
        let path = self.boot_dir.join(record.file_name());
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Io {
                operation: "remove",
                path,
                source,
            }),
            _ => Ok(()),
        }
    }

    /// All records of this boot; none when there is no directory yet.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn records(&self) -> Result<Vec<Record>, Error> {
        let names = list(&self.boot_dir)?;
        Ok(names.iter().filter_map(|name| Record::parse(name)).collect())
    }

    /// The attachment's record, whatever its state.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn find(&self, link: &str) -> Result<Option<Record>, Error> {
        Ok(self.records()?.into_iter().find(|record| record.link == link))
    }

    /// Who owns the record; `None` if it was released meanwhile.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn owner(&self, record: &Record) -> Result<Option<Owner>, Error> {
        let path = self.boot_dir.join(record.file_name());
        match fs::read(&path) {
            Ok(content) => serde_json::from_slice(&content)
                .map(Some)
                .map_err(|source| Error::NotARecord { path, source }),
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Io {
                operation: "read",
                path,
                source,
            }),
        }
    }

    /// The records among `candidates` whose namespace is gone, so that no DEL can be owed to a running pod. One that holds
    /// something else than we write says nothing of its namespace and counts as alive: it is in nobody's way but its own.
    ///
    /// # Errors
    /// A record cannot be read.
    pub fn dead(&self, candidates: Vec<Record>) -> Result<Vec<Record>, Error> {
        let mut dead = Vec::new();
        for record in candidates {
            match self.owner(&record) {
                Ok(Some(owner)) if !is_alive(&owner.netns, owner.netns_id) => dead.push(record),
                Ok(_) | Err(Error::NotARecord { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(dead)
    }

    /// Whether the directory can be written and every range has room.
    ///
    /// # Errors
    /// What stands in the way of an ADD.
    pub fn check_room(&self, ranges: &[Range]) -> Result<(), Error> {
        let _lock = self.lock()?;
        let mut records = self.records()?;
        if allocate(ranges, &records, &[], &[]).is_err() {
            let dead = self.dead(records.clone())?;
            records.retain(|record| !dead.contains(record));
        }
        allocate(ranges, &records, &[], &[]).map(drop)
    }

    fn lock(&self) -> Result<File, Error> {
        fs::create_dir_all(&self.boot_dir).map_err(Error::io("create", &self.boot_dir))?;
        let path = self.network_dir.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        // The kernel drops the lock with the descriptor, also when the process is killed.
        file.lock().map_err(Error::io("lock", &path))?;
        Ok(file)
    }

    fn forget_other_boots(&self) -> Result<(), Error> {
        for name in list(&self.network_dir)? {
            let path = self.network_dir.join(&name);
            // Only folders are boots: what somebody has laid beside them is neither ours nor in the way.
            if path != self.boot_dir && path.is_dir() {
                fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(())
    }

    fn cursor(&self) -> Vec<IpAddr> {
        let text = fs::read_to_string(self.boot_dir.join("cursor")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Makes or replaces a file in one step. Only under the lock: the temporary name is fixed, so that the next caller
    /// overwrites what a killed one left.
    fn replace(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        let temporary = self.boot_dir.join("temporary");
        fs::write(&temporary, content).map_err(Error::io("write", &temporary))?;
        let path = self.boot_dir.join(name);
        fs::rename(&temporary, &path).map_err(Error::io("create", &path))
    }
}

/// One address of each range, the wanted one or else one after the cursor's; pure.
fn allocate(
    ranges: &[Range],
    records: &[Record],
    cursor: &[IpAddr],
    wanted: &[IpAddr],
) -> Result<Vec<IpAddr>, Error> {
    let used: HashSet<IpAddr> = records
        .iter()
        .flat_map(|record| record.addresses.iter().copied())
        .collect();
    ranges
        .iter()
        .map(|&range| {
            if let Some(&address) = wanted.iter().find(|&&address| range.contains(address)) {
                let taken = used.contains(&address);
                return if taken {
                    Err(Error::Taken { address })
                } else {
                    Ok(address)
                };
            }
            let last = cursor.iter().copied().find(|&address| range.contains(address));
            range.next_free(&used, last).ok_or_else(|| Error::Exhausted {
                range,
                held: used.iter().filter(|&&address| range.contains(address)).count(),
            })
        })
        .collect()
}

/// The names in a directory; none if it does not exist.
fn list(dir: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(Error::Io {
                operation: "list",
                path: dir.to_owned(),
                source,
            });
        }
    };
    entries
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(Error::io("list", dir))
}

#[cfg(test)]
mod tests;
