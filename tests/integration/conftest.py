# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures on a sandbox in which site.yml has run; the `site` scenario runs these tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest

from sandbox.client import Cache, Cluster, Google
from sandbox.settings import ROOT, Sandbox

Site = Callable[..., "subprocess.CompletedProcess[str]"]


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


@pytest.fixture(scope="session")
def site() -> Site:
    """Runs playbooks/site.yml on the sandbox with further arguments and environment; returns its end and output."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = ["ansible-playbook", "--inventory", "sandbox/inventory", "playbooks/site.yml", *arguments]
        # Without what molecule tells its own ansible-playbook: colours, and failures on standard error.
        plain = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        plain |= environment
        return subprocess.run(command, cwd=ROOT, env=plain, check=False, capture_output=True, text=True)

    return run
