//! The entrances of the fuzz targets to decoders that are this crate's own. Each takes any bytes and panics where a decoder
//! breaks a promise; nothing else calls them.

pub use crate::{
    config::fuzzing::config_file, images::fuzzing::image_pull_secret, server::fuzzing::request_path,
    server::logs::fuzzing::log_lines,
};
