//! What to do about a pod: a pure function of its spec, what was observed of it, and the time.
//!
//! No I/O and no clock in here. Everything the decision needs across a restart of the kubelet (restart counts,
//! back-off, which init containers are done) is part of what CRI reports, so that a new kubelet plans what the old one
//! would have planned.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::{
    backoff::{CRASH_RESET, next_delay},
    pod::{self, ContainerObservation, ContainerState, PodObservation, RestartPolicy},
};

/// What the probes found out, as sets of container ids.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProbeResults {
    /// Containers the liveness probe gave up.
    pub liveness_failed: HashSet<String>,
    /// Containers the startup probe gave up.
    pub startup_failed: HashSet<String>,
    /// Containers whose startup probe succeeded.
    pub started: HashSet<String>,
    /// Containers whose readiness probe succeeds.
    pub ready: HashSet<String>,
}

/// Everything a plan depends on besides the pod itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// What CRI reports.
    pub runtime: PodObservation,
    /// What the probes report.
    pub probes: ProbeResults,
    /// When this node accepted the pod; the active deadline counts from here.
    pub start_time: Option<Timestamp>,
}

/// What to do about a pod. `apply` carries it out in the order of the fields and decides nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// Why the pod has failed as a whole, apart from what its containers did.
    pub failed: Option<Failure>,
    /// Containers to stop, each with the reason.
    pub kill: Vec<Kill>,
    /// Sandboxes to stop: what is left of them is killed and their network torn down.
    pub stop_sandboxes: Vec<String>,
    /// Ids of dead containers to forget; their successors carry the history.
    pub remove: Vec<String>,
    /// Ids of dead sandboxes to forget: others have taken their place, and no container is left in them.
    pub remove_sandboxes: Vec<String>,
    /// What becomes of the sandbox.
    pub sandbox: SandboxPlan,
    /// Containers to make and start, in order.
    pub start: Vec<Start>,
    /// Containers that have to wait before they start again.
    pub back_off: Vec<BackOff>,
    /// Names of the containers that are as they should be.
    pub unchanged: Vec<String>,
    /// When the plan changes by the passing of time alone.
    pub again_at: Option<Timestamp>,
}

/// A failure of the pod as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// CamelCase, for `status.reason`.
    pub reason: &'static str,
    /// For people, for `status.message`.
    pub message: String,
}

/// What becomes of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SandboxPlan {
    /// None is there and none is needed.
    #[default]
    None,
    /// This one serves.
    Keep(String),
    /// A new one is needed.
    Create {
        /// CRI's attempt number.
        attempt: u32,
    },
}

/// A container to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    /// The container's name.
    pub name: String,
    /// CRI's id.
    pub id: String,
    /// Why.
    pub reason: KillReason,
    /// For the Killing event.
    pub message: String,
}

/// Why a container is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillReason {
    /// The image in the spec has changed.
    SpecChanged,
    /// The liveness probe gave up.
    Liveness,
    /// The startup probe gave up.
    Startup,
    /// The runtime lost sight of it.
    Unknown,
    /// The pod has ended, or its sandbox is gone.
    PodEnded,
}

/// A container to make and start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The container's name.
    pub name: String,
    /// Whether it is an init container (sidecars included).
    pub init: bool,
    /// CRI's attempt, which is the restart count.
    pub attempt: u32,
    /// How long the next restart is put off when this one ends.
    pub next_back_off: Duration,
}

/// A container that waits for its back-off to pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackOff {
    /// The container's name.
    pub name: String,
    /// The delay, for the message.
    pub delay: Duration,
    /// When it may start.
    pub until: Timestamp,
}

/// Decides what to do about a pod that is to run.
pub fn plan(pod: &Pod, observed: &Observed, now: Timestamp) -> Plan {
    if let Some(failed) = deadline_exceeded(pod, observed, now) {
        return Plan {
            failed: Some(failed),
            ..end(observed)
        };
    }
    if has_ended(pod) {
        return end(observed);
    }
    Planner {
        pod,
        observed,
        now,
        plan: Plan::default(),
    }
    .plan()
}

