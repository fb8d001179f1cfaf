# SPDX-License-Identifier: GPL-3.0-or-later
"""Installs missing Debian packages, and finds files in Debian root file systems."""

from __future__ import annotations

import os
import pathlib
import shutil

from .steps import StepFailed, alone, step


def install(*packages: str) -> None:
    """Install packages by apt-get. Raises StepFailed without apt-get or root."""
    with step(f"Debian packages {' '.join(packages)}", "the package mirror") as log, alone("apt"):
        if not shutil.which("apt-get"):
            raise StepFailed(f"this machine has no apt-get: install {', '.join(packages)} another way")
        if os.geteuid():
            raise StepFailed(f"this needs root: run 'apt-get install {' '.join(packages)}' as root")
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        log.run("apt-get", "update", env=quiet)
        log.run("apt-get", "install", "--yes", "--no-install-recommends", *packages, env=quiet)


def ensure(commands: dict[str, str]) -> None:
    """Install the packages of missing commands. `commands`: package by command."""
    missing = sorted({package for command, package in commands.items() if not shutil.which(command)})
    if missing:
        install(*missing)


def inside(root: pathlib.Path, path: str) -> pathlib.Path:
    """Returns the file of a path in a root. Absolute symbolic links start at that root, not at this machine's."""
    found, left = root, [*pathlib.PurePosixPath(path).parts[::-1]]
    for _ in range(1000):
        if not left:
            return found
        part = left.pop()
        if part == "/":
            found = root
        elif part == "..":
            found = found.parent if found != root else root
        elif (found / part).is_symlink():
            left += pathlib.PurePosixPath(os.readlink(found / part)).parts[::-1]
        else:
            found /= part
    raise StepFailed(f"the symbolic links of {path} in {root} do not end")
