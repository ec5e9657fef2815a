//! An API server of four resources, scripted by the test: lists and watches of what it is told, nothing else.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
};

use serde_json::{Value, json};

/// The server. Clones are the same server.
#[derive(Clone)]
pub(crate) struct Api {
    address: SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    /// Every event that ever was: resource, type, object. An event's number is its resource version.
    events: Vec<(&'static str, &'static str, Value)>,
    /// The resource whose lists are not answered.
    held: Option<&'static str>,
    /// How many watches of each resource have been opened.
    watches: Vec<&'static str>,
}

const RESOURCES: [(&str, &str); 4] = [
    ("/api/v1/services", "services"),
    ("/apis/discovery.k8s.io/v1/endpointslices", "endpointslices"),
    ("/api/v1/nodes", "nodes"),
    ("/api/v1/pods", "pods"),
];

impl Api {
    /// Listens on loopback.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let api = Self {
            address: listener.local_addr().expect("an address"),
            state: Arc::default(),
        };
        let server = api.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                // A client that goes away ends its thread by an error.
                thread::spawn(move || server.serve(stream));
            }
        });
        api
    }

    pub(crate) fn kubeconfig(&self) -> String {
        let name = "test";
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": name, "cluster": { "server": format!("http://{}", self.address) } }],
            "users": [{ "name": name, "user": {} }],
            "contexts": [{ "name": name, "context": { "cluster": name, "user": name } }],
            "current-context": name,
        });
        kubeconfig.to_string()
    }

    /// Adds or changes an object.
    pub(crate) fn put(&self, resource: &'static str, object: Value) {
        let known = self
            .objects(resource, usize::MAX)
            .iter()
            .any(|other| key(other) == key(&object));
        self.event(resource, if known { "MODIFIED" } else { "ADDED" }, object);
    }

    pub(crate) fn delete(&self, resource: &'static str, object: Value) {
        self.event(resource, "DELETED", object);
    }

    /// Stops answering lists of a resource, or goes on.
    pub(crate) fn hold(&self, resource: Option<&'static str>) {
        self.state().held = resource;
        self.state.1.notify_all();
    }

    /// Returns once `resource` has been watched `count` times.
    pub(crate) fn wait_for_watch(&self, resource: &str, count: usize) {
        let watched =
            |state: &mut State| state.watches.iter().filter(|other| **other == resource).count() < count;
        drop(
            self.state
                .1
                .wait_while(self.state(), watched)
                .expect("no thread panics with the lock"),
        );
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().expect("no thread panics with the lock")
    }

    fn event(&self, resource: &'static str, kind: &'static str, mut object: Value) {
        let mut state = self.state();
        object["metadata"]["resourceVersion"] = (state.events.len() + 1).to_string().into();
        state.events.push((resource, kind, object));
        self.state.1.notify_all();
    }

    /// The objects of a resource after the first `version` events.
    fn objects(&self, resource: &str, version: usize) -> Vec<Value> {
        let mut objects: Vec<Value> = Vec::new();
        for (_, kind, object) in self
            .state()
            .events
            .iter()
            .take(version)
            .filter(|(other, ..)| *other == resource)
        {
            objects.retain(|other| key(other) != key(object));
            if *kind != "DELETED" {
                objects.push(object.clone());
            }
        }
        objects
    }

    fn serve(&self, mut stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().expect("clone a socket"));
        loop {
            let mut head = Vec::new();
            let mut line = String::new();
            while matches!(reader.read_line(&mut line), Ok(1..)) && !line.trim().is_empty() {
                head.push(std::mem::take(&mut line));
            }
            let Some(target) = head.first().and_then(|request| request.split(' ').nth(1)) else {
                return;
            };
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let Some(&(_, resource)) = RESOURCES.iter().find(|(known, _)| *known == path) else {
                return;
            };
            let parameter = |name: &str| {
                query
                    .split('&')
                    .find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name))
                    .map(|(_, value)| value)
            };
            if parameter("watch") == Some("true") {
                let from = parameter("resourceVersion")
                    .and_then(|version| version.parse().ok())
                    .unwrap_or(0);
                return self.watch(&mut stream, resource, from);
            }
            let held = |state: &mut State| state.held == Some(resource);
            drop(
                self.state
                    .1
                    .wait_while(self.state(), held)
                    .expect("no thread panics with the lock"),
            );
            let version = self.state().events.len();
            let items = self.objects(resource, version);
            let list = json!({
                "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": version.to_string() }, "items": items,
            });
            let body = list.to_string();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            if stream.write_all((head + &body).as_bytes()).is_err() {
                return;
            }
        }
    }

    fn watch(&self, stream: &mut TcpStream, resource: &'static str, mut sent: usize) {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
        if stream.write_all(head.as_bytes()).is_err() {
            return;
        }
        self.state().watches.push(resource);
        self.state.1.notify_all();
        loop {
            let state = self.state();
            let waiting = |state: &mut State| state.events.len() <= sent;
            let state = self
                .state
                .1
                .wait_while(state, waiting)
                .expect("no thread panics with the lock");
            let new = state.events[sent..]
                .iter()
                .filter(|(other, ..)| *other == resource);
            let lines: String = new
                .map(|(_, kind, object)| json!({ "type": kind, "object": object }).to_string() + "\n")
                .collect();
            sent = state.events.len();
            drop(state);
            if !lines.is_empty() && write!(stream, "{:x}\r\n{lines}\r\n", lines.len()).is_err() {
                return;
            }
        }
    }
}

fn key(object: &Value) -> (Option<&str>, Option<&str>) {
    let metadata = &object["metadata"];
    (metadata["namespace"].as_str(), metadata["name"].as_str())
}
