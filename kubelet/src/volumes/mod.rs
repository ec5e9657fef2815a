//! Volumes of the pods on this node: what is made on disk, what a container mounts, what is taken away again.
//!
//! Owns everything below `<root-dir>/pods/<uid>/volumes` and `<root-dir>/pods/<uid>/volume-subpaths`, under the paths
//! upstream uses, so that a stock kubelet and this one can take over from each other.
//!
//! Invariant: disk and the mount table are the only record. A mount pass compares what should be there with what is,
//! so that the first pass after a restart is the same as every other, and repeating one changes nothing. API objects
//! arrive through [`ObjectCache`], whose events only wake the pods concerned.

mod atomic;
pub mod downward;
mod empty_dir;
mod files;
mod host_path;
mod mount_table;
mod objects;
mod payload;
mod set_up;
mod sub_path;
mod token;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_cri::v1::{Mount, MountPropagation};
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use tokio_util::task::AbortOnDropHandle;

pub use downward::Allocatable;
pub use objects::{ObjectCache, ObjectError};

use crate::pod;

/// Called with a pod's uid when its worker has a reason to look again.
pub type Wake = Arc<dyn Fn(&str) + Send + Sync>;

/// Why a pod's volumes are not ready. Displays as the message of a `FailedMount` (or `Failed`) event.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A volume could not be made or refreshed.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {reason}")]
    SetUp {
        /// The volume's name in the pod.
        volume: String,
        /// What went wrong, in upstream's words where it has some.
        reason: String,
    },
    /// A container mounts a volume that the pod does not have.
    #[error("cannot find volume \"{volume}\" to mount into container \"{container}\"")]
    UnknownVolume {
        /// The name in the container's `volumeMounts`.
        volume: String,
        /// The container's name.
        container: String,
    },
    /// A `subPath` or `subPathExpr` could not be prepared.
    #[error("failed to prepare subPath for volumeMount \"{volume}\" of container \"{container}\": {reason}")]
    SubPath {
        /// The name in the container's `volumeMounts`.
        volume: String,
        /// The container's name.
        container: String,
        /// What went wrong.
        reason: String,
    },
    /// A mount asks for something this node cannot give.
    #[error("volumeMount \"{volume}\" of container \"{container}\": {reason}")]
    Mount {
        /// The name in the container's `volumeMounts`.
        volume: String,
        /// The container's name.
        container: String,
        /// What went wrong.
        reason: String,
    },
    /// A pod's directory could not be taken away.
    #[error("removing the volumes of pod {pod_uid}: {source}")]
    Remove {
        /// The pod.
        pod_uid: String,
        /// The failed step.
        #[source]
        source: std::io::Error,
    },
    /// The pod's uid cannot be the name of a directory.
    #[error("\"{0}\" is no pod uid")]
    BadUid(String),
}

/// What the volume manager must know of its node.
#[derive(Debug, Clone)]
pub struct VolumeConfig {
    /// `--root-dir`.
    pub root_dir: PathBuf,
    /// The node's allocatable resources: the default of `resourceFieldRef` limits.
    pub allocatable: Allocatable,
}

/// A pod's volumes as they are on disk after a mount pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodVolumes {
    volumes: BTreeMap<String, MountedVolume>,
}

/// One volume of [`PodVolumes`].
#[derive(Debug, Clone, PartialEq, Eq)]
struct MountedVolume {
    host_path: PathBuf,
    /// Content that the kubelet alone writes is mounted read-only whatever the container asks for.
    read_only: bool,
}

/// Makes, refreshes and removes the volumes of this node's pods.
pub struct VolumeManager {
    config: VolumeConfig,
    client: kube::Client,
    objects: Arc<ObjectCache>,
    wake: Wake,
    /// Timers that wake a pod when one of its tokens is due.
    token_timers: Mutex<HashMap<String, AbortOnDropHandle<()>>>,
}

impl VolumeManager {
    /// A manager of the pods below `config.root_dir`.
    pub fn new(config: VolumeConfig, client: kube::Client, objects: Arc<ObjectCache>, wake: Wake) -> Self {
        Self {
            config,
            client,
            objects,
            wake,
            token_timers: Mutex::default(),
        }
    }

    /// The ConfigMaps and Secrets that pods here refer to.
    pub fn objects(&self) -> &Arc<ObjectCache> {
        &self.objects
    }

