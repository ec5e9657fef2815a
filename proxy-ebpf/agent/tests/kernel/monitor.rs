//! `proxy-ebpf monitor` beside real traffic: packets are told of one by one, for as long as somebody looks.

use std::{
    io::{BufRead as _, BufReader},
    net::{SocketAddr, UdpSocket},
    path::Path,
    process::{Child, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
};

use aya::maps::{Array, Map, MapData};
use proxy_ebpf::pins;
use proxy_ebpf_common::{Config, maps};
use serde_json::{Value, json};

use crate::{
    PATIENCE,
    agent::{Agent, wait},
    sandbox::BPF_DIR,
    traffic::{CLIENT, CLUSTER_IP, EXTERNAL_IP, POD_A, Stage, TARGET, at},
};

/// One that the Service has not.
const OTHER_PORT: u16 = 81;

/// A monitor; it ends with this, as whoever is killed does.
struct Monitor(Child);

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What it says, in order.
fn events(monitor: &mut Monitor) -> Receiver<Value> {
    let lines = BufReader::new(monitor.0.stdout.take().expect("a pipe")).lines();
    let (sender, events) = mpsc::channel();
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let event = serde_json::from_str(&line).expect("each line is JSON");
            if sender.send(event).is_err() {
                return;
            }
        }
    });
    events
}

/// Both families, with pod A as the only endpoint.
pub(crate) fn run(stage: &Stage) {
    assert_eq!(monitored(), 0, "nobody looks");
    let mut monitor = Agent::command(&["monitor", "--events", "drop,new", "-o", "json"]);
    let monitor = monitor.stdout(Stdio::piped()).spawn();
    let mut monitor = Monitor(monitor.expect("run proxy-ebpf monitor"));
    let events = events(&mut monitor);
    wait("the programs are asked for events", || monitored() != 0);
    for family in [0, 1] {
        let service = at(EXTERNAL_IP[family], 80);
        stage.client.connect(&service).expect("connect");
        let backend = at(POD_A[family], TARGET);
        let opened = json!({ "event": "new", "hook": "node-ingress", "protocol": "TCP", "destination": service, "translatedDestination": backend });
        expect(&events, &opened, CLIENT[family]);
        let nothing = at(CLUSTER_IP[family], OTHER_PORT);
        stage.pod_a.run(|| {
            let socket = UdpSocket::bind(at(POD_A[family], 0)).expect("bind");
            socket.send_to(b"hello", &nothing).expect("send");
        });
        let refused = json!({ "event": "drop", "hook": "pod-egress", "protocol": "UDP", "destination": nothing, "reason": "unknown_port" });
        expect(&events, &refused, POD_A[family]);
    }
    let another = Agent::command(&["monitor"]).output().expect("run another");
    let error = String::from_utf8_lossy(&another.stderr);
    assert!(!another.status.success() && error.contains("another"), "{error}");
    // It leaves somebody behind who switches events off.
    drop(monitor);
    wait("the programs write no events any more", || monitored() == 0);
}

/// Waits for an event with these fields, of a packet from this address. There may be others before it.
fn expect(events: &Receiver<Value>, fields: &Value, source: &str) {
    let fields = fields.as_object().expect("fields");
    loop {
        let seen = events
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("no such event: {fields:?}"));
        let from: SocketAddr = seen["source"]
            .as_str()
            .and_then(|source| source.parse().ok())
            .expect("an address");
        if from.ip().to_string() == source && fields.iter().all(|(name, value)| seen[name] == *value) {
            return;
        }
    }
}

/// What the programs are asked for.
fn monitored() -> u32 {
    let dir = std::env::var_os(BPF_DIR).expect("the parent names the folder");
    let data = MapData::from_pin(pins::maps_of(Path::new(&dir)).join(maps::CONFIG)).expect("open the map");
    let config = Array::<_, Config>::try_from(Map::Array(data)).expect("it is an array");
    config.get(&0, 0).expect("read the configuration").monitored
}
