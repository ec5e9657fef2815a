//! The flags of `control-plane snapshot`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::StoreFlags;

/// What to do with a snapshot.
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Writes all keys, as they stand at one revision, to a file. The control plane may run meanwhile.
    Save(SaveFlags),
    /// Makes a store of a snapshot, where there is none yet. The control plane must not run.
    Restore(RestoreFlags),
    /// Checks a snapshot and says what it is.
    Status {
        /// The snapshot.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SaveFlags {
    /// Where to write it; a file that is there is replaced.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) store: StoreFlags,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreFlags {
    /// The snapshot.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) store: StoreFlags,
    /// By how much the revision is raised: more than there were writes since the snapshot was taken. By default
    /// 1000000000, with etcd 1000, because it has to make each.
    #[arg(long, value_name = "COUNT")]
    pub(crate) bump_revision: Option<u64>,
}
