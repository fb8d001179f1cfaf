# SPDX-License-Identifier: GPL-3.0-or-later
"""The cache's replicas one by one: a way to each, what each has stored, and their ends."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from sandbox.client import NAMESPACE, Cluster
from sandbox.metrics import total
from sandbox.seed import Blob
from sandbox.settings import NODE_PORT, UPSTREAM_HOST

from .load import Client

MOST = 5  # replicas that a test has at a time
# The cache's ports by name, each with its NodePort of ordinal 0.
_PORTS = {"registry": (5000, 30100), "peers": (5005, 30110), "metrics": (5006, 30120)}
_BLOBS = f"/var/lib/registry/upstreams/{UPSTREAM_HOST}/docker/registry/v2/blobs"


def wait(holds: Callable[[], object], seconds: float, what: str) -> float:
    """Until it holds; returns the seconds that took."""
    started = time.monotonic()
    while not holds():
        if time.monotonic() - started > seconds:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.1)
    return time.monotonic() - started


class Replicas:
    """By ordinal. Every replica gets NodePorts of its own, by way of the first node, which no test harms."""

    def __init__(self, cluster: Cluster, authorization: str) -> None:
        self._cluster, self._authorization = cluster, authorization
        self._addresses = {node: cluster.address(node) for node in cluster.nodes}

    def publish(self, there: int = 3) -> None:
        """there: to how many replicas a way is waited for."""
        items = [
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": f"test-{ordinal}", "namespace": NAMESPACE, "labels": {"test": "replicas"}},
                "spec": {
                    "type": "NodePort",
                    "selector": {"statefulset.kubernetes.io/pod-name": self.name(ordinal)},
                    "publishNotReadyAddresses": True,
                    "ports": [{"name": name, "port": port, "nodePort": first + ordinal} for name, (port, first) in _PORTS.items()],
                },
            }
            for ordinal in range(MOST)
        ]
        self._cluster.kubectl(
            "apply", "--filename", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        )

        for ordinal in range(there):
            wait(lambda at=ordinal: self._reached(at), 30, f"a way to replica {ordinal}")

    def _reached(self, ordinal: int) -> bool:
        try:
            socket.create_connection(self.endpoint(ordinal), 1).close()
        except OSError:
            return False
        return True

    def withdraw(self) -> None:
        self._cluster.kubectl("delete", "services", "--namespace", NAMESPACE, "--selector", "test=replicas")

    @staticmethod
    def name(ordinal: int) -> str:
        return f"registry-cache-{ordinal}"

    def endpoint(self, ordinal: int, port: str = "registry") -> tuple[str, int]:
        """Host and port that lead to one of a replica's ports: registry, peers or metrics."""
        return self._addresses[self._cluster.nodes[0]], _PORTS[port][1] + ordinal

    def entry(self, ordinal: int, **options: Any) -> Client:
        """A client whose entry replica is this one."""
        return Client(self.endpoint(ordinal), self._authorization, **options)

    def at(self, node: str, **options: Any) -> Client:
        """A client of a node's NodePort: kube-proxy chooses the entry replica, for each connection."""
        return Client((self._addresses[node], NODE_PORT), self._authorization, **options)

    def pod(self, ordinal: int) -> Any:
        return self._cluster.get("pod", self.name(ordinal), "--namespace", NAMESPACE)

    def node(self, ordinal: int) -> str:
        return self.pod(ordinal)["spec"]["nodeName"]

    def inside(self, ordinal: int, *words: str) -> str:
        """What a command in a replica's container prints."""
        return self._cluster.kubectl("exec", "--namespace", NAMESPACE, self.name(ordinal), "--container", "registry", "--", *words)

    def metrics(self, ordinal: int) -> str:
        """As Prometheus reads them. Raises httpx.HTTPError."""
        host, port = self.endpoint(ordinal, "metrics")
        return httpx.get(f"http://{host}:{port}/metrics", trust_env=False, timeout=10).raise_for_status().text

    def stored(self, ordinal: int) -> set[str]:
        """The digests in a replica's store: of what it owns or has owned, and of what it has passed on from others."""
        script = f'find "{_BLOBS}" -name data 2> /dev/null || true'  # there is no folder before the first blob
        return {f"sha256:{path.split('/')[-2]}" for path in self.inside(ordinal, "sh", "-c", script).split()}

    def holders(self, ordinals: Iterable[int]) -> dict[int, set[str]]:
        with ThreadPoolExecutor(MOST) as executor:
            return dict(zip(ordinals, executor.map(self.stored, ordinals), strict=True))

    def owners(self, name: str, blobs: Sequence[Blob], entry: int, count: int = 3) -> dict[str, int]:
        """The owner of each blob, by digest. They are blobs that nobody has pulled, and are pulled through one replica now.

        Raises AssertionError if more than the owner and that replica keep one.
        """
        with self.entry(entry) as client:
            for blob in blobs:
                client.blob(name, blob)
        digests = {blob.digest for blob in blobs}
        wait(lambda: digests <= self.stored(entry), 10, "pulled blobs on the disk")  # clients do not wait for that
        held = self.holders([ordinal for ordinal in range(count) if ordinal != entry])
        found = {digest: [ordinal for ordinal, has in held.items() if digest in has] or [entry] for digest in digests}
        assert all(len(owners) == 1 for owners in found.values()), found
        return {digest: owner for digest, (owner,) in found.items()}

    def filling(self, count: int = 3) -> int | None:
        """Which replica fetches a blob from the upstream, if any."""
        return next((ordinal for ordinal in range(count) if total(self.metrics(ordinal), "registry_cache_fills")), None)

    def kill(self, ordinal: int) -> bool:
        """SIGKILL to a replica's process. False if there is none and the kubelet waits before it starts the next one."""
        (status,) = self.pod(ordinal)["status"]["containerStatuses"]
        if "waiting" in status["state"]:
            return False
        container = status["containerID"].removeprefix("containerd://")
        self._cluster.on_node(
            "ctr", "--namespace", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", container, node=self.node(ordinal)
        )
        return True

    def delete(self, ordinal: int, force: bool = True) -> None:
        """The pod vanishes at once, or ends as its grace period has it and is replaced afterwards."""
        words = ("--grace-period=0", "--force") if force else ()
        self._cluster.kubectl("delete", "pod", self.name(ordinal), "--namespace", NAMESPACE, "--wait=false", *words)

    def uid(self, ordinal: int) -> str:
        """Of the pod; empty while there is none."""
        uid = ("pod", self.name(ordinal), "--namespace", NAMESPACE, "--ignore-not-found", "--output", "jsonpath={.metadata.uid}")
        return self._cluster.kubectl("get", *uid)

    def restart(self) -> None:
        """Every replica gets a new pod, one after the other, as a changed setting has it."""
        self._cluster.kubectl("rollout", "restart", "statefulset/registry-cache", "--namespace", NAMESPACE)
        self._cluster.kubectl("rollout", "status", "statefulset/registry-cache", "--namespace", NAMESPACE, "--timeout=300s")

    def scale(self, count: int) -> None:
        self._cluster.kubectl("scale", "statefulset/registry-cache", "--namespace", NAMESPACE, f"--replicas={count}")

    def settle(self, count: int, seconds: float = 240) -> float:
        """Until there are `count` pods, all Ready, and each takes `count` replicas for alive; returns the seconds."""
        return wait(lambda: self._settled(count), seconds, f"{count} replicas that know each other")

    def _settled(self, count: int) -> bool:
        pods = self._cluster.get("pods", "--namespace", NAMESPACE, "--selector", "app.kubernetes.io/name=registry-cache")["items"]
        ready = [
            pod
            for pod in pods
            if "deletionTimestamp" not in pod["metadata"]
            and any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))
        ]
        if len(pods) != count or len(ready) != count:
            return False
        with ThreadPoolExecutor(MOST) as executor:
            return all(alive == count for alive in executor.map(self._alive, range(count)))

    def _alive(self, ordinal: int) -> float:
        """How many replicas this one takes for alive, itself among them; 0 while it does not answer."""
        try:
            return total(self.metrics(ordinal), "registry_cache_peers", state="in")
        except httpx.HTTPError:
            return 0
