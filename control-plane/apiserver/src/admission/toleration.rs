//! DefaultTolerationSeconds: a pod stays five minutes on a node that is not ready or not reachable.

use serde_json::{Value, json};

const SECONDS: i64 = 300;

pub(super) fn admit(pod: &mut Value) {
    let mut tolerations = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
    let before = tolerations.len();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = tolerations.iter().any(|toleration| {
            let text = |field: &str| toleration[field].as_str().unwrap_or_default();
            (text("key") == key || text("key").is_empty()) && matches!(text("effect"), "" | "NoExecute")
        });
        if !tolerated {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
            }));
        }
    }
    if tolerations.len() > before {
        pod["spec"]["tolerations"] = tolerations.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_added() {
        let check = |tolerations: Value, expect: usize| {
            let mut pod = json!({"spec": {"tolerations": tolerations}});
            admit(&mut pod);
            assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), expect);
        };
        check(json!([]), 2);
        check(json!([{"operator": "Exists"}]), 1);
        check(
            json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}]),
            2,
        );
        check(
            json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]),
            3,
        );
    }
}
