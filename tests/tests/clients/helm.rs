//! Helm: the chart that `helm create` makes, from its installation to its removal.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tests::suite::{World, expect_contains};

use crate::installed;

/// `helm` with a cluster, a namespace and directories of its own.
struct Helm<'a> {
    program: PathBuf,
    home: PathBuf,
    world: &'a World<'a>,
}

/// Installs, tests, upgrades, breaks, rolls back and uninstalls with the Helm whose version begins with `version`.
pub(crate) fn session(world: &World<'_>, version: &str) -> Result<()> {
    let home = std::env::temp_dir().join(format!("orlop-{}-{}", world.namespace, std::process::id()));
    fs::create_dir_all(&home).with_context(|| format!("make {}", home.display()))?;
    let program = installed().join("bin").join(format!("helm-{}", major(version)));
    let helm = Helm { program, home, world };
    let outcome = helm.session(version);
    fs::remove_dir_all(&helm.home).with_context(|| format!("remove {}", helm.home.display()))?;
    outcome
}

fn major(version: &str) -> &str {
    version.trim_start_matches('v').trim_end_matches('.')
}

impl Helm<'_> {
    fn session(&self, version: &str) -> Result<()> {
        expect_contains("helm version", &self.run(&["version"])?, &format!("\"{version}"))?;
        self.run(&["create", "chart"])?;
        self.use_our_image()?;

        self.run(&["install", "web", "chart", "--wait", "--timeout", "90s"])?;
        self.expect_replicas(1)?;
        self.run(&["test", "web", "--timeout", "90s"])?;
        self.run(&[
            "upgrade",
            "web",
            "chart",
            "--reuse-values",
            "--set",
            "replicaCount=2",
            "--wait",
            "--timeout",
            "90s",
        ])?;
        self.expect_replicas(2)?;
        // What the server refuses becomes a failed revision, which changes nothing that runs.
        let refused = self.fails(&["upgrade", "web", "chart", "--set", "service.port=70000"])?;
        expect_contains("a refused upgrade", &refused, "70000")?;
        self.run(&["rollback", "web", "1", "--wait", "--timeout", "90s"])?;
        self.expect_replicas(1)?;
        let history: Value = serde_json::from_str(&self.run(&["history", "web", "-o", "json"])?)
            .context("parse helm history")?;
        let statuses: Vec<&str> = history
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|revision| revision["status"].as_str())
            .collect();
        if statuses != ["superseded", "superseded", "failed", "deployed"] {
            bail!("helm history says {statuses:?}");
        }
        expect_contains("helm list", &self.run(&["list"])?, "deployed")?;
        expect_contains(
            "helm get",
            &self.run(&["get", "manifest", "web"])?,
            "kind: Deployment",
        )?;
        self.run(&["uninstall", "web", "--wait", "--timeout", "90s"])?;
        let left = self.world.run(&[
            "get",
            "deployments,services,serviceaccounts,secrets",
            "-o",
            "name",
            "-l",
            "app.kubernetes.io/instance=web",
        ])?;
        if !left.is_empty() {
            bail!("helm uninstall left {left:?}");
        }
        Ok(())
    }

    /// The chart runs nginx and tests it with busybox, through DNS: nothing of that is here. Our image serves the same paths,
    /// and the Service's address is in the environment of every pod.
    fn use_our_image(&self) -> Result<()> {
        let chart = self.home.join("chart");
        edit(
            &chart.join("values.yaml"),
            &[
                ("repository: nginx", "repository: localhost/orlop/test"),
                ("tag: \"\"", "tag: \"1\""),
            ],
        )?;
        edit(
            &chart.join("templates/tests/test-connection.yaml"),
            &[
                ("image: busybox", "image: localhost/orlop/test:1"),
                (
                    "{{ include \"chart.fullname\" . }}:{{ .Values.service.port }}",
                    "$(WEB_CHART_SERVICE_HOST):80",
                ),
                ("command: ['wget']", "command: ['wget', '-O-']"),
            ],
        )
    }

    fn expect_replicas(&self, wanted: u64) -> Result<()> {
        let deployment = self.world.get(&["deployment", "web-chart"])?;
        match &deployment["status"]["readyReplicas"] {
            count if *count == wanted => Ok(()),
            count => bail!("web-chart has {count} ready replicas instead of {wanted}"),
        }
    }

    fn run(&self, args: &[&str]) -> Result<String> {
        let (succeeded, output, error) = self.output(args)?;
        if !succeeded {
            bail!("helm {} failed: {error}{output}", args.join(" "));
        }
        Ok(output)
    }

    fn fails(&self, args: &[&str]) -> Result<String> {
        let (succeeded, output, error) = self.output(args)?;
        if succeeded {
            bail!("helm {} succeeded: {output}", args.join(" "));
        }
        Ok(error)
    }

    fn output(&self, args: &[&str]) -> Result<(bool, String, String)> {
        let output = Command::new(&self.program)
            .args(args)
            .current_dir(&self.home)
            .env("HOME", &self.home)
            .env("KUBECONFIG", self.world.cluster.layout().kubeconfig())
            .env("HELM_NAMESPACE", &self.world.namespace)
            .output()
            .with_context(|| {
                format!(
                    "start {}; is it missing? run: cargo xtask clients",
                    self.program.display()
                )
            })?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((
            output.status.success(),
            text(&output.stdout),
            text(&output.stderr),
        ))
    }
}

/// Replaces texts in a file, each of which must be there.
fn edit(path: &Path, replacements: &[(&str, &str)]) -> Result<()> {
    let mut text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    for (from, to) in replacements {
        expect_contains(&path.display().to_string(), &text, from)?;
        text = text.replace(from, to);
    }
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
