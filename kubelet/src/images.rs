//! Images: whether a container's image is present, may be used, or is being pulled.
//!
//! A pull runs beside the pod's worker, which is woken at its end, so that a pod can be deleted while its image
//! arrives. What the last pulls of a pod came to is kept in memory only: a restarted kubelet tries again at once.

mod auth;
pub(crate) mod fuzzing;
mod name;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::{sync::Semaphore, time::Instant};

pub use name::{ImageName, with_default_tag};

use crate::{
    backoff,
    events::{EventType, Recorder},
    pod,
    runtime::Runtime,
    volumes::{ObjectCache, Wake},
};

/// Why a container waits for its image: reason and message of its waiting state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageWaiting {
    /// `ErrImagePull`, `ImagePullBackOff`, …; none while the first pull runs.
    pub reason: Option<&'static str>,
    /// For people.
    pub message: String,
    /// When to ask again; none when a wake will come.
    pub retry_at: Option<Instant>,
}

/// Where a pull for a pod stands.
enum Pull {
    /// In progress; left at its end, by whatever came of it. Carries the failure before it.
    Running {
        previous: Option<String>,
        delay: Duration,
    },
    /// The image has arrived; left when its container has taken notice.
    Done,
    /// Put off; left by the next attempt after `until`.
    Failed {
        message: String,
        delay: Duration,
        until: Instant,
        reported: bool,
    },
}

/// What the image manager works with.
pub struct Images {
    runtime: Runtime,
    recorder: Recorder,
    objects: Arc<ObjectCache>,
    wake: Wake,
    /// Pulls by pod uid and image.
    pulls: Mutex<HashMap<(String, String), Pull>>,
    slots: Arc<Semaphore>,
}

impl Images {
    /// Pulls one image at a time if `serialize`.
    pub fn new(
        runtime: Runtime,
        recorder: Recorder,
        objects: Arc<ObjectCache>,
        wake: Wake,
        serialize: bool,
    ) -> Arc<Self> {
        let slots = Arc::new(Semaphore::new(if serialize { 1 } else { Semaphore::MAX_PERMITS }));
        Arc::new(Self {
            runtime,
            recorder,
            objects,
            wake,
            pulls: Mutex::default(),
            slots,
        })
    }

    fn pulls(&self) -> MutexGuard<'_, HashMap<(String, String), Pull>> {
        self.pulls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The image of `container` when it can be used now; otherwise why it has to wait.
    pub async fn ensure(
        self: &Arc<Self>,
        pod: &Pod,
        container: &Container,
        sandbox: &cri::PodSandboxConfig,
    ) -> Result<cri::Image, ImageWaiting> {
        let asked = container.image.as_deref().unwrap_or_default();
        let warn = |reason: &str, message: &str| {
            self.recorder
                .container(pod, &container.name, EventType::Warning, reason, message);
        };
        let image = match with_default_tag(asked) {
            Ok(image) => image,
            Err(error) => {
                let message = format!("Failed to apply default image tag \"{asked}\": {error}");
                warn("InspectFailed", &message);
                return Err(waiting("InvalidImageName", message, Some(backoff::INITIAL)));
            }
        };
        let present = match self.runtime.image_status(&image).await {
            Ok(present) => present,
            Err(error) => {
                let message = format!("Failed to inspect image \"{image}\": {error}");
                warn("InspectFailed", &message);
                return Err(waiting(
                    "ImageInspectError",
                    message,
                    Some(Duration::from_secs(1)),
                ));
            }
        };
        let key = (pod::uid(pod).to_owned(), image.clone());
        let policy = container
            .image_pull_policy
            .as_deref()
            .unwrap_or_else(|| default_policy(&image));
        let pulled_now = match policy {
            "Always" => self.take_pulled(&key),
            _ => false,
        };
        if let Some(found) = present
            && (policy != "Always" || pulled_now)
        {
            if !pulled_now && !self.take_pulled(&key) {
                let message = format!(
                    "Container image \"{asked}\" already present on machine and can be accessed by the pod"
                );
                self.recorder
                    .container(pod, &container.name, EventType::Normal, "Pulled", message);
            }
            return Ok(found);
        }
        if policy == "Never" {
            let message = format!("Container image \"{asked}\" is not present with pull policy of Never");
            warn("ErrImageNeverPull", &message);
            return Err(waiting("ErrImageNeverPull", message, Some(backoff::INITIAL)));
        }
        Err(self.pull(key, pod, container, asked, sandbox).await)
    }

    /// Forgets the pulls of a pod.
    pub fn remove(&self, pod_uid: &str) {
        self.pulls().retain(|(uid, _), _| uid != pod_uid);
    }

    /// Whether a pull of this pod has just brought the image; the answer is given once.
    fn take_pulled(&self, key: &(String, String)) -> bool {
        let mut pulls = self.pulls();
        let done = matches!(pulls.get(key), Some(Pull::Done));
        if done {
            pulls.remove(key);
        }
        done
    }

