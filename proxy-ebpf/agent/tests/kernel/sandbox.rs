//! A cgroup, a folder of pins and children in namespaces of their own; all of it is gone when the test ends, however it ends.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        atomic::AtomicU64,
        mpsc::{Receiver, channel},
    },
    thread,
};

use aya::maps::MapInfo;
use proxy_ebpf::{
    apply::Maps,
    pins::Pins,
    plan::{Change, Entries, Plan, Tables},
    programs::{self, Features, Room},
    sockets::Reaper,
    sys,
};

use crate::{PATIENCE, client};

/// Names the scenario that a child runs.
pub(crate) const SCENARIO: &str = "PROXY_EBPF_TEST_SCENARIO";
/// Names the cgroup that a child joins.
pub(crate) const CGROUP: &str = "PROXY_EBPF_TEST_CGROUP";

/// Names the folder of pins.
pub(crate) const BPF_DIR: &str = "PROXY_EBPF_TEST_BPF_DIR";

pub(crate) struct Sandbox {
    // Dropped in this order: the lock on the pins has to be gone before they are removed.
    agent: Option<(Pins, Maps)>,
    bpf_dir: PinFolder,
    cgroups: Vec<Directory>,
    features: Features,
}

/// What must survive a restart.
pub(crate) struct Snapshot {
    pub(crate) entries: Entries,
    /// Name and id of every pinned map.
    pub(crate) maps: Vec<(String, u32)>,
    pub(crate) links: Vec<(&'static str, sys::LinkInfo)>,
}

impl Sandbox {
    /// Attaches the programs to a new cgroup.
    pub(crate) fn new(name: &str) -> Self {
        Self::with_features(
            name,
            Features::detect().expect("ask the kernel; these tests need root"),
        )
    }

    /// The same, with programs that do without what the kernel may have.
    pub(crate) fn with_features(name: &str, features: Features) -> Self {
        let mut sandbox = Self::bare(name);
        sandbox.features = features;
        sandbox.restart();
        sandbox
    }

    /// A cgroup without programs.
    pub(crate) fn bare(name: &str) -> Self {
        let name = format!("orlop-proxy-test-{}-{name}", std::process::id());
        let cgroup = Directory::make(cgroup2().join(&name));
        let bpf_dir = PinFolder::make(&name);
        Self {
            agent: None,
            bpf_dir,
            cgroups: vec![cgroup],
            features: Features::default(),
        }
    }

    /// Does what the agent does at start, in place of the one before.
    pub(crate) fn restart(&mut self) {
        self.stop();
        let pins = Pins::open(&self.bpf_dir.pins).expect("open the pins; these tests need root");
        programs::install(&pins, self.cgroup(), self.features).expect("install the programs");
        self.take_over(pins);
    }

    /// The same, but for the programs: those of the one before go on.
    pub(crate) fn reopen(&mut self) {
        self.stop();
        self.take_over(Pins::open(&self.bpf_dir.pins).expect("open the pins; these tests need root"));
    }

    fn take_over(&mut self, pins: Pins) {
        let maps = Maps::open(&pins.maps()).expect("open the maps");
        self.agent = Some((pins, maps));
    }

    /// Lets go of everything, as an agent that is killed.
    pub(crate) fn stop(&mut self) {
        self.agent = None;
    }

    pub(crate) fn move_to_new_cgroup(&mut self) {
        let path = self.cgroup().with_extension("next");
        self.cgroups.push(Directory::make(path));
        self.restart();
    }

    pub(crate) fn bpf_dir(&self) -> &Path {
        &self.bpf_dir.pins
    }

    pub(crate) fn maps(&self) -> &Maps {
        &self.agent.as_ref().expect("the agent runs").1
    }

    pub(crate) fn pins(&self) -> &Pins {
        &self.agent.as_ref().expect("the agent runs").0
    }

    pub(crate) fn maps_mut(&mut self) -> &mut Maps {
        &mut self.agent.as_mut().expect("the agent runs").1
    }

    /// Plans and writes.
    pub(crate) fn plan(&mut self, tables: &mut Tables, changes: impl Into<Vec<Change>>) -> Plan {
        let plan = tables.plan(changes.into());
        self.write(tables, plan)
    }

    /// Plans as an agent that has just read what all there is.
    pub(crate) fn plan_all(&mut self, tables: &mut Tables, changes: Vec<Change>) -> Plan {
        let plan = tables.plan_all(changes);
        self.write(tables, plan)
    }

    fn write(&mut self, tables: &mut Tables, mut plan: Plan) -> Plan {
        let nodes = client::NODE_ADDRESSES.map(|ip| ip.parse().expect("an address"));
        tables.plan_node_addresses(nodes.into(), &mut plan);
        self.maps_mut().apply(&plan).expect("write the maps");
        let mut written = self.maps().read().expect("read the maps");
        written.frontends.sort_unstable_by_key(|&(address, _)| address);
        written.slots.sort_unstable();
        written.backends.sort_unstable();
        written.matches.sort_unstable();
        written.ranges.sort_unstable();
        written.node_addresses.sort_unstable();
        assert_eq!(
            written,
            tables.entries(),
            "the tables must say what the maps hold"
        );
        plan
    }

