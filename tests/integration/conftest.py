# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures on a sandbox in which site.yml has run; the `site` scenario runs these tests."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import subprocess
from collections.abc import Callable, Sequence

import pytest

from sandbox.client import Cache, Cluster, Google
from sandbox.settings import ROOT, Sandbox

Site = Callable[..., "subprocess.CompletedProcess[str]"]
Play = Callable[..., "subprocess.CompletedProcess[str]"]


# Those that leave another cache than they found, in this order, after all that share one.
LAST = ("test_impersonation", "test_uninstall")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return LAST.index(item.path.stem) if item.path.stem in LAST else -1

    items.sort(key=place)


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    return Sandbox(os.environ["SANDBOX"])


@pytest.fixture(scope="session")
def cluster(sandbox: Sandbox) -> Cluster:
    return Cluster(sandbox)


@pytest.fixture(scope="session")
def google(sandbox: Sandbox) -> Google:
    return Google(sandbox)


@pytest.fixture(scope="session")
def cache(sandbox: Sandbox) -> Cache:
    return Cache(sandbox)


def _ansible(playbook: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a playbook on the sandbox; returns its end and output."""
    # Without what molecule tells its own ansible-playbook: colours, and failures on standard error.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    command = ["ansible-playbook", "--inventory", "sandbox/inventory", playbook, *arguments]
    return subprocess.run(command, cwd=ROOT, env=plain | environment, check=False, capture_output=True, text=True)


@pytest.fixture(scope="session")
def site() -> Site:
    """Runs playbooks/site.yml with further arguments and environment."""
    return functools.partial(_ansible, "playbooks/site.yml")


@pytest.fixture
def play(tmp_path: pathlib.Path) -> Play:
    """Runs entry points of roles of this collection, in one play, with further arguments."""

    def run(entry_points: Sequence[tuple[str, str]], *arguments: str) -> subprocess.CompletedProcess[str]:
        tasks = [
            {"ansible.builtin.include_role": {"name": f"pullthrough.registry_cache.{role}", "tasks_from": entry_point}}
            for role, entry_point in entry_points
        ]
        path = tmp_path / "play.json"
        path.write_text(json.dumps([{"hosts": "registry_cache_clusters", "gather_facts": False, "tasks": tasks}]))
        return _ansible(str(path), *arguments, ANSIBLE_COLLECTIONS_PATH=str(ROOT / "playbooks" / "collections"))

    return run
