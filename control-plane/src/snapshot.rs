//! `control-plane snapshot`, and its other end in the running control plane.
//!
//! Only one process can have the embedded store open. So the one that has it gives a snapshot to whoever connects to a
//! socket in the store's directory: both are its owner's alone, as the data file is, and nobody else could read more from
//! the socket than from the file. Without a control plane the file is opened itself.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::{
        fs::{OpenOptionsExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use store::{Embedded, EmbeddedOptions, Etcd, EtcdOptions, SnapshotStatus};
use tokio::net::UnixListener;

use crate::flags::{RestoreFlags, SaveFlags, SnapshotCommand};

/// In the store's directory.
const SOCKET: &str = "snapshot.sock";
/// Whoever takes nothing for so long gets no more: while a snapshot is read, the store's file grows.
const PATIENCE: Duration = Duration::from_secs(30);
/// More writes than a cluster makes between two backups.
const BUMP: u64 = 1_000_000_000;
/// Etcd has to make each of them.
const BUMP_ETCD: u64 = 1000;

/// Carries out the command.
pub(crate) async fn run(command: SnapshotCommand) -> anyhow::Result<()> {
    match command {
        SnapshotCommand::Save(flags) => {
            let status = save(&flags).await?;
            println!("saved to {}", flags.file.display());
            show(&status);
        }
        SnapshotCommand::Restore(flags) => restore(&flags).await?,
        SnapshotCommand::Status { file } => show(&status(&file)?),
    }
    Ok(())
}

async fn save(flags: &SaveFlags) -> anyhow::Result<SnapshotStatus> {
    let unfinished = flags.file.with_added_extension("part");
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        // It has every Secret in it.
        .mode(0o600)
        .open(&unfinished)
        .with_context(|| format!("create {}", unfinished.display()))?;
    let saved = save_to(&file, flags).await.and_then(|()| {
        file.sync_all().context("sync the snapshot")?;
        // What came is only believed when it is read again.
        let status = status(&unfinished)?;
        fs::rename(&unfinished, &flags.file).with_context(|| format!("create {}", flags.file.display()))?;
        sync_directory(&flags.file)?;
        Ok(status)
    });
    if saved.is_err() {
        // The error says what went wrong; half a snapshot is of no use to anybody.
        let _ = fs::remove_file(&unfinished);
    }
    saved
}

async fn save_to(file: &File, flags: &SaveFlags) -> anyhow::Result<()> {
    if let Some(options) = flags.store.etcd()? {
        let store = connect(options).await?;
        store.save_snapshot(BufWriter::new(file)).await?;
        return Ok(());
    }
    let dir = flags.store.embedded_dir();
    match UnixStream::connect(dir.join(SOCKET)) {
        Ok(mut stream) => {
            stream.set_read_timeout(Some(PATIENCE))?;
            io::copy(&mut stream, &mut &*file).context("read from the running control plane")?;
        }
        Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused].contains(&error.kind()) => {
            let options = EmbeddedOptions {
                compaction_interval: None,
                ..EmbeddedOptions::new(&dir)
            };
            let store = Embedded::open_existing(options)
                .with_context(|| format!("--data-dir {}", flags.store.data_dir.display()))?;
            store.save_snapshot(BufWriter::new(file))?;
        }
        Err(error) => {
            return Err(error).with_context(|| format!("connect to {}", dir.join(SOCKET).display()));
        }
    }
    Ok(())
}

async fn restore(flags: &RestoreFlags) -> anyhow::Result<()> {
    let of_file = || format!("restore {}", flags.file.display());
    let (status, revision) = match flags.store.etcd()? {
        Some(options) => {
            let bump = flags.bump_revision.unwrap_or(BUMP_ETCD);
            let store = connect(options).await?;
            store
                .restore_snapshot(&flags.file, bump)
                .await
                .with_context(of_file)?
        }
        None => {
            let bump = flags.bump_revision.unwrap_or(BUMP);
            Embedded::restore_snapshot(&flags.store.embedded_dir(), &flags.file, bump)
                .with_context(of_file)?
        }
    };
    println!("restored, at revision {revision}");
    show(&status);
    Ok(())
}

/// Another process compacts.
async fn connect(options: EtcdOptions) -> anyhow::Result<Etcd> {
    let options = EtcdOptions {
        compaction_interval: None,
        ..options
    };
    Etcd::connect(options).await.context("--etcd-servers")
}

fn status(file: &Path) -> anyhow::Result<SnapshotStatus> {
    SnapshotStatus::of_file(file).with_context(|| file.display().to_string())
}

fn show(status: &SnapshotStatus) {
    let taken = UNIX_EPOCH + Duration::from_millis(status.taken_unix_millis);
    let age = SystemTime::now().duration_since(taken).unwrap_or_default();
    println!("revision  {}", status.revision);
    println!("keys      {}", status.keys);
    println!("bytes     {}", status.bytes);
    println!("taken     {} s ago", age.as_secs());
    println!("sha256    {}", status.hash());
}

fn sync_directory(file: &Path) -> anyhow::Result<()> {
    let directory = match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.with_context(|| format!("sync {}", directory.display()))
}

/// Gives snapshots of the store to whoever may connect, for as long as the store is in use.
///
/// Without the socket the control plane runs as well, so that is only worth a warning.
pub(crate) fn offer(store: &Arc<Embedded>, dir: &Path) {
    let path = dir.join(SOCKET);
    match listen(&path) {
        Ok(listener) => drop(tokio::spawn(serve(listener, Arc::downgrade(store), path))),
        Err(error) => tracing::warn!(
            path = %path.display(),
            error = &error as &dyn std::error::Error,
            "snapshots cannot be taken while this runs"
        ),
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    // The store is open, so whoever has left a socket there is gone.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// One snapshot at a time.
async fn serve(listener: UnixListener, store: Weak<Embedded>, path: PathBuf) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "no connection for a snapshot");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let Some(store) = store.upgrade() else { return };
        let sent = match stream.into_std() {
            Ok(stream) => tokio::task::spawn_blocking(move || send(&store, stream)).await,
            Err(error) => Ok(Err(error.into())),
        };
        match sent {
            Ok(Ok(status)) => {
                tracing::info!(revision = status.revision, keys = status.keys, "snapshot taken")
            }
            Ok(Err(error)) => tracing::warn!("snapshot broken off: {error:#}"),
            Err(error) => tracing::error!(%error, "taking a snapshot panicked"),
        }
    }
}

fn send(store: &Embedded, stream: UnixStream) -> anyhow::Result<SnapshotStatus> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut out = BufWriter::with_capacity(1 << 16, stream);
    let status = store.save_snapshot(&mut out)?;
    out.flush()?;
    Ok(status)
}
