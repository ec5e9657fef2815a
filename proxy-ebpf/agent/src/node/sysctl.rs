//! The kernel's switches that the pod network depends on.

use std::{fs, io, path::PathBuf};

use proxy_ebpf_common::{SNAT_PORT_MAX, SNAT_PORT_MIN};
use tracing::{info, warn};

use super::{
    DEVICE_PREFIX, NetworkError, Node,
    plan::{OnLink, uplinks},
};
use crate::agent::chain;

const NET: &str = "/proc/sys/net";

/// Name of a file for the folder `sysctl.d`. It sorts behind those of distributions, of which the last one counts.
pub const DROP_IN_NAME: &str = "99-zz-orlop.conf";
/// The file's content. The dash says that there may be no such device.
pub const DROP_IN: &str = "# Of proxy-ebpf. Packets of Services may come back another way than they went: systemd is not to put the reverse path
# check, which drops them, on devices of pods as they appear.
-net.ipv4.conf.orl*.rp_filter = 0
";

/// Lets the kernel pass on packets of the families that pods have, without taking away what the node's own IPv6 lives on.
pub(super) fn enable_forwarding(node: &Node, links: &[OnLink]) -> Result<(), NetworkError> {
    let has = |ipv6| node.pod_cidrs.iter().any(|cidr| cidr.address.is_ipv6() == ipv6);
    if has(false) {
        set("ipv4/ip_forward", "1")?;
    }
    if has(true) {
        // A host that forwards ignores router advertisements, and would lose the default route that it had from them.
        for link in uplinks(node, links) {
            let accept = format!("ipv6/conf/{}/accept_ra", link.interface);
            if read(&accept).as_deref() == Some("1") {
                set(&accept, "2")?;
            }
        }
        set("ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}

/// Takes the reverse path check off the devices of pods and the tunnel, where somebody has put it back: systemd sets every
/// device that appears as its files say, perhaps after the plugin did (see [`DROP_IN`], which tells it otherwise). The reverse
/// of a route need not be by these devices, since a Service may send the answer round another way; and what a backend answers
/// to the node itself comes in from the Service's address. Other devices, the node's own business, are passed over.
pub(crate) fn loosen_reverse_paths<'a>(devices: impl Iterator<Item = &'a str>) {
    for device in devices.filter(|name| name.starts_with(DEVICE_PREFIX)) {
        match switch_off_source_check(device) {
            Ok(false) => {}
            Ok(true) => info!(device, "switched rp_filter off again"),
            Err(error) => warn!(device, error = %chain(&error), "answers by this device may be lost"),
        }
    }
}

/// What has to be set before the tunnel comes up.
pub(super) fn set_up_tunnel(name: &str) -> Result<(), NetworkError> {
    // The reverse of a route is not always by the tunnel: a Service may send the answer round another way.
    set(&format!("ipv4/conf/{name}/rp_filter"), "0")?;
    // Nobody is to be found by neighbour discovery in there, so that there is nothing to announce. A kernel without IPv6
    // has neither switch.
    for (switch, value) in [("addr_gen_mode", "1"), ("accept_ra", "0")] {
        let path = format!("ipv6/conf/{name}/{switch}");
        if read(&path).is_some() {
            set(&path, value)?;
        }
    }
    Ok(())
}

/// Lets a device's packets in whatever their source address. Whether that was not so before.
fn switch_off_source_check(device: &str) -> Result<bool, NetworkError> {
    let path = format!("ipv4/conf/{device}/rp_filter");
    // A device that has just gone has no settings.
    let is_on = read(&path).is_some_and(|value| value != "0");
    if is_on {
        match set(&path, "0") {
            // A pod that has ended meanwhile.
            Err(NetworkError::Sysctl { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
    }
    Ok(is_on)
}

/// Keeps the kernel from choosing ports for the node's own connections that connections of others get when they leave by the
/// node's address: an answer to either would be taken for one to the other. Nothing is to be done where its range ends below
/// them, as Linux's own does.
pub(crate) fn reserve_snat_ports() -> Result<(), NetworkError> {
    const RESERVED: &str = "ipv4/ip_local_reserved_ports";
    let (Some(range), Some(reserved)) = (read("ipv4/ip_local_port_range"), read(RESERVED)) else {
        return Ok(());
    };
    if let Some(wanted) = with_snat_ports(&range, &reserved) {
        set(RESERVED, &wanted)?;
        info!(
            ports = wanted,
            "reserved, as the node's own range of ports reaches that far"
        );
    }
    Ok(())
}

/// What should be reserved; `None`: that is so already, or does not matter.
fn with_snat_ports(range: &str, reserved: &str) -> Option<String> {
    let last: u16 = range.split_whitespace().nth(1)?.parse().ok()?;
    let is_reserved = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        first.parse().is_ok_and(|first: u16| first <= SNAT_PORT_MIN) && last.parse() == Ok(SNAT_PORT_MAX)
    };
    if last < SNAT_PORT_MIN || reserved.split(',').any(is_reserved) {
        return None;
    }
    let ours = format!("{SNAT_PORT_MIN}-{SNAT_PORT_MAX}");
    Some(if reserved.is_empty() {
        ours
    } else {
        format!("{reserved},{ours}")
    })
}

fn read(path: &str) -> Option<String> {
    let text = fs::read_to_string(PathBuf::from(NET).join(path)).ok()?;
    Some(text.trim().to_owned())
}

/// Writing needs more rights than reading and resets other settings of IPv6: only what differs is written.
fn set(path: &str, value: &str) -> Result<(), NetworkError> {
    if read(path).as_deref() == Some(value) {
        return Ok(());
    }
    let path = PathBuf::from(NET).join(path);
    fs::write(&path, value).map_err(|source| NetworkError::Sysctl {
        path,
        value: value.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drop_in_names_our_devices() {
        assert!(DROP_IN.contains(&format!(".conf.{DEVICE_PREFIX}*.rp_filter = 0")));
    }

    #[test]
    fn ports_are_reserved_where_the_nodes_own_reach_that_far() {
        for (range, reserved, expected) in [
            ("32768\t60999", "", None),
            ("1024\t65535", "", Some("61000-65535")),
            (
                "1024\t65535",
                "8080,9148-9150",
                Some("8080,9148-9150,61000-65535"),
            ),
            ("1024\t65535", "30000-32767,60000-65535", None),
            ("1024\t65535", "61001-65535", Some("61001-65535,61000-65535")),
            ("nonsense", "", None),
        ] {
            assert_eq!(
                with_snat_ports(range, reserved).as_deref(),
                expected,
                "{range} {reserved}"
            );
        }
    }
}
