//! A power cut loses what was written but not synced, in any part and in any order: a disk that can be cut so, at every
//! moment, while the store works on it.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures::StreamExt;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{Embedded, EmbeddedOptions, open_database};
use crate::{Error, ListOptions, Revision, Store};

/// What disks write at once, or not at all.
const SECTOR_BYTES: usize = 512;

/// A disk in memory. Clones are the same disk.
#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<Image>>);

#[derive(Debug, Clone, Default)]
struct Image {
    synced: Vec<u8>,
    /// As the running system sees it.
    cached: Vec<u8>,
    /// Offset and length of each write since the last sync.
    unsynced: Vec<(usize, usize)>,
    /// Every sync fails from now on.
    broken: bool,
}

impl Disk {
    /// The disk as it may be found after a power cut at this moment.
    fn cut(&self, random: &mut StdRng) -> Disk {
        let image = self.0.lock().unwrap();
        let mut left = image.synced.clone();
        // The file's length is metadata, which may be ahead of its content.
        if random.random_bool(0.5) {
            left.resize(image.cached.len(), 0);
        }
        let keep = random.random_range(0.0..1.0);
        for (offset, len) in &image.unsynced {
            for sector in (*offset..offset + len).step_by(SECTOR_BYTES) {
                let end = (sector + SECTOR_BYTES).min(offset + len);
                if end <= left.len() && random.random_bool(keep) {
                    left[sector..end].copy_from_slice(&image.cached[sector..end]);
                }
            }
        }
        let image = Image {
            synced: left.clone(),
            cached: left,
            ..Image::default()
        };
        Disk(Arc::new(Mutex::new(image)))
    }
}

impl redb::StorageBackend for Disk {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.0.lock().unwrap().cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let offset = offset as usize;
        out.copy_from_slice(&self.0.lock().unwrap().cached[offset..offset + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.0.lock().unwrap().cached.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let mut image = self.0.lock().unwrap();
        if image.broken {
            return Err(io::Error::other("the disk is broken"));
        }
        image.synced = image.cached.clone();
        image.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let mut image = self.0.lock().unwrap();
        let offset = offset as usize;
        image.cached[offset..offset + data.len()].copy_from_slice(data);
        image.unsynced.push((offset, data.len()));
        Ok(())
    }
}

fn start(disk: &Disk) -> Embedded {
    let options = EmbeddedOptions {
        compaction_interval: None,
        ..EmbeddedOptions::new("/nowhere")
    };
    Embedded::start(open_database(disk.clone(), 1 << 20).unwrap(), &options).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_a_power_cut() {
    const CLIENTS: usize = 6;
    const WRITES: usize = 30;
    let disk = Disk::default();
    let store = start(&disk);
    let acknowledged = Mutex::new(BTreeMap::<String, Revision>::new());
    let cuts = Mutex::new(Vec::new());
    let random = Mutex::new(StdRng::seed_from_u64(3));
    let client = async |client: usize| {
        let key = format!("/k/{client}");
        let mut revision = store.create(&key, Bytes::new(), None).await.unwrap();
        for step in 0..WRITES {
            let value = Bytes::from(vec![client as u8; (step * 977) % 10_000]);
            revision = store.update(&key, value, revision, None).await.unwrap();
            acknowledged.lock().unwrap().insert(key.clone(), revision);
            // Here the other clients' writes are on their way to the disk.
            let known = acknowledged.lock().unwrap().clone();
            cuts.lock()
                .unwrap()
                .push((known, disk.cut(&mut random.lock().unwrap())));
        }
    };
    futures::future::join_all((0..CLIENTS).map(client)).await;
    drop(store);

    let cuts = cuts.into_inner().unwrap();
    assert_eq!(cuts.len(), CLIENTS * WRITES);
    for (known, disk) in cuts {
        let store = start(&disk);
        let listing = store.list("/k/", ListOptions::default()).await.unwrap();
        let found: BTreeMap<_, _> = listing
            .items
            .iter()
            .map(|item| (item.key.to_string(), item.mod_revision))
            .collect();
        for (key, revision) in known {
            assert!(
                found.get(&key).is_some_and(|found| *found >= revision),
                "{key} at {revision}: {found:?}"
            );
        }
        let last = found.values().max().copied().unwrap_or(0);
        assert_eq!(store.current_revision().await.unwrap(), last);
        assert_eq!(
            store.create("/after", Bytes::new(), None).await.unwrap(),
            last + 1
        );
    }
}

/// A write whose sync failed is not acknowledged, nor is any after it; what was acknowledged stays readable, and is found
/// again when the disk is well.
#[tokio::test]
async fn nothing_is_acknowledged_after_a_failed_sync() {
    let disk = Disk::default();
    let store = start(&disk);
    let created = store.create("/k/a", Bytes::from("1"), None).await.unwrap();
    let mut watch = store.watch("/k/", created).await.unwrap();
    disk.0.lock().unwrap().broken = true;
    for _ in 0..3 {
        let error = store
            .update("/k/a", Bytes::from("2"), created, None)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Storage(_)), "{error}");
    }
    assert_eq!(store.get("/k/a").await.unwrap().0.unwrap().mod_revision, created);
    drop(store);
    assert!(
        matches!(watch.next().await, Some(Err(Error::Closed))),
        "nothing was published"
    );

    let after = disk.cut(&mut StdRng::seed_from_u64(5));
    let store = start(&after);
    let (found, head) = store.get("/k/a").await.unwrap();
    // The failed write may be on the disk or not, but as a whole.
    let expected = if found.unwrap().mod_revision == created {
        created
    } else {
        created + 1
    };
    assert_eq!(head, expected);
    assert_eq!(store.create("/k/b", Bytes::new(), None).await.unwrap(), head + 1);
}
