//! Ends datagram sockets whose backend has left its Service.
//!
//! The socket path translates a connected datagram socket once, when it is connected. Nothing tells its owner that the
//! backend is gone: it would send into the void, or to whichever pod has the address next. Such a socket is aborted, its
//! owner gets ECONNABORTED at its next call and connects anew.
//!
//! A socket is ended only if it is connected to the backend **and** was sent there by that Service: one that was given the
//! pod's address directly keeps it, and one that names its peer with every datagram is translated anew each time.
//!
//! Sockets belong to network namespaces, which are entered one by one by a thread kept for that.

mod diag;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use nix::sched::{CloneFlags, setns};
use proxy_ebpf_common::ServiceId;
use thiserror::Error;
use tracing::{debug, warn};

use crate::{
    agent::chain,
    apply::{MapsError, ReverseSockets},
    desired::SocketAddress,
};

/// Why sockets could not be ended.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum SocketsError {
    #[error(transparent)]
    Maps(#[from] MapsError),
    #[error("start a thread")]
    Thread(#[source] io::Error),
    #[error("enter the network namespace {name}")]
    Enter { name: String, source: io::Error },
    #[error("list the datagram sockets of {name}: has the kernel CONFIG_INET_UDP_DIAG?")]
    List { name: String, source: io::Error },
    #[error("end a socket of {name}: has the kernel CONFIG_INET_DIAG_DESTROY?")]
    End { name: String, source: io::Error },
}

/// A backend that a service balances over no more.
pub type Left = (ServiceId, SocketAddress);

/// The thread that ends sockets. It ends itself once this is dropped.
#[derive(Debug)]
pub struct Reaper {
    jobs: Sender<Vec<Left>>,
}

impl Reaper {
    /// Starts the thread for the sockets of all processes in `cgroup`, with the pinned maps of `maps_dir`. What it ends is
    /// counted in `ended`.
    pub fn start(cgroup: PathBuf, maps_dir: &Path, ended: Arc<AtomicU64>) -> Result<Self, SocketsError> {
        let origins = ReverseSockets::open(maps_dir)?;
        let (jobs, receiver) = channel();
        thread::Builder::new()
            .name("sockets".to_owned())
            // Descends cgroups and holds one message of the kernel.
            .stack_size(256 * 1024)
            .spawn(move || work(&cgroup, &origins, &receiver, &ended))
            .map_err(SocketsError::Thread)?;
        Ok(Self { jobs })
    }

    /// Ends, soon, the sockets that are connected to these backends by these services.
    pub fn end(&self, left: Vec<Left>) {
        if !left.is_empty() && self.jobs.send(left).is_err() {
            warn!("the thread that ends sockets is gone");
        }
    }
}

fn work(cgroup: &Path, origins: &ReverseSockets, jobs: &Receiver<Vec<Left>>, ended: &AtomicU64) {
    while let Ok(mut left) = jobs.recv() {
        // A rolling update is many small changes: one walk over the namespaces serves all that are waiting.
        left.extend(jobs.try_iter().flatten());
        let mut services = HashMap::<SocketAddress, HashSet<ServiceId>>::new();
        for (service, backend) in left {
            services.entry(backend).or_default().insert(service);
        }
        for namespace in namespaces(cgroup) {
            match end_in(&namespace, origins, &services) {
                Ok(0) => {}
                Ok(count) => {
                    ended.fetch_add(count, Ordering::Relaxed);
                    debug!(namespace = namespace.name, count, "ended datagram sockets");
                }
                Err(error) => {
                    warn!(error = %chain(&error), "datagram sockets may be stuck with a backend that is gone")
                }
            }
        }
    }
}

/// A network namespace, kept by its descriptor.
struct Namespace {
    name: String,
    file: File,
}

/// The network namespaces of the processes in `cgroup` and below, each once. Processes come and go meanwhile: what has
/// ended has no sockets left to end.
fn namespaces(cgroup: &Path) -> Vec<Namespace> {
    let mut names = BTreeSet::new();
    let mut namespaces = Vec::new();
    let mut dirs = vec![cgroup.to_owned()];
    while let Some(dir) = dirs.pop() {
        let processes = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        for process in processes.lines() {
            let path = format!("/proc/{process}/ns/net");
            let Ok(name) = fs::read_link(&path) else { continue };
            let name = name.to_string_lossy().into_owned();
            if !names.contains(&name)
                && let Ok(file) = File::open(path)
            {
                names.insert(name.clone());
                namespaces.push(Namespace { name, file });
            }
        }
        let children = fs::read_dir(dir).into_iter().flatten().flatten();
        let children = children.filter(|child| child.file_type().is_ok_and(|kind| kind.is_dir()));
        dirs.extend(children.map(|child| child.path()));
    }
    namespaces
}

/// Ends sockets of one namespace and returns their number. The calling thread stays in it.
fn end_in(
    namespace: &Namespace,
    origins: &ReverseSockets,
    services: &HashMap<SocketAddress, HashSet<ServiceId>>,
) -> Result<u64, SocketsError> {
    let name = || namespace.name.clone();
    setns(&namespace.file, CloneFlags::CLONE_NEWNET).map_err(|errno| SocketsError::Enter {
        name: name(),
        source: errno.into(),
    })?;
    let list_failed = |source| SocketsError::List { name: name(), source };
    let kernel = diag::Diag::open().map_err(list_failed)?;
    let mut ended = 0;
    for socket in kernel.connected().map_err(list_failed)? {
        let Some(services) = services.get(&socket.peer()) else {
            continue;
        };
        let by_service = origins.service(socket.cookie(), socket.peer())?;
        if by_service.is_some_and(|service| services.contains(&service)) {
            let destroyed = kernel
                .destroy(&socket)
                .map_err(|source| SocketsError::End { name: name(), source })?;
            ended += u64::from(destroyed);
        }
    }
    Ok(ended)
}
