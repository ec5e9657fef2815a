//! kubectl, in the versions that speak to a server differently: 1.32 and 1.34.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Stdio},
};

use anyhow::{Context, Result, bail};
use tests::suite::{IMAGE, World, expect_contains};

use crate::{POD_SCRIPT, installed};

/// Plays the session with the kubectl whose version begins with `version`.
pub(crate) fn session(outer: &World<'_>, version: &str) -> Result<()> {
    let name = format!(
        "kubectl-{}",
        version.trim_start_matches('v').trim_end_matches('.')
    );
    let world = World {
        cluster: outer.cluster,
        kubectl: outer.kubectl.with_program(&installed().join("bin").join(name)),
        namespace: outer.namespace.clone(),
    };
    let versions = world
        .run(&["version"])
        .context("is it missing? run: cargo xtask clients")?;
    expect_contains("version", &versions, &format!("Client Version: {version}"))?;
    expect_contains("version", &versions, "Server Version: v1.")?;
    for (step, play) in [
        ("list in pieces", list_in_pieces as fn(&World<'_>) -> Result<()>),
        ("watch and resume", watch_and_resume),
        ("client-side apply", client_side_apply),
        ("server-side apply", server_side_apply),
        ("patch", patch),
        ("conflict", conflict),
        ("discovery", discovery),
        ("pod", pod),
    ] {
        play(&world).context(step)?;
    }
    Ok(())
}

fn config_map(name: &str, rest: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{session: kubectl}}}}\n{rest}\n"
    )
}

/// Five objects, two at a time, told by the requests that kubectl logs.
fn list_in_pieces(world: &World<'_>) -> Result<()> {
    let names: Vec<String> = (0..5).map(|i| format!("item-{i}")).collect();
    let manifests: Vec<String> = names
        .iter()
        .map(|name| config_map(name, "data: {k: v}"))
        .collect();
    world.kubectl.run_with_input(
        &world.scoped(&["create", "-f", "-"]),
        manifests.join("---\n").as_bytes(),
    )?;
    let output = world.kubectl.output(&world.scoped(&[
        "get",
        "configmaps",
        "-l",
        "session=kubectl",
        "--chunk-size=2",
        "-o",
        "name",
        "-v=6",
    ]))?;
    let listed: Vec<String> = names.iter().map(|name| format!("configmap/{name}")).collect();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if printed.lines().collect::<Vec<_>>() != listed {
        bail!("listed {printed:?}");
    }
    let requests = String::from_utf8_lossy(&output.stderr)
        .matches("continue=")
        .count();
    if requests != 2 {
        bail!("{requests} requests had a continue token");
    }
    Ok(())
}

