# SPDX-License-Identifier: GPL-3.0-or-later
"""What demo and tests do to a running sandbox: ask the cache, the emulator, the cluster and its nodes."""

from __future__ import annotations

import hashlib
import json
import ssl
import subprocess
import time
from collections.abc import Iterable
from typing import Any

import httpx

from . import cluster
from .settings import LOCATION, NODE_PORT, PROJECT, REPOSITORY, Sandbox

ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
NAMESPACE, USER = "registry-cache", "nodes"
_REPOSITORY_URL = f"/v1/projects/{PROJECT}/locations/{LOCATION}/repositories/{REPOSITORY}"


class Cache:
    """A cache on its NodePort, as this machine reaches it."""

    def __init__(self, sandbox: Sandbox, port: int = NODE_PORT) -> None:
        self.password = sandbox.password.read_text()
        self._client = httpx.Client(base_url=cluster.endpoint(sandbox, port=port), trust_env=False, timeout=30)

    def manifest(self, name: str, reference: str, auth: tuple[str, str] | None = None) -> httpx.Response:
        """GET a manifest; with the cache's own credential unless another is given."""
        path = f"/v2/{PROJECT}/{REPOSITORY}/{name}/manifests/{reference}"
        return self._client.get(path, headers={"Accept": ACCEPT}, auth=auth or (USER, self.password))

    def pull(self, name: str, reference: str) -> tuple[int, int, float]:
        """GET a manifest and all its blobs; their number, their bytes, and the seconds to the slowest first byte.

        :raises ValueError: a body has another digest than was asked for.
        """
        manifest = self.manifest(name, reference)
        manifest.raise_for_status()
        blobs = [manifest.json()["config"], *manifest.json()["layers"]]
        size, first = 0, 0.0
        for blob in blobs:
            url, started = f"/v2/{PROJECT}/{REPOSITORY}/{name}/blobs/{blob['digest']}", time.monotonic()
            hashed, came = hashlib.sha256(), 0
            with self._client.stream("GET", url, auth=(USER, self.password)) as answer:
                answer.raise_for_status()
                for chunk in answer.iter_raw():
                    first = max(first, time.monotonic() - started) if not came else first
                    came += len(chunk)
                    hashed.update(chunk)
            if f"sha256:{hashed.hexdigest()}" != blob["digest"]:
                raise ValueError(f"{url}: {came} bytes of another digest")
            size += came
        return len(blobs), size, first

    def status(self, auth: tuple[str, str] | None) -> int:
        """The status of `GET /v2/` with a credential or with none."""
        return self._client.get("/v2/", auth=auth).status_code


class Google:
    """The emulator's APIs and counters as its operator."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._client = httpx.Client(
            base_url=f"https://{sandbox.gateway}",
            headers={"Authorization": f"Bearer {sandbox.operator_token.read_text().strip()}"},
            verify=ssl.create_default_context(cafile=str(sandbox.ca)),
            trust_env=False,
            timeout=30,
        )

    def call(self, method: str, host: str, path: str, body: Any = None, **params: str) -> Any:
        """One request to one of Google's hosts; raises on an error status."""
        answer = self._client.request(method, path, headers={"Host": host}, json=body, params=params)
        answer.raise_for_status()
        return answer.json()

    def exchange(self, audience: str, token: str) -> httpx.Response:
        """STS's answer to a subject token, whatever it is."""
        form = {
            "audience": audience,
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "scope": "https://www.googleapis.com/auth/cloud-platform",
            "subject_token": token,
        }
        return self._client.post("/v1/token", data=form, headers={"Host": "sts.googleapis.com", "Authorization": ""})

    def counters(self) -> dict[str, int]:
        """Requests of clients other than the operator, by kind."""
        return self._client.get("/emulator/counters").json()

    def apis(self) -> dict[str, int]:
        """Requests to the googleapis hosts by method and host, this client's own among them."""
        return self._client.get("/emulator/counters").json()["apis"]

    def reset_counters(self) -> None:
        self._client.post("/emulator/counters/reset").raise_for_status()

    def blob_counters(self, digest: str) -> dict[str, int]:
        """Of one blob: blob_get, blob_download, blob_head, blob_bytes; zero where nothing was asked."""
        counted = self._client.get("/emulator/counters").json()["blobs"].get(digest, {})
        return {kind: counted.get(kind, 0) for kind in ("blob_get", "blob_download", "blob_head", "blob_bytes")}

    def fault(self, match: str, count: int = 1, **effects: float | int | bool) -> None:
        """What becomes of the next `count` downloads of blobs whose path contains `match`, a digest for instance.

        effects: seconds, bytes_per_second, status, cut, corrupt; see google_emulator/faults.py.
        """
        body = {"match": match, "count": count, **effects}
        self._client.post("/emulator/faults", json=body).raise_for_status()

    def host_fault(self, host: str, path: str = "", count: int = 1, **effect: float | int | bool) -> None:
        """What becomes of the next `count` requests to one of Google's hosts whose path contains `path`.

        effect: one of hang (seconds), status, seconds, truncate; see google_emulator/faults.py.
        """
        body = {"host": host, "path": path, "count": count, **effect}
        self._client.post("/emulator/faults", json=body).raise_for_status()

    def condition(self, **conditions: float | bool) -> None:
        """What holds until `reset_faults`: expired, grant_lag, enable_lag, clock_shift; see google_emulator/faults.py."""
        self._client.post("/emulator/faults", json=conditions).raise_for_status()

    def faults(self) -> list[dict[str, Any]]:
        """The faults that are left, each with its remaining count; then the conditions that hold, if any."""
        return self._client.get("/emulator/faults").json()

    def reset_faults(self) -> None:
        self._client.post("/emulator/faults/reset").raise_for_status()

    def policy(self) -> dict[str, Any]:
        """The IAM policy of the private repository."""
        host = "artifactregistry.googleapis.com"
        return self.call("GET", host, f"{_REPOSITORY_URL}:getIamPolicy", **{"options.requestedPolicyVersion": "3"})

    def set_policy(self, policy: dict[str, Any]) -> None:
        host = "artifactregistry.googleapis.com"
        self.call("POST", host, f"{_REPOSITORY_URL}:setIamPolicy", {"policy": policy})

    def revoke(self) -> dict[str, Any]:
        """Remove every binding of the repository; returns the policy as it was."""
        before = self.policy()
        self.set_policy({**before, "bindings": []})
        return before


