//! Cgroups of pods: `<cgroup-root>/kubepods/[burstable/|besteffort/]pod<uid>` in every hierarchy.
//!
//! Owns the levels down to the pod; those of containers below belong to runc. With cgroup v1 each controller has its
//! hierarchy; a cgroup2 mount beside them (hybrid) has no controllers, but gets the same directories, since eBPF
//! programs are attached to paths there. Where hierarchies are mounted is read from mountinfo, never assumed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use cgroups_rs::fs::{
    Cgroup, MaxValue, cpu::CpuController, hierarchies, memory::MemController, pid::PidController,
};
use k8s_openapi::{
    api::core::v1::{Container, Pod},
    apimachinery::pkg::api::resource::Quantity,
};

use crate::{
    pod::{self, QosClass},
    quantity,
};

/// The kernel takes no smaller weight.
pub const SHARES_MIN: u64 = 2;
/// The kernel takes no larger weight.
const SHARES_MAX: u64 = 262_144;
/// The CFS period, in microseconds.
pub const QUOTA_PERIOD_US: i64 = 100_000;
/// Shorter quotas than a millisecond per period are rounded up to it.
const QUOTA_MIN_US: i64 = 1000;

/// A cgroup that could not be made, set or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// Making its directories failed.
    #[error("creating cgroup {path}")]
    Create {
        /// Below the mount points.
        path: String,
        /// What the kernel said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A limit could not be set.
    #[error("setting {limit} of cgroup {path}")]
    Set {
        /// Which one.
        limit: &'static str,
        /// Below the mount points.
        path: String,
        /// What the kernel said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Its directories could not be removed.
    #[error("removing cgroup {path}")]
    Remove {
        /// Absolute.
        path: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// What a cgroup is limited to; what is absent stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// CPU weight in cgroup v1's scale.
    pub cpu_shares: Option<u64>,
    /// CPU time per period, in microseconds.
    pub cpu_quota_us: Option<i64>,
    /// Memory, in bytes.
    pub memory_bytes: Option<i64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// The pod cgroups of this node.
#[derive(Debug, Clone)]
pub struct Cgroups {
    /// `<cgroup-root>/kubepods`, absolute in the cgroup namespace.
    root: String,
    /// Mount point of every hierarchy.
    mounts: Vec<PathBuf>,
    /// The cgroup2 mounts among them that no controller library looks at: the hybrid layout.
    unified_without_controllers: Vec<PathBuf>,
}

impl Cgroups {
    /// Finds the hierarchies.
    pub fn new(cgroup_root: &str) -> io::Result<Self> {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
        let (v1, v2) = cgroup_mounts(&mountinfo);
        let unified_without_controllers = if v1.is_empty() { Vec::new() } else { v2.clone() };
        let mounts = v1.into_iter().chain(v2).collect();
        let root = format!("{}/kubepods", cgroup_root.trim_end_matches('/'));
        Ok(Self {
            root,
            mounts,
            unified_without_controllers,
        })
    }

    /// Makes the levels above the pods. `memory_bytes` and `cpu_milli` are what the node gives to pods.
    pub fn set_up(&self, cpu_milli: i64, memory_bytes: i64, besteffort: u64) -> Result<(), CgroupError> {
        let limits = Limits {
            cpu_shares: Some(milli_to_shares(cpu_milli)),
            memory_bytes: Some(memory_bytes),
            ..Limits::default()
        };
        self.apply(&self.root, limits)?;
        self.apply(&format!("{}/burstable", self.root), Limits::default())?;
        let limits = Limits {
            cpu_shares: Some(besteffort),
            ..Limits::default()
        };
        self.apply(&format!("{}/besteffort", self.root), limits)
    }

    /// The CPU weight of all burstable pods together: the sum of what they request.
    pub fn set_burstable_shares(&self, cpu_milli: i64) -> Result<(), CgroupError> {
        let limits = Limits {
            cpu_shares: Some(milli_to_shares(cpu_milli)),
            ..Limits::default()
        };
        self.apply(&format!("{}/burstable", self.root), limits)
    }

    /// The path of a pod's cgroup, as a sandbox's `cgroup_parent` wants it.
    pub fn pod_path(&self, pod: &Pod) -> String {
        let uid = pod::uid(pod);
        match QosClass::of(pod) {
            QosClass::Guaranteed => format!("{}/pod{uid}", self.root),
            QosClass::Burstable => format!("{}/burstable/pod{uid}", self.root),
            QosClass::BestEffort => format!("{}/besteffort/pod{uid}", self.root),
        }
    }

    /// Makes a pod's cgroup and sets its limits. Repeating it is harmless.
    pub fn create_pod(&self, pod: &Pod, pids: Option<u64>, enforce_quota: bool) -> Result<(), CgroupError> {
        let mut limits = pod_limits(pod);
        limits.pids = pids;
        if !enforce_quota {
            limits.cpu_quota_us = None;
        }
        self.apply(&self.pod_path(pod), limits)
    }

    /// Removes a pod's cgroup, whatever its QoS class. Fails while processes are left in it.
    pub fn remove_pod(&self, pod_uid: &str) -> Result<(), CgroupError> {
        for mount in &self.mounts {
            for level in ["", "/burstable", "/besteffort"] {
                let path = format!("{}{level}/pod{pod_uid}", self.root);
                let path = mount.join(path.trim_start_matches('/'));
                remove_tree(&path).map_err(|source| CgroupError::Remove {
                    path: path.display().to_string(),
                    source,
                })?;
            }
        }
        Ok(())
    }

    /// Uids of the pods that have a cgroup.
    pub fn pods(&self) -> std::collections::BTreeSet<String> {
        let mut uids = std::collections::BTreeSet::new();
        for mount in &self.mounts {
            for level in ["", "/burstable", "/besteffort"] {
                let directory = mount.join(format!("{}{level}", self.root).trim_start_matches('/'));
                let entries = fs::read_dir(directory).into_iter().flatten().flatten();
                uids.extend(entries.filter_map(|entry| {
                    entry
                        .file_name()
                        .to_str()
                        .and_then(|name| name.strip_prefix("pod"))
                        .map(str::to_owned)
                }));
            }
        }
        uids
    }

    fn apply(&self, path: &str, limits: Limits) -> Result<(), CgroupError> {
        let relative = path.trim_start_matches('/');
        let create = |source: Box<dyn std::error::Error + Send + Sync>| CgroupError::Create {
            path: path.to_owned(),
            source,
        };
        for mount in &self.unified_without_controllers {
            fs::create_dir_all(mount.join(relative)).map_err(|error| create(error.into()))?;
        }
        let cgroup =
            Cgroup::new(hierarchies::auto(), relative).map_err(|error| create(error.to_string().into()))?;
        let set = |limit: &'static str| {
            move |error: cgroups_rs::fs::error::Error| CgroupError::Set {
                limit,
                path: path.to_owned(),
                source: error.to_string().into(),
            }
        };
        if let Some(cpu) = cgroup.controller_of::<CpuController>() {
            if let Some(shares) = limits.cpu_shares {
                let weight = if cgroup.v2() {
                    shares_to_weight(shares)
                } else {
                    shares
                };
                cpu.set_shares(weight).map_err(set("cpu shares"))?;
            }
            if let Some(quota) = limits.cpu_quota_us {
                let period = u64::try_from(QUOTA_PERIOD_US).ok();
                cpu.set_cfs_quota_and_period(Some(quota), period)
                    .map_err(set("cpu quota"))?;
            }
        }
        if let (Some(memory), Some(bytes)) = (cgroup.controller_of::<MemController>(), limits.memory_bytes) {
            memory.set_limit(bytes).map_err(set("memory limit"))?;
        }
        if let (Some(pids), Some(max)) = (cgroup.controller_of::<PidController>(), limits.pids) {
            let max = MaxValue::Value(i64::try_from(max).unwrap_or(i64::MAX));
            pids.set_pid_max(max).map_err(set("process limit"))?;
        }
        Ok(())
    }
}

/// Mount points of the v1 hierarchies and of cgroup2.
fn cgroup_mounts(mountinfo: &str) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut v1, mut v2) = (Vec::new(), Vec::new());
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let Some(mount_point) = left.split(' ').nth(4) else {
            continue;
        };
        match right.split(' ').next() {
            Some("cgroup") => v1.push(PathBuf::from(mount_point)),
            Some("cgroup2") => v2.push(PathBuf::from(mount_point)),
            _ => {}
        }
    }
    (v1, v2)
}

