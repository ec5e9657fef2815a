//! What breaks during a run. How far the run has come decides when, never a clock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::{RngExt, rngs::StdRng};
use tests::{ControlPlane, EtcdServers};

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

/// Servers of which one at a time is killed and brought back.
pub struct Members {
    servers: Mutex<(EtcdServers, usize)>,
    every: usize,
}

impl Members {
    /// One is killed after about every `every` writes.
    pub fn new(servers: EtcdServers, every: usize) -> Members {
        Members {
            servers: Mutex::new((servers, 0)),
            every,
        }
    }

    /// Without end.
    pub async fn kill_and_bring_back(&self, mut progress: Progress, random: &mut StdRng) {
        loop {
            progress.more(random.random_range(1..=2 * self.every)).await;
            let victim = random.random_range(0..self.lock().0.size());
            {
                let mut servers = self.lock();
                servers.0.kill_member(victim);
                servers.1 += 1;
            }
            // The others serve meanwhile.
            progress.more(random.random_range(1..=self.every)).await;
            self.start(victim);
        }
    }

    /// Brings back whoever is down.
    pub fn heal(&self) {
        let down: Vec<_> = {
            let servers = self.lock();
            (0..servers.0.size())
                .filter(|index| servers.0.pid(*index).is_none())
                .collect()
        };
        down.into_iter().for_each(|index| self.start(index));
    }

    /// How many were killed.
    pub fn kills(&self) -> usize {
        self.lock().1
    }

    fn start(&self, index: usize) {
        if let Err(error) = self.lock().0.start_member(index) {
            eprintln!("member {index} does not start again: {error:#}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, (EtcdServers, usize)> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
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
