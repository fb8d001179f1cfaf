# SPDX-License-Identifier: GPL-3.0-or-later
"""What the preflight of the roles refuses, with an API server in this process: one run, with a host for each case."""

from __future__ import annotations

import copy
import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.owner import Owner

from sandbox.settings import ROOT
from tests.unit.plugins.kubernetes_api import ApiServer

UPSTREAMS = [{"host": "us-central1-docker.pkg.dev", "repositories": ["my-project/my-repository"]}]
GOOD = {"registry_cache_upstreams": UPSTREAMS, "registry_cache_users": [{"name": "nodes"}]}
HELM = {"app.kubernetes.io/managed-by": "Helm"}
# The variables of each host in addition to GOOD. By default, each has a namespace with its name and a port.
CASES: dict[str, dict[str, Any]] = {
    # Only digits, which YAML must not read as a number.
    "123": {"registry_cache_users": [{"name": "456", "password": "789"}]},
    "foreign": {},
    "leaving": {},
    "types": {"registry_cache_ca_bundle": ["ca.pem"], "registry_cache_verify_image": 5, "registry_cache_users": {"name": "nodes"}},
    "twin-1": {"registry_cache_namespace": "twin"},
    "twin-2": {"registry_cache_namespace": "twin"},
    "port-1": {"registry_cache_node_port": 31000},
    "port-2": {"registry_cache_node_port": 31000},
    "open": {
        "registry_cache_auth": "none",
        "registry_cache_auth_none_confirmed": True,
        "registry_cache_users": [{"name": "nodes", "password": "known"}, {"name": "team-a"}],
        "registry_cache_pull_secret_namespaces": ["open"],
    },
    # All that is checked only with the state present is wrong, and the namespace is being deleted.
    "gone": {
        "registry_cache_state": "absent",
        "registry_cache_upstreams": [],
        "registry_cache_users": [],
        "registry_cache_verify_image": "docker.io/library/hello:1.0",
        "registry_cache_ca_bundle": "/no/such/ca.pem",
        "registry_cache_storage": "volumeClaim",
        "registry_cache_node_port": 31999,
        "registry_cache_namespace_create": False,
        "registry_cache_prometheus_operator": True,
    },
}
# The words of each message. Hosts that are not listed pass.
REFUSED: dict[str, tuple[str, ...]] = {
    "foreign": (
        "registry_cache_name",
        "Service registry-cache-replicas (managed by Helm)",
        "Secret registry-cache-peers (no label",
        "Example: ",
    ),
    "leaving": ("registry_cache_namespace: namespace leaving is being deleted", "Run again when it is gone"),
    "types": (
        "registry_cache_ca_bundle must be a path as text (got a list). Example: registry_cache_ca_bundle: /",
        "registry_cache_verify_image must be text (got a number). Put it in quotes. Example: registry_cache_verify_image: us-",
        "registry_cache_users must be a list (got a mapping). Example: registry_cache_users: [{",
    ),
    "twin-1": ("registry_cache_namespace", "hosts twin-1 and twin-2", "twin/registry-cache"),
    "twin-2": ("registry_cache_namespace", "hosts twin-2 and twin-1"),
    "port-1": ("registry_cache_node_port", "hosts port-1 and port-2", "31000", "Example: registry_cache_node_port: 31001"),
    "port-2": ("registry_cache_node_port", "hosts port-2 and port-1"),
    "open": ("registry_cache_auth: none", "user team-a", "Example"),
}


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    running = ApiServer()
    for name in ("kube-system", "123", "foreign", "twin", "port-1", "port-2", "open", "types"):
        running.namespace(name)
    for name in ("leaving", "gone"):
        running.namespace(name, leaving=True)
    for namespace in ("foreign", "gone"):
        running.add("services", namespace, "registry-cache-replicas", metadata={"labels": dict(HELM)}, spec={})
        running.add("secrets", namespace, "registry-cache-peers", data={})
    running.add("services", "foreign", "squatter", spec={"ports": [{"port": 80, "nodePort": 31999}]})
    stateful_set = {"template": {"spec": {"containers": []}}}
    running.add("statefulsets", "gone", "other", metadata={"labels": Owner("gone", "other").labels}, spec=stateful_set)
    yield running
    running.close()


@pytest.fixture(scope="module")
def said(server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """Returns the failures and the recap line of each host. No host changes anything."""
    folder = tmp_path_factory.mktemp("preflight")
    kubeconfig = {
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server.url}}],
        "users": [{"name": "u", "user": {"token": "cluster-token"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    (folder / "kubeconfig").write_text(json.dumps(kubeconfig))
    common = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    common["registry_cache_kubeconfig"] = str(folder / "kubeconfig")
    hosts = {
        host: {"registry_cache_namespace": host, "registry_cache_node_port": 30100 + number, **GOOD, **variables}
        for number, (host, variables) in enumerate(CASES.items())
    }
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts, "vars": common}}))

    def role(name: str, entry_point: str, **task: Any) -> dict[str, Any]:
        return {"ansible.builtin.include_role": {"name": f"pullthrough.registry_cache.{name}", "tasks_from": entry_point}, **task}

    tasks = [
        role("cache", "preflight"),
        role("pull_secret", "preflight", when="inventory_hostname == 'open'"),
        role("cache", "main", when="registry_cache_state | default('') == 'absent'"),
    ]
    (folder / "play.json").write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "K8S_AUTH_", "KUBECONFIG"))}
    environment |= {
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "playbooks" / "collections"),
        "ANSIBLE_NOCOLOR": "1",
        # The user who runs this may have no home directory.
        "ANSIBLE_REMOTE_TMP": str(folder / "tmp"),
        "HOME": str(folder),
        "TMPDIR": str(folder),
    }
    before = copy.deepcopy(server.objects)
    argv = [str(pathlib.Path(sys.prefix) / "bin" / "ansible-playbook"), "--forks", "2", "--inventory", str(folder / "hosts.json")]
    result = subprocess.run([*argv, str(folder / "play.json")], env=environment, capture_output=True, text=True, check=False, cwd=folder)
    assert server.objects == before and not server.writes, server.writes
    ran, recap = result.stdout.split("PLAY RECAP", 1)
    return {
        host: (
            "".join(re.findall(rf"^(?:fatal|failed): \[{host}\].*$", ran, re.M)).replace('\\"', '"'),
            re.findall(rf"^{host} .*$", recap, re.M)[0],
        )
        for host in CASES
    }


@pytest.mark.parametrize("case", CASES)
def test_preflight(said: dict[str, tuple[str, str]], case: str) -> None:
    failures, recap = said[case]
    assert re.search(r"\bchanged=0\b", recap), recap
    assert f"failed={int(case in REFUSED)}" in recap, f"{failures}\n{recap}"
    for words in REFUSED.get(case, ()):
        assert words in failures, failures
