//! What a failed request reports, with the code that the CNI specification gives it.

use std::error::Error as StdError;

use serde_json::{Value, json};

use crate::{config, ipam, netlink, netns, result};

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `CNI_*` variables are missing or malformed; every one of them is listed.
    #[error("invalid environment: {}", .0.join("; "))]
    Environment(Vec<String>),
    /// The configuration could not be read from stdin.
    #[error("cannot read the network configuration from stdin")]
    ReadConfig {
        /// What the read failed with.
        #[source]
        source: std::io::Error,
    },
    /// The network configuration is unusable.
    #[error("network configuration")]
    Config(#[from] config::Error),
    /// The address records could not be read or changed, or hold no free address.
    #[error("address allocation")]
    Ipam(#[from] ipam::Error),
    /// The kernel refused a change.
    #[error("network interface")]
    Netlink(#[from] netlink::Error),
    /// The pod's network namespace cannot be entered.
    #[error("CNI_NETNS")]
    Netns(#[from] netns::Error),
    /// A kernel switch could not be set.
    #[error("cannot set {path} to {value}")]
    Sysctl {
        /// The file below `/proc/sys`.
        path: String,
        /// What was to be written.
        value: &'static str,
        /// What the write failed with.
        #[source]
        source: std::io::Error,
    },
    /// ADD for an attachment that exists already.
    #[error("{0} is already attached to this network: the runtime must DEL it first")]
    AlreadyAttached(String),
    /// CHECK found that the attachment is not as ADD left it.
    #[error("{attachment} is not as ADD left it: {}", .problems.join("; "))]
    CheckFailed {
        /// Container id and interface name.
        attachment: String,
        /// Everything that is missing.
        problems: Vec<String>,
    },
    /// GC went on after failures and reports all of them.
    #[error("garbage collection left {} attachments behind: {}", .0.len(), .0.join("; "))]
    GarbageCollection(Vec<String>),
}

impl Error {
    /// The code of the specification's table; 100 and above are ours.
    pub fn code(&self) -> u32 {
        match self {
            Error::Environment(_) | Error::Netns(_) => 4,
            Error::Netlink(error) if error.is_temporary() => 11,
            Error::ReadConfig { .. } | Error::Sysctl { .. } | Error::Netlink(_) => 5,
            Error::Config(config::Error::IncompatibleVersion { .. }) => 1,
            Error::Config(config::Error::Unsupported { .. }) => 2,
            Error::Config(config::Error::Decode { .. }) => 6,
            Error::Config(config::Error::Invalid(_)) => 7,
            Error::Ipam(ipam::Error::Exhausted { .. }) => 50,
            Error::Ipam(ipam::Error::Taken { .. }) => 103,
            Error::Ipam(_) => 5,
            Error::AlreadyAttached(_) => 100,
            Error::CheckFailed { .. } => 101,
            Error::GarbageCollection(_) => 102,
        }
    }

    /// The error document for stdout; `config` is what came on stdin and supplies the version if it can be read.
    pub fn document(&self, config: &[u8]) -> Value {
        let version = serde_json::from_slice::<Value>(config)
            .ok()
            .and_then(|config| Some(config.get("cniVersion")?.as_str()?.to_owned()))
            .unwrap_or_else(|| result::Version::NEWEST.to_string());
        // Runtimes show `msg` and drop `details`: the cause has to be in the message.
        let mut msg = self.to_string();
        let mut source = self.source();
        while let Some(cause) = source {
            msg = format!("{msg}: {cause}");
            source = cause.source();
        }
        json!({ "cniVersion": version, "code": self.code(), "msg": msg })
    }
}
