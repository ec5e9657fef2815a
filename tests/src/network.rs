//! Network namespaces, the bridge that joins them, and the routes between.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::layout::{CONTROL_PLANE_IP, CONTROL_PLANE_IP6, Layout};

/// Runs `ip` and returns its output.
pub(crate) fn ip(args: &[&str]) -> Result<String> {
    run("ip", args)
}

/// Runs a program to its end.
///
/// # Errors
/// It cannot be started, or ends with another status than 0: then its error output is in the message.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("start {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Makes the namespaces, the bridge and the veths of a cluster, whichever of them are missing.
pub(crate) fn make(layout: &Layout, nodes: usize) -> Result<()> {
    let control_plane = layout.control_plane_netns();
    if add_namespace(&control_plane)? {
        let cp = control_plane.as_str();
        ip(&["-n", cp, "link", "set", "lo", "up"])?;
        ip(&["-n", cp, "link", "add", "br0", "type", "bridge"])?;
        ip(&[
            "-n",
            cp,
            "address",
            "add",
            &format!("{CONTROL_PLANE_IP}/24"),
            "dev",
            "br0",
        ])?;
        ip(&[
            "-n",
            cp,
            "address",
            "add",
            &format!("{CONTROL_PLANE_IP6}/64"),
            "dev",
            "br0",
            "nodad",
        ])?;
        ip(&["-n", cp, "link", "set", "br0", "up"])?;
        // Nodes send what they cannot deliver here: it is routed back to another node, or refused at once.
        sysctl(cp, "net/ipv4/ip_forward", "1")?;
        sysctl(cp, "net/ipv6/conf/all/forwarding", "1")?;
    }
    for index in 1..=nodes {
        let node = layout.node_netns(index);
        if add_namespace(&node)? {
            make_node(layout, index, &control_plane, &node)?;
        }
    }
    Ok(())
}

fn make_node(layout: &Layout, index: usize, control_plane: &str, node: &str) -> Result<()> {
    let port = layout.node_name(index);
    ip(&["-n", node, "link", "set", "lo", "up"])?;
    ip(&[
        "-n",
        control_plane,
        "link",
        "add",
        &port,
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "netns",
        node,
    ])?;
    if layout.is_far(index) {
        // The control plane's namespace is the router between the bridge and this node's network.
        let addresses = [
            format!("{}/24", layout.router_ip(index)),
            format!("{}/64", layout.router_ip6(index)),
        ];
        for address in &addresses {
            ip(&[
                "-n",
                control_plane,
                "address",
                "add",
                address,
                "dev",
                &port,
                "nodad",
            ])?;
        }
        ip(&["-n", control_plane, "link", "set", &port, "up"])?;
    } else {
        ip(&["-n", control_plane, "link", "set", &port, "master", "br0", "up"])?;
    }
    ip(&[
        "-n",
        node,
        "address",
        "add",
        &format!("{}/24", layout.node_ip(index)),
        "dev",
        "eth0",
    ])?;
    ip(&[
        "-n",
        node,
        "address",
        "add",
        &format!("{}/64", layout.node_ip6(index)),
        "dev",
        "eth0",
        "nodad",
    ])?;
    ip(&["-n", node, "link", "set", "eth0", "up"])?;
    ip(&[
        "-n",
        node,
        "route",
        "add",
        "default",
        "via",
        &layout.router_ip(index).to_string(),
    ])?;
    ip(&[
        "-n",
        node,
        "-6",
        "route",
        "add",
        "default",
        "via",
        &layout.router_ip6(index).to_string(),
    ])?;
    Ok(())
}

/// Tells the control plane's namespace that a node's pods are behind that node. Not when it is a router between nodes: real
/// ones know nothing of pods.
pub(crate) fn route_pods(layout: &Layout, index: usize, pod_cidrs: &[String]) -> Result<()> {
    if layout.has_far_nodes() {
        return Ok(());
    }
    for cidr in pod_cidrs {
        let via = if cidr.contains(':') {
            layout.node_ip6(index).to_string()
        } else {
            layout.node_ip(index).to_string()
        };
        let family = if cidr.contains(':') { "-6" } else { "-4" };
        ip(&[
            "-n",
            &layout.control_plane_netns(),
            family,
            "route",
            "replace",
            cidr,
            "via",
            &via,
        ])?;
    }
    Ok(())
}

/// The cluster's namespaces that exist, by name.
pub(crate) fn namespaces(layout: &Layout) -> Vec<String> {
    let prefix = format!("{}-", layout.name());
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            name.strip_prefix(&prefix).is_some_and(|rest| {
                rest == "cp"
                    || rest
                        .strip_prefix("node")
                        .is_some_and(|n| n.parse::<usize>().is_ok())
            })
        })
        .collect()
}

/// Adds a namespace; false when it was there.
fn add_namespace(name: &str) -> Result<bool> {
    if Path::new("/run/netns").join(name).exists() {
        return Ok(false);
    }
    ip(&["netns", "add", name])?;
    Ok(true)
}

fn sysctl(netns: &str, key: &str, value: &str) -> Result<()> {
    let (path, value) = (format!("/proc/sys/{key}"), value.to_owned());
    crate::process::in_netns(netns, move || {
        std::fs::write(&path, value).with_context(|| format!("write {path}"))
    })
}
