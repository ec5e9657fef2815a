//! How much of a shared device's capacity a request may take.

use super::name::unique;
use crate::quantity::Quantity;
use crate::strategy::access::list;
use crate::strategy::quantities::amount;
use crate::validation::{ErrorList, NOT_NEGATIVE};
use serde_json::Value;

const MAX_VALUES: usize = 10;

/// The policy of a capacity: some values, or a range, and what a request that names none of them gets.
pub(super) fn policy(capacity: &Value, policy: &Value, path: &str, errors: &mut ErrorList) {
    let values = list(policy, "/validValues");
    let range = policy.get("validRange");
    if !values.is_empty() && range.is_some() {
        let detail = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
        return errors.forbidden(path, detail);
    }
    let Some(most) = amount(capacity) else { return };
    let default = policy.get("default").and_then(amount);
    match (default, range) {
        (Some(default), _) if !values.is_empty() => {
            discrete(default, most, values, &format!("{path}.validValues"), errors);
        }
        (None, _) if !values.is_empty() => {
            errors.required(format!("{path}.default"), "required when validValues is defined");
        }
        (Some(default), Some(range)) => {
            within(default, most, range, &format!("{path}.validRange"), errors);
        }
        (None, Some(_)) => {
            errors.required(format!("{path}.default"), "required when validRange is defined");
        }
        (_, None) => {}
    }
}

fn discrete(default: Quantity, most: Quantity, values: &[Value], path: &str, errors: &mut ErrorList) {
    let values: Vec<Quantity> = values.iter().filter_map(amount).collect();
    for (i, pair) in values.windows(2).enumerate() {
        if pair[0] > pair[1] {
            let detail = "values must be sorted in ascending order";
            errors.invalid(format!("{path}[{}]", i + 1), pair[1].canonical(), detail);
        }
    }
    if !errors.too_many(path, values.len(), MAX_VALUES) {
        for (i, value) in values.iter().enumerate().filter(|(_, value)| **value > most) {
            let detail = format!("option is larger than capacity value: {}", most.canonical());
            errors.invalid(format!("{path}[{i}]"), value.canonical(), detail);
        }
        let keys: Vec<String> = values.iter().map(|value| value.value().to_string()).collect();
        unique(&keys, path, errors);
        if values.contains(&default) {
            return;
        }
    }
    let detail = "default value is not valid according to the requestPolicy";
    errors.invalid(path, default.canonical(), detail);
}

fn within(default: Quantity, most: Quantity, range: &Value, path: &str, errors: &mut ErrorList) {
    let bound = |field: &str| range.get(field).and_then(amount);
    let (least, highest, step) = (bound("min"), bound("max"), bound("step"));
    let Some(least) = least else {
        return errors.required(format!("{path}.min"), "required when validRange is defined");
    };
    let mut compare = |field: &str, bad: bool, shown: Quantity, what: &str, other: Quantity| {
        if bad {
            let detail = format!("{what}: {}", other.canonical());
            errors.invalid(format!("{path}.{field}"), shown.canonical(), detail);
        }
    };
    compare(
        "min",
        least > most,
        least,
        "min is larger than capacity value",
        most,
    );
    compare(
        "default",
        default < least,
        default,
        "default is less than min",
        least,
    );
    if let Some(highest) = highest {
        compare("max", least > highest, least, "min is larger than max", highest);
        compare(
            "max",
            highest > most,
            highest,
            "max is larger than capacity value",
            most,
        );
        compare(
            "default",
            default > highest,
            default,
            "default is more than max",
            highest,
        );
    }
    let Some(step) = step else { return };
    let at = format!("{path}.step");
    if step.signum() <= 0 {
        return errors.invalid(at, step.canonical(), "must be greater than zero");
    }
    let first = least.plus(&step);
    if first > most {
        let detail = format!(
            "one step {} is larger than capacity value: {}",
            first.canonical(),
            most.canonical()
        );
        errors.invalid(at.clone(), step.canonical(), detail);
    }
    let mut negative = false;
    for (field, value) in [("default", Some(default)), ("min", Some(least)), ("max", highest)] {
        if let Some(value) = value.filter(|value| value.signum() < 0) {
            errors.invalid(format!("{path}.{field}"), value.canonical(), NOT_NEGATIVE);
            negative = true;
        }
    }
    if negative {
        return;
    }
    for value in [Some(default), highest].into_iter().flatten() {
        if (value.value() - least.value()) % step.value() != 0 {
            let detail = format!(
                "value is not a multiple of a given step ({}) from ({})",
                step.canonical(),
                least.canonical()
            );
            errors.invalid(at.clone(), value.canonical(), detail);
        }
    }
}
