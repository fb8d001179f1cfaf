# SPDX-License-Identifier: GPL-3.0-or-later
"""The last tests of the scenario: a complete uninstall, then an installation by a new user from the built artifact."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil

from sandbox.client import NAMESPACE, Cache, Cluster, Google
from sandbox.settings import ROOT
from tests.e2e import objects
from tests.e2e.conftest import Site
from tests.e2e.galaxy.project import Project
from tools import artifact

from .test_site import IAM, PROVIDER, changed, state

ABSENT = ("state", "wif_state", "pull_secret_state")


EXTRA = ("--extra-vars", json.dumps({f"registry_cache_{name}": "absent" for name in ABSENT}))


def test_check_mode_of_absent_changes_nothing(site: Site, google: Google) -> None:
    before = google.policy()
    assert before["bindings"]
    check = site("--check", *EXTRA)
    assert check.returncode == 0 and changed(check.stdout) > 0, check.stdout
    assert google.policy() == before


def test_absent_ignores_a_node_port_of_another_service(site: Site, cluster: Cluster) -> None:
    cluster.kubectl("create", "service", "nodeport", "squatter", "--namespace", "demo", "--tcp=80", "--node-port=30027")
    try:
        result = site("--tags", "preflight", *EXTRA, "--extra-vars", "registry_cache_node_port=30027")
        assert result.returncode == 0, result.stdout
    finally:
        cluster.kubectl("delete", "service", "squatter", "--namespace", "demo")


def test_absent(site: Site, cluster: Cluster, google: Google) -> None:
    """No object of the cache is left. The topic `ownership` compares all objects before and after."""
    kinds = {name.split()[0] for name in objects.ours(cluster)}
    assert {"Namespace", "Service", "StatefulSet.apps", "ConfigMap", "Secret", "ServiceAccount"} <= kinds
    assert google.policy()["bindings"]
    result = site(*EXTRA)
    assert result.returncode == 0, result.stdout
    assert objects.left(lambda: objects.ours(cluster), {}) == []
    assert NAMESPACE not in {item["metadata"]["name"] for item in cluster.get("namespaces")["items"]}
    assert cluster.get("secrets", "--namespace", "demo")["items"] == []
    assert google.call("GET", IAM, PROVIDER)["state"] == "DELETED"
    assert not google.policy().get("bindings")


def test_absent_again_changes_nothing(site: Site) -> None:
    again = site(*EXTRA)
    assert again.returncode == 0 and changed(again.stdout) == 0, again.stdout


def test_an_empty_project_reaches_a_working_cache(tmp_path: pathlib.Path, cluster: Cluster, cache: Cache) -> None:
    """With only requirements.yml, an inventory and archives. Then a second version, which changes only what differs."""
    project = Project(tmp_path / "project", os.environ)
    shutil.copytree(ROOT / "sandbox" / "inventory", project.path / "inventory")
    archives = [artifact.dependency(name) for name in ("kubernetes.core", "google.cloud")]
    project.install(artifact.build(tmp_path / "first"), *archives)
    command = ("ansible-playbook", "-i", "inventory", "pullthrough.registry_cache.site")
    first = project.run(*command)
    assert first.returncode == 0 and changed(first.stdout) > 0, first.stdout + first.stderr
    assert cache.manifest("hello", "1.0").status_code == 200

    source = artifact.clone(tmp_path / "source")
    galaxy, template = source / "galaxy.yml", source / "roles/cache/templates/disruption-budget.yml.j2"
    galaxy.write_text(re.sub(r"(?m)^version: .*", "version: 9.9.9", galaxy.read_text()))
    template.write_text(template.read_text().replace("metadata:\n", "metadata:\n  annotations: {version: second}\n", 1))
    project.install(artifact.build(tmp_path / "second", source), *archives)
    before = state(cluster)
    second = project.run(*command)
    assert second.returncode == 0 and changed(second.stdout) == 1, second.stdout + second.stderr
    after = state(cluster)
    assert {name for name in before | after if before.get(name) != after.get(name)} == {
        f"PodDisruptionBudget/{NAMESPACE}/registry-cache"
    }