/// Stops everything: the pod has reached its end.
fn end(observed: &Observed) -> Plan {
    Plan {
        kill: observed
            .runtime
            .containers
            .iter()
            .filter(|container| may_run(container))
            .map(|container| kill(container, KillReason::PodEnded, "Stopping container"))
            .collect(),
        stop_sandboxes: ready_sandboxes(observed),
        ..Plan::default()
    }
}

fn ready_sandboxes(observed: &Observed) -> Vec<String> {
    observed
        .runtime
        .sandboxes
        .iter()
        .filter(|sandbox| sandbox.ready)
        .map(|sandbox| sandbox.id.clone())
        .collect()
}

fn may_run(container: &ContainerObservation) -> bool {
    matches!(container.state, ContainerState::Running | ContainerState::Unknown)
}

/// Whether the API already holds a final phase, which nothing leaves.
pub fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn deadline_exceeded(pod: &Pod, observed: &Observed, now: Timestamp) -> Option<Failure> {
    deadline(pod, observed)
        .filter(|deadline| *deadline <= now)
        .map(|_| Failure {
            reason: "DeadlineExceeded",
            message: "Pod was active on the node longer than the specified deadline".into(),
        })
}

fn deadline(pod: &Pod, observed: &Observed) -> Option<Timestamp> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    observed
        .start_time?
        .checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
        .ok()
}

fn kill(container: &ContainerObservation, reason: KillReason, message: &str) -> Kill {
    let message = match reason {
        KillReason::PodEnded => format!("{message} {}", container.name),
        _ => message.to_owned(),
    };
    Kill {
        name: container.name.clone(),
        id: container.id.clone(),
        reason,
        message,
    }
}

struct Planner<'a> {
    pod: &'a Pod,
    observed: &'a Observed,
    now: Timestamp,
    plan: Plan,
}

/// Where the init containers stand.
enum Init {
    /// The regular containers may run.
    Done,
    /// They have to wait.
    Pending,
    /// One has failed for good, and the pod with it.
    Failed,
}

