//! Fields of features that are off unless somebody turns them on, which this server's users cannot: they are dropped, except from objects
//! that have them already.

use crate::strategy::access::{Object, child, each};
use serde_json::Value;

/// Drops a field of some parts of an object if those of the old object have none of it.
fn drop_unused(
    new: &mut Value,
    old: Option<&Value>,
    field: &str,
    parts: fn(&mut Object, &mut dyn FnMut(&mut Object)),
) {
    let Some(new) = new.as_object_mut() else { return };
    let mut used = false;
    // A copy of the old object is only made for one that has something to lose.
    let mut present = false;
    parts(new, &mut |part| present |= part.contains_key(field));
    if !present {
        return;
    }
    if let Some(Value::Object(mut old)) = old.cloned() {
        parts(&mut old, &mut |part| used |= part.contains_key(field));
    }
    if !used {
        parts(new, &mut |part| drop(part.remove(field)));
    }
}

/// Of a claim's spec: `spec` leads there from the object.
pub(super) fn claim(new: &mut Value, old: Option<&Value>) {
    drop_unused(new, old, "derivedAttributes", |obj, visit| {
        if let Some(spec) = child(obj, "spec") {
            requests(spec, visit);
        }
    });
    drop_unused(new, old, "skipNodeOperations", |obj, visit| {
        let allocation = child(obj, "status").and_then(|status| child(status, "allocation"));
        if let Some(devices) = allocation.and_then(|allocation| child(allocation, "devices")) {
            each(devices, "results").for_each(visit);
        }
    });
}

/// Of the spec of a template's claims.
pub(super) fn template(new: &mut Value, old: Option<&Value>) {
    drop_unused(new, old, "derivedAttributes", |obj, visit| {
        if let Some(spec) = child(obj, "spec").and_then(|spec| child(spec, "spec")) {
            requests(spec, visit);
        }
    });
}

fn requests(spec: &mut Object, visit: &mut dyn FnMut(&mut Object)) {
    let Some(devices) = child(spec, "devices") else {
        return;
    };
    for request in each(devices, "requests") {
        if let Some(exactly) = child(request, "exactly") {
            visit(exactly);
        }
        each(request, "firstAvailable").for_each(&mut *visit);
    }
}

/// Of a slice.
pub(super) fn slice(new: &mut Value, old: Option<&Value>) {
    drop_unused(new, old, "skipNodeOperations", |obj, visit| {
        if let Some(spec) = child(obj, "spec") {
            visit(spec);
        }
    });
    drop_unused(new, old, "nodeAllocatableResources", |obj, visit| {
        devices(obj, visit);
    });
    drop_unused(new, old, "compatibilityGroups", |obj, visit| {
        devices(obj, &mut |device| {
            each(device, "consumesCounters").for_each(&mut *visit)
        });
    });
    for field in ["bools", "ints", "strings", "versions"] {
        drop_unused(new, old, field, |obj, visit| {
            devices(obj, &mut |device| {
                let attributes = child(device, "attributes")
                    .into_iter()
                    .flat_map(|map| map.values_mut());
                attributes.filter_map(Value::as_object_mut).for_each(&mut *visit);
            });
        });
    }
}

fn devices(obj: &mut Object, visit: &mut dyn FnMut(&mut Object)) {
    if let Some(spec) = child(obj, "spec") {
        each(spec, "devices").for_each(visit);
    }
}
