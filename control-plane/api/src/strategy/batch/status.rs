//! Checks of what a Job's controller, ours or another's, makes of its status. Only what an update changes is judged, so that
//! an old mistake does not block later updates.

use crate::strategy::access::{int, is_true, list, text};
use crate::validation::{ErrorList, FieldError};
use serde_json::Value;

fn has(job: &Value, condition: &str) -> bool {
    list(job, "/status/conditions")
        .iter()
        .any(|c| text(c, "/type") == condition && text(c, "/status") == "True")
}

fn is_finished(job: &Value) -> bool {
    has(job, "Complete") || has(job, "Failed")
}

fn count(job: &Value, field: &str) -> i64 {
    int(job, &format!("/status/{field}")).unwrap_or(0)
}

/// An updated status.
pub(super) fn status(new: &Value, old: &Value, errors: &mut ErrorList) {
    counts(new, errors);
    conditions(new, old, errors);
    finished(new, old, errors);
    times(new, old, errors);
    indexes(new, old, errors);
    let changed = |condition: &str| has(new, condition) != has(old, condition);
    for condition in ["Failed", "Complete", "FailureTarget", "SuccessCriteriaMet"] {
        if changed(condition) && has(old, condition) {
            let terminal = if condition == "SuccessCriteriaMet" {
                ""
            } else {
                "terminal "
            };
            let detail = format!("cannot disable the {terminal}{condition}=True condition");
            errors.push(FieldError::omitted("status.conditions", detail));
        }
    }
    if count(new, "failed") < count(old, "failed") {
        let detail = "cannot decrease the failed counter";
        errors.invalid("status.failed", count(new, "failed"), detail);
    }
    // An indexed Job may be scaled down, and loses indexes that had succeeded.
    let spec = |field: &str| new.pointer(&format!("/spec/{field}"));
    let elastic =
        text(new, "/spec/completionMode") == "Indexed" && spec("completions") == spec("parallelism");
    if !elastic && count(new, "succeeded") < count(old, "succeeded") {
        let detail = "cannot decrease the succeeded counter";
        errors.invalid("status.succeeded", count(new, "succeeded"), detail);
    }
}

fn counts(job: &Value, errors: &mut ErrorList) {
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        errors.non_negative(&format!("status.{field}"), count(job, field));
    }
    let mut seen: Vec<&Value> = Vec::new();
    for field in ["succeeded", "failed"] {
        let pointer = format!("/status/uncountedTerminatedPods/{field}");
        for (i, uid) in list(job, &pointer).iter().enumerate() {
            let path = format!("status.uncountedTerminatedPods.{field}[{i}]");
            if uid == "" {
                errors.invalid(path, "", "must not be empty");
            } else if seen.contains(&uid) {
                errors.duplicate(path, uid.clone());
            }
            seen.push(uid);
        }
    }
}

/// Conditions that exclude each other, and those that must come before others.
fn conditions(new: &Value, old: &Value, errors: &mut ErrorList) {
    let changed = |a: &str, b: &str| has(new, a) != has(old, a) || has(new, b) != has(old, b);
    let mut refuse = |detail: &str| errors.push(FieldError::omitted("status.conditions", detail));
    for (a, b, always) in [
        ("Complete", "Failed", false),
        ("Complete", "FailureTarget", false),
        ("SuccessCriteriaMet", "Failed", true),
        ("SuccessCriteriaMet", "FailureTarget", true),
    ] {
        if (always || changed(a, b)) && has(new, a) && has(new, b) {
            refuse(&format!("cannot set {a}=True and {b}=true conditions"));
        }
    }
    for (a, b) in [("Failed", "FailureTarget"), ("Complete", "SuccessCriteriaMet")] {
        if changed(a, b) && has(new, a) && !has(new, b) {
            refuse(&format!(
                "cannot set {a}=True condition without the {b}=true condition"
            ));
        }
    }
    if new.pointer("/spec/successPolicy").is_some() && has(new, "Complete") && !has(new, "SuccessCriteriaMet")
    {
        refuse("cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True");
    }
    if has(old, "Complete") && !has(old, "SuccessCriteriaMet") && has(new, "SuccessCriteriaMet") {
        refuse("cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions");
    }
}

