//! Why a pod found no node, in the words that users know from upstream.

use std::{collections::BTreeMap, fmt};

use crate::{
    framework::{Code, Rejection},
    pod::PodInfo,
};

/// What a scheduling cycle learnt of all nodes. `Display` is the message of the Event and the condition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Diagnosis {
    nodes: usize,
    /// How many nodes gave a reason.
    reasons: BTreeMap<String, usize>,
    /// How many nodes might take the pod were other pods not there.
    resolvable: usize,
    never_preempts: bool,
}

impl Diagnosis {
    pub(crate) fn new(pod: &PodInfo, nodes: usize) -> Diagnosis {
        Diagnosis {
            nodes,
            never_preempts: pod.constraints.never_preempts,
            ..Diagnosis::default()
        }
    }

    /// Counts a node that was looked at.
    pub(crate) fn reject(&mut self, rejection: &Rejection) {
        for reason in &rejection.reasons {
            *self.reasons.entry(reason.to_string()).or_default() += 1;
        }
        if rejection.code == Code::Unschedulable {
            self.resolvable += 1;
        }
    }

    /// Counts nodes that were not looked at, because `plugin` had ruled them out at once.
    pub(crate) fn rule_out(&mut self, nodes: usize, plugin: &str) {
        if nodes > 0 {
            *self
                .reasons
                .entry(format!("node(s) didn't satisfy plugin(s) [{plugin}]"))
                .or_default() += nodes;
        }
    }

    /// What preemption would say; this scheduler evicts nobody.
    fn preemption(&self) -> String {
        if self.never_preempts {
            return "not eligible due to preemptionPolicy=Never.".to_owned();
        }
        let outcomes = [
            (self.resolvable, "No preemption victims found for incoming pod"),
            (
                self.nodes - self.resolvable,
                "Preemption is not helpful for scheduling",
            ),
        ];
        let counted = outcomes.into_iter().filter(|(nodes, _)| *nodes > 0);
        histogram(
            self.nodes,
            counted
                .map(|(nodes, outcome)| format!("{nodes} {outcome}"))
                .collect(),
        )
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let counted = self
            .reasons
            .iter()
            .map(|(reason, nodes)| format!("{nodes} {reason}"));
        let reasons = histogram(self.nodes, counted.collect());
        // Upstream's DynamicResources speaks before its preemption; the words are part of what users search for.
        write!(
            f,
            "{reasons} no new claims to deallocate, preemption: {}",
            self.preemption()
        )
    }
}

fn histogram(nodes: usize, mut counted: Vec<String>) -> String {
    counted.sort();
    format!("0/{nodes} nodes are available: {}.", counted.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::pod;

    /// Messages as kube-scheduler v1.35 writes them.
    #[test]
    fn messages() {
        let (taint, cpu) = ("node(s) had untolerated taint(s)", "Insufficient cpu");
        let mut diagnosis = Diagnosis::new(&pod(json!({})), 1);
        diagnosis.reject(&Rejection::unschedulable(cpu));
        assert_eq!(
            diagnosis.to_string(),
            "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are \
             available: 1 No preemption victims found for incoming pod."
        );

        let mut diagnosis = Diagnosis::new(&pod(json!({})), 3);
        diagnosis.reject(&Rejection::unresolvable(taint));
        diagnosis.reject(&Rejection::unschedulable(cpu));
        diagnosis.reject(&Rejection::unschedulable(cpu));
        assert_eq!(
            diagnosis.to_string(),
            "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. no new claims to \
             deallocate, preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, 2 No \
             preemption victims found for incoming pod."
        );

        let mut diagnosis = Diagnosis::new(&pod(json!({"preemptionPolicy": "Never"})), 2);
        diagnosis.reject(&Rejection::unschedulable(cpu));
        diagnosis.rule_out(1, "NodeAffinity");
        assert_eq!(
            diagnosis.to_string(),
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't satisfy plugin(s) [NodeAffinity]. no new \
             claims to deallocate, preemption: not eligible due to preemptionPolicy=Never."
        );
        assert_eq!(
            Diagnosis::new(&pod(json!({})), 0).to_string(),
            "no nodes available to schedule pods"
        );
    }
}
