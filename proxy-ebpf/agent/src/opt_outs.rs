//! Pods whose sockets are left alone: what they send to Services is translated packet by packet.
//!
//! A service mesh's sidecar, or whatever else redirects a pod's packets inside its network namespace, has to see the address
//! that the application named; the socket path would have replaced it by then. Such a pod says so by [`ANNOTATION`].
//!
//! Programs know a pod by the cookie of its network namespace. Where our plugin attaches pods, it has noted the namespace before it
//! makes the pod's device, which is the sign to look: so the pod is known before it has a process. With another plugin it is
//! found by a process of the pod: the path of its cgroup, in whichever hierarchy, holds the pod's UID. The pod's first process is
//! there before its containers are made.

mod records;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    thread,
    time::Duration,
};

use k8s_openapi::api::core::v1 as core;
use kube::runtime::watcher::Event;
use nix::sched::{CloneFlags, setns};
use proxy_ebpf_common::{NetnsCookie, maps};
use tokio::time::Instant;
use tracing::{info, warn};

use self::records::Records;
use crate::{
    agent::chain,
    apply::{Map, MapsError},
    desired::ObjectName,
    objects::Collection,
    sys,
};

/// On a Pod, the value `false` has its sockets left alone.
pub const ANNOTATION: &str = "proxy-ebpf.orlop.dev/socket-path";

/// A pod may be a moment from its first process, or may wait for an image for long.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_LAST: Duration = Duration::from_secs(5);

/// A pod that has opted out.
#[derive(Debug, PartialEq, Eq)]
pub struct OptOut {
    uid: Box<str>,
    /// When these change, its network namespace may be another.
    pod_ips: Vec<String>,
}

impl OptOut {
    /// `None`: the pod has not opted out, or has ended, or is in the node's own network namespace, which it shares with others.
    pub fn from_api(pod: &core::Pod) -> Option<Self> {
        let value = pod.metadata.annotations.as_ref()?.get(ANNOTATION)?;
        if value.trim() != "false" {
            return None;
        }
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        let on_host_network = pod.spec.as_ref()?.host_network == Some(true);
        if on_host_network || matches!(phase, Some("Succeeded" | "Failed")) {
            return None;
        }
        let pod_ips = status.and_then(|status| status.pod_ips.as_ref());
        Some(Self {
            uid: pod.metadata.uid.as_deref().filter(|uid| !uid.is_empty())?.into(),
            pod_ips: pod_ips.into_iter().flatten().map(|ip| ip.ip.clone()).collect(),
        })
    }
}

/// Keeps the table of network namespaces in step with the pods. Nothing else writes it.
#[derive(Debug)]
pub struct OptOuts {
    table: Map,
    pods: Collection<ObjectName, OptOut>,
    /// Cookies of the network namespaces of each pod that was found, by its UID.
    found: HashMap<Box<str>, BTreeSet<u64>>,
    /// What the table holds; `None`: that has to be read.
    written: Option<BTreeSet<u64>>,
    due: bool,
    delay: Duration,
    retry: Option<Instant>,
    /// Whether the kernel tells cookies.
    supported: bool,
    /// Those of our plugin, if it is in charge.
    records: Option<Records>,
}

impl OptOuts {
    /// Opens the pinned table. `cni_data_dir` is where our plugin keeps its records, if it attaches this node's pods.
    pub fn open(maps_dir: &Path, supported: bool, cni_data_dir: Option<&Path>) -> Result<Self, MapsError> {
        Ok(Self {
            table: Map::open::<NetnsCookie, u32>(maps_dir, maps::OPTED_OUT)?,
            pods: Collection::default(),
            found: HashMap::new(),
            written: None,
            due: true,
            delay: RETRY_FIRST,
            retry: None,
            supported,
            records: cni_data_dir.map(Records::new),
        })
    }

