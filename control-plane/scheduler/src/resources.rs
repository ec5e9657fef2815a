//! Amounts of resources: what a pod asks for, what a node has.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

/// What a container that requests no CPU or memory is taken to use when nodes are compared (never when they are
/// filtered), so that pods without requests spread out too. Upstream's values.
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY_BYTES: i64 = 200 << 20;

const CPU: &str = "cpu";
const MEMORY: &str = "memory";
const EPHEMERAL_STORAGE: &str = "ephemeral-storage";
const PODS: &str = "pods";

/// An amount of every resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    pub(crate) milli_cpu: i64,
    pub(crate) memory_bytes: i64,
    pub(crate) ephemeral_storage_bytes: i64,
    /// Huge pages and extended resources, in their own units.
    pub(crate) scalar: BTreeMap<String, i64>,
}

impl Resources {
    /// Reads `requests` or `allocatable`. The API server has validated them, so what cannot be read counts as absent.
    pub(crate) fn of(quantities: Option<&BTreeMap<String, Quantity>>) -> Resources {
        let mut resources = Resources::default();
        for (name, quantity) in quantities.into_iter().flatten() {
            let Ok(quantity) = api::quantity::Quantity::parse(&quantity.0) else {
                continue;
            };
            match name.as_str() {
                CPU => resources.milli_cpu = quantity.milli_value(),
                MEMORY => resources.memory_bytes = quantity.value(),
                EPHEMERAL_STORAGE => resources.ephemeral_storage_bytes = quantity.value(),
                PODS => {}
                _ => {
                    resources.scalar.insert(name.clone(), quantity.value());
                }
            }
        }
        resources
    }

    pub(crate) fn add(&mut self, other: &Resources) {
        self.combine(other, i64::saturating_add);
    }

    pub(crate) fn subtract(&mut self, other: &Resources) {
        self.combine(other, i64::saturating_sub);
        self.scalar.retain(|_, amount| *amount != 0);
    }

    /// The larger of both in each resource.
    fn raise_to(&mut self, other: &Resources) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Resources, operation: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = operation(self.milli_cpu, other.milli_cpu);
        self.memory_bytes = operation(self.memory_bytes, other.memory_bytes);
        self.ephemeral_storage_bytes = operation(self.ephemeral_storage_bytes, other.ephemeral_storage_bytes);
        for (name, amount) in &other.scalar {
            let own = self.scalar.entry(name.clone()).or_default();
            *own = operation(*own, *amount);
        }
    }
}

/// How many pods a node takes.
pub(crate) fn allowed_pods(allocatable: Option<&BTreeMap<String, Quantity>>) -> i64 {
    let pods = allocatable.and_then(|allocatable| allocatable.get(PODS));
    pods.and_then(|pods| api::quantity::Quantity::parse(&pods.0).ok())
        .map_or(0, |pods| pods.value())
}

/// What a pod asks for: exactly, and with the defaults for containers that ask for nothing.
pub(crate) fn pod_requests(spec: &PodSpec) -> (Resources, Resources) {
    let non_zero = |mut requests: Resources| {
        if requests.milli_cpu == 0 {
            requests.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if requests.memory_bytes == 0 {
            requests.memory_bytes = DEFAULT_MEMORY_BYTES;
        }
        requests
    };
    (sum(spec, |requests| requests), sum(spec, non_zero))
}

/// Regular containers and sidecars run together. An ordinary init container runs alone, beside the sidecars that were
/// started before it: the pod needs the larger of both, in each resource.
fn sum(spec: &PodSpec, adjust: impl Fn(Resources) -> Resources) -> Resources {
    let of = |container: &Container| adjust(requests(container.resources.as_ref()));
    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&of(container));
    }
    let mut sidecars = Resources::default();
    let mut starting = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut needed = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            total.add(&needed);
            sidecars.add(&needed);
            needed = sidecars.clone();
        } else {
            needed.add(&sidecars);
        }
        starting.raise_to(&needed);
    }
    total.raise_to(&starting);
    // What the pod as a whole requests replaces the sum of its containers.
    let pod_level = requests(spec.resources.as_ref());
    if pod_level.milli_cpu != 0 {
        total.milli_cpu = pod_level.milli_cpu;
    }
    if pod_level.memory_bytes != 0 {
        total.memory_bytes = pod_level.memory_bytes;
    }
    total.scalar.extend(pod_level.scalar);
    total.add(&Resources::of(spec.overhead.as_ref()));
    total
}

