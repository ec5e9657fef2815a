//! The embedded store on a disk whose power is cut while it works.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use rand::rngs::StdRng;
use store::{Embedded, EmbeddedOptions, Revision};
use tokio::sync::{RwLock, RwLockReadGuard};

use super::{StoreWatch, Target, WatchEnd};
use crate::{
    disk::Disk,
    history::{Answer, Request},
};

/// The store, which comes back after each power cut.
#[derive(Debug)]
pub struct Powered {
    /// Locked for writing while there is none.
    running: RwLock<Running>,
    options: EmbeddedOptions,
    cuts: AtomicU64,
}

#[derive(Debug)]
struct Running {
    store: Option<Embedded>,
    disk: Disk,
}

impl Powered {
    /// Opens a store on an empty disk.
    ///
    /// # Errors
    /// The store's.
    pub fn new(options: EmbeddedOptions) -> store::Result<Powered> {
        let disk = Disk::default();
        Ok(Powered {
            running: RwLock::new(Running {
                store: Some(Embedded::open_on(disk.clone(), &options)?),
                disk,
            }),
            options,
            cuts: AtomicU64::new(0),
        })
    }

    /// Cuts the power, waits until whoever was in the middle of a request has noticed, and opens what is left.
    ///
    /// # Errors
    /// The store's.
    pub async fn cut_power(&self, random: &mut StdRng) -> store::Result<()> {
        let disk = self.running.read().await.disk.clone();
        let left = disk.cut_power(random);
        let mut running = self.running.write().await;
        running.store = None;
        running.disk = left.clone();
        running.store = Some(Embedded::open_on(left, &self.options)?);
        self.cuts.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// How often the power was cut.
    pub fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Relaxed)
    }

    async fn running(&self) -> RwLockReadGuard<'_, Running> {
        self.running.read().await
    }
}

impl Target for Arc<Powered> {
    type Watch = StoreWatch;

    const CONTIGUOUS: bool = true;

    async fn ask(&self, request: &Request) -> Answer {
        match &self.running().await.store {
            Some(store) => super::ask(store, request).await,
            None => Answer::Unknown("the store does not open".to_owned()),
        }
    }

    async fn revision(&self) -> Revision {
        match self.ask(&Request::List(None, None)).await {
            Answer::Listed { revision, .. } => revision,
            _ => 0,
        }
    }

    async fn watch(&self, group: Option<u8>, after: Revision) -> Result<StoreWatch, WatchEnd> {
        match &self.running().await.store {
            Some(store) => super::watch(store, group, after).await,
            None => Err(WatchEnd::Broken("the store does not open".to_owned())),
        }
    }
}
