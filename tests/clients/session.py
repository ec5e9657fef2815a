"""A session of the official Python client: session.py KUBECONFIG NAMESPACE IMAGE.

It does what programs written with this client do, with no option that a stock cluster would not need, and ends at the first
answer that is not the one a stock API server gives.
"""

import json
import sys

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import portforward, stream

# Far more than anything here needs: a busy machine must not fail a session.
LIMIT_SECONDS = 90

# Serves HTTP, and ends once the file is there.
SCRIPT = "echo one; echo two; /test serve & until [ -e /tmp/go ]; do sleep 0.1; done; echo three"


def expect(what, got, wanted):
    if got != wanted:
        raise AssertionError(f"{what}: got {got!r}, wanted {wanted!r}")


def refused(what, code, reason, call):
    """Fails unless the call is answered with this Status; returns it."""
    try:
        answer = call()
    except ApiException as error:
        status = json.loads(error.body)
        expect(what, (error.status, status["code"], status["reason"]), (code, code, reason))
        return status
    raise AssertionError(f"{what}: it succeeded: {answer!r}")


class Session:
    def __init__(self, kubeconfig, namespace, image):
        config.load_kube_config(kubeconfig)
        self.namespace, self.image = namespace, image
        self.core, self.apps = client.CoreV1Api(), client.AppsV1Api()

    def config_map(self, name, data):
        metadata = client.V1ObjectMeta(name=name, labels={"session": "python"})
        return client.V1ConfigMap(metadata=metadata, data=data)

    def list_in_pieces(self):
        """Five objects, two at a time: a limit, and continue tokens until none is left."""
        names = [f"item-{i}" for i in range(5)]
        for name in names:
            self.core.create_namespaced_config_map(self.namespace, self.config_map(name, {"k": "v"}))
        seen, pieces, token = [], [], None
        while token != "":
            page = self.core.list_namespaced_config_map(
                self.namespace, label_selector="session=python", limit=2, _continue=token
            )
            seen += [item.metadata.name for item in page.items]
            pieces.append((len(page.items), page.metadata.resource_version))
            token = page.metadata._continue or ""
        expect("names", seen, names)
        expect("sizes", [size for size, _ in pieces], [2, 2, 1])
        expect("one revision for all pieces", len({revision for _, revision in pieces}), 1)
        refused("a token that is none", 400, "BadRequest", lambda: self.core.list_namespaced_config_map(
            self.namespace, limit=2, _continue="no token"))
        chosen = self.core.list_namespaced_config_map(
            self.namespace, label_selector="session in (python)", field_selector="metadata.name=item-3")
        expect("selectors", [item.metadata.name for item in chosen.items], ["item-3"])

    def watch_and_resume(self):
        """A watch from a list's revision sees all that came after; one from an event's revision sees the rest, once."""
        start = self.core.list_namespaced_config_map(self.namespace).metadata.resource_version
        self.core.create_namespaced_config_map(self.namespace, self.config_map("watched", {"k": "1"}))
        self.core.patch_namespaced_config_map("watched", self.namespace, {"data": {"k": "2"}})
        self.core.delete_namespaced_config_map("watched", self.namespace)

        def events(revision, count):
            seen = []
            stream_of = watch.Watch()
            for event in stream_of.stream(
                self.core.list_namespaced_config_map,
                self.namespace,
                field_selector="metadata.name=watched",
                resource_version=revision,
                timeout_seconds=LIMIT_SECONDS,
            ):
                seen.append((event["type"], event["object"].metadata.resource_version))
                if len(seen) == count:
                    stream_of.stop()
            return seen

        whole = events(start, 3)
        expect("events", [kind for kind, _ in whole], ["ADDED", "MODIFIED", "DELETED"])
        expect("events after a resume", events(whole[0][1], 2), whole[1:])

    def apply(self):
        """Server-side apply by two managers, through the generated and the dynamic client, and from a file."""
        metadata = {"name": "applied", "namespace": self.namespace}
        mine = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": "1", "b": "1"}}
        theirs = {**mine, "data": {"b": "2"}}
        maps = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version="v1", kind="ConfigMap")

        def apply(body, manager, **options):
            return self.core.patch_namespaced_config_map(
                "applied",
                self.namespace,
                body,
                field_manager=manager,
                _content_type="application/apply-patch+yaml",
                **options,
            )

        expect("created by apply", apply(mine, "mine").data, {"a": "1", "b": "1"})
        status = refused("somebody else's field", 409, "Conflict", lambda: apply(theirs, "theirs"))
        causes = [(cause["reason"], cause["field"]) for cause in status["details"]["causes"]]
        expect("causes", causes, [("FieldManagerConflict", ".data.b")])
        expect("taken by force", apply(theirs, "theirs", force=True).data, {"a": "1", "b": "2"})
        del mine["data"]["b"]
        applied = maps.server_side_apply(body=mine, name="applied", namespace=self.namespace, field_manager="mine")
        expect("given up", applied.data.to_dict(), {"a": "1", "b": "2"})
        managers = {entry.manager for entry in applied.metadata.managedFields}
        expect("managers", managers, {"mine", "theirs"})

        from_file = {**theirs, "metadata": {"name": "from-file"}}
        made = utils.create_from_dict(client.ApiClient(), from_file, namespace=self.namespace, apply=True)
        expect("from a file", made[0].metadata.name, "from-file")

    def patch(self):
        """The three patch formats on one Deployment."""
        container = {"name": "web", "image": self.image}
        template = {"metadata": {"labels": {"app": "patched"}}, "spec": {"containers": [container]}}
        spec = {"replicas": 0, "selector": {"matchLabels": {"app": "patched"}}, "template": template}
        body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "patched"}, "spec": spec}
        self.apps.create_namespaced_deployment(self.namespace, body)

        def patch(content_type, body):
            return self.apps.patch_namespaced_deployment(
                "patched", self.namespace, body, _content_type=content_type)

        side = {"name": "side", "image": self.image}
        strategic = {"spec": {"template": {"spec": {"containers": [side]}}}}
        merged = patch("application/strategic-merge-patch+json", strategic)
        names = [container.name for container in merged.spec.template.spec.containers]
        expect("merged by name", names, ["side", "web"])
        replaced = patch("application/merge-patch+json", strategic)
        names = [container.name for container in replaced.spec.template.spec.containers]
        expect("a merge patch replaces lists", names, ["side"])
        path = "/spec/template/spec/containers/0/name"
        operations = [{"op": "test", "path": path, "value": "side"}, {"op": "replace", "path": path, "value": "web"}]
        patched = patch("application/json-patch+json", operations)
        expect("JSON patch", patched.spec.template.spec.containers[0].name, "web")
        refused("a test that does not hold", 422, "Invalid", lambda: patch("application/json-patch+json", operations))
        scale = self.apps.read_namespaced_deployment_scale("patched", self.namespace)
        expect("scale", scale.status.selector, "app=patched")

    def conflict(self):
        """The slower of two writers that read the same version is told so."""
        first = self.core.read_namespaced_config_map("item-0", self.namespace)
        second = self.core.read_namespaced_config_map("item-0", self.namespace)
        first.data = {"k": "first"}
        self.core.replace_namespaced_config_map("item-0", self.namespace, first)
        second.data = {"k": "second"}
        refused("a stale version", 409, "Conflict", lambda: self.core.replace_namespaced_config_map(
            "item-0", self.namespace, second))
        refused("a name that is taken", 409, "AlreadyExists", lambda: self.core.create_namespaced_config_map(
            self.namespace, self.config_map("item-0", {})))
        refused("nothing there", 404, "NotFound", lambda: self.core.read_namespaced_config_map(
            "nobody", self.namespace))

    def start_pod(self):
        container = {"name": "main", "image": self.image, "command": ["sh", "-c", SCRIPT]}
        spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container]}
        self.core.create_namespaced_pod(self.namespace, {"metadata": {"name": "pod"}, "spec": spec})
        self.wait_for_pod(lambda pod: any(
            condition.type == "Ready" and condition.status == "True" for condition in pod.status.conditions or []))

    def wait_for_pod(self, probe):
        ready = watch.Watch()
        for event in ready.stream(self.core.list_namespaced_pod, self.namespace,
                                  field_selector="metadata.name=pod", timeout_seconds=LIMIT_SECONDS):
            if probe(event["object"]):
                return
        raise AssertionError(f"the pod is still {self.core.read_namespaced_pod('pod', self.namespace).status}")

    def exec(self):
        def run(command, **options):
            return stream(self.core.connect_get_namespaced_pod_exec, "pod", self.namespace, command=command,
                          stdout=True, stderr=True, **options)

        expect("exec", run(["echo", "hello"]), "hello\n")
        session = run(["sh", "-c", "read line; echo got $line; echo oops >&2; exit 3"], stdin=True,
                      _preload_content=False)
        session.write_stdin("something\n")
        session.run_forever(timeout=LIMIT_SECONDS)
        expect("standard output", session.read_stdout(), "got something\n")
        expect("standard error", session.read_stderr(), "oops\n")
        expect("exit code", session.returncode, 3)

    def port_forward(self):
        forward = portforward(self.core.connect_get_namespaced_pod_portforward, "pod", self.namespace, ports="80")
        connection = forward.socket(80)
        connection.settimeout(LIMIT_SECONDS)
        connection.sendall(b"GET /hostname HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n")
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
        expect("status line", answer.split(b"\r\n")[0], b"HTTP/1.1 200 OK")
        expect("the pod's name", answer.split(b"\r\n\r\n")[1].strip(), b"pod")
        expect("errors", forward.error(80), None)

    def logs(self):
        """What was said so far, then with follow what is said until the container ends."""
        first = self.core.read_namespaced_pod_log("pod", self.namespace, limit_bytes=4)
        expect("first bytes", first, "one\n")
        following = self.core.read_namespaced_pod_log("pod", self.namespace, follow=True, _preload_content=False)
        stream(self.core.connect_get_namespaced_pod_exec, "pod", self.namespace, command=["touch", "/tmp/go"],
               stdout=True, stderr=True)
        lines = following.read().decode().splitlines()
        expect("followed", [line for line in lines if line in ("one", "two", "three")], ["one", "two", "three"])
        self.wait_for_pod(lambda pod: pod.status.phase == "Succeeded")

    def delete(self):
        stale = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid="another"))
        refused("another uid", 409, "Conflict", lambda: self.core.delete_namespaced_config_map(
            "item-0", self.namespace, body=stale))
        self.core.delete_collection_namespaced_config_map(self.namespace, label_selector="session=python")
        left = self.core.list_namespaced_config_map(self.namespace, label_selector="session=python")
        expect("left", left.items, [])


def main():
    session = Session(*sys.argv[1:])
    print("server", client.VersionApi().get_code().git_version)
    for step in (
        session.list_in_pieces,
        session.watch_and_resume,
        session.apply,
        session.patch,
        session.conflict,
        session.start_pod,
        session.exec,
        session.port_forward,
        session.logs,
        session.delete,
    ):
        step()
        print(step.__name__, "ok", flush=True)


if __name__ == "__main__":
    main()
