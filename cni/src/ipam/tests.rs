use std::collections::HashSet;

use super::*;
use crate::netns::Netns;

fn ranges() -> Vec<Range> {
    ["10.0.0.0/29", "fd00::/64"]
        .map(|text| text.parse().unwrap())
        .to_vec()
}

/// An owner in a namespace that lives as long as the value.
fn owner(container_id: &str, netns: &Netns) -> Owner {
    Owner {
        container_id: container_id.to_owned(),
        ifname: "eth0".to_owned(),
        pod_uid: None,
        netns: netns.path(),
        netns_id: netns.id(),
    }
}

fn addresses(record: &Record) -> Vec<String> {
    record.addresses.iter().map(IpAddr::to_string).collect()
}

#[test]
fn names_round_trip() {
    for record in [
        Record {
            state: State::Pending,
            link: "orl0".into(),
            pod: Some(pod_tag("5e0c1d34", "eth0")),
            addresses: vec![],
        },
        Record {
            state: State::Ready,
            link: "orl0123456789a".into(),
            pod: None,
            addresses: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        },
    ] {
        let parsed = RecordName::parse(&record.file_name()).and_then(RecordName::record);
        assert_eq!(parsed, Some(record));
    }
    for other in [
        "cursor",
        "temporary",
        "ready",
        "ready_x_notanaddress",
        "done_x_10.0.0.1",
    ] {
        assert_eq!(
            RecordName::parse(other).and_then(RecordName::record),
            None,
            "{other}"
        );
    }
}

#[test]
fn a_record_goes_from_pending_to_ready_to_free() {
    let dir = tempfile::tempdir().unwrap();
    let netns = Netns::current().unwrap();
    let ipam = Ipam::new(dir.path(), "net").unwrap();
    let mut record = ipam
        .ledger()
        .unwrap()
        .reserve("orl1", &owner("a", &netns), &ranges(), &[])
        .unwrap();
    assert_eq!(addresses(&record), ["10.0.0.2", "fd00::2"]);
    assert_eq!(ipam.find("orl1").unwrap().unwrap().state, State::Pending);
    ipam.commit(&mut record).unwrap();
    assert_eq!(ipam.find("orl1").unwrap(), Some(record.clone()));
    assert_eq!(record.state, State::Ready);
    assert_eq!(ipam.owner(&record).unwrap().unwrap().container_id, "a");
    ipam.release(&record).unwrap();
    ipam.release(&record).unwrap();
    assert_eq!(ipam.records().unwrap(), []);
}

#[test]
fn a_freed_address_is_given_again_last() {
    let dir = tempfile::tempdir().unwrap();
    let netns = Netns::current().unwrap();
    let ipam = Ipam::new(dir.path(), "net").unwrap();
    let mut given = Vec::new();
    for n in 0..7 {
        let record = ipam
            .ledger()
            .unwrap()
            .reserve(&format!("orl{n}"), &owner("a", &netns), &ranges(), &[])
            .unwrap();
        given.push(addresses(&record)[0].clone());
        ipam.release(&record).unwrap();
    }
    assert_eq!(
        given,
        [
            "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2", "10.0.0.3"
        ]
    );
}

#[test]
fn a_full_range_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let netns = Netns::current().unwrap();
    let ipam = Ipam::new(dir.path(), "net").unwrap();
    for n in 0..5 {
        ipam.check_room(&ranges()).unwrap();
        ipam.ledger()
            .unwrap()
            .reserve(&format!("orl{n}"), &owner("a", &netns), &ranges(), &[])
            .unwrap();
    }
    let error = ipam
        .ledger()
        .unwrap()
        .reserve("orl9", &owner("a", &netns), &ranges(), &[])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "range 10.0.0.0/29 has no free address: all 5 are held by attachments"
    );
    assert!(ipam.check_room(&ranges()).is_err());
    assert_eq!(ipam.find("orl9").unwrap(), None);
}

#[test]
fn attachments_whose_namespace_is_gone_are_dead() {
    let dir = tempfile::tempdir().unwrap();
    let ipam = Ipam::new(dir.path(), "net").unwrap();
    let (alive, gone) = (Netns::current().unwrap(), Netns::anonymous().unwrap());
    ipam.ledger()
        .unwrap()
        .reserve("orl1", &owner("a", &alive), &ranges(), &[])
        .unwrap();
    // A path that no later file of this process can take over.
    let gone = Owner {
        netns: "/nonexistent/netns".into(),
        ..owner("b", &gone)
    };
    ipam.ledger()
        .unwrap()
        .reserve("orl2", &gone, &ranges(), &[])
        .unwrap();
    let dead = ipam.dead(ipam.records().unwrap()).unwrap();
    assert_eq!(
        dead.iter().map(|record| record.link.as_str()).collect::<Vec<_>>(),
        ["orl2"]
    );
}

#[test]
fn other_boots_count_for_nothing_and_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let netns = Netns::current().unwrap();
    let old = dir.path().join("net/00000000-0000-0000-0000-000000000000");
    fs::create_dir_all(&old).unwrap();
    // What a power cut may leave: an empty file under a whole name, and an unfinished one.
    fs::write(old.join("ready_orl1_10.0.0.2_fd00::2"), "").unwrap();
    fs::write(old.join("temporary"), "{\"conta").unwrap();
    let ipam = Ipam::new(dir.path(), "net").unwrap();
    assert_eq!(ipam.find("orl1").unwrap(), None);
    let record = ipam
        .ledger()
        .unwrap()
        .reserve("orl2", &owner("a", &netns), &ranges(), &[])
        .unwrap();
    assert_eq!(addresses(&record), ["10.0.0.2", "fd00::2"]);
    assert!(!old.exists());
}

