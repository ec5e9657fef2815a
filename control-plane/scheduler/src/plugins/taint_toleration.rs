//! `TaintToleration`: a node's taints keep away pods that do not tolerate them, or make it a worse choice.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::{
    framework::{Filter, Rejection, Score, normalize_to_highest},
    node::NodeInfo,
    pod::PodInfo,
};

const REASON: &str = "node(s) had untolerated taint(s)";

pub(crate) struct TaintToleration;

impl Filter for TaintToleration {
    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let untolerated = |taint: &Taint| {
            matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
                && !tolerates(&pod.constraints.tolerations, taint)
        };
        if node.properties.taints.iter().any(untolerated) {
            return Err(Rejection::unresolvable(REASON));
        }
        Ok(())
    }
}

impl Score for TaintToleration {
    fn weight(&self) -> i64 {
        3
    }

    /// How many taints would rather not have the pod.
    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let unwelcome = |taint: &&Taint| {
            taint.effect == "PreferNoSchedule" && !tolerates(&pod.constraints.tolerations, taint)
        };
        node.properties.taints.iter().filter(unwelcome).count() as i64
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize_to_highest(scores, true);
    }
}

pub(super) fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| matches(toleration, taint))
}

/// An absent effect tolerates all effects, an absent key with `Exists` all taints.
fn matches(toleration: &Toleration, taint: &Taint) -> bool {
    let is_unset_or = |text: &Option<String>, value: &str| {
        text.as_deref()
            .is_none_or(|text| text.is_empty() || text == value)
    };
    is_unset_or(&toleration.effect, &taint.effect)
        && is_unset_or(&toleration.key, &taint.key)
        && match toleration.operator.as_deref() {
            None | Some("" | "Equal") => {
                toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
            }
            Some(operator) => operator == "Exists",
        }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{node, pod};

    fn check(toleration: Value, taint: Value, tolerated: bool) {
        let node = node(json!({"spec": {"taints": [taint.clone()]}}));
        let pod = pod(json!({"tolerations": [toleration.clone()]}));
        let expected = if tolerated {
            Ok(())
        } else {
            Err(Rejection::unresolvable(REASON))
        };
        assert_eq!(
            TaintToleration.filter(&pod, &node),
            expected,
            "{toleration} for {taint}"
        );
    }

    /// Rows as in `TestTolerationToleratesTaint` and `TestTaintTolerationFilter` (v1.34).
    #[test]
    fn tolerating() {
        let taint = |effect: &str| json!({"key": "foo", "value": "bar", "effect": effect});
        let foo = |operator: &str, value: &str, effect: &str| json!({"key": "foo", "operator": operator, "value": value, "effect": effect});
        check(foo("Exists", "", "NoSchedule"), taint("NoSchedule"), true);
        check(foo("Exists", "", ""), taint("NoExecute"), true);
        check(foo("Exists", "", "NoSchedule"), taint("NoExecute"), false);
        check(foo("Equal", "bar", "NoSchedule"), taint("NoSchedule"), true);
        check(foo("Equal", "other", "NoSchedule"), taint("NoSchedule"), false);
        check(foo("", "bar", ""), taint("NoSchedule"), true);
        check(foo("Unknown", "bar", ""), taint("NoSchedule"), false);
        check(json!({"operator": "Exists"}), taint("NoSchedule"), true);
        check(
            json!({"key": "other", "operator": "Exists"}),
            taint("NoSchedule"),
            false,
        );
        check(json!({"key": "other"}), taint("PreferNoSchedule"), true);
        check(
            json!({"key": "foo"}),
            json!({"key": "foo", "effect": "NoSchedule"}),
            true,
        );
    }

    #[test]
    fn fewer_unwelcoming_taints_are_better() {
        let taint = |key: &str| json!({"key": key, "effect": "PreferNoSchedule"});
        let nodes = [
            json!([]),
            json!([taint("a")]),
            json!([taint("a"), taint("b"), taint("c")]),
        ];
        let pod = pod(json!({"tolerations": [{"key": "c", "operator": "Exists"}]}));
        let mut scores =
            nodes.map(|taints| TaintToleration.score(&pod, &node(json!({"spec": {"taints": taints}}))));
        assert_eq!(scores, [0, 1, 2]);
        TaintToleration.normalize(&mut scores);
        assert_eq!(scores, [100, 50, 0]);
    }
}