    /// Takes in an event of the watch on this node's Pods.
    pub fn on_pod(&mut self, event: Event<(ObjectName, Option<OptOut>)>) {
        let Self { found, due, pods, .. } = self;
        pods.on_event(event, |name, old, new| {
            for pod in old.into_iter().chain(new) {
                found.remove(&pod.uid);
            }
            if let (None, Some(pod)) = (old, new) {
                info!(%name, uid = &*pod.uid, "the pod opts out of the socket path");
            }
            *due = true;
        });
        if self.due {
            self.delay = RETRY_FIRST;
        }
    }

    /// Says that a pod may just have got its network namespace.
    pub fn look_again(&mut self) {
        let may_be_on_record = self.records.is_some() && !self.pods.current().is_empty();
        if self.retry.is_some() || may_be_on_record {
            self.delay = RETRY_FIRST;
            self.due = true;
        }
    }

    /// When to reconcile again although nothing was said.
    pub fn retry(&self) -> Option<Instant> {
        self.retry
    }

    /// Brings the table in step, if that is due. What fails is logged and tried again.
    pub fn reconcile(&mut self) {
        let now = Instant::now();
        if !self.pods.synced() || !(self.due || self.retry.is_some_and(|retry| retry <= now)) {
            return;
        }
        self.due = false;
        self.retry = None;
        if !self.supported {
            if !self.pods.current().is_empty() {
                warn!("the kernel is older than 5.14: pods cannot opt out of the socket path");
            }
            return;
        }
        let complete = self.try_reconcile().unwrap_or_else(|error| {
            warn!(error = %chain(&error), "pods that opt out may be on the socket path, will retry");
            self.written = None;
            false
        });
        if !complete {
            self.retry = Some(Instant::now() + self.delay);
            self.delay = (self.delay * 2).min(RETRY_LAST);
        }
    }

    /// Whether every pod was found.
    fn try_reconcile(&mut self) -> Result<bool, MapsError> {
        // Of all pods, since one that was found may have got another sandbox.
        if let Some(records) = &mut self.records {
            let uids: BTreeSet<_> = self.pods.current().values().map(|pod| &*pod.uid).collect();
            let own = own_namespace();
            let cookie = |file: &File| cookie_of(file, own.as_ref());
            for (uid, cookie) in records.cookies(|uid| uids.contains(uid), cookie) {
                self.found.entry(uid.into()).or_default().insert(cookie);
            }
        }
        let missing: BTreeSet<_> = self
            .pods
            .current()
            .values()
            .map(|pod| &*pod.uid)
            .filter(|uid| !self.found.contains_key(*uid))
            .collect();
        let found = if missing.is_empty() {
            HashMap::new()
        } else {
            cookies(&missing)
        };
        let complete = found.len() == missing.len();
        self.found.extend(found);
        let wanted: BTreeSet<u64> = self.found.values().flatten().copied().collect();
        let written = match &self.written {
            Some(written) => written,
            None => {
                let entries = self.table.read::<NetnsCookie, u32>()?;
                let cookies = entries
                    .into_iter()
                    .map(|(NetnsCookie([low, high]), _)| u64::from(low) | u64::from(high) << 32);
                self.written.insert(cookies.collect())
            }
        };
        let key = |cookie: &u64| NetnsCookie([*cookie as u32, (*cookie >> 32) as u32]);
        let put: Vec<_> = wanted
            .difference(written)
            .map(|cookie| (key(cookie), 1_u32))
            .collect();
        // As long as one is missing, what an earlier agent has left may be that one's.
        let gone: Vec<_> = if complete {
            written.difference(&wanted).map(key).collect()
        } else {
            Vec::new()
        };
        self.table.update(&put)?;
        self.table.delete(&gone)?;
        self.written = Some(if complete {
            wanted
        } else {
            wanted.union(written).copied().collect()
        });
        Ok(complete)
    }
}

