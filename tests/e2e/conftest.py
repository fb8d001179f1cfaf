# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests on real programs share: the choice by tier, a line for each test as it ends, and fixtures on a sandbox."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import secrets
import subprocess
from collections.abc import Callable, Iterator, Sequence

import pytest

from sandbox import seed
from sandbox.client import USER, Cache, Cluster, Google, operator_client
from sandbox.seed import Image
from sandbox.settings import ROOT, Sandbox
from tools import tiers

from .load import basic

Site = Callable[..., "subprocess.CompletedProcess[str]"]
Play = Callable[..., "subprocess.CompletedProcess[str]"]
Push = Callable[..., Image]
Say = Callable[[str], None]
Record = Callable[[str, object], None]  # a measure of bench.kind

# Those that leave another cache than they found, in this order, after all of their scenario that share one.
LAST = ("test_stock", "test_impersonation", "test_uninstall")
# Set by the runner: the tier, and a file for the lines of what pytest's own output shows too late.
_TIER, _PROGRESS = "TEST_TIER", "TEST_PROGRESS"
_seconds: dict[str, float] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In `make test` only what proves a promise runs; by hand and in `make e2e`, everything."""
    items.sort(key=lambda item: LAST.index(item.path.stem) if item.path.stem in LAST else -1)
    if os.environ.get(_TIER, "e2e") != "test":
        return
    chosen = tiers.Selection()
    if missing := chosen.missing(item.nodeid for item in items):
        raise pytest.UsageError(f"tests/tiers.toml names tests that are not there: {', '.join(missing)}")
    left = [item for item in items if item.nodeid not in chosen]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item.nodeid in chosen]


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """No dots: every test has a line of its own."""
    if report.when == "call" and report.passed:
        return "passed", "", "PASSED"
    return None


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Show a test that has ended, with the seconds it took, set-up and tear-down included."""
    _seconds[report.nodeid] = _seconds.get(report.nodeid, 0) + report.duration
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        reason = " ".join((crash.message if crash else report.longreprtext).split())
        _line(f"FAILED {report.nodeid} - {reason[:400]}")
    if report.when == "teardown":
        _line(f"{_seconds.pop(report.nodeid):7.1f} s  {report.nodeid.removeprefix('tests/e2e/')}")


def _line(text: str) -> None:
    if path := os.environ.get(_PROGRESS):
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{text}\n")
    else:
        print(text, flush=True)


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
def authorization(cache: Cache) -> str:
    """The header with which the cache's user pulls."""
    return basic(USER, cache.password)


def ansible(playbook: str, *arguments: str, tree: pathlib.Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a playbook of a tree of this project on the sandbox; returns its end and output."""
    # Without what molecule tells its own ansible-playbook: colours, and failures on standard error.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    command = ["ansible-playbook", "--inventory", "sandbox/inventory", playbook, *arguments]
    return subprocess.run(command, cwd=tree, env=plain | environment, check=False, capture_output=True, text=True)


@pytest.fixture(scope="session")
def site() -> Site:
    """Runs playbooks/site.yml with further arguments and environment."""
    return functools.partial(ansible, "playbooks/site.yml")


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
        return ansible(str(path), *arguments, ANSIBLE_COLLECTIONS_PATH=str(ROOT / "playbooks" / "collections"))

    return run


@pytest.fixture(scope="session")
def push(sandbox: Sandbox) -> Iterator[Push]:
    """Pushes an image that the cache has never seen: push(name, sizes, content=None)."""
    with operator_client(sandbox) as client:

        def new(name: str, sizes: Sequence[int], content: str | None = None) -> Image:
            return seed.push(client, f"test-{name}-{secrets.token_hex(4)}", "1.0", sizes, content)

        yield new


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str]) -> Say:
    """Prints one measured line, whatever pytest captures."""

    def shown(text: str) -> None:
        if _PROGRESS in os.environ:
            _line(f"  {text}")
        with capfd.disabled():
            print(f"\n  {text}", flush=True)

    return shown
