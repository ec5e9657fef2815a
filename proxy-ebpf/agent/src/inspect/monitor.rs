//! `proxy-ebpf monitor`: single packets, as the programs see them.
//!
//! The programs write events only while `CONFIG` asks for them, so that nobody pays for what nobody reads. [`Switch`] asks for
//! as long as it lives. It is the one thing besides the agent's `apply` that writes to a map.

use std::{
    fs::File,
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, Map, MapData, RingBuf};
use nix::fcntl::{Flock, FlockArg};
use proxy_ebpf_common::{Address4, Address6, Config, DropReason, Event, EventKind, Hook, Port, maps};
use serde::Serialize;
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    connections::{Ip as _, protocol},
    device_name,
};
use crate::sys;

/// The right to have events written. Once [`Self::on`] has asked for them, they are until it is dropped.
pub struct Switch {
    config: Array<MapData, Config>,
    /// There is one reading position in the ring buffer: two readers would each see a part.
    _lock: Flock<File>,
}

impl Switch {
    /// Fails while another monitor has it.
    pub fn take(maps_dir: &Path) -> Result<Self> {
        let Some(lock) = lock(maps_dir, FlockArg::LockExclusiveNonblock)? else {
            bail!("another `proxy-ebpf monitor` is reading these events: end it first");
        };
        Ok(Self {
            config: config(maps_dir)?,
            _lock: lock,
        })
    }

    /// Asks for events of these kinds.
    pub fn on(mut self, kinds: &[EventKind]) -> Result<Self> {
        self.set(kinds.iter().fold(0, |bits, kind| bits | kind.bit()))?;
        Ok(self)
    }

    fn set(&mut self, monitored: u32) -> Result<()> {
        set(&mut self.config, monitored)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if let Err(error) = self.set(0) {
            tracing::warn!(%error, "events could not be switched off: `proxy-ebpf monitor` once more, or restart the agent");
        }
    }
}

/// Stops events that a monitor has asked for that was killed. One that lives keeps them.
pub fn switch_off(maps_dir: &Path) -> Result<()> {
    off(maps_dir, FlockArg::LockExclusiveNonblock)
}

/// The same for a monitor that is being killed: the kernel closes its files one after the other, the lock perhaps last.
/// Where another one has begun, this waits for its end.
pub fn switch_off_after(maps_dir: &Path) -> Result<()> {
    off(maps_dir, FlockArg::LockExclusive)
}

fn off(maps_dir: &Path, how: FlockArg) -> Result<()> {
    match lock(maps_dir, how)? {
        Some(_lock) => set(&mut config(maps_dir)?, 0),
        None => Ok(()),
    }
}

/// `None`: a monitor has it.
fn lock(maps_dir: &Path, how: FlockArg) -> Result<Option<Flock<File>>> {
    let dir = File::open(maps_dir).with_context(|| format!("open {}", maps_dir.display()))?;
    match Flock::lock(dir, how) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::Error::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(io::Error::from(errno)).context("lock the events"),
    }
}

fn config(maps_dir: &Path) -> Result<Array<MapData, Config>> {
    let path = maps_dir.join(maps::CONFIG);
    let data = MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))?;
    Array::try_from(Map::Array(data)).with_context(|| format!("{} is no configuration", path.display()))
}

fn set(config: &mut Array<MapData, Config>, monitored: u32) -> Result<()> {
    let old = config.get(&0, 0).context("read what is monitored")?;
    if old.monitored == monitored {
        return Ok(());
    }
    let new = Config { monitored, ..old };
    config.set(0, new, 0).context("say what is monitored")
}

/// The events, as they come.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Events {
    /// Opens the ring buffer. What is in it from earlier is shown first.
    #[expect(
        deprecated,
        reason = "the new name is unsafe; the ring buffer owns its descriptor for as long as this lives"
    )]
    pub fn open(maps_dir: &Path) -> Result<Self> {
        let path = maps_dir.join(maps::EVENTS);
        let failed = || format!("open {}", path.display());
        let data = MapData::from_pin(&path).with_context(failed)?;
        let ring = RingBuf::try_from(Map::RingBuf(data)).with_context(failed)?;
        let ring = AsyncFd::with_interest(ring, Interest::READABLE).with_context(failed)?;
        Ok(Self { ring })
    }

    /// The next event.
    pub async fn next(&mut self) -> Result<Event> {
        loop {
            let mut ready = self.ring.readable_mut().await.context("wait for events")?;
            if let Some(item) = ready.get_inner_mut().next() {
                return sys::from_bytes(&item)
                    .context("an event is too short: it is of another version of the programs");
            }
            ready.clear_ready();
        }
    }
}

/// An event in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    /// When, in UTC.
    pub time: String,
    /// `drop`, `new` or `translated`.
    pub event: &'static str,
    /// Why it was dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// Where it was seen.
    pub hook: &'static str,
    /// The device's name, or its index once it is gone.
    pub device: String,
    /// TCP, UDP, SCTP, ICMP or a number.
    pub protocol: String,
    /// Where it came from.
    pub source: String,
    /// Where it was going.
    pub destination: String,
    /// What the source became.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub translated_source: Option<String>,
    /// What the destination became.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub translated_destination: Option<String>,
    /// Number of the service; zero: none.
    pub service: u32,
    /// Bytes, from the Ethernet header on.
    pub length: u32,
}

