//! The kubelet: flags -> Config -> wiring.

use clap::Parser;
use kubelet::config::{Config, Flags};
use tracing_subscriber::EnvFilter;

fn main() -> anyhow::Result<()> {
    let config = Config::load(&Flags::parse())?;
    // rustls must know its cryptography before the first connection.
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider was installed already"))?;
    // The client library's own lines repeat what we say about a failed request.
    let quiet = || EnvFilter::new("info,kube_client=off");
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| quiet());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    // Two threads: the work is waiting, and every thread costs memory.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(kubelet::run(config))
}
