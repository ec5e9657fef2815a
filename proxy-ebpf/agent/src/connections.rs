//! Collects dead entries from the table of connections, and those that would lead datagrams astray.
//!
//! The kernel takes an expired entry for none and evicts whatever is oldest when the table is full, so nothing breaks while
//! nobody collects. What is gained is room: the kernel's idea of the oldest may be a connection that is idle but alive.
//!
//! A thread of its own walks the tables: at intervals that follow how much there is to do, at once when programs find it hard
//! to get a port, and when the agent says that backends have left. Which datagrams are served by whom at the start is for the
//! agent to compare with its tables: the one before may have been killed before it could say who had left.

pub mod plan;

use std::{
    collections::HashSet,
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::mpsc::{Receiver, Sender, TryRecvError, channel},
    thread,
    time::{Duration, Instant},
};

use aya::{
    Pod,
    maps::{Map as AnyMap, MapData, RingBuf},
};
use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    eventfd::{EfdFlags, EventFd},
};
use proxy_ebpf_common::{Address, Address4, Address6, Conntrack, ConntrackKey, ServiceId, maps};
use thiserror::Error;
use tracing::{debug, warn};

use self::plan::{AGAIN, Flush, INTERVAL_FIRST, Repeat, is_doomed, next_interval};
use crate::{
    agent::chain,
    apply::{Map, MapsError},
    desired::SocketAddress,
};