/// Removes a cgroup and those below it, the deepest first. One that does not exist is fine.
fn remove_tree(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The limits of a pod as a whole.
fn pod_limits(pod: &Pod) -> Limits {
    let shares = milli_to_shares(pod_total(pod, cpu_request));
    match QosClass::of(pod) {
        QosClass::BestEffort => Limits {
            cpu_shares: Some(SHARES_MIN),
            ..Limits::default()
        },
        QosClass::Burstable | QosClass::Guaranteed => {
            let all = |limit: fn(&Container) -> Option<i64>| {
                pod::all_containers(pod).all(|container| limit(container).is_some())
            };
            let total = |limit: fn(&Container) -> Option<i64>| {
                pod_total(pod, |container| limit(container).unwrap_or_default())
            };
            Limits {
                cpu_shares: Some(shares),
                cpu_quota_us: all(cpu_limit).then(|| milli_to_quota(total(cpu_limit))),
                memory_bytes: all(memory_limit).then(|| total(memory_limit)),
                pids: None,
            }
        }
    }
}

/// What the pod needs at most at any time: the regular containers with the sidecars, or one init container with the
/// sidecars started before it.
pub fn pod_total(pod: &Pod, amount: impl Fn(&Container) -> i64) -> i64 {
    let mut sidecars = 0;
    let mut init_peak = 0;
    for init in pod::init_containers(pod) {
        if pod::is_sidecar(init) {
            sidecars += amount(init);
            init_peak = init_peak.max(sidecars);
        } else {
            init_peak = init_peak.max(sidecars + amount(init));
        }
    }
    let regular: i64 = pod::containers(pod).iter().map(&amount).sum();
    init_peak.max(regular + sidecars)
}

fn resource<'a>(container: &'a Container, limit: bool, name: &str) -> Option<&'a Quantity> {
    let resources = container.resources.as_ref()?;
    let list = if limit {
        &resources.limits
    } else {
        &resources.requests
    };
    list.as_ref()?.get(name)
}

