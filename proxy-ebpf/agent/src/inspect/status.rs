//! `proxy-ebpf status`: whether an agent runs, what its programs are attached to, and how full its maps are.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use proxy_ebpf_common::LAYOUT_VERSION;
use serde::Serialize;

use super::{columns, device_name, drops};
use crate::{
    metrics::MapUse,
    pins,
    plan::Tables,
    sys::{self, LinkInfo, LinkKind},
};

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Where the pins are.
    pub bpf_dir: PathBuf,
    /// Version of the layout of the maps.
    pub layout_version: u32,
    /// Whether an agent keeps them in step with the API. Traffic is translated without, too.
    pub agent_running: bool,
    /// The programs that run.
    pub programs: Vec<Attached>,
    /// The maps that the agent fills.
    pub maps: Vec<MapUse>,
    /// Memory that the kernel has set aside for all pinned maps, which no process is charged for, in bytes. Of those that
    /// grow entry by entry, what they would take when full is not in it on kernels since 6.4.
    pub map_memory_bytes: u64,
    /// Packets that were dropped since the maps were made, by reason, without those that there are none of.
    pub drops: Vec<Dropped>,
}

/// A pinned link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Attached {
    /// The pin's name: the program's, and where it has several links, what tells them apart.
    pub name: String,
    /// Number of the link.
    pub link: u32,
    /// Number of the program.
    pub program: u32,
    /// The cgroup or device that it is attached to.
    pub to: String,
}

/// How much was dropped for a reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// The reason.
    pub reason: &'static str,
    /// Packets and refused calls.
    pub packets: u64,
    /// Bytes of the packets.
    pub bytes: u64,
}

/// Looks at the pins below `bpf_dir`.
pub fn read(bpf_dir: &Path) -> Result<Status> {
    let maps = super::open(bpf_dir)?;
    let sizes = Tables::new(maps.read()?).sizes();
    let drops = drops::read(&pins::maps_of(bpf_dir))?;
    let drops = drops.into_iter().filter(|(_, count)| count.packets > 0);
    Ok(Status {
        bpf_dir: bpf_dir.to_owned(),
        layout_version: LAYOUT_VERSION,
        agent_running: pins::is_in_use(bpf_dir)?,
        programs: programs(bpf_dir)?,
        maps: maps.usage(sizes),
        map_memory_bytes: map_memory(&pins::maps_of(bpf_dir))?,
        drops: drops
            .map(|(reason, count)| Dropped {
                reason: reason.name(),
                packets: count.packets,
                bytes: count.bytes,
            })
            .collect(),
    })
}

/// What the kernel says of the maps that are pinned here.
fn map_memory(dir: &Path) -> Result<u64> {
    pins::entries(dir)?
        .iter()
        .map(|path| {
            let map = sys::open_pin(path).with_context(|| format!("open {}", path.display()))?;
            let about = format!("/proc/self/fdinfo/{}", map.as_raw_fd());
            let text = fs::read_to_string(&about).with_context(|| format!("read {about}"))?;
            memlock(&text).with_context(|| format!("{about} does not tell the memory of {}", path.display()))
        })
        .sum()
}

/// The bytes in a map's `fdinfo`.
fn memlock(fdinfo: &str) -> Option<u64> {
    let value = fdinfo.lines().find_map(|line| line.strip_prefix("memlock:"))?;
    value.trim().parse().ok()
}

fn programs(bpf_dir: &Path) -> Result<Vec<Attached>> {
    let mut pinned = pins::entries(&pins::links_of(bpf_dir))?;
    pinned.sort();
    let mut cgroups = Vec::new();
    let mut attached = Vec::new();
    for path in pinned {
        let info = sys::open_pin(&path).and_then(|link| sys::link_info(link.as_fd()));
        let info = info.with_context(|| format!("ask for the link {}", path.display()))?;
        attached.push(Attached {
            name: path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            link: info.id,
            program: info.program_id,
            to: target(&info, &mut cgroups),
        });
    }
    Ok(attached)
}