    /// Makes the pod's volumes, or brings their content up to date. Call it at every sync of a pod that runs.
    ///
    /// Guarantees: nothing is written when nothing changed; a file's old and new content are never mixed.
    ///
    /// Errors: every volume is attempted; the first failure is returned, and what was made stays.
    pub async fn mount(&self, pod: &Pod) -> Result<PodVolumes, VolumeError> {
        let pod_dir = self.pod_dir(pod::uid(pod))?;
        self.objects.register(pod);
        let mut pass = set_up::Pass::new(self, pod, pod_dir);
        let mut volumes = PodVolumes::default();
        let mut first_error = None;
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            match pass.set_up(volume).await {
                Ok(mounted) => {
                    volumes.volumes.insert(volume.name.clone(), mounted);
                }
                Err(reason) => {
                    first_error.get_or_insert(VolumeError::SetUp {
                        volume: volume.name.clone(),
                        reason,
                    });
                }
            }
        }
        self.arm_token_timer(pod::uid(pod), pass.refresh_tokens_in());
        match first_error {
            None => Ok(volumes),
            Some(error) => Err(error),
        }
    }

    /// The CRI mounts of a container's `volumeMounts`, in their order. `env` is the container's environment, which
    /// `subPathExpr` refers to. A `subPath` is resolved and bound here, so call it right before creating the container.
    pub fn mounts(
        &self,
        pod: &Pod,
        container: &Container,
        volumes: &PodVolumes,
        env: &BTreeMap<String, String>,
    ) -> Result<Vec<Mount>, VolumeError> {
        let pod_dir = self.pod_dir(pod::uid(pod))?;
        container
            .volume_mounts
            .iter()
            .flatten()
            .enumerate()
            .map(|(index, mount)| cri_mount(&pod_dir, container, volumes, env, mount, index))
            .collect()
    }

    /// Unmounts everything below the pod's directory and removes the directory. Repeating it is harmless.
    ///
    /// Errors: as long as something stays mounted there, nothing is deleted, since it could be foreign data.
    pub async fn unmount_all(&self, pod_uid: &str) -> Result<(), VolumeError> {
        let pod_dir = self.pod_dir(pod_uid)?;
        self.token_timers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(pod_uid);
        self.objects.unregister(pod_uid);
        blocking(move || mount_table::remove_tree(&pod_dir))
            .await
            .map_err(|source| VolumeError::Remove {
                pod_uid: pod_uid.to_owned(),
                source,
            })
    }

    /// The uids of pods that have a directory here but are not `known`: left by pods deleted while no kubelet ran.
    pub fn orphans(&self, known: &HashSet<String>) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.config.root_dir.join("pods")) else {
            return Vec::new();
        };
        let mut orphans: Vec<String> = entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|uid| !known.contains(uid))
            .collect();
        orphans.sort();
        orphans
    }

    fn pod_dir(&self, pod_uid: &str) -> Result<PathBuf, VolumeError> {
        if !is_path_element(pod_uid) {
            return Err(VolumeError::BadUid(pod_uid.to_owned()));
        }
        Ok(self.config.root_dir.join("pods").join(pod_uid))
    }

    fn arm_token_timer(&self, pod_uid: &str, refresh_in: Option<Duration>) {
        let mut timers = self.token_timers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(refresh_in) = refresh_in else {
            timers.remove(pod_uid);
            return;
        };
        let wake = self.wake.clone();
        let uid = pod_uid.to_owned();
        let timer = tokio::spawn(async move {
            tokio::time::sleep(refresh_in).await;
            wake(&uid);
        });
        timers.insert(pod_uid.to_owned(), AbortOnDropHandle::new(timer));
    }
}

/// Runs file system work off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(join) => Err(std::io::Error::other(join)),
    }
}

/// Uids and volume names become directories: static pods bring them unvalidated.
fn is_path_element(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0'])
}

fn cri_mount(
    pod_dir: &Path,
    container: &Container,
    volumes: &PodVolumes,
    env: &BTreeMap<String, String>,
    mount: &VolumeMount,
    index: usize,
) -> Result<Mount, VolumeError> {
    let Some(volume) = volumes.volumes.get(&mount.name) else {
        return Err(VolumeError::UnknownVolume {
            volume: mount.name.clone(),
            container: container.name.clone(),
        });
    };
    let refused = |reason: String| VolumeError::Mount {
        volume: mount.name.clone(),
        container: container.name.clone(),
        reason,
    };
    let sub_path_failed = |reason: String| VolumeError::SubPath {
        volume: mount.name.clone(),
        container: container.name.clone(),
        reason,
    };
    let sub_path = match (mount.sub_path.as_deref(), mount.sub_path_expr.as_deref()) {
        (_, Some(expression)) if !expression.is_empty() => {
            sub_path::expand(expression, env).map_err(sub_path_failed)?
        }
        (path, _) => path.unwrap_or_default().to_owned(),
    };
    let host_path = if sub_path.is_empty() {
        volume.host_path.clone()
    } else {
        let target = pod_dir
            .join("volume-subpaths")
            .join(&mount.name)
            .join(&container.name)
            .join(index.to_string());
        sub_path::bind(&volume.host_path, &sub_path, &target).map_err(sub_path_failed)?;
        target
    };
    let propagation = match mount.mount_propagation.as_deref() {
        None | Some("" | "None") => MountPropagation::PropagationPrivate,
        Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => MountPropagation::PropagationBidirectional,
        Some(other) => return Err(refused(format!("invalid MountPropagation mode: \"{other}\""))),
    };
    // `IfPossible` means plain read-only where the runtime has no recursive one; containerd 1.6 has none.
    if mount.recursive_read_only.as_deref() == Some("Enabled") {
        return Err(refused(
            "recursive read-only mount is not supported by the container runtime".into(),
        ));
    }
    let container_path = if mount.mount_path.starts_with('/') {
        mount.mount_path.clone()
    } else {
        format!("/{}", mount.mount_path)
    };
    Ok(Mount {
        container_path,
        host_path: host_path.to_string_lossy().into_owned(),
        readonly: volume.read_only || mount.read_only.unwrap_or(false),
        propagation: propagation.into(),
        ..Default::default()
    })
}
