//! The program itself, as a process with its HTTPS API: killed under load, and saved and restored.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use rand::{SeedableRng, rngs::StdRng};
use soak::{
    check::check,
    fault,
    history::{Answer, Key, Request},
    target::{self, Target, Watch, WatchEnd, api::ApiServer},
    traffic,
};
use tests::ControlPlane;

fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_control-plane"))
}

/// Each test is a process of its own, or shares one whose provider is the same.
fn install_tls() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The short form of `cargo xtask soak control-plane`: nothing acknowledged is lost, no watch misses or repeats an event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn survives_kill_under_load() {
    install_tls();
    let profile = traffic::Profile {
        writes: 1200,
        clients: 16,
        watchers: 5,
        groups: 2,
        keys: 12,
        reads: 0.15,
        forgets: false,
    };
    let dir = tempfile::tempdir().unwrap();
    let control_plane = ControlPlane::start(&program(), dir.path(), &[]).unwrap();
    let target = ApiServer::connect(control_plane.kubeconfig(), profile.groups)
        .await
        .unwrap();
    let process = fault::Process::new(control_plane);
    let mut random = StdRng::seed_from_u64(4);
    let history = traffic::run(
        target,
        profile,
        4,
        async |progress| process.kill_and_start_again(progress, 200, &mut random).await,
        async || {},
    )
    .await;
    match check(&history) {
        Ok(summary) => eprintln!("{} times killed; {summary}", process.kills()),
        Err(violations) => panic!("{}\n{}", violations.join("\n"), process.log()),
    }
    assert!(process.kills() > 0);
}

/// The same over three etcd servers that ask for client certificates, of which one at a time is killed, cut off or slow, and well
/// again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn survives_kills_of_itself_and_of_etcd() {
    install_tls();
    let profile = traffic::Profile {
        writes: 700,
        clients: 12,
        watchers: 4,
        groups: 2,
        keys: 10,
        reads: 0.15,
        forgets: false,
    };
    let dir = tempfile::tempdir().unwrap();
    let mut random = StdRng::seed_from_u64(6);
    let servers = target::etcd::start(dir.path(), &mut random).unwrap();
    let flags = target::etcd::flags(&servers);
    let members = fault::Members::new(servers, 120);
    let control_plane = ControlPlane::start(&program(), dir.path(), &flags).unwrap();
    let target = ApiServer::connect(control_plane.kubeconfig(), profile.groups)
        .await
        .unwrap();
    let process = fault::Process::new(control_plane);
    let mut others = StdRng::from_rng(&mut random);
    let history = traffic::run(
        target,
        profile,
        6,
        async |progress| {
            futures::join!(
                members.trouble(progress.clone(), &mut others),
                process.kill_and_start_again(progress.clone(), 200, &mut random)
            );
        },
        async || members.heal(),
    )
    .await;
    match check(&history) {
        Ok(summary) => eprintln!(
            "{} times killed, {}; {summary}",
            process.kills(),
            members.troubles()
        ),
        Err(violations) => panic!("{}\n{}", violations.join("\n"), process.log()),
    }
    assert!(process.kills() > 0 && members.strikes() > 0);
}

/// A snapshot of the running process, of the stopped one, and the store that comes back from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn comes_back_from_a_snapshot() {
    install_tls();
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut control_plane = ControlPlane::start(&program(), dir.path(), &[]).unwrap();
    let api = ApiServer::connect(control_plane.kubeconfig(), 1).await.unwrap();
    for number in 0..20 {
        write(&api, number).await;
    }
    let before = api.ask(&Request::List(None, None)).await;
    let Answer::Listed {
        items,
        revision: head,
    } = &before
    else {
        panic!("{before:?}")
    };
    let online = dir.path().join("online");
    let said = succeeds(&snapshot(&["save"], &online, &data));
    assert!(said.contains("saved to"), "{said}");
    write(&api, 99).await;
    let after = api.revision().await;
    control_plane.kill();
    let offline = dir.path().join("offline");
    succeeds(&snapshot(&["save"], &offline, &data));
    assert!(revision(&online) >= *head && revision(&offline) > revision(&online));

    let there = fails(&snapshot(&["restore"], &online, &data));
    assert!(there.contains("only restored where nothing is"), "{there}");
    fs::rename(&data, dir.path().join("old")).unwrap();
    let none = fails(&snapshot(&["save"], &offline, &data));
    assert!(
        none.contains("--data-dir") && none.contains("store.redb"),
        "{none}"
    );
    let cut_off = dir.path().join("cut-off");
    fs::write(&cut_off, &fs::read(&online).unwrap()[..5000]).unwrap();
    for command in ["status", "restore"] {
        let said = match command {
            "status" => fails(&status(&cut_off)),
            _ => fails(&snapshot(&[command], &cut_off, &data)),
        };
        assert!(
            said.contains("cut-off") && said.contains("ends too early"),
            "{said}"
        );
    }
    succeeds(&snapshot(&["restore"], &online, &data));
    control_plane.start_again().unwrap();

    let api = ApiServer::connect(control_plane.kubeconfig(), 1).await.unwrap();
    let Answer::Listed {
        items: restored,
        revision,
    } = api.ask(&Request::List(None, None)).await
    else {
        panic!("the list fails")
    };
    // What was written after the snapshot is gone, and its revision will not come again.
    assert_eq!((&restored, revision > after + 900_000_000), (items, true));
    for old in [*head, after] {
        let end = match api.watch(None, old).await {
            Ok(mut watch) => watch.next().await.map(drop),
            Err(end) => Err(end),
        };
        assert_eq!(end, Err(WatchEnd::Compacted), "a watch from {old}");
    }
    write(&api, 99).await;
}