/// The cookies of the network namespaces that processes of these pods are in. Processes come and go meanwhile: what cannot be
/// read is as good as gone.
fn cookies(uids: &BTreeSet<&str>) -> HashMap<Box<str>, BTreeSet<u64>> {
    let mut namespaces = BTreeMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = process.path();
        let Ok(cgroups) = fs::read_to_string(path.join("cgroup")) else {
            continue;
        };
        let Some(uid) = uids.iter().find(|uid| is_of_pod(&cgroups, uid)) else {
            continue;
        };
        let path = path.join("ns/net");
        let Ok(name) = fs::read_link(&path) else { continue };
        if let Ok(file) = File::open(path) {
            namespaces.insert((*uid, name), file);
        }
    }
    let own = own_namespace();
    let mut found = HashMap::<Box<str>, BTreeSet<u64>>::new();
    for ((uid, _), file) in namespaces {
        if let Some(cookie) = cookie_of(&file, own.as_ref()) {
            found.entry(uid.into()).or_default().insert(cookie);
        }
    }
    found
}

/// Device and inode number of this process's network namespace.
fn own_namespace() -> Option<(u64, u64)> {
    let own = fs::metadata("/proc/self/ns/net").ok()?;
    Some((own.dev(), own.ino()))
}

/// The cookie of a network namespace, unless it is `own`.
fn cookie_of(namespace: &File, own: Option<&(u64, u64)>) -> Option<u64> {
    let id = namespace.metadata().ok().map(|file| (file.dev(), file.ino()));
    if own.is_some() && own == id.as_ref() {
        return None;
    }
    cookie(namespace).ok()
}

/// Whether a process's cgroups are below those of a pod: `…/pod<uid>/…`, and with systemd `…-pod<uid with _ for ->.slice/…`.
fn is_of_pod(cgroups: &str, uid: &str) -> bool {
    let plain = format!("pod{uid}");
    let systemd = format!("pod{}.slice", uid.replace('-', "_"));
    cgroups.lines().flat_map(|line| line.split('/')).any(|part| {
        part == plain
            || part == systemd
            || part
                .strip_suffix(&systemd)
                .is_some_and(|before| before.ends_with('-'))
    })
}

/// Of a network namespace, which is entered by a thread of its own.
fn cookie(namespace: &File) -> io::Result<u64> {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            sys::netns_cookie()
        });
        inside
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn opt_out(annotations: Value, spec: Value, phase: &str) -> Option<OptOut> {
        let pod = json!({
            "metadata": { "name": "a", "uid": "1-2", "annotations": annotations },
            "spec": spec,
            "status": { "phase": phase, "podIPs": [{ "ip": "10.244.0.5" }] },
        });
        OptOut::from_api(&serde_json::from_value(pod).expect("a Pod"))
    }

    #[test]
    fn a_pod_opts_out_by_the_word_false() {
        let spec = || json!({ "containers": [] });
        assert!(opt_out(json!({ ANNOTATION: "false" }), spec(), "Pending").is_some());
        assert!(opt_out(json!({ ANNOTATION: " false " }), spec(), "Running").is_some());
        for (annotations, spec, phase) in [
            (json!({ ANNOTATION: "true" }), spec(), "Running"),
            (json!({ ANNOTATION: "" }), spec(), "Running"),
            (json!({}), spec(), "Running"),
            (json!({ ANNOTATION: "false" }), spec(), "Succeeded"),
            (
                json!({ ANNOTATION: "false" }),
                json!({ "containers": [], "hostNetwork": true }),
                "Running",
            ),
        ] {
            assert_eq!(opt_out(annotations, spec, phase), None);
        }
    }

    #[test]
    fn processes_are_known_by_the_paths_of_their_cgroups() {
        let uid = "0a1b-2c3d";
        for (path, expected) in [
            ("0::/kubepods/burstable/pod0a1b-2c3d/f00", true),
            ("12:pids:/x/y\n4:cpu:/kubepods/pod0a1b-2c3d", true),
            (
                "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod0a1b_2c3d.slice/cri-f00.scope",
                true,
            ),
            ("0::/kubepods/burstable/pod0a1b-2c3d4/f00", false),
            (
                "0::/kubepods.slice/kubepods-besteffort-pod0a1b_2c3d4.slice",
                false,
            ),
            ("0::/system.slice/0a1b-2c3d", false),
            ("", false),
        ] {
            assert_eq!(is_of_pod(path, uid), expected, "{path}");
        }
    }
}
