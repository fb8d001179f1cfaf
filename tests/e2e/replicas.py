# SPDX-License-Identifier: GPL-3.0-or-later
"""Access to single replicas of the cache: requests, stored blobs, metrics, kills."""

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

MOST = 5  # replicas in a test
# The cache's ports by name, with the NodePort of ordinal 0.
_PORTS = {"registry": (5000, 30100), "peers": (5005, 30110), "metrics": (5006, 30120)}
_BLOBS = f"/var/lib/registry/upstreams/{UPSTREAM_HOST}/docker/registry/v2/blobs"


def wait(holds: Callable[[], object], seconds: float, what: str) -> float:
    """Wait until a condition is true. Returns the seconds."""
    started = time.monotonic()
    while not holds():
        if time.monotonic() - started > seconds:
            raise TimeoutError(f"timed out after {seconds:.0f} s waiting for {what}")
        time.sleep(0.1)
    return time.monotonic() - started


class Replicas:
    """Replicas by ordinal. Each gets separate NodePorts, used on the first node, which no test disturbs."""

    def __init__(self, cluster: Cluster, authorization: str) -> None:
        self._cluster, self._authorization = cluster, authorization
        self._addresses = {node: cluster.address(node) for node in cluster.nodes}

    def publish(self, there: int = 3) -> None:
        """Create the NodePorts. there: the number of replicas to wait for."""
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
        """Returns the host and port of one of a replica's ports: registry, peers or metrics."""
        return self._addresses[self._cluster.nodes[0]], _PORTS[port][1] + ordinal

    def entry(self, ordinal: int, **options: Any) -> Client:
        """Returns a client of this replica."""
        return Client(self.endpoint(ordinal), self._authorization, **options)

    def at(self, node: str, **options: Any) -> Client:
        """Returns a client of a node's NodePort, where kube-proxy chooses a replica for each connection."""
        return Client((self._addresses[node], NODE_PORT), self._authorization, **options)

    def pod(self, ordinal: int) -> Any:
        return self._cluster.get("pod", self.name(ordinal), "--namespace", NAMESPACE)

    def node(self, ordinal: int) -> str:
        return self.pod(ordinal)["spec"]["nodeName"]

    def inside(self, ordinal: int, *words: str) -> str:
        """Run a command in a replica's container. Returns its output."""
        return self._cluster.kubectl("exec", "--namespace", NAMESPACE, self.name(ordinal), "--container", "registry", "--", *words)

    def metrics(self, ordinal: int) -> str:
        """Returns a replica's metrics as text. Raises httpx.HTTPError."""
        host, port = self.endpoint(ordinal, "metrics")
        return httpx.get(f"http://{host}:{port}/metrics", trust_env=False, timeout=10).raise_for_status().text

    def stored(self, ordinal: int) -> set[str]:
        """Returns the digests in a replica's store: of blobs that it owns or owned, or passed on."""
        script = f'find "{_BLOBS}" -name data 2> /dev/null || true'  # the folder does not exist before the first blob
        return {f"sha256:{path.split('/')[-2]}" for path in self.inside(ordinal, "sh", "-c", script).split()}

    def holders(self, ordinals: Iterable[int]) -> dict[int, set[str]]:
        with ThreadPoolExecutor(MOST) as executor:
            return dict(zip(ordinals, executor.map(self.stored, ordinals), strict=True))

    def owners(self, name: str, blobs: Sequence[Blob], entry: int, count: int = 3) -> dict[str, int]:
        """Pull new blobs through one replica. Returns the owner of each blob by digest.

        Raises AssertionError if another replica than these two stores a blob.
        """
        with self.entry(entry) as client:
            for blob in blobs:
                client.blob(name, blob)
        digests = {blob.digest for blob in blobs}
        wait(lambda: digests <= self.stored(entry), 10, "pulled blobs on the disk")  # blobs are written after clients got them
        held = self.holders([ordinal for ordinal in range(count) if ordinal != entry])
        found = {digest: [ordinal for ordinal, has in held.items() if digest in has] or [entry] for digest in digests}
        assert all(len(owners) == 1 for owners in found.values()), found
        return {digest: owner for digest, (owner,) in found.items()}

    def filling(self, count: int = 3) -> int | None:
        """Returns the replica that fetches a blob from the upstream, if any."""
        return next((ordinal for ordinal in range(count) if total(self.metrics(ordinal), "registry_cache_fills")), None)

    def kill(self, ordinal: int) -> bool:
        """Kill a replica's process. Returns False if it has none because the kubelet waits before a restart."""
        (status,) = self.pod(ordinal)["status"]["containerStatuses"]
        if "waiting" in status["state"]:
            return False
        container = status["containerID"].removeprefix("containerd://")
        self._cluster.on_node(
            "ctr", "--namespace", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", container, node=self.node(ordinal)
        )
        return True

    def delete(self, ordinal: int, force: bool = True) -> None:
        """Delete the pod, either at once or with its grace period."""
        words = ("--grace-period=0", "--force") if force else ()
        self._cluster.kubectl("delete", "pod", self.name(ordinal), "--namespace", NAMESPACE, "--wait=false", *words)

    def uid(self, ordinal: int) -> str:
        """Returns the uid of the pod, or nothing without one."""
        uid = ("pod", self.name(ordinal), "--namespace", NAMESPACE, "--ignore-not-found", "--output", "jsonpath={.metadata.uid}")
        return self._cluster.kubectl("get", *uid)

    def restart(self) -> None:
        """Replace the pods one after the other, as after a changed setting."""
        self._cluster.kubectl("rollout", "restart", "statefulset/registry-cache", "--namespace", NAMESPACE)
        self._cluster.kubectl("rollout", "status", "statefulset/registry-cache", "--namespace", NAMESPACE, "--timeout=300s")

    def scale(self, count: int) -> None:
        self._cluster.kubectl("scale", "statefulset/registry-cache", "--namespace", NAMESPACE, f"--replicas={count}")

    def settle(self, count: int, seconds: float = 240) -> float:
        """Wait until `count` pods are Ready and know each other. Returns the seconds."""
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
        """Returns how many replicas this one considers alive, including itself; 0 if it does not answer."""
        try:
            return total(self.metrics(ordinal), "registry_cache_peers", state="in")
        except httpx.HTTPError:
            return 0
