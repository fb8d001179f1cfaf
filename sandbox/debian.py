# SPDX-License-Identifier: GPL-3.0-or-later
"""Installs from Debian what a step needs and the machine lacks."""

from __future__ import annotations

import shutil

from .steps import StepFailed, step


def install(commands: dict[str, str]) -> None:
    """Install the package behind every command that is missing (`{command: package}`)."""
    missing = sorted({package for command, package in commands.items() if not shutil.which(command)})
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise StepFailed(f"install {', '.join(missing)}: this machine has no apt-get")
    with step(f"Debian packages {' '.join(missing)}", "the package mirror") as log:
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        log.run("apt-get", "update", env=quiet)
        log.run("apt-get", "install", "--yes", "--no-install-recommends", *missing, env=quiet)
