# SPDX-License-Identifier: GPL-3.0-or-later
"""Shared by tests of real programs: selection by tier, a line for each finished test, and fixtures on a sandbox."""

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
Record = Callable[[str, object], None]  # a measurement of bench.kind

# These files change the cache for later tests, so they run last in their scenario, in this order.
LAST = ("test_stock", "test_impersonation", "test_uninstall")
# Set by the runner: the tier, and a file for lines that pytest itself would show too late.
_TIER, _PROGRESS = "TEST_TIER", "TEST_PROGRESS"
_seconds: dict[str, float] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Select tests: in `make test` those that prove a promise, else all."""
    items.sort(key=lambda item: LAST.index(item.path.stem) if item.path.stem in LAST else -1)
    if os.environ.get(_TIER, "e2e") != "test":
        return
    chosen = tiers.Selection()
    if missing := chosen.missing(item.nodeid for item in items):
        raise pytest.UsageError(f"tests/tiers.toml names tests that do not exist: {', '.join(missing)}")
    left = [item for item in items if item.nodeid not in chosen]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item.nodeid in chosen]


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Print no dots, since every test gets a line."""
    if report.when == "call" and report.passed:
        return "passed", "", "PASSED"
    return None


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Print a finished test with its seconds, including setup and teardown."""
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
    """The Authorization header of the cache's user."""
    return basic(USER, cache.password)


def ansible(playbook: str, *arguments: str, tree: pathlib.Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a playbook of a clone on the sandbox. Returns the finished process with its output."""
    # Without molecule's settings for its own ansible-playbook: colours, and failures on standard error.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    command = ["ansible-playbook", "--inventory", "sandbox/inventory", playbook, *arguments]
    return subprocess.run(command, cwd=tree, env=plain | environment, check=False, capture_output=True, text=True)


@pytest.fixture(scope="session")
def site() -> Site:
    """Runs playbooks/site.yml with more arguments and variables."""
    return functools.partial(ansible, "playbooks/site.yml")


@pytest.fixture
def play(tmp_path: pathlib.Path) -> Play:
    """Runs entry points of this collection's roles in one play, with more arguments."""

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
    """Pushes a new image, which the cache does not have: push(name, sizes, content=None)."""
    with operator_client(sandbox) as client:

        def new(name: str, sizes: Sequence[int], content: str | None = None) -> Image:
            return seed.push(client, f"test-{name}-{secrets.token_hex(4)}", "1.0", sizes, content)

        yield new


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str]) -> Say:
    """Prints a measurement, even if pytest captures output."""

    def shown(text: str) -> None:
        if _PROGRESS in os.environ:
            _line(f"  {text}")
        with capfd.disabled():
            print(f"\n  {text}", flush=True)

    return shown
