//! A program with kube-rs, as its users write them.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod},
};
use kube::{
    Api, Client, Config,
    api::{
        AttachParams, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams, Preconditions,
        WatchEvent, WatchParams,
    },
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{conditions, wait::await_condition, watcher},
};
use serde_json::json;
use tests::suite::{IMAGE, LIMIT, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::POD_SCRIPT;

pub(crate) fn session(world: &World<'_>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start tokio")?;
    runtime.block_on(async {
        let kubeconfig = Kubeconfig::read_from(world.cluster.layout().kubeconfig())?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let session = Session::new(Client::try_from(config)?, &world.namespace);
        session.list_in_pieces().await.context("list in pieces")?;
        session.watch_and_resume().await.context("watch and resume")?;
        session.watcher().await.context("watcher")?;
        session.apply().await.context("apply")?;
        session.patch().await.context("patch")?;
        session.conflict().await.context("conflict")?;
        session.start_pod().await.context("start a pod")?;
        session.exec().await.context("exec")?;
        session.port_forward().await.context("port-forward")?;
        session.logs().await.context("logs")?;
        session.delete().await.context("delete")
    })
}

struct Session {
    maps: Api<ConfigMap>,
    deployments: Api<Deployment>,
    pods: Api<Pod>,
}

/// An object from the JSON that a person would write.
fn object<T: serde::de::DeserializeOwned>(json: serde_json::Value) -> Result<T> {
    serde_json::from_value(json).context("an object of the session")
}

fn config_map(name: &str, data: serde_json::Value) -> Result<ConfigMap> {
    object(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"session": "kube-rs"}}, "data": data,
    }))
}

/// Fails unless the call was answered with this code and reason.
fn refused<T>(what: &str, code: u16, reason: &str, answer: kube::Result<T>) -> Result<()> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == code && status.reason == reason => Ok(()),
        Err(error) => bail!("{what}: {error:?} is not {code} {reason}"),
        Ok(_) => bail!("{what}: it succeeded"),
    }
}

impl Session {
    fn new(client: Client, namespace: &str) -> Session {
        Session {
            maps: Api::namespaced(client.clone(), namespace),
            deployments: Api::namespaced(client.clone(), namespace),
            pods: Api::namespaced(client, namespace),
        }
    }

