//! Flags to configuration to wiring: the whole control plane in one process, or one part of it alone.

mod flags;
mod snapshot;

use std::{path::Path, sync::Arc};

use anyhow::Context;
use apiserver::{Server, UserInfo};
use clap::Parser;
use flags::{ApiServerFlags, Cli, ClientFlags, Command, ControllerManagerFlags};
use futures::{FutureExt, future::BoxFuture};
use store::{Embedded, Etcd};
use tokio::task::JoinSet;

fn main() -> std::process::ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help is no error; everything else ends with 1, as upstream's components do.
            let code = if error.use_stderr() { 1 } else { 0 };
            let _ = error.print();
            return std::process::ExitCode::from(code);
        }
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("RUST_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    // rustls must know its cryptography before the first TLS connection of a client.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        tracing::debug!("a TLS provider was installed already");
    }
    // Two workers: the store's writer and the kernel do the waiting, more threads would only cost memory.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let result = runtime
        .context("cannot start the async runtime")
        .and_then(|runtime| runtime.block_on(run(cli)));
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        None => everything(cli.apiserver, cli.controller_manager).await,
        Some(Command::Apiserver(flags)) => match unless_stopped(start(&flags)).await? {
            Some((server, store_failed)) => serve(server, store_failed).await,
            None => Ok(()),
        },
        Some(Command::Scheduler(flags)) => {
            let scheduler =
                async { scheduler::run(client(&flags).await?, scheduler::Config::default()).await };
            unless_stopped(scheduler).await.map(|_| ())
        }
        Some(Command::ControllerManager {
            client: flags,
            flags: controllers,
        }) => {
            let controllers =
                async { controllers::run(client(&flags).await?, controllers.config(&[])?).await };
            unless_stopped(controllers).await.map(|_| ())
        }
        Some(Command::Snapshot(command)) => unless_stopped(snapshot::run(command)).await.map(|_| ()),
    }
}

/// Does the work, unless a signal says to stop.
async fn unless_stopped<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<Option<T>> {
    tokio::select! {
        result = work => result.map(Some),
        signal = terminated() => {
            tracing::info!(signal, "stopping");
            Ok(None)
        }
    }
}

/// All parts in one process; the scheduler and the controllers reach the API server without a socket.
async fn everything(
    apiserver: ApiServerFlags,
    controller_manager: ControllerManagerFlags,
) -> anyhow::Result<()> {
    let config = controller_manager.config(&apiserver.service_cluster_ip_range)?;
    let Some((server, store_failed)) = unless_stopped(start(&apiserver)).await? else {
        return Ok(());
    };
    let mut tasks = JoinSet::new();
    let scheduler = server.client(UserInfo::new("system:kube-scheduler", &[]));
    let controllers = server.client(UserInfo::new("system:kube-controller-manager", &[]));
    let serving = serve(server, store_failed);
    tasks.spawn(async move { scheduler::run(scheduler, scheduler::Config::default()).await });
    tasks.spawn(async move { controllers::run(controllers, config).await });
    let parts = async {
        while let Some(ended) = tasks.join_next().await {
            ended.context("a part of the control plane panicked")??;
        }
        Ok(())
    };
    tokio::select! {
        result = parts => result,
        result = serving => result,
    }
}

/// Why the store cannot be written any more, once that is so. A process that ends then is started again by its service
/// manager, and finds out whether the disk is well.
type StoreFailed = BoxFuture<'static, store::Error>;

async fn start(flags: &ApiServerFlags) -> anyhow::Result<(Server, StoreFailed)> {
    if let Some(options) = flags.store.etcd()? {
        let store = Etcd::connect(options).await.context("--etcd-servers")?;
        let server = Server::new(flags.config(), Arc::new(store)).await?;
        // Its members come and go.
        return Ok((server, std::future::pending().boxed()));
    }
    let dir = flags.store.embedded_dir();
    let store = Embedded::open(flags.store.embedded())
        .with_context(|| format!("--data-dir {}", flags.store.data_dir.display()))?;
    let store_failed = store.failed().boxed();
    let store = Arc::new(store);
    snapshot::offer(&store, &dir);
    Ok((Server::new(flags.config(), store).await?, store_failed))
}

/// Serves until a signal says to stop and the last answers are given, or until the store fails.
async fn serve(server: Server, store_failed: StoreFailed) -> anyhow::Result<()> {
    let listening = server.listen().await?;
    for address in listening.addresses() {
        tracing::info!(%address, "serving");
    }
    let stop = async {
        let signal = terminated().await;
        tracing::info!(signal, "stopping");
        server.shut_down();
        std::future::pending().await
    };
    tokio::select! {
        () = listening.run() => Ok(()),
        never = stop => never,
        error = store_failed => Err(error).context("the store failed"),
    }
}

async fn client(flags: &ClientFlags) -> anyhow::Result<kube::Client> {
    let path: &Path = &flags.kubeconfig;
    let kubeconfig = kube::config::Kubeconfig::read_from(path)
        .with_context(|| format!("--kubeconfig {}", path.display()))?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default())
        .await
        .with_context(|| format!("--kubeconfig {}", path.display()))?;
    Ok(kube::Client::try_from(config)?)
}

async fn terminated() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
