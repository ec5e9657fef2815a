//! The result of ADD, in the form of each version of the specification. Pure.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::wiring::Wiring;

/// A version of the specification that the plugin speaks, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.3.0
    V0_3_0,
    /// 0.3.1, in which containerd 1.6 asks for `loopback`.
    V0_3_1,
    /// 0.4.0
    V0_4_0,
    /// 1.0.0, in which `ips` lost their version.
    V1_0_0,
    /// 1.1.0, which has an MTU on interfaces.
    V1_1_0,
}

impl Version {
    /// Every supported version.
    pub const ALL: [Version; 5] = [
        Version::V0_3_0,
        Version::V0_3_1,
        Version::V0_4_0,
        Version::V1_0_0,
        Version::V1_1_0,
    ];
    /// What is spoken to someone who names no version.
    pub const NEWEST: Version = Version::V1_1_0;

    /// The version with this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }

    /// The version's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V0_3_0 => "0.3.0",
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The answer to VERSION, which echoes the version it was asked in.
pub fn versions(requested: Option<String>) -> Value {
    json!({
        "cniVersion": requested.unwrap_or_else(|| Version::NEWEST.to_string()),
        "supportedVersions": Version::ALL.map(Version::as_str),
    })
}

/// A result of another plugin in the form of `version`, whichever form it has.
///
/// What a form has no place for is left out, as the reference library does: it is a matter of the form, not of the network.
pub fn converted(version: Version, result: &Value) -> Value {
    let mut result = result.clone();
    result["cniVersion"] = version.as_str().into();
    let entries = |result: &mut Value, field: &str, change: &dyn Fn(&mut Map<String, Value>)| {
        let list = result.get_mut(field).and_then(Value::as_array_mut);
        for entry in list.into_iter().flatten().filter_map(Value::as_object_mut) {
            change(entry);
        }
    };
    entries(&mut result, "ips", &|ip| {
        let ipv6 = ip
            .get("address")
            .and_then(Value::as_str)
            .is_some_and(|address| address.contains(':'));
        if version >= Version::V1_0_0 {
            ip.remove("version");
        } else {
            ip.insert("version".to_owned(), if ipv6 { "6" } else { "4" }.into());
        }
    });
    if version < Version::V1_1_0 {
        entries(&mut result, "interfaces", &|interface| {
            interface.retain(|field, _| !matches!(field.as_str(), "mtu" | "socketPath" | "pciID"));
        });
        entries(&mut result, "routes", &|route| {
            route.retain(|field, _| matches!(field.as_str(), "dst" | "gw"));
        });
    }
    result
}

/// The answer to ADD for a pod interface.
pub fn attached(
    version: Version,
    wiring: &Wiring,
    netns: &str,
    dns: Option<&Value>,
    previous: Option<&Value>,
) -> Value {
    let mut host = json!({ "name": wiring.pair.host_name, "mac": wiring.pair.host_mac.to_string() });
    let mut pod =
        json!({ "name": wiring.pair.pod_name, "mac": wiring.pair.pod_mac.to_string(), "sandbox": netns });
    if version >= Version::V1_1_0 {
        host["mtu"] = wiring.pair.mtu.into();
        pod["mtu"] = wiring.pair.mtu.into();
    }
    let addresses = wiring.addresses.iter().map(|&address| {
        let bits = if address.is_ipv6() { 128 } else { 32 };
        let gateway = crate::wiring::gateway(address.is_ipv6());
        (
            format!("{address}/{bits}"),
            address.is_ipv6(),
            Some(gateway.to_string()),
        )
    });
    let routes = wiring.addresses.iter().map(|address| {
        let destination = if address.is_ipv6() { "::/0" } else { "0.0.0.0/0" };
        json!({ "dst": destination, "gw": crate::wiring::gateway(address.is_ipv6()) })
    });
    let mut result = extend(
        version,
        previous,
        vec![host, pod],
        1,
        addresses.collect(),
        routes.collect(),
    );
    if let Some(dns) = dns {
        result["dns"] = dns.clone();
    }
    result
}

/// The answer to ADD for `lo`; `ipv6` says whether it has `::1`.
pub fn loopback(version: Version, ifname: &str, netns: &str, ipv6: bool, previous: Option<&Value>) -> Value {
    if let Some(previous) = previous {
        // As the last plugin of a chain, loopback passes on what the others made.
        return converted(version, previous);
    }
    let lo = json!({ "name": ifname, "mac": "00:00:00:00:00:00", "sandbox": netns });
    let mut addresses = vec![("127.0.0.1/8".to_owned(), false, None)];
    if ipv6 {
        addresses.push(("::1/128".to_owned(), true, None));
    }
    extend(version, None, vec![lo], 0, addresses, Vec::new())
}

/// Appends to the previous result, if any; `owner` is the index of the addresses' interface among `interfaces`.
fn extend(
    version: Version,
    previous: Option<&Value>,
    interfaces: Vec<Value>,
    owner: usize,
    addresses: Vec<(String, bool, Option<String>)>,
    routes: Vec<Value>,
) -> Value {
    let mut result = match previous.map(|previous| converted(version, previous)) {
        Some(Value::Object(previous)) => previous,
        _ => Map::new(),
    };
    result.insert("cniVersion".to_owned(), version.as_str().into());
    let before = list(&mut result, "interfaces").len();
    list(&mut result, "interfaces").extend(interfaces);
    list(&mut result, "ips").extend(addresses.into_iter().map(|(address, is_ipv6, gateway)| {
        let mut entry = json!({ "address": address, "interface": before + owner });
        if let Some(gateway) = gateway {
            entry["gateway"] = gateway.into();
        }
        if version < Version::V1_0_0 {
            entry["version"] = if is_ipv6 { "6" } else { "4" }.into();
        }
        entry
    }));
    if !routes.is_empty() {
        list(&mut result, "routes").extend(routes);
    }
    result.entry("dns").or_insert_with(|| json!({}));
    Value::Object(result)
}

/// The list in this field, made if there is none.
fn list<'a>(result: &'a mut Map<String, Value>, field: &str) -> &'a mut Vec<Value> {
    let value = result.entry(field).or_insert_with(|| Value::Array(Vec::new()));
    if !value.is_array() {
        *value = Value::Array(Vec::new());
    }
    value.as_array_mut().expect("it was just made an array")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::AttachmentId;
    use crate::runtime_config::RuntimeConfig;

    fn wiring() -> Wiring {
        let id = AttachmentId {
            container_id: "abc".into(),
            ifname: "eth0".into(),
        };
        Wiring::new(
            &id,
            1450,
            &["10.1.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            &RuntimeConfig::default(),
        )
    }

    #[test]
    fn each_version_gets_its_form() {
        for version in Version::ALL {
            let result = attached(version, &wiring(), "/n", None, None);
            assert_eq!(result["cniVersion"], version.as_str());
            assert_eq!(result["interfaces"][1]["name"], "eth0");
            assert_eq!(result["interfaces"][1]["sandbox"], "/n");
            assert_eq!(result["ips"][0]["address"], "10.1.0.2/32");
            assert_eq!(result["ips"][1]["interface"], 1);
            assert_eq!(
                result["ips"][1].get("version").is_some(),
                version < Version::V1_0_0,
                "{version}"
            );
            assert_eq!(
                result["interfaces"][0].get("mtu").is_some(),
                version >= Version::V1_1_0,
                "{version}"
            );
            assert_eq!(result["routes"][1]["dst"], "::/0");
        }
    }

    #[test]
    fn a_previous_result_is_extended() {
        let previous = json!({"interfaces": [{"name": "x0"}], "ips": [{"address": "1.2.3.4/8", "interface": 0}],
                              "dns": {"search": ["a"]}});
        let result = attached(Version::V1_0_0, &wiring(), "/n", None, Some(&previous));
        assert_eq!(result["interfaces"].as_array().unwrap().len(), 3);
        assert_eq!(result["ips"][0]["address"], "1.2.3.4/8");
        assert_eq!(result["ips"][1]["interface"], 2);
        assert_eq!(result["dns"]["search"][0], "a");
        let dns = json!({"nameservers": ["10.96.0.10"]});
        let result = attached(Version::V1_0_0, &wiring(), "/n", Some(&dns), Some(&previous));
        assert_eq!(result["dns"], dns);
    }

    #[test]
    fn results_are_converted_to_every_version() {
        let newest = json!({
            "cniVersion": "1.1.0",
            "interfaces": [{"name": "x0", "mac": "02:00:00:00:00:01", "mtu": 1500, "socketPath": "/s", "pciID": "0"}],
            "ips": [{"address": "10.0.0.2/24", "interface": 0}, {"address": "fd00::2/64", "interface": 0}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1", "mtu": 1400, "priority": 5, "table": 7, "scope": 0}],
            "dns": {"domain": "a"},
        });
        assert_eq!(converted(Version::V1_1_0, &newest), newest);
        let older = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "x0", "mac": "02:00:00:00:00:01"}],
            "ips": [{"address": "10.0.0.2/24", "interface": 0}, {"address": "fd00::2/64", "interface": 0}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}],
            "dns": {"domain": "a"},
        });
        assert_eq!(converted(Version::V1_0_0, &newest), older);
        for version in [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0] {
            let mut oldest = older.clone();
            oldest["cniVersion"] = version.as_str().into();
            oldest["ips"][0]["version"] = "4".into();
            oldest["ips"][1]["version"] = "6".into();
            assert_eq!(converted(version, &newest), oldest);
            // And back, without what no older form has.
            assert_eq!(converted(Version::V1_0_0, &oldest), older);
        }
        // What is no result is no reason to fail.
        assert_eq!(
            converted(Version::V1_0_0, &json!({"ips": 5})),
            json!({"cniVersion": "1.0.0", "ips": 5})
        );
    }
}
