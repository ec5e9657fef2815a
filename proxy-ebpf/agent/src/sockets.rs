//! Ends datagram sockets whose backend has left its Service.
//!
//! The socket path translates a connected datagram socket once, when it is connected. Nothing tells its owner that the
//! backend is gone: it would send into the void, or to whichever pod has the address next. Such a socket is aborted, its
//! owner gets ECONNABORTED at its next call and connects anew.
//!
//! A socket is ended only if it is connected to the backend **and** was sent there by that Service: one that was given the
//! pod's address directly keeps it, and one that names its peer with every datagram is translated anew each time.
//!
//! A backend that leaves may still answer: one that is ended in an orderly way does. Sockets are ended a moment later, so that
//! whoever has asked gets its answer; who sends on and on is told within that time.
//!
//! A program may have read the old tables, and its socket be connected only after this has looked: between the program and
//! the socket's own lock nothing holds off the scheduler, and a process may be throttled there. So namespaces are walked
//! again, some time after ([`WALKS`]). A backend that comes back to its service meanwhile is taken off the list first.
//!
//! Connections of TCP are left to end by themselves, as kube-proxy and Cilium leave them: a backend that is still there drains, and
//! one that is gone resets them or leaves them to their time-outs.
//!
//! An agent that is killed forgets what it was about to do. So the next one looks at all sockets once, and ends those that no
//! table would send where they are.
//!
//! Sockets belong to network namespaces, which are entered one by one by a thread kept for that.

mod diag;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};
use proxy_ebpf_common::ServiceId;
use thiserror::Error;
use tracing::{debug, warn};

use self::diag::{Connected, Diag};
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

/// When namespaces are walked after a backend has left, each after the one before. An exchange takes less than the first if
/// anybody answers. A call takes microseconds if its process runs; one that is throttled runs again within a second, unless its
/// machine is beyond help.
const WALKS: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(1),
    Duration::from_secs(10),
];

/// The thread that ends sockets. It ends itself once this is dropped.
#[derive(Debug)]
pub struct Reaper {
    list: Arc<List>,
    wake: Sender<()>,
    inherited: Receiver<HashSet<Left>>,
}

/// Backends whose sockets are to be ended.
#[derive(Debug, Default)]
struct List(Mutex<HashMap<Left, Due>>);

/// The next walk for a backend.
#[derive(Clone, Copy, Debug)]
struct Due {
    at: Instant,
    /// Index in [`WALKS`].
    walk: usize,
}

impl Reaper {
    /// Starts the thread for the sockets of all processes in `cgroup`, with the pinned maps of `maps_dir`. What it ends is
    /// counted in `ended`.
    pub fn start(cgroup: PathBuf, maps_dir: &Path, ended: Arc<AtomicU64>) -> Result<Self, SocketsError> {
        let origins = ReverseSockets::open(maps_dir)?;
        let list = Arc::<List>::default();
        let (wake, woken) = channel();
        let (found, inherited) = channel();
        let shared = Arc::clone(&list);
        thread::Builder::new()
            .name("sockets".to_owned())
            // Descends cgroups and holds one message of the kernel.
            .stack_size(256 * 1024)
            .spawn(move || {
                // Nobody waits for it if the agent is gone already.
                let _ = found.send(connected(&cgroup, &origins));
                drop(found);
                work(&cgroup, &origins, &shared, &woken, &ended);
            })
            .map_err(SocketsError::Thread)?;
        Ok(Self {
            list,
            wake,
            inherited,
        })
    }

    /// Which backends sockets were connected to when this was started, and by which services. They are said once: the second
    /// time there are none.
    pub fn inherited(&self) -> HashSet<Left> {
        self.inherited.recv().unwrap_or_default()
    }

    /// Ends, after the first of [`WALKS`], the sockets that are connected to these backends by these services.
    pub fn end(&self, left: Vec<Left>) {
        if left.is_empty() {
            return;
        }
        self.list.add(left, Instant::now());
        if self.wake.send(()).is_err() {
            warn!("the thread that ends sockets is gone");
        }
    }

    /// Leaves alone the sockets of backends that are about to come back to their services. From when this returns none of
    /// them is ended.
    pub fn spare(&self, joined: &[Left]) {
        let mut list = self.list.lock();
        for joined in joined {
            list.remove(joined);
        }
    }
}

impl List {
    fn lock(&self) -> MutexGuard<'_, HashMap<Left, Due>> {
        // Every change is one insertion or removal after the other: a panic leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes down backends that have left now.
    fn add(&self, left: Vec<Left>, now: Instant) {
        let due = Due {
            at: now + WALKS[0],
            walk: 0,
        };
        self.lock().extend(left.into_iter().map(|left| (left, due)));
    }

    /// When the next walk is due.
    fn next(&self) -> Option<Instant> {
        self.lock().values().map(|due| due.at).min()
    }

