//! Taking away what the node half has set up. Forwarding stays on: whoever else runs here may rely on it by now.

use std::{fs, io, path::Path};

use super::{
    CONFLIST, NetworkError,
    netlink::Kernel,
    plan::{self, State},
};

/// What was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The plugin's configuration was.
    pub configuration: bool,
    /// So many routes and devices were.
    pub changes: usize,
}

/// Removes the plugin's configuration from `cni_conf_dir`, so that no more pods are given to it, then every route of ours and
/// the tunnel. What was removed before a failure stays removed.
pub async fn remove(cni_conf_dir: &Path) -> Result<Removed, NetworkError> {
    let path = cni_conf_dir.join(CONFLIST);
    let configuration = match fs::remove_file(&path) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(source) => return Err(NetworkError::Remove { path, source }),
    };
    let kernel = Kernel::open()?;
    let changes = plan::changes(&State::default(), &kernel.observe().await?.state);
    kernel.apply(&changes).await?;
    Ok(Removed {
        configuration,
        changes: changes.len(),
    })
}
