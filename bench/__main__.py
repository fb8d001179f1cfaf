# SPDX-License-Identifier: GPL-3.0-or-later
"""`make bench`, or `python3 -m sandbox tool -- python -m bench --help`."""

from __future__ import annotations

import argparse
import datetime
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from sandbox.from_source import programs, tools
from sandbox.processes import free_ports
from sandbox.steps import StepFailed, say

from . import candidates, load_client, machine, packages, report, rows, summary
from .content import Library
from .measure import ROWS, Bench
from .paced_upstream.process import Upstream

assert rows  # the import registers them

BUDGET_SECONDS = 60 * 60


def _first_line(*argv: str) -> str:
    env = {**os.environ, **packages.environment()}
    result = subprocess.run(argv, capture_output=True, text=True, check=False, env=env)
    # Some programs print the path with which they were called.
    return (result.stdout + result.stderr).splitlines()[0].strip().removeprefix(f"{argv[0]} ")


def _facts() -> dict[str, str]:
    """Returns when, where and what was measured."""
    registry = _first_line(candidates.distribution(), "--version")
    versions = [
        registry,
        _first_line(packages.command("docker-registry"), "--version"),
        _first_line(packages.command("nginx"), "-v"),
        _first_line(packages.command("wrk"), "-v"),
    ]
    return {
        "date": datetime.datetime.now(tz=datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": machine.commit(),
        "machine": machine.describe(),
        "versions": "; ".join(versions),
    }


def _measure(names: list[str]) -> list[report.Result]:
    # On a disk, and readable for processes that do not run as root.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="registry-cache-bench-", dir="/var/tmp"))
    folder.chmod(0o755)
    results = []
    try:
        library = Library(folder / "content")
        upstream = Upstream(folder, library, free_ports(1)[0])
        try:
            for number, name in enumerate(names, 1):
                started = time.monotonic()
                say(f"── {number}/{len(names)} {name}: {ROWS[name].__doc__}")
                try:
                    results += ROWS[name](Bench(folder, library, upstream))
                except StepFailed as error:
                    say(f"   FAILED: {error}")
                    results.append(report.Result(name, "", "", None, None, report.Goal("ours", "<=", 0), str(error)))
                say(f"   {time.monotonic() - started:.0f} s")
        finally:
            upstream.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m bench", description="Side-by-side measurements on loopback.")
    parser.add_argument("--only", action="append", metavar="ROW", help="run one row and print it without writing results; may be repeated")
    parser.add_argument("--list", action="store_true", help="the rows")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{name:20} {function.__doc__}" for name, function in ROWS.items()))
        return
    if unknown := sorted(set(arguments.only or ()) - set(ROWS)):
        parser.error(f"unknown row: {', '.join(unknown)}; --list prints all rows")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    packages.root()
    tools.build("registry")
    programs.registry()
    load_client.binary()
    results = _measure(arguments.only or list(ROWS))
    print(report.table(results))
    if not arguments.only:
        report.write(results, _facts())
        summary.write()
    seconds = time.monotonic() - started
    say(f"{seconds / 60:.1f} min" + ("" if seconds < BUDGET_SECONDS else f": OVER THE BUDGET of {BUDGET_SECONDS // 60} min"))
    missed = [result.name for result in results if result.met is False]
    if missed:
        say("\n".join(["goals missed:", *(f"  {name}" for name in missed)]))
        sys.exit(1)


if __name__ == "__main__":
    main()
