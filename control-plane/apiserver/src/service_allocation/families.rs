//! Which address families a Service has.

use std::net::IpAddr;

use api::{
    status,
    validation::{ErrorKind, ErrorList, FieldError},
};
use serde_json::Value;

use super::{ServiceAllocator, family_name};

impl ServiceAllocator {
    /// Decides `ipFamilyPolicy` and `ipFamilies` from what was asked for and what the cluster has.
    pub(super) fn settle_families(&self, service: &mut Value, errors: &mut ErrorList) {
        let headless_without_selector = {
            let spec = &service["spec"];
            let selects = spec["selector"]
                .as_object()
                .is_some_and(|selector| !selector.is_empty());
            spec["clusterIP"] == "None" && !selects
        };
        let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) else {
            return;
        };
        if spec.get("type").is_some_and(|kind| kind == "ExternalName") {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                spec.remove(field);
            }
            return;
        }
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let list = |field: &str| -> Vec<String> {
            spec.get(field)
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(text)
                .collect()
        };
        let mut addresses = list("clusterIPs");
        if addresses.is_empty()
            && let Some(address) = spec
                .get("clusterIP")
                .and_then(text)
                .filter(|address| !address.is_empty())
        {
            addresses.push(address);
        }
        let mut families = list("ipFamilies");
        let policy = spec.get("ipFamilyPolicy").and_then(text);

        for (at, address) in addresses.iter().enumerate() {
            let Ok(parsed) = address.parse::<IpAddr>() else {
                continue;
            };
            let family = family_name(parsed.is_ipv4());
            match families.get(at) {
                None => families.push(family.to_owned()),
                Some(wanted) if wanted != family => errors.push(FieldError::new(
                    ErrorKind::Invalid,
                    format!("spec.clusterIPs[{at}]"),
                    status::quote(address),
                    format!("expected an {wanted} value as indicated by `ipFamilies[{at}]`"),
                )),
                Some(_) => {}
            }
        }
        let policy = policy.unwrap_or_else(|| {
            let dual = families.len() == 2 || addresses.len() == 2 || headless_without_selector;
            if dual { "RequireDualStack" } else { "SingleStack" }.to_owned()
        });
        if families.is_empty() {
            families.push(self.default_family().to_owned());
        }
        if policy != "SingleStack" && families.len() == 1 {
            let other = other_family(&families[0]);
            if self.range_of(other).is_some() || headless_without_selector {
                families.push(other.to_owned());
            }
        }
        if policy == "SingleStack" && families.len() > 1 {
            if addresses.len() > 1 {
                errors.push(FieldError::new(
                    ErrorKind::Invalid,
                    "spec.ipFamilyPolicy",
                    status::quote(&policy),
                    "must be RequireDualStack or PreferDualStack when multiple `clusterIPs` are specified",
                ));
            }
            families.truncate(1);
            addresses.truncate(1);
        }
        if !headless_without_selector {
            if policy == "RequireDualStack" && self.ranges.len() < 2 {
                errors.push(FieldError::new(
                    ErrorKind::Invalid,
                    "spec.ipFamilyPolicy",
                    status::quote(&policy),
                    "this cluster is not configured for dual-stack services",
                ));
            } else {
                for (at, family) in families.iter().enumerate() {
                    if self.range_of(family).is_none() {
                        errors.push(FieldError::new(
                            ErrorKind::Invalid,
                            format!("spec.ipFamilies[{at}]"),
                            status::quote(family),
                            "not configured on this cluster",
                        ));
                    }
                }
            }
        }
        spec.insert("ipFamilyPolicy".to_owned(), policy.into());
        spec.insert("ipFamilies".to_owned(), families.into());
        if addresses.is_empty() {
            spec.remove("clusterIPs");
            spec.remove("clusterIP");
        } else {
            spec.insert("clusterIP".to_owned(), addresses[0].clone().into());
            spec.insert("clusterIPs".to_owned(), addresses.into());
        }
    }
}

fn other_family(family: &str) -> &'static str {
    family_name(family != "IPv4")
}