    /// Five objects, two at a time: a limit, and continue tokens until none is left.
    async fn list_in_pieces(&self) -> Result<()> {
        let names: Vec<String> = (0..5).map(|i| format!("item-{i}")).collect();
        for name in &names {
            let map = config_map(name, json!({"k": "v"}))?;
            self.maps.create(&PostParams::default(), &map).await?;
        }
        let mut params = ListParams::default().labels("session=kube-rs").limit(2);
        let (mut seen, mut sizes) = (Vec::new(), Vec::new());
        loop {
            let page = self.maps.list(&params).await?;
            sizes.push(page.items.len());
            seen.extend(page.items.into_iter().filter_map(|map| map.metadata.name));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => break,
            }
        }
        ensure!(
            seen == names && sizes == [2, 2, 1],
            "listed {seen:?} in pieces of {sizes:?}"
        );
        let params = ListParams::default().limit(2).continue_token("no token");
        refused(
            "a token that is none",
            400,
            "BadRequest",
            self.maps.list(&params).await,
        )
    }

    /// A watch from a list's revision sees all that came after; one from an event's revision sees the rest, once.
    async fn watch_and_resume(&self) -> Result<()> {
        let start = self
            .maps
            .list(&ListParams::default())
            .await?
            .metadata
            .resource_version;
        let map = config_map("watched", json!({"k": "1"}))?;
        self.maps.create(&PostParams::default(), &map).await?;
        let change = Patch::Merge(json!({"data": {"k": "2"}}));
        self.maps
            .patch("watched", &PatchParams::default(), &change)
            .await?;
        self.maps.delete("watched", &DeleteParams::default()).await?;
        let whole = self.events(&start.unwrap_or_default(), 3).await?;
        let types: Vec<&str> = whole.iter().map(|(kind, _)| *kind).collect();
        ensure!(
            types == ["added", "modified", "deleted"],
            "the watch saw {whole:?}"
        );
        let rest = self.events(&whole[0].1, 2).await?;
        ensure!(
            rest == whole[1..],
            "after a resume the watch saw {rest:?} of {whole:?}"
        );
        Ok(())
    }

    /// The next events of the object `watched`, with its revisions.
    async fn events(&self, revision: &str, count: usize) -> Result<Vec<(&'static str, String)>> {
        let params = WatchParams::default().fields("metadata.name=watched");
        let mut stream = self.maps.watch(&params, revision).await?.boxed();
        let mut seen = Vec::new();
        while seen.len() < count {
            let event = stream.try_next().await?.context("the watch ended")?;
            let (kind, map) = match event {
                WatchEvent::Added(map) => ("added", map),
                WatchEvent::Modified(map) => ("modified", map),
                WatchEvent::Deleted(map) => ("deleted", map),
                WatchEvent::Bookmark(_) => continue,
                WatchEvent::Error(status) => bail!("the watch sent {status:?}"),
            };
            seen.push((kind, map.metadata.resource_version.unwrap_or_default()));
        }
        Ok(seen)
    }

    /// The runtime's watcher, in its two ways to begin: a list, and a watch that sends what there is first.
    async fn watcher(&self) -> Result<()> {
        for config in [
            watcher::Config::default(),
            watcher::Config::default().streaming_lists(),
        ] {
            let mut stream = watcher(self.maps.clone(), config.labels("session=kube-rs")).boxed();
            let mut names = 0;
            loop {
                match stream.try_next().await?.context("the watcher ended")? {
                    watcher::Event::InitApply(_) => names += 1,
                    watcher::Event::InitDone => break,
                    _ => {}
                }
            }
            ensure!(names == 5, "the watcher began with {names} objects");
        }
        Ok(())
    }

    /// Server-side apply by two managers.
    async fn apply(&self) -> Result<()> {
        let body = |data| {
            Patch::Apply(json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": data,
            }))
        };
        let (mine, theirs) = (PatchParams::apply("mine"), PatchParams::apply("theirs"));
        self.maps
            .patch("applied", &mine, &body(json!({"a": "1", "b": "1"})))
            .await?;
        let taken = body(json!({"b": "2"}));
        refused(
            "somebody else's field",
            409,
            "Conflict",
            self.maps.patch("applied", &theirs, &taken).await,
        )?;
        self.maps
            .patch("applied", &theirs.clone().force(), &taken)
            .await?;
        let applied = self
            .maps
            .patch("applied", &mine, &body(json!({"a": "1"})))
            .await?;
        let data = json!(applied.data);
        ensure!(data == json!({"a": "1", "b": "2"}), "apply made {data}");
        Ok(())
    }

    /// The patch formats on one Deployment.
    async fn patch(&self) -> Result<()> {
        let deployment: Deployment = object(json!({
            "metadata": {"name": "patched"},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "patched"}}, "template": {
                "metadata": {"labels": {"app": "patched"}},
                "spec": {"containers": [{"name": "web", "image": IMAGE}]},
            }},
        }))?;
        self.deployments
            .create(&PostParams::default(), &deployment)
            .await?;
        let side =
            json!({"spec": {"template": {"spec": {"containers": [{"name": "side", "image": IMAGE}]}}}});
        let path = "/spec/template/spec/containers/0/name";
        let rename: json_patch::Patch = object(json!([
            {"op": "test", "path": path, "value": "side"}, {"op": "replace", "path": path, "value": "web"},
        ]))?;
        let rename: Patch<()> = Patch::Json(rename);
        let params = PatchParams::default();
        let strategic = self
            .deployments
            .patch("patched", &params, &Patch::Strategic(&side))
            .await?;
        ensure!(
            containers(&strategic) == ["side", "web"],
            "strategic: {:?}",
            containers(&strategic)
        );
        let merged = self
            .deployments
            .patch("patched", &params, &Patch::Merge(&side))
            .await?;
        ensure!(
            containers(&merged) == ["side"],
            "merge: {:?}",
            containers(&merged)
        );
        let renamed = self.deployments.patch("patched", &params, &rename).await?;
        ensure!(
            containers(&renamed) == ["web"],
            "json: {:?}",
            containers(&renamed)
        );
        let again = self.deployments.patch("patched", &params, &rename).await;
        refused("a test that does not hold", 422, "Invalid", again)?;
        let scale = self.deployments.get_scale("patched").await?;
        let selector = scale.status.and_then(|status| status.selector);
        ensure!(
            selector.as_deref() == Some("app=patched"),
            "scale selects {selector:?}"
        );
        Ok(())
    }

    /// The slower of two writers that read the same version is told so.
    async fn conflict(&self) -> Result<()> {
        let stale = self.maps.get("item-0").await?;
        self.maps
            .replace(
                "item-0",
                &PostParams::default(),
                &config_map("item-0", json!({"k": "first"}))?,
            )
            .await?;
        let second = self.maps.replace("item-0", &PostParams::default(), &stale).await;
        refused("a stale version", 409, "Conflict", second)?;
        let taken = self
            .maps
            .create(&PostParams::default(), &config_map("item-0", json!({}))?)
            .await;
        refused("a name that is taken", 409, "AlreadyExists", taken)?;
        refused("nothing there", 404, "NotFound", self.maps.get("nobody").await)
    }

    async fn start_pod(&self) -> Result<()> {
        let pod: Pod = object(json!({
            "metadata": {"name": "pod"},
            "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [
                {"name": "main", "image": IMAGE, "command": ["sh", "-c", POD_SCRIPT]},
            ]},
        }))?;
        self.pods.create(&PostParams::default(), &pod).await?;
        let running = await_condition(self.pods.clone(), "pod", conditions::is_pod_running());
        within(LIMIT, running).await?;
        Ok(())
    }

    async fn exec(&self) -> Result<()> {
        let params = AttachParams::default().stdin(true);
        let script = "read line; echo got $line; echo oops >&2; exit 3";
        let mut process = self.pods.exec("pod", ["sh", "-c", script], &params).await?;
        let status = process.take_status().context("no status")?;
        let mut stdin = process.stdin().context("no standard input")?;
        stdin.write_all(b"something\n").await?;
        let (mut stdout, mut stderr) = (
            process.stdout().context("stdout")?,
            process.stderr().context("stderr")?,
        );
        let (mut out, mut err) = (String::new(), String::new());
        tokio::try_join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut err))?;
        let status = status.await.context("the command has no status")?;
        ensure!(
            out == "got something\n" && err == "oops\n",
            "exec printed {out:?} and {err:?}"
        );
        let reason = status.reason.as_deref();
        ensure!(reason == Some("NonZeroExitCode"), "the status is {status:?}");
        process.join().await.context("end the command")
    }

    async fn port_forward(&self) -> Result<()> {
        let mut forward = self.pods.portforward("pod", &[80]).await?;
        let mut connection = forward.take_stream(80).context("no stream")?;
        connection
            .write_all(b"GET /hostname HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n")
            .await?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await?;
        drop(connection);
        ensure!(
            answer.starts_with("HTTP/1.1 200 OK") && answer.contains("\r\n\r\npod"),
            "answered {answer:?}"
        );
        // The server closed the connection after its answer: there is no end to wait for.
        forward.abort();
        Ok(())
    }

    /// What was said so far, then with follow what is said until the container ends.
    async fn logs(&self) -> Result<()> {
        let start = LogParams {
            limit_bytes: Some(4),
            ..LogParams::default()
        };
        let said = self.pods.logs("pod", &start).await?;
        ensure!(said == "one\n", "the first bytes are {said:?}");
        let follow = LogParams {
            follow: true,
            ..LogParams::default()
        };
        let mut lines = self.pods.log_stream("pod", &follow).await?;
        let mut touch = self
            .pods
            .exec("pod", ["touch", "/tmp/go"], &AttachParams::default())
            .await?;
        let touched = touch.take_status().context("no status")?.await;
        ensure!(
            touched
                .as_ref()
                .is_some_and(|status| status.status.as_deref() == Some("Success")),
            "touch ended with {touched:?}"
        );
        let mut text = String::new();
        futures::AsyncReadExt::read_to_string(&mut lines, &mut text).await?;
        let said: Vec<&str> = text
            .lines()
            .filter(|line| ["one", "two", "three"].contains(line))
            .collect();
        ensure!(said == ["one", "two", "three"], "the log is {text:?}");
        Ok(())
    }

    async fn delete(&self) -> Result<()> {
        let preconditions = Preconditions {
            uid: Some("another".to_owned()),
            resource_version: None,
        };
        let params = DeleteParams {
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        refused(
            "another uid",
            409,
            "Conflict",
            self.maps.delete("item-0", &params).await,
        )?;
        let ours = ListParams::default().labels("session=kube-rs");
        self.maps
            .delete_collection(&DeleteParams::default(), &ours)
            .await?;
        let left = self.maps.list(&ours).await?.items.len();
        ensure!(left == 0, "{left} objects are left");
        self.pods.delete("pod", &DeleteParams::default()).await?;
        Ok(())
    }
}

fn containers(deployment: &Deployment) -> Vec<&str> {
    let template = deployment.spec.template.spec.as_ref();
    let containers = template.map_or(&[][..], |spec| &spec.containers);
    containers
        .iter()
        .map(|container| container.name.as_str())
        .collect()
}

async fn within<T, E>(limit: Duration, work: impl Future<Output = Result<T, E>>) -> Result<T>
where
    anyhow::Error: From<E>,
{
    let finished = tokio::time::timeout(limit, work).await;
    Ok(finished.with_context(|| format!("nothing came of it in {} s", limit.as_secs()))??)
}
