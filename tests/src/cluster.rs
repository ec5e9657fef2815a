//! Starting a cluster and keeping it whole.
//!
//! [`Cluster::start`] describes the wanted state and makes what is missing, so that calling it twice is harmless and
//! calling it after something was killed is the repair.

use std::{
    ffi::OsString,
    fs, io,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use nix::mount::{MsFlags, mount};

use crate::{
    cgroup, containerd, gateway, kubeconfig,
    kubectl::Kubectl,
    layout::{API_PORT, CLUSTER_CIDRS, CLUSTER_DNS, CONTROL_PLANE_IP, Layout, SERVICE_CIDRS},
    network,
    pki::Pki,
    process::{self, Process, Spec},
    teardown, wait,
};

/// How long the API server may take to answer and a node to become Ready before `start` gives up. Generous: on a busy
/// machine, or an emulated one, a slow start is no failure.
const START_LIMIT: Duration = Duration::from_secs(240);
/// The same for a daemon that was asked to end.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// The programs that a cluster runs.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// The directory that holds `control-plane`, `kubelet`, `proxy-ebpf` and `orlop-cni`.
    pub directory: PathBuf,
}

/// What kind of cluster is wanted.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// Its name, which all that is made for it carries.
    pub name: String,
    /// How many nodes.
    pub nodes: usize,
    /// Whether the cluster is left without a route to the outside.
    pub isolated: bool,
    /// The loopback port that the API server is published on; `None` takes the one of the last start, or any free one.
    pub api_port: Option<u16>,
    /// Our programs.
    pub binaries: Binaries,
    /// OCI archives to import into every node.
    pub images: Vec<PathBuf>,
}

/// One of a cluster's daemons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// API server, store, scheduler and controllers.
    ControlPlane,
    /// A node's containerd (nodes count from 1).
    Containerd(usize),
    /// A node's kubelet.
    Kubelet(usize),
    /// A node's service proxy.
    ProxyEbpf(usize),
}

impl Component {
    /// The name in pid and log files.
    pub fn name(self) -> String {
        match self {
            Component::ControlPlane => "control-plane".to_owned(),
            Component::Containerd(index) => format!("node{index}-containerd"),
            Component::Kubelet(index) => format!("node{index}-kubelet"),
            Component::ProxyEbpf(index) => format!("node{index}-proxy-ebpf"),
        }
    }
}

/// A finished step of [`Cluster::start`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What was done.
    pub what: String,
    /// How long it took.
    pub took: Duration,
}

/// A running cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    config: ClusterConfig,
    layout: Layout,
}

impl Cluster {
    /// Starts the cluster, or puts right what is missing of it, and waits until every node is Ready.
    ///
    /// # Errors
    /// The first step that failed, with the log to look into.
    pub fn start(config: ClusterConfig, progress: &mut dyn FnMut(Step)) -> Result<Cluster> {
        Cluster::start_spread(config, 0, progress)
    }