impl Planner<'_> {
    fn plan(mut self) -> Plan {
        self.plan.again_at = deadline(self.pod, self.observed);
        let Some(sandbox) = self.usable_sandbox() else {
            return self.plan_new_sandbox();
        };
        self.plan.sandbox = SandboxPlan::Keep(sandbox.clone());
        match self.plan_init(&sandbox) {
            Init::Failed => return end(self.observed),
            Init::Pending => {}
            Init::Done => {
                self.plan_containers();
                if !self.anything_to_run() {
                    return end(self.observed);
                }
            }
        }
        self.plan.remove.extend(superseded(&self.observed.runtime));
        self.plan.remove_sandboxes = deserted(&self.observed.runtime);
        self.plan
    }

    /// The id of the sandbox when it can serve the pod as the spec stands.
    fn usable_sandbox(&self) -> Option<String> {
        let sandboxes = &self.observed.runtime.sandboxes;
        let newest = sandboxes.first()?;
        let ready = sandboxes.iter().filter(|sandbox| sandbox.ready).count();
        let host_network = pod::uses_host_network(self.pod);
        let serves = ready == 1
            && newest.ready
            && newest.host_network == host_network
            && (host_network || !newest.ips.is_empty());
        serves.then(|| newest.id.clone())
    }

    /// Without a sandbox everything starts over in a new one, unless the pod has nothing left to run.
    fn plan_new_sandbox(mut self) -> Plan {
        let runtime = &self.observed.runtime;
        let attempt = runtime.sandboxes.first().map_or(0, |sandbox| sandbox.attempt + 1);
        let ran_before = attempt > 0 && !runtime.containers.is_empty();
        let policy = pod::restart_policy(self.pod);
        let mut plan = end(self.observed);
        if policy == RestartPolicy::Never && ran_before {
            return plan;
        }
        let initialized = self.ever_initialized();
        let to_start: Vec<&Container> = pod::containers(self.pod)
            .iter()
            .filter(|container| !(policy == RestartPolicy::OnFailure && self.has_succeeded(&container.name)))
            .collect();
        if to_start.is_empty() && initialized {
            return plan;
        }
        plan.sandbox = SandboxPlan::Create { attempt };
        plan.again_at = self.plan.again_at;
        self.plan = plan;
        // Init containers run again in a new sandbox: what they set up in its namespaces is gone.
        match pod::init_containers(self.pod).first() {
            Some(first) => self.start(first, true),
            None => to_start
                .into_iter()
                .for_each(|container| self.start(container, false)),
        }
        self.plan.remove.extend(superseded(runtime));
        self.plan.remove_sandboxes = deserted(runtime);
        self.plan
    }

    fn has_succeeded(&self, name: &str) -> bool {
        self.observed
            .runtime
            .container(name)
            .is_some_and(|container| container.state == ContainerState::Exited && container.exit_code == 0)
    }

    fn ever_initialized(&self) -> bool {
        pod::init_containers(self.pod).is_empty()
            || pod::containers(self.pod)
                .iter()
                .any(|container| self.observed.runtime.container(&container.name).is_some())
    }

    /// Walks the init containers in order, up to the first that is not done.
    fn plan_init(&mut self, sandbox: &str) -> Init {
        let in_sandbox = |name: &str| {
            self.observed
                .runtime
                .container(name)
                .filter(|container| container.sandbox_id == sandbox)
                .cloned()
        };
        // Regular containers exist only after every init container was done, whatever is known of those now.
        let initialized = pod::containers(self.pod)
            .iter()
            .any(|container| in_sandbox(&container.name).is_some());
        let rows: Vec<(&Container, Option<ContainerObservation>)> = pod::init_containers(self.pod)
            .iter()
            .map(|init| (init, in_sandbox(&init.name)))
            .collect();
        // A later init container that exists proves the earlier ones done, even when those were cleaned away.
        let furthest = rows.iter().rposition(|(_, seen)| seen.is_some());
        for (index, (init, seen)) in rows.iter().enumerate() {
            let passed = initialized || furthest.is_some_and(|furthest| index < furthest);
            if pod::is_sidecar(init) {
                let up = self.plan_long_running(init, seen.as_ref(), true, RestartPolicy::Always);
                if !up && !passed {
                    return Init::Pending;
                }
                continue;
            }
            if passed {
                self.plan.unchanged.push(init.name.clone());
                continue;
            }
            match seen {
                None => {
                    self.start(init, true);
                    return Init::Pending;
                }
                Some(seen) if seen.state == ContainerState::Exited && seen.exit_code == 0 => {
                    self.plan.unchanged.push(init.name.clone());
                }
                Some(seen) if seen.state == ContainerState::Exited => {
                    if pod::restart_policy(self.pod) == RestartPolicy::Never {
                        return Init::Failed;
                    }
                    self.start_after_back_off(init, seen, true);
                    return Init::Pending;
                }
                Some(seen) if seen.state == ContainerState::Running => {
                    self.plan.unchanged.push(init.name.clone());
                    return Init::Pending;
                }
                Some(seen) => {
                    self.replace(init, seen, true);
                    return Init::Pending;
                }
            }
        }
        Init::Done
    }

    fn plan_containers(&mut self) {
        let policy = pod::restart_policy(self.pod);
        for container in pod::containers(self.pod) {
            // One of an older sandbox has ended with it; its exit code still counts.
            let seen = self.observed.runtime.container(&container.name);
            self.plan_long_running(container, seen, false, policy);
        }
    }

    /// A regular container or a sidecar; whether it is up (running and, with a startup probe, started).
    fn plan_long_running(
        &mut self,
        container: &Container,
        seen: Option<&ContainerObservation>,
        init: bool,
        policy: RestartPolicy,
    ) -> bool {
        let Some(seen) = seen else {
            self.start(container, init);
            return false;
        };
        match seen.state {
            ContainerState::Running => {
                let Some((reason, message)) = self.reason_to_kill(container, seen) else {
                    self.plan.unchanged.push(container.name.clone());
                    return container.startup_probe.is_none()
                        || self.observed.probes.started.contains(&seen.id);
                };
                // The exit of the killed container plans its successor, by restart policy and with back-off.
                self.plan.kill.push(kill(seen, reason, &message));
                false
            }
            ContainerState::Created | ContainerState::Unknown => {
                self.replace(container, seen, init);
                false
            }
            ContainerState::Exited => {
                let changed = seen.hash != pod::container_hash(container) && !seen.hash.is_empty();
                let restarts = match policy {
                    RestartPolicy::Always => true,
                    RestartPolicy::OnFailure => seen.exit_code != 0 || changed,
                    RestartPolicy::Never => false,
                };
                match restarts {
                    true => self.start_after_back_off(container, seen, init),
                    false => self.plan.unchanged.push(container.name.clone()),
                }
                false
            }
        }
    }

    fn reason_to_kill(
        &self,
        container: &Container,
        seen: &ContainerObservation,
    ) -> Option<(KillReason, String)> {
        let name = &container.name;
        if !seen.hash.is_empty() && seen.hash != pod::container_hash(container) {
            let message = format!("Container {name} definition changed, will be restarted");
            return Some((KillReason::SpecChanged, message));
        }
        let ending = match pod::restart_policy(self.pod) {
            RestartPolicy::Never if !pod::is_sidecar(container) => "",
            _ => ", will be restarted",
        };
        if self.observed.probes.liveness_failed.contains(&seen.id) {
            return Some((
                KillReason::Liveness,
                format!("Container {name} failed liveness probe{ending}"),
            ));
        }
        if self.observed.probes.startup_failed.contains(&seen.id) {
            return Some((
                KillReason::Startup,
                format!("Container {name} failed startup probe{ending}"),
            ));
        }
        None
    }

    /// A container that never ran, or that nobody can say anything about, makes way for a new one.
    fn replace(&mut self, container: &Container, seen: &ContainerObservation, init: bool) {
        if seen.state == ContainerState::Unknown {
            let message = format!(
                "Container {} is in unknown state, try killing it before restart",
                seen.name
            );
            self.plan.kill.push(kill(seen, KillReason::Unknown, &message));
            return;
        }
        self.plan.remove.push(seen.id.clone());
        let attempt = seen.attempt;
        let next_back_off = seen.next_back_off;
        self.plan.start.push(Start {
            name: container.name.clone(),
            init,
            attempt,
            next_back_off,
        });
    }

    fn start_after_back_off(&mut self, container: &Container, seen: &ContainerObservation, init: bool) {
        let delay = current_delay(seen);
        let ended = seen.finished_at.or(seen.started_at).or(seen.created_at);
        let until = ended
            .and_then(|ended| ended.checked_add(delay).ok())
            .filter(|until| *until > self.now);
        match until {
            Some(until) => {
                self.plan.again_at = Some(self.plan.again_at.map_or(until, |other| other.min(until)));
                self.plan.back_off.push(BackOff {
                    name: container.name.clone(),
                    delay,
                    until,
                });
            }
            None => self.start(container, init),
        }
    }

    fn start(&mut self, container: &Container, init: bool) {
        let last = self.observed.runtime.container(&container.name);
        let attempt = last.map_or(0, |last| last.attempt + 1);
        let next_back_off = last.map_or(Duration::ZERO, |last| next_delay(current_delay(last)));
        self.plan.start.push(Start {
            name: container.name.clone(),
            init,
            attempt,
            next_back_off,
        });
    }

    /// Whether a regular container runs, starts, waits or is being replaced.
    fn anything_to_run(&self) -> bool {
        pod::containers(self.pod).iter().any(|container| {
            let named = |name: &String| *name == container.name;
            self.plan.start.iter().any(|start| named(&start.name))
                || self.plan.back_off.iter().any(|wait| named(&wait.name))
                || self.plan.kill.iter().any(|kill| named(&kill.name))
                || self
                    .observed
                    .runtime
                    .container(&container.name)
                    .is_some_and(may_run)
        })
    }
}

