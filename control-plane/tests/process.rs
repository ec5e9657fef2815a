//! The program itself, as a process with its HTTPS API: killed under load, and saved and restored.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use rand::{SeedableRng, rngs::StdRng};
use soak::{
    check::check,
    fault,
    history::{Answer, Key, Request},
    target::{Target, Watch, WatchEnd, api::ApiServer},
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
