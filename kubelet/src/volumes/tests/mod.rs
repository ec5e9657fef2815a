//! Whole mount passes on real directories and mounts. They need root, as the kubelet does.

mod content;

use std::{fs, os::unix::fs::MetadataExt, path::Path, sync::Mutex};

use serde_json::json;

use super::*;

struct Node {
    root: tempfile::TempDir,
    manager: VolumeManager,
    woken: Arc<Mutex<Vec<String>>>,
}

impl Node {
    /// A node without an API server: nothing in these tests may need one.
    fn new() -> Self {
        let refuse = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("no API server here"))
        });
        Self::with_client(kube::Client::new(refuse, "default"))
    }

    fn with_client(client: kube::Client) -> Self {
        let root = tempfile::tempdir().expect("tempdir");
        let woken = Arc::new(Mutex::new(Vec::new()));
        let sink = woken.clone();
        let wake: Wake = Arc::new(move |uid| sink.lock().expect("no panic elsewhere").push(uid.to_owned()));
        let config = VolumeConfig {
            root_dir: root.path().to_owned(),
            allocatable: Allocatable {
                cpu_milli: 2000,
                memory: 1 << 30,
                ephemeral_storage: 0,
            },
        };
        let objects = ObjectCache::new(client.clone(), wake.clone());
        Self {
            manager: VolumeManager::new(config, client, objects, wake),
            root,
            woken,
        }
    }

    fn pod_dir(&self) -> PathBuf {
        self.root.path().join("pods/u1")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A failed assertion must not leave mounts behind.
        if let Err(error) = mount_table::remove_tree(&self.pod_dir()) {
            eprintln!("clean-up: {error}");
        }
    }
}

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u1", "labels": {"app": "web"}},
        "spec": spec,
    }))
    .expect("a pod")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("stat").mode() & 0o7777
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

#[tokio::test]
async fn a_pods_life() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let host = tempfile::tempdir().expect("tempdir");
    fs::write(host.path().join("precious"), "x").expect("write");
    let pod = pod(json!({
        "securityContext": {"fsGroup": 4242},
        "volumes": [
            {"name": "disk", "emptyDir": {}},
            {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "host", "hostPath": {"path": host.path(), "type": "Directory"}},
            {"name": "info", "downwardAPI": {"items": [
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                {"path": "limits/cpu", "mode": 256, "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu", "divisor": "1m"}}
            ]}}
        ],
        "containers": [{"name": "c", "volumeMounts": [
            {"name": "disk", "mountPath": "/disk"},
            {"name": "disk", "mountPath": "sub", "subPathExpr": "$(WHO)/logs", "mountPropagation": "HostToContainer"},
            {"name": "host", "mountPath": "/host", "subPath": "precious", "readOnly": true},
            {"name": "info", "mountPath": "/info"}
        ]}]
    }));
    let volumes = node.manager.mount(&pod).await.expect("mounted");
    let volume = |kind: &str, name: &str| {
        node.pod_dir()
            .join(format!("volumes/kubernetes.io~{kind}"))
            .join(name)
    };

    let disk = volume("empty-dir", "disk");
    assert_eq!(
        (mode(&disk), fs::metadata(&disk).expect("stat").gid()),
        (0o2777, 4242)
    );
    let mem = volume("empty-dir", "mem");
    assert!(mount_table::is_mount_point(&mem).expect("table"));
    assert_eq!(
        (mode(&mem), fs::metadata(&mem).expect("stat").gid()),
        (0o3777, 4242)
    );
    let too_big = fs::write(mem.join("big"), vec![1_u8; 2 << 20]).expect_err("over sizeLimit");
    assert_eq!(too_big.kind(), std::io::ErrorKind::StorageFull);
    fs::remove_file(mem.join("big")).expect("make room");
    let info = volume("downward-api", "info");
    assert_eq!(
        fs::read_to_string(info.join("labels")).expect("read"),
        "app=\"web\""
    );
    assert_eq!(fs::read_to_string(info.join("limits/cpu")).expect("read"), "2000");
    assert_eq!(mode(&info.join("limits/cpu")), 0o440, "0400 opened to the group");

    let container = &pod::containers(&pod)[0];
    let env = [("WHO".to_owned(), "web-0".to_owned())].into();
    let mounts = node
        .manager
        .mounts(&pod, container, &volumes, &env)
        .expect("mounts");
    let seen: Vec<(&str, bool, i32)> = mounts
        .iter()
        .map(|mount| (mount.container_path.as_str(), mount.readonly, mount.propagation))
        .collect();
    assert_eq!(
        seen,
        [
            ("/disk", false, 0),
            ("/sub", false, 1),
            ("/host", true, 0),
            ("/info", true, 0)
        ]
    );
    fs::write(Path::new(&mounts[1].host_path).join("log"), "line").expect("write through the subPath");
    assert_eq!(
        fs::read_to_string(disk.join("web-0/logs/log")).expect("read"),
        "line"
    );
    assert_eq!(
        mode(&disk.join("web-0")) & 0o777,
        0o777,
        "made directories look like the volume's own"
    );
    assert_eq!(fs::read_to_string(&mounts[2].host_path).expect("read"), "x");

    // The same again, as a restarted kubelet does it: nothing changes, what containers wrote stays.
    fs::write(mem.join("kept"), "y").expect("write");
    let data = fs::read_link(info.join("..data")).expect("link");
    assert_eq!(node.manager.mount(&pod).await.expect("again"), volumes);
    assert_eq!(
        node.manager
            .mounts(&pod, container, &volumes, &env)
            .expect("again"),
        mounts
    );
    assert_eq!(fs::read_to_string(mem.join("kept")).expect("kept"), "y");
    assert_eq!(fs::read_link(info.join("..data")).expect("link"), data);

    // A changed label arrives.
    let mut changed = pod.clone();
    changed.metadata.labels = Some([("app".to_owned(), "db".to_owned())].into());
    node.manager.mount(&changed).await.expect("refreshed");
    assert_eq!(
        fs::read_to_string(info.join("labels")).expect("read"),
        "app=\"db\""
    );

    assert_eq!(node.manager.orphans(&HashSet::new()), ["u1"]);
    assert_eq!(
        node.manager.orphans(&HashSet::from(["u1".to_owned()])),
        Vec::<String>::new()
    );
    node.manager.unmount_all("u1").await.expect("removed");
    node.manager.unmount_all("u1").await.expect("nothing left to do");
    assert!(!node.pod_dir().exists());
    assert_eq!(
        fs::read_to_string(host.path().join("precious")).expect("untouched"),
        "x"
    );
    assert!(node.woken.lock().expect("no panic elsewhere").is_empty());
}