    /// Those whose walk is due.
    fn due(&self, now: Instant) -> Vec<Left> {
        let list = self.lock();
        let due = list.iter().filter(|(_, due)| due.at <= now);
        due.map(|(left, _)| *left).collect()
    }

    /// Takes a walk for these as done.
    fn walked(&self, walked: &[Left], now: Instant) {
        let mut list = self.lock();
        for left in walked {
            let Some(due) = list.get_mut(left).filter(|due| due.at <= now) else {
                continue;
            };
            due.walk += 1;
            match WALKS.get(due.walk) {
                Some(after) => due.at = now + *after,
                None => {
                    list.remove(left);
                }
            }
        }
    }
}

/// Which backends the sockets of all processes in `cgroup` are connected to, and by which services.
fn connected(cgroup: &Path, origins: &ReverseSockets) -> HashSet<Left> {
    let mut connected = HashSet::new();
    for namespace in namespaces(cgroup) {
        match sockets_of(&namespace, origins, |_| true) {
            Ok((_, sockets)) => connected.extend(sockets.into_iter().map(|(_, left)| left)),
            Err(error) => {
                warn!(error = %chain(&error), "datagram sockets may be stuck with a backend that is gone");
            }
        }
    }
    connected
}

fn work(cgroup: &Path, origins: &ReverseSockets, list: &List, woken: &Receiver<()>, ended: &AtomicU64) {
    loop {
        let heard = match list.next() {
            None => woken.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(next) => woken.recv_timeout(next.saturating_duration_since(Instant::now())),
        };
        if heard == Err(RecvTimeoutError::Disconnected) {
            return;
        }
        // A rolling update is many small changes: one walk over the namespaces serves all that are waiting.
        while woken.try_recv().is_ok() {}
        let now = Instant::now();
        let due = list.due(now);
        if due.is_empty() {
            continue;
        }
        let backends: HashSet<_> = due.iter().map(|(_, backend)| *backend).collect();
        for namespace in namespaces(cgroup) {
            match end_in(&namespace, origins, &backends, list) {
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
        list.walked(&due, now);
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

/// The sockets of one namespace that services have connected to backends, of those that are `wanted`, and what to reach them by.
/// The calling thread stays in the namespace.
fn sockets_of(
    namespace: &Namespace,
    origins: &ReverseSockets,
    wanted: impl Fn(&SocketAddress) -> bool,
) -> Result<(Diag, Vec<(Connected, Left)>), SocketsError> {
    let name = || namespace.name.clone();
    setns(&namespace.file, CloneFlags::CLONE_NEWNET).map_err(|errno| SocketsError::Enter {
        name: name(),
        source: errno.into(),
    })?;
    let list_failed = |source| SocketsError::List { name: name(), source };
    let kernel = Diag::open().map_err(list_failed)?;
    let mut sockets = Vec::new();
    for socket in kernel.connected().map_err(list_failed)? {
        let backend = socket.peer();
        if !wanted(&backend) {
            continue;
        }
        if let Some(service) = origins.service(socket.cookie(), backend)? {
            sockets.push((socket, (service, backend)));
        }
    }
    Ok((kernel, sockets))
}

/// Ends sockets of one namespace and returns their number.
fn end_in(
    namespace: &Namespace,
    origins: &ReverseSockets,
    backends: &HashSet<SocketAddress>,
    list: &List,
) -> Result<u64, SocketsError> {
    let (kernel, sockets) = sockets_of(namespace, origins, |backend| backends.contains(backend))?;
    let mut ended = 0;
    for (socket, left) in sockets {
        // Held while the socket is ended: a backend that comes back is spared before a socket can be sent to it again.
        let list = list.lock();
        if list.contains_key(&left) {
            let destroyed = kernel.destroy(&socket).map_err(|source| SocketsError::End {
                name: namespace.name.clone(),
                source,
            })?;
            ended += u64::from(destroyed);
        }
    }
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use proxy_ebpf_common::Protocol;

    use super::*;

    #[test]
    fn whoever_has_asked_gets_its_answer_before_its_socket_is_ended() {
        let left = (
            ServiceId(7),
            SocketAddress {
                address: [10, 0, 0, 3].into(),
                port: 53,
                protocol: Protocol::UDP,
            },
        );
        let begun = Instant::now();
        let after = |milliseconds| begun + Duration::from_millis(milliseconds);
        let list = List::default();
        list.add(vec![left], begun);
        let mut walks = Vec::new();
        for milliseconds in (0..20_000).step_by(100) {
            if !list.due(after(milliseconds)).is_empty() {
                list.walked(&[left], after(milliseconds));
                walks.push(milliseconds);
            }
        }
        assert_eq!(walks, [1_000, 2_000, 12_000]);
        assert_eq!(list.next(), None);
        // One that leaves again has the time anew.
        list.add(vec![left], begun);
        list.add(vec![left], after(900));
        assert!(list.due(after(1_000)).is_empty());
        assert_eq!(list.next(), Some(after(1_900)));
    }
}
