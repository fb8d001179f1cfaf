# SPDX-License-Identifier: GPL-3.0-or-later
"""`make bench-kind`: measurements that need a cluster. The tests with three replicas measure, and this makes a table of the results."""

from __future__ import annotations

import datetime
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET

from sandbox.client import Cluster
from sandbox.settings import ROOT, Sandbox
from sandbox.steps import say

from . import machine, pull_secrets, report, wif
from .report import Goal, Result

BUDGET_SECONDS = 30 * 60
_SERVING, _FAULTS = "tests/e2e/serving/test_", "tests/e2e/faults/test_faults.py::test_"
# The tests that measure, by molecule scenario, whose converge.yml runs first.
TESTS = {
    "serving": (
        f"{_SERVING}outages.py",
        f"{_SERVING}fill.py::test_one_upstream_get_in_a_slow_fill[60 s]",
        f"{_SERVING}rolling_restart.py",
    ),
    "faults": (f"{_FAULTS}upstream_out[hangs]", f"{_FAULTS}start_while_upstream_is_out", f"{_FAULTS}rolling_restart"),
}
# Goals, by the names under which the tests record their measurements.
GOALS = {
    "pulls failed, scaling 2 → 5 → 3": 0,
    "pulls failed, owner's registry killed": 0,
    "pulls failed, owner's pod deleted without grace": 0,
    "pulls failed, owner's node cut off": 0,
    "pulls failed, owner's node paused": 0,
    "pulls cut or failed, node drained": 0,
    "keys served by another replica, owner's node cut off [s]": 2,
    "keys served by another replica, owner's node paused [s]": 2,
    "100 clients through a fill of 60 s: upstream GETs": 1,
    "100 clients through a fill of 60 s: first byte, slowest [s]": 0.5,
    "100 clients through a fill of 60 s: p99 of the ends, from its start [s]": 63,
    "pulls failed, rolling restart with empty disks, 128 MiB": 0,
    "rolling restart with empty disks: bytes fetched again, of 128 MiB": 0.1,
    "pulls failed, rolling restart with empty disks, 5 GiB": 0,
    "rolling restart with empty disks: bytes fetched again, of 5 GiB": 0.1,
    "cached tag, upstream hanging: first [s]": 2.5,
    "cached tag, upstream hanging: next [s]": 0.05,
    "uncached tag or blob, upstream hanging: first [s]": 10,
    "uncached tag or blob, upstream hanging: next [s]": 0.05,
    "cached tag, upstream back: time to fresh [s]": 5,
    "start while the upstream hangs: seconds to serve cached content": 10,
    "start while the upstream refuses: seconds to serve cached content": 10,
    "pulls cut by a rolling restart, 300 MB blobs": 0,
}


def measured(junit: pathlib.Path) -> dict[str, float]:
    """Returns the measurements that the tests have recorded, by name."""
    # The file was written by our own pytest run.
    properties = ET.parse(junit).iter("property")
    return {item.attrib["name"]: float(item.attrib["value"]) for item in properties}


def results(found: dict[str, float]) -> list[Result]:
    """Returns a row for each goal. A goal without a measurement is missed."""
    if unknown := sorted(set(found) - set(GOALS)):
        raise ValueError(f"measured, but without a goal in bench/kind.py: {', '.join(unknown)}")
    missing = "not measured: the test ended earlier"
    return [
        Result(name, "", "", found.get(name), None, Goal("ours", "<=", bound), "" if name in found else missing)
        for name, bound in GOALS.items()
    ]


def tested(scenario: str) -> tuple[bool, dict[str, float]]:
    """Returns whether the scenario's tests passed on the cluster `test`, and their measurements."""
    # Use this clone instead of an installed collection, which Ansible would not find next to molecule's playbooks.
    env = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "playbooks" / "collections")}
    playbook = f"molecule/{scenario}/converge.yml"
    subprocess.run(["ansible-playbook", "--inventory", "sandbox/inventory", playbook], cwd=ROOT, env=env, check=True)
    with tempfile.TemporaryDirectory() as folder:
        junit = pathlib.Path(folder) / "junit.xml"
        argv = [sys.executable, "-m", "pytest", "-q", "--tb=short", f"--junitxml={junit}", *TESTS[scenario]]
        return subprocess.run(argv, cwd=ROOT, check=False).returncode == 0, measured(junit)


def main() -> None:
    started, cluster = time.monotonic(), Cluster(Sandbox("test"))
    passed, found = tested("serving")
    others = [*wif.results(), *pull_secrets.results(cluster)]
    unharmed, more = tested("faults")
    table = [*results({**found, **more}), *others]
    nodes = ", ".join(cluster.runtime(node).removeprefix("containerd://") for node in cluster.nodes)
    facts = {
        "date": datetime.datetime.now(tz=datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": machine.commit(),
        "machine": machine.describe(),
        "cluster": f"{len(cluster.nodes)} nodes of kind with containerd {nodes}; 3 replicas unless the row says another number",
    }
    print(report.table(table))
    report.write(table, facts, stem="kind")
    seconds = time.monotonic() - started
    say(f"{seconds / 60:.1f} min" + ("" if seconds < BUDGET_SECONDS else f": OVER THE BUDGET of {BUDGET_SECONDS // 60} min"))
    missed = [result.name for result in table if not result.met]
    if missed or not (passed and unharmed):
        say("\n".join(["goals missed or tests failed:", *(f"  {name}" for name in missed)]))
        sys.exit(1)


if __name__ == "__main__":
    main()
