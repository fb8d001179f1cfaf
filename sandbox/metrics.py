# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads metrics in Prometheus's text format. Standard library only: `make try` runs before any environment exists."""

from __future__ import annotations

import re

_SAMPLE = re.compile(r"(?m)^(\w+)(?:\{(.*)\})? (\S+)$")


def total(text: str, name: str, **labels: str) -> float:
    """Returns the sum of a metric's samples that have these labels, whatever others they have; 0 without any."""
    wanted = {f'{label}="{value}"' for label, value in labels.items()}
    return sum(float(value) for found, has, value in _SAMPLE.findall(text) if found == name and wanted <= set(has.split(",")))
