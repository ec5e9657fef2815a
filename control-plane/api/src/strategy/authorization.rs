//! Reviews: answered, never stored.

use super::kind::Kind;

/// Reviews at cluster scope.
pub(super) static CLUSTER_REVIEW: Kind =
    review(Kind::cluster("io.k8s.api.authorization.v1.SubjectAccessReview"));
/// Reviews of what may be done in a namespace.
pub(super) static LOCAL_REVIEW: Kind = review(Kind::namespaced(
    "io.k8s.api.authorization.v1.LocalSubjectAccessReview",
));

const fn review(kind: Kind) -> Kind {
    kind.prepares_create(|_, _| ())
}
