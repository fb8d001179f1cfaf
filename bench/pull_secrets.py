# SPDX-License-Identifier: GPL-3.0-or-later
"""Pull secrets of many namespaces: one task of module pull_secrets compared with a loop of kubernetes.core.k8s."""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sandbox.client import Cluster
from sandbox.settings import ROOT
from sandbox.steps import say

from .report import Goal, Result

NAMESPACES, LOOPED, RUNS = 500, 20, 3
_NAME, _LABEL = "bench-pull-secrets", "registry-cache-bench=pull-secrets"
# A cache that does not exist, so that its pull secrets can be removed.
_OWNER = f"{_NAME}/{_NAME}"
_HOSTS = ["localhost:30026", "127.0.0.1:30026"]
_USER = {"name": "bench", "password": "bench-password"}
_SECRET = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson"}
_CONTENT = "{{ %s | pullthrough.registry_cache.dockerconfigjson('bench', 'bench-password') | b64encode }}" % _HOSTS


Run = Callable[[bool], float]


def _play(folder: pathlib.Path, name: str, *tasks: dict[str, Any]) -> Run:
    file = folder / f"{name}.json"
    file.write_text(json.dumps([{"hosts": "registry_cache_clusters", "gather_facts": False, "tasks": tasks}]))
    argv = ["ansible-playbook", "--inventory", str(ROOT / "sandbox" / "inventory"), str(file)]
    env = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "playbooks" / "collections")}

    def run(changes: bool) -> float:
        """Returns the time of the whole run in seconds. `changes`: whether it must change something."""
        started = time.monotonic()
        done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        if done.returncode or ("changed=0" in done.stdout) == changes:
            raise RuntimeError(f"{name}: {done.stdout}{done.stderr}")
        return time.monotonic() - started

    return run


@contextmanager
def _namespaces(cluster: Cluster) -> Iterator[list[str]]:
    names = [f"{_NAME}-{number}" for number in range(NAMESPACES)]
    label = dict([_LABEL.split("=")])
    items = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": label}} for name in names]
    try:
        cluster.kubectl("create", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
        # Wait until controllers have created their objects in each namespace.
        given = ("configmaps", "--all-namespaces", "--output=name", "--field-selector=metadata.name=kube-root-ca.crt")
        while len(cluster.kubectl("get", *given).split()) < NAMESPACES:
            time.sleep(1)
        yield names
    finally:
        cluster.kubectl("delete", "namespaces", "--selector", _LABEL, "--wait=false")


def _measured(ours: Run, absent: Run, loop: Run, empty: Run) -> dict[str, float]:
    """Returns medians in seconds."""
    seconds: dict[str, list[float]] = {"first": [], "again": [], "loop first": [], "loop again": [], "empty": []}
    for _ in range(RUNS):
        seconds["first"].append(ours(True))
        seconds["again"].append(ours(False))
        absent(True)
        seconds["loop first"].append(loop(True))
        seconds["loop again"].append(loop(False))
        absent(True)  # the Secrets of the loop have the same labels
        seconds["empty"].append(empty(False))
    return {name: statistics.median(values) for name, values in seconds.items()}


def results(cluster: Cluster) -> list[Result]:
    """Measures on the cluster in KUBECONFIG."""
    labels = {
        "app.kubernetes.io/instance": _NAME,
        "app.kubernetes.io/managed-by": "pullthrough.registry_cache",
        "registry-cache.pullthrough/namespace": _NAME,
    }
    metadata = {"name": _NAME, "namespace": "{{ item }}", "labels": labels}
    definition = {**_SECRET, "metadata": metadata, "data": {".dockerconfigjson": _CONTENT}}
    bulk = {"owner": _OWNER, "users": [_USER], "name": _NAME, "hosts": _HOSTS, "namespace_selector": _LABEL}
    with tempfile.TemporaryDirectory() as folder, _namespaces(cluster) as names:
        path = pathlib.Path(folder)
        loop = {
            "kubernetes.core.k8s": {"apply": True, "server_side_apply": {"field_manager": "bench"}, "definition": definition},
            "loop": names[:LOOPED],
        }
        seconds = _measured(
            _play(path, "ours", {"pullthrough.registry_cache.pull_secrets": bulk}),
            _play(path, "absent", {"pullthrough.registry_cache.pull_secrets": {"owner": _OWNER, "state": "absent"}}),
            _play(path, "loop", loop),
            _play(path, "empty", {"ansible.builtin.debug": {"msg": ""}}),
        )
    say("   " + ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items()))
    what, peer = f"pull secrets in {NAMESPACES} namespaces", f"a loop of kubernetes.core.k8s, from {LOOPED} namespaces"

    def extrapolated(run: str) -> float:
        # Do not multiply the start of Ansible.
        return seconds["empty"] + (seconds[run] - seconds["empty"]) * NAMESPACES / LOOPED

    return [
        Result(f"{what}, first run", "s", peer, seconds["first"], extrapolated("loop first"), Goal("ratio", "<=", 1 / 20)),
        Result(f"{what}, no change", "s", peer, seconds["again"], extrapolated("loop again"), Goal("ratio", "<=", 1 / 20)),
        Result(f"{what}, no change", "s", "", seconds["again"], None, Goal("ours", "<=", 5)),
    ]
