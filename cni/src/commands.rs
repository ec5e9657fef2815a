//! One function per CNI verb: read what is there, plan, apply.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::Value;

use crate::config::{self, Config, Kind, Need, Network, PairChoice};
use crate::ipam::{self, Ipam, Ledger, Owner, Record, State};
use crate::netlink::{Link, Socket};
use crate::netns::Netns;
use crate::request::{AttachmentId, Request};
use crate::wiring::{self, Change, Wiring};
use crate::{Error, result};

/// Answers a request; `None` when success has nothing to say.
///
/// The calling thread may be in the pod's network namespace afterwards: a plugin process answers one request and ends.
///
/// # Errors
/// [`Error`], whose document goes to stdout.
pub fn run(request: &Request) -> Result<Option<Value>, Error> {
    match request {
        Request::Add(id, netns, pod_uid, config) => {
            let config = Config::parse(config, Need::All)?;
            match &config.kind {
                Kind::Orlop(network) => add(id, netns, pod_uid.as_deref(), &config, network).map(Some),
                Kind::Loopback => add_loopback(id, netns, &config).map(Some),
            }
        }
        Request::Del(id, config) => {
            match Config::parse(config, Need::Teardown)?.kind {
                Kind::Orlop(network) => del(id, &network)?,
                // The interface ends with its namespace.
                Kind::Loopback => {}
            }
            Ok(None)
        }
        Request::Check(id, netns, config) => {
            let config = Config::parse(config, Need::All)?;
            match &config.kind {
                Kind::Orlop(network) => check(id, netns, &config, network)?,
                Kind::Loopback => check_loopback(id, netns)?,
            }
            Ok(None)
        }
        Request::Gc(config) => {
            match Config::parse(config, Need::Teardown)?.kind {
                Kind::Orlop(network) => gc(&network)?,
                Kind::Loopback => {}
            }
            Ok(None)
        }
        Request::Status(config) => {
            match Config::parse(config, Need::All)?.kind {
                Kind::Orlop(network) => status(&network)?,
                Kind::Loopback => {}
            }
            Ok(None)
        }
        Request::Version(config) => Ok(Some(result::versions(Config::requested_version(config)))),
    }
}

/// Reserve, wire, commit. The reservation is on record before the first interface exists, and a failure undoes both.
fn add(
    id: &AttachmentId,
    netns_path: &Path,
    pod_uid: Option<&str>,
    config: &Config,
    network: &Network,
) -> Result<Value, Error> {
    let netns = Netns::open(netns_path)?;
    let ipam = Ipam::new(&network.data_dir, &network.name)?;
    let mut socket = Socket::open()?;
    let link = wiring::host_name(id);
    let pod = pod_uid.map(|uid| ipam::pod_tag(uid, &id.ifname));
    let owner = Owner {
        container_id: id.container_id.clone(),
        ifname: id.ifname.clone(),
        pod_uid: pod_uid.map(str::to_owned),
        netns: netns_path.to_owned(),
        netns_id: netns.id(),
    };
    let wanted = &network.runtime.ips;
    let reserve = |ledger: Ledger<'_>| ledger.reserve(&link, &owner, &network.ranges, wanted);
    let mut ledger = ipam.ledger()?;
    let before = earlier(&ledger, id, &link, pod.as_deref())?;
    if !before.is_empty() {
        // Others need not wait while interfaces go.
        drop(ledger);
        for record in &before {
            detach(&mut socket, &ipam, record)?;
        }
        ledger = ipam.ledger()?;
    }
    let mut record = match reserve(ledger) {
        Err(ipam::Error::Exhausted { .. } | ipam::Error::Taken { .. }) => {
            // Pods whose DEL never came must not starve those that run, nor keep an address from the pod that is to have it.
            detach_dead(&mut socket, &ipam, ipam.records()?)?;
            reserve(ipam.ledger()?)?
        }
        reserved => reserved?,
    };
    let wiring = Wiring::new(id, network.mtu, &record.addresses, &network.runtime);
    let outcome =
        wire(&mut socket, &netns, &wiring, network.pair).and_then(|()| Ok(ipam.commit(&mut record)?));
    if let Err(error) = outcome {
        // Best effort: what remains is a pending record, which the runtime's DEL or the namespace's end clears.
        let _ = detach(&mut socket, &ipam, &record);
        return Err(error);
    }
    Ok(result::attached(
        config.version,
        &wiring,
        &netns_path.to_string_lossy(),
        network.runtime.dns.as_ref().or(network.dns.as_ref()),
        config.prev_result.as_ref(),
    ))
}

