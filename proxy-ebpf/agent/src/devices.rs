//! The devices of this node that the packet path sees, and what it has to know of them: which are pods', which lead out,
//! at which address, and whose pods are where.
//!
//! All of it follows from Nodes and from what the kernel says of its devices. Netlink's events only wake the reconciler.

pub mod plan;

mod netlink;
mod tables;

use hashbrown::HashMap;

use thiserror::Error;
use tokio::time::Instant;
use tracing::{info, warn};

use self::{netlink::Kernel, plan::State, tables::DeviceTables};
use crate::{
    agent::chain,
    apply::MapsError,
    node::{self, Node},
    packets::{PacketPrograms, Role},
    pins::Pins,
    programs::ProgramsError,
};

/// What fails here fails for lack of memory or rights; neither comes back quickly.
const RETRY: std::time::Duration = std::time::Duration::from_secs(10);

/// systemd applies its settings to a new device a moment after it has appeared, and may undo the plugin's.
const RECHECK: std::time::Duration = std::time::Duration::from_secs(5);

/// Why the devices are not as they should be.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum DevicesError {
    #[error("open a netlink socket")]
    Open(#[source] std::io::Error),
    #[error("list the {what}")]
    List {
        what: &'static str,
        source: rtnetlink::Error,
    },
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    #[error(transparent)]
    Maps(#[from] MapsError),
}

/// What this node is told of itself.
#[derive(Clone, Debug)]
pub struct DeviceSettings {
    /// This node's name.
    pub node_name: String,
    /// Whether what pods send out of the cluster gets the node's address. Another network plugin does that itself.
    pub masquerade: bool,
}

/// Keeps programs on the devices, and the tables about them, in step with the kernel and the Nodes.
#[derive(Debug)]
pub struct Devices {
    settings: DeviceSettings,
    kernel: Kernel,
    tables: DeviceTables,
    /// What the tables hold; `None`: that has to be read.
    written: Option<State>,
    retry: Option<Instant>,
    disturbed: bool,
}

impl Devices {
    /// Opens the pinned tables. Nothing is done before [`Self::reconcile`].
    pub fn open(settings: DeviceSettings, pins: &Pins) -> Result<Self, DevicesError> {
        Ok(Self {
            settings,
            kernel: Kernel::open()?,
            tables: DeviceTables::open(&pins.maps())?,
            written: None,
            retry: None,
            disturbed: true,
        })
    }

    /// When to reconcile again although nothing has changed.
    pub fn retry(&self) -> Option<Instant> {
        self.retry
    }

    /// Returns once the kernel's devices, addresses, routes or neighbours have changed.
    pub async fn disturbed(&mut self) {
        self.kernel.disturbed().await;
        self.disturbed = true;
    }

    /// Says that the programs are others now. Where they are attached by links, devices have them already; where they are not,
    /// each device is given them once more, or it would go on with the tables of those that it had.
    pub fn programs_replaced(&mut self) {
        self.written = None;
        self.disturbed = true;
    }

    /// Brings programs and tables in step if that is due. What fails is logged and tried again later.
    pub async fn reconcile(
        &mut self,
        pins: &Pins,
        programs: &PacketPrograms,
        nodes: &HashMap<String, Node>,
        changed: bool,
    ) {
        let due = self.retry.is_some_and(|retry| retry <= Instant::now());
        if !changed && !self.disturbed && !due {
            return;
        }
        self.disturbed = false;
        self.retry = None;
        match self.try_reconcile(pins, programs, nodes).await {
            Ok(is_new) => {
                let next = if is_new { RECHECK } else { node::RESYNC };
                self.retry = Some(Instant::now() + next);
            }
            Err(error) => {
                warn!(error = %chain(&error), "some devices are not seen by the packet path, will retry");
                self.written = None;
                self.retry = Some(Instant::now() + RETRY);
            }
        }
    }

    /// Whether a device is new.
    async fn try_reconcile(
        &mut self,
        pins: &Pins,
        programs: &PacketPrograms,
        nodes: &HashMap<String, Node>,
    ) -> Result<bool, DevicesError> {
        let observed = self.kernel.observe().await?;
        node::loosen_reverse_paths(observed.links.iter().map(|link| &*link.name));
        let wanted = plan::state(&self.settings, nodes, &observed);
        let written = match &self.written {
            Some(written) => written,
            None => {
                let mut state = self.tables.read()?;
                state.roles = PacketPrograms::attached(pins)?;
                self.written.insert(state)
            }
        };
        // Tables before programs, so that no program finds itself on a device of which it knows nothing; the other way round
        // when they go.
        self.tables.put(written, &wanted)?;
        for (&ifindex, &role) in &wanted.roles {
            if written.roles.get(&ifindex) != Some(&role) {
                programs.attach(pins, ifindex, role)?;
                if role == Role::Uplink {
                    info!(ifindex, "an uplink");
                }
            }
        }
        for (&ifindex, &role) in &written.roles {
            if wanted.roles.get(&ifindex) != Some(&role) {
                programs.detach(pins, ifindex, role)?;
            }
        }
        self.tables.delete(written, &wanted)?;
        let mut roles = wanted.roles.keys();
        let is_new = roles.any(|ifindex| !written.roles.contains_key(ifindex));
        self.written = Some(wanted);
        Ok(is_new)
    }
}