    /// Starts a pull unless one runs or is put off; what the container waits for.
    async fn pull(
        self: &Arc<Self>,
        key: (String, String),
        pod: &Pod,
        container: &Container,
        asked: &str,
        sandbox: &cri::PodSandboxConfig,
    ) -> ImageWaiting {
        let now = Instant::now();
        {
            let mut pulls = self.pulls();
            let (previous, delay) = match pulls.get_mut(&key) {
                None | Some(Pull::Done) => (None, Duration::ZERO),
                Some(Pull::Running { previous, .. }) => return pulling(previous.as_deref(), asked),
                Some(Pull::Failed {
                    message,
                    until,
                    reported,
                    ..
                }) if *until > now => {
                    // The failure itself is shown once, the waiting from then on.
                    if !*reported {
                        *reported = true;
                        return ImageWaiting {
                            reason: Some("ErrImagePull"),
                            message: message.clone(),
                            retry_at: Some((now + REPORT_FAILURE).min(*until)),
                        };
                    }
                    let waiting = ImageWaiting {
                        reason: Some("ImagePullBackOff"),
                        message: back_off_message(asked, message),
                        retry_at: Some(*until),
                    };
                    let message = format!("Back-off pulling image \"{asked}\"");
                    self.recorder
                        .container(pod, &container.name, EventType::Normal, "BackOff", message);
                    return waiting;
                }
                Some(Pull::Failed { message, delay, .. }) => (Some(message.clone()), *delay),
            };
            pulls.insert(
                key.clone(),
                Pull::Running {
                    previous: previous.clone(),
                    delay,
                },
            );
        }
        let images = self.clone();
        let (pod, name, sandbox) = (pod.clone(), container.name.clone(), sandbox.clone());
        let asked_for = asked.to_owned();
        tokio::spawn(async move { images.run_pull(key, &pod, &name, &asked_for, sandbox).await });
        pulling(None, asked)
    }

    async fn run_pull(
        &self,
        key: (String, String),
        pod: &Pod,
        container: &str,
        asked: &str,
        sandbox: cri::PodSandboxConfig,
    ) {
        let queued = Instant::now();
        let Ok(_slot) = self.slots.acquire().await else {
            return;
        };
        let message = format!("Pulling image \"{asked}\"");
        self.recorder
            .container(pod, container, EventType::Normal, "Pulling", message);
        let started = Instant::now();
        let result = self.pull_with_credentials(pod, &key.1, sandbox).await;
        let outcome = match result {
            Ok(size) => {
                let message = format!(
                    "Successfully pulled image \"{asked}\" in {} ({} including waiting). Image size: {size} bytes.",
                    milliseconds(started.elapsed()),
                    milliseconds(queued.elapsed()),
                );
                self.recorder
                    .container(pod, container, EventType::Normal, "Pulled", message);
                Pull::Done
            }
            Err(error) => {
                let message = format!("Failed to pull image \"{asked}\": {error}");
                self.recorder
                    .container(pod, container, EventType::Warning, "Failed", message);
                self.recorder.container(
                    pod,
                    container,
                    EventType::Warning,
                    "Failed",
                    "Error: ErrImagePull",
                );
                let delay = match self.pulls().get(&key) {
                    Some(Pull::Running { delay, .. }) => backoff::next_delay(*delay),
                    _ => backoff::INITIAL,
                };
                Pull::Failed {
                    message: error,
                    delay,
                    until: Instant::now() + delay,
                    reported: false,
                }
            }
        };
        {
            let mut pulls = self.pulls();
            // Gone when the pod was removed meanwhile.
            let Some(pull) = pulls.get_mut(&key) else { return };
            *pull = outcome;
        }
        (self.wake)(&key.0);
    }

    /// Tries each credential that fits, then none; the size of the image.
    async fn pull_with_credentials(
        &self,
        pod: &Pod,
        image: &str,
        sandbox: cri::PodSandboxConfig,
    ) -> Result<u64, String> {
        let mut credentials: Vec<Option<cri::AuthConfig>> = Vec::new();
        let secrets = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.image_pull_secrets.as_ref());
        for reference in secrets.into_iter().flatten() {
            if let Ok(Some(secret)) = self.objects.secret(pod::namespace(pod), &reference.name).await {
                credentials.extend(auth::credentials(&secret, image).into_iter().map(Some));
            }
        }
        credentials.push(None);
        let mut last = String::new();
        for auth in credentials {
            match self.runtime.pull_image(image, auth, Some(sandbox.clone())).await {
                Ok(_) => {
                    let status = self.runtime.image_status(image).await.ok().flatten();
                    return Ok(status.map(|image| image.size).unwrap_or_default());
                }
                Err(error) => last = error.to_string(),
            }
        }
        Err(last)
    }
}

/// How long `ErrImagePull` is shown before it becomes `ImagePullBackOff`, which is how long upstream's next sync takes.
const REPORT_FAILURE: Duration = Duration::from_secs(3);

fn pulling(previous: Option<&str>, asked: &str) -> ImageWaiting {
    match previous {
        None => ImageWaiting {
            reason: None,
            message: String::new(),
            retry_at: None,
        },
        Some(previous) => ImageWaiting {
            reason: Some("ImagePullBackOff"),
            message: back_off_message(asked, previous),
            retry_at: None,
        },
    }
}

fn back_off_message(asked: &str, error: &str) -> String {
    format!("Back-off pulling image \"{asked}\": ErrImagePull: {error}")
}

fn milliseconds(duration: Duration) -> String {
    match duration.as_millis() {
        short @ 0..1000 => format!("{short}ms"),
        _ => format!("{:.3}s", duration.as_secs_f64()),
    }
}

fn waiting(reason: &'static str, message: String, retry: Option<Duration>) -> ImageWaiting {
    ImageWaiting {
        reason: Some(reason),
        message,
        retry_at: retry.map(|retry| Instant::now() + retry),
    }
}

fn default_policy(image: &str) -> &'static str {
    if image.ends_with(":latest") {
        "Always"
    } else {
        "IfNotPresent"
    }
}
