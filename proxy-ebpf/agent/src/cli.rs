//! The command line. Without a subcommand this is the agent; the subcommands look at what an agent has pinned, running or
//! not, and only `service trace` with names asks the API server.

mod cleanup;
mod install_cni;
mod run;
mod show;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tracing_subscriber::EnvFilter;

/// Service load balancing and pod networking in eBPF, in place of kube-proxy.
#[derive(Parser)]
#[command(name = "proxy-ebpf", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: run::Run,
}

#[derive(Subcommand)]
enum Command {
    /// Shows whether an agent runs, what its programs are attached to, and how full its maps are.
    Status(show::Status),
    /// Shows Services as the programs see them.
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Shows the connections of the packet path.
    #[command(subcommand)]
    Ct(CtCommand),
    /// Shows what happens to packets, as it happens.
    Monitor(show::Monitor),
    /// Puts the network plugin into the folder from which the container runtime starts plugins.
    InstallCni(install_cni::InstallCni),
    /// Removes from this node what the agent has set up: Services are no longer translated here.
    Cleanup(cleanup::Cleanup),
}

#[derive(Subcommand)]
enum ServiceCommand {
    /// Lists every frontend with its backends.
    List(show::ServiceList),
    /// Says step by step what happens to a client's connection to a Service.
    Trace(show::Trace),
}

#[derive(Subcommand)]
enum CtCommand {
    /// Lists every entry.
    List(show::CtList),
}

#[derive(Args)]
struct BpfDir {
    /// Folder on a BPF file system that holds the pinned maps and links.
    #[arg(long, default_value = "/sys/fs/bpf/orlop")]
    bpf_dir: PathBuf,
}

/// How something is shown.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Args)]
struct OutputFlag {
    /// How to show it.
    #[arg(short, long, default_value = "table")]
    output: Output,
}

impl Cli {
    pub(crate) fn run(self) -> Result<()> {
        let Some(command) = self.command else {
            return self.run.run();
        };
        // Whoever looks wants the answer on its own; what goes wrong is said in the error.
        init_log("warn");
        match command {
            Command::Status(status) => status.run(),
            Command::Service(ServiceCommand::List(list)) => list.run(),
            Command::Service(ServiceCommand::Trace(trace)) => trace.run(),
            Command::Ct(CtCommand::List(list)) => list.run(),
            Command::Monitor(monitor) => monitor.run(),
            Command::InstallCni(install) => install.run(),
            Command::Cleanup(cleanup) => cleanup.run(),
        }
    }
}

/// `default` is what is logged unless RUST_LOG says otherwise.
fn init_log(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}

async fn client(kubeconfig: Option<&Path>) -> Result<Client> {
    let config = match kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path)
                .with_context(|| format!("read --kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("use --kubeconfig {}", path.display()))?
        }
        None => Config::incluster()
            .context("no --kubeconfig is given, and this is not a pod with a service account")?,
    };
    Client::try_from(config).context("set up the connection to the API server")
}
