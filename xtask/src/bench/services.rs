//! What a Service costs its clients, and what Services cost the agent, at growing numbers of them.
//!
//! Two pods of a real cluster talk directly and through a Service; beside them, in the same rounds and through the same node,
//! two plain network namespaces ([`peers`]) talk directly and through rules of iptables and nftables as kube-proxy writes them.
//! A ratio compares what goes through a Service with what goes directly between the same two ends.

mod agent;
mod load;
mod packets;
mod peers;
mod plugin;
mod stage;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::{Row, on_cluster};

/// The packages and examples that create Services, run programs on packets, and run the plugin.
pub(super) const PROGRAMS: [(&str, &str); 3] =
    [("tests", "fill-services"), packets::PROGRAM, plugin::PROGRAM];

/// What of Services is measured, and how much of it.
#[derive(Args)]
#[group(id = "services")]
pub(super) struct Options {
    /// Of Services, only these parts; everything when not given.
    #[arg(long, value_enum, value_delimiter = ',')]
    part: Vec<Part>,
    /// Numbers of Services at which clients are measured.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1_000, 10_000, 30_000])]
    counts: Vec<u32>,
    /// How often each way is measured in turns; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Numbers of Services at which the agent's memory is read. At the last of them it is started anew, with empty maps.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 50_000])]
    agent_counts: Vec<u32>,
}

/// A part of the measurements of Services.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Short connections, requests on lasting ones and first packets, at every number of Services.
    Load,
    /// Round trips one by one, and throughput, on one node and between two.
    Network,
    /// The programs of the packet path.
    Packets,
    /// The agent's memory, its cold start, and one change.
    Agent,
    /// The network plugin.
    Plugin,
}

impl Options {
    fn includes(&self, part: Part) -> bool {
        self.part.is_empty() || self.part.contains(&part)
    }
}

/// Measures on clusters of its own of these programs.
pub(super) fn measure(
    options: &Options,
    directory: &Path,
    archives: &[PathBuf],
    rows: &mut Vec<Row>,
) -> Result<()> {
    peers::sweep()?;
    let (directory, archives) = (|| directory.to_owned(), || archives.to_owned());
    if options.includes(Part::Load) || options.includes(Part::Packets) {
        on_cluster(1, directory(), archives(), |cluster, _| {
            let stage = stage::Stage::make(cluster)?;
            if options.includes(Part::Packets) {
                packets::measure(&stage, rows)?;
            }
            if options.includes(Part::Load) {
                load::measure(&stage, &options.counts, options.rounds, rows)?;
            }
            Ok(())
        })?;
    }
    if options.includes(Part::Network) {
        on_cluster(2, directory(), archives(), |cluster, _| {
            load::measure_network(&stage::Stage::make(cluster)?, options.rounds, rows)
        })?;
    }
    if options.includes(Part::Agent) {
        on_cluster(1, directory(), archives(), |cluster, _| {
            agent::measure(cluster, &options.agent_counts, rows)
        })?;
    }
    if options.includes(Part::Plugin) {
        plugin::measure(&directory(), rows)?;
    }
    Ok(())
}
