//! Whether a pod may stay on a tainted node.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Taint, Toleration};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Stay,
    Leave,
    LeaveAfter(Duration),
}

/// Looks at the NoExecute taints only. Of several tolerations the most impatient one counts.
pub(super) fn verdict(taints: &[Taint], tolerations: &[Toleration]) -> Verdict {
    let mut limit = None;
    for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
        let Some(toleration) = tolerations.iter().find(|toleration| tolerates(toleration, taint)) else {
            return Verdict::Leave;
        };
        if let Some(seconds) = toleration.toleration_seconds {
            let seconds = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            limit = Some(limit.map_or(seconds, |limit: Duration| limit.min(seconds)));
        }
    }
    match limit {
        None => Verdict::Stay,
        Some(limit) if limit.is_zero() => Verdict::Leave,
        Some(limit) => Verdict::LeaveAfter(limit),
    }
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let matches = |wanted: &Option<String>, actual: &str| {
        wanted
            .as_deref()
            .is_none_or(|wanted| wanted.is_empty() || wanted == actual)
    };
    let value =
        || toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default();
    matches(&toleration.effect, &taint.effect)
        && matches(&toleration.key, &taint.key)
        && match toleration.operator.as_deref() {
            None | Some("" | "Equal") => value(),
            Some("Exists") => true,
            Some(_) => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(taints: Value, tolerations: Value, expect: Verdict) {
        let parsed_taints: Vec<Taint> = serde_json::from_value(taints.clone()).unwrap();
        let parsed: Vec<Toleration> = serde_json::from_value(tolerations.clone()).unwrap();
        assert_eq!(verdict(&parsed_taints, &parsed), expect, "{taints} {tolerations}");
    }

    /// Rows follow upstream's `TestCreatePod`, `TestUpdatePod` and `TestGetMinTolerationTime`.
    #[test]
    fn verdicts() {
        let taint = json!({"key": "a", "value": "1", "effect": "NoExecute"});
        let other = json!({"key": "b", "effect": "NoExecute"});
        let tolerate = |key: &str, seconds: Value| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        let after = |seconds| Verdict::LeaveAfter(Duration::from_secs(seconds));
        check(json!([]), json!([]), Verdict::Stay);
        check(
            json!([{"key": "a", "effect": "NoSchedule"}]),
            json!([]),
            Verdict::Stay,
        );
        check(json!([taint]), json!([]), Verdict::Leave);
        check(
            json!([taint]),
            json!([{"key": "a", "value": "1", "effect": "NoExecute"}]),
            Verdict::Stay,
        );
        check(
            json!([taint]),
            json!([{"key": "a", "value": "2", "effect": "NoExecute"}]),
            Verdict::Leave,
        );
        check(
            json!([taint]),
            json!([{"key": "a", "operator": "Exists", "effect": "NoSchedule"}]),
            Verdict::Leave,
        );
        check(json!([taint]), json!([{"operator": "Exists"}]), Verdict::Stay);
        check(json!([taint]), json!([tolerate("a", json!(300))]), after(300));
        check(json!([taint]), json!([tolerate("a", json!(0))]), Verdict::Leave);
        check(json!([taint]), json!([tolerate("a", json!(-5))]), Verdict::Leave);
        check(
            json!([taint, other]),
            json!([tolerate("a", json!(300))]),
            Verdict::Leave,
        );
        check(
            json!([taint, other]),
            json!([tolerate("a", json!(300)), tolerate("b", json!(60))]),
            after(60),
        );
        check(
            json!([taint, other]),
            json!([tolerate("a", json!(null)), tolerate("b", json!(60))]),
            after(60),
        );
    }
}
