# SPDX-License-Identifier: GPL-3.0-or-later
"""A run of role `wif` without changes: its requests to Google, and its time compared with a minimal client."""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

from sandbox.client import Google
from sandbox.settings import LOCATION, PROJECT, REPOSITORY, ROOT, Sandbox
from sandbox.steps import say

from .report import Goal, Result

RUNS = 5
_POOL = f"https://iam.googleapis.com/v1/projects/{PROJECT}/locations/global/workloadIdentityPools/registry-cache"
_SERVICES = "&".join(f"names=projects/{PROJECT}/services/{name}.googleapis.com" for name in ("iam", "sts", "artifactregistry"))
# The Google objects in the sandbox's inventory. _BARE has the reads from the cluster.
_READS = (
    f"https://serviceusage.googleapis.com/v1/projects/{PROJECT}/services:batchGet?{_SERVICES}",
    _POOL,
    f"{_POOL}/providers/k8s-sandbox",
    f"https://artifactregistry.googleapis.com/v1/projects/{PROJECT}/locations/{LOCATION}/repositories/{REPOSITORY}:getIamPolicy",
)
_BARE = """
import json, os, sys
import requests, kubernetes
session = requests.Session()
session.headers["Authorization"] = "Bearer " + open(os.environ["SANDBOX_STATE"] + "/google/operator-token").read().strip()
for url in json.loads(sys.argv[1]):
    session.get(url, timeout=30).raise_for_status()
client = kubernetes.config.new_client_from_config()
for path in ("/version", "/.well-known/openid-configuration", "/openid/v1/jwks", "/api/v1/namespaces/kube-system"):
    client.call_api("GET", client.configuration.host + path, header_params={"Accept": "*/*"}).read()
"""

# Ansible packs a module at its first use in a run, so use a different empty module for each module of the role.
_EMPTY = """
from ansible.module_utils.basic import AnsibleModule
{}
AnsibleModule({{}}, supports_check_mode=True).exit_json(changed=False)
"""
# Imports that every module of this kind needs.
_GOOGLE = "from ansible_collections.google.cloud.plugins.module_utils.gcp_utils import GcpSession"
_KUBERNETES = "from ansible_collections.kubernetes.core.plugins.module_utils.k8s.client import get_api_client; import kubernetes"


def _play(folder: pathlib.Path, name: str, **play: Any) -> Callable[[], None]:
    file = folder / f"{name}.json"
    file.write_text(json.dumps([{"hosts": "registry_cache_clusters", "gather_facts": False, **play}]))
    argv = ["ansible-playbook", "--inventory", str(ROOT / "sandbox" / "inventory"), str(file)]
    env = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "playbooks" / "collections")}

    def run() -> None:
        done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        if done.returncode or "changed=0" not in done.stdout:
            raise RuntimeError(f"{name}: {done.stdout}{done.stderr}")

    return run


def _medians(measured: Mapping[str, Callable[[], None]]) -> dict[str, float]:
    """Returns the medians of alternating runs, in seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(RUNS):
        for name, run in measured.items():
            started = time.monotonic()
            run()
            seconds[name].append(time.monotonic() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def results() -> list[Result]:
    """Measures on the cluster `test`, after site.yml has run."""
    google = Google(Sandbox("test"))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        role = _play(folder, "role", roles=["pullthrough.registry_cache.wif"])
        (folder / "library").mkdir()

        def empty(name: str, *imports: str) -> Callable[[], None]:
            modules = [f"{name}_{number}" for number in range(len(imports))]
            for module, line in zip(modules, imports, strict=True):
                (folder / "library" / f"{module}.py").write_text(_EMPTY.format(line))
            return _play(folder, name, tasks=[{module: {}} for module in modules])

        def bare() -> None:
            subprocess.run([sys.executable, "-c", _BARE, json.dumps(_READS)], check=True)

        role()
        google.reset_counters()
        role()
        asked = google.apis()
        # One module per read from Google, and one for the cluster.
        seconds = _medians({
            "role": role,
            "empty": empty("empty", *[""] * (len(_READS) + 1)),
            "importing": empty("importing", *[_GOOGLE] * len(_READS), _KUBERNETES),
            "bare": bare,
        })
    say(f"   {', '.join(f'{name} {value:.1f} s' for name, value in seconds.items())}; asked: {asked}")
    writes = sum(count for request, count in asked.items() if not request.startswith("GET "))
    what = "role wif, a run that changes nothing"
    peer = "the same reads by a bare client, and as many empty modules"
    return [
        Result(f"{what}: requests to Google, {len(_READS)} objects", "", "", sum(asked.values()), None, Goal("ours", "<=", len(_READS))),
        Result(f"{what}: writes", "", "", writes, None, Goal("ours", "<=", 0)),
        Result(
            what, "s", peer, seconds["role"], seconds["empty"] + seconds["bare"], Goal("ratio", "<=", 1.5),
            f"those modules with only the imports of google.cloud and kubernetes.core take {seconds['importing']:.1f} s"
            " without any request; the rest are local tasks of the role and templating of arguments",
        ),
    ]
