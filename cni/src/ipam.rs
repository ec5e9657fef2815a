//! Which attachment holds which addresses.
//!
//! A record is a directory entry whose *name* carries the addresses:
//!
//! ```text
//! <dataDir>/<network>/lock                                                   the addresses given last
//! <dataDir>/<network>/<boot id>/ready_orl3f9…_10.244.0.5_fd00:10:244::5      done: the pod runs with these
//! <dataDir>/<network>/<boot id>/pending_orl77a….41c…_10.244.0.6              ADD is under way, or was killed
//! ```
//!
//! Guarantees:
//! * A record appears, changes its state and disappears by one `rename` or `unlink` each. A plugin killed between any two
//!   instructions leaves a whole record or none, and the record is there before the first interface is.
//! * One listing of the directory is all that an allocation reads; files are opened only to tell dead attachments from
//!   live ones.
//! * No file is replaced: several file systems write one to the disk at once when another is renamed onto it.
//! * Records of another boot count for nothing: their namespaces ended with that boot. As the boot id is part of the path,
//!   whatever a power cut made of unsynced files is never looked at, so nothing here waits for a disk: a `kill` cannot
//!   lose what was written, only the end of the boot can, and that voids it anyway.
//!
//! Only the choice of an address is serialised, by a lock on a file, which also keeps records from changing their names while
//! somebody chooses; all other steps are single atomic operations on a name that belongs to one attachment, and the specification
//! forbids concurrent calls for one.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
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
}

/// A record's name, taken apart as far as nothing needs memory of its own: most records are looked at only to see that they
/// are somebody else's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordName<'a> {
    /// How far ADD came.
    pub state: State,
    /// As [`Record::link`].
    pub link: &'a str,
    /// As [`Record::pod`].
    pub pod: Option<&'a str>,
    addresses: &'a str,
}

impl<'a> RecordName<'a> {
    /// `None` for the other files of the directory.
    fn parse(name: &'a str) -> Option<Self> {
        let (state, rest) = name.split_once('_')?;
        let state = match state {
            "pending" => State::Pending,
            "ready" => State::Ready,
            _ => return None,
        };
        let (names, addresses) = rest.split_once('_').unwrap_or((rest, ""));
        let (link, pod) = match names.split_once('.') {
            Some((link, pod)) => (link, Some(pod)),
            None => (names, None),
        };
        Some(RecordName {
            state,
            link,
            pod,
            addresses,
        })
    }

    fn addresses(self) -> impl Iterator<Item = Option<IpAddr>> + 'a {
        let parts = self.addresses.split('_').filter(|part| !part.is_empty());
        parts.map(|part| part.parse().ok())
    }

    /// The whole record; `None` if its addresses are none: then this is no name of ours.
    pub fn record(self) -> Option<Record> {
        Some(Record {
            state: self.state,
            link: self.link.to_owned(),
            pod: self.pod.map(str::to_owned),
            addresses: self.addresses().collect::<Option<_>>()?,
        })
    }
}

/// The names in a directory, one after the other.
#[derive(Debug, Default)]
struct Listing(String);

impl Listing {
    /// What ends a name, as none can contain it.
    const END: char = '/';

    /// Reads a directory; empty if it does not exist.
    fn read(dir: &Path) -> Result<Self, Error> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Listing::default()),
            Err(source) => return Err(Error::io("list", dir)(source)),
        };
        let mut names = String::new();
        for entry in entries {
            let name = entry.map_err(Error::io("list", dir))?.file_name();
            names.push_str(&name.to_string_lossy());
            names.push(Self::END);
        }
        Ok(Listing(names))
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.0.split_terminator(Self::END)
    }

    fn records(&self) -> impl Iterator<Item = RecordName<'_>> {
        self.names().filter_map(RecordName::parse)
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

