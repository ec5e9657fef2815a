//! What people do with `kubectl` every day.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
};

use anyhow::{Context, Result, bail};

use crate::{IMAGE, World, expect_contains, service::first_pod};

pub(crate) fn logs(world: &World<'_>) -> Result<()> {
    let script = "echo one; echo two >&2; echo three; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo four";
    world.run(&[
        "run",
        "talker",
        "--image",
        IMAGE,
        "--restart=Never",
        "--command",
        "--",
        "sh",
        "-c",
        script,
    ])?;
    world.run(&["wait", "--for=condition=Ready", "--timeout=90s", "pod/talker"])?;

    let follower = world
        .kubectl
        .command(world.scoped(&["logs", "-f", "talker"]))
        .stdout(Stdio::piped())
        .spawn()
        .context("start kubectl logs")?;
    world.run(&["exec", "talker", "--", "touch", "/tmp/go"])?;
    let output = follower.wait_with_output().context("wait for kubectl logs")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // Output and error output are two pipes: the order between them is nobody's promise.
    let of_stdout: Vec<&str> = text.lines().filter(|line| *line != "two").collect();
    if of_stdout != ["one", "three", "four"] || text.lines().count() != 4 {
        bail!("logs -f printed {text:?}");
    }
    if world.run(&["logs", "talker", "--tail=1"])? != "four\n" {
        bail!("logs --tail=1 printed something else than the last line");
    }
    expect_contains(
        "logs --since",
        &world.run(&["logs", "talker", "--since=1h"])?,
        "three",
    )?;
    let stamped = world.run(&["logs", "talker", "--timestamps", "--tail=1"])?;
    expect_contains("logs --timestamps", &stamped, "T")?;
    expect_contains(
        "logs of no container",
        &world.fails(&["logs", "talker", "-c", "nobody"])?,
        "nobody",
    )?;
    expect_contains(
        "logs of no pod",
        &world.fails(&["logs", "nobody"])?,
        "pods \"nobody\" not found",
    )
}

pub(crate) fn exec(world: &World<'_>) -> Result<()> {
    world.start_client("client")?;
    if world.run(&["exec", "client", "--", "echo", "hello"])? != "hello\n" {
        bail!("exec printed something else");
    }
    // Standard input to its end, larger than any buffer on the way: the checksum proves that each byte arrived.
    let input: Vec<u8> = (0..3_000_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let counted = world
        .kubectl
        .run_with_input(&world.scoped(&["exec", "-i", "client", "--", "wc", "-c"]), &input)?;
    if counted.trim() != "3000000" {
        bail!("of 3000000 bytes on standard input {} arrived", counted.trim());
    }
    let text = "line\n".repeat(100_000);
    let echoed = world.kubectl.run_with_input(
        &world.scoped(&["exec", "-i", "client", "--", "cat"]),
        text.as_bytes(),
    )?;
    if echoed != text {
        bail!("cat returned {} of {} bytes", echoed.len(), text.len());
    }
    let output = world.kubectl.output(&world.scoped(&[
        "exec",
        "client",
        "--",
        "sh",
        "-c",
        "echo to-error >&2; exit 7",
    ]))?;
    if output.status.code() != Some(7) {
        bail!("exit 7 became {:?}", output.status);
    }
    expect_contains(
        "standard error",
        &String::from_utf8_lossy(&output.stderr),
        "to-error",
    )?;
    expect_contains(
        "a missing program",
        &world.fails(&["exec", "client", "--", "/no/such/program"])?,
        "no such file",
    )?;

    // Clients older than 1.31 speak SPDY all the way.
    let spdy = world
        .kubectl
        .command(world.scoped(&["exec", "-i", "client", "--", "cat"]))
        .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false")
        .stdin(fs::File::open("/etc/passwd")?)
        .output()?;
    if spdy.stdout != fs::read("/etc/passwd")? {
        bail!(
            "SPDY exec returned {:?} {}",
            String::from_utf8_lossy(&spdy.stdout),
            String::from_utf8_lossy(&spdy.stderr)
        );
    }
    Ok(())
}

pub(crate) fn rollout(world: &World<'_>) -> Result<()> {
    world.start_web(2)?;
    world.run(&["scale", "deployment/web", "--replicas=4"])?;
    world.run(&["rollout", "status", "deployment/web", "--timeout=90s"])?;
    let deployment = world.get(&["deployment", "web"])?;
    if deployment["status"]["readyReplicas"] != 4 {
        bail!(
            "after scale and rollout status the Deployment has {}",
            deployment["status"]
        );
    }
    world.run(&["set", "env", "deployment/web", "VERSION=2"])?;
    world.run(&["rollout", "status", "deployment/web", "--timeout=90s"])?;
    expect_contains(
        "rollout history",
        &world.run(&["rollout", "history", "deployment/web"])?,
        "2 ",
    )?;
    let pod = first_pod(world, "app=web")?;
    expect_contains(
        "the new environment",
        &world.run(&["exec", &pod, "--", "env"])?,
        "VERSION=2",
    )?;

    world.run(&["rollout", "undo", "deployment/web"])?;
    world.run(&["rollout", "status", "deployment/web", "--timeout=90s"])?;
    let template = world.run(&[
        "get",
        "deployment",
        "web",
        "-o",
        "jsonpath={.spec.template.spec.containers[0].env}",
    ])?;
    if !template.is_empty() {
        bail!("rollout undo left the environment {template}");
    }
    world.run(&["rollout", "restart", "deployment/web"])?;
    world.run(&["rollout", "status", "deployment/web", "--timeout=90s"])?;
    world.run(&["scale", "deployment/web", "--replicas=0"])?;
    world.until("all pods gone", || {
        match world.run(&["get", "pods", "-o", "name"])?.trim() {
            "" => Ok(()),
            left => bail!("left: {left}"),
        }
    })?;
    world.run(&["delete", "deployment", "web"])?;
    world.until("the ReplicaSets collected", || {
        match world.run(&["get", "replicasets", "-o", "name"])?.trim() {
            "" => Ok(()),
            left => bail!("left: {left}"),
        }
    })
}

pub(crate) fn apply_and_formats(world: &World<'_>) -> Result<()> {
    let directory = std::env::temp_dir().join(format!("orlop-apply-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    fs::write(
        directory.join("1.yaml"),
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\ndata: {color: red, size: big}\n",
    )?;
    fs::write(
        directory.join("2.json"),
        r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"two"},"spec":{"selector":{"app":"web"},"ports":[{"port":80}]}}"#,
    )?;
    let path = directory.to_string_lossy().into_owned();
    expect_contains(
        "apply",
        &world.run(&["apply", "-f", &path])?,
        "configmap/one created",
    )?;
    expect_contains(
        "apply again",
        &world.run(&["apply", "-f", &path])?,
        "configmap/one unchanged",
    )?;
    fs::write(
        directory.join("1.yaml"),
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\ndata: {color: blue}\n",
    )?;
    expect_contains(
        "apply a change",
        &world.run(&["apply", "-f", &path])?,
        "configmap/one configured",
    )?;
    let data = world.get(&["configmap", "one"])?["data"].clone();
    if data != serde_json::json!({"color": "blue"}) {
        bail!("apply left {data}");
    }
    world.run(&["label", "configmap", "one", "tier=front"])?;
    world.run(&["annotate", "configmap", "one", "note=hello world"])?;
    expect_contains(
        "get -l",
        &world.run(&["get", "configmaps", "-l", "tier in (front)", "-o", "name"])?,
        "configmap/one",
    )?;
    expect_contains(
        "get -o yaml",
        &world.run(&["get", "configmap", "one", "-o", "yaml"])?,
        "note: hello world",
    )?;
    expect_contains(
        "get -o wide",
        &world.run(&["get", "service", "two", "-o", "wide"])?,
        "app=web",
    )?;
    let color = world.run(&["get", "configmap", "one", "-o", "jsonpath={.data.color}"])?;
    if color != "blue" {
        bail!("jsonpath printed {color:?}");
    }
    world.run(&[
        "patch",
        "service",
        "two",
        "-p",
        r#"{"spec":{"ports":[{"port":81,"name":"extra"},{"port":80,"name":"web"}]}}"#,
    ])?;
    world.run(&[
        "patch",
        "configmap",
        "one",
        "--type=json",
        "-p",
        r#"[{"op":"add","path":"/data/size","value":"small"}]"#,
    ])?;
    world.run(&[
        "patch",
        "configmap",
        "one",
        "--type=merge",
        "-p",
        r#"{"data":{"color":null}}"#,
    ])?;
    let data = world.get(&["configmap", "one"])?["data"].clone();
    if data != serde_json::json!({"size": "small"}) {
        bail!("the patches left {data}");
    }
    expect_contains(
        "describe",
        &world.run(&["describe", "service", "two"])?,
        "TargetPort",
    )?;
    expect_contains(
        "delete -f",
        &world.run(&["delete", "-f", &path])?,
        "service \"two\" deleted",
    )?;
    fs::remove_dir_all(&directory)?;
    Ok(())
}