/// Thousandths of a core requested; a limit stands in for a missing request.
pub fn cpu_request(container: &Container) -> i64 {
    let request = resource(container, false, "cpu").or_else(|| resource(container, true, "cpu"));
    request.and_then(quantity::milli).unwrap_or_default()
}

/// Thousandths of a core allowed.
pub fn cpu_limit(container: &Container) -> Option<i64> {
    resource(container, true, "cpu")
        .and_then(quantity::milli)
        .filter(|milli| *milli > 0)
}

/// Bytes of memory requested; a limit stands in for a missing request.
pub fn memory_request(container: &Container) -> i64 {
    let request = resource(container, false, "memory").or_else(|| resource(container, true, "memory"));
    request.and_then(quantity::value).unwrap_or_default()
}

/// Bytes of memory allowed.
pub fn memory_limit(container: &Container) -> Option<i64> {
    resource(container, true, "memory")
        .and_then(quantity::value)
        .filter(|bytes| *bytes > 0)
}

/// The CPU weight of a request.
pub fn milli_to_shares(milli: i64) -> u64 {
    (u64::try_from(milli).unwrap_or_default() * 1024 / 1000).clamp(SHARES_MIN, SHARES_MAX)
}

/// The CFS quota of a limit, in microseconds per period.
pub fn milli_to_quota(milli: i64) -> i64 {
    (milli * QUOTA_PERIOD_US / 1000).max(QUOTA_MIN_US)
}

