//! What an end-to-end suite is made of: one cluster, and scenarios that run on it one after the other, each in a namespace of
//! its own.
//!
//! One cluster serves all scenarios, and it must be removed whatever happens: the standard harness has no hook for that, so a
//! suite is a test target without it, whose `main` is [`main`]. Arguments that are no flags choose the scenarios whose name
//! contains one of them. `ORLOP_PROGRAMS` names another directory of programs; with `ORLOP_KEEP` the cluster of a failed run
//! stays.

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{Binaries, Cluster, ClusterConfig, Component, kubectl::Kubectl, wait};

/// The image that every workload of the suites runs.
pub const IMAGE: &str = "localhost/orlop/test:1";
/// How long anything in the cluster may take. Far more than it needs: a busy machine must not fail a test, nor one whose
/// every instruction is emulated (`cargo xtask kernel-test --node`).
pub const LIMIT: Duration = Duration::from_secs(300);
/// The same for `kubectl`.
pub const TIMEOUT: &str = "--timeout=300s";

/// What a scenario gets: the cluster, and a namespace of its own.
pub struct World<'a> {
    /// The cluster that all scenarios share.
    pub cluster: &'a Cluster,
    /// The administrator's `kubectl`.
    pub kubectl: Kubectl,
    /// The scenario's own namespace, deleted after it.
    pub namespace: String,
}

/// A scenario's name, as a Rust path's last part, and the function that plays it.
pub type Scenario = (&'static str, fn(&World<'_>) -> Result<()>);

/// Runs the scenarios that the command line chooses, all of them by default, on a cluster of one node.
pub fn main(scenarios: &[Scenario]) -> ExitCode {
    main_with_nodes(1, scenarios)
}

/// The same on a cluster of so many nodes.
pub fn main_with_nodes(nodes: usize, scenarios: &[Scenario]) -> ExitCode {
    main_with_far_nodes(nodes, 0, scenarios)
}

/// The same with the last `far` of the nodes each on a network of its own, beyond a router.
pub fn main_with_far_nodes(nodes: usize, far: usize, scenarios: &[Scenario]) -> ExitCode {
    let filters: Vec<String> = env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let chosen: Vec<&Scenario> = scenarios
        .iter()
        .filter(|(name, _)| filters.is_empty() || filters.iter().any(|filter| name.contains(filter)))
        .collect();
    if env::args().any(|argument| argument == "--list") {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    match run(nodes, far, &chosen) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the scenarios and returns how many failed.
fn run(nodes: usize, far: usize, chosen: &[&Scenario]) -> Result<usize> {
    crate::sweep("t-")?;
    let config = config(&format!("t-{}", std::process::id()), nodes)?;
    let cluster = Cluster::start_spread(config, far, &mut |step| {
        println!("{:>8.2} s  {}", step.took.as_secs_f64(), step.what);
    });
    let cluster = match cluster {
        Ok(cluster) => cluster,
        Err(error) => {
            // What was made before the failure must not stay.
            crate::teardown(&crate::Layout::new(&format!("t-{}", std::process::id()))?)?;
            return Err(error);
        }
    };
    let keep = env::var_os("ORLOP_KEEP").is_some();
    let mut failed = Vec::new();
    println!("\nrunning {} tests", chosen.len());
    for (name, scenario) in chosen {
        let start = Instant::now();
        match one(&cluster, name, *scenario) {
            Ok(()) => println!("test {name} ... ok ({:.1} s)", start.elapsed().as_secs_f64()),
            Err(Failure { error, evidence }) => {
                // The reason first: whoever shows a part of the output shows its beginning.
                println!(
                    "test {name} ... FAILED ({:.1} s)\n{error:?}\n\n{evidence}",
                    start.elapsed().as_secs_f64()
                );
                failed.push(*name);
            }
        }
    }
    let layout = cluster.layout().clone();
    if keep && !failed.is_empty() {
        println!(
            "ORLOP_KEEP is set: the cluster {:?} stays; remove it with cargo xtask down --name {}",
            layout.name(),
            layout.name()
        );
    } else {
        cluster.remove()?;
        let left = crate::leftovers(&layout)?;
        if left.is_empty() {
            println!("test nothing_is_left_behind ... ok");
        } else {
            println!("test nothing_is_left_behind ... FAILED\n  {}", left.join("\n  "));
            failed.push("nothing_is_left_behind");
        }
    }
    let passed = chosen.len() + 1 - failed.len();
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {} failed; 0 ignored; 0 measured; 0 filtered out",
        failed.len()
    );
    Ok(failed.len())
}

/// Why a scenario failed, and what the cluster looked like then.
struct Failure {
    error: anyhow::Error,
    evidence: String,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let evidence = String::new();
        Self { error, evidence }
    }
}

fn one(cluster: &Cluster, name: &str, scenario: fn(&World<'_>) -> Result<()>) -> Result<(), Failure> {
    let kubectl = cluster.kubectl();
    let namespace = name.replace('_', "-");
    kubectl.run(&["create", "namespace", &namespace])?;
    let world = World {
        cluster,
        kubectl,
        namespace,
    };
    let outcome = scenario(&world).map_err(|error| Failure {
        error,
        evidence: world.evidence(),
    });
    // Deleting all the namespace holds is part of what the cluster must be able to do.
    let deleted = world
        .kubectl
        .run(&["delete", "namespace", &world.namespace, TIMEOUT]);
    outcome?;
    deleted?;
    Ok(())
}

/// Where the build leaves what it makes.
fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    )
}

