//! Which entries of the table of connections go, and when to look again. Pure.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use proxy_ebpf_common::{
    Address, Address4, Address6, Conntrack, ConntrackFlags, ConntrackKey, Protocol, ServiceId, is_expired,
};

use crate::desired::SocketAddress;

/// How long after the start the tables are looked through for the first time.
pub const INTERVAL_FIRST: Duration = Duration::from_secs(60);
/// How long after something was flushed it is flushed again. No packet takes that long.
pub const AGAIN: Duration = Duration::from_secs(1);
/// Looking more often would not make datagrams expire sooner.
const INTERVAL_MIN: Duration = Duration::from_secs(10);
/// With nothing to do, a full table is still worth a look now and then.
const INTERVAL_MAX: Duration = Duration::from_secs(30 * 60);

/// An address of either family, from one in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ip(pub IpAddr);

impl From<Address4> for Ip {
    fn from(address: Address4) -> Self {
        Self(address.octets().into())
    }
}

impl From<Address6> for Ip {
    fn from(address: Address6) -> Self {
        Self(address.octets().into())
    }
}

/// Datagram connections that a change of Services leaves without a future: nothing in them says that they are over.
///
/// A backend that leaves may still answer, as one does that is being ended in an orderly way. So requests go to others at once,
/// and answers are translated for a while longer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flush {
    /// Backends that a service had and has no more.
    pub left: HashSet<(ServiceId, SocketAddress)>,
    /// Those of them that left so long ago that no answer is on its way.
    pub silent: HashSet<(ServiceId, SocketAddress)>,
    /// Addresses that have become a Service's. Whoever sent there before was sent out into the world.
    pub appeared: HashSet<SocketAddress>,
    /// Backends that a service has again, so that their connections are not flushed any more.
    pub joined: HashSet<(ServiceId, SocketAddress)>,
}

impl Flush {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.left.is_empty() && self.appeared.is_empty() && self.joined.is_empty()
    }

    /// Does that too, later.
    pub fn extend(&mut self, other: Self) {
        self.spare(&other.joined);
        self.left.extend(other.left);
        self.silent.extend(other.silent);
        self.appeared.extend(other.appeared);
    }

    /// Leaves alone what is about backends that a service has again.
    fn spare(&mut self, joined: &HashSet<(ServiceId, SocketAddress)>) {
        for gone in [&mut self.left, &mut self.silent] {
            gone.retain(|gone| !joined.contains(gone));
        }
    }
}

/// What was flushed and is to be flushed again: a program that ran with the old tables may have noted a connection just after
/// the table of connections was read, and an answer that was on its way brings back what its requests became.
///
/// Everything is repeated by the next three ticks, of which the second is a whole [`AGAIN`] after it was added. From then on
/// answers go too, twice: the one that is translated while the first of a pair is removed would bring that back.
#[derive(Debug, Default)]
pub struct Repeat {
    /// The newest first.
    generations: [Flush; 3],
}

impl Repeat {
    /// Whether nothing is to be repeated.
    pub fn is_empty(&self) -> bool {
        self.generations.iter().all(Flush::is_empty)
    }

    /// Repeats this from the next tick on.
    pub fn add(&mut self, flush: Flush) {
        self.generations[0].extend(flush);
    }

    /// Does not repeat what is about backends that a service has again.
    pub fn spare(&mut self, joined: &HashSet<(ServiceId, SocketAddress)>) {
        for flush in &mut self.generations {
            flush.spare(joined);
        }
    }

    /// What is to be flushed now.
    pub fn tick(&mut self) -> Flush {
        let [newer, older, oldest] = std::mem::take(&mut self.generations);
        let mut now = Flush::default();
        for mut flush in [oldest, older.clone()] {
            flush.silent.clone_from(&flush.left);
            now.extend(flush);
        }
        now.extend(newer.clone());
        self.generations = [Flush::default(), newer, older];
        now
    }
}

/// Whether an entry is dead or to be flushed.
pub fn is_doomed<A: Address + Into<Ip>>(
    key: &ConntrackKey<A>,
    entry: &Conntrack<A>,
    now_s: u32,
    flush: &Flush,
) -> bool {
    is_expired(entry.expires_s, now_s) || is_flushed(key, entry, flush)
}

