//! One pass over a pod's volumes: from each source to its directory.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ConfigMap, EmptyDirVolumeSource, KeyToPath, Pod, ProjectedVolumeSource, Secret,
    ServiceAccountTokenProjection, Volume,
};

use super::{
    MountedVolume, VolumeManager, atomic, blocking, empty_dir, files, host_path, is_path_element,
    payload::{self, Payload, ProjectedFile, Selection},
    token::{self, Age, Lifetime},
};
use crate::{pod, quantity};

/// The API's default mode of projected files.
const DEFAULT_MODE: u32 = 0o644;
/// Tokens of pods that run under a known user or group are for them alone.
const PRIVATE_TOKEN_MODE: u32 = 0o600;

/// Where a volume's content lives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Medium {
    Disk,
    Memory,
}

/// One mount pass of one pod.
pub(super) struct Pass<'a> {
    manager: &'a VolumeManager,
    pod: &'a Pod,
    pod_dir: PathBuf,
    fs_group: Option<u32>,
    refresh_tokens_in: Option<Duration>,
}

impl<'a> Pass<'a> {
    pub(super) fn new(manager: &'a VolumeManager, pod: &'a Pod, pod_dir: PathBuf) -> Self {
        Self {
            manager,
            pod,
            pod_dir,
            fs_group: fs_group(pod),
            refresh_tokens_in: None,
        }
    }

    /// When the earliest of the tokens seen so far wants another pass.
    pub(super) fn refresh_tokens_in(&self) -> Option<Duration> {
        self.refresh_tokens_in
    }

    /// Makes one volume; the error is the reason as users read it.
    pub(super) async fn set_up(&mut self, volume: &Volume) -> Result<MountedVolume, String> {
        if !is_path_element(&volume.name) {
            return Err(format!("\"{}\" cannot name a directory", volume.name));
        }
        if let Some(source) = &volume.empty_dir {
            return self.empty_dir(&volume.name, source).await;
        }
        if let Some(source) = &volume.host_path {
            let (path, kind) = (source.path.clone(), source.type_.clone().unwrap_or_default());
            let checked = blocking(move || Ok(host_path::check(&path, &kind))).await;
            checked.map_err(|error| error.to_string())??;
            return Ok(MountedVolume {
                host_path: source.path.clone().into(),
                read_only: false,
            });
        }
        if let Some(source) = &volume.config_map {
            let optional = source.optional.unwrap_or(false);
            let selection = selection(source.items.as_deref(), source.default_mode, optional);
            let payload = self.config_map(&source.name, selection).await?;
            return self
                .content("configmap", &volume.name, Medium::Disk, payload)
                .await;
        }
        if let Some(source) = &volume.secret {
            let optional = source.optional.unwrap_or(false);
            let selection = selection(source.items.as_deref(), source.default_mode, optional);
            let name = source.secret_name.as_deref().unwrap_or_default();
            let payload = self.secret(name, selection).await?;
            return self
                .content("secret", &volume.name, Medium::Memory, payload)
                .await;
        }
        if let Some(source) = &volume.downward_api {
            let items = source.items.as_deref().unwrap_or_default();
            let allocatable = &self.manager.config.allocatable;
            let payload = payload::downward_api(self.pod, items, mode(source.default_mode), allocatable)?;
            return self
                .content("downward-api", &volume.name, Medium::Memory, payload)
                .await;
        }
        if let Some(source) = &volume.projected {
            let payload = self.projected(&volume.name, source).await?;
            return self
                .content("projected", &volume.name, Medium::Memory, payload)
                .await;
        }
        Err(format!(
            "no volume plugin matched: this kubelet has none for {}",
            source_name(volume).unwrap_or_else(|| "an empty source".into())
        ))
    }

    fn volume_dir(&self, plugin: &str, name: &str) -> PathBuf {
        self.pod_dir
            .join("volumes")
            .join(format!("kubernetes.io~{plugin}"))
            .join(name)
    }

