//! A journal on a disk that loses its power at any write or sync, over and over.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use soak::disk::Disk;

use super::*;

/// So small that a segment takes a few syncs, and a large sync takes several records.
const SEGMENT_BYTES: usize = 12 * BLOCK;
const BLOCKS: usize = 80;
/// What a disk writes at once, or not at all.
const SECTOR: usize = 512;

fn made() -> Disk {
    let disk = Disk::default();
    make(&disk, SEGMENT_BYTES, 3).unwrap();
    disk.sync_data().unwrap();
    disk
}

fn open(disk: &Disk) -> Result<Journal<Disk>> {
    Journal::open(disk.clone(), None, Length::default())
}

/// What is known of a storage: for each sector, what the last sync left, and what was written since. A sector has one byte
/// throughout.
#[derive(Debug, Clone)]
struct Known {
    synced: Vec<u8>,
    since: Vec<Vec<u8>>,
}

impl Known {
    fn of(contents: Vec<u8>) -> Known {
        Known {
            since: vec![Vec::new(); contents.len()],
            synced: contents,
        }
    }

    fn newest(&self, sector: usize) -> u8 {
        *self.since[sector].last().unwrap_or(&self.synced[sector])
    }

    fn sync(&mut self) {
        self.synced = (0..self.synced.len()).map(|sector| self.newest(sector)).collect();
        self.since.iter_mut().for_each(Vec::clear);
    }
}

/// The byte of each sector.
fn contents(journal: &Journal<Disk>) -> Vec<u8> {
    let mut bytes = vec![0; journal.len().unwrap() as usize];
    journal.read(0, &mut bytes).unwrap();
    let sectors = bytes.chunks(SECTOR);
    sectors
        .map(|sector| {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "a torn sector");
            sector[0]
        })
        .collect()
}

/// Writes and syncs at random until the power is cut; says what is known then.
fn work(journal: &Journal<Disk>, mut known: Known, random: &mut StdRng) -> Known {
    loop {
        // Seldom so many that they are put into their places before the sync.
        let most = [6, 14, 120][random.random_range(0..3)];
        for _ in 0..random.random_range(0..most) {
            let first = random.random_range(0..known.synced.len());
            let most = (known.synced.len() - first).min(3 * BLOCK / SECTOR);
            let byte = random.random();
            let sectors = first..first + random.random_range(1..=most);
            // Noted before it is tried: a write that fails may have happened.
            sectors.clone().for_each(|sector| known.since[sector].push(byte));
            let data = vec![byte; sectors.len() * SECTOR];
            if journal.write((first * SECTOR) as u64, &data).is_err() {
                return known;
            }
        }
        let sector = random.random_range(0..known.synced.len());
        let mut bytes = [0; SECTOR];
        journal.read((sector * SECTOR) as u64, &mut bytes).unwrap();
        assert_eq!(bytes, [known.newest(sector); SECTOR]);
        if journal.sync_data().is_err() {
            return known;
        }
        known.sync();
    }
}

#[test]
fn what_was_synced_is_found_after_any_power_cut() {
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut disk = made();
        let journal = open(&disk).unwrap();
        journal.set_len((BLOCKS * BLOCK) as u64).unwrap();
        journal.sync_data().unwrap();
        journal.close().unwrap();
        let mut known = Known::of(vec![0; BLOCKS * BLOCK / SECTOR]);
        for round in 0..30 {
            // Cut while it is opened, too.
            disk.cut_power_after(random.random_range(0..50));
            if let Ok(journal) = open(&disk) {
                known = work(&journal, known, &mut random);
                // The other thread has to end before the disk is looked at.
                let _no_power = journal.close();
            }
            disk = disk.copy_after_power_cut(&mut random);
            let opened = open(&disk).unwrap_or_else(|error| panic!("seed {seed}, round {round}: {error}"));
            let found = contents(&opened);
            opened.close().unwrap();
            assert_eq!(found.len(), known.synced.len(), "seed {seed}, round {round}");
            for (sector, byte) in found.iter().enumerate() {
                let (synced, since) = (known.synced[sector], &known.since[sector]);
                assert!(
                    *byte == synced || since.contains(byte),
                    "seed {seed}, round {round}, sector {sector}: {byte}, not {synced} or one of {since:?}"
                );
            }
            known = Known::of(found);
        }
    }
}

#[test]
fn a_closed_one_is_opened_without_a_write() {
    let disk = made();
    let journal = open(&disk).unwrap();
    journal.set_len(8 * BLOCK as u64).unwrap();
    for round in 1..9 {
        journal.write(0, &[round; 5 * BLOCK]).unwrap();
        journal.sync_data().unwrap();
    }
    journal.close().unwrap();
    let steps = disk.steps();
    let journal = open(&disk).unwrap();
    assert_eq!(contents(&journal), [[8; 5 * 8].as_slice(), &[0; 3 * 8]].concat());
    journal.close().unwrap();
    assert_eq!(disk.steps(), steps);
}

