//! The programs of the packet path, and the devices that they are attached to.
//!
//! They are loaded once. A new device is two links, pinned by program and interface index; a restarted agent gives existing
//! links its own programs in one step each, so that no packet falls between. The kernel detaches links with their device.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::Ebpf;
use tracing::{debug, info};

use crate::{
    pins::{Pins, open},
    programs::{self, Features, ProgramsError},
    sys::{self, DeviceKind},
    tc::{self, Direction},
};

/// What a device is to the packet path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The node's end of a pod's veth.
    Pod,
    /// The node's end of a pod's pair of netkit devices.
    Netkit,
    /// Other nodes and the world are behind it.
    Uplink,
}

impl Role {
    /// The programs for each direction, as the node sees it: what a pod sends comes in by its device.
    ///
    /// Of netkit the node's end runs both: the one as the node sends, the other as the pod sends.
    pub fn programs(self) -> [(&'static str, Direction); 2] {
        match self {
            Self::Pod => [
                ("pod_ingress", Direction::Egress),
                ("pod_egress", Direction::Ingress),
            ],
            Self::Netkit => [
                ("netkit_ingress", Direction::Egress),
                ("netkit_egress", Direction::Ingress),
            ],
            Self::Uplink => [
                ("node_egress", Direction::Egress),
                ("node_ingress", Direction::Ingress),
            ],
        }
    }
}

/// The loaded programs.
#[derive(Debug)]
pub struct PacketPrograms {
    /// Whether the kernel has links for devices.
    tcx: bool,
    programs: Vec<(&'static str, OwnedFd)>,
}

impl PacketPrograms {
    /// Loads the programs of an object whose maps exist, and with them `others`.
    pub(crate) fn load(
        ebpf: &mut Ebpf,
        features: Features,
        others: &[&'static str],
    ) -> Result<Self, ProgramsError> {
        const NETKIT: &str = "netkit_egress";
        let names = [Role::Pod, Role::Uplink].map(Role::programs);
        let names = names.as_flattened().iter().map(|&(name, _)| name);
        let names: Vec<_> = names.collect();
        programs::load_all(ebpf, &names)?;
        let mut packets = Self {
            tcx: features.tcx,
            programs: Vec::new(),
        };
        for name in names {
            packets.programs.push((name, descriptor(ebpf, name)?));
        }
        let pod_ingress = packets.program("pod_ingress")?;
        let has_netkit = features.tcx && sys::has_netkit(pod_ingress.as_fd());
        let rest: Vec<_> = has_netkit
            .then_some(NETKIT)
            .into_iter()
            .chain(others.iter().copied())
            .collect();
        programs::load_all(ebpf, &rest)?;
        if has_netkit {
            // What comes to a pod is the same to it, whatever its devices are.
            let name = "netkit_ingress";
            let fd = pod_ingress.try_clone();
            let fd = fd.map_err(|source| ProgramsError::Keep { name, source })?;
            packets.programs.push((name, fd));
            packets.programs.push((NETKIT, descriptor(ebpf, NETKIT)?));
        }
        Ok(packets)
    }

    /// Whether there are programs for netkit devices: the kernel has such devices, and links for them.
    pub fn runs_on_netkit(&self) -> bool {
        self.program("netkit_egress").is_ok()
    }

    /// Runs a device's packets through the programs of its role.
    pub fn attach(&self, pins: &Pins, ifindex: u32, role: Role) -> Result<(), ProgramsError> {
        for (name, direction) in role.programs() {
            if self.tcx {
                self.attach_link(pins, ifindex, role, name, direction)?;
            } else {
                let failed = |source| ProgramsError::AttachDevice {
                    name,
                    ifindex,
                    source,
                };
                tc::attach(ifindex, direction, self.program(name)?, name).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Leaves a device alone from now on.
    pub fn detach(&self, pins: &Pins, ifindex: u32, role: Role) -> Result<(), ProgramsError> {
        for (name, direction) in role.programs() {
            let failed = |source| ProgramsError::AttachDevice {
                name,
                ifindex,
                source,
            };
            if self.tcx {
                let path = pins.link(&link_name(name, ifindex));
                if path.exists() {
                    fs::remove_file(&path).map_err(failed)?;
                }
            } else {
                tc::detach(ifindex, direction).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Gives every device that has programs of an earlier agent these ones, and removes what is left of devices that are
    /// gone. Without links there is nothing to find them by: they get theirs when they are attached again.
    pub(crate) fn take_over(&self, pins: &Pins) -> Result<(), ProgramsError> {
        for (path, name) in pins.device_links()? {
            let Some((program, _)) = parse_link_name(&name) else {
                continue;
            };
            let Some(link) = open(&path)? else { continue };
            let failed = |source| ProgramsError::Replace {
                path: path.clone(),
                source,
            };
            if sys::link_info(link.as_fd()).map_err(failed)?.ifindex() == 0 {
                debug!(name, "the device is gone");
                fs::remove_file(&path).map_err(failed)?;
                continue;
            }
            sys::update_link(link.as_fd(), self.program(program)?.as_fd()).map_err(failed)?;
        }
        Ok(())
    }

    /// The devices that have links, with their roles.
    pub fn attached(pins: &Pins) -> Result<BTreeMap<u32, Role>, ProgramsError> {
        let links = pins.device_links()?;
        let links = links.iter().filter_map(|(_, name)| parse_link_name(name));
        let roles = links.filter_map(|(program, ifindex)| {
            let mut roles = ROLES.into_iter();
            let role = roles.find(|role| role.programs().iter().any(|(name, _)| *name == program))?;
            Some((ifindex, role))
        });
        Ok(roles.collect())
    }

    /// A program, for those who run it by themselves.
    pub fn program(&self, name: &'static str) -> Result<&OwnedFd, ProgramsError> {
        let found = self.programs.iter().find(|(other, _)| *other == name);
        found.map(|(_, fd)| fd).ok_or(ProgramsError::Missing { name })
    }

    fn attach_link(
        &self,
        pins: &Pins,
        ifindex: u32,
        role: Role,
        name: &'static str,
        direction: Direction,
    ) -> Result<(), ProgramsError> {
        let program = self.program(name)?.as_fd();
        let path = pins.link(&link_name(name, ifindex));
        let failed = |source| ProgramsError::AttachDevice {
            name,
            ifindex,
            source,
        };
        if let Some(link) = open(&path)? {
            let found = sys::link_info(link.as_fd()).map_err(failed)?.ifindex();
            let is_same_device = match role {
                // Of the program that runs as the pod sends, the kernel names the pod's end, by its index in the pod.
                Role::Netkit => found != 0,
                Role::Pod | Role::Uplink => found == ifindex,
            };
            if is_same_device {
                return sys::update_link(link.as_fd(), program).map_err(failed);
            }
            // An earlier device had this index.
            fs::remove_file(&path).map_err(failed)?;
        }
        let device = match role {
            Role::Netkit => DeviceKind::Netkit,
            Role::Pod | Role::Uplink => DeviceKind::Any,
        };
        let link = sys::attach_to_device(program, ifindex, device, direction).map_err(failed)?;
        sys::pin(link.as_fd(), &path).map_err(failed)?;
        info!(name, ifindex, "attached");
        Ok(())
    }
}

const ROLES: [Role; 3] = [Role::Pod, Role::Netkit, Role::Uplink];

/// Of a loaded program; it lives as long as this does.
fn descriptor(ebpf: &Ebpf, name: &'static str) -> Result<OwnedFd, ProgramsError> {
    let program = ebpf.program(name).ok_or(ProgramsError::Missing { name })?;
    let fd = program
        .fd()
        .map_err(|source| ProgramsError::Refused { name, source })?;
    let fd = fd.as_fd().try_clone_to_owned();
    fd.map_err(|source| ProgramsError::Keep { name, source })
}

fn link_name(program: &str, ifindex: u32) -> String {
    format!("{program}-{ifindex}")
}

fn parse_link_name(name: &str) -> Option<(&'static str, u32)> {
    let (program, ifindex) = name.rsplit_once('-')?;
    let mut programs = ROLES.into_iter().flat_map(Role::programs);
    let (program, _) = programs.find(|(other, _)| *other == program)?;
    Some((program, ifindex.parse().ok()?))
}