fn is_flushed<A: Address + Into<Ip>>(key: &ConntrackKey<A>, entry: &Conntrack<A>, flush: &Flush) -> bool {
    if key.protocol != Protocol::UDP || flush.is_empty() {
        return false;
    }
    let (addressed, backend) = ends(key, entry);
    if entry.service == ServiceId(0) {
        return flush.appeared.contains(&addressed);
    }
    let gone = if entry.flags.contains(ConntrackFlags::REPLY) {
        &flush.silent
    } else {
        &flush.left
    };
    gone.contains(&(entry.service, backend))
}

/// What a connection's client has addressed, and who gets its requests: the translated destination of these, the source of
/// replies.
fn ends<A: Address + Into<Ip>>(
    key: &ConntrackKey<A>,
    entry: &Conntrack<A>,
) -> (SocketAddress, SocketAddress) {
    let address = |address: A, port: proxy_ebpf_common::Port| SocketAddress {
        address: address.into().0,
        port: port.get(),
        protocol: key.protocol,
    };
    let requested = address(key.destination, key.destination_port);
    let translated = address(entry.destination, entry.destination_port);
    let replier = address(key.source, key.source_port);
    let shown = address(entry.source, entry.source_port);
    if entry.flags.contains(ConntrackFlags::REPLY) {
        (shown, replier)
    } else {
        (requested, translated)
    }
}

/// The service of a datagram connection that is alive, and its backend.
pub fn served<A: Address + Into<Ip>>(
    key: &ConntrackKey<A>,
    entry: &Conntrack<A>,
    now_s: u32,
) -> Option<(ServiceId, SocketAddress)> {
    let is_served =
        key.protocol == Protocol::UDP && entry.service != ServiceId(0) && !is_expired(entry.expires_s, now_s);
    is_served.then(|| (entry.service, ends(key, entry).1))
}

/// When to look again, after `removed` of `seen` entries had to go.
pub fn next_interval(interval: Duration, seen: usize, removed: usize) -> Duration {
    let next = if removed * 4 > seen {
        interval / 2
    } else if removed * 20 < seen || seen == 0 {
        interval * 3 / 2
    } else {
        interval
    };
    next.clamp(INTERVAL_MIN, INTERVAL_MAX)
}

#[cfg(test)]
mod tests {
    use proxy_ebpf_common::{BackendId, Port};

    use super::*;

    type Entry = (ConntrackKey<Address4>, Conntrack<Address4>);

    fn ip(last: u8) -> Address4 {
        Address4::from_octets([10, 0, 0, last])
    }

    /// The two entries of a connection from 1 to 2, which the backend 3 answers.
    fn connection(protocol: Protocol, service: u32, expires_s: u32) -> [Entry; 2] {
        let [client, frontend, backend] = [1, 2, 3].map(ip);
        let [from, to, target] = [4000, 53, 5353].map(Port::new);
        let entry = |source, source_port, destination, destination_port, flags| Conntrack {
            source,
            destination,
            source_port,
            destination_port,
            expires_s,
            created_s: 0,
            flags,
            service: ServiceId(service),
            backend: BackendId(1),
        };
        [
            (
                ConntrackKey::new(client, from, frontend, to, protocol),
                entry(client, from, backend, target, ConntrackFlags::default()),
            ),
            (
                ConntrackKey::new(backend, target, client, from, protocol),
                entry(frontend, to, client, from, ConntrackFlags::REPLY),
            ),
        ]
    }

    fn socket(last: u8, port: u16) -> SocketAddress {
        SocketAddress {
            address: [10, 0, 0, last].into(),
            port,
            protocol: Protocol::UDP,
        }
    }

