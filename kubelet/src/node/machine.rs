//! What the machine is and has, read once at start.

use std::{fs, io, path::Path};

use k8s_openapi::api::core::v1::NodeSystemInfo;

use crate::{config::FileConfig, volumes::Allocatable};

/// The machine's resources and identity.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Machine {
    /// Processors online, in thousandths.
    pub cpu_milli: i64,
    /// Memory in bytes.
    pub memory_bytes: i64,
    /// Size of the file system below `--root-dir`, in bytes.
    pub storage_bytes: i64,
    /// Huge pages by their size in KiB: how many bytes of them.
    pub huge_pages: Vec<(u64, i64)>,
    /// Kernel, distribution, ids.
    pub info: NodeSystemInfo,
}

/// What of the machine pods may use.
pub type Allocated = Allocatable;

impl Machine {
    /// Reads the machine's files. What a machine does not tell (an id, say) stays empty.
    pub fn read(root_dir: &Path) -> io::Result<Self> {
        let processors = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN)?.unwrap_or(1);
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        let storage = nix::sys::statvfs::statvfs(root_dir)?;
        let storage_bytes = u128::from(storage.blocks()) * u128::from(storage.fragment_size());
        let uname = nix::sys::utsname::uname()?;
        let read = |path: &str| {
            fs::read_to_string(path)
                .map(|text| text.trim().to_owned())
                .unwrap_or_default()
        };
        let machine_id = read("/etc/machine-id");
        let info = NodeSystemInfo {
            architecture: match std::env::consts::ARCH {
                "x86_64" => "amd64".into(),
                "aarch64" => "arm64".into(),
                other => other.into(),
            },
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            kernel_version: uname.release().to_string_lossy().into_owned(),
            kubelet_version: crate::VERSION.into(),
            operating_system: "linux".into(),
            os_image: os_image(&read("/etc/os-release")),
            system_uuid: Some(read("/sys/class/dmi/id/product_uuid"))
                .filter(|uuid| !uuid.is_empty())
                .unwrap_or_else(|| machine_id.clone()),
            machine_id,
            ..Default::default()
        };
        Ok(Self {
            cpu_milli: processors.saturating_mul(1000),
            memory_bytes: total_memory(&meminfo),
            storage_bytes: i64::try_from(storage_bytes).unwrap_or(i64::MAX),
            huge_pages: huge_pages(),
            info,
        })
    }

    /// What is left for pods after reservations.
    pub fn allocatable(&self, file: &FileConfig) -> Allocated {
        Allocated {
            cpu_milli: (self.cpu_milli - file.reserved_cpu).max(0),
            memory: (self.memory_bytes - file.reserved_memory).max(0),
            // The default eviction threshold: nodefs.available<10%.
            ephemeral_storage: self.storage_bytes - self.storage_bytes / 10,
        }
    }
}

fn total_memory(meminfo: &str) -> i64 {
    let kib = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|kib| kib.parse::<i64>().ok());
    kib.unwrap_or_default().saturating_mul(1024)
}

fn os_image(os_release: &str) -> String {
    let name = os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

fn huge_pages() -> Vec<(u64, i64)> {
    let mut sizes: Vec<(u64, i64)> = fs::read_dir("/sys/kernel/mm/hugepages")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let kib: u64 = name
                .strip_prefix("hugepages-")?
                .strip_suffix("kB")?
                .parse()
                .ok()?;
            let count: i64 = fs::read_to_string(entry.path().join("nr_hugepages"))
                .ok()?
                .trim()
                .parse()
                .ok()?;
            Some((
                kib,
                count.saturating_mul(i64::try_from(kib).ok()?.saturating_mul(1024)),
            ))
        })
        .collect();
    sizes.sort_unstable();
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel() {
        assert_eq!(
            total_memory("MemTotal:       24682656 kB\nMemFree: 1 kB\n"),
            24_682_656 * 1024
        );
        assert_eq!(
            os_image("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
            "Debian GNU/Linux 12 (bookworm)"
        );
        assert_eq!(os_image(""), "Linux");
    }

    #[test]
    fn this_machine() {
        let machine = Machine::read(Path::new("/")).expect("/proc is readable");
        assert!(machine.cpu_milli >= 1000);
        assert!(machine.memory_bytes > 64 << 20);
        let allocatable = machine.allocatable(&FileConfig::default());
        assert_eq!(machine.memory_bytes - allocatable.memory, 100 << 20);
    }
}
