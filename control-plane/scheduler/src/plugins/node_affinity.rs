//! `NodeAffinity`: a pod's `nodeSelector` and required node affinity must match, the preferred ones make a node better.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};

use crate::{
    framework::{Filter, Rejection, Score, normalize_to_highest},
    node::NodeInfo,
    pod::{Constraints, PodInfo},
};

const REASON: &str = "node(s) didn't match Pod's node affinity/selector";
/// The only field that a term can match.
const NAME_FIELD: &str = "metadata.name";

pub(crate) struct NodeAffinity;

impl Filter for NodeAffinity {
    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let selector = &pod.constraints.node_selector;
        let selected = selector
            .iter()
            .all(|(key, value)| node.properties.labels.get(key) == Some(value));
        let required = required_terms(&pod.constraints)
            .is_none_or(|terms| terms.iter().any(|term| term_matches(term, node)));
        if selected && required {
            Ok(())
        } else {
            Err(Rejection::unresolvable(REASON))
        }
    }
}

impl Score for NodeAffinity {
    fn weight(&self) -> i64 {
        2
    }

    /// The weights of the preferences that the node meets.
    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let affinity = pod.constraints.node_affinity.as_ref();
        let preferred = affinity.and_then(|affinity| {
            affinity
                .preferred_during_scheduling_ignored_during_execution
                .as_ref()
        });
        let met = preferred
            .into_iter()
            .flatten()
            .filter(|preferred| term_matches(&preferred.preference, node));
        met.map(|preferred| i64::from(preferred.weight)).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize_to_highest(scores, false);
    }
}

/// The nodes that a pod asks for by name, as a DaemonSet's pods do; `None` when it may go to any. No other node needs to
/// be looked at.
pub(crate) fn required_node_names(constraints: &Constraints) -> Option<BTreeSet<&str>> {
    let mut names = BTreeSet::new();
    for term in required_terms(constraints)? {
        let by_name = |field: &&NodeSelectorRequirement| field.key == NAME_FIELD && field.operator == "In";
        let mut fields = term.match_fields.iter().flatten().filter(by_name);
        // One term without a name makes every node a candidate.
        let first = fields.next()?;
        let named = first.values.iter().flatten().map(String::as_str);
        let others: Vec<_> = fields.collect();
        names.extend(named.filter(|name| {
            others
                .iter()
                .all(|field| field.values.iter().flatten().any(|it| it == name))
        }));
    }
    Some(names)
}

fn required_terms(constraints: &Constraints) -> Option<&Vec<NodeSelectorTerm>> {
    let affinity = constraints.node_affinity.as_ref()?;
    let required = affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    Some(&required.node_selector_terms)
}

/// All requirements of a term hold; a term without any matches nothing.
fn term_matches(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let label = |labels: &BTreeMap<String, String>, requirement: &NodeSelectorRequirement| {
        requirement_matches(requirement, labels.get(&requirement.key).map(String::as_str))
    };
    let field = |requirement: &NodeSelectorRequirement| match requirement.key.as_str() {
        NAME_FIELD => requirement_matches(requirement, Some(&node.name)),
        _ => false,
    };
    expressions
        .iter()
        .all(|requirement| label(&node.properties.labels, requirement))
        && fields.iter().all(field)
}

