# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks the cluster and its nodes: kubectl, pulls as the kubelet's, nodes that hang, vanish or stop."""

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