/// A finished Job has no pods left.
fn finished(new: &Value, old: &Value, errors: &mut ErrorList) {
    let changed = |field: &str| {
        is_finished(new) != is_finished(old) || new["status"].get(field) != old["status"].get(field)
    };
    let (active, ready) = (count(new, "active"), count(new, "ready"));
    if is_finished(new) {
        if changed("active") && active > 0 {
            errors.invalid("status.active", active, "active>0 is invalid for finished job");
        }
        let terminating = count(new, "terminating");
        if changed("terminating") && terminating > 0 {
            let detail = "terminating>0 is invalid for finished job";
            errors.invalid("status.terminating", terminating, detail);
        }
        let field = "uncountedTerminatedPods";
        let uncounted = ["succeeded", "failed"]
            .iter()
            .any(|of| !list(new, &format!("/status/{field}/{of}")).is_empty());
        if changed(field) && uncounted {
            let detail = "uncountedTerminatedPods needs to be empty for finished job";
            errors.invalid(format!("status.{field}"), new["status"][field].clone(), detail);
        }
        let nothing_to_do = is_true(new, "/spec/suspend") && int(new, "/spec/completions") == Some(0);
        if changed("startTime") && text(new, "/status/startTime").is_empty() && !nothing_to_do {
            errors.required("status.startTime", "startTime is required for finished job");
        }
    }
    let same = |field: &str| new["status"].get(field) == old["status"].get(field);
    let told = new.pointer("/status/ready").is_some();
    if told && ready > active && !(same("ready") && same("active")) {
        errors.invalid("status.ready", ready, "cannot set more ready pods than active");
    }
}

fn times(new: &Value, old: &Value, errors: &mut ErrorList) {
    let time = |job: &'_ Value, field: &str| text(job, &format!("/status/{field}")).to_string();
    let (start, completion) = (time(new, "startTime"), time(new, "completionTime"));
    let (started, completed) = (time(old, "startTime"), time(old, "completionTime"));
    let complete_changed = has(new, "Complete") != has(old, "Complete") || completion != completed;
    let path = "status.completionTime";
    if complete_changed && !completion.is_empty() && !has(new, "Complete") {
        let detail = "cannot set completionTime when there is no Complete=True condition";
        errors.invalid(path, completion.as_str(), detail);
    }
    if complete_changed && completion.is_empty() && has(new, "Complete") {
        errors.required(path, "completionTime is required for Complete jobs");
    }
    // Times are canonical: their texts are in their order.
    let changed = start != started || completion != completed;
    if changed && !start.is_empty() && !completion.is_empty() && completion < start {
        let detail = "completionTime cannot be set before startTime";
        errors.invalid(path, completion.as_str(), detail);
    }
    if !completion.is_empty() && !completed.is_empty() && completion != completed {
        errors.invalid(path, completion, "completionTime cannot be mutated");
    }
    let resuming = has(old, "Suspended") && !has(new, "Suspended");
    if !started.is_empty() && start != started && !is_true(new, "/spec/suspend") && !resuming {
        let detail = "startTime cannot be removed for unsuspended job";
        errors.required("status.startTime", detail);
    }
}