    /// The same with the last `far` nodes each on a network of its own, beyond a router that knows nothing of pods.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn start_spread(
        config: ClusterConfig,
        far: usize,
        progress: &mut dyn FnMut(Step),
    ) -> Result<Cluster> {
        let mut layout = Layout::new(&config.name)?;
        if far > 0 {
            layout = layout.with_far_nodes(config.nodes.saturating_sub(far) + 1);
        }
        let cluster = Cluster { config, layout };
        let mut timed = |what: &str, work: &mut dyn FnMut() -> Result<()>| -> Result<()> {
            let start = Instant::now();
            work().with_context(|| what.to_owned())?;
            progress(Step {
                what: what.to_owned(),
                took: start.elapsed(),
            });
            Ok(())
        };
        timed("directories, keys and certificates", &mut || cluster.prepare())?;
        timed("network namespaces and bridge", &mut || cluster.join_namespaces())?;
        timed("control plane started", &mut || {
            cluster.start_component(Component::ControlPlane).map(drop)
        })?;
        for index in 1..=cluster.config.nodes {
            timed(&format!("node{index}: containerd answers"), &mut || {
                cluster.start_containerd(index)
            })?;
            timed(&format!("node{index}: images imported"), &mut || {
                cluster.import_images(index)
            })?;
            timed(
                &format!("node{index}: kubelet and proxy-ebpf started"),
                &mut || {
                    cluster.start_component(Component::Kubelet(index))?;
                    cluster.start_component(Component::ProxyEbpf(index)).map(drop)
                },
            )?;
        }
        timed("API server ready", &mut || cluster.wait_for_api())?;
        for index in 1..=cluster.config.nodes {
            timed(&format!("node{index} Ready"), &mut || {
                cluster.wait_for_node(index)
            })?;
        }
        Ok(cluster)
    }

    /// The cluster's paths and names.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// How it was configured.
    pub fn config(&self) -> &ClusterConfig {
        &self.config
    }

    /// The administrator's `kubectl`.
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(&self.layout.kubeconfig())
    }

    /// The daemon's process, when it runs.
    pub fn process(&self, component: Component) -> Option<Process> {
        process::read(&self.layout, &component.name())
    }

    /// Removes the cluster and everything that was made for it.
    ///
    /// # Errors
    /// Something is left that cannot be removed; the message names it.
    pub fn remove(self) -> Result<()> {
        teardown(&self.layout)
    }

    /// Starts a daemon unless it runs. One whose program was rebuilt meanwhile is started anew.
    ///
    /// # Errors
    /// The program is missing or cannot be started.
    pub fn start_component(&self, component: Component) -> Result<Process> {
        let spec = self.spec(component)?;
        if let Some(running) = self.process(component) {
            if running.runs(&spec.program) {
                return Ok(running);
            }
            running.terminate(STOP_LIMIT)?;
        }
        let listener = match component {
            Component::ControlPlane => Some(self.publish_api()?.into()),
            _ => None,
        };
        process::start(&self.layout, Spec { listener, ..spec })
    }

    /// Ends a daemon and starts it with more arguments than usual, until it is started the next time.
    ///
    /// # Errors
    /// It does not end, or cannot be started.
    pub fn restart_with(&self, component: Component, arguments: &[&str]) -> Result<Process> {
        let mut spec = self.spec(component)?;
        spec.args.extend(arguments.iter().map(OsString::from));
        if let Some(running) = self.process(component) {
            running.terminate(STOP_LIMIT)?;
        }
        process::start(&self.layout, spec)
    }

    /// The same cluster with other programs: what is started from now on is one of them.
    pub fn with_binaries(&self, directory: PathBuf) -> Cluster {
        let mut cluster = self.clone();
        cluster.config.binaries = Binaries { directory };
        cluster
    }

    fn spec(&self, component: Component) -> Result<Spec> {
        Ok(match component {
            Component::ControlPlane => self.control_plane_spec()?,
            Component::Containerd(index) => self.containerd_spec(index),
            Component::Kubelet(index) => self.kubelet_spec(index)?,
            Component::ProxyEbpf(index) => self.proxy_spec(index)?,
        })
    }

    /// Waits until the API server says that it is ready.
    ///
    /// # Errors
    /// It does not in time, or its process has ended.
    pub fn wait_for_api(&self) -> Result<()> {
        let kubectl = self.kubectl();
        let answer = wait::until("the API server", START_LIMIT, || {
            if self.process(Component::ControlPlane).is_none() {
                return Ok(Err(self.last_words(Component::ControlPlane)));
            }
            match kubectl.run(&["get", "--raw", "/readyz"])?.trim() {
                "ok" => Ok(Ok(())),
                answer => bail!("/readyz says {answer}"),
            }
        });
        answer?
    }

    /// Waits until a node is Ready and tells the control plane the way to its pods.
    ///
    /// # Errors
    /// It is not in time; the message has the node's own reason.
    pub fn wait_for_node(&self, index: usize) -> Result<()> {
        let (kubectl, name) = (self.kubectl(), self.layout.node_name(index));
        let pod_cidrs = wait::until(&format!("node {name} to be Ready"), START_LIMIT, || {
            let node = kubectl
                .get(&["node", &name])
                .map_err(|error| self.explain(Component::Kubelet(index), error))?;
            let conditions = node["status"]["conditions"]
                .as_array()
                .map_or(&[][..], Vec::as_slice);
            let ready = conditions.iter().find(|condition| condition["type"] == "Ready");
            match ready {
                Some(ready) if ready["status"] == "True" => {}
                Some(ready) => bail!("{}: {}", ready["reason"], ready["message"]),
                None => bail!("it has no Ready condition"),
            }
            let cidrs = node["spec"]["podCIDRs"]
                .as_array()
                .ok_or_else(|| anyhow!("it has no podCIDRs"))?;
            Ok(cidrs
                .iter()
                .filter_map(|cidr| cidr.as_str().map(str::to_owned))
                .collect::<Vec<_>>())
        })?;
        network::route_pods(&self.layout, index, &pod_cidrs)
    }

    /// Adds the end of a dead daemon's log to an error, since that is where its reason is.
    fn explain(&self, component: Component, error: anyhow::Error) -> anyhow::Error {
        if self.process(component).is_some() {
            error
        } else {
            self.last_words(component)
        }
    }

    /// What a daemon that is not running wrote last.
    fn last_words(&self, component: Component) -> anyhow::Error {
        let path = self.layout.log(&component.name());
        let log = fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(5)..].join("\n");
        anyhow!(
            "{} is not running; the end of {}:\n{tail}",
            component.name(),
            path.display()
        )
    }

    fn prepare(&self) -> Result<()> {
        let layout = &self.layout;
        for directory in [layout.state(), layout.run(), layout.run().join("bpf")] {
            make_directory(&directory)?;
        }
        fs::write(layout.state().join("owner"), std::process::id().to_string())
            .context("write the owner file")?;
        if !is_mount_point(&layout.run().join("bpf"))? {
            mount(
                Some("bpf"),
                &layout.run().join("bpf"),
                Some("bpf"),
                MsFlags::empty(),
                None::<&str>,
            )
            .context("mount a BPF filesystem; the kernel needs CONFIG_BPF_SYSCALL")?;
        }
        let pki = Pki::open(layout)?;
        let internal = format!("https://{CONTROL_PLANE_IP}:{API_PORT}");
        for index in 1..=self.config.nodes {
            pki.node(layout, index)?;
            let (state, name) = (layout.node_state(index), layout.node_name(index));
            for directory in [
                state.clone(),
                layout.node_run(index),
                layout.cni_conf_dir(index),
                layout.cni_bin_dir(index),
            ] {
                make_directory(&directory)?;
            }
            let kubelet = format!("{name}-kubelet");
            kubeconfig::write(
                &state.join("kubelet.kubeconfig"),
                &pki,
                layout.name(),
                &internal,
                &kubelet,
            )?;
            kubeconfig::write(
                &state.join("proxy.kubeconfig"),
                &pki,
                layout.name(),
                &internal,
                "proxy",
            )?;
            self.install_plugin(index)?;
            let config = state.join("kubelet.yaml");
            fs::write(&config, self.kubelet_configuration(&pki, index))
                .with_context(|| format!("write {}", config.display()))?;
        }
        Ok(())
    }

    fn join_namespaces(&self) -> Result<()> {
        network::make(&self.layout, self.config.nodes)?;
        match self.config.isolated {
            true => gateway::close(&self.layout),
            false => gateway::open(&self.layout),
        }
    }

    /// Puts our plugin where the node's containerd looks for plugins.
    fn install_plugin(&self, index: usize) -> Result<()> {
        let source = self.program("orlop-cni")?;
        let target = self.layout.cni_bin_dir(index).join("orlop-cni");
        let temporary = target.with_extension("new");
        fs::copy(&source, &temporary).with_context(|| format!("copy {}", source.display()))?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755))
            .context("make the plugin executable")?;
        fs::rename(&temporary, &target).with_context(|| format!("install {}", target.display()))?;
        // containerd 1.6 calls a plugin of this name for every sandbox; ours answers to it. Another name for the same file
        // and no symbolic link: it must not dangle while the plugin is away.
        let loopback = self.layout.cni_bin_dir(index).join("loopback");
        let temporary = loopback.with_extension("new");
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", temporary.display()));
            }
            _ => {}
        }
        fs::hard_link(&target, &temporary).with_context(|| format!("link {}", temporary.display()))?;
        fs::rename(&temporary, &loopback).with_context(|| format!("install {}", loopback.display()))?;
        // Two names of one file cannot be renamed into one another: then the temporary one stays.
        let _gone = fs::remove_file(&temporary);
        Ok(())
    }

    /// Binds the loopback port that the API server is published on. The control plane inherits the socket, so nothing has to forward.
    fn publish_api(&self) -> Result<TcpListener> {
        let remembered = self.layout.state().join("api-port");
        let last = fs::read_to_string(&remembered)
            .ok()
            .and_then(|text| text.trim().parse().ok());
        let port = self.config.api_port.or(last).unwrap_or(0);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| {
            format!("--port {port}: 127.0.0.1:{port} cannot be bound; end the program that holds it or choose another port")
        })?;
        let port = listener.local_addr().context("read the bound address")?.port();
        fs::write(&remembered, port.to_string()).context("remember the port")?;
        let pki = Pki::open(&self.layout)?;
        let server = format!("https://127.0.0.1:{port}");
        kubeconfig::write(
            &self.layout.kubeconfig(),
            &pki,
            self.layout.name(),
            &server,
            "admin",
        )?;
        Ok(listener)
    }

    fn control_plane_spec(&self) -> Result<Spec> {
        let pki = Pki::open(&self.layout)?;
        let mut args = Args::default();
        args.add("--data-dir", self.layout.state().join("control-plane"));
        args.add("--bind-address", CONTROL_PLANE_IP.to_string());
        args.add("--secure-port", API_PORT.to_string());
        args.add("--advertise-address", CONTROL_PLANE_IP.to_string());
        args.add("--client-ca-file", pki.certificate("ca"));
        args.add("--root-ca-file", pki.certificate("ca"));
        args.add("--tls-cert-file", pki.certificate("apiserver"));
        args.add("--tls-private-key-file", pki.private_key("apiserver"));
        args.add(
            "--service-account-issuer",
            "https://kubernetes.default.svc.cluster.local",
        );
        args.add("--service-account-signing-key-file", pki.private_key("sa"));
        args.add("--service-account-key-file", self.layout.pki().join("sa.pub"));
        args.add("--service-cluster-ip-range", SERVICE_CIDRS);
        args.add("--cluster-cidr", CLUSTER_CIDRS);
        args.add(
            "--kubelet-client-certificate",
            pki.certificate("apiserver-kubelet-client"),
        );
        args.add(
            "--kubelet-client-key",
            pki.private_key("apiserver-kubelet-client"),
        );
        args.add("--kubelet-certificate-authority", pki.certificate("kubelet-ca"));
        Ok(Spec {
            name: Component::ControlPlane.name(),
            program: self.program("control-plane")?,
            args: args.0,
            env: Vec::new(),
            netns: self.layout.control_plane_netns(),
            cgroup: format!("/{}/control-plane", self.layout.name()),
            listener: None,
        })
    }

    fn containerd_spec(&self, index: usize) -> Spec {
        let mut args = Args::default();
        args.add("--config", self.layout.node_state(index).join("containerd.toml"));
        self.node_spec(
            Component::Containerd(index),
            index,
            PathBuf::from("/usr/bin/containerd"),
            args,
        )
    }

    fn kubelet_spec(&self, index: usize) -> Result<Spec> {
        let state = self.layout.node_state(index);
        let mut args = Args::default();
        args.add("--config", state.join("kubelet.yaml"));
        args.add("--kubeconfig", state.join("kubelet.kubeconfig"));
        args.add("--hostname-override", self.layout.node_name(index));
        args.add(
            "--node-ip",
            format!("{},{}", self.layout.node_ip(index), self.layout.node_ip6(index)),
        );
        args.add("--root-dir", state.join("kubelet"));
        Ok(self.node_spec(Component::Kubelet(index), index, self.program("kubelet")?, args))
    }

    fn proxy_spec(&self, index: usize) -> Result<Spec> {
        let state = self.layout.node_state(index);
        let cgroup = cgroup::unified_mount()?.join(self.layout.node_cgroup(index).trim_start_matches('/'));
        let mut args = Args::default();
        args.add("--kubeconfig", state.join("proxy.kubeconfig"));
        args.add("--hostname-override", self.layout.node_name(index));
        args.add("--cgroup-path", cgroup);
        args.add("--bpf-dir", self.layout.bpf_dir(index));
        args.add("--cni-conf-dir", self.layout.cni_conf_dir(index));
        args.add("--cni-data-dir", state.join("cni/data"));
        // Of the node's own network namespace.
        args.add("--metrics-bind-address", "127.0.0.1:10249");
        Ok(self.node_spec(
            Component::ProxyEbpf(index),
            index,
            self.program("proxy-ebpf")?,
            args,
        ))
    }

    fn node_spec(&self, component: Component, index: usize, program: PathBuf, args: Args) -> Spec {
        Spec {
            name: component.name(),
            program,
            args: args.0,
            env: Vec::new(),
            netns: self.layout.node_netns(index),
            cgroup: format!("{}/system", self.layout.node_cgroup(index)),
            listener: None,
        }
    }

    fn start_containerd(&self, index: usize) -> Result<()> {
        if containerd::configure(&self.layout, index)?
            && let Some(running) = self.process(Component::Containerd(index))
        {
            running.terminate(STOP_LIMIT)?;
        }
        self.start_component(Component::Containerd(index))?;
        let socket = self.layout.containerd_socket(index);
        wait::until(&format!("{}", socket.display()), START_LIMIT, || {
            std::os::unix::net::UnixStream::connect(&socket)
                .map_err(|error| self.explain(Component::Containerd(index), error.into()))
        })
        .map(drop)
    }

    /// Imports the images that this node has not imported before in this very version.
    fn import_images(&self, index: usize) -> Result<()> {
        let marker = self.layout.node_state(index).join("imported-images");
        let mut versions = String::new();
        for image in &self.config.images {
            let metadata =
                fs::metadata(image).with_context(|| format!("read image archive {}", image.display()))?;
            versions.push_str(&format!(
                "{} {} {:?}\n",
                image.display(),
                metadata.len(),
                metadata.modified()?
            ));
        }
        if fs::read_to_string(&marker).is_ok_and(|imported| imported == versions) {
            return Ok(());
        }
        containerd::import(&self.layout, index, &self.config.images)?;
        fs::write(&marker, versions).context("remember the imported images")
    }

    fn kubelet_configuration(&self, pki: &Pki, index: usize) -> String {
        let (state, name) = (self.layout.node_state(index), self.layout.node_name(index));
        format!(
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\naddress: {address}\nport: 10250\n\
             tlsCertFile: {certificate}\ntlsPrivateKeyFile: {key}\n\
             authentication:\n  anonymous:\n    enabled: false\n  x509:\n    clientCAFile: {authority}\nauthorization:\n  mode: Webhook\n\
             cgroupDriver: cgroupfs\ncgroupRoot: {cgroup}\nclusterDNS: [{CLUSTER_DNS}]\nclusterDomain: cluster.local\n\
             containerRuntimeEndpoint: unix://{socket}\npodLogsDir: {logs}\n",
            address = self.layout.node_ip(index),
            certificate = pki.certificate(&format!("{name}-kubelet-server")).display(),
            key = pki.private_key(&format!("{name}-kubelet-server")).display(),
            authority = pki.certificate("ca").display(),
            cgroup = self.layout.node_cgroup(index),
            socket = self.layout.containerd_socket(index).display(),
            logs = state.join("pod-logs").display(),
        )
    }

    /// One of our programs, by the path the kernel will show for it.
    fn program(&self, name: &str) -> Result<PathBuf> {
        let path = self.config.binaries.directory.join(name);
        fs::canonicalize(&path)
            .with_context(|| format!("{} is not built; run: cargo xtask up", path.display()))
    }
}

/// A command line under construction.
#[derive(Default)]
struct Args(Vec<OsString>);

impl Args {
    fn add(&mut self, flag: &str, value: impl Into<OsString>) {
        self.0.push(flag.into());
        self.0.push(value.into());
    }
}

fn make_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("make directory {}", path.display()))
}

pub(crate) fn is_mount_point(path: &Path) -> Result<bool> {
    Ok(teardown::mounts_below(path)?.iter().any(|mount| mount == path))
}