    async fn empty_dir(&self, name: &str, source: &EmptyDirVolumeSource) -> Result<MountedVolume, String> {
        let dir = self.volume_dir("empty-dir", name);
        let fs_group = self.fs_group;
        let host_path = dir.clone();
        let made = match source.medium.as_deref() {
            None | Some("") => blocking(move || empty_dir::on_disk(&dir, fs_group)).await,
            Some("Memory") => {
                let size = memory_size(self.pod, source)?;
                blocking(move || empty_dir::in_memory(&dir, size, fs_group)).await
            }
            Some(other) => {
                return Err(format!(
                    "emptyDir medium \"{other}\" is not supported by this kubelet"
                ));
            }
        };
        made.map_err(|error| format!("{}: {error}", host_path.display()))?;
        Ok(MountedVolume {
            host_path,
            read_only: false,
        })
    }

    async fn config_map(&self, name: &str, selection: Selection<'_>) -> Result<Payload, String> {
        let object = self
            .manager
            .objects
            .config_map(pod::namespace(self.pod), name)
            .await;
        let object = match object.map_err(|error| error.to_string())? {
            Some(object) => object,
            None if selection.optional => Arc::new(ConfigMap::default()),
            None => return Err(format!("configmap \"{name}\" not found")),
        };
        payload::config_map(&object, selection)
    }

    async fn secret(&self, name: &str, selection: Selection<'_>) -> Result<Payload, String> {
        let object = self.manager.objects.secret(pod::namespace(self.pod), name).await;
        let object = match object.map_err(|error| error.to_string())? {
            Some(object) => object,
            None if selection.optional => Arc::new(Secret::default()),
            None => return Err(format!("secret \"{name}\" not found")),
        };
        payload::secret(&object, selection)
    }

    async fn projected(&mut self, name: &str, source: &ProjectedVolumeSource) -> Result<Payload, String> {
        let mut payload = Payload::new();
        let mut errors = Vec::new();
        for projection in source.sources.iter().flatten() {
            let files = if let Some(inner) = &projection.config_map {
                let optional = inner.optional.unwrap_or(false);
                let selection = selection(inner.items.as_deref(), source.default_mode, optional);
                self.config_map(&inner.name, selection).await
            } else if let Some(inner) = &projection.secret {
                let optional = inner.optional.unwrap_or(false);
                let selection = selection(inner.items.as_deref(), source.default_mode, optional);
                self.secret(&inner.name, selection).await
            } else if let Some(inner) = &projection.downward_api {
                let items = inner.items.as_deref().unwrap_or_default();
                let allocatable = &self.manager.config.allocatable;
                payload::downward_api(self.pod, items, mode(source.default_mode), allocatable)
            } else if let Some(inner) = &projection.service_account_token {
                self.token(name, inner, mode(source.default_mode)).await
            } else if projection.cluster_trust_bundle.is_some() {
                Err("clusterTrustBundle projections are not supported by this kubelet".into())
            } else if projection.pod_certificate.is_some() {
                Err("podCertificate projections are not supported by this kubelet".into())
            } else {
                Ok(Payload::new())
            };
            match files {
                Ok(files) => payload.extend(files),
                Err(error) => errors.push(error),
            }
        }
        match errors.len() {
            0 => Ok(payload),
            1 => Err(errors.remove(0)),
            _ => Err(format!("[{}]", errors.join(", "))),
        }
    }

    /// The token on disk while it is fresh, a new one otherwise; the old one again when none can be had.
    async fn token(
        &mut self,
        volume: &str,
        projection: &ServiceAccountTokenProjection,
        default_mode: u32,
    ) -> Result<Payload, String> {
        let path = self
            .volume_dir("projected", volume)
            .join("..data")
            .join(&projection.path);
        let old = tokio::fs::read_to_string(&path).await.ok();
        let old_age = old
            .as_deref()
            .and_then(Lifetime::of)
            .map(|lifetime| lifetime.age(Timestamp::now()));
        let token = match (old, old_age) {
            (Some(old), Some(Age::Fresh(left))) => {
                self.refresh_within(left);
                old
            }
            (old, age) => match token::request(&self.manager.client, self.pod, projection).await {
                Ok(new) => {
                    if let Some(Age::Fresh(left)) = Lifetime::of(&new).map(|life| life.age(Timestamp::now()))
                    {
                        self.refresh_within(left);
                    }
                    new
                }
                Err(reason) => match old.filter(|_| age == Some(Age::Due)) {
                    Some(old) => {
                        tracing::warn!(pod = %pod::format(self.pod), reason, "token refresh failed, will retry");
                        self.refresh_within(token::RETRY_REFRESH);
                        old
                    }
                    None => return Err(reason),
                },
            },
        };
        let owner = fs_user(self.pod);
        let mode = if owner.is_some() || self.fs_group.is_some() {
            PRIVATE_TOKEN_MODE
        } else {
            default_mode
        };
        let file = ProjectedFile {
            data: token.into_bytes(),
            mode,
            owner,
        };
        Ok([(projection.path.clone(), file)].into())
    }