/// The delay due when this container ends; a container that ran long has earned a fresh start.
fn current_delay(container: &ContainerObservation) -> Duration {
    let ran = container
        .created_at
        .zip(container.finished_at)
        .and_then(|(created, finished)| Duration::try_from(finished.duration_since(created)).ok())
        .unwrap_or_default();
    if ran > CRASH_RESET {
        Duration::ZERO
    } else {
        container.next_back_off
    }
}

/// Dead containers older than the last dead one of their name, which `previous` logs and `lastState` need.
fn superseded(runtime: &PodObservation) -> Vec<String> {
    let mut dead: HashMap<&str, u32> = HashMap::new();
    let mut superseded = Vec::new();
    for container in runtime
        .containers
        .iter()
        .filter(|container| container.state == ContainerState::Exited)
    {
        let seen = dead.entry(&container.name).or_default();
        *seen += 1;
        if *seen > 1 {
            superseded.push(container.id.clone());
        }
    }
    superseded
}

/// Dead sandboxes but the newest, whose attempt number the next one continues, without containers.
fn deserted(runtime: &PodObservation) -> Vec<String> {
    let older = runtime.sandboxes.iter().skip(1).filter(|sandbox| !sandbox.ready);
    let empty = older.filter(|sandbox| {
        !runtime
            .containers
            .iter()
            .any(|container| container.sandbox_id == sandbox.id)
    });
    empty.map(|sandbox| sandbox.id.clone()).collect()
}

