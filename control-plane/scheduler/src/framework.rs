//! What a plugin is: a pure judgement about one pod on one node. Plugins live one to a file below [`crate::plugins`].
//!
//! A plugin whose judgement also depends on other nodes (spreading, affinity between pods) or on objects that must be
//! reserved (volumes) needs more than these two traits; they are the next step, and what they add goes here.

use std::borrow::Cow;

use crate::{node::NodeInfo, pod::PodInfo};

/// The best score a plugin gives.
pub(crate) const MAX_NODE_SCORE: i64 = 100;

/// Why a pod cannot go to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) code: Code,
    /// For users, counted over all nodes in the event. Never empty.
    pub(crate) reasons: Vec<Cow<'static, str>>,
}

/// What would help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// The pod could go there were other pods not.
    Unschedulable,
    /// No removal of pods changes that.
    UnschedulableAndUnresolvable,
}

impl Rejection {
    pub(crate) fn unschedulable(reason: &'static str) -> Rejection {
        Rejection {
            code: Code::Unschedulable,
            reasons: vec![Cow::Borrowed(reason)],
        }
    }

    pub(crate) fn unresolvable(reason: &'static str) -> Rejection {
        Rejection {
            code: Code::UnschedulableAndUnresolvable,
            reasons: vec![Cow::Borrowed(reason)],
        }
    }
}

/// Says whether a pod can run on a node.
pub(crate) trait Filter: Sync {
    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection>;
}

/// Says how good a node is for a pod that can run there.
pub(crate) trait Score: Sync {
    /// How much the plugin's opinion counts.
    fn weight(&self) -> i64;

    /// From 0 to [`MAX_NODE_SCORE`], or in a unit of its own that [`Self::normalize`] brings there.
    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64;

    /// Sees the scores of all candidate nodes at once.
    fn normalize(&self, _scores: &mut [i64]) {}
}

/// Stretches scores so that the highest becomes [`MAX_NODE_SCORE`]; `reverse` makes the lowest the best.
pub(crate) fn normalize_to_highest(scores: &mut [i64], reverse: bool) {
    let highest = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let stretched = if highest == 0 {
            0
        } else {
            *score * MAX_NODE_SCORE / highest
        };
        *score = if reverse {
            MAX_NODE_SCORE - stretched
        } else {
            stretched
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows as in `TestDefaultNormalizeScore` (kube-scheduler v1.34).
    #[test]
    fn normalizing() {
        for (reverse, scores, expected) in [
            (false, [1, 2, 3, 4], [25, 50, 75, 100]),
            (true, [1, 2, 3, 4], [75, 50, 25, 0]),
            (false, [1000, 10, 20, 30], [100, 1, 2, 3]),
            (true, [1000, 10, 20, 30], [0, 99, 98, 97]),
            (false, [0, 0, 0, 0], [0, 0, 0, 0]),
            (true, [0, 0, 0, 0], [100, 100, 100, 100]),
        ] {
            let mut normalized = scores;
            normalize_to_highest(&mut normalized, reverse);
            assert_eq!(normalized, expected, "{scores:?} reverse {reverse}");
        }
    }
}