    #[test]
    fn what_goes_goes_in_both_directions() {
        let left = |service, backend| {
            let left = HashSet::from([(ServiceId(service), backend)]);
            Flush {
                silent: left.clone(),
                left,
                ..Flush::default()
            }
        };
        let appeared = |address| Flush {
            appeared: HashSet::from([address]),
            ..Flush::default()
        };
        // Protocol, service, time, what is flushed, whether the connection goes.
        let rows = [
            (Protocol::TCP, 7, 99, Flush::default(), false),
            (Protocol::TCP, 7, 100, Flush::default(), true),
            (Protocol::UDP, 7, 99, left(7, socket(3, 5353)), true),
            // Another service has the backend too and keeps it.
            (Protocol::UDP, 8, 99, left(7, socket(3, 5353)), false),
            (Protocol::UDP, 7, 99, left(7, socket(4, 5353)), false),
            // Connections of TCP end by themselves.
            (Protocol::TCP, 7, 99, left(7, socket(3, 5353)), false),
            // What was sent into the world before there was the Service.
            (Protocol::UDP, 0, 99, appeared(socket(2, 53)), true),
            (Protocol::UDP, 0, 99, appeared(socket(2, 54)), false),
            (Protocol::UDP, 7, 99, appeared(socket(2, 53)), false),
        ];
        for (protocol, service, now_s, flush, expected) in rows {
            let entries = connection(protocol, service, 100);
            for (key, entry) in &entries {
                let goes = is_doomed(key, entry, now_s, &flush);
                assert_eq!(goes, expected, "{protocol:?} {service} {now_s} {flush:?}");
            }
        }
    }

    #[test]
    fn living_datagrams_of_a_service_are_served_by_its_backend() {
        let rows = [
            (Protocol::UDP, 7, 99, true),
            (Protocol::UDP, 7, 100, false),
            (Protocol::UDP, 0, 99, false),
            (Protocol::TCP, 7, 99, false),
        ];
        for (protocol, service, now_s, expected) in rows {
            let expected = expected.then_some((ServiceId(7), socket(3, 5353)));
            for (key, entry) in &connection(protocol, service, 100) {
                assert_eq!(
                    served(key, entry, now_s),
                    expected,
                    "{protocol:?} {service} {now_s}"
                );
            }
        }
    }

    #[test]
    fn answers_that_are_on_their_way_arrive() {
        let just_left = Flush {
            left: HashSet::from([(ServiceId(7), socket(3, 5353))]),
            ..Flush::default()
        };
        let goes =
            connection(Protocol::UDP, 7, 100).map(|(key, entry)| is_doomed(&key, &entry, 99, &just_left));
        assert_eq!(goes, [true, false], "the request's entry, and the answer's");
    }

    #[test]
    fn what_is_flushed_is_flushed_three_times_more_unless_it_is_back() {
        let of = |last| Flush {
            left: HashSet::from([(ServiceId(7), socket(last, 53))]),
            ..Flush::default()
        };
        // Whose requests go, and whose answers.
        let gone = |flush: Flush| {
            [flush.left, flush.silent].map(|gone| {
                let mut ips: Vec<_> = gone.iter().map(|(_, socket)| socket.address).collect();
                ips.sort_unstable();
                ips
            })
        };
        let ip = |last| IpAddr::from([10, 0, 0, last]);
        let mut repeat = Repeat::default();
        repeat.add(of(1));
        assert_eq!(gone(repeat.tick()), [vec![ip(1)], vec![]]);
        repeat.add(of(2));
        assert_eq!(gone(repeat.tick()), [vec![ip(1), ip(2)], vec![ip(1)]]);
        assert_eq!(gone(repeat.tick()), [vec![ip(1), ip(2)], vec![ip(1), ip(2)]]);
        assert_eq!(gone(repeat.tick()), [vec![ip(2)], vec![ip(2)]]);
        assert!(repeat.is_empty());
        repeat.add(of(3));
        repeat.tick();
        repeat.spare(&of(3).left);
        assert!(repeat.is_empty());
        // Within one batch of jobs the later word counts.
        let mut batch = of(4);
        batch.extend(Flush {
            joined: of(4).left,
            ..Flush::default()
        });
        assert!(batch.is_empty());
    }

    #[test]
    fn the_interval_follows_how_much_there_is_to_do() {
        let seconds = Duration::from_secs;
        for (interval, seen, removed, expected) in [
            (60, 100, 50, 30),
            (60, 100, 10, 60),
            (60, 100, 1, 90),
            (60, 0, 0, 90),
            (10, 100, 100, 10),
            (1800, 100, 0, 1800),
        ] {
            assert_eq!(next_interval(seconds(interval), seen, removed), seconds(expected));
        }
    }
}