pub(crate) fn watch(world: &World<'_>) -> Result<()> {
    let mut watcher = world
        .kubectl
        .command(world.scoped(&["get", "pods", "-w", "--no-headers"]))
        .stdout(Stdio::piped())
        .spawn()
        .context("start kubectl get -w")?;
    let output = watcher.stdout.take().context("no pipe")?;
    world.run(&[
        "run",
        "short",
        "--image",
        IMAGE,
        "--restart=Never",
        "--command",
        "--",
        "true",
    ])?;
    let mut seen = Vec::new();
    for line in BufReader::new(output).lines() {
        let line = line?;
        seen.push(line.split_whitespace().nth(2).unwrap_or_default().to_owned());
        if line.contains("Completed") {
            break;
        }
    }
    watcher.kill()?;
    watcher.wait()?;
    for state in ["Pending", "Completed"] {
        if !seen.iter().any(|s| s == state) {
            bail!("get -w showed {seen:?}, but not {state}");
        }
    }
    Ok(())
}

pub(crate) fn cordon_and_drain(world: &World<'_>) -> Result<()> {
    world.start_web(2)?;
    world.run(&["cordon", "node1"])?;
    expect_contains("get nodes", &world.run(&["get", "nodes"])?, "SchedulingDisabled")?;
    world.run(&["run", "waits", "--image", IMAGE, "--restart=Never"])?;
    world.until("the reason why it cannot be scheduled", || {
        expect_contains(
            "events",
            &world.run(&["get", "events"])?,
            "0/1 nodes are available: 1 node(s) were unschedulable",
        )
    })?;
    expect_contains(
        "drain",
        &world.run(&[
            "drain",
            "node1",
            "--force",
            "--ignore-daemonsets",
            "--delete-emptydir-data",
            "--timeout=90s",
        ])?,
        "drained",
    )?;
    let pods = world.get(&["pods"])?;
    let bound = pods["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|pod| pod["spec"]["nodeName"] == "node1")
        .count();
    if bound != 0 {
        bail!("{bound} pods are still bound to the drained node");
    }
    world.run(&["uncordon", "node1"])?;
    world.run(&["rollout", "status", "deployment/web", "--timeout=90s"])?;
    world
        .run(&["wait", "--for=condition=Ready", "--timeout=90s", "pod/waits"])
        .map(drop)
}