    fn refresh_within(&mut self, left: Duration) {
        let earliest = self.refresh_tokens_in.map_or(left, |earlier| earlier.min(left));
        self.refresh_tokens_in = Some(earliest);
    }

    /// Brings a volume's files up to date. Containers mount such a volume read-only.
    async fn content(
        &self,
        plugin: &str,
        name: &str,
        medium: Medium,
        payload: Payload,
    ) -> Result<MountedVolume, String> {
        let dir = self.volume_dir(plugin, name);
        let host_path = dir.clone();
        let fs_group = self.fs_group;
        blocking(move || write_content(&dir, medium, &payload, fs_group))
            .await
            .map_err(|error| error.to_string())?;
        Ok(MountedVolume {
            host_path,
            read_only: true,
        })
    }
}

fn write_content(
    dir: &Path,
    medium: Medium,
    payload: &Payload,
    fs_group: Option<u32>,
) -> std::io::Result<()> {
    match medium {
        Medium::Disk => files::make_dir(dir, 0o777).map(drop)?,
        Medium::Memory => empty_dir::in_memory(dir, None, fs_group)?,
    }
    if let Some(group) = fs_group {
        files::give_to_group(dir, group, true)?;
    }
    atomic::write(dir, payload, |content| match fs_group {
        Some(group) => files::give_tree_to_group(content, group, true),
        None => Ok(()),
    })
    .map(drop)
}

fn selection(items: Option<&[KeyToPath]>, default_mode: Option<i32>, optional: bool) -> Selection<'_> {
    Selection {
        items,
        default_mode: mode(default_mode),
        optional,
    }
}

fn mode(default_mode: Option<i32>) -> u32 {
    default_mode
        .and_then(|mode| u32::try_from(mode).ok())
        .unwrap_or(DEFAULT_MODE)
}

fn fs_group(pod: &Pod) -> Option<u32> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    u32::try_from(context.fs_group?).ok()
}

/// The user all containers run as, when the pod says so and it is one and the same.
fn fs_user(pod: &Pod) -> Option<u32> {
    let pod_user = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.security_context.as_ref())
        .and_then(|context| context.run_as_user);
    let mut users = pod::all_containers(pod).map(|container| {
        container
            .security_context
            .as_ref()
            .and_then(|context| context.run_as_user)
            .or(pod_user)
    });
    let first = users.next()??;
    users
        .all(|user| user == Some(first))
        .then(|| u32::try_from(first).ok())?
}

/// The least of the volume's own limit and what the pod's containers may use together.
fn memory_size(pod: &Pod, source: &EmptyDirVolumeSource) -> Result<Option<i64>, String> {
    let own = match &source.size_limit {
        Some(limit) => {
            Some(quantity::value(limit).ok_or_else(|| format!("sizeLimit: \"{}\" is no quantity", limit.0))?)
        }
        None => None,
    }
    .filter(|limit| *limit > 0);
    let limits = pod::containers(pod).iter().map(|container| {
        let limits = container.resources.as_ref()?.limits.as_ref()?;
        quantity::value(limits.get("memory")?)
    });
    // One container without a limit leaves the pod without one.
    let pod_limit: Option<i64> = limits.sum::<Option<i64>>().filter(|limit| *limit > 0);
    Ok(match (own, pod_limit) {
        (Some(own), Some(pod)) => Some(own.min(pod)),
        (own, pod) => own.or(pod),
    })
}

/// The field that holds the volume's source, as the API names it.
fn source_name(volume: &Volume) -> Option<String> {
    let serde_json::Value::Object(fields) = serde_json::to_value(volume).ok()? else {
        return None;
    };
    fields
        .into_iter()
        .map(|(name, _)| name)
        .find(|name| name != "name")
}
