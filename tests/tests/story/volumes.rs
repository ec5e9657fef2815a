//! ConfigMap, Secret, projected token, downward API and emptyDir, as a container sees them.

use anyhow::{Result, bail};

use crate::{IMAGE, World, expect_contains};

pub(crate) fn seen_and_refreshed(world: &World<'_>) -> Result<()> {
    world.run(&["create", "configmap", "settings", "--from-literal=color=red"])?;
    world.run(&[
        "create",
        "secret",
        "generic",
        "hidden",
        "--from-literal=word=open-sesame",
    ])?;
    world.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: reader, labels: {{purpose: reading}}}}
spec:
  volumes:
  - {{name: settings, configMap: {{name: settings}}}}
  - {{name: hidden, secret: {{secretName: hidden, defaultMode: 0400}}}}
  - {{name: scratch, emptyDir: {{}}}}
  - {{name: memory, emptyDir: {{medium: Memory}}}}
  - name: all
    projected:
      sources:
      - serviceAccountToken: {{path: token, audience: somebody, expirationSeconds: 3600}}
      - downwardAPI: {{items: [{{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}]}}
      - configMap: {{name: settings, items: [{{key: color, path: colors/first}}]}}
  containers:
  - name: main
    image: {IMAGE}
    command: [sh, -c, "trap 'exit 0' TERM; sleep 3600 & wait"]
    env:
    - {{name: COLOR, valueFrom: {{configMapKeyRef: {{name: settings, key: color}}}}}}
    - {{name: WORD, valueFrom: {{secretKeyRef: {{name: hidden, key: word}}}}}}
    - {{name: NODE, valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}}}
    - {{name: GREETING, value: "$(COLOR) on $(NODE), $$(COLOR)"}}
    volumeMounts:
    - {{name: settings, mountPath: /settings}}
    - {{name: settings, mountPath: /single, subPath: color}}
    - {{name: hidden, mountPath: /hidden}}
    - {{name: scratch, mountPath: /scratch}}
    - {{name: memory, mountPath: /memory}}
    - {{name: all, mountPath: /all}}
"#
    ))?;
    world.run(&["wait", "--for=condition=Ready", "--timeout=90s", "pod/reader"])?;
    let sees = |command: &str, needle: &str| {
        expect_contains(
            command,
            &world.run(&["exec", "reader", "--", "sh", "-c", command])?,
            needle,
        )
    };
    sees("cat /settings/color", "red")?;
    sees("cat /single", "red")?;
    sees("cat /hidden/word", "open-sesame")?;
    sees("ls -lL /hidden/word", "-r--------")?;
    sees("echo kept > /scratch/file && cat /scratch/file", "kept")?;
    sees("grep ' /memory ' /proc/mounts", "tmpfs")?;
    sees("cat /all/labels", "purpose=\"reading\"")?;
    sees("cat /all/colors/first", "red")?;
    sees("echo $WORD $GREETING", "open-sesame red on node1, $(COLOR)")?;
    sees(
        "cat /var/run/secrets/kubernetes.io/serviceaccount/namespace",
        &world.namespace,
    )?;
    sees("cat /etc/hosts", "reader")?;
    sees("cat /etc/resolv.conf", "nameserver 10.96.0.10")?;
    let token = world.run(&["exec", "reader", "--", "cat", "/all/token"])?;
    if token.split('.').count() != 3 {
        bail!("the projected token is {token:?}");
    }
    // The API server itself says whose token it is.
    let review = format!(
        r#"{{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{{"token":"{}","audiences":["somebody"]}}}}"#,
        token.trim()
    );
    let answer = world
        .kubectl
        .run_with_input(&["create", "-o", "json", "-f", "-"], review.as_bytes())?;
    expect_contains(
        "the TokenReview",
        &answer,
        &format!("system:serviceaccount:{}:default", world.namespace),
    )?;

    world.run(&[
        "patch",
        "configmap",
        "settings",
        "-p",
        r#"{"data":{"color":"green"}}"#,
    ])?;
    world.until("the changed ConfigMap to arrive", || {
        sees("cat /settings/color /all/colors/first", "green\ngreen")
            .or_else(|_| sees("cat /settings/color /all/colors/first", "greengreen"))
    })
}