fn indexes(new: &Value, old: &Value, errors: &mut ErrorList) {
    let of = |job: &'_ Value, field: &str| text(job, &format!("/status/{field}")).to_string();
    let (completed, failed) = (of(new, "completedIndexes"), of(new, "failedIndexes"));
    let completed_changed = completed != of(old, "completedIndexes");
    let failed_changed = failed != of(old, "failedIndexes");
    let completions = int(new, "/spec/completions");
    let per_index = new.pointer("/spec/backoffLimitPerIndex").is_some();
    for (field, value, changed) in [
        ("completedIndexes", &completed, completed_changed),
        ("failedIndexes", &failed, failed_changed && per_index),
    ] {
        if let (true, Some(completions)) = (changed, completions)
            && let Err(problem) = index_count(value, completions)
        {
            let detail = format!("error parsing {field}: {problem}");
            errors.invalid(format!("status.{field}"), value.as_str(), detail);
        }
    }
    if completed_changed && !completed.is_empty() && text(new, "/spec/completionMode") != "Indexed" {
        let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.invalid("status.completedIndexes", completed.as_str(), detail);
    }
    let path = "status.failedIndexes";
    if failed_changed && new.pointer("/status/failedIndexes").is_some() && !per_index {
        let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.invalid(path, failed.as_str(), detail);
    }
    if (completed_changed || failed_changed)
        && let Some(at) = overlap(&completed, &failed, completions.unwrap_or(0))
    {
        let detail = format!("failedIndexes and completedIndexes overlap at index: {at}");
        errors.invalid(path, failed.as_str(), detail);
    }
}

/// The number of indexes in a list such as `1,3-5,7`, all of them below `completions`.
pub(super) fn index_count(text: &str, completions: i64) -> Result<i64, String> {
    let (mut total, mut last) = (0, None);
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (from, to) = interval(part, completions)?;
        if let Some(last) = last.filter(|last| *last >= from) {
            return Err(format!("non-increasing order, previous: {last}, current: {from}"));
        }
        total += to - from + 1;
        last = Some(to);
    }
    Ok(total)
}

fn interval(text: &str, completions: i64) -> Result<(i64, i64), String> {
    let index = |text: &str| {
        let index: i64 = text
            .parse()
            .map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
        match index < completions {
            true => Ok(index),
            false => Err(format!("too large index: {text:?}")),
        }
    };
    let mut parts = text.split('-');
    match (parts.next(), parts.next(), parts.next()) {
        (_, _, Some(_)) => Err(format!(
            "the fragment {text:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        )),
        (Some(from), Some(to), None) => {
            let (from, to) = (index(from)?, index(to)?);
            match from < to {
                true => Ok((from, to)),
                false => Err(format!("non-increasing order, previous: {from}, current: {to}")),
            }
        }
        (from, _, _) => index(from.unwrap_or("")).map(|index| (index, index)),
    }
}

/// The first index that is in both lists. Parts that cannot be read are told elsewhere.
fn overlap(completed: &str, failed: &str, completions: i64) -> Option<i64> {
    let read = |text: &str| -> Vec<(i64, i64)> {
        text.split(',')
            .filter_map(|part| interval(part, completions).ok())
            .collect()
    };
    let (completed, failed) = (read(completed), read(failed));
    let (mut c, mut f) = (completed.iter().peekable(), failed.iter().peekable());
    while let (Some(a), Some(b)) = (c.peek(), f.peek()) {
        if a.0 <= b.1 && b.0 <= a.1 {
            return Some(a.0.max(b.0));
        }
        if a.0 <= b.0 {
            c.next()
        } else {
            f.next()
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_lists() {
        for (text, want) in [
            ("", Ok(0)),
            ("0", Ok(1)),
            ("0,2-4,6", Ok(5)),
            ("1,1", Err("non-increasing order, previous: 1, current: 1")),
            ("3-2", Err("non-increasing order, previous: 3, current: 2")),
            ("7", Err("too large index: \"7\"")),
            ("a", Err("cannot convert string to integer for index: \"a\"")),
            (
                "1-2-3",
                Err(
                    "the fragment \"1-2-3\" violates the requirement that an index interval can have at most two parts separated by '-'",
                ),
            ),
        ] {
            assert_eq!(index_count(text, 7), want.map_err(str::to_string), "{text}");
        }
        assert_eq!(overlap("0,2-4", "1,5", 9), None);
        assert_eq!(overlap("0,2-4", "1,3-5", 9), Some(3));
        assert_eq!(overlap("", "1", 9), None);
    }
}
