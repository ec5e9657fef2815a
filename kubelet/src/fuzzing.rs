//! The entrances of the fuzz targets to decoders that are this crate's own. Each takes any bytes and panics where a decoder
//! breaks a promise; nothing else calls them.

use k8s_cri::v1 as cri;
use prost::Message;

use crate::pod::ContainerObservation;
pub use crate::{
    config::fuzzing::config_file, images::fuzzing::image_pull_secret, server::fuzzing::request_path,
    server::logs::fuzzing::log_lines,
};

/// The runtime's answer to a question for a container's status.
pub fn container_status(data: &[u8]) {
    let answer = cri::ContainerStatusResponse::decode(data);
    if let Some(status) = answer.ok().and_then(|answer| answer.status) {
        let id = status.id.clone();
        let observed = ContainerObservation::new(status, "sandbox".to_owned());
        assert_eq!(observed.id, id);
    }
}
