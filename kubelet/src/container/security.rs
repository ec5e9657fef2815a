//! A container's security context: its own fields over the pod's. Pure.

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Capabilities, Container, Pod, SeccompProfile};

use crate::{pod, sandbox};

/// Files of the kernel that a container is not to see.
const MASKED_PATHS: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Files of the kernel that a container is not to write.
const READ_ONLY_PATHS: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// A container that may not run as the spec has it. Displays as the message of `CreateContainerConfigError`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecurityError {
    /// The spec asks for root.
    #[error("container's runAsUser breaks non-root policy (pod: \"{pod}\", container: {container})")]
    RunsAsRoot {
        /// Name, namespace and uid.
        pod: String,
        /// Its name.
        container: String,
    },
    /// The image asks for root.
    #[error("container has runAsNonRoot and image will run as root (pod: \"{pod}\", container: {container})")]
    ImageRunsAsRoot {
        /// Name, namespace and uid.
        pod: String,
        /// Its name.
        container: String,
    },
    /// The image names a user that cannot be judged from outside.
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: \"{pod}\", container: {container})"
    )]
    NonNumericUser {
        /// The image's user.
        user: String,
        /// Name, namespace and uid.
        pod: String,
        /// Its name.
        container: String,
    },
}

/// The security context CRI is given, or why the container may not run.
pub fn security_context(
    pod: &Pod,
    container: &Container,
    image: &cri::Image,
) -> Result<cri::LinuxContainerSecurityContext, SecurityError> {
    let of_pod = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.security_context.clone())
        .unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let user = own.run_as_user.or(of_pod.run_as_user);
    let image_uid = image.uid.as_ref().map(|uid| uid.value);
    if own.run_as_non_root.or(of_pod.run_as_non_root) == Some(true) {
        verify_non_root(pod, container, user, image_uid, &image.username)?;
    }
    let privileged = own.privileged.unwrap_or_default();
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |paths: &[&str]| match unmasked {
        true => Vec::new(),
        false => paths.iter().map(|path| (*path).to_owned()).collect(),
    };
    let run_as_user = user.or(image_uid);
    Ok(cri::LinuxContainerSecurityContext {
        capabilities: own.capabilities.map(capabilities),
        privileged,
        namespace_options: Some(sandbox::namespace_options(pod)),
        run_as_username: if run_as_user.is_none() {
            image.username.clone()
        } else {
            String::new()
        },
        run_as_user: run_as_user.map(|value| cri::Int64Value { value }),
        run_as_group: own
            .run_as_group
            .or(of_pod.run_as_group)
            .map(|value| cri::Int64Value { value }),
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or_default(),
        supplemental_groups: sandbox::supplemental_groups(pod),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(MASKED_PATHS),
        readonly_paths: paths(READ_ONLY_PATHS),
        seccomp: Some(seccomp(
            own.seccomp_profile
                .or(of_pod.seccomp_profile)
                .filter(|_| !privileged),
        )),
        ..Default::default()
    })
}

fn verify_non_root(
    pod: &Pod,
    container: &Container,
    user: Option<i64>,
    image_uid: Option<i64>,
    image_user: &str,
) -> Result<(), SecurityError> {
    let pod = pod::format(pod);
    let container = container.name.clone();
    match (user, image_uid) {
        (Some(0), _) => Err(SecurityError::RunsAsRoot { pod, container }),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => Err(SecurityError::ImageRunsAsRoot { pod, container }),
        (None, Some(_)) => Ok(()),
        (None, None) if image_user.is_empty() => Err(SecurityError::ImageRunsAsRoot { pod, container }),
        (None, None) => Err(SecurityError::NonNumericUser {
            user: image_user.to_owned(),
            pod,
            container,
        }),
    }
}

fn capabilities(capabilities: Capabilities) -> cri::Capability {
    cri::Capability {
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        ..Default::default()
    }
}

fn seccomp(profile: Option<SeccompProfile>) -> cri::SecurityProfile {
    use cri::security_profile::ProfileType;
    let (kind, localhost_ref) = match profile {
        Some(profile) if profile.type_ == "RuntimeDefault" => (ProfileType::RuntimeDefault, String::new()),
        Some(profile) if profile.type_ == "Localhost" => (
            ProfileType::Localhost,
            profile.localhost_profile.unwrap_or_default(),
        ),
        _ => (ProfileType::Unconfined, String::new()),
    };
    cri::SecurityProfile {
        profile_type: kind.into(),
        localhost_ref,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{PodSecurityContext, PodSpec, SecurityContext};

    use super::*;

    fn check(
        pod_user: Option<i64>,
        own: SecurityContext,
        image: cri::Image,
    ) -> Result<cri::LinuxContainerSecurityContext, SecurityError> {
        let container = Container {
            name: "c".into(),
            security_context: Some(own),
            ..Default::default()
        };
        let pod = Pod {
            spec: Some(PodSpec {
                security_context: Some(PodSecurityContext {
                    run_as_user: pod_user,
                    fs_group: Some(2000),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        security_context(&pod, &container, &image)
    }

    fn image(uid: Option<i64>, username: &str) -> cri::Image {
        cri::Image {
            uid: uid.map(|value| cri::Int64Value { value }),
            username: username.into(),
            ..Default::default()
        }
    }

    /// Rows follow upstream's TestVerifyRunAsNonRoot (pkg/kubelet/kuberuntime/security_context_others_test.go).
    #[test]
    fn non_root() {
        let non_root = |user| SecurityContext {
            run_as_non_root: Some(true),
            run_as_user: user,
            ..Default::default()
        };
        assert!(check(None, non_root(Some(1000)), image(Some(0), "")).is_ok());
        assert!(check(Some(1000), non_root(None), image(Some(0), "")).is_ok());
        assert!(check(None, non_root(None), image(Some(5), "")).is_ok());
        assert!(matches!(
            check(None, non_root(Some(0)), image(Some(5), "")),
            Err(SecurityError::RunsAsRoot { .. })
        ));
        for root in [image(Some(0), ""), image(None, "")] {
            assert!(matches!(
                check(None, non_root(None), root),
                Err(SecurityError::ImageRunsAsRoot { .. })
            ));
        }
        assert!(matches!(
            check(None, non_root(None), image(None, "nginx")),
            Err(SecurityError::NonNumericUser { .. })
        ));
        assert!(check(None, SecurityContext::default(), image(Some(0), "")).is_ok());
    }

    #[test]
    fn own_fields_win() {
        let own = SecurityContext {
            run_as_user: Some(7),
            allow_privilege_escalation: Some(false),
            ..Default::default()
        };
        let context = check(Some(1000), own, image(Some(0), "")).expect("allowed");
        assert_eq!(context.run_as_user.map(|user| user.value), Some(7));
        assert!(context.no_new_privs);
        assert_eq!(context.supplemental_groups, [2000]);
        assert!(context.masked_paths.contains(&"/proc/kcore".to_owned()));
        let privileged = SecurityContext {
            privileged: Some(true),
            ..Default::default()
        };
        assert!(
            check(None, privileged, image(None, ""))
                .expect("allowed")
                .masked_paths
                .is_empty()
        );
    }
}