class Cluster:
    """kubectl and the nodes' containerd. What has a `node` is about the control plane unless told another."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self.nodes = cluster.nodes(sandbox)
        self.node = self.nodes[0]
        self._kubectl = [str(cluster.kubectl(sandbox)), "--kubeconfig", str(sandbox.kubeconfig)]

    def address(self, node: str) -> str:
        """A node's address, which this machine reaches."""
        return cluster.address(self._sandbox, self._own(node))

    def endpoint(self, node: str) -> str:
        """The URL of the cache's NodePort on a node, as this machine reaches it."""
        return cluster.endpoint(self._sandbox, self._own(node))

    def runtime(self, node: str) -> str:
        """A node's container runtime with its version, for instance containerd://1.6.20."""
        return self.get("node", self._own(node))["status"]["nodeInfo"]["containerRuntimeVersion"]

    def kubectl(self, *words: str, stdin: str | None = None, check: bool = True) -> str:
        return subprocess.run([*self._kubectl, *words], input=stdin, capture_output=True, text=True, check=check).stdout

    def get(self, *words: str) -> Any:
        return json.loads(self.kubectl("get", *words, "--output", "json"))

    def replicas(self) -> dict[str, str]:
        """The cache's pods: name to address."""
        pods = self.get("pods", "--namespace", NAMESPACE, "--selector", "app.kubernetes.io/name=registry-cache")
        return {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in pods["items"]}

    def on_node(self, *words: str, stdin: str | None = None, node: str | None = None, seconds: float = 300) -> str:
        """What a command on a node prints. Raises CalledProcessError if it fails or takes longer than `seconds`."""
        # Docker's client does not end the command when it is ended itself: timeout does.
        limited = ["timeout", "--kill-after=5", str(seconds), *words]
        command = ["docker", "exec", "--interactive", self._own(node), *limited]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, check=True, timeout=seconds + 15
        ).stdout

    def fetch(self, address: str, password: str, path: str, discard: bool = False) -> str:
        """GET from one replica, from its node; the credential goes by standard input."""
        config = [
            f'url = "http://{address}:5000{path}"',
            f'user = "{USER}:{password}"',
            f'header = "Accept: {ACCEPT}"',
            *(("output = /dev/null",) if discard else ()),
            "fail",
            "silent",
            "show-error",
        ]
        return self.on_node("curl", "--config", "-", stdin="\n".join(config))

    def warm(self, password: str, name: str, tag: str) -> None:
        """Pull an image through each replica itself, so that every replica holds it."""
        base = f"/v2/{PROJECT}/{REPOSITORY}/{name}"
        for address in self.replicas().values():
            manifest = json.loads(self.fetch(address, password, f"{base}/manifests/{tag}"))
            for blob in (manifest["config"], *manifest["layers"]):
                self.fetch(address, password, f"{base}/blobs/{blob['digest']}", discard=True)

    def pull(self, image: str, password: str, *, node: str | None = None, seconds: float = 120) -> float:
        """Pull an image on a node as the kubelet does; returns the seconds that took.

        containerd gets the kubelet's request (CRI, PullImage), with user and password as the kubelet reads them from a pull secret.
        So it does all that it does for a pod: it reads `config_path`, chooses between HTTPS and HTTP, and tries again. What the
        kubelet adds is missing: it reads the secret, waits longer after each failure and starts the pod.

        :param image: its registry is localhost:NODE_PORT.
        :raises subprocess.CalledProcessError: it fails or takes longer than `seconds`.
        """
        # By standard input and an environment variable: a command line is for all to read.
        command = ("sh", "-euc", 'IFS= read -r CRICTL_CREDS; export CRICTL_CREDS; exec crictl pull "$1"', "sh", image)
        started = time.monotonic()
        self.on_node(*command, stdin=f"{USER}:{password}\n", node=node, seconds=seconds)
        return time.monotonic() - started

    def pause(self, node: str) -> None:
        """Stop all processes of a node; its kernel still answers, as of a node that hangs."""
        self._docker("pause", self._own(node))

    def unpause(self, node: str) -> None:
        self._docker("unpause", self._own(node))

    def cut(self, node: str) -> None:
        """Drop every packet from and to a node's network, as of a node that vanished: nobody is told."""
        for chain, direction in (("PREROUTING", "-i"), ("OUTPUT", "-o"), ("POSTROUTING", "-o")):
            self._rule("-I", chain, direction, node)

    def mend(self, node: str) -> None:
        """Take back what `cut` did."""
        for chain, direction in (("PREROUTING", "-i"), ("OUTPUT", "-o"), ("POSTROUTING", "-o")):
            self._rule("-D", chain, direction, node)

    def _rule(self, action: str, chain: str, direction: str, node: str) -> None:
        self.on_node("iptables", "--wait", "-t", "mangle", action, chain, direction, "eth0", "-j", "DROP", node=node)

    def stop(self, node: str, grace: int = 0) -> None:
        """End a node as by a power cut, or after `grace` seconds in which it may shut down."""
        self._docker("stop", "--time", str(grace), self._own(node))

    def start(self, node: str, seconds: float = 120) -> None:
        """Start a stopped node; returns when its kubelet says Ready again and its pods reach the others'."""
        before, deadline = self._heartbeat(self._own(node)), time.monotonic() + seconds
        self._docker("start", node)
        cluster.reconnect(self._sandbox)
        while self._heartbeat(node) == before:  # until then Ready is what it said before its end
            if time.monotonic() > deadline:
                raise TimeoutError(f"no kubelet on {node} after {seconds:.0f} s")
            time.sleep(0.5)
        self.kubectl("wait", f"node/{node}", "--for=condition=Ready", f"--timeout={seconds:.0f}s")

    def _heartbeat(self, node: str) -> str:
        return self.get("lease", "--namespace", "kube-node-lease", node)["spec"]["renewTime"]

    def _own(self, node: str | None) -> str:
        """A node of this very cluster. Raises ValueError for any other container."""
        if node is None:
            return self.node
        if node not in self.nodes:
            raise ValueError(f"{node} is no node of {self._sandbox.cluster}: {', '.join(self.nodes)}")
        return node

    def _docker(self, *words: str) -> None:
        subprocess.run(["docker", *words], capture_output=True, text=True, check=True, timeout=120)

    def forget_image(self, image: str, node: str | None = None) -> None:
        """Empty a node's containerd of an image and of the content that only it holds."""
        names = self._names_of(image, node)
        self.on_node("ctr", "--namespace", "k8s.io", "images", "rm", "--sync", *names, node=node)
        if image in self.images(node):
            raise AssertionError(f"{image} is still on {self._own(node)}")

    def images(self, node: str | None = None) -> list[str]:
        """The names of all images that a node's containerd holds."""
        return self.on_node("ctr", "--namespace", "k8s.io", "images", "ls", "--quiet", node=node).split()

    def _names_of(self, image: str, node: str | None) -> Iterable[str]:
        """An image is listed by reference, by digest and by id."""
        lines = self.on_node("ctr", "--namespace", "k8s.io", "images", "ls", node=node).splitlines()
        digest = next(line.split()[2] for line in lines if line.startswith(f"{image} "))
        return [line.split()[0] for line in lines if digest in line]

    def run_pod(
        self, name: str, image: str, namespace: str = "demo", node: str | None = None, secrets: Iterable[str] = ("registry-cache",)
    ) -> float:
        """Run a pod with pull secrets on a node until it is Running; returns the seconds that took.

        :param secrets: their names; without any, the pod has those of its service account.
        """
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {
                "automountServiceAccountToken": False,
                "nodeSelector": {"kubernetes.io/hostname": self._own(node)},
                "terminationGracePeriodSeconds": 0,
                "imagePullSecrets": [{"name": secret} for secret in secrets],
                "containers": [{"name": "main", "image": image}],
            },
        }
        started = time.monotonic()
        self.kubectl("apply", "--namespace", namespace, "--filename", "-", stdin=json.dumps(pod))
        self.kubectl("wait", "--namespace", namespace, f"pod/{name}", "--for=condition=Ready", "--timeout=120s")
        return time.monotonic() - started

    def pulled(self, name: str, image: str, namespace: str = "demo") -> bool:
        """Whether the kubelet says that it pulled the image for this very pod."""
        uid = self.get("pod", name, "--namespace", namespace)["metadata"]["uid"]
        selector = f"involvedObject.uid={uid},reason=Pulled"
        events = self.get("events", "--namespace", namespace, "--field-selector", selector)["items"]
        return any(f'Successfully pulled image "{image}"' in event["message"] for event in events)

    def delete_pod(self, name: str, namespace: str = "demo") -> None:
        self.kubectl("delete", "--namespace", namespace, "pod", name, "--ignore-not-found", "--wait")