/// What is left to do for a pod that is being deleted or was evicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Termination {
    /// Stop these; containers that have to outlive others (sidecars) are not listed yet.
    Stop(Vec<Kill>),
    /// Nothing runs any more: tear down these sandboxes.
    TearDown(Vec<String>),
    /// Nothing is left but dead containers.
    Done,
}

/// Decides the next step of ending a pod: regular and init containers first, then sidecars in reverse order, then the
/// sandboxes.
pub fn plan_termination(pod: &Pod, observed: &PodObservation) -> Termination {
    let running: Vec<&ContainerObservation> = observed
        .containers
        .iter()
        .filter(|container| may_run(container))
        .collect();
    if running.is_empty() {
        let ready: Vec<String> = observed
            .sandboxes
            .iter()
            .filter(|sandbox| sandbox.ready)
            .map(|sandbox| sandbox.id.clone())
            .collect();
        return if ready.is_empty() {
            Termination::Done
        } else {
            Termination::TearDown(ready)
        };
    }
    let sidecars: Vec<&str> = pod::init_containers(pod)
        .iter()
        .filter(|init| pod::is_sidecar(init))
        .map(|init| init.name.as_str())
        .collect();
    let stop =
        |container: &&ContainerObservation| kill(container, KillReason::PodEnded, "Stopping container");
    let regular: Vec<Kill> = running
        .iter()
        .filter(|container| !sidecars.contains(&container.name.as_str()))
        .map(stop)
        .collect();
    if !regular.is_empty() {
        return Termination::Stop(regular);
    }
    let last = sidecars
        .iter()
        .rev()
        .find_map(|name| running.iter().find(|container| container.name == *name))
        .map(stop);
    Termination::Stop(last.into_iter().collect())
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