fn requirement_matches(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let is_listed = |value: &str| values.iter().any(|listed| listed == value);
    let compare = |holds: fn(&i64, &i64) -> bool| {
        let number = value.and_then(|value| value.parse().ok());
        let bound = values.first().and_then(|bound| bound.parse().ok());
        number
            .zip(bound)
            .is_some_and(|(number, bound)| holds(&number, &bound))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(is_listed),
        "NotIn" => !value.is_some_and(is_listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{node, pod};

    fn labelled(labels: Value) -> NodeInfo {
        node(json!({"metadata": {"name": "n1", "labels": labels}}))
    }

    fn requiring(terms: Value) -> PodInfo {
        let required = json!({"nodeSelectorTerms": terms});
        pod(
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}),
        )
    }

    fn check(pod: PodInfo, labels: Value, fits: bool) {
        let expected = if fits {
            Ok(())
        } else {
            Err(Rejection::unresolvable(REASON))
        };
        assert_eq!(NodeAffinity.filter(&pod, &labelled(labels)), expected, "{pod:?}");
    }

    /// Rows as in `TestNodeAffinity` (v1.34).
    #[test]
    fn required() {
        check(pod(json!({})), json!({}), true);
        check(pod(json!({"nodeSelector": {"foo": "bar"}})), json!({}), false);
        check(
            pod(json!({"nodeSelector": {"foo": "bar"}})),
            json!({"foo": "bar", "baz": "blah"}),
            true,
        );
        check(
            pod(json!({"nodeSelector": {"foo": "bar", "baz": "blah"}})),
            json!({"foo": "bar"}),
            false,
        );
        let expression = |key: &str, operator: &str, values: &[&str]| {
            requiring(json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]))
        };
        check(
            expression("foo", "In", &["bar", "value2"]),
            json!({"foo": "bar"}),
            true,
        );
        check(expression("foo", "In", &["value2"]), json!({"foo": "bar"}), false);
        check(
            expression("kernel-version", "Gt", &["0204"]),
            json!({"kernel-version": "0206"}),
            true,
        );
        check(
            expression("kernel-version", "Lt", &["0204"]),
            json!({"kernel-version": "0206"}),
            false,
        );
        check(expression("kernel-version", "Gt", &["0204"]), json!({}), false);
        check(
            expression("mem-type", "NotIn", &["DDR", "DDR2"]),
            json!({"mem-type": "DDR3"}),
            true,
        );
        check(expression("mem-type", "NotIn", &["DDR"]), json!({}), true);
        check(expression("GPU", "Exists", &[]), json!({"GPU": "x"}), true);
        check(expression("GPU", "DoesNotExist", &[]), json!({"GPU": "x"}), false);
        check(requiring(json!([])), json!({"foo": "bar"}), false);
        check(requiring(json!([{}])), json!({"foo": "bar"}), false);
        let gpu_and_foo = json!([{"matchExpressions": [
            {"key": "GPU", "operator": "Exists"}, {"key": "foo", "operator": "In", "values": ["bar"]}
        ]}]);
        check(requiring(gpu_and_foo), json!({"foo": "bar"}), false);
        let either = json!([
            {"matchExpressions": [{"key": "no", "operator": "Exists"}]},
            {"matchExpressions": [{"key": "foo", "operator": "Exists"}]}
        ]);
        check(requiring(either), json!({"foo": "bar"}), true);
        let name = |name: &str| json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]);
        check(requiring(name("n1")), json!({}), true);
        check(requiring(name("n2")), json!({}), false);
    }

    #[test]
    fn names() {
        let check = |terms: Value, expected: Option<&[&str]>| {
            let pod = requiring(terms);
            let names =
                required_node_names(&pod.constraints).map(|names| names.into_iter().collect::<Vec<_>>());
            assert_eq!(names.as_deref(), expected);
        };
        let field = |names: &[&str]| json!({"key": "metadata.name", "operator": "In", "values": names});
        check(
            json!([{"matchFields": [field(&["a"])]}, {"matchFields": [field(&["b"])]}]),
            Some(&["a", "b"]),
        );
        check(
            json!([{"matchFields": [field(&["a", "b"]), field(&["b", "c"])]}]),
            Some(&["b"]),
        );
        check(
            json!([{"matchFields": [field(&["a"])]}, {"matchExpressions": []}]),
            None,
        );
        assert_eq!(required_node_names(&pod(json!({})).constraints), None);
    }

    #[test]
    fn preferred() {
        let prefer = |weight: i32, key: &str| json!({"weight": weight, "preference": {"matchExpressions": [{"key": key, "operator": "Exists"}]}});
        let preferred = json!([prefer(2, "a"), prefer(4, "b"), {"weight": 9, "preference": {}}]);
        let affinity =
            json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}});
        let pod = pod(json!({"affinity": affinity}));
        let mut scores = [json!({}), json!({"a": ""}), json!({"a": "", "b": ""})]
            .map(|labels| NodeAffinity.score(&pod, &labelled(labels)));
        assert_eq!(scores, [0, 2, 6]);
        NodeAffinity.normalize(&mut scores);
        assert_eq!(scores, [0, 33, 100]);
    }
}
