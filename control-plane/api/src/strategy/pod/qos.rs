//! Quality-of-service class of a pod.

use crate::quantity::Quantity;
use crate::strategy::access::map;
use crate::strategy::pod::all_containers;
use serde_json::Value;

/// Guaranteed if every container limits cpu and memory and requests as much, BestEffort if none asks for anything.
pub(super) fn class(pod: &Value) -> &'static str {
    let Some(spec) = pod.get("spec") else {
        return "BestEffort";
    };
    let pod_level = ["requests", "limits"].iter().any(|f| {
        map(spec, &format!("/resources/{f}"))
            .is_some_and(|m| m.contains_key("cpu") || m.contains_key("memory"))
    });
    let owners: Vec<&Value> = if pod_level {
        spec.get("resources").into_iter().collect()
    } else {
        let regular = all_containers(spec).filter(|(path, _)| !path.starts_with("ephemeral"));
        regular
            .map(|(_, c)| c.get("resources").unwrap_or(&Value::Null))
            .collect()
    };
    let amount = |resources: &Value, kind: &str, name: &str| {
        let text = resources.get(kind)?.get(name)?.as_str()?;
        Quantity::parse(text).ok().filter(|q| q.signum() > 0)
    };
    let mut any = false;
    let mut guaranteed = true;
    for resources in owners {
        for name in ["cpu", "memory"] {
            let (request, limit) = (
                amount(resources, "requests", name),
                amount(resources, "limits", name),
            );
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes() {
        let pod = |resources: &[Value]| {
            let containers: Vec<_> = resources
                .iter()
                .map(|r| json!({"name": "c", "resources": r}))
                .collect();
            class(&json!({"spec": {"containers": containers}}))
        };
        let full = || json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1000m", "memory": "1024Mi"}});
        assert_eq!(pod(&[json!({})]), "BestEffort");
        assert_eq!(pod(&[full()]), "Guaranteed");
        assert_eq!(pod(&[full(), json!({})]), "Burstable");
        assert_eq!(pod(&[json!({"requests": {"cpu": "1m"}})]), "Burstable");
        assert_eq!(
            pod(&[json!({"requests": {"ephemeral-storage": "1Gi"}})]),
            "BestEffort"
        );
        assert_eq!(
            class(&json!({"spec": {"resources": full(), "containers": [{"name": "c"}]}})),
            "Guaranteed"
        );
    }
}
