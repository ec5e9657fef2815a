//! The kernel's switches that the pod network depends on.

use std::{fs, path::PathBuf};

use super::{
    NetworkError, Node,
    plan::{OnLink, uplinks},
};

const NET: &str = "/proc/sys/net";

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

fn read(path: &str) -> Option<String> {
    let text = fs::read_to_string(PathBuf::from(NET).join(path)).ok()?;
    Some(text.trim().to_owned())
}

/// Writing needs more rights than reading and resets other settings of IPv6: only what differs is written.
fn set(path: &str, value: &'static str) -> Result<(), NetworkError> {
    if read(path).as_deref() == Some(value) {
        return Ok(());
    }
    let path = PathBuf::from(NET).join(path);
    fs::write(&path, value).map_err(|source| NetworkError::Sysctl { path, value, source })
}
