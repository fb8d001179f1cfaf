# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m tools.matrix [CORE ...]` runs the rows of matrix.yml, or those that start with CORE, and writes matrix-latest.md."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import yaml

from sandbox import environment
from sandbox.settings import ROOT, SANDBOX

from . import sanity

_MATRIX = yaml.safe_load((ROOT / "tools" / "matrix.yml").read_text())
_RESULT = ROOT / "tools" / "matrix-latest.md"
_COLLECTIONS = ("kubernetes/core", "google/cloud")
_LOWEST = yaml.safe_load((ROOT / "galaxy.yml").read_text())["dependencies"]


def _candidates(version: str) -> Iterator[str]:
    name = f"python{version}"
    for folder in os.get_exec_path():
        if (file := pathlib.Path(folder, name)).exists():
            yield str(file)
    # pyenv's command of that name runs only the selected version; others may be installed.
    if pyenv := shutil.which("pyenv"):
        for known in _output(pyenv, "whence", name).split():
            yield f"{_output(pyenv, 'prefix', known).strip()}/bin/{name}"


def _output(*command: str) -> str:
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout


def interpreter(version: str) -> tuple[str | None, str]:
    """Returns a Python that works and can make environments, or None and the reason."""
    reason = f"python{version} is neither on the PATH nor in pyenv"
    for candidate in _candidates(version):
        probe = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
        found = subprocess.run([candidate, "-c", probe], check=False, capture_output=True, text=True)
        if found.stdout.strip() == version:
            return candidate, ""
        reason = f"{candidate} does not work: {(found.stderr.strip().splitlines() or ['no output'])[-1].strip()}"
    return None, reason


def _counted(output: str) -> str:
    found = re.findall(r"\d+ (?:passed|failed|skipped|errors?)\b", output)
    return ", ".join(found[-3:]) or "nothing ran"


def _found(venv: pathlib.Path) -> list[str]:
    """Returns the versions of the collections in an environment."""
    folder = environment.collections(venv) / "ansible_collections"
    manifests = [json.loads((folder / name / "MANIFEST.json").read_text()) for name in _COLLECTIONS]
    return [manifest["collection_info"]["version"] for manifest in manifests]


def untested(found: list[list[str]]) -> list[str]:
    """Returns messages for collections whose oldest tested version is not the minimum in galaxy.yml."""
    wrong = []
    for name, versions in zip(_COLLECTIONS, zip(*found, strict=True), strict=True):
        oldest = min(versions, key=lambda version: [int(part) for part in version.split(".")])
        taken = _LOWEST[name.replace("/", ".")].removeprefix(">=")
        if oldest != taken:
            wrong.append(f"galaxy.yml allows {name.replace('/', '.')} {taken}, but the oldest tested version is {oldest}.")
    return wrong


def run(row: dict[str, Any], version: str, python: str) -> tuple[bool, list[str]]:
    """Run a row. Returns whether it passed, and its cells."""
    started, limit = time.monotonic(), _MATRIX["limit"] * 60
    pins = [line for line in (ROOT / "tests" / "requirements.txt").read_text().splitlines() if line.split("==")[0] in _MATRIX["packages"]]
    venv = environment.further(
        f"core-{row['core'].removesuffix('.*')}",
        [ROOT / "requirements.txt", SANDBOX / "google" / "requirements.txt"],
        [f"ansible-core=={row['core']}", *pins],
        python,
        row["collections"],
        _COLLECTIONS,
    )
    core = _output(str(venv / "bin" / "python"), "-c", "import ansible.release as r; print(r.__version__)").strip()
    print(f"\n════ ansible-core {core}, Python {version}", flush=True)
    tests = subprocess.run(
        [venv / "bin" / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", *_MATRIX["tests"]],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{venv}/bin:{os.environ['PATH']}"},
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit,
    )
    if tests.returncode:
        print(tests.stdout[-20000:], flush=True)
    closing = tests.stdout.strip().splitlines()[-1:] or [""]
    passed, report, ran = sanity.run(venv, version, limit)
    if not passed:
        print("\n".join(line for line in report.splitlines() if re.match("ERROR|FATAL|WARNING", line)), flush=True)
    judged = f"{ran} passed" if passed else "failed: " + " ".join(re.findall(r"^FATAL: .*", report, re.M)[-1:])
    cells = [core, version, *_found(venv), _counted(closing[0]), judged, f"{time.monotonic() - started:.0f}"]
    print(" | ".join(cells), flush=True)
    return tests.returncode == 0 and passed, cells


def main() -> None:
    rows = [row for row in _MATRIX["cores"] if not sys.argv[1:] or row["core"].startswith(tuple(sys.argv[1:]))]
    pythons = {version: interpreter(version) for version in sorted({version for row in rows for version in row["pythons"]})}
    missing = [f"Python {version}: {reason}." for version, (path, reason) in pythons.items() if path is None]
    print("\n".join(missing))
    table, good = [], True
    for row in rows:
        found = next(((version, path) for version in row["pythons"] if (path := pythons[version][0])), None)
        if found is None:
            table.append([row["core"], "none of " + ", ".join(row["pythons"]), "-", "-", "not run", "not run", "0"])
            good = False
            continue
        passed, cells = run(row, *found)
        good &= passed
        table.append(cells)
    head = ["ansible-core", "Python", "kubernetes.core", "google.cloud", "tests of plugins", "sanity tests", "seconds"]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *table)]
    said = [f"`make matrix` of {datetime.date.today()}, {os.cpu_count()} cores.", "", *lines, *(["", *missing] if missing else [])]
    if not sys.argv[1:]:
        if wrong := untested([cells[2:4] for cells in table if cells[2] != "-"]):
            print("\n".join(["", *wrong]))
            good = False
        _RESULT.write_text("\n".join(["# Versions of ansible-core and of the collections", "", *said, ""]))
    print("\n".join(["", *lines]))
    sys.exit(not good)


if __name__ == "__main__":
    main()
