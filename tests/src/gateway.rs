//! The one door out of a cluster that was not started isolated: a veth to the host, masqueraded there.
//!
//! Service, pod and private ranges end at that door. A ClusterIP that nobody translated must not wander through the
//! user's own network, where the same address may be somebody's printer.

use std::{
    fs,
    io::Write,
    net::IpAddr,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{
    layout::Layout,
    network::{ip, run},
};

/// Ranges that never leave through the gateway. The cluster's own link and pod routes are more specific and win.
const BLACKHOLED: [&str; 6] = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "198.18.0.0/15",
];
/// The host's and the cluster's end of the gateway, from a range that is reserved for documentation and so is nobody's.
const HOST_END: &str = "192.0.2.1";
const CLUSTER_END: &str = "192.0.2.2";

/// Opens the gateway, unless it is open.
pub(crate) fn open(layout: &Layout) -> Result<()> {
    let (host, netns) = (host_interface(layout), layout.control_plane_netns());
    if is_open(layout) {
        return Ok(());
    }
    let cp = netns.as_str();
    ip(&[
        "link", "add", &host, "type", "veth", "peer", "name", "uplink", "netns", cp,
    ])?;
    ip(&["address", "add", &format!("{HOST_END}/30"), "dev", &host])?;
    ip(&["link", "set", &host, "up"])?;
    ip(&[
        "-n",
        cp,
        "address",
        "add",
        &format!("{CLUSTER_END}/30"),
        "dev",
        "uplink",
    ])?;
    ip(&["-n", cp, "link", "set", "uplink", "up"])?;
    for range in BLACKHOLED {
        ip(&["-n", cp, "route", "replace", "blackhole", range])?;
    }
    for server in name_servers() {
        ip(&["-n", cp, "route", "replace", &server.to_string(), "via", HOST_END])?;
    }
    ip(&["-n", cp, "route", "replace", "default", "via", HOST_END])?;
    nft_in(cp, &cluster_rules())?;
    nft(&host_rules(layout))?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("enable net.ipv4.ip_forward")?;
    Ok(())
}

/// Removes the host's end and its rule; the other end goes with the namespace.
pub(crate) fn close(layout: &Layout) -> Result<()> {
    let host = host_interface(layout);
    if is_open(layout) {
        ip(&["link", "delete", &host])?;
        run(
            "nft",
            &["delete", "table", "ip", &format!("orlop-{}", layout.name())],
        )?;
    }
    Ok(())
}

/// Whether the host's end exists, in the network namespace that we are in: /sys may show another one.
pub(crate) fn is_open(layout: &Layout) -> bool {
    ip(&["link", "show", "dev", &host_interface(layout)]).is_ok()
}

/// Interface names have 15 characters, cluster names up to 24: the tail of a longer one is what tells test clusters apart.
fn host_interface(layout: &Layout) -> String {
    let name = layout.name();
    format!("up-{}", &name[name.len().saturating_sub(12)..])
}

/// The host's name servers, which often have private addresses and must be reached all the same.
fn name_servers() -> Vec<IpAddr> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.strip_prefix("nameserver")?.trim().parse().ok())
        .filter(|address: &IpAddr| address.is_ipv4() && !address.is_loopback())
        .collect()
}

fn table(name: &str, rule: &str) -> String {
    format!(
        "table ip orlop-{name} {{\n  chain postrouting {{\n    type nat hook postrouting priority 100;\n    {rule}\n  }}\n}}\n"
    )
}

/// The rule on the host, which hides the cluster's end of the gateway behind the host's own address.
fn host_rules(layout: &Layout) -> String {
    let rule = format!(
        "ip saddr {CLUSTER_END} oifname != \"{}\" masquerade",
        host_interface(layout)
    );
    table(layout.name(), &rule)
}

/// The rule in the cluster: nodes and pods have addresses that only the cluster knows, and leave as the gateway's end.
fn cluster_rules() -> String {
    table("inside", "oifname \"uplink\" masquerade")
}

fn nft(rules: &str) -> Result<()> {
    feed(Command::new("nft").args(["-f", "-"]), rules)
}

fn nft_in(netns: &str, rules: &str) -> Result<()> {
    crate::process::in_netns(netns, || nft(rules))
}

fn feed(command: &mut Command, input: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start nft")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).context("write to nft")?;
    }
    let output = child.wait_with_output().context("wait for nft")?;
    if !output.status.success() {
        bail!("nft: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `nft --check` parses and verifies, and changes nothing.
    #[test]
    fn the_rules_are_what_nft_understands() {
        let layout = Layout::new("a-cluster-with-a-long-na").expect("a good name");
        for rules in [host_rules(&layout), cluster_rules()] {
            let outcome = feed(Command::new("nft").args(["--check", "-f", "-"]), &rules);
            assert!(outcome.is_ok(), "{rules}: {outcome:?}");
        }
        assert!(host_interface(&layout).len() <= 15);
    }
}
