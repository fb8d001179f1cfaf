# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the fuzz tests of the cache's Go packages one after the other: `python3 -m tools.fuzz SECONDS [TARGET ...]`.

TARGET is the name of a package and of a test, such as route.FuzzParse. Default: all.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import subprocess
import sys

from .tiers import ROOT

_MODULE = ROOT / "docker" / "registry"


def targets(module: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the folder of each fuzz test, by the names of package and test."""
    found = {}
    for file in sorted(module.rglob("*_test.go")):
        for name in re.findall(r"(?m)^func (Fuzz\w+)\(", file.read_text()):
            found[f"{file.parent.name}.{name}"] = file.parent
    return found


def command(target: str, folder: pathlib.Path, seconds: int, module: pathlib.Path) -> list[str]:
    """Returns the command line that runs a target."""
    test = target.partition(".")[2]
    return ["go", "test", "-run=^$", f"-fuzz=^{test}$", f"-fuzztime={seconds}s", f"./{folder.relative_to(module)}"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m tools.fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("seconds", type=int, help="seconds per target")
    parser.add_argument("target", nargs="*")
    arguments = parser.parse_args()
    known = targets(_MODULE)
    if unknown := set(arguments.target) - known.keys():
        parser.error(f"unknown TARGET {', '.join(sorted(unknown))}; choose from {', '.join(known)}")
    failed = []
    for target in arguments.target or known:
        print(f"── {target}", flush=True)
        # One run at a time, since two would share the processors and the cache of inputs.
        if subprocess.run(command(target, known[target], arguments.seconds, _MODULE), cwd=_MODULE, check=False).returncode:
            failed.append(target)
    for target in failed:
        print(f"FAILED tests/{target}: the failing input is in testdata/fuzz beside the test; go test now runs it, too")
    print(f"{len(arguments.target or known) - len(failed)} passed, {len(failed)} failed in {arguments.seconds}s each")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
