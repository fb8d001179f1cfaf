# SPDX-License-Identifier: GPL-3.0-or-later
"""Describes the machine and the commit of a measurement."""

from __future__ import annotations

import os
import pathlib
import platform
import subprocess

from sandbox.settings import ROOT


def describe() -> str:
    """Returns CPUs, memory and kernel, in one line."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.machine())
    gibibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return f"{len(os.sched_getaffinity(0))} × {cpu}, {gibibytes:.0f} GiB, Linux {platform.release()}"


def commit() -> str:
    """Returns the measured commit, and whether there are uncommitted changes."""
    argv = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=12", "--dirty=, with changes", "--exclude=*"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "not a clone"