/// Why connections cannot be collected.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ConnectionsError {
    #[error(transparent)]
    Maps(#[from] MapsError),
    #[error("open the ring buffer {name}")]
    Ring {
        name: &'static str,
        source: aya::maps::MapError,
    },
    #[error("start a thread")]
    Thread(#[source] io::Error),
    #[error("read /proc/uptime")]
    Uptime(#[source] io::Error),
    #[error("wait for programs or the agent")]
    Wait(#[source] io::Error),
}

/// The thread that collects. It ends itself once this is dropped.
#[derive(Debug)]
pub struct Collector {
    jobs: Option<Sender<Flush>>,
    wake: EventFd,
    inherited: Receiver<HashSet<(ServiceId, SocketAddress)>>,
}

impl Collector {
    /// Starts the thread for the pinned maps of `maps_dir`.
    pub fn start(maps_dir: &Path) -> Result<Self, ConnectionsError> {
        let tables = Tables {
            v4: Map::open::<ConntrackKey<Address4>, Conntrack<Address4>>(maps_dir, maps::CONNTRACK4)?,
            v6: Map::open::<ConntrackKey<Address6>, Conntrack<Address6>>(maps_dir, maps::CONNTRACK6)?,
        };
        let failed = |source| ConnectionsError::Ring {
            name: maps::PRESSURE,
            source,
        };
        let pressure = MapData::from_pin(maps_dir.join(maps::PRESSURE)).map_err(failed)?;
        let pressure = RingBuf::try_from(AnyMap::RingBuf(pressure)).map_err(failed)?;
        let wait = |errno: nix::Error| ConnectionsError::Wait(errno.into());
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(wait)?;
        let woken = wake
            .as_fd()
            .try_clone_to_owned()
            .map_err(ConnectionsError::Wait)?;
        let (jobs, receiver) = channel();
        let (found, inherited) = channel();
        thread::Builder::new()
            .name("connections".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || {
                let worked = tables.served().and_then(|served| {
                    // Nobody waits for it if the agent is gone already.
                    let _ = found.send(served);
                    drop(found);
                    work(&tables, pressure, &receiver, &woken)
                });
                if let Err(error) = worked {
                    warn!(error = %chain(&error), "dead connections stay until the kernel needs their room");
                }
            })
            .map_err(ConnectionsError::Thread)?;
        Ok(Self {
            jobs: Some(jobs),
            wake,
            inherited,
        })
    }

    /// Which services' datagrams were served when this was started, and by which backends. They are said once: the second time
    /// there are none.
    pub fn inherited(&self) -> HashSet<(ServiceId, SocketAddress)> {
        self.inherited.recv().unwrap_or_default()
    }

    /// Removes, soon, the datagram connections that a change of Services leaves without a future.
    pub fn flush(&self, flush: Flush) {
        if flush.is_empty() {
            return;
        }
        if self.jobs.as_ref().is_none_or(|jobs| jobs.send(flush).is_err()) {
            warn!("the thread that collects connections is gone");
        }
        self.wake();
    }

    fn wake(&self) {
        if let Err(error) = self.wake.write(1) {
            debug!(%error, "the thread that collects connections is awake already");
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.jobs = None;
        self.wake();
    }
}

struct Tables {
    v4: Map,
    v6: Map,
}

impl Tables {
    /// Which services' datagrams are served, and by which backends.
    fn served(&self) -> Result<HashSet<(ServiceId, SocketAddress)>, ConnectionsError> {
        let mut served = served_in::<Address4>(&self.v4)?;
        served.extend(served_in::<Address6>(&self.v6)?);
        Ok(served)
    }
}

fn served_in<A: Address + Into<plan::Ip>>(
    map: &Map,
) -> Result<HashSet<(ServiceId, SocketAddress)>, ConnectionsError>
where
    ConntrackKey<A>: Pod,
    Conntrack<A>: Pod,
{
    let now_s = now_s()?;
    let entries = map.read::<ConntrackKey<A>, Conntrack<A>>()?;
    let served = entries
        .iter()
        .filter_map(|(key, entry)| plan::served(key, entry, now_s));
    Ok(served.collect())
}

fn work(
    tables: &Tables,
    mut pressure: RingBuf<MapData>,
    jobs: &Receiver<Flush>,
    woken: &OwnedFd,
) -> Result<(), ConnectionsError> {
    let failed = |errno: nix::Error| ConnectionsError::Wait(errno.into());
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed)?;
    let readable = |data| EpollEvent::new(EpollFlags::EPOLLIN, data);
    epoll.add(&pressure, readable(0)).map_err(failed)?;
    epoll.add(woken, readable(1)).map_err(failed)?;
    let mut interval = INTERVAL_FIRST;
    let mut repeat = Repeat::default();
    let mut tick = Instant::now();
    loop {
        let wait = if repeat.is_empty() {
            interval
        } else {
            // A moment more, so that it is over when the kernel says so.
            tick.saturating_duration_since(Instant::now()) + Duration::from_millis(1)
        };
        let timeout = EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::MAX);
        match epoll.wait(&mut [EpollEvent::empty()], timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
        while pressure.next().is_some() {}
        // Nothing to read is no news.
        let _ = nix::unistd::read(woken, &mut [0; 8]);
        let mut flush = Flush::default();
        loop {
            match jobs.try_recv() {
                Ok(job) => {
                    repeat.spare(&job.joined);
                    flush.extend(job);
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
        }
        let now = Instant::now();
        let fresh = flush.clone();
        if repeat.is_empty() {
            tick = now + AGAIN;
        } else if now >= tick {
            tick = now + AGAIN;
            flush.extend(repeat.tick());
        }
        repeat.add(fresh);
        let (seen4, removed4) = collect::<Address4>(&tables.v4, &flush)?;
        let (seen6, removed6) = collect::<Address6>(&tables.v6, &flush)?;
        let (seen, removed) = (seen4 + seen6, removed4 + removed6);
        interval = next_interval(interval, seen, removed);
        if removed > 0 {
            debug!(seen, removed, ?interval, "collected dead connections");
        }
    }
}

/// Removes what is dead or to be flushed, and returns how many entries there were and how many were removed.
fn collect<A: Address + Into<plan::Ip>>(map: &Map, flush: &Flush) -> Result<(usize, usize), ConnectionsError>
where
    ConntrackKey<A>: Pod,
    Conntrack<A>: Pod,
{
    let entries = map.read::<ConntrackKey<A>, Conntrack<A>>()?;
    // A clock that is behind only spares some.
    let now_s = now_s()?;
    let goes = |key: &ConntrackKey<A>, entry: &Conntrack<A>| is_doomed(key, entry, now_s, flush);
    let mut removed = 0;
    for (key, _) in entries.iter().filter(|(key, entry)| goes(key, entry)) {
        removed += usize::from(remove(map, key, goes)?);
    }
    Ok((entries.len(), removed))
}

/// Removes an entry if it still has to go. Programs begin new connections under the keys of dead ones, also while this runs, and
/// such a thread may have to wait for a processor anywhere.
fn remove<A: Address>(
    map: &Map,
    key: &ConntrackKey<A>,
    goes: impl Fn(&ConntrackKey<A>, &Conntrack<A>) -> bool,
) -> Result<bool, MapsError>
where
    ConntrackKey<A>: Pod,
    Conntrack<A>: Pod,
{
    let found: Option<Conntrack<A>> = map.lookup(key)?;
    if !found.is_some_and(|entry| goes(key, &entry)) {
        return Ok(false);
    }
    let taken: Option<Conntrack<A>> = map.take(key)?;
    match taken {
        Some(entry) if !goes(key, &entry) => map.add(key, &entry).map(|()| false),
        taken => Ok(taken.is_some()),
    }
}

/// Seconds since boot, as programs count them.
fn now_s() -> Result<u32, ConnectionsError> {
    let uptime = fs::read_to_string("/proc/uptime").map_err(ConnectionsError::Uptime)?;
    let seconds = uptime.split('.').next().and_then(|seconds| seconds.parse().ok());
    seconds.ok_or_else(|| ConnectionsError::Uptime(io::ErrorKind::InvalidData.into()))
}
