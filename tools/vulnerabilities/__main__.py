# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs govulncheck on the programs of the cache's image."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile

from sandbox.from_source import programs, tools
from sandbox.settings import CACHE, ROOT, key
from sandbox.steps import step

SOURCE = pathlib.Path(__file__).parent
_PACKAGES = {"registry": ".", "docker-credential-gcr": "github.com/GoogleCloudPlatform/docker-credential-gcr/v2"}


def _tools() -> pathlib.Path:
    """Returns the folder of govulncheck and of the pinned `database`, and makes it unless it exists."""
    target = CACHE / "vulnerabilities" / key(SOURCE / "go.mod", SOURCE / "go.sum")
    if not (target / "ready").exists():
        tools.require_go()
        with step("govulncheck and its database", "the Go module proxy, then the compiler") as log:
            log.run("go", "install", "-trimpath", "tool", cwd=SOURCE, env={"CGO_ENABLED": "0", "GOBIN": str(target)})
            where = ["go", "list", "-m", "-f", "{{.Dir}}", "golang.org/x/vulndb"]
            folder = subprocess.run(where, cwd=SOURCE, check=True, capture_output=True, text=True).stdout.strip()
            log.run(target / "indexdb", "-vulns", f"{folder}/data/osv", "-out", target / "database")
            (target / "ready").touch()
    return target


def check(program: pathlib.Path, live: bool = False) -> subprocess.CompletedProcess[str]:
    """Run govulncheck on a program, which contains the list of its modules and their versions.

    :param live: use today's database, from the internet.
    """
    folder = _tools()
    database = [] if live else ["-db", f"file://{folder / 'database'}"]
    command = [folder / "govulncheck", "-mode", "binary", *database, program]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def build(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Build the programs like the Dockerfile. Returns their paths by name."""
    made = {}
    with step("programs of the image", "the Go compiler") as log:
        for name, package in _PACKAGES.items():
            made[name] = folder / name
            environment = {"CGO_ENABLED": "0", **programs.toolchain()}
            argv = ["go", "build", "-trimpath", "-ldflags=-s -w", "-o", made[name], package]
            log.run(*argv, cwd=ROOT / "docker" / "registry", env=environment)
    return made


def main() -> None:
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name, program in build(pathlib.Path(folder)).items():
            result = check(program, live="--live" in sys.argv[1:])
            print(f"── {name}\n{result.stdout}{result.stderr}", flush=True)
            failed = failed or result.returncode != 0
    sys.exit(failed)


if __name__ == "__main__":
    main()