#[test]
fn what_is_cut_off_stays_away() {
    let disk = made();
    let journal = open(&disk).unwrap();
    journal.set_len(10 * BLOCK as u64).unwrap();
    journal.write(0, &[1; 10 * BLOCK]).unwrap();
    journal.sync_data().unwrap();
    journal.write(4 * BLOCK as u64, &[2; 6 * BLOCK]).unwrap();
    journal.set_len(5 * BLOCK as u64).unwrap();
    journal.set_len(7 * BLOCK as u64).unwrap();
    let expected = [[1; 4 * 8].as_slice(), &[2; 8], &[0; 2 * 8]].concat();
    assert_eq!(contents(&journal), expected);
    journal.sync_data().unwrap();
    let after = disk.copy_after_power_cut(&mut StdRng::seed_from_u64(1));
    journal.close().unwrap();
    for disk in [disk, after] {
        let journal = open(&disk).unwrap();
        assert_eq!(contents(&journal), expected);
        journal.close().unwrap();
    }
}

/// A length is as durable as content, also where a sync has nothing else to say.
#[test]
fn the_length_is_the_one_that_was_synced() {
    let mut random = StdRng::seed_from_u64(4);
    for bytes in [5, 12].map(|blocks| blocks * BLOCK as u64) {
        for synced in [false, true].repeat(8) {
            let disk = made();
            let journal = open(&disk).unwrap();
            journal.set_len(8 * BLOCK as u64).unwrap();
            journal.write(0, &[1; BLOCK]).unwrap();
            journal.close().unwrap();
            let journal = open(&disk).unwrap();
            journal.set_len(bytes).unwrap();
            if synced {
                journal.sync_data().unwrap();
            }
            let after = open(&disk.copy_after_power_cut(&mut random)).unwrap();
            let expected = if synced { bytes } else { 8 * BLOCK as u64 };
            assert_eq!(after.len().unwrap(), expected, "set to {bytes}, synced: {synced}");
        }
    }
}

#[test]
fn what_is_not_synced_does_not_pile_up() {
    let disk = made();
    let journal = open(&disk).unwrap();
    journal.set_len(500 * BLOCK as u64).unwrap();
    journal.sync_data().unwrap();
    let (held_max, mut most) = (SPILL_SEGMENTS * SEGMENT_BYTES / BLOCK, 0);
    for block in 0..500 {
        journal
            .write(block * BLOCK as u64, &[block as u8; BLOCK])
            .unwrap();
        most = most.max(journal.shared.overlay().active());
    }
    assert_eq!(most, held_max);
    journal.sync_data().unwrap();
    let expected: Vec<_> = (0..500_u64)
        .flat_map(|block| [block as u8; BLOCK / SECTOR])
        .collect();
    assert_eq!(contents(&journal), expected);
    let after = disk.copy_after_power_cut(&mut StdRng::seed_from_u64(3));
    assert_eq!(contents(&open(&after).unwrap()), expected);
    journal.close().unwrap();
}

/// Whoever checkpoints fails, nobody waits for it, and nothing is accepted any more.
#[test]
fn a_failed_checkpoint_ends_it() {
    let disk = made();
    let journal = open(&disk).unwrap();
    journal.set_len(8 * BLOCK as u64).unwrap();
    let write = |byte| {
        journal.write(0, &[byte; 4 * BLOCK])?;
        journal.sync_data()
    };
    (1..3).for_each(|byte| write(byte).unwrap());
    // This one changes segments: enough power for the record that says so and its own, but not for eight blocks elsewhere.
    disk.cut_power_after(4);
    let failed = (3..20).find_map(|byte| write(byte).err());
    assert!(failed.is_some());
    assert!(journal.close().is_err());
    let after = disk.copy_after_power_cut(&mut StdRng::seed_from_u64(2));
    assert!(contents(&open(&after).unwrap())[0] >= 2);
}

#[test]
fn other_files_are_refused() {
    let refused = |bytes: &[u8]| {
        let disk = Disk::default();
        disk.set_len(bytes.len() as u64).unwrap();
        disk.write(0, bytes).unwrap();
        open(&disk).unwrap_err().to_string()
    };
    assert!(refused(b"").contains("shorter"));
    assert!(refused(&[7; 2 * BLOCK]).contains("does not begin"));
    let alone = Head::new(SEGMENT_BYTES, 1).encode();
    assert!(refused(&alone).contains("its journal alone has more"));
}