#[tokio::test]
async fn sub_paths_stay_in_their_volume() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let pod = pod(json!({
        "volumes": [{"name": "v", "emptyDir": {}}],
        "containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "x"}]}]
    }));
    let volumes = node.manager.mount(&pod).await.expect("mounted");
    let volume = node.pod_dir().join("volumes/kubernetes.io~empty-dir/v");
    let link =
        |name: &str, target: &str| std::os::unix::fs::symlink(target, volume.join(name)).expect("link");
    fs::create_dir_all(volume.join("real/deep")).expect("dirs");
    link("up", "../../..");
    link("etc", "/etc");
    link("dangling", "nowhere");
    link("ok", "real/deep");
    let bind = |sub_path: &str| {
        let mut container = pod::containers(&pod)[0].clone();
        container.volume_mounts.as_mut().expect("one")[0].sub_path = Some(sub_path.into());
        node.manager
            .mounts(&pod, &container, &volumes, &BTreeMap::new())
            .map(|mounts| mounts[0].host_path.clone())
            .map_err(|error| error.to_string())
    };
    let outside = |sub_path: &str| {
        Err(format!(
            "failed to prepare subPath for volumeMount \"v\" of container \"c\": subpath \"{sub_path}\" not within volume \
             path \"{}\"",
            volume.display()
        ))
    };
    for sub_path in ["up", "up/x", "etc", "etc/passwd"] {
        assert_eq!(bind(sub_path), outside(sub_path), "{sub_path}");
    }
    assert!(bind("dangling").is_err(), "nothing may be made through a symlink");
    assert!(!volume.join("nowhere").exists());
    assert!(
        bind("../v")
            .expect_err("backsteps")
            .contains("must not contain '..'")
    );
    assert!(
        bind("/etc")
            .expect_err("absolute")
            .contains("must not be an absolute path")
    );

    let bound = bind("ok").expect("a link inside the volume");
    fs::write(Path::new(&bound).join("f"), "1").expect("write");
    assert!(volume.join("real/deep/f").exists());
    // Another target under the same index replaces the mount.
    fs::write(volume.join("file"), "2").expect("write");
    assert_eq!(bind("file").expect("a file"), bound);
    assert_eq!(fs::read_to_string(&bound).expect("read"), "2");
    node.manager.unmount_all("u1").await.expect("removed");
    assert!(!node.pod_dir().exists());
}

#[tokio::test]
async fn errors_read_like_upstreams() {
    let node = Node::new();
    let rows = [
        (
            json!({"name": "v", "hostPath": {"path": "/nonexistent/x", "type": "File"}}),
            "MountVolume.SetUp failed for volume \"v\" : hostPath /nonexistent/x doesn't exist",
        ),
        (
            json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}),
            "MountVolume.SetUp failed for volume \"v\" : no volume plugin matched: this kubelet has none for \
             persistentVolumeClaim",
        ),
        (
            json!({"name": "v", "emptyDir": {"medium": "HugePages"}}),
            "MountVolume.SetUp failed for volume \"v\" : emptyDir medium \"HugePages\" is not supported by this kubelet",
        ),
        (
            json!({"name": "v", "downwardAPI": {"items": [{"path": "x", "resourceFieldRef": {"containerName": "zz", "resource": "limits.cpu"}}]}}),
            "MountVolume.SetUp failed for volume \"v\" : container zz not found",
        ),
        (
            json!({"name": "../x", "emptyDir": {}}),
            "MountVolume.SetUp failed for volume \"../x\" : \"../x\" cannot name a directory",
        ),
    ];
    for (volume, expect) in rows {
        let pod = pod(json!({"volumes": [volume], "containers": []}));
        assert_eq!(
            node.manager.mount(&pod).await.expect_err("must fail").to_string(),
            expect
        );
    }
    let mut bad_uid = pod(json!({"containers": []}));
    bad_uid.metadata.uid = Some("../..".into());
    assert!(matches!(
        node.manager.mount(&bad_uid).await,
        Err(VolumeError::BadUid(_))
    ));
}