/// A raw watch from a list's revision, and one from its first event's, which tells the rest once.
fn watch_and_resume(world: &World<'_>) -> Result<()> {
    let path = format!("/api/v1/namespaces/{}/configmaps", world.namespace);
    let list: serde_json::Value = serde_json::from_str(&world.run(&["get", "--raw", &path])?)?;
    let start = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    world.run(&["create", "configmap", "watched", "--from-literal=k=1"])?;
    world.run(&["patch", "configmap", "watched", "-p", r#"{"data":{"k":"2"}}"#])?;
    world.run(&["delete", "configmap", "watched"])?;
    let events = |revision: &str, count: usize| -> Result<Vec<(String, String)>> {
        let query =
            format!("{path}?watch=true&fieldSelector=metadata.name%3Dwatched&resourceVersion={revision}");
        let mut watch = start_piped(world, &["get", "--raw", &query])?;
        let lines = read_lines(&mut watch, count)?;
        end(watch)?;
        lines
            .iter()
            .map(|line| {
                let event: serde_json::Value = serde_json::from_str(line)?;
                let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
                Ok((
                    text(&event["type"]),
                    text(&event["object"]["metadata"]["resourceVersion"]),
                ))
            })
            .collect()
    };
    let whole = events(start, 3)?;
    let types: Vec<&str> = whole.iter().map(|(kind, _)| kind.as_str()).collect();
    if types != ["ADDED", "MODIFIED", "DELETED"] {
        bail!("the watch saw {whole:?}");
    }
    let rest = events(&whole[0].1, 2)?;
    if rest != whole[1..] {
        bail!("after a resume the watch saw {rest:?} of {whole:?}");
    }
    Ok(())
}

/// Apply with the last configuration in an annotation: what is not in the file any more goes, what others added stays.
fn client_side_apply(world: &World<'_>) -> Result<()> {
    world.apply(&config_map("applied", "data: {a: '1', b: '1'}"))?;
    world.run(&[
        "patch",
        "configmap",
        "applied",
        "-p",
        r#"{"data":{"c":"theirs"}}"#,
    ])?;
    let changed = config_map("applied", "data: {a: '2'}");
    let difference = world
        .kubectl
        .run_with_input(&world.scoped(&["diff", "-f", "-"]), changed.as_bytes());
    expect_contains("diff", &error_of(difference), "exit status: 1")?;
    expect_contains("apply", &world.apply(&changed)?, "configured")?;
    expect_contains("apply", &world.apply(&changed)?, "unchanged")?;
    let data = world.get(&["configmap", "applied"])?["data"].clone();
    if data != serde_json::json!({"a": "2", "c": "theirs"}) {
        bail!("apply made {data}");
    }
    let unknown = world.kubectl.run_with_input(
        &world.scoped(&["apply", "-f", "-"]),
        config_map("bad", "dada: {}").as_bytes(),
    );
    expect_contains("an unknown field", &error_of(unknown), "unknown field \"dada\"")
}

/// What a call said that must have failed; nothing when it succeeded.
fn error_of(outcome: Result<String>) -> String {
    outcome
        .err()
        .map(|error| format!("{error:#}"))
        .unwrap_or_default()
}

/// Apply by the server: another manager's field is a conflict, unless taken by force.
fn server_side_apply(world: &World<'_>) -> Result<()> {
    let apply = |manager: &str, data: &str, more: &[&str]| {
        let manager = format!("--field-manager={manager}");
        let mut args = vec!["apply", "--server-side", &manager, "-f", "-"];
        args.extend(more);
        let manifest = config_map("served", data);
        world
            .kubectl
            .run_with_input(&world.scoped(&args), manifest.as_bytes())
    };
    apply("mine", "data: {a: '1', b: '1'}", &[])?;
    let refused = error_of(apply("theirs", "data: {b: '2'}", &[]));
    expect_contains("the conflict", &refused, "conflict with \"mine\": .data.b")?;
    apply("theirs", "data: {b: '2'}", &["--force-conflicts"])?;
    apply("mine", "data: {a: '1'}", &[])?;
    let object = world.get(&["configmap", "served", "--show-managed-fields"])?;
    if object["data"] != serde_json::json!({"a": "1", "b": "2"}) {
        bail!("server-side apply made {}", object["data"]);
    }
    // Client-side apply's fields pass to server-side apply without a conflict.
    let taken = config_map("applied", "data: {a: '3'}");
    let args = world.scoped(&["apply", "--server-side", "-f", "-"]);
    world.kubectl.run_with_input(&args, taken.as_bytes()).map(drop)
}

/// The three patch formats on one Deployment.
fn patch(world: &World<'_>) -> Result<()> {
    world.run(&[
        "create",
        "deployment",
        "patched",
        "--image",
        IMAGE,
        "--replicas=0",
    ])?;
    let names = |patched: &str| -> Result<Vec<String>> {
        let object: serde_json::Value = serde_json::from_str(patched).context("parse the patched object")?;
        let containers = object["spec"]["template"]["spec"]["containers"].as_array();
        let names = containers
            .into_iter()
            .flatten()
            .filter_map(|container| container["name"].as_str());
        Ok(names.map(str::to_owned).collect())
    };
    let patch = |kind: &str, body: &str| -> Result<Vec<String>> {
        names(&world.run(&[
            "patch",
            "deployment",
            "patched",
            "-o",
            "json",
            "--type",
            kind,
            "-p",
            body,
        ])?)
    };
    let side = format!(
        r#"{{"spec":{{"template":{{"spec":{{"containers":[{{"name":"side","image":"{IMAGE}"}}]}}}}}}}}"#
    );
    let rename = r#"[{"op":"test","path":"/spec/template/spec/containers/0/name","value":"side"},
        {"op":"replace","path":"/spec/template/spec/containers/0/name","value":"web"}]"#;
    for (kind, body, wanted) in [
        ("strategic", side.as_str(), &["side", "test"][..]),
        ("merge", side.as_str(), &["side"]),
        ("json", rename, &["web"]),
    ] {
        let found = patch(kind, body)?;
        if found != wanted {
            bail!("a {kind} patch left the containers {found:?}, not {wanted:?}");
        }
    }
    let refused = world.fails(&["patch", "deployment", "patched", "--type=json", "-p", rename])?;
    expect_contains("a test that does not hold", &refused, "The request is invalid")?;
    world.run(&["set", "env", "deployment/patched", "KEY=value"])?;
    world.run(&["annotate", "deployment", "patched", "note=x"])?;
    world
        .run(&["label", "deployment", "patched", "app=other", "--overwrite"])
        .map(drop)
}

/// The slower of two writers that read the same version is told so.
fn conflict(world: &World<'_>) -> Result<()> {
    let stale = world.get(&["configmap", "item-0"])?.to_string();
    world.run(&["patch", "configmap", "item-0", "-p", r#"{"data":{"k":"first"}}"#])?;
    let args = world.scoped(&["replace", "-f", "-"]);
    let refused = error_of(world.kubectl.run_with_input(&args, stale.as_bytes()));
    expect_contains("the conflict", &refused, "the object has been modified")?;
    let taken = world.fails(&["create", "configmap", "item-0"])?;
    expect_contains("a name that is taken", &taken, "already exists")?;
    expect_contains(
        "nothing there",
        &world.fails(&["get", "configmap", "nobody"])?,
        "NotFound",
    )
}

/// What kubectl reads from discovery and OpenAPI.
fn discovery(world: &World<'_>) -> Result<()> {
    expect_contains("api-resources", &world.run(&["api-resources"])?, "deployments")?;
    expect_contains("api-versions", &world.run(&["api-versions"])?, "apps/v1")?;
    let explained = world.run(&["explain", "deployment.spec.strategy", "--recursive"])?;
    expect_contains("explain", &explained, "maxSurge")?;
    expect_contains("auth", &world.run(&["auth", "can-i", "create", "pods"])?, "yes")
}

/// A pod's streams: exec, copies, a forwarded port and a followed log.
fn pod(world: &World<'_>) -> Result<()> {
    world.run(&[
        "run",
        "pod",
        "--image",
        IMAGE,
        "--restart=Never",
        "--command",
        "--",
        "sh",
        "-c",
        POD_SCRIPT,
    ])?;
    world.run(&["wait", "--for=condition=Ready", "--timeout=90s", "pod/pod"])?;

    let args = world.scoped(&["exec", "-i", "pod", "--", "sh", "-c", "read line; echo got $line"]);
    let echoed = world.kubectl.run_with_input(&args, b"something\n")?;
    if echoed != "got something\n" {
        bail!("exec printed {echoed:?}");
    }
    let failed = world
        .kubectl
        .output(&world.scoped(&["exec", "pod", "--", "sh", "-c", "exit 3"]))?;
    if failed.status.code() != Some(3) {
        bail!("exit 3 became {}", failed.status);
    }
    copy(world)?;
    port_forward(world)?;

    let follower = start_piped(world, &["logs", "-f", "pod"])?;
    world.run(&["exec", "pod", "--", "touch", "/tmp/go"])?;
    let output = follower.wait_with_output().context("wait for kubectl logs")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said: Vec<&str> = text
        .lines()
        .filter(|line| ["one", "two", "three"].contains(line))
        .collect();
    if said != ["one", "two", "three"] {
        bail!("logs -f printed {text:?}");
    }
    world.run(&[
        "wait",
        "--for=jsonpath={.status.phase}=Succeeded",
        "--timeout=90s",
        "pod/pod",
    ])?;
    world.run(&["delete", "pod", "pod", "--timeout=90s"]).map(drop)
}

/// A file into the pod and back.
fn copy(world: &World<'_>) -> Result<()> {
    let folder = std::env::temp_dir().join(format!("orlop-{}-{}", world.namespace, std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let (there, back) = (folder.join("there"), folder.join("back"));
    let text = "a line\n".repeat(50_000);
    fs::write(&there, &text)?;
    world.run(&["cp", &there.display().to_string(), "pod:/tmp/copied"])?;
    world.run(&["cp", "pod:/tmp/copied", &back.display().to_string()])?;
    let came_back = fs::read_to_string(&back)? == text;
    fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    if !came_back {
        bail!("cp brought another file back");
    }
    Ok(())
}

/// A loopback port that kubectl chooses, used by several connections.
fn port_forward(world: &World<'_>) -> Result<()> {
    let mut forward = start_piped(world, &["port-forward", "--address=127.0.0.1", "pod/pod", ":80"])?;
    let line = read_lines(&mut forward, 1)?.remove(0);
    let address = line
        .strip_prefix("Forwarding from ")
        .and_then(|rest| rest.split(" -> ").next())
        .with_context(|| format!("port-forward printed {line:?}"))?
        .to_owned();
    for _ in 0..3 {
        let mut connection = TcpStream::connect(&address).with_context(|| format!("connect to {address}"))?;
        connection.write_all(b"GET /hostname HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        expect_contains("the forwarded port", &answer, "HTTP/1.1 200 OK")?;
        expect_contains("the forwarded port", &answer, "\r\n\r\npod")?;
    }
    end(forward)
}

fn start_piped(world: &World<'_>, args: &[&str]) -> Result<Child> {
    world
        .kubectl
        .command(world.scoped(args))
        .stdout(Stdio::piped())
        .spawn()
        .context("start kubectl")
}

/// The next lines that the program prints, as many as asked for.
fn read_lines(child: &mut Child, count: usize) -> Result<Vec<String>> {
    let stdout = child.stdout.as_mut().context("its output is not piped")?;
    let lines = BufReader::new(stdout)
        .lines()
        .take(count)
        .collect::<Result<Vec<_>, _>>()?;
    if lines.len() < count {
        bail!("it ended after {lines:?}");
    }
    Ok(lines)
}

fn end(mut child: Child) -> Result<()> {
    child.kill().context("end kubectl")?;
    child.wait().context("wait for kubectl").map(drop)
}
