# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs `go build` and `go install`, and shows which package they compile and how many are left."""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from ..steps import Log, StepFailed

# Go also reports a program as stale if it only has to be installed; nothing is compiled for it.
_CACHED = "not installed but available in build cache"
# The version distinguishes packages of the same path that two modules pin differently.
_PACKAGE = "{{.ImportPath}}{{with .Module}} {{.Version}}{{end}}"
_TEMPLATE = '{{if .Stale}}{{if ne .StaleReason "%s"}}stale %s{{end}}{{else if ne .ImportPath "unsafe"}}cached{{end}}' % (_CACHED, _PACKAGE)


@dataclass(frozen=True)
class Build:
    """One call of the Go command.

    :param command: `build` or `install`.
    :param target: the package or the pattern of packages.
    :param folder: the module.
    :param flags: options for compiler and linker.
    :param output: the file that `build` writes.
    :param go: the Go command.
    """

    command: str
    target: str
    folder: pathlib.Path
    environment: Mapping[str, str]
    flags: tuple[str, ...] = ()
    output: str | pathlib.Path | None = None
    go: str = "go"


def run(log: Log, *builds: Build) -> None:
    """Run builds one after the other. Raises StepFailed if one fails."""
    left: set[tuple[str, str, str]] = set()
    some_cached = False
    for build in builds:
        of_build, cached = _left(log, build)
        left |= of_build
        some_cached |= cached
    # Go cannot look up a package before its imports are compiled, so some stale packages turn out to be cached.
    progress = Progress(log.path, {package for _, package, _ in left}, len(left), some_cached)
    log.count(len(left), progress, some_cached)
    for build in builds:
        output = () if build.output is None else ("-o", build.output)
        words = (build.command, "-v", *build.flags, *output, build.target)
        log.run(build.go, *words, cwd=build.folder, env=build.environment)
    log.uncount(progress.done())


def _left(log: Log, build: Build) -> tuple[set[tuple[str, str, str]], bool]:
    """Returns the packages that a build will compile (architecture, import path, module version), and whether any is cached.

    `go list` asks the build cache like `go build`, in a second or two. It downloads the modules and logs which.
    """
    argv = [build.go, "list", "-deps", *build.flags, "-f", _TEMPLATE, build.target]
    log.note(f"$ {' '.join(argv)}\nasking the build cache what to compile for {build.target}")
    with log.path.open("ab") as errors:
        result = subprocess.run(
            argv,
            cwd=build.folder,
            env={**os.environ, **build.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            check=False,
        )
    if result.returncode:
        raise StepFailed(f"'{build.go} list' failed with exit code {result.returncode}")
    architecture = build.environment.get("GOARCH", "")
    lines = result.stdout.splitlines()
    stale = [line.removeprefix("stale ").partition(" ") for line in lines if line != "cached"]
    return {(architecture, path, version) for path, _, version in stale}, "cached" in lines


class Progress:
    """Describes the progress of builds. `go build -v` logs each package when it starts to compile it.

    :param log: its log; only lines after the current end count.
    :param packages: the import paths to compile.
    :param total: how many compilations that takes; two builds may compile the same path for different platforms.
    :param at_most: whether the total is an upper bound.
    """

    def __init__(self, log: pathlib.Path, packages: set[str], total: int, at_most: bool = False) -> None:
        self._log, self._packages, self._total = log, packages, total
        self._of = "of at most" if at_most else "of"
        self._offset = log.stat().st_size

    def __call__(self) -> str:
        """Returns the progress, such as `812 of 1,930 packages, k8s.io/api/core/v1`."""
        lines = self._lines()
        begun = [line for line in lines if line in self._packages]
        last = lines[-1] if lines else ""
        if last.startswith("go: downloading "):
            return last
        if not self._total:
            return "nothing to compile, linking"
        total = max(self._total, len(begun))
        # The linker logs nothing; it runs after the last package.
        doing = begun[-1] if 0 < len(begun) < total else "compiling the last package or linking" if begun else "starting"
        return f"{len(begun):,} {self._of} {total:,} packages, {doing}"

    def done(self) -> int:
        """Returns how many packages were started."""
        return sum(line in self._packages for line in self._lines())

    def _lines(self) -> list[str]:
        with self._log.open("rb") as file:
            file.seek(self._offset)
            return file.read().decode(errors="replace").splitlines()
