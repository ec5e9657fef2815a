//! What is left of a namespace, and how its conditions tell.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NamespaceCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::objects::Meta;
use crate::rest::Resource;

/// How often the content of a namespace is looked at while pods end gracefully. Their last one wakes us before.
const PODS_WAIT: Duration = Duration::from_secs(5);

/// What one round of deletion left.
#[derive(Debug, Default)]
pub(super) struct Remains {
    pub(super) discovery_failures: Vec<String>,
    pub(super) deletion_failures: Vec<String>,
    /// Objects left, by `plural.group`.
    resources: BTreeMap<String, usize>,
    /// Objects left, by finalizer.
    finalizers: BTreeMap<String, usize>,
    pods: usize,
}

impl Remains {
    pub(super) fn add(&mut self, resource: &Resource, items: impl Iterator<Item = Meta>) {
        let mut count = 0;
        for item in items {
            count += 1;
            for finalizer in item.finalizers {
                *self.finalizers.entry(finalizer).or_default() += 1;
            }
        }
        if count > 0 {
            self.resources
                .insert(format!("{}.{}", resource.plural, resource.group), count);
            if resource.group.is_empty() && &*resource.plural == "pods" {
                self.pods += count;
            }
        }
    }

    pub(super) fn has_content(&self) -> bool {
        !self.resources.is_empty() || !self.deletion_failures.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.has_content() && self.discovery_failures.is_empty()
    }

    /// Pods take their grace period; there is no point in asking more and more rarely, as after a failure.
    pub(super) fn wait(&self) -> Option<Duration> {
        (self.pods > 0 && self.deletion_failures.is_empty()).then_some(PODS_WAIT)
    }

    pub(super) fn summary(&self) -> String {
        let mut parts = self.discovery_failures.clone();
        parts.extend(self.deletion_failures.iter().cloned());
        parts.extend(self.resources_message());
        parts.join("; ")
    }

    fn resources_message(&self) -> Option<String> {
        if self.resources.is_empty() {
            return None;
        }
        let parts: Vec<_> = self
            .resources
            .iter()
            .map(|(name, count)| format!("{name} has {count} resource instances"))
            .collect();
        Some(format!("Some resources are remaining: {}", parts.join(", ")))
    }

    fn finalizers_message(&self) -> Option<String> {
        if self.finalizers.is_empty() {
            return None;
        }
        let parts: Vec<_> = self
            .finalizers
            .iter()
            .map(|(name, count)| format!("{name} in {count} resource instances"))
            .collect();
        Some(format!(
            "Some content in the namespace has finalizers remaining: {}",
            parts.join(", ")
        ))
    }

    /// The namespace's conditions; the ones of `old` that say the same keep their time.
    pub(super) fn conditions(&self, old: &[NamespaceCondition], now: Timestamp) -> Vec<NamespaceCondition> {
        let joined = |failures: &[String]| (!failures.is_empty()).then(|| failures.join(", "));
        let rows = [
            (
                "NamespaceDeletionDiscoveryFailure",
                joined(&self.discovery_failures),
                (
                    "DiscoveryFailed",
                    "ResourcesDiscovered",
                    "All resources successfully discovered",
                ),
            ),
            (
                "NamespaceDeletionGroupVersionParsingFailure",
                None,
                (
                    "GroupVersionParsingFailed",
                    "ParsedGroupVersions",
                    "All legacy kube types successfully parsed",
                ),
            ),
            (
                "NamespaceDeletionContentFailure",
                joined(&self.deletion_failures),
                (
                    "ContentDeletionFailed",
                    "ContentDeleted",
                    "All content successfully deleted, may be waiting on finalization",
                ),
            ),
            (
                "NamespaceContentRemaining",
                self.resources_message(),
                (
                    "SomeResourcesRemain",
                    "ContentRemoved",
                    "All content successfully removed",
                ),
            ),
            (
                "NamespaceFinalizersRemaining",
                self.finalizers_message(),
                (
                    "SomeFinalizersRemain",
                    "ContentHasNoFinalizers",
                    "All content-preserving finalizers finished",
                ),
            ),
        ];
        let mut conditions = old.to_vec();
        for (type_, failure, (failed_reason, ok_reason, ok_message)) in rows {
            let (status, reason, message) = match failure {
                Some(message) => ("True", failed_reason, message),
                None => ("False", ok_reason, ok_message.to_owned()),
            };
            let current = conditions.iter().position(|condition| condition.type_ == type_);
            let unchanged = current.is_some_and(|index| {
                let current = &conditions[index];
                current.status == status
                    && current.reason.as_deref() == Some(reason)
                    && current.message.as_ref() == Some(&message)
            });
            if unchanged {
                continue;
            }
            let condition = NamespaceCondition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_transition_time: Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now))),
            };
            match current {
                Some(index) => conditions[index] = condition,
                None => conditions.push(condition),
            }
        }
        conditions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(finalizers: &[&str]) -> Meta {
        Meta {
            finalizers: finalizers.iter().map(|name| (*name).to_owned()).collect(),
            ..Meta::default()
        }
    }

    fn statuses(conditions: &[NamespaceCondition]) -> Vec<(&str, &str)> {
        conditions
            .iter()
            .map(|condition| (&*condition.type_, &*condition.status))
            .collect()
    }

    #[test]
    fn an_empty_namespace_can_go() {
        let remains = Remains::default();
        assert!(remains.is_empty());
        let conditions = remains.conditions(&[], Timestamp::UNIX_EPOCH);
        assert!(statuses(&conditions).iter().all(|(_, status)| *status == "False"));
        let later = remains.conditions(&conditions, "2026-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(later, conditions, "what says the same keeps its time");
    }

    #[test]
    fn pods_are_waited_for() {
        let mut remains = Remains::default();
        remains.add(
            &Resource::new("", "v1", "Pod", "pods", true),
            [meta(&[])].into_iter(),
        );
        assert!(!remains.is_empty());
        assert_eq!(remains.wait(), Some(PODS_WAIT));
        assert_eq!(
            remains.summary(),
            "Some resources are remaining: pods. has 1 resource instances"
        );
    }

    #[test]
    fn finalizers_are_named() {
        let mut remains = Remains::default();
        let crontabs = Resource::new("example.com", "v1", "CronTab", "crontabs", true);
        remains.add(&crontabs, [meta(&["a/b"]), meta(&["a/b", "c"])].into_iter());
        assert_eq!(remains.wait(), None);
        let conditions = remains.conditions(&[], Timestamp::UNIX_EPOCH);
        let message = |type_: &str| {
            let condition = conditions
                .iter()
                .find(|condition| condition.type_ == type_)
                .unwrap();
            (condition.status.clone(), condition.message.clone().unwrap())
        };
        assert_eq!(
            message("NamespaceContentRemaining"),
            (
                "True".into(),
                "Some resources are remaining: crontabs.example.com has 2 resource instances".into()
            )
        );
        assert_eq!(
            message("NamespaceFinalizersRemaining"),
            (
                "True".into(),
                "Some content in the namespace has finalizers remaining: a/b in 2 resource instances, c in 1 resource instances"
                    .into()
            )
        );
    }

    #[test]
    fn a_group_that_does_not_answer_holds_the_namespace() {
        let remains = Remains {
            discovery_failures: vec!["metrics.k8s.io/v1beta1: down".into()],
            ..Remains::default()
        };
        assert!(!remains.is_empty());
        let conditions = remains.conditions(&[], Timestamp::UNIX_EPOCH);
        assert_eq!(
            statuses(&conditions)[0],
            ("NamespaceDeletionDiscoveryFailure", "True")
        );
    }
}
