# SPDX-License-Identifier: GPL-3.0-or-later
"""The cache's replicas one by one: a way to each, what each has stored, and their ends."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sandbox.client import NAMESPACE, Cluster
from sandbox.settings import NODE_PORT, PROJECT, REPOSITORY, UPSTREAM_HOST

from .load import Client

MOST = 5  # replicas that a test has at a time
_FRONT_PORT, _HOP_PORT = 30100, 30110  # of ordinal 0 on every node
# The form of the cache that the scenario made: the front, or the one program.
PROGRAM = os.environ.get("TEST_FORM") == "program"
_STORE = f"/var/lib/registry/{f'upstreams/{UPSTREAM_HOST}/' if PROGRAM else ''}docker/registry/v2"


def wait(holds: Callable[[], object], seconds: float, what: str) -> float:
    """Until it holds; returns the seconds that took."""
    started = time.monotonic()
    while not holds():
        if time.monotonic() - started > seconds:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.1)
    return time.monotonic() - started


class Replicas:
    """By ordinal. Every replica gets a NodePort of its own, by way of the first node, which no test harms."""

    def __init__(self, cluster: Cluster, authorization: str) -> None:
        self._cluster, self._authorization = cluster, authorization
        self._addresses = {node: cluster.address(node) for node in cluster.nodes}

    def publish(self, there: int = 3) -> None:
        """there: to how many replicas a way is waited for."""
        items = [
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": f"test-{ordinal}", "namespace": NAMESPACE, "labels": {"test": "front"}},
                "spec": {
                    "type": "NodePort",
                    "selector": {"statefulset.kubernetes.io/pod-name": self.name(ordinal)},
                    "publishNotReadyAddresses": True,
                    "ports": [
                        {"name": "front", "port": 5000, "nodePort": _FRONT_PORT + ordinal},
                        {"name": "hop", "port": 5005, "nodePort": _HOP_PORT + ordinal},
                    ],
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
            socket.create_connection(self.front(ordinal), 1).close()
        except OSError:
            return False
        return True

    def withdraw(self) -> None:
        self._cluster.kubectl("delete", "services", "--namespace", NAMESPACE, "--selector", "test=front")

    @staticmethod
    def name(ordinal: int) -> str:
        return f"registry-cache-{ordinal}"

    def front(self, ordinal: int) -> tuple[str, int]:
        return self._addresses[self._cluster.nodes[0]], _FRONT_PORT + ordinal

    def hop(self, ordinal: int) -> tuple[str, int]:
        return self._addresses[self._cluster.nodes[0]], _HOP_PORT + ordinal

    def entry(self, ordinal: int, **options: Any) -> Client:
        """A client whose entry replica is this one."""
        return Client(self.front(ordinal), self._authorization, **options)

    def at(self, node: str, **options: Any) -> Client:
        """A client of a node's NodePort: kube-proxy chooses the entry replica, for each connection."""
        return Client((self._addresses[node], NODE_PORT), self._authorization, **options)

    def pod(self, ordinal: int) -> Any:
        return self._cluster.get("pod", self.name(ordinal), "--namespace", NAMESPACE)

    def node(self, ordinal: int) -> str:
        return self.pod(ordinal)["spec"]["nodeName"]

    def inside(self, ordinal: int, container: str, *words: str) -> str:
        return self._cluster.kubectl("exec", "--namespace", NAMESPACE, self.name(ordinal), "--container", container, "--", *words)

    def stored(self, ordinal: int) -> set[str]:
        """The digests in a replica's registry: those of whose keys it is, or was, the owner."""
        script = f'find "{_STORE}/blobs" -name data 2> /dev/null || true'  # there is no folder before the first blob
        found = self.inside(ordinal, "registry", "sh", "-c", script).split()
        return {f"sha256:{path.split('/')[-2]}" for path in found}

    def holders(self, ordinals: Iterable[int]) -> dict[int, set[str]]:
        with ThreadPoolExecutor(MOST) as executor:
            return dict(zip(ordinals, executor.map(self.stored, ordinals), strict=True))

    def filling(self, name: str, count: int = 3) -> int | None:
        """Which registry is about to store a blob for an image of this name, if any."""
        folder = f"{_STORE}/repositories/{PROJECT}/{REPOSITORY}/{name}/_uploads"
        script = f'find "{folder}" -name data -size +0 2> /dev/null || true'
        with ThreadPoolExecutor(MOST) as executor:
            found = list(executor.map(lambda ordinal: self.inside(ordinal, "registry", "sh", "-c", script), range(count)))
        return next((ordinal for ordinal in range(count) if found[ordinal].strip()), None)

    def kill_registry(self, ordinal: int) -> bool:
        """SIGKILL to the registry's process. False if there is none and the kubelet waits before it starts the next one."""
        return self.kill(ordinal, "registry")

    def kill(self, ordinal: int, name: str) -> bool:
        """SIGKILL to a container's process. False if there is none and the kubelet waits before it starts the next one."""
        status = self.pod(ordinal)["status"]
        statuses = [*status.get("initContainerStatuses", []), *status["containerStatuses"]]
        found = next(item for item in statuses if item["name"] == name)
        if "waiting" in found["state"]:
            return False
        container = found["containerID"].removeprefix("containerd://")
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
        """Until there are `count` pods, all Ready, and each front takes `count` for alive; returns the seconds."""
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
        if PROGRAM:
            return True
        with ThreadPoolExecutor(MOST) as executor:
            return all(alive == count for alive in executor.map(self._alive, range(count)))

    def _alive(self, ordinal: int) -> int:
        """How many replicas the front of this one takes for alive."""
        shown = self.inside(ordinal, "front", "varnishadm", "-n", "/run/registry-cache/front", "backend.list", "*.peer*")
        return sum(" healthy " in line for line in shown.splitlines())
