//! Fuzz targets for whatever decodes bytes from outside or patches objects: no input panics, none takes more memory than
//! its length accounts for, and what the targets assert of an outcome holds.
//!
//! Two things drive them: `cargo test -p fuzz` replays the [`corpus`] with a few seeded mutations of each entry, and
//! `cargo xtask fuzz` lets libFuzzer search for inputs that reach new code, which then become the corpus.

pub mod corpus;
mod documents;
pub mod mutation;
mod objects;
mod plugin;
mod texts;

use peak_alloc::PeakAlloc;

/// Counts what is allocated, so that [`Target::run`] can tell how much an input took.
#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// What any input may take: tables made at first use, and buffers of fixed sizes.
const BYTES_FOR_ANY: usize = 48 << 20;
/// What each byte of an input may take. A JSON number of one digit and its comma become a value of 32 bytes, which patches
/// copy a few times.
const BYTES_PER_BYTE: usize = 1024;

/// One decoder or engine.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name in `cargo xtask fuzz NAME`, and of its corpus.
    pub name: &'static str,
    /// What is done with an input.
    entrance: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    target("apply", objects::apply),
    target("bearer_token", apiserver::fuzzing::bearer_token),
    target("certificate_request", objects::certificate_request),
    target("client_certificate", apiserver::fuzzing::client_certificate),
    target("cni_config", plugin::config),
    target("cni_request", plugin::request),
    target("container_status", kubelet::fuzzing::container_status),
    target("continue_token", apiserver::fuzzing::continue_token),
    target("delete_options", apiserver::fuzzing::delete_options),
    target("etcd_responses", store::fuzzing::etcd_responses),
    target("field_selector", texts::field_selector),
    target("image_pull_secret", kubelet::fuzzing::image_pull_secret),
    target("json_patch", objects::json_patch),
    target("kubeconfig", texts::kubeconfig),
    target("kubelet_config", kubelet::fuzzing::config_file),
    target("kubelet_path", kubelet::fuzzing::request_path),
    target("label_selector", texts::label_selector),
    target("log_lines", kubelet::fuzzing::log_lines),
    target("managed_fields", objects::managed_fields),
    target("merge_patch", objects::merge_patch),
    target("negotiation", apiserver::fuzzing::negotiation),
    target("object_json", objects::json),
    target("object_protobuf", apiserver::fuzzing::protobuf),
    target("object_yaml", objects::yaml),
    target("proxy_config", texts::proxy_config),
    target("quantity", texts::quantity),
    target("request_line", apiserver::fuzzing::request_line),
    target("snapshot_file", store::fuzzing::snapshot_file),
    target("spdy", apiserver::fuzzing::spdy),
    target("store_journal", store::fuzzing::journal),
    target("store_log_record", store::fuzzing::log_record),
    target("strategic_merge", objects::strategic_merge),
    target("tls_pair", objects::tls_pair),
    target("token_keys", apiserver::fuzzing::token_keys),
    target("watch_frames", apiserver::fuzzing::watch_frames),
    target("websocket", apiserver::fuzzing::websocket),
];

const fn target(name: &'static str, entrance: fn(&[u8])) -> Target {
    Target { name, entrance }
}

impl Target {
    /// The target called `name`.
    pub fn find(name: &str) -> Option<Target> {
        TARGETS.iter().find(|target| target.name == name).copied()
    }

    /// Runs the target on an input.
    ///
    /// # Panics
    /// The decoder did, or broke a promise, or took too much memory.
    pub fn run(&self, input: &[u8]) {
        let before = ALLOCATOR.current_usage();
        ALLOCATOR.reset_peak_usage();
        (self.entrance)(input);
        let taken = ALLOCATOR.peak_usage().saturating_sub(before);
        let allowed = BYTES_FOR_ANY + BYTES_PER_BYTE * input.len();
        assert!(
            taken <= allowed,
            "{} bytes of input took {taken} bytes of memory",
            input.len()
        );
    }
}
