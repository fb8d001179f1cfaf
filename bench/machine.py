# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run was measured on."""

from __future__ import annotations

import os
import pathlib
import platform


def describe() -> str:
    """Processors, memory and kernel, in one line."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.machine())
    gibibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return f"{len(os.sched_getaffinity(0))} × {cpu}, {gibibytes:.0f} GiB, Linux {platform.release()}"