fn requests(resources: Option<&ResourceRequirements>) -> Resources {
    Resources::of(resources.and_then(|resources| resources.requests.as_ref()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(spec: serde_json::Value, milli_cpu: i64, memory_bytes: i64) {
        let (requests, _) = pod_requests(&serde_json::from_value(spec.clone()).unwrap());
        assert_eq!(
            (requests.milli_cpu, requests.memory_bytes),
            (milli_cpu, memory_bytes),
            "{spec}"
        );
    }

    fn container(cpu: &str, memory: &str) -> serde_json::Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}})
    }

    fn sidecar(cpu: &str, memory: &str) -> serde_json::Value {
        let mut sidecar = container(cpu, memory);
        sidecar["restartPolicy"] = json!("Always");
        sidecar
    }

    /// Rows as in `TestPodRequests` of component-helpers/resource (v1.34).
    #[test]
    fn requests_of_pods() {
        check(json!({"containers": []}), 0, 0);
        check(
            json!({"containers": [container("1", "1"), container("2", "3")]}),
            3000,
            4,
        );
        // Init containers run one after the other.
        let init = [container("2", "1"), container("2", "9")];
        check(
            json!({"initContainers": init, "containers": [container("3", "3")]}),
            3000,
            9,
        );
        // A sidecar runs beside the containers.
        check(
            json!({"initContainers": [sidecar("1", "1")], "containers": [container("1", "1")]}),
            2000,
            2,
        );
        // An init container runs beside the sidecars before it only.
        let init = [sidecar("1", "1"), container("5", "1"), sidecar("3", "3")];
        check(
            json!({"initContainers": init, "containers": [container("1", "1")]}),
            6000,
            5,
        );
        let overhead = json!({"cpu": "1", "memory": "4"});
        check(
            json!({"overhead": overhead, "containers": [container("1", "1")]}),
            2000,
            5,
        );
        let pod_level = json!({"requests": {"cpu": "7"}});
        check(
            json!({"resources": pod_level, "containers": [container("1", "1")]}),
            7000,
            1,
        );
    }

    #[test]
    fn units_are_understood() {
        check(
            json!({"containers": [container("100m", "64Mi"), container("0.5", "1k")]}),
            600,
            (64 << 20) + 1000,
        );
    }

    #[test]
    fn containers_without_requests_count_for_comparison() {
        let spec = json!({"containers": [{"name": "a"}, container("1", "1")]});
        let (requests, non_zero) = pod_requests(&serde_json::from_value(spec).unwrap());
        assert_eq!((requests.milli_cpu, requests.memory_bytes), (1000, 1));
        assert_eq!(
            (non_zero.milli_cpu, non_zero.memory_bytes),
            (1100, (200 << 20) + 1)
        );
    }

    #[test]
    fn subtracting_is_the_inverse_of_adding() {
        let quantities = |json| serde_json::from_value::<BTreeMap<String, Quantity>>(json).unwrap();
        let pod = Resources::of(Some(&quantities(json!({"cpu": "1", "example.com/gpu": "2"}))));
        let mut node = Resources::default();
        node.add(&pod);
        node.add(&pod);
        assert_eq!(node.scalar["example.com/gpu"], 4);
        node.subtract(&pod);
        node.subtract(&pod);
        assert_eq!(node, Resources::default());
    }
}