/// The file that is locked, below the network's directory.
const LOCK: &str = "lock";

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

    fn lock_path(&self) -> PathBuf {
        self.network_dir.join(LOCK)
    }

    /// Takes the lock and lists the records.
    ///
    /// # Errors
    /// The directory cannot be made or listed.
    pub fn ledger(&self) -> Result<Ledger<'_>, Error> {
        let path = self.lock_path();
        let open = || {
            let mut options = File::options();
            options.create(true).truncate(false).read(true).write(true);
            options.open(&path)
        };
        let lock = open().or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => fs::create_dir_all(&self.network_dir).and_then(|()| open()),
            _ => Err(error),
        });
        let lock = lock.map_err(Error::io("open", &path))?;
        // The kernel drops the lock with the descriptor, also when the process is killed.
        lock.lock().map_err(Error::io("lock", &path))?;
        self.forget_other_boots()?;
        Ok(Ledger {
            ipam: self,
            lock,
            listing: Listing::read(&self.boot_dir)?,
        })
    }

    /// Marks a pending record as done.
    ///
    /// # Errors
    /// The record is gone, or the directory cannot be written; the record is then as before.
    pub fn commit(&self, record: &mut Record) -> Result<(), Error> {
        // Whoever lists a directory meanwhile may see neither the old nor the new name, and give the addresses away.
        let path = self.lock_path();
        let lock = File::open(&path).map_err(Error::io("open", &path))?;
        lock.lock_shared().map_err(Error::io("lock", &path))?;
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
        let listing = Listing::read(&self.boot_dir)?;
        Ok(listing.records().filter_map(RecordName::record).collect())
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
        let ledger = self.ledger()?;
        let held = ledger.held();
        if allocate(ranges, held, &[], &[]).is_ok() {
            return Ok(());
        }
        let records = self.records()?;
        let dead = self.dead(records.clone())?;
        let alive = records.iter().filter(|record| !dead.contains(record));
        let held = alive.flat_map(|record| record.addresses.iter().copied());
        allocate(ranges, held.collect(), &[], &[]).map(drop)
    }

    /// Removes the records of other boots, and makes a directory for those of this one if there is none.
    fn forget_other_boots(&self) -> Result<(), Error> {
        let mut is_there = false;
        for name in Listing::read(&self.network_dir)?.names() {
            if name == LOCK {
                continue;
            }
            let path = self.network_dir.join(name);
            if path == self.boot_dir {
                is_there = true;
            // Only folders are boots: what somebody has laid beside them is neither ours nor in the way.
            } else if path.is_dir() {
                fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
            }
        }
        if is_there {
            return Ok(());
        }
        fs::create_dir_all(&self.boot_dir).map_err(Error::io("create", &self.boot_dir))
    }
}

/// The records while nobody else can reserve an address.
#[derive(Debug)]
pub struct Ledger<'a> {
    ipam: &'a Ipam,
    /// Locked, and holds the addresses given last, a line each up to an empty one.
    lock: File,
    listing: Listing,
}

impl Ledger<'_> {
    /// All records of this boot.
    pub fn records(&self) -> impl Iterator<Item = RecordName<'_>> {
        self.listing.records()
    }

    /// Reserves one address of each range, as a pending record: the one in `wanted`, if that is in the range.
    ///
    /// # Errors
    /// [`Error::Exhausted`], [`Error::Taken`] or a failed file operation; none leaves a record.
    pub fn reserve(
        self,
        link: &str,
        owner: &Owner,
        ranges: &[Range],
        wanted: &[IpAddr],
    ) -> Result<Record, Error> {
        let record = Record {
            state: State::Pending,
            link: link.to_owned(),
            pod: owner.pod_uid.as_ref().map(|uid| pod_tag(uid, &owner.ifname)),
            addresses: allocate(ranges, self.held(), &self.cursor(), wanted)?,
        };
        let content = serde_json::to_vec(owner).expect("a record's owner is plain data");
        // The temporary name is fixed, so that the next caller overwrites what a killed one left.
        let temporary = self.ipam.boot_dir.join("temporary");
        fs::write(&temporary, content).map_err(Error::io("write", &temporary))?;
        let path = self.ipam.boot_dir.join(record.file_name());
        fs::rename(&temporary, &path).map_err(Error::io("create", &path))?;
        // Being killed before this only means that the next attachment looks at a taken address first.
        let mut cursor: String = record
            .addresses
            .iter()
            .map(|address| format!("{address}\n"))
            .collect();
        cursor.push('\n');
        let written = self.lock.write_all_at(cursor.as_bytes(), 0);
        written.map_err(Error::io("write", &self.ipam.lock_path()))?;
        Ok(record)
    }

    /// The addresses given last. A file that says something else, such as after a power cut, is as good as an empty one.
    fn cursor(&self) -> Vec<IpAddr> {
        let mut text = [0; 128];
        let length = self.lock.read_at(&mut text, 0).unwrap_or_default();
        let text = str::from_utf8(&text[..length]).unwrap_or_default();
        let lines = text.lines().take_while(|line| !line.is_empty());
        lines.filter_map(|line| line.parse().ok()).collect()
    }

    fn held(&self) -> Vec<IpAddr> {
        self.records().flat_map(RecordName::addresses).flatten().collect()
    }
}

/// One address of each range, the wanted one or else one after the cursor's; pure.
fn allocate(
    ranges: &[Range],
    mut held: Vec<IpAddr>,
    cursor: &[IpAddr],
    wanted: &[IpAddr],
) -> Result<Vec<IpAddr>, Error> {
    held.sort_unstable();
    ranges
        .iter()
        .map(|&range| {
            if let Some(&address) = wanted.iter().find(|&&address| range.contains(address)) {
                return match held.binary_search(&address) {
                    Ok(_) => Err(Error::Taken { address }),
                    Err(_) => Ok(address),
                };
            }
            let last = cursor.iter().copied().find(|&address| range.contains(address));
            range.next_free(&held, last).ok_or_else(|| Error::Exhausted {
                range,
                held: held.iter().filter(|&&address| range.contains(address)).count(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests;
