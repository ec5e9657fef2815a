//! What a container runtime gives to the network plugin.

use orlop_cni::{
    config::{Config, Need},
    request::Request,
    result::{self, Version},
};

/// A network configuration. What is good for everything is good for tearing down.
pub(crate) fn config(data: &[u8]) {
    let whole = Config::parse(data, Need::All);
    let teardown = Config::parse(data, Need::Teardown);
    assert!(whole.is_err() || teardown.is_ok());
    let _versions = result::versions(Config::requested_version(data));
    if let Ok(config) = whole {
        for version in Version::ALL {
            let _loopback =
                result::loopback(version, "lo", "/run/netns/a", true, config.prev_result.as_ref());
        }
    }
}

/// The environment as lines `NAME=value`, then an empty line and the configuration.
pub(crate) fn request(data: &[u8]) {
    let end = data
        .windows(2)
        .position(|pair| pair == b"\n\n")
        .unwrap_or(data.len());
    let environment = String::from_utf8_lossy(&data[..end]);
    let stdin = data.get(end + 2..).unwrap_or_default();
    let variable = |name: &str| {
        let mut pairs = environment.lines().filter_map(|line| line.split_once('='));
        pairs
            .find(|(own, _)| *own == name)
            .map(|(_, value)| value.to_owned())
    };
    if let Ok(Request::Add(id, ..) | Request::Check(id, ..) | Request::Del(id, _)) =
        Request::parse(variable, stdin)
    {
        // Both become parts of file names.
        for part in [&id.container_id, &id.ifname] {
            assert!(
                !part.is_empty() && !part.contains('/') && *part != ".." && *part != ".",
                "{id}"
            );
        }
    }
}
