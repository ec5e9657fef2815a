//! How many pods a rollout may add, miss, and give to each ReplicaSet.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::revision;
use crate::objects::{Deployment, ReplicaSet};

pub(super) fn is_rolling(deployment: &Deployment) -> bool {
    deployment.spec.strategy.type_.as_deref() != Some("Recreate")
}

/// A number, or a percentage of `total`; a malformed value counts as zero (the API server refuses it anyway).
fn scaled(value: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    match value {
        // The API server's default.
        None => scaled(Some(&IntOrString::String("25%".into())), total, round_up),
        Some(IntOrString::Int(value)) => *value,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text
                .strip_suffix('%')
                .and_then(|text| text.parse().ok())
                .unwrap_or(0);
            let product = percent * i64::from(total);
            let quotient = if round_up {
                product.div_euclid(100) + i64::from(product % 100 != 0)
            } else {
                product / 100
            };
            i32::try_from(quotient).unwrap_or(i32::MAX)
        }
    }
}

/// (surge, unavailable) for `replicas`. Both zero would never move: then one pod may be missing.
fn fenceposts(deployment: &Deployment) -> (i32, i32) {
    let rolling = deployment.spec.strategy.rolling_update.as_ref();
    let replicas = deployment.spec.replicas;
    let surge = scaled(
        rolling.and_then(|rolling| rolling.max_surge.as_ref()),
        replicas,
        true,
    );
    let unavailable = scaled(
        rolling.and_then(|rolling| rolling.max_unavailable.as_ref()),
        replicas,
        false,
    );
    if surge == 0 && unavailable == 0 {
        (0, 1)
    } else {
        (surge, unavailable)
    }
}

/// Pods above the wanted number that a rollout may have.
pub(super) fn max_surge(deployment: &Deployment) -> i32 {
    if is_rolling(deployment) {
        fenceposts(deployment).0
    } else {
        0
    }
}

/// Pods below the wanted number that a rollout may leave available.
pub(super) fn max_unavailable(deployment: &Deployment) -> i32 {
    if !is_rolling(deployment) || deployment.spec.replicas == 0 {
        return 0;
    }
    fenceposts(deployment).1.min(deployment.spec.replicas)
}

/// The size that the new set may have while all sets together have `current_pods`.
pub(super) fn new_set_replicas(deployment: &Deployment, current_pods: i32, new_set: i32) -> i32 {
    let wanted = deployment.spec.replicas;
    if !is_rolling(deployment) {
        return wanted;
    }
    let most = wanted + max_surge(deployment);
    if current_pods >= most {
        new_set
    } else {
        new_set + (most - current_pods).min(wanted - new_set)
    }
}

/// The share of `to_add` pods (negative: to remove) that falls on `set`, of which `added` are given out already.
pub(super) fn proportion(
    set: &ReplicaSet,
    replicas: i32,
    deployment: &Deployment,
    to_add: i32,
    added: i32,
) -> i32 {
    if replicas == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let fraction = fraction(set, replicas, deployment);
    let allowed = to_add - added;
    if to_add > 0 {
        fraction.min(allowed)
    } else {
        fraction.max(allowed)
    }
}

/// How much `set` grows if it keeps its part of the whole, whose size before the change its annotation tells.
fn fraction(set: &ReplicaSet, replicas: i32, deployment: &Deployment) -> i32 {
    if deployment.spec.replicas == 0 {
        return -replicas;
    }
    let size = f64::from(deployment.spec.replicas + max_surge(deployment));
    let before = match revision::number(&set.metadata, revision::MAX_REPLICAS) {
        Some(before) if before != 0 => before,
        // Without the annotation the present size is the best guess.
        _ => i64::from(deployment.status.replicas.unwrap_or(0)),
    };
    if before == 0 {
        return 0;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "replica counts are small"
    )]
    let new_size = (f64::from(replicas) * size / before as f64).round() as i32;
    new_size - replicas
}
