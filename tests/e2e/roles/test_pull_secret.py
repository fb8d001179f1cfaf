# SPDX-License-Identifier: GPL-3.0-or-later
"""The role pull_secret in ansible-playbook, with an API server in this process."""

from __future__ import annotations

import base64
import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.settings import ROOT
from tests.unit.plugins.kubernetes_api import ApiServer

USERS = [{"name": "nodes", "password": "of-the-nodes"}, {"name": "ci", "hash": "$2b$05$x", "pull_secret": {"namespaces": []}}]
FIRST = {"registry_cache_namespace": "registry-cache", "registry_cache_pull_secret_controller": "external_secrets"}
SECOND = {"registry_cache_namespace": "team-b", "registry_cache_node_port": 30027, "registry_cache_pull_secret_labels": {"team": "b"}}
# The documented uninstall, without any other variables.
ABSENT = {"registry_cache_pull_secret_state": "absent", "registry_cache_users": [], "registry_cache_pull_secret_controller": "none"}


@pytest.fixture
def server() -> Iterator[ApiServer]:
    running = ApiServer()
    for name in ("registry-cache", "team-b", "default"):
        running.namespace(name)
    running.external_secrets = True
    yield running
    running.close()


def play(server: ApiServer, folder: pathlib.Path, *runs: dict[str, Any]) -> tuple[int, str, list[int]]:
    """Returns the exit code, the output, and the number of changed tasks of each run of the role."""
    common = {
        "registry_cache_users": USERS,
        "registry_cache_pull_secret_namespaces": ["default"],
        "registry_cache_pull_secret_service_accounts": ["default"],
        "ansible_python_interpreter": sys.executable,
    }
    role = "pullthrough.registry_cache.pull_secret"
    tasks = [{"ansible.builtin.include_role": {"name": role, "tasks_from": entry}} for entry in ("preflight", "main")]
    hosts = {f"run-{number}": {"ansible_connection": "local", **common, **run} for number, run in enumerate(runs)}
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts}}))
    plays = [{"hosts": name, "gather_facts": False, "tasks": tasks} for name in hosts]
    (folder / "play.json").write_text(json.dumps(plays))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "K8S_", "KUBE"))}
    environment |= {
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "playbooks" / "collections"),
        "ANSIBLE_NOCOLOR": "1",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "K8S_AUTH_HOST": server.url,
        "K8S_AUTH_API_KEY": "cluster-token",
    }
    command = ["ansible-playbook", "--inventory", str(folder / "hosts.json"), str(folder / "play.json")]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=570)
    recap = done.stdout.partition("PLAY RECAP")[2]
    for password in ("of-the-nodes", "in-force"):
        assert password not in done.stdout + done.stderr
    changed = dict(re.findall(r"(run-\d+) .* changed=(\d+)", recap))
    return done.returncode, " ".join((done.stdout + done.stderr).split()), [int(changed.get(name, 0)) for name in hosts]


def test_two_caches_with_default_names_and_the_removal_of_one(server: ApiServer, tmp_path: pathlib.Path) -> None:
    server.hold(json.dumps({"nodes": {"now": {"name": "nodes.g1", "password": "in-force"}}}), "team-b")
    code, output, changed = play(server, tmp_path, FIRST, SECOND, {**FIRST, **ABSENT})
    assert code == 0, output
    assert all(changed), output
    assert set(server.secrets()) == {"team-b/registry-cache-passwords", "default/registry-cache.team-b"}
    made = server.secrets()["default/registry-cache.team-b"]
    assert made["metadata"]["labels"]["team"] == "b" and server.bound("default") == ["registry-cache.team-b"]
    # The password in the cache, not the one in the inventory.
    (entry,) = {json.dumps(one) for one in json.loads(base64.b64decode(made["data"][".dockerconfigjson"]))["auths"].values()}
    assert json.loads(entry)["username"] == "nodes.g1"
    assert not [key for key in server.objects if key[0].startswith("cluster")]


def test_a_foreign_secret_is_refused(server: ApiServer, tmp_path: pathlib.Path) -> None:
    server.add("secrets", "default", "registry-cache", metadata={"labels": {"app.kubernetes.io/managed-by": "Helm"}})
    code, output, changed = play(server, tmp_path, FIRST)
    assert code != 0 and changed == [0] and server.writes == []
    assert "name: Secret default/registry-cache (managed by Helm) already exists" in output
    assert "Example: name: registry-cache-pull" in output and "registry_cache_pull_secret_name" in output