/// `cgroups` remembers those that were found: usually it is the same one for all programs.
fn target(info: &LinkInfo, cgroups: &mut Vec<(u64, String)>) -> String {
    match info.kind {
        LinkKind::CGROUP if info.cgroup_id == 0 => "a cgroup that is gone".to_owned(),
        LinkKind::CGROUP => {
            if let Some((_, path)) = cgroups.iter().find(|(id, _)| *id == info.cgroup_id) {
                return path.clone();
            }
            let path = cgroup_path(info.cgroup_id).unwrap_or_else(|| format!("cgroup {}", info.cgroup_id));
            cgroups.push((info.cgroup_id, path.clone()));
            path
        }
        _ if info.ifindex() == 0 => "a device that is gone".to_owned(),
        _ => device_name(info.ifindex()).unwrap_or_else(|| format!("device {}", info.ifindex())),
    }
}

/// The folder with this inode number, below any cgroup2 hierarchy. It is near the top, if not the top itself.
fn cgroup_path(id: u64) -> Option<String> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mounts = mountinfo.lines().filter(|line| line.contains(" - cgroup2 "));
    let mut level: Vec<PathBuf> = mounts
        .filter_map(|line| line.split(' ').nth(4).map(PathBuf::from))
        .collect();
    while !level.is_empty() {
        if let Some(found) = level
            .iter()
            .find(|path| inode(path).is_ok_and(|inode| inode == id))
        {
            return Some(found.display().to_string());
        }
        level = level.iter().flat_map(|path| folders(path)).collect();
    }
    None
}

fn inode(path: &Path) -> io::Result<u64> {
    Ok(fs::metadata(path)?.ino())
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).collect()
}

impl Status {
    /// For people.
    pub fn table(&self) -> String {
        let agent = if self.agent_running {
            "running"
        } else {
            "not running: the tables stay as they are"
        };
        let programs: Vec<_> = self
            .programs
            .iter()
            .map(|program| {
                [
                    program.name.clone(),
                    program.program.to_string(),
                    program.link.to_string(),
                    program.to.clone(),
                ]
            })
            .collect();
        let maps: Vec<_> = self
            .maps
            .iter()
            .map(|map| {
                let share = map.entries as f64 / f64::from(map.max_entries.max(1));
                [
                    map.name.to_owned(),
                    map.entries.to_string(),
                    map.max_entries.to_string(),
                    format!("{:.1}%", share * 100.0),
                ]
            })
            .collect();
        let drops: Vec<_> = self
            .drops
            .iter()
            .map(|drop| {
                [
                    drop.reason.to_owned(),
                    drop.packets.to_string(),
                    drop.bytes.to_string(),
                ]
            })
            .collect();
        format!(
            "agent: {agent}\npins:  {} (layout {}, {:.1} MiB of kernel memory)\n\n{}\n{}\n{}",
            self.bpf_dir.display(),
            self.layout_version,
            self.map_memory_bytes as f64 / f64::from(1 << 20),
            columns(["PROGRAM", "ID", "LINK", "ATTACHED TO"], &programs),
            columns(["MAP", "ENTRIES", "ROOM", "USED"], &maps),
            if drops.is_empty() {
                "nothing was dropped\n".to_owned()
            } else {
                columns(["DROPPED FOR", "PACKETS", "BYTES"], &drops)
            }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::memlock;

    #[test]
    fn the_memory_of_a_map_is_read() {
        let text = "pos:\t0\nmap_type:\t9\nmax_entries:\t16384\nmemlock:\t3672576\nmap_id:\t7\n";
        assert_eq!(memlock(text), Some(3_672_576));
        assert_eq!(memlock("memlock:\tmuch\n"), None);
        assert_eq!(memlock(""), None);
    }
}
