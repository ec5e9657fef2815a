//! What breaks during a run. How far the run has come decides when, never a clock.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::{RngExt, rngs::StdRng};
use tests::{ControlPlane, EtcdServers, Quality};

use crate::{target::embedded::Powered, traffic::Progress};

/// Cuts the power after about every `every` writes.
pub async fn cut_power(target: &Arc<Powered>, mut progress: Progress, every: usize, random: &mut StdRng) {
    loop {
        progress.more(random.random_range(1..=2 * every)).await;
        if let Err(error) = target.cut_power(random).await {
            // Every later request says so, and no history without answers holds.
            eprintln!("the store does not open after a power cut: {error}");
            return;
        }
    }
}

/// Servers of which one at a time is killed, or hard to reach for the others, and well again.
pub struct Members {
    servers: Mutex<Servers>,
    every: usize,
}

struct Servers {
    servers: EtcdServers,
    kills: usize,
    cuts: usize,
    delays: usize,
}

/// What happens to a member.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    Killed,
    /// Nobody gets through to it, though it gets through to the others.
    Cut,
    /// All members wait for each other's messages.
    Slow(Duration),
}

/// Of the same order as the shortest heartbeats and a quarter of the shortest election timeout (see `target::etcd`): a cluster may
/// lose its leader by it, but not for good.
const DELAY_MAX_MS: u64 = 60;

impl Members {
    /// One gets into trouble after about every `every` writes.
    pub fn new(servers: EtcdServers, every: usize) -> Members {
        Members {
            servers: Mutex::new(Servers {
                servers,
                kills: 0,
                cuts: 0,
                delays: 0,
            }),
            every,
        }
    }

    /// Without end.
    pub async fn trouble(&self, mut progress: Progress, random: &mut StdRng) {
        loop {
            progress.more(random.random_range(1..=2 * self.every)).await;
            let victim = random.random_range(0..self.lock().servers.size());
            let trouble = match random.random_range(0..4) {
                0 | 1 => Trouble::Killed,
                2 => Trouble::Cut,
                _ => Trouble::Slow(Duration::from_millis(random.random_range(1..=DELAY_MAX_MS))),
            };
            self.lock().strike(victim, trouble);
            // The others serve meanwhile.
            progress.more(random.random_range(1..=self.every)).await;
            self.heal();
        }
    }

    /// Mends all links and brings back whoever is down.
    pub fn heal(&self) {
        let servers = &mut self.lock().servers;
        for link in servers.links() {
            link.set(Quality::Good);
        }
        for index in 0..servers.size() {
            if servers.pid(index).is_none()
                && let Err(error) = servers.start_member(index)
            {
                eprintln!("member {index} does not start again: {error:#}");
            }
        }
    }

    /// How often a member got into trouble.
    pub fn strikes(&self) -> usize {
        let servers = self.lock();
        servers.kills + servers.cuts + servers.delays
    }

    /// What has happened so far.
    pub fn troubles(&self) -> String {
        let Servers {
            kills, cuts, delays, ..
        } = &*self.lock();
        format!("{kills} members killed, {cuts} cut off, {delays} times slow")
    }

    fn lock(&self) -> MutexGuard<'_, Servers> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Servers {
    fn strike(&mut self, victim: usize, trouble: Trouble) {
        match trouble {
            Trouble::Killed => {
                self.servers.kill_member(victim);
                self.kills += 1;
            }
            Trouble::Cut => {
                self.servers.links()[victim].set(Quality::Cut);
                self.cuts += 1;
            }
            Trouble::Slow(wait) => {
                for link in self.servers.links() {
                    link.set(Quality::Slow(wait));
                }
                self.delays += 1;
            }
        }
    }
}

/// A control plane that is killed and started again at once, as a service manager would.
pub struct Process {
    control_plane: Mutex<(ControlPlane, usize)>,
}

impl Process {
    /// Takes it over.
    pub fn new(control_plane: ControlPlane) -> Process {
        Process {
            control_plane: Mutex::new((control_plane, 0)),
        }
    }

    /// Kills it after about every `every` writes, without end.
    pub async fn kill_and_start_again(&self, mut progress: Progress, every: usize, random: &mut StdRng) {
        loop {
            progress.more(random.random_range(1..=2 * every)).await;
            let mut control_plane = self.lock();
            control_plane.0.kill();
            control_plane.1 += 1;
            if let Err(error) = control_plane.0.start_again() {
                eprintln!("the control plane does not start again: {error:#}");
            }
        }
    }

    /// How often it was killed.
    pub fn kills(&self) -> usize {
        self.lock().1
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.lock().0.log()
    }

    fn lock(&self) -> MutexGuard<'_, (ControlPlane, usize)> {
        self.control_plane.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
