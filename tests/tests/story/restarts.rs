//! Containers that crash, and probes that decide.

use anyhow::{Result, bail};

use crate::{IMAGE, World, expect_contains, service::first_pod};

pub(crate) fn back_off(world: &World<'_>) -> Result<()> {
    world.run(&[
        "run",
        "crasher",
        "--image",
        IMAGE,
        "--command",
        "--",
        "sh",
        "-c",
        "echo last words; exit 3",
    ])?;
    world.until("CrashLoopBackOff after two restarts", || {
        let status = world.get(&["pod", "crasher"])?["status"]["containerStatuses"][0].clone();
        let restarts = status["restartCount"].as_u64().unwrap_or(0);
        if restarts < 2 || status["state"]["waiting"]["reason"] != "CrashLoopBackOff" {
            bail!("{status}");
        }
        if status["lastState"]["terminated"]["exitCode"] != 3
            || status["lastState"]["terminated"]["reason"] != "Error"
        {
            bail!("the last state is {}", status["lastState"]);
        }
        expect_contains(
            "the message",
            &status["state"]["waiting"]["message"].to_string(),
            "back-off",
        )
    })?;
    expect_contains("get pods", &world.run(&["get", "pods"])?, "CrashLoopBackOff")?;
    expect_contains(
        "logs --previous",
        &world.run(&["logs", "crasher", "--previous"])?,
        "last words",
    )?;
    expect_contains(
        "events",
        &world.run(&["get", "events"])?,
        "Back-off restarting failed container",
    )
}

pub(crate) fn readiness_and_liveness(world: &World<'_>) -> Result<()> {
    world.apply(&format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: probed}}
spec: {{selector: {{app: probed}}, ports: [{{port: 80}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: probed}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: probed}}}}
  template:
    metadata: {{labels: {{app: probed}}}}
    spec:
      containers:
      - name: web
        image: {IMAGE}
        readinessProbe: {{exec: {{command: [sh, -c, "! test -e /tmp/unready"]}}, periodSeconds: 1, failureThreshold: 1}}
        livenessProbe: {{exec: {{command: [sh, -c, "! test -e /tmp/dead"]}}, periodSeconds: 1, failureThreshold: 2}}
"#
    ))?;
    world.run(&["rollout", "status", "deployment/probed", "--timeout=90s"])?;
    let ready = |wanted: usize| {
        world.until(&format!("{wanted} ready endpoints"), || {
            match world.ready_endpoints("probed")?.len() {
                count if count == wanted => Ok(()),
                count => bail!("there are {count}"),
            }
        })
    };
    ready(2)?;
    let pod = first_pod(world, "app=probed")?;
    world.run(&["exec", &pod, "--", "touch", "/tmp/unready"])?;
    ready(1)?;
    expect_contains("get pods", &world.run(&["get", "pod", &pod])?, "0/1")?;
    world.run(&["exec", &pod, "--", "rm", "/tmp/unready"])?;
    ready(2)?;

    world.run(&["exec", &pod, "--", "touch", "/tmp/dead"])?;
    world.until("the liveness probe to restart the container", || {
        let status = world.get(&["pod", &pod])?["status"]["containerStatuses"][0].clone();
        if status["restartCount"] != 1 || status["ready"] != true {
            bail!("{status}");
        }
        Ok(())
    })?;
    let events = world.run(&["get", "events"])?;
    expect_contains("events", &events, "Liveness probe failed")?;
    expect_contains("events", &events, "failed liveness probe, will be restarted")?;
    ready(2)
}