/// The test image's program: linked statically, it runs outside of pods too.
pub fn test_program() -> PathBuf {
    let triple = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    target().join(triple).join("release/test-image")
}

/// The suite's cluster: isolated, built programs and images.
fn config(name: &str, nodes: usize) -> Result<ClusterConfig> {
    let target = target();
    let images = target.join("images");
    let archives: Vec<PathBuf> = std::fs::read_dir(&images)
        .with_context(|| format!("{} is missing; run: cargo xtask test", images.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "tar"))
        .collect();
    Ok(ClusterConfig {
        name: name.to_owned(),
        nodes,
        isolated: true,
        api_port: None,
        binaries: Binaries {
            directory: env::var_os("ORLOP_PROGRAMS").map_or_else(|| target.join("release"), PathBuf::from),
        },
        images: archives,
    })
}

impl World<'_> {
    /// `kubectl` in the scenario's namespace.
    ///
    /// # Errors
    /// An exit status other than 0.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        self.kubectl.run(&self.scoped(args))
    }

    /// `kubectl get -o json` in the scenario's namespace.
    ///
    /// # Errors
    /// The call failed or printed no JSON.
    pub fn get(&self, args: &[&str]) -> Result<serde_json::Value> {
        self.kubectl.get(&self.scoped(args))
    }

    /// A `kubectl` call that must fail; its error output.
    ///
    /// # Errors
    /// It succeeded.
    pub fn fails(&self, args: &[&str]) -> Result<String> {
        self.kubectl.fails(&self.scoped(args))
    }

    /// `kubectl apply -f -` in the scenario's namespace.
    ///
    /// # Errors
    /// An exit status other than 0.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        self.kubectl
            .run_with_input(&self.scoped(&["apply", "-f", "-"]), manifest.as_bytes())
    }

    /// `args` with the flag that chooses the scenario's namespace.
    pub fn scoped<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        let mut all = vec!["--namespace", self.namespace.as_str()];
        all.extend(args);
        all
    }

    /// A pod that sleeps, ready to `exec` in, and ends at once when told to.
    ///
    /// # Errors
    /// It is not Ready in time.
    pub fn start_client(&self, name: &str) -> Result<()> {
        let script = "trap 'exit 0' TERM; sleep 3600 & wait";
        self.run(&[
            "run",
            name,
            "--image",
            IMAGE,
            "--restart=Never",
            "--command",
            "--",
            "sh",
            "-c",
            script,
        ])?;
        self.run(&["wait", "--for=condition=Ready", TIMEOUT, &format!("pod/{name}")])
            .map(drop)
    }

    /// A Deployment of the test server with a rolled-out Service in front of it.
    ///
    /// # Errors
    /// It is not rolled out in time.
    pub fn start_web(&self, replicas: usize) -> Result<()> {
        let replicas = format!("--replicas={replicas}");
        self.run(&["create", "deployment", "web", "--image", IMAGE, &replicas])?;
        self.run(&["expose", "deployment", "web", "--port", "80"])?;
        self.run(&["rollout", "status", "deployment/web", TIMEOUT])
            .map(drop)
    }

    /// Waits until `probe` is content.
    ///
    /// # Errors
    /// It is not within [`LIMIT`].
    pub fn until(&self, what: &str, probe: impl FnMut() -> Result<()>) -> Result<()> {
        wait::until(what, LIMIT, probe)
    }

    /// The addresses of the ready endpoints of a Service, over all its slices.
    ///
    /// # Errors
    /// The slices cannot be listed.
    pub fn ready_endpoints(&self, service: &str) -> Result<Vec<String>> {
        let selector = format!("kubernetes.io/service-name={service}");
        let slices = self.get(&["endpointslices", "-l", &selector])?;
        let mut addresses = Vec::new();
        for endpoint in slices["items"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|slice| slice["endpoints"].as_array())
            .flatten()
        {
            if endpoint["conditions"]["ready"] == true {
                addresses.extend(
                    endpoint["addresses"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter_map(|a| a.as_str().map(str::to_owned)),
                );
            }
        }
        Ok(addresses)
    }

    /// What a person would look at after a failure.
    fn evidence(&self) -> String {
        let mut text = String::new();
        for args in [
            &["get", "pods", "-o", "wide"][..],
            &["get", "events", "--sort-by=.lastTimestamp"],
        ] {
            text.push_str(&self.run(args).unwrap_or_else(|error| format!("{error:#}")));
            text.push('\n');
        }
        let of_node = |index| {
            [
                Component::Kubelet(index),
                Component::ProxyEbpf(index),
                Component::Containerd(index),
            ]
        };
        let of_nodes = (1..=self.cluster.config().nodes).flat_map(of_node);
        for component in std::iter::once(Component::ControlPlane).chain(of_nodes) {
            let path = self.cluster.layout().log(&component.name());
            let log = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            text.push_str(&format!(
                "--- {}\n{}\n",
                path.display(),
                lines[lines.len().saturating_sub(20)..].join("\n")
            ));
        }
        text
    }
}

/// Fails with `what` unless `text` contains `needle`.
///
/// # Errors
/// It does not.
pub fn expect_contains(what: &str, text: &str, needle: &str) -> Result<()> {
    if !text.contains(needle) {
        bail!("{what} lacks {needle:?}:\n{text}");
    }
    Ok(())
}