#[test]
fn networks_do_not_see_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let netns = Netns::current().unwrap();
    let (a, b) = (
        Ipam::new(dir.path(), "a").unwrap(),
        Ipam::new(dir.path(), "b").unwrap(),
    );
    a.ledger()
        .unwrap()
        .reserve("orl1", &owner("a", &netns), &ranges(), &[])
        .unwrap();
    b.ledger()
        .unwrap()
        .reserve("orl2", &owner("b", &netns), &ranges(), &[])
        .unwrap();
    assert_eq!(a.records().unwrap().len(), 1);
    assert_eq!(b.find("orl1").unwrap(), None);
}

#[test]
fn concurrent_reservations_never_share_an_address() {
    let dir = tempfile::tempdir().unwrap();
    let netns = Netns::current().unwrap();
    let ranges: Vec<Range> = vec!["10.0.0.0/24".parse().unwrap()];
    let ipam = Ipam::new(dir.path(), "net").unwrap();
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let (ipam, ranges, netns) = (&ipam, &ranges, &netns);
            scope.spawn(move || {
                for n in 0..25 {
                    ipam.ledger()
                        .unwrap()
                        .reserve(&format!("orl{worker}x{n}"), &owner("a", netns), ranges, &[])
                        .unwrap();
                }
            });
        }
    });
    let records = ipam.records().unwrap();
    let distinct: HashSet<IpAddr> = records
        .iter()
        .flat_map(|record| record.addresses.clone())
        .collect();
    assert_eq!((records.len(), distinct.len()), (200, 200));
}

#[test]
fn a_wanted_address_is_given_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let netns = Netns::current().unwrap();
    let ipam = Ipam::new(dir.path(), "net").unwrap();
    let wanted = ["10.0.0.5".parse().unwrap()];
    let reserve = |link: &str| {
        ipam.ledger()
            .unwrap()
            .reserve(link, &owner("a", &netns), &ranges(), &wanted)
    };
    assert_eq!(addresses(&reserve("orl1").unwrap()), ["10.0.0.5", "fd00::2"]);
    let error = reserve("orl2").unwrap_err();
    assert!(matches!(error, Error::Taken { .. }), "{error}");
    assert_eq!(ipam.records().unwrap().len(), 1);
}

#[test]
fn what_others_have_laid_into_the_folders_is_in_nobodys_way() {
    let dir = tempfile::tempdir().unwrap();
    let netns = Netns::current().unwrap();
    let ipam = Ipam::new(dir.path(), "net").unwrap();
    ipam.ledger()
        .unwrap()
        .reserve("orl1", &owner("a", &netns), &ranges(), &[])
        .unwrap();
    fs::write(dir.path().join("net/notes"), "not a boot").unwrap();
    let boot = fs::read_dir(dir.path().join("net"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.is_dir())
        .unwrap();
    fs::write(boot.join("pending_orl2_10.0.0.3_fd00::3"), "not an owner").unwrap();
    let record = ipam
        .ledger()
        .unwrap()
        .reserve("orl3", &owner("b", &netns), &ranges(), &[])
        .unwrap();
    // Its name says that the address is held, whatever it contains.
    assert_eq!(addresses(&record), ["10.0.0.4", "fd00::4"]);
    assert_eq!(ipam.dead(ipam.records().unwrap()).unwrap(), []);
    assert!(dir.path().join("net/notes").exists());
}

#[test]
fn whatever_the_lock_file_says_there_is_an_address() {
    let dir = tempfile::tempdir().unwrap();
    let netns = Netns::current().unwrap();
    let ipam = Ipam::new(dir.path(), "net").unwrap();
    fs::create_dir_all(dir.path().join("net")).unwrap();
    let reserve = |link: &str, last: &[u8]| {
        fs::write(dir.path().join("net/lock"), last).unwrap();
        let ledger = ipam.ledger().unwrap();
        let record = ledger.reserve(link, &owner("a", &netns), &ranges(), &[]);
        addresses(&record.unwrap())
    };
    assert_eq!(reserve("orl1", &[0xff; 300]), ["10.0.0.2", "fd00::2"]);
    assert_eq!(reserve("orl2", b"10.0.0.4\nfd00:"), ["10.0.0.5", "fd00::3"]);
    // What follows the empty line is left of longer ones.
    assert_eq!(
        reserve("orl3", b"fd00::7\n\n0.0.2\n10.0.0.5\n"),
        ["10.0.0.3", "fd00::8"]
    );
}

#[test]
fn no_record_changes_its_name_while_somebody_looks() {
    let dir = tempfile::tempdir().unwrap();
    let netns = Netns::current().unwrap();
    let ipam = Ipam::new(dir.path(), "net").unwrap();
    let ledger = ipam.ledger().unwrap();
    let mut record = ledger
        .reserve("orl1", &owner("a", &netns), &ranges(), &[])
        .unwrap();
    let ledger = ipam.ledger().unwrap();
    std::thread::scope(|scope| {
        let commit = scope.spawn(|| ipam.commit(&mut record));
        // Long enough for one that does not wait.
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert_eq!(ipam.find("orl1").unwrap().unwrap().state, State::Pending);
        drop(ledger);
        commit.join().unwrap().unwrap();
    });
    assert_eq!(ipam.find("orl1").unwrap().unwrap().state, State::Ready);
}