/// The records that a new attachment takes the place of.
fn earlier(
    ledger: &Ledger<'_>,
    id: &AttachmentId,
    link: &str,
    pod: Option<&str>,
) -> Result<Vec<Record>, Error> {
    let mut earlier = Vec::new();
    for name in ledger.records() {
        match name.state {
            State::Ready if name.link == link => return Err(Error::AlreadyAttached(id.to_string())),
            // An earlier ADD was killed, and the runtime tries again without a DEL in between.
            State::Pending if name.link == link => earlier.extend(name.record()),
            // An earlier sandbox of the pod: a runtime that makes another has given it up, whether its DEL came or not.
            _ if pod.is_some() && name.pod == pod => earlier.extend(name.record()),
            _ => {}
        }
    }
    Ok(earlier)
}

/// Makes the pair and everything on it: node first, so that the pod's end never comes up to a node that cannot answer.
/// Leaves the calling thread in the pod's namespace; `socket` goes on talking to the node's.
fn wire(socket: &mut Socket, netns: &Netns, wiring: &Wiring, choice: PairChoice) -> Result<(), Error> {
    set_sysctls(&wiring.node, None)?;
    let pair = &wiring.pair;
    let host = match (socket.create_pair(pair, choice.wanted, netns), choice.otherwise) {
        (Err(error), Some(otherwise)) if error.is_unsupported() => {
            socket.create_pair(pair, otherwise, netns)?
        }
        (made, _) => made?,
    };
    set_sysctls(&wiring.host, Some(&host))?;
    socket.apply(&pair.host_name, host.index, &wiring.host)?;
    netns.enter()?;
    let mut socket = Socket::open()?;
    let pod = socket.link(&pair.pod_name)?;
    set_sysctls(&wiring.pod, Some(&pod))?;
    Ok(socket.apply(&pair.pod_name, pod.index, &wiring.pod)?)
}

/// Sets the switches that are not as planned; `link` is the interface that they belong to. Knowing matters: some take the
/// kernel's global network lock on every write, and with hundreds of pods starting at once it has better things to guard.
fn set_sysctls(changes: &[Change], link: Option<&Link>) -> Result<(), Error> {
    for change in changes {
        let Change::Sysctl { path, value } = change else {
            continue;
        };
        if link.is_some_and(|link| link.has_switch(path, value)) {
            continue;
        }
        let path = format!("/proc/sys/net/{path}");
        set_sysctl(Path::new(&path), value).map_err(|source| Error::Sysctl { path, value, source })?;
    }
    Ok(())
}

fn set_sysctl(path: &Path, value: &str) -> io::Result<()> {
    let file = match File::options().read(true).write(true).open(path) {
        Ok(file) => file,
        // Where `/proc/sys` is read-only, what is as planned already is good enough.
        Err(error) => {
            return match fs::read_to_string(path) {
                Ok(current) if current.trim() == value => Ok(()),
                _ => Err(error),
            };
        }
    };
    // The switches that we set hold one digit.
    let mut current = [0; 8];
    let length = file.read_at(&mut current, 0)?;
    if current[..length].trim_ascii() == value.as_bytes() {
        return Ok(());
    }
    file.write_all_at(value.as_bytes(), 0)
}

/// Removes the interface, then frees the addresses: the other way round a new pod could get them while routes still lead
/// to the old one.
fn detach(socket: &mut Socket, ipam: &Ipam, record: &Record) -> Result<(), Error> {
    socket.delete_link(&record.link)?;
    Ok(ipam.release(record)?)
}

fn detach_dead(socket: &mut Socket, ipam: &Ipam, candidates: Vec<Record>) -> Result<(), Error> {
    for record in ipam.dead(candidates)? {
        detach(socket, ipam, &record)?;
    }
    Ok(())
}

/// Undoes ADD, however far it came, as often as it is called, with nothing but the attachment's names.
fn del(id: &AttachmentId, network: &Network) -> Result<(), Error> {
    let ipam = Ipam::new(&network.data_dir, &network.name)?;
    let mut socket = Socket::open()?;
    let link = wiring::host_name(id);
    // Also without a record: then the directory was lost, and the interface is all that is left.
    socket.delete_link(&link)?;
    let (own, others): (Vec<_>, Vec<_>) = ipam
        .records()?
        .into_iter()
        .partition(|record| record.link == link);
    for record in own {
        ipam.release(&record)?;
    }
    let pending = others
        .into_iter()
        .filter(|record| record.state == State::Pending)
        .collect();
    detach_dead(&mut socket, &ipam, pending)
}

