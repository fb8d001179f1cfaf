# SPDX-License-Identifier: GPL-3.0-or-later
"""A client of the cluster and its nodes: kubectl, pulls like the kubelet's, nodes that hang, vanish or stop."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterable
from typing import Any

from .. import cluster
from ..settings import PROJECT, REPOSITORY, Sandbox
from .cache import ACCEPT, NAMESPACE, USER


class Cluster:
    """The cluster and its nodes. The default of every `node` parameter is the control plane."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self.nodes = cluster.nodes(sandbox)
        self.node = self.nodes[0]
        self._kubectl = [str(cluster.kubectl(sandbox)), "--kubeconfig", str(sandbox.kubeconfig)]

    def address(self, node: str) -> str:
        """Returns a node's address, which this machine can reach."""
        return cluster.address(self._sandbox, self._own(node))

    def endpoint(self, node: str) -> str:
        """Returns the URL of the cache's NodePort on a node, which this machine can reach."""
        return cluster.endpoint(self._sandbox, self._own(node))

    def runtime(self, node: str) -> str:
        """Returns a node's container runtime with its version, such as containerd://1.6.20."""
        return self.get("node", self._own(node))["status"]["nodeInfo"]["containerRuntimeVersion"]

    def kubectl(self, *words: str, stdin: str | None = None, check: bool = True) -> str:
        return subprocess.run([*self._kubectl, *words], input=stdin, capture_output=True, text=True, check=check).stdout

    def get(self, *words: str) -> Any:
        return json.loads(self.kubectl("get", *words, "--output", "json"))

    def replicas(self) -> dict[str, str]:
        """Returns the addresses of the cache's pods by name."""
        pods = self.get("pods", "--namespace", NAMESPACE, "--selector", "app.kubernetes.io/name=registry-cache")
        return {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in pods["items"]}

    def on_node(self, *words: str, stdin: str | None = None, node: str | None = None, seconds: float = 300) -> str:
        """Run a command on a node and return its output. Raises CalledProcessError if it fails or takes longer than `seconds`."""
        # When Docker's client is killed, the command keeps running; timeout stops it.
        limited = ["timeout", "--kill-after=5", str(seconds), *words]
        command = ["docker", "exec", "--interactive", self._own(node), *limited]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, check=True, timeout=seconds + 15
        ).stdout

    def fetch(self, address: str, password: str, path: str, discard: bool = False) -> str:
        """GET from one replica, on the control plane. The credential is passed by standard input."""
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
        """Pull an image from each replica, so that each one stores it."""
        base = f"/v2/{PROJECT}/{REPOSITORY}/{name}"
        for address in self.replicas().values():
            manifest = json.loads(self.fetch(address, password, f"{base}/manifests/{tag}"))
            for blob in (manifest["config"], *manifest["layers"]):
                self.fetch(address, password, f"{base}/blobs/{blob['digest']}", discard=True)

    def pull(self, image: str, password: str, *, node: str | None = None, seconds: float = 120) -> float:
        """Pull an image on a node like the kubelet. Returns the seconds.

        containerd gets the same request as from the kubelet (CRI, PullImage), with the user and password of a pull secret. So it
        does the same as for a pod: it reads `config_path`, chooses between HTTPS and HTTP, and retries. What the kubelet itself
        does is missing: reading the secret, the growing delay after failures, starting the pod.

        :param image: an image whose registry is localhost:NODE_PORT.
        :raises subprocess.CalledProcessError: the pull fails or takes longer than `seconds`.
        """
        # By standard input and an environment variable, since everybody can read a command line.
        command = ("sh", "-euc", 'IFS= read -r CRICTL_CREDS; export CRICTL_CREDS; exec crictl pull "$1"', "sh", image)
        started = time.monotonic()
        self.on_node(*command, stdin=f"{USER}:{password}\n", node=node, seconds=seconds)
        return time.monotonic() - started

    def pause(self, node: str) -> None:
        """Stop all processes of a node. It then looks like a node that hangs: only its kernel answers."""
        self._docker("pause", self._own(node))

    def unpause(self, node: str) -> None:
        self._docker("unpause", self._own(node))

    def cut(self, node: str) -> None:
        """Drop all packets of a node. It then looks like a node that vanished without notice."""
        for chain, direction in (("PREROUTING", "-i"), ("OUTPUT", "-o"), ("POSTROUTING", "-o")):
            self._rule("-I", chain, direction, node)

    def mend(self, node: str) -> None:
        """Undo `cut`."""
        for chain, direction in (("PREROUTING", "-i"), ("OUTPUT", "-o"), ("POSTROUTING", "-o")):
            self._rule("-D", chain, direction, node)

    def _rule(self, action: str, chain: str, direction: str, node: str) -> None:
        self.on_node("iptables", "--wait", "-t", "mangle", action, chain, direction, "eth0", "-j", "DROP", node=node)

    def stop(self, node: str, grace: int = 0) -> None:
        """Stop a node: at once, as in a power cut, or after `grace` seconds to shut down."""
        self._docker("stop", "--time", str(grace), self._own(node))

    def start(self, node: str, seconds: float = 120) -> None:
        """Start a stopped node. Returns when its kubelet is Ready and its pods reach those of other nodes."""
        before, deadline = self._heartbeat(self._own(node)), time.monotonic() + seconds
        self._docker("start", node)
        cluster.reconnect(self._sandbox)
        while self._heartbeat(node) == before:  # until then the condition Ready is from before the stop
            if time.monotonic() > deadline:
                raise TimeoutError(f"the kubelet on {node} did not start within {seconds:.0f} s")
            time.sleep(0.5)
        self.kubectl("wait", f"node/{node}", "--for=condition=Ready", f"--timeout={seconds:.0f}s")

    def _heartbeat(self, node: str) -> str:
        return self.get("lease", "--namespace", "kube-node-lease", node)["spec"]["renewTime"]

    def _own(self, node: str | None) -> str:
        """Returns a node of this cluster. Raises ValueError for any other container."""
        if node is None:
            return self.node
        if node not in self.nodes:
            raise ValueError(f"{node} is not a node of {self._sandbox.cluster}; its nodes are {', '.join(self.nodes)}")
        return node

    def _docker(self, *words: str) -> None:
        subprocess.run(["docker", *words], capture_output=True, text=True, check=True, timeout=120)

    def forget_image(self, image: str, node: str | None = None) -> None:
        """Remove an image, and the content that only it uses, from a node's containerd."""
        names = self._names_of(image, node)
        self.on_node("ctr", "--namespace", "k8s.io", "images", "rm", "--sync", *names, node=node)
        if image in self.images(node):
            raise AssertionError(f"{image} is still on {self._own(node)}")

    def images(self, node: str | None = None) -> list[str]:
        """Returns the names of all images in a node's containerd."""
        return self.on_node("ctr", "--namespace", "k8s.io", "images", "ls", "--quiet", node=node).split()

    def _names_of(self, image: str, node: str | None) -> Iterable[str]:
        """Returns all names of an image: containerd lists it by reference, by digest and by id."""
        lines = self.on_node("ctr", "--namespace", "k8s.io", "images", "ls", node=node).splitlines()
        digest = next(line.split()[2] for line in lines if line.startswith(f"{image} "))
        return [line.split()[0] for line in lines if digest in line]

    def run_pod(
        self, name: str, image: str, namespace: str = "demo", node: str | None = None, secrets: Iterable[str] = ("registry-cache",)
    ) -> float:
        """Run a pod on a node and wait until it is ready. Returns the seconds.

        :param secrets: the names of its pull secrets; if empty, the pod uses those of its service account.
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
        """Returns whether the kubelet reported that it pulled the image for this pod."""
        uid = self.get("pod", name, "--namespace", namespace)["metadata"]["uid"]
        selector = f"involvedObject.uid={uid},reason=Pulled"
        events = self.get("events", "--namespace", namespace, "--field-selector", selector)["items"]
        return any(f'Successfully pulled image "{image}"' in event["message"] for event in events)

    def delete_pod(self, name: str, namespace: str = "demo") -> None:
        self.kubectl("delete", "--namespace", namespace, "pod", name, "--ignore-not-found", "--wait")