/// A file system of its own, so that it can be full.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(path: PathBuf) -> SmallDisk {
        fs::create_dir_all(&path).unwrap();
        let disk = SmallDisk(path);
        succeeds(&disk.mount("size=16m", &["-t", "tmpfs", "tmpfs"]));
        disk
    }

    fn grow(&self) {
        succeeds(&self.mount("remount,size=64m", &[]));
    }

    fn mount(&self, options: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new("mount");
        command.args(["-o", options]).args(arguments).arg(&self.0);
        command.output().unwrap()
    }

    fn fill(&self) {
        let mut filler = fs::File::create(self.0.join("filler")).unwrap();
        while filler.write_all(&[0; 4096]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the process may still be about to end.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// On a full disk the process says why and ends, so that its service manager starts it again; nothing acknowledged is lost,
/// and when there is room it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_when_its_disk_is_full() {
    install_tls();
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::new(dir.path().join("data"));
    let mut control_plane = ControlPlane::start(&program(), dir.path(), &[]).unwrap();
    let api = ApiServer::connect(control_plane.kubeconfig(), 1).await.unwrap();
    write(&api, 0).await;
    disk.fill();
    let create = |number| Request::Create {
        key: Key { group: 0, number },
        value: u64::from(number),
        ttl: false,
    };
    let mut acknowledged = vec![0];
    for number in 1.. {
        match api.ask(&create(number)).await {
            Answer::Written(_) => acknowledged.push(number),
            Answer::Unknown(_) => break,
            other => panic!("{other:?}"),
        }
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while !control_plane.has_ended() {
        assert!(Instant::now() < deadline, "it goes on: {}", control_plane.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let log = control_plane.log();
    assert!(log.contains("the store failed: "), "{log}");
    assert!(log.contains("No space left on device"), "{log}");

    disk.grow();
    control_plane.start_again().unwrap();
    let api = ApiServer::connect(control_plane.kubeconfig(), 1).await.unwrap();
    for number in &acknowledged {
        let answer = api
            .ask(&Request::Get(Key {
                group: 0,
                number: *number,
            }))
            .await;
        assert!(
            matches!(answer, Answer::Found { standing: Some(found), .. } if found.value == u64::from(*number)),
            "{number}: {answer:?}"
        );
    }
    write(&api, 60_000).await;
}

async fn write(api: &ApiServer, number: u16) {
    let request = Request::Create {
        key: Key { group: 0, number },
        value: u64::from(number),
        ttl: false,
    };
    let answer = api.ask(&request).await;
    assert!(matches!(answer, Answer::Written(_)), "{answer:?}");
}

fn snapshot(command: &[&str], file: &Path, data: &Path) -> Output {
    let mut process = Command::new(program());
    process
        .arg("snapshot")
        .args(command)
        .arg(file)
        .arg("--data-dir")
        .arg(data);
    process.output().unwrap()
}

fn status(file: &Path) -> Output {
    Command::new(program())
        .args(["snapshot", "status"])
        .arg(file)
        .output()
        .unwrap()
}

fn revision(file: &Path) -> u64 {
    let said = succeeds(&status(file));
    let line = said.lines().find_map(|line| line.strip_prefix("revision"));
    line.unwrap().trim().parse().unwrap()
}

fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn fails(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}