impl Seen {
    /// `boot`: when this machine was started.
    pub fn of(event: &Event, boot: SystemTime) -> Self {
        let ip = |words: [u32; 4]| -> IpAddr {
            match event.ip_version {
                6 => Address6(words).ip(),
                _ => Address4(words[0]).ip(),
            }
        };
        let socket = |words, port: Port| SocketAddr::new(ip(words), port.get()).to_string();
        let time = boot + Duration::from_nanos(event.time_ns);
        let time = jiff::Timestamp::try_from(time).unwrap_or_default();
        let is_drop = event.kind == EventKind::DROP;
        let translated = |words, port| (!is_drop).then(|| socket(words, port));
        Self {
            time: time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
            event: match event.kind {
                EventKind::DROP => "drop",
                EventKind::NEW => "new",
                EventKind::TRANSLATED => "translated",
                _ => "unknown",
            },
            reason: is_drop
                .then(|| DropReason::from_number(event.reason).map_or("unknown", DropReason::name)),
            hook: match event.hook {
                Hook::POD_EGRESS => "pod-egress",
                Hook::POD_INGRESS => "pod-ingress",
                Hook::NODE_INGRESS => "node-ingress",
                Hook::NODE_EGRESS => "node-egress",
                _ => "unknown",
            },
            device: device_name(event.ifindex).unwrap_or_else(|| event.ifindex.to_string()),
            protocol: protocol(event.protocol),
            source: socket(event.source, event.source_port),
            destination: socket(event.destination, event.destination_port),
            translated_source: translated(event.translated_source, event.translated_source_port),
            translated_destination: translated(
                event.translated_destination,
                event.translated_destination_port,
            ),
            service: event.service.0,
            length: event.length,
        }
    }

    /// For people.
    pub fn line(&self) -> String {
        let Self {
            time,
            event,
            hook,
            device,
            protocol,
            source,
            destination,
            length,
            ..
        } = self;
        let what = match self.reason {
            Some(reason) => format!("{event} ({reason})"),
            None => (*event).to_owned(),
        };
        let becomes = match (&self.translated_source, &self.translated_destination) {
            (Some(source), Some(destination)) => {
                format!(" becomes {source} -> {destination} (service {})", self.service)
            }
            _ => String::new(),
        };
        format!("{time} {what} {hook} {device} {protocol} {source} -> {destination}{becomes} {length} B")
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proxy_ebpf_common::{BackendId, Protocol, ServiceId};

    use super::*;

    fn event(kind: EventKind) -> Event {
        let word = |octets| [Address4::from_octets(octets).0, 0, 0, 0];
        Event {
            time_ns: 1_500_000_000,
            kind,
            hook: Hook::NODE_INGRESS,
            ip_version: 4,
            protocol: Protocol::UDP,
            reason: DropReason::SourceRange as u32,
            // No device has the highest number.
            ifindex: u32::MAX,
            length: 74,
            source: word([192, 0, 2, 1]),
            destination: word([172, 31, 0, 11]),
            translated_source: word([172, 31, 0, 11]),
            translated_destination: word([10, 244, 0, 5]),
            source_port: Port::new(4000),
            destination_port: Port::new(30053),
            translated_source_port: Port::new(61000),
            translated_destination_port: Port::new(53),
            service: ServiceId(3),
            backend: BackendId(7),
        }
    }

    #[test]
    fn an_event_is_a_line() {
        let rows = [
            (
                EventKind::DROP,
                "1970-01-01T00:00:01.500000Z drop (source_range) node-ingress 4294967295 UDP 192.0.2.1:4000 -> 172.31.0.11:30053 \
                 74 B",
            ),
            (
                EventKind::NEW,
                "1970-01-01T00:00:01.500000Z new node-ingress 4294967295 UDP 192.0.2.1:4000 -> 172.31.0.11:30053 becomes \
                 172.31.0.11:61000 -> 10.244.0.5:53 (service 3) 74 B",
            ),
        ];
        for (kind, expected) in rows {
            assert_eq!(Seen::of(&event(kind), UNIX_EPOCH).line(), expected);
        }
    }

    #[test]
    fn json_leaves_out_what_is_not() {
        let dropped = serde_json::to_value(Seen::of(&event(EventKind::DROP), UNIX_EPOCH)).expect("JSON");
        assert_eq!(dropped["reason"], "source_range");
        assert!(dropped.get("translatedSource").is_none());
        let mut six = event(EventKind::TRANSLATED);
        six.ip_version = 6;
        six.source = Address6::from_octets([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]).0;
        let translated = serde_json::to_value(Seen::of(&six, UNIX_EPOCH)).expect("JSON");
        assert_eq!(translated["source"], "[fd00::1]:4000");
        assert!(translated.get("reason").is_none());
    }
}
