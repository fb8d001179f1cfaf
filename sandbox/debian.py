# SPDX-License-Identifier: GPL-3.0-or-later
"""Installs from Debian what a step needs and the machine lacks, and finds files in roots of Debian."""

from __future__ import annotations

import os
import pathlib
import shutil

from .steps import StepFailed, alone, step


def install(*packages: str) -> None:
    """Install packages."""
    with step(f"Debian packages {' '.join(packages)}", "the package mirror") as log, alone("apt"):
        if not shutil.which("apt-get"):
            raise StepFailed(f"this machine has no apt-get: install {', '.join(packages)} by hand")
        if os.geteuid():
            raise StepFailed(f"it needs root: run 'apt-get install {' '.join(packages)}' as root")
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        log.run("apt-get", "update", env=quiet)
        log.run("apt-get", "install", "--yes", "--no-install-recommends", *packages, env=quiet)


def ensure(commands: dict[str, str]) -> None:
    """Install the package behind every command that is missing (`{command: package}`)."""
    missing = sorted({package for command, package in commands.items() if not shutil.which(command)})
    if missing:
        install(*missing)


def inside(root: pathlib.Path, path: str) -> pathlib.Path:
    """The file that a path means in a root: an absolute link begins there, not at this machine's own root."""
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
    raise StepFailed(f"the links of {path} in {root} lead nowhere")