    /// Does what the agent does when a map is full.
    pub(crate) fn grow(&mut self, name: &'static str, max_entries: u32) {
        let (pins, maps) = self.agent.take().expect("the agent runs");
        let room = Room { name, max_entries };
        programs::grow(&pins, self.cgroup(), self.features, &maps, &[room]).expect("grow the map");
        let maps = Maps::open(&pins.maps()).expect("open the maps");
        self.agent = Some((pins, maps));
    }

    /// What ends the sockets of the processes in the cgroup.
    pub(crate) fn reaper(&self, ended: &Arc<AtomicU64>) -> Reaper {
        let (pins, _) = self.agent.as_ref().expect("the agent runs");
        Reaper::start(self.cgroup().to_owned(), &pins.maps(), Arc::clone(ended)).expect("start the reaper")
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let (pins, maps) = self.agent.as_ref().expect("the agent runs");
        let mut entries = maps.read().expect("read the maps");
        entries.frontends.sort_unstable_by_key(|&(address, _)| address);
        entries.slots.sort_unstable();
        entries.backends.sort_unstable();
        entries.matches.sort_unstable();
        entries.ranges.sort_unstable();
        entries.node_addresses.sort_unstable();
        let mut ids = Vec::new();
        for entry in fs::read_dir(pins.maps()).expect("list the maps") {
            let entry = entry.expect("list the maps");
            let info = MapInfo::from_pin(entry.path()).expect("ask for a map");
            ids.push((entry.file_name().to_string_lossy().into_owned(), info.id()));
        }
        ids.sort();
        Snapshot {
            entries,
            maps: ids,
            links: programs::links(pins).expect("ask for the links"),
        }
    }

    /// Runs a scenario to its end.
    pub(crate) fn run(&self, scenario: &str) {
        self.start(scenario).finish();
    }

    /// Starts a scenario in the cgroup.
    pub(crate) fn start(&self, scenario: &str) -> Client {
        Client::start(scenario, self.cgroup(), self.bpf_dir())
    }

    fn cgroup(&self) -> &Path {
        &self.cgroups.last().expect("there is one from the start").0
    }
}

/// A running scenario.
pub(crate) struct Client {
    process: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Client {
    /// Starts a scenario in a cgroup.
    pub(crate) fn start(scenario: &str, cgroup: &Path, bpf_dir: &Path) -> Self {
        // Of util-linux. The whole process is in a network namespace of its own, as that of a container is.
        let mut process = Command::new("unshare")
            .arg("--net")
            .arg(std::env::current_exe().expect("this binary"))
            .args(["--exact", "child", "--nocapture", "--quiet"])
            .env(SCENARIO, scenario)
            .env(CGROUP, cgroup)
            .env(BPF_DIR, bpf_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the child");
        let stdout = BufReader::new(process.stdout.take().expect("it is piped"));
        let (sender, lines) = channel();
        thread::spawn(move || {
            // The test runner of the child prints too; what the scenario says is marked.
            for line in stdout.lines().map_while(Result::ok) {
                if let Some(said) = line.strip_prefix("> ") {
                    let _ = sender.send(said.to_owned());
                }
            }
        });
        Self {
            stdin: process.stdin.take(),
            process,
            lines,
        }
    }

    /// The next thing that the scenario says.
    pub(crate) fn line(&mut self) -> String {
        self.lines
            .recv_timeout(PATIENCE)
            .expect("the child says something")
    }

    pub(crate) fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("the child listens");
        writeln!(stdin, "{line}").expect("the child listens");
    }

    /// Waits for the scenario to succeed.
    pub(crate) fn finish(mut self) {
        drop(self.stdin.take());
        let status = self.process.wait().expect("wait for the child");
        assert!(
            status.success(),
            "the child failed: {status}; its output is above"
        );
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Only a child that is still there, because the test failed, is affected.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A folder of the cgroup hierarchy.
struct Directory(PathBuf);

impl Directory {
    fn make(path: PathBuf) -> Self {
        fs::create_dir(&path).expect("make a cgroup; these tests need root");
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("{} is left behind: {error}", self.0.display());
        }
    }
}

/// A folder of pins, in a BPF file system of its own: the machine's is neither needed nor made.
struct PinFolder {
    mount: PathBuf,
    pins: PathBuf,
}

impl PinFolder {
    fn make(name: &str) -> Self {
        let mount = std::env::temp_dir().join(name);
        fs::create_dir(&mount).expect("make a mount point");
        nix::mount::mount(
            Some("bpf"),
            &mount,
            Some("bpf"),
            nix::mount::MsFlags::empty(),
            None::<&str>,
        )
        .expect("mount a BPF file system; these tests need root");
        Self {
            pins: mount.join("pins"),
            mount,
        }
    }
}

impl Drop for PinFolder {
    fn drop(&mut self) {
        let unmounted = nix::mount::umount2(&self.mount, nix::mount::MntFlags::MNT_DETACH);
        if let Err(error) = unmounted
            .map_err(Into::into)
            .and_then(|()| fs::remove_dir(&self.mount))
        {
            eprintln!("{} is left behind: {error}", self.mount.display());
        }
    }
}

fn cgroup2() -> PathBuf {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").expect("read the mounts");
    let mount = mountinfo
        .lines()
        .find(|line| line.contains(" - cgroup2 "))
        .expect("a cgroup2 hierarchy is mounted");
    mount.split(' ').nth(4).expect("a mount point").into()
}