/// Compares the attachment with what ADD would make today, and reports everything that is missing.
fn check(id: &AttachmentId, netns_path: &Path, config: &Config, network: &Network) -> Result<(), Error> {
    let netns = Netns::open(netns_path)?;
    let ipam = Ipam::new(&network.data_dir, &network.name)?;
    let mut problems = Vec::new();
    let record = ipam
        .find(&wiring::host_name(id))?
        .filter(|record| record.state == State::Ready);
    let Some(record) = record else {
        problems.push("it has no record of its addresses".to_owned());
        return Err(Error::CheckFailed {
            attachment: id.to_string(),
            problems,
        });
    };
    match &config.prev_result {
        None => problems.push("prevResult: is required for CHECK".to_owned()),
        Some(previous) => {
            let unlisted = record
                .addresses
                .iter()
                .filter(|address| !lists(previous, address));
            problems.extend(unlisted.map(|address| format!("prevResult does not list {address}")));
        }
    }
    let wiring = Wiring::new(id, network.mtu, &record.addresses, &network.runtime);
    problems.extend(missing(&wiring.pair.host_name, &wiring.host)?);
    netns.enter()?;
    problems.extend(missing(&wiring.pair.pod_name, &wiring.pod)?);
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Error::CheckFailed {
            attachment: id.to_string(),
            problems,
        })
    }
}

/// Whether the result has the address among its `ips`.
fn lists(result: &Value, address: &IpAddr) -> bool {
    let ips = result.get("ips").and_then(Value::as_array);
    ips.into_iter()
        .flatten()
        .filter_map(|entry| entry.get("address")?.as_str())
        .any(|entry| {
            entry
                .split('/')
                .next()
                .and_then(|entry| entry.parse::<IpAddr>().ok())
                == Some(*address)
        })
}

/// What of the plan the interface of this name, in the current namespace, lacks.
fn missing(interface: &str, planned: &[Change]) -> Result<Vec<String>, Error> {
    let mut socket = Socket::open()?;
    let index = match socket.link(interface) {
        Ok(link) => link.index,
        Err(error) if error.is_not_found() => return Ok(vec![format!("interface {interface} is missing")]),
        Err(error) => return Err(error.into()),
    };
    let observed = socket.observe(index)?;
    Ok(observed
        .missing(planned)
        .into_iter()
        .map(|change| format!("{interface} lacks {change}"))
        .collect())
}

/// Removes every attachment that the runtime does not list; goes on after a failure and reports all.
fn gc(network: &Network) -> Result<(), Error> {
    let Some(valid) = &network.valid_attachments else {
        // Taking an absent list for an empty one would cut off every pod.
        return Err(
            config::Error::Invalid(vec!["cni.dev/valid-attachments: is required for GC".to_owned()]).into(),
        );
    };
    let ipam = Ipam::new(&network.data_dir, &network.name)?;
    let mut socket = Socket::open()?;
    let mut failures = Vec::new();
    for record in ipam.records()? {
        if valid.iter().any(|id| wiring::host_name(id) == record.link) {
            continue;
        }
        if let Err(error) = detach(&mut socket, &ipam, &record) {
            failures.push(error.document(&[])["msg"].as_str().unwrap_or_default().to_owned());
        }
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(Error::GarbageCollection(failures))
    }
}

/// An ADD can succeed if there are addresses, a writable directory and a kernel that answers.
fn status(network: &Network) -> Result<(), Error> {
    Ipam::new(&network.data_dir, &network.name)?.check_room(&network.ranges)?;
    Socket::open()?.link("lo")?;
    Ok(())
}

fn add_loopback(id: &AttachmentId, netns_path: &Path, config: &Config) -> Result<Value, Error> {
    let netns = Netns::open(netns_path)?;
    netns.enter()?;
    let mut socket = Socket::open()?;
    let index = socket.link(&id.ifname)?.index;
    socket.apply(&id.ifname, index, &[Change::Up])?;
    let has_ipv6 = |change: &Change| matches!(change, Change::Address(IpAddr::V6(_), _));
    let ipv6 = socket.observe(index)?.in_effect.iter().any(has_ipv6);
    let netns = netns_path.to_string_lossy();
    Ok(result::loopback(
        config.version,
        &id.ifname,
        &netns,
        ipv6,
        config.prev_result.as_ref(),
    ))
}

fn check_loopback(id: &AttachmentId, netns_path: &Path) -> Result<(), Error> {
    Netns::open(netns_path)?.enter()?;
    let problems = missing(&id.ifname, &[Change::Up])?;
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Error::CheckFailed {
            attachment: id.to_string(),
            problems,
        })
    }
}
