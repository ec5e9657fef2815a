//! Priority: the number behind a pod's PriorityClass.

use api::status::Status;
use serde_json::Value;

use super::Attributes;
use crate::{context::Api, watch_cache::Filter};

pub(super) fn admit(api: &Api, attributes: &Attributes, pod: &mut Value) -> Result<(), Status> {
    let classes = api.builtin("scheduling.k8s.io", "v1", "priorityclasses")?;
    let cached = api.cached(&classes)?;
    let spec = &mut pod["spec"];
    let name = spec["priorityClassName"].as_str().unwrap_or_default().to_owned();
    let class = if name.is_empty() {
        let all = cached
            .list(&Filter::default())
            .into_iter()
            .map(|class| class.value());
        all.filter(|class| class["globalDefault"] == true)
            .min_by_key(|class| class["value"].as_i64())
    } else {
        let found = cached.get(&classes.key(None, &name)?).map(|class| class.value());
        let missing = || attributes.forbidden(&format!("no PriorityClass with name {name} was found"));
        Some(found.ok_or_else(missing)?)
    };
    let (priority, policy) = match &class {
        Some(class) => {
            spec["priorityClassName"] = class["metadata"]["name"].clone();
            let policy = class["preemptionPolicy"]
                .as_str()
                .unwrap_or("PreemptLowerPriority");
            (class["value"].as_i64().unwrap_or(0), policy)
        }
        None => (0, "PreemptLowerPriority"),
    };
    if let Some(given) = spec["priority"].as_i64()
        && given != priority
    {
        return Err(attributes.forbidden(&format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {priority} from the given PriorityClass name"
        )));
    }
    spec["priority"] = priority.into();
    spec["preemptionPolicy"] = policy.into();
    Ok(())
}