/// cgroup v2's weight (1 to 10,000) for v1's shares (2 to 262,144), as runc converts it.
fn shares_to_weight(shares: u64) -> u64 {
    1 + ((shares.max(SHARES_MIN) - 2) * 9999) / 262_142
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};

    use super::*;

    fn container(requests: &[(&str, &str)], limits: &[(&str, &str)]) -> Container {
        let list = |rows: &[(&str, &str)]| {
            Some(
                rows.iter()
                    .map(|(name, value)| ((*name).into(), Quantity((*value).into())))
                    .collect(),
            )
        };
        Container {
            resources: Some(ResourceRequirements {
                requests: list(requests),
                limits: list(limits),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn pod(init: Vec<Container>, containers: Vec<Container>) -> Pod {
        Pod {
            spec: Some(PodSpec {
                init_containers: Some(init),
                containers,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn limits_of_pods() {
        let both = [("cpu", "100m"), ("memory", "128Mi")];
        let guaranteed = pod(vec![], vec![container(&both, &both)]);
        assert_eq!(
            pod_limits(&guaranteed),
            Limits {
                cpu_shares: Some(102),
                cpu_quota_us: Some(10_000),
                memory_bytes: Some(128 << 20),
                pids: None
            }
        );
        // A container without limits leaves the pod without.
        let burstable = pod(
            vec![],
            vec![container(&both, &both), container(&[("cpu", "200m")], &[])],
        );
        assert_eq!(
            pod_limits(&burstable),
            Limits {
                cpu_shares: Some(307),
                ..Limits::default()
            }
        );
        let besteffort = pod(vec![], vec![container(&[], &[])]);
        assert_eq!(
            pod_limits(&besteffort),
            Limits {
                cpu_shares: Some(2),
                ..Limits::default()
            }
        );
    }

    #[test]
    fn init_containers_count_by_their_peak() {
        let cpu = |milli: &str| container(&[("cpu", milli)], &[]);
        let sidecar = Container {
            restart_policy: Some("Always".into()),
            ..cpu("50m")
        };
        let pod = pod(vec![cpu("100m"), sidecar, cpu("500m")], vec![cpu("200m")]);
        assert_eq!(pod_total(&pod, cpu_request), 550);
    }

    #[test]
    fn conversions() {
        assert_eq!(
            [0, 1, 2000, 100_000_000].map(milli_to_shares),
            [2, 2, 2048, SHARES_MAX]
        );
        assert_eq!([1, 10, 1500].map(milli_to_quota), [1000, 1000, 150_000]);
        assert_eq!([2, 1024, 262_144].map(shares_to_weight), [1, 39, 10_000]);
    }

    #[test]
    fn mounts_of_a_hybrid_host() {
        let mountinfo = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let (v1, v2) = cgroup_mounts(mountinfo);
        assert_eq!(v1, [PathBuf::from("/sys/fs/cgroup/cpu")]);
        assert_eq!(v2, [PathBuf::from("/sys/fs/cgroup/unified")]);
    }

    /// On the kernel that runs the test, below a cgroup of its own. Making cgroups takes root.
    #[test]
    fn life_of_a_pod_cgroup() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: not root");
            return;
        }
        let name = format!("orlop-kubelet-test-{}", std::process::id());
        let cgroups = Cgroups::new(&format!("/{name}")).expect("mountinfo is readable");
        cgroups
            .set_up(2000, 1 << 30, SHARES_MIN)
            .expect("the upper levels");
        let both = [("cpu", "100m"), ("memory", "128Mi")];
        let mut pod = pod(vec![], vec![container(&both, &[])]);
        pod.metadata.uid = Some("uid-1".into());
        for _ in 0..2 {
            cgroups
                .create_pod(&pod, Some(100), true)
                .expect("the pod's cgroup");
        }
        let path = format!("{name}/kubepods/burstable/poduid-1");
        for mount in &cgroups.mounts {
            assert!(
                mount.join(&path).is_dir(),
                "{} is missing",
                mount.join(&path).display()
            );
        }
        assert_eq!(cgroups.pods().into_iter().collect::<Vec<_>>(), ["uid-1"]);
        let cpu = cgroups
            .mounts
            .iter()
            .map(|mount| mount.join(&path))
            .find_map(|directory| {
                let v1 = fs::read_to_string(directory.join("cpu.shares")).ok();
                v1.or_else(|| fs::read_to_string(directory.join("cpu.weight")).ok())
            });
        assert!(
            matches!(cpu.as_deref().map(str::trim), Some("102" | "4")),
            "{cpu:?}"
        );
        cgroups.remove_pod("uid-1").expect("nothing runs in it");
        cgroups.remove_pod("uid-1").expect("it is gone");
        assert!(cgroups.pods().is_empty());
        for mount in &cgroups.mounts {
            remove_tree(&mount.join(&name)).expect("the test's own cgroup");
        }
    }
}
